"""Reports to systemd while the service runs: the counts, and a sign of life only while the loops make progress."""

import faulthandler
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from daemon.catalogue.reports import Reports, Stats
from daemon.errors import EnvironmentFault
from daemon.loop import Loop, LoopFault
from daemon.systemd.notify import Notifier

_log = logging.getLogger(__name__)

_STATUS_SECONDS = 10.0


class Heartbeat:
    """READY when entered, STOPPING when left, and between them STATUS and WATCHDOG from a thread of its own."""

    def __init__(
        self,
        notifier: Notifier,
        reports: Reports,
        fault: Callable[[], str | None],
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._notifier, self._reports, self._fault = notifier, reports, fault
        self._said: str | None = None
        patience = notifier.watchdog_seconds
        # A third: one message that is late or lost must not kill the service.
        self._interval = min(_STATUS_SECONDS, patience / 3) if patience else _STATUS_SECONDS
        self.loop = Loop("heartbeat", self._step, report=report, first_backoff=min(1.0, self._interval))

    def __enter__(self) -> Self:
        if self._notifier.wanted:
            # The watchdog ends a stuck process by SIGABRT: then the journal says where each thread stood.
            faulthandler.enable()
            self._notifier.send(READY=1, STATUS="started")
            self.loop.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.stop()
        self._notifier.send(STOPPING=1, STATUS="stopping: finishing the image in hand")

    def _step(self) -> float:
        fault = self._fault()
        if fault is None:
            self._notifier.send(WATCHDOG=1, STATUS=self._counts())
        elif fault != self._said:
            _log.error("%s; systemd is no longer told that all is well", fault)
            self._notifier.send(STATUS=fault)
        self._said = fault
        return self._interval

    def _counts(self) -> str:
        try:
            return sentence(self._reports.stats(time.time()))
        except EnvironmentFault as error:
            # The loops go round all the same, and wait for the database as this does.
            return f"the counts can't be read: {error}"


def sentence(stats: Stats) -> str:
    """Put the counts into one line: "12 queued, 3,401 done, 2 failed; paused: …"."""
    left = stats.counts["queued"] + stats.counts["processing"]
    parts = [f"{left:,} queued"] + [f"{stats.counts[name]:,} {name}" for name in ("done", "duplicate", "failed")]
    troubles = [f"; paused: {stats.paused}"] if stats.paused else []
    troubles += [f"; the {name}: {fault.reason}" for name, fault in stats.faults.items()]
    return ", ".join(parts) + "".join(troubles)
