"""The file in the consumer's hand, open and leased; and the next one, developed while this one is filed.

Developing keeps the child process busy and filing the disk, so the two go on side by side. To look ahead is no claim:
the row stays queued, no attempt is spent, and what comes of it counts only if the queue hands out that row next and
the file is still the same one.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from daemon import settle
from daemon.catalogue import Job, Queue
from daemon.develop import Developed, Identity
from daemon.errors import DarkroomError, Postponed
from daemon.filing.source import Source
from daemon.names import IMAGE_SUFFIXES, display, split


class Hand:
    """One inbox file, open and under a lease where the kernel grants one, until `close`."""

    def __init__(self, inbox: Path, job: Job, settle_seconds: float) -> None:
        """Open the file; raises what `settle.open_regular` raises."""
        self.job = job
        self.path = inbox / job.path
        self.developing: Future[Developed] | None = None
        self._settle_seconds = settle_seconds
        with ExitStack() as opened:
            fd = settle.open_regular(self.path, root=inbox)
            opened.callback(os.close, fd)
            self.lease = opened.enter_context(settle.Lease(fd))
            self.was = os.fstat(fd)
            self.source = Source(self.path, self.was, fd, self.unchanged)
            self._opened = opened.pop_all()
        self._fd = fd

    def close(self) -> None:
        """Let go of the file."""
        self._opened.close()

    def look(self, now: float) -> settle.Seen:
        """Compare the file with what its row remembers; returns what to remember."""
        size, mtime_ns = self.job.size, self.job.mtime_ns
        before = None
        if size is not None and mtime_ns is not None:
            before = settle.Seen(size, mtime_ns, self.job.quiet_since or now)
        return settle.look_again(before, self.was, now)

    def check(self, seen: settle.Seen, now: float) -> None:
        """Raise Postponed unless the file is complete and can leave its folder."""
        settle.check(self.lease, seen, now, self._settle_seconds)
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


class Bench:
    """Where files are developed: the one in hand, and one ahead. For one thread."""

    def __init__(self, inbox: Path, queue: Queue, develop: Callable[[Path], Developed], settle_seconds: float) -> None:
        self._inbox = inbox
        self._queue = queue
        self._develop = develop
        self._settle_seconds = settle_seconds
        self._ahead: Hand | None = None
        # One thread: the sandbox develops one image at a time, a look ahead that came to nothing included.
        self._thread = ThreadPoolExecutor(1, "develop")

    def take(self, job: Job) -> Hand:
        """Give a claimed job's file, perhaps looked ahead at; raises what `settle.open_regular` raises."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or not ahead.is_of(job):
            if ahead is not None:
                ahead.close()
            return Hand(self._inbox, job, self._settle_seconds)
        if ahead.lease.broken():
            # Its writer waits in open() and has to come first: another lease, taken at once, might beat it.
            ahead.close()
            raise Postponed("open for writing", self._settle_seconds)
        ahead.job = job
        return ahead

    def develop(self, hand: Hand) -> Developed:
        """Have a file developed, if it isn't yet; raises what the developer raises, Postponed where it has changed."""
        developed = (hand.developing or self._thread.submit(self._develop, hand.path)).result()
        if developed.identity != Identity.of(hand.was):
            raise Postponed("changed while it was being read", self._settle_seconds)
        hand.unchanged()
        return developed

    def look_ahead(self, now: float) -> None:
        """Begin to develop the photo whose turn is next.

        Not one that was tried before, which may be what killed the process then. Not without a lease: nothing else
        tells what is done to a file before its turn.
        """
        try:
            following = self._queue.following(now)
            if following is None or following.attempts or split(following.path)[1].lower() not in IMAGE_SUFFIXES:
                return
            hand = Hand(self._inbox, following, self._settle_seconds)
        except DarkroomError:  # said when it is its turn
            return
        if hand.lease.state is settle.LeaseState.GRANTED:
            hand.developing = self._thread.submit(self._develop, hand.path)
            self._ahead = hand
        else:
            hand.close()

    def shut_down(self) -> None:
        """Let the thread end; the bench is of no use after that."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Let go of the file that was looked ahead at."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.close()
