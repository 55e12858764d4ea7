"""Keeps two darkrooms off the same folders, with locks that die with their process.

The state folder is locked by a file in it, which also holds the process id for others. The lock is one of an open file
description: whether there is one can be asked without taking one, so nobody who asks keeps another from starting
(fcntl(2), "Open file description locks"). The folders that photos move through are locked by abstract sockets named
after their device and inode: unlike an open file, that does not keep a disk from being unmounted. Anybody can take such
a name, so whoever has it is asked for his account, by a connection (unix(7), SO_PEERCRED), which he ends at once.
"""

import errno
import fcntl
import logging
import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from daemon.errors import Busy, ConfigError, EnvironmentFault
from daemon.files.state_folder import private

_log = logging.getLogger(__name__)

_FILE = "lock"
# What stands in the name of the lock of a folder whose subfolders are looked through.
_INBOX = "inbox-"
_ASK_AGAIN_SECONDS = 0.05
# How long `running` is waited for where it has to take the lock for a moment.
_FLOCK_SECONDS = 1.0
# struct flock of fcntl(2): type, whence, start, length (0: to the end, however far), pid (0 for this kind of lock).
_STRUCT_FLOCK = "hhqqi"


@contextmanager
def exclusive(state: Path, folders: Iterable[Path], inbox: Path | None = None) -> Iterator[None]:
    """Hold the folders for this process. Raises Busy naming what another one holds, ConfigError without rights.

    `inbox` is the one of them whose subfolders are looked through: nobody else may have any of his folders in there.
    """
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
        folders = list(folders)
        _check_around([state, *folders])
        wanted = [(folder, "") for folder in folders] + ([(inbox, _INBOX)] if inbox else [])
        held = [listener for folder, kind in wanted if (listener := _hold(stack, folder, kind)) is not None]
        stack.enter_context(_answering(held))
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


def _check_around(folders: Iterable[Path]) -> None:
    """Raise Busy where one of the folders lies in the inbox of a darkroom that runs, which would file what is there."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    for around in dict.fromkeys(parent for folder in folders for parent in folder.parents):
        with suppress(OSError):
            here = around.stat()
            if _peer(_name(here, _INBOX)) in {0, os.geteuid(), here.st_uid}:
                raise Busy(f"{around} is the inbox of another darkroom, which would file what this one has in it")


def _name(folder: os.stat_result, kind: str) -> str:
    return f"\0darkroom-{kind}{folder.st_dev}-{folder.st_ino}"


def _hold(stack: ExitStack, folder: Path, kind: str) -> socket.socket | None:
    """Take the name of a folder and listen; None where there is no such lock. Raises Busy."""
    try:
        here = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # A share that stutters. What needs the folder waits for it.
        why = f"{error.strerror}; the lock of the state folder has to do"
        _log.warning("%s can't be examined, so another darkroom on it would go unnoticed: %s", folder, why)
        return None
    if not hasattr(socket, "SO_PEERCRED") or not stat.S_ISDIR(here.st_mode):
        return None
    name = _name(here, kind)
    held = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
    held.setblocking(False)
    try:
        held.bind(name)
        held.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(name)
            # Whom the folder does not belong to, must not keep its owner from it.
            if holder in {0, os.geteuid(), here.st_uid}:
                raise Busy(f"another darkroom already works on {folder}") from None
            who = "somebody" if holder is None else f"the account {holder}"
            _log.warning("%s has the lock of %s, whose it is not: the state folder's has to do", who, folder)
        return None
    return held


def _holder(name: str) -> int | None:
    """Return the user id of who has an abstract socket; None where nobody listens there."""
    deadline = time.monotonic() + _FLOCK_SECONDS
    # A darkroom that starts in this moment does not listen yet.
    while (holder := _peer(name)) is None and time.monotonic() < deadline:
        time.sleep(_ASK_AGAIN_SECONDS)
    return holder


def _peer(name: str) -> int | None:
    """Return the user id of who listens at an abstract socket at this moment; None where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(name)
            return int(struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        except OSError:
            return None


@contextmanager
def _answering(listeners: list[socket.socket]) -> Iterator[None]:
    """End each connection to the listeners, for a block: left alone, they would soon take no more."""
    ending, end = socket.socketpair()

    def answer() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(ending, selectors.EVENT_READ)
            for listener in listeners:
                selector.register(listener, selectors.EVENT_READ, listener)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    try:
                        key.data.accept()[0].close()
                    except OSError:  # who called has gone, or there is no descriptor for him
                        time.sleep(_ASK_AGAIN_SECONDS)

    thread = threading.Thread(target=answer, name="locks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.close()
        thread.join()
        ending.close()
