"""Two programs on the same folders: the second refuses to start, for as long as the first lives."""

import os
import shutil
import signal

from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally
from tests.campaigns.stage import Stage, temporary_stage


def play() -> Tally:
    """Start a second one on the same state, on another state but the same inbox, and after the first was killed."""
    tally = Tally("two programs")
    with temporary_stage() as stage, temporary_stage() as other:
        stage.put("IMG_1.jpg", photo(1))
        for folder in ("inbox", "library"):
            other.configure(folders={folder: str(stage.base / folder)})
            with program.serving(stage.base):
                for base in (stage.base, other.base):
                    outcome = program.run(base, "run", "--once")
                    tally.points += 1
                    if outcome.code != 1 or "darkroom" not in outcome.text or "Traceback" in outcome.text:
                        tally.problems.append(f"the second began, by its {folder}: {outcome}")
            shutil.rmtree(other.state, ignore_errors=True)
        tally.problems += _after_a_kill(stage)
        tally.points += 1
    return tally


def _after_a_kill(stage: Stage) -> list[str]:
    with (stage.base / "run.log").open("wb") as out:
        process = program.start(stage.base, "run", output=out)
    program.wait(lambda: b"serving http" in (stage.base / "run.log").read_bytes(), 30, "it did not start")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    program.wait_for_group(process.pid)
    stage.put("IMG_2.jpg", photo(2))
    outcome = program.run(stage.base, "run", "--once")
    return check.drained(stage) + ([f"after a kill: {outcome}"] if outcome.code else [])
