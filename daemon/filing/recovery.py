"""Finishes or undoes what a crash, or a fault in the middle of filing, has left.

Every function here may itself be killed at any instant and be run again.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from daemon import disk, names
from daemon.catalogue import Job, Queue
from daemon.filing.destination import temporary
from daemon.filing.requeue import bring_back
from daemon.filing.source import Source, source_of
from daemon.filing.steps import Filing
from daemon.scan import OWN_PREFIX, Found

_log = logging.getLogger(__name__)

_FAULT_SECONDS = 30.0
# What an upload is called in the inbox while it arrives.
UPLOAD_PREFIX = f"{OWN_PREFIX}upload-"


def recover(queue: Queue, filing: Filing, inbox: Path, *, spent: bool = True) -> None:
    """Resolve all that a dead process left. Raises EnvironmentFault where a folder is not usable."""
    for job in queue.unfinished():
        resolve(job, queue, filing, inbox, spent=spent)
    bring_back(queue, inbox, filing.roots)
    finish_leaving(queue, filing, inbox)


def sweep_uploads(inbox: Path) -> None:
    """Remove what uploads that a dead process was receiving have left; before any new one can arrive."""
    with suppress(FileNotFoundError), disk.blaming(str(inbox)):
        for leftover in inbox.glob(f"{UPLOAD_PREFIX}*"):
            leftover.unlink(missing_ok=True)


def resolve(job: Job, queue: Queue, filing: Filing, inbox: Path, *, spent: bool, live: bool = False) -> None:
    """Complete a job whose bytes have arrived at its destination; put any other back into the queue.

    `spent`: the attempt counts, since the image itself may have killed the process. `live`: it did not; this
    process had begun the job itself.
    """
    source = source_of(inbox / job.path)
    if job.place is not None and job.destination is not None:
        destination = filing.roots[job.place] / job.destination
        with disk.blaming(str(destination.parent)):
            temporary(destination, job.id).unlink(missing_ok=True)
            if _arrived(job, destination, source):
                _log.info("image %d: %s", job.id, filing.complete(job, job.place, source))
                return
            _undo(destination, source)
    now = time.time()
    if live:
        # Others go first: should the fault concern this image alone, it must not hold up the queue.
        queue.release(job, "interrupted by a fault", now + _FAULT_SECONDS, now, spent=spent)
    else:
        queue.release(job, "darkroom was interrupted", now, now, spent=spent)


def finish_leaving(queue: Queue, filing: Filing, inbox: Path) -> None:
    """Remove the inbox names of files that are safe elsewhere; what is another file by now is queued."""
    for job in queue.leaving():
        path = inbox / job.path
        source = source_of(path)
        if source is not None and not _is_safe(job, queue, filing, source):
            found = Found(job.path, source.was.st_size, source.was.st_mtime_ns)
            queue.left(job.id)
            queue.enqueue([found], time.time())
            _log.info("image %d: %s is another file now and is queued", job.id, names.display(job.path))
            continue
        if source is None:
            queue.left(job.id)
        else:
            filing.leave(job, source)


def _arrived(job: Job, destination: Path, source: Source | None) -> bool:
    """Tell whether the destination durably holds the job's bytes."""
    if job.sha256 is not None:
        if disk.size_of(destination) is None or disk.sha256(destination) != job.sha256:
            return False
        disk.make_durable(destination)
        return True
    # A symbolic link, a FIFO, another's file: known by being the same thing, or by having been renamed.
    if not os.path.lexists(destination):
        return False
    if source is not None and not os.path.samestat(destination.lstat(), source.was):
        return False
    disk.fsync_folder(destination.parent)
    return True


def _undo(destination: Path, source: Source | None) -> None:
    """Remove what the move has left at a destination that does not hold the right bytes, if it is surely ours."""
    with suppress(FileNotFoundError, NotADirectoryError):
        here = destination.lstat()
        linked = source is not None and os.path.samestat(here, source.was)
        # Empty: a name reserved on a filesystem without exclusive renames.
        if linked or (here.st_size == 0 and disk.size_of(destination) == 0):
            destination.unlink()


def _is_safe(job: Job, queue: Queue, filing: Filing, source: Source) -> bool:
    """Tell whether an inbox file is the one that the row has filed, by its bytes, and they are still filed."""
    kept = None
    if job.place is not None and job.destination is not None:
        kept = filing.roots[job.place] / job.destination
    elif job.sha256 is not None and (twin := queue.filed(job.sha256)) is not None:
        kept = filing.roots["library"] / twin[1]
    if kept is None or not os.path.lexists(kept):
        return False
    with disk.blaming(str(source.path)):
        if os.path.samestat(kept.lstat(), source.was):
            return True
        same_size = disk.size_of(kept) == disk.size_of(source.path) is not None
        return same_size and disk.sha256(source.path) == job.sha256 == disk.sha256(kept)
