"""Why no captions are made at the moment and until when; kept over restarts, and said once, not for every image."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, cast

_log = logging.getLogger(__name__)

KEY = "captions paused"
_AGAIN_SECONDS = 3600.0


class Memory(Protocol):
    """What outlives the process (the catalogue's settings)."""

    def recall(self, key: str) -> object:
        """Give what was remembered; None where nothing was."""

    def remember(self, key: str, value: object) -> None:
        """Keep a JSON value; None forgets."""


@dataclass(frozen=True)
class Pause:
    """A pause; times in seconds since 1970, `until` None means until the configuration changes."""

    reason: str
    since: float
    until: float | None
    fingerprint: str


def recall(memory: Memory) -> Pause | None:
    """Give the pause that this or another process has noted."""
    noted = cast("dict[str, object] | None", memory.recall(KEY))
    return Pause(**noted) if noted else None  # type: ignore[arg-type]


class Pauses:
    """The pause of one captioner."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._current = recall(memory)
        self._said: dict[str, float] = {}
        self._loud = False

    def left(self, fingerprint: str, now: float) -> float | None:
        """Tell how many seconds the pause lasts, None for no pause; one whose cause may be gone ends here.

        Infinity stands for "until the configuration changes".
        """
        pause = self._current
        if pause is None:
            return None
        if pause.fingerprint != fingerprint:
            self.end("the configuration has changed")
            return None
        if pause.until is None:
            # `darkroom caption` forgets the pause: somebody is there and wants it tried.
            if recall(self._memory) is not None:
                return float("inf")
            self.end("asked to try again")
            return None
        # A clock that was set back must not prolong a pause for ever: none is longer than the day and a bit.
        if pause.until <= now or pause.until - now > 2 * 86400:
            return None
        return pause.until - now

    def begin(self, kind: str, reason: str, until: float | None, fingerprint: str, now: float) -> None:
        """Pause; one of the same kind as an hour's last is not said again."""
        since = self._current.since if self._current is not None else now
        self._current = Pause(reason, since, until, fingerprint)
        self._memory.remember(KEY, vars(self._current))
        loud = now - self._said.get(kind, float("-inf")) > _AGAIN_SECONDS
        if loud:
            self._said[kind] = now
            self._loud = True
        level = logging.WARNING if loud else logging.DEBUG
        _log.log(level, "captions are paused %s: %s; filing goes on", _until(until), reason)

    def end(self, why: str) -> None:
        """Note that requests go well, or may, again."""
        if self._current is None:
            return
        _log.log(logging.INFO if self._loud else logging.DEBUG, "captions go on: %s", why)
        self._current, self._loud = None, False
        self._memory.remember(KEY, None)


def _until(until: float | None) -> str:
    if until is None:
        return "until the configuration changes"
    return f"until {datetime.fromtimestamp(until, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
