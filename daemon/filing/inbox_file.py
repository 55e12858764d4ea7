"""A file of the inbox that is being filed."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from daemon.catalogue import Job
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, Immovable, Postponed
from daemon.files import opening
from daemon.files.atomic import BAD_NAME
from daemon.files.names import display
from daemon.files.opening import Identity


@dataclass(frozen=True)
class Source:
    """The inbox name and the file behind it.

    `was` is what lstat said of it, `fd` is None for what can't be opened (a link, a FIFO, another user's file),
    `unchanged` raises Postponed when the bytes are no longer the ones that were looked at.
    """

    path: Path
    was: os.stat_result
    fd: int | None
    unchanged: Callable[[], None] = lambda: None


def source_of(path: Path) -> Source | None:
    """Describe an inbox file without opening it; None where there is none.

    Raises Immovable where its path is too long to be used, EnvironmentFault.
    """
    try:
        return Source(path, path.lstat(), None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in BAD_NAME:
            raise Immovable(f"its path can't be used: {error.strerror}") from error
        raise EnvironmentFault(f"{path}: {error.strerror}") from error


class Hand:
    """One inbox file, open and under a lease where the kernel grants one, until `close`."""

    def __init__(self, inbox: Path, job: Job, settle_seconds: float) -> None:
        """Open the file; raises what `settle.open_regular` raises."""
        self.job = job
        self.path = inbox / job.path
        self.decoding: Future[Decoded] | None = None
        self._settle_seconds = settle_seconds
        with ExitStack() as opened:
            fd = opening.open_regular(self.path, root=inbox)
            opened.callback(os.close, fd)
            self.lease = opened.enter_context(opening.Lease(fd))
            self.was = os.fstat(fd)
            self.source = Source(self.path, self.was, fd, self.unchanged)
            self._opened = opened.pop_all()
        self._fd = fd

    def close(self) -> None:
        """Let go of the file."""
        self._opened.close()

    def look(self, now: float) -> opening.Snapshot:
        """Compare the file with what its row remembers; returns what to remember."""
        size, mtime_ns = self.job.size, self.job.mtime_ns
        before = None
        if size is not None and mtime_ns is not None:
            before = opening.Snapshot(size, mtime_ns, self.job.quiet_since or now)
        return opening.compare(before, self.was, now)

    def check(self, seen: opening.Snapshot, now: float) -> None:
        """Raise Postponed unless the file is complete and can leave its folder."""
        opening.check_complete(self.lease, seen, now, self._settle_seconds)
        folder = self.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Postponed(f"its folder {display(folder.name)} can't be written, so it can't leave", 60.0)

    def unchanged(self) -> None:
        """Raise Postponed where the bytes are no longer those that were there when the file was opened."""
        if self.lease.broken() or Identity.of(os.fstat(self._fd)) != Identity.of(self.was):
            raise Postponed("changed while it was being filed", self._settle_seconds)

    def is_of(self, job: Job) -> bool:
        """Tell whether this is the file that a row means, unchanged under its name."""
        try:
            here = Identity.of(self.path.lstat())
        except OSError:
            return False
        return (job.id, job.path, here) == (self.job.id, self.job.path, Identity.of(self.was))
