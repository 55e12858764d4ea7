"""Which XMP property holds what of an image; enough to make the catalogue anew from the library alone."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.sidecar import xmp

NAMESPACE = "https://github.com/darkroom-inbox/darkroom/ns/1.0/"
PREFIX = "darkroom"

_TEXTS = {
    "sha256": "SHA256",
    "original_name": "OriginalName",
    "folder": "OriginalFolder",
    "source": "Source",
    "taken_at": "TakenAt",
    "taken_from": "TakenFrom",
    "title": "Title",
    "caption": "Caption",
    "visible_text": "VisibleText",
    "caption_status": "CaptionStatus",
    "caption_model": "Model",
    "caption_prompt": "Prompt",
    "thumb_sha": "ThumbnailSHA256",
    "edited": "Edited",
}
_NUMBERS = {"id": "ImageID", "duplicate_of": "DuplicateOf", "tokens_in": "TokensIn", "tokens_out": "TokensOut"}
_TIMES = {
    "created_at": "CreatedAt",
    "processed_at": "FiledAt",
    "captioned_at": "CaptionedAt",
    "edited_at": "EditedAt",
}


def compose(row: Mapping[str, Any], existing: xmp.Packet | None, came: Sequence[xmp.Packet], now: float) -> xmp.Packet:
    """Make an image's packet: all that is in `existing` and in the XMP files that `came` with it, and the row."""
    packet = xmp.Packet()
    packet.declare(NAMESPACE, PREFIX)
    for other in (existing, *came):
        if other is not None:
            packet.absorb(other)
    if row["caption"] or existing is not None:
        packet.set_language(xmp.DC, "description", row["caption"])
    if row["title"] or existing is not None:
        packet.set_language(xmp.DC, "title", row["title"])
    if row["keywords"] or existing is not None:
        packet.set_list(xmp.DC, "subject", row["keywords"] or [])
    _offer(packet, row)
    for column, name in _TEXTS.items():
        packet.set(NAMESPACE, name, None if row[column] is None else str(row[column]))
    for column, name in _NUMBERS.items():
        packet.set(NAMESPACE, name, None if row[column] is None else str(row[column]))
    for column, name in _TIMES.items():
        seconds = now if column == "processed_at" and row[column] is None else row[column]
        packet.set(NAMESPACE, name, None if seconds is None else _iso(seconds))
    packet.set_list(NAMESPACE, "Keywords", row["keywords"] or [])
    packet.set_list(NAMESPACE, "History", [_line(*event) for event in row["history"]])
    return packet


def facts(packet: xmp.Packet) -> dict[str, Any]:
    """Read an image's columns back out of its sidecar; what it lacks, or holds in another form, is None."""
    columns: dict[str, Any] = {column: packet.text(NAMESPACE, name) for column, name in _TEXTS.items()}
    columns |= {column: _number(packet.text(NAMESPACE, name)) for column, name in _NUMBERS.items()}
    columns |= {column: _seconds(packet.text(NAMESPACE, name)) for column, name in _TIMES.items()}
    columns["keywords"] = packet.texts(NAMESPACE, "Keywords") or None
    columns["history"] = [event for line in packet.texts(NAMESPACE, "History") if (event := _event(line))]
    return columns


def _line(at: float, kind: str, detail: str) -> str:
    return f"{_iso(at)} | {kind} | {detail}"


def _event(line: str) -> tuple[float, str, str] | None:
    at, kind, detail = (*line.split(" | ", 2), "", "")[:3]
    seconds = _seconds(at)
    return None if seconds is None or not kind else (seconds, kind, detail)


def _offer(packet: xmp.Packet, row: Mapping[str, Any]) -> None:
    """Set what other programs may know better only where they have said nothing."""
    date = row["datetime_original"] or (row["taken_at"] if row["taken_from"] != "mtime" else None)
    if date is not None and not packet.has(xmp.PHOTOSHOP, "DateCreated"):
        packet.set(xmp.PHOTOSHOP, "DateCreated", date)
    place = row["lat"], row["lon"]
    if None not in place and not packet.has(xmp.EXIF, "GPSLatitude") and not packet.has(xmp.EXIF, "GPSLongitude"):
        packet.set(xmp.EXIF, "GPSLatitude", gps(place[0], "NS"))
        packet.set(xmp.EXIF, "GPSLongitude", gps(place[1], "EW"))
    if not packet.has(xmp.XMP, "CreatorTool"):
        packet.set(xmp.XMP, "CreatorTool", "Darkroom")


def gps(degrees: float, directions: str) -> str:
    """Write a coordinate as XMP does, "DDD,MM.mmmmmmK" (XMP specification part 2, GPSCoordinate)."""
    # 10^-6 minutes are 2 mm; rounded before it is split, or 59.9999999 would become 60 minutes.
    millionths = round(abs(degrees) * 60_000_000)
    whole, rest = divmod(millionths, 60_000_000)
    return f"{whole},{rest / 1_000_000:.6f}{directions[degrees < 0]}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 18 else None
