"""Writes lost rows anew under the ids that they had, and takes images out again."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import (
    Cause,
    Companion,
    Event,
    EventKind,
    Image,
    ImageEvent,
    ImageRow,
    Place,
    RawExif,
    Setting,
    Tags,
)

_JOURNAL = "undo"


class Restore:
    """The rows of one catalogue that is being made anew."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def count(self) -> int:
        """Count the images that there are."""
        with self._catalogue.reading():
            return int(Image.select().count())

    def has(self, place: Place, destination: str) -> bool:
        """Return whether a file has its row already."""
        here = (Image.place == place) & (Image.destination == destination)
        beside = (Companion.place == place) & (Companion.destination == destination)
        with self._catalogue.reading():
            return bool(Image.select().where(here).exists() or Companion.select().where(beside).exists())

    def is_free(self, image_id: int) -> bool:
        """Return whether no image has an id."""
        with self._catalogue.reading():
            return not Image.select().where(Image.id == image_id).exists()

    def filed(self, sha256: str) -> int | None:
        """Return the id of the image of the library that has these bytes."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.sha256 == sha256) & (Image.status == "done"))
        return None if row is None else row.id

    def restore(self, row: ImageRow, history: Sequence[ImageEvent], raw: Tags | None) -> int:
        """Write one image, its EXIF and its history; with the id 0 it gets the next one. Return its id."""
        values: dict[str, Any] = {key: value for key, value in vars(row).items() if key != "id"}
        values["captioned_at"] = None
        with self._catalogue.writing():
            if row.id == 0:
                image_id = int(Image.insert(values).execute())
            else:
                image_id = row.id
                Image.insert({**values, "id": image_id}).execute()
            # An update, not the insert: the triggers that count what captions cost listen to that.
            Image.update(captioned_at=row.captioned_at).where(Image.id == image_id).execute()
            if raw:
                RawExif.replace(image_id=image_id, tags=raw).execute()
            for event in history:
                columns = {key: value for key, value in vars(event).items() if key != "id"}
                Event.insert({**columns, "image_id": image_id}).execute()
        return image_id

    def removed(self, sha256: str, at: float, rejected: bool, image_id: int, name: str) -> bool:
        """Write an image of which nothing is left but that its owner took it away; False where its bytes have a row."""
        status = "rejected" if rejected else "deleted"
        row = {"status": status, "sha256": sha256, "original_name": name, "removed_at": at, "folder": ""}
        row |= {"created_at": at, "not_before": at, "processed_at": at, "source": "inbox", "attempts": 1}
        with self._catalogue.writing():
            if Image.select().where((Image.sha256 == sha256) & Image.status.in_(["done", "rejected"])).exists():
                return False
            is_free = not Image.select().where(Image.id == image_id).exists()
            number = int(Image.insert({**row, **({"id": image_id} if is_free else {})}).execute())
            where = {"place": "library", "path": name}
            Event.insert(image_id=number, at=at, kind=EventKind(status), **where).execute()
        return True

    def came_with(self, place: Place, path: str) -> tuple[int, str] | None:
        """Return which image a file came with, and under which name, as the histories have it."""
        came = (Event.kind == EventKind.COMPANION) & (Event.cause == Cause.CAME_WITH)
        with self._catalogue.reading():
            event = Event.get_or_none(came & (Event.place == place) & (Event.path == path))
        return None if event is None else (event.image_id, event.text or "")

    def companion(self, place: Place, path: str, image_id: int, name: str, sha256: str, size: int, at: float) -> None:
        """Write the row of a file that came with an image."""
        with self._catalogue.writing():
            image = Image.get_or_none(Image.id == image_id)
            Companion.insert(
                place=place,
                destination=path,
                image_id=image_id,
                original_name=name,
                folder="" if image is None else image.folder,
                sha256=sha256,
                size_bytes=size,
                filed_at=at,
            ).execute()
            # What its JSON knows of its place stands nowhere else.
            due = Image.update(sidecar_due=Image.sidecar_due + 1)
            due.where((Image.id == image_id) & (Image.place == place)).execute()


@dataclass(frozen=True)
class UndoMove:
    """One file on its way out: absolute paths, and the hash of its bytes."""

    old: str
    new: str
    sha256: str


@dataclass(frozen=True)
class UndoJournal:
    """What `undo` is about to do with one image; `rows` says whether the catalogue still has it."""

    image_id: int
    to: str
    moves: tuple[UndoMove, ...]
    rows: bool = True


class UndoRows:
    """The rows behind `undo`: each image goes with all that belongs to it in one transaction."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def since(self, moment: float) -> list[int]:
        """Return the ids of all that was filed into library or duplicates since then (seconds since 1970)."""
        filed = Image.status.in_(["done", "duplicate"]) & Image.destination.is_null(False) & (Image.source != "library")
        with self._catalogue.reading():
            rows = Image.select(Image.id).where(filed & (Image.processed_at >= moment)).order_by(Image.id)
            return [row.id for row in rows]

    def journal(self) -> UndoJournal | None:
        """Return what an earlier process has begun; None where it has ended."""
        with self._catalogue.reading():
            row = Setting.get_or_none(Setting.key == _JOURNAL)
        if row is None:
            return None
        moves = tuple(UndoMove(**move) for move in row.value["moves"])
        return UndoJournal(row.value["image_id"], row.value["to"], moves, row.value["rows"])

    def begin(self, journal: UndoJournal) -> None:
        """Write down what is about to be done."""
        with self._catalogue.writing():
            Setting.replace(key=_JOURNAL, value=asdict(journal)).execute()

    def end(self) -> None:
        """Note that all is done, or given up."""
        with self._catalogue.writing():
            Setting.delete().where(Setting.key == _JOURNAL).execute()

    def take_out(self, journal: UndoJournal, now: float) -> None:
        """Remove an image and what came with it; its history stays, and `journal` says what is still to do."""
        image_id = journal.image_id
        with self._catalogue.writing():
            sha256 = Image.select(Image.sha256).where(Image.id == image_id).scalar()
            Image.delete().where(Image.id == image_id).execute()
            RawExif.delete().where(RawExif.image_id == image_id).execute()
            Companion.delete().where(Companion.image_id == image_id).execute()
            event = {"at": now, "kind": EventKind.UNDONE, "path": journal.moves[0].new, "text": sha256}
            Event.insert(image_id=image_id, **event).execute()
            twins = [row.id for row in Image.select(Image.id).where(Image.duplicate_of == image_id)]
            for twin in twins:
                gone = {"at": now, "kind": EventKind.ORIGINAL_GONE, "other_id": image_id}
                Event.insert(image_id=twin, **gone).execute()
            Image.update(duplicate_of=None).where(Image.duplicate_of == image_id).execute()
            Setting.replace(key=_JOURNAL, value=asdict(journal)).execute()

    def still_used(self, sha256s: Sequence[str]) -> set[str]:
        """Return which bytes other images have too: their thumbnails stay."""
        with self._catalogue.reading():
            rows = Image.select(Image.sha256).where(Image.sha256.in_(list(sha256s))).distinct()
            return {row.sha256 for row in rows if row.sha256}
