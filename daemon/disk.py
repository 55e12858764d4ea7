"""Durable, exclusive steps on a file system: what the moves and the sidecars are made of."""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from daemon.errors import EnvironmentFault, NameRefused

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
# What a filesystem says to a name that it can't hold: exFAT and SMB to `a:b`, eCryptfs to 144 bytes.
BAD_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
# What a disk that fails or a share that stutters says, to any call: another time may go well.
UNREACHABLE = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
    | {errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET}
    | {errno.ECONNABORTED, errno.EREMOTEIO}
)
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn the file system's refusals into an EnvironmentFault about `what`, NameRefused where it can't hold a name.

    A taken name passes as FileExistsError.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        kind = NameRefused if error.errno in BAD_NAME else EnvironmentFault
        raise kind(f"{what}: {os.strerror(error.errno or 0)}") from error


def rename_exclusive(temporary: Path, destination: Path) -> None:
    """Rename without replacing; raises FileExistsError when the name is taken."""
    outcome = _renameat2(temporary, destination)
    if outcome == 0:
        return
    if outcome == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(destination))
    try:
        os.link(temporary, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        # No exclusive rename and no links (some network shares): reserve the name, then replace the reservation.
        os.close(os.open(destination, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        temporary.replace(destination)
    else:
        temporary.unlink()


@cache
def _libc() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # another system, or an old C library
        return None


def _renameat2(source: Path, destination: Path) -> int:
    """Call renameat2(RENAME_NOREPLACE): 0, EEXIST, or ENOSYS for "find another way"; see renameat2(2)."""
    call = _libc()
    if call is None:
        return errno.ENOSYS
    names = os.fsencode(source), os.fsencode(destination)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
        return 0
    code = ctypes.get_errno()
    if code in {errno.EEXIST, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        return errno.EEXIST if code == errno.EEXIST else errno.ENOSYS
    raise OSError(code, os.strerror(code), str(destination))


def make_folders(root: Path, folder: Path) -> None:
    """Make a folder and what leads to it from `root` on, durably; never `root`, which may be a mount that is away."""
    with blaming(str(folder)):
        for missing in _missing(folder):
            if missing == root:
                raise EnvironmentFault(f"the folder {root} is gone")
            try:
                missing.mkdir()
            except FileExistsError:
                if not missing.is_dir():
                    raise EnvironmentFault(f"{missing} is a file where a folder must be: move it away") from None
            fsync_folder(missing.parent)


def make_path(folder: Path) -> None:
    """Make a folder and all that leads to it, durably: a photo is no safer than the folders above it.

    Raises OSError.
    """
    for missing in _missing(folder):
        missing.mkdir(exist_ok=True)
        fsync_folder(missing.parent)


def _missing(folder: Path) -> list[Path]:
    """List a folder and those above it that are not there, the outermost first."""
    missing = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing[::-1]


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network filesystems have no fsync for folders
            raise
    finally:
        os.close(fd)


def make_durable(file: Path) -> None:
    """Make a file that somebody else has written durable, its name included."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    fsync_folder(file.parent)


def write_whole(file: Path, temporary: Path, content: bytes) -> None:
    """Write a new file durably, whole or not at all; raises FileExistsError when the name is taken."""
    with blaming(str(file.parent)):
        try:
            with temporary.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            rename_exclusive(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        fsync_folder(file.parent)


def is_folder(path: Path) -> bool:
    """Return whether a folder can be found under a path; False also where a share does not answer."""
    try:
        return path.is_dir()
    except OSError:
        return False


def exists(file: Path) -> bool:
    """Return whether anything has a name. Raises EnvironmentFault where that can't be told, as lexists does not."""
    with blaming(str(file)):
        try:
            file.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def sha256(file: Path | int) -> str:
    """Hash the bytes of a file, named or open."""
    with open(file, "rb", closefd=isinstance(file, Path)) as opened:
        opened.seek(0)
        return hashlib.file_digest(opened, "sha256").hexdigest()


def size_of(file: Path) -> int | None:
    """Tell the size of a regular file in bytes; None where there is none, or something else has the name."""
    try:
        here = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return here.st_size if stat.S_ISREG(here.st_mode) else None
