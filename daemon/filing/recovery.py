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
from daemon.errors import Immovable, NameRefused
from daemon.filing import moves
from daemon.filing.destination import temporary
from daemon.filing.source import Source, source_of
from daemon.filing.steps import Filing
from daemon.scan import OWN_PREFIX, Found

_log = logging.getLogger(__name__)

# What an upload is called in the inbox while it arrives.
UPLOAD_PREFIX = f"{OWN_PREFIX}upload-"


def sweep_uploads(inbox: Path) -> None:
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


def arrived(job: Job, filing: Filing, inbox: Path) -> bool:
    """Complete a job whose bytes are safe at its destination; return False, with nothing left there, for any other.

    Raises EnvironmentFault where that can't be told.
    """
    try:
        source = source_of(inbox / job.path)
    except Immovable:  # never claimed by a name that could be opened, so never on its way
        return False
    if job.place is None or job.destination is None:
        return False
    destination = filing.roots[job.place] / job.destination
    try:
        with disk.blaming(str(destination.parent)):
            temporary(destination, job.id).unlink(missing_ok=True)
            if not _is_there(job, destination, source):
                _undo(destination, source)
                return False
    except NameRefused:  # what can't be called so is not there
        return False
    with disk.blaming(str(destination)):
        _log.info("image %d: %s", job.id, filing.complete(job, job.place, source))
    return True


def undo_link(job: Job, filing: Filing, inbox: Path) -> None:
    """Remove the second name that a file of the inbox may have at its destination; best effort."""
    if job.place is not None and job.destination is not None:
        moves.unlink_second(filing.roots[job.place] / job.destination, inbox / job.path)


def finish_leaving(job: Job, queue: Queue, filing: Filing, inbox: Path) -> None:
    """Remove the inbox name of a file that is safe elsewhere; what is another file by now is queued."""
    try:
        source = source_of(inbox / job.path)
    except Immovable:
        return
    if source is None:
        queue.left(job.id)
    elif _is_safe(job, queue, filing, source):
        filing.leave(job, source)
    else:
        found = Found(job.path, source.was.st_size, source.was.st_mtime_ns)
        queue.left(job.id)
        queue.enqueue([found], time.time())
        _log.info("image %d: %s is another file now and is queued", job.id, names.display(job.path))


def _is_there(job: Job, destination: Path, source: Source | None) -> bool:
    """Return whether the destination durably holds the job's bytes."""
    if job.sha256 is not None:
        if disk.size_of(destination) is None or disk.sha256(destination) != job.sha256:
            return False
        disk.make_durable(destination)
        return True
    # A symbolic link, a FIFO, another's file: known by being the same thing, or by having been renamed.
    if not disk.exists(destination):
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
    """Return whether an inbox file is the one that the row has filed, by its bytes, and they are still filed."""
    kept = None
    if job.place is not None and job.destination is not None:
        kept = filing.roots[job.place] / job.destination
    elif job.sha256 is not None and (twin := queue.filed(job.sha256)) is not None:
        kept = filing.roots["library"] / twin[1]
    if kept is None or not disk.exists(kept):
        return False
    with disk.blaming(str(source.path)):
        if os.path.samestat(kept.lstat(), source.was):
            return True
        same_size = disk.size_of(kept) == disk.size_of(source.path) is not None
        return same_size and disk.sha256(source.path) == job.sha256 == disk.sha256(kept)
