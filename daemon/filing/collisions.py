"""What happens where a name is taken: a number behind it, a plainer name, or the very bytes that lie there already.

Nothing is ever overwritten: `Filing` tries the names of this module one after another, each by an exclusive step.

A RAW file and the JPEG that its camera made with it get one stem, since that is by what every program takes them for
one photo; and no others do, or they would be shown, moved and deleted together. A RAW file and another picture are such
a pair where they came under one name, but for its suffix, into one folder of the inbox, and their EXIF says the same
second, or, where one has no date in EXIF, they came within ten minutes. The second of a pair gets the stem of the
first, whatever that is by now. Any other picture counts a stem as taken that a RAW file has, and the other way round,
and a number that any picture has under any suffix. What is filed is never renamed for it: where the name of a pair's
second is another's already, the two are parted. Pictures without a RAW file among them (IMG_1.HEIC, IMG_1.PNG) may
share a stem.
"""

import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from daemon.catalogue.companions import Photo
from daemon.files import atomic, names
from daemon.files.atomic import Location

_TRIES = 1_000_000
_REMEMBERED = 10_000
_PAIR_SECONDS = 600.0
# What cameras, and programs that develop RAW files, write beside them.
_DEVELOPED = (".jpg", ".jpeg", ".jpe", ".heic", ".heif", ".hif", ".tif", ".tiff", ".avif", ".webp", ".png", ".jxl")

Numbered = Callable[[PurePosixPath, int], PurePosixPath]
"""Gives the name with a number behind a name."""


class RelatedRows(Protocol):
    """What knows which photos are filed."""

    def related(self, folder: str, names: Sequence[str], stem: str) -> tuple[list[Photo], list[Photo]]:
        """Return the filed images that came from a folder under one of some names, and those that lie under a stem."""
        ...


class Arrival(Protocol):
    """How a photo came: what a job of the queue and an image's row both have."""

    @property
    def id(self) -> int:
        """Its id."""

    @property
    def original_name(self) -> str:
        """The name that it came with."""

    @property
    def folder(self) -> str:
        """The subfolder of the inbox that it came from."""

    @property
    def created_at(self) -> float:
        """When it came, in seconds since 1970."""


class NumberedNames:
    """Which number to try next behind a name that many files have had, so that ten thousand take linear time.

    It knows the numbers that were used by this process; another process's are found by trying, once.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, PurePosixPath], int] = OrderedDict()

    def untried(self, place: str, wanted: PurePosixPath) -> Iterator[int]:
        """Return the numbers that were not used yet, from 1 on; the plain name itself is asked for before."""
        return iter(range(self._next.get((place, wanted), 1), _TRIES))

    def candidates(
        self, place: str, wanted: PurePosixPath, stems: "Stems | None", numbered: Numbered
    ) -> Iterator[tuple[PurePosixPath, int]]:
        """Yield the names to try in order, each with its number: beside the other of a pair, the plain one, numbered.

        Those whose stem is another photo's are left out.
        """
        partners = stems.partners(wanted) if stems else None
        if partners is not None:
            yield partners, 0
        if wanted != partners and not (stems and stems.is_taken(wanted, by_any=False)):
            yield wanted, 0
        for number in self.untried(place, wanted):
            candidate = numbered(wanted, number)
            if stems is None or not stems.is_taken(candidate, by_any=True):
                yield candidate, number

    def took(self, place: str, wanted: PurePosixPath, number: int) -> None:
        """Note that a number is used now."""
        if number == 0:
            return
        self._next[place, wanted] = number + 1
        self._next.move_to_end((place, wanted))
        if len(self._next) > _REMEMBERED:
            self._next.popitem(last=False)


class StemIndex:
    """Which planned photos lie under which stems: a stem is a path, with any suffix behind it."""

    def __init__(self) -> None:
        self._ids: dict[str, list[int]] = defaultdict(list)

    def add(self, path: str, image_id: int) -> None:
        """Note that a photo is to lie under a path of the library."""
        at = path.rfind("/")
        while (at := path.find(".", at + 1)) >= 0:
            self._ids[path[:at]].append(image_id)

    def under(self, stem: str) -> list[int]:
        """Return the photos that are to lie under a stem."""
        return self._ids.get(stem, [])


class Stems:
    """Which names in the library are one photo's stem: for one job, of a picture that was taken at a time by EXIF."""

    def __init__(self, rows: RelatedRows, job: Arrival, wanted: PurePosixPath, taken: str | None) -> None:
        self._rows, self._job, self._taken = rows, job, taken
        self._is_raw = _is_raw(wanted)
        stem = PurePosixPath(job.original_name).stem
        stems = [stem] if stem.isascii() else names.spellings(stem)
        suffixes = _DEVELOPED if self._is_raw else sorted(names.RAW_SUFFIXES)
        self._came = [one + suffix for one in stems for suffix in suffixes]
        self._folder = names.display(job.folder) if job.folder else ""
        self._wanted = wanted.with_suffix("")
        came, self._beside = self._look_up(self._wanted)
        self._partner = next((photo for photo in came if self._is_partner(photo)), None)

    def partners(self, wanted: PurePosixPath) -> PurePosixPath | None:
        """Return the name beside the other of a pair, which has come before; None where there is none."""
        if self._partner is None or self._partner.destination is None:
            return None
        stem = names.split(PurePosixPath(self._partner.destination).name)[0]
        own = names.split(wanted.name)[0]
        # The name may tell them apart, as with {format} or {lens} in the template.
        is_shared = re.fullmatch(re.escape(names.fold(own)) + r"(-\d+)?", names.fold(stem)) is not None
        return wanted.with_name(stem + names.split(wanted.name)[1]) if is_shared else None

    def is_taken(self, candidate: PurePosixPath, *, by_any: bool) -> bool:
        """Return whether another photo has a name's stem: a RAW file where this is none, or `by_any` picture."""
        stem, own = candidate.with_suffix(""), {self._job.id, self._partner.id if self._partner else 0}
        others = self._beside if stem == self._wanted else self._look_up(stem)[1]
        return any(
            photo.id not in own and (by_any or _is_raw(PurePosixPath(photo.destination or "")) != self._is_raw)
            for photo in others
        )

    def _look_up(self, stem: PurePosixPath) -> tuple[list[Photo], list[Photo]]:
        return self._rows.related(self._folder, self._came, str(stem))

    def _is_partner(self, photo: Photo) -> bool:
        if photo.destination is None or _is_raw(PurePosixPath(photo.destination)) == self._is_raw:
            return False
        if self._taken and photo.datetime_original:
            # To the second, as both have it; one may know its offset besides.
            return self._taken[:19] == photo.datetime_original[:19]
        return abs(self._job.created_at - photo.created_at) <= _PAIR_SECONDS


def _is_raw(name: PurePosixPath) -> bool:
    return name.suffix.lower() in names.RAW_SUFFIXES


def plainer_names(wanted: PurePosixPath) -> Iterator[PurePosixPath]:
    """Yield the plainer names that are tried where a filesystem refuses one."""
    portable, plainest = names.portable(wanted), names.plainest(wanted)
    if portable != wanted:
        yield portable
    if plainest not in {wanted, portable}:
        yield plainest


def holds(destination: Location, size: int, sha256: str | None) -> bool:
    """Return whether a name that is taken has the very bytes already.

    That is a library that the catalogue has forgotten: its files are adopted, not filed twice.
    """
    if sha256 is None:
        return False
    with atomic.blaming(destination):
        return atomic.size_of(destination) == size and atomic.sha256(destination) == sha256
