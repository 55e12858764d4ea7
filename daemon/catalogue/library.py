"""The rows behind following the library: what should lie there, and what its owner has done with it."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from peewee import SQL

from daemon.catalogue.database import CURRENT, Catalogue, FilenameField
from daemon.catalogue.schema import (
    REMOVED,
    CaptionStatus,
    Companion,
    Event,
    EventKind,
    Facts,
    Image,
    ImageEvent,
    ImageRow,
    RawExif,
    SidecarLook,
    Status,
    Tags,
)

LibraryKind = Literal["image", "companion"]
_KINDS: tuple[LibraryKind, ...] = ("image", "companion")
_BATCH = 2000
_filename = FilenameField()
# In the order of paths, of which each table has an index. What is no UTF-8 is a blob to SQLite, and comes behind all
# text. A row that is being filed is known, and nothing is expected of it.
_EXPECTED = """
SELECT 0, id, id, status, destination, size_bytes, mtime_ns, sha256, sidecar_size, sidecar_mtime_ns, inode, ctime_ns
  FROM image WHERE place = 'library' AND destination > ?1 AND +status IN ('done', 'processing')
UNION ALL
SELECT 1, id, image_id, 'done', destination, size_bytes, mtime_ns, sha256, NULL, NULL, NULL, NULL
  FROM companion WHERE place = 'library' AND destination > ?1
ORDER BY 5 LIMIT ?2
"""
_REMOVED_SIZES = "SELECT DISTINCT size_bytes FROM image WHERE status IN ('deleted', 'rejected') AND sha256 IS NOT NULL"
_IS_REMOVED: Any = SQL("status IN ('deleted', 'rejected')")


@dataclass(frozen=True, slots=True)
class Expected:
    """One file that should lie in the library, as its row has it; `mtime_ns` None where nobody has looked yet.

    `image_id` is the image that it is or came with, `sidecar` the look of an image's sidecar, `inode` and `ctime_ns`
    those of an image at the last walk, None before one.
    """

    kind: LibraryKind
    id: int
    image_id: int
    status: Status
    path: str
    size: int | None
    mtime_ns: int | None
    sha256: str | None
    sidecar: SidecarLook | None
    inode: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True)
class MovedFile:
    """A file of a row that lies elsewhere in the library now, and how stat sees it there."""

    file: Expected
    path: str
    size: int
    mtime_ns: int


class LibraryRows:
    """The library's part of one catalogue; any thread may call it. Each change is one transaction with its history."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def expected(self) -> Iterator[Expected]:
        """Yield what should lie in the library, by path in the order of bytes; names that are no UTF-8 in the end."""
        last: str | bytes | None = ""
        while True:
            with self._catalogue.reading():
                rows = CURRENT.execute_sql(_EXPECTED, (last, _BATCH)).fetchall()
            yield from map(_expected, rows)
            if len(rows) < _BATCH:
                return
            last = rows[-1][4]

    def count(self) -> int:
        """Count what should lie in the library."""
        companions = Companion.select().where(Companion.place == "library")
        with self._catalogue.reading():
            return int(Image.select().where(Image.status == "done").count() + companions.count())

    def at(self, path: str) -> Expected | None:
        """Return the image that was filed under a path."""
        here = (Image.place == "library") & (Image.destination == path) & (Image.status == "done")
        return self._one(here)

    def image(self, image_id: int) -> Expected | None:
        """Return an image that lies in the library, as its row has it now."""
        return self._one((Image.id == image_id) & (Image.place == "library") & (Image.status == "done"))

    def beside(self, image_id: int) -> list[Expected]:
        """Return what came with an image and lies in the library."""
        mine = (Companion.image_id == image_id) & (Companion.place == "library")
        with self._catalogue.reading():
            rows = list(Companion.select().where(mine).order_by(Companion.id))
        return [
            Expected(
                *("companion", row.id, image_id, "done", row.destination),
                *(row.size_bytes, row.mtime_ns, row.sha256, None),
            )
            for row in rows
        ]

    def _one(self, condition: Any) -> Expected | None:
        with self._catalogue.reading():
            row = Image.get_or_none(condition)
        if row is None:
            return None
        look = _look(row.sidecar_size, row.sidecar_mtime_ns)
        size, mtime_ns = row.size_bytes, row.mtime_ns
        known = row.sha256, look, row.inode, row.ctime_ns
        return Expected("image", row.id, row.id, "done", row.destination or "", size, mtime_ns, *known)

    def row(self, image_id: int) -> ImageRow | None:
        """Return an image's row."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else ImageRow(**row.__data__)

    def tags(self, image_id: int) -> Tags:
        """Return what a photo said itself when it was last read."""
        with self._catalogue.reading():
            row = RawExif.get_or_none(RawExif.image_id == image_id)
        return {} if row is None else cast("Tags", row.tags)

    def filed(self, sha256: str) -> int | None:
        """Return the id of the image of the library that has these bytes now."""
        with self._catalogue.reading():
            row = Image.select(Image.id).where((Image.sha256 == sha256) & SQL("status = 'done'")).first()
        return None if row is None else int(row.id)

    def removed_sizes(self) -> set[int]:
        """Return the sizes of what was deleted or rejected: by these it is looked for where it comes back."""
        with self._catalogue.reading():
            return {size for (size,) in CURRENT.execute_sql(_REMOVED_SIZES).fetchall()}

    def removed(self, sha256: str) -> ImageRow | None:
        """Return the image with these bytes that its owner took away last."""
        gone = Image.select().where((Image.sha256 == sha256) & _IS_REMOVED)
        with self._catalogue.reading():
            row = gone.order_by(Image.removed_at.desc()).first()
        return None if row is None else ImageRow(**row.__data__)

    # -- what its owner did

    def touched(self, file: Expected, size: int, mtime_ns: int) -> None:
        """Note how a file looks whose bytes are the same as ever."""
        table = Image if file.kind == "image" else Companion
        changes = {"size_bytes": size, "mtime_ns": mtime_ns, **(_NO_INODE if file.kind == "image" else {})}
        with self._catalogue.writing():
            table.update(changes).where(table.id == file.id).execute()

    def seen(self, inodes: Sequence[tuple[int, int, int, str]]) -> None:
        """Write the inodes and their times under which images lie: of each inode, time, id and path."""
        if inodes:
            values = [(inode, ctime_ns, number, _filename.db_value(path)) for inode, ctime_ns, number, path in inodes]
            with self._catalogue.writing():
                CURRENT.cursor().executemany(_SEEN, values)

    def edited(self, file: Expected, facts: Facts, mtime_ns: int, now: float, *, keep_place: bool) -> bool:
        """Write what a photo is now whose owner has edited it; return False where its bytes are another image's.

        The hash that it was filed with stays beside the present one, and so does what people and models said of it. The
        date stays where `facts` have none, the place too where it is not the file's own and is to be kept.
        """
        known = {name: value for name, value in vars(facts).items() if name not in _NOT_OF_AN_EDIT}
        if facts.taken_at is None:
            known = {name: value for name, value in known.items() if name not in _DATE}
        if facts.format is None:  # nothing can be made of it any more: what was known is all that there is
            known = {name: value for name, value in known.items() if value is not None}
        if keep_place:
            known = {name: value for name, value in known.items() if name not in {"lat", "lon"}}
        with self._catalogue.writing():
            row = Image.get_or_none((Image.id == file.id) & (Image.sha256 == file.sha256) & (Image.status == "done"))
            if row is None:
                return True  # somebody else has been at it: the next look shows
            if Image.select().where((Image.sha256 == facts.sha256) & SQL("status = 'done'")).exists():
                return False
            as_filed = row.filed_sha256 or row.sha256
            changes = {
                **known,
                "mtime_ns": mtime_ns,
                "filed_sha256": None if as_filed == facts.sha256 else as_filed,
                "thumb_sha": None,
                "sidecar_due": Image.sidecar_due + 1,
                **_NO_INODE,
            }
            Image.update(changes).where(Image.id == file.id).execute()
            if facts.raw is not None:
                RawExif.replace(image_id=file.id, tags=facts.raw).execute()
            where = {"place": "library", "path": file.path}
            Event.insert(image_id=file.id, at=now, kind=EventKind.CHANGED, **where).execute()
        return True

    def companion_edited(self, file: Expected, sha256: str, size: int, mtime_ns: int) -> None:
        """Note the bytes of a companion whose owner has edited it; what it says of its photo is read anew."""
        with self._catalogue.writing():
            changes = {"sha256": sha256, "size_bytes": size, "mtime_ns": mtime_ns}
            Companion.update(changes).where(Companion.id == file.id).execute()
            Image.update(sidecar_due=Image.sidecar_due + 1).where(Image.id == file.image_id).execute()

    def moved(self, moves: Sequence[MovedFile], now: float) -> list[MovedFile]:
        """Write where files lie now that their owner has moved, all at once: two may have changed places.

        Return those of which that is so; a row that has changed meanwhile, or a path that has another, is left alone.
        """
        done = []
        with self._catalogue.writing():
            mine = [move for move in moves if self._is_there(move)]
            for move in mine:
                if move.file.kind == "image":
                    Image.update(destination=None).where(Image.id == move.file.id).execute()
                else:
                    # No column of it may be empty.
                    Companion.update(destination=f"\0{move.file.id}").where(Companion.id == move.file.id).execute()
            for move in mine:
                path = move.file.path if self._is_owned(move.path) else move.path
                changes: dict[str, Any] = {"destination": path}
                if path == move.path:
                    changes |= {"size_bytes": move.size, "mtime_ns": move.mtime_ns}
                    done.append(move)
                if move.file.kind == "companion":
                    Companion.update(changes).where(Companion.id == move.file.id).execute()
                    continue
                if path == move.path:
                    changes |= {"sidecar_due": Image.sidecar_due + 1, **_NO_INODE}
                    # What was adopted has no other folder that could be a private one.
                    folder = path.rpartition("/")[0]
                    Image.update(folder=folder).where(
                        (Image.id == move.file.id) & (Image.source == "library")
                    ).execute()
                    event = {"place": "library", "path": path, "text": move.file.path}
                    Event.insert(image_id=move.file.id, at=now, kind=EventKind.MOVED, **event).execute()
                Image.update(changes).where(Image.id == move.file.id).execute()
        return done

    def _is_there(self, move: MovedFile) -> bool:
        """Return whether a row still says what it said when its file was missed."""
        table = Image if move.file.kind == "image" else Companion
        mine = (table.id == move.file.id) & (table.place == "library") & (table.destination == move.file.path)
        if move.file.kind == "image":
            mine &= Image.status == "done"
        return bool(table.select().where(mine).exists())

    def _is_owned(self, path: str) -> bool:
        image = (Image.place == "library") & (Image.destination == path)
        companion = (Companion.place == "library") & (Companion.destination == path)
        return bool(Image.select().where(image).exists() or Companion.select().where(companion).exists())

    def deleted(self, files: Sequence[Expected], now: float) -> list[int]:
        """Write which files are gone for good; return the images of which that is so."""
        gone = []
        with self._catalogue.writing():
            for file in files:
                event = {"at": now, "place": "library", "path": file.path}
                if file.kind == "companion":
                    mine = (Companion.id == file.id) & (Companion.destination == file.path)
                    name = Companion.select(Companion.original_name).where(mine).scalar()
                    if Companion.delete().where(mine).execute():
                        kind = EventKind.DELETED
                        Event.insert(image_id=file.image_id, kind=kind, text=name, **event).execute()
                    continue
                changes = {
                    "status": "deleted",
                    "removed_at": now,
                    "removed_from": f"library/{file.path}",
                    "place": None,
                    "destination": None,
                    "sidecar_size": None,
                    "sidecar_mtime_ns": None,
                }
                mine = (Image.id == file.id) & (Image.destination == file.path) & (Image.status == "done")
                if Image.update(changes).where(mine).execute():
                    Event.insert(image_id=file.id, kind=EventKind.DELETED, **event).execute()
                    gone.append(file.id)
        return gone

    def came_back(self, image_id: int, path: str, size: int, mtime_ns: int, now: float) -> bool:
        """Write that the file of an image that was taken away lies in the library again; False where that can't be."""
        changes = {
            "status": "done",
            "place": "library",
            "destination": path,
            "size_bytes": size,
            "mtime_ns": mtime_ns,
            "removed_at": None,
            "removed_from": None,
            "sidecar_due": Image.sidecar_due + 1,
            **_NO_INODE,
        }
        with self._catalogue.writing():
            row = Image.get_or_none((Image.id == image_id) & Image.status.in_(list(REMOVED)))
            if row is None or self._is_owned(path):
                return False
            if Image.select().where((Image.sha256 == row.sha256) & SQL("status = 'done'")).exists():
                return False
            Image.update(changes).where(Image.id == image_id).execute()
            event = {"place": "library", "path": path}
            Event.insert(image_id=image_id, at=now, kind=EventKind.RESTORED, **event).execute()
        return True

    def adopt(
        self,
        path: str,
        original_name: str,
        facts: Facts,
        mtime_ns: int,
        caption_status: CaptionStatus,
        now: float,
        known: ImageRow | None = None,
        history: Collection[ImageEvent] = (),
    ) -> int | None:
        """Write a row for a photo that was never filed, where it lies; None where its bytes or its path have one.

        `known` and `history` are what its own sidecar says, under the id that it had where that is free.
        """
        columns = {
            name: value for name, value in vars(facts).items() if name not in {"raw", "caption_status", "keywords"}
        }
        values: dict[str, Any] = {
            "status": "done",
            "original_name": original_name,
            "folder": path.rpartition("/")[0],
            "source": "library",
            "created_at": now,
            "not_before": now,
            "processed_at": now,
            "attempts": 0,
            "mtime_ns": mtime_ns,
            "place": "library",
            "destination": path,
            "caption_status": caption_status,
            "sidecar_due": 1,
            **columns,
        }
        with self._catalogue.writing():
            if self._is_owned(path) or self.filed(facts.sha256 or "") is not None:
                return None
            if known is not None:
                # What the photo itself says goes before, but for its date: its sidecar may know that by something else.
                said = {name: value for name, value in vars(known).items() if value is not None and name in _OF_SIDECAR}
                is_free = not Image.select().where(Image.id == known.id).exists()
                values |= {**said, **({"id": known.id} if is_free else {})}
            image_id = int(Image.insert(values).execute())
            if facts.raw:
                RawExif.replace(image_id=image_id, tags=facts.raw).execute()
            for event in history:
                lines = {key: value for key, value in vars(event).items() if key not in {"id", "image_id"}}
                Event.insert(image_id=image_id, **lines).execute()
            where = {"place": "library", "path": path}
            Event.insert(image_id=image_id, at=now, kind=EventKind.ADOPTED, **where).execute()
        return image_id


_NOT_OF_AN_EDIT = {"raw", "caption_status", "keywords", "error", "failure", "duplicate_of", "companion_of"}
_NO_INODE = {"inode": None, "ctime_ns": None}
_SEEN = "UPDATE image SET inode = ?, ctime_ns = ? WHERE id = ? AND status = 'done' AND destination = ?"
_DATE = {"taken_at", "taken_from", "taken_utc", "zone", "taken_order"}
# What a sidecar of Darkroom's knows of a photo that is adopted with it.
_OF_SIDECAR = frozenset(
    "original_name folder taken_at taken_from taken_utc zone title caption visible_text caption_status caption_model"
    " caption_prompt tokens_in tokens_out edited edited_at keywords hierarchical_keywords rating label created_at"
    " filed_sha256".split()
)


def _expected(row: Any) -> Expected:
    kind, number, image_id, status, path, size, mtime_ns, sha256, sidecar_size, sidecar_mtime_ns, inode, ctime_ns = row
    name, look = cast("str", _filename.python_value(path)), _look(sidecar_size, sidecar_mtime_ns)
    return Expected(_KINDS[kind], number, image_id, status, name, size, mtime_ns, sha256, look, inode, ctime_ns)


def _look(size: int | None, mtime_ns: int | None) -> SidecarLook | None:
    return None if size is None or mtime_ns is None else SidecarLook(size, mtime_ns)
