"""The rows behind the trash: what is thrown away, taken back and deleted for good, and the journal of these moves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from peewee import SQL

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Companion, Event, EventKind, Image, ImageRow, Setting, Status

_JOURNAL = "trash"
Folder = Literal["inbox", "library", "duplicates", "failed", "trash"]
"""Where a file lies: a place, or the inbox."""
MoveKind = Literal["image", "companion", "beside"]
TrashAct = Literal["reject", "restore", "purge"]


@dataclass(frozen=True)
class TrashMove:
    """One file on its way; paths are relative to their folders. `id` is the companion's row, where it is one.

    What goes for good has no new place. `sha256` is None for what can't be hashed.
    """

    kind: MoveKind
    old_folder: Folder
    old: str
    new_folder: Folder | None
    new: str
    sha256: str | None
    id: int = 0


@dataclass(frozen=True)
class TrashJournal:
    """What is about to be done with one image; `rows` says whether the catalogue does not say it yet.

    `was` and `status` are those before and after it. `copy_of` is the duplicate whose file the image gets.
    """

    image_id: int
    act: TrashAct
    was: Status
    status: Status
    moves: tuple[TrashMove, ...]
    copy_of: int | None = None
    rows: bool = True

    @property
    def image(self) -> TrashMove | None:
        """The move of the image's own file; None where it has none."""
        return next((move for move in self.moves if move.kind == "image"), None)


@dataclass(frozen=True)
class BesideRow:
    """A companion's row, as far as it moves with its image."""

    id: int
    place: Folder
    path: str


class TrashRows:
    """The trash's part of one catalogue; any thread may call it."""

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
        return [BesideRow(row.id, cast("Folder", row.place), row.destination) for row in rows]

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
        if folder == "inbox":
            mine: Any = Image.path == path
            others = None
        else:
            mine = (Image.place == folder) & (Image.destination == path)
            others = Companion.select().where((Companion.place == folder) & (Companion.destination == path))
        with self._catalogue.reading():
            return bool(Image.select().where(mine).exists() or (others is not None and others.exists()))

    def in_trash(self, before: float) -> list[ImageRow]:
        """Return what was thrown away before a moment (seconds since 1970) and lies in the trash, oldest first."""
        thrown = (Image.status == "rejected") & (Image.place == "trash") & (Image.removed_at <= before)
        with self._catalogue.reading():
            rows = list(Image.select().where(thrown).order_by(Image.removed_at, Image.id))
        return [ImageRow(**row.__data__) for row in rows]

    # -- the journal

    def journal(self) -> TrashJournal | None:
        """Return what was begun, and is not ended; None where nothing is."""
        with self._catalogue.reading():
            row = Setting.get_or_none(Setting.key == _JOURNAL)
        if row is None:
            return None
        moves = tuple(TrashMove(**move) for move in row.value["moves"])
        return TrashJournal(**{**row.value, "moves": moves})

    def begin(self, journal: TrashJournal) -> bool:
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
        with self._catalogue.writing():
            if not Image.select().where(mine).exists():
                return False
            if changes:
                Image.update(changes).where(mine).execute()
            self._write(journal)
        return True

    def give_up(self, journal: TrashJournal) -> None:
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

    def commit(self, journal: TrashJournal, now: float) -> None:
        """Write where an image and what came with it are now; `journal` says what is still to do."""
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
        with self._catalogue.writing():
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
            self._write(journal)

    def _write(self, journal: TrashJournal) -> None:
        Setting.replace(key=_JOURNAL, value=asdict(journal)).execute()

    def still_used(self, sha256s: Sequence[str]) -> set[str]:
        """Return which bytes other images have too that are not deleted for good."""
        with self._catalogue.reading():
            rows = Image.select(Image.sha256).where(Image.sha256.in_(list(sha256s)) & Image.place.is_null(False))
            return {row.sha256 for row in rows if row.sha256}
