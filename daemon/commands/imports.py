"""Brings photos in from a card or any other folder, has them filed, and says what is safe.

What the library does not hold now is copied into the inbox. Nothing is changed where they come from, but with --move:
then a file goes once its bytes were just read in the library. The receipt is made in the end of what lies on the disk
then, and of nothing that was done meanwhile: however often it was killed before, it is true.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePosixPath

from daemon.app import check_begun, inbox, open_catalogue, prepare, roots
from daemon.catalogue import Catalogue
from daemon.catalogue.search import Inventory
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.commands import run
from daemon.commands.progress import watched
from daemon.config import Config
from daemon.errors import Busy, ConfigError, DarkroomError, Rejected, WaitingReason
from daemon.files import atomic, lock
from daemon.files.mounts import mount_point
from daemon.files.names import display
from daemon.files.opening import Lease, LeaseState, open_regular
from daemon.files.walk import is_junk
from daemon.filing import sources
from daemon.filing.holdings import Holding, Holdings, lost, where
from daemon.filing.sources import ImportFile, Sources
from daemon.phrases import counted

_LOOK_SECONDS = 0.3
# How long nothing may be filed, and how long the queue may be paused, before the rest is said to wait still.
_STILL_SECONDS, _PAUSED_SECONDS = 120.0, 10.0
# What is due later than this waits for something that does not come by itself.
_LATER_SECONDS = 10.0
_PASSING = (WaitingReason.QUIET, WaitingReason.LEAVING, WaitingReason.WRITER)
_NAMED = 200
_IGNORED = 5


def main(config: Config, args: argparse.Namespace) -> int:
    """Import; 0 when all that was found is in the library, 1 when something is not."""
    if not args.dry_run:
        check_begun(config)
    if not config.inbox.recursive:
        raise ConfigError("import copies into subfolders of the inbox: it needs [inbox] recursive = true")
    found = Sources(args.folders, dict(config.folders.items()), config.inbox.ignore)
    if args.dry_run:
        file = config.catalogue_file
        catalogue = Catalogue(file) if file.is_file() else None
        with catalogue.session() if catalogue is not None else nullcontext():
            return _say_dry(Survey(config, found, catalogue), as_json=args.json)
    catalogue = open_catalogue(config)
    with catalogue.session():
        prepare(config, Settings(catalogue))
        try:
            with sources.importing(config.folders.state):
                receipt = Import(config, Survey(config, found, catalogue), catalogue).run(move=args.move)
        except KeyboardInterrupt:
            print("interrupted: nothing is lost; say the same again, and it goes on", file=sys.stderr)
            raise
    if args.json:
        print(json.dumps(_document(receipt), indent=2))
    else:
        receipt.name()
        print(receipt.sentence(), flush=True)
    return run.leave(0 if receipt.is_safe and not receipt.stays else 1)


@dataclass
class Receipt:
    """What became of the files of an import, at one moment.

    `filed` and `known` are those that the library holds, by this import or before it; `others` those that it does not,
    each with the reason. `removed` are gone from where they were, and `stays` those that could not go.
    """

    filed: list[ImportFile] = field(default_factory=list)
    known: list[ImportFile] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)
    removed: list[ImportFile] = field(default_factory=list)
    stays: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    # How many of all are photos, and how many come with one.
    photos: int = 0
    beside: int = 0
    # Whether the folders are all that their medium holds, and Darkroom lies on another.
    is_whole: bool = False
    moves: bool = False

    @property
    def is_safe(self) -> bool:
        """Whether the library holds all of it."""
        return not self.others

    def sentence(self) -> str:
        """Return the whole in a line, for people."""
        total = len(self.filed) + len(self.known) + len(self.others)
        if not total:
            return "there is nothing to import"
        rest = total - self.photos - self.beside
        what = counted(self.photos, "photo")
        what += f", {counted(self.beside, 'file')} beside them" if self.beside else ""
        what += f", {counted(rest, 'other')}" if rest else ""
        parts = [f"{len(self.filed):,} filed and read back"] if self.filed or not self.known else []
        parts += [f"{len(self.known):,} in the library already"] if self.known else []
        parts += [f"{len(self.others):,} not in the library"] if self.others else []
        safe = "safe to format" if self.is_whole else "safe to delete"
        verdict = safe if self.is_safe else f"NOT {safe}"
        if self.moves:
            verdict = f"{len(self.removed):,} removed from where they were"
            stay = total - len(self.removed)
            verdict += f", {counted(stay, 'stays', 'stay')}" if stay else ""
        return f"{what}: {', '.join(parts)}: {verdict}"

    def name(self) -> None:
        """Name on standard error what is not safe, what stays, and what was passed over."""
        for path, reason in (*self.others, *self.stays)[:_NAMED]:
            print(f"{path}: {reason}" if path else reason, file=sys.stderr)
        if (more := len(self.others) + len(self.stays) - _NAMED) > 0:
            print(f"and {more:,} others; --json names them all", file=sys.stderr)
        if self.ignored:
            shown = ", ".join(display(name) for name in self.ignored[:_IGNORED])
            others = f" and {len(self.ignored) - _IGNORED:,} others" if len(self.ignored) > _IGNORED else ""
            print(f"passed over, since no photos are called so: {shown}{others}", file=sys.stderr)


class Survey:
    """What lies in some folders, and what of it the library holds; `catalogue` is None where nothing was filed yet."""

    def __init__(self, config: Config, found: Sources, catalogue: Catalogue | None) -> None:
        self._config, self.sources = config, found
        file_again = config.filing.deleted == "file again"
        self.holdings = Holdings(catalogue, roots(config), file_again=file_again)
        self.files: list[ImportFile] = []
        # What may be copied, each with the photos beside it that it may belong to.
        self.beside: dict[ImportFile, list[ImportFile]] = {}

    def look(self) -> dict[ImportFile, Holding]:
        """Read all that is to be imported; return what the library says of it. Raises Rejected where it is gone."""
        listed = list(self.sources.listed())
        most = self._config.limits.file_mb << 20
        with watched("reading", len(listed)) as step:
            self.files = []
            for number, file in enumerate(listed, 1):
                self.files.append(sources.read(file, most))
                step(number)
        self.beside = sources.together(self.files, self.holdings.came_before)
        return self.held("comparing")

    def held(self, what: str) -> dict[ImportFile, Holding]:
        """Return what the library says of all files now; `what` is what this is called to those who wait for it."""
        number = count(1)
        with watched(what, len(self.files)) as step:
            return self.holdings.of(self.files, self.beside, lambda: step(next(number)))

    def wanted(self, held: Mapping[ImportFile, Holding]) -> dict[ImportFile, str]:
        """Return which files are to be copied, companions first, and into which subfolder of the inbox.

        Of photos of the same bytes one comes, and any other that a companion finds by its name alone. What comes with a
        photo that the library holds goes where that came from.
        """
        news = {file for file, holding in held.items() if holding.at is None and not holding.is_settled}
        named = {photo for file, photos in self.beside.items() if file in news for photo in photos}
        coming: dict[str, list[ImportFile]] = defaultdict(list)
        for file in sorted(self.beside, key=lambda file: file not in named):
            if file.kind == "photo" and file in news and not coming[str(file.sha256)]:
                coming[str(file.sha256)].append(file)
        found: dict[ImportFile, str] = {}
        for file, photos in self.beside.items():
            if file.kind == "photo" or file not in news:
                continue
            folder = self._folder(file, photos, held, coming)
            if folder is not None:
                found[file] = folder
        return self._in_order(found, {file for files in coming.values() for file in files})

    def _in_order(self, found: Mapping[ImportFile, str], photos: set[ImportFile]) -> dict[ImportFile, str]:
        """Return what is to be copied, each photo behind what comes with it: it would be filed without that."""
        ordered: dict[ImportFile, str] = {}
        beside: dict[ImportFile, list[ImportFile]] = defaultdict(list)
        for file in found:
            for photo in self.beside[file]:
                beside[photo].append(file)
        for photo in self.beside:
            if photo in photos:
                ordered |= {file: found[file] for file in beside[photo]} | {photo: photo.folder}
        return {file: folder for file, folder in found.items() if file not in ordered} | ordered

    def _folder(
        self,
        file: ImportFile,
        photos: Sequence[ImportFile],
        held: Mapping[ImportFile, Holding],
        coming: dict[str, list[ImportFile]],
    ) -> str | None:
        """Return the subfolder of the inbox for what comes with a photo; None where none of its photos is or will be.

        Where it would not find its photo by name, that comes once more.
        """
        near = [photo for photo in photos if coming.get(str(photo.sha256)) or held[photo].at is not None]
        if not near and photos:
            return None
        # Darkroom's own sidecar knows its photo by the hash inside.
        if not photos or file.kind == "sidecar" or any(photo in coming[str(photo.sha256)] for photo in near):
            return file.folder
        for photo in near:
            came = self.holdings.came_from(photo, file)
            if came is not None and not is_junk(came, self._config.inbox.ignore):
                return came
        coming[str(near[0].sha256)].append(near[0])
        return file.folder

    def others(self, held: Mapping[ImportFile, Holding], wanted: Mapping[ImportFile, str]) -> Iterator[tuple[str, str]]:
        """Yield what is not in the library and would not be copied, each with the reason."""
        hashes = {file.sha256 for file in wanted}
        for file in self.files:
            holding = held.get(file)
            is_copied = file in self.beside and file.sha256 in hashes
            if not is_copied and (holding is None or holding.at is None):
                yield where(file), self.why_not(file, holding)

    def why_not(self, file: ImportFile, holding: Holding | None) -> str:
        """Return why the library does not hold a file, for people."""
        if file.fault is not None:
            return file.fault
        if file not in self.beside:
            return "it is no image" if file.kind == "other" else "it is no image, and belongs to none beside it"
        return "it is not in the library" if holding is None else holding.reason

    def news(self) -> tuple[set[ImportFile], list[tuple[str, str]]]:
        """Return which files are other ones now, or gone, and what else is new there, each with the reason."""
        known = {(file.root, file.inside) for file in self.files}
        changed = set(lost([file for file in self.files if file.fault is None]))
        try:
            found = [where(file) for file in self.sources.listed() if (file.root, file.inside) not in known]
        except Rejected as gone:
            return changed, [("", str(gone))]
        new = [(path, "it came after the others were read") for path in found]
        return changed, [*new, *((display(path), "nobody could look into it") for path in self.sources.unseen)]


class Import:
    """One import into one darkroom."""

    def __init__(self, config: Config, survey: Survey, catalogue: Catalogue) -> None:
        self._config, self._survey, self._catalogue = config, survey, catalogue
        self._inventory, self._settings = Inventory(catalogue), Settings(catalogue)
        waits = config.inbox
        self._still = _STILL_SECONDS + 2 * max(waits.settle_seconds, waits.quiet_seconds)
        # Where copies lie in the inbox, or have lain; and why a file was not copied.
        self._copies: dict[ImportFile, str] = {}
        self._faults: dict[ImportFile, str] = {}

    def run(self, *, move: bool = False) -> Receipt:
        """Do all of it, and say what came of it. Raises EnvironmentFault, Busy."""
        sources.sweep(inbox(self._config))
        self._finish_earlier()
        before = self._survey.look()
        wanted = self._survey.wanted(before)
        if wanted:
            self._copy(wanted)
            self._file("filing", list(self._copies.values()))
        after = self._survey.held("reading back")
        receipt = self._receipt(before, after)
        if move:
            self._remove(receipt, after)
        return receipt

    # -- copying

    def _copy(self, wanted: Mapping[ImportFile, str]) -> None:
        """Copy files into the inbox, a folder of theirs after the other; what can't be copied is noted."""
        by_folder: dict[str, list[ImportFile]] = defaultdict(list)
        for file, folder in wanted.items():
            by_folder[folder].append(file)
        done = count(1)
        with watched("copying", len(wanted)) as step:
            for folder, files in by_folder.items():
                chosen = sources.chosen_folder(inbox(self._config), folder, files)
                for file in files:
                    self._copy_one(file, chosen)
                    step(next(done))

    def _copy_one(self, file: ImportFile, folder: str) -> None:
        if not self._has_room(file):
            # What was copied so far makes room once it is filed on another disk.
            self._file("filing", list(self._copies.values()))
            if not self._has_room(file):
                self._faults[file] = "there is no room for it in the inbox"
                return
        for name in chain((folder,), sources.numbered_folders(folder)):
            try:
                self._copies[file] = sources.copy(file, inbox(self._config), name)
            except FileExistsError:
                continue
            except DarkroomError as error:
                self._faults[file] = f"it could not be copied: {error}"
            return

    def _has_room(self, file: ImportFile) -> bool:
        try:
            free = shutil.disk_usage(self._config.folders.inbox).free
        except OSError:
            return True  # the copy itself will say what is wrong
        return free - file.size > self._config.limits.min_free_mb * 1_000_000

    # -- filing

    def _finish_earlier(self) -> None:
        """Finish what an earlier import has begun that was killed: else what it has brought would be brought again.

        Without a running darkroom what waits in the inbox is filed later, with what it waits for.
        """
        if lock.running(self._config.folders.state) is None:
            with suppress(Busy):  # one has just started
                run.recover(self._config, self._catalogue)
                return
        paths = [f"{file.folder}/{file.name}" for file in self._survey.sources.listed()]
        self._file("filing what came before", list(self._waiting(paths)))

    def _file(self, what: str, paths: Sequence[str]) -> None:
        """Have files of the inbox filed that can be now, by the running darkroom, or without one by this process."""
        last, since = self._state(), time.monotonic()
        with watched(what, len(paths)) as step:
            while left := self._waiting(paths):
                step(len(paths) - len(left))
                if lock.running(self._config.folders.state) is None:
                    with suppress(Busy):  # one has just started
                        self._file_ourselves(lambda: step(len(paths) - len(self._waiting(paths))))
                        return
                if (state := self._state()) != last:
                    last, since = state, time.monotonic()
                if self._is_stuck(left, time.monotonic() - since):
                    return
                self._await_news()
            step(len(paths))

    def _file_ourselves(self, on_turn: Callable[[], object] = lambda: None) -> None:
        root = logging.getLogger()
        level = root.level
        # A line for each photo would go through the bar.
        if sys.stderr.isatty() and level == logging.INFO:
            root.setLevel(logging.WARNING)
        try:
            run.file_once(self._config, self._catalogue, on_turn=on_turn)
        finally:
            root.setLevel(level)

    def _waiting(self, paths: Sequence[str]) -> dict[str, str | None]:
        """Return which of some files are in the inbox still, and the reason why each waits, where there is one."""
        found: dict[str, str | None] = {}
        rows = {row.path: row for row in self._inventory.in_inbox(paths)}
        for path in paths:
            row = rows.get(path)
            if row is not None and row.status in {"queued", "processing"}:
                found[path] = row.waiting_text
            elif row is None and self._lies(path):
                found[path] = None
        return found

    def _lies(self, path: str) -> bool:
        try:
            return (inbox(self._config) / path).lstat() is not None
        except OSError:
            return True

    def _is_stuck(self, left: Mapping[str, str | None], seconds: float) -> bool:
        """Return whether nothing more of what is left will be filed before somebody does something about it."""
        if self._settings.pause() is not None:
            return seconds > _PAUSED_SECONDS
        rows = self._inventory.in_inbox(list(left))
        later = [row for row in rows if row.not_before > time.time() + _LATER_SECONDS and row.waiting not in _PASSING]
        return seconds > (_LATER_SECONDS if len(later) == len(left) else self._still)

    def _state(self) -> object:
        """Return what changes whenever something is filed."""
        counts = Statistics(self._catalogue).stats(time.time()).counts
        return tuple(sorted(counts.items()))

    def _await_news(self) -> None:
        """Wait until another process has written into the catalogue, or some seconds have passed."""
        version, until = self._catalogue.version(), time.monotonic() + 2
        while time.monotonic() < until and self._catalogue.version() == version:
            time.sleep(_LOOK_SECONDS)

    # -- what is safe

    def _receipt(self, before: Mapping[ImportFile, Holding], after: Mapping[ImportFile, Holding]) -> Receipt:
        survey = self._survey
        receipt = Receipt(photos=sum(file.kind == "photo" for file in survey.files))
        receipt.beside = sum(file in survey.beside and file.kind != "photo" for file in survey.files)
        waiting = self._waiting(list(self._copies.values()))
        # Whoever writes to a card meanwhile, or pulls it out, is told so.
        changed, new = survey.news()
        for file in survey.files:
            holding = after.get(file)
            if file in changed:
                receipt.others.append((where(file), "it has changed, or is gone, since it was read"))
            elif holding is not None and holding.at is not None:
                was = before.get(file)
                (receipt.known if was is not None and was.at is not None else receipt.filed).append(file)
            else:
                receipt.others.append((where(file), self._why_not(file, holding, waiting)))
        receipt.others += new
        receipt.ignored = survey.sources.ignored
        folders = survey.sources.folders
        receipt.is_whole = all(_is_whole(folder, folders, self._config) for folder in folders)
        return receipt

    def _why_not(self, file: ImportFile, holding: Holding | None, waiting: Mapping[str, str | None]) -> str:
        path = self._copies.get(file, "")
        if path not in waiting:
            return self._faults.get(file) or self._survey.why_not(file, holding)
        if reason := waiting[path]:
            return f"it waits in the inbox: {reason}"
        paused = self._settings.pause()
        return f"it waits in the inbox{f': the queue is paused: {paused[0]}' if paused else ''}"

    # -- and goes

    def _remove(self, receipt: Receipt, held: Mapping[ImportFile, Holding]) -> None:
        """Remove what the library holds from where it was, and the folders that are empty then."""
        receipt.moves = True
        files = [*receipt.filed, *receipt.known]
        with watched("removing", len(files)) as step:
            for number, file in enumerate(files, 1):
                step(number)
                try:
                    self._remove_one(file, held[file])
                except (DarkroomError, OSError) as error:
                    receipt.stays.append((where(file), f"it stays: {getattr(error, 'strerror', None) or error}"))
                else:
                    receipt.removed.append(file)
        for file in receipt.removed:
            _remove_emptied(file)

    def _remove_one(self, file: ImportFile, holding: Holding) -> None:
        """Remove one file, whose bytes are just read in the library once more. Raises Rejected, OSError."""
        if file.kind == "sidecar":
            raise Rejected("it is a sidecar of darkroom's own: what it says is in the one beside the photo")
        with file.location.entry() as entry:
            fd = open_regular(entry)
            try:
                with Lease(fd) as lease:
                    here = os.fstat(fd)
                    if lease.state is LeaseState.HELD_BY_WRITER or atomic.sha256(fd) != file.sha256:
                        raise Rejected("it has changed since it was read")
                    if not self._survey.holdings.is_held(file, holding):
                        raise Rejected("the library does not hold it any more")
                    if lease.broken() or not entry.is_file(here):
                        raise Rejected("it has changed since it was read")
                    entry.unlink()
            finally:
                os.close(fd)
            entry.fsync_folder()


def _document(receipt: Receipt) -> dict[str, object]:
    return {
        "safe": receipt.is_safe,
        "whole": receipt.is_whole,
        "filed": [where(file) for file in receipt.filed],
        "known": [where(file) for file in receipt.known],
        "others": [{"path": path, "reason": reason} for path, reason in receipt.others],
        "removed": [where(file) for file in receipt.removed],
        "stays": [{"path": path, "reason": reason} for path, reason in receipt.stays],
        "ignored": [display(name) for name in receipt.ignored],
    }


def _say_dry(work: Survey, *, as_json: bool) -> int:
    """Print what would be copied, and what would not; 1 where something is neither copied nor in the library."""
    held = work.look()
    wanted = work.wanted(held)
    known = [file for file, holding in held.items() if holding.at is not None]
    others = list(work.others(held, wanted))
    if as_json:
        names = {"copied": [where(file) for file in wanted], "known": [where(file) for file in known]}
        reasons = [{"path": path, "reason": reason} for path, reason in others]
        print(json.dumps({**names, "others": reasons}, indent=2))
        return 1 if others else 0
    for file, folder in wanted.items():
        print(f"{where(file)} → inbox/{display(str(PurePosixPath(folder) / file.name))}")
    for path, reason in others:
        print(f"{path}: {reason}", file=sys.stderr)
    size = sum(file.size for file in wanted)
    parts = [f"{len(wanted):,} would be copied ({size / 1e6:,.1f} MB)"]
    parts += [counted(len(known), "is in the library already", "are in the library already")]
    parts += [f"{counted(len(others), 'is', 'are')} not, and would not be copied"] if others else []
    print(f"{', '.join(parts)}; nothing was changed")
    return 1 if others else 0


def _is_whole(folder: Path, folders: Sequence[Path], config: Config) -> bool:
    """Return whether some folders are all that one's medium holds but for junk, and none of Darkroom's lies on that."""
    try:
        device = folder.stat().st_dev
        if device in {path.stat().st_dev for _, path in config.folders.items() if path.is_dir()}:
            return False
        mount, here = mount_point(folder), folder
        while here not in {mount, here.parent}:
            for other in here.parent.iterdir():
                is_read = other == here or any(other == one or one.is_relative_to(other) for one in folders)
                if not is_read and not is_junk(other.name, (*config.inbox.ignore, *sources.HOUSEKEEPING)):
                    return False
            here = here.parent
    except OSError:
        return False
    return True


def _remove_emptied(file: ImportFile) -> None:
    """Remove the folders of a source, but not that itself, that nothing is left in."""
    inside = PurePosixPath(file.inside).parent
    with suppress(OSError):
        while inside != PurePosixPath("."):
            with (file.root / inside).entry() as entry:
                os.rmdir(entry.name, dir_fd=entry.folder)
            inside = inside.parent
