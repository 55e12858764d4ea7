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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta, timezone
from typing import Any, get_args

from daemon.catalogue import ImageEvent, ImageRow, Place
from daemon.catalogue.captions import cut_keywords, cut_text
from daemon.catalogue.companions import SidecarRows, SidecarSource
from daemon.catalogue.schema import FINAL, CaptionStatus, Cause, EventKind, SidecarLook, Tags
from daemon.decoding import MAX_TEXT_BYTES, Takeout, TextReader
from daemon.errors import (
    DarkroomError,
    FolderFault,
    NameRefused,
    Postponed,
    Rejected,
    Transient,
    WaitingReason,
    Withdrawn,
)
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.sidecar import takeout, words, xmp
from daemon.sidecar.words import Said, words_in, words_of_edit

_log = logging.getLogger(__name__)

NAMESPACE = xmp.DARKROOM
_PREFIX = "darkroom"

_TEXTS = {
    "sha256": "SHA256",
    "filed_sha256": "FiledSHA256",
    "original_name": "OriginalName",
    "folder": "OriginalFolder",
    "source": "Source",
    "taken_at": "TakenAt",
    "taken_from": "TakenFrom",
    "zone": "Zone",
    "title": "Title",
    "label": "Label",
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

    def __init__(
        self,
        rows: SidecarRows,
        library: Root,
        reader: TextReader,
        others: Mapping[Place, Root] | None = None,
        *,
        enabled: bool = True,
    ) -> None:
        self._rows, self._reader = rows, reader
        self._library, self._others = library, others or {}
        self.enabled = enabled
        # Two threads may have news of one image: the filing of its companion and an edit.
        self._lock = threading.Lock()

    def write(self, image_id: int, also: xmp.Packet | None = None, *, now: float | None = None) -> SidecarLook | None:
        """Bring one image's sidecar up to date, and the row with what others have written into it; return its look.

        `also` is another sidecar of the same photo that goes into this one. Of an image that is being filed `now` is
        when it will have been (seconds since 1970): the sidecar says so already. Raises EnvironmentFault.
        """
        now = time.time() if now is None else now
        with self._lock:
            source = self._rows.of(image_id, "library")
            if source is None:
                self._rewrite_record(image_id)
                return None
            photo, path = self._library / str(source.row.destination), self._library / f"{source.row.destination}.xmp"
            # A photo that its owner has moved away gets no sidecar where it was.
            with atomic.blaming(photo):
                here = photo.lstat()
            look = None
            if here is not None and stat.S_ISREG(here.st_mode):
                came = replace(self._came_with(source), also=also)
                if not self.enabled:
                    self._learn(source, None, came, now)
                else:
                    try:
                        look = self._write(source, came, path, _mode_of(here), now)
                    except _Refused as refused:
                        self.give_up(image_id, str(refused), refused.look)
                        return None
            # What is being filed keeps its look once it is.
            known = source.row.sidecar_size, source.row.sidecar_mtime_ns
            is_news = look is not None and known != (look.size, look.mtime_ns) and source.row.status != "processing"
            if source.row.sidecar_due or is_news:
                self._rows.written(image_id, source.row.sidecar_due, look)
            return look

    def give_up(self, image_id: int, reason: str, look: SidecarLook | None = None) -> None:
        """Note that an image's sidecar can't be written, and why; the next change of the image tries again."""
        _log.warning("image %d: no sidecar: %s", image_id, reason)
        self._rows.skipped(image_id, reason, time.time(), look)

    def gather(self, image_id: int, left: Location) -> bool:
        """Take what lies under another name of an image's sidecar into the one beside the image, and remove it there.

        Nothing where it is not that image's, or nothing lies beside the image that holds it all. Return whether it is
        gone. Raises EnvironmentFault.
        """
        if not self.enabled:
            return False
        try:
            with atomic.blaming(left):
                content = left.read_bytes(MAX_TEXT_BYTES + 1)
            packet = self._parsed(content)
        except (FolderFault, Rejected, Transient):
            return False
        source = self._rows.of(image_id, "library")
        if source is None or not is_own(packet, source.row) or f"{source.row.destination}.xmp" == left.inside:
            return False
        if self.write(image_id, packet) is None:
            return False
        with atomic.blaming(left), left.entry() as entry:
            # What somebody has written into it since is read the next time.
            if left.read_bytes(len(content) + 1) != content:
                return False
            with suppress(FileNotFoundError):
                entry.unlink()
            entry.fsync_folder()
        return True

    def embedded(self, image_id: int, before: Tags, after: Tags) -> None:
        """Take over the words that a photo has in itself since its owner has edited it; `before` and `after` are tags.

        Before the row shows the edit, which has the sidecar written.
        """
        with self._lock:
            source = self._rows.of(image_id, "library")
            if source is None:
                return
            said = words_of_edit(source.row, before, after)
            if said != Said(edited=source.row.edited or ""):
                cause = Cause.PHOTO
                self._rows.adopt(image_id, said.words, said.edited, time.time(), emptied=said.emptied, cause=cause)

    def history(self, image_id: int) -> list[str]:
        """Return what happened to an image, as lines from which `read_history` makes the events anew."""
        return [_line(event) for event in self._rows.history(image_id)]

    def record(self, image_id: int, photo: Location, now: float) -> None:
        """Write beside a duplicate what the catalogue would be made anew from; no name is taken from another file.

        `now` is when it will have been filed.
        """
        source = self._rows.of(image_id, "duplicates") if self.enabled else None
        if source is None:
            return
        content = _compose(source, None, _Came((), {}), now).serialize()
        # Where the filesystem can't hold the longer name there is no sidecar.
        with suppress(FileExistsError, NameRefused), atomic.blaming(photo):
            here = photo.lstat()
            mode = None if here is None else _mode_of(here)
            atomic.atomic_write(photo.parent, {path_beside(photo).name: content}, tag_of(image_id), mode=mode)

    def _rewrite_record(self, image_id: int) -> None:
        """Write beside a duplicate, or what failed, what its owner has said of it since; for `darkroom rebuild`."""
        for place, root in self._others.items():
            source = self._rows.of(image_id, place) if self.enabled else None
            if source is None or not source.row.sidecar_due:
                continue
            photo = root / str(source.row.destination)
            path = path_beside(photo)
            with suppress(FileExistsError, NameRefused, Rejected, Transient), atomic.blaming(photo):
                old, here = _read(path)[0], photo.lstat()
                existing = None if old is None else self._parsed(old)
                if here is not None and source.row.sha256 and (existing is None or is_own(existing, source.row)):
                    content = _compose(source, existing, _Came((), {}), time.time()).serialize()
                    tag, mode = tag_of(image_id), _mode_of(here)
                    atomic.atomic_write(photo.parent, {path.name: content}, tag, replace=old is not None, mode=mode)
            self._rows.written(image_id, source.row.sidecar_due, None)

    def _write(self, source: SidecarSource, came: "_Came", path: Location, mode: int, now: float) -> SidecarLook:
        """Write a row's sidecar with a mode; return its look. Raises _Refused where it can't be.

        What came with the photo is learned anyway.
        """
        look = None
        try:
            old, look = _read(path)
            existing = None if old is None else self._parsed(old)
        except (OSError, Rejected, Transient, Postponed, Withdrawn) as error:
            self._learn(source, None, came, now)
            raise _Refused(f"{path.name} is there already and can't be read: {error}", look) from error
        if existing is not None and not is_own(existing, source.row):
            if not self._is_left(existing, path):
                self._learn(source, None, replace(came, packets=[*came.packets, existing]), now)
                raise _Refused(f"{path.name} is there already and is not Darkroom's", look)
            existing = None
        source = self._learn(source, existing, came, now)
        if came.also is not None:
            source = self._learn(source, came.also, came, now)
        tag = tag_of(source.row.id)
        content = _compose(source, existing, came, now).serialize()
        if content == old and look is not None:
            return look
        try:
            if source.row.status != "processing":
                # A process may have died while it wrote this; of a row in filing its recovery has removed what is left.
                with atomic.blaming(path):
                    atomic.remove_temporaries(path, tag)
            # The name need not survive a power cut: the row says that there is a sidecar, and what it holds.
            [here] = atomic.atomic_write(
                path.parent, {path.name: content}, tag, replace=old is not None, durable_names=False, mode=mode
            )
        except FileExistsError as error:
            raise _Refused(f"{path.name} has just been made by another program", None) from error
        except NameRefused as refused:
            raise _Refused(str(refused), None) from refused
        return SidecarLook(here.st_size, here.st_mtime_ns)

    def packet(self, path: Location) -> xmp.Packet | None:
        """Return what an XMP file holds; None where there is none that can be read. Raises EnvironmentFault."""
        return read_packet(path, self._reader)

    def _parsed(self, content: bytes) -> xmp.Packet:
        """Return what an XMP file holds. Raises Rejected, Transient, EnvironmentFault."""
        return xmp.Packet.of(self._reader.read_xmp(content))

    def _is_left(self, packet: xmp.Packet, path: Location) -> bool:
        """Return whether a sidecar is Darkroom's own, of a photo that lay here once and does not any more."""
        number = _number(packet.text(NAMESPACE, "ImageID"))
        if number is None or packet.text(NAMESPACE, "SHA256") is None:
            return False
        return not self._rows.lies_at(number, path.inside.removesuffix(".xmp"))

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
        said = nothing = Said(edited=source.row.edited or "")
        if existing is not None or came.packets:
            said = words_in(source.row, existing, known, came.packets)
        if said != nothing:
            self._rows.adopt(image_id, said.words, said.edited, now, emptied=said.emptied, place=said.place)
            source = self._rows.of(image_id, "library") or source
        # After the XMP: what its owner has written on his own machine is newer than what Google had.
        for name, json_of in came.takeouts.items():
            theirs = words_in(source.row, None, ImageRow(), [takeout.words(json_of)])
            has_place = source.row.lat is not None or source.row.lon is not None
            place = None if has_place or json_of.lat is None or json_of.lon is None else (json_of.lat, json_of.lon)
            if place is not None or theirs != Said(edited=source.row.edited or ""):
                self._rows.adopt(image_id, theirs.words, theirs.edited, now, place=place, takeout=name)
                source = self._rows.of(image_id, "library") or source
        return source


class _Refused(Exception):
    """Raised where a sidecar can't be written; the message says why, `look` is that of what lies in its place."""

    def __init__(self, message: str, look: SidecarLook | None) -> None:
        super().__init__(message)
        self.look = look


@dataclass(frozen=True)
class _Came:
    """What came with a photo: XMP, and Takeout's JSON by its name in the library; and another sidecar of its own."""

    packets: Sequence[xmp.Packet]
    takeouts: Mapping[str, Takeout]
    also: xmp.Packet | None = None


def _read(path: Location) -> tuple[bytes | None, SidecarLook | None]:
    """Return a file's bytes, one more than it may have at most, and its look; None for both where there is none.

    Raises OSError.
    """
    if path.lstat() is None:
        return None, None
    with os.fdopen(path.open(), "rb") as opened:
        here = os.fstat(opened.fileno())
        return opened.read(MAX_TEXT_BYTES + 1), SidecarLook(here.st_size, here.st_mtime_ns)


def read_packet(path: Location, reader: TextReader) -> xmp.Packet | None:
    """Return what an XMP file holds; None where there is none that can be read. Raises EnvironmentFault."""
    try:
        content = path.read_bytes(MAX_TEXT_BYTES + 1)
    except (OSError, DarkroomError):
        return None
    try:
        return xmp.Packet.of(reader.read_xmp(content))
    except (Rejected, Transient):
        return None


def is_own(packet: xmp.Packet, row: ImageRow) -> bool:
    """Return whether a sidecar is Darkroom's own, of this photo: as it is now, or as it was filed."""
    theirs = {packet.text(NAMESPACE, name) for name in ("SHA256", "FiledSHA256")}
    return bool(theirs & {row.sha256, row.filed_sha256} - {None})


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
    return SidecarFacts(row, read_history(packet.texts(NAMESPACE, "History")))


def read_history(lines: Iterable[str]) -> tuple[ImageEvent, ...]:
    """Return the events of some lines; what is none is passed over."""
    return tuple(event for line in lines if (event := _event(line)))


def _row(packet: xmp.Packet) -> ImageRow:
    """Return the columns that a sidecar holds; what it lacks, or holds in another form, is as in a new row."""
    columns: dict[str, Any] = {column: cut_text(packet.text(NAMESPACE, name)) for column, name in _TEXTS.items()}
    columns |= {column: _number(packet.text(NAMESPACE, name)) for column, name in _NUMBERS.items()}
    columns |= {column: _seconds(packet.text(NAMESPACE, name)) for column, name in _TIMES.items()}
    columns["keywords"] = cut_keywords(packet.texts(NAMESPACE, "Keywords")) or None
    paths = packet.texts(NAMESPACE, "HierarchicalKeywords")
    columns["hierarchical_keywords"] = words.cut_list("hierarchical_keywords", paths) or None
    columns["rating"] = words.rating(packet.text(NAMESPACE, "Rating"))
    if columns["caption_status"] not in get_args(CaptionStatus):
        columns["caption_status"] = None
    return ImageRow(**{column: value for column, value in columns.items() if value is not None})


def _compose(source: SidecarSource, existing: xmp.Packet | None, came: "_Came", now: float) -> xmp.Packet:
    """Return an image's packet: all that is in `existing` and in what `came` with it, and the row."""
    row, values = source.row, vars(source.row)
    times = {name: values[column] for column, name in _TIMES.items()}
    times["FiledAt"] = times["FiledAt"] or now
    texts = {name: values[column] for column, name in (_TEXTS | _NUMBERS).items()}
    texts |= {name: None if seconds is None else _iso(seconds) for name, seconds in times.items()}
    texts["Rating"] = row.rating
    history = _lasting(source.history)
    if row.status == "processing" and row.place is not None:
        history.append(ImageEvent(now, EventKind(FINAL[row.place]), place=row.place, path=row.destination))
    offers, lines = _offers(row), [_line(event) for event in history]
    others = [other for other in (existing, came.also, *came.packets) if other is not None]
    packet = xmp.Packet()
    packet.declare(NAMESPACE, _PREFIX)
    for other in others:
        packet.absorb(other)
    if others or any((row.caption, row.title, row.keywords, row.hierarchical_keywords, row.label, row.rating)):
        _set_words(packet, row, is_new=existing is None and came.also is None)
    if others and row.rating is None and words.rating(packet.text(xmp.XMP, "Rating")) is not None:
        packet.set(xmp.XMP, "Rating", None)
    if others or row.lat is not None:
        _set_place(packet, row)
    for properties in offers:
        # What other programs may know better is set only where they have said nothing.
        packet.offer(properties)
    for name, text in texts.items():
        packet.set(NAMESPACE, name, None if text is None else str(text))
    packet.set_list(NAMESPACE, "Keywords", row.keywords or ())
    packet.set_list(NAMESPACE, "HierarchicalKeywords", row.hierarchical_keywords or ())
    packet.set_list(NAMESPACE, "History", lines)
    return packet


def _set_words(packet: xmp.Packet, row: ImageRow, *, is_new: bool) -> None:
    """Write the row's words as other programs read them; of a sidecar that is not new, the others go."""
    if row.caption or not is_new:
        packet.set_language(xmp.DC, "description", row.caption)
    if row.title or not is_new:
        packet.set_language(xmp.DC, "title", row.title)
    if row.keywords or not is_new:
        packet.set_list(xmp.DC, "subject", row.keywords or ())
    if row.hierarchical_keywords or not is_new:
        packet.set_list(xmp.LIGHTROOM, "hierarchicalSubject", row.hierarchical_keywords or ())
    if row.rating is not None:
        packet.set(xmp.XMP, "Rating", str(row.rating))
    if row.label or not is_new:
        packet.set(xmp.XMP, "Label", row.label)


def _set_place(packet: xmp.Packet, row: ImageRow) -> None:
    """Write the row's place, but not over one that somebody else has written, and Darkroom never has."""
    names = ("GPSLatitude", "GPSLongitude")
    is_ours = packet.has(NAMESPACE, names[0])
    if not is_ours and packet.has(xmp.EXIF, names[0]) and not _is_place(packet, row):
        return
    texts = (None, None) if row.lat is None or row.lon is None else (gps(row.lat, "NS"), gps(row.lon, "EW"))
    for name, text in zip(names, texts, strict=True):
        if is_ours or text is not None:
            packet.set(xmp.EXIF, name, text)
            packet.set(NAMESPACE, name, text)


def _is_place(packet: xmp.Packet, row: ImageRow) -> bool:
    """Return whether what a packet says of a photo's place is what the row says."""
    found = words.place(packet)
    if found is None or row.lat is None or row.lon is None:
        return False
    return (gps(found[0], "NS"), gps(found[1], "EW")) == (gps(row.lat, "NS"), gps(row.lon, "EW"))


def _offers(row: ImageRow) -> list[dict[tuple[str, str], str]]:
    """Return the properties that are set together, where a packet has none of them."""
    offers = [{(xmp.XMP, "CreatorTool"): "Darkroom"}]
    if row.taken_at is not None and row.taken_from != "mtime":
        offers.append({(xmp.PHOTOSHOP, "DateCreated"): _with_offset(row.taken_at, row.taken_utc)})
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


def _lasting(history: Iterable[ImageEvent]) -> list[ImageEvent]:
    """Return a history without the edits that were taken back: then a sidecar is as it was before."""
    lasting: list[ImageEvent] = []
    for event in history:
        if event.cause == Cause.TAKEN_BACK:
            edit = event.kind, None, event.text
            last = [n for n, one in enumerate(lasting) if (one.kind, one.cause, one.text) == edit][-1:]
            lasting = [one for n, one in enumerate(lasting) if n not in last]
        else:
            lasting.append(event)
    return lasting


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
