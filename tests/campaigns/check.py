"""The invariants, judged from outside: from the files and the raw tables, with none of the program's own code."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from daemon.sidecar.sidecars import NAMESPACE
from tests.campaigns.stage import OUTPUTS, Stage

_FINAL = {"library": "done", "duplicates": "duplicate", "failed": "failed", "trash": "rejected"}
# In the library's root: which bytes its owner took away.
_REMOVED = "darkroom-removed.txt"
BESIDE = (".reason.txt", ".xmp")
# In every sidecar that darkroom writes, whatever else it says.
_SIDECAR = NAMESPACE.encode()


def hash_of(path: Path) -> str:
    """Name a file by the SHA-256 of its bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def files(folder: Path, stage: Stage | None = None) -> Iterator[str]:
    """List what is no folder, by relative path; what was written beside an original is not listed with it.

    Given the stage, a companion that was put in is listed, though it has such a name.
    """
    if not folder.is_dir():
        return
    everything = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    for name in sorted(everything - {_REMOVED}):
        beside = any(name.endswith(suffix) and name.removesuffix(suffix) in everything for suffix in BESIDE)
        if not beside or (stage is not None and stage.knows(hash_of(folder / name))):
            yield name


def rows(stage: Stage, table: str = "image") -> list[dict[str, Any]]:
    """Read a table as it is."""
    with closing(sqlite3.connect(stage.state / "darkroom.db", timeout=30)) as database:
        database.row_factory = sqlite3.Row
        database.text_factory = lambda value: value.decode("utf-8", "surrogateescape")
        return [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY id")]


def visible(stage: Stage) -> list[str]:
    """Judge an instant, even one at which the program was just killed: no half-written file under a whole name."""
    return [
        f"half-written: {place}/{name}"
        for place in OUTPUTS
        for name in files(stage.folder(place))
        if not name.rpartition("/")[2].startswith(".darkroom-")
        and not name.endswith(BESIDE)
        and not stage.knows(hash_of(stage.folder(place) / name))
    ]


def drained(stage: Stage) -> list[str]:
    """Judge the folders after a restart, when nothing is left to do; each fault in a line."""
    faults = list(_leftovers(stage))
    found: dict[str, Counter[str]] = {}
    by_name: dict[tuple[str, str], str] = {}
    for place in OUTPUTS:
        found[place] = Counter()
        for name in files(stage.folder(place), stage):
            content = hash_of(stage.folder(place) / name)
            found[place][content] += 1
            by_name[place, name] = content
    # What was taken back by `undo` has no row any more. Its sidecar may have a number: where the photo came with an
    # .xmp of that name, that one keeps it.
    found["undone"] = Counter(
        hash_of(stage.undone / name) for name in files(stage.undone, stage) if not _is_sidecar(stage.undone / name)
    )
    faults += _losses(stage, found)
    faults += _rows(stage, by_name)
    return faults


def _is_sidecar(path: Path) -> bool:
    return path.suffix == ".xmp" and _SIDECAR in path.read_bytes()


def _leftovers(stage: Stage) -> Iterator[str]:
    for name in files(stage.inbox):
        yield f"left in the inbox: {name}"
    for folder in {stage.base, stage.away or stage.base}:
        for path in folder.rglob(".darkroom-*"):
            yield f"a temporary name remains: {path.relative_to(folder)}"


def _losses(stage: Stage, found: dict[str, Counter[str]]) -> Iterator[str]:
    total = sum(found.values(), Counter[str]())
    for content, times in (stage.must + stage.may).items():
        least = stage.must[content]
        if not stage.keep_duplicates:
            least, times = min(least, 1), 1
        if stage.again:
            times *= 2
        if not least <= total[content] <= times:
            where = {place: there[content] for place, there in found.items() if there[content]}
            yield f"{content[:8]} was put in {least} to {times} times and came out {total[content]} times: {where}"
        if content in stage.either:
            continue
        if content in stage.bad:
            if found["library"][content]:
                yield f"{content[:8]} is no image, but in the library"
        elif found["failed"][content]:
            yield f"{content[:8]} is a good image, but in failed"
        elif sum(found[place][content] for place in ("library", "undone", "trash")) != min(1, total[content]):
            yield f"{content[:8]} is not exactly once filed: {found['library'][content]} times in the library"
    for content in total - (stage.must + stage.may):
        if content not in stage.must + stage.may:
            yield f"{content[:8]} came out, but never went in"


def _rows(stage: Stage, by_name: dict[tuple[str, str], str]) -> Iterator[str]:
    with closing(sqlite3.connect(stage.state / "darkroom.db", timeout=30)) as database:
        verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            yield f"the database: {verdict}"
    owners: Counter[tuple[str, str]] = Counter()
    for row in rows(stage):
        label = f"row {row['id']} ({row['original_name']})"
        if row["status"] == "deleted":
            if row["place"] is not None or row["sha256"] in stage.must:
                yield f"{label} is deleted, but its bytes are there, or its place is"
            continue
        if row["status"] not in _FINAL.values() or row["path"] is not None:
            yield f"{label} is {row['status']}, path {row['path']!r}"
            continue
        if row["attempts"] > stage.attempts + 1:
            yield f"{label} has had {row['attempts']} attempts"
        if row["place"] is None:
            if stage.keep_duplicates:
                yield f"{label} has no file"
            continue
        owners[row["place"], row["destination"]] += 1
        content = by_name.get((row["place"], row["destination"]))
        if content is None or content != row["sha256"] or _FINAL[row["place"]] != row["status"]:
            yield f"{label}: {row['place']}/{row['destination']} holds {content}, not {row['sha256']} ({row['status']})"
        elif row["status"] == "done" and row["width"] is not None:  # a companion has no size
            yield from _thumbnails(stage, content, label)
    for row in rows(stage, "companion"):
        key = row["place"], row["destination"]
        owners[key] += 1
        if by_name.get(key) != row["sha256"]:
            yield f"companion {row['id']}: {'/'.join(key)} holds {by_name.get(key)}, not {row['sha256']}"
    for key in by_name:
        if owners[key] != 1:
            yield f"{'/'.join(key)} has {owners[key]} rows"


def _thumbnails(stage: Stage, content: str, label: str) -> Iterator[str]:
    for size in (200, 800):
        file = stage.state / "thumbnails" / content[:2] / f"{content}-{size}.jpg"
        if not file.is_file() or not file.read_bytes().endswith(b"\xff\xd9"):
            yield f"{label} lacks its {size} px thumbnail"
