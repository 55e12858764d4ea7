"""Writes lost rows anew under the ids that they had."""

from collections.abc import Sequence
from typing import Any

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import (
    Cause,
    Companion,
    Event,
    EventKind,
    Image,
    ImageEvent,
    ImageRow,
    Place,
    RawExif,
    Tags,
)


class Restore:
    """The rows of one catalogue that is being made anew."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def count(self) -> int:
        """Count the images that there are."""
        with self._catalogue.reading():
            return int(Image.select().count())

    def has(self, place: Place, destination: str) -> bool:
        """Return whether a file has its row already."""
        here = (Image.place == place) & (Image.destination == destination)
        beside = (Companion.place == place) & (Companion.destination == destination)
        with self._catalogue.reading():
            return bool(Image.select().where(here).exists() or Companion.select().where(beside).exists())

    def is_free(self, image_id: int) -> bool:
        """Return whether no image has an id."""
        with self._catalogue.reading():
            return not Image.select().where(Image.id == image_id).exists()

    def filed(self, sha256: str) -> int | None:
        """Return the id of the image of the library that has these bytes."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.sha256 == sha256) & (Image.status == "done"))
        return None if row is None else row.id

    def restore(self, row: ImageRow, history: Sequence[ImageEvent], raw: Tags | None) -> int:
        """Write one image, its EXIF and its history; with the id 0 it gets the next one. Return its id."""
        values: dict[str, Any] = {key: value for key, value in vars(row).items() if key != "id"}
        values["captioned_at"] = None
        with self._catalogue.writing():
            if row.id == 0:
                image_id = int(Image.insert(values).execute())
            else:
                image_id = row.id
                Image.insert({**values, "id": image_id}).execute()
            # An update, not the insert: the triggers that count what captions cost listen to that.
            Image.update(captioned_at=row.captioned_at).where(Image.id == image_id).execute()
            if raw:
                RawExif.replace(image_id=image_id, tags=raw).execute()
            for event in history:
                columns = {key: value for key, value in vars(event).items() if key != "id"}
                Event.insert({**columns, "image_id": image_id}).execute()
        return image_id

    def removed(self, sha256: str, at: float, rejected: bool, image_id: int, name: str) -> bool:
        """Write an image of which nothing is left but that its owner took it away; False where its bytes have a row."""
        status = "rejected" if rejected else "deleted"
        row = {"status": status, "sha256": sha256, "original_name": name, "removed_at": at, "folder": ""}
        row |= {"created_at": at, "not_before": at, "processed_at": at, "source": "inbox", "attempts": 1}
        with self._catalogue.writing():
            if Image.select().where((Image.sha256 == sha256) & Image.status.in_(["done", "rejected"])).exists():
                return False
            is_free = not Image.select().where(Image.id == image_id).exists()
            number = int(Image.insert({**row, **({"id": image_id} if is_free else {})}).execute())
            where = {"place": "library", "path": name}
            Event.insert(image_id=number, at=at, kind=EventKind(status), **where).execute()
        return True

    def came_with(self, place: Place, path: str) -> tuple[int, str] | None:
        """Return which image a file came with, and under which name, as the histories have it."""
        came = (Event.kind == EventKind.COMPANION) & (Event.cause == Cause.CAME_WITH)
        with self._catalogue.reading():
            event = Event.get_or_none(came & (Event.place == place) & (Event.path == path))
        return None if event is None else (event.image_id, event.text or "")

    def companion(self, place: Place, path: str, image_id: int, name: str, sha256: str, size: int, at: float) -> None:
        """Write the row of a file that came with an image."""
        with self._catalogue.writing():
            image = Image.get_or_none(Image.id == image_id)
            Companion.insert(
                place=place,
                destination=path,
                image_id=image_id,
                original_name=name,
                folder="" if image is None else image.folder,
                sha256=sha256,
                size_bytes=size,
                filed_at=at,
            ).execute()
            # What its JSON knows of its place stands nowhere else.
            due = Image.update(sidecar_due=Image.sidecar_due + 1)
            due.where((Image.id == image_id) & (Image.place == place)).execute()
