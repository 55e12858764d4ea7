"""Watches a running darkroom from outside: what it shows, what it has filed, and whether that is right."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.campaigns import check, program
from tests.campaigns.stage import Stage

_DRAIN_SECONDS = 60.0


class Skipped(Exception):
    """Raised where this machine does not permit a trouble to be made."""


def status(stage: Stage) -> dict[str, object]:
    """Ask the program itself."""
    found: dict[str, object] = json.loads(program.run(stage.base, "status", "--json").text)
    return found


def settled(stage: Stage) -> bool:
    """Return whether the inbox is empty and every row final."""
    return not list(check.files(stage.inbox)) and not [
        row for row in check.rows(stage) if row["status"] in {"queued", "processing"} or row["path"]
    ]


def wait_settled(stage: Stage, seconds: float = _DRAIN_SECONDS) -> None:
    """Wait until all is filed."""
    program.wait(
        lambda: settled(stage), seconds, lambda: f"not filed: {list(check.files(stage.inbox))[:5]} {log_of(stage)}"
    )


def wait_paused(stage: Stage, words: str) -> None:
    """Wait until a pause is shown whose reason has these words."""

    def paused() -> bool:
        with closing(sqlite3.connect(stage.state / "darkroom.db", timeout=30)) as database:
            row = database.execute("SELECT value FROM setting WHERE key = 'paused'").fetchone()
        return row is not None and words in str(row[0])

    program.wait(paused, 40, lambda: f"no pause that says {words!r}: {log_of(stage)}")
    assert words in str(status(stage)["paused"])


def wait_waiting(stage: Stage, words: str) -> None:
    """Wait until a file is shown to wait for a reason that has these words, while others are filed."""

    def waits() -> bool:
        return any(row["status"] == "queued" and words in (row["waiting_detail"] or "") for row in check.rows(stage))

    program.wait(waits, 40, lambda: f"nothing waits because {words!r}: {log_of(stage)}")


def log_of(stage: Stage) -> str:
    return (stage.base / "run.log").read_text(errors="replace")[-1500:]


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Mount something on a folder for a block."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *words, str(folder)], capture_output=True, check=False).returncode:
        raise Skipped("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def judge(stage: Stage) -> None:
    """Fail unless all is filed as it should be, with one attempt each and without a traceback."""
    faults = check.drained(stage)
    faults += [f"{row['original_name']} has spent attempts" for row in check.rows(stage) if row["attempts"] != 1]
    if "Traceback" in log_of(stage):
        faults.append(f"a traceback: {log_of(stage)}")
    assert not faults, "\n".join(faults)
