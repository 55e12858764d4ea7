"""Files below an open folder: exclusive, durable steps, and moves made of them that never overwrite a file.

A folder of the configuration is opened by its path, all below it a component at a time: whoever may write in there
can't put a link in the way. What is done to a file is done to its name in the folder that was opened, or to its
descriptor; a name is never walked a second time.

`place` makes an open file appear under a second name: by a hard link where it is this account's own and nobody else
can write into it, else by a copy under a hidden temporary name, fsync, a check of what arrived and an exclusive rename.
The first name is only removed by the caller, after it has committed its row. A crash at any instant leaves the bytes
under a whole name.
"""

import ctypes
import errno
import grp
import hashlib
import logging
import os
import pwd
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePath, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from daemon.errors import (
    DiskFull,
    EnvironmentFault,
    FolderFault,
    Immovable,
    NameRefused,
    Postponed,
    Unresponsive,
    WaitingReason,
    Withdrawn,
)
from daemon.files.names import OWN_PREFIX

_log = logging.getLogger(__name__)

# What a disk that fails or a share that stutters says, to any call: another time may go well.
UNREACHABLE = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
    | {errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET}
    | {errno.ECONNABORTED, errno.EREMOTEIO}
)
# The process or the machine is at fault, whatever the file.
OF_THE_PROCESS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
# link(2): no second name here, so copy. EPERM: the filesystem has no links, or fs.protected_hardlinks.
NO_LINK = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
}
# What a filesystem says to a name that it can't hold: exFAT and SMB to `a:b`, eCryptfs to 144 bytes. And what is said
# where a file, or a link that is not followed, has the name of a folder that is wanted.
BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.ELOOP}
# The disk, or somebody's share of it, is full; or the file is larger than the filesystem has files.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RENAME_NOREPLACE = 1
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 1 << 20
# As large as the block of most filesystems, or a full disk might still take it.
_PROBE = b"darkroom" * 512


# Enough to reach what lies in a folder, and no right to read it is needed.
# macOS has no fdatasync(2).
_sync = getattr(os, "fdatasync", os.fsync)
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: neither a pipe put there just now nor somebody's write lease (Samba) may hold us up.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAX_LINKS = 40
# Of a folder's mode, what a new file in it has. Not the right to write of a group: into such a file others can write,
# so it is copied, not linked, when it is filed.
_READABLE = 0o644
# openat2(2), Linux 5.6: one number on all architectures.
_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_AT_FDCWD = -100


@dataclass(frozen=True)
class Root:
    """A folder of the configuration; `Root(path) / "a/b.jpg"` is the place of a file below it.

    No link below it is followed; with `own_links` those are that root or this account has made, such as
    `library/2019 → /mnt/old`. It is opened by its path each time, which may lead to another disk by then: a descriptor
    that is kept would see what a mount hides, and hold up its unmounting.
    """

    path: Path
    own_links: bool = False

    def __truediv__(self, inside: str | PurePath) -> "Location":
        """Return the place of what lies below this folder under a relative path."""
        return Location(self, str(inside))

    def __str__(self) -> str:
        """Return the path, for people."""
        return str(self.path)

    def open(self, inside: str = "") -> int:
        """Open this folder, or one below it, to reach what is in it; the caller closes the descriptor.

        Raises OSError: ENOENT, ENOTDIR, ELOOP where a link is in the way that is not followed.
        """
        root = os.open(self.path, _SEARCH)
        parts = PurePosixPath(inside).parts
        if not parts:
            return root
        try:
            if ".." in parts or parts[0] == "/":
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), inside)
            with suppress(_NotHere):
                return _open_beneath(root, inside)
            return _descend(root, list(parts), own_links=self.own_links)
        finally:
            os.close(root)


@dataclass(frozen=True)
class Location:
    """A path below a `Root`; `inside` is relative to it and '/'-separated."""

    root: Root
    inside: str

    def __str__(self) -> str:
        """Return the whole path, for people."""
        return str(self.path)

    @property
    def path(self) -> Path:
        """The whole path: to be shown, or handed to another program, but never to be walked."""
        return self.root.path / self.inside

    @property
    def name(self) -> str:
        """The last component."""
        return PurePosixPath(self.inside).name

    @property
    def parent(self) -> "Location":
        """The folder that it is in."""
        parent = str(PurePosixPath(self.inside).parent)
        return Location(self.root, "" if parent == "." else parent)

    def with_name(self, name: str) -> "Location":
        """Return the place of another name in the same folder."""
        return Location(self.root, str(PurePosixPath(self.inside).with_name(name)))

    def __truediv__(self, inside: str | PurePath) -> "Location":
        """Return the place of what lies below this folder under a relative path."""
        return Location(self.root, f"{self.inside}/{inside}" if self.inside else str(inside))

    def entry(self) -> "Entry":
        """Open the folder that it is in. Raises OSError."""
        return Entry(self.root.open(self.parent.inside), self.name, self)

    def lstat(self) -> os.stat_result | None:
        """Return what lies there; None for nothing, or where a link is in the way. Raises OSError."""
        try:
            with self.entry() as entry:
                return entry.lstat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise

    def read_bytes(self, limit: int = -1) -> bytes:
        """Read a regular file, or its beginning. Raises OSError."""
        with os.fdopen(self.open(), "rb") as opened:
            return opened.read(limit)

    def open(self) -> int:
        """Open a regular file for reading; the caller closes it. Raises OSError, ELOOP for what is no regular file."""
        with self.entry() as entry:
            return entry.open()


class Entry:
    """A name in a folder that is open until `close`; a context manager."""

    def __init__(self, folder: int, name: str, where: Location) -> None:
        self.folder, self.name, self.where = folder, name, where

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder; once."""
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1

    def is_reached(self) -> bool:
        """Return whether the folder is still the one that has this path: its owner may have renamed it."""
        parent = self.where.parent.inside
        if not parent:
            return True
        try:
            folder = self.where.root.open(parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        try:
            return os.path.samestat(os.fstat(folder), os.fstat(self.folder))
        finally:
            os.close(folder)

    def renamed(self, name: str) -> "Entry":
        """Return another name in the same folder, which stays open only as long as this one."""
        return Entry(self.folder, name, self.where.with_name(name))

    def lstat(self) -> os.stat_result:
        """Return what has the name now, a link itself. Raises OSError."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    def is_file(self, info: os.stat_result) -> bool:
        """Return whether the name is that of a certain file. Raises OSError, but not where nothing has the name."""
        try:
            return os.path.samestat(self.lstat(), info)
        except FileNotFoundError:
            return False

    def open(self) -> int:
        """Open a regular file for reading; never follow a link, never wait for a pipe.

        Raises OSError, ELOOP for what is no regular file.
        """
        if not stat.S_ISREG(self.lstat().st_mode):
            raise OSError(errno.ELOOP, "not a regular file", self.name)
        fd = os.open(self.name, READ, dir_fd=self.folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ELOOP, "not a regular file", self.name)
        return fd

    def create(self) -> BinaryIO:
        """Make a new file of this name and open it for writing; nothing that has it is written into. Raises OSError.

        Who may look into the folder may read it, whatever the umask: systemd's for a service is 0077 or anything else.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = stat.S_IMODE(os.stat(".", dir_fd=self.folder).st_mode) & _READABLE | stat.S_IRUSR | stat.S_IWUSR
        fd = os.open(self.name, flags, mode, dir_fd=self.folder)
        give_mode(fd, mode)
        return os.fdopen(fd, "wb")

    def unlink(self) -> None:
        """Remove the name. Raises OSError."""
        os.unlink(self.name, dir_fd=self.folder)

    def remove_folder(self) -> None:
        """Remove the name of an empty folder. Raises OSError."""
        os.rmdir(self.name, dir_fd=self.folder)

    def fsync_folder(self) -> None:
        """Make the names in the folder durable. Raises OSError."""
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.folder)
        except PermissionError:  # a drop box: writable, but not readable
            return
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network filesystems have no fsync for folders
                raise
        finally:
            os.close(fd)


def by_descriptor(fd: int, name: Path) -> Path:
    """Return a path by which this user's other processes can open an open file anew, whatever its name has become."""
    held = Path(f"/proc/{os.getpid()}/fd/{fd}")
    return held if sys.platform == "linux" and held.exists() else name


class _NotHere(Exception):
    """Raised where a folder has to be reached in another way."""


class _How(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@cache
def _syscall() -> Any:
    return ctypes.CDLL(None, use_errno=True).syscall


def _open_beneath(root: int, inside: str) -> int:
    """Open a folder by openat2, in one step. Raises OSError, _NotHere where a link or a long path is in the way."""
    if sys.platform != "linux":
        raise _NotHere
    how = _How(_SEARCH, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    fd = int(_syscall()(_OPENAT2, root, os.fsencode(inside), ctypes.byref(how), ctypes.sizeof(how)))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    # Only these two are the last word; ELOOP may be a link of our own, EPERM and ENOSYS a kernel without the call.
    if code in {errno.ENOENT, errno.EACCES}:
        raise OSError(code, os.strerror(code), inside)
    raise _NotHere


def _descend(root: int, parts: list[str], *, own_links: bool) -> int:
    """Open a folder below another, a component at a time; raises OSError."""
    current, pending, links = os.dup(root), parts[::-1], 0
    try:
        while pending:
            part = pending.pop()
            try:
                following = os.open(part, _SEARCH | os.O_NOFOLLOW, dir_fd=current)
            except OSError as error:
                if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                target = _own_link(part, current) if own_links else None
                links += 1
                if target is None or links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part) from error
                pending += [step for step in reversed(PurePosixPath(target).parts) if step != "/"]
                following = os.open("/" if target.startswith("/") else ".", _SEARCH, dir_fd=current)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _own_link(name: str, folder: int) -> str | None:
    """Return where a link leads that root or this account has made; None for any other thing."""
    fd = os.open(name, getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        info = os.fstat(fd)
        if not stat.S_ISLNK(info.st_mode) or info.st_uid not in {0, os.geteuid()}:
            return None
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


@contextmanager
def blaming(what: object) -> Iterator[None]:
    """Turn the file system's refusals into an EnvironmentFault about `what`.

    NameRefused where it can't hold a name, DiskFull where there is no room, Unresponsive where the disk or share does
    not answer; a taken name passes as FileExistsError.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        fault = meaning(error)(f"{what}: {os.strerror(error.errno or 0)}")
        fault.where = what
        raise fault from error


def meaning(error: OSError) -> type[EnvironmentFault]:
    """Return which kind of fault an error of the file system is."""
    if error.errno in BAD_NAME:
        return NameRefused
    if error.errno in UNREACHABLE:
        return Unresponsive
    if error.errno in OF_THE_PROCESS:
        return EnvironmentFault
    return DiskFull if error.errno in NO_ROOM else FolderFault


# -- names


def rename_exclusive(source: Entry, destination: Entry) -> None:
    """Rename without replacing; raises FileExistsError when the name is taken, OSError."""
    outcome = _renameat2(source, destination)
    if outcome == 0:
        return
    if outcome == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(destination.where))
    ends = {"src_dir_fd": source.folder, "dst_dir_fd": destination.folder}
    try:
        os.link(source.name, destination.name, **ends, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        # No exclusive rename and no links (some network shares): reserve the name, then replace the reservation.
        os.close(os.open(destination.name, _NEW, 0o600, dir_fd=destination.folder))
        os.replace(source.name, destination.name, **ends)
    else:
        source.unlink()


@cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # another system, or an old C library
        return None


def _renameat2(source: Entry, destination: Entry) -> int:
    """Call renameat2(RENAME_NOREPLACE): 0, EEXIST, or ENOSYS for "find another way"; see renameat2(2)."""
    call = _libc()
    if call is None:
        return errno.ENOSYS
    names = os.fsencode(source.name), os.fsencode(destination.name)
    if call(source.folder, names[0], destination.folder, names[1], _RENAME_NOREPLACE) == 0:
        return 0
    code = ctypes.get_errno()
    if code in {errno.EEXIST, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        return errno.EEXIST if code == errno.EEXIST else errno.ENOSYS
    raise OSError(code, os.strerror(code), str(destination.where))


def made(location: Location, note: Callable[[Location], object] = lambda _: None) -> Entry:
    """Open the folder of a file-to-be, making it and what leads to it below its root, durably.

    Never the root, which may be a mount that is away. A new folder is as its parent: mode, and for root its owner.
    `note` is called with each that was made. Raises NameRefused where a file has the name of a folder,
    EnvironmentFault.
    """
    folder = location.parent
    with blaming(folder):
        try:
            return location.entry()
        except FileNotFoundError:
            try:
                os.close(location.root.open())
            except FileNotFoundError:
                raise EnvironmentFault(f"the folder {location.root} is gone") from None
        for missing in _missing(folder):
            with missing.entry() as entry, suppress(FileExistsError):
                os.mkdir(entry.name, stat.S_IMODE(os.stat(".", dir_fd=entry.folder).st_mode), dir_fd=entry.folder)
                note(missing)
                _take_after(entry)
                entry.fsync_folder()
        return location.entry()


def _missing(folder: Location) -> list[Location]:
    """Return a folder and those above it that are not there, the outermost first."""
    missing = []
    while folder.inside:
        try:
            os.close(folder.root.open(folder.inside))
            break
        except FileNotFoundError:
            missing.append(folder)
            folder = folder.parent
    return missing[::-1]


def _take_after(entry: Entry) -> None:
    """Give a new folder the mode of the one that it is in, and its owner where that may be done."""
    parent = os.stat(".", dir_fd=entry.folder)
    fd = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.folder)
    try:
        _adopt(fd, parent)
        _try(fd, "mode", lambda: os.fchmod(fd, stat.S_IMODE(parent.st_mode)))
    finally:
        os.close(fd)


def _adopt(fd: int, folder: os.stat_result) -> None:
    """Give what root makes to the owner of the folder that it is in: it is his library."""
    if os.geteuid() == 0 and (folder.st_uid, folder.st_gid) != (0, 0):
        _try(fd, "owner", lambda: os.fchown(fd, folder.st_uid, folder.st_gid))


_said: set[tuple[int, str]] = set()


def _try(fd: int, what: str, change: Callable[[], object]) -> None:
    """Change something of a file that not every filesystem takes; say once for each that does not."""
    try:
        change()
    except OSError as error:
        if error.errno in UNREACHABLE | NO_ROOM:
            raise
        key = (os.fstat(fd).st_dev, what)
        if key not in _said:
            _said.add(key)
            _log.warning("a filesystem does not take the %s of files: %s; they are filed without", what, error.strerror)


def give_mode(fd: int, mode: int) -> None:
    """Give an open file a mode, where it has another one. Raises OSError where the disk does not answer."""
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        _try(fd, "mode", lambda: os.fchmod(fd, mode))


def give_mtime(fd: int, mtime_ns: int) -> None:
    """Give an open file a time, where the filesystem takes it. Raises OSError where the disk does not answer."""
    _try(fd, "times", lambda: os.utime(fd, ns=(mtime_ns, mtime_ns)))


def make_path(folder: Path, mode: int = 0o777) -> None:
    """Make a folder of the configuration and all that leads to it, durably: a photo is no safer than what is above it.

    What leads to it, and with the usual `mode` the folder, is as the umask says. Raises OSError.
    """
    missing = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for one in missing[::-1]:
        one.mkdir(mode=mode if one is missing[0] else 0o777, exist_ok=True)
        fsync_folder(one.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    with (Root(folder) / "x").entry() as entry:
        entry.fsync_folder()


def make_durable(file: Location) -> None:
    """Make a file that somebody else has written durable, its name included. Raises OSError."""
    with file.entry() as entry:
        fd = entry.open()
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        entry.fsync_folder()


# -- files of our own


def temporary(tag: object) -> str:
    """Return a hidden name, which nobody can foretell, under which bytes are written first."""
    return f"{_left_of(tag)}{secrets.token_hex(8)}.part"


def _left_of(tag: object) -> str:
    return f"{OWN_PREFIX}{tag}-"


def remove_temporaries(location: Location, *tags: object) -> None:
    """Remove what a dead process has left of the writing of a file, or of what is beside it. Raises OSError.

    The whole folder is listed: only for what a dead process may have been at.
    """
    left = tuple(map(_left_of, tags))
    try:
        folder = location.root.open(location.parent.inside)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            for name in os.listdir(listed):
                if name.startswith(left) and name.endswith(".part"):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=listed)
        finally:
            os.close(listed)
    finally:
        os.close(folder)


def atomic_write(
    folder: Location,
    contents: Mapping[str, bytes],
    tag: str,
    *,
    replace: bool = False,
    durable_names: bool = True,
    staging: Location | None = None,
    mode: int | None = None,
) -> list[os.stat_result]:
    """Write files of one folder, each whole or not at all, even where the power fails; return what stat says of each.

    The temporaries are in the same folder or, given one of the same filesystem that is easier to sweep, in `staging`.
    `mode` is the files', None for that of `Entry.create`.
    Without `replace` it raises FileExistsError when a name is taken. Without `durable_names` a power cut may take the
    new names back. Raises NameRefused, DiskFull, EnvironmentFault.
    """
    with (
        blaming(folder),
        made(folder / "x") as entry,
        nullcontext(entry) if staging is None else (staging / "x").entry() as beside,
    ):
        parts = {beside.renamed(temporary(tag)): entry.renamed(name) for name in contents}
        owner = os.stat(".", dir_fd=entry.folder)
        try:
            with ExitStack() as opened:
                files = []
                for part, content in zip(parts, contents.values(), strict=True):
                    file = opened.enter_context(part.create())
                    files.append(file)
                    _adopt(file.fileno(), owner)
                    if mode is not None:
                        give_mode(file.fileno(), mode)
                    file.write(content)
                    file.flush()
                # All are written before any is waited for: that is one commit of the journal less.
                for file in files:
                    _sync(file.fileno())
                written = [os.fstat(file.fileno()) for file in files]
            for part, name in parts.items():
                ends = {"src_dir_fd": part.folder, "dst_dir_fd": name.folder}
                os.replace(part.name, name.name, **ends) if replace else rename_exclusive(part, name)
            if durable_names:
                entry.fsync_folder()
        except BaseException:
            for part in parts:
                with suppress(OSError):
                    part.unlink()
            raise
        return written


def probe(file: Location) -> None:
    """Write a small file where a file is to go, or in the nearest folder above that is there. Raises OSError."""
    folder = file.parent
    while folder.inside and folder.lstat() is None:
        folder = folder.parent
    with (folder / temporary("probe")).entry() as entry, entry.create() as opened:
        try:
            opened.write(_PROBE)
            opened.flush()
            os.fsync(opened.fileno())
        finally:
            entry.unlink()


# -- what is there


def is_folder(path: Path) -> bool:
    """Return whether a folder can be found under a path; False also where a share does not answer."""
    try:
        return path.is_dir()
    except OSError:
        return False


def exists(file: Location) -> bool:
    """Return whether anything has a name. Raises EnvironmentFault where nobody knows."""
    with blaming(file):
        return file.lstat() is not None


def sha256(file: Location | int) -> str:
    """Hash the bytes of a regular file, named or open. Raises OSError."""
    fd = file if isinstance(file, int) else file.open()
    with open(fd, "rb", closefd=not isinstance(file, int)) as opened:
        opened.seek(0)
        return hashlib.file_digest(opened, "sha256").hexdigest()


def size_of(file: Location) -> int | None:
    """Return the size of a regular file in bytes; None where there is none, or something else has the name."""
    here = file.lstat()
    return here.st_size if here is not None and stat.S_ISREG(here.st_mode) else None


def sha256_on_disk(fd: int) -> str:
    """Hash the bytes of an open file as they are on the disk, and not in the page cache. Raises OSError."""
    drop_cache(fd)
    found = sha256(fd)
    drop_cache(fd)
    return found


def drop_cache(fd: int) -> None:
    """Have an open file read from the disk the next time: else memory answers, and what rotted would look well."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


# -- moves


def place(
    fd: int, destination: Location, tag: object, sha256: str | None, how: Literal["any", "link", "copy"] = "any"
) -> os.stat_result:
    """Make the open file `fd` appear durably as `destination`, too, or not at all; return what lies there now.

    `tag` makes the hidden name of a copy while it is written, `sha256` is the hash that a copy must have. By a "link"
    also where the file has other names, or others may write into it; by a "copy" in any case, or by "any" way that is
    safe for what comes from anybody. Where no link is to be had it is a copy. Raises
    FileExistsError when the name is taken, Withdrawn when the file has no name any more, Postponed when the bytes are
    other ones now, NameRefused where the destination can't be called so, Unresponsive where the file can't be read,
    DiskFull, EnvironmentFault for all else that is the destination's fault.
    """
    with made(destination) as entry, blaming(destination.parent):
        is_linked = how != "copy" and _link(fd, entry, anyway=how == "link")
        placed = os.fstat(fd) if is_linked else _copy(fd, entry, tag, sha256)
        try:
            if is_linked:
                # The writer has closed the file, but it need not be on the disk yet.
                os.fsync(fd)
            entry.fsync_folder()
            return entry.lstat()
        except OSError:
            # It is there, perhaps not durably: whoever is told of the fault must not find it taken for another file.
            with suppress(OSError):
                if entry.is_file(placed):
                    entry.unlink()
            raise


def _link(fd: int, destination: Entry, *, anyway: bool = False) -> bool:
    """Link an open file, where that is safe, or wanted `anyway`, and can be done."""
    here = os.fstat(fd)
    if here.st_nlink == 0:
        raise Withdrawn(f"{destination.name} is gone from its folder")
    if not anyway and not _is_ours_alone(here):
        return False
    # Through the descriptor: exactly the file that was read, whatever its name has come to mean since.
    by_fd = by_descriptor(fd, Path())
    if by_fd == Path():
        return False
    if here.st_mode & _NEVER:
        _try(fd, "mode", lambda: os.fchmod(fd, stat.S_IMODE(here.st_mode) & _KEPT))
        if os.fstat(fd).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return False
    try:
        # A src_dir_fd, though an absolute path has no use for one: without it Python calls link(2), which links
        # the symbolic link in /proc itself.
        os.link(by_fd, destination.name, src_dir_fd=fd, dst_dir_fd=destination.folder, follow_symlinks=True)
    except FileNotFoundError:
        if os.fstat(fd).st_nlink == 0:
            raise Withdrawn(f"{destination.name} is gone from its folder") from None
        return False
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise
    return True


# No file arrives as a program, as one of another account, or open to everybody's writing.
_NEVER = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | 0o111
_KEPT = 0o664


def _is_ours_alone(here: os.stat_result) -> bool:
    """Return whether nobody else can write into a file, now or later, by its owner's right or under another name."""
    if here.st_uid != os.geteuid() or here.st_nlink > 1 or here.st_mode & stat.S_IWOTH:
        return False
    return not here.st_mode & stat.S_IWGRP or _is_private_group(here.st_uid, here.st_gid)


def _is_private_group(uid: int, gid: int) -> bool:
    """Return whether a group is its user's own: named like him, with no other member."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def _copy(fd: int, destination: Entry, tag: object, expected: str | None) -> os.stat_result:
    was = os.fstat(fd)
    _look_for_room(was, destination)
    part = destination.renamed(temporary(tag))
    copy = os.open(part.name, _NEW, 0o600, dir_fd=part.folder)
    try:
        copied = _copy_bytes(fd, copy, was.st_size, hashed=expected is not None)
        if os.fstat(fd).st_size != was.st_size or (expected is not None and copied.sha256 != expected):
            raise Postponed(WaitingReason.CHANGED, 1.0, "copied")
        _adopt(copy, os.stat(".", dir_fd=destination.folder))
        _copy_attributes(fd, copy, was)
        os.fsync(copy)
        if _checksum(copy, copied.segments) != copied.checksum:
            raise EnvironmentFault(f"{destination.where.parent}: what was written there reads back differently")
        rename_exclusive(part, destination)
        return os.fstat(copy)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    finally:
        os.close(copy)


def _look_for_room(was: os.stat_result, destination: Entry) -> None:
    """Raise DiskFull before a long copy that can't end well; holes take no room."""
    needed = min(was.st_size, was.st_blocks * 512)
    disk = os.statvfs(f"/proc/self/fd/{destination.folder}") if _has_proc() else os.statvfs(destination.where.root.path)
    if needed > disk.f_bavail * disk.f_frsize:
        free = disk.f_bavail * disk.f_frsize
        raise DiskFull(f"{destination.where.parent}: no room: {needed:,} bytes wanted, {free:,} free")


@cache
def _has_proc() -> bool:
    return Path("/proc/self/fd").is_dir()


@dataclass(frozen=True)
class _Copied:
    """What was copied: the stretches that hold data, a checksum of these, and the hash of all where it was wanted."""

    segments: tuple[tuple[int, int], ...]
    checksum: str
    sha256: str


def _copy_bytes(fd: int, copy: int, size: int, *, hashed: bool) -> _Copied:
    """Copy what holds data; what lies between is a hole in the copy, too.

    `hashed` asks for the hash of the whole, holes included: for terabytes of nothing that takes hours.
    """
    segments = tuple(_segments(fd, size))
    whole, data, at = hashlib.sha256(), hashlib.sha256(), 0
    is_sparse = sum(length for _, length in segments) < size
    for start, length in segments:
        if is_sparse and hashed:
            _hash_zeros(whole, start - at)
        at = start
        while at < start + length:
            block = _read(fd, min(_BLOCK, start + length - at), at)
            if not block:
                raise Postponed(WaitingReason.CHANGED, 1.0, "copied")
            if hashed:
                whole.update(block)
            if is_sparse or not hashed:
                data.update(block)
            _write(copy, block, at)
            at += len(block)
    if is_sparse:
        if hashed:
            _hash_zeros(whole, size - at)
        os.ftruncate(copy, size)
    digest = whole.hexdigest()
    return _Copied(segments, data.hexdigest() if is_sparse or not hashed else digest, digest)


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the offset and the length, in bytes, of each stretch of a file that holds data."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = at, size  # a filesystem that knows no holes
        if start < end:
            yield start, end - start
        at = max(end, at + 1)


def _hash_zeros(digest: Any, length: int) -> None:
    zeros = bytes(min(_BLOCK, max(length, 0)))
    while length > 0:
        digest.update(zeros[:length])
        length -= len(zeros)


def _read(fd: int, length: int, at: int) -> bytes:
    try:
        return os.pread(fd, length, at)
    except OSError as error:
        raise Unresponsive(f"can't be read: {os.strerror(error.errno or 0)}") from error


def _write(fd: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _checksum(fd: int, segments: tuple[tuple[int, int], ...]) -> str:
    digest = hashlib.sha256()
    for start, length in segments:
        at = start
        while at < start + length and (block := os.pread(fd, min(_BLOCK, start + length - at), at)):
            digest.update(block)
            at += len(block)
    return digest.hexdigest()


def _copy_attributes(fd: int, copy: int, was: os.stat_result) -> None:
    """Give a copy the times, the mode and the extended attributes, as far as its filesystem takes them.

    Rights that another owner has given, to himself as well, do not come along: an access list only from this account.
    """
    wanted = ("user.", "system.posix_acl_access") if was.st_uid == os.geteuid() else ("user.",)
    names: list[str] = []
    with suppress(OSError, AttributeError):  # AttributeError: a system without them
        names = [name for name in os.listxattr(fd) if name.startswith(wanted)]
    for name in names:
        _try(copy, "extended attributes", partial(_copy_attribute, fd, copy, name))
    _try(copy, "mode", lambda: os.fchmod(copy, stat.S_IMODE(was.st_mode) & _KEPT))
    _try(copy, "times", lambda: os.utime(copy, ns=(was.st_atime_ns, was.st_mtime_ns)))


def _copy_attribute(fd: int, copy: int, name: str) -> None:
    os.setxattr(copy, name, os.getxattr(fd, name))


def unshare(file: Location, held: os.stat_result, tag: object, sha256: str) -> None:
    """Put a copy of its own under a name that is another name of the file `held`, into which somebody may write.

    Nothing where it is none. Raises Postponed where its bytes are other ones by now, EnvironmentFault.
    """
    with blaming(file), file.entry() as entry:
        if not entry.is_file(held):
            return
        fd = entry.open()
        part = entry.renamed(temporary(tag))
        try:
            _copy(fd, part, tag, sha256)
            os.replace(part.name, entry.name, src_dir_fd=part.folder, dst_dir_fd=entry.folder)
            entry.fsync_folder()
        finally:
            os.close(fd)


def place_node(source: Entry, was: os.stat_result, destination: Location) -> bool:
    """Give something that can't be opened (a symbolic link, a FIFO, another user's file) the name `destination` too.

    `was` is what it has to be. It appears durably, or not at all. Where no link is to be had it is renamed; return
    whether it was. Raises FileExistsError, Withdrawn, Immovable, Postponed where another thing has its name,
    NameRefused, EnvironmentFault.
    """
    with made(destination) as entry, blaming(destination.parent):
        if stat.S_ISREG(was.st_mode) and was.st_mode & _NEVER:
            _strip(source, was)
        how = _linked_node(source, entry)
        if how != "made" and not entry.is_file(was):
            _undo_node(source, entry, how)
            raise Postponed(WaitingReason.CHANGED, 1.0, "moved")
        try:
            entry.fsync_folder()
        except OSError:
            with suppress(OSError):
                _undo_node(source, entry, how)
            raise
        return how == "renamed"


def _undo_node(source: Entry, destination: Entry, how: Literal["linked", "renamed", "made"]) -> None:
    if how == "renamed":
        rename_exclusive(destination, source)
    else:
        destination.unlink()


def _strip(source: Entry, was: os.stat_result) -> None:
    """Take the rights from a file that can't be read with which none may arrive. Raises Immovable."""
    if was.st_uid != os.geteuid() or not _has_proc():
        raise Immovable("it is another account's program, and can't be read to be copied")
    fd = os.open(source.name, getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source.folder)
    try:
        if os.path.samestat(os.fstat(fd), was):
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(was.st_mode) & _KEPT)
    finally:
        os.close(fd)


def _linked_node(source: Entry, destination: Entry) -> Literal["linked", "renamed", "made"]:
    ends = {"src_dir_fd": source.folder, "dst_dir_fd": destination.folder}
    try:
        os.link(source.name, destination.name, **ends, follow_symlinks=False)
    except FileNotFoundError:
        raise Withdrawn(f"{source.name} is gone from its folder") from None
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
    else:
        return "linked"
    try:
        rename_exclusive(source, destination)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in BAD_NAME:
            raise
        if error.errno == errno.EXDEV:
            with suppress(OSError):
                target = os.readlink(source.name, dir_fd=source.folder)
                os.symlink(target, destination.name, dir_fd=destination.folder)
                return "made"
        raise Immovable(os.strerror(error.errno or 0)) from error
    return "renamed"


def take_back(destination: Location, placed: os.stat_result) -> None:
    """Remove the name that `place` made, unless it is another file's by now. Raises EnvironmentFault."""
    with blaming(destination), destination.entry() as entry:
        if entry.is_file(placed):
            entry.unlink()
