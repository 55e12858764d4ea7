"""Kills the program before every call that changes what is on disk, one a run; judges what a restart makes of it."""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.stage import Stage

_T = TypeVar("_T")
_R = TypeVar("_R")
WORKERS = (os.cpu_count() or 2) + 1
# What differs from run to run though nothing else does.
_TIMES = {"created_at", "not_before", "quiet_since", "claimed_at", "processed_at", "processing_ms", "mtime_ns"}


@dataclass
class Tally:
    """What came of a campaign, or of a part of it: how much was tried, and what was wrong, each in a line."""

    name: str
    points: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> "Tally":
        """Take in another's figures."""
        self.points += other.points
        self.kills += other.kills
        self.problems += other.problems
        return self


def points(act: Act, template: Stage) -> list[trace.Call]:
    """Run the act once undisturbed, and list its calls that change something, by its main thread."""
    with act.stage(template) as stage, tempfile.NamedTemporaryFile(suffix=".strace") as log:
        program.run(stage.base, *act.words, under=trace.words(Path(log.name)))
        calls = trace.read(Path(log.name))
        found = trace.changes(calls, stage.roots)
        moved = stage.moved_to(template)
        return [trace.relocated(call, moved) for call in found if call.tid == calls[0].tid]


def thinned(calls: Sequence[trace.Call]) -> list[trace.Call]:
    """Leave out what lies within a run of writes to one file: of each run the first and the last stay."""
    kept = []
    for index, call in enumerate(calls):
        around = calls[max(0, index - 1) : index + 2]
        inside = len(around) == 3 and all((one.name, one.paths) == (call.name, call.paths) for one in around)
        if not (inside and "write" in call.name):
            kept.append(call)
    return kept


def each(act: Act, *, thin: bool, every: int = 1) -> Tally:
    """Kill an act before each call."""
    with act.template() as template:
        return _each(act, template, chosen(act, template, thin, every))


def each_restart(act: Act, *, every: int = 1) -> Tally:
    """Kill an act before each call, and then, for each different wreck that this leaves, the restart as well."""
    tally = Tally(act.name)
    with ExitStack() as stack:
        template = stack.enter_context(act.template())
        wrecks: dict[str, tuple[trace.Call, Stage]] = {}
        for call in chosen(act, template, True, every):
            stage = stack.enter_context(act.stage(template))
            program.run(stage.base, *act.words, under=trace.at(call, template.moved_to(stage), "signal=SIGKILL"))
            wrecks.setdefault(_fingerprint(stage), (call, stage))
        for call, wreck in wrecks.values():
            again = replace(act, name=f"{act.name}, killed before {call}, restarted", words=("run", "--once"))
            tally.add(_each(again, wreck, chosen(again, wreck, True, every)))
    return tally


def chosen(act: Act, template: Stage, thin: bool, every: int) -> list[trace.Call]:
    """List the calls of an act at which something is to happen."""
    calls = points(act, template)
    return (thinned(calls) if thin else calls)[::every]


def _each(act: Act, template: Stage, calls: Sequence[trace.Call]) -> Tally:
    def kill(call: trace.Call) -> tuple[bool, list[str]]:
        with act.stage(template) as stage:
            outcome = program.run(
                stage.base, *act.words, under=trace.at(call, template.moved_to(stage), "signal=SIGKILL")
            )
            return outcome.killed, check.visible(stage) + restarted(stage)

    tally = Tally(act.name, points=len(calls))
    for call, (killed, faults) in zip(calls, in_parallel(kill, calls), strict=True):
        tally.kills += killed
        tally.problems += [f"{act.name}: killed before {call}: {fault}" for fault in faults]
    if tally.kills < 0.9 * tally.points:
        tally.problems.append(f"{act.name}: only {tally.kills} of {tally.points} kills came about")
    return tally


def in_parallel(work: Callable[[_T], _R], things: Sequence[_T]) -> Iterator[_R]:
    """Do something with each thing, some at a time, and yield the outcomes in order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(work, things)


def restarted(stage: Stage) -> list[str]:
    """Start the program again, let it do all there is to do, and judge the outcome."""
    outcome = program.run(stage.base, "run", "--once", seconds=600)
    faults = check.drained(stage)
    if outcome.code not in {0, 1} or "Traceback" in outcome.text or faults:
        faults.append(f"the restart ended with {outcome.code}: {outcome.text}")
    return faults


def _fingerprint(stage: Stage) -> str:
    """Name a wreck by its files, their bytes, links and rows."""
    digest = hashlib.sha256()
    inodes: dict[int, str] = {}
    for root in filter(None, (stage.base, stage.away)):
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_file() and "darkroom.db" not in name and name != "state/lock":
                digest.update(f"{name} {inodes.setdefault(path.stat().st_ino, name)} {check.hash_of(path)}".encode())
    with closing(sqlite3.connect(stage.state / "darkroom.db")) as database:
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        known = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'image'").fetchone()[0]
    kept = [{key: row[key] for key in row.keys() - _TIMES} for row in (check.rows(stage) if known else [])]
    digest.update(repr((tables, [sorted(row.items()) for row in kept])).encode())
    return digest.hexdigest()
