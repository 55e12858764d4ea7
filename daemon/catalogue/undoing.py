"""Takes images out of the catalogue again, all that belongs to one in one transaction."""

from collections.abc import Sequence
from typing import Any

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Companion, Image, RawExif, Setting
from daemon.catalogue.rows import record

JOURNAL = "undo"


class Undoing:
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
