"""Which photo a companion belongs to: `.xmp` and `.aae` edits, Takeout's `.json`, the video of a live photo.

A companion is a row of the queue like any file, until its photo is known; then it is filed beside the photo under the
photo's new stem. The photo may have come before it, may come with it or after it: what waits is `queued`, and says so.
"""

import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from daemon.catalogue import Place
from daemon.catalogue.companions import CompanionRows, Photo
from daemon.catalogue.schema import Facts, Job
from daemon.decoding import XmpDates
from daemon.errors import DarkroomError, Postponed, Rejected, WaitingReason
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.files.names import IMAGE_SUFFIXES, display, split
from daemon.filing.destination import Plan, mirrored
from daemon.filing.inbox_file import InboxFile
from daemon.sidecar import xmp

_log = logging.getLogger(__name__)

SUFFIXES = frozenset({".xmp", ".aae", ".json", ".mov", ".mp4"})
_VIDEOS = frozenset({".mov", ".mp4"})
_RAW = frozenset(".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef .srw".split())
_HEIF = frozenset({".heic", ".heif", ".hif"})
# Takeout cuts a name to 51 bytes, `.json` included: of a long photo's name only the beginning is left.
_TAKEOUT_BYTES = 46
_TAKEOUT_TAIL = "supplemental-metadata"
_NUMBER = re.compile(r"\((\d{1,6})\)$")
# An iPhone's IMG_E1234 is the edited IMG_1234, and IMG_O1234.AAE belongs to the original of it.
_EDITED = re.compile(r"(?<=^img_)[eo](?=\d{4}$)", re.IGNORECASE)
_PREFIX = 24
_MAX_XMP_BYTES = 16 << 20


@dataclass(frozen=True)
class CompanionName:
    """A companion's name, taken apart.

    `whole` is the name of its photo where the companion's name holds it ("img_1.jpg" of IMG_1.JPG.xmp), `stem` the
    stem of it, both in lower case; `tail` is what follows the photo's name or stem. `begins` is the stem with its upper
    and lower case, `edited` that of the original where the photo is an iPhone's edit; `cut` says that only the
    beginning of the photo's name is known.
    """

    whole: str | None
    stem: str
    tail: str
    suffix: str
    begins: str
    cut: bool = False

    @property
    def edited(self) -> str | None:
        """Return the stem of the original where this belongs to an iPhone's edit of it."""
        plain = _EDITED.sub("", self.begins)
        return plain if plain != self.begins else None

    @property
    def is_video(self) -> bool:
        """Return whether it is a video, of which a photo has one."""
        return self.suffix in _VIDEOS

    def rank(self, photo: str) -> int | None:
        """Return how well a photo's name fits, 0 best; None where it doesn't."""
        name = photo.lower()
        stem, suffix = split(name)
        if self.whole is not None:
            if name == self.whole:
                return 0
            return 2 if self.cut and name.startswith(self.whole) else None
        if stem == self.stem:
            # A RAW file's edits lie in an .xmp, a live photo is HEIC first and JPEG second.
            favoured = _RAW if self.suffix == ".xmp" else _HEIF
            return 0 if suffix in favoured else 1
        if self.cut and name.startswith(self.stem):
            return 2
        return 3 if _EDITED.sub("", self.stem) == stem else None

    def beside(self, photo: PurePosixPath) -> PurePosixPath:
        """Return the companion's name after its photo."""
        # NAME.EXT.xmp is the sidecar's own name.
        keeps_suffix = self.whole is not None and self.suffix != ".xmp"
        name = photo.name if keeps_suffix else split(photo.name)[0]
        return photo.with_name(name + self.tail)


def parse(name: str) -> CompanionName | None:
    """Take a file's name apart; None where no companion is called so."""
    head, suffix = name[: name.rfind(".")], name[name.rfind(".") :] if "." in name else ""
    if suffix.lower() not in SUFFIXES or not head:
        return None
    if suffix.lower() == ".json":
        return _takeout(head, suffix)
    return _companion(head, suffix)


def of_photo(photo: str, waiting: Iterable[tuple[int, str]]) -> list[int]:
    """Return the ids of those names that belong to a photo."""
    parsed = ((image_id, parse(name)) for image_id, name in waiting)
    return [image_id for image_id, companion in parsed if companion and companion.rank(photo) is not None]


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """Return the `number`-th name of a companion: `IMG_1.xmp`, `IMG_1.1.xmp`, …

    Not `IMG_1-1.xmp`: that belongs to another photo, IMG_1-1.jpg.
    """
    stem, suffix = split(path.name)
    return path if number == 0 else path.with_name(f"{stem}.{number}{suffix}")


def _companion(head: str, tail: str, *, cut: bool = False, number: str = "") -> CompanionName:
    suffix = tail[tail.rfind(".") :].lower()
    stem, image = split(head)
    if image.lower() in IMAGE_SUFFIXES:
        return CompanionName(
            f"{stem}{number}{image}".lower(), f"{stem}{number}".lower(), tail, suffix, f"{stem}{number}", cut
        )
    return CompanionName(None, f"{head}{number}".lower(), tail, suffix, f"{head}{number}", cut)


def _takeout(head: str, suffix: str) -> CompanionName:
    """Read Google's names: IMG.jpg.json, IMG.jpg.supplemental-metadata.json, its cut forms, IMG.jpg(1).json."""
    cut = len(head.encode("utf-8", "surrogateescape")) >= _TAKEOUT_BYTES
    number = match[0] if (match := _NUMBER.search(head)) else ""
    bare = head.removesuffix(number)
    title, dot, end = bare.rpartition(".")
    if dot and title and _TAKEOUT_TAIL.startswith(end.lower()):
        return _companion(title, f".{end}{suffix}", cut=cut, number=number)
    if split(bare)[1].lower() not in IMAGE_SUFFIXES:
        # The number is the photo's own: IMG(1).json.
        return _companion(head, suffix, cut=cut)
    return _companion(bare, suffix, cut=cut, number=number)


_FIRST_WAIT_SECONDS = 1.0
_PHOTO_WAIT_SECONDS = 600.0
# A photo that came long ago is taken for a companion's only after this: camera counters begin again, and the photo
# of that name which belongs to it may be a moment behind.
_BATCH_SECONDS = 600.0
_OLD_WAIT_SECONDS = 30.0
# A video is no proof of a live photo: with an older photo than this it shares the name by chance.
_VIDEO_DAYS = 30


class CompanionMatcher:
    """Finds the photo of each companion in the queue; used by the consumer's thread, `give_up` by any."""

    def __init__(
        self,
        rows: CompanionRows,
        roots: Mapping[Place, Root],
        *,
        delete_duplicates: bool = False,
    ) -> None:
        self._rows = rows
        self._roots = roots
        self._delete_duplicates = delete_duplicates
        self._over = threading.Event()

    def plan(self, job: Job, file: InboxFile, now: float) -> Plan | None:
        """Return where a companion goes; None where the file is none, or its photo hasn't come: then it is any file.

        Raises Postponed while the photo may still come, Rejected where the photo has failed, EnvironmentFault where the
        companion can't be read.
        """
        companion = parse(job.original_name)
        if companion is None or file.fd is None:
            return None
        age = max(0.0, now - job.created_at)
        found = self._best(companion, job, age)
        if found is None or found.status in {"queued", "processing"}:
            if found is None and (self._over.is_set() or age >= _PHOTO_WAIT_SECONDS):
                return None
            # Longer and longer: thousands may wait, and the arrival of a photo has them looked at anyway.
            wait = max(_FIRST_WAIT_SECONDS, age)
            left = _PHOTO_WAIT_SECONDS - age
            raise Postponed(WaitingReason.PHOTO, min(wait, left) if left > 0 else wait)
        if found.status == "failed":
            raise Rejected(f"its photo, {display(found.name)}, could not be filed (image {found.id})")
        return self._beside(job, file, file.fd, companion, found)

    def alone(self, job: Job) -> str:
        """Return what is to be said, behind the reason why it is no photo, of a file that is no companion either."""
        companion = parse(job.original_name)
        if companion is None:
            return ""
        wanted = companion.whole or f"{companion.begins}.*"
        return f"; and no photo named {display(wanted)} came that it would belong to"

    def give_up(self) -> bool:
        """End the wait for photos that are not in the inbox; False where it was ended before, or nothing waits."""
        if self._over.is_set() or not self._rows.waits():
            return False
        self._over.set()
        self._rows.due(None, time.time())
        return True

    def _best(self, companion: CompanionName, job: Job, age: float) -> Photo | None:
        """Return the photo: one that waits in the inbox goes before those that are filed, the newest before others."""
        folder = display(job.path.rpartition("/")[0])
        begins = [companion.begins, *([companion.edited] if companion.edited else [])]
        fitting: list[tuple[int, int, int, Photo]] = []
        for photo in (one for stem in begins for one in self._rows.photos(folder, stem, cut=companion.cut)):
            rank = companion.rank(photo.name)
            if rank is not None and photo.id != job.id and self._may_be(photo, companion, job, age):
                order = {"queued": 0, "processing": 0, "done": 1, "duplicate": 1}.get(photo.status, 2)
                fitting.append((order, rank, -photo.id, photo))
        return min(fitting)[-1] if fitting else None

    def _may_be(self, photo: Photo, companion: CompanionName, job: Job, age: float) -> bool:
        if parse(photo.name) is not None:
            return False
        if photo.status not in {"done", "duplicate"}:
            # What is not filed yet may be no photo at all.
            return split(photo.name)[1].lower() in IMAGE_SUFFIXES
        apart = abs(job.created_at - photo.created_at)
        patient = age >= _OLD_WAIT_SECONDS or self._over.is_set()
        by_chance = companion.is_video and apart > _VIDEO_DAYS * 86400
        return apart <= _BATCH_SECONDS or (patient and not by_chance)

    def _beside(self, job: Job, file: InboxFile, fd: int, companion: CompanionName, photo: Photo) -> Plan | None:
        try:
            sha256 = atomic.sha256(fd)
        except OSError as error:
            raise atomic.meaning(error)(f"{file.where}: {error.strerror}") from error
        original = photo
        if photo.status == "duplicate" and photo.duplicate_of is not None:
            original = self._rows.photo(photo.duplicate_of) or photo
        if original.destination is None or original.place is None:
            return None
        with atomic.blaming(self._roots[original.place]):
            if atomic.size_of(self._roots[original.place] / original.destination) is None:
                return None  # the photo has been taken away since
        for row in self._rows.beside(original.id):
            kept = self._roots[row.place] / row.destination
            if row.sha256 == sha256 and atomic.size_of(kept) is not None:
                return self._again(job, companion, photo, kept, Facts(sha256, file.was.st_size, companion_of=photo.id))
            if companion.is_video and row.destination.lower().endswith((".mov", ".mp4")) and companion.edited is None:
                return None  # a live photo has one video, and this is another
        wanted = companion.beside(PurePosixPath(original.destination))
        return Plan(original.place, wanted, Facts(sha256, file.was.st_size, companion_of=original.id), numbered)

    def _again(self, job: Job, companion: CompanionName, photo: Photo, kept: Location, facts: Facts) -> Plan:
        """Return where a companion goes whose bytes lie beside the photo already, as with a photo that came twice."""
        wanted = mirrored(job)
        if photo.place == "duplicates" and photo.destination is not None:
            wanted = companion.beside(PurePosixPath(photo.destination))
        return Plan("duplicates", wanted, facts, numbered, kept=kept if self._delete_duplicates else None)


def dates_beside(rows: CompanionRows, inbox: Root, job: Job) -> XmpDates | None:
    """Return the dates of the XMP file that is in the inbox for a photo; None where there is none to be read."""
    fitting: list[tuple[int, str]] = []
    for path, name in rows.queued(display(job.folder) if job.folder else "", split(job.original_name)[0], ".xmp"):
        companion = parse(name)
        rank = None if companion is None else companion.rank(job.original_name)
        if rank is not None:
            fitting.append((rank, path))
    for _, path in sorted(fitting):
        try:
            packet = xmp.Packet.parse((inbox / path).read_bytes(_MAX_XMP_BYTES))
        except (OSError, DarkroomError, xmp.Malformed) as error:
            _log.warning("image %d: %s can't be read for its date: %s", job.id, display(path), error)
            continue
        return XmpDates(
            packet.text(xmp.EXIF, "DateTimeOriginal"),
            packet.text(xmp.PHOTOSHOP, "DateCreated"),
            packet.text(xmp.XMP, "CreateDate"),
        )
    return None


def hasten(rows: CompanionRows, job: Job, now: float) -> None:
    """Have the companions that wait for a photo looked at, now that it is filed or has failed."""
    # What the names of a photo of this stem and of all its companions begin with.
    stem = split(job.original_name)[0]
    waiting = rows.waiting(display(job.folder) if job.folder else "", _NUMBER.sub("", stem)[:_PREFIX])
    if waiting:
        rows.due(of_photo(job.original_name, waiting), now)
