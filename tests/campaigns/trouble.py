"""Troubles the machine makes while darkroom runs: each must pause or postpone, say why, and pass without a restart."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally
from tests.campaigns.stage import SHM, Stage, digest, temporary_stage

_DRAIN_SECONDS = 60.0


class Skipped(Exception):
    """Raised where this machine does not permit a trouble to be made."""


def status(stage: Stage) -> dict[str, object]:
    """Ask the program itself."""
    found: dict[str, object] = json.loads(program.run(stage.base, "status", "--json").text)
    return found


def settled(stage: Stage) -> bool:
    """Tell whether the inbox is empty and every row final."""
    return not list(check.files(stage.inbox)) and not [
        row for row in check.rows(stage) if row["status"] in {"queued", "processing"} or row["path"]
    ]


def wait_settled(stage: Stage, seconds: float = _DRAIN_SECONDS) -> None:
    """Wait until all is filed."""
    program.wait(
        lambda: settled(stage), seconds, lambda: f"not filed: {list(check.files(stage.inbox))[:5]} {_log(stage)}"
    )


def wait_paused(stage: Stage, words: str) -> None:
    """Wait until a pause is shown whose reason has these words."""

    def paused() -> bool:
        with closing(sqlite3.connect(stage.state / "darkroom.db", timeout=30)) as database:
            row = database.execute("SELECT value FROM setting WHERE key = 'paused'").fetchone()
        return row is not None and words in str(row[0])

    program.wait(paused, 40, lambda: f"no pause that says {words!r}: {_log(stage)}")
    assert words in str(status(stage)["paused"])


def _log(stage: Stage) -> str:
    return (stage.base / "run.log").read_text(errors="replace")[-1500:]


@contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Mount something on a folder for a block."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *words, str(folder)], capture_output=True, check=False).returncode:
        raise Skipped("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def disk_full(stage: Stage) -> None:
    """A library of 3 MB fills up, and is enlarged."""
    stage.configure(limits={"min_free_mb": 0})
    with mounted(stage.base / "library", "-t", "tmpfs", "-o", "size=3m", "none"), program.serving(stage.base):
        for number in range(6):
            stage.put(f"IMG_{number}.jpg", photo(number, (1400, 1000)))
        wait_paused(stage, "No space left")
        _remount(stage.base / "library", "size=64m")
        wait_settled(stage)
        _judge(stage)


def nearly_full(stage: Stage) -> None:
    """Less than `min_free_mb` is left in the library, then more."""
    with mounted(stage.base / "library", "-t", "tmpfs", "-o", "size=1900k", "none"):
        stage.configure(limits={"min_free_mb": 2})
        with program.serving(stage.base):
            stage.put("IMG_1.jpg", photo(1))
            wait_paused(stage, "is full")
            _remount(stage.base / "library", "size=64m")
            wait_settled(stage)
            _judge(stage)


def read_only(stage: Stage) -> None:
    """The library becomes read-only, and writable again."""
    with mounted(stage.base / "library", "-t", "tmpfs", "none"), program.serving(stage.base):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        _remount(stage.base / "library", "ro")
        stage.put("IMG_2.jpg", photo(2))
        wait_paused(stage, "library")
        _remount(stage.base / "library", "rw")
        wait_settled(stage)
        _judge(stage)


def unmounted(stage: Stage) -> None:
    """The library's disk goes, leaving an empty folder, and comes back."""
    _goes_and_comes_back(stage, "library")


def inbox_unmounted(stage: Stage) -> None:
    """The inbox's disk goes with a file in it, and comes back."""
    _goes_and_comes_back(stage, "inbox")


def _goes_and_comes_back(stage: Stage, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=SHM) as disk:
        folder = stage.base / name
        with mounted(folder, "--bind", disk), program.serving(stage.base):
            stage.put("IMG_1.jpg", photo(1))
            wait_settled(stage)
            if name == "inbox":
                Path(disk, "IMG_2.jpg").write_bytes(photo(2))
                stage.expect(photo(2))
                subprocess.run(["umount", str(folder)], check=False, capture_output=True)
                program.wait(
                    lambda: "another folder" in _log(stage) or "is gone" in _log(stage), 30, lambda: _log(stage)
                )
            else:
                subprocess.run(["umount", str(folder)], check=True)
                stage.put("IMG_2.jpg", photo(2))
                wait_paused(stage, "not mounted")
                assert not list(folder.iterdir()), "filed into the folder below the mount point"
            subprocess.run(["mount", "--bind", disk, str(folder)], check=True)
            stage.put("IMG_3.jpg", photo(3))
            wait_settled(stage)
            _judge(stage)


def permission_withdrawn(stage: Stage) -> None:
    """The library may not be written any more, then it may."""
    # Even root is refused once it has no capabilities.
    humble = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if (
        shutil.which("setpriv") is None
        or subprocess.run([*humble, "true"], capture_output=True, check=False).returncode
    ):
        raise Skipped("capabilities can't be dropped here")
    with program.serving(stage.base, under=humble):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        for number, folder in enumerate(("library", "library/2000"), 2):
            (stage.base / folder).chmod(0o555)
            stage.put(f"IMG_{number}.jpg", photo(number))
            wait_paused(stage, "library")
            (stage.base / folder).chmod(0o755)
            wait_settled(stage)
        _judge(stage)


def database_locked(stage: Stage, seconds: float = 20.0) -> None:
    """Another process holds the database for writing, for `seconds`."""
    with program.serving(stage.base):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        with closing(sqlite3.connect(stage.state / "darkroom.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            stage.put("IMG_2.jpg", photo(2))
            time.sleep(seconds)  # the trouble itself
            other.execute("ROLLBACK")
        wait_settled(stage)
        _judge(stage)


def few_watches(stage: Stage) -> None:
    """The kernel allows this user one inotify watch."""
    _with_sysctl(stage, "max_inotify_watches")


def few_instances(stage: Stage) -> None:
    """The kernel allows this user no inotify instance."""
    _with_sysctl(stage, "max_inotify_instances", 0)


def _with_sysctl(stage: Stage, name: str, value: int = 1) -> None:
    inside = ["unshare", "--user", "--map-root-user"]
    setting = f'echo {value} > /proc/sys/user/{name} && exec "$@"'
    if subprocess.run([*inside, "sh", "-c", setting, "sh", "true"], capture_output=True, check=False).returncode:
        raise Skipped("no user namespaces here")
    (stage.inbox / "card/DCIM").mkdir(parents=True)
    stage.configure(inbox={"rescan_seconds": 2})
    with program.serving(stage.base, under=[*inside, "sh", "-c", setting, "sh"]):
        for name in ("IMG_1.jpg", "card/IMG_2.jpg", "card/DCIM/IMG_3.jpg"):
            stage.put(name, photo(len(name)))
        wait_settled(stage)
        _judge(stage)


def no_descriptors(stage: Stage) -> None:
    """The process may open no more files, then it may."""
    with program.serving(stage.base) as process:
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        limits = psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE)
        assert limits is not None
        highest = max(int(name) for name in os.listdir(f"/proc/{process.pid}/fd"))
        psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        stage.put("IMG_2.jpg", photo(2))
        program.wait(lambda: "Too many open files" in _log(stage), 30, lambda: _log(stage))
        psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE, limits)
        wait_settled(stage)
        _judge(stage)


def moving_inbox(stage: Stage, count: int = 300) -> None:
    """While `count` files wait, a third is renamed, a third replaced, a third deleted."""
    with program.serving(stage.base) as process:
        for number in range(count):
            stage.put(f"{number % 3}/IMG_{number}.jpg", photo(number))
        program.wait(lambda: len(check.rows(stage)) > count // 2, 60, "the files are not queued")
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGCONT)
        for number in range(count - 1, -1, -1):
            path = stage.inbox / f"{number % 3}/IMG_{number}.jpg"
            fresh = stage.base / "fresh.jpg"
            fresh.write_bytes(photo(count + number))
            was = digest(photo(number))
            try:
                if number % 3 == 0:
                    path.rename(path.with_name(f"renamed {number}.jpg"))
                    # In the instant of its filing this gives it a second name, which comes out as a duplicate.
                    stage.may[was] = 1
                elif number % 3 == 1:
                    if not path.exists():
                        continue
                    # Between the look and the replacing it may be filed: then both come out.
                    fresh.replace(path)
                    stage.expect(photo(count + number))
                    stage.must[was], stage.may[was] = 0, 1
                else:
                    path.unlink()
                    stage.must[was], stage.may[was] = 0, 1
            except FileNotFoundError:
                continue
        wait_settled(stage, 120 + count)
        _judge(stage)


TROUBLES: tuple[Callable[[Stage], None], ...] = (
    disk_full,
    nearly_full,
    read_only,
    unmounted,
    inbox_unmounted,
    permission_withdrawn,
    database_locked,
    few_watches,
    few_instances,
    no_descriptors,
    moving_inbox,
)


def _judge(stage: Stage) -> None:
    faults = check.drained(stage)
    faults += [f"{row['original_name']} has spent attempts" for row in check.rows(stage) if row["attempts"] != 1]
    if "Traceback" in _log(stage):
        faults.append(f"a traceback: {_log(stage)}")
    assert not faults, "\n".join(faults)


def play(trouble: Callable[[Stage], None]) -> tuple[Tally, str | None]:
    """Make one trouble on fresh folders; the text says why it was skipped."""
    tally = Tally(str(trouble.__doc__).strip().rstrip("."))
    try:
        with temporary_stage() as stage:
            tally.points = 1
            trouble(stage)
    except Skipped as why:
        return Tally(tally.name), str(why)
    except AssertionError as error:
        tally.problems.append(f"{trouble.__name__}: {error}")
    return tally, None
