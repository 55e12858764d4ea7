"""Follows at once what the owner edited, moved, deleted or brought back in the library; adopts what never was filed.

A running darkroom does the same once in `follow_hours`, but it adopts nothing, and believes no large loss.
"""

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.app import decoding_limits, existing_catalogue, follower, sidecars
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.files.names import display
from daemon.filing.follower import FollowReport
from daemon.phrases import counted


def main(config: Config, args: argparse.Namespace) -> int:
    """Follow, and print what was found; 1 where something waits for --yes or could not be looked at."""
    catalogue = existing_catalogue(config)
    sandbox = Sandbox(decoding_limits(config))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with catalogue.session(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            work = follower(config, catalogue, sandbox, sidecars(config, catalogue, sandbox))
            task = progress.add_task("looking through the library", total=work.total() or None)
            work.on_file = lambda: progress.advance(task)
            report = work.follow(adopt=args.adopt, believe=args.yes)
    finally:
        sandbox.close()
    return _print(report)


def _print(report: FollowReport) -> int:
    for path, reason in report.left:
        print(f"left as it is: library/{display(path)}: {reason}", file=sys.stderr)
    for folder in report.unseen:
        print(f"could not be looked at: library/{display(folder)}: nothing there is taken for deleted", file=sys.stderr)
    found = (
        (report.edited, "edited"),
        (report.moved, "moved"),
        (report.deleted, "deleted"),
        (report.came_back, "back again"),
        (report.words, "with other words in the sidecar"),
        (report.adopted, "adopted"),
    )
    changes = ", ".join(f"{n:,} {what}" for n, what in found if n)
    print(f"{counted(report.expected, 'filed photo')}: {changes or 'nothing has changed'}")
    if report.new:
        there = counted(report.new, "photo there was", "photos there were")
        print(f"{there} never filed by darkroom; darkroom sync --adopt takes in what was not, as it lies")
    if report.missing:
        photos = f"{report.missing:,} of {counted(report.expected, 'photo')}"
        hint = "is a disk not mounted? If they are deleted: darkroom sync --yes"
        print(f"missing in the library: {photos}: {hint}", file=sys.stderr)
    return 1 if report.missing or report.unseen else 0
