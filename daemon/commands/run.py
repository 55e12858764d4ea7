"""Serve until told to stop, or file what is there and leave."""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from daemon import lock
from daemon.catalogue.memory import Memory
from daemon.config import Config
from daemon.consumer import Turn
from daemon.service import Service, open_catalogue, prepare

_log = logging.getLogger(__name__)


def main(config: Config, args: argparse.Namespace) -> int:
    """Run; 0 when stopped cleanly, 1 when --once left failed or unfiled images."""
    catalogue = open_catalogue(config)
    prepare(config, Memory(catalogue))
    folders = [path for name, path in config.folders.items() if name != "state"]
    with lock.exclusive(config.folders.state, folders):
        service = Service(config, catalogue, once=args.once)
        return _Once(service).run() if args.once else _serve(service)


def _serve(service: Service) -> int:
    stop = threading.Event()
    _on_signals(stop.set)
    folders = service.config.folders
    _log.info("watching %s, filing into %s", folders.inbox, folders.library)
    service.start()
    stop.wait()
    _log.info("stopping")
    service.stop()
    return 0


class _Once:
    """One pass over the inbox: until all is filed, or only files that others are still writing are left."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._grace = service.config.inbox.settle_seconds + 1
        self._blocked_since: float | None = None
        self._stopped = False

    def run(self) -> int:
        service = self._service
        _on_signals(self._stop)
        before = service.reports.stats(time.time()).counts
        service.sandbox.start()
        try:
            service.watcher.scan_now()
            service.consumer.run(self._finished)
            while not self._stopped and (seconds := service.pruner.prune()) is not None:
                time.sleep(min(seconds, 0.1))
        finally:
            service.sandbox.close()
        return self._report(before)

    def _stop(self) -> None:
        self._stopped = True
        self._service.consumer.stop()

    def _finished(self, turn: Turn) -> bool:
        if turn is not Turn.IDLE:
            if turn is Turn.FILED:
                self._blocked_since = None
            return turn is Turn.PAUSED
        if self._service.reports.in_progress():
            return False
        if self._service.queue.next_due() is None:
            return True
        self._blocked_since = self._blocked_since or time.monotonic()
        return time.monotonic() - self._blocked_since > self._grace

    def _report(self, before: dict[str, int]) -> int:
        stats = self._service.reports.stats(time.time())
        new = {status: n - before[status] for status, n in stats.counts.items()}
        _log.info("%d filed, %d duplicates, %d failed", new["done"], new["duplicate"], new["failed"])
        if stats.counts["queued"]:
            reasons = "; ".join(f"{n} {reason}" for reason, n in stats.waiting.items())
            _log.info("%d stay in the inbox for now%s", stats.counts["queued"], f": {reasons}" if reasons else "")
        if new["failed"] > 0:
            _log.warning("what failed is in %s, with the reasons", self._service.config.folders.failed)
        return 1 if new["failed"] > 0 or self._service.consumer.paused else 0


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on the first SIGINT or SIGTERM; a second one ends the process at once, which loses nothing."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(1))
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
