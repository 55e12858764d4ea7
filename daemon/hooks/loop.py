"""Tells a command or a web address of each image that became final, from a loop of its own.

What was told of last is remembered in the catalogue, so a restart loses nothing: after a crash the last one may be
told of twice. Filing never waits for any of this.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from daemon.catalogue import Catalogue, Place
from daemon.catalogue.feed import Feed, Outcome
from daemon.catalogue.memory import Memory
from daemon.config import Hooks as Settings
from daemon.errors import EnvironmentFault, Transient
from daemon.hooks.calls import Refused, Way, describe, post, run_command
from daemon.loop import Loop, LoopFault, Strikes

_log = logging.getLogger(__name__)

_MEMORY = "hooks"
_LOOK_SECONDS = 1.0
_BATCH = 100
_STOP_SECONDS = 5.0
_BACKOFF_SECONDS = 1.0
_BACKOFF_FACTOR = 4


class Hooks:
    """The loop, from `start` to `stop`; nothing where neither a command nor a URL is configured."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        roots: Mapping[Place, Path],
        backoff_seconds: float = _BACKOFF_SECONDS,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._feed, self._memory = Feed(catalogue), Memory(catalogue)
        self._roots = roots
        self._backoff_seconds = backoff_seconds
        self._stopping = threading.Event()
        self._begun = False
        self._strikes = Strikes()
        self.loop = Loop("hooks", self._step, within=catalogue.session, report=report)

    @property
    def wanted(self) -> bool:
        """Whether anything is configured."""
        return bool(self._settings.command or self._settings.url)

    def start(self) -> None:
        """Tell of what happens from now on, and of what happened since an earlier process stopped."""
        # Before anything is filed. Where the database is at fault nothing will be, and the first step tries again.
        with suppress(EnvironmentFault):
            self.begin()
        if self.wanted:
            self.loop.start()

    def begin(self) -> bool:
        """Note from where on to tell; False where nothing is configured."""
        known = self._memory.recall(_MEMORY)
        if not self.wanted:
            # Should hooks come back in a year, they must not tell of that year.
            if known is not None:
                self._memory.remember(_MEMORY, None)
            return False
        if known is None:
            self._memory.remember(_MEMORY, self._feed.last())
        self._begun = True
        return True

    def drain(self) -> None:
        """Tell of all that there is to tell in the caller's thread; after `begin`."""
        if self._memory.recall(_MEMORY) is not None:
            self._turn()

    def stop(self) -> None:
        """End the loop; what is being told is given up, and told again by the next process."""
        self._stopping.set()
        self.loop.stop(_STOP_SECONDS)

    def _step(self) -> float:
        if not self._begun:
            self.begin()
        self._turn()
        return _LOOK_SECONDS

    def _turn(self) -> None:
        number = int(self._memory.recall(_MEMORY) or 0)
        while outcomes := self._feed.after(number, self._settings.on, _BATCH):
            for outcome in outcomes:
                if self._strikes.out(outcome.number):
                    _log.warning("hook: image %d: %s; not told", outcome.image_id, self._strikes.reason(outcome.number))
                else:
                    with self._strikes.counting(outcome.number):
                        if self._stopping.is_set() or not self._tell(outcome):
                            return
                self._strikes.forget(outcome.number)
                number = outcome.number
                self._memory.remember(_MEMORY, number)

    def _tell(self, outcome: Outcome) -> bool:
        """Tell of one outcome; False where the program is to stop before that is done."""
        ways = ((run_command, self._settings.command), (post, self._settings.url))
        return all(self._insist(way, outcome) for way, wanted in ways if wanted)

    def _insist(self, way: Way, outcome: Outcome) -> bool:
        """Try one way as often as is allowed; False where the program is to stop before that is done."""
        document, which = describe(outcome, self._roots), f"image {outcome.image_id}, {outcome.kind}"
        attempts = self._settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                way(self._settings, document, self._stopping)
            except Refused as refused:
                _log.warning("hook: %s: %s; not told", which, refused)
                return True
            except Transient as fault:
                level = logging.WARNING if attempt == attempts else logging.DEBUG
                _log.log(level, "hook: %s: attempt %d of %d failed: %s", which, attempt, attempts, fault)
            else:
                return True
            if attempt < attempts:
                self._stopping.wait(self._backoff_seconds * _BACKOFF_FACTOR ** (attempt - 1))
            if self._stopping.is_set():
                return False
        return True
