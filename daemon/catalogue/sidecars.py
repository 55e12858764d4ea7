"""What the sidecars are written from, and the words that they bring into the catalogue."""

from collections.abc import Mapping
from typing import Any

from daemon.catalogue.captions import Words
from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Companion, Event, Image
from daemon.catalogue.rows import Place, record


class SidecarRows:
    """The rows behind the sidecars of one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def row(self, image_id: int) -> dict[str, Any] | None:
        """Give an image's columns and its history; None where it lies in no library."""
        return self._row(image_id, "library")

    def duplicate(self, image_id: int) -> dict[str, Any] | None:
        """Give the same of an image that is a duplicate; None where it is none, or was deleted."""
        return self._row(image_id, "duplicates")

    def _row(self, image_id: int, place: Place) -> dict[str, Any] | None:
        with self._catalogue.reading():
            # Written out: peewee takes 2 ms to name all sixty columns.
            found = Image.raw("SELECT * FROM image WHERE id = ? AND place = ?", image_id, place)
            row = next(iter(found), None)
            events = Event.select().where(Event.image_id == image_id).order_by(Event.id)
            history = [(event.at, event.kind, event.detail) for event in events]
        return None if row is None else {**row.__data__, "history": history}

    def packets(self, image_id: int) -> list[str]:
        """List the XMP files that came with an image, relative to the library, oldest first."""
        beside = (Companion.image_id == image_id) & (Companion.place == "library")
        with self._catalogue.reading():
            rows = Companion.select(Companion.destination).where(beside).order_by(Companion.id)
            return [row.destination for row in rows if row.destination.lower().endswith(".xmp")]

    def adopt(self, image_id: int, words: Words, edited: str, now: float) -> None:
        """Take over a person's words from an XMP file; `edited` are the columns that no model changes any more."""
        given = {"caption": words.caption, "keywords": words.keywords, "title": words.title}
        changes: dict[str, Any] = {key: value for key, value in given.items() if value}
        if edited:
            changes |= {"edited": edited, "edited_at": now}
        if "caption" in edited:
            changes |= {"caption_status": "done", "caption_wanted": None, "caption_error": None}
        with self._catalogue.writing():
            Image.update(changes).where(Image.id == image_id).execute()
            record(image_id, now, "edited", "words of a person, out of an XMP file")

    def restore(self, image_id: int, columns: Mapping[str, Any], now: float) -> None:
        """Take over a caption that the sidecar has kept and the catalogue has lost."""
        with self._catalogue.writing():
            Image.update(dict(columns)).where(Image.id == image_id).execute()
            record(image_id, now, "captioned", "as its sidecar has it")

    def written(self, image_id: int, changes: int) -> None:
        """Note that a sidecar shows a row as it was after so many changes; with more of them it stays due."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0).where((Image.id == image_id) & (Image.sidecar_due == changes)).execute()

    def skipped(self, image_id: int, reason: str, now: float) -> None:
        """Note why an image has no sidecar."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0).where(Image.id == image_id).execute()
            record(image_id, now, "sidecar", reason)
