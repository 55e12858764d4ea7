"""Finds the photo of each companion in the queue, and says when to give up waiting for one."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from daemon import disk
from daemon.catalogue import Job, Place
from daemon.catalogue.companions import WAITING, CompanionRows, Photo
from daemon.errors import Postponed, Rejected, Transient
from daemon.filing import companions
from daemon.filing.companions import Companion
from daemon.filing.source import Source
from daemon.filing.steps import Filing
from daemon.names import IMAGE_SUFFIXES, display, split

_FIRST_WAIT = 1.0
# A photo that came long ago is taken for a companion's only after this: camera counters begin again, and the photo
# of that name which belongs to it may be a moment behind.
_BATCH_SECONDS = 600.0
_OLD_WAIT_SECONDS = 30.0
# A video is no proof of a live photo: with an older photo than this it shares the name by chance.
_VIDEO_DAYS = 30


@dataclass(frozen=True)
class Patience:
    """How long a companion waits for its photo, in seconds; `old` is the wait for one that may have come long ago."""

    photo: float = 600.0
    old: float = _OLD_WAIT_SECONDS


class Pairing:
    """Files companions beside their photos; used by the consumer's thread, `give_up` by any."""

    def __init__(
        self,
        rows: CompanionRows,
        filing: Filing,
        roots: Mapping[Place, Path],
        patience: Patience = Patience(),
        *,
        delete_duplicates: bool = False,
    ) -> None:
        self._rows = rows
        self._filing = filing
        self._roots = roots
        self._patience = patience
        self._delete_duplicates = delete_duplicates
        self._over = threading.Event()

    def file(self, job: Job, source: Source, now: float) -> str | None:
        """File a companion beside its photo; returns what happened, for people.

        None where the file is no companion, or its photo hasn't come: then it is a file like any other. Raises
        Postponed while the photo may still come, Rejected where the photo has failed, and what filing raises.
        """
        companion = companions.parse(job.original_name)
        if companion is None or source.fd is None:
            return None
        age = max(0.0, now - job.created_at)
        found = self._best(companion, job, age)
        if found is None or found.status in {"queued", "processing"}:
            if found is None and (self._over.is_set() or age >= self._patience.photo):
                return None
            # Longer and longer: thousands may wait, and the arrival of a photo has them looked at anyway.
            wait = max(_FIRST_WAIT, age)
            left = self._patience.photo - age
            raise Postponed(WAITING, min(wait, left) if left > 0 else wait)
        if found.status == "failed":
            raise Rejected(f"its photo, {display(found.name)}, could not be filed (image {found.id})")
        return self._beside(job, source, source.fd, companion, found)

    def alone(self, job: Job) -> str:
        """Say, behind the reason why a file is no photo, that it is no companion either; empty for other names."""
        companion = companions.parse(job.original_name)
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

    def _best(self, companion: Companion, job: Job, age: float) -> Photo | None:
        """Find the photo: one that waits in the inbox goes before those that are filed, the newest before others."""
        folder = display(job.path.rpartition("/")[0])
        begins = [companion.begins, *([companion.edited] if companion.edited else [])]
        fitting: list[tuple[int, int, int, Photo]] = []
        for photo in (one for stem in begins for one in self._rows.photos(folder, stem, cut=companion.cut)):
            rank = companion.rank(photo.name)
            if rank is not None and photo.id != job.id and self._may_be(photo, companion, job, age):
                order = {"queued": 0, "processing": 0, "done": 1, "duplicate": 1}.get(photo.status, 2)
                fitting.append((order, rank, -photo.id, photo))
        return min(fitting)[-1] if fitting else None

    def _may_be(self, photo: Photo, companion: Companion, job: Job, age: float) -> bool:
        if companions.parse(photo.name) is not None:
            return False
        if photo.status not in {"done", "duplicate"}:
            # What is not filed yet may be no photo at all.
            return split(photo.name)[1].lower() in IMAGE_SUFFIXES
        apart = abs(job.created_at - photo.created_at)
        patient = age >= self._patience.old or self._over.is_set()
        by_chance = companion.is_video and apart > _VIDEO_DAYS * 86400
        return apart <= _BATCH_SECONDS or (patient and not by_chance)

    def _beside(self, job: Job, source: Source, fd: int, companion: Companion, photo: Photo) -> str | None:
        try:
            sha256 = disk.sha256(fd)
        except OSError as error:
            raise Transient(f"can't be read: {error.strerror}") from error
        original = photo
        if photo.status == "duplicate" and photo.duplicate_of is not None:
            original = self._rows.photo(photo.duplicate_of) or photo
        if original.destination is None or original.place is None:
            return None
        with disk.blaming(str(self._roots[original.place])):
            if disk.size_of(self._roots[original.place] / original.destination) is None:
                return None  # the photo has been taken away since
        for place, destination, kept in self._rows.beside(original.id):
            if kept == sha256 and disk.size_of(self._roots[place] / destination) is not None:
                return self._again(job, source, companion, photo, self._roots[place] / destination, sha256)
            if companion.is_video and destination.lower().endswith((".mov", ".mp4")) and companion.edited is None:
                return None  # a live photo has one video, and this is another
        wanted = companion.beside(PurePosixPath(original.destination))
        return self._filing.accompany(job, source, original.id, original.place, wanted, sha256)

    def _again(self, job: Job, source: Source, companion: Companion, photo: Photo, kept: Path, sha256: str) -> str:
        """Deal with a companion whose bytes lie beside the photo already, as with a photo that came twice."""
        if self._delete_duplicates:
            return self._filing.drop(job, source, photo.id, kept, sha256)
        if photo.place == "duplicates" and photo.destination is not None:
            wanted = companion.beside(PurePosixPath(photo.destination))
        else:
            wanted = None
        return self._filing.accompany(job, source, photo.id, "duplicates", wanted, sha256)
