"""Opens a file of the inbox with suspicion: no links, no devices, and nothing that changes while it is read."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from daemon.develop import Identity
from daemon.errors import Postponed, Rejected, Transient, Withdrawn


@contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedReader, Identity]]:
    """Open a regular file and tell which one it is; raise Postponed at the end if it changed meanwhile."""
    fd = _open(path)
    try:
        before = _identify(fd)
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                yield file, before
        except (Rejected, Transient) as error:
            if _identify(fd) != before:  # half a file looks damaged
                raise _changed() from error
            raise
        if _identify(fd) != before:
            raise _changed()
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    try:
        # NONBLOCK: a FIFO without a writer would hold us up, and so would another's lease.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Withdrawn("the file is gone") from error
    except BlockingIOError as error:
        raise Postponed("another program holds it", 1.0) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Rejected("a symbolic link, not a file") from error
        if error.errno == errno.ENXIO:
            raise Rejected("a socket, not a file") from error
        raise Transient(f"can't be read: {error.strerror}") from error


def _identify(fd: int) -> Identity:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
        raise Rejected(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    return Identity.of(status)


def _changed() -> Postponed:
    return Postponed("changed while it was being read", 1.0)
