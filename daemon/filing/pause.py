"""Why the queue is paused, for how long to wait, and who is told: the log once, and other processes."""

import logging
import time
from functools import cached_property

from daemon.catalogue.settings import Settings
from daemon.errors import EnvironmentFault

_log = logging.getLogger(__name__)

_FIRST_SECONDS, _LAST_SECONDS = 1.0, 30.0


class Pause:
    """The state of one loop; `reason` is None while it is not paused."""

    def __init__(self, stored: Settings) -> None:
        self._stored = stored
        self._turns = 0
        self.reason: str | None = None

    @cached_property
    def inherited(self) -> bool:
        """Whether the process before this one was paused when it ended; to be asked before this one pauses."""
        return self._stored.get("paused") is not None

    def begin(self, reason: str) -> None:
        """Note a fault of the environment; another one of the same kind is not news."""
        self._turns += 1
        if reason == self.reason:
            return
        self.reason = reason
        _log.warning("paused: %s; nothing is lost, and filing goes on by itself once this is mended", reason)
        self._tell({"reason": reason, "since": time.time()})

    def end(self) -> None:
        """Note that all is well."""
        self._turns = 0
        if self.reason is not None:
            _log.warning("resumed: %s: mended", self.reason)
            self.reason = None
            self._tell(None)

    def forget(self) -> None:
        """Clear what an earlier process has left to be read."""
        self._tell(None)

    def seconds(self) -> float:
        """Give the time until the next try: longer each time, up to half a minute."""
        return min(_LAST_SECONDS, _FIRST_SECONDS * 2.0 ** min(max(self._turns - 1, 0), 10))

    def _tell(self, pause: dict[str, object] | None) -> None:
        # Where the database is at fault, whoever reads it will notice that himself.
        try:
            self._stored.set("paused", pause)
        except EnvironmentFault as fault:
            _log.debug("the pause could not be stored: %s", fault)
