import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from daemon.decoding import Decoded, Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Postponed, Rejected, TimedOut, Transient, Truncated, Withdrawn
from tests.decoding.images import photo
from tests.decoding.misbehave import deed, work
from tests.support import no_new_descriptors, wait_until

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


@pytest.fixture
def bad(tmp_path: Path) -> Callable[..., Path]:
    """Return what makes a file that has the decoder do something else."""

    def make(name: str, given: bytes = b"") -> Path:
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(deed(name, given))
        return path

    return make


def only_pid(sandbox: Sandbox) -> int:
    [pid] = sandbox.pids
    return pid


def test_an_image_comes_back_developed(sandbox: Sandbox, good: Path) -> None:
    decoded = sandbox.decode(good)
    assert (decoded.format, decoded.width, decoded.height) == ("JPEG", 96, 64)
    assert decoded.small.startswith(b"\xff\xd8")


def test_one_process_stands_for_many_images(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    before = only_pid(sandbox)
    with no_new_descriptors():
        sandbox.decode(good)
    assert only_pid(sandbox) == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("segfault", "the decoder crashed (SIGSEGV)"),
        ("abort", "the decoder crashed (SIGABRT)"),
        ("exit", "the decoder ended with status 3"),
        ("eat", "needs more than the limit of 512 MB to decode"),
        ("odd", "the decoder failed: KeyError: 'no\\nsuch thing'"),
    ],
)
def test_a_bad_image_costs_only_itself(
    sandbox: Sandbox, good: Path, bad: Callable[..., Path], name: str, reason: str
) -> None:
    with pytest.raises(Transient) as raised:
        sandbox.decode(bad(name))
    assert str(raised.value) == reason
    assert sandbox.decode(good).format == "JPEG"


@pytest.mark.parametrize(
    ("name", "limits", "reason"),
    [
        ("hang", Limits(stall_seconds=0.5), "the decoder made no progress for 0.5 s"),
        ("freeze", Limits(stall_seconds=0.5), "the decoder made no progress for 0.5 s"),
        ("burn", Limits(seconds=0.5), "took longer than 0.5 s of processor time to decode"),
    ],
)
def test_a_stuck_image_is_given_up_at_a_limit(
    good: Path, bad: Callable[..., Path], name: str, limits: Limits, reason: str
) -> None:
    sandbox = Sandbox(limits, work)
    sandbox.decode(good)
    began = time.monotonic()
    with pytest.raises(TimedOut) as raised:
        sandbox.decode(bad(name))
    assert str(raised.value) == reason
    assert time.monotonic() - began < 10
    assert sandbox.decode(good).format == "JPEG"
    sandbox.close()


def test_slow_reading_is_no_hang(bad: Callable[..., Path]) -> None:
    sandbox = Sandbox(Limits(seconds=1.5, stall_seconds=1), work)
    with pytest.raises(Rejected, match="not an image"):
        sandbox.decode(bad("read slowly", bytes(100_000)))
    sandbox.close()


def test_errors_come_back_as_they_were_raised(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(Rejected, match="looks like a text file"):
        sandbox.decode(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(Truncated, match="the file is empty"):
        sandbox.decode(tmp_path / "empty.jpg")
    with pytest.raises(Withdrawn):
        sandbox.decode(tmp_path / "gone.jpg")


def test_a_process_that_died_idle_costs_no_image(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    before = only_pid(sandbox)
    os.kill(before, signal.SIGKILL)
    assert sandbox.decode(good).format == "JPEG"
    assert only_pid(sandbox) != before


def test_signals_to_the_whole_group_leave_the_process_at_work(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    pid = only_pid(sandbox)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    sandbox.decode(good)
    assert only_pid(sandbox) == pid


def test_the_process_has_its_limits(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    child = psutil.Process(only_pid(sandbox))
    assert child.rlimit(psutil.RLIMIT_AS) == (512 << 20, 512 << 20)
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_NOFILE)[0] <= 64
    assert child.nice() >= 5


@pytest.mark.parametrize("close", [True, False])
def test_stopping_does_not_wait_for_a_stuck_image_nor_blame_it(
    good: Path, bad: Callable[..., Path], close: bool
) -> None:
    sandbox = Sandbox(LIMITS, work)
    raised: list[BaseException] = []

    def decode() -> None:
        try:
            sandbox.decode(bad("burn"))
        except BaseException as error:
            raised.append(error)

    sandbox.decode(good)
    child = psutil.Process(only_pid(sandbox))
    before = sum(child.cpu_times()[:2])
    thread = threading.Thread(target=decode)
    thread.start()
    wait_until(lambda: sum(child.cpu_times()[:2]) > before + 0.2)
    began = time.monotonic()
    if close:
        sandbox.close()
    else:
        sandbox.abort()
    thread.join()
    assert isinstance(raised[0], Postponed)
    assert str(raised[0]) == "darkroom is stopping"
    with pytest.raises(Postponed):
        sandbox.decode(good)
    sandbox.close()
    assert time.monotonic() - began < 2.5
    wait_until(lambda: not child.is_running())


def test_closing_twice_or_unused_is_no_error() -> None:
    sandbox = Sandbox(LIMITS)
    assert sandbox.pids == []
    sandbox.close()
    sandbox.close()


def test_a_process_that_cannot_start_is_no_images_fault(good: Path) -> None:
    sandbox = Sandbox(Limits(memory_mb=24))
    for _ in range(2):
        with pytest.raises(EnvironmentFault, match=r"no decoder can be started.* 24 MB"):
            sandbox.decode(good)
    sandbox.close()


def test_the_decoders_are_imported_in_their_process_alone(sandbox: Sandbox, bad: Callable[..., Path]) -> None:
    code = "import sys, daemon.decoding.sandbox, daemon.decoding.formats; print(*sys.modules)"
    here = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"PIL", "exifread", "numpy", "pillow_heif"} & set(here.stdout.split())
    with pytest.raises(Rejected, match=r"missing \[\], here set\(\)"):
        sandbox.decode(bad("modules"))


def test_how_the_process_is_shut_in_is_said_once(good: Path, caplog: pytest.LogCaptureFixture) -> None:
    sandbox = Sandbox(LIMITS)
    with caplog.at_level(logging.DEBUG, "daemon.decoding"):
        sandbox.decode(good)
        sandbox.decode(good)
    sandbox.close()
    assert sandbox.confinement is not None
    assert len(caplog.messages) == 1 + len(sandbox.confinement.lacks)


def test_results_are_not_polled_for(sandbox: Sandbox, good: Path) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        decoded: Decoded = sandbox.decode(good)
        assert decoded.sha256
        return time.perf_counter() - began

    assert sorted(seconds() for _ in range(9))[4] < 0.05


def test_as_many_work_at_once_as_there_may_be(good: Path, bad: Callable[..., Path]) -> None:
    sandbox = Sandbox(Limits(seconds=20, stall_seconds=1.5, memory_mb=512), work, count=2)
    failed: list[Exception] = []
    path = bad("hang")

    def hang() -> None:
        try:
            sandbox.decode(path)
        except Transient as error:
            failed.append(error)

    threads = [threading.Thread(target=hang) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(sandbox.pids) == 2)
    for thread in threads:
        thread.join()
    assert len(failed) == 3
    assert sandbox.decode(good).format == "JPEG"
    assert len(sandbox.pids) <= 2
    sandbox.close()


def test_those_without_work_leave_but_for_one(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.decoding.sandbox._IDLE_SECONDS", 0.3)
    sandbox = Sandbox(LIMITS, count=3)
    threads = [threading.Thread(target=sandbox.decode, args=(good,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(sandbox.pids))
    assert most > 1
    wait_until(lambda: len(sandbox.pids) == 1)
    assert sandbox.decode(good).format == "JPEG"
    sandbox.close()


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
print(*sandbox.pids, flush=True)
sandbox.decode(Path({stuck!r}))
"""


@pytest.mark.parametrize("name", ["burn", "freeze", "stay"])
def test_the_process_dies_with_its_parent_and_never_runs_its_main_module(
    good: Path, bad: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    script, log = tmp_path / "darkroom", tmp_path / "log"
    values = {"root": str(ROOT), "log": str(log), "good": str(good), "stuck": str(bad(name))}
    script.write_text(SCRIPT.format(**values))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        before = sum(child.cpu_times()[:2])
        if name != "freeze":
            wait_until(lambda: sum(child.cpu_times()[:2]) > before + 0.2)
        assert not child.children(recursive=True)
        parent.kill()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert log.read_text().splitlines() == ["main program imported"]


@pytest.mark.slow
def test_idleness_costs_nothing_measurable(sandbox: Sandbox, good: Path) -> None:
    sandbox.decode(good)
    child, main = psutil.Process(only_pid(sandbox)), psutil.Process()

    def spent() -> float:
        return sum(t.user + t.system for t in (child.cpu_times(), main.cpu_times()))

    before, began = spent(), time.monotonic()
    threading.Event().wait(2)
    assert (spent() - before) / (time.monotonic() - began) < 0.02


def test_a_rare_codec_is_loaded_when_a_file_needs_it(sandbox: Sandbox, tmp_path: Path) -> None:
    pixels = np.asarray(photo()).astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "photo.tif", pixels, photometric="rgb", compression="lerc")
    decoded = sandbox.decode(tmp_path / "photo.tif")
    shut_in = sandbox.confinement is not None and sandbox.confinement.landlock > 0
    # Without Landlock nothing can be opened any more, so it is filed without a thumbnail.
    assert (decoded.width, bool(decoded.medium)) == ((96, True) if shut_in else (None, False))
