"""How many decoders there are: what the process may use of the machine."""

import os
from pathlib import Path

import pytest

from daemon.decoding import machine

V2 = "0::/app.slice/darkroom\n"
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"
V1_MOUNTS = (
    "31 24 0:27 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 24 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


def root(folder: Path, groups: str, mounts: str, **files: str) -> Path:
    """Make what a process sees of its control groups; `files` are named by their path, `__` for a slash."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    (folder / "proc/self/mountinfo").write_text(mounts)
    for name, content in files.items():
        path = folder / "sys/fs/cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def in_v2(folder: Path, inside: str, name: str, content: str) -> Path:
    made = root(folder, V2, V2_MOUNT)
    path = made / "sys/fs/cgroup" / inside / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return made


@pytest.mark.parametrize(
    ("inside", "quota", "count"),
    [
        ("app.slice/darkroom", "max 100000", 4),
        ("app.slice/darkroom", "200000 100000", 2),
        ("app.slice/darkroom", "150000 100000", 2),
        ("app.slice/darkroom", "10000 100000", 1),
        ("app.slice", "100000 100000", 1),
        (".", "300000 100000", 3),
        ("app.slice/another", "100000 100000", 4),
        ("app.slice/darkroom", "nonsense", 4),
    ],
)
def test_a_quota_of_any_group_above_counts(tmp_path: Path, inside: str, quota: str, count: int) -> None:
    assert machine.processors(in_v2(tmp_path, inside, "cpu.max", quota)) == count


def test_the_first_version_of_groups_counts_too(tmp_path: Path) -> None:
    made = root(
        tmp_path,
        V1,
        V1_MOUNTS,
        **{
            "cpu__cpu.cfs_quota_us": "250000",
            "cpu__cpu.cfs_period_us": "100000",
            "memory__memory.limit_in_bytes": "1000000",
        },
    )
    assert machine.processors(made) == 3
    assert machine.memory(made) == 1_000_000
    (made / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1")
    assert machine.processors(made) == 4


def test_without_groups_affinity_and_the_whole_memory_count(tmp_path: Path) -> None:
    assert machine.processors(tmp_path) == 4
    assert machine.memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("wanted", "memory_mb", "count"),
    [(0, 1000, 4), (1, 1000, 1), (9, 1000, 8), (0, 2100, 4), (0, 3000, 3), (0, 90000, 1)],
)
def test_the_memory_has_to_do_for_all(tmp_path: Path, wanted: int, memory_mb: int, count: int) -> None:
    made = in_v2(tmp_path, "app.slice/darkroom", "memory.max", str(8000 << 20))
    assert machine.decoders(wanted, memory_mb, made) == count


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= machine.decoders(0, 2048) <= 4
