"""How far the captions are and when they will be done, for `status`, the API and the log."""

from dataclasses import dataclass
from math import ceil

from daemon.captions.pause import Memory, recall
from daemon.captions.quota import Quota
from daemon.captions.settings import Settings
from daemon.catalogue.captions import Captions


@dataclass(frozen=True)
class Progress:
    """The captions' counts; `per_day` 0 stands for no limit, `seconds_left` None for "nobody knows" (a pause)."""

    on: bool
    model: str
    requests_today: int
    per_day: int
    waiting: int
    failed: int
    blocked: int
    private: int
    paused: str | None
    paused_until: float | None
    seconds_left: float | None

    def line(self) -> str:
        """Say it in one line: "captioned 180 of 200 today, 312 waiting, done in about 2 days"."""
        if not self.on and not self.waiting:
            return "captions are off"
        of = f" of {self.per_day:,}" if self.per_day else ""
        parts = [f"captioned {self.requests_today:,}{of} today", f"{self.waiting:,} waiting"]
        if self.waiting and self.seconds_left is not None:
            parts.append(f"done in about {roughly(self.seconds_left)}")
        if self.failed:
            parts.append(f"{self.failed:,} failed (darkroom caption --missing asks again)")
        if self.blocked:
            parts.append(f"{self.blocked:,} blocked")
        line = ", ".join(parts)
        if not self.on:
            return f"{line}; captions are off: there is no GEMINI_API_KEY"
        return f"{line}; captions are paused: {self.paused}" if self.paused else line


def progress(captions: Captions, memory: Memory, settings: Settings, now: float) -> Progress:
    """Count the captions."""
    quota = Quota(captions, settings.model, settings.requests_per_minute, settings.requests_per_day)
    waiting = captions.count("pending")
    pause = recall(memory)
    if pause is not None and (pause.fingerprint != settings.fingerprint or (pause.until or now + 1) <= now):
        pause = None
    left: float | None = quota.seconds_for(waiting, now)
    if settings.key is None or (pause is not None and pause.until is None):
        left = None
    elif pause is not None and pause.until is not None and left is not None:
        left = max(left, pause.until - now)
    return Progress(
        on=settings.key is not None,
        model=settings.model,
        requests_today=quota.used_today(now),
        per_day=settings.requests_per_day,
        waiting=waiting,
        failed=captions.count("failed"),
        blocked=captions.count("blocked"),
        private=captions.count("private"),
        paused=None if pause is None else pause.reason,
        paused_until=None if pause is None else pause.until,
        seconds_left=left,
    )


def roughly(seconds: float) -> str:
    """Say a time span as people do: "40 s", "12 min", "5 h", "2 days"."""
    if seconds < 90:
        return f"{max(1, ceil(seconds))} s"
    if seconds < 90 * 60:
        return f"{ceil(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{ceil(seconds / 3600)} h"
    return f"{ceil(seconds / 86400)} days"
