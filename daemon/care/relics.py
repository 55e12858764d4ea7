"""Reads what lies beside a filed file and tells of its past: the sidecar of a photo, the reason of a failure."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from daemon.filing.destination import reason_beside
from daemon.names import component
from daemon.sidecar import xmp
from daemon.sidecar.fields import NAMESPACE, facts
from daemon.sidecar.store import path_beside

# As `destination.write_reason` puts it; the reason itself may have several lines.
_REASON = re.compile(
    r"\n\nReason: (?P<error>.*?)\n\nIt came as (?P<path>.*?) and is image (?P<id>\d{1,15})\.\n"
    r"(?:It came at (?P<at>\S+), by (?P<source>inbox|upload)\.\n)?",
    re.DOTALL,
)


def of_photo(photo: Path) -> dict[str, Any] | None:
    """Give an image's columns and history out of the sidecar beside it; None where there is none of Darkroom's."""
    packet = _packet(path_beside(photo))
    known = facts(packet) if packet is not None else {}
    complete = all(known.get(name) is not None for name in ("id", "sha256", "original_name", "created_at"))
    return known if complete else None


def of_failure(file: Path) -> dict[str, Any] | None:
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


def is_relic(file: Path) -> bool:
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
