"""Throws images away into the trash, takes them back, and deletes for good what lies there, when it is told to.

Original, sidecar and companions go together. A queued image is `rejected` from the beginning, so that nobody files it
meanwhile. In the trash a file lies below the name of the folder that it is from, `trash/library/2024/05/IMG_1.jpg`: so
it can be taken back, even after `darkroom rebuild`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import cast

from daemon.catalogue import ImageRow
from daemon.catalogue.moves import Folder, Move, MoveJournal
from daemon.catalogue.schema import Status
from daemon.errors import Rejected
from daemon.files import names
from daemon.files.names import display
from daemon.filing.moves import Mover

_TRIES = 10_000
_Wanted = Callable[[Move], str]
_STATUS: dict[Folder, Status] = {"inbox": "queued", "library": "done", "duplicates": "duplicate", "failed": "failed"}


class Trash:
    """The trash of one darkroom. One act at a time, in any process."""

    def __init__(self, mover: Mover) -> None:
        self._mover, self._rows, self._roots = mover, mover.rows, mover.roots

    def reject(self, image_id: int) -> str:
        """Throw one image away; return where it lies in the trash, for people.

        Raises Rejected saying why it can't be, EnvironmentFault; the image is then as it was.
        """
        with self._mover.alone():
            row = self._mover.row(image_id)
            if row.status in {"rejected", "deleted"}:
                raise Rejected(f"image {image_id} is {row.status} already")
            if row.status == "processing" or (row.status == "queued" and row.destination is not None):
                raise Rejected(f"image {image_id} is being filed at the moment: try again")
            moves = tuple(self._moves_out(row))
            self._mover.do(MoveJournal(image_id, "reject", row.status, "rejected", moves))
            return f"trash/{moves[0].new}" if moves else "it has no file"

    def restore(self, image_id: int) -> str:
        """Take one image back to where it was; return where it is now, for people. Raises as `reject` does.

        One that was deleted is filed again out of a copy of it in duplicates; given that copy, the same.
        """
        with self._mover.alone():
            row = self._mover.row(image_id)
            source = row
            if row.status == "duplicate":
                row, source = self._original_of(row)
            elif row.status not in {"rejected", "deleted"}:
                raise Rejected(f"image {image_id} is {row.status}: there is nothing to take back")
            elif row.place is None:
                source = self._copy_of(row)
            moves = tuple(self._moves_back(row, source))
            folder = cast("Folder", moves[0].new_folder)
            copy_of = source.id if source.id != row.id else None
            journal = MoveJournal(row.id, "restore", row.status, _STATUS[folder], moves, copy_of)
            self._mover.do(journal)
            return f"{folder}/{moves[0].new}"

    def purge(self, row: ImageRow) -> None:
        """Delete what lies in the trash of an image, for good; its bytes are remembered. Raises as `reject` does."""
        with self._mover.alone():
            row = self._mover.row(row.id)
            if row.status != "rejected" or row.place != "trash":
                raise Rejected(f"image {row.id} has just changed: try again")
            place = self._roots["trash"] / str(row.destination)
            moves = tuple(replace(move, new_folder=None, new="") for move in self._mover.files_of(row, "trash"))
            for move in moves:
                if move.kind == "image" and row.sha256 is not None and move.sha256 != row.sha256:
                    raise Rejected(f"image {row.id}: {place} is another file than was thrown away; it stays")
            self._mover.do(MoveJournal(row.id, "purge", "rejected", "rejected", moves))
            self._mover.remove_emptied(place)

    def listed(self, before: float) -> list[ImageRow]:
        """Return what lies in the trash since before a moment, in seconds since 1970, oldest first."""
        return self._rows.in_trash(before)

    # -- what moves where

    def _moves_out(self, row: ImageRow) -> Iterator[Move]:
        """Yield where an image and what is beside it go in the trash."""
        folder: Folder = row.place if row.place is not None else "inbox"
        if row.place is None and row.path is None:
            return
        found = [*self._mover.files_of(row, folder)]
        if not found or found[0].kind != "image":
            where = row.path if folder == "inbox" else row.destination
            hint = ": darkroom sync looks for it" if folder == "library" else ""
            raise Rejected(f"image {row.id}: {self._roots[folder] / str(where)} is gone{hint}")
        yield from self._renamed(found, "trash", lambda move: f"{move.old_folder}/{move.old}")

    def _moves_back(self, row: ImageRow, source: ImageRow) -> Iterator[Move]:
        """Yield where an image goes that is taken back, and what is beside it."""
        folder: Folder = "trash" if source.place == "trash" else "duplicates"
        found = [*self._mover.files_of(source, folder)]
        if not found or found[0].kind != "image":
            raise Rejected(f"image {row.id}: {self._roots[folder] / str(source.destination)} is gone")
        image = found[0]
        to, path = _origin(row, image.old)
        if to == "library" and image.sha256 is not None and (twin := self._rows.filed(image.sha256)) is not None:
            raise Rejected(f"image {row.id}: the same bytes are filed, as image {twin}")
        if source.id != row.id:
            # The record of a duplicate is of no use beside the photo itself.
            records = [move for move in found if move.kind == "beside"]
            found = [move for move in found if move.kind != "beside"]
        else:
            records = []

        def back(move: Move) -> str:
            if move.kind == "image":
                return path
            if move.kind == "beside":
                return path + move.old.removeprefix(image.old)
            inside = move.old.partition("/")[2] if folder == "trash" else PurePosixPath(move.old).name
            beside = str(PurePosixPath(path).with_name(PurePosixPath(inside).name))
            return inside if source.id == row.id and folder == "trash" else beside

        yield from self._renamed(found, to, back)
        yield from (replace(move, new_folder=None, new="") for move in records)

    def _renamed(self, found: list[Move], to: Folder, wanted: _Wanted) -> Iterator[Move]:
        """Yield moves with names that are free in a folder; what lies beside an image keeps its name with it."""
        image = found[0]
        shape = PurePosixPath(wanted(image))
        tails = ["", *(wanted(move).removeprefix(str(shape)) for move in found if move.kind == "beside")]
        for number in range(_TRIES):
            name = str(names.numbered(shape, number))
            if all(self._mover.is_free(to, name + tail) for tail in tails):
                break
        else:
            raise Rejected(f"{self._roots[to]} is full of files named {display(shape.name)}")
        taken = {name + tail for tail in tails}
        for move in found:
            if move.kind == "image":
                yield replace(move, new_folder=to, new=name)
            elif move.kind == "beside":
                yield replace(move, new_folder=to, new=name + wanted(move).removeprefix(str(shape)))
            else:
                plain = PurePosixPath(wanted(move))
                free = (str(names.numbered(plain, number)) for number in range(_TRIES))
                new = next(one for one in free if one not in taken and self._mover.is_free(to, one))
                taken.add(new)
                yield replace(move, new_folder=to, new=new)

    def _original_of(self, copy: ImageRow) -> tuple[ImageRow, ImageRow]:
        """Return the image that a duplicate is to be, and the row that has the file: of a photo that is gone."""
        original = None if copy.duplicate_of is None else self._rows.image(copy.duplicate_of)
        twin = None if copy.sha256 is None else self._rows.filed(copy.sha256)
        if twin is not None or copy.place is None or original is None:
            raise Rejected(f"image {copy.id} has the same bytes as image {twin or copy.duplicate_of}, which is filed")
        if original.status in {"rejected", "deleted"} and original.sha256 == copy.sha256:
            return original, original if original.place == "trash" else copy
        # The bytes of a photo that was edited since: a photo of its own.
        path = str(PurePosixPath(original.destination or "x").with_name(names.component(copy.original_name)))
        return replace(copy, removed_from=f"library/{path}"), copy

    def _copy_of(self, row: ImageRow) -> ImageRow:
        copy = None if row.sha256 is None else self._rows.copy(row.sha256)
        if copy is None:
            raise Rejected(
                f"image {row.id} is {row.status}, its file is gone, and there is no copy of it in duplicates: put it"
                f" back to {display(row.removed_from or 'the library')}, and say darkroom sync"
            )
        return copy


def _origin(row: ImageRow, old: str) -> tuple[Folder, str]:
    """Return the folder and the path to which an image is taken back: where it was, as far as anybody knows."""
    for text in (row.removed_from, old):
        folder, _, path = (text or "").partition("/")
        if folder in _STATUS and path:
            return folder, path
    return "library", PurePosixPath(old).name
