"""Decides how long the queue pauses for a fault of the environment, and says why to the log and to other processes."""

import logging
import time
from functools import cached_property

from daemon.catalogue.settings import Settings
from daemon.errors import EnvironmentFault

_log = logging.getLogger(__name__)

_FIRST_SECONDS, _LAST_SECONDS = 1.0, 30.0


class Pause:
    """The pause of one loop; `reason` is None while there is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = 0
        self.reason: str | None = None

    @cached_property
    def inherited(self) -> bool:
        """Whether the process before this one was paused when it ended; to be asked before this one pauses."""
        return self._settings.pause() is not None

    def begin(self, fault: EnvironmentFault) -> None:
        """Pause; another fault of the same kind is not news."""
        self._turns += 1
        reason = str(fault)
        if reason == self.reason:
            return
        self.reason = reason
        _log.warning("paused: %s; nothing is lost, and filing goes on by itself once this is fixed", reason)
        self._store(reason)

    def end(self) -> None:
        """Note that all is well."""
        self._turns = 0
        if self.reason is not None:
            _log.warning("filing goes on; this is fixed: %s", self.reason)
            self.reason = None
            self._store(None)

    def forget(self) -> None:
        """Clear what an earlier process has left to be read."""
        self._store(None)

    def seconds(self) -> float:
        """Return the time until the next try: longer each time, up to half a minute."""
        return min(_LAST_SECONDS, _FIRST_SECONDS * 2.0 ** min(max(self._turns - 1, 0), 10))

    def _store(self, reason: str | None) -> None:
        # Where the database is at fault, whoever reads it will notice that himself.
        try:
            self._settings.set_pause(reason, time.time())
        except EnvironmentFault as fault:
            _log.debug("the pause could not be stored: %s", fault)
