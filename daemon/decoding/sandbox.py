"""The pool of processes in which every untrusted byte is decoded.

As many at once as it was given, started as there is work for them; those that have had none for a minute leave, but
for one. A crash, a hang or a bomb costs the image that is being decoded, no other: its process is replaced.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.decoding import Decoded, Element, Limits, Takeout, worker
from daemon.decoding.child import Child, Died
from daemon.decoding.confinement import Confinement
from daemon.errors import EnvironmentFault, FailureReason, Postponed, Transient, WaitingReason
from daemon.files.opening import Identity, unchanged

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 60.0


class Sandbox:
    """Decodes images in processes of their own, `count` at a time; any thread may call it."""

    def __init__(self, limits: Limits, work: worker.Work = worker.decode, count: int = 1) -> None:
        """Take the limits of one image. `work` runs in the processes and must be importable there."""
        self._limits, self._work, self._count = limits, work, count
        # Guards all of these: abort() and close() come from other threads.
        self._changed = threading.Condition()
        self._children: set[Child] = set()
        # Those without work and since when, the one that has rested longest first.
        self._idle: dict[Child, float] = {}
        # How many wait for one, and how many are about to be started for them.
        self._waiting = self._wanted = 0
        # Those that read texts, and how many wait for one to do so.
        self._readers: set[Child] = set()
        self._waiting_to_read = 0
        self._fault: EnvironmentFault | None = None
        self._stopping = self._closed = False
        self._tending: threading.Thread | None = None
        self._confinement: Confinement | None = None

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that there are."""
        with self._changed:
            return [child.pid for child in self._children]

    @property
    def confinement(self) -> Confinement | None:
        """How the processes are shut in; None until one has said so."""
        return self._confinement

    def start(self) -> None:
        """Begin to bring a process up, decoders loaded, ahead of the first image; returns at once."""
        with self._changed:
            if not self._stopping and not self._children and not self._wanted:
                self._want()

    def decode(self, path: Path) -> Decoded:
        """Return all that the bytes of one file tell.

        Raises what `decode.decode` raises, and what `open_regular` does; Transient also when its process crashes,
        TimedOut when it takes too long, Postponed when the file changes or the sandbox is to stop meanwhile,
        EnvironmentFault when no process can be started.
        """
        with unchanged(path) as (file, identity):
            for _ in range(2):
                child = self._take()
                try:
                    return self._decode(child, file.fileno(), identity)
                except Died:  # while it had nothing to do
                    continue
                finally:
                    self._give_back(child)
        raise Transient("the decoder died before it could begin", FailureReason.CRASHED)

    def read_xmp(self, content: bytes) -> tuple[Element, ...]:
        """Return the properties of an XMP file. Raises Rejected, Transient, EnvironmentFault; goes on after `abort`."""
        with self._reading() as child:
            return child.read_xmp(content)

    def read_takeout(self, content: bytes) -> Takeout:
        """Return what a JSON of Google Takeout says. Raises Transient, EnvironmentFault; goes on after `abort`."""
        with self._reading() as child:
            return child.read_takeout(content)

    def abort(self) -> None:
        """Give up the images that are being decoded, which raises Postponed in `decode`, and take no others.

        Texts are still read: whoever asks for one has placed a photo already, and it takes no time.
        """
        with self._changed:
            self._stopping = True
            for child in self._children - self._readers - self._idle.keys():
                child.kill()
            self._changed.notify_all()

    def close(self) -> None:
        """End all processes at once, even if they are stuck."""
        self.abort()
        with self._changed:
            self._closed = True
            for child in self._readers:
                child.kill()
            for child in self._idle:
                self._children.remove(child)
                child.end()
            self._idle.clear()
            tending = self._tending
            self._changed.notify_all()
        if tending is not None:
            tending.join()

    @contextmanager
    def _reading(self) -> Iterator[Child]:
        """Yield a process that reads texts meanwhile."""
        child = self._take(reading=True)
        try:
            child.await_ready()
            self._note(child.confinement)
            yield child
        except Transient as error:
            if self._closed:
                raise _closed() from error
            raise
        finally:
            self._give_back(child)

    def _decode(self, child: Child, fd: int, identity: Identity) -> Decoded:
        try:
            child.await_ready()
            self._note(child.confinement)
            return child.decode(fd, identity)
        except (Transient, EnvironmentFault) as error:
            if self._stopping:
                raise _postponed() from error
            raise

    def _take(self, *, reading: bool = False) -> Child:
        """Return a process that has nothing to do, as soon as there is one; whoever is `reading` a text comes first."""
        with self._changed:
            if not self._waiting:
                self._fault = None
            self._waiting += 1
            self._waiting_to_read += reading
            try:
                while (child := self._rested(reading=reading)) is None:
                    if self._wanted < self._waiting and len(self._children) + self._wanted < self._count:
                        self._want()
                    self._changed.wait()
                if reading:
                    self._readers.add(child)
                return child
            finally:
                self._waiting -= 1
                self._waiting_to_read -= reading
                if reading:
                    self._changed.notify_all()

    def _rested(self, *, reading: bool) -> Child | None:
        """Return a process that has nothing to do; None where there is none at the moment."""
        if reading and self._closed:
            raise _closed()
        if self._stopping and not reading:
            raise _postponed()
        if self._waiting_to_read and not reading:
            return None
        while self._idle:
            child, _ = self._idle.popitem()
            if child.is_sound():
                return child
            self._end(child)
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        return None

    def _give_back(self, child: Child) -> None:
        with self._changed:
            self._readers.discard(child)
            if child.usable and not self._closed:
                self._idle[child] = time.monotonic()
                self._changed.notify_all()
            else:
                self._end(child)

    def _end(self, child: Child) -> None:
        self._children.discard(child)
        child.end()
        self._changed.notify_all()

    def _want(self) -> None:
        self._wanted += 1
        if self._tending is None:
            # A process dies with the thread that has started it, so this one starts them all and stays.
            self._tending = threading.Thread(target=self._tend, name="sandbox", daemon=True)
            self._tending.start()
        self._changed.notify_all()

    def _tend(self) -> None:
        """Start processes as they are wanted, and end those that have rested for long."""
        with self._changed:
            while not self._closed:
                if self._wanted:
                    self._wanted -= 1
                    self._start()
                else:
                    self._changed.wait(self._seconds_of_rest())
                    self._let_rested_go()

    def _start(self) -> None:
        try:
            child = Child(self._limits, self._work)
        except EnvironmentFault as fault:
            self._fault = fault
        else:
            self._children.add(child)
            self._idle[child] = time.monotonic()
        self._changed.notify_all()

    def _seconds_of_rest(self) -> float | None:
        """Return how long nobody needs to look for processes that are to leave; None while nothing can change that."""
        if len(self._children) < 2 or not self._idle:
            return None
        return max(0.0, next(iter(self._idle.values())) + _IDLE_SECONDS - time.monotonic())

    def _let_rested_go(self) -> None:
        while self._seconds_of_rest() == 0.0:
            child = next(iter(self._idle))
            del self._idle[child]
            self._end(child)

    def _note(self, confinement: Confinement | None) -> None:
        """Say once how the processes are shut in."""
        with self._changed:
            before, self._confinement = self._confinement, confinement
        if before is None and confinement is not None:
            for why in confinement.lacks:
                _log.warning("decoders are not shut in by %s", why)
            if confinement.parts:
                _log.debug("decoders are shut in by %s", " and ".join(confinement.parts))


def _postponed() -> Postponed:
    return Postponed(WaitingReason.STOPPING, 0)


def _closed() -> EnvironmentFault:
    # Not Postponed: nothing is wrong with what is to be read, and the photo that it lies beside may be placed already.
    return EnvironmentFault("darkroom is stopping")
