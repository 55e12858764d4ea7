"""The single loop: one image at a time, oldest first; the only place that decides retry, fail or pause.

`run_once` is one turn: it claims what is due, looks whether the file is complete, has it developed in the child
process and filed, and turns whatever the steps raise into the row's next status.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from daemon.catalogue import Catalogue, Job, Queue
from daemon.catalogue.settings import Settings
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, Immovable, Postponed, Rejected, Transient, Withdrawn
from daemon.files.mounts import FolderCheck
from daemon.files.names import display
from daemon.files.opening import Snapshot
from daemon.filing import recovery
from daemon.filing.cleanup import Cleanup
from daemon.filing.companions import CompanionFiling
from daemon.filing.filing import Filing
from daemon.filing.inbox_file import Hand, Source, source_of
from daemon.filing.pause import Pause
from daemon.filing.prefetch import Prefetcher
from daemon.filing.recovery import Requeue
from daemon.loop import Loop, LoopFault, Strikes

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 2.0
# The least wait of an idle loop: what is due but held up elsewhere must not make it spin.
_SPIN_SECONDS = 0.05
_FAULT_SECONDS = 30.0
_BACKOFF_FACTOR = 4


class Decoder(Protocol):
    """What turns a path into a `Developed` (the sandbox)."""

    def decode(self, path: Path) -> Decoded:
        """Raise Rejected, Transient, Postponed or Withdrawn where that can't be done."""


class Turn(Enum):
    """What one turn of the loop came to."""

    IDLE = "nothing was due"
    FILED = "an image became final"
    WAITING = "an image was put back"
    PAUSED = "the environment is at fault"


@dataclass(frozen=True)
class RetryPolicy:
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
        folders: FolderCheck,
        decoder: Decoder,
        filing: Filing,
        cleanup: Cleanup,
        retry: RetryPolicy,
        requeue: Requeue,
        companions: CompanionFiling | None = None,
        *,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._inbox = inbox
        self._catalogue = catalogue
        self._queue = queue
        self._pause = Pause(Settings(catalogue))
        self._folders = folders
        self._decoder = decoder
        self._filing = filing
        self._cleanup = cleanup
        self._retry = retry
        self._requeue = requeue
        self._companions = companions
        self._prefetcher = Prefetcher(inbox, queue, lambda path: self._decoder.decode(path), retry.settle_seconds)
        self._recovered = False
        # Whether a row may have been left in the middle of the work by this process.
        self._unresolved = False
        self._strikes = Strikes()
        self.turn = Turn.IDLE
        self.loop = Loop("consumer", self._step, wake=queue.changed, within=self._session, report=report)

    @contextmanager
    def _session(self) -> Iterator[None]:
        with self._catalogue.session(), closing(self._prefetcher):
            yield

    def _step(self) -> float:
        self.turn = Turn.PAUSED
        self.turn = self.run_once(time.time())
        if self.turn is Turn.IDLE:
            try:
                return self._idle_seconds()
            except EnvironmentFault as fault:
                self._pause.begin(str(fault))
                self.turn = Turn.PAUSED
        return self._pause.seconds() if self.turn is Turn.PAUSED else 0.0

    def close(self) -> None:
        """Let the threads go that decoding waits in; after the loop."""
        self._prefetcher.shut_down()

    @property
    def paused(self) -> str | None:
        """Why nothing is filed at present; None while all is well."""
        return self._pause.reason

    def run_once(self, now: float) -> Turn:
        """Do one turn: at most one image. Raises only for what neither an image nor the environment does."""
        turn = Turn.PAUSED
        try:
            turn = self._turn(now)
        finally:
            if turn in {Turn.IDLE, Turn.PAUSED}:
                self._prefetcher.close()
        return turn

    def _turn(self, now: float) -> Turn:
        try:
            self.recover()
            due = self._queue.next_due(now)
            if due is None:
                self._pause.end()
            if due is None or due > now:
                return Turn.IDLE
            self._folders.check()
            # Until this has ended well, a row is in the middle of the work, whatever happens.
            self._unresolved = True
            job = self._queue.claim(now)
            turn = Turn.IDLE
            if job is None:
                # Due, and not to be claimed: on its way back from `failed/`, by a process that may have died.
                self._requeue.bring_back()
            else:
                turn = self._attempt(job, now)
            self._unresolved = False
        except EnvironmentFault as fault:
            # Not the image's fault, so no attempt is spent; what is half done is resolved before the next turn.
            self._pause.begin(str(fault))
            return Turn.PAUSED
        self._pause.end()
        return turn

    def recover(self) -> None:
        """Resolve what an earlier process, or an earlier fault of this one, left half done. Raises EnvironmentFault."""
        if not self._recovered:
            # A process that was paused when it ended had a fault of the environment in hand, not a bad image.
            spent = not self._pause.inherited
            if self._queue.unfinished() or self._queue.returning():
                self._folders.check()
            for job in self._queue.unfinished():
                self._resolve(job, spent=spent, live=False)
            self._requeue.bring_back()
            for job in self._queue.leaving():
                if not self._strikes.out(job.id):
                    with self._strikes.counting(job.id):
                        recovery.finish_leaving(job, self._queue, self._filing, self._inbox)
            self._recovered = True
            self._pause.forget()
            # After that, so that it is tried once: what it does can wait for the next start.
            self._cleanup.find_emptied(self._queue.came_from)
        if self._unresolved:
            for job in self._queue.unfinished():
                self._folders.check()
                self._resolve(job, spent=False, live=True)
            self._unresolved = False

    def _resolve(self, job: Job, *, spent: bool, live: bool) -> None:
        """Complete a row whose bytes have arrived, and put any other back into the queue, or fail it.

        `spent`: the attempt counts, since the image itself may have killed the process. `live`: it did not; this
        process had begun the work itself. A row on which the work has raised three times fails, and where that
        raises, too, it fails by its row alone.
        """
        raised, reason, now = self._strikes.of(job.id), self._strikes.reason(job.id), time.time()
        if raised > Strikes.LIMIT:
            recovery.undo_link(job, self._filing, self._inbox)
            detail = self._filing.fail_in_place(job, f"{reason}; it stays in the inbox")
            _log.warning("image %d: %s → failed: %s", job.id, display(job.path), detail)
            self._strikes.forget(job.id)
            return
        with self._strikes.counting(job.id):
            if recovery.arrived(job, self._filing, self._inbox):
                self._strikes.forget(job.id)
            elif raised == Strikes.LIMIT:
                self._concluded(job, now, lambda: self._fail(job, None, reason))
                self._strikes.forget(job.id)
            elif raised:
                self._queue.retry_later(job, reason, now + self._backoff(raised), now)
            elif live:
                # Others go first: should the fault concern this image alone, it must not hold up the queue.
                self._queue.release(job, "interrupted by a fault", now + _FAULT_SECONDS, now, spent=spent)
            else:
                self._queue.release(job, "darkroom was interrupted", now, now, spent=spent)

    def _attempt(self, job: Job, now: float) -> Turn:
        with self._strikes.counting(job.id):
            turn = self._concluded(job, now, lambda: self._try(job, now))
        self._strikes.forget(job.id)
        return turn

    def _try(self, job: Job, now: float) -> str:
        if job.attempts > self._retry.attempts:
            return self._fail(job, None, "darkroom died each time it worked on this file")
        return self._process(job, now)

    def _concluded(self, job: Job, now: float, work: Callable[[], str]) -> Turn:
        """Do the work on one row, and say what came of it."""
        name = display(job.path)
        try:
            outcome = work()
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
            hand = self._prefetcher.take(job)
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
            if self._companions is not None and (outcome := self._companions.file(job, source, now)) is not None:
                return outcome
            decoded = self._prefetcher.decode(hand)
            # Should the next photo kill the whole process, this one is blamed for it: once at most, and not for good.
            if job.attempts == 1 < self._retry.attempts:
                self._prefetcher.look_ahead(time.time())
            return self._filing.file(job, source, decoded)
        except Postponed as later:
            self._postpone(job, later, seen, now)
            raise
        except (Rejected, Transient) as fault:
            if isinstance(fault, Rejected) and self._companions is not None:
                fault = Rejected(f"{fault}{self._companions.alone(job)}")
            return self._judge(job, source, fault)

    def _postpone(self, job: Job, later: Postponed, seen: Snapshot | None, now: float) -> None:
        self._queue.postpone(job, str(later), now + later.seconds, now, seen)

    def _judge(self, job: Job, source: Source | None, fault: Rejected | Transient) -> str:
        """Decide what a failed attempt means: again after a backoff, or to `failed/`."""
        if isinstance(fault, Transient) and job.attempts < self._retry.attempts:
            now = time.time()
            self._queue.retry_later(job, str(fault), now + self._backoff(job.attempts), now)
            return f"attempt {job.attempts} of {self._retry.attempts} failed: {fault}"
        return self._fail(job, source, str(fault))

    def _backoff(self, failures: int) -> float:
        return float(self._retry.settle_seconds * _BACKOFF_FACTOR ** min(failures - 1, 10))

    def _fail(self, job: Job, source: Source | None, reason: str) -> str:
        try:
            source = source or source_of(self._inbox / job.path)
        except Immovable as error:
            return f"failed: {self._filing.fail_in_place(job, f'{reason}; it stays in the inbox: {error}')}"
        if source is None:
            raise Withdrawn(f"{display(job.path)} is no longer in the inbox")
        try:
            return f"failed: {self._filing.fail(job, source, reason)}"
        except Postponed as later:
            self._postpone(job, later, None, time.time())
            raise

    def _idle_seconds(self) -> float:
        prune_in = self._cleanup.remove_empty()
        due = self._queue.next_due()
        waits = [_IDLE_SECONDS, *([prune_in] if prune_in else []), *([due - time.time()] if due else [])]
        return max(_SPIN_SECONDS, min(waits))
