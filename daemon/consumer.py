"""The single loop: one image at a time, oldest first; the only place that decides retry, fail or pause.

`run_once` is one turn: it claims what is due, looks whether the file is complete, has it developed in the child
process and filed, and turns whatever the steps raise into the row's next status.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from daemon.catalogue import Catalogue, Job, Queue
from daemon.catalogue.memory import Memory
from daemon.develop import Developed
from daemon.errors import EnvironmentFault, Postponed, Rejected, Transient, Withdrawn
from daemon.filing import recovery
from daemon.filing.pairing import Pairing
from daemon.filing.prune import Pruner
from daemon.filing.source import Source, source_of
from daemon.filing.steps import Filing
from daemon.folders import Folders
from daemon.hand import Bench, Hand
from daemon.names import display
from daemon.pause import Pause
from daemon.settle import Seen

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 2.0
_BACKOFF_FACTOR = 4


class Developer(Protocol):
    """What turns a path into a `Developed` (the sandbox)."""

    def develop(self, path: Path) -> Developed:
        """Raise Rejected, Transient, Postponed or Withdrawn where that can't be done."""


class Turn(Enum):
    """What one turn of the loop came to."""

    IDLE = "nothing was due"
    FILED = "an image became final"
    WAITING = "an image was put back"
    PAUSED = "the environment is at fault"


@dataclass(frozen=True)
class Patience:
    """How long to wait for a file to settle (seconds), and how often to try an image."""

    settle_seconds: float
    attempts: int


class Consumer:
    """The loop over one queue and one inbox."""

    def __init__(
        self,
        inbox: Path,
        catalogue: Catalogue,
        queue: Queue,
        folders: Folders,
        developer: Developer,
        filing: Filing,
        pruner: Pruner,
        patience: Patience,
        pairing: Pairing | None = None,
    ) -> None:
        self._inbox = inbox
        self._catalogue = catalogue
        self._queue = queue
        self._pause = Pause(Memory(catalogue))
        self._folders = folders
        self._developer = developer
        self._filing = filing
        self._pruner = pruner
        self._patience = patience
        self._pairing = pairing
        self._bench = Bench(inbox, queue, lambda path: self._developer.develop(path), patience.settle_seconds)
        self._recovered = False
        self._unresolved = False
        self._stopping = threading.Event()
        # When the loop last came round (monotonic seconds), for a watchdog.
        self.progress = time.monotonic()

    def run(self, finished: Callable[[Turn], bool] = lambda _: False) -> None:
        """Loop until `stop`, or until `finished`, asked after each turn, says that this is the end."""
        with self._catalogue.session(), closing(self._bench):
            while not self._stopping.is_set():
                self._queue.changed.clear()
                turn = self.run_once(time.time())
                self.progress = time.monotonic()
                if finished(turn):
                    return
                if turn is Turn.PAUSED:
                    self._stopping.wait(self._pause.seconds())
                elif turn is Turn.IDLE and not self._stopping.is_set():
                    self._queue.changed.wait(self._idle_seconds())

    @property
    def paused(self) -> str | None:
        """Why nothing is filed at present; None while all is well."""
        return self._pause.reason

    def stop(self) -> None:
        """End the loop after the image in hand; any thread or signal handler may call it."""
        self._stopping.set()
        self._queue.changed.set()

    def run_once(self, now: float) -> Turn:
        """Do one turn: at most one image. Never raises for what an image or the environment does."""
        turn = Turn.PAUSED
        try:
            turn = self._turn(now)
        finally:
            if turn in {Turn.IDLE, Turn.PAUSED}:
                self._bench.close()
        return turn

    def _turn(self, now: float) -> Turn:
        try:
            self._recover()
            due = self._queue.next_due(now)
            if due is None:
                self._pause.end()
            if due is None or due > now:
                return Turn.IDLE
            self._folders.check()
            job = self._queue.claim(now)
            if job is None:
                return Turn.IDLE
            turn = self._attempt(job, now)
        except EnvironmentFault as fault:
            # Not the image's fault, so no attempt is spent; what is half done is resolved before the next turn.
            self._unresolved = True
            self._pause.begin(str(fault))
            return Turn.PAUSED
        self._pause.end()
        return turn

    def _recover(self) -> None:
        """Resolve what an earlier process, or an earlier fault of this one, left half done."""
        if not self._recovered:
            # A process that was paused when it ended had a fault of the environment in hand, not a bad image.
            spent = not self._pause.inherited
            if self._queue.unfinished():
                self._folders.check()
            recovery.recover(self._queue, self._filing, self._inbox, spent=spent)
            self._pruner.remember(self._queue.came_from)
            self._pause.forget()
            self._recovered = True
        if self._unresolved:
            for job in self._queue.unfinished():
                self._folders.check()
                recovery.resolve(job, self._queue, self._filing, self._inbox, spent=False, live=True)
            self._unresolved = False

    def _attempt(self, job: Job, now: float) -> Turn:
        name = display(job.path)
        try:
            if job.attempts > self._patience.attempts:
                self._fail(job, None, "darkroom died each time it worked on this file")
                return Turn.FILED
            outcome = self._process(job, now)
            _log.info("image %d: %s → %s (%.2f s)", job.id, name, outcome, time.time() - now)
        except Postponed as later:
            _log.debug("image %d: %s: %s", job.id, name, later)
            return Turn.WAITING
        except Withdrawn as gone:
            self._queue.withdraw(job, time.time())
            _log.info("image %d: withdrawn: %s", job.id, gone)
        return Turn.FILED

    def _process(self, job: Job, now: float) -> str:
        try:
            hand = self._bench.take(job)
        except (Rejected, Transient) as fault:
            return self._judge(job, None, fault)
        except Postponed as later:
            self._postpone(job, later, None, now)
            raise
        with closing(hand):
            return self._file(job, hand, now)

    def _file(self, job: Job, hand: Hand, now: float) -> str:
        seen, source = hand.look(now), hand.source
        try:
            hand.check(seen, now)
            if self._pairing is not None and (outcome := self._pairing.file(job, source, now)) is not None:
                return outcome
            developed = self._bench.develop(hand)
            # Should the next photo kill the whole process, this one is blamed for it: once at most, and not for good.
            if job.attempts == 1 < self._patience.attempts:
                self._bench.look_ahead(time.time())
            return self._filing.file(job, source, developed)
        except Postponed as later:
            self._postpone(job, later, seen, now)
            raise
        except (Rejected, Transient) as fault:
            if isinstance(fault, Rejected) and self._pairing is not None:
                fault = Rejected(f"{fault}{self._pairing.alone(job)}")
            return self._judge(job, source, fault)
        except (EnvironmentFault, Withdrawn):
            raise
        except Exception as error:
            _log.exception("image %d: %s: an error in darkroom itself", job.id, display(job.path))
            return self._judge(job, source, Transient(f"an error in darkroom itself: {error!r}"))

    def _postpone(self, job: Job, later: Postponed, seen: Seen | None, now: float) -> None:
        self._queue.postpone(job, str(later), now + later.seconds, now, seen)

    def _judge(self, job: Job, source: Source | None, fault: Rejected | Transient) -> str:
        """Decide what a failed attempt means: again after a backoff, or to `failed/`."""
        if isinstance(fault, Transient) and job.attempts < self._patience.attempts:
            seconds = self._patience.settle_seconds * _BACKOFF_FACTOR ** (job.attempts - 1)
            self._queue.retry_later(job, str(fault), time.time() + seconds, time.time())
            return f"attempt {job.attempts} of {self._patience.attempts} failed: {fault}"
        return self._fail(job, source, str(fault))

    def _fail(self, job: Job, source: Source | None, reason: str) -> str:
        source = source or source_of(self._inbox / job.path)
        if source is None:
            raise Withdrawn(f"{display(job.path)} is no longer in the inbox")
        try:
            return f"failed: {self._filing.fail(job, source, reason)}"
        except Postponed as later:
            self._postpone(job, later, None, time.time())
            raise

    def _idle_seconds(self) -> float:
        prune_in = self._pruner.prune()
        due = self._queue.next_due()
        waits = [_IDLE_SECONDS, *([prune_in] if prune_in else []), *([due - time.time()] if due else [])]
        return max(0.0, min(waits))
