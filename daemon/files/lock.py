"""Keeps two darkrooms off the same folders, with locks that die with their process.

The state folder is locked by a file in it, which also holds the process id for others. The lock is one of an open file
description: whether there is one can be asked without taking one, so nobody who asks keeps another from starting
(fcntl(2), "Open file description locks"). The folders that photos move through are locked by abstract sockets named
after their device and inode: unlike an open file, that does not keep a disk from being unmounted.
"""

import errno
import fcntl
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daemon.errors import Busy, ConfigError, EnvironmentFault
from daemon.files.state_folder import private

_log = logging.getLogger(__name__)

_FILE = "lock"
_ASK_AGAIN_SECONDS = 0.05
# How long `running` is waited for where it has to take the lock for a moment.
_FLOCK_SECONDS = 1.0
# struct flock of fcntl(2): type, whence, start, length (0: to the end, however far), pid (0 for this kind of lock).
_STRUCT_FLOCK = "hhqqi"


@contextmanager
def exclusive(state: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Hold the folders for this process. Raises Busy naming what another one holds, ConfigError without rights."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open(state / _FILE, "ab", buffering=0, opener=private))
        except OSError as error:
            raise ConfigError(f"{state / _FILE} can't be opened: {error.strerror}; whose is it?") from error
        try:
            taken = _take(opened.fileno())
        except OSError as error:
            raise ConfigError(
                f"{state / _FILE} can't be locked: {error.strerror}; name a state folder on another disk"
            ) from error
        if not taken:
            raise Busy(f"darkroom is already running on {state} (pid {running(state) or 'unknown'})")
        with suppress(OSError):  # a full disk: then nobody learns the process id
            opened.truncate(0)
            opened.write(str(os.getpid()).encode())
        for folder in folders:
            _hold(stack, folder)
        yield


@contextmanager
def held(file: Path, seconds: float, busy: str) -> Iterator[None]:
    """Hold a file's lock for a block, waiting up to `seconds` for another process or thread; then raise Busy(`busy`).

    A filesystem without locks is no fault. Raises EnvironmentFault where the file can't be made.
    """
    try:
        opened = os.fdopen(private(str(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC), "a")
    except OSError as error:
        raise EnvironmentFault(f"{file} can't be made: {error.strerror}") from error
    with opened:
        try:
            taken = _flock(opened.fileno(), seconds)
        except OSError:
            taken = True
        if not taken:
            raise Busy(busy)
        yield


def running(state: Path) -> int | None:
    """Return the process id of the darkroom that runs on a state folder, 0 where it is unknown; None where none does.

    Asking takes no lock, but for a moment on systems other than Linux.
    """
    try:
        with (state / _FILE).open("rb") as opened:
            if not _is_taken(opened.fileno()):
                return None
            with suppress(OSError):  # on a network share a locked file can't always be read
                text = opened.read(20).strip()
                return int(text) if text.isdigit() else 0
            return 0
    except OSError:
        return None


def _take(fd: int) -> bool:
    """Take the lock of the state folder; False where another one has it."""
    try:
        if _of_description(fd, "F_OFD_SETLK") is not None:
            return True
    except OSError as error:
        # fcntl(2) allows both, and a network share answers with the second.
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return _flock(fd, _FLOCK_SECONDS)


def _is_taken(fd: int) -> bool:
    """Return whether another open file has the lock of the state folder."""
    answer = _of_description(fd, "F_OFD_GETLK")
    if answer is not None:
        return bool(struct.unpack(_STRUCT_FLOCK, answer)[0] != fcntl.F_UNLCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _of_description(fd: int, command: str) -> bytes | None:
    """Take a lock of this open file description, or ask about one; None where the system has no such locks."""
    if not hasattr(fcntl, command):
        return None
    try:
        return fcntl.fcntl(fd, getattr(fcntl, command), struct.pack(_STRUCT_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _flock(fd: int, seconds: float) -> bool:
    """Take a flock; False where another open file has it for longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_ASK_AGAIN_SECONDS)
        else:
            return True


def _hold(stack: ExitStack, folder: Path) -> None:
    try:
        here = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        # A share that stutters. What needs the folder waits for it.
        why = f"{error.strerror}; the lock of the state folder has to do"
        _log.warning("%s can't be examined, so another darkroom on it would go unnoticed: %s", folder, why)
        return
    if not hasattr(socket, "AF_UNIX") or not stat.S_ISDIR(here.st_mode):
        return
    held = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
    try:
        held.bind(f"\0darkroom-{here.st_dev}-{here.st_ino}")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Busy(f"another darkroom already works on {folder}") from None
        # A system without abstract sockets: the state folder's lock must do.
