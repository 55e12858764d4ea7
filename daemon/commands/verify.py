"""Reads every filed file again and compares it with the catalogue: what rotted, what is gone, what is unknown.

A library of terabytes takes a day: how far it got is remembered, and the next run goes on from there. What was found
wrong until then is looked at again, since it may have been mended.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from daemon.app import roots
from daemon.catalogue import Catalogue, Place
from daemon.catalogue.search import Filed, Inventory, Kind
from daemon.catalogue.settings import Settings
from daemon.config import Config
from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError, EnvironmentFault, Rejected
from daemon.files import atomic
from daemon.files.names import display
from daemon.files.walk import batched, is_junk, walk
from daemon.filing.thumbnail_store import SIZES, Thumbnails

_MEMORY = "verify"
_BATCH = 200
_SAVE_SECONDS = 2.0
Fix = Callable[[Path, str], None]
_KINDS: tuple[Kind, ...] = ("image", "companion")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be: "missing", "changed", "unreadable", "thumbnail" or "unknown".

    `image_id` is None for a file that no row knows.
    """

    kind: str
    path: str
    image_id: int | None
    detail: str


class Verification:
    """One pass, perhaps in several runs; `mend` makes an original's thumbnails again, and raises where it can't."""

    def __init__(
        self,
        catalogue: Catalogue,
        roots: Mapping[Place, Path],
        thumbnails: Thumbnails,
        ignore: tuple[str, ...],
        fix: Fix | None = None,
    ) -> None:
        self._inventory, self._stored = Inventory(catalogue), Settings(catalogue)
        self._roots, self._thumbnails, self._ignore, self._fix = roots, thumbnails, ignore, fix
        self._at: dict[str, Any] = {}
        self._saved = 0.0
        self.files = self.bytes = self.fixed = 0
        self.on_bytes: Callable[[int], object] = lambda _: None

    def total(self) -> tuple[int, int]:
        """Count the files that the catalogue knows, and their bytes."""
        return self._inventory.total()

    def resumed(self) -> float | None:
        """Tell when the pass was begun that this one goes on with; None where it begins anew."""
        state = self._stored.get(_MEMORY)
        return None if state is None else float(state["since"])

    def run(self, *, again: bool = False) -> Generator[Problem, None, None]:
        """Yield what is amiss. Raises EnvironmentFault when a folder is not there at all."""
        for name, root in self._roots.items():
            if not root.is_dir():
                raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
        state = None if again else self._stored.get(_MEMORY)
        self._at = state or {"since": time.time(), "image": 0, "companion": 0, "bad": []}
        try:
            earlier, self._at["bad"] = self._at["bad"], []
            for kind, number in earlier:
                file = self._inventory.one(kind, number)
                if file is not None:
                    yield from self._look(file)
            for kind in _KINDS:
                yield from self._all(kind)
        except BaseException:
            self._save()
            raise
        self._stored.set(_MEMORY, None)
        for place, root in self._roots.items():
            for path in unknown_files(self._inventory, place, root, self._ignore):
                yield Problem("unknown", display(str(path)), None, "no image in the catalogue")

    def _all(self, kind: Kind) -> Iterator[Problem]:
        while files := self._inventory.after(kind, self._at[kind], _BATCH):
            for file in files:
                found = list(self._look(file))
                self._at[kind] = file.id
                yield from found
                if time.monotonic() - self._saved > _SAVE_SECONDS:
                    self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        self._stored.set(_MEMORY, self._at)

    def _look(self, file: Filed) -> Iterator[Problem]:
        found = list(self._compare(file))
        # It may have been moved since its row was read: by `undo`, by `retry`.
        if found and self._inventory.one(file.kind, file.id) != file:
            return
        if found:
            self._at["bad"].append((file.kind, file.id))
        yield from found

    def _compare(self, file: Filed) -> Iterator[Problem]:
        path = self._roots[file.place] / file.destination

        def problem(kind: str, detail: str) -> Problem:
            return Problem(kind, display(str(path)), file.image_id, detail)

        self.files += 1
        if not os.path.lexists(path):
            yield problem("missing", f"{file.kind} {file.image_id} was filed there")
            return
        if file.sha256 is None:
            return
        if atomic.size_of(path) is None:
            yield problem("changed", "a folder, link or device where a file was filed")
            return
        try:
            found = self._hash(path)
        except OSError as error:
            yield problem("unreadable", error.strerror or str(error))
            return
        if found != file.sha256:
            yield problem("changed", self._how(path, file))
        elif file.status == "done" and file.kind == "image" and (lacking := self._lacks(file.sha256)):
            fault: str | None = f"its {lacking} thumbnail is missing"
            if self._fix is not None:
                fault = self._fixed(self._fix, path, file.sha256)
            if fault:
                yield problem("thumbnail", fault)

    def _how(self, path: Path, file: Filed) -> str:
        """Tell rot from editing, which leaves a new date behind."""
        edited = path.stat().st_mtime_ns
        if file.mtime_ns is None or edited == file.mtime_ns:
            return "other bytes than were filed, though nobody has written to it: restore it from a backup"
        when = datetime.fromtimestamp(edited / 1e9).astimezone().isoformat(" ", "seconds")
        return f"other bytes than were filed: written to at {when}"

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as opened:
            # Else the page cache answers, and what rotted on the disk would look well.
            _forget(opened.fileno())
            while block := opened.read(1 << 20):
                digest.update(block)
                self.bytes += len(block)
                self.on_bytes(self.bytes)
            _forget(opened.fileno())
        return digest.hexdigest()

    def _lacks(self, sha256: str) -> str | None:
        return next((size for size in SIZES if not atomic.size_of(self._thumbnails.path(sha256, size))), None)

    def _fixed(self, fix: Fix, path: Path, sha256: str) -> str | None:
        """Have thumbnails made again; returns why they can't be."""
        try:
            fix(path, sha256)
        except DarkroomError as error:
            return f"no thumbnails can be made: {error}"
        self.fixed += 1
        return None


def _forget(fd: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


_REASON = ".reason.txt"
_SIDECAR = ".xmp"


def unknown_files(inventory: Inventory, place: Place, root: Path, ignore: Sequence[str]) -> Iterator[Path]:
    """Yield them, but for junk, Darkroom's own files, and what Darkroom writes beside an image that is known."""
    for found in batched(walk(root, (), recursive=True), 500):
        paths = [one.path for one in found if not is_junk(one.path, ignore)]
        known = inventory.known(place, [*paths, *filter(None, map(_owner, paths))])
        yield from (root / path for path in paths if path not in known and _owner(path) not in known)


def _owner(path: str) -> str | None:
    """Name the image that Darkroom would write such a file beside."""
    for suffix in (_REASON, _SIDECAR):
        if path.endswith(suffix) and os.path.basename(path) != suffix:  # noqa: PTH119 - a name may be no UTF-8
            return path.removesuffix(suffix)
    return None


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a line for each thing amiss; 1 when there is any."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        raise EnvironmentFault(f"there is no catalogue {file} to compare with; darkroom rebuild makes one")
    thumbnails = Thumbnails(config.folders.state / "thumbnails")
    with _fixer(config, thumbnails, wanted=args.fix) as fix:
        work = Verification(Catalogue(file), roots(config), thumbnails, config.inbox.ignore, fix)
        since = None if args.again else work.resumed()
        if since is not None:
            when = datetime.fromtimestamp(since).astimezone().isoformat(" ", "minutes")
            print(f"going on with what was begun at {when}; --again begins anew", file=sys.stderr)
        found = _watched(work, again=args.again, silent=args.json)
    return _report(work, found, as_json=args.json)


def _watched(work: Verification, *, again: bool, silent: bool) -> list[Problem]:
    """Run to the end, showing how far it is and each thing amiss at once."""
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


def _report(work: Verification, found: list[Problem], *, as_json: bool) -> int:
    if as_json:
        document: dict[str, Any] = {"files": work.files, "bytes": work.bytes, "thumbnails_mended": work.fixed}
        print(json.dumps(document | {"amiss": [vars(one) for one in found]}, indent=2))
    else:
        fixed = f", thumbnails of {work.fixed:,} made again" if work.fixed else ""
        verdict = f"{len(found):,} amiss" if found else "all as they were filed"
        print(f"{work.files:,} files, {work.bytes / 1e6:,.1f} MB read: {verdict}{fixed}")
    return 1 if found else 0


def _line(problem: Problem) -> str:
    image = "" if problem.image_id is None else f" (image {problem.image_id})"
    return f"{problem.kind:<10} {problem.path}{image}: {problem.detail}"


@contextmanager
def _fixer(config: Config, thumbnails: Thumbnails, *, wanted: bool) -> Iterator[Fix | None]:
    """Give what makes thumbnails again, in the child process in which all images are decoded."""
    if not wanted:
        yield None
        return
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))

    def fix(path: Path, sha256: str) -> None:
        decoded = sandbox.decode(path)
        if decoded.sha256 != sha256:
            raise Rejected("it has changed since it was read")
        thumbnails.save(sha256, decoded.small, decoded.medium)

    try:
        yield fix
    finally:
        sandbox.close()
