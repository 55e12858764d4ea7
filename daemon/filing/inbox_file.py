"""A file of the inbox that is being filed: its name, what it looked like, and the open file under a lease."""

import os
from contextlib import ExitStack
from pathlib import Path

from daemon.catalogue.schema import Job
from daemon.errors import EnvironmentFault, Immovable, Postponed, WaitingReason
from daemon.files.atomic import BAD_NAME
from daemon.files.names import display
from daemon.files.opening import Identity, Lease, Snapshot, check_complete, compare, open_regular

_FOLDER_SECONDS = 60.0


class InboxFile:
    """One file of the inbox, until `close`.

    `was` is what stat said of it, `fd` is None for one that was not opened (a link, a FIFO, another user's file).
    """

    def __init__(self, path: Path, was: os.stat_result) -> None:
        self.path, self.was = path, was
        self.identity = Identity.of(was)
        self.fd: int | None = None
        self.lease: Lease | None = None
        self._settle_seconds = 0.0
        self._opened = ExitStack()

    @classmethod
    def open(cls, inbox: Path, path: Path, settle_seconds: float) -> "InboxFile":
        """Open a file of the inbox, under a lease where the kernel grants one; raises what `open_regular` raises.

        `settle_seconds` is how long it has to be unchanged where there are no leases.
        """
        with ExitStack() as opened:
            fd = open_regular(path, root=inbox)
            opened.callback(os.close, fd)
            lease = opened.enter_context(Lease(fd))
            file = cls(path, os.fstat(fd))
            file.fd, file.lease, file._settle_seconds, file._opened = fd, lease, settle_seconds, opened.pop_all()
        return file

    @classmethod
    def closed(cls, path: Path) -> "InboxFile | None":
        """Describe a file without opening it; None where there is none.

        Raises Immovable where its path is too long to be used, EnvironmentFault.
        """
        try:
            return cls(path, path.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in BAD_NAME:
                raise Immovable(f"its path can't be used: {error.strerror}") from error
            raise EnvironmentFault(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._opened.close()

    def compare(self, job: Job, now: float) -> Snapshot:
        """Compare the file with what its row remembers; return what to remember."""
        before = None
        if job.size is not None and job.mtime_ns is not None:
            before = Snapshot(job.size, job.mtime_ns, job.quiet_since or now)
        return compare(before, self.was, now)

    def check_complete(self, snapshot: Snapshot, now: float) -> None:
        """Raise Postponed unless the file is complete and can leave its folder."""
        if self.lease is not None:
            check_complete(self.lease, snapshot, now, self._settle_seconds)
        folder = self.path.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise Postponed(WaitingReason.FOLDER, _FOLDER_SECONDS, display(folder.name))

    def check_unchanged(self) -> None:
        """Raise Postponed where the bytes are no longer those that were there when the file was opened."""
        if self.fd is None or self.lease is None:
            return
        if self.lease.broken() or Identity.of(os.fstat(self.fd)) != self.identity:
            raise Postponed(WaitingReason.CHANGED, self._settle_seconds, "filed")

    def is_still(self, path: Path) -> bool:
        """Return whether this file is what lies under a path now, unchanged."""
        try:
            return path == self.path and Identity.of(path.lstat()) == self.identity
        except OSError:
            return False
