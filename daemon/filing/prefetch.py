"""The file in the consumer's hand, open and leased; and the next one, developed while this one is filed.

Developing keeps the child process busy and filing the disk, so the two go on side by side. To look ahead is no claim:
the row stays queued, no attempt is spent, and what comes of it counts only if the queue hands out that row next and
the file is still the same one.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemon.catalogue import Job, Queue
from daemon.decoding import Decoded
from daemon.errors import DarkroomError, Postponed
from daemon.files import opening
from daemon.files.names import IMAGE_SUFFIXES, split
from daemon.files.opening import Identity
from daemon.filing.inbox_file import Hand


class Prefetcher:
    """Where files are developed: the one in hand, and one ahead. For one thread."""

    def __init__(self, inbox: Path, queue: Queue, decode: Callable[[Path], Decoded], settle_seconds: float) -> None:
        self._inbox = inbox
        self._queue = queue
        self._decode = decode
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

    def decode(self, hand: Hand) -> Decoded:
        """Have a file developed, if it isn't yet; raises what the developer raises, Postponed where it has changed."""
        decoded = (hand.decoding or self._thread.submit(self._decode, hand.path)).result()
        if decoded.identity != Identity.of(hand.was):
            raise Postponed("changed while it was being read", self._settle_seconds)
        hand.unchanged()
        return decoded

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
        if hand.lease.state is opening.LeaseState.GRANTED:
            hand.decoding = self._thread.submit(self._decode, hand.path)
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
