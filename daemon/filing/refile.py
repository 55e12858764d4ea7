"""Moves the photos of a library to where another template wants them, each with all that is beside it.

First all is planned, so that what is said of it beforehand is what is done; then each photo is moved by its journal, as
safe at any instant as the trash (`moves.py`). What lies where the template wants it stays, also with a number behind
its name. What its owner has moved, or was adopted where it lies, stays as well, unless `everything` is to move.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count
from pathlib import PurePosixPath

from daemon.catalogue import Catalogue, ImageRow
from daemon.catalogue.companions import CompanionRows, Photo
from daemon.catalogue.moves import Move, MoveJournal
from daemon.errors import EnvironmentFault, NameRefused, Rejected
from daemon.files import atomic, names
from daemon.files.atomic import Location
from daemon.filing import companions
from daemon.filing.collisions import NumberedNames, StemIndex, Stems, plainer_names
from daemon.filing.companions import named_after
from daemon.filing.destination import refiled_name
from daemon.filing.moves import Mover
from daemon.sidecar.sidecars import path_beside

_TRIES = 10_000


@dataclass(frozen=True)
class Relocation:
    """One photo's way; paths are relative to the library. `beside` is what goes with it: from where to where."""

    image_id: int
    old: str
    new: str
    beside: tuple[tuple[str, str], ...] = ()


@dataclass
class RefilePlan:
    """What is to be done: the photos that move, in this order, how many lie right, and how many their owner has put.

    `left` are those that can't be moved, by path, each with the reason.
    """

    moves: list[Relocation] = field(default_factory=list)
    right: int = 0
    kept: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A photo that is to move: how it came, where it lies, and where the template wants it."""

    id: int
    original_name: str
    folder: str
    created_at: float
    datetime_original: str | None
    old: str
    wanted: PurePosixPath


class Refile:
    """Moves one library to a template; `is_private` says whether photos of a folder never leave the machine."""

    def __init__(
        self,
        catalogue: Catalogue,
        mover: Mover,
        template: str,
        *,
        everything: bool = False,
        is_private: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._mover, self._template = mover, template
        self._everything, self._is_private = everything, is_private
        self._rows = _Rows(CompanionRows(catalogue))
        self._numbers = NumberedNames()
        # Names that photos are to get, and those that they will have left by then.
        self._promised: set[str] = set()
        self._left: set[str] = set()

    def total(self) -> int:
        """Count the photos that are looked at."""
        return self._mover.rows.count_library()

    def plan(self, on_photo: Callable[[], object] = lambda: None) -> RefilePlan:
        """Return what is to be done; once. `on_photo` is called for each photo. Raises EnvironmentFault."""
        plan, moving = RefilePlan(), dict[int, _Leaving]()
        owners = set() if self._everything else self._mover.rows.moved_by_owner()
        for row in self._mover.rows.in_library():
            old = str(row.destination)
            try:
                wanted = self._wanted(row)
                if _fits(PurePosixPath(old), wanted, names.portable(wanted)):
                    plan.right += 1
                elif row.id in owners or (row.source == "library" and not self._everything):
                    plan.kept += 1
                elif not atomic.exists(self._at(old)):
                    raise Rejected("it is not there: darkroom sync looks for it")
                else:
                    came = (row.id, row.original_name, row.folder, row.created_at, row.datetime_original)
                    moving[row.id] = _Leaving(*came, old, wanted)
            except Rejected as reason:
                plan.left.append((old, str(reason)))
            if row.id not in moving:
                on_photo()
        for relocation in self._named(moving):
            plan.moves.append(relocation)
            on_photo()
        return plan

    def move(self, one: Relocation) -> str:
        """Move one photo as planned; return where it lies now.

        A filesystem that can't hold its name gets a plainer one, which may be the one that it has. Raises Rejected
        saying why it can't be moved, EnvironmentFault.
        """
        with self._mover.alone():
            row = self._mover.row(one.image_id)
            if (row.status, row.place, row.destination) != ("done", "library", one.old):
                raise Rejected(f"image {row.id} has just changed: say darkroom refile again")
            found = list(self._mover.files_of(row, "library", trusting=True))
            if not found or found[0].kind != "image":
                raise Rejected(f"{self._at(one.old)} is not there: darkroom sync looks for it")
            try:
                return self._do(found, one)
            except NameRefused as refused:
                for shape in plainer_names(PurePosixPath(one.new)):
                    if _fits(PurePosixPath(one.old), shape):
                        return one.old
                    try:
                        return self._do(found, replace(one, new=self._free(shape), beside=()))
                    except NameRefused:
                        continue
                raise Rejected(str(refused)) from refused

    # -- where each goes

    def _wanted(self, row: ImageRow) -> PurePosixPath:
        """Return what the template makes of a photo. Raises Rejected where that can't be known, or must not be."""
        old = PurePosixPath(str(row.destination))
        try:
            at = datetime.fromisoformat(row.taken_at or "")
        except ValueError:
            raise Rejected("no date of it is known") from None
        suffix = names.split(old.name)[1]
        wanted = refiled_name(self._template, row, (suffix.lower(),) if suffix else ("",), at)
        folders = (str(old.parent), str(wanted.parent), row.folder)
        if [self._is_private(folder) for folder in folders] == [True, False, False]:
            raise Rejected("it lies in a private folder")
        return wanted

    def _named(self, moving: dict[int, _Leaving]) -> Iterator[Relocation]:
        """Yield where photos go, in an order in which a name that another one leaves is free by then, if there is one.

        Of two that want each other's names, one gets a number.
        """
        self._rows.leaving = set(moving)
        pending = {photo.old for photo in moving.values()}
        queue, blocked = deque(moving.values()), 0
        while queue:
            photo = queue.popleft()
            if str(photo.wanted) in pending and blocked <= len(queue):
                queue.append(photo)
                blocked += 1
                continue
            blocked = 0
            pending.discard(photo.old)
            try:
                yield self._name(photo)
            except NameRefused:  # it is asked for again when it is moved
                yield Relocation(photo.id, photo.old, str(photo.wanted))

    def _name(self, photo: _Leaving) -> Relocation:
        old, wanted = photo.old, photo.wanted
        beside = list(self._beside(photo.id, old))
        sidecar = path_beside(self._at(old)).inside
        has_sidecar = sidecar not in beside and atomic.exists(self._at(sidecar))
        stems = Stems(self._rows, photo, wanted, photo.datetime_original)
        for candidate, number in self._numbers.candidates("library", wanted, stems, names.numbered):
            new = str(candidate)
            if self._is_free(new) and (not has_sidecar or self._is_free(path_beside(self._at(new)).inside)):
                self._numbers.took("library", wanted, number)
                break
        else:
            raise EnvironmentFault(f"{self._at(str(wanted))}: too many files have that name already")
        moved = [(sidecar, path_beside(self._at(new)).inside)] if has_sidecar else []
        self._promised |= {new, *(path for _, path in moved)}
        moved += [(path, self._companion(path, old, new)) for path in beside]
        self._left |= {old, *(path for path, _ in moved)}
        self._rows.moved(photo, new)
        return Relocation(photo.id, old, new, tuple(moved))

    def _beside(self, image_id: int, old: str) -> Iterator[str]:
        """Yield what came with a photo and lies beside it; what its owner has put elsewhere stays there."""
        folder = PurePosixPath(old).parent
        for one in self._mover.rows.beside(image_id):
            if (
                one.place == "library"
                and PurePosixPath(one.path).parent == folder
                and atomic.exists(self._at(one.path))
            ):
                yield one.path

    def _companion(self, path: str, old: str, new: str) -> str:
        """Return a free name for what came with a photo that goes from one name to another, and promise it."""
        photo = PurePosixPath(new)
        wanted = photo.with_name(named_after(PurePosixPath(path).name, PurePosixPath(old).name, photo.name))
        for number in range(_TRIES):
            found = str(companions.numbered(wanted, number))
            if self._is_free(found):
                self._promised.add(found)
                return found
        raise EnvironmentFault(f"{self._at(str(wanted))}: too many files have that name already")

    def _is_free(self, path: str) -> bool:
        return path not in self._promised and (path in self._left or self._mover.is_free("library", path))

    def _at(self, path: str) -> Location:
        return self._mover.roots["library"] / path

    # -- and is moved

    def _do(self, found: list[Move], one: Relocation) -> str:
        new_of, folder = dict(one.beside), PurePosixPath(one.old).parent
        moves = [replace(found[0], new=one.new)]
        for move in found[1:]:
            if move.kind == "beside":
                moves.append(replace(move, new=one.new + move.old.removeprefix(one.old)))
            elif move.old_folder == "library" and PurePosixPath(move.old).parent == folder:
                # It may have come since all was planned.
                moves.append(replace(move, new=new_of.get(move.old) or self._companion(move.old, one.old, one.new)))
        self._mover.do(MoveJournal(one.image_id, "refile", "done", "done", tuple(moves)))
        return one.new

    def _free(self, shape: PurePosixPath) -> str:
        """Return the first free name of a shape, for a photo and its sidecar."""
        for number in count():
            name = str(names.numbered(shape, number))
            if self._is_free(name) and self._is_free(path_beside(self._at(name)).inside):
                return name
        raise AssertionError


class _Rows:
    """Which photos are filed, as it will be once those have moved that are planned so far; those to come have left."""

    def __init__(self, filed: CompanionRows) -> None:
        self._filed = filed
        # The ids of those that move; and the new places of those that are planned.
        self.leaving: set[int] = set()
        self._planned: dict[int, Photo] = {}
        self._stems = StemIndex()

    def moved(self, photo: _Leaving, new: str) -> None:
        """Take note of where a photo is to go."""
        taken = photo.datetime_original
        self._planned[photo.id] = Photo(
            photo.id, photo.original_name, "done", photo.created_at, "library", new, None, datetime_original=taken
        )
        self._stems.add(new, photo.id)

    def related(self, folder: str, names: Sequence[str], stem: str) -> tuple[list[Photo], list[Photo]]:
        """Return the filed images that came from a folder under one of some names, and those that lie under a stem."""
        came, lie = self._filed.related(folder, names, stem)
        came = [self._planned.get(one.id, one) for one in came if one.id in self._planned or one.id not in self.leaving]
        lie = [one for one in lie if one.id not in self.leaving]
        return came, [*lie, *(self._planned[one] for one in self._stems.under(stem))]


def _fits(path: PurePosixPath, *shapes: PurePosixPath) -> bool:
    """Return whether a photo lies under a name of one of some shapes, perhaps with a number."""
    stem, suffix = names.split(path.name)
    for shape in shapes:
        own, its = names.split(shape.name)
        is_own = re.fullmatch(re.escape(own) + r"(-\d+)?", stem) is not None
        if path.parent == shape.parent and is_own and suffix.lower() == its.lower():
            return True
    return False
