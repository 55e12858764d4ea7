"""What a decoder's process runs: it shuts itself in, then decodes one open file after the other, until its socket ends.

Standard input is that socket, and the only way in and out. A request is one byte and an open file; an answer is three
lengths (`HEADER`), JSON, and the two thumbnails. The decoders are imported here, never in the main program, and
nothing else that costs time or memory.
"""

import ctypes
import gc
import itertools
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import Any

from daemon.decoding import Decoded, Limits
from daemon.decoding.confinement import confine
from daemon.errors import DarkroomError, FailureReason, Rejected, Transient, Truncated, Unresponsive

Work = Callable[[BufferedReader, Limits], Decoded]

HEADER = struct.Struct("!3I")
"""The lengths of an answer's JSON, of its small and of its medium thumbnail."""
REQUEST = b"d"

_SAMPLES = Path(__file__).parent / "samples"
_SOCKET = 0
_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8
# Whoever else works on this machine goes first.
_NICE = 5
_FILES = 64
_JPEGS_AT_ONCE = 8
_MAX_REASON = 1000
_jpegs = itertools.count(1)
# Decoders count processors, and each would have its threads; there are as many of these processes instead.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ErrorCode(StrEnum):
    """The errors that cross to the main program; it knows no others."""

    REJECTED = "rejected"
    TRANSIENT = "transient"
    TRUNCATED = "truncated"
    UNRESPONSIVE = "unresponsive"


# A class before the one that it inherits from.
_CODES: tuple[tuple[type[DarkroomError], ErrorCode], ...] = (
    (Truncated, ErrorCode.TRUNCATED),
    (Transient, ErrorCode.TRANSIENT),
    (Rejected, ErrorCode.REJECTED),
    (Unresponsive, ErrorCode.UNRESPONSIVE),
)


@dataclass(frozen=True)
class Failure:
    """Why an image could not be decoded, on its way to the main program."""

    code: ErrorCode
    text: str
    failure: FailureReason


@dataclass(frozen=True)
class Setup:
    """What a process is told at its start: the main program's id, and its work, as module and name."""

    parent: int
    work: tuple[str, str]
    limits: Limits

    @classmethod
    def parse(cls, text: str) -> "Setup":
        """Return the set-up in the JSON that the main program has made of one."""
        known: dict[str, Any] = json.loads(text)
        module, name = known["work"]
        return cls(known["parent"], (module, name), Limits(**known["limits"]))

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


def main(text: str) -> None:
    """Run a decoder's process to its end."""
    setup = Setup.parse(text)
    # Made first: it asks the kernel what kind of socket it is.
    with socket.socket(fileno=_SOCKET) as requests:
        try:
            work = _prepare(setup)
            confined = confine(_readable(setup))
        except Exception as error:
            _send({"fault": _brief(error)})
            return
        _send(asdict(confined))
        while (fd := _received(requests)) is not None:
            _answer(_run(work, fd, setup.limits))


def _prepare(setup: Setup) -> Work:
    """Set all limits and load all decoders; return what does the work on one file."""
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
    if os.getppid() != setup.parent:  # it ended before the wish was made
        os._exit(1)
    with suppress(OSError):
        os.nice(_NICE)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, setup.limits.memory_mb << 20)
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    logging.getLogger().addHandler(logging.NullHandler())  # ExifRead warns of every odd tag
    _warm(setup.limits)
    module, name = setup.work
    work: Work = getattr(import_module(module), name)
    # What is here now stays: looking through it again behind each image would take longer than its EXIF.
    gc.collect()
    gc.freeze()
    _limit(resource.RLIMIT_NOFILE, _FILES)
    _limit(resource.RLIMIT_FSIZE, 0)
    return work


def _readable(setup: Setup) -> list[Path]:
    """Return where modules lie that may still be imported, such as a seldom encoding of texts."""
    packages = {"daemon", setup.work[0].partition(".")[0]}
    files = [sys.modules[name].__file__ for name in packages]
    return [*map(Path, sys.path), *(Path(file).parent for file in files if file)]


def _warm(limits: Limits) -> None:
    """Decode one image of each format, so that nothing is left to be loaded."""
    for sample in sorted(_SAMPLES.iterdir()):
        # A decoder that can't be loaded costs the images of its format, and `doctor` says which; not the others.
        with suppress(DarkroomError), sample.open("rb") as file:
            decode(file, limits)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(kind, (value, value))


def decode(file: BufferedReader, limits: Limits) -> Decoded:
    """Decode one image; the decoders are imported here, never in the main program."""
    from daemon.decoding.decode import decode as decode_file

    return decode_file(file, limits)


def _received(requests: socket.socket) -> int | None:
    """Return the open file of the next request; None when there will be no more."""
    said, fds, _, _ = socket.recv_fds(requests, len(REQUEST), 1)
    return fds[0] if said else None


def _run(work: Work, fd: int, limits: Limits) -> Decoded | Failure:
    """Do the work on one file and return its result, or its failure with a reason for people."""
    with os.fdopen(fd, "rb") as file:
        outcome = _attempt(work, file, limits)
    # Pillow's images lie in cycles: a worker kept 800 MB of the last one while it was idle. A JPEG is decoded small,
    # so a few of those may wait for each other: collecting takes 2 ms.
    if not isinstance(outcome, Decoded) or outcome.format != "JPEG" or next(_jpegs) % _JPEGS_AT_ONCE == 0:
        gc.collect()
    return outcome


def _attempt(work: Work, file: BufferedReader, limits: Limits) -> Decoded | Failure:
    try:
        return work(file, limits)
    except DarkroomError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ErrorCode.TRANSIENT)
        failure = error.failure if isinstance(error, Rejected | Transient) else FailureReason.OTHER
        return Failure(code, str(error)[:_MAX_REASON], failure)
    except MemoryError:
        text = f"needs more than the limit of {limits.memory_mb} MB to decode"
        return Failure(ErrorCode.TRANSIENT, text, FailureReason.MEMORY)
    except Exception as error:
        return Failure(ErrorCode.TRANSIENT, f"the decoder failed: {_brief(error)}", FailureReason.CRASHED)


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _answer(outcome: Decoded | Failure) -> None:
    if isinstance(outcome, Failure):
        _send(asdict(outcome))
        return
    told = asdict(outcome)
    del told["identity"]  # the main program has its own
    _send(told, told.pop("small"), told.pop("medium"))


def _send(told: dict[str, Any], small: bytes = b"", medium: bytes = b"") -> None:
    text = json.dumps(told).encode()
    content = memoryview(HEADER.pack(len(text), len(small), len(medium)) + text + small + medium)
    while content:
        content = content[os.write(_SOCKET, content) :]
