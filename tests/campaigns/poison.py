"""Feeds the real program with what is meant to harm it, with good photos in between, and watches it all the while."""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from daemon.filing.consumer import Turn
from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.corpus import endless, poisons
from tests.campaigns.kill import Tally
from tests.campaigns.stage import Stage, digest, temporary_stage
from tests.decoding.misbehave import deed, work
from tests.support import Room

_OUTSTANDING = 40
_GOOD_EVERY = 50
_ENDLESS = 5
_GROWTH_MB = 40


@dataclass
class Figures:
    """What was seen: of each good photo the time from arrival to the library, and the daemon's memory."""

    tally: Tally
    good: int = 0
    waits: list[float] = field(default_factory=list)
    memory_mb: tuple[int, int] = (0, 0)
    statuses: Counter[str] | None = None

    @property
    def slowest(self) -> float:
        return max(self.waits, default=0.0)

    @property
    def median(self) -> float:
        return median(self.waits) if self.waits else 0.0


def _offered(count: int, seed: int, folder: Path | None) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(seed)
    for number in range(_ENDLESS):
        suffix, content = endless(rng)
        yield f"endless {number}.{suffix}", content
    for number, (suffix, content) in enumerate(poisons(count, seed)):
        yield f"poison {number}.{suffix}", content
    if folder is not None:
        for number, path in enumerate(sorted(folder.rglob("*"))):
            if path.is_file():
                yield f"corpus {number} {path.name}", path.read_bytes()


def play(count: int, seed: int = 1, folder: Path | None = None, *, patience: float = 30.0) -> Figures:
    """Offer `count` poisoned files, some JPEGs of endless scans before them, and all of `folder`.

    A good photo comes after every so many, and none of them may wait for longer than `patience`, in seconds.
    """
    figures = Figures(Tally("poison"))
    problems = figures.tally.problems
    with temporary_stage(quick=True) as stage:
        # What ends early here has no rest.
        stage.configure(inbox={"incomplete_minutes": 0}, limits={"decode_seconds": 5, "decode_memory_mb": 1024})
        with program.serving(stage.base) as process:
            daemon = psutil.Process(process.pid)
            began = 0
            waiting: dict[Path, float] = {}
            for number, (name, content) in enumerate(_offered(count, seed, folder)):
                _put(stage, name, content)
                figures.tally.points += 1
                if number % _GOOD_EVERY == _GOOD_EVERY - 1:
                    good = stage.put(f"good {number}.jpg", photo(10**7 + number))
                    waiting[good] = time.monotonic()
                    figures.good += 1
                if number == min(200, count // 2):
                    began = daemon.memory_info().rss >> 20
                program.wait(lambda: _few(stage, waiting, figures), 300, "the queue stands still")
            program.wait(lambda: _few(stage, waiting, figures, 0), 600, lambda: f"not filed: {check.rows(stage)[-3:]}")
            figures.memory_mb = began, daemon.memory_info().rss >> 20
        figures.statuses = Counter(row["status"] for row in check.rows(stage))
        problems += check.drained(stage)
        log = (stage.base / "run.log").read_text(errors="replace")
        if "Traceback" in log:
            problems.append(f"a traceback: {log[log.index('Traceback') :][:3000]}")
    if figures.slowest > patience:
        problems.append(f"a good photo waited {figures.slowest:.1f} s")
    if figures.memory_mb[1] - began > _GROWTH_MB:
        problems.append(f"the daemon grew from {began} to {figures.memory_mb[1]} MB")
    return figures


def _put(stage: Stage, name: str, content: bytes) -> None:
    # Whole under a hidden name first: what is being written is another campaign's matter.
    hidden = stage.inbox / ".arriving"
    hidden.write_bytes(content)
    hidden.rename(stage.inbox / name)
    # Which of them are images after all is for the decoders to say: either end is right.
    stage.expect(content)
    stage.either.add(digest(content))


def _few(stage: Stage, waiting: dict[Path, float], figures: Figures, most: int = _OUTSTANDING) -> bool:
    for path, since in list(waiting.items()):
        if not path.exists():
            figures.waits.append(time.monotonic() - since)
            del waiting[path]
    with os.scandir(stage.inbox) as entries:
        left = sum(1 for _ in entries)
    return left <= most


def decoders() -> Tally:
    """Have real child processes crash, hang, devour memory and end; each costs its image alone."""
    deeds = ("segfault", "freeze", "hang", "burn", "eat", "abort", "exit")
    tally = Tally("decoders that misbehave", points=len(deeds))
    with tempfile.TemporaryDirectory(prefix="campaign-") as base:
        room = Room(Path(base) / "room", "[inbox]\nsettle_seconds = 0.1\n[limits]\nattempts = 2\nmin_free_mb = 1\n")
        sandbox = Sandbox(Limits(seconds=6.0, memory_mb=512, stall_seconds=6.0), work, count=2)
        try:
            room.decode_with(sandbox.decode)
            for number, name in enumerate(deeds):
                room.put(f"{name}.jpg", deed(name))
                room.put(f"good {number}.jpg", photo(number))
            while room.drain()[-1] is Turn.IDLE and (due := room.queue.next_due()) is not None:
                time.sleep(max(0.0, due - time.time()))
        finally:
            sandbox.close()
            room.close()
        for row in room.rows():
            name, ended = str(row["original_name"]), (row["status"], row["attempts"])
            if ended != (("done", 1) if name.startswith("good") else ("failed", 2)):
                tally.problems.append(f"{name} is {ended}: {row['error']}")
    return tally
