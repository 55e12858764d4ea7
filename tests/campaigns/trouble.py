"""Troubles the machine makes while darkroom runs: each must pause or postpone, say why, and pass without a restart."""

import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

import psutil

from tests.campaigns import check, clock, disks, program
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally
from tests.campaigns.stage import Stage, digest, temporary_stage
from tests.campaigns.watching import Skipped, judge, log_of, wait_settled


def database_locked(stage: Stage, seconds: float = 20.0) -> None:
    """Another process holds the database for writing, for 20 s."""
    with program.serving(stage.base):
        stage.put("IMG_1.jpg", photo(1))
        wait_settled(stage)
        with closing(sqlite3.connect(stage.state / "darkroom.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            stage.put("IMG_2.jpg", photo(2))
            time.sleep(seconds)  # the trouble itself
            other.execute("ROLLBACK")
        wait_settled(stage)
        judge(stage)


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
        judge(stage)


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
        program.wait(lambda: "Too many open files" in log_of(stage), 30, lambda: log_of(stage))
        psutil.Process(process.pid).rlimit(resource.RLIMIT_NOFILE, limits)
        wait_settled(stage)
        judge(stage)


def moving_inbox(stage: Stage, count: int = 3_000) -> None:
    """While thousands of files wait, a third is renamed, a third replaced, a third deleted."""
    with program.serving(stage.base):
        for number in range(count):
            stage.put(f"{number % 3}/IMG_{number}.jpg", photo(number))
        program.wait(lambda: len(check.rows(stage)) > count // 2, 60 + count / 10, "the files are not queued")
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
        judge(stage)


TROUBLES: tuple[Callable[[Stage], None], ...] = (
    disks.disk_full,
    disks.nearly_full,
    disks.read_only,
    disks.unmounted,
    disks.inbox_unmounted,
    disks.permission_withdrawn,
    database_locked,
    few_watches,
    few_instances,
    no_descriptors,
    moving_inbox,
    clock.clock_set_back,
)


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
