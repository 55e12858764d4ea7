"""Reports to systemd that the service is ready, stopping, and alive while its loops make progress: sd_notify(3)."""

import faulthandler
import logging
import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from daemon.errors import EnvironmentFault
from daemon.loop import Loop, LoopFault

_log = logging.getLogger(__name__)

_STATUS_SECONDS = 10.0


class Notifier:
    """The socket that systemd listens on; without systemd every message goes nowhere.

    `watchdog_seconds` is how long systemd waits for a sign of life, None where it waits for none.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name in the abstract namespace is written with an @ for its first byte, which is zero.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environ) if address else None

    @property
    def wanted(self) -> bool:
        """Return whether systemd has started this process and listens."""
        return bool(self._address)

    def send(self, **fields: str | int) -> None:
        """Send fields such as READY=1; a message that can't be delivered is lost, and logged."""
        if not self._address:
            return
        text = "\n".join(f"{key}={' '.join(str(value).splitlines())}" for key, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                # Never wait for a manager that does not read: the sender may hold up the whole service.
                out.setblocking(False)
                out.sendto(text.encode("utf-8", "replace"), self._address)
        except OSError as error:
            _log.warning("%s could not be reported to systemd: %s", next(iter(fields)), error.strerror)


class Heartbeat:
    """READY when entered, STOPPING when left, and between them STATUS and WATCHDOG from a thread of its own.

    `status` says how it goes, `fault` which loop makes no progress: then no sign of life is sent any more.
    """

    def __init__(
        self,
        notifier: Notifier,
        status: Callable[[], str],
        fault: Callable[[], str | None],
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._notifier, self._status, self._fault = notifier, status, fault
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
        self._notifier.send(STOPPING=1, STATUS="stopping: finishing the image that is being filed")

    def _step(self) -> float:
        fault = self._fault()
        if fault is None:
            self._notifier.send(WATCHDOG=1, STATUS=self._counts())
        elif fault != self._said:
            _log.error("%s; no sign of life is sent to systemd any more", fault)
            self._notifier.send(STATUS=fault)
        self._said = fault
        return self._interval

    def _counts(self) -> str:
        try:
            return self._status()
        except EnvironmentFault as error:
            # The loops make progress all the same, and wait for the database as this does.
            return f"the counts can't be read: {error}"


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Read sd_watchdog_enabled(3)'s variables; they may be meant for another process."""
    pid, microseconds = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if pid not in {"", str(os.getpid())} or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None
