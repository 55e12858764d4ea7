"""One decoder's process as the main program has it: started, handed an open file, listened to, and ended.

It is started without any environment, with the interpreter's own folders and those of the decoders alone, and never
looks for a module in the working folder. A socket is its only channel: when that ends, it ends.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TypeVar

import psutil

from daemon.decoding import Decoded, Element, Limits, Takeout, answers
from daemon.decoding.answers import Lengths, Nonsense
from daemon.decoding.confinement import Confinement
from daemon.decoding.worker import HEADER, LENGTH, MAX_TEXT_JSON, Request, Setup, Work
from daemon.errors import EnvironmentFault, FailureReason, TimedOut, Transient, Unresponsive
from daemon.files.opening import Identity

# What the decoders are, and what they bring along.
_VENDORS = ("PIL", "pillow_heif", "exifread", "rawpy", "simplejpeg", "numpy", "defusedxml")
_START_SECONDS = 60.0
_END_SECONDS = 1.0
# How often it is looked after while it works on an image that takes longer than this.
_LOOK_SECONDS = 0.2
_BLOCK = 1 << 18
_T = TypeVar("_T")

# Packages of ours are loaded from where they are: the folder that they lie in may hold anything else.
_BOOT = """
import importlib.util, json, sys
setup, folders, packages = sys.argv[1], *map(json.loads, sys.argv[2:])
sys.path += folders
for name, file in packages.items():
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from daemon.decoding.worker import main
main(setup)
"""


class Died(Exception):
    """Raised when a process has ended before it read anything of the image."""


class _Watch:
    """Holds a process to the limits of one image.

    Its processor time tells how much it has done, and the position in the open file, which it shares with this
    process, how far it has read: a large file on a slow disk is no hang.
    """

    def __init__(self, process: psutil.Process, fd: int | None, size: int, limits: Limits) -> None:
        self._process, self._fd, self._limits = process, fd, limits
        self._longest = limits.longest(size)
        self._begun = self._looked = self._moved = time.monotonic()
        self._before = self._done = self._look()

    def check(self) -> None:
        """Raise TimedOut where a limit is reached, Unresponsive where it is the disk that takes so long."""
        now, limits = time.monotonic(), self._limits
        if now - self._looked < _LOOK_SECONDS / 2:
            return
        self._looked, done = now, self._look()
        if done != self._done:
            self._done, self._moved = done, now
        if done[0] - self._before[0] > limits.seconds:
            raise TimedOut(f"took longer than {limits.seconds:g} s of processor time to decode")
        if now - self._moved > limits.stall_seconds:
            if self._waits_for_a_disk():
                raise Unresponsive("can't be read: its disk or share does not answer")
            raise TimedOut(f"the decoder made no progress for {limits.stall_seconds:g} s")
        if now - self._begun > self._longest:
            raise TimedOut(f"took longer than {self._longest:.0f} s to decode")

    def _waits_for_a_disk(self) -> bool:
        try:
            return bool(self._process.status() == psutil.STATUS_DISK_SLEEP)
        except psutil.Error:
            return False

    def _look(self) -> tuple[float, int]:
        """Return the seconds of processor time that were spent, and the position in the file."""
        spent = 0.0
        with suppress(psutil.Error):  # it has just ended, which its socket tells
            times = self._process.cpu_times()
            spent = times.user + times.system
        return spent, 0 if self._fd is None else os.lseek(self._fd, 0, os.SEEK_CUR)


class Child:
    """One process that decodes, for one thread at a time; `kill` is for any.

    It dies with the thread that has started it. After an error of its own it is not `usable` any more.
    """

    def __init__(self, limits: Limits, work: Work) -> None:
        """Start it, and return at once. Raises EnvironmentFault."""
        self._limits = limits
        self._confinement: Confinement | None = None
        self.usable = True
        setup = Setup(os.getpid(), (work.__module__, work.__qualname__), limits)
        given = [setup.dump(), json.dumps(_folders()), json.dumps(_packages(work))]
        # -I: no variables, no folder of the script, none of the user; -S: no .pth, which may run anything.
        command = [sys.executable, "-I", "-S", "-c", _BOOT, *given]
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                nowhere = subprocess.DEVNULL  # libtiff and others write to the terminal what they think of a file
                self._process = subprocess.Popen(  # noqa: S603
                    command, stdin=theirs.fileno(), stdout=nowhere, stderr=nowhere, env={}, cwd="/"
                )
        except OSError as error:
            self._socket.close()
            raise EnvironmentFault(f"no decoder can be started: {error.strerror}") from error
        self._socket.settimeout(_LOOK_SECONDS)
        self._spent = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def confinement(self) -> Confinement | None:
        """How it is shut in; None while it starts."""
        return self._confinement

    def is_sound(self) -> bool:
        """Return whether it is still there and has said nothing that it was not asked; True while it starts."""
        if self._confinement is None:
            return True
        waiting = select.poll()  # select() itself knows no descriptor above 1,023
        waiting.register(self._socket, select.POLLIN)
        return not waiting.poll(0)

    def await_ready(self) -> None:
        """Wait until it has loaded all decoders and shut itself in. Raises EnvironmentFault where it can't."""
        if self._confinement is not None:
            return
        self.usable = False
        memory = f"it may use {self._limits.memory_mb} MB of memory"
        deadline = _Deadline(_START_SECONDS)
        try:
            lengths = Lengths.parse(self._read(HEADER.size, deadline))
            self._confinement = answers.read_greeting(self._read(lengths.total, deadline))
        except Transient as error:
            raise EnvironmentFault(f"no decoder can be started: {error}; {memory}") from error
        except (EOFError, Nonsense) as error:
            raise EnvironmentFault(f"no decoder can be started; {memory}") from error
        self.usable = True

    def decode(self, fd: int, identity: Identity) -> Decoded:
        """Return what the bytes of an open file tell.

        `fd` is an open description of its own, whose position the process moves. Raises what `answers.read` raises,
        TimedOut at a limit, Transient when the process ends, Died when it has read nothing of it before.
        """
        self.usable = False
        watch = _Watch(self._spent, fd, identity.size, self._limits)
        try:
            socket.send_fds(self._socket, [Request.IMAGE.encode()], [fd])
        except OSError as error:
            raise Died from error
        try:
            lengths = Lengths.parse(self._read(HEADER.size, watch))
            content = self._read(lengths.total, watch)
            self.usable = True
            return answers.read(content, lengths, identity)
        except EOFError:
            if os.lseek(fd, 0, os.SEEK_CUR) == 0:
                raise Died from None
            raise Transient(self._death(), FailureReason.CRASHED) from None
        except Nonsense as error:
            self.usable = False
            raise _makes_no_sense(error) from error

    def read_xmp(self, content: bytes) -> tuple[Element, ...]:
        """Return the properties of an XMP file. Raises what `answers.read_properties` and `decode` raise."""
        return self._read_text(Request.XMP, content, answers.read_properties)

    def read_takeout(self, content: bytes) -> Takeout:
        """Return what a JSON of Google Takeout says. Raises what `answers.read_takeout` and `decode` raise."""
        return self._read_text(Request.TAKEOUT, content, answers.read_takeout)

    def _read_text(self, request: Request, content: bytes, read: Callable[[bytes], _T]) -> _T:
        self.usable = False
        watch = _Watch(self._spent, None, len(content), self._limits)
        try:
            self._write(request.encode() + LENGTH.pack(len(content)), watch)
            self._write(content, watch)
            lengths = Lengths.parse(self._read(HEADER.size, watch), MAX_TEXT_JSON)
            answer = self._read(lengths.total, watch)
            self.usable = True
            return read(answer)
        except EOFError:
            raise Transient(self._death(), FailureReason.CRASHED) from None
        except Nonsense as error:
            self.usable = False
            raise _makes_no_sense(error) from error

    def kill(self) -> None:
        """End it at once; whoever waits for its answer learns of it."""
        self._process.kill()

    def end(self) -> None:
        """End it and let go of it."""
        self._process.kill()
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, on a disk that does not answer
            self._process.wait(_END_SECONDS)

    def _read(self, length: int, limit: "_Watch | _Deadline") -> bytes:
        """Return so many bytes of what it says. Raises EOFError where it ends before, and what `limit` raises."""
        content = bytearray()
        while len(content) < length:
            try:
                # No more than that: descriptors that come along are closed by the kernel, since nobody asks for them.
                block = self._socket.recv(min(length - len(content), _BLOCK))
            except TimeoutError:
                limit.check()
                continue
            except ConnectionError:
                block = b""
            if not block:
                raise EOFError
            content += block
            limit.check()
        return bytes(content)

    def _write(self, content: bytes, limit: "_Watch") -> None:
        """Say some bytes to it. Raises EOFError where it listens no more, and what `limit` raises."""
        left = memoryview(content)
        while left:
            try:
                left = left[self._socket.send(left[:_BLOCK]) :]
            except TimeoutError:
                pass
            except OSError as error:
                raise EOFError from error
            limit.check()

    def _death(self) -> str:
        try:
            status = self._process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return "the decoder let go of its socket"
        if status >= 0:
            return f"the decoder ended with status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL":
            return f"the decoder was killed ({name}), as happens where memory runs out"
        return f"the decoder crashed ({name})"


def _makes_no_sense(error: Nonsense) -> Transient:
    return Transient(f"the decoder gave an answer that makes no sense: {error}", FailureReason.CRASHED)


class _Deadline:
    """What `_read` is held to while nothing is decoded yet."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise Transient when it is over."""
        if time.monotonic() > self._end:
            raise Transient("it takes too long")


@cache
def _folders() -> list[str]:
    """Return the folders that the decoders are imported from; the working folder is never one."""
    trusted = [entry for entry in sys.path if entry and Path(entry).is_absolute() and not _is_working_folder(entry)]
    specs = (PathFinder.find_spec(name, trusted) for name in _VENDORS)
    places = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return list(dict.fromkeys(str(Path(place).parent) for place in places))


def _is_working_folder(entry: str) -> bool:
    try:
        return Path(entry).samefile(".")
    except OSError:
        return False


def _packages(work: Work) -> dict[str, str | None]:
    """Return the files of the packages that the process works with, by their names."""
    names = ("daemon", work.__module__.partition(".")[0])
    return {name: sys.modules[name].__file__ for name in names}
