"""A file of the inbox that is being filed: its name in its open folder, what it looked like, and the open file."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import PurePosixPath

from daemon.catalogue.schema import Job
from daemon.errors import EnvironmentFault, Immovable, Postponed, WaitingReason, Withdrawn
from daemon.files import atomic, names
from daemon.files.atomic import Entry, Location, Root
from daemon.files.opening import (
    Identity,
    Lease,
    LeaseState,
    Snapshot,
    check_complete,
    check_unchanged,
    compare,
    open_regular,
    opened,
)

_FOLDER_SECONDS = 60.0
_RENAMED_SECONDS = 1.0
_TRIES = 1000
_NAME_BYTES = 255


class InboxFile:
    """One file of the inbox, until `close`.

    `was` is what stat said of it, `fd` is None for one that was not opened (a link, a FIFO, another user's file).
    From the last look at it on it has a hidden name, which `close` takes back unless the file has `left`: nobody who
    looks for it by its name can open it any more, and nothing else is removed in its place.
    """

    def __init__(self, entry: Entry, was: os.stat_result, token: str) -> None:
        self.entry, self.was = entry, was
        self.fd: int | None = None
        self.lease: Lease | None = None
        self.hidden: Entry | None = None
        # Its name has gone already: with the move, or since its owner has deleted it.
        self.gone = False
        # Why its name can't be taken away; it is filed all the same.
        self.stays: str | None = None
        self.token = token
        self._settle_seconds = 0.0
        self._opened = ExitStack()

    @classmethod
    def open(cls, inbox: Root, job: Job, settle_seconds: float, *, left: bool = False) -> "InboxFile":
        """Open a file of the inbox, under a lease where the kernel grants one; raises what `open_regular` raises.

        `settle_seconds` is how long it has to be unchanged where there are no leases; `left` says that an earlier
        process may have left it under its hidden name.
        """
        with ExitStack() as stack:
            entry = stack.enter_context(opened(inbox / job.path))
            hidden = _hidden(entry, job) if left or job.waiting is WaitingReason.LEAVING else None
            fd = open_regular(hidden or entry)
            stack.callback(os.close, fd)
            lease = stack.enter_context(Lease(fd))
            file = cls(entry, os.fstat(fd), job.token)
            file.fd, file.lease, file.hidden = fd, lease, hidden
            file._settle_seconds, file._opened = settle_seconds, stack.pop_all()
        return file

    @classmethod
    def closed(cls, inbox: Root, job: Job) -> "InboxFile | None":
        """Describe a file without opening it; None where there is none.

        Raises Immovable where its name is too long to be used, EnvironmentFault.
        """
        try:
            with ExitStack() as stack:
                entry = stack.enter_context(opened(inbox / job.path))
                hidden = _hidden(entry, job)
                file = cls(entry, (hidden or entry).lstat(), job.token)
                file.hidden, file._opened = hidden, stack.pop_all()
        except (FileNotFoundError, NotADirectoryError, Withdrawn):
            return None
        except OSError as error:
            if error.errno in atomic.BAD_NAME:
                raise Immovable(f"its name can't be used: {error.strerror}") from error
            raise atomic.meaning(error)(f"{inbox / job.path}: {error.strerror}") from error
        return file

    @property
    def where(self) -> Location:
        """Where it is in the inbox, under the name that its owner gave it."""
        return self.entry.where

    def close(self) -> None:
        """Give it its name back, unless it has left, and let go of it."""
        try:
            self.show()
        finally:
            self._opened.close()

    def compare(self, job: Job, now: float) -> Snapshot:
        """Compare the file with what its row remembers; return what to remember."""
        before = None
        if job.size is not None and job.mtime_ns is not None:
            before = Snapshot(job.size, job.mtime_ns, job.quiet_since or now)
        return compare(before, self.was, now)

    def check_complete(self, snapshot: Snapshot, now: float, quiet_seconds: float = 0.0) -> None:
        """Raise Postponed unless the file is complete and can leave its folder.

        It must have been unchanged for `quiet_seconds`. Where no lease says that nobody has it open it is complete once
        it was unchanged for `settle_seconds`, and once more so under a hidden name: who opens it by its name does so
        before that. What remains possible there is a program that has had it open all along, has written nothing for
        twice that time, and writes between the last look and the removal.
        """
        if self.lease is not None:
            check_complete(self.lease, snapshot, now, self._settle_seconds, quiet_seconds)
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=self.entry.folder):
            raise Postponed(WaitingReason.FOLDER, _FOLDER_SECONDS, names.display(self.where.parent.path.name))
        # An empty one keeps its name: it may be a placeholder, which its writer opens again to fill it.
        is_to_hide = self.was.st_size > 0 and self.hidden is None
        if self.lease is not None and self.lease.state is LeaseState.UNSUPPORTED and is_to_hide:
            with suppress(Immovable):
                self.hide()
            if self.hidden is not None and self._settle_seconds:
                self.hidden = None  # it keeps that name while it waits
                raise Postponed(WaitingReason.LEAVING, self._settle_seconds, f"{self._settle_seconds:g}")

    def check_unchanged(self) -> None:
        """Raise Postponed where the bytes are no longer those that were there when the file was opened."""
        if self.fd is not None and self.lease is not None:
            check_unchanged(self.lease, self.fd, self.was, self._settle_seconds)

    def hide(self) -> None:
        """Give it the hidden name, by which nobody else opens it, and look whether it is still this file, unchanged.

        Raises Postponed where another file has its name by now, or it has changed, Withdrawn where nothing has its
        name, Immovable where the name can't be taken away (a folder of others with the sticky bit, an immutable file),
        EnvironmentFault.
        """
        if self.gone:
            return
        if self.hidden is not None:
            self.check_unchanged()
            return
        hidden = self.entry.renamed(leaving_name(self.token, self.entry.name))
        try:
            atomic.rename_exclusive(self.entry, hidden)
            is_it = hidden.is_file(self.was) and self.entry.is_reached()
        except (FileNotFoundError, NotADirectoryError):
            raise Withdrawn(f"{names.display(self.entry.name)} is no longer in its folder") from None
        except PermissionError as error:
            raise Immovable(error.strerror or str(error)) from error
        except OSError as error:
            raise atomic.meaning(error)(f"{self.where}: {error.strerror}") from error
        self.hidden = hidden
        if not is_it:
            self.show()
            raise Postponed(WaitingReason.RENAMED, _RENAMED_SECONDS)
        if self.fd is not None and self.lease is not None:
            check_unchanged(self.lease, self.fd, self.was, self._settle_seconds)

    def show(self) -> None:
        """Give it its name back, or a numbered one where that is another file's by now. Raises EnvironmentFault."""
        hidden, self.hidden = self.hidden, None
        if hidden is not None:
            show(hidden, self.entry.name)

    def remove(self) -> None:
        """Remove its name for good, and durably. Raises OSError, Postponed where somebody writes into it again."""
        if self.fd is not None and self.lease is not None:
            check_unchanged(self.lease, self.fd, self.was, self._settle_seconds)
        if self.hidden is not None:
            self.hidden.unlink()
            self.hidden = None
        # Or a power cut could bring the name back with no row that knows it, and file the photo twice.
        self.entry.fsync_folder()

    def keep_hidden(self) -> None:
        """Leave it under its hidden name; start-up takes it from there."""
        self.hidden = None

    def is_still(self, job: Job) -> bool:
        """Return whether this file is what lies under a row's name now, unchanged."""
        try:
            here = (self.hidden or self.entry).lstat()
            return job.path == self.where.inside and Identity.of(here) == Identity.of(self.was)
        except OSError:
            return False


def leaving_name(token: str, name: str) -> str:
    """Return the hidden name under which a file waits for its removal; `token` is its row's, and can't be foretold."""
    head = f"{names.LEAVING_PREFIX}{token}-"
    return head + (name if len(os.fsencode(head + name)) <= _NAME_BYTES else names.cut(name, _NAME_BYTES - len(head)))


def hidden_and_shown(file: Location, token: str) -> Iterator[Location]:
    """Yield the names that a file of the inbox may have, of which it has one: the hidden one, where it has a token."""
    if token:
        yield file.with_name(leaving_name(token, file.name))
    yield file


def read_leaving(hidden: str) -> tuple[str, str] | None:
    """Return the token and the name that a hidden name was made of; None for any other name."""
    token, dash, name = hidden.removeprefix(names.LEAVING_PREFIX).partition("-")
    return (token, name) if hidden.startswith(names.LEAVING_PREFIX) and dash and name else None


def show(hidden: Entry, name: str) -> None:
    """Rename a hidden file back, no-clobber. Raises EnvironmentFault, NameRefused."""
    with atomic.blaming(str(hidden.where)):
        for number in range(_TRIES):
            try:
                atomic.rename_exclusive(hidden, hidden.renamed(names.numbered(PurePosixPath(name), number).name))
            except FileExistsError:
                continue
            except FileNotFoundError:
                return
            return
    raise EnvironmentFault(f"{hidden.where}: too many files are called {name}")


def _hidden(entry: Entry, job: Job) -> Entry | None:
    """Return the hidden name of a row's file where it has that now."""
    if not job.token:
        return None
    hidden = entry.renamed(leaving_name(job.token, entry.name))
    try:
        hidden.lstat()
    except OSError:
        return None
    return hidden
