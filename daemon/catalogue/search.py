"""Finds images for the web: pages by id that cost the same at any depth, filters, and full-text search."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from peewee import fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Event, Image, RawExif

_MAX_WORDS = 32


@dataclass(frozen=True)
class Wanted:
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

    def page(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
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


def _statement(wanted: Wanted, limit: int) -> tuple[str, list[Any]]:
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


def _conditions(wanted: Wanted, key: str) -> Iterator[tuple[str, list[Any]]]:
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


def _match(wanted: Wanted) -> Iterator[str]:
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
