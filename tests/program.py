"""The real program in a child process, as a user runs it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support import wait_until

_ROOT = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """Give an environment without anybody's keys, in which the program is found from any folder."""
    kept = {key: value for key, value in os.environ.items() if "API_KEY" not in key and "DARKROOM" not in key}
    return {**kept, "PYTHONPATH": str(_ROOT), **more}


def darkroom(base: Path, *words: str, seconds: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in a folder."""
    return _run(base, words, more, seconds)


def _run(
    base: Path, words: tuple[str, ...], more: dict[str, str], seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon", *words]
    return subprocess.run(
        command, cwd=base, env=environment(**more), capture_output=True, text=True, timeout=seconds, check=False
    )


class Program:
    """`darkroom run` in a folder of its own; a context manager that kills what is left."""

    def __init__(self, base: Path, toml: str = "", **more: str) -> None:
        base.mkdir(exist_ok=True)
        self.base = base
        self._more = more
        if not (base / "config.toml").exists():
            # Any free port: tests run side by side.
            (base / "config.toml").write_text(toml + "\n[web]\nport = 0\n")

    def __enter__(self) -> "Program":
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run"],
                cwd=self.base,
                stdout=log,
                stderr=log,
                env=environment(**self._more),
                start_new_session=True,
            )
        wait_until(lambda: (self.base / "inbox").is_dir() and self._watches(), what="the start")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _watches(self) -> bool:
        assert self.process.poll() is None, self.log()
        return "watching" in self.log()

    def log(self) -> str:
        """Give all that the program has said."""
        return (self.base / "log").read_text()

    def status(self) -> dict[str, Any]:
        """Ask as a user does."""
        answer = _run(self.base, ("status", "--json"), self._more)
        assert answer.returncode == 0, answer.stderr
        facts: dict[str, Any] = json.loads(answer.stdout)
        return facts

    def images(self) -> list[dict[str, Any]]:
        """List all images, newest first."""
        rows: list[dict[str, Any]] = json.loads(
            _run(self.base, ("list", "--json", "--limit", "100000"), self._more).stdout
        )
        return rows

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Read the database from outside; much quicker than a command."""
        with closing(sqlite3.connect(self.base / "state/darkroom.db", timeout=30)) as database:
            return database.execute(sql).fetchall()

    def wait_for(self, seconds: float = 30, **counts: int) -> None:
        """Wait for the numbers of images by status: `wait_for(done=3)`."""

        def reached() -> bool:
            now = dict(self.query("SELECT status, n FROM tally"))
            return {key: now[key] for key in counts} == counts

        wait_until(reached, seconds, f"{counts}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)
