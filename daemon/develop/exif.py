"""Reads EXIF by ExifRead, and by Pillow where ExifRead gives up; damaged EXIF never costs an image.

What a parser may read is bounded: an EXIF block of 26 bytes can make ExifRead loop for ten seconds, a TIFF of
50 MB for two minutes. Past the bound it fails like on any other damage.
"""

import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, BinaryIO, cast

import exifread
from exifread.core.ifd_tag import IfdTag
from exifread.serialize import convert_types
from exifread.tags.fields import RATIO_FIELD_TYPES, FieldType
from PIL import ExifTags, Image

from daemon.develop import Exif
from daemon.develop.exif_fields import Tags, decoded, fields

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
    found = Exif(**fields(tags), raw=_bounded(raw))
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
            return int(camera)
        base, auto = (float(str(found[f"MakerNote {name}"])) for name in ("BaseISO", "AutoISO"))
        return round(2 ** (base / 32) * 100 / 32 * 2 ** (auto / 32)) if base > 0 else None
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
                values = [_number(item) for item in values]
            tags[f"{group} {names.get(number, f'Tag 0x{number:04X}')}"] = values
    return tags, {name: values[0] if len(values) == 1 else values for name, values in tags.items() if values}


def _number(value: object) -> float | None:
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
