"""Files one image by its plan: the journal, the move, the row, and only then the inbox name goes.

What the row says and what is on disk at each instant, and so what start-up finds after a crash:

    place    processing, destination written   the destination may or may not hold the bytes yet
    (end)    (the same)                        the bytes are durable under both names
    record   (the same)                        and the sidecar, or the reason of a failure, is written
    (end)    done | duplicate | failed         the inbox name may or may not be gone yet
    leave    path empty                        nothing is left to do
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from daemon.catalogue import Place, Queue
from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.schema import CaptionStatus, Facts, Job
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, NameRefused, Postponed
from daemon.files import atomic, names
from daemon.files.walk import Found
from daemon.filing import companions
from daemon.filing.collisions import NumberedNames, holds, plainer_names
from daemon.filing.dates import taken
from daemon.filing.destination import (
    Plan,
    check_kept,
    facts_of,
    library_name,
    mirrored,
    reason_beside,
    write_reason,
)
from daemon.filing.inbox_file import InboxFile
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.sidecar.sidecars import Sidecars

_log = logging.getLogger(__name__)


class Filing:
    """Moves files into the three folders; `caption_status` says with which one a photo of an inbox folder is filed."""

    def __init__(
        self,
        queue: Queue,
        roots: Mapping[Place, Path],
        template: str,
        thumbnails: ThumbnailStore,
        sidecars: Sidecars,
        companion_rows: CompanionRows,
        caption_status: Callable[[str], CaptionStatus],
        *,
        delete_duplicates: bool = False,
    ) -> None:
        self._queue = queue
        self.roots = roots
        self._template = template
        self._thumbnails = thumbnails
        self._sidecars = sidecars
        self._companions = companion_rows
        self._caption_status = caption_status
        self._delete_duplicates = delete_duplicates
        self._names = NumberedNames()

    def plan(self, job: Job, decoded: Decoded) -> Plan:
        """Return where a decoded image goes: into the library, or, where its bytes are there already, elsewhere."""
        twin = self._twin(decoded)
        mtime = decoded.identity.mtime_ns / 1e9
        when = taken(decoded.exif.datetime_original, job.original_name, mtime, time.time())
        facts = facts_of(decoded, when)
        if twin is not None:
            kept = twin[1] if self._delete_duplicates else None
            return Plan("duplicates", mirrored(job), replace(facts, duplicate_of=twin[0]), kept=kept)
        wanted = library_name(self._template, job, decoded, when.at)
        facts = replace(facts, caption_status=self._caption_status(job.folder))
        return Plan("library", wanted, facts, thumbnails=(decoded.small, decoded.medium))

    def plan_failure(self, job: Job, file: InboxFile, reason: str) -> Plan:
        """Return where a file goes that can't be filed: to `failed/`, under the name that it came with."""
        facts = Facts(error=reason)
        if file.fd is not None:
            try:
                facts = Facts(atomic.sha256(file.fd), file.was.st_size, error=reason)
            except OSError:  # a bad sector: then it can only be linked or renamed
                _log.debug("image %d: can't be read to its end", job.id)
        return Plan("failed", mirrored(job), facts)

    def place(self, job: Job, file: InboxFile, plan: Plan) -> Job:
        """Make the bytes appear durably where they are to go; return the job with its place there.

        A copy that is to be deleted has no place. Raises Postponed where the bytes are other ones now, Withdrawn,
        Immovable, Transient, EnvironmentFault; the file is then where it was.
        """
        facts = plan.facts
        if plan.kept is not None:
            check_kept(plan.kept, facts.sha256 or "")
            file.check_unchanged()
            return replace(job, place=None, destination=None, companion_of=facts.companion_of)
        if plan.thumbnails is not None and facts.sha256 is not None:
            self._thumbnails.save(facts.sha256, *plan.thumbnails)
        destination, held = self._place_under_free_name(job, file, plan)
        try:
            file.check_unchanged()
        except Postponed:
            if held or atomic.take_back(self.roots[plan.place] / destination, file.path):
                raise
        name = str(destination)
        return replace(job, place=plan.place, destination=name, error=facts.error, companion_of=facts.companion_of)

    def record(self, job: Job, plan: Plan | None = None) -> str:
        """Make a row final whose bytes are safe; return what happened, for people.

        `plan` is only needed for a copy that is to be deleted.
        """
        now = time.time()
        if job.place is None and plan is not None:
            return self._record_deleted(job, plan, now)
        place = job.place or "failed"
        destination, detail = self.roots[place] / str(job.destination), f"{place}/{names.display(str(job.destination))}"
        if job.companion_of is not None:
            self._companions.arrived(job, now)
            self._sidecars.write(job.companion_of)
            return f"{detail}, beside image {job.companion_of}"
        if place == "library":
            self._sidecars.write(job.id)
        elif place == "duplicates":
            self._sidecars.record(job.id, destination)
        else:
            write_reason(job, destination)
            detail = f"{job.error} (now {detail})"
        self._queue.finish(job, now)
        companions.hasten(self._companions, job, now)
        return detail

    def fail_in_place(self, job: Job, reason: str) -> str:
        """Fail a file where it lies, by its row alone; return what happened, for people."""
        self._queue.fail_in_place(job, reason, time.time())
        return reason

    def leave(self, job: Job, file: InboxFile | None) -> bool:
        """Remove the inbox name of a file that is safe elsewhere; return whether it is gone.

        A newer file of that name is queued.
        """
        newer: list[Found] = []
        try:
            if file is not None:
                here = file.path.lstat()
                if os.path.samestat(here, file.was):
                    file.path.unlink()
                    # Or a power cut could bring the name back with no row that knows it, and file the photo twice.
                    atomic.fsync_folder(file.path.parent)
                else:
                    newer = [Found(job.path, here.st_size, here.st_mtime_ns)]
        except FileNotFoundError:
            pass
        except OSError as error:
            # The bytes are safe and the row says so; the name is tried again later.
            _log.warning("image %d: %s stays in the inbox: %s", job.id, names.display(job.path), error.strerror)
            return False
        if job.companion_of is not None:
            self._companions.forget(job.id)
        else:
            self._queue.left(job.id)
        if newer:
            self._queue.enqueue(newer, time.time())
        return True

    def _record_deleted(self, job: Job, plan: Plan, now: float) -> str:
        if plan.facts.companion_of is not None:
            kept = plan.kept.name if plan.kept else ""
            return f"the same bytes as {kept} beside image {plan.facts.companion_of}; deleted"
        original = plan.facts.duplicate_of or 0
        self._queue.finish_deleted(job, original, plan.facts, now)
        companions.hasten(self._companions, job, now)
        return f"the same bytes as image {original}; deleted"

    def _place_under_free_name(self, job: Job, file: InboxFile, plan: Plan) -> tuple[PurePosixPath, bool]:
        """Make the bytes appear under the first free name; return it, and whether they were there before.

        A filesystem that can't hold the name gets a plainer one.
        """
        refusal: NameRefused | None = None
        shapes = iter((plan.wanted,))
        while (shape := next(shapes, None)) is not None:
            try:
                held = self._try(job, file, plan, shape)
                return (shape, held) if held is not None else self._place_under_number(job, file, plan, shape)
            except NameRefused as refused:
                shapes = shapes if refusal else plainer_names(plan.wanted)
                refusal = refused
        assert refusal is not None  # noqa: S101
        raise refusal

    def _place_under_number(
        self, job: Job, file: InboxFile, plan: Plan, shape: PurePosixPath
    ) -> tuple[PurePosixPath, bool]:
        """Make the bytes appear under the first numbered name that is free."""
        for number in self._names.untried(plan.place, shape):
            candidate = plan.numbered(shape, number)
            held = self._try(job, file, plan, candidate)
            if held is not None:
                self._names.took(plan.place, shape, number)
                return candidate, held
        raise EnvironmentFault(f"{self.roots[plan.place] / shape}: too many files have that name already")

    def _try(self, job: Job, file: InboxFile, plan: Plan, candidate: PurePosixPath) -> bool | None:
        """Place the bytes under one name; return None where it is another file's, else whether they were there."""
        root, sha256 = self.roots[plan.place], plan.facts.sha256
        destination = root / candidate
        if plan.place == "failed":
            # The reason has the longer name; whether it can be had is known only in its folder.
            atomic.make_folders(root, destination.parent)
            if atomic.exists(reason_beside(destination)):
                return None
        held = False
        if atomic.exists(destination):
            # Asked before the bytes are compared: thousands of files may have had this name.
            if self._queue.owned(job, plan.place, str(candidate), plan.facts.companion_of):
                return None
            held = holds(destination, file.was.st_size, sha256)
            if not held:
                return None
        if not self._queue.plan(job, plan.place, str(candidate), plan.facts):
            return None
        try:
            if held:
                with atomic.blaming(str(destination)):
                    atomic.make_durable(destination)
            elif file.fd is None or sha256 is None:
                atomic.place_node(file.path, root, destination)
            else:
                atomic.place(file.fd, file.path, root, destination, job.id, sha256)
        except FileExistsError:
            return None
        return held

    def _twin(self, decoded: Decoded) -> tuple[int, Path] | None:
        """Return the filed original with the same bytes, if it is really there."""
        found = self._queue.filed(decoded.sha256)
        if found is None:
            return None
        original, path = found[0], self.roots["library"] / found[1]
        with atomic.blaming(str(path)):
            if atomic.size_of(path) == decoded.identity.size:
                return original, path
        self._queue.lost(original, found[1], time.time())
        return None
