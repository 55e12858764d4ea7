"""Opens the file whose turn it is, and has it decoded; meanwhile the next ones, ahead of their turn.

Decoding keeps child processes busy and filing the disk, so the two go on side by side. To look ahead is no claim: the
rows stay queued, no attempt is spent, and what comes of it counts only when the queue hands out that row and the file
is still the same one.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from daemon.catalogue.queue import Queue
from daemon.catalogue.schema import Job
from daemon.decoding import Decoded
from daemon.errors import DarkroomError, Postponed, WaitingReason
from daemon.files.atomic import Root, by_descriptor
from daemon.files.names import IMAGE_SUFFIXES, split
from daemon.files.opening import Identity, LeaseState, check_unchanged
from daemon.filing.inbox_file import InboxFile


class Decoder(Protocol):
    """What makes a `Decoded` of a file (the sandbox)."""

    def decode(self, path: Path) -> Decoded:
        """Raise Rejected, Transient, Postponed or Withdrawn where that can't be done."""


@dataclass(frozen=True)
class _Ahead:
    """A file that is decoded ahead of its turn."""

    file: InboxFile
    decoding: Future[Decoded]

    def let_go(self) -> None:
        """Close the file, and leave it under the name that it was found under."""
        self.decoding.cancel()
        self.file.keep_hidden()
        self.file.close()


class Prefetcher:
    """Opens and decodes the files of one inbox, `decoders` at a time; for one thread."""

    def __init__(
        self,
        inbox: Root,
        queue: Queue,
        decoder: Decoder,
        settle_seconds: float,
        quiet_seconds: float = 0.0,
        decoders: int = 1,
    ) -> None:
        self._inbox, self._queue, self._decoder = inbox, queue, decoder
        self.settle_seconds, self._quiet_seconds = settle_seconds, quiet_seconds
        # One more than are decoded at a time, so that none has to wait for the next turn.
        self._depth = decoders + 1
        self._ahead: dict[int, _Ahead] = {}
        self._taken: _Ahead | None = None
        self._threads = ThreadPoolExecutor(decoders, "decode")

    def take(self, job: Job) -> InboxFile:
        """Open a claimed row's file, or hand over the one opened ahead; raises what `InboxFile.open` raises."""
        self._taken, ahead = None, self._ahead.pop(job.id, None)
        if ahead is None:
            return InboxFile.open(self._inbox, job, self.settle_seconds)
        if not ahead.file.is_still(job):
            ahead.let_go()
            return InboxFile.open(self._inbox, job, self.settle_seconds)
        if ahead.file.lease is not None and ahead.file.lease.broken():
            # Its writer waits in open() and has to come first: another lease, taken at once, might beat it.
            ahead.let_go()
            raise Postponed(WaitingReason.WRITER, self.settle_seconds)
        ahead.file.token = job.token
        self._taken = ahead
        return ahead.file

    def decode(self, file: InboxFile, *, look_ahead_at: float | None) -> Decoded:
        """Return what the bytes of a file tell; meanwhile begin with those whose turn is next.

        `look_ahead_at` is when they have to be due, None to leave them alone. Raises what the decoder raises, Postponed
        where the file has changed.
        """
        taken, self._taken = self._taken, None
        decoding = taken.decoding if taken is not None and taken.file is file else self._begin(file)
        if look_ahead_at is not None:
            self._look_ahead(look_ahead_at)
        decoded = decoding.result()
        if decoded.identity != Identity.of(file.was):
            raise Postponed(WaitingReason.CHANGED, self.settle_seconds, "read")
        if file.fd is not None and file.lease is not None:
            check_unchanged(file.lease, file.fd, file.was, self.settle_seconds)
        return decoded

    def close(self) -> None:
        """Let go of the files that were opened ahead."""
        while self._ahead:
            self._ahead.popitem()[1].let_go()

    def shut_down(self) -> None:
        """Let the threads end; nothing can be decoded after that."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _look_ahead(self, now: float) -> None:
        """Begin to decode the photos whose turn is next, and give up those whose turn it is no more.

        None that was tried before, which may be what killed the process then, or is still arriving. None that has to be
        unchanged for longer.
        """
        try:
            rows = self._queue.following(now, self._depth)
        except DarkroomError:  # said when it is claimed
            return
        over = dict(self._ahead)
        for row in rows:
            if over.pop(row.id, None) is None and self._is_to_decode(row, now):
                self._open_ahead(row)
        for image_id in over:
            self._ahead.pop(image_id).let_go()

    def _is_to_decode(self, row: Job, now: float) -> bool:
        if row.attempts or row.waiting is WaitingReason.INCOMPLETE:
            return False
        if row.source != "upload" and now < (row.quiet_since or now) + self._quiet_seconds:
            return False
        return split(row.path)[1].lower() in IMAGE_SUFFIXES

    def _open_ahead(self, row: Job) -> None:
        """Begin to decode a photo that is complete: under a lease, or where there are none already out of sight."""
        try:
            file = InboxFile.open(self._inbox, row, self.settle_seconds)
        except DarkroomError:  # said when it is its turn
            return
        state = LeaseState.UNSUPPORTED if file.lease is None else file.lease.state
        if state is LeaseState.GRANTED or (state is LeaseState.UNSUPPORTED and file.hidden is not None):
            self._ahead[row.id] = _Ahead(file, self._begin(file))
        else:
            file.keep_hidden()
            file.close()

    def _begin(self, file: InboxFile) -> Future[Decoded]:
        return self._threads.submit(self._decoder.decode, _held(file))


def _held(file: InboxFile) -> Path:
    """Return a path by which the decoders open this very file, whatever its name has become."""
    assert file.fd is not None  # noqa: S101
    return by_descriptor(file.fd, (file.hidden or file.entry).where.path)
