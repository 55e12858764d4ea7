"""Reads every filed file again and compares it with the catalogue: what rotted, what is gone, what is unknown.

A library of terabytes takes a day: how far it got is remembered, and the next run goes on from there. What was found
amiss until then is looked at again, since it may have been mended.
"""

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.care.strangers import strangers
from daemon.catalogue import Catalogue, Place
from daemon.catalogue.inventory import Filed, Inventory, Kind
from daemon.catalogue.memory import Memory
from daemon.errors import DarkroomError, EnvironmentFault
from daemon.names import display
from daemon.thumbnails import SIZES, Thumbnails

_MEMORY = "verify"
_BATCH = 200
_SAVE_SECONDS = 2.0
Mend = Callable[[Path, str], None]
_KINDS: tuple[Kind, ...] = ("image", "companion")


@dataclass(frozen=True)
class Amiss:
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
        mend: Mend | None = None,
    ) -> None:
        self._inventory, self._memory = Inventory(catalogue), Memory(catalogue)
        self._roots, self._thumbnails, self._ignore, self._mend = roots, thumbnails, ignore, mend
        self._at: dict[str, Any] = {}
        self._saved = 0.0
        self.files = self.bytes = self.mended = 0
        self.on_bytes: Callable[[int], object] = lambda _: None

    def total(self) -> tuple[int, int]:
        """Count the files that the catalogue knows, and their bytes."""
        return self._inventory.total()

    def resumed(self) -> float | None:
        """Tell when the pass was begun that this one goes on with; None where it begins anew."""
        state = self._memory.recall(_MEMORY)
        return None if state is None else float(state["since"])

    def run(self, *, again: bool = False) -> Generator[Amiss, None, None]:
        """Yield what is amiss. Raises EnvironmentFault when a folder is not there at all."""
        for name, root in self._roots.items():
            if not root.is_dir():
                raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
        state = None if again else self._memory.recall(_MEMORY)
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
        self._memory.remember(_MEMORY, None)
        for place, root in self._roots.items():
            for path in strangers(self._inventory, place, root, self._ignore):
                yield Amiss("unknown", display(str(path)), None, "no image in the catalogue")

    def _all(self, kind: Kind) -> Iterator[Amiss]:
        while files := self._inventory.after(kind, self._at[kind], _BATCH):
            for file in files:
                found = list(self._look(file))
                self._at[kind] = file.id
                yield from found
                if time.monotonic() - self._saved > _SAVE_SECONDS:
                    self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        self._memory.remember(_MEMORY, self._at)

    def _look(self, file: Filed) -> Iterator[Amiss]:
        found = list(self._compare(file))
        # It may have been moved since its row was read: by `undo`, by `retry`.
        if found and self._inventory.one(file.kind, file.id) != file:
            return
        if found:
            self._at["bad"].append((file.kind, file.id))
        yield from found

    def _compare(self, file: Filed) -> Iterator[Amiss]:
        path = self._roots[file.place] / file.destination

        def amiss(kind: str, detail: str) -> Amiss:
            return Amiss(kind, display(str(path)), file.image_id, detail)

        self.files += 1
        if not os.path.lexists(path):
            yield amiss("missing", f"{file.kind} {file.image_id} was filed there")
            return
        if file.sha256 is None:
            return
        if disk.size_of(path) is None:
            yield amiss("changed", "a folder, link or device where a file was filed")
            return
        try:
            found = self._hash(path)
        except OSError as error:
            yield amiss("unreadable", error.strerror or str(error))
            return
        if found != file.sha256:
            yield amiss("changed", self._how(path, file))
        elif file.status == "done" and file.kind == "image" and (lacking := self._lacks(file.sha256)):
            fault: str | None = f"its {lacking} thumbnail is missing"
            if self._mend is not None:
                fault = self._mended(self._mend, path, file.sha256)
            if fault:
                yield amiss("thumbnail", fault)

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
        return next((size for size in SIZES if not disk.size_of(self._thumbnails.path(sha256, size))), None)

    def _mended(self, mend: Mend, path: Path, sha256: str) -> str | None:
        """Have thumbnails made again; returns why they can't be."""
        try:
            mend(path, sha256)
        except DarkroomError as error:
            return f"no thumbnails can be made: {error}"
        self.mended += 1
        return None


def _forget(fd: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
