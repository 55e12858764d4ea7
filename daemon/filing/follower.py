"""Follows what the owner does in the library: edits, moves, deletes, brings back; adopts what never was filed.

A walk by stat alone, side by side with what the rows expect. Nothing of the owner's is changed by it, but that what
came with a photo goes after it where he has moved the photo alone. Each finding is one transaction, and a walk that is
killed at any instant finds the rest the next time.

    looks other            (by size, time or inode) read again: the same bytes, an edit, or the bytes of another photo:
                           two have changed places
    gone here              looked for in a second walk among what no row knows, by size and then by hash: moved
    gone altogether        deleted; but never what could not be looked at (a folder that can't be read, a mount that is
                           away), and not too many at once, unless somebody says that it is true
    a sidecar looks other  read, and its words taken over
"""

import ctypes
import logging
import os
import platform
import stat
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from daemon.catalogue import ImageRow
from daemon.catalogue.library import Expected, LibraryRows, MovedFile
from daemon.catalogue.schema import Facts
from daemon.catalogue.settings import Settings
from daemon.decoding import Decoded, XmpDates
from daemon.errors import Busy, DarkroomError, EnvironmentFault, Rejected, Transient, Withdrawn
from daemon.files import atomic, lock
from daemon.files.atomic import Location, Root, by_descriptor
from daemon.files.mounts import FolderCheck, mount_point
from daemon.files.names import IMAGE_SUFFIXES, display, split
from daemon.files.opening import Identity, Lease, LeaseState, open_regular
from daemon.files.walk import Look, OrderedWalk, Seen
from daemon.filing.companions import named_after
from daemon.filing.dates import Evidence, Origin, taken
from daemon.filing.destination import facts_of
from daemon.filing.removals import FILE, Removal, Removals
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.filing.zones import ZoneFinder
from daemon.loop import Loop, LoopFault
from daemon.phrases import counted
from daemon.sidecar import xmp
from daemon.sidecar.sidecars import NAMESPACE, Sidecars, is_own, read_facts

_log = logging.getLogger(__name__)

# So many may be missing before somebody has to say that it is true.
MISSING, MISSING_SHARE = 20, 0.05
_FOLLOWED, _MOUNTS, _SHRUNK = "library followed", "mounts in library", "library shrunk"
_BATCH = 500
# A file without a lease that was written to later than this may still be written to.
_QUIET_SECONDS = 2.0
# For what comes up in the moment of need so much of the time goes into walks, and no more.
_WALKING_SHARE = 0.05
_BUSY_SECONDS = 60.0
_STOPPING = "darkroom is stopping"
# How long a walk waits behind every 64 files while others are filed: it takes 4 % of a processor then.
_GIVE_WAY_SECONDS = 0.1
# Of an edited photo these say no more than was known of it before.
_WEAK = frozenset({Origin.NAME, Origin.EXIF_MODIFIED, Origin.MTIME})
# ioprio_set(2) has no name in Python; the class "idle" waits for everybody else.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_IDLE = 3 << 13


@dataclass
class FollowReport:
    """What one walk found: numbers of images, of sidecars (`words`), and what was left alone, each with the reason.

    `missing` are those that nobody has believed to be deleted yet, `unseen` the folders that could not be looked into.
    """

    expected: int = 0
    edited: int = 0
    moved: int = 0
    deleted: int = 0
    came_back: int = 0
    words: int = 0
    adopted: int = 0
    new: int = 0
    missing: int = 0
    unseen: tuple[str, ...] = ()
    left: list[tuple[str, str]] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """How many rows follow something."""
        return self.edited + self.moved + self.deleted + self.came_back + self.words + self.adopted


@dataclass
class _Open:
    """What a first walk leaves open."""

    missing: list[Expected] = field(default_factory=list)
    # Paths that hold the bytes of another row than the one that was filed there.
    displaced: set[str] = field(default_factory=set)
    # Paths of the size of something that was taken away, and sidecars that lie beside nothing.
    returning: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


class Follower:
    """Follows one library. `follow` is one walk; one process or thread at a time makes one."""

    def __init__(
        self,
        rows: LibraryRows,
        library: Root,
        folders: FolderCheck,
        settings: Settings,
        thumbnails: ThumbnailStore,
        sidecars: Sidecars,
        decode: Callable[[Path], Decoded],
        removals: Removals,
        state: Path,
        *,
        trash: Root | None = None,
        ignore: tuple[str, ...] = (),
        is_private: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._rows, self._library, self._folders, self._settings = rows, library, folders, settings
        self._thumbnails, self._sidecars, self._decode, self._removals = thumbnails, sidecars, decode, removals
        self._state, self._ignore, self._is_private = state, ignore, is_private
        self._trash = trash
        self._next = 0.0
        # Asked between two files: whether the walk is to be given up.
        self.is_stopping: Callable[[], bool] = lambda: False
        # Called every few files: lets others go first who want the processor.
        self.give_way: Callable[[], object] = lambda: None
        self.on_file: Callable[[], object] = lambda: None

    def follow(self, *, adopt: bool = False, believe: bool = False) -> FollowReport:
        """Make one walk. `adopt` takes in what never was filed, `believe` takes many missing files for deleted.

        Raises Busy where another one is made, EnvironmentFault where the library is not there.
        """
        with following(self._state):
            self._folders.check_present()
            began = time.monotonic()
            with closing(ZoneFinder()) as zones:
                report = _Walk(self, zones, adopt=adopt, believe=believe).run()
        now = time.monotonic()
        self._next = now + max(1.0, (now - began) / _WALKING_SHARE)
        return report

    def total(self) -> int:
        """Count the files that the library should hold."""
        return self._rows.count()

    def look(self, image_id: int) -> None:
        """Look after one image that is needed now, and after the whole library where it is not where it was.

        Raises EnvironmentFault where the library is not there.
        """
        file = self._rows.image(image_id)
        if file is None:
            return
        place = self._library / file.path
        with atomic.blaming(place):
            here = place.lstat()
        if here is not None and stat.S_ISREG(here.st_mode):
            if (file.size, file.mtime_ns) != (here.st_size, here.st_mtime_ns):
                with closing(ZoneFinder()) as zones, suppress(Busy):
                    _Walk(self, zones).reread(file)
        elif here is None and time.monotonic() >= self._next:
            with suppress(Busy):
                self.follow()

    @property
    def shrunk(self) -> int:
        """How many files the last walk missed without believing that they are deleted."""
        return missing_photos(self._settings)

    def seconds_left(self, hours: float, now: float) -> float:
        """Return after how many seconds the next walk is due."""
        last = self._settings.get(_FOLLOWED)
        since = now - last if isinstance(last, int | float) else float("inf")
        # The clock may have been set back.
        return max(0.0, hours * 3600 - since) if since >= 0 else 0.0


@contextmanager
def following(state: Path) -> Iterator[None]:
    """Keep walks through the library off for a block, in any process. Raises Busy where one is made."""
    with lock.held(state / "follow.lock", 0.0, "the library is being looked through already: try again after it"):
        yield


class FollowLoop:
    """Makes a walk at the start and once in some hours; never by itself with 0.

    While photos are filed it takes its time: of a million rows it is a minute's work, in which filing would take half
    as long again.
    """

    def __init__(
        self,
        follower: Follower,
        hours: float,
        *,
        is_filing: Callable[[], bool] = lambda: False,
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._follower, self._hours, self._is_filing = follower, hours, is_filing
        self._begun = False
        self._thread: int | None = None
        self.loop = Loop("follower", self._step, within=session, report=report)
        follower.is_stopping = lambda: self.loop.stopping
        follower.give_way = self._give_way

    def start(self) -> None:
        """Begin; nothing where no hours are configured."""
        if self._hours:
            self.loop.start()

    def _give_way(self) -> None:
        # In this thread alone: who files may have to look through the library himself.
        if threading.get_ident() == self._thread and self._is_filing():
            self.loop.stop_requested.wait(_GIVE_WAY_SECONDS)

    def _step(self) -> float:
        self._thread = threading.get_ident()
        if not self._begun:
            lower_priority()
        wait = self._follower.seconds_left(self._hours, time.time()) if self._begun else 0.0
        if wait <= 0:
            try:
                say(self._follower.follow())
            except Busy:  # `darkroom sync` does it, or the program ends
                return _BUSY_SECONDS
            self._begun = True
            wait = self._hours * 3600
        return wait


def missing_photos(settings: Settings) -> int:
    """Return how many photos the last walk missed in the library that nobody has believed to be deleted."""
    found = settings.get(_SHRUNK)
    return found if isinstance(found, int) else 0


def say(report: FollowReport) -> None:
    """Log what one walk has found."""
    if report.changes:
        text = "the library: %d edited, %d moved, %d deleted, %d back again, %s read"
        sidecars = counted(report.words, "sidecar")
        _log.info(text, report.edited, report.moved, report.deleted, report.came_back, sidecars)
    if report.missing:
        text = "missing in the library: %d of %s: is a disk not mounted? If they are deleted: darkroom sync --yes"
        _log.warning(text, report.missing, counted(report.expected, "photo"))
    for folder in report.unseen:
        _log.warning("library/%s could not be looked at; nothing there is taken for deleted", display(folder))


def lower_priority() -> None:
    """Let everybody else go first at the disks, in this thread; nothing where the system has no such thing."""
    number = _IOPRIO_SET.get(platform.machine())
    if sys.platform == "linux" and number is not None:
        call: Any = ctypes.CDLL(None, use_errno=True).syscall
        call(number, 1, 0, _IOPRIO_IDLE)


class _Walk:
    """One walk, with what it needs of its follower."""

    def __init__(self, follower: Follower, zones: ZoneFinder, *, adopt: bool = False, believe: bool = False) -> None:
        self._follower, self._zones, self._adopts, self._believes = follower, zones, adopt, believe
        self._rows, self._library = follower._rows, follower._library
        self._sidecars = follower._sidecars
        self._report = FollowReport()
        self._open = _Open()
        self._unseen: set[str] = set()
        # Inode, its time, id and path of what looks as ever, and no walk has seen before.
        self._seen: list[tuple[int, int, int, str]] = []
        self._mounts: dict[str, str] = {}

    def run(self) -> FollowReport:
        """Return what was found."""
        settings, report = self._follower._settings, self._report
        self._first()
        mounts = self._mounts
        moved = self._find_moved() if self._open.missing else []
        # Before the moves: of two photos one may have been moved over the other.
        self._apply_deleted({move.file for move in moved})
        self._apply_moved([*moved, *self._bring_along(moved)])
        self._bring_back()
        for path in self._open.orphans:
            self._gather_orphan(path)
        if self._adopts:
            for seen in self._unknown():
                self._adopt(seen)
        report.unseen = tuple(sorted(self._unseen))
        if missing_photos(settings) != report.missing:
            settings.set(_SHRUNK, report.missing or None)
        mounts = mounts if self._believes else {**self._known_mounts(), **mounts}
        if settings.get(_MOUNTS) != mounts:
            settings.set(_MOUNTS, mounts)
        settings.set(_FOLLOWED, time.time())
        return report

    def _known_mounts(self) -> dict[str, str]:
        found = self._follower._settings.get(_MOUNTS)
        return found if isinstance(found, dict) and not self._believes else {}

    def _compared(self) -> Iterator[tuple[Expected | None, Seen | None]]:
        """Yield what is expected and what is seen, side by side. Raises EnvironmentFault."""
        walk = OrderedWalk(self._library, self._follower._ignore, self._known_mounts())
        expected, seen = self._rows.expected(), walk.files()
        compared, is_stopping = 0, self._follower.is_stopping
        with atomic.blaming(self._library):
            row, file = next(expected, None), next(seen, None)
            while row is not None or file is not None:
                compared += 1
                if compared % 64 == 0:
                    if is_stopping():
                        raise Busy(_STOPPING)
                    self._follower.give_way()
                # Mostly they are the same: the rest is for what is not.
                if row is not None and file is not None and row.path == file.path:
                    yield row, file
                    row, file = next(expected, None), next(seen, None)
                elif file is None or (row is not None and _key(row.path) < _key(file.path)):
                    yield row, None
                    row = next(expected, None)
                else:
                    yield None, file
                    file = next(seen, None)
        self._unseen |= set(walk.unseen)
        self._mounts = walk.mounts

    # -- the first walk

    def _first(self) -> None:
        """Compare all; what needs to be looked for is left open."""
        sizes = self._rows.removed_sizes()
        for row, seen in self._compared():
            if row is not None:
                self._report.expected += row.kind == "image"
            if row is None and seen is not None:
                self._note_unknown(seen, sizes)
            elif row is not None and seen is None and row.status != "processing":
                self._open.missing.append(row)
            elif row is not None and seen is not None and row.status != "processing" and seen.look.is_file:
                self._compare(row, seen)
            self._follower.on_file()
        self._note_seen()

    def _note_unknown(self, seen: Seen, sizes: set[int]) -> None:
        name = seen.path.rpartition("/")[2]
        if name.lower().endswith(".xmp"):
            if name[: -len(".xmp")] not in seen.beside:
                self._open.orphans.append(seen.path)
        elif is_photo(seen):
            self._report.new += 1
            if seen.look.size in sizes:
                self._open.returning.append(seen.path)

    def _compare(self, row: Expected, seen: Seen) -> None:
        """Compare one file, and its sidecar, with its row."""
        look = seen.look
        same_time = row.mtime_ns == look.mtime_ns or (row.mtime_ns is None and row.kind == "companion")
        if row.size != look.size or not same_time or _is_replaced(row, look):
            self.reread(row)
        elif row.kind == "image" and row.inode is None:
            self._seen.append((look.inode, look.ctime_ns, row.id, row.path))
            if len(self._seen) >= _BATCH:
                self._note_seen()
        if row.kind == "image" and self._sidecars.enabled:
            there = seen.beside.get(f"{seen.path.rpartition('/')[2]}.xmp")
            known = None if row.sidecar is None else (row.sidecar.size, row.sidecar.mtime_ns)
            if (there[:2] if there and there.is_file else None) != known:
                self._read_words(row)

    def _note_seen(self) -> None:
        self._rows.seen(self._seen)
        self._seen = []

    def _read_words(self, row: Expected) -> None:
        try:
            self._sidecars.write(row.id)
        except EnvironmentFault as fault:
            self._leave(f"{row.path}.xmp", str(fault))
        else:
            self._report.words += 1

    # -- edits

    def reread(self, row: Expected) -> None:
        """Read a file again that looks other than its row has it. Raises Busy where the program stops."""
        if self._follower.is_stopping():
            raise Busy(_STOPPING)
        place = self._library / row.path
        try:
            fd = open_regular(place)
        except Withdrawn:
            return
        except DarkroomError as error:
            self._leave(row.path, str(error))
            return
        try:
            with Lease(fd) as lease:
                was = os.fstat(fd)
                if _is_written(lease, was):
                    self._leave(row.path, "it is being written to")
                    return
                with atomic.blaming(place):
                    sha256 = atomic.sha256(fd)
                if Identity.of(os.fstat(fd)) != Identity.of(was):
                    return
                if sha256 == row.sha256:
                    self._rows.touched(row, was.st_size, was.st_mtime_ns)
                elif row.kind == "companion":
                    self._rows.companion_edited(row, sha256, was.st_size, was.st_mtime_ns)
                else:
                    self._edit(row, fd, was, sha256, lease)
        except EnvironmentFault as fault:
            self._leave(row.path, str(fault))
        finally:
            os.close(fd)

    def _edit(self, row: Expected, fd: int, was: os.stat_result, sha256: str, lease: Lease) -> None:
        """Take over what a photo is now."""
        if (other := self._rows.filed(sha256)) is not None and other != row.id:
            # The bytes of another photo: they have changed places, or it was copied over this one.
            self._open.missing.append(row)
            self._open.displaced.add(row.path)
            return
        try:
            decoded = self._follower._decode(by_descriptor(fd, (self._library / row.path).path))
            facts = self._facts(decoded, row.id)
        except Rejected as error:
            facts = Facts(sha256=sha256, size_bytes=was.st_size, warning=f"edited into what can't be read: {error}")
            decoded = None
        except DarkroomError as error:
            self._leave(row.path, str(error))
            return
        if lease.broken() or Identity.of(os.fstat(fd)) != Identity.of(was) or facts.sha256 != sha256:
            self._leave(row.path, "it is being written to")
            return
        if decoded is not None:
            self._follower._thumbnails.save(sha256, decoded.small, decoded.medium)
        before = self._rows.tags(row.id)
        keep_place = facts.lat is None and not any(tag.startswith("GPS GPSL") for tag in before)
        if facts.raw is not None:
            # Before the row says that this edit is known: who is killed between the two finds the words again.
            self._sidecars.embedded(row.id, before, facts.raw)
        if self._rows.edited(row, facts, was.st_mtime_ns, time.time(), keep_place=keep_place):
            self._report.edited += 1
            _log.info("image %d: edited in the library: %s", row.id, display(row.path))
            with suppress(EnvironmentFault):  # it stays due
                self._sidecars.write(row.id)

    def _facts(self, decoded: Decoded, image_id: int) -> Facts:
        """Return what a row learns of an edited photo: no date where that would be no more than a guess."""
        row = self._rows.row(image_id) or ImageRow()
        exif = decoded.exif
        evidence = Evidence(row.original_name, decoded.identity.mtime_ns / 1e9, exif.dates, exif.lat, exif.lon)
        when = taken(evidence, time.time(), self._zones.name)
        facts = facts_of(decoded, when)
        if when.origin in _WEAK and row.taken_at is not None:
            facts = replace(facts, taken_at=None, taken_from=None, taken_utc=None, zone=None, taken_order=None)
        return facts

    # -- moves

    def _unknown(self) -> Iterator[Seen]:
        """Yield what lies there and no row knows."""
        for row, seen in self._compared():
            if row is None and seen is not None and seen.look.is_file:
                yield seen

    def _find_moved(self) -> list[MovedFile]:
        """Look for what is missing among what no row knows, in a second walk: what was on its way has arrived."""
        self._open.missing = [row for row in self._open.missing if self._is_missing(row)]
        sizes = {row.size for row in self._open.missing}
        wanted = {row.sha256 for row in self._open.missing} - {None}
        by_id = {row.id: row for row in self._open.missing if row.kind == "image"}
        same: dict[str | None, list[Seen]] = defaultdict(list)
        by_sidecar: dict[int, Seen] = {}
        for row, seen in self._compared():
            if seen is None or not seen.look.is_file or (row is not None and seen.path not in self._open.displaced):
                continue
            sha256 = self._hash(seen.path) if seen.look.size in sizes else None
            if sha256 in wanted:
                same[sha256].append(seen)
            elif (image_id := self._says_sidecar(seen, by_id)) is not None:
                by_sidecar[image_id] = seen
        moved: list[MovedFile] = []
        taken_paths: set[str] = set()
        folders: dict[int, str] = {}
        # Images first: where they are now tells of several companions of the same bytes which is whose.
        for row in sorted(self._open.missing, key=lambda row: row.kind != "image"):
            free = [seen for seen in same.get(row.sha256, ()) if seen.path not in taken_paths]
            best = min(free, key=lambda seen: _fit(row, seen, folders.get(row.image_id)), default=None)
            if best is not None:
                moved.append(MovedFile(row, best.path, best.look.size, best.look.mtime_ns))
            elif row.kind == "image" and (beside := by_sidecar.get(row.id)) and beside.path not in taken_paths:
                # Edited, too: its look stays that of before, so that it is read again.
                best = beside
                moved.append(MovedFile(row, best.path, row.size or 0, row.mtime_ns or 0))
            if best is not None:
                taken_paths.add(best.path)
                if row.kind == "image":
                    folders[row.id] = best.path.rpartition("/")[0]
        return moved

    def _is_missing(self, row: Expected) -> bool:
        """Return whether a file is surely not where it was: not one that nobody could look at."""
        if row.path in self._open.displaced:
            return True
        if self._is_unseen(row.path):
            return False
        try:
            return (self._library / row.path).lstat() is None
        except OSError:
            return False

    def _is_unseen(self, path: str) -> bool:
        return any(path.startswith(folder) for folder in self._unseen)

    def _hash(self, path: str) -> str | None:
        try:
            fd = open_regular(self._library / path)
        except DarkroomError:
            return None
        try:
            return atomic.sha256(fd)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _packet(self, path: str) -> xmp.Packet | None:
        return self._sidecars.packet(self._library / path)

    def _says_sidecar(self, seen: Seen, missing: dict[int, Expected]) -> int | None:
        """Return which of the missing images a photo is by the sidecar beside it; None for none of them."""
        if not is_photo(seen) or f"{seen.path.rpartition('/')[2]}.xmp" not in seen.beside:
            return None
        packet = self._packet(f"{seen.path}.xmp")
        image_id = None if packet is None else _image_id(packet)
        if packet is None or image_id is None or image_id not in missing or missing[image_id].path == seen.path:
            return None
        row = self._rows.row(image_id)
        return image_id if row is not None and is_own(packet, row) else None

    def _bring_along(self, moved: list[MovedFile]) -> Iterator[MovedFile]:
        """Move what came with a photo after it, where its owner has moved or renamed the photo alone.

        Before the rows say so: who is killed between the two finds it the next time, like all that was moved.
        """
        gone = {(move.file.kind, move.file.id) for move in moved}
        for move in moved:
            old, new = PurePosixPath(move.file.path), PurePosixPath(move.path)
            for one in self._rows.beside(move.file.id) if move.file.kind == "image" else ():
                lies = PurePosixPath(one.path)
                if (one.kind, one.id) in gone or lies.parent != old.parent:
                    continue
                path = str(new.with_name(named_after(lies.name, old.name, new.name)))
                if path != one.path and self._carry(one, path):
                    yield MovedFile(one, path, one.size or 0, one.mtime_ns or 0)

    def _carry(self, one: Expected, path: str) -> bool:
        """Give a companion another name in the library, where nothing has that; return whether that is done."""
        old, new = self._library / one.path, self._library / path
        try:
            with old.entry() as source, new.entry() as target:
                here = source.lstat()
                look = here.st_size, here.st_mtime_ns if one.mtime_ns is not None else None
                if not stat.S_ISREG(here.st_mode) or look != (one.size, one.mtime_ns):
                    return False
                atomic.rename_exclusive(source, target)
                target.fsync_folder()
                source.fsync_folder()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._leave(one.path, f"it stays behind, and not at library/{display(path)}: {error.strerror}")
            return False
        return True

    def _apply_moved(self, moved: list[MovedFile]) -> None:
        for move in self._rows.moved(moved, time.time()) if moved else ():
            if move.file.kind == "companion":
                continue
            self._report.moved += 1
            _log.info("image %d: moved by its owner to library/%s", move.file.id, display(move.path))
            old = f"{move.file.path}.xmp"
            try:
                if not self._sidecars.gather(move.file.id, self._library / old):
                    self._sidecars.write(move.file.id)
            except EnvironmentFault as fault:
                self._leave(old, str(fault))
            row = self._rows.image(move.file.id)
            if row is not None and move.size == move.file.size and move.mtime_ns == move.file.mtime_ns:
                self._look_again(row)
        was_new = [move for move in moved if move.file.kind == "image" and move.path not in self._open.displaced]
        self._report.new = max(0, self._report.new - len(was_new))

    def _look_again(self, row: Expected) -> None:
        """Read a file again that was moved and edited."""
        with suppress(OSError):
            here = (self._library / row.path).lstat()
            if here is not None and (here.st_size, here.st_mtime_ns) != (row.size, row.mtime_ns):
                self.reread(row)

    def _gather_orphan(self, path: str) -> None:
        """Take a sidecar that was left behind, when its photo was moved, to where that is now."""
        packet = self._packet(path)
        image_id = None if packet is None else _image_id(packet)
        if image_id is not None:
            with suppress(EnvironmentFault):
                self._sidecars.gather(image_id, self._library / path)

    # -- deletions

    def _apply_deleted(self, moved: set[Expected]) -> None:
        """Write which are gone; nothing of it where so many are that it may be the disk."""
        gone = [row for row in self._open.missing if row not in moved and self._is_missing(row)]
        if gone:
            self._check_mounts()
            gone = [row for row in gone if not self._is_unseen(row.path)]
        images = [row for row in gone if row.kind == "image"]
        if not self._believes and len(images) > max(MISSING, MISSING_SHARE * self._report.expected):
            self._report.missing = len(images)
            return
        for start in range(0, len(gone), _BATCH):
            batch, now = gone[start : start + _BATCH], time.time()
            self._follower._removals.note(self._removals_of(batch, now))
            for image_id in self._rows.deleted(batch, now):
                self._report.deleted += 1
                _log.info("image %d: deleted from the library by its owner", image_id)

    def _check_mounts(self) -> None:
        """See whether all disks are still there that the library lies on: one may have gone during the walk.

        Raises EnvironmentFault for the library itself; what lies on any other one is unseen.
        """
        self._follower._folders.check_present()
        for folder, mount in {**self._known_mounts(), **self._mounts}.items():
            if str(mount_point(self._library.path / folder)) != mount:
                self._unseen.add(f"{folder}/")

    def _removals_of(self, rows: Iterable[Expected], now: float) -> Iterator[Removal]:
        for row in rows:
            if row.kind == "image" and row.sha256 is not None:
                yield Removal(row.sha256, now, "deleted", row.id, PurePosixPath(row.path).name)

    def _bring_back(self) -> None:
        """Take in again what was taken away and lies in the library now."""
        for path in self._open.returning:
            sha256 = self._hash(path)
            row = None if sha256 is None else self._rows.removed(sha256)
            if row is None or self._rows.at(path) is not None:
                continue
            self._came_back(row, path)

    def _came_back(self, row: ImageRow, path: str) -> bool:
        with suppress(OSError):
            here = (self._library / path).lstat()
            if row.place == "trash" and self._is_in_trash(row):
                return False  # it was copied from there: the row's file is that one
            if here is not None and self._rows.came_back(row.id, path, here.st_size, here.st_mtime_ns, time.time()):
                self._report.came_back += 1
                self._report.new -= 1
                self._follower._removals.note(
                    [Removal(row.sha256 or "", time.time(), "restored", row.id, PurePosixPath(path).name)]
                )
                with suppress(EnvironmentFault):
                    self._sidecars.write(row.id)
                return True
        return False

    def _is_in_trash(self, row: ImageRow) -> bool:
        trash = self._follower._trash
        return trash is None or (trash / str(row.destination)).lstat() is not None

    # -- what never was filed

    def _adopt(self, seen: Seen) -> None:
        """Make a row of a photo where it lies."""
        if not is_photo(seen) or self._rows.at(seen.path) is not None:
            return
        place = self._library / seen.path
        try:
            decoded = self._decoded(place)
        except DarkroomError as error:
            self._leave(seen.path, str(error))
            return
        if (twin := self._rows.filed(decoded.sha256)) is not None:
            self._leave(seen.path, f"the same bytes as image {twin}")
            return
        if (gone := self._rows.removed(decoded.sha256)) is not None and self._came_back(gone, seen.path):
            return
        packet = self._packet(f"{seen.path}.xmp")
        facts = self._adopted_facts(decoded, seen, packet)
        known = None if packet is None else read_facts(packet)
        if known is not None and known.row.sha256 != decoded.sha256:
            known = None
        self._follower._thumbnails.save(decoded.sha256, decoded.small, decoded.medium)
        folder = seen.path.rpartition("/")[0]
        image_id = self._rows.adopt(
            seen.path,
            display(place.name),
            facts,
            decoded.identity.mtime_ns,
            "private" if self._follower._is_private(folder) else "off",
            time.time(),
            None if known is None else known.row,
            () if known is None else known.history,
        )
        if image_id is None:
            return
        self._report.adopted += 1
        self._report.new -= 1
        _log.info("image %d: adopted where it lies: library/%s", image_id, display(seen.path))
        with suppress(EnvironmentFault):
            self._sidecars.write(image_id)

    def _decoded(self, place: Location) -> Decoded:
        """Decode a file that nobody writes into. Raises DarkroomError."""
        fd = open_regular(place)
        try:
            with Lease(fd) as lease:
                if _is_written(lease, os.fstat(fd)):
                    raise Transient("it is being written to")
                decoded = self._follower._decode(by_descriptor(fd, place.path))
                if lease.broken() or decoded.identity != Identity.of(os.fstat(fd)):
                    raise Transient("it is being written to")
                return decoded
        finally:
            os.close(fd)

    def _adopted_facts(self, decoded: Decoded, seen: Seen, packet: xmp.Packet | None) -> Facts:
        exif = decoded.exif

        def beside() -> XmpDates | None:
            return (
                None
                if packet is None
                else XmpDates(
                    packet.text(xmp.EXIF, "DateTimeOriginal"),
                    packet.text(xmp.PHOTOSHOP, "DateCreated"),
                    packet.text(xmp.XMP, "CreateDate"),
                )
            )

        name, mtime = seen.path.rpartition("/")[2], decoded.identity.mtime_ns / 1e9
        evidence = Evidence(name, mtime, exif.dates, exif.lat, exif.lon, beside)
        return facts_of(decoded, taken(evidence, time.time(), self._zones.name))

    def _leave(self, path: str, reason: str) -> None:
        self._report.left.append((path, reason))
        _log.debug("library/%s is left as it is: %s", display(path), reason)


def is_photo(seen: Seen) -> bool:
    """Return whether a file claims to be a photo by its name."""
    return seen.look.is_file and split(seen.path)[1].lower() in IMAGE_SUFFIXES and seen.path != FILE


def _key(path: str) -> tuple[bool, str | bytes]:
    """Return what paths are sorted by: text as it is, what is no UTF-8 behind it by its bytes, as SQLite does."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return True, os.fsencode(path)
    return False, path


def _fit(row: Expected, seen: Seen, folder: str | None) -> tuple[bool, bool, bool, str]:
    """Return how well a place fits a file of the same bytes, the least best."""
    there, name = seen.path.rpartition("/")[::2]
    old = row.path.rpartition("/")[2]
    return folder is not None and there != folder, name != old, f"{name}.xmp" not in seen.beside, seen.path


def _is_replaced(row: Expected, look: Look) -> bool:
    """Return whether another file of the same size and time lies there: so exiftool -P writes.

    Where inodes are made up (FUSE, SMB, exFAT) they are others each time, but their times stay.
    """
    return row.inode is not None and row.inode != look.inode and row.ctime_ns != look.ctime_ns


def _image_id(packet: xmp.Packet) -> int | None:
    text = packet.text(NAMESPACE, "ImageID") or ""
    return int(text) if text.isdecimal() and len(text) < 18 else None


def _is_written(lease: Lease, here: os.stat_result) -> bool:
    """Return whether somebody has a file open for writing, or has just written where nobody can know that."""
    if lease.state is LeaseState.UNSUPPORTED:
        return 0 <= time.time() - here.st_mtime < _QUIET_SECONDS
    return lease.state is LeaseState.HELD_BY_WRITER
