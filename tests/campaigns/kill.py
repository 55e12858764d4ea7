"""Kills the program before every call that changes what is on disk, one a run; judges what a restart makes of it."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.stage import Stage

_T = TypeVar("_T")
_R = TypeVar("_R")
WORKERS = max(2, os.cpu_count() or 2)
# What makes a synced file or folder more durable changes nothing that the next process sees.
_SYNCS = ("fsync", "fdatasync", "sync_file_range")


@dataclass
class Tally:
    """What came of a campaign, or of a part of it: how much was tried, and what was wrong, each in a line."""

    name: str
    points: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    # By the name of a call: how often something was to happen at one, and how often it did.
    meant: Counter[str] = field(default_factory=Counter)
    came: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> "Tally":
        """Take in another's figures."""
        self.points += other.points
        self.kills += other.kills
        self.problems += other.problems
        return self

    def note(self, call: trace.Call, *, came: bool) -> None:
        """Take note of whether what was to happen at a call did."""
        self.meant[call.name] += 1
        self.came[call.name] += came

    def expect_most(self, share: float = 0.9) -> None:
        """Count it as wrong when less than a share came about, or of several at calls of one name none."""
        if self.came.total() < share * self.meant.total():
            self.problems.append(f"{self.name}: only {self.came} of {self.meant} came about")
        never = [name for name, times in self.meant.items() if times > 1 and not self.came[name]]
        self.problems += [f"{self.name}: of {self.meant[name]} at {name} none came about" for name in never]


def points(act: Act, template: Stage) -> list[trace.Call]:
    """Run the act once undisturbed, and list its calls that change something, by its main thread."""
    with act.stage(template) as stage, tempfile.NamedTemporaryFile(suffix=".strace") as log:
        program.run(stage.base, *act.words, under=trace.words(Path(log.name)), names=act.names)
        calls = trace.read(Path(log.name))
        found = trace.changes(calls, stage.roots)
        moved = stage.moved_to(template)
        return [trace.relocated(call, moved) for call in found if call.tid == calls[0].tid]


def thinned(calls: Sequence[trace.Call]) -> list[trace.Call]:
    """Leave out what lies within a run of writes to one file, or of new folders in one: the first and the last stay."""
    kept = []
    for index, call in enumerate(calls):
        around = calls[max(0, index - 1) : index + 2]
        inside = len(around) == 3 and len({_run(one) for one in around}) == 1
        if not inside:
            kept.append(call)
    return kept


def _run(call: trace.Call) -> tuple[object, ...]:
    if call.name.startswith("mkdir"):
        return call.name, Path(call.paths[-1]).parent
    return (call.name, call.paths) if "write" in call.name else (call,)


def distinct(calls: Sequence[trace.Call]) -> list[trace.Call]:
    """Keep one of the calls between which nothing but failures and syncs comes: a kill leaves the same before each."""
    kept, changed = [], True
    for call in calls:
        if changed:
            kept.append(call)
            changed = False
        changed |= call.ok and call.name not in _SYNCS
    return kept


def each(act: Act, *, thin: bool, every: int = 1) -> Tally:
    """Kill an act before each call; where `thin`, before those of a choice that leave different folders."""
    with act.template() as template:
        calls = points(act, template)
        calls = (distinct(thinned(calls)) if thin else calls)[::every]
        tally = Tally(act.name, points=len(calls))
        outcomes = in_parallel(lambda call: kill_at(act, template, call), calls)
        for call, (killed, faults) in zip(calls, outcomes, strict=True):
            tally.kills += killed
            tally.note(call, came=killed)
            tally.problems += [f"{act.name}: killed before {call}: {fault}" for fault in faults]
    tally.expect_most()
    return tally


def kill_at(act: Act, template: Stage, call: trace.Call) -> tuple[bool, list[str]]:
    """Kill an act before one call and restart it; tells whether the kill came about, and what is wrong."""
    with act.stage(template) as stage:
        under = trace.at(call, template.moved_to(stage), "signal=SIGKILL")
        outcome = program.run(stage.base, *act.words, under=under, names=act.names)
        return outcome.killed, check.visible(stage) + restarted(stage, act.again)


def in_parallel(work: Callable[[_T], _R], things: Sequence[_T]) -> Iterator[_R]:
    """Do something with each thing, some at a time, and yield the outcomes in order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(work, things)


def restarted(stage: Stage, again: Sequence[str] = ()) -> list[str]:
    """Do something `again`, start the program, let it do all there is to do, and judge the outcome."""
    if again:
        program.run(stage.base, *again)
    outcome = program.run(stage.base, "run", "--once", seconds=600)
    faults = check.drained(stage)
    if outcome.code not in {0, 1} or "Traceback" in outcome.text or faults:
        faults.append(f"the restart ended with {outcome.code}: {outcome.text}")
    return faults
