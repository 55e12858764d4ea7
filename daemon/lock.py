"""Keeps two darkrooms off the same folders, with locks that die with their process.

The state folder is locked by flock on a file in it, which also tells others the process id. The folders that
photos move through are locked by abstract sockets named after their device and inode: unlike an open file, that
does not keep a disk from being unmounted.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daemon.errors import Busy, ConfigError

_FILE = "lock"


@contextmanager
def exclusive(state: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Hold the folders for this process. Raises Busy naming what another one holds, ConfigError without rights."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context((state / _FILE).open("ab", buffering=0))
        except OSError as error:
            raise ConfigError(f"{state / _FILE} can't be opened: {error.strerror}; whose is it?") from error
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"darkroom is already running on {state} (pid {running(state) or 'unknown'})") from None
        for folder in folders:
            _hold(stack, folder)
        with suppress(OSError):  # a full disk: then nobody learns the process id
            opened.truncate(0)
            opened.write(str(os.getpid()).encode())
        yield


def running(state: Path) -> int | None:
    """Tell the process id of the darkroom that runs on a state folder; None where none does."""
    try:
        with (state / _FILE).open("r") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = opened.read().strip()
                return int(text) if text.isdecimal() else 0
    except OSError:
        pass
    return None


def _hold(stack: ExitStack, folder: Path) -> None:
    if not hasattr(socket, "AF_UNIX") or not folder.is_dir():
        return
    here = folder.stat()
    held = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    try:
        held.bind(f"\0darkroom-{here.st_dev}-{here.st_ino}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Busy(f"another darkroom already works on {folder}") from None
        # A system without abstract sockets: the state folder's lock must do.
