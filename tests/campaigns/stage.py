"""The folders on which a campaign plays, and what was put into them."""

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SHM = Path("/dev/shm")
_QUICK_BYTES = 1 << 30
OUTPUTS = ("library", "duplicates", "failed", "trash")
_SECTIONS: Mapping[str, Mapping[str, object]] = {
    "inbox": {"settle_seconds": 0.2},
    "limits": {"min_free_mb": 1},
    # Any free port: several run at once.
    "web": {"port": 0},
}


def digest(content: bytes) -> str:
    """Name bytes by their SHA-256."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Stage:
    """One set of folders. `away` holds the outputs where they lie on another filesystem.

    `must` counts the contents that have to come out, as often as they were put in; `may` those whose writer was
    never told that they had arrived.
    """

    base: Path
    away: Path | None = None
    must: Counter[str] = field(default_factory=Counter)
    may: Counter[str] = field(default_factory=Counter)
    # Contents that no decoder can read; all others have to end in the library or as a duplicate.
    bad: set[str] = field(default_factory=set)
    # Contents that may be either.
    either: set[str] = field(default_factory=set)
    attempts: int = 3
    keep_duplicates: bool = True
    # A power cut may bring a removed inbox name back: then the file comes out once more, as a duplicate.
    again: bool = False

    @property
    def inbox(self) -> Path:
        return self.base / "inbox"

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def undone(self) -> Path:
        """Where `undo` moves files in these campaigns."""
        return self.base / "undone"

    @property
    def roots(self) -> list[Path]:
        return [self.base, *([self.away] if self.away else [])]

    def moved_to(self, other: "Stage") -> dict[Path, Path]:
        """Return where each of this stage's folders is on another."""
        return dict(zip(self.roots, other.roots, strict=True))

    def folder(self, name: str) -> Path:
        """Return where one of the three outputs is."""
        return (self.away or self.base) / name

    def put(self, name: str, content: bytes, *, bad: bool = False) -> Path:
        """Put a whole file into the inbox."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.expect(content, bad=bad)
        return path

    def expect(self, content: bytes, *, bad: bool = False) -> None:
        """Note that bytes have safely arrived."""
        self.must[digest(content)] += 1
        if bad:
            self.bad.add(digest(content))

    def knows(self, content: str) -> bool:
        """Return whether bytes have been put in, by a writer that has ended or is at it; from any thread."""
        return content in self.may or content in self.must

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Write config.toml: the campaigns' own values and what is given."""
        folders = {} if self.away is None else {name: str(self.folder(name)) for name in OUTPUTS}
        merged: dict[str, dict[str, object]] = {"folders": dict(folders)}
        for source in (_SECTIONS, sections):
            for name, values in source.items():
                merged.setdefault(name, {}).update(values)
        self.attempts = int(str(merged["limits"].get("attempts", 3)))
        self.keep_duplicates = merged.get("filing", {}).get("duplicates") != "delete"
        lines = []
        for name, values in merged.items():
            lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
        (self.base / "config.toml").write_text("\n".join(lines) + "\n")

    def copy(self, base: Path, away: Path | None) -> "Stage":
        """Copy all folders, and what is expected of them, to other places; config.toml is left to the caller."""
        _copy_tree(self.base, base)
        if self.away is not None and away is not None:
            _copy_tree(self.away, away)
        return Stage(base, away, Counter(self.must), Counter(self.may), set(self.bad))


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a tree in which two names of one file stay so."""
    names: dict[int, str] = {}

    def copy(here: str, there: str) -> None:
        inode = os.lstat(here).st_ino
        if inode in names:
            os.link(names[inode], there, follow_symlinks=False)
        else:
            shutil.copy2(here, there, follow_symlinks=False)
            names[inode] = there

    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, copy_function=copy)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


@contextmanager
def temporary_stage(*, across: bool = False, quick: bool = False) -> Iterator[Stage]:
    """Return fresh folders, the outputs on another filesystem where `across`, and remove them in the end."""
    here, there = filesystems()
    with ExitStack() as stack:

        def folder(on: Path) -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-", dir=on)))

        if across:
            stage = Stage(folder(here), folder(there))
        else:
            stage = Stage(folder(here if quick else Path(tempfile.gettempdir())))
        stage.inbox.mkdir()
        stage.configure()
        yield stage


@cache
def filesystems() -> tuple[Path, Path]:
    """Return the folder in which to play, and one on another filesystem.

    A kill leaves to the next process all that was written, whatever was synced: so where there is room the first lies
    in memory, and no run waits for a disk.
    """
    disk = Path(tempfile.gettempdir())
    if has_second_filesystem() and shutil.disk_usage(SHM).free > _QUICK_BYTES:
        return SHM, disk
    return disk, SHM


def has_second_filesystem() -> bool:
    """Return whether /dev/shm is another filesystem than the temporary folder's."""
    return SHM.is_dir() and SHM.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev
