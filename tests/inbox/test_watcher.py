import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import EnvironmentFault
from daemon.files.walk import Found
from daemon.inbox.presence import Pace
from daemon.inbox.watcher import Watcher

QUICK = Pace(poll=0.1, check=0.05, retry=0.2, late=0.2, between_scans=0.1, after_error=0.1)
ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Recorder:
    """A queue that remembers what it was told, and can be out of order."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int]] = {}
        self.renames: list[tuple[str, str]] = []
        self.batches: list[int] = []
        self.error: Exception | None = None

    def enqueue(self, files: Sequence[Found], now: float) -> list[str]:
        if self.error is not None:
            raise self.error
        self.batches.append(len(files))
        new = [file.path for file in files if self.rows.get(file.path) != (file.size, file.mtime_ns)]
        self.rows.update({file.path: (file.size, file.mtime_ns) for file in files})
        return new

    def rename(self, old: str, new: str, now: float) -> None:
        self.renames.append((old, new))
        for path in [path for path in self.rows if path == old or path.startswith(f"{old}/")]:
            self.rows[new + path[len(old) :]] = self.rows.pop(path)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


@contextmanager
def watching(inbox: Path, **options: Any) -> Iterator[tuple[Watcher, Recorder]]:
    recorder = Recorder()
    watcher = Watcher(inbox, recorder, **{"rescan_seconds": 600.0, "pace": QUICK, **options})
    watcher.start()
    try:
        wait_for(lambda: watcher.state.last_scan or watcher.state.problem)
        yield watcher, recorder
    finally:
        began = time.monotonic()
        watcher.stop()
        assert time.monotonic() - began < 2.0
        assert not watcher.alive()


CHILD = """
import json, logging, os, sys, threading
from pathlib import Path
from daemon.inbox.presence import Pace
from daemon.inbox.watcher import Watcher
def say(**what):
    os.write(1, (json.dumps(what) + chr(10)).encode())
class Queue:
    rows = {}
    def enqueue(self, files, now):
        new = [f.path for f in files if self.rows.get(f.path) != (f.size, f.mtime_ns)]
        self.rows.update({f.path: (f.size, f.mtime_ns) for f in files})
        if new:
            say(new=new)
        return new
    def rename(self, old, new, now):
        say(rename=[old, new])
class Tell(logging.Handler):
    def emit(self, record):
        say(log=record.getMessage())
logging.basicConfig(level=logging.INFO, handlers=[Tell()])
options = json.loads(sys.argv[2])
pace = Pace(poll=0.1, check=0.05, retry=0.2, late=0.2, between_scans=0.1, after_error=0.1)
watcher = Watcher(Path(sys.argv[1]), Queue(), pace=pace, **options)
watcher.start()
for line in sys.stdin:
    exec(line)
watcher.stop()
say(alive=watcher.alive())
"""


class Child:
    """A watcher in a process of its own, perhaps in namespaces of its own."""

    def __init__(self, inbox: Path, *, prepare: str | None = None, **options: Any) -> None:
        arguments = [sys.executable, "-c", CHILD, str(inbox), json.dumps({"rescan_seconds": 600.0, **options})]
        if prepare is not None:
            if subprocess.run(["unshare", "-Urm", "sh", "-c", prepare], capture_output=True).returncode:
                pytest.skip("needs user namespaces (unshare -Urm)")
            arguments = ["unshare", "-Urm", "sh", "-c", f'{prepare} && exec "$@"', "sh", *arguments]
        self.process = subprocess.Popen(
            arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.found: set[str] = set()
        self.log: list[str] = []
        self.ended: list[bool] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            self.found.update(said.get("new", ()))
            self.log.extend([said["log"]] if "log" in said else [])
            self.ended.extend([said["alive"]] if "alive" in said else [])

    def run(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(code + "\n")
        self.process.stdin.flush()

    def said(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def __enter__(self) -> "Child":
        wait_for(lambda: self.said("the inbox"))
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        if error[0] is None:
            assert (self.process.returncode, self.ended) == (0, [False])


# How files arrive.


def arrive_by_write(outside: Path, target: Path) -> None:
    target.write_bytes(b"photo")


def arrive_by_move(outside: Path, target: Path) -> None:
    (outside / "photo").write_bytes(b"photo")
    (outside / "photo").rename(target)


def arrive_by_link(outside: Path, target: Path) -> None:
    (outside / "photo").write_bytes(b"photo")
    target.hardlink_to(outside / "photo")


def arrive_by_cp(outside: Path, target: Path) -> None:
    (outside / "photo").write_bytes(b"photo")
    subprocess.run(["cp", "-p", outside / "photo", target], check=True)


def arrive_as_part(outside: Path, target: Path) -> None:
    part = target.parent / "download.crdownload"
    part.write_bytes(b"photo")
    part.rename(target)


def arrive_as_symlink(outside: Path, target: Path) -> None:
    target.symlink_to("/etc/passwd")


def arrive_as_pipe(outside: Path, target: Path) -> None:
    os.mkfifo(target)


WAYS = [
    arrive_by_write,
    arrive_by_move,
    arrive_by_link,
    arrive_by_cp,
    arrive_as_part,
    arrive_as_symlink,
    arrive_as_pipe,
]


@pytest.mark.parametrize("observer", ["auto", "polling"])
def test_files_are_found_however_they_arrive(inbox: Path, tmp_path: Path, observer: str) -> None:
    with watching(inbox, observer=observer) as (watcher, queue):
        for way in WAYS:
            outside = tmp_path / way.__name__
            outside.mkdir()
            way(outside, inbox / f"{way.__name__}.jpg")
        wait_for(lambda: len(queue.rows) == len(WAYS))
        assert queue.rows["arrive_by_move.jpg"][0] == 5
        assert watcher.state.mode == ("events" if observer == "auto" else "polling")
        assert watcher.state.healthy
        assert watcher.alive()


def test_odd_names_are_kept_as_they_are(inbox: Path) -> None:
    names = [b"two\nlines.jpg", b"caf\xe9.jpg", b"x" * 251 + b".jpg", b"'\"; DROP.jpg", b" .jpg", b"\xff"]
    with watching(inbox) as (_, queue):
        for name in names:
            (inbox / os.fsdecode(name)).write_bytes(b"1")
        wait_for(lambda: {os.fsencode(path) for path in queue.rows} == set(names))
    with watching(inbox) as (_, queue):
        assert {os.fsencode(path) for path in queue.rows} == set(names)


def test_renames_inside_the_inbox_keep_their_rows(inbox: Path) -> None:
    with watching(inbox) as (_, queue):
        (inbox / "a.jpg").write_bytes(b"1")
        (inbox / "trip").mkdir()
        (inbox / "trip/b.jpg").write_bytes(b"2")
        wait_for(lambda: set(queue.rows) == {"a.jpg", "trip/b.jpg"})
        (inbox / "a.jpg").rename(inbox / "A.jpg")
        (inbox / "trip").rename(inbox / "journey")
        wait_for(lambda: set(queue.rows) == {"A.jpg", "journey/b.jpg"})
        assert ("a.jpg", "A.jpg") in queue.renames
        assert ("trip", "journey") in queue.renames


def test_junk_is_passed_over_until_it_is_renamed(inbox: Path) -> None:
    with watching(inbox) as (_, queue):
        (inbox / "@eaDir").mkdir()
        for name in ("x.part", ".hidden.jpg", "Thumbs.db", "@eaDir/SYNOPHOTO_THUMB_M.jpg", ".darkroom-1"):
            (inbox / name).write_bytes(b"1")
        (inbox / "x.part").rename(inbox / "x.jpg")
        (inbox / "last.jpg").write_bytes(b"1")
        wait_for(lambda: "last.jpg" in queue.rows)
        assert set(queue.rows) == {"x.jpg", "last.jpg"}
        assert queue.renames == []


def test_a_tree_moved_in_and_a_tree_copied_in_are_found_whole(inbox: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(2000):
        folder = tree / f"{number % 20}" / f"{number % 200}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(b"1")
    with watching(inbox) as (_, queue):
        subprocess.run(["cp", "-r", tree, inbox / "copied"], check=True)
        wait_for(lambda: len(queue.rows) == 2000)
        tree.rename(inbox / "moved")
        wait_for(lambda: len(queue.rows) == 4000)


def test_subfolders_count_only_when_recursive(inbox: Path) -> None:
    (inbox / "old").mkdir()
    (inbox / "old/a.jpg").write_bytes(b"1")
    with watching(inbox, recursive=False) as (watcher, queue):
        (inbox / "new").mkdir()
        (inbox / "new/b.jpg").write_bytes(b"1")
        (inbox / "c.jpg").write_bytes(b"1")
        wait_for(lambda: queue.rows.get("c.jpg", (0, 0))[0] == 1)  # it was seen when empty, too
        assert watcher.scan_now() == 0
        assert set(queue.rows) == {"c.jpg"}


# What happens to the inbox.


def test_an_inbox_that_is_deleted_is_waited_for(inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "daemon")
    with watching(inbox) as (watcher, queue):
        inbox.rmdir()
        wait_for(lambda: not watcher.state.healthy)
        assert "is gone (No such file or directory); waiting for it" in str(watcher.state.problem)
        inbox.write_bytes(b"a file in its place")
        wait_for(lambda: watcher.alive())
        assert not watcher.state.healthy
        inbox.unlink()
        inbox.mkdir()
        (inbox / "a.jpg").write_bytes(b"1")
        wait_for(lambda: "a.jpg" in queue.rows)
        (inbox / "b.jpg").write_bytes(b"1")
        wait_for(lambda: "b.jpg" in queue.rows)
        assert watcher.state.healthy
    lines = [record.getMessage().replace(str(inbox), "") for record in caplog.records]
    assert lines == [
        "watching the inbox '', and looking through it every 600 s",
        "the inbox '' is gone (No such file or directory); waiting for it",
        "the inbox '' is there again",
    ]


@pytest.mark.parametrize("observer", ["auto", "polling"])
def test_an_inbox_deleted_and_made_anew_at_once_is_watched(inbox: Path, observer: str) -> None:
    with watching(inbox, observer=observer) as (_, queue):
        inbox.rmdir()
        inbox.mkdir()  # most often with the same inode
        (inbox / "sub").mkdir()
        (inbox / "sub/a.jpg").write_bytes(b"1")
        wait_for(lambda: "sub/a.jpg" in queue.rows)
        (inbox / "sub/b.jpg").write_bytes(b"1")
        wait_for(lambda: "sub/b.jpg" in queue.rows)


def test_an_inbox_replaced_by_another_folder_is_watched(
    inbox: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watching(inbox) as (_, queue):
        (tmp_path / "other").mkdir()
        (tmp_path / "other/a.jpg").write_bytes(b"1")
        inbox.rename(tmp_path / "away")
        (tmp_path / "other").rename(inbox)
        wait_for(lambda: "a.jpg" in queue.rows)
        (inbox / "b.jpg").write_bytes(b"1")
        wait_for(lambda: "b.jpg" in queue.rows)
        (tmp_path / "away/c.jpg").write_bytes(b"1")
        (inbox / "d.jpg").write_bytes(b"1")
        wait_for(lambda: "d.jpg" in queue.rows)
        assert "c.jpg" not in queue.rows


def test_an_inbox_that_is_a_link_is_watched_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "inbox").symlink_to("first")
    with watching(tmp_path / "inbox") as (_, queue):
        (tmp_path / "first/a.jpg").write_bytes(b"1")
        wait_for(lambda: "a.jpg" in queue.rows)
        (tmp_path / "link").symlink_to("second")
        (tmp_path / "link").rename(tmp_path / "inbox")
        (tmp_path / "second/b.jpg").write_bytes(b"1")
        wait_for(lambda: "b.jpg" in queue.rows)


def test_an_inbox_may_come_after_the_start(tmp_path: Path) -> None:
    with watching(tmp_path / "inbox") as (watcher, queue):
        assert not watcher.state.healthy
        with pytest.raises(EnvironmentFault, match="can't be read"):
            watcher.scan_now()
        assert not (tmp_path / "inbox").exists()
        (tmp_path / "inbox").mkdir()
        (tmp_path / "inbox/a.jpg").write_bytes(b"1")
        wait_for(lambda: "a.jpg" in queue.rows)


def test_an_inbox_unmounted_and_mounted_again_at_once_is_watched(inbox: Path) -> None:
    mount = f"mount -t tmpfs tmpfs '{inbox}'"
    with Child(inbox, prepare=mount) as child:
        child.run(f"Path('{inbox}/a.jpg').write_bytes(b'1')")
        wait_for(lambda: "a.jpg" in child.found)
        # It can be unmounted while it is watched, and the new one has the same device and inode.
        child.run(f'os.system("umount {inbox} && {mount} && touch {inbox}/b.jpg")')
        wait_for(lambda: "b.jpg" in child.found)
        child.run(f"Path('{inbox}/c.jpg').write_bytes(b'1')")
        wait_for(lambda: "c.jpg" in child.found)


def test_nothing_in_the_inbox_stays_open(inbox: Path) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub/a.jpg").write_bytes(b"1")
    with watching(inbox) as (_, queue):
        (inbox / "b.jpg").write_bytes(b"1")
        wait_for(lambda: len(queue.rows) == 2)
        fds = Path("/proc/self/fd")
        wait_for(lambda: not [fd for fd in os.listdir(fds) if str(inbox) in os.path.realpath(fds / fd)])


# What happens to the events.


@pytest.mark.parametrize(("limit", "name"), [("watches", "max_user_watches"), ("instances", "max_user_instances")])
def test_without_inotify_it_polls_and_tries_again(inbox: Path, limit: str, name: str) -> None:
    setting = f"/proc/sys/user/max_inotify_{limit}"
    with Child(inbox, prepare=f"echo 0 > {setting}") as child:
        (inbox / "a.jpg").write_bytes(b"1")
        wait_for(lambda: "a.jpg" in child.found)
        assert child.said(f"sysctl fs.inotify.{name}=")
        child.run(f"Path('{setting}').write_text('100')")
        wait_for(lambda: child.said("watching the inbox"))
        (inbox / "b.jpg").write_bytes(b"1")
        wait_for(lambda: "b.jpg" in child.found)
        assert len(child.log) == 2


def test_who_wants_events_alone_is_told_that_there_are_none(inbox: Path) -> None:
    (inbox / "a.jpg").write_bytes(b"1")
    with Child(inbox, prepare="echo 0 > /proc/sys/user/max_inotify_watches", observer="events") as child:
        wait_for(lambda: "a.jpg" in child.found)
        child.run("say(log=f'{watcher.state.mode}, {watcher.state.healthy}')")
        wait_for(lambda: child.said("events, False"))
        assert child.said("every 600 s: the kernel's limit fs.inotify.max_user_watches=")


@pytest.mark.slow
def test_when_scans_find_what_events_should_have_told_it_polls(inbox: Path) -> None:
    (inbox / "sub").mkdir()
    # Enough for the inbox, not for its subfolder, which watchdog keeps to itself.
    with Child(inbox, prepare="echo 1 > /proc/sys/user/max_inotify_watches", rescan_seconds=0.4) as child:
        assert child.said("watching the inbox")
        for number in range(100):
            (inbox / f"sub/{number}.jpg").write_bytes(b"1")
            wait_for(lambda: f"sub/{number}.jpg" in child.found)  # noqa: B023
            if child.said("events do not arrive for 'sub/"):
                break
        assert number >= 2
        assert child.said("every 0.1 s: events do not arrive for 'sub/")
        (inbox / "told.jpg").write_bytes(b"1")
        wait_for(lambda: "told.jpg" in child.found)


@pytest.mark.slow
def test_a_lost_queue_is_made_good_by_a_scan(inbox: Path, tmp_path: Path) -> None:
    count = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) + 1000
    if count > 50_000:
        pytest.skip("fs.inotify.max_queued_events is too high for a quick test")
    (tmp_path / "photo").write_bytes(b"1")
    with Child(inbox) as child:
        child.process.send_signal(signal.SIGSTOP)
        for number in range(count):
            os.link(tmp_path / "photo", inbox / f"{number}.jpg")
        child.process.send_signal(signal.SIGCONT)
        wait_for(lambda: len(child.found) == count)
        assert child.log[1:] == ["more changed in the inbox at once than the kernel has events for; looking through it"]


def test_a_dead_reading_thread_is_replaced(inbox: Path, tmp_path: Path) -> None:
    with Child(inbox) as child:
        for name in "ab":
            (inbox / name).mkdir()
            (inbox / name / "x.jpg").write_bytes(b"1")
        wait_for(lambda: child.found >= {"a/x.jpg", "b/x.jpg"})
        # The way of moves and deletions that raises KeyError in watchdog's reading thread.
        (inbox / "a").rename(tmp_path / "away")
        (inbox / "b").rename(inbox / "a")
        shutil.rmtree(inbox / "a")
        shutil.rmtree(tmp_path / "away")
        wait_for(lambda: child.said("was lost; setting it again") or child.said("is lost again and again"))
        (inbox / "c.jpg").write_bytes(b"1")
        wait_for(lambda: "c.jpg" in child.found)


def test_a_network_filesystem_is_polled_and_watched(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("daemon.inbox.presence.filesystem", lambda path: "nfs4")
    with watching(inbox) as (watcher, queue):
        assert watcher.state.mode == "polling"
        assert "nfs4 makes no events for what other machines write" in caplog.text
        (inbox / "a.jpg").write_bytes(b"1")
        wait_for(lambda: "a.jpg" in queue.rows)
        before = watcher.state.last_scan
        wait_for(lambda: watcher.state.last_scan != before)
        assert watcher.state.healthy
    with watching(inbox, observer="events") as (watcher, queue):
        assert watcher.state.mode == "events"


def test_a_queue_that_fails_is_told_again(inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watching(inbox) as (watcher, queue):
        for error in (EnvironmentFault("the disk is full"), RuntimeError("a bug")):
            queue.error = error
            (inbox / f"{type(error).__name__}.jpg").write_bytes(b"1")
            wait_for(lambda: str(error) in str(watcher.state.problem))  # noqa: B023
            queue.error = None
            wait_for(lambda: f"{type(error).__name__}.jpg" in queue.rows)  # noqa: B023
            wait_for(lambda: watcher.state.healthy)
    assert "watcher: the disk is full; it is tried again by itself" in caplog.text
    assert "an error in darkroom itself: RuntimeError: a bug" in caplog.text
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True, False]


def test_watchdogs_own_words_stay_inside(inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watching(inbox) as (watcher, _):
        before = watcher.state.last_scan
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
        wait_for(lambda: watcher.state.last_scan != before)
        again = watcher.state.last_scan
        wait_for(lambda: watcher.state.last_scan != again)
    assert [record.name for record in caplog.records] == ["daemon.inbox.watcher"]
    assert logging.getLogger("watchdog.observers").propagate


def test_a_scan_can_be_made_without_a_watch(inbox: Path) -> None:
    (inbox / "a.jpg").write_bytes(b"1")
    watcher = Watcher(inbox, Recorder())
    assert watcher.scan_now() == 1
    assert watcher.scan_now() == 0
