"""Finds images by where their file is, or was once."""

from typing import Any, cast

from peewee import Expression, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Companion, Event, Image
from daemon.catalogue.rows import Place
from daemon.names import display


class Traces:
    """Reads only."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def row(self, image_id: int) -> dict[str, Any] | None:
        """Give an image's columns; None where there is no such row (any more)."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else dict(row.__data__)

    def in_inbox(self, path: str) -> list[int]:
        """Find the row of a file that is in the inbox, by its path from there."""
        return self._ids(Image.path == path)

    def at(self, place: Place, destination: str) -> list[int]:
        """Find the row of a file that was filed there."""
        return self._ids((Image.place == place) & (Image.destination == destination))

    def once(self, path: str) -> list[int]:
        """Find the images that came under a path of the inbox, whatever became of them."""
        lines = [f"{how} as {display(path)}" for how in ("found in the inbox", "uploaded")]
        came = (Event.kind == "queued") & Event.detail.in_(lines)
        with self._catalogue.reading():
            rows = Event.select(Event.image_id).where(came).order_by(Event.image_id).distinct()
            return [row.image_id for row in rows]

    def named(self, name: str, limit: int = 20) -> list[int]:
        """Find the newest images that came under a name, in any folder, or are filed under it."""
        ids = self._ids(fn.LOWER(Image.original_name) == display(name).lower())
        return sorted(ids)[-limit:]

    def companion_at(self, place: Place, destination: str) -> list[int]:
        """Find the image that a companion was filed beside, by where the companion lies."""
        return self._beside((Companion.place == place) & (Companion.destination == destination))

    def companion_named(self, name: str, folder: str | None = None, limit: int = 20) -> list[int]:
        """Find the newest images that a companion came with, by its name, in any folder of the inbox or in one."""
        named = fn.LOWER(Companion.original_name) == display(name).lower()
        return self._beside(named if folder is None else named & (Companion.folder == display(folder)))[-limit:]

    def companions(self, image_id: int) -> list[tuple[str, Place, str]]:
        """List what was filed beside an image: the name it came with, the place, the destination."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [(row.original_name, cast(Place, row.place), row.destination) for row in rows]

    def before(self, image_id: int, now: float) -> int:
        """Count the images that are due earlier than this one."""
        earlier = (Image.status == "queued") & (Image.not_before <= now) & (Image.id < image_id)
        with self._catalogue.reading():
            return int(Image.select().where(earlier).count())

    def _beside(self, condition: Expression) -> list[int]:
        with self._catalogue.reading():
            rows = Companion.select(Companion.image_id).where(condition).order_by(Companion.image_id).distinct()
            return [row.image_id for row in rows]

    def _ids(self, condition: Expression) -> list[int]:
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(condition).order_by(Image.id)]
