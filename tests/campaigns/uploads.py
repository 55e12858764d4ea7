"""Kills the server before every call that changes what is on disk while it takes and files an upload."""

import random
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act, photo
from tests.campaigns.kill import Tally, in_parallel, restarted, thinned
from tests.campaigns.random_kills import upload
from tests.campaigns.stage import Stage, digest

ACT = Act("an upload", lambda _: None)
_CONTENT = photo(3, (800, 600))


def each(every: int = 1, *, thin: bool = True) -> Tally:
    """Kill before each call from the upload's first byte on; what was acknowledged has to be there afterwards."""
    with ACT.template() as template:
        program.run(template.base, "run", "--once")
        calls = _calls(template, thin)[::every]

        def kill(call: trace.Call) -> tuple[bool, list[str]]:
            with ACT.stage(template) as stage:
                killed = _serve(stage, trace.at(call, template.moved_to(stage), "signal=SIGKILL"))
                return killed, check.visible(stage) + restarted(stage)

        tally = Tally(ACT.name, points=len(calls))
        for call, (killed, faults) in zip(calls, in_parallel(kill, calls), strict=True):
            tally.kills += killed
            tally.note(call, came=killed)
            tally.problems += [f"an upload: killed before {call}: {fault}" for fault in faults]
    # Which thread comes first is not the same in each run.
    tally.expect_most(0.7)
    return tally


def _calls(template: Stage, thin: bool) -> list[trace.Call]:
    with ACT.stage(template) as stage, tempfile.NamedTemporaryFile(suffix=".strace") as log:
        _serve(stage, trace.words(Path(log.name)))
        # The checks at the start go on beside it.
        found = [
            call for call in trace.changes(trace.read(Path(log.name)), stage.roots) if "-doctor-" not in str(call.paths)
        ]
        moved = stage.moved_to(template)
    first = next(number for number, call in enumerate(found) if "-upload-" in str(call.paths))
    return [trace.relocated(call, moved) for call in (thinned(found[first:]) if thin else found[first:])]


def _serve(stage: Stage, under: Sequence[str]) -> bool:
    """Serve, upload once, wait until it is filed, and end; tells whether the server was killed on the way."""
    log = stage.base / "run.log"
    log.touch()
    with log.open("ab") as out:
        process = program.start(stage.base, "run", under=under, names=ACT.names, output=out)

    def ended_or(condition: bool) -> bool:
        return condition or process.poll() is not None

    program.wait(lambda: ended_or(b"serving http" in log.read_bytes()), 60, "the server does not start")
    stage.may[digest(_CONTENT)] = 1
    if process.poll() is None and upload(stage, "IMG_3.jpg", _CONTENT, random.Random(1)):
        stage.may.clear()
        stage.expect(_CONTENT)
        program.wait(lambda: ended_or(_filed(stage)), 60, lambda: log.read_text(errors="replace"))
    killed = process.poll() is not None
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            child.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    program.end(process)
    return killed or process.returncode == -signal.SIGKILL


def _filed(stage: Stage) -> bool:
    return any(row["status"] == "done" and row["path"] is None for row in check.rows(stage))
