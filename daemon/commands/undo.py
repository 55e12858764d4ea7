"""Moves filed originals out again, with what came with them, under the names they came with.

As safe at any instant as filing (`filing/moves.py`), and nothing is overwritten.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePosixPath

from daemon.app import decoding_limits, existing_catalogue, mover, sidecars
from daemon.catalogue import Catalogue, ImageRow
from daemon.catalogue.history import History
from daemon.catalogue.moves import Move, MoveJournal
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError, NameRefused, Rejected
from daemon.files import atomic, names
from daemon.files.atomic import Root
from daemon.filing.collisions import NumberedNames
from daemon.filing.moves import Mover
from daemon.phrases import counted

_Shape = Callable[[PurePosixPath], PurePosixPath]


def main(config: Config, args: argparse.Namespace) -> int:
    """Move each image into --to, or say where it would go; 1 when one can't be."""
    catalogue = existing_catalogue(config)
    try:
        to = args.to.expanduser().absolute()
    except RuntimeError:
        raise DarkroomError(f"{args.to} can't be made: there is no home folder {args.to.parts[0]}") from None
    refused = moved = 0
    with catalogue.session(), closing(Sandbox(decoding_limits(config))) as sandbox:
        undo = Undo(catalogue, mover(config, catalogue, sidecars(config, catalogue, sandbox)))
        for image_id in args.ids or undo.since(time.time() - args.since):
            try:
                if args.dry_run:
                    paths = undo.would_go(image_id, to)
                else:
                    undo.check(image_id)
                    _make(to)
                    paths = [undo.out(image_id, to)]
            except (Rejected, NameRefused) as reason:
                print(reason, file=sys.stderr)
                refused += 1
                continue
            moved += 1
            for path in paths:
                print(f"image {image_id}: {path}")
    said = counted(moved, "image")
    print(f"{said} would be moved out; nothing was changed" if args.dry_run else f"{said} moved out")
    return 1 if refused else 0


def _make(to: Path) -> None:
    try:
        atomic.make_path(to)
    except OSError as error:
        raise DarkroomError(f"{to} can't be made: {error.strerror}") from error


class Undo:
    """Moves images of one darkroom out of it."""

    def __init__(self, catalogue: Catalogue, mover: Mover) -> None:
        self._mover, self._history = mover, History(catalogue)
        self._numbers = NumberedNames()
        # The names that images are to get, where they are not moved.
        self._promised: set[Path] = set()

    def since(self, moment: float) -> list[int]:
        """Return the ids of what was filed since a moment, in seconds since 1970."""
        return self._mover.rows.since(moment)

    def check(self, image_id: int) -> None:
        """Raise Rejected, saying why, where an image can't be moved out: before anything is made for it."""
        self._row(image_id)

    def out(self, image_id: int, to: Path) -> Path:
        """Move one image out and return its new path. Raises Rejected saying why it can't be, EnvironmentFault."""
        with self._mover.alone():
            row = self._row(image_id)
            try:
                return self._out(row, to, lambda name: name)
            except NameRefused:
                # exFAT and SMB refuse a colon and what is no UTF-8, eCryptfs 144 bytes.
                return self._out(row, to, _portable)

    def would_go(self, image_id: int, to: Path) -> list[Path]:
        """Return where one image would go, and what is beside it, where none is in the way. Raises as `out` does."""
        moves = self._plan(self._row(image_id), to, lambda name: name)
        paths = [to / move.new for move in moves]
        self._promised.update(paths)
        return paths

    def _row(self, image_id: int) -> ImageRow:
        row = self._mover.row(image_id)
        if row.status not in {"done", "duplicate"} or row.place is None or row.destination is None:
            hint = "darkroom retry queues it again" if row.status == "failed" else "there is nothing to move out"
            raise Rejected(f"image {image_id} ({row.original_name}) is {row.status}: {hint}")
        if row.source == "library":
            raise Rejected(
                f"image {image_id} ({row.original_name}) was adopted where it lies: it never was in the inbox"
            )
        return row

    def _out(self, row: ImageRow, to: Path, shape: _Shape) -> Path:
        moves = tuple(self._plan(row, to, shape))
        self._mover.do(MoveJournal(row.id, "undo", row.status, row.status, moves, outside=str(to)))
        return to / moves[0].new

    def _plan(self, row: ImageRow, to: Path, shape: _Shape) -> Iterator[Move]:
        """Yield where the image, its companions and its sidecar go."""
        assert row.place is not None  # noqa: S101, `_row` has seen to it
        found = list(self._mover.files_of(row, row.place))
        if not found or found[0].kind != "image":
            raise Rejected(f"image {row.id}: {self._mover.roots[row.place] / str(row.destination)} is gone")
        companions = {one.id: one for one in self._mover.rows.beside(row.id)}
        taken: set[Path] = set(self._promised)
        came = shape(self._came_as(row.folder, row.original_name))
        yield (first := self._move(found[0], to, came, taken))
        for move in found[1:]:
            if move.kind == "companion":
                one = companions[move.id]
                yield self._move(move, to, shape(self._came_as(one.folder, one.original_name)), taken)
        # Last: where the photo came with an .xmp of this name, that is its owner's and keeps the name.
        for move in found[1:]:
            if move.kind == "beside":
                name = PurePosixPath(first.new).name + move.old.removeprefix(first.old)
                yield self._move(move, to, came.with_name(name), taken)

    def _came_as(self, folder: str, name: str) -> PurePosixPath:
        raw = self._history.undecodable_path(f"{folder}/{name}" if folder else name)
        if raw is not None:
            return PurePosixPath(raw)
        return PurePosixPath(*(names.component(part) for part in folder.split("/") if part), names.component(name))

    def _move(self, move: Move, to: Path, wanted: PurePosixPath, taken: set[Path]) -> Move:
        """Return the move of one file to the first name that is free; its new name is `taken` then."""
        for name, root in self._mover.roots.items():
            if (to / wanted).resolve().is_relative_to(root.path):
                raise Rejected(f"{to / wanted} lies in the {name} folder: choose another --to")
        for number in chain((0,), self._numbers.untried(str(to), wanted)):
            candidate = names.numbered(wanted, number)
            if not atomic.exists(Root(to, own_links=True) / candidate) and to / candidate not in taken:
                taken.add(to / candidate)
                self._numbers.took(str(to), wanted, number)
                return replace(move, new_folder="outside", new=str(candidate))
        raise Rejected(f"{to} is full of files named {wanted.name}")


def _portable(path: PurePosixPath) -> PurePosixPath:
    return names.portable(PurePosixPath(*(names.component(part) for part in path.parts)))
