"""The child process in which every untrusted byte is decoded, and its limits.

One standing worker, replaced when it dies. A crash, a hang or a bomb costs the image that is being decoded, no other.
"""

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pebble import CONSTS, ProcessExpired, ProcessPool

from daemon.decoding import Decoded, Limits, worker
from daemon.errors import EnvironmentFault, FailureReason, Postponed, Transient, WaitingReason
from daemon.files.opening import open_regular

_T = TypeVar("_T")

# pebble looks after its worker by polling. At its own 0.1 s that is 0.35 % of a core for ever; at one second
# it can't be measured. Results are not polled for: they take under a millisecond. Deaths are seen this late.
_POLL_SECONDS = 1.0
_START_SECONDS = 60.0
# Workers ignore SIGTERM, so the wait between it and SIGKILL is for nothing.
_TERM_SECONDS = 0.1


class _Process(SpawnProcess):
    """A worker that does not import the main program's main module again."""

    def start(self) -> None:
        # multiprocessing has the child run whatever script started us, with all that it imports.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    # Never fork: the main program has threads.
    Process = _Process


class Sandbox:
    """Decodes images in a worker process; one at a time, from any thread."""

    def __init__(self, limits: Limits, work: worker.Work = worker.decode) -> None:
        """Take the limits of one image. `work` runs in the worker and must be importable there."""
        self._limits = limits
        self._work = work
        self._pool: ProcessPool | None = None
        self._pid: int | None = None
        # Through the first the worker is handed open files, the second is the worker's end.
        self._files: tuple[socket.socket, socket.socket] | None = None
        self._numbers = itertools.count()
        self._waited_for: Future[Any] | None = None
        self._stopping = False
        self._lock = threading.Lock()  # guards all of these: abort() and close() come from other threads
        # A worker dies with the thread that started it, so one thread starts them all and stays.
        self._starter = ThreadPoolExecutor(1, "sandbox")

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while there is none."""
        return self._pid

    def start(self) -> None:
        """Begin to bring the worker up, decoders imported, ahead of the first image; returns at once."""
        self._started()

    def decode(self, path: Path) -> Decoded:
        """Return all that the bytes of one file tell.

        Raises what `decode.decode` raises; Transient also when the worker crashes or takes too long,
        Postponed when the sandbox is to stop meanwhile, EnvironmentFault when no worker can be started.
        """
        for _ in range(2):
            self._started().result()
            try:
                return self._decode(path)
            except RuntimeError:  # the pool is broken: its worker died idle, and never saw this image
                self._drop()
        raise Transient("the decoder died before it could begin", FailureReason.CRASHED)

    def abort(self) -> None:
        """Give up the image that is being decoded, which raises Postponed in `decode`, and take no other."""
        with self._lock:
            self._stopping = True
            if self._waited_for:
                self._waited_for.cancel()

    def close(self) -> None:
        """End the worker at once, even if it is stuck."""
        self.abort()
        self._starter.shutdown()
        self._drop()

    def _decode(self, path: Path) -> Decoded:
        seconds = self._limits.seconds
        number = self._hand_over(path) if path.parent == Path(f"/proc/{os.getpid()}/fd") else None
        try:
            outcome = self._result(seconds, worker.run, self._work, path, self._limits, number)
        except TimeoutError:
            self._drop()
            raise Transient(f"took longer than {seconds:g} s to decode", FailureReason.TOO_SLOW) from None
        except ProcessExpired as error:
            # Whatever the worker held, a lock or half a message, goes with the pool.
            self._drop()
            raise Transient(_death(error.exitcode), FailureReason.CRASHED) from None
        if isinstance(outcome, worker.Failure):
            raise outcome.error
        return outcome

    def _hand_over(self, path: Path) -> bytes:
        """Give the worker an open file of this process; return the number under which it comes there.

        It could not open it in /proc itself: it has fewer capabilities than this process (ptrace(2), "Ptrace access
        mode checking"). Opened anew, it has an offset of its own, and closing it leaves our lease in place.
        """
        number = str(next(self._numbers)).encode()
        fd = open_regular(path)
        try:
            with self._lock:
                if self._files is None:
                    raise _stopping()
                socket.send_fds(self._files[0], [number], [fd])
        finally:
            os.close(fd)
        return number

    def _started(self) -> Future[None]:
        with self._lock:
            if self._stopping:
                raise _stopping()
            return self._starter.submit(self._start)

    def _start(self) -> None:
        if self._pool and self._pool.active:
            return
        self._drop()
        CONSTS.sleep_unit, CONSTS.term_timeout = _POLL_SECONDS, _TERM_SECONDS
        self._files = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        initial = (self._limits, os.getpid(), self._files[1])
        self._pool = ProcessPool(1, initializer=worker.prepare, initargs=initial, context=_Context())
        try:
            self._pid = self._result(_START_SECONDS, worker.ready)
        except (RuntimeError, OSError) as error:  # it died, or took too long
            self._drop()
            raise EnvironmentFault(
                f"no decoder can be started; it may use {self._limits.memory_mb} MB of memory"
            ) from error

    def _result(self, seconds: float, function: Callable[..., _T], *args: object) -> _T:
        """Run a function in the worker; raise Postponed where abort() comes first."""
        with self._lock:
            if self._stopping or not self._pool:
                raise _stopping()
            future: Future[_T] = self._pool.schedule(function, args=args)
            self._waited_for = future
        try:
            return future.result(seconds)
        except CancelledError:
            raise _stopping() from None

    def _drop(self) -> None:
        with self._lock:
            (pool, pid), self._pool, self._pid = (self._pool, self._pid), None, None
            files, self._files = self._files, None
        if not pool:
            return
        pool.stop()  # type: ignore[no-untyped-call]
        for child in multiprocessing.active_children():
            if child.pid == pid:
                child.kill()
        # pebble's threads learn of it when they poll next; nobody needs to wait for that.
        threading.Thread(target=_end, args=(pool, files or ()), name="sandbox-end", daemon=True).start()


def _end(pool: ProcessPool, files: Sequence[socket.socket]) -> None:
    # Not sooner: until it has learnt of its end, pebble may start another worker, which is given its own.
    pool.join()
    for end in files:
        end.close()


def _stopping() -> Postponed:
    return Postponed(WaitingReason.STOPPING, 0)


def _death(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the decoder ended with status {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    if name == "SIGKILL":
        return f"the decoder was killed ({name}), as happens where memory runs out"
    return f"the decoder crashed ({name})"
