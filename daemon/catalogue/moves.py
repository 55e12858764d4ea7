"""The rows behind what moves an image with all that is beside it: the trash, `undo`, `refile`; and their journal."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from peewee import SQL

from daemon.catalogue.database import CURRENT, Catalogue, read_rows
from daemon.catalogue.schema import Companion, Event, EventKind, Image, ImageRow, RawExif, Setting, Status

_JOURNAL = "moves"
Folder = Literal["inbox", "library", "duplicates", "failed", "trash"]
"""Where a file lies: a place, or the inbox."""
Target = Folder | Literal["outside"]
"""Where a file goes: also to a folder that is none of Darkroom's."""
MoveKind = Literal["image", "companion", "beside"]
Act = Literal["reject", "restore", "purge", "undo", "refile"]
_BATCH = 500
_IN_LIBRARY = "FROM image WHERE +status = 'done' AND place = 'library' AND companion_of IS NULL"
_LIBRARY = f"SELECT * {_IN_LIBRARY} AND id > ? ORDER BY id LIMIT ?"
_MOVED_BY_OWNER = """
SELECT image_id FROM event AS moved WHERE kind = 'moved' AND NOT EXISTS (
    SELECT 1 FROM event AS later WHERE later.image_id = moved.image_id AND later.id > moved.id
    AND later.kind IN ('moved', 'refiled', 'done', 'restored')
)
"""


@dataclass(frozen=True)
class Move:
    """One file on its way; paths are relative to their folders. `id` is the companion's row, where it is one.

    What goes for good has no new folder. `sha256` is None for what can't be hashed.
    """

    kind: MoveKind
    old_folder: Folder
    old: str
    new_folder: Target | None
    new: str
    sha256: str | None
    id: int = 0


@dataclass(frozen=True)
class MoveJournal:
    """What is about to be done with one image; `rows` says whether the catalogue does not say it yet.

    `was` and `status` are those before and after it; after `undo` there is no row. `copy_of` is the duplicate whose
    file the image gets, `outside` the path of the folder that `undo` moves it into.
    """

    image_id: int
    act: Act
    was: Status
    status: Status
    moves: tuple[Move, ...]
    copy_of: int | None = None
    outside: str | None = None
    rows: bool = True

    @property
    def image(self) -> Move | None:
        """The move of the image's own file; None where it has none."""
        return next((move for move in self.moves if move.kind == "image"), None)


@dataclass(frozen=True)
class BesideRow:
    """A companion's row, as far as it moves with its image; `mtime_ns` is None where nobody has looked yet."""

    id: int
    place: Folder
    path: str
    folder: str
    original_name: str
    sha256: str
    size: int
    mtime_ns: int | None


class MoveRows:
    """The part of one catalogue that moves; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def image(self, image_id: int) -> ImageRow | None:
        """Return an image's row; None where there is none, or it is a companion on its way."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.id == image_id) & Image.companion_of.is_null())
        return None if row is None else ImageRow(**row.__data__)

    def beside(self, image_id: int) -> list[BesideRow]:
        """Return what came with an image."""
        with self._catalogue.reading():
            rows = list(Companion.select().where(Companion.image_id == image_id).order_by(Companion.id))
        return [
            BesideRow(
                *(row.id, cast("Folder", row.place), row.destination, row.folder, row.original_name),
                *(row.sha256, row.size_bytes, row.mtime_ns),
            )
            for row in rows
        ]

    def copy(self, sha256: str) -> ImageRow | None:
        """Return a duplicate of some bytes that lies in duplicates."""
        with self._catalogue.reading():
            row = Image.get_or_none(
                (Image.sha256 == sha256) & (Image.status == "duplicate") & (Image.place == "duplicates")
            )
        return None if row is None else ImageRow(**row.__data__)

    def filed(self, sha256: str) -> int | None:
        """Return the image of the library that has certain bytes."""
        with self._catalogue.reading():
            row = Image.select(Image.id).where((Image.sha256 == sha256) & SQL("status = 'done'")).first()
        return None if row is None else int(row.id)

    def is_owned(self, folder: Folder, path: str) -> bool:
        """Return whether a name is a row's."""
        with self._catalogue.reading():
            return any(_owners(folder, path))

    def is_shown(self, sha256: str) -> bool:
        """Return whether any image has certain bytes, and so their thumbnails."""
        with self._catalogue.reading():
            return bool(Image.select().where(Image.sha256 == sha256).exists())

    def since(self, moment: float) -> list[int]:
        """Return the ids of all that was filed into library or duplicates since then (seconds since 1970)."""
        filed = Image.status.in_(["done", "duplicate"]) & Image.destination.is_null(False) & (Image.source != "library")
        with self._catalogue.reading():
            rows = Image.select(Image.id).where(filed & (Image.processed_at >= moment)).order_by(Image.id)
            return [row.id for row in rows]

    def count_library(self) -> int:
        """Count the images that lie in the library."""
        with self._catalogue.reading():
            return int(CURRENT.execute_sql(f"SELECT count(*) {_IN_LIBRARY}").fetchone()[0])

    def in_library(self) -> Iterator[ImageRow]:
        """Yield the images that lie in the library, by their ids."""
        last = 0
        while True:
            with self._catalogue.reading():
                rows = read_rows(Image, ImageRow, _LIBRARY, last, _BATCH)
            yield from rows
            if len(rows) < _BATCH:
                return
            last = rows[-1].id

    def moved_by_owner(self) -> set[int]:
        """Return the images that lie where their owner has moved them, by what came last in their histories."""
        with self._catalogue.reading():
            return {image_id for (image_id,) in CURRENT.execute_sql(_MOVED_BY_OWNER).fetchall()}

    def in_trash(self, before: float) -> list[ImageRow]:
        """Return what was thrown away before a moment (seconds since 1970) and lies in the trash, oldest first."""
        thrown = (Image.status == "rejected") & (Image.place == "trash") & (Image.removed_at <= before)
        with self._catalogue.reading():
            rows = list(Image.select().where(thrown).order_by(Image.removed_at, Image.id))
        return [ImageRow(**row.__data__) for row in rows]

    # -- the journal

    def journal(self) -> MoveJournal | None:
        """Return what was begun, and is not ended; None where nothing is."""
        with self._catalogue.reading():
            row = Setting.get_or_none(Setting.key == _JOURNAL)
        if row is None:
            return None
        moves = tuple(Move(**move) for move in row.value["moves"])
        return MoveJournal(**{**row.value, "moves": moves})

    def begin(self, journal: MoveJournal) -> bool:
        """Write down what is about to be done; return False where the image is not any more what it was.

        What waits in the inbox is taken out of the queue by it, and what goes back there has its name from now on: so
        neither is filed nor found as a new file meanwhile.
        """
        changes: dict[str, Any] = {}
        move = journal.image
        if journal.act == "reject" and journal.was == "queued":
            changes = {"status": "rejected", "waiting": None, "waiting_detail": None}
        elif journal.act == "restore" and move is not None and move.new_folder == "inbox":
            changes = {"path": move.new}
        mine = (Image.id == journal.image_id) & (Image.status == journal.was)
        if journal.was == "queued":
            mine &= Image.destination.is_null()  # else it is on its way back from `failed/`
        elif move is not None and journal.copy_of is None and move.old_folder != "inbox":
            mine &= Image.destination == move.old  # else its owner has moved it
        with self._catalogue.writing():
            if not Image.select().where(mine).exists():
                return False
            if changes:
                Image.update(changes).where(mine).execute()
            self._write(journal)
        return True

    def give_up(self, journal: MoveJournal) -> None:
        """Leave an image as it was before."""
        changes: dict[str, Any] = {}
        if journal.act == "reject" and journal.was == "queued":
            changes = {"status": "queued"}
        elif journal.act == "restore" and journal.status == "queued":
            changes = {"path": None}
        with self._catalogue.writing():
            if changes:
                mine = (Image.id == journal.image_id) & (Image.status == "rejected")
                Image.update(changes).where(mine).execute()
            Setting.delete().where(Setting.key == _JOURNAL).execute()

    def end(self) -> None:
        """Note that all is done."""
        with self._catalogue.writing():
            Setting.delete().where(Setting.key == _JOURNAL).execute()

    def commit(self, journal: MoveJournal, now: float) -> bool:
        """Write where an image and what came with it are now; `journal` says what is still to do.

        Return False, with nothing written, where a new name has become another row's since it was chosen.
        """
        image_id = journal.image_id
        with self._catalogue.writing():
            mine = {("image", image_id), ("image", journal.copy_of)}
            mine |= {("companion", move.id) for move in journal.moves if move.kind == "companion"}
            for move in journal.moves:
                folder = move.new_folder
                if folder is not None and folder != "outside" and not set(_owners(folder, move.new)) <= mine:
                    return False
            if journal.act == "undo":
                self._take_out(journal, now)
            else:
                self._update(journal, now)
            self._write(journal)
        return True

    def _update(self, journal: MoveJournal, now: float) -> None:
        move, image_id = journal.image, journal.image_id
        place = None if move is None or move.new_folder in {None, "inbox"} else move.new_folder
        path = None if move is None or place is None else move.new
        changes: dict[str, Any] = {"status": journal.status, "place": place, "destination": path}
        event: dict[str, Any] = {"place": place, "path": path}
        match journal.act:
            case "reject":
                origin = None if move is None else f"{move.old_folder}/{move.old}"
                changes |= {"removed_at": now, "removed_from": origin, "path": None, "token": None}
                kind = EventKind.REJECTED
            case "purge":
                kind, event = EventKind.PURGED, {}
            case "refile":
                # The walk of the library looks at it anew: what was copied has another inode.
                changes |= {"sidecar_due": Image.sidecar_due + 1, "inode": None, "ctime_ns": None}
                kind, event = EventKind.REFILED, {**event, "text": None if move is None else move.old}
            case _:
                changes |= {"removed_at": None, "removed_from": None}
                if journal.status in {"done", "duplicate"}:
                    changes |= {"sidecar_due": Image.sidecar_due + 1}
                if journal.status == "done":
                    changes |= {"duplicate_of": None, "warning": None if journal.was == "duplicate" else Image.warning}
                if journal.status == "queued":
                    changes |= {"not_before": now, "attempts": 0, "rank": 0, "error": None}
                    event = {"path": None if move is None else move.new}
                kind = EventKind.RESTORED
        if journal.copy_of is not None:
            # Before: the name of its file is the image's from now on.
            gone = {"place": None, "destination": None, "duplicate_of": image_id, "warning": None}
            Image.update(gone).where(Image.id == journal.copy_of).execute()
            given = {"kind": EventKind.RESTORED, "other_id": image_id, **event}
            Event.insert(image_id=journal.copy_of, at=now, **given).execute()
        Image.update(changes).where(Image.id == image_id).execute()
        for one in journal.moves:
            if one.kind != "companion":
                continue
            if one.new_folder is None or one.new_folder in {"inbox", "failed"}:
                Companion.delete().where(Companion.id == one.id).execute()
            else:
                moved = {"place": one.new_folder, "destination": one.new, "image_id": image_id}
                Companion.update(moved).where(Companion.id == one.id).execute()
        Event.insert(image_id=image_id, at=now, kind=kind, **event).execute()

    def _take_out(self, journal: MoveJournal, now: float) -> None:
        """Remove an image and what came with it; its history stays."""
        image_id, move = journal.image_id, journal.image
        sha256 = Image.select(Image.sha256).where(Image.id == image_id).scalar()
        Image.delete().where(Image.id == image_id).execute()
        RawExif.delete().where(RawExif.image_id == image_id).execute()
        Companion.delete().where(Companion.image_id == image_id).execute()
        path = None if move is None else f"{journal.outside}/{move.new}"
        Event.insert(image_id=image_id, at=now, kind=EventKind.UNDONE, path=path, text=sha256).execute()
        for twin in [row.id for row in Image.select(Image.id).where(Image.duplicate_of == image_id)]:
            gone = {"at": now, "kind": EventKind.ORIGINAL_GONE, "other_id": image_id}
            Event.insert(image_id=twin, **gone).execute()
        Image.update(duplicate_of=None).where(Image.duplicate_of == image_id).execute()

    def _write(self, journal: MoveJournal) -> None:
        Setting.replace(key=_JOURNAL, value=asdict(journal)).execute()


def _owners(folder: Folder, path: str) -> Iterator[tuple[str, int]]:
    """Yield whose a name is: the kind and the id of each row that has it."""
    mine: Any = Image.path == path if folder == "inbox" else (Image.place == folder) & (Image.destination == path)
    yield from (("image", row.id) for row in Image.select(Image.id).where(mine))
    if folder != "inbox":
        beside = (Companion.place == folder) & (Companion.destination == path)
        yield from (("companion", row.id) for row in Companion.select(Companion.id).where(beside))
