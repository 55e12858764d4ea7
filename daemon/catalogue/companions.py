"""What lies beside an image: its companions in the catalogue, and the rows behind its sidecar."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from peewee import SQL

from daemon.catalogue.captions import Words
from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Companion, Event, Image, Job, Place, record
from daemon.files.names import display

WAITING = "waiting for its photo"

# The index `image_original`; and as literals, or SQLite would not use the partial index `image_lonely`.
_BETWEEN = "(original_name COLLATE NOCASE >= ? AND original_name COLLATE NOCASE < ?)"
_WAITS: Any = SQL(f"(status = 'queued' AND waiting = '{WAITING}')")


@dataclass(frozen=True)
class Photo:
    """An image that a companion may belong to."""

    id: int
    name: str
    status: str
    created_at: float
    place: Place | None
    destination: str | None
    duplicate_of: int | None


class CompanionRows:
    """The companions of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """List images that came from a subfolder of the inbox under a stem, or `cut` one that begins so, newest first.

        Upper and lower case of ASCII letters make no difference.
        """
        first, end = (stem, stem + "\U0010ffff") if cut else (stem + ".", stem + "/")
        with self._catalogue.reading():
            named = (Image.folder == folder) & SQL(_BETWEEN, (first, end))
            rows = Image.select().where(named & Image.companion_of.is_null())
            return [_photo(row) for row in rows.order_by(Image.id.desc()).limit(1000)]

    def photo(self, image_id: int) -> Photo | None:
        """Give one image."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else _photo(row)

    def beside(self, image_id: int) -> list[tuple[Place, str, str]]:
        """List what was filed beside an image: place, destination and SHA-256."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [(cast("Place", row.place), row.destination, row.sha256) for row in rows]

    def arrived(self, job: Job, now: float) -> None:
        """Note that a companion lies at its destination; its row of the queue stays until `forget`."""
        with self._catalogue.writing():
            mine = (Companion.place == job.place) & (Companion.destination == job.destination)
            if not Companion.select().where(mine).exists():
                row = Image.get_by_id(job.id)
                values = {name: getattr(row, name) for name in ("place", "destination", "sha256", "size_bytes")}
                names = {"original_name": row.original_name, "folder": row.folder}
                Companion.insert(image_id=job.companion_of, filed_at=now, **values, **names).execute()
                where = f"{job.place}/{display(str(job.destination))}"
                record(job.id, now, "companion", f"filed beside image {job.companion_of}: {where}")
                record(cast(int, job.companion_of), now, "companion", f"{row.original_name} came with it: {where}")
            changed = Image.update(sidecar_due=Image.sidecar_due + 1)
            changed.where((Image.id == job.companion_of) & (Image.place == job.place)).execute()

    def forget(self, image_id: int) -> None:
        """Remove a companion's row from the queue, once its inbox name is gone; its history stays."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == image_id).execute()

    def waiting(self, folder: str, prefix: str) -> list[tuple[int, str]]:
        """List the companions that wait for a photo of a name that begins so: id and name."""
        named = (Image.folder == folder) & SQL(_BETWEEN, (prefix, prefix + "\U0010ffff"))
        with self._catalogue.reading():
            rows = Image.select(Image.id, Image.original_name).where(named & _WAITS)
            return [(row.id, row.original_name) for row in rows]

    def due(self, image_ids: list[int] | None, now: float) -> None:
        """Have companions looked at now; None stands for all that wait."""
        if image_ids == []:
            return
        these = _WAITS if image_ids is None else _WAITS & Image.id.in_(image_ids)
        with self._catalogue.writing():
            Image.update(not_before=now).where(these).execute()

    def waits(self) -> bool:
        """Tell whether any companion waits."""
        with self._catalogue.reading():
            return bool(Image.select().where(_WAITS).exists())


def _photo(row: Image) -> Photo:
    return Photo(
        id=row.id,
        name=row.original_name,
        status=row.status,
        created_at=row.created_at,
        place=cast("Place | None", row.place),
        destination=row.destination,
        duplicate_of=row.duplicate_of,
    )


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
