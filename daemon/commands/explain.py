"""Says in plain words what happened to a file, where it is now, and why it still waits in the inbox."""

import argparse
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psutil

from daemon.catalogue import Catalogue, Place
from daemon.catalogue.search import FileSearch
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.files import lock
from daemon.files.names import display
from daemon.files.walk import is_junk

_PLACES: tuple[Place, ...] = ("library", "duplicates", "failed")
# SQLite's integers end here.
LARGEST_ID = 2**63 - 1


class Explainer:
    """Answers about one darkroom's files."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        self._config = config
        self._files, self._statistics, self._stored = FileSearch(catalogue), Statistics(catalogue), Settings(catalogue)
        self._roots: dict[Place, Path] = {place: getattr(config.folders, place) for place in _PLACES}

    def find(self, target: str, here: Path) -> list[int]:
        """Find the images that an id or a path (relative to `here`, or to the inbox) means, oldest first.

        A companion means the image that it was filed beside.
        """
        image_id = number(target)
        if image_id is not None and not os.path.lexists(here / target):
            return [image_id]
        found: list[int] = []
        for path in _spellings(target, here, self._config):
            for place, root in self._roots.items():
                if path.is_relative_to(root):
                    inside = str(path.relative_to(root))
                    found += self._files.at(place, inside) or self._files.companion_at(place, inside)
            if path.is_relative_to(self._config.folders.inbox):
                inside = str(path.relative_to(self._config.folders.inbox))
                found += self._files.in_inbox(inside) or self._once(path.name, inside)
        name = Path(target).name
        found = found or self._files.named(name) or self._files.companion_named(name)
        return sorted(set(found))

    def _once(self, name: str, inside: str) -> list[int]:
        """Find what came under a path of the inbox: a companion by its own history, and the image it belongs to."""
        return self._files.once(inside) + self._files.companion_named(name, inside.rpartition("/")[0])

    def image(self, image_id: int) -> Iterator[str]:
        """Tell all of one image, a line each; nothing where there never was such an image."""
        row, history = self._files.row(image_id), self._statistics.history(image_id)
        if row is None and not history:
            return
        name = row["original_name"] if row else "no longer in the catalogue"
        yield f"image {image_id}: {name}"
        if row is not None:
            yield from (f"  {line}" for line in self._now(row))
        yield from (f"  {_when(line['at'])}  {line['event']}: {line['detail']}" for line in history)

    def untracked(self, target: str, here: Path) -> str | None:
        """Say why a file that the catalogue does not know is where it is; None where it is none of darkroom's."""
        inbox = self._config.folders.inbox
        for path in _spellings(target, here, self._config):
            if os.path.lexists(path) and path.is_relative_to(inbox):
                return self._unqueued(path, str(path.relative_to(inbox)))
        return None

    def _now(self, row: dict[str, Any]) -> Iterator[str]:
        if row["status"] in {"queued", "processing"}:
            path = self._config.folders.inbox / row["path"]
            yield f"waits in the inbox: {display(str(path))}"
            yield from self._waiting(row, path)
            return
        if row["destination"] is not None:
            path = self._roots[cast(Place, row["place"])] / row["destination"]
            yield f"is {row['status']}: {display(str(path))}{_gone(path)}"
        else:
            yield f"is {row['status']}"
        if row["status"] == "failed":
            yield f"because {row['error']}; to try again: darkroom retry {row['id']}"
        if row["duplicate_of"] is not None:
            yield f"has the same bytes as image {row['duplicate_of']}"
        if row["warning"]:
            yield f"filed with a remark: {row['warning']}"
        for name, place, destination in self._files.companions(row["id"]):
            path = self._roots[place] / destination
            yield f"{name} came with it, and lies beside it: {display(str(path))}{_gone(path)}"

    def _waiting(self, row: dict[str, Any], path: Path) -> Iterator[str]:
        """Say why a queued file is not filed yet, the strongest reason first."""
        now = time.time()
        if lock.running(self._config.folders.state) is None:
            yield "nothing happens to it: darkroom is not running (darkroom run, or darkroom service --install)"
        pause = self._stored.get("paused") or {}
        if pause:
            yield f"the queue is paused: {pause.get('reason')}"
        if not os.path.lexists(path):
            yield "its file has left the inbox: it will be withdrawn"
            return
        if row["status"] == "processing":
            yield f"is being worked on, since {_when(row['claimed_at'])}"
            return
        holders = writers(path)
        yield from (f"is open for writing by {holder}" for holder in holders)
        left = row["not_before"] - now
        if row["waiting"] and not holders:
            settle = self._config.inbox.settle_seconds
            if row["waiting"].startswith("unchanged for less than") and row["quiet_since"] is not None:
                yield f"quiet for {max(0.0, min(now - row['quiet_since'], settle)):.0f} of {settle:g} s"
            else:
                yield row["waiting"]
        if row["attempts"]:
            yield f"{row['attempts']} of {self._config.limits.attempts} attempts failed"
        if left > 0:
            yield f"is looked at again in {left:.0f} s"
        elif before := self._files.before(row["id"], now):
            yield f"{before:,} others are before it"

    def _unqueued(self, path: Path, inside: str) -> str:
        settings = self._config.inbox
        kind = path.lstat().st_mode
        if stat.S_ISDIR(kind):
            return "is a folder; only files are filed"
        if is_junk(inside, settings.ignore):
            pattern = next((p for p in settings.ignore if any(is_junk(part, [p]) for part in inside.split("/"))), None)
            return f"is left alone: it matches {pattern!r} of [inbox] ignore" if pattern else "is darkroom's own"
        if "/" in inside and not settings.recursive:
            return "is left alone: it is in a subfolder, and [inbox] recursive is off"
        if lock.running(self._config.folders.state) is None:
            return "has not been noticed: darkroom is not running (darkroom run, or darkroom service --install)"
        return f"has not been noticed yet; all of the inbox is looked through every {settings.rescan_seconds:g} s"


def number(target: str) -> int | None:
    """Return the id that a text is; None where it can't be one."""
    # int() takes digits of all scripts, and no more than 4,300 of them.
    if not (target.isascii() and target.isdecimal() and len(target) <= len(str(LARGEST_ID))):
        return None
    return int(target) if int(target) <= LARGEST_ID else None


def _spellings(target: str, here: Path, config: Config) -> list[Path]:
    """Give what a path may mean: from the working directory, from the inbox, with its folder's links resolved."""
    try:
        given = Path(target).expanduser()
    except RuntimeError:  # nobody is called so: then it is a name like any other, as in a shell
        given = Path(target)
    paths = [here / given, config.folders.inbox / given, config.base / given]
    # The folder alone: a link in the inbox is a file of its own.
    resolved = [Path(os.path.realpath(path.parent)) / path.name for path in paths]
    return list(dict.fromkeys([*(Path(os.path.normpath(path)) for path in paths), *resolved]))


def _gone(path: Path) -> str:
    return "" if os.path.lexists(path) else " (but it is no longer there: see darkroom verify)"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


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


# How much of a path that leads nowhere a message holds.
_QUOTED = 200


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a paragraph for each image that was meant; 1 when there is none."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        print(f"nothing has run here yet: there is no {file}", file=sys.stderr)
        return 1
    shown = display(args.target if len(args.target) <= _QUOTED else f"{args.target[:_QUOTED]}…")
    explainer = Explainer(config, Catalogue(file))
    here = Path.cwd()
    paragraphs = [list(explainer.image(image_id)) for image_id in explainer.find(args.target, here)]
    paragraphs = [lines for lines in paragraphs if lines]
    untracked = None if paragraphs else explainer.untracked(args.target, here)
    if untracked:
        paragraphs = [[f"{shown}: {untracked}"]]
    if not paragraphs and args.target.isdecimal() and number(args.target) is None:
        raise ConfigError(f"{shown} is no image's id, which is a number from 1 to {LARGEST_ID}")
    if not paragraphs:
        print(f"{shown}: darkroom has never seen such an image", file=sys.stderr)
        return 1
    print("\n\n".join("\n".join(lines) for lines in paragraphs))
    return 0
