"""Reads EXIF by ExifRead, and by Pillow where ExifRead gives up; damaged EXIF never costs an image.

What a parser may read is bounded: an EXIF block of 26 bytes can make ExifRead loop for ten seconds, a TIFF of
50 MB for two minutes. Past the bound it fails like on any other damage. The fields that people search by are made of
the tags as exiftool understands them (EXIF 2.32).
"""

import io
import json
import math
import re
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any, BinaryIO, cast

import exifread
from exifread.core.ifd_tag import IfdTag
from exifread.serialize import convert_types
from exifread.tags.fields import RATIO_FIELD_TYPES, FieldType
from PIL import ExifTags, Image

from daemon.decoding import DateTexts, Exif, metadata

Tags = dict[str, str | bytes | list[Any]]
"""Values by name; rationals are floats already, None where their denominator was 0."""

_DATE = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T]+(\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_MAX_DATE = 64
_UNKNOWN_ISO = 65535
"""What the 16-bit ISO tag holds where the sensitivity does not fit; the newer tags then have it."""
_MAX_ISO = 1 << 32
"""What no tag can hold; a maker note's text might."""


def fields(tags: Tags) -> Exif:
    """Return all fields but `raw`, from tags named as ExifRead names them."""
    lat, lon = _position(tags)
    orientation = _number(tags, "Image Orientation")
    return Exif(
        camera_make=_text(tags, "Image Make", "EXIF Make"),
        camera_model=_text(tags, "Image Model", "EXIF Model"),
        lens_model=_text(tags, "EXIF LensModel", "Image LensModel"),
        datetime_original=_taken(tags),
        iso=_iso(tags),
        focal_length=_rounded(_positive(tags, "EXIF FocalLength", "Image FocalLength")),
        exposure_time=_exposure(_positive(tags, "EXIF ExposureTime", "Image ExposureTime")),
        f_number=_rounded(_positive(tags, "EXIF FNumber", "Image FNumber")),
        orientation=int(orientation) if orientation is not None and orientation in range(1, 9) else None,
        lat=lat,
        lon=lon,
        dates=_dates(tags),
    )


def _text(tags: Tags, *names: str) -> str | None:
    for name in names:
        value: object = tags.get(name)
        if isinstance(value, list) and value and all(isinstance(v, int) and 0 <= v < 256 for v in value):
            value = bytes(value)
        if isinstance(value, bytes):
            value = decoded(value)
        if isinstance(value, str):
            text = "".join(c for c in value.split("\0")[0] if c.isprintable()).strip()
            if text:
                return text[:256]
    return None


def decoded(text: bytes) -> str:
    """Return text that is UTF-8, as EXIF 3.0 has it, or else what older systems wrote."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _numbers(tags: Tags, name: str) -> list[float | None]:
    values = tags.get(name)
    if not isinstance(values, list):
        return []
    return [v if isinstance(v, int | float) and math.isfinite(v) else None for v in values]


def _number(tags: Tags, *names: str) -> float | None:
    firsts = (values[0] for name in names if (values := _numbers(tags, name)))
    return next((value for value in firsts if value is not None), None)


def _positive(tags: Tags, *names: str) -> float | None:
    # Cameras write 0 for what they don't know: the focal length of a lens without contacts.
    value = _number(tags, *names)
    return value if value is not None and value > 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _exposure(seconds: float | None) -> str | None:
    """Write an exposure time as exiftool does: "1/250", "0.5", "30"."""
    if seconds is None:
        return None
    if seconds < 0.25001:
        return f"1/{int(0.5 + 1 / seconds)}"
    return f"{seconds:.1f}".removesuffix(".0")


def _iso(tags: Tags) -> int | None:
    for name in (
        "EXIF ISOSpeedRatings",
        "Image ISOSpeedRatings",
        "EXIF RecommendedExposureIndex",
        "EXIF Tag 0x8831",  # StandardOutputSensitivity
        "EXIF StandardOutputSensitivity",
        "EXIF ISOSpeed",
    ):
        value = _number(tags, name)
        if value is not None and 0 < value < _MAX_ISO and value != _UNKNOWN_ISO:
            return round(value)
    return None


def _possible_iso(value: int) -> int | None:
    return value if 0 < value < _MAX_ISO else None


def _taken(tags: Tags) -> str | None:
    text = _text(tags, "EXIF DateTimeOriginal", "Image DateTimeOriginal") or ""
    match = _DATE.match(text)
    if not match:
        return None
    taken = "{}-{}-{}T{}:{}:{}".format(*match.groups())
    if not _is_date(taken):  # 0000:00:00, the 31st of June
        return None
    offset = _OFFSET.fullmatch(_text(tags, "EXIF OffsetTimeOriginal", "Image OffsetTimeOriginal") or "")
    with_offset = "{}{}{}:{}".format(taken, *offset.groups()) if offset else taken
    return with_offset if _is_date(with_offset) else taken


def _dates(tags: Tags) -> DateTexts:
    """Return EXIF's dates, and IPTC's where TIFF has them, as they stand there."""
    original, created, modified = (
        (_short(tags, f"EXIF {name}", f"Image {name}"), _short(tags, f"EXIF {offset}", f"Image {offset}"))
        for name, offset in (
            ("DateTimeOriginal", "OffsetTimeOriginal"),
            ("DateTimeDigitized", "OffsetTimeDigitized"),
            ("DateTime", "OffsetTime"),
        )
    )
    block = tags.get("Image IPTC/NAA")
    iptc = metadata.iptc_date(metadata.iptc_of_tag(block)) if isinstance(block, list) else None
    return DateTexts(
        *original, *created, gps=_gps_date(tags), iptc=iptc, modified=modified[0], modified_offset=modified[1]
    )


def _short(tags: Tags, *names: str) -> str | None:
    text = _text(tags, *names)
    return None if text is None else text[:_MAX_DATE]


def _gps_date(tags: Tags) -> str | None:
    """Return GPSDateStamp and GPSTimeStamp as one text; the second is three rationals: hours, minutes, seconds."""
    # ExifRead calls it GPSDate, Pillow GPSDateStamp.
    day = _short(tags, "GPS GPSDate", "GPS GPSDateStamp")
    if day is None:
        return None
    clock = [value for value in _numbers(tags, "GPS GPSTimeStamp") if value is not None and 0 <= value < 100]
    if len(clock) != 3:
        return day
    return "{} {:02}:{:02}:{:02}".format(day, *(int(value) for value in clock))


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _position(tags: Tags) -> tuple[float | None, float | None]:
    if (_text(tags, "GPS GPSStatus") or "") == "V" and not any(_numbers(tags, "GPS GPSLatitude")):
        return None, None  # void, and a zero where the receiver had no fix
    lat = _degrees(tags, "GPS GPSLatitude", "S", 90)
    lon = _degrees(tags, "GPS GPSLongitude", "W", 180)
    if lat is None or lon is None:
        return None, None
    # Phones and editors write zeros for "no place"; only a receiver that says it measured was on the null island.
    if lat == lon == 0 and (_text(tags, "GPS GPSStatus") or "") != "A":
        return None, None
    return lat, lon


def _degrees(tags: Tags, name: str, negative: str, limit: int) -> float | None:
    """Return decimal degrees from degrees, minutes and seconds; without a reference, positive."""
    parts = _numbers(tags, name)
    if not 1 <= len(parts) <= 3:
        return None
    value = 0.0
    for part, unit in zip(parts, (1, 60, 3600), strict=False):
        if part is None:
            return None
        value += part / unit
    if (_text(tags, f"{name}Ref") or "").upper().startswith(negative):
        value = -value
    return round(value, 8) if abs(value) <= limit else None


_MAX_READS, _MAX_READ_BYTES, _MAX_TOTAL_BYTES = 200_000, 1 << 20, 16 << 20
_MAX_RAW_BYTES, _MAX_TEXT, _MAX_BLOB, _MAX_LIST = 256 * 1024, 4096, 64, 256
_PREFIX = b"Exif\0\0"
_BIG_TIFF = (b"II+\0", b"MM\0+")
_DAMAGED = "its EXIF is damaged; what could be read of it was kept"


class _TooMuchError(Exception):
    """Raised when a parser reads more than any honest EXIF holds."""


class _Bounded:
    """A file that can be read from so often and so much, and then no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads, self._bytes = _MAX_READS, _MAX_TOTAL_BYTES
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _MAX_READ_BYTES) if size >= 0 else _MAX_READ_BYTES)
        self._reads -= 1
        self._bytes -= len(data)
        if self._reads < 0 or self._bytes < 0:
            raise _TooMuchError
        return data


def read_block(block: bytes | None) -> tuple[Exif, str | None]:
    """Return the EXIF in a block as image files carry it, and a warning for people where it is damaged."""
    return read_file(io.BytesIO(block.removeprefix(_PREFIX))) if block else (Exif(), None)


def read_file(file: BinaryIO) -> tuple[Exif, str | None]:
    """Return the EXIF of a TIFF or of a RAW file based on it, and a warning where it is damaged."""
    file.seek(0)
    if file.read(4) in _BIG_TIFF:  # neither parser reads it, and ExifRead takes it for classic TIFF
        return Exif(), None
    warning = None
    tags: Tags = {}
    raw: dict[str, Any] = {}
    # Both parsers leak nearly every kind of exception on hostile bytes, so nothing narrower will do.
    try:
        tags, raw = _by_exifread(file)
    except Exception:
        warning = _DAMAGED
    try:
        if not tags:
            tags, raw = _by_pillow(file)
    except Exception:
        warning = _DAMAGED
    found = replace(fields(tags), raw=_bounded(raw))
    if found.iso is None and (found.camera_make or "").startswith("Canon"):
        found = replace(found, iso=_canon_iso(file))
    return found, warning


def _canon_iso(file: BinaryIO) -> int | None:
    """Read the sensitivity from the maker note, where Canon's cameras kept it until 2005 or so.

    Base and auto ISO are in steps of 1/32 stop (exiftool's Canon::ShotInfo, and its Composite:ISO).
    """
    try:
        file.seek(0)
        found = exifread.process_file(
            cast("BinaryIO", _Bounded(file)), details=True, extract_thumbnail=False, builtin_types=False
        )
        camera = str(found.get("MakerNote ISO", ""))
        if camera.isdecimal():
            return _possible_iso(int(camera))
        base, auto = (float(str(found[f"MakerNote {name}"])) for name in ("BaseISO", "AutoISO"))
        return _possible_iso(round(2 ** (base / 32) * 100 / 32 * 2 ** (auto / 32))) if base > 0 else None
    except Exception:  # as in read_file: any exception may come out
        return None


def _by_exifread(file: BinaryIO) -> tuple[Tags, dict[str, Any]]:
    found = exifread.process_file(
        cast("BinaryIO", _Bounded(file)), details=False, extract_thumbnail=False, builtin_types=False
    )
    tags: Tags = {}
    raw: dict[str, Any] = {}
    for name, tag in found.items():
        values = tag.values
        if tag.field_type in RATIO_FIELD_TYPES:
            values = [_ratio(value) for value in values]
        tags[name] = values if isinstance(values, str | bytes | list) else [values]
        raw[name] = _native(name, tag)
    return tags, raw


def _ratio(value: Fraction) -> float | None:
    # ExifRead's own conversion turns x/0, which cameras write for "unknown", into x.
    return value.numerator / value.denominator if value.denominator else None


def _native(name: str, tag: IfdTag) -> object:
    if tag.field_type in RATIO_FIELD_TYPES and not tag.prefer_printable:
        values = [_ratio(value) for value in tag.values]
        return values[0] if len(values) == 1 else values
    try:
        value: object = convert_types({name: tag})[name]
    except Exception:  # one odd tag must not cost the others
        return None
    if isinstance(value, bytes) and tag.field_type == FieldType.ASCII:
        return decoded(value)
    return value


def _by_pillow(file: BinaryIO) -> tuple[Tags, dict[str, Any]]:
    file.seek(0)
    exif = Image.Exif()
    exif.load_from_fp(cast("BinaryIO", _Bounded(file)))
    tags: Tags = {}
    for group, names, found in (
        ("Image", ExifTags.TAGS, exif),
        ("EXIF", ExifTags.TAGS, exif.get_ifd(ExifTags.IFD.Exif)),
        ("GPS", ExifTags.GPSTAGS, exif.get_ifd(ExifTags.IFD.GPSInfo)),
    ):
        for number, value in dict(found).items():
            values = list(value) if isinstance(value, tuple) else value
            if not isinstance(values, str | bytes | list):
                values = [values]
            if isinstance(values, list):
                values = [_plain_number(item) for item in values]
            tags[f"{group} {names.get(number, f'Tag 0x{number:04X}')}"] = values
    return tags, {name: values[0] if len(values) == 1 else values for name, values in tags.items() if values}


def _plain_number(value: object) -> float | None:
    try:
        number = float(str(value)) if isinstance(value, str | bytes) else float(cast("float", value))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return int(number) if number.is_integer() else number


def _bounded(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the tags as values that JSON knows, long ones cut, up to a total that a row can bear."""
    kept: dict[str, Any] = {}
    room = _MAX_RAW_BYTES
    for name, value in raw.items():
        clean = _clean(value)
        room -= len(json.dumps({name: clean}))
        if room < 0:
            break
        kept[name] = clean
    return kept


def _clean(value: object) -> object:
    if isinstance(value, str):
        text = value.replace("\0", "")
        return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    if isinstance(value, bytes):
        return value[:_MAX_BLOB].hex() + ("…" if len(value) > _MAX_BLOB else "")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value[:_MAX_LIST]] + (["…"] if len(value) > _MAX_LIST else [])
    return value if value is None or isinstance(value, int | bool) else str(value)[:_MAX_TEXT]
