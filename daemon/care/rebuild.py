"""Makes the catalogue anew from the folders, for one that was lost.

What a sidecar or a reason tells comes first, under the ids that the images had; what nothing tells of gets ids
behind all of those. The pixels are looked at again for what sidecars don't hold: EXIF and thumbnails.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon import disk
from daemon.care import relics
from daemon.catalogue import Catalogue, Place
from daemon.catalogue.restoring import Restoring
from daemon.dates import taken
from daemon.develop import Developed
from daemon.errors import Rejected, Transient
from daemon.filing.destination import columns
from daemon.names import display
from daemon.scan import is_junk, walk
from daemon.thumbnails import SIZES, Thumbnails

_STATUS: dict[Place, str] = {"library": "done", "duplicates": "duplicate", "failed": "failed"}


@dataclass
class Outcome:
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
        develop: Callable[[Path], Developed],
        ignore: tuple[str, ...],
    ) -> None:
        self._rows, self._roots, self._thumbnails = Restoring(catalogue), roots, thumbnails
        self._develop, self._ignore = develop, ignore
        self._outcome = Outcome()
        # What nothing tells of, and what is no image: only once all known ids are taken, all photos known.
        self._nameless: list[tuple[Place, str, Developed | None]] = []
        self._others: list[tuple[Place, str, str]] = []

    def files(self) -> Iterator[tuple[Place, str]]:
        """List what lies in the folders, the library first."""
        for place, root in self._roots.items():
            for found in walk(root, (), recursive=True):
                if not is_junk(found.path, self._ignore) and not relics.is_relic(root / found.path):
                    yield place, found.path

    def run(self, on_file: Callable[[], object]) -> Outcome:
        """Restore all; `on_file` is called after each file. Raises EnvironmentFault."""
        for place, path in self.files():
            if not self._rows.has(place, path):
                self._one(place, path)
            on_file()
        for place, path, developed in self._nameless:
            self._new(place, path, developed)
        for place, path, reason in self._others:
            self._other(place, path, reason)
        return self._outcome

    def _one(self, place: Place, path: str) -> None:
        file = self._roots[place] / path
        if place == "failed":
            known, developed = relics.of_failure(file), None
        else:
            known = relics.of_photo(file)
            try:
                developed = self._develop(file)
            except (Rejected, Transient) as error:
                if known is None:
                    self._others.append((place, path, str(error)))
                    return
                developed = None
        if known is None or not self._rows.is_free(known["id"]):
            self._nameless.append((place, path, None if developed is None else _without_pixels(developed)))
            if developed is not None:
                self._keep_thumbnails(developed)
            return
        self._restore(place, path, known["id"], known, developed)

    def _restore(
        self, place: Place, path: str, image_id: int | None, known: Mapping[str, Any], developed: Developed | None
    ) -> None:
        file, status = self._roots[place] / path, _STATUS[place]
        values = _looks(file, known, developed)
        told = {key: value for key, value in known.items() if value is not None}
        row = {**values, **told, "place": place, "destination": path, "status": status, "attempts": 1}
        row |= {"not_before": known["created_at"], "error": known.get("error")}
        twin = self._rows.filed(row["sha256"]) if row.get("sha256") and place == "library" else None
        if twin is not None:
            self._outcome.left.append((file, f"the same bytes as image {twin}"))
            return
        history = _history(row, known.get("history") or [])
        self._rows.restore(image_id, row, history, developed.exif.raw if developed else None)
        self._outcome.restored[status] += 1
        if developed is not None and place == "library":
            self._keep_thumbnails(developed)

    def _new(self, place: Place, path: str, developed: Developed | None) -> None:
        """Take in a file that nothing tells of; its caption is off, since its folder may have been a private one."""
        file = self._roots[place] / path
        info = file.lstat()
        known: dict[str, Any] = {"original_name": display(file.name), "created_at": info.st_ctime}
        known |= {"processed_at": info.st_ctime, "source": "inbox", "folder": "", "sidecar_due": 1}
        if place == "failed":
            known["error"] = "found in the failed folder without its reason"
        if place == "duplicates" and developed is not None:
            known["duplicate_of"] = self._rows.filed(developed.sha256)
        before = sum(self._outcome.restored.values())
        self._restore(place, path, None, known, developed)
        self._outcome.new_ids += sum(self._outcome.restored.values()) - before

    def _other(self, place: Place, path: str, reason: str) -> None:
        """Take in what came with a photo; anything else is left alone."""
        file = self._roots[place] / path
        found = self._rows.came_with(place, path)
        size = disk.size_of(file)
        if found is None or size is None:
            self._outcome.left.append((file, reason))
            return
        image_id, name = found
        with disk.blaming(str(file)):
            sha256 = disk.sha256(file)
        belongs = {"image_id": image_id, "original_name": name, "folder": self._rows.folder_of(image_id)}
        self._rows.companion(
            place, path, {**belongs, "sha256": sha256, "size_bytes": size, "filed_at": file.lstat().st_ctime}
        )
        self._outcome.companions += 1

    def _keep_thumbnails(self, developed: Developed) -> None:
        paths = [self._thumbnails.path(developed.sha256, size) for size in SIZES]
        if developed.small and not all(disk.size_of(path) for path in paths):
            self._thumbnails.save(developed.sha256, developed.small, developed.medium)


def _looks(file: Path, known: Mapping[str, Any], developed: Developed | None) -> dict[str, Any]:
    """Give the columns that the file itself tells."""
    info = file.lstat()
    values: dict[str, Any] = {"mtime_ns": info.st_mtime_ns}
    if developed is not None:
        name = known["original_name"]
        when = taken(developed.exif.datetime_original, name, info.st_mtime, time.time())
        return values | columns(developed, when)
    if (size := disk.size_of(file)) is not None:
        with disk.blaming(str(file)):
            values |= {"size_bytes": size, "sha256": disk.sha256(file)}
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


def _without_pixels(developed: Developed) -> Developed:
    """Drop what would fill the memory while thousands wait for their ids."""
    return replace(developed, small=b"", medium=b"")
