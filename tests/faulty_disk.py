"""A disk that misbehaves on demand: a real FUSE filesystem in a child process, which passes everything through to a
folder beside the mount point, but for the faults that a test sets while programs use it.

As on any disk are modes, owners, times in nanoseconds, hard links and inode numbers, the flags of renameat2, names that
are no UTF-8, extended attributes, deleted files that are still open, SQLite databases. Other than on most:

- Its type is "fuse.faulty_disk", which darkroom takes for a network share.
- Nothing is cached, so that a fault is felt at once, also by files that are open; therefore files can't be mapped into
  memory as shared (ENODEV), but for SQLite's "-shm".
- A file that is deleted while open is kept until it is closed, in a folder beside; replacing one takes two steps.
- The kernel takes some answers of ENOSYS for good: see `FaultyDisk.set`.
- An operation that hangs holds the kernel's locks: of its folder where it looks up or changes a name, of its file where
  it writes. What needs the same lock waits with it, as on a real disk.
"""

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_ROOT = Path(__file__).parent.parent

# Not "access": with default_permissions the kernel decides by the mode and never asks; access(2) fails by "getattr".
OPERATIONS = frozenset(
    "chmod chown create flush fsync fsyncdir getattr getxattr link listxattr mkdir mknod open opendir read readdir "
    "readlink release removexattr rename rmdir setxattr statfs symlink truncate unlink utimens write".split()
)


class NotMounted(Exception):
    """Raised where the filesystem can't be mounted, or its process has ended; says what that process has said."""


@dataclass(frozen=True)
class _Faults:
    """What goes wrong at present."""

    name_max: int | None = None
    refuse: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)
    within: str = ""
    hang: Collection[str] = ()

    def concerned(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if self.within in path]

    def raise_for_names(self, paths: Iterable[str]) -> None:
        for name in (name for path in paths for name in path.split("/")):
            if self.name_max is not None and len(os.fsencode(name)) > self.name_max:
                raise _error(errno.ENAMETOOLONG)
            if set(self.refuse) & set(name):
                raise _error(errno.EINVAL)


class FaultyDisk:
    """A mounted disk, sound until told otherwise; made by `faulty_disk`."""

    def __init__(self, path: Path, backing: Path, process: "_Process") -> None:
        self.path, self.backing, self._process = path, backing, process

    @property
    def pid(self) -> int:
        """Return the id of the process that is the filesystem."""
        return self._process.pid

    def set(
        self,
        *,
        name_max: int | None = None,
        refuse: str = "",
        errors: Mapping[str, str] = {},
        within: str = "",
        hang: Collection[str] = (),
    ) -> None:
        """Replace all faults at once; they are in force when this returns.

        A name of more than `name_max` bytes is ENAMETOOLONG to whatever names it, a name with a character of `refuse`
        EINVAL. `errors` gives operations (of OPERATIONS; a path is looked up by "getattr") the name of an errno.
        Operations of `hang` don't return until the faults are next set, and then do as these say; a process that waits
        for one is reached by no signal but SIGKILL, or another that ends it at once. All of it only for paths, relative
        to the mount point, that contain `within`.

        ENOSYS from create, flush, fsync, fsyncdir, link and the four of xattr lasts until the unmounting, whatever is
        set later; programs see what the kernel makes of it: success of flush, fsync and fsyncdir, EPERM of link (older
        kernels: ENOSYS), EOPNOTSUPP of xattr, mknod and open instead of create. Raises ValueError for what can't be.
        """
        if unknown := {*errors, *hang} - OPERATIONS:
            raise ValueError(f"no operation of FUSE that arrives here: {', '.join(sorted(unknown))}")
        if "ENOSYS" in {errors.get("open"), errors.get("opendir")}:
            raise ValueError("ENOSYS would tell the kernel that files need no opening")
        if wrong := {name for name in errors.values() if not hasattr(errno, name)}:
            raise ValueError(f"no names of errors: {', '.join(sorted(wrong))}")
        self._process.ask(asdict(_Faults(name_max, refuse, dict(errors), within, list(hang))))

    def heal(self) -> None:
        """End all faults; what hangs goes on."""
        self.set()

    def hanging(self) -> int:
        """Return how many operations hang now: a test waits for one before it goes on."""
        return self._process.ask(None)


@contextmanager
def faulty_disk(folder: Path) -> Iterator[FaultyDisk]:
    """Mount a disk on `folder`/mount whose files are kept in `folder`/bytes. Raises NotMounted.

    What hangs is ended with the block, even while faults are in force.
    """
    mount, backing, unlinked = (folder / name for name in ("mount", "bytes", "unlinked"))
    for each in (mount, backing, unlinked):
        each.mkdir(parents=True, exist_ok=True)
    with _Process(folder / "stderr", mount, backing, unlinked) as process:
        yield FaultyDisk(mount, backing, process)
    # An exception that is none of the faults has become EINVAL, which a test might take for the program's fault.
    if "Traceback" in (said := process.said()):
        raise AssertionError(f"the filesystem's process has faults of its own:\n{said}")


@cache
def can_mount() -> bool:
    """Return whether such a disk can be mounted here; tried once."""
    if not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
        return False
    with TemporaryDirectory() as folder:
        try:
            with faulty_disk(Path(folder)) as disk:
                return disk.path.is_mount()
        except NotMounted:
            return False


class _Process:
    """The child process that is the filesystem, as the test sees it: a line of JSON in, and out a number when done."""

    def __init__(self, stderr: Path, mount: Path, *folders: Path) -> None:
        self._stderr, self._mount = stderr, mount
        # Libfuse 2, which would be preferred, knows no flags of rename. A name need not be UTF-8, whatever the locale.
        environment = {**os.environ, "FUSE_LIBRARY_NAME": "fuse3", "PYTHONUTF8": "1"}
        with stderr.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.faulty_disk", *(str(each.resolve()) for each in (mount, *folders))],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # What could not be written would be written once more by closing the pipe.
                bufsize=0,
                # Ctrl-C is for the test, which unmounts.
                start_new_session=True,
            )

    def __enter__(self) -> "_Process":
        try:
            self._await_answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._child.pid

    def said(self) -> str:
        """Return what the process has complained of."""
        return self._stderr.read_text(errors="replace")

    def ask(self, faults: dict[str, Any] | None) -> int:
        """Hand the faults over, if any, wait until they are in force, and return how many operations hang."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(faults).encode() + b"\n")
        except BrokenPipeError as error:
            raise NotMounted(f"the filesystem's process has ended: {self.said()}") from error
        return self._await_answer()

    def _await_answer(self) -> int:
        assert self._child.stdout is not None
        if answer := self._child.stdout.readline():
            return int(answer)
        self._child.wait()
        raise NotMounted(f"the filesystem's process has ended: {self.said()}")

    def _end(self) -> None:
        # First of all: the kernel then ends every operation that hangs, and nothing below can hang on the mount.
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()
        _unmount(self._mount)


def _unmount(mount: Path | str) -> None:
    """Unmount, also while files are open, or do nothing where nothing is mounted."""
    subprocess.run(["fusermount3", "-uzq", str(mount)], capture_output=True, check=False)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


# What follows runs in the child process.


class _Gate:
    """Lets operations pass, fail or hang by the faults now in force; used by all threads of the filesystem."""

    def __init__(self, caller: Callable[[], tuple[int, int, int]]) -> None:
        self._caller = caller
        self._faults, self._changed = _Faults(), threading.Condition()
        self._hanging = 0

    def set(self, faults: _Faults) -> None:
        with self._changed:
            self._faults = faults
            self._changed.notify_all()

    def hanging(self) -> int:
        """Return how many operations hang now."""
        with self._changed:
            return self._hanging

    def check(self, operation: str, *paths: str | None, names: bool = True) -> _Faults:
        """Raise the OSError that an operation is to fail with, or return the faults that concern it.

        `names` is false for what goes by an open file.
        """
        relative = [(path or "").lstrip("/") for path in paths]
        faults = self._await_leave(operation, relative)
        concerned = faults.concerned(relative)
        if not concerned:
            return _Faults()
        if names:
            faults.raise_for_names(concerned)
        if operation in faults.errors:
            raise _error(getattr(errno, faults.errors[operation]))
        return faults

    def _await_leave(self, operation: str, paths: list[str]) -> _Faults:
        """Hang as long as the faults say so, and return those that hold then."""
        with self._changed:
            while operation in self._faults.hang and self._faults.concerned(paths):
                # As NFS does it. Else a test that fails now would wait for its killed program for ever.
                if _is_killed(self._caller()[2]):
                    raise _error(errno.EINTR)
                self._hanging += 1
                self._changed.wait(0.05)
                self._hanging -= 1
            return self._faults


def _is_killed(thread: int) -> bool:
    """Return whether a thread has SIGKILL pending or is on its way out; see proc(5), status and stat."""
    try:
        status, facts = (Path(f"/proc/{thread}/{name}").read_bytes() for name in ("status", "stat"))
    except OSError:  # the kernel itself asks, as 0, or for a process that is gone
        return False
    pending = re.search(rb"^SigPnd:\s*(\w+)", status, re.MULTILINE)
    exiting = int(facts.rpartition(b")")[2].split()[6]) & 0x4  # PF_EXITING
    return bool(exiting or (pending and int(pending[1], 16) & 1 << 8))


class _Passthrough:
    """The operations as mfusepy calls them: paths begin with "/", an open file is known by `info.fh`, a descriptor."""

    use_ns = True  # times are whole nanoseconds

    def __init__(self, backing: str, unlinked: str, gate: _Gate, caller: Callable[[], tuple[int, int, int]]) -> None:
        self._backing, self._unlinked, self._check, self._caller = backing, unlinked, gate.check, caller
        self._libc = ctypes.CDLL(None, use_errno=True)

    def init_with_config(self, connection: Any, config: Any) -> None:
        # By itself the kernel stops at 12 operations in the background, which hanging ones use up.
        connection.max_background = 500
        print(0, flush=True)  # mounted

    def _real(self, path: str) -> str:
        # Libfuse renames a file that is deleted while open. Kept elsewhere, it is in no listing and in no folder's way.
        if _is_unlinked(path):
            return f"{self._unlinked}/{path.rpartition('/')[2]}"
        return self._backing + path

    def _hand_over(self, real: str) -> None:
        """Return a new entry to who asked for it: this process makes them all by its own account."""
        uid, gid, _ = self._caller()
        inherits = os.stat(os.path.dirname(real)).st_mode & stat.S_ISGID
        os.chown(real, uid, -1 if inherits else gid, follow_symlinks=False)

    def getattr(self, path: str | None, info: Any = None) -> dict[str, int]:
        unlinked = path is not None and _is_unlinked(path)
        if not unlinked:
            self._check("getattr", path, names=info is None)
        found = os.fstat(info.fh) if info is not None or path is None else os.lstat(self._real(path))
        names = "st_mode st_ino st_dev st_uid st_gid st_size st_blocks st_blksize st_rdev".split()
        facts: dict[str, int] = {name: getattr(found, name) for name in names}
        facts |= {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
        return {**facts, "st_nlink": found.st_nlink - unlinked}

    def statfs(self, path: str | None) -> dict[str, int]:
        faults = self._check("statfs", path)
        found = os.statvfs(self._backing)
        facts: dict[str, int] = {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}
        return facts if faults.name_max is None else {**facts, "f_namemax": faults.name_max}

    def chmod(self, path: str, mode: int) -> None:
        self._check("chmod", path)
        os.chmod(self._real(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._check("chown", path)
        os.chown(self._real(path), uid, gid, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[int | None, int | None]) -> None:
        """Set the access and the modification time; None leaves one as it is."""
        self._check("utimens", path)
        real = self._real(path)
        before = os.lstat(real)
        accessed = before.st_atime_ns if times[0] is None else times[0]
        modified = before.st_mtime_ns if times[1] is None else times[1]
        os.utime(real, ns=(accessed, modified), follow_symlinks=False)

    def truncate(self, path: str | None, length: int, info: Any = None) -> None:
        self._check("truncate", path, names=info is None)
        os.truncate(self._real(path) if info is None and path is not None else info.fh, length)

    def link(self, new: str, old: str) -> None:
        self._check("link", old, new)
        os.link(self._real(old), self._real(new), follow_symlinks=False)

    def rename(self, old: str, new: str, flags: int) -> None:
        # Libfuse asks for the former when a file is deleted, or replaced, while open.
        self._check("unlink", old) if _is_unlinked(new) else self._check("rename", old, new)
        here = -100  # AT_FDCWD
        names = [os.fsencode(self._real(path)) for path in (old, new)]
        if self._libc.renameat2(here, names[0], here, names[1], flags):
            raise _error(ctypes.get_errno())

    def unlink(self, path: str) -> None:
        if not _is_unlinked(path):
            self._check("unlink", path)
        os.unlink(self._real(path))

    def symlink(self, new: str, target: str) -> None:
        self._check("symlink", new)
        os.symlink(target, self._real(new))
        self._hand_over(self._real(new))

    def readlink(self, path: str) -> str:
        self._check("readlink", path)
        return os.readlink(self._real(path))

    def mkdir(self, path: str, mode: int) -> None:
        self._check("mkdir", path)
        os.mkdir(self._real(path), mode)
        self._hand_over(self._real(path))

    def rmdir(self, path: str) -> None:
        self._check("rmdir", path)
        os.rmdir(self._real(path))

    def mknod(self, path: str, mode: int, device: int) -> None:
        self._check("mknod", path)
        os.mknod(self._real(path), mode, device)
        self._hand_over(self._real(path))

    def opendir(self, path: str) -> int:
        self._check("opendir", path)
        return os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY)

    def readdir(self, path: str | None, descriptor: int) -> list[tuple[str, dict[str, int], int]]:
        self._check("readdir", path, names=False)
        dots = [(name, {"st_mode": stat.S_IFDIR}, 0) for name in (".", "..")]
        with os.scandir(descriptor) as entries:
            return dots + [(entry.name, {"st_mode": _kind(entry), "st_ino": entry.inode()}, 0) for entry in entries]

    def fsyncdir(self, path: str | None, data_only: int, descriptor: int) -> None:
        self._check("fsyncdir", path, names=False)
        os.fsync(descriptor)

    def releasedir(self, path: str | None, descriptor: int) -> None:
        os.close(descriptor)

    def create(self, path: str, mode: int, info: Any) -> None:
        self._check("create", path)
        self._open(path, info, mode)
        self._hand_over(self._real(path))

    def open(self, path: str, info: Any) -> None:
        self._check("open", path)
        self._open(path, info, 0)

    def _open(self, path: str, info: Any, mode: int) -> None:
        # Where to append the kernel says with each write; O_DIRECT would want aligned buffers.
        flags = info.flags & ~(os.O_APPEND | os.O_DIRECT) | os.O_NOFOLLOW
        info.fh = os.open(self._real(path), flags, mode)
        info.direct_io = not path.endswith("-shm")

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        self._check("read", path, names=False)
        return os.pread(info.fh, size, offset)

    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:
        self._check("write", path, names=False)
        return os.pwrite(info.fh, data, offset)

    def flush(self, path: str | None, info: Any) -> None:
        self._check("flush", path, names=False)

    def fsync(self, path: str | None, data_only: int, info: Any) -> None:
        self._check("fsync", path, names=False)
        (os.fdatasync if data_only else os.fsync)(info.fh)

    def release(self, path: str | None, info: Any) -> None:
        try:
            self._check("release", path, names=False)
        finally:
            os.close(info.fh)

    def getxattr(self, path: str, name: str) -> bytes:
        self._check("getxattr", path)
        return os.getxattr(self._real(path), name, follow_symlinks=False)

    def listxattr(self, path: str) -> list[str]:
        self._check("listxattr", path)
        return os.listxattr(self._real(path), follow_symlinks=False)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._check("setxattr", path)
        os.setxattr(self._real(path), name, value, flags, follow_symlinks=False)

    def removexattr(self, path: str, name: str) -> None:
        self._check("removexattr", path)
        os.removexattr(self._real(path), name, follow_symlinks=False)


def _is_unlinked(path: str) -> bool:
    """Return whether libfuse has given this name, to a file that was deleted while open."""
    return re.search(r"/\.fuse_hidden[0-9a-f]{16}$", path) is not None


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir():
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file() else 0


def _obey(gate: _Gate, mount: str) -> None:
    """Take the faults over line by line; when the test's process is gone, be gone, too."""
    for line in sys.stdin:
        if (faults := json.loads(line)) is not None:
            gate.set(_Faults(**faults))
        print(gate.hanging(), flush=True)
    _unmount(mount)
    os._exit(0)


def _serve(mount: str, backing: str, unlinked: str) -> None:
    """Be the filesystem until it is unmounted."""
    # Here, for the test's process does without: where libfuse is missing the import fails.
    import mfusepy

    class Fuse(mfusepy.FUSE):  # type: ignore[misc]
        """Adds what mfusepy 3.1 leaves out of what libfuse 3 hands to it."""

        def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> None:
            # Without the flags RENAME_NOREPLACE would replace.
            self.operations.rename(os.fsdecode(old), os.fsdecode(new), flags)

        def truncate_fuse_3(self, path: bytes | None, length: int, info: Any) -> Any:
            return self.ftruncate(path, length, info)

        def utimens_fuse_3(self, path: bytes, buffer: Any, info: Any) -> None:
            times = [_time(each.tv_sec, each.tv_nsec) for each in (buffer.contents.actime, buffer.contents.modtime)]
            self.operations.utimens(os.fsdecode(path), times)

    # The modes that arrive are what the caller's umask has left.
    os.umask(0)
    gate = _Gate(mfusepy.fuse_get_context)
    threading.Thread(target=_obey, args=(gate, mount), daemon=True).start()
    # Each operation that hangs takes a thread, of which libfuse 3.12 and later make but 10.
    more = {"max_threads": 500} if mfusepy.fuse_version_minor >= 12 else {}
    Fuse(
        _Passthrough(backing, unlinked, gate, mfusepy.fuse_get_context),
        mount,
        raw_fi=True,
        foreground=True,
        fsname="faulty_disk",
        subtype="faulty_disk",
        default_permissions=True,
        # Only root may by itself; others as /etc/fuse.conf says.
        allow_other=os.geteuid() == 0,
        use_ino=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        **more,
    )


def _time(seconds: int, nanoseconds: int) -> int | None:
    """Return a time in nanoseconds; None for "as it is". See utimensat(2) and linux/stat.h for the two odd values."""
    if nanoseconds == (1 << 30) - 2:  # UTIME_OMIT
        return None
    return time.time_ns() if nanoseconds == (1 << 30) - 1 else seconds * 10**9 + nanoseconds


if __name__ == "__main__":
    _serve(*sys.argv[1:])
