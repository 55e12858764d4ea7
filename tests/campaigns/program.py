"""Runs the real program in a process group of its own, alone or under strace, and sees that none of it remains."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
_SECRETS = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey", "DARKROOM_TOKEN")
_ENDED_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `code` is negative for a signal, `text` all that it wrote."""

    code: int
    text: str

    @property
    def killed(self) -> bool:
        return self.code in {-signal.SIGKILL, 128 + signal.SIGKILL}


def command(*words: str, names: str = "") -> list[str]:
    """Return the words that start darkroom; where `names` are given, with hidden names that depend on these alone."""
    module = ["tests.campaigns.foretold", names] if names else ["daemon"]
    return [sys.executable, "-m", *module, *words]


def environment() -> dict[str, str]:
    """Return the environment for the program: no keys, this source tree."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}


def run(base: Path, *words: str, under: Sequence[str] = (), names: str = "", seconds: float = 120.0) -> Outcome:
    """Run darkroom in `base` to its end, prefixed by `under`; fail when any of its processes outlives it."""
    process = start(base, *words, under=under, names=names)
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Its fault handler writes what each thread is at.
        os.killpg(process.pid, signal.SIGABRT)
        text, _ = process.communicate()
        end(process)
        raise AssertionError(f"{' '.join(words)} did not end within {seconds:g} s: {text[-6000:]}") from None
    wait_for_group(process.pid)
    return Outcome(process.returncode, text)


def start(
    base: Path, *words: str, under: Sequence[str] = (), names: str = "", output: Any = subprocess.PIPE
) -> "subprocess.Popen[str]":
    """Start darkroom in a session of its own; what it writes goes to `output`."""
    return subprocess.Popen(
        [*under, *command(*words, names=names)],
        cwd=base,
        env=environment(),
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for_group(process.pid)


@contextmanager
def serving(base: Path, *, under: Sequence[str] = (), log: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Keep `darkroom run` going for a block, its output in `log`; stop it with SIGTERM, and expect exit code 0."""
    file = log or base / "run.log"
    with file.open("ab") as out:
        before = out.tell()
        process = subprocess.Popen(
            [*under, *command("run")], cwd=base, env=environment(), stdout=out, stderr=out, start_new_session=True
        )
        try:
            wait(lambda: b"serving http" in file.read_bytes()[before:], 30, lambda: file.read_text(errors="replace"))
            yield process
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        wait_for_group(process.pid)
        assert code == 0, f"ended with {code}: {file.read_text(errors='replace')[-2000:]}"


def group(pid: int) -> list[psutil.Process]:
    """List the living processes of a process group."""
    alive = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def wait_for_group(pid: int) -> None:
    """Wait until a process group is gone; fail naming what is left of it."""
    wait(lambda: _is_gone(pid), _ENDED_SECONDS, lambda: f"still running: {group(pid)}")


def _is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return not group(pid)  # those that nobody has waited for are no more than entries


def wait(condition: Callable[[], object], seconds: float, what: Callable[[], str] | str) -> None:
    """Wait until something is true; fail saying what is not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


def has_strace() -> bool:
    """Return whether strace is here and may trace."""
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0
    )
