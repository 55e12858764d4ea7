"""Throws images away into the trash, takes them back, and deletes for good what lies there, when it is told to.

Original, sidecar and companions go together. What the rows say and what is on disk at each instant:

    begin    the journal names all moves   every file is where it was, or has its new name as well
    commit   the rows say the new places   every file has its new name, and may still have the old one
    end      no journal                    the old names are gone

A queued image is `rejected` from the beginning, so that nobody files it meanwhile. Before the commit a fault takes back
what was placed; behind it the rest is done, at the latest by the next start. Nothing is overwritten, and a name only
goes where the same bytes have just been seen under the other one. In the trash a file lies below the name of the folder
that it is from, `trash/library/2024/05/IMG_1.jpg`: so it can be taken back, even after `darkroom rebuild`.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

from daemon.catalogue import ImageRow
from daemon.catalogue.rejections import Folder, TrashJournal, TrashMove, TrashRows
from daemon.catalogue.schema import Status
from daemon.errors import DarkroomError, EnvironmentFault, Rejected
from daemon.files import atomic, lock, names
from daemon.files.atomic import Location, Root
from daemon.files.names import display
from daemon.files.opening import Lease, LeaseState, open_regular
from daemon.filing.destination import reason_beside
from daemon.filing.removals import Removal, RemovalKind, Removals
from daemon.sidecar.sidecars import Sidecars, path_beside

_log = logging.getLogger(__name__)

_TRIES = 10_000
_BUSY_SECONDS = 10.0
# What is larger is moved without being hashed: no photo is.
_HASHED_BYTES = 4 << 30
_Wanted = Callable[[TrashMove], str]
_STATUS: dict[Folder, Status] = {"inbox": "queued", "library": "done", "duplicates": "duplicate", "failed": "failed"}


class Trash:
    """The trash of one darkroom; `roots` are all its folders that hold photos. One act at a time, in any process."""

    def __init__(
        self, rows: TrashRows, roots: Mapping[Folder, Root], removals: Removals, sidecars: Sidecars, state: Path
    ) -> None:
        self._rows, self._roots, self._removals, self._sidecars = rows, roots, removals, sidecars
        self._lock = state / "trash.lock"

    def reject(self, image_id: int) -> str:
        """Throw one image away; return where it lies in the trash, for people.

        Raises Rejected saying why it can't be, EnvironmentFault; the image is then as it was.
        """
        with self._alone():
            row = self._row(image_id)
            if row.status in {"rejected", "deleted"}:
                raise Rejected(f"image {image_id} is {row.status} already")
            if row.status == "processing" or (row.status == "queued" and row.destination is not None):
                raise Rejected(f"image {image_id} is being filed at the moment: try again")
            moves = tuple(self._moves_out(row))
            self._do(TrashJournal(image_id, "reject", row.status, "rejected", moves), row)
            return f"trash/{moves[0].new}" if moves else "it has no file"

    def restore(self, image_id: int) -> str:
        """Take one image back to where it was; return where it is now, for people. Raises as `reject` does.

        One that was deleted is filed again out of a copy of it in duplicates; given that copy, the same.
        """
        with self._alone():
            row = self._row(image_id)
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
            journal = TrashJournal(row.id, "restore", row.status, _STATUS[folder], moves, copy_of)
            self._do(journal, row)
            return f"{folder}/{moves[0].new}"

    def purge(self, row: ImageRow) -> None:
        """Delete what lies in the trash of an image, for good; its bytes are remembered. Raises as `reject` does."""
        with self._alone():
            row = self._row(row.id)
            if row.status != "rejected" or row.place != "trash":
                raise Rejected(f"image {row.id} has just changed: try again")
            place = self._roots["trash"] / str(row.destination)
            moves = tuple(replace(move, new_folder=None, new="") for move in self._all_of(row, "trash"))
            for move in moves:
                if move.kind == "image" and row.sha256 is not None and move.sha256 != row.sha256:
                    raise Rejected(f"image {row.id}: {place} is another file than was thrown away; it stays")
            self._do(TrashJournal(row.id, "purge", "rejected", "rejected", moves), row)
            self._remove_empty_folders(place)

    def listed(self, before: float) -> list[ImageRow]:
        """Return what lies in the trash since before a moment, in seconds since 1970, oldest first."""
        return self._rows.in_trash(before)

    def resume(self) -> None:
        """Finish, or undo, what an earlier process has begun. Raises Busy, EnvironmentFault."""
        if self._rows.journal() is not None:
            with self._alone():
                pass

    # -- one act

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a second act off, and finish first what an earlier process has begun."""
        with lock.held(self._lock, _BUSY_SECONDS, "another one is at work on the trash: try again after it"):
            self._finish_earlier()
            yield

    def _finish_earlier(self) -> None:
        journal = self._rows.journal()
        if journal is None:
            return
        for move in journal.moves:
            if move.new_folder is not None:
                new = self._roots[move.new_folder] / move.new
                with atomic.blaming(new):
                    atomic.remove_temporaries(new, journal.image_id)
        try:
            self._finish(journal)
        except DarkroomError as error:
            if self._rows.journal() is not None:
                raise
            _log.warning("image %d: %s was interrupted and is given up: %s", journal.image_id, journal.act, error)

    def _do(self, journal: TrashJournal, row: ImageRow) -> None:
        if not self._rows.begin(journal):
            raise Rejected(f"image {row.id} has just changed: try again")
        self._finish(journal)

    def _finish(self, journal: TrashJournal) -> None:
        now = time.time()
        if journal.rows:
            self._place_all(journal)
            # Before the row, or a lost catalogue would not know it.
            if journal.act == "reject":
                self._note(journal, "rejected", now)
            journal = replace(journal, rows=False)
            self._rows.commit(journal, now)
            if journal.act == "restore":
                self._note(journal, "restored", now)
        for move in journal.moves:
            self._remove(move)
        self._rows.end()
        if journal.act == "restore" and journal.status == "done":
            with suppress(EnvironmentFault):  # it stays due
                self._sidecars.write(journal.image_id)

    def _note(self, journal: TrashJournal, kind: RemovalKind, now: float) -> None:
        move = journal.image
        if move is not None and move.sha256 is not None:
            name = PurePosixPath(move.old).name
            self._removals.note([Removal(move.sha256, now, kind, journal.image_id, name)])

    def _place_all(self, journal: TrashJournal) -> None:
        """Make all files appear under their new names, too, or none. Raises Rejected, EnvironmentFault."""
        placed: list[tuple[Location, os.stat_result]] = []
        try:
            for move in journal.moves:
                if move.new_folder is not None:
                    new = self._roots[move.new_folder] / move.new
                    if (made := self._place(move, new, journal.image_id)) is not None:
                        placed.append((new, made))
        except DarkroomError as reason:
            for new, made in placed:
                with suppress(OSError, DarkroomError):
                    atomic.take_back(new, made)
            self._rows.give_up(journal)
            if isinstance(reason, EnvironmentFault):
                raise
            raise Rejected(f"image {journal.image_id}: {reason}") from reason

    def _place(self, move: TrashMove, new: Location, image_id: int) -> os.stat_result | None:
        """Make one file appear under its new name, too; return None where an earlier process has done so."""
        old = self._roots[move.old_folder] / move.old
        if self._is_placed(move, old, new):
            return None
        try:
            with atomic.blaming(old):
                is_file = atomic.size_of(old) is not None
            if not is_file:
                with atomic.blaming(old), old.entry() as entry:
                    here = entry.lstat()
                    atomic.place_node(entry, here, new)
                    return here
            fd = open_regular(old)
            try:
                return self._place_open(fd, old, new, image_id, move.sha256)
            finally:
                os.close(fd)
        except FileExistsError:
            raise Rejected(f"another file has taken the name {new}; try again") from None

    def _place_open(self, fd: int, old: Location, new: Location, image_id: int, sha256: str | None) -> os.stat_result:
        with Lease(fd) as lease:
            if lease.state is LeaseState.HELD_BY_WRITER:
                raise Rejected(f"{old} is open for writing")
            return atomic.place(fd, new, image_id, sha256)

    def _is_placed(self, move: TrashMove, old: Location, new: Location) -> bool:
        """Return whether a file has its new name already."""
        with atomic.blaming(new):
            there, here = new.lstat(), old.lstat()
            if there is None:
                return False
            if here is not None and os.path.samestat(there, here):
                return True
            return move.sha256 is not None and stat.S_ISREG(there.st_mode) and atomic.sha256(new) == move.sha256

    def _remove(self, move: TrashMove) -> None:
        """Remove a file's old name, durably, where the same bytes are seen under the new one, or it goes for good."""
        old = self._roots[move.old_folder] / move.old
        with atomic.blaming(old), suppress(FileNotFoundError), old.entry() as entry:
            here = None
            with suppress(FileNotFoundError):
                here = entry.lstat()
            if here is not None:
                if self._may_go(move, old, here):
                    entry.unlink()
                else:
                    _log.warning("%s was written to meanwhile, and stays", old)
            # Or a power cut could bring the name back, which no row knows any more.
            entry.fsync_folder()

    def _may_go(self, move: TrashMove, old: Location, here: os.stat_result) -> bool:
        """Return whether an old name may go: the file has the new one as well, or what was copied is there, unchanged.

        Whoever finishes what was interrupted may come when the new one has been taken away since.
        """
        if move.new_folder is None:
            return move.sha256 is None or (stat.S_ISREG(here.st_mode) and atomic.sha256(old) == move.sha256)
        new = self._roots[move.new_folder] / move.new
        there = new.lstat()
        if there is None:
            return False
        if os.path.samestat(there, here):
            return True
        if not (stat.S_ISREG(here.st_mode) and stat.S_ISREG(there.st_mode)):
            return stat.S_IFMT(here.st_mode) == stat.S_IFMT(there.st_mode)
        if move.sha256 is None:
            return (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
        return atomic.sha256(old) == move.sha256 == atomic.sha256(new)

    # -- what moves where

    def _row(self, image_id: int) -> ImageRow:
        row = self._rows.image(image_id)
        if row is None:
            raise Rejected(f"there is no image {image_id}")
        return row

    def _all_of(self, row: ImageRow, folder: Folder) -> Iterator[TrashMove]:
        """Yield an image's file and all that lies beside it, where they are; the new names are the old ones."""
        path = row.path if folder == "inbox" else row.destination
        if path is None:
            return
        original = self._roots[folder] / path
        if self._exists(original):
            yield TrashMove("image", folder, path, folder, path, self._sha256(original))
        for one in self._rows.beside(row.id):
            companion = self._roots[one.place] / one.path
            # One that its owner has moved or deleted is found by the next walk of the library.
            if self._exists(companion):
                sha256 = self._sha256(companion)
                yield TrashMove("companion", one.place, one.path, one.place, one.path, sha256, one.id)
        for beside in () if folder == "inbox" else (path_beside(original), reason_beside(original)):
            if self._exists(beside) and not self._rows.is_owned(folder, beside.inside):
                yield TrashMove("beside", folder, beside.inside, folder, beside.inside, self._sha256(beside))

    def _moves_out(self, row: ImageRow) -> Iterator[TrashMove]:
        """Yield where an image and what is beside it go in the trash."""
        folder: Folder = row.place if row.place is not None else "inbox"
        if row.place is None and row.path is None:
            return
        found = [*self._all_of(row, folder)]
        if not found or found[0].kind != "image":
            where = row.path if folder == "inbox" else row.destination
            hint = ": darkroom sync looks for it" if folder == "library" else ""
            raise Rejected(f"image {row.id}: {self._roots[folder] / str(where)} is gone{hint}")
        yield from self._renamed(found, "trash", lambda move: f"{move.old_folder}/{move.old}")

    def _moves_back(self, row: ImageRow, source: ImageRow) -> Iterator[TrashMove]:
        """Yield where an image goes that is taken back, and what is beside it."""
        folder: Folder = "trash" if source.place == "trash" else "duplicates"
        found = [*self._all_of(source, folder)]
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

        def back(move: TrashMove) -> str:
            if move.kind == "image":
                return path
            if move.kind == "beside":
                return path + move.old.removeprefix(image.old)
            inside = move.old.partition("/")[2] if folder == "trash" else PurePosixPath(move.old).name
            beside = str(PurePosixPath(path).with_name(PurePosixPath(inside).name))
            return inside if source.id == row.id and folder == "trash" else beside

        yield from self._renamed(found, to, back)
        yield from (replace(move, new_folder=None, new="") for move in records)

    def _renamed(self, found: list[TrashMove], to: Folder, wanted: _Wanted) -> Iterator[TrashMove]:
        """Yield moves with names that are free in a folder; what lies beside an image keeps its name with it."""
        image = found[0]
        shape = PurePosixPath(wanted(image))
        tails = ["", *(wanted(move).removeprefix(str(shape)) for move in found if move.kind == "beside")]
        for number in range(_TRIES):
            name = str(names.numbered(shape, number))
            if all(self._is_free(to, name + tail) for tail in tails):
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
                new = next(one for one in free if one not in taken and self._is_free(to, one))
                taken.add(new)
                yield replace(move, new_folder=to, new=new)

    def _is_free(self, folder: Folder, path: str) -> bool:
        return not self._exists(self._roots[folder] / path) and not self._rows.is_owned(folder, path)

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

    def _exists(self, file: Location) -> bool:
        return atomic.exists(file)

    def _sha256(self, file: Location) -> str | None:
        """Return the hash of a file; None for what is none, or too large to be a photo."""
        with atomic.blaming(file):
            size = atomic.size_of(file)
            return None if size is None or size > _HASHED_BYTES else atomic.sha256(file)

    def _remove_empty_folders(self, file: Location) -> None:
        folder = file.parent
        with suppress(OSError):
            while folder.inside:
                with folder.entry() as entry:
                    os.rmdir(entry.name, dir_fd=entry.folder)
                folder = folder.parent


def _origin(row: ImageRow, old: str) -> tuple[Folder, str]:
    """Return the folder and the path to which an image is taken back: where it was, as far as anybody knows."""
    for text in (row.removed_from, old):
        folder, _, path = (text or "").partition("/")
        if folder in _STATUS and path:
            return folder, path
    return "library", PurePosixPath(old).name
