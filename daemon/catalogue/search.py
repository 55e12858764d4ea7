"""Finds images: pages for lists, by filters and full text, and by where their file is, was once, or should be."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from peewee import SQL, Expression, fn

from daemon.catalogue.database import Catalogue, read_rows, read_value
from daemon.catalogue.schema import (
    FINAL,
    CaptionStatus,
    Companion,
    Event,
    EventKind,
    Final,
    Image,
    ImageRow,
    Place,
    RawExif,
    Status,
    Tags,
)
from daemon.files.names import display

FileKind = Literal["image", "companion"]
ALL = -1
"""A limit that is none, as SQLite has it."""
_MAX_WORDS = 32
_BATCH = 500
# Sorting more takes longer than a walk along the dates mostly does, and than one along all of them at worst.
_FREQUENT = 5_000
# As the index `image_taken_order` has it.
_TAKEN_ORDER = "coalesce(image.taken_order, -1e12)"
_LAST_ORDER = "(SELECT coalesce(last.taken_order, -1e12) FROM image AS last WHERE last.id = ?)"


@dataclass(frozen=True)
class ImageQuery:
    """What to list: all conditions must hold.

    `text` is looked for in names, folders, cameras, lenses, captions, titles, keywords and text in the picture,
    `camera` in cameras alone. `rating` is a number of stars, or that and more. `taken_from` (inclusive) and `taken_to`
    (exclusive) are local times in ISO 8601. `before` is the id that the page ends at. `sort` is by what the newest are
    first: when they came, or when they were taken, which is `taken_utc` where known, else local time in this machine's
    zone; those without a date come last. Without a `status` what its owner took away is left out.

    `model` is a camera's name exactly, as `Facets` has it, `folder` one of the inbox and none of those in it, `month`
    ("2026-11") that of arrival or of the date taken, by `sort`. `at` is the id that the page begins with, `after` the
    one that it ends behind: then it holds those that are next newer.
    """

    status: Status | None = None
    text: str | None = None
    camera: str | None = None
    taken_from: str | None = None
    taken_to: str | None = None
    has_gps: bool | None = None
    rating: int | None = None
    rating_or_more: bool = False
    before: int | None = None
    model: str | None = None
    folder: str | None = None
    month: str | None = None
    captioned: bool | None = None
    caption_status: CaptionStatus | None = None
    at: int | None = None
    after: int | None = None
    sort: Literal["arrived", "taken"] = "arrived"


class Search:
    """Finds images for those who look for them. Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def page(self, query: ImageQuery, limit: int) -> list[ImageRow]:
        """Return the newest images that match, newest first; none where the one is gone that it was to go on behind."""
        with self._catalogue.reading():
            return self.images(self.ids(query, limit))

    def images(self, ids: Sequence[int]) -> list[ImageRow]:
        """Return some images in the order of their ids; those that are gone are left out."""
        found: list[ImageRow] = []
        with self._catalogue.reading():
            for start in range(0, len(ids), _BATCH):
                batch = ids[start : start + _BATCH]
                # As dictionaries: to make models of them first would take twice as long.
                rows = cast("list[dict[str, Any]]", list(Image.select().where(Image.id.in_(batch)).dicts()))
                by_id = {row["id"]: ImageRow(**row) for row in rows}
                found += [by_id[image_id] for image_id in batch if image_id in by_id]
        return found

    def image(self, image_id: int) -> ImageRow | None:
        """Return one image; None where there is none."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else ImageRow(**row.__data__)

    def first_of(self, month: str, sort: Literal["arrived", "taken"]) -> int | None:
        """Return the newest filed image of a month ("2026-11"), None where it has none."""
        found = self.ids(ImageQuery(status="done", month=month, sort=sort), 1)
        return found[0] if found else None

    def ids(self, query: ImageQuery, limit: int) -> list[int]:
        """Return the ids of a page, newest first; ALL is no limit."""
        with self._catalogue.reading():
            sql, parameters = _statement(query, limit, is_frequent=query.sort == "taken" and _is_frequent(query))
            found = [row[0] for row in Image.raw(sql, *parameters).tuples()]
        return found if query.after is None else found[::-1]

    def count(self, query: ImageQuery) -> int:
        """Count all images that match, as `ids` without a limit would return them."""
        # Their order is none of a number's, but for the months that are meant.
        sort = query.sort if query.month is not None else "arrived"
        with self._catalogue.reading():
            sql, parameters = _statement(replace(query, sort=sort), ALL)
            return int(read_value(f"SELECT count(*) FROM ({sql})", *parameters))  # noqa: S608

    def duplicates_of(self, image_id: int, limit: int) -> list[int]:
        """Return the ids of the images that came with the bytes of another one, oldest first."""
        same = Image.select(Image.id).where(Image.duplicate_of == image_id).order_by(Image.id).limit(limit)
        with self._catalogue.reading():
            return [row.id for row in same]

    def raw_exif(self, image_id: int) -> Tags:
        """Return every EXIF tag of an image."""
        with self._catalogue.reading():
            row = RawExif.get_or_none(RawExif.image_id == image_id)
        return {} if row is None else cast("Tags", row.tags)


@dataclass(frozen=True)
class HeldBytes:
    """An image that has certain bytes: filed (`path` is where in the library), or in the inbox.

    `size` in bytes and `mtime_ns` are those of the file as it was looked at last, `token` makes its hidden name.
    """

    sha256: str
    status: Literal["done", "queued", "processing"]
    path: str
    size: int | None
    mtime_ns: int | None
    token: str


class FileSearch:
    """Finds images by their files. Reads only; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def in_inbox(self, path: str) -> list[int]:
        """Return the id of the file that is in the inbox under a path."""
        return self._ids(Image.path == path)

    def at(self, place: Place, destination: str) -> list[int]:
        """Return the id of the file that was filed there."""
        return self._ids((Image.place == place) & (Image.destination == destination))

    def came_as(self, path: str) -> list[int]:
        """Return the ids of the images that came under a path of the inbox, whatever became of them."""
        came = (Event.kind == EventKind.QUEUED) & (Event.path == path)
        with self._catalogue.reading():
            rows = Event.select(Event.image_id).where(came).order_by(Event.image_id).distinct()
            return [row.image_id for row in rows]

    def named(self, name: str, limit: int = 20) -> list[int]:
        """Return the ids of the newest images that came under a name, in any folder."""
        return self._ids(fn.LOWER(Image.original_name) == display(name).lower())[-limit:]

    def holding(self, sha256s: Sequence[str]) -> list[HeldBytes]:
        """Return the images that have some of these bytes, in the library or in the inbox."""
        found: list[HeldBytes] = []
        with self._catalogue.reading():
            for start in range(0, len(sha256s), _BATCH):
                batch = sha256s[start : start + _BATCH]
                statement = _HOLDING.replace("()", f"({', '.join('?' * len(batch))})")
                found += read_rows(Image, HeldBytes, statement, *batch, *batch, *batch)
        return found

    def companion_at(self, place: Place, destination: str) -> list[int]:
        """Return the id of the image that a companion was filed beside, by where the companion lies."""
        return self._beside((Companion.place == place) & (Companion.destination == destination))

    def companion_named(self, name: str, folder: str | None = None, limit: int = 20) -> list[int]:
        """Return the ids of the newest images that a companion of a name came with, in any folder or in one."""
        named = fn.LOWER(Companion.original_name) == display(name).lower()
        return self._beside(named if folder is None else named & (Companion.folder == display(folder)))[-limit:]

    def ahead_of(self, image_id: int, now: float) -> int:
        """Count the images that are due and before this one in the queue."""
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


@dataclass(frozen=True)
class FiledFile:
    """One file that was filed. `image_id` is the image that it is or belongs to, `sha256` None where nobody knows.

    `folder` and `original_name` are those that it came with, `inode` and `ctime_ns` of the last walk of the library.
    `shown` is whether it has thumbnails: an image of a kind without a decoder has none.
    """

    kind: FileKind
    id: int
    image_id: int
    status: Final
    place: Place
    destination: str
    folder: str
    original_name: str
    sha256: str | None
    shown: bool
    size: int | None
    mtime_ns: int | None
    inode: int | None = None
    ctime_ns: int | None = None


# Each by an index of its own; few are ever in hand.
_HOLDING = """
SELECT sha256, status, destination AS path, size_bytes AS size, mtime_ns, '' AS token FROM image
 WHERE sha256 IN () AND status = 'done' AND destination IS NOT NULL
UNION ALL
SELECT sha256, status, path, size_bytes, mtime_ns, coalesce(token, '')
  FROM image INDEXED BY image_waiting_bytes
 WHERE sha256 IN () AND status = 'queued' AND sha256 IS NOT NULL AND path IS NOT NULL
UNION ALL
SELECT sha256, status, coalesce(path, ''), size_bytes, mtime_ns, coalesce(token, '') FROM image
 WHERE +sha256 IN () AND status = 'processing'
"""
# Each part by its own index; of copies and of failures there are few.
_OF_BYTES = """
SELECT * FROM image INDEXED BY image_filed_bytes
 WHERE sha256 IN (SELECT value FROM json_each(?)) AND status = 'done'
UNION ALL
SELECT * FROM image INDEXED BY image_removed_bytes
 WHERE sha256 IN (SELECT value FROM json_each(?)) AND status IN ('deleted', 'rejected')
UNION ALL
SELECT * FROM image WHERE status IN ('duplicate', 'failed') AND +sha256 IN (SELECT value FROM json_each(?))
UNION ALL
SELECT * FROM image WHERE filed_sha256 IN (SELECT value FROM json_each(?)) AND filed_sha256 IS NOT NULL
 AND +status = 'done'
"""


class Inventory:
    """What should lie in the folders. Reads only; any thread may call it."""

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

    def after(self, kind: FileKind, number: int, limit: int) -> list[FiledFile]:
        """Return the next files of a kind, by the ids of their rows."""
        with self._catalogue.reading():
            if kind == "image":
                images = Image.select().where(_filed() & (Image.id > number)).order_by(Image.id).limit(limit)
                return [_image(row) for row in images]
            rows = Companion.select().where(Companion.id > number).order_by(Companion.id).limit(limit)
            return [_companion(row) for row in rows]

    def one(self, kind: FileKind, number: int) -> FiledFile | None:
        """Return one file as its row has it now; None where it is no longer filed."""
        with self._catalogue.reading():
            if kind == "image":
                row = Image.get_or_none(_filed() & (Image.id == number))
                return None if row is None else _image(row)
            companion = Companion.get_or_none(Companion.id == number)
            return None if companion is None else _companion(companion)

    def beside(self, image_id: int) -> list[FiledFile]:
        """Return the files that came with an image, oldest first."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [_companion(row) for row in rows]

    def of_bytes(self, sha256s: Sequence[str]) -> list[ImageRow]:
        """Return the images that have one of some hashes, or had it before they were edited, whatever became of them.

        Not those that wait in the inbox.
        """
        hashes = json.dumps(list(sha256s))
        with self._catalogue.reading():
            return read_rows(Image, ImageRow, _OF_BYTES, hashes, hashes, hashes, hashes)

    def companions_of_bytes(self, sha256s: Sequence[str]) -> list[FiledFile]:
        """Return the companions that have one of some hashes, wherever they lie."""
        in_hashes = SQL("sha256 IN (SELECT value FROM json_each(?))", (json.dumps(list(sha256s)),))
        with self._catalogue.reading():
            rows = list(Companion.select().where(in_hashes))
        return [_companion(row) for row in rows]

    def in_inbox(self, paths: Sequence[str]) -> list[ImageRow]:
        """Return the images whose files have one of some names in the inbox."""
        found: list[ImageRow] = []
        with self._catalogue.reading():
            for start in range(0, len(paths), _BATCH):
                named = Image.path.in_(list(paths[start : start + _BATCH]))
                found += [ImageRow(**row.__data__) for row in Image.select().where(named)]
        return found

    def known(self, place: Place, paths: Sequence[str]) -> set[str]:
        """Return those of some hundred paths that a row knows, also one whose file is just on its way there."""
        images = (Image.place == place) & Image.destination.in_(list(paths))
        companions = (Companion.place == place) & Companion.destination.in_(list(paths))
        with self._catalogue.reading():
            found = {row.destination for row in Image.select(Image.destination).where(images)}
            return found | {row.destination for row in Companion.select(Companion.destination).where(companions)}


def _statement(query: ImageQuery, limit: int, *, is_frequent: bool = False) -> tuple[str, list[Any]]:
    """Return the query for the ids of a page, and its parameters.

    Each form walks one index in the order of ids, or of dates, but a range of dates, or words in the order of dates:
    their matches are sorted. Where the words are frequent that would take seconds: then the dates are walked instead.
    """
    match = " AND ".join(_match(query))
    # What few matches pass is told by the index of a status, from which nothing is looked up.
    is_narrow = query.status is not None and (query.status != "done" or _has_filters(query))
    conditions: list[str] = []
    parameters: list[Any] = [match] if match else []
    table, key = "image", "image.id"
    if match and ((query.sort == "taken" and is_frequent) or (query.sort == "arrived" and is_narrow)):
        table = f"image INDEXED BY {'image_taken_order' if query.sort == 'taken' else 'image_status'}"
        conditions.append("image.id IN (SELECT rowid FROM image_text WHERE image_text MATCH ?)")
    elif match:
        table, key = "image_text CROSS JOIN image ON image.id = image_text.rowid", "image_text.rowid"
        conditions.append("image_text MATCH ?")
    elif query.sort == "taken" and (query.month is None or query.status != "done"):
        # SQLite would rather take all of a status, and sort them.
        table = "image INDEXED BY image_taken_order"
    for condition, value in _conditions(query, key):
        conditions.append(condition)
        parameters += value
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    way = "DESC" if query.after is None else "ASC"
    order = f"{_TAKEN_ORDER} {way}, {key} {way}" if query.sort == "taken" else f"{key} {way}"
    return f"SELECT {key} FROM {table}{where} ORDER BY {order} LIMIT ?", [*parameters, limit]  # noqa: S608


def _is_frequent(query: ImageQuery) -> bool:
    """Return whether so many images have the words of a query that sorting them takes longer than any other way."""
    if not (match := " AND ".join(_match(query))):
        return False
    sql = "SELECT count(*) FROM (SELECT 1 FROM image_text WHERE image_text MATCH ? LIMIT ?)"
    [(n,)] = Image.raw(sql, match, _FREQUENT).tuples()
    return bool(n == _FREQUENT)


def _has_filters(query: ImageQuery) -> bool:
    filters = (query.has_gps, query.captioned, query.caption_status, query.folder, query.rating)
    return any(one is not None for one in filters)


def _conditions(query: ImageQuery, key: str) -> Iterator[tuple[str, list[Any]]]:
    for end, compared in ((query.before, "<"), (query.at, "<="), (query.after, ">")):
        if end is not None and query.sort == "taken":
            # The first of these alone is what SQLite looks up in the index.
            yield f"{_TAKEN_ORDER} {compared[0]}= {_LAST_ORDER}", [end]
            yield f"({_TAKEN_ORDER}, {key}) {compared} ({_LAST_ORDER}, ?)", [end, end]
        elif end is not None:
            yield f"{key} {compared} ?", [end]
    if query.month is not None and query.status == "done":
        # As the partial indexes have it: a parameter would not show SQLite that they hold all that is wanted.
        yield "image.status = 'done'", []
    if query.month is not None:
        yield f"substr(image.{'taken_at' if query.sort == 'taken' else 'arrived_on'}, 1, 7) = ?", [query.month]
    if query.model is not None:
        yield "coalesce(image.camera_model, image.camera_make) = ?", [query.model]
    if query.folder is not None:
        yield "image.folder = ?", [query.folder]
    if query.captioned is not None:
        # By its status, which the indexes have: a caption has none but this.
        yield f"image.caption_status {'=' if query.captioned else '<>'} 'done'", []
    if query.caption_status is not None:
        yield "image.caption_status = ?", [query.caption_status]
    if query.status is not None:
        yield "image.status = ?", [query.status]
    else:
        # What its owner took away is shown to who asks for it. The plus: no index of `status` is wanted for this.
        yield "+image.status NOT IN ('deleted', 'rejected')", []
    if query.taken_from is not None:
        yield "image.taken_at >= ?", [query.taken_from]
    if query.taken_to is not None:
        yield "image.taken_at < ?", [query.taken_to]
    if query.rating is not None:
        yield f"image.rating {'>=' if query.rating_or_more else '='} ?", [query.rating]
    if query.has_gps is not None:
        yield f"image.lat IS {'NOT ' if query.has_gps else ''}NULL", []


def _match(query: ImageQuery) -> Iterator[str]:
    if query.camera and (words := _words(query.camera)):
        yield f"{{camera_make camera_model}} : ({words})"
    if query.text and (words := _words(query.text)):
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


def _filed() -> Expression:
    final = Image.status.in_(list(FINAL.values()))
    return final & Image.place.is_null(False) & Image.destination.is_null(False)


def _image(row: Image) -> FiledFile:
    return FiledFile(
        kind="image",
        id=row.id,
        image_id=row.id,
        status=cast("Final", row.status),
        place=cast("Place", row.place),
        destination=row.destination or "",
        folder=row.folder,
        original_name=row.original_name,
        sha256=row.sha256,
        shown=row.width is not None,
        size=row.size_bytes,
        mtime_ns=row.mtime_ns,
        inode=row.inode if row.place == "library" else None,
        ctime_ns=row.ctime_ns,
    )


def _companion(row: Companion) -> FiledFile:
    return FiledFile(
        kind="companion",
        id=row.id,
        image_id=row.image_id,
        status="done",
        place=cast("Place", row.place),
        destination=row.destination or "",
        folder=row.folder,
        original_name=row.original_name,
        sha256=row.sha256,
        shown=False,
        size=row.size_bytes,
        mtime_ns=row.mtime_ns,
    )
