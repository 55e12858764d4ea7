"""Writes `NAME.EXT.xmp` beside each filed photo: what Darkroom knows of it, readable by every photo program.

A sidecar is Darkroom's own file and can be written anew at any time from the row, the XMP files that came with the
photo, and what other programs have added to it since. It is never written over anybody else's file.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.catalogue.captions import Words, together
from daemon.catalogue.companions import SidecarRows
from daemon.errors import NameRefused
from daemon.files import atomic
from daemon.sidecar import xmp

_log = logging.getLogger(__name__)

_CAPTION_COLUMNS = (
    *("caption", "keywords", "title", "visible_text", "caption_status", "caption_model", "caption_prompt"),
    *("tokens_in", "tokens_out", "captioned_at", "edited", "edited_at"),
)


class Sidecars:
    """The sidecars of one library; any thread may call it. Switched off, it does nothing."""

    def __init__(self, rows: SidecarRows, library: Path, *, enabled: bool = True) -> None:
        self._rows = rows
        self._library = library
        self._enabled = enabled
        # Two threads may have news of one image: the filing of its companion and an edit.
        self._lock = threading.Lock()

    def write(self, image_id: int) -> None:
        """Bring one image's sidecar up to date. Raises EnvironmentFault."""
        with self._lock:
            row = self._rows.row(image_id)
            if row is None:
                return
            photo = self._library / row["destination"]
            # A photo that its owner has moved away gets no sidecar where it was.
            if self._enabled and atomic.size_of(photo) is not None:
                refusal = self._write(row, path_beside(photo), time.time())
                if refusal is not None:
                    self.give_up(image_id, refusal)
                    return
            if row["sidecar_due"]:
                self._rows.written(image_id, row["sidecar_due"])

    def give_up(self, image_id: int, reason: str) -> None:
        """Note that an image's sidecar can't be written, and why; the next change of the image tries again."""
        _log.warning("image %d: no sidecar: %s", image_id, reason)
        self._rows.skipped(image_id, reason, time.time())

    def record(self, image_id: int, photo: Path) -> None:
        """Write beside a duplicate what the catalogue would be made anew from; no name is taken from another file."""
        row = self._rows.duplicate(image_id) if self._enabled else None
        if row is None:
            return
        path = path_beside(photo)
        content = compose(row, None, (), time.time()).serialize()
        # Where the filesystem can't hold the longer name there is no sidecar.
        with suppress(FileExistsError, NameRefused):
            atomic.write_whole(path, path.with_name(f".darkroom-{image_id}.xmp.part"), content)

    def _write(self, row: dict[str, Any], path: Path, now: float) -> str | None:
        """Write a row's sidecar; returns why it can't be, for people."""
        try:
            old = path.read_bytes() if os.path.lexists(path) else None
            existing = None if old is None else xmp.Packet.parse(old)
        except (OSError, xmp.Malformed) as error:
            return f"{path.name} is there already and can't be read: {error}"
        if existing is not None and existing.text(NAMESPACE, "SHA256") != row["sha256"]:
            return f"{path.name} is there already and is not Darkroom's"
        came = self._came_with(row["id"])
        row = self._learn(row, existing, came, now)
        content = compose(row, existing, came, now).serialize()
        if content == old:
            return None
        temporary = path.with_name(f".darkroom-{row['id']}.xmp.part")
        try:
            with atomic.blaming(str(path)):
                _replace(path, temporary, content, new=old is None)
        except FileExistsError:
            return f"{path.name} has just been made by another program"
        except NameRefused as refused:
            return str(refused)
        return None

    def _came_with(self, image_id: int) -> list[xmp.Packet]:
        """Read the XMP files that came with a photo; one that makes no sense stays beside it and is passed over."""
        packets = []
        for name in self._rows.packets(image_id):
            try:
                packets.append(xmp.Packet.parse((self._library / name).read_bytes()))
            except (OSError, xmp.Malformed) as error:
                _log.warning("image %d: %s is kept, but its fields can't be taken over: %s", image_id, name, error)
        return packets

    def _learn(
        self, row: dict[str, Any], existing: xmp.Packet | None, came: list[xmp.Packet], now: float
    ) -> dict[str, Any]:
        """Take a person's words out of XMP into the catalogue, and a caption that the catalogue has lost."""
        image_id = row["id"]
        known = facts(existing) if existing is not None else {}
        if known.get("caption_status") == "done" and row["captioned_at"] is None and not row["edited"]:
            self._rows.restore(image_id, {name: known.get(name) for name in _CAPTION_COLUMNS}, now)
            row = self._rows.row(image_id) or row
        words, edited = _words(row, existing, known, came)
        if words != Words() or edited != (row["edited"] or ""):
            self._rows.adopt(image_id, words, edited, now)
            row = self._rows.row(image_id) or row
        return row


def path_beside(photo: Path) -> Path:
    """Name a photo's sidecar, as darktable and digiKam do: with the photo's whole name."""
    return photo.with_name(photo.name + ".xmp")


def _words(
    row: Mapping[str, Any], existing: xmp.Packet | None, known: Mapping[str, Any], came: list[xmp.Packet]
) -> tuple[Words, str]:
    """Find a person's words that the row does not have, and which of them no model may change from now on.

    What is not what Darkroom wrote into its sidecar, somebody wrote there with another program. Keywords that came
    with the photo are found anew each time, so that a model's may join them.
    """
    edited = row["edited"] or ""
    caption = title = None
    keywords: list[str] = []
    if existing is not None:
        theirs = existing.text(xmp.DC, "description")
        if theirs != known.get("caption") and ("caption" not in edited or row["caption"] == known.get("caption")):
            caption = theirs
        keywords = [word for word in existing.texts(xmp.DC, "subject") if word not in (known.get("keywords") or [])]
        theirs = existing.text(xmp.DC, "title")
        title = theirs if theirs != known.get("title") else None
    written = bool(keywords)
    for packet in came:
        if "caption" not in edited:
            caption = caption or packet.text(xmp.DC, "description")
        if "keywords" not in edited:
            keywords += packet.texts(xmp.DC, "subject")
        title = title or row["title"] or packet.text(xmp.DC, "title")
    all_keywords = list(dict.fromkeys([*keywords, *(row["keywords"] or [])]))
    words = Words(
        caption=caption if caption and caption != row["caption"] else None,
        keywords=all_keywords if set(all_keywords) != set(row["keywords"] or []) else None,
        title=title if title and title != row["title"] else None,
    )
    return words, together(row["edited"], [*(["caption"] if caption else []), *(["keywords"] if written else [])])


def _replace(path: Path, temporary: Path, content: bytes, *, new: bool) -> None:
    try:
        with temporary.open("wb") as out:
            out.write(content)
            # Without this a power cut can leave an empty file under the new name.
            out.flush()
            os.fdatasync(out.fileno())
        if new:
            atomic.rename_exclusive(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


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
