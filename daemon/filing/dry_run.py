"""Says where files would go, by what decides it when they are filed, and changes nothing: no file, no row, no state.

Each file is read and decoded, and its place and name are chosen by the planner, the companions' matcher and the rules
for names by which the consumer files it. They ask `_Rows` in place of the catalogue: what this run has planned so far,
and what a catalogue knows, where there is one.
"""

import os
import time
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath

from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.companions import CompanionRow, CompanionRows, Photo, QueuedFile
from daemon.catalogue.schema import FINAL, Facts, Job, Past
from daemon.decoding import Decoded, TextReader
from daemon.errors import DarkroomError, EnvironmentFault, Postponed, Rejected, Transient, Truncated, WaitingReason
from daemon.files import atomic
from daemon.files.atomic import Location, Root, by_descriptor
from daemon.files.names import display, fold
from daemon.files.opening import open_regular
from daemon.filing.collisions import NumberedNames, StemIndex, Stems, holds
from daemon.filing.companions import CompanionMatcher, is_there, parse
from daemon.filing.dates import Taken
from daemon.filing.destination import Plan, Planner, PlanningRules, camera_name, mirrored, reason_beside
from daemon.filing.inbox_file import InboxFile

# The ids of what is planned; those of a catalogue end long before.
_FIRST_ID = 1 << 62
_OPEN = ("queued", "processing")


class Fate(Enum):
    """What would become of a file."""

    FILED = "filed"
    COMPANION = "companion"
    SIDECAR = "sidecar"
    DUPLICATE = "duplicate"
    DELETED = "deleted"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True)
class FoundFile:
    """One file that is to be planned: its place in a folder, and the subfolder of the inbox in which it would be."""

    root: Root
    inside: str
    folder: str


@dataclass(frozen=True)
class PlannedFile:
    """One file, and where it would go; `destination` is relative to the folder of its `place`.

    `reason` says why it would fail or wait, or what is remarkable in it. `beside` is where the photo lies, or would,
    that a companion is of, or that has the bytes of a duplicate.
    """

    path: Path
    fate: Fate
    place: Place | None = None
    destination: str | None = None
    reason: str | None = None
    beside: str | None = None
    taken: Taken | None = None
    camera: str = ""
    lat: float | None = None
    lon: float | None = None


class DryRun:
    """Plans files of any folders as those of one darkroom; `catalogue` is None where nothing was filed yet."""

    def __init__(
        self,
        catalogue: Catalogue | None,
        inbox: Root,
        roots: Mapping[Place, Root],
        rules: PlanningRules,
        decode: Callable[[Path], Decoded],
        reader: TextReader,
        *,
        decoders: int = 1,
        sidecars: bool = True,
    ) -> None:
        self._rows, self._roots = _Rows(catalogue), roots
        self._decode, self._decoders = decode, decoders
        self._numbers, self._deletes = NumberedNames(), rules.delete_duplicates
        self._planner = Planner(self._rows, inbox, roots, rules)
        self._companions = CompanionMatcher(
            self._rows,
            roots,
            reader,
            delete_duplicates=rules.delete_duplicates,
            sidecars=sidecars,
            is_there=lambda file: file in self._rows.promised or is_there(file),
        )

    def plan(self, files: Iterable[FoundFile]) -> Iterator[PlannedFile]:
        """Yield what would become of each file: photos first, as companions wait for them. Raises EnvironmentFault."""
        now = time.time()
        jobs = [(file.root, self._rows.add(file, now)) for file in files]
        photos = [one for one in jobs if parse(one[1].original_name) is None]
        threads = ThreadPoolExecutor(self._decoders, "decode")
        try:
            for (root, job), decoded in zip(photos, threads.map(self._decoded, photos), strict=True):
                yield self._planned(root, job, decoded, now)
            # Nothing more is to come: what has no photo by now is any other file.
            self._companions.give_up()
            for root, job in jobs:
                if parse(job.original_name) is not None:
                    yield self._planned(root, job, None, now)
        finally:
            threads.shutdown(cancel_futures=True)
            self._planner.close()

    def _decoded(self, file: tuple[Root, Job]) -> Decoded | DarkroomError:
        """Return what a file's bytes tell, but for its thumbnails, or why they tell nothing."""
        root, job = file
        try:
            where = root / job.path
            fd = open_regular(where)
            try:
                return replace(self._decode(by_descriptor(fd, where.path)), small=b"", medium=b"")
            finally:
                os.close(fd)
        except DarkroomError as error:
            return error

    def _planned(self, root: Root, job: Job, decoded: Decoded | DarkroomError | None, now: float) -> PlannedFile:
        """Return what would become of one file, and take note of it."""
        path = (root / job.path).path
        try:
            with closing(InboxFile.open(root, job, 0.0)) as file:
                try:
                    return self._decide(root, job, file, decoded, now)
                except Truncated as fault:
                    return PlannedFile(path, Fate.WAITING, reason=WaitingReason.INCOMPLETE.sentence(str(fault)))
                except (Rejected, Transient) as fault:
                    alone = self._companions.alone(job, file) if isinstance(fault, Rejected) else ""
                    return self._failed(job, path, f"{fault}{alone}")
        except (Postponed, EnvironmentFault) as later:
            return PlannedFile(path, Fate.WAITING, reason=str(later))
        except DarkroomError as fault:
            return self._failed(job, path, str(fault))

    def _decide(
        self, root: Root, job: Job, file: InboxFile, decoded: Decoded | DarkroomError | None, now: float
    ) -> PlannedFile:
        size = file.was.st_size
        fault = "the file is empty" if size == 0 else self._companions.fault(job, file)
        if fault is not None:
            raise Truncated(fault)
        plan = self._companions.plan(job, file, now)
        if plan is not None:
            return self._beside(job, plan, file.where.path, size)
        found = self._decoded((root, job)) if decoded is None else decoded
        if isinstance(found, DarkroomError):
            raise found
        when = self._planner.taken(
            job,
            found,
            lambda: self._companions.xmp_dates(job, file),
            lambda: self._companions.takeout(job, file, now),
        )
        return self._photo(job, file.where.path, found, when)

    def _photo(self, job: Job, path: Path, decoded: Decoded, when: Taken) -> PlannedFile:
        exif, size = decoded.exif, decoded.identity.size
        plan, kept = self._planner.plan(job, decoded, when), None
        if (twin := self._rows.planned(decoded.sha256)) is not None and plan.place == "library":
            plan = Plan("duplicates", mirrored(job), replace(plan.facts, duplicate_of=twin))
            kept = self._deletes
        kept = kept or plan.kept is not None
        original = plan.facts.duplicate_of
        said = PlannedFile(
            path,
            Fate.FILED if original is None else Fate.DELETED if kept else Fate.DUPLICATE,
            reason=plan.facts.warning,
            beside=None if original is None else self._where(original),
            taken=when,
            camera=camera_name(exif.camera_make or "", exif.camera_model or ""),
            lat=exif.lat,
            lon=exif.lon,
        )
        if kept:
            self._rows.note(job, plan, None)
            return said
        destination = self._free_name(job, plan, size)
        self._rows.note(job, plan, self._roots[plan.place] / destination)
        return replace(said, place=plan.place, destination=destination)

    def _beside(self, job: Job, plan: Plan, path: Path, size: int) -> PlannedFile:
        photo = self._where(plan.facts.companion_of or 0)
        if plan.sidecar is not None or plan.kept is not None:
            return PlannedFile(path, Fate.SIDECAR if plan.kept is None else Fate.DELETED, beside=photo)
        destination = self._free_name(job, plan, size)
        self._rows.promised.add(self._roots[plan.place] / destination)
        fate = Fate.DUPLICATE if plan.place == "duplicates" else Fate.COMPANION
        return PlannedFile(path, fate, plan.place, destination, beside=photo)

    def _failed(self, job: Job, path: Path, reason: str) -> PlannedFile:
        plan = Plan("failed", mirrored(job), Facts())
        destination = self._free_name(job, plan, 0)
        self._rows.note(job, plan, self._roots["failed"] / destination)
        return PlannedFile(path, Fate.FAILED, "failed", destination, reason)

    def _free_name(self, job: Job, plan: Plan, size: int) -> str:
        """Return the name that a file would get, as `Filing` finds it."""
        stems = None
        if plan.place == "library" and plan.facts.companion_of is None:
            stems = Stems(self._rows, job, plan.wanted, plan.facts.datetime_original)
        for candidate, number in self._numbers.candidates(plan.place, plan.wanted, stems, plan.numbered):
            if self._is_free(job, plan, candidate, size):
                self._numbers.took(plan.place, plan.wanted, number)
                return str(candidate)
        raise EnvironmentFault(f"{self._roots[plan.place] / plan.wanted}: too many files have that name already")

    def _is_free(self, job: Job, plan: Plan, candidate: PurePosixPath, size: int) -> bool:
        here = self._roots[plan.place] / candidate
        if here in self._rows.promised or (plan.place == "failed" and atomic.exists(reason_beside(here))):
            return False
        if self._rows.owned(job, plan.place, str(candidate), plan.facts.companion_of):
            return False
        return not atomic.exists(here) or holds(here, size, plan.facts.sha256)

    def _where(self, image_id: int) -> str:
        """Return where a photo lies or would, for people."""
        photo = self._rows.photo(image_id)
        if photo is None or photo.destination is None:
            return f"image {image_id}"
        return f"{photo.place}/{display(photo.destination)}"


class _Rows:
    """What the parts ask a catalogue for, of what was planned and of what a catalogue has filed."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self._queue = None if catalogue is None else Queue(catalogue)
        self._filed = None if catalogue is None else CompanionRows(catalogue)
        # Where files are to lie that are planned.
        self.promised: set[Location] = set()
        self._photos: dict[int, Photo] = {}
        # By folder, the folded names in order, each with its id.
        self._names: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._paths: dict[int, str] = {}
        self._by_hash: dict[str, int] = {}
        self._stems = StemIndex()

    def add(self, file: FoundFile, now: float) -> Job:
        """Take in a file that is to be planned; return it as the queue would hand it out."""
        name = file.inside.rpartition("/")[2]
        image_id, shown, folder = _FIRST_ID + len(self._photos), display(name), display(file.folder)
        self._photos[image_id] = Photo(image_id, shown, "queued", now, None, None, None)
        insort(self._names[folder], (fold(shown), image_id))
        self._paths[image_id] = f"{file.folder}/{name}" if file.folder else name
        return Job(
            id=image_id,
            path=file.inside,
            folder=file.folder,
            original_name=shown,
            source="inbox",
            created_at=now,
            attempts=1,
            size=None,
            mtime_ns=None,
            quiet_since=now,
            claimed_at=now,
        )

    def note(self, job: Job, plan: Plan, destination: Location | None) -> None:
        """Take note of where a file is to go; None where it is deleted."""
        status = FINAL[plan.place]
        inside = None if destination is None else destination.inside
        photo = replace(
            self._photos[job.id],
            status=status,
            place=plan.place,
            destination=inside,
            duplicate_of=plan.facts.duplicate_of,
            datetime_original=plan.facts.datetime_original,
        )
        self._photos[job.id] = photo
        if destination is not None:
            self.promised.add(destination)
        if status == "done" and inside is not None:
            self._by_hash.setdefault(plan.facts.sha256 or "", job.id)
            self._stems.add(inside, job.id)

    def planned(self, sha256: str) -> int | None:
        """Return the photo of this run with certain bytes that is to go into the library."""
        return self._by_hash.get(sha256)

    # -- as the queue

    def past(self, sha256: str) -> Past:
        """Return what is known of some bytes."""
        return Past(None, frozenset()) if self._queue is None else self._queue.past(sha256)

    def rotten(self, image_id: int, sha256: str, other_id: int, now: float) -> None:
        """Leave it as it is: whoever files it will note it."""

    def owned(self, job: Job, place: Place, destination: str, companion_of: int | None) -> bool:
        """Return whether a name in one of the folders is a row's."""
        return self._queue is not None and self._queue.owned(job, place, destination, companion_of)

    # -- as the rows of companions

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """Return the images that came from a folder under a stem, or `cut` one that begins so, newest first."""
        found = [self._photos[one] for one in self._named(folder, fold(stem) + ("" if cut else "."))]
        filed = [] if self._filed is None else self._filed.photos(folder, stem, cut=cut)
        # What a catalogue has of the inbox is what is planned, or not there yet.
        return [*sorted(found, key=lambda photo: -photo.id), *(one for one in filed if one.status not in _OPEN)]

    def photo(self, image_id: int) -> Photo | None:
        """Return one image."""
        if image_id in self._photos or self._filed is None:
            return self._photos.get(image_id)
        return self._filed.photo(image_id)

    def queued(self, folder: str, begins: Iterable[str], suffix: str) -> list[QueuedFile]:
        """Return the files of a folder that are not planned yet, by what their names begin with and their suffix."""
        ids = {one for begin in begins for one in self._named(folder, fold(begin))}
        rows = (self._photos[one] for one in sorted(ids))
        return [
            QueuedFile(row.id, row.name, self._paths[row.id], row.created_at)
            for row in rows
            if row.status == "queued" and row.name.lower().endswith(suffix)
        ]

    def own(self, sha256s: Collection[str]) -> int | None:
        """Return the image of the library that has, or was filed with, one of some hashes."""
        planned = next((self._by_hash[one] for one in sha256s if one in self._by_hash), None)
        return planned if planned is not None or self._filed is None else self._filed.own(sha256s)

    def beside(self, image_id: int) -> Sequence[CompanionRow]:
        """Return what was filed beside an image."""
        return [] if self._filed is None or image_id in self._photos else self._filed.beside(image_id)

    def due_photo(self, image_id: int, now: float) -> None:
        """Nothing waits here."""

    def end_waits(self, now: float) -> bool:  # noqa: ARG002, what a catalogue is asked with
        """Return True: from now on nothing is waited for."""
        return True

    # -- as the rows of photos that belong together

    def related(self, folder: str, names: Sequence[str], stem: str) -> tuple[list[Photo], list[Photo]]:
        """Return the filed images that came from a folder under one of some names, and those that lie under a stem."""
        ids = [
            one
            for name in names
            for one in self._named(folder, fold(name))
            if fold(self._photos[one].name) == fold(name)
        ]
        came = [self._photos[one] for one in dict.fromkeys(ids) if self._photos[one].status == "done"]
        lie = [self._photos[one] for one in self._stems.under(stem)]
        if self._filed is not None:
            others, beside = self._filed.related(folder, names, stem)
            came, lie = [*came, *others], [*lie, *beside]
        return came, lie

    def _named(self, folder: str, begin: str) -> Iterator[int]:
        """Yield the files of a folder whose folded names begin in a certain way."""
        names = self._names.get(folder, [])
        at = bisect_left(names, (begin, 0))
        while at < len(names) and names[at][0].startswith(begin):
            yield names[at][1]
            at += 1
