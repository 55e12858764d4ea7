"""Opens the file whose turn it is, and has it decoded; meanwhile the next one, ahead of its turn.

Decoding keeps the child process busy and filing the disk, so the two go on side by side. To look ahead is no claim:
the row stays queued, no attempt is spent, and what comes of it counts only if the queue hands out that row next and
the file is still the same one.
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
    """The file that is decoded ahead of its turn."""

    image_id: int
    file: InboxFile
    decoding: Future[Decoded]


class Prefetcher:
    """Opens and decodes the files of one inbox; for one thread."""

    def __init__(
        self, inbox: Root, queue: Queue, decoder: Decoder, settle_seconds: float, quiet_seconds: float = 0.0
    ) -> None:
        self._inbox, self._queue, self._decoder = inbox, queue, decoder
        self.settle_seconds, self._quiet_seconds = settle_seconds, quiet_seconds
        self._ahead: _Ahead | None = None
        self._taken: tuple[InboxFile, Future[Decoded]] | None = None
        # One thread: the sandbox decodes one image at a time, one that was decoded ahead in vain included.
        self._thread = ThreadPoolExecutor(1, "decode")

    def take(self, job: Job) -> InboxFile:
        """Open a claimed row's file, or hand over the one opened ahead; raises what `InboxFile.open` raises."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return InboxFile.open(self._inbox, job, self.settle_seconds)
        if ahead.image_id != job.id or not ahead.file.is_still(job):
            ahead.file.close()
            return InboxFile.open(self._inbox, job, self.settle_seconds)
        if ahead.file.lease is not None and ahead.file.lease.broken():
            # Its writer waits in open() and has to come first: another lease, taken at once, might beat it.
            ahead.file.close()
            raise Postponed(WaitingReason.WRITER, self.settle_seconds)
        ahead.file.token = job.token
        self._taken = ahead.file, ahead.decoding
        return ahead.file

    def decode(self, file: InboxFile) -> Decoded:
        """Return what the bytes of a file tell; raises what the decoder raises, Postponed where it has changed."""
        taken, self._taken = self._taken, None
        begun = taken is not None and taken[0] is file
        decoding = taken[1] if taken and begun else self._thread.submit(self._decoder.decode, _held(file))
        decoded = decoding.result()
        if decoded.identity != Identity.of(file.was):
            raise Postponed(WaitingReason.CHANGED, self.settle_seconds, "read")
        if file.fd is not None and file.lease is not None:
            check_unchanged(file.lease, file.fd, file.was, self.settle_seconds)
        return decoded

    def look_ahead(self, now: float) -> None:
        """Begin to decode the photo whose turn is next.

        Not one that was tried before, which may be what killed the process then, or is still arriving. Not one that has
        to be unchanged for longer. Not without a lease: nothing else shows what is done to a file before its turn.
        """
        try:
            following = self._queue.following(now)
            if following is None or following.attempts or split(following.path)[1].lower() not in IMAGE_SUFFIXES:
                return
            if following.waiting is WaitingReason.INCOMPLETE:
                return
            if following.source != "upload" and now < (following.quiet_since or now) + self._quiet_seconds:
                return
            file = InboxFile.open(self._inbox, following, self.settle_seconds)
        except DarkroomError:  # said when it is its turn
            return
        if file.lease is not None and file.lease.state is LeaseState.GRANTED:
            self._ahead = _Ahead(following.id, file, self._thread.submit(self._decoder.decode, _held(file)))
        else:
            file.close()

    def close(self) -> None:
        """Let go of the file that was opened ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.file.close()

    def shut_down(self) -> None:
        """Let the thread end; nothing can be decoded after that."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _held(file: InboxFile) -> Path:
    """Return a path by which the decoders open this very file, whatever its name has become."""
    assert file.fd is not None  # noqa: S101
    return by_descriptor(file.fd, (file.hidden or file.entry).where.path)
