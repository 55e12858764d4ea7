"""Watches the inbox with a thread of its own, so that no file lies there unnoticed.

Events are hints; the scan is the truth. The thread follows what events point to, scans the whole inbox at start,
every so often and after lost events, and sees every few seconds that the inbox and the watch on it are still what they
were. Where events do not arrive it polls. It opens nothing in the inbox but folders, while it reads them.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from daemon.errors import EnvironmentFault
from daemon.files.atomic import Root
from daemon.files.walk import DEFAULT_IGNORE
from daemon.inbox.presence import ObserverChoice, Pace, Presence
from daemon.inbox.scanner import EventCheck, FileQueue, Scanner
from daemon.loop import Loop, LoopFault

logger = logging.getLogger(__name__)

_STOP_SECONDS = 1.9
_STUCK_SECONDS = 60.0
_QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WatcherState:
    """How the watcher is, for `/healthz`.

    `mode` "polling" means scans at short intervals, with events or without, because of `reason`. `problem` is
    None while all is well. `progress` is the `time.monotonic()` of the thread's last sign of life.
    """

    mode: Literal["events", "polling"]
    reason: str | None
    problem: str | None
    last_scan: datetime | None
    last_scan_seconds: float | None
    progress: float

    @property
    def healthy(self) -> bool:
        """Return whether files put into the inbox are noticed as they should be."""
        return self.problem is None


class Watcher:
    """Finds files in the inbox from `start` to `stop`; for one look without a thread there is `scan_now`."""

    def __init__(
        self,
        inbox: Path,
        queue: FileQueue,
        *,
        session: Callable[[], AbstractContextManager[object]] = nullcontext,
        ignore: Sequence[str] = DEFAULT_IGNORE,
        recursive: bool = True,
        observer: ObserverChoice = "auto",
        rescan_seconds: float = 60.0,
        pace: Pace | None = None,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._session = session
        self._inbox, self._rescan_seconds, self._pace = inbox.absolute(), rescan_seconds, pace or Pace()
        self._wake = threading.Event()
        self._presence = Presence(self._inbox, recursive, observer, self._wake, self._pace)
        self._scanner = Scanner(Root(self._inbox), queue, ignore, recursive)
        self._event_check = EventCheck(late_seconds=self._pace.late)
        self.loop = Loop(
            "watcher",
            self._step,
            wake=self._wake,
            within=self._watching,
            report=report,
            first_backoff=self._pace.after_error,
        )
        self._check_at, self._scan_at = 0.0, math.inf
        self._periodic = False  # whether the next scan is a routine one, by which events are judged
        self._again = False  # whether another follows it
        self._overflow_said = self._scanned_at = -math.inf
        self._explained: str | None = ""

    def start(self) -> None:
        """Begin to watch; the inbox need not be there yet."""
        self.loop.start()

    def stop(self) -> None:
        """End the thread; returns within seconds, whatever the thread is waiting for."""
        self.loop.stop(_STOP_SECONDS)

    def scan_now(self) -> int:
        """Look through the whole inbox in the caller's thread; return how many files were new to the queue.

        Raises EnvironmentFault where the inbox can't be read.
        """
        try:
            return self._scanner.scan()[0]
        except OSError as error:
            raise EnvironmentFault(f"the inbox {str(self._inbox)!r} can't be read: {error.strerror}") from error

    @property
    def state(self) -> WatcherState:
        """The state at this moment; from any thread."""
        polls, reason, fault = self._presence.polls, self._presence.reason, self.loop.fault
        return WatcherState(
            mode="polling" if polls else "events",
            reason=reason,
            problem=self._presence.gone or (fault.reason if fault else None) or (None if polls else reason),
            last_scan=self._scanner.last,
            last_scan_seconds=self._scanner.seconds,
            progress=max(self.loop.progress, self._scanner.progress),
        )

    def alive(self) -> bool:
        """Return whether the thread lives and has made progress within the last minute."""
        return self.loop.alive and time.monotonic() - self.state.progress < _STUCK_SECONDS

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            # The thread keeps its connection: opening one costs more than the insert.
            with self._session():
                yield
        finally:
            # In this thread, which nobody waits for: a share may hold watchdog's up. After an error the watch stays.
            if self.loop.stopping:
                self._presence.release()

    def _step(self) -> float:
        try:
            self._turn(time.monotonic())
        except BaseException:
            # What was being looked at is found again by looking through all.
            self._periodic, self._scan_at = False, time.monotonic()
            raise
        return min(self._check_at, self._scan_at) - time.monotonic()

    def _turn(self, now: float) -> None:
        if now >= self._check_at:
            self._check_at = now + self._pace.check
            if self._presence.check(now):
                self._event_check = EventCheck(late_seconds=self._pace.late)
                self._explain()
                self._scan_soon()
        if self._presence.gone is not None:
            self._scan_at = math.inf
            return
        self._scan_pending()
        if time.monotonic() >= self._scan_at:
            self._scan_all()

    def _scan_pending(self) -> bool:
        pending = self._presence.take()
        if pending.lost:
            now = time.monotonic()
            if now - self._overflow_said > _QUIET_SECONDS:
                logger.warning("more changed in the inbox at once than the kernel has events for; looking through it")
                self._overflow_said = now
            # The folders are watched anew only after this event: a second scan finds what came in between.
            self._again = True
            self._scan_soon(not_before=self._scanned_at + self._pace.between_scans)
        self._event_check.seen(pending.files)
        self._scanner.scan_pending(pending)
        return not self.loop.stopping

    def _scan_soon(self, not_before: float = -math.inf) -> None:
        self._periodic, self._scan_at = False, max(time.monotonic(), not_before)

    def _scan_all(self) -> None:
        periodic, self._periodic, self._scan_at = self._periodic, True, math.inf
        try:
            _, new = self._scanner.scan(between=self._scan_pending)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since the last look: the next one says so.
            self._check_at, self._scan_at = 0.0, time.monotonic() + self._pace.after_error
            return
        judged = periodic and self._presence.reason is None
        if judged and (missed := self._event_check.judge(Root(self._inbox), new, time.time())):
            self._presence.note_missed(missed)
            self._explain()
        self._scanned_at = time.monotonic()
        if self._scan_at == math.inf:  # else it was asked for meanwhile
            self._periodic = not self._again
            self._scan_at = self._scanned_at + (2 * self._pace.between_scans if self._again else self._interval())
            self._again = False

    def _interval(self) -> float:
        if not self._presence.polls:
            return self._rescan_seconds
        # At most a twentieth of the time goes into scans, however slow the filesystem.
        interval = max(self._pace.poll, 20 * (self._scanner.seconds or 0.0))
        return min(interval, max(self._rescan_seconds, self._pace.poll))

    def _explain(self) -> None:
        reason = self._presence.reason
        if reason == self._explained:
            return
        self._explained = reason
        inbox, every = str(self._inbox), self._interval()
        if reason is None:
            logger.info("watching the inbox %r, and looking through it every %g s", inbox, every)
        else:
            logger.warning("looking through the inbox %r every %g s: %s", inbox, every, reason)
