"""Stops the program after each call that touches certain files, so that something can be done there and then."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.campaigns import program

# `rest` is empty of a call that another thread's line has cut in two: it is counted where it began.
_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)$")
_STOPPED = re.compile(r"^(?P<tid>\d+) +--- stopped by SIGSTOP ---$")
_QUIET_SECONDS = 0.3


def run(
    base: Path,
    words: Callable[..., list[str]],
    paths: Sequence[Path],
    note: Callable[[str, str], None],
    seconds: float,
) -> list[str]:
    """Run `run --once`, and call `note` with the name and the text of each call, in the standstill after it.

    `words` puts strace between the words that become another account. Names are followed as strace knows them: whole
    paths, and what is relative to an open folder. Return what was wrong with the run.
    """
    with tempfile.NamedTemporaryFile(suffix=".strace") as log, tempfile.TemporaryFile("w+b") as said:
        names = [word for path in paths for word in ("-P", str(path))]
        what = "%file,%desc"
        strace = ["strace", "-f", "-y", "-qq", "-s", "200", "-o", log.name, *names]
        strace += ["-e", f"trace={what}", "-e", f"inject={what}:signal=SIGSTOP"]
        process = program.start(base, "run", "--once", under=words(*strace), output=said)
        deadline = time.monotonic() + seconds
        stopped: set[int] = set()
        last = time.monotonic()
        for line in _lines(Path(log.name), process):
            now = time.monotonic()
            if line is None:
                if now > last + _QUIET_SECONDS:
                    stopped |= {one.pid for one in program.group(process.pid)}
                    last = now
                for pid in stopped:
                    _go_on(pid)
                stopped.clear()
                if now > deadline:
                    break
                continue
            last = now
            if call := _CALL.match(line):
                note(call["name"], call["rest"])
            elif stop := _STOPPED.match(line):
                stopped |= _process_of(int(stop["tid"]))
        late = process.poll() is None
        program.end(process)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return [f"it did not end within {seconds:g} s: {text[-1500:]}"] if late else []


def _lines(log: Path, process: "subprocess.Popen[str]") -> Iterator[str | None]:
    """Yield each whole line as it is written, and None whenever there is no more for now; end with the process."""
    with log.open(errors="replace") as opened:
        part = ""
        while True:
            ended = process.poll() is not None
            part += opened.readline()
            if part.endswith("\n"):
                yield part.rstrip("\n")
                part = ""
            elif ended:
                return
            else:
                yield None
                time.sleep(0.0005)


def _process_of(tid: int) -> set[int]:
    with suppress(OSError):
        return {int(pid) for pid in re.findall(r"^Tgid:\t(\d+)", Path(f"/proc/{tid}/status").read_text(), re.MULTILINE)}
    return set()


def _go_on(pid: int) -> None:
    # One that runs, though another of its threads stood, is left alone: the signal would undo its next stop.
    with suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "tT":
            os.kill(pid, signal.SIGCONT)
