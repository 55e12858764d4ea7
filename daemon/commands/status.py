"""Show the counts, the rate, the time left, and what is paused and why."""

import argparse
import json
import sys
import time
from typing import Any

from daemon.captions.limits import CaptionProgress, progress
from daemon.captions.settings import caption_settings
from daemon.catalogue import Catalogue
from daemon.catalogue.captions import Captions
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.config import Config
from daemon.files import lock


def main(config: Config, args: argparse.Namespace) -> int:
    """Print the status once, or keep a progress bar up to date until Ctrl-C."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        print(f"nothing has run here yet: there is no {file}", file=sys.stderr)
        return 1
    catalogue = Catalogue(file)
    statistics = Statistics(catalogue)
    if args.watch:
        _watch(config, statistics)
    elif args.json:
        print(json.dumps(facts_of(config, statistics) | {"captions": vars(_captions(config, catalogue))}, indent=2))
    else:
        print("\n".join([*lines_of(facts_of(config, statistics)), _captions(config, catalogue).line()]))
    return 0


def _captions(config: Config, catalogue: Catalogue) -> CaptionProgress:
    return progress(Captions(catalogue), Settings(catalogue), caption_settings(config), time.time())


def facts_of(config: Config, statistics: Statistics) -> dict[str, Any]:
    """Give what `status --json` prints, but for the captions."""
    stats = statistics.stats(time.time())
    pid = lock.running(config.folders.state)
    return {
        "running": pid is not None,
        "pid": pid or None,
        "total": stats.total,
        **stats.counts,
        "avg_processing_time_ms": stats.avg_processing_time_ms,
        "rate_per_second": round(stats.rate, 3),
        "seconds_left": stats.seconds_left,
        "paused": stats.paused,
        "paused_since": stats.paused_since,
        "waiting": stats.waiting,
        # What a process that has died left there is no news of the next one.
        "faults": {name: vars(fault) for name, fault in stats.faults.items()} if pid is not None else {},
    }


def lines_of(facts: dict[str, Any]) -> list[str]:
    """Give what `status` prints, but for the captions."""
    running = f"running (pid {facts['pid']})" if facts["running"] else "not running"
    lines = [f"darkroom is {running}"]
    if facts["paused"]:
        lines.append(f"PAUSED for {_span(time.time() - facts['paused_since'])}: {facts['paused']}")
    for name, fault in facts["faults"].items():
        since = _span(time.time() - fault["since"])
        lines.append(f"FAULT in the {name} for {since}: {fault['reason']}; it is tried again by itself")
    names = ("queued", "processing", "done", "duplicate", "failed")
    lines.append("  ".join(f"{name} {facts[name]:,}" for name in names))
    if progress_of(facts)[0] == "filing":
        left = facts["seconds_left"]
        rate = f"{facts['rate_per_second']:.2g} images a second"
        lines.append(f"{rate}, {'about ' + _span(left) + ' left' if left is not None else 'time left unknown'}")
    lines += [f"waiting: {n:,} {reason}" for reason, n in facts["waiting"].items()]
    if facts["failed"]:
        lines.append("why some failed: darkroom list --status failed")
    return lines


def _span(seconds: float) -> str:
    """Say a time span as people do: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def progress_of(facts: dict[str, Any]) -> tuple[str, str]:
    """Say what darkroom is doing, and how fast: "" while it files nothing, whatever it did some minutes ago."""
    if not facts["running"]:
        return "not running", ""
    if facts["paused"]:
        return f"paused: {facts['paused']}", ""
    if facts["faults"]:
        name, fault = next(iter(facts["faults"].items()))
        return f"fault in the {name}: {fault['reason']}", ""
    left = facts["queued"] + facts["processing"]
    if left == sum(facts["waiting"].values()):
        return "waiting" if left else "idle", ""
    if facts["seconds_left"] is None:
        return "filing", ""
    return "filing", f"{facts['rate_per_second']:.2g}/s, {_span(facts['seconds_left'])} left"


def _watch(config: Config, statistics: Statistics) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    first = statistics.stats(time.time())
    finished_before = first.total - first.counts["queued"] - first.counts["processing"]
    with Progress(*columns) as progress:
        task = progress.add_task("filing", total=None, speed="")
        try:
            while True:
                facts = facts_of(config, statistics)
                left = facts["queued"] + facts["processing"]
                finished = facts["total"] - left - finished_before
                what, speed = progress_of(facts)
                progress.update(task, description=what, total=finished + left, completed=finished, speed=speed)
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass
