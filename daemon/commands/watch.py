"""Shows how far darkroom is, for as long as somebody watches: `status --watch`."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from daemon.app import existing_catalogue
from daemon.catalogue.stats import Statistics
from daemon.commands.status import Activity, ProgramStatus, counts_of, rate, span, status_of, troubles_of, waits_of
from daemon.config import Config
from daemon.errors import DarkroomError, EnvironmentFault

# How often is looked, and how often a line is written though nothing new is to be told.
_LOOK_SECONDS = 0.5
_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """How far darkroom is with what came since somebody watches; "" where there is no speed.

    `notes` are the counts, what is in the way and what waits, a line each; `reasons` are those alone, without numbers.
    """

    activity: str
    finished: int = 0
    total: int = 0
    speed: str = ""
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def progress_of(status: ProgramStatus, finished_before: int = 0) -> Progress:
    """Return how far darkroom is; without a speed while it files nothing, whatever it did some minutes ago."""
    stats, speed = status.stats, ""
    if status.activity is Activity.FILING and stats.seconds_left is not None:
        speed = f"{rate(stats)}/s, {span(stats.seconds_left)} left"
    finished = max(0, stats.total - stats.left - finished_before)
    notes = (counts_of(stats), *troubles_of(status), *waits_of(stats))
    troubles = (stats.paused or "", str(status.gone or ""), *(fault.reason for fault in stats.faults.values()))
    reasons = (*troubles, *stats.waiting, *stats.staying)
    return Progress(status.activity.value, finished, finished + stats.left, speed, notes, reasons)


def watch(config: Config, console: Console | None = None) -> None:
    """Show how far darkroom is until Ctrl-C: a bar and what there is to know below it; lines where no terminal is."""
    console = console or Console()
    view = _Bar(console) if console.is_terminal else _Lines()
    with view, suppress(KeyboardInterrupt):
        for progress in _progress(config):
            view.show(progress)
            time.sleep(_LOOK_SECONDS)


def _progress(config: Config) -> Iterator[Progress]:
    """Yield how far darkroom is, for ever: also before its first run, and while its catalogue can't be read."""
    statistics, before = None, 0
    while True:
        try:
            if statistics is None:
                statistics = Statistics(existing_catalogue(config))
                first = statistics.stats(time.time())
                before = first.total - first.left
            yield progress_of(status_of(config, statistics), before)
        except EnvironmentFault as fault:
            yield Progress("fault", notes=(str(fault),), reasons=(str(fault),))
        except DarkroomError:
            yield Progress(
                "waiting", notes=(f"nothing has run in {config.base} yet; in another terminal: darkroom run",)
            )


class _Bar:
    """A bar on a terminal, and lines below it that are as long as they need be."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        self._bar = Bar(*columns, console=console)
        self._task = self._bar.add_task("", total=None, speed="")
        self._live = Live(self._bar, console=console, refresh_per_second=4)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, now: Progress) -> None:
        self._bar.update(self._task, description=now.activity, total=now.total, completed=now.finished, speed=now.speed)
        self._live.update(Group(self._bar, *(Text(note) for note in now.notes)))


class _Lines:
    """A line for whoever reads along (a file, a pipe) when something new is to be told, and now and then meanwhile."""

    def __init__(self) -> None:
        self._said: Progress | None = None
        self._at = 0.0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, now: Progress) -> None:
        is_new = self._said is None or (now.activity, now.reasons) != (self._said.activity, self._said.reasons)
        if now == self._said or not (is_new or time.monotonic() - self._at >= _LINE_SECONDS):
            return
        parts = [f"{now.finished:,} of {now.total:,}"] if now.total else []
        parts += [now.speed] if now.speed else []
        head = f"{now.activity}{': ' if parts else ''}{', '.join(parts)}"
        print(f"{datetime.now().astimezone():%H:%M:%S}  {'; '.join([head, *now.notes])}", flush=True)
        self._said, self._at = now, time.monotonic()
