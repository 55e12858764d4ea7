"""The histories of all images as one feed, for those who act on each outcome once and remember how far they got."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from peewee import fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Event, Final, Image


@dataclass(frozen=True)
class Outcome:
    """One image that became final: the number of the event in the feed, and the image's row as it is now.

    `row` is None where the image is no longer in the catalogue.
    """

    number: int
    image_id: int
    at: float
    kind: str
    detail: str
    row: dict[str, Any] | None


class EventFeed:
    """The events in the order in which they were written; numbers only grow."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def last(self) -> int:
        """Give the number of the newest event, 0 where there is none."""
        with self._catalogue.reading():
            return int(Event.select(fn.MAX(Event.id)).scalar() or 0)

    def after(self, number: int, kinds: Sequence[Final], limit: int) -> list[Outcome]:
        """List the next outcomes of some kinds, oldest first."""
        with self._catalogue.reading():
            wanted = (Event.id > number) & Event.kind.in_(list(kinds))
            events = list(Event.select().where(wanted).order_by(Event.id).limit(limit))
            ids = [event.image_id for event in events]
            found = cast("list[dict[str, Any]]", list(Image.select().where(Image.id.in_(ids)).dicts()))
            rows = {row["id"]: row for row in found}
        return [
            Outcome(event.id, event.image_id, event.at, event.kind, event.detail, rows.get(event.image_id))
            for event in events
        ]
