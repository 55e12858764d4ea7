"""Finds images: pages for lists, filters and full text, and by where a file is or was once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from peewee import Expression, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Companion, Event, Image, Place, RawExif
from daemon.files.names import display

_MAX_WORDS = 32


@dataclass(frozen=True)
class ImageQuery:
    """What to list: all conditions must hold.

    `text` is looked for in names, folders, captions, keywords and cameras, `camera` in cameras alone; `taken_from`
    (inclusive) and `taken_to` (exclusive) are local times in ISO 8601. `before` is the id that the page ends at.
    """

    status: str | None = None
    text: str | None = None
    camera: str | None = None
    taken_from: str | None = None
    taken_to: str | None = None
    has_gps: bool | None = None
    before: int | None = None


@dataclass(frozen=True)
class Usage:
    """What captions have cost so far."""

    requests: int
    tokens_in: int
    tokens_out: int


class Search:
    """Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def page(self, wanted: ImageQuery, limit: int) -> list[dict[str, Any]]:
        """Give the newest images that are wanted, newest first, each a row's values."""
        sql, parameters = _statement(wanted, limit)
        with self._catalogue.reading():
            ids = [row[0] for row in Image.raw(sql, *parameters).tuples()]
            rows = Image.select().where(Image.id.in_(ids)).order_by(Image.id.desc()).dicts()
            return [cast("dict[str, Any]", row) for row in rows]

    def image(self, image_id: int) -> dict[str, Any] | None:
        """Give one row's values; None where there is none."""
        with self._catalogue.reading():
            return cast("dict[str, Any] | None", Image.select().where(Image.id == image_id).dicts().first())

    def raw_exif(self, image_id: int) -> dict[str, Any]:
        """Give every EXIF tag of an image."""
        with self._catalogue.reading():
            row = RawExif.get_or_none(RawExif.image_id == image_id)
        return {} if row is None else cast("dict[str, Any]", row.tags)

    def last_event(self) -> int:
        """Give the number of the newest line of any image's history; 0 where there is none."""
        with self._catalogue.reading():
            return int(Event.select(fn.MAX(Event.id)).scalar() or 0)

    def events(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Give the lines of history that follow a number, oldest first, with the status that the image has now."""
        with self._catalogue.reading():
            lines = list(Event.select().where(Event.id > after).order_by(Event.id).limit(limit))
            ids = {line.image_id for line in lines}
            status = {row.id: row.status for row in Image.select(Image.id, Image.status).where(Image.id.in_(ids))}
        return [
            {
                "number": line.id,
                "image_id": line.image_id,
                "at": line.at,
                "event": line.kind,
                "detail": line.detail,
                "status": status.get(line.image_id),
            }
            for line in lines
        ]

    def oldest_waiting(self) -> float | None:
        """Tell when the image that has waited for longest came in; None when none waits."""
        with self._catalogue.reading():
            row = Image.select(Image.created_at).where(Image.status == "queued").order_by(Image.id).first()
        return None if row is None else float(row.created_at)

    def captions(self) -> dict[str, int]:
        """Count the filed images by caption status."""
        with self._catalogue.reading():
            rows = Image.raw("SELECT status, n FROM caption_tally ORDER BY status").tuples()
            return dict(cast(Any, rows))

    def caption_usage(self) -> Usage:
        """Tell what captions have cost since the catalogue began."""
        with self._catalogue.reading():
            row = next(iter(Image.raw("SELECT requests, tokens_in, tokens_out FROM caption_usage").tuples()))
        return Usage(*row)

    def finished(self, after: float) -> list[tuple[float, int]]:
        """List when images became final after a moment, and the milliseconds that each took."""
        recent = Image.select(Image.processed_at, Image.processing_ms).where(Image.processed_at > after)
        with self._catalogue.reading():
            rows = cast("list[tuple[float, int | None]]", list(recent.order_by(Image.processed_at).tuples()))
        return [(at, milliseconds or 0) for at, milliseconds in rows]


def _statement(wanted: ImageQuery, limit: int) -> tuple[str, list[Any]]:
    """Write the query for the ids of a page.

    Each form walks one index in the order of ids, but a range of dates: its matches are sorted, which the index
    is enough for.
    """
    match = " AND ".join(_match(wanted))
    conditions, parameters = ([], []) if not match else (["image_text MATCH ?"], [match])
    key = "image_text.rowid" if match else "image.id"
    for condition, value in _conditions(wanted, key):
        conditions.append(condition)
        parameters += value
    table = "image_text CROSS JOIN image ON image.id = image_text.rowid" if match else "image"
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {key} FROM {table}{where} ORDER BY {key} DESC LIMIT ?", [*parameters, limit]  # noqa: S608


def _conditions(wanted: ImageQuery, key: str) -> Iterator[tuple[str, list[Any]]]:
    if wanted.before is not None:
        yield f"{key} < ?", [wanted.before]
    if wanted.status is not None:
        yield "image.status = ?", [wanted.status]
    if wanted.taken_from is not None:
        yield "image.taken_at >= ?", [wanted.taken_from]
    if wanted.taken_to is not None:
        yield "image.taken_at < ?", [wanted.taken_to]
    if wanted.has_gps is not None:
        yield f"image.lat IS {'NOT ' if wanted.has_gps else ''}NULL", []


def _match(wanted: ImageQuery) -> Iterator[str]:
    if wanted.camera and (words := _words(wanted.camera)):
        yield f"{{camera_make camera_model}} : ({words})"
    if wanted.text and (words := _words(wanted.text)):
        yield f"({words})"


def _words(text: str) -> str:
    """Quote people's words for FTS5: all must occur, the last may be a beginning ("img_12").

    Quoted, nothing is an operator; FTS5 itself cuts "IMG_1234" into words that follow each other.
    """
    words = text.replace("\0", " ").split()[:_MAX_WORDS]
    quoted = ['"' + word.replace('"', '""') + '"' for word in words]
    # One letter begins too many words to be worth the time.
    if words and words[-1][-1].isalnum() and words[-1][-2:].isalnum() and len(words[-1]) > 1:
        quoted[-1] += " *"
    return " ".join(quoted)


class FileSearch:
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


Kind = Literal["image", "companion"]
_FINAL = ("done", "duplicate", "failed")


@dataclass(frozen=True)
class Filed:
    """One file that was filed. `image_id` is the image that it is or belongs to, `sha256` None where nobody knows.

    `folder` and `original_name` are those that it came with.
    """

    kind: Kind
    id: int
    image_id: int
    status: str
    place: Place
    destination: str
    folder: str
    original_name: str
    sha256: str | None
    mtime_ns: int | None


class Inventory:
    """Reads only."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def total(self) -> tuple[int, int]:
        """Count the filed files and their bytes."""
        with self._catalogue.reading():
            sums = [
                Image.select(fn.COUNT(Image.id), fn.SUM(Image.size_bytes)).where(_filed()).tuples().first(),
                Companion.select(fn.COUNT(Companion.id), fn.SUM(Companion.size_bytes)).tuples().first(),
            ]
        return sum(one[0] for one in sums), sum(one[1] or 0 for one in sums)

    def after(self, kind: Kind, number: int, limit: int) -> list[Filed]:
        """List the next files of a kind, by the ids of their rows."""
        with self._catalogue.reading():
            if kind == "image":
                images = Image.select().where(_filed() & (Image.id > number)).order_by(Image.id).limit(limit)
                return [_image(row) for row in images]
            rows = Companion.select().where(Companion.id > number).order_by(Companion.id).limit(limit)
            return [_companion(row) for row in rows]

    def one(self, kind: Kind, number: int) -> Filed | None:
        """Give one file as its row has it now; None where it is no longer filed."""
        with self._catalogue.reading():
            if kind == "image":
                row = Image.get_or_none(_filed() & (Image.id == number))
                return None if row is None else _image(row)
            companion = Companion.get_or_none(Companion.id == number)
            return None if companion is None else _companion(companion)

    def beside(self, image_id: int) -> list[Filed]:
        """List the files that came with an image."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [_companion(row) for row in rows]

    def known(self, place: Place, paths: Sequence[str]) -> set[str]:
        """Pick those of some hundred paths that a row knows, also one whose file is just on its way there."""
        images = (Image.place == place) & Image.destination.in_(list(paths))
        companions = (Companion.place == place) & Companion.destination.in_(list(paths))
        with self._catalogue.reading():
            found = {row.destination for row in Image.select(Image.destination).where(images)}
            return found | {row.destination for row in Companion.select(Companion.destination).where(companions)}


def _filed() -> Expression:
    return Image.status.in_(_FINAL) & Image.place.is_null(False) & Image.destination.is_null(False)


def _image(row: Image) -> Filed:
    place = cast(Place, row.place)
    return Filed(
        "image",
        row.id,
        row.id,
        row.status,
        place,
        row.destination or "",
        row.folder,
        row.original_name,
        row.sha256,
        row.mtime_ns,
    )


def _companion(row: Companion) -> Filed:
    place = cast(Place, row.place)
    return Filed(
        "companion",
        row.id,
        row.image_id,
        "done",
        place,
        row.destination or "",
        row.folder,
        row.original_name,
        row.sha256,
        None,
    )
