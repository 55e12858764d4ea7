"""Writes `NAME.EXT.xmp` beside each filed photo: what Darkroom knows of it, readable by every photo program.

A sidecar is Darkroom's own file and can be written anew at any time from the row, the XMP and JSON files that came
with the photo, and what other programs have added to it since. It is never written over anybody else's file. What it
holds is enough to make the catalogue anew from the library alone.
"""

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta, timezone
from typing import Any, get_args

from daemon.catalogue import ImageEvent, ImageRow
from daemon.catalogue.captions import Words, cut_keywords, cut_text, together
from daemon.catalogue.companions import SidecarRows, SidecarSource
from daemon.catalogue.schema import FINAL, CaptionStatus, Cause, EventKind
from daemon.decoding import MAX_TEXT_BYTES, Takeout, TextReader
from daemon.errors import NameRefused, Postponed, Rejected, Transient, WaitingReason, Withdrawn
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.sidecar import takeout, xmp

_log = logging.getLogger(__name__)

# A name of our own that claims nobody's address (RFC 9562).
NAMESPACE = "urn:uuid:d3ed3d13-7c08-4015-9a3d-8cfa5a0057b2#"
_PREFIX = "darkroom"

_TEXTS = {
    "sha256": "SHA256",
    "original_name": "OriginalName",
    "folder": "OriginalFolder",
    "source": "Source",
    "taken_at": "TakenAt",
    "taken_from": "TakenFrom",
    "zone": "Zone",
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
    "taken_utc": "TakenUTC",
    "created_at": "CreatedAt",
    "processed_at": "FiledAt",
    "captioned_at": "CaptionedAt",
    "edited_at": "EditedAt",
}


@dataclass(frozen=True)
class SidecarFacts:
    """What a sidecar holds of an image: the columns of its row that it has, and its history."""

    row: ImageRow
    history: tuple[ImageEvent, ...]


class Sidecars:
    """The sidecars of one library; any thread may call it. Switched off, it does nothing."""

    def __init__(self, rows: SidecarRows, library: Root, reader: TextReader, *, enabled: bool = True) -> None:
        self._rows, self._reader = rows, reader
        self._library = library
        self._enabled = enabled
        # Two threads may have news of one image: the filing of its companion and an edit.
        self._lock = threading.Lock()

    def write(self, image_id: int) -> None:
        """Bring one image's sidecar up to date. Raises EnvironmentFault."""
        with self._lock:
            source = self._rows.of(image_id, "library")
            if source is None:
                return
            photo, path = self._library / str(source.row.destination), self._library / f"{source.row.destination}.xmp"
            # A photo that its owner has moved away gets no sidecar where it was.
            with atomic.blaming(photo):
                here = photo.lstat()
            if here is not None and stat.S_ISREG(here.st_mode):
                came = self._came_with(source)
                if not self._enabled:
                    self._learn(source, None, came, time.time())
                elif (refusal := self._write(source, came, path, _mode_of(here), time.time())) is not None:
                    self.give_up(image_id, refusal)
                    return
            if source.row.sidecar_due:
                self._rows.written(image_id, source.row.sidecar_due)

    def give_up(self, image_id: int, reason: str) -> None:
        """Note that an image's sidecar can't be written, and why; the next change of the image tries again."""
        _log.warning("image %d: no sidecar: %s", image_id, reason)
        self._rows.skipped(image_id, reason, time.time())

    def record(self, image_id: int, photo: Location) -> None:
        """Write beside a duplicate what the catalogue would be made anew from; no name is taken from another file."""
        source = self._rows.of(image_id, "duplicates") if self._enabled else None
        if source is None:
            return
        content = _compose(source, None, (), time.time()).serialize()
        # Where the filesystem can't hold the longer name there is no sidecar.
        with suppress(FileExistsError, NameRefused), atomic.blaming(photo):
            here = photo.lstat()
            mode = None if here is None else _mode_of(here)
            atomic.atomic_write(photo.parent, {path_beside(photo).name: content}, tag_of(image_id), mode=mode)

    def _write(self, source: SidecarSource, came: "_Came", path: Location, mode: int, now: float) -> str | None:
        """Write a row's sidecar with a mode; return why it can't be, for people.

        What came with the photo is learned anyway.
        """
        try:
            old = path.read_bytes(MAX_TEXT_BYTES + 1) if path.lstat() is not None else None
            existing = None if old is None else xmp.Packet.of(self._reader.read_xmp(old))
        except (OSError, Rejected, Transient, Postponed, Withdrawn) as error:
            self._learn(source, None, came, now)
            return f"{path.name} is there already and can't be read: {error}"
        if existing is not None and existing.text(NAMESPACE, "SHA256") != source.row.sha256:
            self._learn(source, None, came, now)
            return f"{path.name} is there already and is not Darkroom's"
        source = self._learn(source, existing, came, now)
        tag = tag_of(source.row.id)
        content = _compose(source, existing, came.packets, now).serialize()
        if content == old:
            return None
        try:
            if source.row.status != "processing":
                # A process may have died while it wrote this; of a row in filing its recovery has removed what is left.
                with atomic.blaming(path):
                    atomic.remove_temporaries(path, tag)
            # The name need not survive a power cut: the row says that there is a sidecar, and what it holds.
            atomic.atomic_write(
                path.parent, {path.name: content}, tag, replace=old is not None, durable_names=False, mode=mode
            )
        except FileExistsError:
            return f"{path.name} has just been made by another program"
        except NameRefused as refused:
            return str(refused)
        return None

    def _came_with(self, source: SidecarSource) -> "_Came":
        """Read the XMP and JSON files that came with a photo; one that makes no sense stays beside it, passed over."""
        packets, takeouts = [], {}
        for name in (*source.packets, *source.takeouts):
            try:
                content = (self._library / name).read_bytes(MAX_TEXT_BYTES + 1)
                if name in source.takeouts:
                    takeouts[name] = self._reader.read_takeout(content)
                else:
                    packets.append(xmp.Packet.of(self._reader.read_xmp(content)))
            except (OSError, Rejected, Transient, Postponed, Withdrawn) as error:
                text = "image %d: %s is kept, but its fields can't be taken over: %s"
                _log.warning(text, source.row.id, name, error)
        return _Came(packets, takeouts)

    def _learn(self, source: SidecarSource, existing: xmp.Packet | None, came: "_Came", now: float) -> SidecarSource:
        """Take a person's words out of XMP and JSON into the catalogue, and a caption that the catalogue has lost."""
        image_id = source.row.id
        known = ImageRow() if existing is None else _row(existing)
        if known.caption_status == "done" and source.row.captioned_at is None and not source.row.edited:
            self._rows.restore(image_id, known, now)
            source = self._rows.of(image_id, "library") or source
        words, edited = _words(source.row, existing, known, came.packets)
        if words != Words() or edited != (source.row.edited or ""):
            self._rows.adopt(image_id, words, edited, now)
            source = self._rows.of(image_id, "library") or source
        # After the XMP: what its owner has written on his own machine is newer than what Google had.
        for name, said in came.takeouts.items():
            words, edited = _words(source.row, None, ImageRow(), [takeout.words(said)])
            has_place = source.row.lat is not None or source.row.lon is not None
            place = None if has_place or said.lat is None or said.lon is None else (said.lat, said.lon)
            if words != Words() or place is not None or edited != (source.row.edited or ""):
                self._rows.adopt(image_id, words, edited, now, place=place, takeout=name)
                source = self._rows.of(image_id, "library") or source
        return source


@dataclass(frozen=True)
class _Came:
    """What came with a photo: XMP, and Takeout's JSON by its name in the library."""

    packets: Sequence[xmp.Packet]
    takeouts: Mapping[str, Takeout]


def _mode_of(photo: os.stat_result) -> int:
    """Return a sidecar's mode: who may not see a photo may not read what is in it, either."""
    return stat.S_IMODE(photo.st_mode) & 0o666


def tag_of(image_id: int) -> str:
    """Return the tag of the temporaries under which an image's sidecar is written."""
    return f"{image_id}.xmp"


def path_beside(photo: Location) -> Location:
    """Return the name of a photo's sidecar, as darktable and digiKam have it: with the photo's whole name."""
    return photo.with_name(photo.name + ".xmp")


def read_facts(packet: xmp.Packet) -> SidecarFacts | None:
    """Return an image's columns and history out of its sidecar; None where it is not Darkroom's, or not complete."""
    row = _row(packet)
    if not (row.id and row.sha256 and row.original_name and row.created_at):
        return None
    events = [event for line in packet.texts(NAMESPACE, "History") if (event := _event(line))]
    return SidecarFacts(row, tuple(events))


def _row(packet: xmp.Packet) -> ImageRow:
    """Return the columns that a sidecar holds; what it lacks, or holds in another form, is as in a new row."""
    columns: dict[str, Any] = {column: cut_text(packet.text(NAMESPACE, name)) for column, name in _TEXTS.items()}
    columns |= {column: _number(packet.text(NAMESPACE, name)) for column, name in _NUMBERS.items()}
    columns |= {column: _seconds(packet.text(NAMESPACE, name)) for column, name in _TIMES.items()}
    columns["keywords"] = cut_keywords(packet.texts(NAMESPACE, "Keywords")) or None
    if columns["caption_status"] not in get_args(CaptionStatus):
        columns["caption_status"] = None
    return ImageRow(**{column: value for column, value in columns.items() if value is not None})


def _compose(source: SidecarSource, existing: xmp.Packet | None, came: Sequence[xmp.Packet], now: float) -> xmp.Packet:
    """Return an image's packet: all that is in `existing` and in the XMP files that `came` with it, and the row."""
    row, values = source.row, vars(source.row)
    times = {name: values[column] for column, name in _TIMES.items()}
    times["FiledAt"] = times["FiledAt"] or now
    texts = {name: values[column] for column, name in (_TEXTS | _NUMBERS).items()}
    texts |= {name: None if seconds is None else _iso(seconds) for name, seconds in times.items()}
    offers = _offers(row)
    history = [_line(event) for event in source.history]
    packet = xmp.Packet()
    packet.declare(NAMESPACE, _PREFIX)
    for other in (existing, *came):
        if other is not None:
            packet.absorb(other)
    if row.caption or existing is not None:
        packet.set_language(xmp.DC, "description", row.caption)
    if row.title or existing is not None:
        packet.set_language(xmp.DC, "title", row.title)
    if row.keywords or existing is not None:
        packet.set_list(xmp.DC, "subject", row.keywords or ())
    for properties in offers:
        # What other programs may know better is set only where they have said nothing.
        packet.offer(properties)
    for name, text in texts.items():
        packet.set(NAMESPACE, name, None if text is None else str(text))
    packet.set_list(NAMESPACE, "Keywords", row.keywords or ())
    packet.set_list(NAMESPACE, "History", history)
    return packet


def _offers(row: ImageRow) -> list[dict[tuple[str, str], str]]:
    """Return the properties that are set together, where a packet has none of them."""
    offers = [{(xmp.XMP, "CreatorTool"): "Darkroom"}]
    if row.taken_at is not None and row.taken_from != "mtime":
        offers.append({(xmp.PHOTOSHOP, "DateCreated"): _with_offset(row.taken_at, row.taken_utc)})
    if row.lat is not None and row.lon is not None:
        lat, lon = gps(row.lat, "NS"), gps(row.lon, "EW")
        offers.append({(xmp.EXIF, "GPSLatitude"): lat, (xmp.EXIF, "GPSLongitude"): lon})
    return offers


def _with_offset(taken_at: str, taken_utc: float | None) -> str:
    """Return a date with its offset from UTC where the instant is known (XMP specification part 1, Date)."""
    if taken_utc is None:
        return taken_at
    try:
        at = datetime.fromisoformat(taken_at)
        offset = at - datetime.fromtimestamp(taken_utc, UTC).replace(tzinfo=None)
        # Before there were time zones, offsets had seconds, which XMP has not.
        return taken_at if offset % timedelta(minutes=1) else at.replace(tzinfo=timezone(offset)).isoformat()
    except (ValueError, OverflowError, OSError, TypeError):  # a sidecar that somebody has edited
        return taken_at


def gps(degrees: float, directions: str) -> str:
    """Return a coordinate as XMP has it, "DDD,MM.mmmmmmK" (XMP specification part 2, GPSCoordinate)."""
    # 10^-6 minutes are 2 mm; rounded before it is split, or 59.9999999 would become 60 minutes.
    millionths = round(abs(degrees) * 60_000_000)
    whole, rest = divmod(millionths, 60_000_000)
    return f"{whole},{rest / 1_000_000:.6f}{directions[degrees < 0]}"


def _line(event: ImageEvent) -> str:
    """Return one event as a line of JSON: its codes, and no more of them than it has."""
    codes = {key: value for key, value in vars(event).items() if value is not None and key not in {"id", "image_id"}}
    return json.dumps({**codes, "at": _iso(event.at)}, ensure_ascii=True)


def _event(line: str) -> ImageEvent | None:
    """Return the event of a line; None for what is none."""
    try:
        codes = json.loads(line)
        at, kind = _seconds(codes["at"]), EventKind(codes["kind"])
        cause, place, other = codes.get("cause"), codes.get("place"), codes.get("other_id")
        texts = {name: codes.get(name) for name in ("path", "text")}
        if at is None or not all(isinstance(text, str | None) for text in texts.values()):
            return None
        # JSON may hold halves of surrogate pairs, which the catalogue can't; those of a path may stand for raw bytes.
        os.fsencode(texts["path"] or "")
        (texts["text"] or "").encode()
        if place not in (None, *FINAL) or not (other is None or _is_id(other)):
            return None
        if cause is not None:
            cause = WaitingReason(cause) if kind is EventKind.POSTPONED else Cause(cause)
        return ImageEvent(at, kind, cause=cause, place=place, other_id=other, **texts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62


def _words(
    row: ImageRow, existing: xmp.Packet | None, known: ImageRow, came: Sequence[xmp.Packet]
) -> tuple[Words, str]:
    """Return a person's words that the row does not have, and which of them no model may change from now on.

    What is not what Darkroom wrote into its sidecar, somebody wrote there with another program. Keywords that came
    with the photo are found anew each time, so that a model's may join them.
    """
    edited = row.edited or ""
    caption = title = None
    keywords: list[str] = []
    if existing is not None:
        theirs = cut_text(existing.text(xmp.DC, "description"))
        if theirs != known.caption and ("caption" not in edited or row.caption == known.caption):
            caption = theirs
        words = cut_keywords(existing.texts(xmp.DC, "subject"))
        keywords = [word for word in words if word not in (known.keywords or ())]
        theirs = cut_text(existing.text(xmp.DC, "title"))
        title = theirs if theirs != known.title else None
    written = bool(keywords)
    for packet in came:
        if "caption" not in edited:
            caption = caption or cut_text(packet.text(xmp.DC, "description"))
        if "keywords" not in edited:
            keywords += cut_keywords(packet.texts(xmp.DC, "subject"))
        title = title or row.title or cut_text(packet.text(xmp.DC, "title"))
    had = tuple(row.keywords or ())
    all_keywords = cut_keywords([*keywords, *had]) if keywords else had
    found = Words(
        caption=caption if caption and caption != row.caption else None,
        keywords=all_keywords if set(all_keywords) != set(row.keywords or ()) else None,
        title=title if title and title != row.title else None,
    )
    more = [*(["caption"] if caption else []), *(["keywords"] if written else [])]
    return found, together(row.edited, more) if more else edited


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _seconds(text: str | None) -> float | None:
    """Return a time in seconds since 1970; None for what is none, or can't be shown in each time zone."""
    if text is None:
        return None
    try:
        seconds = datetime.fromisoformat(text).timestamp()
        year = datetime.fromtimestamp(seconds, UTC).year
    except (ValueError, OverflowError, OSError):
        return None
    return seconds if MINYEAR < year < MAXYEAR else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 18 else None
