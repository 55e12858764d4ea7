"""Queues failed images again: the file goes back into the inbox, since that is where a queued file is.

The row is written first (queued, with the inbox name it is about to get, and still with its place in `failed/`),
then the file is linked, then its old name goes. A row that has both is never claimed, and whoever finds one after
a crash does the rest. Where that can't be done the row fails again, as it was. One process or thread at a time: what
one has moved, another would take for left behind.
"""

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from daemon import disk, lock, names, settle
from daemon.catalogue import Job, Place, Queue
from daemon.errors import Busy, DarkroomError, EnvironmentFault, Postponed, Rejected, Transient, Withdrawn
from daemon.filing import moves
from daemon.filing.destination import reason_beside, temporary

_log = logging.getLogger(__name__)

_TRIES = 10_000
_BUSY_SECONDS = 10.0


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
        if not disk.exists(old):
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
            os.close(settle.open_regular(old, root=self._failed))
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
            if disk.exists(old):
                moved = self._appear(job, old)
                with disk.blaming(str(old)):
                    old.unlink(missing_ok=True)
        except (DarkroomError, OSError) as fault:
            if moved is not None:
                with suppress(OSError, DarkroomError):
                    moves.take_back(moved, old)
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
                moves.unlink_second(new, old)
                raise
            else:
                return new
        raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.path)}")

    def _place(self, job: Job, old: Path, new: Path) -> None:
        with disk.blaming(str(old)):
            if disk.size_of(old) is None:
                moves.place_node(old, self._inbox, new)
                return
            with old.open("rb") as opened:
                fd = opened.fileno()
                moves.place(fd, old, self._inbox, new, temporary(new, job.id), disk.sha256(fd))


def _same(old: Path, new: Path) -> bool:
    if not disk.exists(new):
        return False
    with disk.blaming(str(new)):
        if os.path.samestat(old.lstat(), new.lstat()):
            return True
        return disk.size_of(old) == disk.size_of(new) is not None and disk.sha256(old) == disk.sha256(new)
