"""Moves filed originals out again, with what came with them, under the names they came with.

The same order as filing, and as safe at any instant: what is about to happen is written down, the bytes appear
durably under their new names, the rows go, and only then the old names. Whoever finds what is written down does
the rest. Nothing is overwritten.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath

from daemon.app import open_catalogue, thumbnail_store
from daemon.catalogue import Catalogue, ImageRow
from daemon.catalogue.history import History
from daemon.catalogue.restore import UndoJournal, UndoMove, UndoRows
from daemon.catalogue.search import Inventory, Search
from daemon.config import Config
from daemon.errors import DarkroomError, EnvironmentFault, NameRefused, Rejected
from daemon.files import atomic, lock, names
from daemon.files.atomic import Location, Root
from daemon.files.opening import open_regular
from daemon.filing.collisions import NumberedNames
from daemon.filing.thumbnail_store import SIZES, ThumbnailStore
from daemon.sidecar.sidecars import path_beside

_log = logging.getLogger(__name__)

_Shape = Callable[[PurePosixPath], PurePosixPath]


def main(config: Config, args: argparse.Namespace) -> int:
    """Move each image into --to; 1 when one can't be."""
    try:
        to = args.to.expanduser().absolute()
        atomic.make_path(to)
    except (OSError, RuntimeError, ValueError) as error:  # ~ of nobody, a NUL
        raise DarkroomError(f"{args.to} can't be made: {getattr(error, 'strerror', None) or error}") from error
    catalogue = open_catalogue(config)
    refused = moved = 0
    with alone(config.folders.state):
        undo = Undo(catalogue, dict(config.folders.items()), thumbnail_store(config))
        undo.resume()
        for image_id in args.ids or undo.since(time.time() - args.since):
            try:
                print(f"image {image_id}: {undo.out(image_id, to)}")
                moved += 1
            except (Rejected, NameRefused) as reason:
                print(reason, file=sys.stderr)
                refused += 1
    print(f"{moved} moved out")
    return 1 if refused else 0


def finish(catalogue: Catalogue, folders: Mapping[str, Path], thumbnails: ThumbnailStore) -> None:
    """Finish at start-up what an `undo` that was killed has begun; what can't be done now waits for the next."""
    try:
        with alone(folders["state"]):
            Undo(catalogue, folders, thumbnails).resume()
    except DarkroomError as error:
        _log.warning("an undo that was interrupted is not finished yet: %s", error)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Keep a second `undo` off: what one has written down, the other would take for left behind. Raises Busy."""
    with lock.held(state / "undo.lock", 0.0, "another darkroom undo is at work here"):
        yield


class Undo:
    """Moves images out of one darkroom's `folders`, by their names; one process at a time."""

    def __init__(self, catalogue: Catalogue, folders: Mapping[str, Path], thumbnails: ThumbnailStore) -> None:
        self._rows, self._search, self._inventory = UndoRows(catalogue), Search(catalogue), Inventory(catalogue)
        self._history = History(catalogue)
        self._folders, self._thumbnails = folders, thumbnails
        self._roots = {name: Root(path, own_links=name != "failed") for name, path in folders.items()}
        self._numbers = NumberedNames()

    def since(self, moment: float) -> list[int]:
        """Return the ids of what was filed since a moment, in seconds since 1970."""
        return self._rows.since(moment)

    def resume(self) -> None:
        """Finish what an earlier process has begun."""
        journal = self._rows.journal()
        if journal is None:
            return
        try:
            for move in journal.moves:
                new = Root(Path(move.new).parent, own_links=True) / Path(move.new).name
                with atomic.blaming(new):
                    atomic.remove_temporaries(new, journal.image_id)
            self._finish(journal)
        except DarkroomError as error:
            if self._rows.journal() is not None:
                raise
            _log.warning("an undo that was interrupted is given up, and its image stays filed: %s", error)

    def out(self, image_id: int, to: Path) -> Path:
        """Move one image out and return its new path. Raises Rejected saying why it can't be, EnvironmentFault."""
        row = self._search.image(image_id)
        if row is None:
            raise Rejected(f"there is no image {image_id}")
        if row.status not in {"done", "duplicate"} or row.place is None or row.destination is None:
            hint = "darkroom retry queues it again" if row.status == "failed" else "there is nothing to move out"
            raise Rejected(f"image {image_id} ({row.original_name}) is {row.status}: {hint}")
        original = self._roots[row.place] / row.destination
        try:
            return self._out(row, original, to, lambda name: name)
        except NameRefused:
            # exFAT and SMB refuse a colon and what is no UTF-8, eCryptfs 144 bytes.
            return self._out(row, original, to, _portable)

    def _out(self, row: ImageRow, original: Location, to: Path, shape: _Shape) -> Path:
        journal = UndoJournal(row.id, str(to), tuple(self._plan(row, original, to, shape)))
        self._rows.begin(journal)
        self._finish(journal)
        return Path(journal.moves[0].new)

    def _plan(self, row: ImageRow, original: Location, to: Path, shape: _Shape) -> Iterator[UndoMove]:
        """Yield where the image, its companions and its sidecar go."""
        if self._size(original) is None:
            raise Rejected(f"image {row.id}: {original} is gone")
        came = shape(self._came_as(row.folder, row.original_name))
        taken: set[Path] = set()
        yield (first := self._move(original, to, came, taken))
        companions = self._inventory.beside(row.id)
        files = [(self._roots[one.place] / one.destination, one) for one in companions]
        for path, one in files:
            if self._size(path) is not None:
                yield self._move(path, to, shape(self._came_as(one.folder, one.original_name)), taken)
        # Last: where the photo came with an .xmp of this name, that is its owner's and keeps the name.
        sidecar = path_beside(original)
        if sidecar not in [path for path, _ in files] and self._size(sidecar) is not None:
            name = path_beside(Root(to) / Path(first.new).name).name
            yield self._move(sidecar, to, came.with_name(name), taken)

    def _came_as(self, folder: str, name: str) -> PurePosixPath:
        raw = self._history.undecodable_path(f"{folder}/{name}" if folder else name)
        if raw is not None:
            return PurePosixPath(raw)
        return PurePosixPath(*(names.component(part) for part in folder.split("/") if part), names.component(name))

    def _move(self, old: Location, to: Path, wanted: PurePosixPath, taken: set[Path]) -> UndoMove:
        """Return the move of one file to the first name that is free; its new name is `taken` then."""
        for name, folder in self._folders.items():
            if (to / wanted).resolve().is_relative_to(folder):
                raise Rejected(f"{to / wanted} lies in the {name} folder: choose another --to")
        for number in chain((0,), self._numbers.untried(str(to), wanted)):
            new = Root(to, own_links=True) / names.numbered(wanted, number)
            if not atomic.exists(new) and new.path not in taken:
                taken.add(new.path)
                self._numbers.took(str(to), wanted, number)
                with atomic.blaming(old):
                    return UndoMove(str(old), str(new), atomic.sha256(old))
        raise Rejected(f"{to} is full of files named {wanted.name}")

    def _finish(self, journal: UndoJournal) -> None:
        """Do all that is still to do of what is written down."""
        if journal.rows:
            self._place_all(journal)
            journal = replace(journal, rows=False)
            self._rows.take_out(journal, time.time())
        for old in (self._old(move) for move in journal.moves):
            # Its folder, once emptied, may have been deleted since an earlier process was killed here.
            with atomic.blaming(old), suppress(FileNotFoundError), old.entry() as entry:
                with suppress(FileNotFoundError):
                    entry.unlink()
                # Or a power cut could bring the name back once nothing is written down any more, and no row knows it.
                entry.fsync_folder()
        self._remove_thumbnails([move.sha256 for move in journal.moves])
        self._rows.end()

    def _place_all(self, journal: UndoJournal) -> None:
        """Make all files appear under their new names, too, or none. Raises Rejected, EnvironmentFault."""
        placed: list[tuple[Location, os.stat_result]] = []
        try:
            for move in journal.moves:
                new = Root(Path(journal.to), own_links=True) / str(Path(move.new).relative_to(journal.to))
                if (made := self._place(move, new, journal.image_id)) is not None:
                    placed.append((new, made))
        except DarkroomError as reason:
            # Whatever it is (a name that is refused, a disk that was pulled), it must not stand in the way of the
            # next start or the next undo. The image stays where it is; of what an earlier process placed before
            # it was killed there is a second copy then, and nothing is lost.
            for new, made in placed:
                with suppress(OSError, DarkroomError):
                    atomic.take_back(new, made)
            self._rows.end()
            if isinstance(reason, EnvironmentFault):
                raise
            raise Rejected(f"image {journal.image_id}: {reason}") from reason

    def _place(self, move: UndoMove, new: Location, image_id: int) -> os.stat_result | None:
        """Make one file appear under its new name, too; return None where an earlier process has done so."""
        old = self._old(move)
        with atomic.blaming(new):
            if atomic.size_of(new) is not None and atomic.sha256(new) == move.sha256:
                return None
        if self._size(old) is None and atomic.exists(old.parent):
            raise Rejected(f"{old} is gone")
        fd = open_regular(old)
        try:
            return atomic.place(fd, new, image_id, move.sha256)
        except FileExistsError:
            raise Rejected(f"another file has taken the name {new}; try again") from None
        finally:
            os.close(fd)

    def _old(self, move: UndoMove) -> Location:
        """Return where a file is that is on its way out."""
        path = Path(move.old)
        for root in self._roots.values():
            if path.is_relative_to(root.path):
                return root / str(path.relative_to(root.path))
        raise Rejected(f"{path} lies in none of the folders any more")

    def _size(self, file: Location) -> int | None:
        with atomic.blaming(file):
            return atomic.size_of(file)

    def _remove_thumbnails(self, sha256s: list[str]) -> None:
        """Remove the thumbnails that no image needs any more."""
        for sha256 in set(sha256s) - self._rows.still_used(sha256s):
            for size in SIZES:
                file = self._thumbnails.path(sha256, size)
                with atomic.blaming(file):
                    file.unlink(missing_ok=True)


def _portable(path: PurePosixPath) -> PurePosixPath:
    return names.portable(PurePosixPath(*(names.component(part) for part in path.parts)))
