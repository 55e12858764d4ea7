"""Which folders a unit opens, and how paths are written in unit files."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

# What ProtectHome and PrivateTmp hide.
HIDDEN = tuple(Path(name) for name in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # noqa: S108
# Folders that hold far more than photos: never made writable as a whole.
_BROAD = frozenset(
    "/ /bin /boot /dev /etc /home /lib /media /mnt /opt /proc /root /run /run/media /srv /sys /tmp /usr /usr/local"
    " /var /var/lib /var/tmp /Volumes".split()
)


def writable_paths(folders: Sequence[Path]) -> list[Path]:
    """Choose what must be writable: for folders of one filesystem what they share, unless that holds much else."""
    devices: dict[int, list[Path]] = {}
    for folder in folders:
        devices.setdefault(_device(folder), []).append(folder)
    chosen: list[Path] = []
    for device, group in devices.items():
        shared = Path(os.path.commonpath(group))
        chosen += [shared] if not _is_broad(shared) and _device(shared) == device else group
    return outermost(chosen)


def _is_broad(path: Path) -> bool:
    return str(path) in _BROAD or path.parent == Path("/home") or path == Path.home()


def _device(path: Path) -> int:
    there = next(place for place in (path, *path.parents) if place.exists())
    return there.stat().st_dev


def is_under(path: Path, folders: Iterable[Path]) -> bool:
    """Tell whether a path is, or lies in, one of some folders."""
    return any(path.is_relative_to(folder) for folder in folders)


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Leave out what is given twice, or lies in another of the paths."""
    unique = list(dict.fromkeys(paths))
    return [path for path in unique if not is_under(path, [other for other in unique if other != path])]


def escaped(text: str | Path, *, command: bool = False, colon: bool = False) -> str:
    """Quote one word for a unit file: systemd.syntax(7), and in commands and binds what their keys add to it."""
    word = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    if command:
        word = word.replace("$", "$$")
    if colon:
        word = word.replace(":", "\\\\:")
    return word if all(c.isalnum() or c in "/._-=%+@," for c in word) else f'"{word}"'


def optional(path: Path, *, colon: bool = False) -> str:
    """Quote a path that need not be there."""
    word = escaped(path, colon=colon)
    return f'"-{word[1:]}' if word.startswith('"') else f"-{word}"


def plain(path: Path) -> str:
    """Write a path for a key that takes the whole line as it is."""
    return str(path).replace("%", "%%")
