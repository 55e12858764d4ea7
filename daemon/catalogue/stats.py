"""The numbers: images by status, rate and time left, what waits and why, and what captions have cost."""

from dataclasses import dataclass, field
from typing import Any, cast

from peewee import fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Image, Status, Tally
from daemon.catalogue.settings import Settings
from daemon.errors import WaitingReason
from daemon.loop import LoopFault

_RATE_SECONDS = 300.0


@dataclass(frozen=True)
class Stats:
    """The counts by status, what is paused and why, and how fast it goes.

    `rate` is images a second over the last minutes, `seconds_left` what the queue needs at that rate (None
    where nobody knows), `waiting` the reasons why queued images are not due (for people), with their counts, `staying`
    those why filed ones can't leave the inbox, `faults`
    what the loops of the program fail at, by their names.
    """

    counts: dict[Status, int]
    avg_processing_time_ms: float | None
    rate: float
    seconds_left: float | None
    paused: str | None
    paused_since: float | None
    waiting: dict[str, int]
    staying: dict[str, int]
    faults: dict[str, LoopFault] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All images."""
        return sum(self.counts.values())

    @property
    def left(self) -> int:
        """The images that are not final yet."""
        return self.counts["queued"] + self.counts["processing"]


@dataclass(frozen=True)
class Usage:
    """What captions have cost so far."""

    requests: int
    tokens_in: int
    tokens_out: int


class Statistics:
    """Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._settings = Settings(catalogue)

    def stats(self, now: float) -> Stats:
        """Return the counts, without scanning the table."""
        with self._catalogue.session():
            rows = list(Tally.select())
            counts = {cast("Status", row.status): row.n for row in rows}
            final = sum(counts[status] for status in ("done", "duplicate", "failed"))
            spent = sum(row.processing_ms for row in rows)
            rate = self._rate(now)
            left = counts["queued"] + counts["processing"]
            pause = self._settings.pause()
            return Stats(
                counts=counts,
                avg_processing_time_ms=spent / final if final else None,
                rate=rate,
                seconds_left=0.0 if not left else left / rate if rate else None,
                paused=pause[0] if pause else None,
                paused_since=pause[1] if pause else None,
                waiting=self._reasons(Image.status == "queued"),
                staying=self._reasons((Image.status != "queued") & Image.path.is_null(False)),
                faults=self._settings.faults(),
            )

    def in_progress(self) -> bool:
        """Return whether any queued image is about to be tried: not one that only waits for its writer."""
        waits_only = (Image.attempts == 0) & Image.waiting.is_null(False)
        with self._catalogue.reading():
            return bool(Image.select().where((Image.status == "queued") & ~waits_only).exists())

    def oldest_waiting(self) -> float | None:
        """Return when the image that has waited for longest came in; None when none waits."""
        with self._catalogue.reading():
            row = Image.select(Image.created_at).where(Image.status == "queued").order_by(Image.id).first()
        return None if row is None else float(row.created_at)

    def captions(self) -> dict[str, int]:
        """Count the filed images by caption status."""
        with self._catalogue.reading():
            rows = Image.raw("SELECT status, n FROM caption_tally ORDER BY status").tuples()
            return dict(cast(Any, rows))

    def caption_usage(self) -> Usage:
        """Return what captions have cost since the catalogue began."""
        with self._catalogue.reading():
            row = next(iter(Image.raw("SELECT requests, tokens_in, tokens_out FROM caption_usage").tuples()))
        return Usage(*row)

    def finished(self, after: float) -> list[tuple[float, int]]:
        """Return when images became final after a moment, and the milliseconds that each took."""
        recent = Image.select(Image.processed_at, Image.processing_ms).where(Image.processed_at > after)
        with self._catalogue.reading():
            rows = cast("list[tuple[float, int | None]]", list(recent.order_by(Image.processed_at).tuples()))
        return [(at, milliseconds or 0) for at, milliseconds in rows]

    def recent_milliseconds(self, limit: int) -> list[int]:
        """Return how long each of the newest final images took, in milliseconds."""
        recent = Image.select(Image.processing_ms).where(Image.processing_ms.is_null(False))
        newest = recent.order_by(Image.processed_at.desc()).limit(limit).tuples()
        with self._catalogue.reading():
            return [milliseconds for (milliseconds,) in cast("list[tuple[int]]", list(newest))]

    def _reasons(self, rows_of: Any) -> dict[str, int]:
        rows = (
            Image.select(Image.waiting, Image.waiting_detail, fn.COUNT(Image.id))
            .where(rows_of & Image.waiting.is_null(False))
            .group_by(Image.waiting, Image.waiting_detail)
            .order_by(fn.COUNT(Image.id).desc())
            .limit(5)
            .tuples()
        )
        found = cast("list[tuple[str, str | None, int]]", list(rows))
        return {WaitingReason(reason).sentence(detail or ""): n for reason, detail, n in found}

    def _rate(self, now: float) -> float:
        """Count images a second since the work of the last minutes began."""
        recent = Image.processed_at.between(now - _RATE_SECONDS, now)
        since, n = Image.select(fn.MIN(Image.claimed_at), fn.COUNT(Image.id)).where(recent).tuples().first()
        span = now - max(since, now - _RATE_SECONDS) if n and since is not None else 0.0
        return float(n / span) if span > 0 else 0.0
