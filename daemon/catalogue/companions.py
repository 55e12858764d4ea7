"""What lies beside an image: its companions in the catalogue, and the rows behind its sidecar."""

from dataclasses import dataclass
from typing import Any, cast

from peewee import SQL

from daemon.catalogue.captions import Words
from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import (
    Cause,
    Companion,
    Event,
    EventKind,
    Image,
    ImageEvent,
    ImageRow,
    Job,
    Place,
    Status,
)
from daemon.errors import WaitingReason

# The index `image_original`; and as literals, or SQLite would not use the partial index `image_waiting_companion`.
_BETWEEN = "(original_name COLLATE NOCASE >= ? AND original_name COLLATE NOCASE < ?)"
_WAITS: Any = SQL(f"(status = 'queued' AND waiting = '{WaitingReason.PHOTO}')")

_CAPTION_COLUMNS = (
    *("caption", "keywords", "title", "visible_text", "caption_status", "caption_model", "caption_prompt"),
    *("tokens_in", "tokens_out", "captioned_at", "edited", "edited_at"),
)


@dataclass(frozen=True)
class Photo:
    """An image that a companion may belong to."""

    id: int
    name: str
    status: Status
    created_at: float
    place: Place | None
    destination: str | None
    duplicate_of: int | None


@dataclass(frozen=True)
class CompanionRow:
    """A file that was filed beside an image."""

    place: Place
    destination: str
    sha256: str


class CompanionRows:
    """The companions of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """Return the images that came from a folder under a stem, or `cut` one that begins so, newest first.

        Upper and lower case of ASCII letters make no difference.
        """
        first, end = (stem, stem + "\U0010ffff") if cut else (stem + ".", stem + "/")
        with self._catalogue.reading():
            named = (Image.folder == folder) & SQL(_BETWEEN, (first, end))
            rows = Image.select().where(named & Image.companion_of.is_null())
            return [_photo(row) for row in rows.order_by(Image.id.desc()).limit(1000)]

    def photo(self, image_id: int) -> Photo | None:
        """Return one image."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else _photo(row)

    def beside(self, image_id: int) -> list[CompanionRow]:
        """Return what was filed beside an image."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [CompanionRow(cast("Place", row.place), row.destination, row.sha256) for row in rows]

    def arrived(self, job: Job, now: float) -> None:
        """Note that a companion lies at its destination; its row of the queue stays until `forget`."""
        with self._catalogue.writing():
            mine = (Companion.place == job.place) & (Companion.destination == job.destination)
            if not Companion.select().where(mine).exists():
                row = Image.get_by_id(job.id)
                values = {name: getattr(row, name) for name in ("place", "destination", "sha256", "size_bytes")}
                names = {"original_name": row.original_name, "folder": row.folder}
                Companion.insert(image_id=job.companion_of, filed_at=now, **values, **names).execute()
                event = {"at": now, "kind": EventKind.COMPANION, "place": job.place, "path": job.destination}
                Event.insert(**event, image_id=job.id, cause=Cause.BESIDE, other_id=job.companion_of).execute()
                came = {"cause": Cause.CAME_WITH, "other_id": job.id, "text": row.original_name}
                Event.insert(**event, image_id=job.companion_of, **came).execute()
            changed = Image.update(sidecar_due=Image.sidecar_due + 1)
            changed.where((Image.id == job.companion_of) & (Image.place == job.place)).execute()

    def forget(self, image_id: int) -> None:
        """Remove a companion's row from the queue, once its inbox name is gone; its history stays."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == image_id).execute()

    def waiting(self, folder: str, prefix: str) -> list[tuple[int, str]]:
        """Return the companions that wait for a photo of a name that begins so: id and name."""
        named = (Image.folder == folder) & SQL(_BETWEEN, (prefix, prefix + "\U0010ffff"))
        rows = Image.select(Image.id, Image.original_name).where(named & _WAITS).tuples()
        with self._catalogue.reading():
            return cast("list[tuple[int, str]]", list(rows))

    def queued(self, folder: str, stem: str, suffix: str) -> list[tuple[str, str]]:
        """Return what is queued from a folder under names of a beginning and an end: path and name."""
        named = (Image.folder == folder) & SQL(_BETWEEN, (stem, stem + "\U0010ffff"))
        ends = SQL("original_name LIKE ?", (f"%{suffix}",))
        rows = (
            Image.select(Image.path, Image.original_name)
            .where(named & ends & (Image.status == "queued") & Image.path.is_null(False))
            .tuples()
        )
        with self._catalogue.reading():
            return cast("list[tuple[str, str]]", list(rows))

    def due(self, image_ids: list[int] | None, now: float) -> None:
        """Have companions looked at now; None stands for all that wait."""
        if image_ids == []:
            return
        these = _WAITS if image_ids is None else _WAITS & Image.id.in_(image_ids)
        with self._catalogue.writing():
            Image.update(not_before=now).where(these).execute()

    def waits(self) -> bool:
        """Return whether any companion waits."""
        with self._catalogue.reading():
            return bool(Image.select().where(_WAITS).exists())


@dataclass(frozen=True)
class SidecarSource:
    """What one sidecar is written from: the row, its history, and the XMP files that came with it, oldest first.

    The XMP files are relative to the library.
    """

    row: ImageRow
    history: tuple[ImageEvent, ...]
    packets: tuple[str, ...]


class SidecarRows:
    """The rows behind the sidecars of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def of(self, image_id: int, place: Place) -> SidecarSource | None:
        """Return what an image's sidecar is written from; None where it lies in another folder, or nowhere."""
        # Written out: peewee takes 2 ms to name all sixty columns.
        found = Image.raw("SELECT * FROM image WHERE id = ? AND place = ?", image_id, place)
        events = Event.select().where(Event.image_id == image_id).order_by(Event.id)
        beside = (Companion.image_id == image_id) & (Companion.place == "library")
        companions = Companion.select(Companion.destination).where(beside).order_by(Companion.id)
        with self._catalogue.reading():
            row, history, beside_it = next(iter(found), None), list(events), list(companions)
        if row is None:
            return None
        packets = [one.destination for one in beside_it if one.destination.lower().endswith(".xmp")]
        lines = tuple(ImageEvent(**event.__data__) for event in history)
        return SidecarSource(ImageRow(**row.__data__), lines, tuple(packets))

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
            Event.insert(image_id=image_id, at=now, kind=EventKind.EDITED, cause=Cause.SIDECAR).execute()

    def restore(self, image_id: int, known: ImageRow, now: float) -> None:
        """Take over a caption that the sidecar has kept and the catalogue has lost."""
        changes: dict[str, Any] = {name: getattr(known, name) for name in _CAPTION_COLUMNS}
        with self._catalogue.writing():
            Image.update(changes).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.CAPTIONED, cause=Cause.SIDECAR).execute()

    def written(self, image_id: int, changes: int) -> None:
        """Note that a sidecar shows a row as it was after so many changes; with more of them it stays due."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0).where((Image.id == image_id) & (Image.sidecar_due == changes)).execute()

    def skipped(self, image_id: int, reason: str, now: float) -> None:
        """Note why an image has no sidecar."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.SIDECAR, text=reason).execute()


def _photo(row: Image) -> Photo:
    return Photo(
        id=row.id,
        name=row.original_name,
        status=cast("Status", row.status),
        created_at=row.created_at,
        place=cast("Place | None", row.place),
        destination=row.destination,
        duplicate_of=row.duplicate_of,
    )
