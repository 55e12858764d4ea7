"""Files one image: a name, the journal, the move, the row, and only then the inbox name goes.

What the row says and what is on disk at each instant, and so what start-up finds after a crash:

    plan     processing, destination written   the destination may or may not hold the bytes yet
    place    (the same)                        the bytes are durable under both names, the sidecar is written
    finish   done | duplicate | failed         the inbox name may or may not be gone yet
    left     path empty                        nothing is left to do
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from daemon.catalogue import Final, Job, Place, Queue
from daemon.catalogue.captions import CaptionStatus
from daemon.catalogue.companions import CompanionRows
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, Immovable, NameRefused, Postponed, Transient
from daemon.files import atomic, names
from daemon.files.walk import Found
from daemon.filing import companions
from daemon.filing.dates import taken
from daemon.filing.destination import (
    Numbers,
    check_kept,
    columns,
    holds,
    library_name,
    mirrored,
    reason_beside,
    temporary,
    write_reason,
)
from daemon.filing.inbox_file import Source
from daemon.filing.thumbnail_store import Thumbnails
from daemon.sidecar.sidecars import Sidecars

_log = logging.getLogger(__name__)

_FINAL: dict[Place, Final] = {"library": "done", "duplicates": "duplicate", "failed": "failed"}


class Filing:
    """The three folders that files go to.

    `left` is told each inbox path that a file has left; `caption_status` tells with which one a photo of a subfolder
    of the inbox is filed.
    """

    def __init__(
        self,
        queue: Queue,
        roots: Mapping[Place, Path],
        template: str,
        thumbnails: Thumbnails,
        left: Callable[[Path], None],
        *,
        delete_duplicates: bool = False,
        sidecars: Sidecars | None = None,
        beside: CompanionRows | None = None,
        caption_status: Callable[[str], CaptionStatus] = lambda _folder: "off",
    ) -> None:
        self._queue = queue
        self.roots = roots
        self._template = template
        self._thumbnails = thumbnails
        self._left = left
        self._delete_duplicates = delete_duplicates
        self._sidecars = sidecars
        self._companions = beside
        self._caption_status = caption_status
        self._numbers = Numbers()

    def file(self, job: Job, source: Source, decoded: Decoded) -> str:
        """File a developed image into the library, or as a duplicate; returns what happened, for people."""
        mtime = decoded.identity.mtime_ns / 1e9
        when = taken(decoded.exif.datetime_original, job.original_name, mtime, time.time())
        values = columns(decoded, when)
        twin = self._twin(decoded)
        if twin is None:
            self._thumbnails.save(decoded.sha256, decoded.small, decoded.medium)
            wanted = library_name(self._template, job, decoded, when.at)
            values["caption_status"] = self._caption_status(job.path.rpartition("/")[0])
            return self._move(job, source, "library", wanted, values, decoded.exif.raw)
        original, path = twin
        values |= {"duplicate_of": original}
        if self._delete_duplicates:
            return self._delete(job, source, original, path, values)
        return self._move(job, source, "duplicates", mirrored(job), values, decoded.exif.raw)

    def fail(self, job: Job, source: Source, reason: str) -> str:
        """Move what can't be filed to `failed/`, with the reason beside it; returns what happened, for people."""
        values: dict[str, Any] = {"error": reason}
        if source.fd is not None:
            try:
                values |= {"sha256": atomic.sha256(source.fd), "size_bytes": source.was.st_size}
            except OSError:  # a bad sector: then it can only be linked or renamed
                source = replace(source, fd=None)
        try:
            return self._move(job, source, "failed", mirrored(job), values, None)
        except (Immovable, Transient) as error:
            return self.fail_in_place(job, f"{reason}; it stays in the inbox, since it can't be moved: {error}")

    def fail_in_place(self, job: Job, reason: str) -> str:
        """Fail a file where it lies, by its row alone; returns what happened, for people."""
        self._queue.finish(job, "failed", reason, time.time(), {"error": reason, "place": None, "destination": None})
        return reason

    def accompany(
        self, job: Job, source: Source, image_id: int, place: Place, wanted: PurePosixPath | None, sha256: str
    ) -> str:
        """File a companion beside its photo; `wanted` None is the name it came with."""
        values = {"sha256": sha256, "size_bytes": source.was.st_size, "companion_of": image_id, "error": None}
        return self._move(job, source, place, wanted or mirrored(job), values, None, companions.numbered)

    def drop(self, job: Job, source: Source, image_id: int, kept: Path, sha256: str) -> str:
        """Delete a companion whose bytes were filed before, as `kept`."""
        check_kept(kept, sha256)
        source.unchanged()
        self.leave(replace(job, companion_of=image_id), source)
        return f"the same bytes as {kept.name} beside image {image_id}; deleted"

    def complete(self, job: Job, place: Place, source: Source | None) -> str:
        """Finish a job whose bytes are safe at its destination: the reason, the row, then the inbox name."""
        destination = self.roots[place] / str(job.destination)
        detail = f"{place}/{names.display(str(job.destination))}"
        if job.companion_of is not None and self._companions is not None:
            self._companions.arrived(job, time.time())
            if self._sidecars is not None:
                self._sidecars.write(job.companion_of)
            if source is None:
                self._companions.forget(job.id)
            else:
                self.leave(job, source)
            return f"{detail}, beside image {job.companion_of}"
        if place == "failed":
            write_reason(job, destination)
            detail = f"{job.error} (now {detail})"
        elif place == "library" and self._sidecars is not None:
            self._sidecars.write(job.id)
        elif place == "duplicates" and self._sidecars is not None:
            self._sidecars.record(job.id, destination)
        self._queue.finish(job, _FINAL[place], detail, time.time())
        if self._companions is not None:
            companions.hasten(self._companions, job.path, job.original_name, time.time())
        if source is not None:
            self.leave(job, source)
        return detail

    def leave(self, job: Job, source: Source) -> None:
        """Remove the inbox name of a file that is safe elsewhere; a newer file of that name is queued."""
        newer: list[Found] = []
        try:
            here = source.path.lstat()
            if os.path.samestat(here, source.was):
                source.path.unlink()
                # Or a power cut could bring the name back with no row that knows it, and file the photo twice.
                atomic.fsync_folder(source.path.parent)
            else:
                newer = [Found(job.path, here.st_size, here.st_mtime_ns)]
        except FileNotFoundError:
            pass
        except OSError as error:
            # The bytes are safe and the row says so; the name is tried again later.
            _log.warning("image %d: %s stays in the inbox: %s", job.id, names.display(job.path), error.strerror)
            return
        if job.companion_of is not None and self._companions is not None:
            self._companions.forget(job.id)
        else:
            self._queue.left(job.id)
        self._queue.enqueue(newer, time.time())
        self._left(source.path)

    def _move(
        self,
        job: Job,
        source: Source,
        place: Place,
        wanted: PurePosixPath,
        values: dict[str, Any],
        raw: dict[str, Any] | None,
        name: Callable[[PurePosixPath, int], PurePosixPath] = names.numbered,
    ) -> str:
        destination, held = self._placed(job, source, place, wanted, values, raw, name)
        try:
            source.unchanged()
        except Postponed:
            if held or atomic.take_back(self.roots[place] / destination, source.path):
                raise
        planned = replace(
            job,
            place=place,
            destination=str(destination),
            error=values.get("error"),
            companion_of=values.get("companion_of"),
        )
        return self.complete(planned, place, source)

    def _placed(
        self,
        job: Job,
        source: Source,
        place: Place,
        wanted: PurePosixPath,
        values: dict[str, Any],
        raw: dict[str, Any] | None,
        name: Callable[[PurePosixPath, int], PurePosixPath],
    ) -> tuple[PurePosixPath, bool]:
        """Make the bytes appear under the first free name; return it, and whether they were there before.

        A filesystem that can't hold the name gets a plainer one.
        """
        shapes = list(dict.fromkeys([wanted, names.portable(wanted), names.plainest(wanted)]))
        for shape in shapes:
            try:
                for number in self._numbers.untried(place, shape):
                    candidate = name(shape, number)
                    held = self._try(job, source, place, candidate, values, raw)
                    if held is not None:
                        self._numbers.took(place, shape, number)
                        return candidate, held
            except NameRefused:
                if shape is shapes[-1]:
                    raise
        raise EnvironmentFault(f"{self.roots[place] / wanted}: too many files have that name already")

    def _try(
        self,
        job: Job,
        source: Source,
        place: Place,
        candidate: PurePosixPath,
        values: dict[str, Any],
        raw: dict[str, Any] | None,
    ) -> bool | None:
        """Place the bytes under one name; return None where it is another file's, else whether they were there."""
        destination, sha256 = self.roots[place] / candidate, values.get("sha256")
        if place == "failed":
            # The reason has the longer name; whether it can be had is known only in its folder.
            atomic.make_folders(self.roots[place], destination.parent)
            if atomic.exists(reason_beside(destination)):
                return None
        held = None
        if atomic.exists(destination):
            # Asked before the bytes are compared: thousands of files may have had this name.
            if self._queue.owned(job, place, str(candidate), values.get("companion_of")):
                return None
            held = holds(destination, source.was.st_size, sha256 if source.fd is not None else None)
        if held is False or not self._queue.plan(job, place, str(candidate), values, raw):
            return None
        try:
            if held:
                with atomic.blaming(str(destination)):
                    atomic.make_durable(destination)
            else:
                self._place(job, source, place, destination, sha256)
        except FileExistsError:
            return None
        return held is True

    def _place(self, job: Job, source: Source, place: Place, destination: Path, sha256: str | None) -> None:
        root = self.roots[place]
        if source.fd is None or sha256 is None:
            atomic.place_node(source.path, root, destination)
        else:
            atomic.place(source.fd, source.path, root, destination, temporary(destination, job.id), sha256)

    def _delete(self, job: Job, source: Source, original: int, path: Path, values: dict[str, Any]) -> str:
        check_kept(path, values["sha256"])
        source.unchanged()
        detail = f"the same bytes as image {original}; deleted"
        self._queue.finish(job, "duplicate", detail, time.time(), values)
        if self._companions is not None:
            companions.hasten(self._companions, job.path, job.original_name, time.time())
        self.leave(job, source)
        return detail

    def _twin(self, decoded: Decoded) -> tuple[int, Path] | None:
        """Find the filed original with the same bytes, if it is really there."""
        found = self._queue.filed(decoded.sha256)
        if found is None:
            return None
        original, path = found[0], self.roots["library"] / found[1]
        with atomic.blaming(str(path)):
            if atomic.size_of(path) == decoded.identity.size:
                return original, path
        lost = f"no longer at library/{names.display(found[1])}; its bytes came again and were filed anew"
        self._queue.lost(original, lost, time.time())
        return None
