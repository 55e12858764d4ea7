"""Reads the JSON of Google Takeout, which says of a photo what Google Photos knew."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.decoding import ILLEGAL, MAX_MARKS, MAX_TEXT_BYTES, Takeout

# More of its text than this is nobody's: a caption has at most 10,000 characters, and 200 keywords.
_MAX_TITLE, _MAX_DESCRIPTION, _MAX_PEOPLE, _MAX_NAME = 1000, 10_000, 200, 200


def read(data: bytes) -> Takeout:
    """Return what a JSON says: nothing where it is none of Takeout's, damaged, or too large. Never raises."""
    if len(data) > MAX_TEXT_BYTES or sum(data.count(mark) for mark in (b",", b"{", b"[")) > MAX_MARKS:
        return Takeout()
    try:
        found = json.loads(data)
    except (ValueError, LookupError, RecursionError):
        return Takeout()
    if not isinstance(found, dict):
        return Takeout()
    people = found.get("people")
    names = [_text(_in(one, "name"), _MAX_NAME) for one in people[:_MAX_PEOPLE]] if isinstance(people, list) else []
    # geoData is the place as its owner has set it, geoDataExif the one of the camera.
    place = _place(found.get("geoData")) or _place(found.get("geoDataExif")) or (None, None)
    return Takeout(
        title=_text(found.get("title"), _MAX_TITLE),
        description=_text(found.get("description"), _MAX_DESCRIPTION),
        people=tuple(dict.fromkeys(name for name in names if name)),
        taken_utc=_time(_in(found.get("photoTakenTime"), "timestamp")),
        lat=place[0],
        lon=place[1],
    )


def _in(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _text(value: object, most: int) -> str | None:
    """Return the beginning of a text without what neither a database nor XML can hold; None for nothing."""
    return (ILLEGAL.sub("", value).strip()[:most].strip() or None) if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    """Return a time out of its seconds since 1970, which stand in a text; 0 is how Takeout says that it has none."""
    try:
        seconds = int(value) if isinstance(value, str | int) and len(str(value)) < 20 else 0
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds) if seconds else None
    except (ValueError, OverflowError):
        return None


def _place(value: object) -> tuple[float, float] | None:
    lat, lon = _in(value, "latitude"), _in(value, "longitude")
    if not all(isinstance(one, float | int) for one in (lat, lon)) or not (abs(lat) <= 90 and abs(lon) <= 180):
        return None
    # That is how Takeout says that it has none.
    return None if lat == lon == 0 else (float(lat), float(lon))
