"""What `darkroom status` shows: what the program is doing, how fast, and what waits."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from daemon.commands.status import Activity, lines_of, status_of
from daemon.commands.watch import _Lines, progress_of
from daemon.errors import Postponed, WaitingReason
from daemon.files import lock
from tests.program import Program, darkroom, environment
from tests.support import Room, jpeg, wait_until


def shown(room: Room) -> tuple[str, str]:
    now = progress_of(status_of(room.config, room.statistics))
    return now.activity, now.speed


def activity(room: Room) -> Activity:
    return status_of(room.config, room.statistics).activity


def printed(room: Room) -> str:
    return "\n".join(lines_of(status_of(room.config, room.statistics)))


def test_a_rate_is_shown_while_there_is_work(room: Room) -> None:
    room.put("a.jpg", jpeg(seed=1))
    room.drain()
    assert shown(room) == ("not running", "")
    assert activity(room) is Activity.NOT_RUNNING
    with lock.exclusive(room.state, []):
        assert status_of(room.config, room.statistics).stats.rate > 0, "some minutes long"
        assert shown(room) == ("idle", ""), "there is nothing left that could have a rate"
        assert activity(room) is Activity.IDLE
        room.put("b.jpg", jpeg(seed=2))
        room.scan()
        what, speed = shown(room)
        assert what == "filing"
        assert activity(room) is Activity.FILING
        assert "/s, " in speed
        assert speed.endswith(" s left")
        assert "a second" in printed(room)
        room.stored.set_pause("the library folder is full", 0.0)
        assert shown(room) == ("paused", "")
        assert progress_of(status_of(room.config, room.statistics)).notes[1].endswith(": the library folder is full")
        assert activity(room) is Activity.PAUSED
        assert "a second" not in printed(room)
        room.stored.set_pause(None)
        job = room.queue.claim(time.time())
        assert job is not None
        room.queue.postpone(job, Postponed(WaitingReason.WRITER, 60.0), time.time())
        assert shown(room) == ("waiting", ""), "nobody knows for how long"
        assert activity(room) is Activity.WAITING
        assert "waiting: 1 open for writing" in printed(room)


def test_no_rate_before_the_first_is_filed(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.scan()
    with lock.exclusive(room.state, []):
        assert shown(room) == ("filing", "")


def test_an_inbox_that_is_gone_is_told(room: Room) -> None:
    assert "inbox" not in printed(room)
    room.inbox.rename(room.inbox.with_name("elsewhere"))
    assert f"GONE: the inbox {room.inbox} is not there: is its disk mounted?" in printed(room)
    document = json.loads(darkroom(room.config.base, "status", "--json").stdout)
    assert document["inbox_gone"] is True


class Watched:
    """`darkroom status --watch` in a folder, with a file or a terminal of its own for what it shows."""

    def __init__(self, base: Path, *, terminal: bool = False) -> None:
        self._file = base / "watched"
        self._master: int | None = None
        if terminal:
            self._master, slave = pty.openpty()
        else:
            slave = os.open(self._file, os.O_WRONLY | os.O_CREAT)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "daemon", "status", "--watch"],
            cwd=base,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm", COLUMNS="100"),
        )
        os.close(slave)
        self._seen = ""

    def text(self) -> str:
        if self._master is None:
            return self._file.read_text()
        self._seen += os.read(self._master, 100_000).decode(errors="replace")
        return self._seen

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        if self._master is not None:
            # EIO tells of the end of a terminal.
            with suppress(OSError):
                while True:
                    self.text()
            os.close(self._master)
        return self.process.wait(20)


@pytest.mark.slow
def test_whoever_watches_is_told_line_by_line_where_there_is_no_terminal(tmp_path: Path) -> None:
    base = tmp_path / "room"
    base.mkdir()
    watched = Watched(base)
    wait_until(
        lambda: f"waiting; nothing has run in {base} yet" in watched.text(), what="the wait before the first run"
    )
    with Program(base) as program:
        (base / "inbox/a.jpg").write_bytes(jpeg())
        (base / "inbox/b.jpg").write_bytes(b"no photo")
        program.wait_for(done=1, failed=1)
        wait_until(lambda: "done 1  duplicate 0  failed 1" in watched.text(), what="the counts")
        (base / "inbox").rename(base / "away")
        wait_until(lambda: f"; GONE: the inbox {base}/inbox is not there" in watched.text(), what="the vanished inbox")
    wait_until(lambda: "  not running: 2 of 2; " in watched.text(), what="the end of the program")
    assert watched.stop() == 0
    lines = watched.text().splitlines()
    assert all(line[2] == line[5] == ":" and line[8:10] == "  " for line in lines), "each begins with the time"
    assert len(lines) < 12


@pytest.mark.slow
def test_a_long_reason_stands_below_the_bar(tmp_path: Path) -> None:
    reason = "the library folder is full: " + "nothing is left of it, " * 8
    room = Room(tmp_path / "room")
    room.put("a.jpg", jpeg())
    room.scan()
    with lock.exclusive(room.state, []):
        room.stored.set_pause(reason, time.time())
        watched = Watched(room.config.base, terminal=True)
        wait_until(lambda: reason[-20:].strip() in watched.text(), what="the reason")
        assert watched.stop() == 0
    bar = next(line for line in watched._seen.splitlines() if "0/1" in line)
    assert "paused" in bar
    assert "library" not in bar
    room.catalogue.close()


def test_a_pause_through_a_pipe_is_no_line_each_second(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    room.put("a.jpg", jpeg())
    room.scan()
    lines = _Lines()
    with lock.exclusive(room.state, []):
        for since in (30.0, 20.0, 10.0):
            room.stored.set_pause("the library folder is full", time.time() - since)
            lines.show(progress_of(status_of(room.config, room.statistics)))
        room.stored.set_pause("the library folder is gone", time.time())
        lines.show(progress_of(status_of(room.config, room.statistics)))
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": the library ")[2] for line in said] == ["folder is full", "folder is gone"]
