"""Makes every call that changes what is on disk fail, one a run or all from one on, and judges what comes of it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.kill import Tally, in_parallel, points, restarted, thinned
from tests.campaigns.stage import Stage

ERRORS = ("EIO", "ENOSPC", "EACCES")
_OF_ONE_FILE = ("EACCES",)


def each(act: Act, errors: Sequence[str] = ERRORS, *, thin: bool = True, every: int = 1, lasting: bool = True) -> Tally:
    """Make each call of an act fail with each error, alone and, where `lasting`, with all later calls of its name."""
    tally = Tally(act.name)
    with act.template() as template:
        calls = points(act, template)
        calls = (thinned(calls) if thin else calls)[::every]
        jobs = [(call, error, plus) for call in calls for error in errors for plus in ("", "+")[: 1 + lasting]]
        outcomes = in_parallel(lambda job: _fail_at(act, template, *job), jobs)
        for (call, error, plus), (came, faults) in zip(jobs, outcomes, strict=True):
            tally.points += came
            tally.note(call, came=came)
            often = "from then on" if plus else "once"
            tally.problems += [f"{act.name}: {error} {often} at {call}: {fault}" for fault in faults]
    tally.expect_most()
    return tally


def _fail_at(act: Act, template: Stage, call: trace.Call, error: str, plus: str) -> tuple[bool, list[str]]:
    with act.stage(template) as stage, tempfile.NamedTemporaryFile(suffix=".strace") as log:
        words = trace.at(call, template.moved_to(stage), f"error={error}", Path(log.name))
        words[-1] += plus
        outcome = program.run(stage.base, *act.words, under=words, names=act.names)
        came = b"(INJECTED)" in log.read()
        faults = check.visible(stage)
        if "Traceback" in outcome.text:
            faults.append(f"a traceback: {outcome.text}")
        faults += restarted(stage)
        if act.words[0] == "run":
            # What a disk says spends none; where all other files may be written, one file's refusal does, once.
            most = 2 if error in _OF_ONE_FILE else 1
            spent = [row["original_name"] for row in check.rows(stage) if row["attempts"] > most]
            faults += [f"{name} has spent an attempt on it: {outcome.text}" for name in spent]
        return came, faults
