"""Moves an image with all that is beside it, as the trash, `undo` and `refile` want it: all of it, or nothing.

Original, sidecar and companions go together. What the rows say and what is on disk at each instant:

    begin    the journal names all moves   every file is where it was, or has its new name as well
    commit   the rows say the new places   every file has its new name, and may still have the old one
    end      no journal                    the old names are gone

Before the commit a fault takes back what was placed; behind it the rest is done, at the latest by the next start.
Nothing is overwritten, and a name only goes where the same bytes have just been seen under the other one. One image at
a time, in any process: what one has moved, another would take for left behind.
"""

import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from daemon.catalogue import ImageRow
from daemon.catalogue.moves import Folder, Move, MoveJournal, MoveRows
from daemon.errors import DarkroomError, EnvironmentFault, Rejected
from daemon.files import atomic, lock
from daemon.files.atomic import Location, Root
from daemon.files.opening import Lease, LeaseState, open_regular
from daemon.filing.destination import reason_beside
from daemon.filing.removals import Removal, RemovalKind, Removals
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.sidecar.sidecars import Sidecars, path_beside

_log = logging.getLogger(__name__)

_BUSY_SECONDS = 10.0
# What is larger is moved without being hashed: no photo is.
_HASHED_BYTES = 4 << 30


class Mover:
    """Does what a journal names, or finishes it; `roots` are all the folders of one darkroom that hold photos."""

    def __init__(
        self,
        rows: MoveRows,
        roots: Mapping[Folder, Root],
        removals: Removals,
        sidecars: Sidecars,
        thumbnails: ThumbnailStore,
        state: Path,
    ) -> None:
        self.rows, self.roots = rows, roots
        self._removals, self._sidecars, self._thumbnails = removals, sidecars, thumbnails
        self._lock = state / "moves.lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second move off, and finish first what an earlier process has begun. Raises Busy, EnvironmentFault."""
        with lock.held(self._lock, _BUSY_SECONDS, "another darkroom moves photos here: try again after it"):
            self._finish_earlier()
            yield

    def resume(self) -> None:
        """Finish, or undo, what an earlier process has begun. Raises Busy, EnvironmentFault."""
        if self.rows.journal() is not None:
            with self.alone():
                pass

    def do(self, journal: MoveJournal) -> None:
        """Do what a journal names; within `alone`.

        Raises Rejected saying why it can't be done, EnvironmentFault; the image is then as it was.
        """
        if not self.rows.begin(journal):
            raise Rejected(f"image {journal.image_id} has just changed: try again")
        self._finish(journal)

    def row(self, image_id: int) -> ImageRow:
        """Return an image's row. Raises Rejected where there is none."""
        row = self.rows.image(image_id)
        if row is None:
            raise Rejected(f"there is no image {image_id}")
        return row

    def files_of(self, row: ImageRow, folder: Folder, *, trusting: bool = False) -> Iterator[Move]:
        """Yield an image's file and all that lies beside it, where they are; the new names are the old ones.

        `trusting`: what looks as its row has it, to stat, has the bytes that the row has, and is not read.
        """
        path = row.path if folder == "inbox" else row.destination
        if path is None:
            return
        original = self.roots[folder] / path
        if atomic.exists(original):
            known = (row.sha256, row.size_bytes, row.mtime_ns) if trusting else None
            yield Move("image", folder, path, folder, path, self._sha256(original, known))
        for one in self.rows.beside(row.id):
            companion = self.roots[one.place] / one.path
            # One that its owner has moved or deleted is found by the next walk of the library.
            if atomic.exists(companion):
                sha256 = self._sha256(companion, (one.sha256, one.size, one.mtime_ns) if trusting else None)
                yield Move("companion", one.place, one.path, one.place, one.path, sha256, one.id)
        for beside in () if folder == "inbox" else (path_beside(original), reason_beside(original)):
            if atomic.exists(beside) and not self.rows.is_owned(folder, beside.inside):
                yield Move("beside", folder, beside.inside, folder, beside.inside, self._sha256(beside))

    def is_free(self, folder: Folder, path: str) -> bool:
        """Return whether neither a file nor a row has a name. Raises EnvironmentFault where nobody knows."""
        return not atomic.exists(self.roots[folder] / path) and not self.rows.is_owned(folder, path)

    def remove_emptied(self, file: Location) -> None:
        """Remove the folder that a file has left, and those above it, where nothing is in them any more."""
        folder = file.parent
        with suppress(OSError):
            while folder.inside:
                with folder.entry() as entry:
                    os.rmdir(entry.name, dir_fd=entry.folder)
                folder = folder.parent

    def _sha256(self, file: Location, known: tuple[str | None, int | None, int | None] | None = None) -> str | None:
        """Return the hash of a file; None for what is none, or too large to be a photo.

        `known` is the hash, the size and the time in nanoseconds that it had when it was last read.
        """
        with atomic.blaming(file):
            here = file.lstat()
            if here is None or not stat.S_ISREG(here.st_mode) or here.st_size > _HASHED_BYTES:
                return None
            if known is not None and (here.st_size, here.st_mtime_ns) == known[1:]:
                return known[0]
            return atomic.sha256(file)

    # -- what a journal names

    def _finish_earlier(self) -> None:
        journal = self.rows.journal()
        if journal is None:
            return
        try:
            for move in journal.moves:
                if (new := self._new(journal, move)) is not None:
                    with atomic.blaming(new):
                        atomic.remove_temporaries(new, journal.image_id)
            self._finish(journal)
        except DarkroomError as error:
            if self.rows.journal() is not None:
                raise
            _log.warning("image %d: %s was interrupted and is given up: %s", journal.image_id, journal.act, error)

    def _finish(self, journal: MoveJournal) -> None:
        """Do all that is still to do of what is written down."""
        now = time.time()
        if journal.rows:
            placed = self._place_all(journal)
            # Before the row, or a lost catalogue would not know it.
            if journal.act == "reject":
                self._note(journal, "rejected", now)
            journal = replace(journal, rows=False)
            if not self.rows.commit(journal, now):
                self._give_up(journal, placed)
                raise Rejected(f"image {journal.image_id}: its new name has just become another's; try again")
            if journal.act == "restore":
                self._note(journal, "restored", now)
        for move in journal.moves:
            self._remove(journal, move)
        if journal.act == "undo":
            self._remove_thumbnails(journal.image)
        if journal.act == "refile":
            for move in journal.moves:
                self.remove_emptied(self.roots[move.old_folder] / move.old)
        self.rows.end()
        if journal.act in {"restore", "refile"} and journal.status == "done":
            self._bring_sidecar(journal)

    def _bring_sidecar(self, journal: MoveJournal) -> None:
        """Write the sidecar of an image that lies elsewhere now, with what somebody wrote meanwhile where it was."""
        with suppress(EnvironmentFault):  # it stays due
            self._sidecars.write(journal.image_id)
            for move in journal.moves:
                left = self.roots[move.old_folder] / move.old
                if journal.act == "refile" and move.kind == "beside" and atomic.exists(left):
                    self._sidecars.gather(journal.image_id, left)

    def _place_all(self, journal: MoveJournal) -> list[tuple[Location, os.stat_result]]:
        """Make all files appear under their new names, too, or none; return those that were not there before.

        Raises Rejected, EnvironmentFault.
        """
        placed: list[tuple[Location, os.stat_result]] = []
        try:
            for move in journal.moves:
                new = self._new(journal, move)
                if new is not None and (made := self._place(move, new, journal.image_id)) is not None:
                    placed.append((new, made))
        except DarkroomError as reason:
            # Whatever it is (a name that is refused, a disk that was pulled), it must not stand in the way of the next
            # start or the next move.
            self._give_up(journal, placed)
            if isinstance(reason, EnvironmentFault):
                raise
            raise Rejected(f"image {journal.image_id}: {reason}") from reason
        return placed

    def _give_up(self, journal: MoveJournal, placed: list[tuple[Location, os.stat_result]]) -> None:
        """Leave the image where it is; of what an earlier process placed there is a second copy then."""
        for new, made in placed:
            with suppress(OSError, DarkroomError):
                atomic.take_back(new, made)
        self.rows.give_up(journal)

    def _place(self, move: Move, new: Location, image_id: int) -> os.stat_result | None:
        """Make one file appear under its new name, too; return None where an earlier process has done so."""
        old = self.roots[move.old_folder] / move.old
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
                return self._place_open(fd, old, new, image_id, move)
            finally:
                os.close(fd)
        except FileExistsError:
            raise Rejected(f"another file has taken the name {new}; try again") from None

    def _place_open(self, fd: int, old: Location, new: Location, image_id: int, move: Move) -> os.stat_result:
        with Lease(fd) as lease:
            if lease.state is LeaseState.HELD_BY_WRITER:
                raise Rejected(f"{old} is open for writing")
            # What is filed has other names by its owner's will: a backup of hard links must not double.
            is_filed = move.old_folder not in {"inbox", "failed"}
            return atomic.place(fd, new, image_id, move.sha256, "link" if is_filed else "any")

    def _is_placed(self, move: Move, old: Location, new: Location) -> bool:
        """Return whether a file has its new name already."""
        with atomic.blaming(new):
            there, here = new.lstat(), old.lstat()
            if there is None:
                return False
            if here is not None and os.path.samestat(there, here):
                return True
            return move.sha256 is not None and stat.S_ISREG(there.st_mode) and atomic.sha256(new) == move.sha256

    def _remove(self, journal: MoveJournal, move: Move) -> None:
        """Remove a file's old name, durably, where the same bytes are seen under the new one, or it goes for good."""
        old = self.roots[move.old_folder] / move.old
        # Its folder, once emptied, may have been deleted since an earlier process was killed here.
        with atomic.blaming(old), suppress(FileNotFoundError), old.entry() as entry:
            here = None
            with suppress(FileNotFoundError):
                here = entry.lstat()
            if here is not None:
                if self._may_go(journal, move, old, here):
                    entry.unlink()
                else:
                    _log.warning("%s was written to meanwhile, and stays", old)
            # Or a power cut could bring the name back, which no row knows any more.
            entry.fsync_folder()

    def _may_go(self, journal: MoveJournal, move: Move, old: Location, here: os.stat_result) -> bool:
        """Return whether an old name may go: the file has the new one as well, or what was copied is there, unchanged.

        Whoever finishes what was interrupted may come when the new one has been taken away since.
        """
        new = self._new(journal, move)
        if new is None:
            return move.sha256 is None or (stat.S_ISREG(here.st_mode) and atomic.sha256(old) == move.sha256)
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

    def _new(self, journal: MoveJournal, move: Move) -> Location | None:
        """Return where a file goes; None where it goes for good."""
        if move.new_folder is None:
            return None
        if move.new_folder == "outside":
            return Root(Path(journal.outside or ""), own_links=True) / move.new
        return self.roots[move.new_folder] / move.new

    def _note(self, journal: MoveJournal, kind: RemovalKind, now: float) -> None:
        move = journal.image
        if move is not None and move.sha256 is not None:
            name = PurePosixPath(move.old).name
            self._removals.note([Removal(move.sha256, now, kind, journal.image_id, name)])

    def _remove_thumbnails(self, image: Move | None) -> None:
        """Remove the thumbnails of a file that was moved out, where no image has its bytes any more."""
        if image is not None and image.sha256 is not None and not self.rows.is_shown(image.sha256):
            self._thumbnails.remove(image.sha256)
