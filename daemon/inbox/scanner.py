"""Looks through the inbox, all of it or where events point, and hands what it finds to the queue."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol

from daemon.files.atomic import Location, Root
from daemon.files.walk import Found, batched, is_below, is_junk, look, outermost, walk
from daemon.inbox.events import PendingEvents


class FileQueue(Protocol):
    """The queue, as the watcher sees it."""

    def enqueue(self, files: Sequence[Found], now: float) -> list[str]:
        """Queue files in one transaction, idempotently; return the paths that were new or had changed."""
        ...

    def rename(self, old: str, new: str, now: float) -> None:
        """Follow a file, or all files of a folder, that was renamed inside the inbox."""
        ...


class Scanner:
    """Finds files for the queue; used by one thread at a time.

    `progress` is the `time.monotonic()` of the last batch, so that a long scan is not taken for a stuck one.
    """

    _SAMPLE = 1000

    def __init__(self, inbox: Root, queue: FileQueue, ignore: Sequence[str], recursive: bool) -> None:
        self._inbox, self._queue, self._ignore, self._recursive = inbox, queue, tuple(ignore), recursive
        self._reported: set[str] = set()
        self.progress = time.monotonic()
        self.last: datetime | None = None
        self.seconds: float | None = None

    def scan(self, between: Callable[[], bool] | None = None) -> tuple[int, list[str]]:
        """Look through the whole inbox; return how many files were new to the queue, and some of them.

        `between` is called after each batch and ends the scan by returning False. Raises OSError where the
        inbox can't be read, and whatever the queue raises.
        """
        began = time.monotonic()
        count, sample = 0, list[str]()
        for batch in batched(self._walk("")):
            new = self._enqueue(batch)
            count += len(new)
            sample += new[: self._SAMPLE - len(sample)]
            if between is not None and not between():
                return count, sample
        self.last, self.seconds = datetime.now(UTC), time.monotonic() - began
        return count, sample

    def scan_pending(self, pending: PendingEvents) -> None:
        """Look where events point: renames first, then files, then whole folders."""
        for old, new in pending.renames:
            # From a junk name it was never queued; to one, its row will be withdrawn like a deleted file's.
            if not is_junk(old, self._ignore) and not is_junk(new, self._ignore):
                self._queue.rename(old, new, time.time())
                self.progress = time.monotonic()
        folders = set(pending.folders) if self._recursive else set()
        paths = (path for path in pending.files if not is_junk(path, self._ignore) and not is_below(path, folders))
        for batch in batched(found for path in paths if (found := look(self._inbox, path))):
            self._enqueue(batch)
        for folder in outermost(folders):
            if not is_junk(folder, self._ignore):
                # Its files may be older than the watch on it.
                for batch in batched(self._walk(folder)):
                    self._enqueue(batch)

    def _walk(self, below: str) -> Iterator[Found]:
        return walk(self._inbox, self._ignore, self._recursive, below=below, reported=self._reported)

    def _enqueue(self, batch: Sequence[Found]) -> list[str]:
        new = self._queue.enqueue(batch, time.time())
        self.progress = time.monotonic()
        return new


class EventCheck:
    """Whether scans keep finding files that events should have named.

    A path counts once, and not at all after an event has named it: a slow writer makes no events.
    """

    _REMEMBERED = 10_000

    def __init__(self, limit: int = 3, late_seconds: float = 5.0) -> None:
        self._limit, self._late_seconds = limit, late_seconds
        self._known: dict[str, None] = {}
        self._streak = 0

    def seen(self, paths: Iterable[str]) -> None:
        """Remember paths that events have named."""
        for path in paths:
            self._known.pop(path, None)
            self._known[path] = None
        for path in list(islice(self._known, max(0, len(self._known) - self._REMEMBERED))):
            del self._known[path]

    def judge(self, inbox: Root, new: Iterable[str], now: float) -> str | None:
        """Take what a periodic scan found new; name a missed file if `limit` scans in a row found some.

        `now` is in seconds since the epoch, to compare with the files' ctime.
        """
        missed = [path for path in new if path not in self._known and self._is_late(inbox / path, now)]
        self._streak = self._streak + 1 if missed else 0
        self.seen(missed)
        return missed[0] if self._streak >= self._limit else None

    def _is_late(self, file: Location, now: float) -> bool:
        try:
            here = file.lstat()
        except OSError:
            return False
        return here is not None and here.st_ctime < now - self._late_seconds
