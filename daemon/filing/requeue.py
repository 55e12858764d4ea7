"""Queues failed images again: the file goes back into the inbox, since that is where a queued file is.

The row is written first (queued, with the inbox name it is about to get, and still with its place in `failed/`),
then the file is linked, then its old name goes. A row that has both is never claimed, and whoever finds one after
a crash just does the rest.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from daemon import disk, names
from daemon.catalogue import Job, Place, Queue
from daemon.errors import Rejected
from daemon.filing import moves
from daemon.filing.destination import reason_beside, temporary

_TRIES = 10_000


def retry(queue: Queue, image_id: int, inbox: Path, roots: Mapping[Place, Path]) -> None:
    """Queue one failed image again. Raises Rejected saying why it can't be."""
    job = queue.failed(image_id)
    if job is None:
        raise Rejected(f"image {image_id} is not a failed one")
    if job.destination is None:
        if not job.path or not os.path.lexists(inbox / job.path):
            raise Rejected(f"image {image_id}: its file is gone: {job.error}")
        queue.again(image_id, job.path, time.time(), returning=False)
        return
    if not os.path.lexists(roots["failed"] / job.destination):
        raise Rejected(f"image {image_id}: {roots['failed'] / job.destination} is gone")
    wanted = PurePosixPath(job.destination).with_name(names.component(job.original_name))
    for number in range(_TRIES):
        name = names.numbered(wanted, number)
        if not os.path.lexists(inbox / name) and queue.again(image_id, str(name), time.time(), returning=True):
            bring_back(queue, inbox, roots)
            return
    raise Rejected(f"image {image_id}: the inbox is full of files named {names.display(job.original_name)}")


def bring_back(queue: Queue, inbox: Path, roots: Mapping[Place, Path]) -> None:
    """Move the files of returning rows from `failed/` into the inbox; also those that a crash has left."""
    for job in queue.returning():
        old = roots["failed"] / str(job.destination)
        if os.path.lexists(old):
            _move_back(queue, job, old, inbox)
            with disk.blaming(str(old)):
                old.unlink(missing_ok=True)
        with disk.blaming(str(old)):
            reason_beside(old).unlink(missing_ok=True)
        queue.returned(job.id, time.time())


def _move_back(queue: Queue, job: Job, old: Path, inbox: Path) -> None:
    for number in range(_TRIES):
        name = names.numbered(PurePosixPath(job.path), number)
        # A name that another file took meanwhile is left to it.
        if number and not queue.again(job.id, str(name), time.time(), returning=True):
            continue
        with suppress(FileExistsError):
            _link(old, inbox, inbox / name, job)
        if _same(old, inbox / name):
            return
    raise Rejected(f"image {job.id}: the inbox is full of files named {names.display(job.path)}")


def _link(old: Path, inbox: Path, new: Path, job: Job) -> None:
    if disk.size_of(old) is None:
        moves.place_node(old, inbox, new)
        return
    with old.open("rb") as opened:
        fd = opened.fileno()
        moves.place(fd, old, inbox, new, temporary(new, job.id), disk.sha256(fd))


def _same(old: Path, new: Path) -> bool:
    if not os.path.lexists(new):
        return False
    if os.path.samestat(old.lstat(), new.lstat()):
        return True
    return disk.size_of(old) == disk.size_of(new) is not None and disk.sha256(old) == disk.sha256(new)
