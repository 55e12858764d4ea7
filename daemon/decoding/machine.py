"""What this process may use of the machine, as its affinity and control groups allow: processors and memory."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def decoders(wanted: int, memory_mb: int, root: Path = _ROOT) -> int:
    """Return how many decoders work side by side: `wanted`, or for 0 as many as there are processors.

    Each may use `memory_mb`, and all together what the machine has; a machine of 4 GB says that it has a little less.
    """
    most = max(1, round(memory(root) / (memory_mb << 20)))
    return min(wanted or processors(root), most)


def processors(root: Path = _ROOT) -> int:
    """Return how many processors this process may use; a part of one counts as one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu", root):
        with suppress(OSError, ValueError):
            quota, period = map(float, (group / "cpu.max").read_text().split())
            count = min(count, math.ceil(quota / period))
        with suppress(OSError, ValueError):
            quota, period = (float((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:
                count = min(count, math.ceil(quota / period))
    return max(1, count)


def memory(root: Path = _ROOT) -> int:
    """Return how many bytes of memory this process may use."""
    # Not /proc/meminfo, which systemd can hide.
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                total = min(total, int((group / name).read_text()))
    return total


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that this process is in, with those above them (cgroups(7))."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, inside = line.split(":", 2)
        is_second = number == "0" and not controllers
        if not is_second and controller not in controllers.split(","):
            continue
        mounted = _mounted(None if is_second else controller, root)
        if mounted is None:
            continue
        origin, folder = mounted
        # In a container the group may be the top of what is mounted, under whatever name it has outside.
        below = inside.removeprefix(origin.rstrip("/")).strip("/") if inside.startswith(origin.rstrip("/")) else ""
        group = folder / below
        yield group
        yield from (above for above in group.parents if above.is_relative_to(folder))


def _mounted(controller: str | None, root: Path) -> tuple[str, Path] | None:
    """Return which part of a controller's groups is mounted, and where; None for the second version's, which has all.

    The lines are those of proc_pid_mountinfo(5).
    """
    for line in _lines(root / "proc/self/mountinfo"):
        before, dash, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if not dash or len(words) < 5 or len(kind) < 3:
            continue
        is_it = kind[0] == "cgroup2" if controller is None else kind[0] == "cgroup" and controller in kind[2].split(",")
        if is_it:
            return words[3], root / words[4].lstrip("/")
    return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
