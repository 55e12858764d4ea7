"""Somebody who is new here: a fresh account, terminals in it, and who types into them what the README says.

The machine around is as the text supposes: a card is there and a disk for backups, pipx and uv are installed, and for
systemd a process that is started and stopped when systemctl is told so.
"""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.readme import Block
from tests.support import wait_until

_PASSED_ON = re.compile("(PIP|UV|SSL|REQUESTS)_.*|(HTTPS?|NO|ALL)_PROXY", re.IGNORECASE)
_MARK = "@@exit code "
# What only ends with Ctrl-C.
_ENDLESS = re.compile(r"darkroom run$|darkroom status --watch$|curl -N ")
# What is not typed in: it needs Docker, systemd or root.
_LEFT_OUT = ("docker ", "loginctl ", "sudo ")


class Account:
    """A fresh account with an empty home; of another user, by this number, where root is at work."""

    def __init__(self, number: int, tools: Path, **more: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="home-"))
        is_root = os.geteuid() == 0
        self._number = number if is_root else None
        self._as = ("setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups") if is_root else ()
        for file in Path("/etc/skel").glob(".*"):
            shutil.copy(file, self.home)
        # The index that this machine installs from.
        for place in (".config/pip", ".pip", ".config/uv"):
            with suppress(FileNotFoundError):
                shutil.copytree(Path.home() / place, self.home / place)
        self.give(self.home)
        path = f"{tools}:/usr/local/bin:/usr/bin:/bin"
        python = Path(sys.base_prefix) / "bin"
        if subprocess.run([*self._as, "test", "-x", python / "python3"], check=False).returncode == 0:
            # Else it is root's own, and the system's has to do.
            path = f"{python}:{path}"
        passed = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
        self.environment = {**passed, "HOME": str(self.home), "PATH": path, "LANG": "C.UTF-8", **more}
        self.terminals: list[Terminal] = []

    def give(self, path: Path) -> None:
        """Make a tree the account's own."""
        if self._number is not None:
            for one in (path, *path.rglob("*")):
                os.chown(one, self._number, self._number, follow_symlinks=False)

    def popen(self, *command: object, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command as this account, in a session of its own."""
        words = [*self._as, *map(str, command)]
        return subprocess.Popen(words, cwd=self.home, env=self.environment, start_new_session=True, **options)

    def run(self, *command: object) -> str:
        """Run a command as this account; return what it printed."""
        words = [*self._as, *map(str, command)]
        done = subprocess.run(words, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def open(self) -> "Terminal":
        """Open a terminal."""
        self.terminals.append(Terminal(self, len(self.terminals)))
        return self.terminals[-1]

    def leave(self) -> None:
        """End all that runs here, and take the home away."""
        for terminal in self.terminals:
            terminal.close()
        shutil.rmtree(self.home)


class Terminal:
    """A shell that commands are typed into, one after the other."""

    def __init__(self, account: Account, number: int) -> None:
        self._log = account.home / f".terminal-{number}"
        self._log.touch()
        with self._log.open("ab") as log:
            # -i: it reads .bashrc, as one in a window does.
            self._shell = account.popen("bash", "--noediting", "-i", stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert self._shell.stdin is not None
        self._stdin = self._shell.stdin
        # Without prompts what stands in it is what is said.
        self._stdin.write(b"PS1= PS2=\n")
        self.running: psutil.Process | None = None
        self._typed = 0

    def said(self) -> str:
        """Return all that stands in it."""
        return self._log.read_text(errors="replace")

    def type(self, line: str, *, codes: Collection[int] = (0,), seconds: float = 300) -> str:
        """Type a line in; return what it says once it has ended well, which is with one of some exit codes.

        What only ends with Ctrl-C is left running.
        """
        assert self.running is None, f"{line}: something runs in this terminal"
        self._typed = len(self.said())
        # In the shell itself, or `cd` and `export` would do nothing; nothing of what is typed next is its input.
        self._stdin.write(f"{{ {line}\n}} </dev/null; printf '\\n{_MARK}%s\\n' $?\n".encode())
        self._stdin.flush()
        if _ENDLESS.search(line.partition(" #")[0]):
            wait_until(lambda: self._child() or _MARK in self.saying(), seconds, line)
            self.running = self._child()
            assert self.running is not None, self.saying()
            return ""
        wait_until(lambda: _MARK in self.saying(), seconds, f"the end of {line}")
        said, _, code = self.saying().partition(_MARK)
        assert int(code.split()[0]) in codes, f"{line}: exit code {code.split()[0]}\n{said}"
        return said

    def _child(self) -> psutil.Process | None:
        """Return what runs in it at the end of its line; installing is not yet that."""
        for process in psutil.Process(self._shell.pid).children(recursive=True):
            with suppress(psutil.Error):
                words = process.cmdline()
                if _ENDLESS.search(" ".join([Path(word).name if "/" in word else word for word in words])):
                    return process
        return None

    def saying(self) -> str:
        """Return what has been said since the last line was typed in."""
        return self.said()[self._typed :]

    def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        assert self.running is not None
        ended = self.said().count(_MARK) + 1
        self.running.send_signal(signal.SIGINT)
        wait_until(lambda: self.said().count(_MARK) == ended, 30, "the end after Ctrl-C")
        self.running = None
        return int(self.said().rpartition(_MARK)[2].split()[0])

    def close(self) -> None:
        """Close it, and end all that runs in it."""
        with suppress(psutil.Error):
            for process in psutil.Process(self._shell.pid).children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        self._shell.kill()
        self._shell.communicate()


class Reader:
    """Who does in an account what the README says; `places` is what stands for the reader's own in the text.

    A block that is said to be for another or a new terminal is typed into one. What only ends with Ctrl-C keeps its
    terminal: `darkroom run` until another one is started.
    """

    def __init__(self, account: Account, places: Mapping[str, str], port: int) -> None:
        self.account, self.port = account, port
        self.photos = account.home / "photos"
        self._places = {**places, ":8080": f":{port}"}
        self.terminal = account.open()
        # Whose inbox is filled.
        self._folder = account.home / "darkroom"
        self._service: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def read(self, block: Block) -> None:
        """Do what a block says, and wait until what it has brought is filed."""
        if re.search(r"\b(another|new) terminal\b", block.before):
            self.terminal = self.account.open()
        if block.kind == "dotenv":
            with (self.photos / ".env").open("a") as file:
                file.write(block.text.replace("…", "AIza-made-up"))
            return
        for line in block.lines:
            self.do(line)
        if self._service is not None or self._in_terminals():
            wait_until(lambda: is_idle(self._folder), 60, "the end of the work")

    def do(self, line: str) -> None:
        """Do what one line says."""
        for name, place in self._places.items():
            line = line.replace(name, place)
        if line.startswith(_LEFT_OUT):
            return
        if line.startswith("systemctl --user "):
            self._systemctl(line.split()[2])
        elif line.startswith("darkroom service --install"):
            unit = self.terminal.type("darkroom service --user")
            assert f"ExecStart={self.account.home}/" in unit
            assert f"--config {self.photos}/config.toml" in unit
            self._systemctl("start")
        elif line.endswith("darkroom run"):
            self._interrupt()
            self.terminal.type(line)
            wait_until(lambda: "serving http" in self.terminal.said(), 60, "the web server")
            self._folder = self.photos if line == "darkroom run" else self._folder
        else:
            # 24: something has vanished meanwhile, as the text says.
            self.terminal.type(line, codes=(0, 24) if line.startswith("rsync ") else (0,))
            if self.terminal.running is not None:
                wait_until(lambda: self.terminal.saying().strip(), 30, f"what {line} says")
                self.terminal.interrupt()

    def _in_terminals(self) -> list[Terminal]:
        return [terminal for terminal in self.account.terminals if terminal.running is not None]

    def _interrupt(self) -> None:
        for terminal in self._in_terminals():
            assert terminal.interrupt() == 0, terminal.said()

    def _systemctl(self, verb: str) -> None:
        self._interrupt()
        if verb != "start" and self._service is not None:
            self._service.terminate()
            assert self._service.wait(30) == 0
            self._service = None
        if verb in {"start", "restart"}:
            self._starts += 1
            log = self.account.home / f".journal-{self._starts}"
            command = (self.account.home / ".local/bin/darkroom", "run", "--config", self.photos / "config.toml")
            with log.open("wb") as out:
                self._service = self.account.popen(*command, stdout=out, stderr=out)
            wait_until(lambda: "serving http" in log.read_text(), 60, "the start of the service")

    def close(self) -> None:
        """End all of it."""
        if self._service is not None:
            self._service.kill()
            self._service.wait()
        self.account.leave()


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read the database of a darkroom from outside."""
    with closing(sqlite3.connect(folder / "state/darkroom.db", timeout=30)) as database:
        return database.execute(sql).fetchall()


def is_idle(folder: Path) -> bool:
    """Return whether a darkroom has filed all that lies in its inbox."""
    if any(path.is_file() for path in (folder / "inbox").rglob("*")):
        return False
    counts = dict(rows(folder, "SELECT status, n FROM tally"))
    return bool(counts["queued"] == counts["processing"] == 0)


def free_port() -> int:
    """Return a port that is free now, for what is to be told one."""
    with closing(socket.socket()) as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
