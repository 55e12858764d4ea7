"""Makes the catalogue anew from the folders, for one that was lost.

What a sidecar or a reason tells comes first, under the ids that the images had; what nothing tells of gets ids
behind all of those. The pixels are looked at again for what sidecars don't hold: EXIF and thumbnails.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from daemon.app import roots
from daemon.catalogue import Catalogue, Place
from daemon.catalogue.restore import Restore
from daemon.config import Config
from daemon.decoding import Decoded, Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Rejected, Transient
from daemon.files import atomic, lock
from daemon.files.names import component, display
from daemon.files.walk import is_junk, walk
from daemon.filing.dates import taken
from daemon.filing.destination import columns, reason_beside
from daemon.filing.thumbnail_store import SIZES, Thumbnails
from daemon.sidecar import xmp
from daemon.sidecar.sidecars import NAMESPACE, facts, path_beside

_STATUS: dict[Place, str] = {"library": "done", "duplicates": "duplicate", "failed": "failed"}


@dataclass
class RebuildReport:
    """What came back, and the files that nothing could be made of, each with the reason."""

    restored: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("done", "duplicate", "failed"), 0))
    companions: int = 0
    new_ids: int = 0
    left: list[tuple[Path, str]] = field(default_factory=list)


class Rebuild:
    """Fills one new catalogue; killed in the middle, the next one goes on."""

    def __init__(
        self,
        catalogue: Catalogue,
        roots: Mapping[Place, Path],
        thumbnails: Thumbnails,
        decode: Callable[[Path], Decoded],
        ignore: tuple[str, ...],
    ) -> None:
        self._rows, self._roots, self._thumbnails = Restore(catalogue), roots, thumbnails
        self._decode, self._ignore = decode, ignore
        self._outcome = RebuildReport()
        # What nothing tells of, and what is no image: only once all known ids are taken, all photos known.
        self._nameless: list[tuple[Place, str, Decoded | None]] = []
        self._others: list[tuple[Place, str, str]] = []

    def files(self) -> Iterator[tuple[Place, str]]:
        """List what lies in the folders, the library first."""
        for place, root in self._roots.items():
            for found in walk(root, (), recursive=True):
                if not is_junk(found.path, self._ignore) and not is_note(root / found.path):
                    yield place, found.path

    def run(self, on_file: Callable[[], object]) -> RebuildReport:
        """Restore all; `on_file` is called after each file. Raises EnvironmentFault."""
        for place, path in self.files():
            if not self._rows.has(place, path):
                self._one(place, path)
            on_file()
        for place, path, decoded in self._nameless:
            self._new(place, path, decoded)
        for place, path, reason in self._others:
            self._other(place, path, reason)
        return self._outcome

    def _one(self, place: Place, path: str) -> None:
        file = self._roots[place] / path
        if place == "failed":
            known, decoded = from_reason(file), None
        else:
            known = from_sidecar(file)
            try:
                decoded = self._decode(file)
            except (Rejected, Transient) as error:
                if known is None:
                    self._others.append((place, path, str(error)))
                    return
                decoded = None
        if known is None or not self._rows.is_free(known["id"]):
            self._nameless.append((place, path, None if decoded is None else _without_pixels(decoded)))
            if decoded is not None:
                self._keep_thumbnails(decoded)
            return
        self._restore(place, path, known["id"], known, decoded)

    def _restore(
        self, place: Place, path: str, image_id: int | None, known: Mapping[str, Any], decoded: Decoded | None
    ) -> None:
        file, status = self._roots[place] / path, _STATUS[place]
        values = _looks(file, known, decoded)
        told = {key: value for key, value in known.items() if value is not None}
        row = {**values, **told, "place": place, "destination": path, "status": status, "attempts": 1}
        row |= {"not_before": known["created_at"], "error": known.get("error")}
        twin = self._rows.filed(row["sha256"]) if row.get("sha256") and place == "library" else None
        if twin is not None:
            self._outcome.left.append((file, f"the same bytes as image {twin}"))
            return
        history = _history(row, known.get("history") or [])
        self._rows.restore(image_id, row, history, decoded.exif.raw if decoded else None)
        self._outcome.restored[status] += 1
        if decoded is not None and place == "library":
            self._keep_thumbnails(decoded)

    def _new(self, place: Place, path: str, decoded: Decoded | None) -> None:
        """Take in a file that nothing tells of; its caption is off, since its folder may have been a private one."""
        file = self._roots[place] / path
        info = file.lstat()
        known: dict[str, Any] = {"original_name": display(file.name), "created_at": info.st_ctime}
        known |= {"processed_at": info.st_ctime, "source": "inbox", "folder": "", "sidecar_due": 1}
        if place == "failed":
            known["error"] = "found in the failed folder without its reason"
        if place == "duplicates" and decoded is not None:
            known["duplicate_of"] = self._rows.filed(decoded.sha256)
        before = sum(self._outcome.restored.values())
        self._restore(place, path, None, known, decoded)
        self._outcome.new_ids += sum(self._outcome.restored.values()) - before

    def _other(self, place: Place, path: str, reason: str) -> None:
        """Take in what came with a photo; anything else is left alone."""
        file = self._roots[place] / path
        found = self._rows.came_with(place, path)
        size = atomic.size_of(file)
        if found is None or size is None:
            self._outcome.left.append((file, reason))
            return
        image_id, name = found
        with atomic.blaming(str(file)):
            sha256 = atomic.sha256(file)
        belongs = {"image_id": image_id, "original_name": name, "folder": self._rows.folder_of(image_id)}
        self._rows.companion(
            place, path, {**belongs, "sha256": sha256, "size_bytes": size, "filed_at": file.lstat().st_ctime}
        )
        self._outcome.companions += 1

    def _keep_thumbnails(self, decoded: Decoded) -> None:
        paths = [self._thumbnails.path(decoded.sha256, size) for size in SIZES]
        if decoded.small and not all(atomic.size_of(path) for path in paths):
            self._thumbnails.save(decoded.sha256, decoded.small, decoded.medium)


def _looks(file: Path, known: Mapping[str, Any], decoded: Decoded | None) -> dict[str, Any]:
    """Give the columns that the file itself tells."""
    info = file.lstat()
    values: dict[str, Any] = {"mtime_ns": info.st_mtime_ns}
    if decoded is not None:
        name = known["original_name"]
        when = taken(decoded.exif.datetime_original, name, info.st_mtime, time.time())
        return values | columns(decoded, when)
    if (size := atomic.size_of(file)) is not None:
        with atomic.blaming(str(file)):
            values |= {"size_bytes": size, "sha256": atomic.sha256(file)}
    return values


def _history(row: Mapping[str, Any], known: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Complete a history by what must have happened: the note was written before the end was."""
    history, kinds = list(known), {kind for _, kind, _ in known}
    if "queued" not in kinds:
        path = "/".join(filter(None, (row["folder"], row["original_name"])))
        how = "uploaded" if row["source"] == "upload" else "found in the inbox"
        history.insert(0, (row["created_at"], "queued", f"{how} as {path}"))
    if row["status"] not in kinds:
        where = f"{row['place']}/{display(row['destination'])}"
        detail = f"{row['error']} (now {where})" if row["status"] == "failed" else where
        end = (row.get("processed_at") or row["created_at"], row["status"], detail)
        later = next((n for n, event in enumerate(history) if event[0] > end[0]), len(history))
        history.insert(later, end)
    return history


def _without_pixels(decoded: Decoded) -> Decoded:
    """Drop what would fill the memory while thousands wait for their ids."""
    return replace(decoded, small=b"", medium=b"")


# As `destination.write_reason` puts it; the reason itself may have several lines.
_REASON = re.compile(
    r"\n\nReason: (?P<error>.*?)\n\nIt came as (?P<path>.*?) and is image (?P<id>\d{1,15})\.\n"
    r"(?:It came at (?P<at>\S+), by (?P<source>inbox|upload)\.\n)?",
    re.DOTALL,
)


def from_sidecar(photo: Path) -> dict[str, Any] | None:
    """Give an image's columns and history out of the sidecar beside it; None where there is none of Darkroom's."""
    packet = _packet(path_beside(photo))
    known = facts(packet) if packet is not None else {}
    complete = all(known.get(name) is not None for name in ("id", "sha256", "original_name", "created_at"))
    return known if complete else None


def from_reason(file: Path) -> dict[str, Any] | None:
    """Give the columns of an image that failed; None where no reason lies beside it."""
    try:
        found = _REASON.search(reason_beside(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    if found is None:
        return None
    folder, _, name = found["path"].rpartition("/")
    at = _seconds(found["at"])
    return {
        "id": int(found["id"]),
        "error": found["error"],
        "folder": folder,
        "original_name": name or component(file.name),
        "source": found["source"] or "inbox",
        "created_at": reason_beside(file).stat().st_mtime if at is None else at,
        "processed_at": reason_beside(file).stat().st_mtime,
    }


def is_note(file: Path) -> bool:
    """Tell whether a file is Darkroom's own note beside another one, not a file that came."""
    if file.name.endswith(".reason.txt"):
        return file.with_name(file.name.removesuffix(".reason.txt")).is_file()
    packet = _packet(file) if file.suffix == ".xmp" else None
    return packet is not None and packet.has(NAMESPACE, "SHA256")


def _packet(file: Path) -> xmp.Packet | None:
    try:
        return xmp.Packet.parse(file.read_bytes())
    except (OSError, xmp.Malformed):
        return None


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


_SUFFIXES = ("", "-wal", "-shm")


def main(config: Config, _args: argparse.Namespace) -> int:
    """Fill a new database beside the lost one's place, and put it there once it is whole."""
    state = config.folders.state
    with atomic.blaming(str(state)):
        state.mkdir(parents=True, exist_ok=True)
    for name, root in roots(config).items():
        if not root.is_dir():
            raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
    folders = [path for name, path in config.folders.items() if name != "state" and path.is_dir()]
    with lock.exclusive(state, folders):
        _check_lost(state)
        outcome = _fill(config, state / "rebuilt.db")
        with atomic.blaming(str(state)):
            for suffix in _SUFFIXES:
                (state / f"darkroom.db{suffix}").unlink(missing_ok=True)
            # Its last connection is closed, so all of it is in the one file.
            (state / "rebuilt.db").rename(state / "darkroom.db")
            atomic.fsync_folder(state)
    return _report(outcome)


def _check_lost(state: Path) -> None:
    file = state / "darkroom.db"
    if not file.is_file():
        return
    try:
        images = Restore(Catalogue(file)).count()
    except EnvironmentFault as fault:
        raise Rejected(f"{fault}\n  move {file} away (and {file.name}-wal, {file.name}-shm), then try again") from fault
    if images:
        raise Rejected(
            f"the catalogue {file} is there and knows {images:,} images; to make it anew nevertheless, move it away"
            f" (and {file.name}-wal, {file.name}-shm)"
        )


def _fill(config: Config, file: Path) -> RebuildReport:
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))
    thumbnails = Thumbnails(config.folders.state / "thumbnails")
    catalogue = Catalogue(file)
    console = Console(stderr=True)
    try:
        with catalogue.session(), Progress(console=console, disable=not console.is_terminal) as progress:
            work = Rebuild(catalogue, roots(config), thumbnails, sandbox.decode, config.inbox.ignore)
            task = progress.add_task("rebuilding", total=sum(1 for _ in work.files()))
            return work.run(lambda: progress.advance(task))
    finally:
        sandbox.close()


def _report(outcome: RebuildReport) -> int:
    for path, reason in outcome.left:
        print(f"left alone: {display(str(path))}: {reason}", file=sys.stderr)
    counts = ", ".join(f"{n:,} {status}" for status, n in outcome.restored.items())
    more = [f"{outcome.companions:,} files that came with them"] if outcome.companions else []
    more += [f"{outcome.new_ids:,} got a new id, since nothing beside them tells theirs"] if outcome.new_ids else []
    print("; ".join([f"made anew: {counts}", *more]))
    return 1 if outcome.left else 0
