"""Tells systemd how the service is: up, at work, stopping, and alive; sd_notify(3) in a few lines."""

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger(__name__)


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
        """Tell whether systemd has started this process and listens."""
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
            _log.warning("systemd could not be told %s: %s", next(iter(fields)), error.strerror)


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Read sd_watchdog_enabled(3)'s variables; they may be meant for another process."""
    pid, microseconds = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if pid not in {"", str(os.getpid())} or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None
