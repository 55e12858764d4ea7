"""Durable, exclusive steps on a filesystem, and moves made of them that never overwrite a file.

`place` makes a file appear under a second name: by a hard link, or where none is to be had (another filesystem,
exFAT, SMB, `fs.protected_hardlinks`) by a copy under a hidden temporary name, fsync, a check by hash and an
exclusive rename. The first name is only removed by the caller, after it has committed its row. A crash at any
instant leaves the bytes under a whole name.
"""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from daemon.errors import (
    DiskFull,
    EnvironmentFault,
    Immovable,
    NameRefused,
    Postponed,
    Transient,
    WaitingReason,
    Withdrawn,
)

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
# The disk, or somebody's share of it, is full; or the file is larger than the filesystem has files.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn the file system's refusals into an EnvironmentFault about `what`.

    NameRefused where it can't hold a name, DiskFull where there is no room; a taken name passes as FileExistsError.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise _meaning(error)(f"{what}: {os.strerror(error.errno or 0)}") from error


def _meaning(error: OSError) -> type[EnvironmentFault]:
    if error.errno in BAD_NAME:
        return NameRefused
    return DiskFull if error.errno in NO_ROOM else EnvironmentFault


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
    """Return a folder and those above it that are not there, the outermost first."""
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


def temporary(destination: Path, tag: object) -> Path:
    """Return the hidden name beside a file's own under which its bytes are written first."""
    return destination.with_name(f".darkroom-{tag}.part")


def atomic_write(
    contents: Mapping[Path, bytes], tag: str, *, replace: bool = False, durable_names: bool = True
) -> None:
    """Write files of one folder, each whole or not at all, even where the power fails.

    `tag` makes the hidden temporary names. Without `replace` it raises FileExistsError when a name is taken. Without
    `durable_names` a power cut may take the new names back. Raises NameRefused, DiskFull, EnvironmentFault.
    """
    folder = next(iter(contents)).parent
    temporaries = [temporary(path, f"{tag}-{n}" if n else tag) for n, path in enumerate(contents)]
    with blaming(str(folder)):
        try:
            with ExitStack() as opened:
                files = [opened.enter_context(part.open("wb")) for part in temporaries]
                for file, content in zip(files, contents.values(), strict=True):
                    file.write(content)
                    file.flush()
                # All are written before any is waited for: that is one commit of the journal less.
                for file in files:
                    os.fdatasync(file.fileno())
            for part, path in zip(temporaries, contents, strict=True):
                part.replace(path) if replace else rename_exclusive(part, path)
            if durable_names:
                fsync_folder(folder)
        except BaseException:
            for part in temporaries:
                with suppress(OSError):
                    part.unlink()
            raise


def is_folder(path: Path) -> bool:
    """Return whether a folder can be found under a path; False also where a share does not answer."""
    try:
        return path.is_dir()
    except OSError:
        return False


def exists(file: Path) -> bool:
    """Return whether anything has a name. Raises EnvironmentFault where nobody knows, as lexists does not."""
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
    """Return the size of a regular file in bytes; None where there is none, or something else has the name."""
    try:
        here = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return here.st_size if stat.S_ISREG(here.st_mode) else None


_BLOCK = 1 << 20


def place(fd: int, source: Path, root: Path, destination: Path, tag: object, sha256: str) -> None:
    """Make the open file `fd`, whose name is `source`, appear durably as `destination`, below `root`, too.

    `tag` makes the hidden name of a copy while it is written, `sha256` is the hash that a copy must have. Raises
    FileExistsError when the name is taken, Withdrawn when `source` is gone, Postponed when the bytes are other ones
    now, NameRefused where the destination can't be called so, EnvironmentFault for all else that is its fault,
    Transient when `source` can't be read.
    """
    make_folders(root, destination.parent)
    with blaming(str(destination.parent)):
        if not _link(fd, source, destination):
            _copy(fd, destination, temporary(destination, tag), sha256)
        else:
            # The writer has closed the file, but it need not be on the disk yet.
            os.fsync(fd)
        fsync_folder(destination.parent)


def _link(fd: int, source: Path, destination: Path) -> bool:
    # Through the descriptor: exactly the file that was read, whatever its name has come to mean since.
    by_fd = Path(f"/proc/self/fd/{fd}")
    try:
        if by_fd.exists():
            # A src_dir_fd, though an absolute path has no use for one: without it Python calls link(2), which links
            # the symbolic link in /proc itself.
            os.link(by_fd, destination, src_dir_fd=fd, follow_symlinks=True)
        else:
            os.link(source, destination, follow_symlinks=False)
    except FileNotFoundError:
        if os.fstat(fd).st_nlink == 0 or not os.path.lexists(source):
            raise Withdrawn(f"{source.name} is gone from the inbox") from None
        return False
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise
    return True


def _copy(fd: int, destination: Path, part: Path, expected: str) -> None:
    was = os.fstat(fd)
    try:
        with part.open("wb") as copy:
            if _copy_bytes(fd, copy) != expected:
                raise Postponed(WaitingReason.CHANGED, 1.0, "copied")
            copy.flush()
            os.fchmod(copy.fileno(), stat.S_IMODE(was.st_mode))
            os.utime(copy.fileno(), ns=(was.st_atime_ns, was.st_mtime_ns))
            os.fsync(copy.fileno())
        if sha256(part) != expected:
            raise EnvironmentFault(f"{destination.parent}: what was written there reads back differently")
        rename_exclusive(part, destination)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _copy_bytes(fd: int, copy: BinaryIO) -> str:
    digest = hashlib.sha256()
    offset = 0
    while True:
        try:
            block = os.pread(fd, _BLOCK, offset)
        except OSError as error:
            raise Transient(f"can't be read: {os.strerror(error.errno or 0)}") from error
        if not block:
            return digest.hexdigest()
        digest.update(block)
        copy.write(block)
        offset += len(block)


def place_node(source: Path, root: Path, destination: Path) -> None:
    """Give something that can't be opened (a symbolic link, a FIFO, another user's file) the name `destination` too.

    Where no link is to be had it is renamed. Raises FileExistsError, Withdrawn, Immovable, NameRefused,
    EnvironmentFault.
    """
    make_folders(root, destination.parent)
    with blaming(str(destination.parent)):
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileNotFoundError:
            raise Withdrawn(f"{source.name} is gone from the inbox") from None
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            _rename_node(source, destination)
        fsync_folder(destination.parent)


def _rename_node(source: Path, destination: Path) -> None:
    try:
        rename_exclusive(source, destination)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in BAD_NAME:
            raise
        if error.errno == errno.EXDEV and source.is_symlink():
            destination.symlink_to(source.readlink())
        else:
            raise Immovable(os.strerror(error.errno or 0)) from error


def unlink_second(second: Path, first: Path) -> None:
    """Remove `second` where it is another name of the file `first`; best effort, after a move that failed."""
    with suppress(OSError):
        if os.path.samestat(first.lstat(), second.lstat()):
            second.unlink()


def take_back(destination: Path, source: Path) -> bool:
    """Undo `place` where the inbox still has the file; False where `destination` is now its only name."""
    if not os.path.lexists(source):
        return False
    with blaming(str(destination)):
        destination.unlink(missing_ok=True)
    return True
