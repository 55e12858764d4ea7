"""What lies beside an image: its companions in the catalogue, and the rows behind its sidecar."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from peewee import SQL, Case, fn

from daemon.catalogue.captions import Words
from daemon.catalogue.database import CURRENT, Catalogue, read_rows
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
    RawExif,
    SidecarLook,
    Status,
)
from daemon.errors import WaitingReason
from daemon.files.names import IMAGE_SUFFIXES, spellings, split

# The index `image_original`; and as literals, or SQLite would not use the partial index `image_waiting_companion`.
_BETWEEN = "(original_name COLLATE NOCASE >= ? AND original_name COLLATE NOCASE < ?)"
_WAITS: Any = SQL(f"(status = 'queued' AND waiting = '{WaitingReason.PHOTO}')")
_AWAITS_JSON: Any = SQL(f"(status = 'queued' AND waiting = '{WaitingReason.TAKEOUT}')")
_QUEUED = (
    f"SELECT id, original_name AS name, path, created_at FROM image WHERE folder = ? AND {_BETWEEN}"  # noqa: S608
    " AND +status IN ('queued', 'processing') AND path IS NOT NULL AND original_name LIKE ? LIMIT 1000"
)
# Naming them counts: peewee takes 2 ms to write out all sixty of a row.
_PHOTO = "id original_name status created_at place destination duplicate_of waiting datetime_original".split()
_PHOTO_COLUMNS: tuple[Any, ...] = tuple(getattr(Image, name) for name in _PHOTO)

_CAPTION_COLUMNS = (
    *("caption", "keywords", "title", "visible_text", "caption_status", "caption_model", "caption_prompt"),
    *("tokens_in", "tokens_out", "captioned_at", "edited", "edited_at", "hierarchical_keywords", "rating", "label"),
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
    waiting: WaitingReason | None = None
    datetime_original: str | None = None


@dataclass(frozen=True)
class CompanionRow:
    """A file that was filed beside an image."""

    place: Place
    destination: str
    sha256: str


@dataclass(frozen=True)
class QueuedFile:
    """A file that waits in the inbox; `path` is relative to it."""

    id: int
    name: str
    path: str
    created_at: float


class CompanionRows:
    """The companions of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """Return the images that came from a folder under a stem, or `cut` one that begins so, newest first.

        Letter case and Unicode form make no difference.
        """
        found: dict[int, Photo] = {}
        with self._catalogue.reading():
            for one in spellings(stem):
                first, end = (one, one + "\U0010ffff") if cut else (one + ".", one + "/")
                named = (Image.folder == folder) & SQL(_BETWEEN, (first, end))
                rows = Image.select(*_PHOTO_COLUMNS).where(named & Image.companion_of.is_null())
                found |= {row.id: _photo(row) for row in rows.order_by(Image.id.desc()).limit(1000)}
        return [found[image_id] for image_id in sorted(found, reverse=True)]

    def related(self, folder: str, names: Sequence[str], stem: str) -> tuple[list[Photo], list[Photo]]:
        """Return the filed images that came from a folder under one of some names, and those that lie under a stem.

        The newest first; the stem is a path in the library, with any suffix behind it.
        """
        columns = ", ".join(_PHOTO).replace("original_name", "original_name AS name")
        select, last = f"SELECT {columns} FROM image WHERE", "ORDER BY +id DESC LIMIT 100"  # noqa: S608
        named = f"folder = ? AND original_name COLLATE NOCASE IN ({', '.join('?' * len(names))}) AND +status = 'done'"
        within = "place = 'library' AND destination >= ? AND destination < ?"
        with self._catalogue.reading():
            came = read_rows(Image, Photo, f"{select} {named} {last}", folder, *names)
            lie = read_rows(Image, Photo, f"{select} {within} {last}", f"{stem}.", f"{stem}/")
        return came, lie

    def queued(self, folder: str, begins: Iterable[str], suffix: str) -> list[QueuedFile]:
        """Return the files of a folder that are not filed yet, by what their names begin with and their suffix."""
        found: dict[int, QueuedFile] = {}
        with self._catalogue.reading():
            for first in (spelled for one in begins for spelled in spellings(one)):
                values = folder, first, first + "\U0010ffff", f"%{suffix}"
                found |= {row.id: row for row in read_rows(Image, QueuedFile, _QUEUED, *values)}
        return list(found.values())

    def photo(self, image_id: int) -> Photo | None:
        """Return one image."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else _photo(row)

    def own(self, sha256s: Collection[str]) -> int | None:
        """Return the image of the library that has, or was filed with, one of some hashes."""
        bytes_of = Image.sha256.in_(list(sha256s)) | Image.filed_sha256.in_(list(sha256s))
        with self._catalogue.reading():
            row = Image.select(Image.id).where(bytes_of & (Image.status == "done")).first()
        return None if row is None else int(row.id)

    def give_back(
        self, image_id: int, companion_id: int, known: ImageRow, history: Sequence[ImageEvent], now: float
    ) -> int:
        """Give an image what its own sidecar says of it, and the id that it had; return its id.

        `companion_id` is the row of that sidecar: an id that this has is free only once it goes. A person's words that
        the image has by now stay. The id of an image that is older than this one's arrival, or was given back itself,
        is not taken from it: then this one keeps its own.
        """
        with self._catalogue.writing():
            row = Image.get_by_id(image_id)
            before = (Event.image_id == image_id) & (Event.kind == EventKind.GIVEN_BACK)
            if Event.select().where(before & (Event.at >= row.created_at)).exists():
                return image_id  # by a process that was killed behind this
            Image.update(_said(row, known)).where(Image.id == image_id).execute()
            wanted = image_id
            is_free = known.id == companion_id or not Image.select().where(Image.id == known.id).exists()
            if known.id not in {0, image_id, companion_id} and (is_free or _may_leave(known.id, row)):
                wanted = known.id
            # What this catalogue still knows it to have been through need not be told it.
            is_known = is_free and Event.select().where(Event.image_id == known.id).exists()
            if wanted != image_id:
                _exchange(image_id, wanted, histories=not is_free)
            if known.id == companion_id or not is_known:
                _insert_before(history, wanted)
            event = {"at": now, "kind": EventKind.GIVEN_BACK, "other_id": known.id or None}
            Event.insert(image_id=wanted, **event).execute()
        return wanted

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
                kept = ("place", "destination", "sha256", "size_bytes", "mtime_ns")
                values = {name: getattr(row, name) for name in kept}
                names = {"original_name": row.original_name, "folder": row.folder}
                Companion.insert(image_id=job.companion_of, filed_at=now, **values, **names).execute()
                event = {"at": now, "kind": EventKind.COMPANION, "place": job.place, "path": job.destination}
                Event.insert(**event, image_id=job.id, cause=Cause.BESIDE, other_id=job.companion_of).execute()
                came = {"cause": Cause.CAME_WITH, "other_id": job.id, "text": row.original_name}
                Event.insert(**event, image_id=job.companion_of, **came).execute()
            changed = Image.update(sidecar_due=Image.sidecar_due + 1)
            changed.where((Image.id == job.companion_of) & (Image.place == job.place)).execute()

    def forget(self, companion_id: int, image_id: int) -> None:
        """Remove a companion's row from the queue, once its inbox name is gone; its history stays.

        Where that row has had the id that its image is to have back, the image gets it now.
        """
        given_back = (Event.image_id == image_id) & (Event.kind == EventKind.GIVEN_BACK)
        with self._catalogue.writing():
            Image.delete().where(Image.id == companion_id).execute()
            if Event.select().where(given_back & (Event.other_id == companion_id)).exists():
                _exchange(image_id, companion_id)
                # As its sidecar had it, and has it again.
                mine = (Event.image_id == companion_id) & (Event.kind == EventKind.GIVEN_BACK)
                Event.update(other_id=companion_id).where(mine & (Event.other_id == image_id)).execute()
                Image.update(sidecar_due=Image.sidecar_due + 1).where(Image.id == companion_id).execute()

    def waiting(self, folder: str, begins: Sequence[str]) -> list[tuple[int, str]]:
        """Return the companions that wait for a photo, of names that begin in one of some ways: id and name."""
        ranges = [bound for first in begins for bound in (first, first + "\U0010ffff")]
        named = " OR ".join([_BETWEEN] * len(begins))
        waiting = f"SELECT id, original_name FROM image WHERE folder = ? AND ({named}) AND {_WAITS.sql}"  # noqa: S608
        with self._catalogue.reading():
            return cast("list[tuple[int, str]]", CURRENT.execute_sql(waiting, (folder, *ranges)).fetchall())

    def due(self, image_ids: list[int], now: float) -> None:
        """Have companions looked at now."""
        if image_ids:
            with self._catalogue.writing():
                Image.update(not_before=now).where(_WAITS & Image.id.in_(image_ids)).execute()

    def due_photo(self, image_id: int, now: float) -> None:
        """Have a photo looked at now that waits for its JSON."""
        with self._catalogue.writing():
            Image.update(not_before=now).where(_AWAITS_JSON & (Image.id == image_id)).execute()

    def end_waits(self, now: float) -> bool:
        """Have all companions, and all photos that wait for one, looked at now; return whether there are any."""
        with self._catalogue.writing():
            counts = [Image.update(not_before=now).where(these).execute() for these in (_WAITS, _AWAITS_JSON)]
        return any(counts)


@dataclass(frozen=True)
class SidecarSource:
    """What one sidecar is written from: the row, its history, and the XMP and JSON files that came with it.

    The files are relative to the library, oldest first.
    """

    row: ImageRow
    history: tuple[ImageEvent, ...]
    packets: tuple[str, ...]
    takeouts: tuple[str, ...] = ()


class SidecarRows:
    """The rows behind the sidecars of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def of(self, image_id: int, place: Place) -> SidecarSource | None:
        """Return what an image's sidecar is written from; None where it lies in another folder, or nowhere."""
        beside = "SELECT destination FROM companion WHERE image_id = ? AND place = 'library' ORDER BY id"
        with self._catalogue.reading():
            rows = read_rows(Image, ImageRow, "SELECT * FROM image WHERE id = ? AND place = ?", image_id, place)
            if not rows:
                return None
            history = read_rows(Event, ImageEvent, "SELECT * FROM event WHERE image_id = ? ORDER BY id", image_id)
            companions = read_rows(Companion, Companion, beside, image_id)
        names = [companion.destination for companion in companions]
        packets = [name for name in names if name.lower().endswith(".xmp") and not _is_of_duplicate(name)]
        takeouts = [name for name in names if name.lower().endswith(".json")]
        return SidecarSource(rows[0], tuple(history), tuple(packets), tuple(takeouts))

    def history(self, image_id: int) -> list[ImageEvent]:
        """Return what happened to an image, oldest first."""
        events = Event.select().where(Event.image_id == image_id).order_by(Event.id)
        with self._catalogue.reading():
            return [ImageEvent(**event.__data__) for event in events]

    def adopt(
        self,
        image_id: int,
        words: Words,
        edited: str,
        now: float,
        *,
        emptied: Collection[str] = (),
        place: tuple[float, float] | None = None,
        takeout: str | None = None,
        cause: Cause = Cause.SIDECAR,
    ) -> None:
        """Take over a person's words from an XMP file; `edited` are the columns that no model changes any more.

        `emptied` are the columns whose words were taken out there. `place` is latitude and longitude, for an image that
        has none or another one; `takeout` the JSON of Google's that this is from instead, relative to the library.
        """
        changes: dict[str, Any] = {key: value for key, value in vars(words).items() if value or value == 0}
        changes |= dict.fromkeys(emptied)
        learned = [*changes, *(["place"] if place else [])]
        if place is not None:
            changes |= {"lat": place[0], "lon": place[1]}
        if edited:
            changes |= {"edited": edited, "edited_at": now}
        if "caption" in edited:
            changes |= {"caption_status": "done", "caption_wanted": None, "caption_error": None}
        with self._catalogue.writing():
            Image.update(changes).where(Image.id == image_id).execute()
            event: dict[str, Any] = {"cause": cause}
            if takeout is not None:
                event = {"cause": Cause.TAKEOUT, "place": "library", "path": takeout, "text": ", ".join(learned)}
            Event.insert(image_id=image_id, at=now, kind=EventKind.EDITED, **event).execute()

    def restore(self, image_id: int, known: ImageRow, now: float) -> None:
        """Take over a caption that the sidecar has kept and the catalogue has lost."""
        changes: dict[str, Any] = {name: getattr(known, name) for name in _CAPTION_COLUMNS}
        with self._catalogue.writing():
            Image.update(changes).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.CAPTIONED, cause=Cause.SIDECAR).execute()

    def written(self, image_id: int, changes: int, look: SidecarLook | None) -> None:
        """Note that a sidecar shows a row as it was after so many changes, and its look; with more it stays due."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0).where((Image.id == image_id) & (Image.sidecar_due == changes)).execute()
            Image.update(_looks(look)).where(Image.id == image_id).execute()

    def lies_at(self, image_id: int, destination: str) -> bool:
        """Return whether an image of the library lies under a path."""
        with self._catalogue.reading():
            here = (Image.place == "library") & (Image.destination == destination)
            return bool(Image.select().where(here & (Image.id == image_id)).exists())

    def skipped(self, image_id: int, reason: str, now: float, look: SidecarLook | None = None) -> None:
        """Note why an image has no sidecar, and the look of what lies in its place."""
        with self._catalogue.writing():
            Image.update(sidecar_due=0, **_looks(look)).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.SIDECAR, text=reason).execute()


# How long before a photo another one may have come that is of the same move, with ids that nobody knows yet.
_MOVE_SECONDS = 3600.0


def _said(row: Image, known: ImageRow) -> dict[str, Any]:
    """Return what an image's row learns of its own sidecar."""
    changes: dict[str, Any] = {"sidecar_due": Image.sidecar_due + 1}
    if not row.edited:
        changes |= {name: value for name in _CAPTION_COLUMNS if (value := getattr(known, name)) is not None}
        if known.caption_status in {"off", "pending"}:
            del changes["caption_status"]
    return changes


def _may_leave(wanted: int, row: Image) -> bool:
    """Return whether the image that has an id may get another: a file of the inbox that came with this one."""
    other = Image.get_by_id(wanted)
    came_together = abs(other.created_at - row.created_at) <= _MOVE_SECONDS
    if other.source != "inbox" or not came_together or other.status not in {"queued", "done"}:
        return False
    given_back = (Event.image_id == wanted) & (Event.kind == EventKind.GIVEN_BACK)
    return not Event.select().where(given_back & (Event.at >= other.created_at)).exists()


def _insert_before(history: Sequence[ImageEvent], image_id: int) -> None:
    """Write events before all of this catalogue: they are older, and no news to those who follow the feed."""
    first = min(0, int(Event.select(fn.MIN(Event.id)).scalar() or 0))
    for number, event in enumerate(history):
        columns = {key: value for key, value in vars(event).items() if key not in {"id", "image_id"}}
        Event.insert(id=first - len(history) + number, image_id=image_id, **columns).execute()


def _exchange(one: int, other: int, *, histories: bool = True) -> None:
    """Let two ids change their images, one of which may be free; within a transaction.

    Without `histories` the second keeps its own, which is of the same image, as is whatever speaks of it; and it gets
    that of the first as well.
    """
    ids = [one, other]

    def swapped(column: Any) -> Any:
        return Case(column, [(one, other), (other, one)] if histories else [(one, other)], column)

    rows = [row.__data__ for row in Image.select().where(Image.id.in_(ids))]
    # Not an update: the index of words and the counts listen to what comes and goes.
    Image.delete().where(Image.id.in_(ids)).execute()
    for row in rows:
        Image.insert({**row, "id": other if row["id"] == one else one}).execute()
    tags = [row.__data__ for row in RawExif.select().where(RawExif.image_id.in_(ids))]
    RawExif.delete().where(RawExif.image_id.in_(ids)).execute()
    for row in tags:
        RawExif.insert({**row, "image_id": other if row["image_id"] == one else one}).execute()
    for model, column in (
        *((Event, Event.image_id), (Event, Event.other_id), (Companion, Companion.image_id)),
        *((Image, Image.duplicate_of), (Image, Image.companion_of)),
    ):
        model.update({column: swapped(column)}).where(column.in_(ids)).execute()


def _looks(look: SidecarLook | None) -> dict[str, Any]:
    """Return the columns that keep a sidecar's look."""
    size, mtime_ns = (None, None) if look is None else (look.size, look.mtime_ns)
    return {"sidecar_size": size, "sidecar_mtime_ns": mtime_ns}


def _is_of_duplicate(name: str) -> bool:
    """Return whether an XMP file is of one of darktable's duplicates, NAME_01.EXT.xmp: edits of their own."""
    return split(name[: -len(".xmp")])[1].lower() in IMAGE_SUFFIXES


def _photo(row: Image) -> Photo:
    return Photo(
        id=row.id,
        name=row.original_name,
        status=cast("Status", row.status),
        created_at=row.created_at,
        place=cast("Place | None", row.place),
        destination=row.destination,
        duplicate_of=row.duplicate_of,
        waiting=row.waiting,
        datetime_original=row.datetime_original,
    )
