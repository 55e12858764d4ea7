"""Writes lost rows anew under the ids that they had, and takes images out again."""

from collections.abc import Mapping, Sequence
from typing import Any

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Companion, Event, Image, Place, RawExif, Setting, record
from daemon.files.names import display

_NOT_COLUMNS = ("history", "id")


class Restore:
    """The rows of one catalogue that is being made anew."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def count(self) -> int:
        """Count the images that there are."""
        with self._catalogue.reading():
            return int(Image.select().count())

    def has(self, place: Place, destination: str) -> bool:
        """Tell whether a file has its row already."""
        here = (Image.place == place) & (Image.destination == destination)
        beside = (Companion.place == place) & (Companion.destination == destination)
        with self._catalogue.reading():
            return bool(Image.select().where(here).exists() or Companion.select().where(beside).exists())

    def is_free(self, image_id: int) -> bool:
        """Tell whether no image has an id."""
        with self._catalogue.reading():
            return not Image.select().where(Image.id == image_id).exists()

    def filed(self, sha256: str) -> int | None:
        """Find the image of the library that has these bytes."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.sha256 == sha256) & (Image.status == "done"))
        return None if row is None else row.id

    def restore(
        self,
        image_id: int | None,
        columns: Mapping[str, Any],
        history: Sequence[tuple[float, str, str]],
        raw: Mapping[str, Any] | None,
    ) -> int:
        """Write one image, its EXIF and its history; without an id it gets the next one. Returns the id."""
        values = {key: value for key, value in columns.items() if key not in _NOT_COLUMNS}
        with self._catalogue.writing():
            if image_id is None:
                image_id = int(Image.insert(values).execute())
            else:
                Image.insert({**values, "id": image_id}).execute()
            # An update, not the insert: the triggers that count what captions cost listen to that.
            Image.update(captioned_at=columns.get("captioned_at")).where(Image.id == image_id).execute()
            if raw:
                RawExif.replace(image_id=image_id, tags=raw).execute()
            for at, kind, detail in history:
                record(image_id, at, kind, detail)
        return image_id

    def came_with(self, place: Place, path: str) -> tuple[int, str] | None:
        """Find in the histories which image a file came with, and under which name."""
        end = f" came with it: {place}/{display(path)}"
        with self._catalogue.reading():
            lines = Event.select().where((Event.kind == "companion") & Event.detail.endswith(end))
            for line in lines:
                if line.detail.endswith(end):  # LIKE knows no upper and lower case
                    return line.image_id, line.detail.removesuffix(end)
        return None

    def companion(self, place: Place, path: str, columns: Mapping[str, Any]) -> None:
        """Write the row of a file that came with an image."""
        with self._catalogue.writing():
            Companion.insert(place=place, destination=path, **columns).execute()

    def folder_of(self, image_id: int) -> str:
        """Give the subfolder of the inbox that an image came from."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return "" if row is None else row.folder


JOURNAL = "undo"


class UndoRows:
    """The rows behind `undo`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def since(self, moment: float) -> list[int]:
        """List the ids of all that was filed into library or duplicates since then (seconds since 1970)."""
        filed = Image.status.in_(["done", "duplicate"]) & Image.destination.is_null(False)
        with self._catalogue.reading():
            rows = Image.select(Image.id).where(filed & (Image.processed_at >= moment)).order_by(Image.id)
            return [row.id for row in rows]

    def take_out(self, image_id: int, detail: str, now: float, journal: dict[str, Any]) -> None:
        """Remove an image and what came with it; its history stays, and `journal` says what is still to do."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == image_id).execute()
            RawExif.delete().where(RawExif.image_id == image_id).execute()
            Companion.delete().where(Companion.image_id == image_id).execute()
            record(image_id, now, "undone", detail)
            twins = [row.id for row in Image.select(Image.id).where(Image.duplicate_of == image_id)]
            for twin in twins:
                record(twin, now, "original gone", f"its original, image {image_id}, was moved out again")
            Image.update(duplicate_of=None).where(Image.duplicate_of == image_id).execute()
            Setting.replace(key=JOURNAL, value=journal).execute()

    def still_used(self, sha256s: Sequence[str]) -> set[str]:
        """Tell which bytes other images have too: their thumbnails stay."""
        with self._catalogue.reading():
            rows = Image.select(Image.sha256).where(Image.sha256.in_(list(sha256s))).distinct()
            return {row.sha256 for row in rows if row.sha256}
