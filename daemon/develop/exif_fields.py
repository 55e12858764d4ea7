"""Turns EXIF tags into the fields that people search by, as exiftool understands them (EXIF 2.32)."""

import math
import re
from datetime import datetime
from typing import Any

Tags = dict[str, str | bytes | list[Any]]
"""Values by name; rationals are floats already, None where their denominator was 0."""

_DATE = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T]+(\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_UNKNOWN_ISO = 65535
"""What the 16-bit ISO tag holds where the sensitivity does not fit; the newer tags then have it."""


def fields(tags: Tags) -> dict[str, Any]:
    """Return the values of `Exif`, all but `raw`, from tags named as ExifRead names them."""
    lat, lon = _position(tags)
    orientation = _number(tags, "Image Orientation")
    return {
        "camera_make": _text(tags, "Image Make"),
        "camera_model": _text(tags, "Image Model"),
        "lens_model": _text(tags, "EXIF LensModel", "Image LensModel"),
        "datetime_original": _taken(tags),
        "iso": _iso(tags),
        "focal_length": _rounded(_positive(tags, "EXIF FocalLength", "Image FocalLength")),
        "exposure_time": _exposure(_positive(tags, "EXIF ExposureTime", "Image ExposureTime")),
        "f_number": _rounded(_positive(tags, "EXIF FNumber", "Image FNumber")),
        "orientation": int(orientation) if orientation is not None and orientation in range(1, 9) else None,
        "lat": lat,
        "lon": lon,
    }


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
        if value is not None and 0 < value != _UNKNOWN_ISO:
            return round(value)
    return None


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


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _position(tags: Tags) -> tuple[float | None, float | None]:
    if (_text(tags, "GPS GPSStatus") or "") == "V" and not any(_numbers(tags, "GPS GPSLatitude")):
        return None, None  # void, and zeros where the receiver had no fix
    lat = _degrees(tags, "GPS GPSLatitude", "S", 90)
    lon = _degrees(tags, "GPS GPSLongitude", "W", 180)
    return (lat, lon) if lat is not None and lon is not None else (None, None)


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
