"""Answers about the queue and the catalogue, for the command line and the web: counts, rate, lists, histories."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from peewee import fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Event, Image, Tally
from daemon.catalogue.settings import Settings
from daemon.loop import LoopFault

_RATE_SECONDS = 300.0


@dataclass(frozen=True)
class Stats:
    """The counts by status, what is paused and why, and how fast it goes.

    `rate` is images a second over the last minutes, `seconds_left` what the queue needs at that rate (None
    where nothing tells), `waiting` the reasons why queued images are not due, with their counts, `faults` what the
    loops of the program fail at, by their names.
    """

    counts: dict[str, int]
    avg_processing_time_ms: float | None
    rate: float
    seconds_left: float | None
    paused: str | None
    paused_since: float | None
    waiting: dict[str, int]
    faults: dict[str, LoopFault] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Count all images."""
        return sum(self.counts.values())


class Statistics:
    """Reads only."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._stored = Settings(catalogue)

    def stats(self, now: float) -> Stats:
        """Give the counts without scanning the table."""
        with self._catalogue.session():
            rows = list(Tally.select())
            counts = {str(row.status): row.n for row in rows}
            final = sum(counts[status] for status in ("done", "duplicate", "failed"))
            spent = sum(row.processing_ms for row in rows)
            rate = self._rate(now)
            left = counts["queued"] + counts["processing"]
            waiting = (
                Image.select(Image.waiting, fn.COUNT(Image.id))
                .where((Image.status == "queued") & Image.waiting.is_null(False))
                .group_by(Image.waiting)
                .order_by(fn.COUNT(Image.id).desc())
                .limit(5)
                .tuples()
            )
            pause = self._stored.get("paused") or {}
            return Stats(
                counts=counts,
                avg_processing_time_ms=spent / final if final else None,
                rate=rate,
                seconds_left=0.0 if not left else left / rate if rate else None,
                paused=pause.get("reason"),
                paused_since=pause.get("since"),
                waiting=dict(cast(Any, waiting)),
                faults=self._stored.faults(),
            )

    def in_progress(self) -> bool:
        """Tell whether any queued image is about to be tried: not one that only waits for its writer."""
        waits_only = (Image.attempts == 0) & Image.waiting.is_null(False)
        with self._catalogue.reading():
            return bool(Image.select().where((Image.status == "queued") & ~waits_only).exists())

    def _rate(self, now: float) -> float:
        """Count images a second since the work of the last minutes began."""
        recent = Image.processed_at.between(now - _RATE_SECONDS, now)
        since, n = Image.select(fn.MIN(Image.claimed_at), fn.COUNT(Image.id)).where(recent).tuples().first()
        span = now - max(since, now - _RATE_SECONDS) if n and since is not None else 0.0
        return float(n / span) if span > 0 else 0.0

    def images(self, status: str | None, query: str | None, limit: int) -> Iterator[dict[str, Any]]:
        """List images, newest first; `query` is looked for in names and cameras."""
        rows = Image.select().order_by(Image.id.desc()).limit(limit)
        if status is not None:
            rows = rows.where(Image.status == status)
        if query:
            rows = rows.where(
                Image.original_name.contains(query)
                | Image.destination.contains(query)
                | Image.camera_make.contains(query)
                | Image.camera_model.contains(query)
            )
        with self._catalogue.session():
            for row in rows.dicts():
                yield cast("dict[str, Any]", row)

    def history(self, image_id: int) -> list[dict[str, Any]]:
        """Give what happened to an image, oldest first."""
        with self._catalogue.reading():
            events = Event.select().where(Event.image_id == image_id).order_by(Event.id)
            return [{"at": event.at, "event": event.kind, "detail": event.detail} for event in events]
