"""Names the processes that keep a file from being complete."""

import os
from contextlib import suppress
from pathlib import Path

import psutil


def writers(path: Path) -> list[str]:
    """Name the processes that have a file open for writing or mapped writable: "rsync, pid 4242".

    Processes that this user may not look into are passed over. It asks every process: nothing for a loop.
    """
    try:
        wanted = path.stat()
    except OSError:
        return []
    return [
        f"{process.info['name'] or 'a program'}, pid {process.pid}"
        for process in psutil.process_iter(["name"])
        if _has_open(process, wanted) or _has_mapped(process.pid, wanted)
    ]


def _has_open(process: psutil.Process, wanted: os.stat_result) -> bool:
    with suppress(psutil.Error, OSError):
        for file in process.open_files():
            # The mode is known on Linux alone; it is "r", "w", "a", "r+" or "a+".
            if getattr(file, "mode", "r") != "r":
                with suppress(OSError):
                    if os.path.samestat(Path(file.path).stat(), wanted):
                        return True
    return False


def _has_mapped(pid: int, wanted: os.stat_result) -> bool:
    # A mapping outlives its descriptor. psutil reads smaps, many times slower than maps.
    device = f"{os.major(wanted.st_dev):02x}:{os.minor(wanted.st_dev):02x}"
    with suppress(OSError), Path(f"/proc/{pid}/maps").open("rb") as maps:
        for line in maps:
            _, rights, _, where, inode, *_ = line.decode("ascii", "replace").split(maxsplit=5)
            if rights.startswith("rw") and rights.endswith("s") and (where, inode) == (device, str(wanted.st_ino)):
                return True
    return False
