"""Reads every filed file again and compares it with the catalogue: what rotted, what is gone, what was edited.

Rot is another hash under the same size, time and inode: hardly any program writes so. What its owner edits is right,
and so is what he keeps there that was never filed: both are told, and neither is wrong.

A library of terabytes takes a day: how far it got is stored, and the next run goes on from there. What was a problem
until then is checked again, since it may have been fixed. Nothing on disk is changed but, with --fix, thumbnails.
"""

import argparse
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from daemon.app import decoding_limits, existing_catalogue, roots, thumbnail_store
from daemon.catalogue import Catalogue, Place
from daemon.catalogue.search import FiledFile, FileKind, Inventory
from daemon.catalogue.settings import Settings
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError, EnvironmentFault, Rejected
from daemon.files.atomic import Location, Root, by_descriptor, drop_cache
from daemon.files.names import display
from daemon.files.opening import open_regular
from daemon.files.walk import batched, inode, is_junk, walk
from daemon.filing.removals import FILE as REMOVED_FILE
from daemon.filing.thumbnail_store import SIZES, ThumbnailStore
from daemon.phrases import counted

ProblemKind = Literal["missing", "rotten", "unreadable", "thumbnail", "edited", "unknown"]
_NOT_WRONG = ("edited", "unknown")
_ROTTEN = (
    "other bytes under the same size and time, as no program writes that doesn't set the time back: restore it from a"
    " backup; if you have edited it so, touch it, and say darkroom sync"
)
FixThumbnails = Callable[[Location, str], None]
"""Makes the thumbnails of an original, given by path and hash, again; raises DarkroomError where it can't."""

_PROGRESS = "verify"
_BATCH = 200
_SAVE_SECONDS = 2.0
_KINDS: tuple[FileKind, ...] = ("image", "companion")
# What Darkroom writes beside a file, under that file's whole name and one of these.
_BESIDE = (".reason.txt", ".xmp")


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a line for each finding; 1 when something is wrong."""
    catalogue = existing_catalogue(config)
    thumbnails = thumbnail_store(config)
    with _fixer(config, thumbnails, wanted=args.fix) as fix:
        work = Verification(catalogue, roots(config), thumbnails, config.inbox.ignore, fix)
        since = None if args.again else work.resumed()
        if since is not None:
            when = datetime.fromtimestamp(since).astimezone().isoformat(" ", "minutes")
            print(f"going on with what was begun at {when}; --again begins anew", file=sys.stderr)
        found = _watched(work, again=args.again, silent=args.json)
    return _report(work, found, as_json=args.json)


@contextmanager
def _fixer(config: Config, thumbnails: ThumbnailStore, *, wanted: bool) -> Iterator[FixThumbnails | None]:
    """Return what makes thumbnails again, in the child process in which all images are decoded, if that is `wanted`."""
    if not wanted:
        yield None
        return
    sandbox = Sandbox(decoding_limits(config))

    def fix(path: Location, sha256: str) -> None:
        fd = open_regular(path)
        try:
            decoded = sandbox.decode(by_descriptor(fd, path.path))
        finally:
            os.close(fd)
        if decoded.sha256 != sha256:
            raise Rejected("it has changed since it was read")
        if not decoded.small:
            raise Rejected(decoded.warning or "it is of a kind without a decoder")
        thumbnails.save(sha256, decoded.small, decoded.medium)

    try:
        yield fix
    finally:
        sandbox.close()


def _watched(work: "Verification", *, again: bool, silent: bool) -> list["Problem"]:
    """Run to the end, showing how far it is and each problem at once."""
    found = []
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # On standard error, and only where somebody watches.
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=work.total()[1])
        work.on_bytes = lambda done: progress.update(task, completed=done)
        for problem in work.run(again=again):
            found.append(problem)
            if not silent:
                print(_line(problem), flush=True)
    return found


def _report(work: "Verification", found: Sequence["Problem"], *, as_json: bool) -> int:
    if as_json:
        document = {"files": work.files, "bytes": work.bytes, "thumbnails_fixed": work.fixed}
        print(json.dumps({**document, "problems": [asdict(problem) for problem in found]}, indent=2))
    else:
        fixed = f", thumbnails of {work.fixed:,} made again" if work.fixed else ""
        wrong = sum(one.is_wrong for one in found)
        verdict = counted(wrong, "problem") if wrong else "nothing is wrong" if found else "all as they were filed"
        print(f"{counted(work.files, 'file')}, {work.bytes / 1e6:,.1f} MB read: {verdict}{fixed}")
        if any(one.kind in {"missing", "edited"} for one in found):
            print("what was edited, moved or deleted is followed by: darkroom sync")
    return 1 if any(one.is_wrong for one in found) else 0


def _line(problem: "Problem") -> str:
    image = "" if problem.image_id is None else f" (image {problem.image_id})"
    return f"{problem.kind:<10} {problem.path}{image}: {problem.detail}"


@dataclass(frozen=True)
class Problem:
    """One file that is not as it should be; `image_id` is None for a file that no row knows."""

    kind: ProblemKind
    path: str
    image_id: int | None
    detail: str

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.kind not in _NOT_WRONG


@dataclass(frozen=True)
class VerifyProgress:
    """How far a pass has got, as it is stored: its begin, the last row of each kind, and the rows with a problem."""

    since: float
    last: Mapping[FileKind, int]
    problems: Sequence[tuple[FileKind, int]] = ()


class Verification:
    """One pass, perhaps in several runs; `fix` makes an original's thumbnails again."""

    def __init__(
        self,
        catalogue: Catalogue,
        roots: Mapping[Place, Root],
        thumbnails: ThumbnailStore,
        ignore: tuple[str, ...],
        fix: FixThumbnails | None = None,
    ) -> None:
        self._inventory, self._settings = Inventory(catalogue), Settings(catalogue)
        self._roots, self._thumbnails, self._ignore, self._fix = roots, thumbnails, ignore, fix
        self._since = self._saved = 0.0
        self._last: dict[FileKind, int] = {}
        # A set in the order in which they were found.
        self._problems: dict[tuple[FileKind, int], None] = {}
        self.files = self.bytes = self.fixed = 0
        self.on_bytes: Callable[[int], object] = lambda _: None

    def total(self) -> tuple[int, int]:
        """Return how many files the catalogue knows, and their bytes."""
        return self._inventory.total()

    def resumed(self) -> float | None:
        """Return when the pass was begun that this one goes on with; None where it begins anew."""
        stored = self._stored()
        return None if stored is None else stored.since

    def run(self, *, again: bool = False) -> Generator[Problem, None, None]:
        """Yield the problems. Raises EnvironmentFault when a folder is not there at all."""
        for name, root in self._roots.items():
            if not root.path.is_dir():
                raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
        stored = None if again else self._stored()
        begun = stored or VerifyProgress(time.time(), dict.fromkeys(_KINDS, 0))
        self._since, self._last, self._problems = begun.since, dict(begun.last), dict.fromkeys(begun.problems)
        try:
            yield from self._earlier()
            for kind in _KINDS:
                yield from self._all(kind)
        except BaseException:
            self._save()
            raise
        self._settings.set(_PROGRESS, None)
        for place, root in self._roots.items():
            if place == "trash":
                continue
            for path in unknown_files(self._inventory, place, root, self._ignore):
                yield Problem("unknown", display(str(path)), None, "no image in the catalogue")

    def _stored(self) -> VerifyProgress | None:
        """Return how far an earlier run has got; None where it has ended."""
        found = self._settings.get(_PROGRESS)
        if not isinstance(found, dict):
            return None
        return VerifyProgress(found["since"], found["last"], [(kind, number) for kind, number in found["problems"]])

    def _save(self) -> None:
        self._saved = time.monotonic()
        progress = VerifyProgress(self._since, self._last, list(self._problems))
        self._settings.set(_PROGRESS, asdict(progress))

    def _earlier(self) -> Iterator[Problem]:
        """Check again what was a problem in an earlier run."""
        for kind, number in list(self._problems):
            file = self._inventory.one(kind, number)
            if file is None:
                del self._problems[kind, number]
            else:
                yield from self._check(file)

    def _all(self, kind: FileKind) -> Iterator[Problem]:
        """Check all files of a kind that were not checked yet."""
        while files := self._inventory.after(kind, self._last[kind], _BATCH):
            for file in files:
                found = self._check(file)
                self._last[kind] = file.id
                yield from found
                if time.monotonic() - self._saved > _SAVE_SECONDS:
                    self._save()

    def _check(self, file: FiledFile) -> list[Problem]:
        """Return the problems of one file, and note that it has some."""
        found = list(self._compare(file))
        # It may have been moved since its row was read: by `undo`, by `retry`.
        if found and self._inventory.one(file.kind, file.id) != file:
            found = []
        if found:
            self._problems[file.kind, file.id] = None
        else:
            self._problems.pop((file.kind, file.id), None)
        return found

    def _compare(self, file: FiledFile) -> Iterator[Problem]:
        path = self._roots[file.place] / file.destination

        def problem(kind: ProblemKind, detail: str) -> Problem:
            return Problem(kind, display(str(path)), file.image_id, detail)

        self.files += 1
        try:
            here = path.lstat()
        except OSError as error:
            yield problem("unreadable", error.strerror or str(error))
            return
        if here is None and file.place == "trash":
            return  # its owner has emptied it
        if here is None:
            yield problem("missing", f"{file.kind} {file.image_id} was filed there")
            return
        if file.sha256 is None:
            return
        if not stat.S_ISREG(here.st_mode):
            yield problem("missing", "a folder, link or device is where a file was filed")
            return
        try:
            found = self._hash(path)
        except (OSError, DarkroomError) as error:
            yield problem("unreadable", getattr(error, "strerror", None) or str(error))
            return
        if found != file.sha256:
            if (written := _written_at(here, file)) is None:
                yield problem("rotten", _ROTTEN)
            else:
                yield problem("edited", f"written to at {written}")
        elif file.status == "done" and file.shown and (missing := self._missing_thumbnail(file.sha256)):
            fault: str | None = f"its {missing} thumbnail is missing"
            if self._fix is not None:
                fault = self._fixed(self._fix, path, file.sha256)
            if fault:
                yield problem("thumbnail", fault)

    def _hash(self, path: Location) -> str:
        digest = hashlib.sha256()
        with os.fdopen(open_regular(path), "rb", buffering=0) as opened:
            drop_cache(opened.fileno())
            while block := opened.read(1 << 20):
                digest.update(block)
                self.bytes += len(block)
                self.on_bytes(self.bytes)
            drop_cache(opened.fileno())
        return digest.hexdigest()

    def _missing_thumbnail(self, sha256: str) -> str | None:
        return next((size for size in SIZES if not self._thumbnails.has(sha256, size)), None)

    def _fixed(self, fix: FixThumbnails, path: Location, sha256: str) -> str | None:
        """Have thumbnails made again; return why they can't be."""
        try:
            fix(path, sha256)
        except DarkroomError as error:
            return f"no thumbnails can be made: {error}"
        self.fixed += 1
        return None


def unknown_files(inventory: Inventory, place: Place, root: Root, ignore: Sequence[str]) -> Iterator[Path]:
    """Yield the files that no row knows.

    Junk is not among them, nor Darkroom's own files, nor what Darkroom writes beside an image that is known.
    """
    for found in batched(walk(root, (), recursive=True), 500):
        paths = [one.path for one in found if not is_junk(one.path, ignore) and one.path != REMOVED_FILE]
        known = inventory.known(place, [*paths, *filter(None, map(_owner, paths))])
        yield from ((root / path).path for path in paths if path not in known and _owner(path) not in known)


def _owner(path: str) -> str | None:
    """Return the file that Darkroom would write such a one beside; None where it would write none of that name."""
    for suffix in _BESIDE:
        if path.endswith(suffix) and os.path.basename(path) != suffix:  # noqa: PTH119 - a name may be no UTF-8
            return path.removesuffix(suffix)
    return None


def _written_at(here: os.stat_result, file: FiledFile) -> str | None:
    """Return when somebody has written to a file since it was filed; None where it looks as it did."""
    is_replaced = file.inode not in {None, inode(here)} and file.ctime_ns != here.st_ctime_ns
    if is_replaced:
        # exiftool -P writes another file, of the same time, in place of this one.
        return datetime.fromtimestamp(here.st_ctime_ns / 1e9).astimezone().isoformat(" ", "seconds")
    if file.size == here.st_size and file.mtime_ns in {None, here.st_mtime_ns}:
        return None
    return datetime.fromtimestamp(here.st_mtime_ns / 1e9).astimezone().isoformat(" ", "seconds")
