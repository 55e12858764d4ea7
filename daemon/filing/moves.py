"""Moves files without ever overwriting one, so that a crash at any instant leaves the bytes under a whole name.

`place` makes a file appear under a second name: by a hard link, or where none is to be had (another filesystem,
exFAT, SMB, `fs.protected_hardlinks`) by a copy under a hidden temporary name, fsync, a check by hash and an
exclusive rename. The first name is only removed by the caller, after it has committed its row.
"""

import errno
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from daemon import disk
from daemon.errors import EnvironmentFault, Immovable, Postponed, Transient, Withdrawn

_BLOCK = 1 << 20


def place(fd: int, source: Path, root: Path, destination: Path, temporary: Path, sha256: str) -> None:
    """Make the open file `fd`, whose name is `source`, appear durably as `destination`, below `root`, too.

    `temporary` is a free name beside `destination`, `sha256` the hash that a copy must have. Raises FileExistsError
    when the name is taken, Withdrawn when `source` is gone, Postponed when the bytes are other ones now, NameRefused
    where the destination can't be called so, EnvironmentFault for all else that is its fault, Transient when `source`
    can't be read.
    """
    disk.make_folders(root, destination.parent)
    with disk.blaming(str(destination.parent)):
        if not _link(fd, source, destination):
            _copy(fd, destination, temporary, sha256)
        else:
            # The writer has closed the file, but nobody has told the disk yet.
            os.fsync(fd)
        disk.fsync_folder(destination.parent)


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
        if error.errno in disk.NO_LINK:
            return False
        raise
    return True


def _copy(fd: int, destination: Path, temporary: Path, expected: str) -> None:
    was = os.fstat(fd)
    try:
        with temporary.open("wb") as copy:
            if _copy_bytes(fd, copy) != expected:
                raise Postponed("changed while it was being copied", 1.0)
            copy.flush()
            os.fchmod(copy.fileno(), stat.S_IMODE(was.st_mode))
            os.utime(copy.fileno(), ns=(was.st_atime_ns, was.st_mtime_ns))
            os.fsync(copy.fileno())
        if disk.sha256(temporary) != expected:
            raise EnvironmentFault(f"{destination.parent}: what was written there reads back differently")
        disk.rename_exclusive(temporary, destination)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
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
    """Give what can't be opened (a symbolic link, a FIFO, another user's file) the name `destination` too.

    Where no link is to be had it is renamed. Raises FileExistsError, Withdrawn, Immovable, NameRefused,
    EnvironmentFault.
    """
    disk.make_folders(root, destination.parent)
    with disk.blaming(str(destination.parent)):
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileNotFoundError:
            raise Withdrawn(f"{source.name} is gone from the inbox") from None
        except OSError as error:
            if error.errno not in disk.NO_LINK:
                raise
            _rename_node(source, destination)
        disk.fsync_folder(destination.parent)


def _rename_node(source: Path, destination: Path) -> None:
    try:
        disk.rename_exclusive(source, destination)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in disk.BAD_NAME:
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
    with disk.blaming(str(destination)):
        destination.unlink(missing_ok=True)
    return True
