"""What the worker process runs. It is imported there first, so it imports nothing that costs time or memory."""

import ctypes
import gc
import itertools
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.decoding import Decoded, Limits
from daemon.errors import DarkroomError, FailureReason, Transient

Work = Callable[[Path, Limits], Decoded]
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
# linux/capability.h
_CAPABILITY_VERSION_3, _CAP_LEASE = 0x20080522, 28
_JPEGS_AT_ONCE = 8
_jpegs = itertools.count(1)
_M_ARENA_MAX = -8
# Where the main program's open files come in, once `prepare` has been called.
_files: list[socket.socket] = []


@dataclass(frozen=True)
class Failure:
    """An error on its way to the main program, where it is raised."""

    error: DarkroomError


def prepare(limits: Limits, parent: int, files: socket.socket) -> None:
    """Shut the process in, then import the decoders.

    `parent` is the process that it must not outlive, and that hands over its open files through `files`.
    """
    _files[:] = [files]
    # Ctrl-C goes to the whole process group, systemd's SIGTERM to the whole unit, but the image that is being decoded
    # is to be finished: the main program decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A malloc arena reserves 64 MB of address space, and every decoding thread would have its own.
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_ARENA_MAX, 2)
        _give_up_leases(libc)
    if os.getppid() != parent:  # it ended before the wish was made
        os._exit(1)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, limits.memory_mb << 20)
    logging.getLogger().addHandler(logging.NullHandler())  # ExifRead warns of every odd tag
    import daemon.decoding.decode  # noqa: F401

    # What is here now stays: looking through it again behind each image would take longer than its EXIF.
    gc.collect()
    gc.freeze()
    # libtiff and others write to the terminal, past Python, what they think of a file.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _give_up_leases(libc: ctypes.CDLL) -> None:
    """Give up CAP_LEASE, which systemd's unit gives the service and all that it starts: capabilities(7), capset(2)."""
    none = ctypes.c_ulong(0)
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), none, none, none)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable ones, twice: those below 32, and the others.
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) == 0:
        for number in range(3):
            sets[number] &= ~(1 << _CAP_LEASE)
        libc.capset(header, sets)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):  # a system without this limit
        logging.getLogger(__name__).warning("this system sets no limit on what a decoder may use")


def ready() -> int:
    """Return the worker's process id: it is up."""
    return os.getpid()


def decode(path: Path, limits: Limits) -> Decoded:
    """Decode one image; the decoders are imported here, never in the main program."""
    from daemon.decoding.decode import decode as decode_file

    return decode_file(path, limits)


def run(work: Work, path: Path, limits: Limits, number: bytes | None = None) -> Decoded | Failure:
    """Do the work on one file and hand back its result, or its failure with a reason for people.

    With a `number` the file is the one that was handed over under it, and `path` is what it was called there.
    """
    if number is None:
        outcome = _attempt(work, path, limits)
    else:
        fd = _received(number)
        try:
            outcome = _attempt(work, Path(f"/proc/self/fd/{fd}"), limits)
        finally:
            os.close(fd)
    # Pillow's images lie in cycles: a worker kept 800 MB of the last one while it was idle. A JPEG is decoded small,
    # so a few of those may wait for each other: collecting takes 2 ms.
    if not isinstance(outcome, Decoded) or outcome.format != "JPEG" or next(_jpegs) % _JPEGS_AT_ONCE == 0:
        gc.collect()
    return outcome


def _received(number: bytes) -> int:
    """Return the open file of that number; close those of images that were given up before it."""
    while True:
        said, fds, _, _ = socket.recv_fds(_files[0], 64, 1)
        if said == number:
            return fds[0]
        for fd in fds:
            os.close(fd)


def _attempt(work: Work, path: Path, limits: Limits) -> Decoded | Failure:
    try:
        return work(path, limits)
    except DarkroomError as error:
        return Failure(error)
    except MemoryError:
        message = f"needs more than the limit of {limits.memory_mb} MB to decode"
        return Failure(Transient(message, FailureReason.MEMORY))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Failure(Transient(f"the decoder failed: {reason}", FailureReason.CRASHED))
