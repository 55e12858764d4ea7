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
import time
from collections.abc import Mapping
from contextlib import suppress
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
    Withdrawn,
)
from daemon.files import atomic, lock, names
from daemon.files.opening import open_regular
from daemon.files.walk import OWN_PREFIX, Found
from daemon.filing.cleanup import Cleanup
from daemon.filing.destination import reason_beside
from daemon.filing.filing import Filing
from daemon.filing.inbox_file import InboxFile

_log = logging.getLogger(__name__)

# What an upload is called in the inbox while it arrives.
UPLOAD_PREFIX = f"{OWN_PREFIX}upload-"
_TRIES = 10_000
_BUSY_SECONDS = 10.0


def remove_partial_uploads(inbox: Path) -> None:
    """Remove what uploads that a dead process was receiving have left; before any new one can arrive.

    What can't be removed now is hidden and harmless, and is tried again at the next start.
    """
    try:
        with suppress(FileNotFoundError), os.scandir(inbox) as entries:
            left = [entry.path for entry in entries if entry.name.startswith(UPLOAD_PREFIX)]
            for path in left:
                Path(path).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: what interrupted uploads have left there can't be removed: %s", inbox, error.strerror)


class Recovery:
    """Resolves the rows that were left in the middle of filing."""

    def __init__(self, queue: Queue, filing: Filing, requeue: "Requeue", cleanup: Cleanup, inbox: Path) -> None:
        self._queue, self._filing, self._requeue = queue, filing, requeue
        self._cleanup, self._inbox = cleanup, inbox

    def complete(self, job: Job) -> bool:
        """Complete a job whose bytes are safe at its destination; return False, with nothing left there, for any other.

        Raises EnvironmentFault where nobody knows.
        """
        try:
            file = InboxFile.closed(self._inbox / job.path)
        except Immovable:  # never claimed by a name that could be opened, so never on its way
            return False
        destination = self._destination(job)
        if destination is None:
            return False
        try:
            with atomic.blaming(str(destination.parent)):
                atomic.temporary(destination, job.id).unlink(missing_ok=True)
                if not _is_there(job, destination, file):
                    _undo(destination, file)
                    return False
        except NameRefused:  # what can't be called so is not there
            return False
        with atomic.blaming(str(destination)):
            _log.info("image %d: %s", job.id, self._filing.record(job))
            self._leave(job, file)
        return True

    def undo_link(self, job: Job) -> None:
        """Remove the second name that a file of the inbox may have at its destination; best effort."""
        destination = self._destination(job)
        if destination is not None:
            atomic.unlink_second(destination, self._inbox / job.path)

    def leave(self, job: Job) -> None:
        """Remove the inbox name of a file that is safe elsewhere; what is another file by now is queued."""
        try:
            file = InboxFile.closed(self._inbox / job.path)
        except Immovable:
            return
        if file is None or self._is_safe(job, file):
            self._leave(job, file)
        else:
            found = Found(job.path, file.was.st_size, file.was.st_mtime_ns)
            self._queue.left(job.id)
            self._queue.enqueue([found], time.time())
            _log.info("image %d: %s is another file now and is queued", job.id, names.display(job.path))

    def bring_back(self) -> None:
        """Finish for each row on its way back from `failed/` what a crash has left."""
        self._requeue.bring_back()

    def _leave(self, job: Job, file: InboxFile | None) -> None:
        if self._filing.leave(job, file):
            self._cleanup.note(self._inbox / job.path)

    def _destination(self, job: Job) -> Path | None:
        if job.place is None or job.destination is None:
            return None
        return self._filing.roots[job.place] / job.destination

    def _is_safe(self, job: Job, file: InboxFile) -> bool:
        """Return whether an inbox file is the one that the row has filed, by its bytes, and they are still filed."""
        kept = self._destination(job)
        if kept is None and job.sha256 is not None and (twin := self._queue.filed(job.sha256)) is not None:
            kept = self._filing.roots["library"] / twin[1]
        if kept is None or not atomic.exists(kept):
            return False
        with atomic.blaming(str(file.path)):
            if os.path.samestat(kept.lstat(), file.was):
                return True
            same_size = atomic.size_of(kept) == atomic.size_of(file.path) is not None
            return same_size and atomic.sha256(file.path) == job.sha256 == atomic.sha256(kept)


def _is_there(job: Job, destination: Path, file: InboxFile | None) -> bool:
    """Return whether the destination durably holds the job's bytes."""
    if job.sha256 is not None:
        if atomic.size_of(destination) is None or atomic.sha256(destination) != job.sha256:
            return False
        atomic.make_durable(destination)
        return True
    # A symbolic link, a FIFO, another's file: known by being the same thing, or by having been renamed.
    if not atomic.exists(destination):
        return False
    if file is not None and not os.path.samestat(destination.lstat(), file.was):
        return False
    atomic.fsync_folder(destination.parent)
    return True


def _undo(destination: Path, file: InboxFile | None) -> None:
    """Remove what the move has left at a destination that does not hold the right bytes, if it is surely ours."""
    with suppress(FileNotFoundError, NotADirectoryError):
        here = destination.lstat()
        linked = file is not None and os.path.samestat(here, file.was)
        # Empty: a name reserved on a filesystem without exclusive renames.
        if linked or (here.st_size == 0 and atomic.size_of(destination) == 0):
            destination.unlink()


class Requeue:
    """Moves failed files back into one inbox; `state` is the folder for the lock."""

    def __init__(self, queue: Queue, inbox: Path, roots: Mapping[Place, Path], state: Path) -> None:
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
        if not job.path or not os.path.lexists(self._inbox / job.path):
            raise Rejected(f"image {job.id}: its file is gone: {job.error}")
        self._queue.again(job.id, job.path, time.time(), returning=False)

    def _from_failed(self, job: Job, destination: str) -> None:
        old = self._failed / destination
        if not atomic.exists(old):
            raise Rejected(f"image {job.id}: {old} is gone")
        self._check_readable(job, old)
        wanted = PurePosixPath(destination).with_name(names.component(job.original_name))
        # The name that it came with may be one that only the folder `failed` holds, or the other way round.
        for shape in dict.fromkeys([wanted, names.portable(wanted)]):
            for number in range(_TRIES):
                path = names.numbered(shape, number)
                if not os.path.lexists(self._inbox / path) and self._queue.again(
                    job.id, str(path), time.time(), returning=True
                ):
                    for row in self._queue.returning():
                        if row.id == job.id:
                            self._return(row)
                    return
        raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.original_name)}")

    def _check_readable(self, job: Job, old: Path) -> None:
        """Raise Rejected where the file can't be read, and so would only fail again."""
        try:
            os.close(open_regular(old, root=self._failed))
        except Rejected:
            pass  # a link or a pipe: moved without being opened, as when it failed
        except Postponed as busy:
            raise Rejected(f"image {job.id}: {names.display(str(old))} is {busy}") from busy
        except (Transient, Withdrawn) as fault:
            raise Rejected(f"image {job.id}: {names.display(str(old))}: {fault}") from fault

    def _return(self, job: Job) -> None:
        """Move one returning row's file; where that can't be done, fail the row again and raise what was wrong."""
        old = self._failed / str(job.destination)
        moved: Path | None = None
        try:
            if atomic.exists(old):
                moved = self._appear(job, old)
                with atomic.blaming(str(old)):
                    old.unlink(missing_ok=True)
        except (DarkroomError, OSError) as fault:
            if moved is not None:
                with suppress(OSError, DarkroomError):
                    atomic.take_back(moved, old)
            self._queue.not_returned(job.id, f"it could not be queued again: {fault}", time.time())
            if isinstance(fault, EnvironmentFault | Rejected):
                raise
            raise Rejected(f"image {job.id}: {fault}") from fault
        try:
            reason_beside(old).unlink(missing_ok=True)
        except OSError as fault:  # a note that is out of date, and no more
            _log.warning("image %d: %s stays: %s", job.id, reason_beside(old), fault.strerror)
        self._queue.returned(job.id, time.time())

    def _appear(self, job: Job, old: Path) -> Path | None:
        """Make the file appear in the inbox, too; return the name that this made, None where it was there before."""
        for number in range(_TRIES):
            name = names.numbered(PurePosixPath(job.path), number)
            # A name that another file took meanwhile is left to it.
            if number and not self._queue.again(job.id, str(name), time.time(), returning=True):
                continue
            new = self._inbox / name
            try:
                self._place(job, old, new)
            except FileExistsError:
                if _same(old, new):
                    return None
            except DarkroomError:
                # Linked, perhaps, but not durably: the second name must not be taken for a new file.
                atomic.unlink_second(new, old)
                raise
            else:
                return new
        raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.path)}")

    def _place(self, job: Job, old: Path, new: Path) -> None:
        with atomic.blaming(str(old)):
            if atomic.size_of(old) is None:
                atomic.place_node(old, self._inbox, new)
                return
            with old.open("rb") as opened:
                fd = opened.fileno()
                atomic.place(fd, old, self._inbox, new, job.id, atomic.sha256(fd))


def _same(old: Path, new: Path) -> bool:
    if not atomic.exists(new):
        return False
    with atomic.blaming(str(new)):
        if os.path.samestat(old.lstat(), new.lstat()):
            return True
        return atomic.size_of(old) == atomic.size_of(new) is not None and atomic.sha256(old) == atomic.sha256(new)
