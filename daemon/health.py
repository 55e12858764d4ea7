"""How each part of the running program is: what `/healthz`, `status`, `doctor` and systemd ask."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from daemon.captions.captioner import Captioner
from daemon.catalogue import Queue
from daemon.catalogue.settings import FAULT_PREFIX, Settings
from daemon.errors import EnvironmentFault
from daemon.filing.consumer import Consumer
from daemon.inbox.watcher import Watcher
from daemon.loop import Loop, LoopFault


@dataclass(frozen=True)
class Finding:
    """What one look came to. `mend` is what to do about it; None where all is well."""

    subject: str
    text: str
    fix: str | None = None

    @property
    def ok(self) -> bool:
        """Tell whether there is nothing to do."""
        return self.fix is None

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" + (f"; {self.fix}" if self.fix else "")


# A turn of the idle or paused loop takes at most half a minute.
_TURN_SECONDS = 90.0
# What the slowest disk or share that anybody keeps photos on still copies and reads back in a second.
_BYTES_PER_SECOND = 1_000_000


class Faults:
    """The faults of this process's loops, stored for `status`, which is another process."""

    def __init__(self, stored: Settings) -> None:
        self._stored = stored

    def clear(self) -> None:
        """Forget what an earlier process has left. Raises EnvironmentFault."""
        for name in self._stored.faults():
            self._stored.set(FAULT_PREFIX + name, None)

    def reporter(self, name: str) -> Callable[[LoopFault | None], None]:
        """Return what a loop calls with each new fault, and with None when it is over."""

        def report(fault: LoopFault | None) -> None:
            self._stored.set(FAULT_PREFIX + name, None if fault is None else vars(fault))

        return report


class Pulse:
    """Whether watcher and consumer make progress; `decode_seconds` is what one image may take to decode."""

    def __init__(
        self,
        watcher: Watcher,
        consumer: Consumer,
        queue: Queue,
        decode_seconds: float,
        turn_seconds: float = _TURN_SECONDS,
    ) -> None:
        self._watcher, self._consumer, self._queue = watcher, consumer, queue
        self._decode_seconds = decode_seconds
        self._turn_seconds = turn_seconds

    def fault(self) -> str | None:
        """Return which loop is stuck or gone, in a sentence; None while both go round."""
        if not self._watcher.alive():
            return "the watcher has stopped looking"
        if self._consumer.loop.started and not self._consumer.loop.alive:
            return "the consumer has ended"
        stuck = time.monotonic() - self._consumer.loop.progress
        if stuck > self._turn_seconds and stuck > self._turn_seconds + self._in_hand_seconds():
            return f"the consumer has been stuck for {stuck:.0f} s"
        return None

    def _in_hand_seconds(self) -> float:
        """Compute what the image in hand may take: two tries of a decoder, then its bytes copied and read back."""
        with suppress(EnvironmentFault):  # then nothing is known to be in hand
            return sum(
                2 * self._decode_seconds + 2 * (job.size or 0) / _BYTES_PER_SECOND for job in self._queue.unfinished()
            )
        return 0.0


def parts(
    watcher: Watcher, consumer: Consumer, captioner: Captioner, others: Iterable[Loop], pulse: Pulse
) -> dict[str, tuple[bool, str]]:
    """Return of each part whether it is well, and how it is, for people."""
    looking, stuck = watcher.state, pulse.fault()
    captions = "on" if captioner.settings.key else "off"
    found = {
        "watcher": (watcher.alive() and looking.healthy, looking.problem or looking.reason or looking.mode),
        "consumer": (not (stuck or consumer.paused), stuck or consumer.paused or "working"),
        "captioner": (captioner.loop.alive, captions if captioner.loop.alive else "has ended"),
        **{loop.name: (loop.alive, "working" if loop.alive else "has ended") for loop in others if loop.started},
    }
    for loop in (consumer.loop, captioner.loop, *others):
        if loop.fault is not None and found[loop.name][0]:
            found[loop.name] = (False, f"{loop.fault.reason}; it is tried again by itself")
    return found
