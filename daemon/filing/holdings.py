"""Says which files the library holds now: the same bytes, just read there; and of any other file why it does not.

What a row says is not believed: the file is read back, from the disk and not from memory. What its owner has deleted,
thrown away or edited since is not held, wherever a copy of it may lie.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from daemon.catalogue import Catalogue, ImageRow, Place
from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.schema import REMOVED, Status
from daemon.catalogue.search import FiledFile, Inventory
from daemon.errors import DarkroomError
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.files.names import display
from daemon.files.opening import Identity, open_regular
from daemon.filing.companions import parse
from daemon.filing.sources import ImportFile

_BATCH = 500
_ORDER: tuple[Status, ...] = ("done", "deleted", "rejected", "failed", "duplicate", "queued", "processing")
Beside = Mapping[ImportFile, Sequence[ImportFile]]
"""Which photos of a source each of its companions may belong to."""


@dataclass(frozen=True)
class Holding:
    """Whether the library holds a file: where, or why not.

    `is_settled` says that it would make no difference to bring it in again: it lies where it has gone, and says why.
    """

    at: Location | None
    reason: str = ""
    is_settled: bool = False


class Holdings:
    """The library of one darkroom, and the other folders; `catalogue` is None where nothing was filed yet.

    `file_again` says that what its owner has taken away is filed like any other photo when it comes again.
    """

    def __init__(self, catalogue: Catalogue | None, roots: Mapping[Place, Root], *, file_again: bool = False) -> None:
        self._inventory = None if catalogue is None else Inventory(catalogue)
        self._photos = None if catalogue is None else CompanionRows(catalogue)
        self._roots, self._file_again = roots, file_again
        # By their bytes, the images of the files that were asked for last.
        self._images: Mapping[str, Sequence[ImageRow]] = {}
        # What was read back, by its place, and how it looked then.
        self._read: dict[Location, tuple[Identity, int, str]] = {}

    def of(
        self, files: Sequence[ImportFile], beside: Beside, on_file: Callable[[], object] = lambda: None
    ) -> dict[ImportFile, Holding]:
        """Return which of some files are held; `on_file` is called after each. What was not read is not among them.

        A companion is held beside one of its photos, Darkroom's own sidecar where its photo is.
        """
        wanted = [file for file in files if file.sha256 is not None]
        hashes = sorted({str(file.sha256) for file in wanted})
        images: dict[str, list[ImageRow]] = {sha256: [] for sha256 in hashes}
        self._images = images
        companions: dict[str, list[FiledFile]] = {sha256: [] for sha256 in hashes}
        for start in range(0, len(hashes) if self._inventory is not None else 0, _BATCH):
            assert self._inventory is not None  # noqa: S101
            batch = hashes[start : start + _BATCH]
            for row in self._inventory.of_bytes(batch):
                for sha256 in {row.sha256, row.filed_sha256} & set(batch):
                    images[str(sha256)].append(row)
            for one in self._inventory.companions_of_bytes(batch):
                companions[str(one.sha256)].append(one)
        found: dict[ImportFile, Holding] = {}
        for file in sorted(wanted, key=lambda file: file.kind != "photo"):
            sha256 = str(file.sha256)
            if file.kind == "sidecar":
                photos = [found[photo] for photo in beside.get(file, ()) if photo in found]
                at = next((photo.at for photo in photos if photo.at is not None), None)
                found[file] = Holding(at, "" if at is not None else "its photo is not in the library")
            elif file.kind == "companion":
                found[file] = self._companion(file, companions[sha256], beside.get(file, ()), images)
            else:
                found[file] = self._photo(file, sha256, images[sha256])
            on_file()
        return found

    def is_held(self, file: ImportFile, holding: Holding) -> bool:
        """Return whether a file's bytes, which were held, are read once more where they are held."""
        if holding.at is None or file.sha256 is None:
            return False
        self._read.pop(holding.at, None)
        return self._reads(holding.at, file) == ""

    def came_before(self, folder: str, name: str) -> bool:
        """Return whether a photo that a companion may belong to came from a subfolder of the inbox before."""
        companion = parse(display(name))
        if companion is None or self._photos is None:
            return False
        return any(
            companion.may_fit(photo.name)
            for stem in companion.stems
            for photo in self._photos.photos(display(folder), stem, cut=companion.cut)
            if photo.status in {"done", "duplicate"}
        )

    def came_from(self, photo: ImportFile, companion: ImportFile) -> str | None:
        """Return the subfolder of the inbox that a photo of the library came from, where a companion finds it by name.

        None where it came under another name.
        """
        parsed = parse(display(companion.name))
        for row in self._images.get(photo.sha256 or "", ()):
            if row.status == "done" and parsed is not None and parsed.may_fit(row.original_name):
                return row.folder
        return None

    # -- one file

    def _photo(self, file: ImportFile, sha256: str, rows: Sequence[ImageRow]) -> Holding:
        reason, lies = "", False
        # What says where its owner has put it goes before that a copy of it came again.
        for row in sorted(rows, key=lambda row: _ORDER.index(row.status)):
            at = None if row.place is None else self._roots[row.place] / str(row.destination)
            fault = "" if at is None else self._reads(at, file)
            if row.status == "done" and row.sha256 == sha256:
                if at is not None and not fault:
                    return Holding(at)
                found = f"image {row.id} should be it, but {fault}"
            else:
                found = _why_not(row)
                lies |= at is not None and not fault and row.status != "done"
            reason = reason or found
        is_removed = any(row.status in REMOVED for row in rows)
        return Holding(None, reason or "it is not in the library", lies and not (is_removed and self._file_again))

    def _companion(
        self,
        file: ImportFile,
        rows: Sequence[FiledFile],
        photos: Sequence[ImportFile],
        images: Mapping[str, Sequence[ImageRow]],
    ) -> Holding:
        of = {row.id for photo in photos for row in images.get(photo.sha256 or "", ())}
        reason, lies = "", False
        for row in rows:
            # Edits may have the same bytes as those of another photo.
            if row.image_id not in of and not (not photos and self._is_of(file, row.image_id)):
                continue
            at = self._roots[row.place] / row.destination
            fault = self._reads(at, file)
            if row.place == "library" and not fault:
                return Holding(at)
            reason = reason or fault or f"it lies in {row.place}/{display(row.destination)}, beside its photo"
            lies |= not fault
        for image in images.get(file.sha256 or "", ()):
            if image.status == "failed" and image.destination is not None:
                reason = reason or _why_not(image)
                lies |= not self._reads(self._roots["failed"] / image.destination, file)
        return Holding(None, reason or "it is not beside its photo in the library", lies)

    def _is_of(self, file: ImportFile, image_id: int) -> bool:
        """Return whether a companion may belong to an image by their names."""
        photo = None if self._photos is None else self._photos.photo(image_id)
        parsed = parse(display(file.name))
        return photo is not None and parsed is not None and parsed.may_fit(photo.name)

    def _reads(self, at: Location, file: ImportFile) -> str:
        """Return what is wrong with a place that is to hold a file's bytes; "" where they were read there."""
        try:
            here = at.lstat()
            if here is None or not stat.S_ISREG(here.st_mode):
                return f"{at} is gone: darkroom sync"
            with suppress(OSError):
                there = file.location.lstat()
                if there is not None and os.path.samestat(here, there):
                    return f"{at} is this very file, under another name"
            known = self._read.get(at)
            if known is None or known[:2] != (Identity.of(here), here.st_ctime_ns):
                fd = open_regular(at)
                try:
                    held = os.fstat(fd)
                    known = Identity.of(held), held.st_ctime_ns, atomic.sha256_on_disk(fd)
                finally:
                    os.close(fd)
                self._read[at] = known
            return "" if known[2] == file.sha256 else f"{at} has other bytes: darkroom verify"
        except OSError as error:
            return f"{at} can't be read: {error.strerror}"
        except DarkroomError as error:
            return f"{at} can't be read: {error}"


def _why_not(row: ImageRow) -> str:
    """Return why the library does not hold bytes that a row has, or has had."""
    day = datetime.fromtimestamp(row.removed_at or 0.0).astimezone().date().isoformat()
    match row.status:
        case "done":
            return f"you have edited it in the library since (image {row.id}); these are its bytes of before"
        case "deleted":
            return f"you deleted it from the library on {day} (image {row.id})"
        case "rejected":
            return f"you threw it away on {day}; darkroom restore {row.id} takes it back"
        case "failed":
            return f"it failed: {row.error} (darkroom retry {row.id})"
    return f"it is a copy of image {row.duplicate_of}" + (f": {row.warning}" if row.warning else "")


def lost(files: Sequence[ImportFile]) -> Iterator[ImportFile]:
    """Yield those of some files that are other ones now, or gone, by stat."""
    for file in files:
        try:
            here = file.location.lstat()
        except OSError:
            here = None
        if here is None or (here.st_size, here.st_mtime_ns) != (file.size, file.mtime_ns):
            yield file


def where(file: ImportFile) -> str:
    """Return where a file is, for people."""
    return display(str(PurePosixPath(str(file.root.path)) / file.inside))
