"""Keeps the requests within the quota, a minute's and a day's, over restarts: every request is in the catalogue."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MINUTE = 60.0


class Ledger(Protocol):
    """Where requests are written down (the catalogue)."""

    def request(self, model: str, now: float) -> None:
        """Write down a request that is about to be sent."""

    def requests(self, model: str, since: float) -> list[float]:
        """List when requests were made, oldest first."""


class Quota:
    """A model's quota; 0 stands for no limit."""

    def __init__(self, ledger: Ledger, model: str, per_minute: int, per_day: int) -> None:
        self._ledger = ledger
        self._model = model
        self.per_minute = per_minute
        self.per_day = per_day

    def free_at(self, now: float) -> float:
        """Tell when the next request may be made: `now`, or a later time."""
        today = self._ledger.requests(self._model, day_began(now))
        if self.per_day and len(today) >= self.per_day:
            return day_ends(now)
        # From the ledger of both days: a minute may lie around midnight.
        recent = self._ledger.requests(self._model, now - _MINUTE)
        if self.per_minute and len(recent) >= self.per_minute:
            return recent[-self.per_minute] + _MINUTE
        return now

    def spend(self, now: float) -> None:
        """Count a request; call it before the request is sent."""
        self._ledger.request(self._model, now)

    def used_today(self, now: float) -> int:
        """Count the requests since midnight Pacific."""
        return len(self._ledger.requests(self._model, day_began(now)))

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
    """Tell when the quota's day began: midnight Pacific, where Google's quotas are reset."""
    local = datetime.fromtimestamp(now, UTC).astimezone(_pacific())
    return local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def day_ends(now: float) -> float:
    """Tell when the quota's day ends."""
    local = datetime.fromtimestamp(now, UTC).astimezone(_pacific())
    # Of the calendar, not 24 h: two days of the year are longer or shorter.
    return datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), local.tzinfo).timestamp()


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a system without time zones: in summer an hour late, which is the safe side
        return timezone(timedelta(hours=-8))
