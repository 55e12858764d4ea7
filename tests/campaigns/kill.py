"""Kills the program before every call that changes what is on disk, one kill a run, and checks what a restart makes of it."""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.stage import Stage

WORKERS = (os.cpu_count() or 2) + 1


@dataclass
class Tally:
    """What came of one act's kills (or faults): how many, and what was wrong, each in a line."""

    name: str
    points: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)


def injected(call: trace.Call, what: str) -> list[str]:
    """Give the words that do something to one call: `signal=SIGKILL`, `error=EIO`."""
    inject = f"inject={call.name}:{what}:when={call.nth}"
    # Not with --seccomp-bpf, fast as it is: strace 6.1 then sends no signals.
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call.name}", "-e", inject]


def points(act: Act, template: Stage) -> list[trace.Call]:
    """Run the act once undisturbed, and list its calls that change something, by its main thread."""
    with act.stage(template) as stage, tempfile.NamedTemporaryFile(suffix=".strace") as log:
        program.run(stage.base, *act.words, under=trace.words(Path(log.name)))
        calls = trace.read(Path(log.name))
        found = trace.changes(calls, [stage.base, *([stage.away] if stage.away else [])])
        return [call for call in found if call.tid == calls[0].tid]


def thinned(calls: Sequence[trace.Call]) -> list[trace.Call]:
    """Leave out what lies within a run of writes to one file: of each run the first and the last stay."""
    kept = []
    for index, call in enumerate(calls):
        around = calls[max(0, index - 1) : index + 2]
        inside = len(around) == 3 and all((one.name, one.paths) == (call.name, call.paths) for one in around)
        if not (inside and "write" in call.name):
            kept.append(call)
    return kept


def enumerate_kills(act: Act, *, thin: bool = False, every: int = 1, twice: bool = False) -> Tally:
    """Kill before each call; with `twice`, kill each restart before each of its calls, too."""
    tally = Tally(act.name)
    with act.template() as template:
        calls = points(act, template)
        calls = (thinned(calls) if thin else calls)[::every]
        with ThreadPoolExecutor(WORKERS) as pool:
            outcomes = list(pool.map(lambda call: kill_at(act, template, call), calls))
    for call, (killed, faults) in zip(calls, outcomes, strict=True):
        tally.points += 1
        tally.kills += killed
        tally.problems += [f"{act.name}: killed before {call}: {fault}" for fault in faults]
    return tally


def kill_at(act: Act, template: Stage, call: trace.Call) -> tuple[bool, list[str]]:
    """Play an act, kill it before one call, restart, and judge; tells whether the call was reached at all."""
    with act.stage(template) as stage:
        outcome = program.run(stage.base, *act.words, under=injected(call, "signal=SIGKILL"))
        return outcome.killed, check.visible(stage) + restarted(stage)


def restarted(stage: Stage) -> list[str]:
    """Start the program again, let it do all there is to do, and judge the outcome."""
    outcome = program.run(stage.base, "run", "--once")
    faults = check.drained(stage)
    if outcome.code not in {0, 1} or "Traceback" in outcome.text or faults:
        faults.append(f"the restart ended with {outcome.code}: {outcome.text}")
    return faults
