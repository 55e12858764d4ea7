"""Which photo a companion belongs to: edits, Takeout's `.json`, the video of a live photo, a voice note.

A companion is a row of the queue like any file, until its photo is known; then it is filed beside the photo under the
photo's new stem. The photo may have come before it, may come with it or after it: what waits is `queued`, and says so.
A photo is never one, whatever it is called; but for `.thm`, which is a camera's small JPEG of a photo or video.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, Protocol

from daemon.catalogue import Place
from daemon.catalogue.companions import CompanionRow, CompanionRows, Photo, QueuedFile
from daemon.catalogue.schema import Facts, Job
from daemon.decoding import MAX_TEXT_BYTES, Takeout, TextReader, XmpDates
from daemon.decoding.formats import HEAD_BYTES, sniff
from daemon.errors import DarkroomError, FailureReason, Postponed, Rejected, Transient, WaitingReason
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.files.names import IMAGE_SUFFIXES, OWN_PREFIX, RAW_SUFFIXES, beginning, beginnings, display, fold, split
from daemon.files.opening import open_regular
from daemon.filing import endings
from daemon.filing.destination import Plan, mirrored
from daemon.filing.inbox_file import InboxFile
from daemon.sidecar import takeout, xmp
from daemon.sidecar.takeout import WEAK, TakeoutName

_log = logging.getLogger(__name__)

# `.MP~2` is what Google's camera calls the video of the second photo of one moment.
_COMPANION = re.compile(
    r"(?P<head>.+)(?P<suffix>\.(?:xmp|aae|pp3|dop|mov|mp4|(?:mp|mv)(?P<copy>~\d+)?|lrv|thm|wav))",
    re.IGNORECASE | re.DOTALL,
)
_VIDEO = re.compile(r"\.(?:mov|mp4|mp|mv)(?:~\d+)?$", re.IGNORECASE)
# Cameras' counters begin again: what these show or sound like need not belong to a photo of the same name.
_BY_CHANCE = re.compile(r"\.(?:mov|mp4|mp|mv|lrv|thm|wav)(?:~\d+)?$", re.IGNORECASE)
_HEIF = frozenset({".heic", ".heif", ".hif"})
# An iPhone's IMG_E1234 is the edited IMG_1234, and IMG_O1234.AAE belongs to the original of it.
_EDITED = re.compile(r"(?<=^img_)[eo](?=\d{4}$)", re.IGNORECASE)
# IMG_1234_HEVC.MOV is the video of IMG_1234.HEIC where iCloud for Windows has exported it.
_HEVC = re.compile(r"_hevc$", re.IGNORECASE)
# darktable's NAME_01.EXT.xmp holds the edits of a duplicate of NAME.EXT, which has no file of its own.
_DUPLICATE = re.compile(r"_\d{2}$")
_BEGINNING = 24


@dataclass(frozen=True)
class CompanionName:
    """A companion's name, taken apart: `NAME` or `NAME.EXT` of its photo, as the companion has it, and its ending."""

    head: str
    suffix: str
    cut: ClassVar[bool] = False
    edits: ClassVar[tuple[str, ...]] = ()

    @property
    def whole(self) -> str | None:
        """The name of its photo, where it holds that ("IMG_1.JPG" of IMG_1.JPG.xmp)."""
        return self.head if split(self.head)[1].lower() in IMAGE_SUFFIXES else None

    @property
    def wanted(self) -> str:
        """The name of its photo, as far as it is known, for people."""
        return self.whole or f"{self.head}.*"

    @property
    def stems(self) -> list[str]:
        """The stems of the photos that it may belong to."""
        if self.whole is not None:
            stem = split(self.whole)[0]
            return [stem, *([_DUPLICATE.sub("", stem)] if self._is_of_duplicate else [])]
        found = [self.head, self._plain]
        if self._is_motion:
            # PXL_1.MP is beside PXL_1.MP.jpg, or PXL_1.jpg; PXL_1.MP~2 beside PXL_1.MP~2.jpg, or PXL_1~2.jpg.
            found += [self.head + self.suffix, self.head + self._copy]
        if self.suffix.lower() == ".aae" and fold(self.head).startswith("img_"):
            found.append(f"{self.head[:4]}E{self.head[4:]}")
        return list(dict.fromkeys(found))

    @property
    def is_video(self) -> bool:
        """Return whether it is a video, of which a photo has one."""
        return _VIDEO.fullmatch(self.suffix) is not None

    @property
    def is_variant(self) -> bool:
        """Return whether it is of another form of the photo, and so a photo may have it and one of its own."""
        return self._plain != self.head

    @property
    def by_chance(self) -> bool:
        """Return whether it may have a photo's name without belonging to it."""
        return _BY_CHANCE.fullmatch(self.suffix) is not None

    def may_fit(self, photo: str) -> bool:
        """Return whether a photo's name fits."""
        return self.rank(photo) is not None

    def rank(self, photo: str, title: str | None = None) -> int | None:  # noqa: ARG002, what Takeout's names have
        """Return how well a photo's name fits, 0 best; None where it doesn't."""
        name = fold(photo)
        stem, suffix = split(name)
        if self.whole is not None:
            if name == fold(self.whole):
                return 0
            plain, own = split(fold(self.whole))
            return WEAK if self._is_of_duplicate and name == _DUPLICATE.sub("", plain) + own else None
        if self._is_motion and stem in {fold(self.head + self.suffix), fold(self.head + self._copy)}:
            return 0
        if stem == fold(self.head):
            # A RAW file's edits lie in an .xmp; a live photo is HEIC first, JPEG second.
            favoured = RAW_SUFFIXES if self.suffix.lower() == ".xmp" else _HEIF
            return 0 if suffix in favoured else 2 if suffix in RAW_SUFFIXES else 1
        if stem == fold(self._plain):
            return 3
        is_edit = self.suffix.lower() == ".aae" and _EDITED.sub("", stem) == fold(self.head)
        return WEAK if is_edit else None

    def beside(self, photo: PurePosixPath, came: str) -> PurePosixPath:
        """Return the companion's name after its photo, which `came` under another."""
        stem, suffix = split(photo.name)
        if self.whole is not None and self.suffix.lower() != ".xmp":
            return photo.with_name(photo.name + self.suffix)
        is_of_duplicate = self._is_of_duplicate and fold(came) != fold(self.head)
        if is_of_duplicate and (match := _DUPLICATE.search(split(self.head)[0])):
            return photo.with_name(f"{stem}{match[0]}{suffix}{self.suffix}")
        # NAME.EXT.xmp is the sidecar's own name.
        variant = match[0] if (match := _HEVC.search(self.head)) else ""
        if self._is_motion and fold(stem).endswith(fold(self.suffix)):
            return photo.with_name(stem)
        return photo.with_name(stem + variant + self.suffix)

    @property
    def _plain(self) -> str:
        return _HEVC.sub("", _EDITED.sub("", self.head)) if self.whole is None else self.head

    @property
    def _copy(self) -> str:
        match = _COMPANION.fullmatch(self.head + self.suffix)
        return (match["copy"] or "") if match else ""

    @property
    def _is_motion(self) -> bool:
        return self.is_video and self.suffix.lower() not in {".mov", ".mp4"}

    @property
    def _is_of_duplicate(self) -> bool:
        is_one = self.whole is not None and self.suffix.lower() == ".xmp"
        return is_one and _DUPLICATE.search(split(self.head)[0]) is not None


def parse(name: str) -> CompanionName | TakeoutName | None:
    """Take a file's name apart; None where no companion is called so."""
    if name.lower().endswith(".json"):
        return takeout.parse_name(name)
    match = _COMPANION.fullmatch(name)
    return CompanionName(match["head"], match["suffix"]) if match else None


def of_photo(photo: str, waiting: Iterable[tuple[int, str]]) -> list[int]:
    """Return the ids of those names that may belong to a photo."""
    parsed = ((image_id, parse(name)) for image_id, name in waiting)
    return [image_id for image_id, companion in parsed if companion and companion.may_fit(photo)]


def numbered(path: PurePosixPath, number: int) -> PurePosixPath:
    """Return the `number`-th name of a companion: `IMG_1.xmp`, `IMG_1.1.xmp`, …

    Not `IMG_1-1.xmp`: that belongs to another photo, IMG_1-1.jpg.
    """
    stem, suffix = split(path.name)
    return path if number == 0 else path.with_name(f"{stem}.{number}{suffix}")


def named_after(name: str, old: str, new: str) -> str:
    """Return the name of what came with a photo whose own name has changed, as far as it begins with that."""
    for was, now in ((old, new), (split(old)[0], split(new)[0])):
        if name.startswith(was):
            return now + name.removeprefix(was)
    return name


_FIRST_WAIT_SECONDS = 1.0
_PHOTO_WAIT_SECONDS = 600.0
# A photo that came long ago is taken for a companion's only after this: camera counters begin again, and the photo
# of that name which belongs to it may be a moment behind. The same holds for a photo whose name fits, but not best.
_BATCH_SECONDS = 600.0
_OLD_WAIT_SECONDS = 30.0
# A video is no proof of a live photo: with an older photo than this it shares the name by chance.
_VIDEO_DAYS = 30
# How long a photo whose date only its JSON may know waits for that, after it was first seen.
_JSON_WAIT_SECONDS = 10.0
# What is left of a name that Takeout may have cut, in UTF-16 units, with room for a suffix and an ending.
_LONG_UNITS = 36
# How long after one of them others are to be expected.
_JSONS_SECONDS = 60.0
# No more than this part of the time goes into looking for JSONs in a folder that has none.
_LOOK_PART = 0.05


class PhotoRows(Protocol):
    """What knows which photos and companions there are, as `CompanionRows` does."""

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """Return the images that came from a folder under a stem, or `cut` one that begins so, newest first."""
        ...

    def photo(self, image_id: int) -> Photo | None:
        """Return one image."""
        ...

    def queued(self, folder: str, begins: Iterable[str], suffix: str) -> list[QueuedFile]:
        """Return the files of a folder that are not filed yet, by what their names begin with and their suffix."""
        ...

    def own(self, sha256s: Collection[str]) -> int | None:
        """Return the image of the library that has, or was filed with, one of some hashes."""
        ...

    def beside(self, image_id: int) -> Sequence[CompanionRow]:
        """Return what was filed beside an image."""
        ...

    def due_photo(self, image_id: int, now: float) -> None:
        """Have a photo looked at now that waits for its JSON."""
        ...

    def end_waits(self, now: float) -> bool:
        """Have all companions, and all photos that wait for one, looked at now; return whether there are any."""
        ...


def is_there(file: Location) -> bool:
    """Return whether a photo lies where it was filed. Raises EnvironmentFault where nobody knows."""
    with atomic.blaming(file.root):
        return atomic.size_of(file) is not None


class CompanionMatcher:
    """Finds the photo of each companion in the queue; used by the consumer's thread, `give_up` by any.

    `sidecars` says whether Darkroom writes its own: one that comes back is then known for that. `is_there` says whether
    a photo lies where it was filed.
    """

    def __init__(
        self,
        rows: PhotoRows,
        roots: Mapping[Place, Root],
        reader: TextReader,
        *,
        delete_duplicates: bool = False,
        sidecars: bool = True,
        is_there: Callable[[Location], bool] = is_there,
    ) -> None:
        self._rows, self._reader, self._sidecars = rows, reader, sidecars
        self._roots = roots
        self._delete_duplicates, self._is_there = delete_duplicates, is_there
        self._over = threading.Event()
        self._jsons = _Jsons()

    def plan(self, job: Job, file: InboxFile, now: float) -> Plan | None:
        """Return where a companion goes; None where the file is none, or its photo hasn't come: then it is any file.

        Raises Postponed while the photo may still come, Rejected where the photo has failed, EnvironmentFault where the
        companion can't be read.
        """
        companion = parse(job.original_name)
        if companion is None or file.fd is None or _is_photo(file.fd, job.original_name):
            return None
        age = max(0.0, now - job.created_at)
        if (own := self._own_sidecar(job, file.fd)) is not None:
            if (image_id := self._rows.own(own.hashes)) is not None:
                return Plan("library", mirrored(job), Facts(companion_of=image_id), sidecar=own.packet)
            if not self._over.is_set() and age < _PHOTO_WAIT_SECONDS:
                raise Postponed(WaitingReason.PHOTO, max(_FIRST_WAIT_SECONDS, age))
        title = self._title(companion, file.fd)
        if title is not None:
            self._jsons.note(file)
        found = self._fitting(companion, title, _Came.of(job), age)
        if len(found) != 1 or found[0].status in {"queued", "processing"}:
            if len(found) != 1 and (self._over.is_set() or age >= _PHOTO_WAIT_SECONDS):
                return None
            for photo in found:
                if photo.waiting is WaitingReason.TAKEOUT:
                    self._rows.due_photo(photo.id, now)
            # Longer and longer: thousands may wait, and the arrival of a photo has them looked at anyway.
            wait = max(_FIRST_WAIT_SECONDS, age)
            left = _PHOTO_WAIT_SECONDS - age
            raise Postponed(WaitingReason.PHOTO, min(wait, left) if left > 0 else wait)
        [photo] = found
        if photo.status == "failed":
            message = f"its photo, {display(photo.name)}, could not be filed (image {photo.id})"
            raise Rejected(message, FailureReason.NO_PHOTO)
        return self._beside(job, file, file.fd, companion, photo)

    def _own_sidecar(self, job: Job, fd: int) -> "_OwnSidecar | None":
        """Return Darkroom's own sidecar of a photo, by its namespace and hash; None for any other file."""
        if not self._sidecars or not job.original_name.lower().endswith(".xmp"):
            return None
        with atomic.blaming(display(job.original_name)):
            content = _content(fd)
        try:
            packet = xmp.Packet.of(self._reader.read_xmp(content))
        except (Rejected, Transient):
            return None
        hashes = {packet.text(xmp.DARKROOM, name) for name in ("SHA256", "FiledSHA256")} - {None}
        return _OwnSidecar(packet, frozenset(map(str, hashes))) if hashes else None

    def fault(self, job: Job, file: InboxFile) -> str | None:
        """Return what tells that a companion ends early; None where nothing does, and for what has no such name."""
        if parse(job.original_name) is None or file.fd is None:
            return None
        return endings.missing(file.fd, job.original_name, file.was.st_size)

    def alone(self, job: Job, file: InboxFile) -> str:
        """Return what is to be said, behind the reason why it is no photo, of a file that is no companion either."""
        companion = parse(job.original_name)
        if companion is None or file.fd is None:
            return ""
        found = self._fitting(companion, self._title(companion, file.fd), _Came.of(job), _PHOTO_WAIT_SECONDS)
        if len(found) > 1:
            several = ", ".join(sorted(display(photo.name) for photo in found))
            return f"; and it may belong to each of these photos: {several}"
        return f"; and no photo named {display(companion.wanted)} came that it would belong to"

    def xmp_dates(self, job: Job, file: InboxFile) -> XmpDates | None:
        """Return the dates of the XMP file that is in the inbox for a photo; None where there is none to be read."""
        fitting: list[tuple[int, QueuedFile]] = []
        for row in self._queued_with(job, [split(job.original_name)[0]], ".xmp"):
            companion = parse(row.name)
            rank = None if companion is None else companion.rank(job.original_name)
            if rank is not None:
                fitting.append((rank, row))
        for _, row in sorted(fitting, key=lambda one: one[0]):
            content = _read_beside(file, row)
            try:
                packet = None if content is None else xmp.Packet.of(self._reader.read_xmp(content))
            except (Rejected, Transient) as error:
                _log.warning("image %d: %s can't be read for its date: %s", job.id, display(row.path), error)
                continue
            if packet is not None:
                return XmpDates(
                    packet.text(xmp.EXIF, "DateTimeOriginal"),
                    packet.text(xmp.PHOTOSHOP, "DateCreated"),
                    packet.text(xmp.XMP, "CreateDate"),
                )
        return None

    def takeout(self, job: Job, file: InboxFile, now: float) -> Takeout | None:
        """Return what a photo's JSON of Google Takeout says, in the inbox or where it was filed; None without one."""
        return self._json_of(job, file, now) or self._json_of_original(job)

    def await_takeout(self, job: Job, file: InboxFile, now: float) -> None:
        """Raise Postponed where a photo's JSON is not there but others are: it is copied a moment later.

        For ten seconds at most after the photo was first seen.
        """
        left = _JSON_WAIT_SECONDS - max(0.0, now - job.created_at)
        if left > 0 and not self._over.is_set() and self._jsons.lie_in(file) and self.takeout(job, file, now) is None:
            raise Postponed(WaitingReason.TAKEOUT, left)

    def give_up(self) -> bool:
        """End the wait for what is not in the inbox; False where it was ended before, or nothing waits."""
        if self._over.is_set() or not self._rows.end_waits(time.time()):
            return False
        self._over.set()
        # Once more: what began to wait between the two is not left behind.
        self._rows.end_waits(time.time())
        return True

    def _fitting(
        self, companion: CompanionName | TakeoutName, title: str | None, came: "_Came", age: float
    ) -> list[Photo]:
        """Return the photo that fits best; several where nothing but their age would decide between them.

        Of a JSON the name decides before all: its title is inside. Of others, photos that wait in the inbox go before
        those that are filed. Of several of one name the newest counts.
        """
        fitting: list[tuple[tuple[int, int, int], int, Photo]] = []
        others: list[Photo] = []
        for photo in self._candidates(companion, came):
            rank = companion.rank(photo.name, title)
            if photo.id == came.id or not self._may_be(photo, companion, came, rank or 0, age):
                continue
            if rank is None:
                others.append(photo)
                continue
            order = {"queued": 0, "processing": 0, "done": 1, "duplicate": 1}.get(photo.status, 2)
            is_json = isinstance(companion, TakeoutName)
            key = (rank, order, 0) if is_json else (int(rank >= WEAK), order, rank)
            fitting.append((key, -photo.id, photo))
        fitting.sort(key=lambda one: one[:2])
        best = fitting[:1]
        if best and isinstance(companion, TakeoutName):
            best = [one for one in fitting if one[0][0] == best[0][0][0]]
            is_unsure = companion.cut and companion.number and best[0][0][0] == 0
            if is_unsure and any(companion.is_of_another_title(photo.name, title) for photo in others):
                # Whether its number is that of its photo, or tells it from the JSON of the other title, nobody knows.
                best += [one for one in fitting if one[0][0] == 1]
        return list({fold(photo.name): photo for *_, photo in reversed(best)}.values())[::-1]

    def _candidates(self, companion: CompanionName | TakeoutName, came: "_Came") -> list[Photo]:
        """Return the photos of a companion's folder whose names are to be looked at."""
        found = {
            photo.id: photo
            for stem in companion.stems
            for photo in self._rows.photos(came.folder, stem, cut=companion.cut)
        }
        if companion.edits and not any(companion.may_fit(photo.name) for photo in found.values()):
            for stem in companion.edits:
                found |= {photo.id: photo for photo in self._rows.photos(came.folder, stem, cut=True)}
        return list(found.values())

    def _may_be(
        self, photo: Photo, companion: CompanionName | TakeoutName, came: "_Came", rank: int, age: float
    ) -> bool:
        patient = age >= _OLD_WAIT_SECONDS or self._over.is_set()
        if parse(photo.name) is not None or (rank >= WEAK and not patient):
            return False
        if photo.status not in {"done", "duplicate"}:
            # What is not filed yet may be no photo at all.
            return split(photo.name)[1].lower() in IMAGE_SUFFIXES
        apart = abs(came.at - photo.created_at)
        by_chance = companion.by_chance and apart > _VIDEO_DAYS * 86400
        return apart <= _BATCH_SECONDS or (patient and not by_chance)

    # -- what a photo's JSON knows of it

    def _json_of(self, job: Job, file: InboxFile, now: float) -> Takeout | None:
        """Return what the JSON says that waits in the inbox for a photo; None where none does, or not yet whole."""
        stem = beginning(split(job.original_name)[0], _LONG_UNITS)
        begins = [beginning(one, _LONG_UNITS) for one in _titles(job.original_name)]
        # Where the name is shorter than Takeout cuts, the JSON's has all of it.
        spans = begins if len(stem.encode()) >= _LONG_UNITS else [f"{one}{sign}" for one in begins for sign in ".("]
        for row in self._queued_with(job, spans, ".json"):
            name = takeout.parse_name(row.name)
            if name is None or not name.may_fit(job.original_name):
                continue
            content = _read_beside(file, row)
            said = Takeout() if content is None else self._said(content, row.path)
            rank = name.rank(job.original_name, said.title)
            if said == Takeout() or rank is None:
                continue
            found = self._fitting(
                name, said.title, _Came(row.id, display(job.folder), row.created_at), now - job.created_at
            )
            is_edit = takeout.original_of(job.original_name) is not None and said.title is not None
            if [photo.id for photo in found] == [job.id] or (rank >= WEAK and is_edit):
                return said
        return None

    def _queued_with(self, job: Job, begins: list[str], suffix: str) -> list[QueuedFile]:
        """Return the files that wait in a photo's own folder, by what their names begin with and their suffix."""
        rows = self._rows.queued(display(job.folder), begins, suffix)
        return [row for row in rows if row.path.rpartition("/")[0] == job.folder]

    def _json_of_original(self, job: Job) -> Takeout | None:
        """Return what the JSON says that was filed beside the photo that this one is Google's edit of."""
        original = takeout.original_of(job.original_name)
        if original is None:
            return None
        for photo in self._rows.photos(display(job.folder), split(original)[0]):
            if photo.status == "done" and fold(photo.name) == original:
                for row in self._rows.beside(photo.id):
                    if row.destination.lower().endswith(".json") and row.place in self._roots:
                        with suppress(OSError, DarkroomError):
                            content = (self._roots[row.place] / row.destination).read_bytes(MAX_TEXT_BYTES + 1)
                            return self._said(content, row.destination)
        return None

    def _title(self, companion: CompanionName | TakeoutName, fd: int) -> str | None:
        """Return the title inside a JSON; None for any other companion."""
        if not isinstance(companion, TakeoutName):
            return None
        with atomic.blaming(companion.base):
            content = _content(fd)
        return self._said(content, companion.base).title

    def _said(self, content: bytes, name: str) -> Takeout:
        try:
            return self._reader.read_takeout(content)
        except Transient as error:
            _log.warning("%s can't be read for what it says of a photo: %s", display(name), error)
            return Takeout()

    def _beside(
        self, job: Job, file: InboxFile, fd: int, companion: CompanionName | TakeoutName, photo: Photo
    ) -> Plan | None:
        try:
            sha256 = atomic.sha256(fd)
        except OSError as error:
            raise atomic.meaning(error)(f"{file.where}: {error.strerror}") from error
        original = photo
        if photo.status == "duplicate" and photo.duplicate_of is not None:
            filed = self._rows.photo(photo.duplicate_of)
            # What its owner took away has no file that anything could lie beside.
            original = filed if filed is not None and filed.status == "done" else photo
        if original.destination is None or original.place is None:
            return None
        if not self._is_there(self._roots[original.place] / original.destination):
            return None  # the photo has been taken away since
        for row in self._rows.beside(original.id):
            kept = self._roots[row.place] / row.destination
            if row.sha256 == sha256 and atomic.size_of(kept) is not None:
                return self._again(job, companion, photo, kept, Facts(sha256, file.was.st_size, companion_of=photo.id))
            is_video = isinstance(companion, CompanionName) and companion.is_video and not companion.is_variant
            if is_video and _VIDEO.search(row.destination) and not _HEVC.search(split(row.destination)[0]):
                return None  # a live photo has one video, and this is another
        wanted = companion.beside(PurePosixPath(original.destination), photo.name)
        return Plan(original.place, wanted, Facts(sha256, file.was.st_size, companion_of=original.id), numbered)

    def _again(
        self, job: Job, companion: CompanionName | TakeoutName, photo: Photo, kept: Location, facts: Facts
    ) -> Plan:
        """Return where a companion goes whose bytes lie beside the photo already, as with a photo that came twice."""
        wanted = mirrored(job)
        if photo.place == "duplicates" and photo.destination is not None:
            wanted = companion.beside(PurePosixPath(photo.destination), photo.name)
        return Plan("duplicates", wanted, facts, numbered, kept=kept if self._delete_duplicates else None)


@dataclass(frozen=True)
class _OwnSidecar:
    """A sidecar that Darkroom has written, and the hashes of its photo."""

    packet: xmp.Packet
    hashes: frozenset[str]


def hasten(rows: CompanionRows, job: Job, now: float) -> None:
    """Have the companions that wait for a photo looked at, now that it is filed or has failed."""
    stem = takeout.EDIT.sub("", fold(split(job.original_name)[0]))
    # What the names of a photo of this stem and of all its companions begin with.
    stems = [takeout.NUMBER.sub("", stem)]
    if (plain := _EDITED.sub("", stem)) != stem:
        stems.append(plain)
    elif stem.startswith("img_"):
        stems += [f"img_e{stem[4:]}", f"img_o{stem[4:]}"]
    begins = beginnings(stems, _BEGINNING)
    waiting = rows.waiting(display(job.folder) if job.folder else "", begins)
    if waiting:
        rows.due(of_photo(job.original_name, waiting), now)


@dataclass(frozen=True)
class _Came:
    """Which file of the inbox this is about, the folder that it came from, and when."""

    id: int
    folder: str
    at: float

    @classmethod
    def of(cls, job: Job) -> "_Came":
        return cls(job.id, display(job.folder), job.created_at)


class _Jsons:
    """Whether JSONs lie in a folder of the inbox, or just came: asked for each undated photo, looked up more seldom."""

    def __init__(self) -> None:
        self._known: tuple[str, float, bool] = ("", 0.0, False)

    def note(self, json: InboxFile) -> None:
        """Note that one came: where photos and JSONs come in turn, none may lie there at the moment."""
        self._known = (str(json.where.parent), time.monotonic() + _JSONS_SECONDS, True)

    def lie_in(self, file: InboxFile) -> bool:
        folder, now = str(file.where.parent), time.monotonic()
        known, until, found = self._known
        if known != folder or now >= until:
            try:
                found = any(_is_json(entry) for entry in _names(file.entry.folder))
            except OSError:
                return False
            then = time.monotonic()
            self._known = (folder, then + (then - now) / _LOOK_PART, found)
        return found


def _titles(photo: str) -> list[str]:
    """Return what the names of the JSONs begin with that a photo may have."""
    plain = takeout.EDIT.sub("", fold(split(photo)[0]))
    return list(dict.fromkeys([plain, takeout.NUMBER.sub("", plain)]))


def _names(folder: int) -> Iterator[str]:
    # Opened anew: the descriptor at hand may be one that can't be read.
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(listed) as entries:
            yield from (entry.name for entry in entries)
    finally:
        os.close(listed)


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json") and not name.startswith(OWN_PREFIX)


def _is_photo(fd: int, name: str) -> bool:
    """Return whether a file is an image by its first bytes, and not a camera's thumbnail."""
    if name.lower().endswith((".thm", ".json")):
        return False
    with atomic.blaming(display(name)):
        return sniff(os.pread(fd, HEAD_BYTES, 0)) is not None


def _read_beside(file: InboxFile, row: QueuedFile) -> bytes | None:
    """Return the first bytes of a file in a photo's own folder; None where it can't be read for now."""
    try:
        fd = open_regular(file.entry.renamed(row.path.rpartition("/")[2]))
    except DarkroomError:
        return None
    with suppress(OSError), closing(os.fdopen(fd, "rb")) as opened:
        return opened.read(MAX_TEXT_BYTES + 1)
    return None


def _content(fd: int) -> bytes:
    content, size = b"", MAX_TEXT_BYTES + 1
    while len(content) < size and (more := os.pread(fd, size - len(content), len(content))):
        content += more
    return content
