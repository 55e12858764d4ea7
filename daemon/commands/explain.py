"""Explains in plain words what happened to a file, where it is now, and why it still waits in the inbox.

It reads, and changes nothing on disk.
"""

import argparse
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from daemon.app import existing_catalogue, roots
from daemon.catalogue import Catalogue, ImageEvent, ImageRow
from daemon.catalogue.history import History, sentence
from daemon.catalogue.schema import CaptionStatus
from daemon.catalogue.search import FileSearch, Inventory, Search
from daemon.catalogue.settings import Settings
from daemon.commands import LARGEST, whole_number
from daemon.config import Config
from daemon.errors import ConfigError, WaitingReason
from daemon.files import lock
from daemon.files.names import display
from daemon.files.walk import is_junk
from daemon.filing.dates import words
from daemon.phrases import counted

# What darkroom writes beside an image, by the suffix behind the image's name.
_OWN = {".xmp": "the sidecar of this image", ".reason.txt": "why this image failed"}
_NO_CAPTION: Mapping[CaptionStatus, str] = {
    "pending": "waits its turn",
    "blocked": "none, Gemini may not describe it",
    "failed": "none, the model gave no usable answer",
    "private": "none, no model is asked about a private folder",
}
# How much of a path that leads nowhere a message holds.
_QUOTED = 200


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a paragraph for each image that was meant; 1 when there is none."""
    shown = display(args.target if len(args.target) <= _QUOTED else f"{args.target[:_QUOTED]}…")
    explainer = Explainer(config, existing_catalogue(config))
    here = Path.cwd()
    paragraphs = [list(explainer.image(image_id)) for image_id in explainer.find(args.target, here)]
    paragraphs = [lines for lines in paragraphs if lines]
    unqueued = None if paragraphs else explainer.unqueued(args.target, here)
    if unqueued:
        paragraphs = [[f"{shown}: {unqueued}"]]
    if not paragraphs:
        what, found = explainer.find_beside(args.target, here)
        paragraphs = [[f"{shown}: {what}", *explainer.image(image_id)] for image_id in found]
    if not paragraphs and args.target.isdecimal() and whole_number(args.target) is None:
        raise ConfigError(f"{shown} is no image's id, which is a number from 1 to {LARGEST}")
    if not paragraphs:
        print(f"{shown}: darkroom has never seen such an image", file=sys.stderr)
        return 1
    print("\n\n".join("\n".join(lines) for lines in paragraphs))
    return 0


class Explainer:
    """Answers about the files of one darkroom."""

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        self._config, self._roots = config, roots(config)
        self._search, self._files, self._inventory = Search(catalogue), FileSearch(catalogue), Inventory(catalogue)
        self._history, self._settings = History(catalogue), Settings(catalogue)

    def find(self, target: str, here: Path) -> list[int]:
        """Return the images that an id or a path (relative to `here`, or to the inbox) means, oldest first.

        A companion means the image that it was filed beside.
        """
        image_id = whole_number(target)
        if image_id is not None and not os.path.lexists(here / target):
            return [image_id]
        found: list[int] = []
        for path in _spellings(target, here, self._config):
            for place, root in self._roots.items():
                if path.is_relative_to(root.path):
                    inside = str(path.relative_to(root.path))
                    found += self._files.at(place, inside) or self._files.companion_at(place, inside)
            if path.is_relative_to(self._config.folders.inbox):
                inside = str(path.relative_to(self._config.folders.inbox))
                found += self._files.in_inbox(inside) or self._came_as(inside)
        name = Path(target).name
        found = found or self._files.named(name) or self._files.companion_named(name)
        return sorted(set(found))

    def find_beside(self, target: str, here: Path) -> tuple[str, list[int]]:
        """Return what of darkroom's own a path means that it writes beside an image, and the images."""
        for suffix, what in _OWN.items():
            if target.endswith(suffix):
                return what, self.find(target.removesuffix(suffix), here)
        return "", []

    def image(self, image_id: int) -> Iterator[str]:
        """Yield all that is known of one image, a line each; nothing where there never was such an image."""
        row, history = self._search.image(image_id), self._history.of(image_id)
        if row is None and not history:
            return
        yield f"image {image_id}: {row.original_name if row else 'no longer in the catalogue'}"
        if row is not None:
            yield from (f"  {line}" for line in self._now(row))
        yield from (f"  {_line(event)}" for event in history)

    def unqueued(self, target: str, here: Path) -> str | None:
        """Return why a file of the inbox that the catalogue does not know is still there; None for any other file."""
        inbox = self._config.folders.inbox
        for path in _spellings(target, here, self._config):
            if os.path.lexists(path) and path.is_relative_to(inbox):
                return self._why_unqueued(path, str(path.relative_to(inbox)))
        return None

    def _came_as(self, inside: str) -> list[int]:
        """Return what came under a path of the inbox: a companion by its own history, and the image it belongs to."""
        folder, _, name = inside.rpartition("/")
        return self._files.came_as(inside) + self._files.companion_named(name, folder)

    def _now(self, row: ImageRow) -> Iterator[str]:
        """Yield where an image is, how it is, and what came with it."""
        if row.status in {"queued", "processing"}:
            path = self._config.folders.inbox / (row.path or "")
            yield f"waits in the inbox: {display(str(path))}"
            yield from self._waiting(row, path)
            return
        if row.place is not None and row.destination is not None:
            path = (self._roots[row.place] / row.destination).path
            yield f"is {row.status}: {display(str(path))}{_gone(path)}"
        else:
            was = f": it lay at {display(row.removed_from)}" if row.removed_from else ""
            yield f"is {row.status}{was}"
        if row.status == "failed":
            yield f"because {row.error}; to try again: darkroom retry {row.id}"
        if row.duplicate_of is not None:
            yield f"has the same bytes as image {row.duplicate_of}"
        if row.waiting is WaitingReason.STAYS and row.path is not None:
            inbox = self._config.folders.inbox / row.path
            reason = row.waiting_detail or "no reason is known"
            yield f"its name stays in the inbox: {display(str(inbox))}: {reason}; delete it there, if you can"
        if row.taken_at is not None:
            yield f"taken {_taken(row)}, from {words(row.taken_from or '')}"
        if row.lat is not None and row.lon is not None:
            yield f"taken at {abs(row.lat):.5f} {'NS'[row.lat < 0]}, {abs(row.lon):.5f} {'EW'[row.lon < 0]}"
        yield from _said_of(row)
        if row.warning:
            yield f"filed with a remark: {row.warning}"
        for file in self._inventory.beside(row.id):
            path = (self._roots[file.place] / file.destination).path
            yield f"{file.original_name} came with it, and lies beside it: {display(str(path))}{_gone(path)}"

    def _waiting(self, row: ImageRow, path: Path) -> Iterator[str]:
        """Yield why a queued file is not filed yet, the strongest reason first."""
        now = time.time()
        if lock.running(self._config.folders.state) is None:
            yield "nothing happens to it: darkroom is not running (darkroom run, or darkroom service --install)"
        if pause := self._settings.pause():
            yield f"the queue is paused: {pause[0]}"
        if not os.path.lexists(path):
            yield "its file has left the inbox: it will be withdrawn"
            return
        if row.status == "processing":
            yield f"is being worked on, since {_when(row.claimed_at or row.created_at)}"
            return
        holders = writers(path)
        yield from (f"is open for writing by {holder}" for holder in holders)
        if row.waiting is not None and not holders:
            yield self._reason(row, row.waiting, now)
        if row.attempts:
            yield f"{row.attempts} of {self._config.limits.attempts} attempts failed"
        if (left := row.not_before - now) > 0:
            yield f"is looked at again in {left:.0f} s"
        elif ahead := self._files.ahead_of(row.id, now):
            yield f"{counted(ahead, 'other')} before it"

    def _reason(self, row: ImageRow, reason: WaitingReason, now: float) -> str:
        sentence, settings = reason.sentence(row.waiting_detail or ""), self._config.inbox
        unchanged = max(0.0, now - (row.quiet_since or now))
        if reason is WaitingReason.QUIET:
            wanted = float(row.waiting_detail or settings.settle_seconds)
            return f"quiet for {min(unchanged, wanted):.0f} of {wanted:g} s"
        if reason is WaitingReason.INCOMPLETE:
            wanted = settings.incomplete_minutes
            return f"{sentence}; unchanged for {min(unchanged / 60, wanted):.0f} of {wanted:g} minutes, then it fails"
        return sentence

    def _why_unqueued(self, path: Path, inside: str) -> str:
        settings = self._config.inbox
        if stat.S_ISDIR(path.lstat().st_mode):
            return "is a folder; only files are filed"
        if is_junk(inside, settings.ignore):
            pattern = next((p for p in settings.ignore if any(is_junk(part, [p]) for part in inside.split("/"))), None)
            return f"is left alone: it matches {pattern!r} of [inbox] ignore" if pattern else "is darkroom's own"
        if "/" in inside and not settings.recursive:
            return "is left alone: it is in a subfolder, and [inbox] recursive is off"
        if lock.running(self._config.folders.state) is None:
            return "has not been noticed: darkroom is not running (darkroom run, or darkroom service --install)"
        return f"has not been noticed yet; all of the inbox is looked through every {settings.rescan_seconds:g} s"


def writers(path: Path) -> list[str]:
    """Return the processes that have a file open for writing or mapped writable: "rsync, pid 4242".

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


def _spellings(target: str, here: Path, config: Config) -> list[Path]:
    """Return what a path may mean: from the working directory, from the inbox, with its folder's links resolved."""
    try:
        given = Path(target).expanduser()
    except RuntimeError:  # nobody is called so: then it is a name like any other, as in a shell
        given = Path(target)
    paths = [here / given, config.folders.inbox / given, config.base / given]
    # The folder alone: a link in the inbox is a file of its own.
    resolved = [Path(os.path.realpath(path.parent)) / path.name for path in paths]
    return list(dict.fromkeys([*(Path(os.path.normpath(path)) for path in paths), *resolved]))


def _line(event: ImageEvent) -> str:
    return f"{_when(event.at)}  {event.kind}: {sentence(event)}"


def _taken(row: ImageRow) -> str:
    zone = f" ({row.zone})" if row.zone else ""
    # Filesystems count fractions of a second, and a camera's zero seconds are mostly none.
    at = (row.taken_at or "").replace("T", " ").partition(".")[0]
    return f"{at.removesuffix(':00')}{zone}"


def _said_of(row: ImageRow) -> Iterator[str]:
    """Yield caption and keywords with who has written them, why there are none, and what else a person has said."""
    for name, text in (("caption", row.caption), ("keywords", ", ".join(row.keywords or ()))):
        if text:
            author = "a person" if name in (row.edited or "").split() else row.caption_model
            yield f"{name}: {display(' '.join(text.split()))}" + (f" (by {author})" if author else "")
    if row.title:
        yield f"title: {display(row.title)}"
    if row.rating is not None:
        yield f"stars: {row.rating}" if row.rating >= 0 else "stars: rejected by its owner"
    if row.label:
        yield f"label: {display(row.label)}"
    if row.caption_status in _NO_CAPTION:
        reason = f": {row.caption_error}" if row.caption_error and row.caption_status in {"blocked", "failed"} else ""
        yield f"caption: {_NO_CAPTION[row.caption_status]}{reason}"


def _gone(path: Path) -> str:
    return "" if os.path.lexists(path) else " (but it is no longer there: see darkroom verify)"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
