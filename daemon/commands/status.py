"""Show the counts, the rate, the time left, and what is paused and why."""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from daemon.app import existing_catalogue
from daemon.captions.limits import CaptionProgress, progress
from daemon.captions.settings import caption_settings
from daemon.catalogue import Catalogue
from daemon.catalogue.captions import Captions
from daemon.catalogue.schema import STATUSES
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics, Stats
from daemon.config import Config
from daemon.files import lock
from daemon.filing.follower import missing_photos
from daemon.phrases import counted
from web.models import moment, stats_answer


class Activity(Enum):
    """What darkroom is doing, in words that a pause and a fault complete."""

    NOT_RUNNING = "not running"
    PAUSED = "paused"
    FAULT = "fault"
    FILING = "filing"
    WAITING = "waiting"
    IDLE = "idle"


@dataclass(frozen=True)
class ProgramStatus:
    """Whether darkroom runs here (`pid` is None where it does not, 0 where it is unknown), and its counts.

    `gone` is the inbox where there is none any more: nothing is lost by that, and nothing is filed.
    """

    pid: int | None
    stats: Stats
    gone: Path | None = None

    @property
    def running(self) -> bool:
        """Whether a darkroom runs on these folders."""
        return self.pid is not None

    @property
    def activity(self) -> Activity:
        """What darkroom is doing: FILING only while there is something that it can file now."""
        if not self.running:
            return Activity.NOT_RUNNING
        if self.stats.paused:
            return Activity.PAUSED
        if self.stats.faults:
            return Activity.FAULT
        if self.stats.left > sum(self.stats.waiting.values()):
            return Activity.FILING
        return Activity.WAITING if self.stats.left else Activity.IDLE


def main(config: Config, args: argparse.Namespace) -> int:
    """Print the status once, or keep it up to date until Ctrl-C."""
    if args.watch:
        # Here, not above: the others must not wait for what draws the bar.
        from daemon.commands.watch import watch

        watch(config)
        return 0
    catalogue = existing_catalogue(config)
    status, captions = status_of(config, Statistics(catalogue)), _captions(config, catalogue)
    if args.json:
        print(json.dumps(_document(status, Statistics(catalogue).captions(), captions), indent=2))
    else:
        print("\n".join([*lines_of(status), *_missing(Settings(catalogue)), captions.line()]))
    return 0


def _missing(settings: Settings) -> list[str]:
    missing = missing_photos(settings)
    hint = "is a disk not mounted? If they are deleted: darkroom sync --yes"
    return [f"missing in the library: {counted(missing, 'photo')}: {hint}"] if missing else []


def _captions(config: Config, catalogue: Catalogue) -> CaptionProgress:
    return progress(Captions(catalogue), Settings(catalogue), caption_settings(config), time.time())


def status_of(config: Config, statistics: Statistics) -> ProgramStatus:
    """Return how the darkroom of these folders is."""
    stats, pid = statistics.stats(time.time()), lock.running(config.folders.state)
    inbox = config.folders.inbox
    # The faults that a process which has died left there are no news of the next one.
    return ProgramStatus(
        pid, stats if pid is not None else replace(stats, faults={}), inbox if _is_gone(inbox) else None
    )


def _is_gone(folder: Path) -> bool:
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # who asks may have fewer rights than the program that runs
        return False
    return False


def _document(status: ProgramStatus, counts: dict[str, int], captions: CaptionProgress) -> dict[str, Any]:
    """Return what GET /api/stats answers, with the paths of this machine, and more of the program."""
    faults = status.stats.faults.items()
    return {
        "running": status.running,
        "pid": status.pid or None,
        "inbox_gone": status.gone is not None,
        **stats_answer(status.stats, counts, captions.line(), str).model_dump(),
        "faults": {name: {"reason": fault.reason, "since": moment(fault.since)} for name, fault in faults},
        "captioner": {
            **asdict(captions),
            "paused_until": None if captions.paused_until is None else moment(captions.paused_until),
        },
    }


def lines_of(status: ProgramStatus) -> list[str]:
    """Return what `status` prints, but for the captions."""
    stats = status.stats
    running = f"running (pid {status.pid or 'unknown'})" if status.running else "not running"
    lines = [f"darkroom is {running}", *troubles_of(status), counts_of(stats)]
    if status.activity is Activity.FILING:
        left = stats.seconds_left
        time_left = f"about {span(left)} left" if left is not None else "time left unknown"
        lines.append(f"{rate(stats)} images a second, {time_left}")
    return [*lines, *waits_of(stats)]


def troubles_of(status: ProgramStatus) -> list[str]:
    """Return what keeps photos from being filed, a line each."""
    stats, now = status.stats, time.time()
    lines = []
    if stats.paused:
        lines.append(f"PAUSED for {span(now - (stats.paused_since or 0.0))}: {stats.paused}")
    if status.gone is not None:
        lines.append(f"GONE: the inbox {status.gone} is not there: is its disk mounted? It is waited for")
    for name, fault in stats.faults.items():
        since = span(now - fault.since)
        lines.append(f"FAULT in the {name} for {since}: {fault.reason}; it is tried again by itself")
    return lines


def counts_of(stats: Stats) -> str:
    """Return how many images have each status."""
    return "  ".join(f"{name} {stats.counts[name]:,}" for name in STATUSES)


def waits_of(stats: Stats) -> list[str]:
    """Return what waits and why, and what failed, a line each."""
    lines = [f"waiting: {n:,} {reason}" for reason, n in stats.waiting.items()]
    lines += [f"still in the inbox: {n:,} {reason}" for reason, n in stats.staying.items()]
    if stats.counts["failed"]:
        lines.append("why some failed: darkroom list --status failed")
    return lines


def rate(stats: Stats) -> str:
    """Return the images a second."""
    return f"{round(stats.rate, 3):.2g}"


def span(seconds: float) -> str:
    """Return a time span as people do: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
