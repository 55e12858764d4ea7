"""The small text file in the library's root that says which bytes its owner took away, for `darkroom rebuild`.

One line for each: the SHA-256, when (UTC), `deleted`, `rejected` or `restored`, the image's id and its name, with tabs
between them. A line is there before the row says so. The last one about some bytes counts, and what lies in the library
all the same was not taken away.
"""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from daemon.errors import EnvironmentFault
from daemon.files import atomic
from daemon.files.atomic import Root
from daemon.files.names import display

_log = logging.getLogger(__name__)

FILE = "darkroom-removed.txt"
RemovalKind = Literal["deleted", "rejected", "restored"]
_HEAD = "# What was deleted or rejected from this library, for darkroom rebuild: SHA-256, when, what, image, name.\n"
_LINE = re.compile(r"([0-9a-f]{64})\t(\S+)\t(\w+)\t([0-9]{1,18})\t(.*)")
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Removal:
    """One line; `at` is in seconds since 1970."""

    sha256: str
    at: float
    kind: RemovalKind
    image_id: int
    name: str


class Removals:
    """The file in one library's root."""

    def __init__(self, library: Root) -> None:
        self._file = library / FILE

    def note(self, removals: Iterable[Removal]) -> None:
        """Append lines, durably. A library that can't be written is no fault: the catalogue knows them, too."""
        text = "".join(map(_text, removals))
        if not text:
            return
        try:
            with self._file.entry() as entry:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                is_new = self._file.lstat() is None
                fd = os.open(entry.name, flags, 0o644, dir_fd=entry.folder)
                try:
                    # A line that a power cut has left without its end must not swallow the next one.
                    os.write(fd, f"{_HEAD if is_new else ''}{'' if is_new else _gap(self._file)}{text}".encode())
                    os.fsync(fd)
                finally:
                    os.close(fd)
                if is_new:
                    entry.fsync_folder()
        except OSError as error:
            if error.errno in atomic.UNREACHABLE:
                raise EnvironmentFault(f"{self._file}: {error.strerror}") from error
            _log.warning("%s can't be written: %s; the catalogue alone knows what was removed", self._file, error)

    def read(self) -> dict[str, Removal]:
        """Return what was taken away, by its bytes; nothing where there is no such file, or none of Darkroom's."""
        found: dict[str, Removal] = {}
        try:
            lines = self._file.read_bytes(_MAX_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:
            return found
        for line in lines:
            if (removal := _parsed(line)) is not None:
                found[removal.sha256] = removal
        return {sha256: removal for sha256, removal in found.items() if removal.kind != "restored"}


def _gap(file: atomic.Location) -> str:
    """Return the end of a line where the last one of a file has none."""
    with os.fdopen(file.open(), "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 1))
        return "" if opened.read(1) in {b"", b"\n"} else "\n"


def _text(removal: Removal) -> str:
    at = datetime.fromtimestamp(removal.at, UTC).isoformat(timespec="seconds")
    return f"{removal.sha256}\t{at}\t{removal.kind}\t{removal.image_id}\t{display(removal.name)}\n"


def _parsed(line: str) -> Removal | None:
    match = _LINE.fullmatch(line)
    if match is None or match[3] not in get_args(RemovalKind):
        return None
    try:
        at = datetime.fromisoformat(match[2]).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    kind: RemovalKind = "deleted" if match[3] == "deleted" else "rejected" if match[3] == "rejected" else "restored"
    return Removal(match[1], at, kind, int(match[4]), match[5])
