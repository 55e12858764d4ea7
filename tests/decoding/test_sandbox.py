import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from daemon.decoding import Decoded, Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Postponed, Rejected, Transient, Truncated
from tests.decoding.images import photo
from tests.decoding.misbehave import work
from tests.support import slow

ROOT = Path(__file__).parents[2]
LIMITS = Limits(seconds=20, memory_mb=512)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One for many tests: each must leave it ready for the next image."""
    sandbox = Sandbox(LIMITS, work)
    sandbox.start()
    yield sandbox
    sandbox.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jpg"
    photo().save(path)
    return path


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_an_image_comes_back_developed(sandbox: Sandbox, good: Path) -> None:
    decoded = sandbox.decode(good)
    assert (decoded.format, decoded.width, decoded.height) == ("JPEG", 96, 64)
    assert decoded.small.startswith(b"\xff\xd8")


def test_one_worker_stands_for_many_images(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    before = sandbox.pid
    sandbox.decode(good)
    assert sandbox.pid == before


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("segfault", "the decoder crashed (SIGSEGV)"),
        ("killed", "the decoder was killed (SIGKILL), as happens where memory runs out"),
        ("exit", "the decoder ended with status 3"),
        ("eat", "needs more than the limit of 512 MB to decode"),
        ("odd", "the decoder failed: KeyError: 'no\\nsuch thing'"),
    ],
)
def test_a_bad_image_costs_only_itself(sandbox: Sandbox, good: Path, tmp_path: Path, deed: str, reason: str) -> None:
    with pytest.raises(Transient) as raised:
        sandbox.decode(tmp_path / f"{deed}.jpg")
    assert str(raised.value) == reason
    assert sandbox.decode(good).format == "JPEG"


@pytest.mark.parametrize("deed", ["hang", slow("spin")])
def test_a_stuck_image_is_given_up_at_the_time_limit(good: Path, tmp_path: Path, deed: str) -> None:
    sandbox = Sandbox(Limits(seconds=1), work)
    began = time.monotonic()
    with pytest.raises(Transient, match="took longer than 1 s to decode"):
        sandbox.decode(tmp_path / f"{deed}.jpg")
    assert time.monotonic() - began < 5
    assert sandbox.decode(good).format == "JPEG"
    sandbox.close()


def test_errors_come_back_as_they_were_raised(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(Postponed, match="unchanged for less than 3 s") as raised:
        sandbox.decode(tmp_path / "postponed.jpg")
    assert raised.value.seconds == 2.5
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(Rejected, match="looks like a text file"):
        sandbox.decode(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(Truncated, match="the file is empty"):
        sandbox.decode(tmp_path / "empty.jpg")


def test_a_worker_that_died_idle_costs_no_image(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    before = sandbox.pid
    assert before
    os.kill(before, signal.SIGKILL)
    assert sandbox.decode(good).format == "JPEG"
    assert sandbox.pid != before


def test_signals_to_the_whole_group_leave_the_worker_at_work(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    pid = sandbox.pid
    assert pid
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    sandbox.decode(good)
    assert sandbox.pid == pid


def test_the_worker_has_its_limits(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    worker = psutil.Process(sandbox.pid)
    assert worker.rlimit(psutil.RLIMIT_AS) == (512 << 20, 512 << 20)
    assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize("close", [True, False])
def test_stopping_does_not_wait_for_a_stuck_image_nor_blame_it(tmp_path: Path, close: bool) -> None:
    sandbox = Sandbox(LIMITS, work)
    raised: list[BaseException] = []

    def decode() -> None:
        try:
            sandbox.decode(tmp_path / "spin.jpg")
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    wait_for((tmp_path / "spin.begun").exists)
    worker = psutil.Process(sandbox.pid)
    began = time.monotonic()
    if close:
        sandbox.close()
    else:
        sandbox.abort()
    thread.join()
    assert isinstance(raised[0], Postponed)
    assert str(raised[0]) == "darkroom is stopping"
    with pytest.raises(Postponed):
        sandbox.decode(tmp_path / "good.jpg")
    sandbox.close()
    assert time.monotonic() - began < 2.5
    wait_for(lambda: not worker.is_running())


def test_closing_twice_or_unused_is_no_error() -> None:
    sandbox = Sandbox(LIMITS)
    assert sandbox.pid is None
    sandbox.close()
    sandbox.close()


def test_a_worker_that_cannot_start_is_no_images_fault(good: Path) -> None:
    sandbox = Sandbox(Limits(memory_mb=24))
    with pytest.raises(EnvironmentFault, match="no decoder can be started"):
        sandbox.decode(good)
    sandbox.close()


def test_the_decoders_are_imported_in_the_worker_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    code = "import sys, daemon.decoding.sandbox, daemon.decoding.formats; print(*sys.modules)"
    here = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"PIL", "exifread", "numpy", "pillow_heif"} & set(here.stdout.split())
    there = set(sandbox.decode(tmp_path / "modules.x").sha256.split(","))
    assert {"PIL.Image", "exifread"} <= there
    assert not {"peewee", "pydantic", "watchdog", "rich", "starlette", "uvicorn", "pytest"} & there


SCRIPT = """
import sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
with open({log!r}, "a") as log:
    log.write("main program imported\\n")
from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from tests.decoding.misbehave import work
sandbox = Sandbox(Limits(), work)
threading.Thread(target=sandbox.start).start()  # a thread that ends at once
sandbox.decode(Path({good!r}))
print(sandbox.pid, flush=True)
sandbox.decode(Path({stuck!r}))
"""


def test_the_worker_dies_with_its_parent_and_never_runs_its_main_module(good: Path, tmp_path: Path) -> None:
    script, log = tmp_path / "darkroom", tmp_path / "log"
    values = {"root": str(ROOT), "log": str(log), "good": str(good), "stuck": str(tmp_path / "spin.jpg")}
    script.write_text(SCRIPT.format(**values))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        wait_for((tmp_path / "spin.begun").exists)
        parent.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert log.read_text().splitlines() == ["main program imported"]


@pytest.mark.slow
def test_idleness_costs_nothing_measurable(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    worker, main = psutil.Process(sandbox.pid), psutil.Process()

    def spent() -> float:
        return sum(t.user + t.system for t in (worker.cpu_times(), main.cpu_times()))

    before, began = spent(), time.monotonic()
    threading.Event().wait(2)
    assert (spent() - before) / (time.monotonic() - began) < 0.02


def test_results_are_not_polled_for(sandbox: Sandbox, good: Path) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        decoded: Decoded = sandbox.decode(good)
        assert decoded.sha256
        return time.perf_counter() - began

    assert sorted(seconds() for _ in range(9))[4] < 0.05
