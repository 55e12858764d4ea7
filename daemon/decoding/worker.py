"""What a decoder's process runs: it shuts itself in, then decodes one open file after the other, until its socket ends.

Standard input is that socket, and the only way in and out. A request is one byte and an open file, or for a text that
lies beside a photo one byte, its length and its content; an answer is three lengths (`HEADER`), JSON, and the two
thumbnails. The decoders are imported here, never in the main program, and nothing else that costs time or memory.
"""

import ctypes
import gc
import itertools
import json
import logging
import os
import resource
import select
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
from typing import Any, TypeVar

from daemon.decoding import Decoded, Limits
from daemon.decoding.confinement import confine
from daemon.errors import DarkroomError, FailureReason, Rejected, Transient, Truncated, Unresponsive

Work = Callable[[BufferedReader, Limits], Decoded]
_T = TypeVar("_T")

HEADER = struct.Struct("!3I")
"""The lengths of an answer's JSON, of its small and of its medium thumbnail."""
LENGTH = struct.Struct("!I")
"""The length of a text."""
MAX_TEXT_JSON = 24 << 20
"""How long the answer to a text may be."""


class Request(StrEnum):
    """What is asked for, as the byte that says so."""

    IMAGE = "i"
    XMP = "x"
    TAKEOUT = "t"


_TEXTS = (
    (Request.XMP, b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>'),
    (Request.TAKEOUT, b"{}"),
)
_SAMPLES = Path(__file__).parent / "samples"
_SOCKET = 0
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# What an image has needed is kept for the next one, and given back in a pause: to fetch it anew from the system, page
# by page, takes 4 % of a photo's time.
_KEPT_BYTES = 32 << 20
_PAUSE_MS = 2000
# Whoever else works on this machine goes first.
_NICE = 5
_FILES = 64
_JPEGS_AT_ONCE = 8
# The tree of a text of this size need not be kept until the next one.
_LARGE = 1 << 16
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
        while (asked := _received(requests)) is not None:
            request, fd = asked
            if fd is not None:
                _answer(_run(work, fd, setup.limits))
            else:
                _answer_text(request, _content(), setup.limits)


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
            libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
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
    _collect()
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
    for request, text in _TEXTS:
        _told(request, text)
    with suppress(ImportError):
        import_module("daemon.decoding.tiff_samples").load_codecs()


def _collect() -> None:
    """Give back what is not needed any more, to the system, too: this process may rest for days."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(kind, (value, value))


def decode(file: BufferedReader, limits: Limits) -> Decoded:
    """Decode one image; the decoders are imported here, never in the main program."""
    from daemon.decoding.decode import decode as decode_file

    return decode_file(file, limits)


def _told(request: str, content: bytes) -> dict[str, Any]:
    """Return what a text says, as it is sent; its readers are imported here, never in the main program."""
    from daemon.decoding import takeout, xmp

    if request == Request.TAKEOUT:
        said = takeout.read(content)
        return {**asdict(said), "taken_utc": said.taken_utc and said.taken_utc.isoformat()}
    return {"properties": [asdict(element) for element in xmp.read(content)]}


def _received(requests: socket.socket) -> tuple[str, int | None] | None:
    """Return the next request, and its open file if it has one; None when there will be no more."""
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    if not waiting.poll(_PAUSE_MS):
        _collect()
    said, fds, _, _ = socket.recv_fds(requests, 1, 1)
    return (said.decode(), fds[0] if fds else None) if said else None


def _content() -> bytes:
    return _read(LENGTH.unpack(_read(LENGTH.size))[0])


def _read(length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        block = os.read(_SOCKET, length - len(content))
        if not block:
            os._exit(0)
        content += block
    return bytes(content)


def _answer_text(request: str, content: bytes, limits: Limits) -> None:
    told = _attempt(lambda: _told(request, content), limits)
    # One name, however often it counts, stands once in a text and at each element here.
    if isinstance(told, Failure) or len(text := _json(told)) > MAX_TEXT_JSON:
        too_long = Failure(ErrorCode.REJECTED, "too much for one packet", FailureReason.TOO_LARGE)
        text = _json(asdict(told if isinstance(told, Failure) else too_long))
    del told
    _write(text)
    if len(content) > _LARGE:
        _collect()


def _run(work: Work, fd: int, limits: Limits) -> Decoded | Failure:
    """Do the work on one file and return its result, or its failure with a reason for people."""
    with os.fdopen(fd, "rb") as file:
        outcome = _attempt(lambda: work(file, limits), limits)
    # Pillow's images lie in cycles: a worker kept 800 MB of the last one while it was idle. A JPEG is decoded small,
    # so a few of those may wait for each other: collecting takes 2 ms.
    if not isinstance(outcome, Decoded) or outcome.format != "JPEG":
        _collect()
    elif next(_jpegs) % _JPEGS_AT_ONCE == 0:
        gc.collect()
    return outcome


def _attempt(work: Callable[[], _T], limits: Limits) -> _T | Failure:
    try:
        return work()
    except Exception as error:
        return _failure(error, limits)


def _failure(error: Exception, limits: Limits) -> Failure:
    if isinstance(error, DarkroomError):
        code = next((code for kind, code in _CODES if isinstance(error, kind)), ErrorCode.TRANSIENT)
        failure = error.failure if isinstance(error, Rejected | Transient) else FailureReason.OTHER
        return Failure(code, str(error)[:_MAX_REASON], failure)
    if isinstance(error, MemoryError):
        text = f"needs more than the limit of {limits.memory_mb} MB to decode"
        return Failure(ErrorCode.TRANSIENT, text, FailureReason.MEMORY)
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
    _write(_json(told), small, medium)


def _json(told: dict[str, Any]) -> bytes:
    # Halves of surrogate pairs become JSON's escapes for them, which the main program refuses.
    return json.dumps(told, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _write(text: bytes, small: bytes = b"", medium: bytes = b"") -> None:
    content = memoryview(HEADER.pack(len(text), len(small), len(medium)) + text + small + medium)
    while content:
        content = content[os.write(_SOCKET, content) :]
