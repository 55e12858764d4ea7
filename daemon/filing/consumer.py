"""The single loop: one image at a time, oldest first; the only place that decides retry, fail or pause.

`run_once` is one turn: it claims what is due, files it (`_file` reads as a table of contents of that), and turns
whatever the steps raise into the row's next status.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

from daemon.catalogue import Catalogue, Queue
from daemon.catalogue.schema import Job
from daemon.catalogue.settings import Settings
from daemon.decoding import Decoded
from daemon.errors import (
    DiskFull,
    EnvironmentFault,
    FailureReason,
    FolderFault,
    Immovable,
    NameRefused,
    Postponed,
    Rejected,
    TimedOut,
    Transient,
    Truncated,
    Unresponsive,
    WaitingReason,
    Withdrawn,
)
from daemon.files.atomic import Root
from daemon.files.mounts import FolderCheck
from daemon.files.names import display
from daemon.files.opening import Snapshot, seconds_until_stable
from daemon.files.walk import look
from daemon.filing.cleanup import Cleanup
from daemon.filing.companions import CompanionMatcher
from daemon.filing.dates import Origin, Taken
from daemon.filing.destination import Planner
from daemon.filing.filing import Filing
from daemon.filing.inbox_file import InboxFile
from daemon.filing.pause import Pause
from daemon.filing.prefetch import Prefetcher
from daemon.filing.recovery import Recovery
from daemon.loop import Loop, LoopFault, Strikes

_log = logging.getLogger(__name__)

# What begins without any news: a clock that was set, a helper that is to be let go, and what this thread has queued
# itself while it filed something else.
_IDLE_SECONDS = 5.0
# The least wait of an idle loop: what is due but held up elsewhere must not make it spin.
_SPIN_SECONDS = 0.05
# How long a file waits that a disk or folder has refused: the longer, the longer it has been here.
_FAULT_SECONDS, _LAST_FAULT_SECONDS = 30.0, 600.0
_RENAMED_SECONDS = 1.0
# How long after one photo the next is taken to be in the works.
_FILING_SECONDS = 1.0
# What a filesystem says about one call: it may concern one file alone.
_OF_A_FILE = (NameRefused, DiskFull, Unresponsive, FolderFault)
_BACKOFF_FACTOR = 4


class Turn(Enum):
    """What one turn of the loop came to."""

    IDLE = "nothing was due"
    FILED = "an image became final"
    WAITING = "an image was put back"
    PAUSED = "the environment is at fault"


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try an image, and the seconds of the first wait, which grows fourfold."""

    first_seconds: float
    attempts: int

    def backoff(self, failures: int) -> float:
        """Return the seconds to wait after so many failures."""
        return self.first_seconds * float(_BACKOFF_FACTOR) ** min(failures - 1, 10)


@dataclass(frozen=True)
class StabilityPolicy:
    """How long a file must have been seen unchanged, in seconds, before it counts as complete.

    `settle` where no lease can be had, or where it was found incomplete before, `quiet` in any case. One whose bytes
    end early is given up after `incomplete`; the time before `began` does not count there: nothing may have run in it,
    its writer included.
    """

    settle_seconds: float
    quiet_seconds: float
    incomplete_seconds: float
    began: float = 0.0


class Consumer:
    """The loop over one queue and one inbox."""

    def __init__(
        self,
        catalogue: Catalogue,
        queue: Queue,
        settings: Settings,
        folders: FolderCheck,
        prefetcher: Prefetcher,
        planner: Planner,
        filing: Filing,
        companions: CompanionMatcher,
        recovery: Recovery,
        cleanup: Cleanup,
        retry: RetryPolicy,
        stability: StabilityPolicy,
        inbox: Root,
        *,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._catalogue, self._queue = catalogue, queue
        self._folders = folders
        self._prefetcher = prefetcher
        self._planner, self._filing, self._companions = planner, filing, companions
        self._recovery, self._cleanup = recovery, cleanup
        self._retry, self._stability, self._inbox = retry, stability, inbox
        self._settings, self._pause = settings, Pause(settings)
        self._recovered = False
        # Whether a row may have been left in the middle of the work by this process.
        self._unresolved = False
        self._strikes = Strikes()
        # The images that have reached a time limit once, and are tried once more.
        self._timed_out: set[int] = set()
        self.turn = Turn.IDLE
        self._filed_at = -math.inf
        self.loop = Loop(
            "consumer", self._step, wake=queue.changed, news=catalogue.version, within=self._session, report=report
        )

    @contextmanager
    def _session(self) -> Iterator[None]:
        with self._catalogue.session(), closing(self._prefetcher):
            try:
                yield
            finally:
                # Nobody is to look in vain for a photo that waits under a hidden name while nothing runs.
                with suppress(EnvironmentFault):
                    self._recovery.show()

    def _step(self) -> float:
        self.turn = Turn.PAUSED
        self.turn = self.run_once(time.time())
        if self.turn is Turn.FILED:
            self._filed_at = time.monotonic()
        if self.turn is Turn.IDLE:
            try:
                return self._idle_seconds()
            except EnvironmentFault as fault:
                self._pause.begin(fault)
                self.turn = Turn.PAUSED
        return self._pause.seconds() if self.turn is Turn.PAUSED else 0.0

    def close(self) -> None:
        """Let the thread go that decoding waits in, and what filing has started; after the loop."""
        self._prefetcher.shut_down()
        self._planner.close()

    @property
    def is_filing(self) -> bool:
        """Whether one photo after the other is filed; any thread may ask."""
        return time.monotonic() - self._filed_at < _FILING_SECONDS

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
                self._planner.rest(now)
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
                self._recovery.bring_back()
            else:
                turn = self._attempt(job, now)
            self._unresolved = False
        except EnvironmentFault as fault:
            # Not the image's fault, so no attempt is spent; what is half done is resolved before the next turn.
            self._pause.begin(fault)
            with suppress(EnvironmentFault):
                self._recovery.show()
            return Turn.PAUSED
        self._pause.end()
        return turn

    # -- one image

    def _attempt(self, job: Job, now: float) -> Turn:
        try:
            turn = self._conclude(job, now, lambda: self._try(job, now))
        except EnvironmentFault as fault:
            turn = self._blame(job, fault, now)
        except BaseException as error:
            self._strikes.count(job.id, error)
            raise
        self._strikes.forget(job.id)
        return turn

    def _try(self, job: Job, now: float) -> str:
        if job.attempts > self._retry.attempts:
            return self._fail(job, None, "darkroom died each time it worked on this file", FailureReason.CRASHED)
        try:
            file = self._prefetcher.take(job)
        except (Rejected, Transient) as fault:
            return self._judge(job, None, fault)
        except Withdrawn:
            if job.source != "upload" or job.waiting is WaitingReason.RENAMED:
                raise
            # Whoever uploaded it asks for it by its id: the event may be on its way that says how it is called now.
            renamed = Postponed(WaitingReason.RENAMED, _RENAMED_SECONDS)
            self._queue.postpone(job, renamed, now)
            raise renamed from None
        except Postponed as later:
            self._queue.postpone(job, later, now)
            raise
        with closing(file):
            snapshot = file.compare(job, now)
            try:
                return self._file(job, file, snapshot, now)
            except Postponed as later:
                self._queue.postpone(job, later, now, snapshot)
                raise
            except (Rejected, Transient) as fault:
                return self._judge(job, file, fault)
            except Withdrawn:
                if look(self._inbox, job.path) is None:
                    raise
                # Another file has its name: that is the one that the row stands for from now on.
                replaced = Postponed(WaitingReason.CHANGED, self._stability.settle_seconds, "filed")
                self._queue.postpone(job, replaced, now)
                raise replaced from None

    def _file(self, job: Job, file: InboxFile, snapshot: Snapshot, now: float) -> str:
        """File one open file; return what happened, for people."""
        self._check_complete(job, file, snapshot, now)
        plan = self._companions.plan(job, file, now)
        if plan is None:
            decoded = self._decoded(job, file, snapshot, now)
            plan = self._planner.plan(job, decoded, self._taken(job, file, decoded, now))
        placed = self._filing.place(job, file, plan)
        outcome = self._filing.record(placed, plan, file.stays)
        if self._filing.leave(placed, file):
            self._cleanup.note(job.path)
        return outcome

    def _check_complete(self, job: Job, file: InboxFile, snapshot: Snapshot, now: float) -> None:
        """Raise Postponed unless a file has arrived, as far as that can be known before it is decoded."""
        if _came_whole(job, snapshot):
            file.check_complete(snapshot, now)
            return
        file.check_complete(snapshot, now, self._stability.quiet_seconds)
        # Or one whose writer comes and goes would be decoded each time, and hold up the others.
        if job.waiting is WaitingReason.INCOMPLETE and (
            left := seconds_until_stable(snapshot, now, self._stability.settle_seconds)
        ):
            raise Postponed(WaitingReason.INCOMPLETE, left, job.waiting_detail)
        if (fault := "the file is empty" if file.was.st_size == 0 else self._companions.fault(job, file)) is not None:
            self._await_rest(job, snapshot, now, fault)

    def _decoded(self, job: Job, file: InboxFile, snapshot: Snapshot, now: float) -> Decoded:
        """Return what the bytes of a file tell; raises Postponed where they end early and the rest may still come."""
        # Should one of the next photos kill the whole process, this one is blamed for it: once at most, and not for
        # good.
        alone = not job.attempts == 1 < self._retry.attempts
        try:
            return self._prefetcher.decode(file, look_ahead_at=None if alone else now)
        except Truncated as fault:
            self._await_rest(job, snapshot, now, str(fault))
            raise

    def _await_rest(self, job: Job, snapshot: Snapshot, now: float, fault: str) -> None:
        """Raise Postponed for a file that is incomplete, unless it came so or has been so for long."""
        seen = Snapshot(snapshot.size, snapshot.mtime_ns, max(snapshot.since, self._stability.began))
        left = seconds_until_stable(seen, now, self._stability.incomplete_seconds)
        if left and not _came_whole(job, snapshot):
            raise Postponed(WaitingReason.INCOMPLETE, left, fault)

    def _taken(self, job: Job, file: InboxFile, decoded: Decoded, now: float) -> Taken:
        """Decide when a photo was taken; raises Postponed while what may know it is still to come."""
        when = self._planner.taken(
            job,
            decoded,
            lambda: self._companions.xmp_dates(job, file),
            lambda: self._companions.takeout(job, file, now),
        )
        if when.origin is Origin.MTIME:
            self._companions.await_takeout(job, file, now)
        return when

    def _blame(self, job: Job, fault: EnvironmentFault, now: float) -> Turn:
        """Judge a fault that came up with one file: where a probe of the same folders does not show it, it is its own.

        Raises the fault where all files would meet it. A file waits that can't be read, has no room, or is to go into a
        folder that takes no other either; any other fault costs it an attempt.
        """
        # A row that is final has been filed: what is left to do for it is done once the fault is over.
        if not isinstance(fault, _OF_A_FILE) or (planned := self._planned(job)) is None:
            raise fault
        self._folders.probe()
        waits = isinstance(fault, Unresponsive | DiskFull)
        try:
            with self._strikes.counting(job.id):
                if self._recovery.complete(planned):
                    return Turn.FILED
            waits |= isinstance(fault, FolderFault) and self._recovery.is_barred(planned, fault)
        except _OF_A_FILE as another:
            waits, fault = True, another
        if waits:
            _log.warning("image %d: %s: %s; it is tried again later", job.id, display(job.path), fault)
            until = now + min(max((now - job.created_at) / 8, _FAULT_SECONDS), _LAST_FAULT_SECONDS)
            self._queue.release(job, WaitingReason.DISK, until, now, spent=False, detail=str(fault))
            return Turn.WAITING
        return self._conclude(job, now, lambda: self._judge(job, None, Transient(str(fault), FailureReason.UNREADABLE)))

    def _planned(self, job: Job) -> Job | None:
        """Return a job with the place that its file was to have; None where it is in hand no more."""
        return next((row for row in self._queue.unfinished() if row.id == job.id), None)

    def _conclude(self, job: Job, now: float, work: Callable[[], str]) -> Turn:
        """Do the work on one row, and say what came of it."""
        try:
            outcome = work()
        except Postponed as later:
            _log.debug("image %d: %s: %s", job.id, display(job.path), later)
            return Turn.WAITING
        except Withdrawn as gone:
            self._queue.withdraw(job, time.time())
            _log.info("image %d: withdrawn: %s", job.id, gone)
        else:
            _log.info("image %d: %s → %s (%.2f s)", job.id, display(job.path), outcome, time.time() - now)
        return Turn.FILED

    def _judge(self, job: Job, file: InboxFile | None, fault: Rejected | Transient) -> str:
        """Decide what a failed attempt means: again after a backoff, or to `failed/`."""
        if isinstance(fault, Transient) and job.attempts < self._retry.attempts and not self._too_slow(job, fault):
            return self._try_later(job, str(fault))
        self._timed_out.discard(job.id)
        alone = self._companions.alone(job, file) if file is not None and isinstance(fault, Rejected) else ""
        return self._fail(job, file, f"{fault}{alone}", fault.failure)

    def _too_slow(self, job: Job, fault: Transient) -> bool:
        """Return whether an image has reached a time limit for the second time: a third would only cost the others."""
        if not isinstance(fault, TimedOut):
            return False
        was_slow = job.id in self._timed_out
        self._timed_out.add(job.id)
        return was_slow

    def _try_later(self, job: Job, reason: str) -> str:
        now = time.time()
        self._queue.retry_later(job, reason, now + self._retry.backoff(job.attempts), now)
        return f"attempt {job.attempts} of {self._retry.attempts} failed: {reason}"

    def _fail(self, job: Job, file: InboxFile | None, reason: str, failure: FailureReason) -> str:
        if file is not None:
            return self._move_to_failed(job, file, reason, failure)
        try:
            file = self._opened_to_fail(job)
        except Immovable as error:
            reason = f"{reason}; it stays in the inbox: {error}"
            return f"failed: {self._filing.fail_in_place(job, reason, failure)}"
        if file is None:
            raise Withdrawn(f"{display(job.path)} is no longer in the inbox")
        with closing(file):
            return self._move_to_failed(job, file, reason, failure)

    def _opened_to_fail(self, job: Job) -> InboxFile | None:
        try:
            return InboxFile.open(self._inbox, job, 0.0, left=True)
        except Withdrawn:
            return None
        except Postponed as later:
            self._queue.postpone(job, later, time.time())
            raise
        except (Rejected, Transient):
            return InboxFile.closed(self._inbox, job)

    def _move_to_failed(self, job: Job, file: InboxFile, reason: str, failure: FailureReason) -> str:
        try:
            plan = self._planner.plan_failure(job, file, reason, failure)
            placed = self._filing.place(job, file, plan)
            outcome = self._filing.record(placed, plan, file.stays)
            if self._filing.leave(placed, file):
                self._cleanup.note(job.path)
        except (Immovable, Transient) as error:
            reason = f"{reason}; it stays in the inbox, since it can't be moved: {error}"
            return f"failed: {self._filing.fail_in_place(job, reason, failure)}"
        except Postponed as later:
            self._queue.postpone(job, later, time.time())
            raise
        except (NameRefused, FolderFault) as fault:
            if (planned := self._planned(job)) is None:
                raise
            self._folders.probe()
            try:
                if self._recovery.complete(planned):
                    return f"failed: {reason}"
            except _OF_A_FILE:
                self._recovery.undo_link(planned)
            if job.attempts < self._retry.attempts:
                return self._try_later(job, f"{reason}; {fault}")
            reason = f"{reason}; it stays in the inbox, since it can't be moved: {fault}"
            return f"failed: {self._filing.fail_in_place(job, reason, failure)}"
        return f"failed: {outcome}"

    # -- what was left half done

    def recover(self) -> None:
        """Resolve what an earlier process, or an earlier fault of this one, left half done. Raises EnvironmentFault."""
        if not self._recovered:
            # A process that was paused when it ended had a fault of the environment to deal with, not a bad image.
            spent = not self._pause.inherited
            if self._queue.unfinished() or self._queue.returning():
                self._folders.check()
            self._recovery.sweep_thumbnails()
            for job in self._queue.unfinished():
                # What has killed each process that came to its sidecar is left out from then on.
                plainly = self._settings.begin_recovery(job.id) > self._retry.attempts
                self._resolve(job, spent=spent, live=False, plainly=plainly)
            self._settings.end_recoveries()
            self._recovery.bring_back()
            self._leave_all()
            self._recovery.show_all()
            self._queue.hasten(time.time())
            self._recovered = True
            self._pause.forget()
            # After that, so that it is tried once: what it does can wait for the next start.
            self._cleanup.find_emptied(self._queue.came_from)
        if self._unresolved:
            for job in self._queue.unfinished():
                self._folders.check()
                self._resolve(job, spent=False, live=True)
            self._leave_all()
            self._unresolved = False

    def _leave_all(self) -> None:
        for job in self._queue.leaving():
            if not self._strikes.out(job.id):
                with self._strikes.counting(job.id):
                    self._recovery.leave(job)

    def _resolve(self, job: Job, *, spent: bool, live: bool, plainly: bool = False) -> None:
        """Complete a row whose bytes have arrived, and put any other back into the queue, or fail it.

        `spent`: the attempt counts, since the image itself may have killed the process. `live`: it did not; this
        process had begun the work itself. `plainly`: without what lies beside the photo. A row on which the work has
        raised three times fails, and where that raises, too, it fails by its row alone.
        """
        raised, reason, now = self._strikes.of(job.id), self._strikes.reason(job.id), time.time()
        if raised > Strikes.LIMIT:
            self._recovery.undo_link(job)
            detail = self._filing.fail_in_place(job, f"{reason}; it stays in the inbox", FailureReason.INTERNAL)
            _log.warning("image %d: %s → failed: %s", job.id, display(job.path), detail)
            self._strikes.forget(job.id)
            return
        with self._strikes.counting(job.id):
            if self._recovery.complete(job, plainly=plainly):
                self._strikes.forget(job.id)
            elif raised == Strikes.LIMIT:
                self._conclude(job, now, lambda: self._fail(job, None, reason, FailureReason.INTERNAL))
                self._strikes.forget(job.id)
            elif raised:
                self._queue.retry_later(job, reason, now + self._retry.backoff(raised), now)
            elif live:
                # Others go first: should the fault concern this image alone, it must not hold up the queue.
                self._queue.release(job, WaitingReason.FAULT, now + _FAULT_SECONDS, now, spent=spent)
            else:
                self._queue.release(job, WaitingReason.INTERRUPTED, now, now, spent=spent)

    def _idle_seconds(self) -> float:
        cleanup_in = self._cleanup.remove_empty()
        due = self._queue.next_due()
        waits = [_IDLE_SECONDS, *([cleanup_in] if cleanup_in else []), *([due - time.time()] if due else [])]
        return max(_SPIN_SECONDS, min(waits))


def _came_whole(job: Job, snapshot: Snapshot) -> bool:
    """Return whether a file is as an upload has brought it: of such a one nothing is still to come."""
    return job.source == "upload" and snapshot.since <= job.created_at
