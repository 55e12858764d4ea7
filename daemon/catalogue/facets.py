"""What people choose by, with counts: months, days, cameras, folders, formats, reasons of failures.

The schema's triggers keep the counts, so that asking for them takes as long for a million images as for none.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from peewee import SQL, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Facet, Image, ImageRow, Tally
from daemon.errors import FailureReason

FacetKind = Literal["arrived", "taken", "day", "camera", "folder", "format"]
# As a literal: SQLite uses a partial index only where the query repeats its condition, and a parameter does not.
_FAILED: Any = SQL("(status = 'failed')")
# As the index has it.
_REASON: Any = SQL("coalesce(failure, 'other')")
MONTH = re.compile(r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class FailureGroup:
    """The images that failed for one reason: how many, and the newest of them."""

    reason: FailureReason
    n: int
    newest: tuple[ImageRow, ...]


class Facets:
    """Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def months(self, sort: Literal["arrived", "taken"]) -> dict[str, int]:
        """Count the filed images by month ("2026-11"), newest first: of arrival, or of the date taken."""
        counted = self.counts(sort)
        # Sidecars, which anybody may have edited, can say of a date what they like.
        return {month: counted[month] for month in sorted(counted, reverse=True) if MONTH.fullmatch(month)}

    def days(self, since: str) -> dict[str, int]:
        """Count the filed images by the local day on which they came, from a day ("2026-11-26") on, oldest first."""
        rows = Facet.select().where((Facet.kind == "day") & (Facet.value >= since) & (Facet.n > 0))
        with self._catalogue.reading():
            return {row.value: row.n for row in rows.order_by(Facet.value)}

    def counts(self, kind: FacetKind, limit: int = 10_000) -> dict[str, int]:
        """Count the filed images by one thing, the most frequent first."""
        rows = Facet.select().where((Facet.kind == kind) & (Facet.n > 0)).order_by(Facet.n.desc(), Facet.value)
        with self._catalogue.reading():
            return {row.value: row.n for row in rows.limit(limit)}

    def size_bytes(self) -> int:
        """Return how many bytes all filed images have."""
        with self._catalogue.reading():
            return int(Tally.select(Tally.size_bytes).where(Tally.status == "done").scalar() or 0)

    def failures(self, limit: int) -> list[FailureGroup]:
        """Return those that failed, grouped by the reason, the largest group first; of each some of the newest."""
        with self._catalogue.reading():
            counted = Image.select(_REASON, fn.COUNT(Image.id)).where(_FAILED).group_by(_REASON).tuples()
            groups = sorted(cast("list[tuple[str, int]]", list(counted)), key=lambda row: -row[1])
            return [FailureGroup(FailureReason(reason), n, self._newest(reason, limit)) for reason, n in groups]

    def failed_for(self, reason: FailureReason) -> list[int]:
        """Return the ids of all images that failed for a reason, oldest first."""
        rows = Image.select(Image.id).where(_FAILED & (reason == _REASON)).order_by(Image.id)
        with self._catalogue.reading():
            return [row.id for row in rows]

    def _newest(self, reason: str, limit: int) -> tuple[ImageRow, ...]:
        rows = Image.select().where(_FAILED & (reason == _REASON)).order_by(Image.id.desc()).limit(limit)
        return tuple(ImageRow(**row.__data__) for row in rows)
