"""The real program in a child process, as a user runs it."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from daemon.config import load
from tests.support import wait_until

_ROOT = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """Return an environment without anybody's keys, in which the program is found from any folder."""
    kept = {key: value for key, value in os.environ.items() if "API_KEY" not in key and "DARKROOM" not in key}
    return {**kept, "PYTHONPATH": str(_ROOT), **more}


# Root without the right to read and write everything, as any account is: for what another account's file refuses.
HUMBLE = ("setpriv", "--inh-caps=-all", "--bounding-set=-all") if os.geteuid() == 0 else ()


def darkroom(
    base: Path, *words: str, seconds: float = 60, under: Sequence[str] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in a folder; `under` is what stands before it on the command line."""
    return _run(base, words, more, seconds, under)


def _run(
    base: Path, words: tuple[str, ...], more: dict[str, str], seconds: float = 60, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*under, sys.executable, "-m", "daemon", *words]
    return subprocess.run(
        command, cwd=base, env=environment(**more), capture_output=True, text=True, timeout=seconds, check=False
    )


def on_terminal(base: Path, *words: str, columns: int = 80) -> str:
    """Run one command to its end with a terminal of its own, of so many columns; return all that it shows there."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "daemon", *words]
    try:
        process = subprocess.Popen(
            command, cwd=base, stdout=slave, stderr=slave, env=environment(TERM="xterm", COLUMNS=str(columns))
        )
    finally:
        os.close(slave)
    shown = b""
    # EIO tells of the end of a terminal.
    with suppress(OSError):
        while read := os.read(master, 100_000):
            shown += read
    os.close(master)
    process.wait(60)
    return shown.decode().replace("\r\n", "\n")


class Program:
    """`darkroom run` in a folder of its own; a context manager that kills what is left."""

    def __init__(
        self, base: Path, toml: str = "", *, under: Sequence[str] = (), module: Sequence[str] = ("daemon",), **more: str
    ) -> None:
        """`under` is what stands before the program on the command line, `module` what Python runs."""
        base.mkdir(exist_ok=True)
        self.base = base
        self._more = more
        self._command = [*under, sys.executable, "-m", *module, "run"]
        if not (base / "config.toml").exists():
            # Any free port: tests run side by side.
            (base / "config.toml").write_text(toml + "\n[web]\nport = 0\n")
        self.folders = load(base / "config.toml", {}).folders

    def __enter__(self) -> "Program":
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.base,
                stdout=log,
                stderr=log,
                env=environment(**self._more),
                start_new_session=True,
            )
        try:
            wait_until(lambda: self.folders.inbox.is_dir() and self._watches(), what="the start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _watches(self) -> bool:
        assert self.process.poll() is None, self.log()
        return "filing into" in self.log()

    def log(self) -> str:
        """Return all that the program has said."""
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
        with closing(sqlite3.connect(self.folders.state / "darkroom.db", timeout=30)) as database:
            return database.execute(sql).fetchall()

    def wait_for(self, seconds: float = 30, **counts: int) -> None:
        """Wait for the numbers of images by status: `wait_for(done=3)`."""

        def reached() -> bool:
            now = dict(self.query("SELECT status, n FROM tally"))
            return {key: now[key] for key in counts} == counts

        wait_until(reached, seconds, f"{counts}")

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any]:
        """Call the REST API; return the status and the whole JSON answer."""
        wait_until(lambda: "serving http" in self.log(), what="the web server")
        url = re.findall(r"serving (http\S+)", self.log())[-1]
        request = urllib.request.Request(url.rstrip("/") + path, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)
