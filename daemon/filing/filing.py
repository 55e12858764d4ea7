"""Files one image by its plan: the journal, the move, the last look, the row, and only then the inbox name goes.

What the row says and what is on disk at each instant, and so what start-up finds after a crash:

    place    processing, destination written   the destination may or may not hold the bytes yet
             (the same)                        the bytes are durable under both names
    (end)    (the same)                        the inbox name is a hidden one, and the file was looked at once more
    record   (the same)                        and the sidecar, or the reason of a failure, is written
    (end)    done | duplicate | failed         the hidden name may or may not be gone yet
    leave    path empty                        nothing is left to do

A writer who opens the file by its name does so before it is hidden, and is seen by the lease at the look behind that.
One who has looked the name up before that, and gets from there to being counted as a writer, inside one open(2), only
after the row is committed, is seen by the second look, right before the removal: the library then gets an inode of its
own, and what he writes comes back as a file of the inbox. Only who takes longer than that for these few instructions
of the kernel writes into a file without a name.
"""

import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from daemon.catalogue import Place, Queue
from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.schema import Job
from daemon.errors import (
    DarkroomError,
    EnvironmentFault,
    FailureReason,
    Immovable,
    NameRefused,
    Postponed,
    Rejected,
    Transient,
    WaitingReason,
    Withdrawn,
)
from daemon.files import atomic, names
from daemon.files.atomic import Location, Root
from daemon.files.walk import Found
from daemon.filing import companions
from daemon.filing.collisions import NumberedNames, Stems, holds, plainer_names
from daemon.filing.destination import (
    Plan,
    check_kept,
    reason_beside,
    write_reason,
)
from daemon.filing.inbox_file import InboxFile
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.sidecar.sidecars import Sidecars, read_facts
from daemon.sidecar.xmp import Packet

_log = logging.getLogger(__name__)

_FOLDER_SECONDS = 60.0
_RENAMED_SECONDS = 1.0


class Filing:
    """Moves files of the inbox into the other folders, as their plans say."""

    def __init__(
        self,
        queue: Queue,
        inbox: Root,
        roots: Mapping[Place, Root],
        thumbnails: ThumbnailStore,
        sidecars: Sidecars,
        companion_rows: CompanionRows,
    ) -> None:
        self._queue, self._inbox = queue, inbox
        self.roots = roots
        self._thumbnails = thumbnails
        self._sidecars = sidecars
        self._companions = companion_rows
        self._names = NumberedNames()

    def place(self, job: Job, file: InboxFile, plan: Plan) -> Job:
        """Make the bytes appear durably where they are to go, and hide the inbox name; return the job with its place.

        A copy that is to be deleted has no place. Raises Postponed where the bytes or the name are other ones now,
        Withdrawn, Immovable, EnvironmentFault; the file is then where it was.
        """
        facts = plan.facts
        if plan.kept is not None or plan.sidecar is not None:
            if plan.kept is not None:
                check_kept(plan.kept, facts.sha256 or "")
                _check_hash(file, facts.sha256)
            self._hide(job, file, plan, None, None)
            return replace(job, place=None, destination=None, companion_of=facts.companion_of)
        if plan.thumbnails is not None and facts.sha256 is not None:
            self._thumbnails.save(facts.sha256, *plan.thumbnails)
        destination, placed = self._place_under_free_name(job, file, plan)
        self._hide(job, file, plan, self.roots[plan.place] / destination, placed)
        placed_job = replace(job, place=plan.place, destination=str(destination), companion_of=facts.companion_of)
        return replace(placed_job, error=facts.error, failure=facts.failure)

    def record(self, job: Job, plan: Plan | None = None, stays: str | None = None, *, sidecar: bool = True) -> str:
        """Make a row final whose bytes are safe; return what happened, for people.

        `plan` is only needed for a copy that is to be deleted; `stays` is why the inbox name can't be removed.
        """
        now = time.time()
        if job.place is None and plan is not None:
            return self._record_deleted(job, plan, now, stays)
        place = job.place or "failed"
        detail = f"{place}/{names.display(str(job.destination))}"
        if job.companion_of is not None:
            self._companions.arrived(job, now)
            if sidecar:
                self._sidecars.write(job.companion_of)
            return f"{detail}, beside image {job.companion_of}"
        look = None
        if place == "library":
            if sidecar:
                look = self._sidecars.write(job.id, now=now)
        elif place == "duplicates":
            self._sidecars.record(job.id, self.roots[place] / str(job.destination), now)
        else:
            write_reason(job, self.roots[place] / str(job.destination), self._sidecars.history(job.id))
            detail = f"{job.error} (now {detail})"
        self._queue.finish(job, now, stays, look)
        companions.hasten(self._companions, job, now)
        return detail

    def fail_in_place(self, job: Job, reason: str, failure: FailureReason) -> str:
        """Fail a file where it lies, by its row alone; return what happened, for people."""
        self._queue.fail_in_place(job, reason, failure, time.time())
        return reason

    def leave(self, job: Job, file: InboxFile | None) -> bool:
        """Remove the hidden name of a file that is safe elsewhere; return whether it has left the inbox.

        What has its former name by now is queued.
        """
        if file is not None and file.stays is not None:
            _log.warning("image %d: %s stays in the inbox: %s", job.id, names.display(job.path), file.stays)
            return False
        if file is not None and not file.gone:
            try:
                file.remove()
            except Postponed:
                self._keep_apart(job, file)
            except (OSError, EnvironmentFault) as error:
                # The bytes are safe and the row says so; the name is tried again later.
                _log.warning("image %d: %s stays in the inbox: %s", job.id, names.display(job.path), error)
                file.keep_hidden()
                return False
        paths = {job.path: None}
        if job.companion_of is not None:
            self._companions.forget(job.id, job.companion_of)
        elif (path := self._queue.left(job.id)) is not None:
            paths[path] = None
        newer = []
        for path in paths:
            with suppress(OSError):
                if (here := (self._inbox / path).lstat()) is not None and not stat.S_ISDIR(here.st_mode):
                    newer.append(Found(path, here.st_size, here.st_mtime_ns))
        if newer:
            self._queue.enqueue(newer, time.time())
        return True

    def _keep_apart(self, job: Job, file: InboxFile) -> None:
        """Leave a file in the inbox into which somebody writes though its row is final: it is a new one from now on."""
        _log.info("image %d: %s is written to again; that is queued anew", job.id, names.display(job.path))
        if job.place is not None and job.sha256 is not None:
            try:
                atomic.unshare(self.roots[job.place] / str(job.destination), file.was, job.id, job.sha256)
            except DarkroomError as error:
                _log.warning("image %d: its file was written to while it was filed: %s", job.id, error)
                self._queue.warn(job.id, "it was written to while it was being filed: run darkroom verify")
        file.show()

    def _hide(
        self, job: Job, file: InboxFile, plan: Plan, destination: Location | None, placed: os.stat_result | None
    ) -> None:
        """Take the inbox name away and look at the file once more; undo `placed` where it is another one by now."""
        try:
            file.hide()
        except Withdrawn:
            if self._is_last_name(file, placed):
                file.gone = True
                return
            self._take_back(destination, placed)
            raise Postponed(WaitingReason.RENAMED, _RENAMED_SECONDS) from None
        except Immovable as fault:
            if plan.facts.companion_of is not None:
                self._take_back(destination, placed)
                folder = names.display(file.where.parent.path.name)
                raise Postponed(WaitingReason.FOLDER, _FOLDER_SECONDS, folder) from None
            if destination is not None and plan.facts.sha256 is not None:
                atomic.unshare(destination, file.was, job.id, plan.facts.sha256)
            file.check_unchanged()
            file.stays = str(fault)
        except Postponed as later:
            if later.reason is WaitingReason.RENAMED and self._is_last_name(file, placed):
                file.gone = True  # another file has replaced it: these are the only bytes of this one
                return
            # The name in the library goes first: from then on nobody writes into it by way of the inbox.
            self._take_back(destination, placed)
            file.show()
            raise

    def _is_last_name(self, file: InboxFile, placed: os.stat_result | None) -> bool:
        """Return whether a file that has lost its name was deleted, and not renamed."""
        if file.fd is None:
            return placed is not None and placed.st_nlink == 1
        now = os.fstat(file.fd)
        is_linked = placed is not None and os.path.samestat(placed, now)
        return now.st_nlink == (1 if is_linked else 0)

    def _take_back(self, destination: Location | None, placed: os.stat_result | None) -> None:
        if destination is not None and placed is not None:
            atomic.take_back(destination, placed)

    def _record_deleted(self, job: Job, plan: Plan, now: float, stays: str | None) -> str:
        if plan.sidecar is not None and plan.facts.companion_of is not None:
            return self._give_back(job, plan.facts.companion_of, plan.sidecar, now)
        if plan.facts.companion_of is not None:
            kept = plan.kept.name if plan.kept else ""
            return f"the same bytes as {kept} beside image {plan.facts.companion_of}; deleted"
        original = plan.facts.duplicate_of or 0
        self._queue.finish_deleted(job, original, plan.facts, now, stays)
        companions.hasten(self._companions, job, now)
        return f"the same bytes as image {original}; deleted"

    def _give_back(self, job: Job, image_id: int, sidecar: Packet, now: float) -> str:
        """Give an image what its own sidecar, which came back with it, says; return what happened, for people.

        Done again after a crash it changes nothing more. Raises Rejected where the sidecar beside it can't be written.
        """
        known = read_facts(sidecar)
        if known is not None:
            image_id = self._companions.give_back(image_id, job.id, known.row, known.history, now)
        if self._sidecars.write(image_id, sidecar) is None:
            raise Rejected(f"what this sidecar says can't be written beside image {image_id}")
        return f"into the sidecar of image {image_id}, which it is of"

    def _place_under_free_name(
        self, job: Job, file: InboxFile, plan: Plan
    ) -> tuple[PurePosixPath, os.stat_result | None]:
        """Make the bytes appear under the first free name; return it and what lies there, None for what did before.

        A filesystem that can't hold the name gets a plainer one.
        """
        refusal: NameRefused | None = None
        shapes = iter((plan.wanted,))
        stems = None
        if plan.place == "library" and plan.facts.companion_of is None:
            stems = Stems(self._companions, job, plan.wanted, plan.facts.datetime_original)
        while (shape := next(shapes, None)) is not None:
            try:
                for candidate, number in self._names.candidates(plan.place, shape, stems, plan.numbered):
                    found = self._try(job, file, plan, candidate)
                    if found is not None:
                        self._names.took(plan.place, shape, number)
                        return candidate, found[0]
                raise EnvironmentFault(f"{self.roots[plan.place] / shape}: too many files have that name already")
            except NameRefused as refused:
                _log.warning("image %d: %s; a plainer name is tried", job.id, refused)
                shapes = shapes if refusal else plainer_names(plan.wanted)
                refusal = refused
        assert refusal is not None  # noqa: S101
        raise refusal

    def _try(
        self, job: Job, file: InboxFile, plan: Plan, candidate: PurePosixPath
    ) -> tuple[os.stat_result | None] | None:
        """Place the bytes under one name; return None where it is another file's, else what lies there.

        That is (None,) where the bytes were there before.
        """
        sha256, destination = plan.facts.sha256, self.roots[plan.place] / candidate
        # The reason has the longer name; whether it can be had is known only in its folder.
        if plan.place == "failed":
            reason = reason_beside(destination)
            atomic.made(reason).close()
            if atomic.exists(reason):
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
                with atomic.blaming(destination):
                    atomic.make_durable(destination)
                return (None,)
            if file.fd is None:
                file.gone = atomic.place_node(file.hidden or file.entry, file.was, destination)
                return (destination.lstat(),)
            return (atomic.place(file.fd, destination, job.id, sha256),)
        except FileExistsError:
            return None


def _check_hash(file: InboxFile, sha256: str | None) -> None:
    """Raise Transient where a file that is to be deleted has other bytes than its decoder said.

    Whoever has taken over a decoder might say of each photo that comes after his own that it is in the library.
    """
    if file.fd is not None:
        with atomic.blaming(file.where):
            found = atomic.sha256(file.fd)
        if found != sha256:
            raise Transient("its bytes are not those that its decoder says")
