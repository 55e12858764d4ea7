"""Finishes or undoes what a crash, or a fault in the middle of filing, has left; queues failed images again.

Every step here may itself be killed at any instant and be done again.

A failed file that is queued again goes back into the inbox, since that is where a queued file is. The row is written
first (queued, with the inbox name it is about to get, and still with its place in `failed/`), then the file is linked,
then its old name goes. A row that has both is never claimed, and whoever finds one after a crash does the rest. Where
that can't be done the row fails again, as it was. One process or thread at a time: what one has moved, another would
take for left behind.
"""

import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from pathlib import Path, PurePosixPath

from daemon.catalogue import Place, Queue
from daemon.catalogue.schema import Job
from daemon.errors import (
    Busy,
    DarkroomError,
    EnvironmentFault,
    Immovable,
    NameRefused,
    Postponed,
    Rejected,
    Transient,
    WaitingReason,
    Withdrawn,
)
from daemon.files import atomic, lock, names
from daemon.files.atomic import Location, Root
from daemon.files.names import OWN_PREFIX
from daemon.files.opening import LeaseState, open_regular
from daemon.files.walk import leaving, listable
from daemon.filing.cleanup import Cleanup
from daemon.filing.destination import reason_beside
from daemon.filing.filing import Filing
from daemon.filing.inbox_file import InboxFile, read_leaving, show
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.sidecar.sidecars import tag_of

_log = logging.getLogger(__name__)

# What an upload is called in the inbox while it arrives.
UPLOAD_PREFIX = f"{OWN_PREFIX}upload-"
_TRIES = 10_000
_BUSY_SECONDS = 10.0
# What is larger is moved without being hashed: no photo is.
_HASHED_BYTES = 4 << 30


def remove_partial_uploads(inbox: Root) -> None:
    """Remove what uploads that a dead process was receiving have left; before any new one can arrive.

    What can't be removed now is hidden and harmless, and is tried again at the next start.
    """
    try:
        with suppress(FileNotFoundError):
            folder = listable(inbox)
            try:
                for name in [name for name in os.listdir(folder) if name.startswith(UPLOAD_PREFIX)]:  # noqa: PTH208
                    os.unlink(name, dir_fd=folder)
            finally:
                os.close(folder)
    except OSError as error:
        _log.warning("%s: what interrupted uploads have left there can't be removed: %s", inbox, error.strerror)


class Recovery:
    """Resolves the rows that were left in the middle of filing."""

    def __init__(
        self,
        queue: Queue,
        filing: Filing,
        requeue: "Requeue",
        cleanup: Cleanup,
        inbox: Root,
        thumbnails: ThumbnailStore,
        settle_seconds: float,
    ) -> None:
        self._queue, self._filing, self._requeue = queue, filing, requeue
        self._cleanup, self._inbox, self._settle_seconds = cleanup, inbox, settle_seconds
        self._thumbnails = thumbnails

    def sweep_thumbnails(self) -> None:
        """Remove what a process has left of thumbnails that died while it made them. Raises EnvironmentFault."""
        self._thumbnails.sweep()

    def complete(self, job: Job, *, plainly: bool = False) -> bool:
        """Complete a job whose bytes are safe at its destination; return False, with nothing left there, for any other.

        `plainly`: without its sidecar, for which what came with the photo is read. Raises EnvironmentFault where nobody
        knows.
        """
        destination = self._destination(job)
        try:
            file = InboxFile.closed(self._inbox, job)
        except Immovable:  # never claimed by a name that could be opened, so never on its way
            return False
        # Whatever becomes of the row, its file has its own name again meanwhile.
        with closing(file) if file is not None else nullcontext():
            if destination is None:
                return False
            try:
                with atomic.blaming(destination.parent):
                    atomic.remove_temporaries(destination, job.id, tag_of(job.id))
                    if not _is_there(job, destination, file):
                        _undo(destination, file)
                        return False
            except NameRefused:  # what can't be called so is not there
                return False
        with atomic.blaming(destination):
            _log.info("image %d: %s", job.id, self._filing.record(job, sidecar=not plainly))
        self.leave(job)
        return True

    def is_barred(self, job: Job, fault: EnvironmentFault) -> bool:
        """Return whether the folder takes no other file either into which a job's file was to go."""
        for wanted in (self._destination(job), fault.where):
            if isinstance(wanted, Location) and wanted.root in self._filing.roots.values():
                try:
                    atomic.probe(wanted)
                except OSError:
                    return True
        return False

    def undo_link(self, job: Job) -> None:
        """Remove the second name that a file of the inbox may have at its destination; best effort."""
        destination = self._destination(job)
        with suppress(OSError, DarkroomError):
            file = InboxFile.closed(self._inbox, job)
            if destination is not None and file is not None:
                with closing(file):
                    atomic.take_back(destination, file.was)

    def leave(self, job: Job) -> None:
        """Remove the inbox name of a file that is safe elsewhere; what is another file by now is queued."""
        file: InboxFile | None
        # What is known to stay was looked after when it was filed; there may be thousands of such.
        if job.waiting is not WaitingReason.STAYS and (destination := self._destination(job)) is not None:
            with atomic.blaming(destination):
                atomic.remove_temporaries(destination, job.id)
        try:
            file = InboxFile.open(self._inbox, job, 0.0, left=True)
        except (Rejected, Transient):
            file = InboxFile.closed(self._inbox, job)
        except (Withdrawn, Immovable):
            file = None
        except Postponed:
            return
        if file is None:
            self._left(job, None)
            return
        with closing(file):
            if self._is_safe(job, file):
                try:
                    file.hide()
                except Immovable as fault:
                    self._queue.stays(job.id, str(fault))
                    return
                except Postponed:
                    return
                if file.lease is not None and file.lease.state is LeaseState.UNSUPPORTED:
                    time.sleep(self._settle_seconds)  # as `InboxFile.check_complete` has it; one file at a start
                self._left(job, file)
                return
        self._left(job, None)
        _log.info("image %d: %s is another file now and is queued", job.id, names.display(job.path))

    def show(self) -> None:
        """Give the files that wait under hidden names their own ones again. Raises EnvironmentFault."""
        for job in self._queue.hidden():
            with suppress(Immovable):
                file = InboxFile.closed(self._inbox, job)
                if file is not None:
                    file.close()
            self._queue.shown(job.id, time.time())

    def show_all(self) -> None:
        """The same, for all that lie in the inbox, whether or not a row knows them. Raises EnvironmentFault."""
        self.show()
        for folder, hidden in list(leaving(self._inbox)):
            known = read_leaving(hidden)
            if known is not None:
                with atomic.blaming(folder or str(self._inbox)), (self._inbox / folder / hidden).entry() as entry:
                    show(entry, known[1])

    def bring_back(self) -> None:
        """Finish for each row on its way back from `failed/` what a crash has left."""
        self._requeue.bring_back()

    def _left(self, job: Job, file: InboxFile | None) -> None:
        if self._filing.leave(job, file):
            self._cleanup.note(job.path)

    def _destination(self, job: Job) -> Location | None:
        if job.place is None or job.destination is None:
            return None
        return self._filing.roots[job.place] / job.destination

    def _is_safe(self, job: Job, file: InboxFile) -> bool:
        """Return whether an inbox file is the one that the row has filed, by its bytes, and they are still filed."""
        kept = self._destination(job)
        if kept is None and job.sha256 is not None and (twin := self._queue.filed(job.sha256)) is not None:
            kept = self._filing.roots["library"] / twin[1]
        if kept is None:
            return False
        with atomic.blaming(kept):
            here = kept.lstat()
            if here is None:
                return False
            if os.path.samestat(here, file.was):
                return True
            if file.fd is None or here.st_size != file.was.st_size:
                return False
            if job.sha256 is None:
                return here.st_mtime_ns == file.was.st_mtime_ns
            return atomic.sha256(file.fd) == job.sha256 == atomic.sha256(kept)


def _is_there(job: Job, destination: Location, file: InboxFile | None) -> bool:
    """Return whether the destination durably holds the job's bytes."""
    here = destination.lstat()
    if here is None:
        return False
    if job.sha256 is not None:
        if not stat.S_ISREG(here.st_mode) or atomic.sha256(destination) != job.sha256:
            return False
        atomic.make_durable(destination)
        return True
    # A symbolic link, a FIFO, another's file: known by being the same thing, or by having been renamed. A file too
    # large to be hashed: by its size and time, which its copy has.
    if file is not None and not os.path.samestat(here, file.was):
        same = (here.st_size, here.st_mtime_ns) == (file.was.st_size, file.was.st_mtime_ns)
        if not (same and stat.S_ISREG(here.st_mode)):
            return False
    with destination.entry() as entry:
        entry.fsync_folder()
    return True


def _undo(destination: Location, file: InboxFile | None) -> None:
    """Remove what the move has left at a destination that does not hold the right bytes, if it is surely ours."""
    here = destination.lstat()
    if here is None:
        return
    linked = file is not None and os.path.samestat(here, file.was)
    # Empty: a name reserved on a filesystem without exclusive renames.
    if linked or (here.st_size == 0 and stat.S_ISREG(here.st_mode)):
        atomic.take_back(destination, here)


class Requeue:
    """Moves failed files back into one inbox; `state` is the folder for the lock."""

    def __init__(self, queue: Queue, inbox: Root, roots: Mapping[Place, Root], state: Path) -> None:
        self._queue = queue
        self._inbox = inbox
        self._failed = roots["failed"]
        self._lock = state / "retry.lock"

    def retry(self, image_id: int) -> None:
        """Queue one failed image again.

        Raises Rejected saying why it can't be, EnvironmentFault where a folder is at fault; the image stays failed.
        """
        with lock.held(self._lock, _BUSY_SECONDS, "another darkroom retry is at work here: try again after it"):
            self._finish_all()
            job = self._queue.failed(image_id)
            if job is None:
                raise Rejected(f"image {image_id} is not a failed one")
            if job.destination is None:
                self._where_it_lies(job)
            else:
                self._from_failed(job, job.destination)

    def bring_back(self) -> None:
        """Finish for each returning row what a crash has left; one whose file can't be moved fails again."""
        if not self._queue.returning():
            return
        with suppress(Busy), lock.held(self._lock, 0.0, "whoever holds the lock is at it"):
            self._finish_all()

    def _finish_all(self) -> None:
        for job in self._queue.returning():
            try:
                self._return(job)
            except DarkroomError as error:
                _log.warning("image %d: not queued again: %s", job.id, error)

    def _where_it_lies(self, job: Job) -> None:
        """Queue a file that failed in the inbox, since it could not leave."""
        if not job.path or not atomic.exists(self._inbox / job.path):
            raise Rejected(f"image {job.id}: its file is gone: {job.error}")
        self._queue.again(job.id, job.path, time.time(), returning=False)

    def _from_failed(self, job: Job, destination: str) -> None:
        old = self._failed / destination
        if not atomic.exists(old):
            raise Rejected(f"image {job.id}: {old} is gone")
        self._check_readable(job, old)
        wanted = PurePosixPath(destination).with_name(names.component(job.original_name))
        came = self._queue.undecodable_path(job)
        # The name that it came with may be one that only the folder `failed` holds, or the other way round.
        for shape in dict.fromkeys([PurePosixPath(came) if came else wanted, wanted, names.portable(wanted)]):
            for number in range(_TRIES):
                path = names.numbered(shape, number)
                if not atomic.exists(self._inbox / str(path)) and self._queue.again(
                    job.id, str(path), time.time(), returning=True
                ):
                    for row in self._queue.returning():
                        if row.id == job.id:
                            self._return(row)
                    return
        raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.original_name)}")

    def _check_readable(self, job: Job, old: Location) -> None:
        """Raise Rejected where the file can't be read, and so would only fail again."""
        try:
            os.close(open_regular(old))
        except Rejected:
            pass  # a link or a pipe: moved without being opened, as when it failed
        except Postponed as busy:
            raise Rejected(f"image {job.id}: {names.display(str(old))} is {busy}") from busy
        except (Transient, Withdrawn) as fault:
            raise Rejected(f"image {job.id}: {names.display(str(old))}: {fault}") from fault

    def _return(self, job: Job) -> None:
        """Move one returning row's file; where that can't be done, fail the row again and raise what was wrong."""
        old = self._failed / str(job.destination)
        moved: tuple[Location, os.stat_result] | None = None
        try:
            if atomic.exists(old):
                moved = self._appear(job, old)
                with atomic.blaming(old), old.entry() as entry:
                    with suppress(FileNotFoundError):
                        entry.unlink()
                    # Or a power cut could bring the name back, which no row knows any more.
                    entry.fsync_folder()
        except (DarkroomError, OSError) as fault:
            if moved is not None:
                with suppress(OSError, DarkroomError):
                    if atomic.exists(old):
                        atomic.take_back(*moved)
            self._queue.not_returned(job.id, f"it could not be queued again: {fault}", time.time())
            if isinstance(fault, EnvironmentFault | Rejected):
                raise
            raise Rejected(f"image {job.id}: {fault}") from fault
        try:
            with suppress(FileNotFoundError), reason_beside(old).entry() as entry:
                entry.unlink()
                entry.fsync_folder()
        except OSError as fault:  # a note that is out of date, and no more
            _log.warning("image %d: %s stays: %s", job.id, reason_beside(old), fault.strerror)
        self._queue.returned(job.id, time.time())

    def _appear(self, job: Job, old: Location) -> tuple[Location, os.stat_result] | None:
        """Make the file appear in the inbox, too; return the name that this made, None where it was there before."""
        with atomic.blaming(self._inbox / job.path):
            atomic.remove_temporaries(self._inbox / job.path, job.id)
        for number in range(_TRIES):
            name = names.numbered(PurePosixPath(job.path), number)
            # A name that another file took meanwhile is left to it.
            if number and not self._queue.again(job.id, str(name), time.time(), returning=True):
                continue
            new = self._inbox / name
            try:
                return new, self._place(job, old, new)
            except FileExistsError:
                if _same(old, new):
                    return None
        raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.path)}")

    def _place(self, job: Job, old: Location, new: Location) -> os.stat_result:
        with atomic.blaming(old):
            if atomic.size_of(old) is not None:
                fd = open_regular(old)
                try:
                    is_small = os.fstat(fd).st_size <= _HASHED_BYTES
                    return atomic.place(fd, new, job.id, atomic.sha256(fd) if is_small else None)
                finally:
                    os.close(fd)
            with old.entry() as entry:
                here = entry.lstat()
                atomic.place_node(entry, here, new)
                return here


def _same(old: Location, new: Location) -> bool:
    with atomic.blaming(new):
        was, now = old.lstat(), new.lstat()
        if was is None or now is None:
            return False
        if os.path.samestat(was, now):
            return True
        if was.st_size != now.st_size or not (stat.S_ISREG(was.st_mode) and stat.S_ISREG(now.st_mode)):
            return False
        return atomic.sha256(old) == atomic.sha256(new)
