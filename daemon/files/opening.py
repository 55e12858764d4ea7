"""Opens files with suspicion, and decides whether one is complete: the kernel's read lease, else a quiet time.

photo = Root(inbox) / "trip/IMG_1.jpg"
with photo.entry() as entry:                                   # its folder is open
    fd = open_regular(entry)                                   # raises what the consumer sorts by
    snapshot = compare(snapshot, os.fstat(fd), now)            # to be stored in the row
    with Lease(fd) as lease:
        check_complete(lease, snapshot, now, settle_seconds)   # raises Postponed
        ...                                                    # a writer now waits in its open()
        lease.broken()                                         # whether one does
"""

import errno
import fcntl
import os
import pwd
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon.errors import (
    EnvironmentFault,
    FailureReason,
    Postponed,
    Rejected,
    Transient,
    Unresponsive,
    WaitingReason,
    Withdrawn,
)
from daemon.files.atomic import OF_THE_PROCESS, READ, UNREACHABLE, Entry, Location

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_GONE = (errno.ENOENT, errno.ENOTDIR)
_DENIED = (errno.EACCES, errno.EPERM)
_BUSY_SECONDS = 2.0


def open_regular(file: Location | Entry | Path) -> int:
    """Open a regular file for reading and return its descriptor; never follow a link, never wait for a pipe.

    A path is one of the program's own, or what `by_descriptor` returned. Raises Withdrawn (gone), Rejected (link, pipe,
    socket, device, folder), Postponed (another program has a lease on it), Transient (permission), Unresponsive or
    EnvironmentFault (disk, mount, machine).
    """
    if isinstance(file, Location):
        with opened(file) as entry:
            return open_regular(entry)
    if isinstance(file, Entry):
        try:
            return file.open()
        except OSError as error:
            _require_regular_name(file)
            raise _translated(error, file.where.path, file.where.root.path) from error
    held = file.is_relative_to("/proc")
    try:
        if not held:
            _require_regular(file, os.lstat(file))
        fd = os.open(file, READ & ~os.O_NOFOLLOW if held else READ)
    except OSError as error:
        raise _translated(error, file, None) from error
    return _checked(file, fd)


def opened(file: Location) -> Entry:
    """Open the folder of a file, as `Location.entry` does; raises what `open_regular` raises."""
    try:
        return file.entry()
    except OSError as error:
        raise _translated(error, file.path, file.root.path) from error


def _checked(file: Path, fd: int) -> int:
    try:
        _require_regular(file, os.fstat(fd))
    except Rejected:
        os.close(fd)
        raise
    return fd


def _require_regular_name(file: Entry) -> None:
    with suppress(OSError):
        _require_regular(file, file.lstat())


def _require_regular(file: Entry | Path, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode):
        return
    kind = _KINDS.get(stat.S_IFMT(info.st_mode), "no regular file")
    target = ""
    if stat.S_ISLNK(info.st_mode):
        with suppress(OSError):
            named = os.readlink(file.name, dir_fd=file.folder) if isinstance(file, Entry) else str(file.readlink())
            target = f" to {named!r}"
    message = f"is {kind}{target}, not a regular file; put the photo itself into the inbox"
    raise Rejected(message, FailureReason.NOT_A_FILE)


def _translated(error: OSError, path: Path, root: Path | None) -> Exception:
    code, reason = error.errno, error.strerror or str(error)
    if code in OF_THE_PROCESS:
        return EnvironmentFault(f"{path.name} can't be opened: {reason}")
    if root is not None and (fault := _root_fault(root)):
        return EnvironmentFault(f"the folder {root} can't be read: {fault}")
    if code == errno.ENXIO:
        message = "is a socket or device, not a regular file; put the photo itself into the inbox"
        return Rejected(message, FailureReason.NOT_A_FILE)
    if code in UNREACHABLE:
        return Unresponsive(f"{path.name} can't be opened: {reason}")
    if code in _GONE or code == errno.ELOOP:
        return Withdrawn("no longer there")
    if code in _DENIED:
        message = f"permission denied: {_denied_by(path)}; give darkroom the right to read it"
        return Transient(message, FailureReason.UNREADABLE)
    if code == errno.EAGAIN:
        return Postponed(WaitingReason.LEASE, _BUSY_SECONDS)
    if code == errno.ENAMETOOLONG:
        return Rejected("its name is too long to be opened; give it a shorter one", FailureReason.UNREADABLE)
    return Transient(f"can't be opened: {reason}", FailureReason.UNREADABLE)


def _root_fault(root: Path) -> str | None:
    try:
        with os.scandir(root) as entries:
            next(entries, None)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _denied_by(path: Path) -> str:
    """Describe the nearest thing on the way whose owner and mode can be seen."""
    for place in (path, *path.parents):
        with suppress(OSError):
            info = os.lstat(place)
            try:
                owner = pwd.getpwuid(info.st_uid).pw_name
            except KeyError:
                owner = f"user {info.st_uid}"
            what = "" if place == path else f"its folder {place.name!r} is "
            return f"{what}owned by {owner}, mode {stat.S_IMODE(info.st_mode):04o}"
    return "its folders can't be entered"


class LeaseState(Enum):
    """What the kernel answered."""

    GRANTED = "nobody has the file open for writing"
    HELD_BY_WRITER = "a process has the file open for writing, or mapped writable"
    UNSUPPORTED = "no lease can be had here"


class Lease:
    """A read lease on an open file, as a context manager; `state` is the kernel's answer.

    While it is granted a process that opens the file for writing waits in `open()`, at most
    /proc/sys/fs/lease-break-time seconds (45): keep it only as long as the bytes are read. The descriptor
    must be open read-only, and the file the process's own unless it has CAP_LEASE: else UNSUPPORTED.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.state = LeaseState.UNSUPPORTED

    def __enter__(self) -> Self:
        if not hasattr(fcntl, "F_SETLEASE") or _is_shared(self._fd):
            return self
        try:
            # A broken lease sends SIGIO, which kills the process; SIGURG is ignored by default.
            fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            # EACCES another owner's file, ENOLCK and EINVAL a filesystem without leases.
            if error.errno == errno.EAGAIN:
                self.state = LeaseState.HELD_BY_WRITER
        else:
            self.state = LeaseState.GRANTED
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.state is LeaseState.GRANTED:
            # Explicitly: a child that inherited the descriptor would keep the lease alive.
            with suppress(OSError):
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def broken(self) -> bool:
        """Return whether a writer has asked for the file since the lease was granted."""
        if self.state is not LeaseState.GRANTED:
            return False
        if fcntl.fcntl(self._fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            return True
        try:
            # Asked for once more it is refused while a writer is on its way through open(2): the kernel counts one as a
            # writer (get_write_access) just before it breaks leases.
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            return True
        return False


def _is_shared(fd: int) -> bool:
    """Return whether others may write unseen: NFS knows no remote writer, CIFS answers EAGAIN for ever."""
    # Not above: the decoders' process opens files, too, and psutil would take it as long to import as all else.
    from daemon.files.mounts import filesystem, is_network

    # Asked anew each time (0.1 ms): device numbers are used again after an unmount, so no key to a cache.
    try:
        return is_network(filesystem(Path(f"/proc/self/fd/{fd}").readlink()))
    except OSError:
        return False


@dataclass(frozen=True)
class Identity:
    """The file that was read, as `fstat` has it before and after: equal means nobody changed it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> Self:
        """Return the identity in what `fstat` or `lstat` has returned."""
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file looked like, and since when it has looked so (`since` in seconds since the epoch)."""

    size: int
    mtime_ns: int
    since: float


def compare(before: Snapshot | None, info: os.stat_result, now: float) -> Snapshot:
    """Compare a file with what was seen before and return what to remember.

    A `since` that lies in the future (the clock was set back) becomes now, so nobody waits for that hour.
    """
    same = before is not None and (before.size, before.mtime_ns) == (info.st_size, info.st_mtime_ns)
    since = min(before.since, now) if same and before is not None else now
    return Snapshot(info.st_size, info.st_mtime_ns, since)


def seconds_until_stable(seen: Snapshot, now: float, seconds: float) -> float:
    """Compute how many seconds a file must still stay unchanged to count as complete; 0.0 when it does."""
    return max(0.0, min(seen.since, now) + seconds - now)


def check_complete(lease: Lease, seen: Snapshot, now: float, settle_seconds: float, quiet_seconds: float = 0.0) -> None:
    """Raise Postponed unless the file is complete.

    It must have been unchanged for `quiet_seconds`, and for `settle_seconds` where no lease can be had.
    """
    if lease.state is LeaseState.HELD_BY_WRITER:
        raise Postponed(WaitingReason.WRITER, settle_seconds)
    wanted = quiet_seconds if lease.state is LeaseState.GRANTED else max(settle_seconds, quiet_seconds)
    if left := seconds_until_stable(seen, now, wanted):
        raise Postponed(WaitingReason.QUIET, left, f"{wanted:g}")


def check_unchanged(lease: Lease, fd: int, was: os.stat_result, seconds: float) -> None:
    """Raise Postponed, for so many seconds, where somebody writes into an open file, or has since it `was` so."""
    written = lease.state is LeaseState.HELD_BY_WRITER or lease.broken()
    if written or Identity.of(os.fstat(fd)) != Identity.of(was):
        raise Postponed(WaitingReason.CHANGED, seconds, "filed")


@contextmanager
def unchanged(path: Path) -> Iterator[tuple[BufferedReader, Identity]]:
    """Open a regular file to be read in a block; raise Postponed at the end if it changed meanwhile.

    Raises what `open_regular` raises.
    """
    fd = open_regular(path)
    try:
        before = Identity.of(os.fstat(fd))
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                yield file, before
        except (Rejected, Transient) as error:
            if Identity.of(os.fstat(fd)) != before:  # half a file looks damaged
                raise _changed() from error
            raise
        if Identity.of(os.fstat(fd)) != before:
            raise _changed()
    finally:
        os.close(fd)


def _changed() -> Postponed:
    return Postponed(WaitingReason.CHANGED, 1.0, "read")
