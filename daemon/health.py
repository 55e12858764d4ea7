"""How each part of the running program is: what `/healthz`, `status`, `doctor` and systemd ask."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from daemon.captions.captioner import Captioner
from daemon.catalogue import Queue
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Stats
from daemon.errors import EnvironmentFault
from daemon.filing.consumer import Consumer
from daemon.inbox.watcher import Watcher
from daemon.loop import Loop, LoopFault

# A turn of the idle or paused loop takes at most half a minute.
_TURN_SECONDS = 90.0
# What the slowest disk or share that anybody keeps photos on still copies and reads back in a second.
_BYTES_PER_SECOND = 1_000_000


@dataclass(frozen=True)
class Finding:
    """What one look came to. `fix` is what to do about it; None where all is well."""

    subject: str
    text: str
    fix: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return self.fix is None

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class PartHealth:
    """Whether one part of the running program is well; `detail` says how it is, for people."""

    ok: bool
    detail: str


class Faults:
    """The faults of this process's loops, stored for `status`, which is another process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def clear(self) -> None:
        """Forget what an earlier process has left. Raises EnvironmentFault."""
        for name in self._settings.faults():
            self._settings.set_fault(name, None)

    def reporter(self, name: str) -> Callable[[LoopFault | None], None]:
        """Return what a loop calls with each new fault, and with None when it is over."""
        return lambda fault: self._settings.set_fault(name, fault)


class Pulse:
    """Whether watcher and consumer make progress; `decode_seconds` is what an image may take, but for reading it."""

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
        """Return which loop is stuck or gone, in a sentence; None while both make progress."""
        if not self._watcher.alive():
            return "the watcher has stopped looking"
        if self._consumer.loop.started and not self._consumer.loop.alive:
            return "the consumer has ended"
        stuck = time.monotonic() - self._consumer.loop.progress
        if stuck > self._turn_seconds and stuck > self._turn_seconds + self._seconds_at_work():
            return f"the consumer has been stuck for {stuck:.0f} s"
        return None

    def _seconds_at_work(self) -> float:
        """Compute what the image that is being filed may take: decoded twice, then its bytes copied and read back."""
        with suppress(EnvironmentFault):  # then nobody knows which one it is
            return sum(
                2 * self._decode_seconds + 2 * (job.size or 0) / _BYTES_PER_SECOND for job in self._queue.unfinished()
            )
        return 0.0


def parts(
    watcher: Watcher, consumer: Consumer, captioner: Captioner, others: Iterable[Loop], pulse: Pulse
) -> Mapping[str, PartHealth]:
    """Return how each part is, by its name."""
    looking, stuck = watcher.state, pulse.fault()
    found = {
        "watcher": PartHealth(watcher.alive() and looking.healthy, looking.problem or looking.reason or looking.mode),
        "consumer": PartHealth(not (stuck or consumer.paused), stuck or consumer.paused or "working"),
        "captioner": PartHealth(captioner.loop.alive, captioner.state.value),
        **{
            loop.name: PartHealth(loop.alive, "working" if loop.alive else "has ended")
            for loop in others
            if loop.started
        },
    }
    for loop in (consumer.loop, captioner.loop, *others):
        if loop.fault is not None and found[loop.name].ok:
            found[loop.name] = PartHealth(False, f"{loop.fault.reason}; it is tried again by itself")
    return found


def sentence_of(stats: Stats) -> str:
    """Return the counts in one line: "12 queued, 3,401 done, 2 failed; paused: …"."""
    parts = [f"{stats.left:,} queued"]
    parts += [f"{stats.counts[status]:,} {status}" for status in ("done", "duplicate", "failed")]
    troubles = [f"; paused: {stats.paused}"] if stats.paused else []
    troubles += [f"; the {name}: {fault.reason}" for name, fault in stats.faults.items()]
    return ", ".join(parts) + "".join(troubles)
