"""Files one image: a name, the journal, the move, the row, and only then the inbox name goes.

What the row says and what is on disk at each instant, and so what start-up finds after a crash:

    plan     processing, destination written   the destination may or may not hold the bytes yet
    place    (the same)                        the bytes are durable under both names
    finish   done | duplicate | failed         the inbox name may or may not be gone yet
    left     path empty                        nothing is left to do
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from daemon import moves, names
from daemon.catalogue import Final, Job, Place, Queue
from daemon.dates import Taken, taken
from daemon.develop import Developed
from daemon.errors import EnvironmentFault, Postponed, Transient
from daemon.scan import Found
from daemon.thumbnails import Thumbnails

_log = logging.getLogger(__name__)

_FINAL: dict[Place, Final] = {"library": "done", "duplicates": "duplicate", "failed": "failed"}
_TRIES = 100_000


@dataclass(frozen=True)
class Source:
    """A file of the inbox that is being filed.

    `was` is what lstat said of it, `fd` is None for what can't be opened (a link, a FIFO, another user's file),
    `unchanged` raises Postponed when the bytes are no longer the ones that were looked at.
    """

    path: Path
    was: os.stat_result
    fd: int | None
    unchanged: Callable[[], None] = lambda: None


class Filing:
    """The three folders that files go to. `left` is told each inbox path that a file has left."""

    def __init__(
        self,
        queue: Queue,
        roots: Mapping[Place, Path],
        template: str,
        thumbnails: Thumbnails,
        left: Callable[[Path], None],
        *,
        delete_duplicates: bool = False,
    ) -> None:
        self._queue = queue
        self.roots = roots
        self._template = template
        self._thumbnails = thumbnails
        self._left = left
        self._delete_duplicates = delete_duplicates

    def file(self, job: Job, source: Source, developed: Developed) -> str:
        """File a developed image into the library, or as a duplicate; returns what happened, for people."""
        when = taken(
            developed.exif.datetime_original,
            job.original_name,
            developed.identity.mtime_ns / 1e9,
            time.time(),
        )
        values = columns(developed, when)
        twin = self._twin(developed)
        if twin is None:
            self._thumbnails.save(developed.sha256, developed.small, developed.medium)
            wanted = library_name(self._template, job, developed, when.at)
            return self._move(job, source, "library", wanted, values, developed.exif.raw)
        original, path = twin
        values |= {"duplicate_of": original}
        if self._delete_duplicates:
            return self._delete(job, source, original, path, values)
        return self._move(job, source, "duplicates", mirrored(job), values, developed.exif.raw)

    def fail(self, job: Job, source: Source, reason: str) -> str:
        """Move what can't be filed to `failed/`, with the reason beside it; returns what happened, for people."""
        values: dict[str, Any] = {"error": reason}
        if source.fd is not None:
            try:
                values |= {"sha256": moves.sha256(source.fd), "size_bytes": source.was.st_size}
            except OSError:  # a bad sector: then it can only be linked or renamed
                source = replace(source, fd=None)
        try:
            return self._move(job, source, "failed", mirrored(job), values, None)
        except (moves.Immovable, Transient) as error:
            detail = f"{reason}; it stays in the inbox, since it can't be moved: {error}"
            stuck = {"error": detail, "place": None, "destination": None}
            self._queue.finish(job, "failed", detail, time.time(), stuck)
            return detail

    def complete(self, job: Job, place: Place, source: Source | None) -> str:
        """Finish a job whose bytes are safe at its destination: the reason, the row, then the inbox name."""
        destination = self.roots[place] / str(job.destination)
        detail = f"{place}/{names.display(str(job.destination))}"
        if place == "failed":
            write_reason(job, destination)
            detail = f"{job.error} (now {detail})"
        self._queue.finish(job, _FINAL[place], detail, time.time())
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
            else:
                newer = [Found(job.path, here.st_size, here.st_mtime_ns)]
        except FileNotFoundError:
            pass
        except OSError as error:
            # The bytes are safe and the row says so; the name is tried again later.
            _log.warning("image %d: %s stays in the inbox: %s", job.id, names.display(job.path), error.strerror)
            return
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
    ) -> str:
        sha256 = values.get("sha256")
        for candidate in (names.numbered(wanted, number) for number in range(_TRIES)):
            destination = self.roots[place] / candidate
            try:
                held = _holds(destination, source, sha256)
                if held is False or not self._queue.plan(job, place, str(candidate), values, raw):
                    continue
                if held is None:
                    self._place(job, source, place, destination, sha256)
            except FileExistsError:
                continue
            except OSError as error:
                portable = names.portable(wanted)
                if error.errno not in moves.BAD_NAME or wanted == portable:
                    raise EnvironmentFault(f"{destination}: {error.strerror}") from error
                return self._move(job, source, place, portable, values, raw)
            try:
                source.unchanged()
            except Postponed:
                if held or moves.take_back(destination, source.path):
                    raise
            planned = replace(job, place=place, destination=str(candidate), error=values.get("error"))
            return self.complete(planned, place, source)
        raise EnvironmentFault(f"{self.roots[place] / wanted}: {_TRIES} files have that name already")

    def _place(self, job: Job, source: Source, place: Place, destination: Path, sha256: str | None) -> None:
        root = self.roots[place]
        if source.fd is None or sha256 is None:
            moves.place_node(source.path, root, destination)
        else:
            moves.place(source.fd, source.path, root, destination, temporary(destination, job.id), sha256)

    def _delete(self, job: Job, source: Source, original: int, path: Path, values: dict[str, Any]) -> str:
        # What goes here is the user's file: the copy that stays must be read again, not believed.
        with moves.blaming(str(path)):
            kept = moves.sha256(path)
        if kept != values["sha256"]:
            raise EnvironmentFault(f"{path} no longer holds the bytes that were filed there: run darkroom verify")
        source.unchanged()
        detail = f"the same bytes as image {original}; deleted"
        self._queue.finish(job, "duplicate", detail, time.time(), values)
        self.leave(job, source)
        return detail

    def _twin(self, developed: Developed) -> tuple[int, Path] | None:
        """Find the filed original with the same bytes, if it is really there."""
        found = self._queue.filed(developed.sha256)
        if found is None:
            return None
        original, path = found[0], self.roots["library"] / found[1]
        with moves.blaming(str(path)):
            if moves.size_of(path) == developed.identity.size:
                return original, path
        lost = f"no longer at library/{names.display(found[1])}; its bytes came again and were filed anew"
        self._queue.lost(original, lost, time.time())
        return None


def temporary(destination: Path, image_id: int) -> Path:
    """Name the hidden file under which an image's bytes are copied before they get their name."""
    return destination.with_name(f".darkroom-{image_id}.part")


def mirrored(job: Job) -> PurePosixPath:
    """Keep the name and the subfolders that a file had in the inbox."""
    folder = [names.component(part) for part in job.path.split("/")[:-1]]
    return PurePosixPath(*folder, names.component(job.original_name))


def library_name(template: str, job: Job, developed: Developed, at: datetime) -> PurePosixPath:
    """Fill in the template for one image."""
    exif = developed.exif
    make, model = exif.camera_make or "", exif.camera_model or ""
    # "Canon Canon EOS 40D" is how a camera introduces itself, not how anybody calls it.
    camera = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
    values = names.Values(
        taken=at,
        name=names.with_true_suffix(names.component(job.original_name), developed.suffixes),
        folder=str(mirrored(job).parent) if "/" in job.path else "",
        camera=camera,
        make=exif.camera_make,
        model=exif.camera_model,
        lens=exif.lens_model,
        format=developed.format,
        source=job.source,
    )
    return names.expand(template, values)


def columns(developed: Developed, when: Taken) -> dict[str, Any]:
    """Give the row's values of a developed image."""
    exif = {field.name: getattr(developed.exif, field.name) for field in fields(developed.exif)}
    del exif["raw"]
    return {
        **exif,
        "sha256": developed.sha256,
        "size_bytes": developed.identity.size,
        "format": developed.format,
        "width": developed.width,
        "height": developed.height,
        "warning": developed.warning,
        "taken_at": when.at.isoformat(),
        "taken_from": when.origin,
        "error": None,
    }


def reason_beside(failed: Path) -> Path:
    """Name the file that says why another is in `failed/`."""
    return failed.with_name(failed.name + ".reason.txt")


def write_reason(job: Job, destination: Path) -> None:
    """Say beside a failed file why it is there."""
    text = (
        f"{names.display(destination.name)} could not be filed.\n\nReason: {job.error}\n\n"
        f"It came as {names.display(job.path)} and is image {job.id}.\n"
        f"To try again: darkroom retry {job.id}\n"
    )
    reason = reason_beside(destination)
    try:
        moves.write_whole(reason, temporary(reason, job.id), text.encode())
    except FileExistsError:
        _log.debug("image %d: %s is there already", job.id, reason)


def _holds(destination: Path, source: Source, sha256: str | None) -> bool | None:
    """Tell whether a name is free (None), taken by other bytes (False), or has the very bytes already (True).

    The last is a library that the catalogue has forgotten: its files are adopted, not filed twice.
    """
    if not os.path.lexists(destination):
        return None
    if source.fd is None or sha256 is None:
        return False
    with moves.blaming(str(destination)):
        return moves.size_of(destination) == source.was.st_size and moves.sha256(destination) == sha256
