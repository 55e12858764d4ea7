"""What the worker process runs. It is imported there first, so it imports nothing that costs time or memory."""

import ctypes
import gc
import itertools
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.decoding import Decoded, Limits
from daemon.errors import DarkroomError, Transient

Work = Callable[[Path, Limits], Decoded]
_PR_SET_PDEATHSIG = 1
_JPEGS_AT_ONCE = 8
_jpegs = itertools.count(1)
_M_ARENA_MAX = -8


@dataclass(frozen=True)
class Failure:
    """An error on its way to the main program, where it is raised."""

    error: DarkroomError


def prepare(limits: Limits, parent: int) -> None:
    """Shut the process in, then import the decoders. `parent` is the process that it must not outlive."""
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


def run(work: Work, path: Path, limits: Limits) -> Decoded | Failure:
    """Do the work on one file and hand back its result, or its failure with a reason for people."""
    outcome = _attempt(work, path, limits)
    # Pillow's images lie in cycles: a worker kept 800 MB of the last one while it was idle. A JPEG is decoded small,
    # so a few of those may wait for each other: collecting takes 2 ms.
    if not isinstance(outcome, Decoded) or outcome.format != "JPEG" or next(_jpegs) % _JPEGS_AT_ONCE == 0:
        gc.collect()
    return outcome


def _attempt(work: Work, path: Path, limits: Limits) -> Decoded | Failure:
    try:
        return work(path, limits)
    except DarkroomError as error:
        return Failure(error)
    except MemoryError:
        return Failure(Transient(f"needs more than the limit of {limits.memory_mb} MB to decode"))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Failure(Transient(f"the decoder failed: {reason}"))
