"""Locks: who asks never holds, two never hold, and a folder that can't be examined does not end the start."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.errors import Busy, EnvironmentFault
from daemon.files import lock
from tests.program import darkroom, environment
from tests.support import no_new_descriptors, wait_until


@contextmanager
def asking(state: Path, threads: int = 3) -> Iterator[list[int | None]]:
    """Ask who is running, over and over, for a block; give the answers."""
    ending = threading.Event()
    answers: list[int | None] = []

    def ask() -> None:
        while not ending.is_set():
            answers.append(lock.running(state))

    asked = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asked:
        thread.start()
    try:
        yield answers
    finally:
        ending.set()
        for thread in asked:
            thread.join()


@pytest.mark.slow
def test_asking_never_keeps_anybody_from_starting(tmp_path: Path) -> None:
    with no_new_descriptors(), asking(tmp_path) as answers:
        for _ in range(200):
            with lock.exclusive(tmp_path, []):
                assert lock.running(tmp_path) == os.getpid()
        wait_until(lambda: answers, what="an answer")
    assert set(answers) <= {None, 0, os.getpid()}
    assert lock.running(tmp_path) is None


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="needs locks of open file descriptions")
def test_the_program_starts_while_it_is_asked_after(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with (tmp_path / "state/lock").open("a") as asked:
        # What asking once did for a moment, drawn out.
        fcntl.flock(asked, fcntl.LOCK_SH)
        done = darkroom(tmp_path, "run", "--once")
    assert done.returncode == 0, done.stderr


def test_a_system_without_locks_that_can_be_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("F_OFD_SETLK", "F_OFD_GETLK"):
        monkeypatch.delattr(fcntl, name, raising=False)
    assert lock.running(tmp_path) is None
    asked = (tmp_path / "lock").open("a")
    fcntl.flock(asked, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, asked.close)
    timer.start()
    with lock.exclusive(tmp_path, []):
        assert lock.running(tmp_path) == os.getpid()
        with pytest.raises(Busy, match=f"pid {os.getpid()}"), lock.exclusive(tmp_path, []):
            pass
    timer.join()
    assert lock.running(tmp_path) is None


def test_two_never_hold_the_same(tmp_path: Path) -> None:
    state, other, inbox = tmp_path / "state", tmp_path / "other", tmp_path / "inbox"
    for folder in (state, other, inbox):
        folder.mkdir()
    with lock.exclusive(state, [inbox]):
        with pytest.raises(Busy, match=f"already running on {state} .pid {os.getpid()}"), lock.exclusive(state, []):
            pass
        with pytest.raises(Busy, match=f"already works on {inbox}"), lock.exclusive(other, [inbox]):
            pass
        assert lock.running(other) is None
        assert lock.running(state) == os.getpid()
    with lock.exclusive(other, [inbox]):
        pass


def test_nobody_s_folder_lies_in_the_inbox_of_another(tmp_path: Path) -> None:
    inbox, state, other, beside = (tmp_path / name for name in ("inbox", "state", "inbox/card/other", "beside"))
    for folder in (inbox, state, other, beside):
        folder.mkdir(parents=True)
    refused = pytest.raises(Busy, match=f"^{inbox} is the inbox of another darkroom, which would file what")
    with lock.exclusive(state, [inbox, beside], inbox):
        for inner in ((other, []), (tmp_path, [other]), (tmp_path, [other / "not there yet"])):
            with refused, lock.exclusive(*inner):
                pass
        with lock.exclusive(tmp_path, []):
            pass
    # Where its subfolders are nobody's business, and once it has ended.
    with lock.exclusive(state, [inbox]), lock.exclusive(tmp_path, [other]):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to act as another account")
@pytest.mark.parametrize("listens", ["listen(0)", "getsockname()"])
def test_a_folder_s_lock_is_nothing_to_whom_it_does_not_belong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listens: str
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    here = inbox.stat()
    taking = f"""if True:
        import os, socket, sys
        os.setuid(65534)
        held, calling = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        held.bind("\\0darkroom-{here.st_dev}-{here.st_ino}")
        held.{listens}
        print("held", flush=True)
        sys.stdin.read()
    """
    other = subprocess.Popen([sys.executable, "-c", taking], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other, caplog.at_level("WARNING"):
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with lock.exclusive(tmp_path, [inbox]):
            assert "has the lock of" in caplog.text
        assert other.stdin is not None
        other.stdin.close()


def test_however_often_it_is_asked_for(tmp_path: Path) -> None:
    (inbox := tmp_path / "inbox").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    with no_new_descriptors(), lock.exclusive(tmp_path, [inbox]):
        for _ in range(200):  # more than may wait to be answered: listen() lets 128
            with pytest.raises(Busy), lock.exclusive(other, [inbox]):
                pass


def test_who_holds_it_may_be_unknown(tmp_path: Path) -> None:
    assert lock.running(tmp_path / "nowhere") is None
    assert lock.running(tmp_path) is None
    with lock.exclusive(tmp_path, []):
        (tmp_path / "lock").write_bytes(b"\xff\xfe")
        assert lock.running(tmp_path) == 0
    (tmp_path / "lock").write_text("1")
    assert lock.running(tmp_path) is None, "a process id alone is nobody"


def test_a_folder_that_can_not_be_examined_does_not_end_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Too long a name is a fault of `stat` that needs no broken disk.
    broken, absent, inbox = tmp_path / ("x" * 300), tmp_path / "absent", tmp_path / "inbox"
    inbox.mkdir()
    with lock.exclusive(tmp_path, [broken, absent, inbox]):
        assert caplog.text.count("can't be examined") == len(caplog.records) == 1
        with pytest.raises(Busy, match="already running"), lock.exclusive(tmp_path, []):
            pass
        (tmp_path / "other").mkdir()
        with pytest.raises(Busy, match="already works on"), lock.exclusive(tmp_path / "other", [inbox]):
            pass


def test_a_block_is_one_thread_s_at_a_time(tmp_path: Path) -> None:
    file, inside, most = tmp_path / "held", [0], [0]

    def work() -> None:
        for _ in range(5):
            with lock.held(file, 20, "busy"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == ([0], [1])


_HOLDS = """
import sys
from pathlib import Path
from daemon.files import lock
with lock.held(Path(sys.argv[1]), 0, "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_block_that_another_process_holds(tmp_path: Path) -> None:
    file = tmp_path / "held"
    command = [sys.executable, "-c", _HOLDS, str(file)]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(Busy, match="somebody is at it"), lock.held(file, 0.3, "somebody is at it"):
            pass
        assert 0.3 <= time.monotonic() - began < 5
        threading.Timer(0.2, other.terminate).start()
        with lock.held(file, 20, "busy"):
            assert file.read_bytes() == b""


def test_a_block_whose_file_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="can't be made"), lock.held(tmp_path / "no/held", 0, "busy"):
        pass
