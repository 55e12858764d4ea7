"""What decoders do on bad days. Runs in the worker process, so it imports nothing heavy."""

import ctypes
import os
import signal
import threading
from pathlib import Path

from daemon.decoding import Decoded, Exif, Limits
from daemon.decoding.worker import decode
from daemon.errors import Postponed, WaitingReason
from daemon.files.opening import Identity


def work(path: Path, limits: Limits) -> Decoded:
    """Do as the file's name says; any other name is developed in earnest."""
    deeds = {"segfault": _segfault, "hang": _hang, "spin": _spin, "eat": _eat, "killed": _killed, "exit": _exit}
    path.with_suffix(".begun").touch()
    if path.stem in deeds:
        deeds[path.stem]()
    if path.stem == "postponed":
        raise Postponed(WaitingReason.QUIET, 2.5, "3")
    if path.stem == "odd":
        raise KeyError("no\nsuch thing")
    if path.stem == "modules":
        import sys

        names = ",".join(sorted(sys.modules))
        return Decoded(Identity(0, 0, 0, 0), names, "", (), 0, 0, Exif(), b"", b"")
    return decode(path, limits)


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> None:
    threading.Event().wait()


def _spin() -> None:
    # Holds the interpreter's lock for good, as a decoder without a way out does.
    ctypes.PyDLL(None).usleep(2**31 - 1)


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(bytes(64 << 20))


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)
