"""When a caption may be asked for: the quota of a minute and of a day, pauses, and how long the rest will take.

Both outlive the process: every request and the pause are in the catalogue.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from math import ceil
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from daemon.captions.settings import CaptionSettings
from daemon.catalogue.captions import Captions
from daemon.catalogue.settings import Settings
from daemon.phrases import counted

_MINUTE = 60.0


class Quota:
    """A model's quota; 0 stands for no limit."""

    def __init__(self, captions: Captions, model: str, per_minute: int, per_day: int) -> None:
        self._captions = captions
        self._model = model
        self.per_minute = per_minute
        self.per_day = per_day

    def free_at(self, now: float) -> float:
        """Return when the next request may be made: `now`, or a later time."""
        today = self._captions.requests(self._model, day_began(now))
        if self.per_day and len(today) >= self.per_day:
            return day_ends(now)
        # From the requests of both days: a minute may lie around midnight.
        recent = self._captions.requests(self._model, now - _MINUTE)
        if self.per_minute and len(recent) >= self.per_minute:
            return recent[-self.per_minute] + _MINUTE
        return now

    def spend(self, now: float) -> None:
        """Count a request; call it before the request is sent."""
        self._captions.request(self._model, now)

    def used_today(self, now: float) -> int:
        """Count the requests since midnight Pacific."""
        return len(self._captions.requests(self._model, day_began(now)))

    def seconds_for(self, requests: int, now: float) -> float:
        """Estimate how long so many requests take, in seconds; what is left of today's quota is counted."""
        by_minute = requests / self.per_minute * _MINUTE if self.per_minute else 0.0
        if not self.per_day:
            return by_minute
        left = max(0, self.per_day - self.used_today(now))
        if requests <= left:
            return by_minute
        whole_days, rest = divmod(requests - left - 1, self.per_day)
        last = (rest + 1) / self.per_minute * _MINUTE if self.per_minute else 0.0
        return day_ends(now) - now + whole_days * 86400 + last


def day_began(now: float) -> float:
    """Return when the quota's day began: midnight Pacific, where Google's quotas are reset."""
    local = datetime.fromtimestamp(now, UTC).astimezone(_pacific())
    return local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def day_ends(now: float) -> float:
    """Return when the quota's day ends."""
    local = datetime.fromtimestamp(now, UTC).astimezone(_pacific())
    # Of the calendar, not 24 h: two days of the year are longer or shorter.
    return datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), local.tzinfo).timestamp()


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a system without time zones: in summer an hour late, which is the safe side
        return timezone(timedelta(hours=-8))


_log = logging.getLogger(__name__)

_PAUSE = "captions paused"
_AGAIN_SECONDS = 3600.0


@dataclass(frozen=True)
class CaptionPause:
    """A pause; times in seconds since 1970, `until` None means until the configuration changes."""

    reason: str
    since: float
    until: float | None
    fingerprint: str


def stored_pause(stored: Settings) -> CaptionPause | None:
    """Return the pause that this or another process has noted."""
    noted = stored.get(_PAUSE)
    return CaptionPause(**noted) if isinstance(noted, dict) else None


def forget_pause(stored: Settings) -> None:
    """Have captions tried again, whatever paused them."""
    stored.set(_PAUSE, None)


class CaptionPauses:
    """The pause of one captioner."""

    def __init__(self, stored: Settings) -> None:
        self._stored = stored
        self._current = stored_pause(stored)
        # What was last said, and when.
        self._kind, self._said_at = "", float("-inf")
        self._loud = False

    def left(self, fingerprint: str, now: float) -> float | None:
        """Return how many seconds the pause lasts, None for no pause; one whose cause may be gone ends here.

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
            if stored_pause(self._stored) is not None:
                return float("inf")
            self.end("asked to try again")
            return None
        # A clock that was set back must not prolong a pause for ever: none is longer than the day and a bit.
        if pause.until <= now or pause.until - now > 2 * 86400:
            return None
        return pause.until - now

    def begin(self, kind: str, reason: str, until: float | None, fingerprint: str, now: float) -> None:
        """Pause; what is of the same kind as the last one is said again after an hour, and of another kind at once."""
        since = self._current.since if self._current is not None else now
        self._current = CaptionPause(reason, since, until, fingerprint)
        self._stored.set(_PAUSE, vars(self._current))
        loud = kind != self._kind or now - self._said_at > _AGAIN_SECONDS
        if loud:
            self._kind, self._said_at, self._loud = kind, now, True
        level = logging.WARNING if loud else logging.DEBUG
        _log.log(level, "captions are paused %s: %s; filing goes on", until_when(until), reason)

    def end(self, why: str) -> None:
        """Note that requests go well, or may, again."""
        if self._current is None:
            return
        _log.log(logging.INFO if self._loud else logging.DEBUG, "captions go on: %s", why)
        self._current, self._loud = None, False
        forget_pause(self._stored)


def until_when(until: float | None) -> str:
    """Return until when a pause lasts, in this machine's local time."""
    if until is None:
        return "until the configuration changes"
    return f"until {datetime.fromtimestamp(until, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class CaptionProgress:
    """The captions' counts, and those of the requests: to `model`, which is asked, and to each other one of today.

    `per_day` 0 stands for no limit, `seconds_left` None for "nobody knows" (a pause).
    """

    on: bool
    model: str
    requests_today: int
    per_day: int
    requests_to_others: Mapping[str, int]
    done: int
    waiting: int
    failed: int
    blocked: int
    private: int
    paused: str | None
    paused_until: float | None
    seconds_left: float | None

    def line(self) -> str:
        """Return it in one line, such as this.

        "captions: 40 done, 312 waiting (about 2 days); 180 of 200 requests to gemini-flash-lite-latest made today".
        """
        return f"captions: {self.how_far()}" if self.on or self.waiting else "captions are off"

    def how_far(self) -> str:
        """Return the line without its beginning."""
        left = f" (about {roughly(self.seconds_left)})" if self.waiting and self.seconds_left is not None else ""
        counts = [f"{self.done:,} done", f"{self.waiting:,} waiting{left}"]
        if self.failed:
            counts.append(f"{self.failed:,} failed (darkroom caption --missing asks again)")
        if self.blocked:
            counts.append(f"{self.blocked:,} blocked")
        if not self.on:
            return f"{', '.join(counts)}; off: there is no GEMINI_API_KEY"
        of = f"{self.requests_today:,} of {counted(self.per_day, 'request')}" if self.per_day else None
        requests = [f"{of or counted(self.requests_today, 'request')} to {self.model} made today"]
        requests += [f"{n:,} to {model}" for model, n in self.requests_to_others.items()]
        parts = [", ".join(counts), ", ".join(requests)]
        if self.paused:
            parts.append(f"paused {until_when(self.paused_until)}: {self.paused}")
        return "; ".join(parts)


def progress(captions: Captions, stored: Settings, settings: CaptionSettings, now: float) -> CaptionProgress:
    """Count the captions."""
    quota = Quota(captions, settings.model, settings.requests_per_minute, settings.requests_per_day)
    waiting = captions.count("pending")
    pause = stored_pause(stored)
    if pause is not None and (pause.fingerprint != settings.fingerprint or (pause.until or now + 1) <= now):
        pause = None
    requests = captions.requests_by_model(day_began(now))
    left: float | None = quota.seconds_for(waiting, now)
    if settings.key is None or (pause is not None and pause.until is None):
        left = None
    elif pause is not None and pause.until is not None and left is not None:
        left = max(left, pause.until - now)
    return CaptionProgress(
        on=settings.key is not None,
        model=settings.model,
        requests_today=requests.pop(settings.model, 0),
        per_day=settings.requests_per_day,
        requests_to_others=requests,
        done=captions.count("done"),
        waiting=waiting,
        failed=captions.count("failed"),
        blocked=captions.count("blocked"),
        private=captions.count("private"),
        paused=None if pause is None else pause.reason,
        paused_until=None if pause is None else pause.until,
        seconds_left=left,
    )


def roughly(seconds: float) -> str:
    """Return a time span as people do: "40 s", "12 min", "5 h", "2 days"."""
    if seconds < 90:
        return f"{max(1, ceil(seconds))} s"
    if seconds < 90 * 60:
        return f"{ceil(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{ceil(seconds / 3600)} h"
    return f"{ceil(seconds / 86400)} days"
