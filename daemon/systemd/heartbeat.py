"""Reports to systemd while the service runs: the counts, and a sign of life only while the loops make progress."""

import faulthandler
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from daemon.catalogue import Queue
from daemon.catalogue.reports import Reports, Stats
from daemon.consumer import Consumer
from daemon.errors import DarkroomError
from daemon.systemd.notify import Notifier
from daemon.watcher.loop import Watcher

_log = logging.getLogger(__name__)

_STATUS_SECONDS = 10.0
# A turn of the idle or paused loop takes at most half a minute.
_TURN_SECONDS = 90.0
# What the slowest disk or share that anybody keeps photos on still copies and reads back in a second.
_BYTES_PER_SECOND = 1_000_000


class Pulse:
    """Tells whether watcher and consumer make progress; `decode_seconds` is what one image may take to decode."""

    def __init__(
        self,
        watcher: Watcher,
        consumer: Consumer,
        queue: Queue,
        decode_seconds: float,
        turn_seconds: float = _TURN_SECONDS,
    ) -> None:
        self._watcher, self._consumer, self._queue = watcher, consumer, queue
        self._decode_seconds = decode_seconds
        self._turn_seconds = turn_seconds

    def fault(self) -> str | None:
        """Say which loop is stuck; None while both go round."""
        if not self._watcher.alive():
            return "the watcher has stopped looking"
        stuck = time.monotonic() - self._consumer.progress
        if stuck > self._turn_seconds and stuck > self._turn_seconds + self._in_hand_seconds():
            return f"the consumer has been stuck for {stuck:.0f} s"
        return None

    def _in_hand_seconds(self) -> float:
        """Compute what the image in hand may take: two tries of a decoder, then its bytes copied and read back."""
        return sum(
            2 * self._decode_seconds + 2 * (job.size or 0) / _BYTES_PER_SECOND for job in self._queue.unfinished()
        )


class Heartbeat:
    """READY when entered, STOPPING when left, and between them STATUS and WATCHDOG from a thread of its own."""

    def __init__(self, notifier: Notifier, reports: Reports, fault: Callable[[], str | None]) -> None:
        self._notifier, self._reports, self._fault = notifier, reports, fault
        self._stopping = threading.Event()
        self._said: str | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        if self._notifier.wanted:
            # The watchdog ends a stuck process by SIGABRT: then the journal says where each thread stood.
            faulthandler.enable()
            self._notifier.send(READY=1, STATUS="started")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._notifier.send(STOPPING=1, STATUS="stopping: finishing the image in hand")

    def _run(self) -> None:
        patience = self._notifier.watchdog_seconds
        # A third: one message that is late or lost must not kill the service.
        interval = min(_STATUS_SECONDS, patience / 3) if patience else _STATUS_SECONDS
        while not self._stopping.is_set():
            try:
                self._beat()
            except DarkroomError as error:
                _log.debug("no sign of life: %s", error)
            except Exception:
                _log.exception("the heartbeat stumbled, and goes on")
            self._stopping.wait(interval)

    def _beat(self) -> None:
        fault = self._fault()
        if fault is None:
            self._notifier.send(WATCHDOG=1, STATUS=sentence(self._reports.stats(time.time())))
        elif fault != self._said:
            _log.error("%s; systemd is no longer told that all is well", fault)
            self._notifier.send(STATUS=fault)
        self._said = fault


def sentence(stats: Stats) -> str:
    """Put the counts into one line: "12 queued, 3,401 done, 2 failed; paused: …"."""
    left = stats.counts["queued"] + stats.counts["processing"]
    parts = [f"{left:,} queued"] + [f"{stats.counts[name]:,} {name}" for name in ("done", "duplicate", "failed")]
    return ", ".join(parts) + (f"; paused: {stats.paused}" if stats.paused else "")
