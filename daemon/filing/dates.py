"""Decides when a photo was taken: from EXIF, else Google Takeout, else its name, else the file's modification time.

The date is local time as the photographer's clock showed it, without an offset: that is the day under which
people look for a photo. Where it came from ("exif", "takeout", "name", "mtime") is kept beside it.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Origin = Literal["exif", "takeout", "name", "mtime"]
# What Google Takeout knows better.
LESS_THAN_TAKEOUT: frozenset[Origin] = frozenset({"name", "mtime"})

# No camera made files before this, and a clock that runs ahead is wrong by more than a day.
_EARLIEST = datetime(1990, 1, 1)  # noqa: DTZ001
_AHEAD = timedelta(days=2)
_FIRST_PHOTO = datetime(1826, 1, 1)  # noqa: DTZ001

_DAY = r"(?P<Y>(?:19|20)\d\d)(?P<s>[-_.]?)(?P<m>0[1-9]|1[0-2])(?P=s)(?P<d>0[1-9]|[12]\d|3[01])"
_CLOCK = r"(?P<H>[01]?\d|2[0-3])(?P<t>[-_.: ]?)(?P<M>[0-5]\d)(?P=t)(?P<S>[0-5]\d)(?:\s?(?P<half>[AP])M\b)?"
# IMG_20240501_123456, PXL_20240501_123456789, Screenshot_2024-05-01-12-34-56, Screenshot 2024-05-01 at 12.34.56,
# WhatsApp Image 2024-05-01 at 12.34.56, IMG-20240501-WA0001, signal-2024-05-01-123456, 2024-05-01 12.34.56,
# 20240501123456, photo_2024-05-01_12-34-56 (Telegram), Screenshot 2024-05-01 at 1.34.56 PM (macOS).
_IN_NAME = re.compile(rf"(?<!\d){_DAY}(?:(?:[-_ T.]?| at |, |_at_){_CLOCK})?(?!\d{{1,2}}(?!\d))", re.IGNORECASE)


class Taken(NamedTuple):
    """When a photo was taken, local time without offset, and where that is from."""

    at: datetime
    origin: Origin


def taken(
    datetime_original: str | None, name: str, mtime: float, now: float, *, takeout_utc: datetime | None = None
) -> Taken:
    """Decide when a photo was taken.

    `datetime_original` is ISO 8601, `mtime` and `now` are seconds since 1970, `takeout_utc` has its offset. Never
    raises.
    """
    if datetime_original is not None:
        at = datetime.fromisoformat(datetime_original).replace(tzinfo=None)
        # A camera that lost its clock says 1970 or 2000-01-01; the first is no date, the second may be true.
        if at >= datetime(1971, 1, 1):  # noqa: DTZ001
            return Taken(at, "exif")
    if takeout_utc is not None and _FIRST_PHOTO <= (at := _local(takeout_utc.timestamp())) <= _local(now) + _AHEAD:
        return Taken(at, "takeout")
    from_name = date_in(name, now)
    if from_name is not None:
        return Taken(from_name, "name")
    return Taken(_local(mtime), "mtime")


def date_in(name: str, now: float) -> datetime | None:
    """Return the date, and the time where there is one, in a file's name."""
    latest = _local(now) + _AHEAD
    for match in _IN_NAME.finditer(name):
        year, month, day = int(match["Y"]), int(match["m"]), int(match["d"])
        hour, minute, second = (int(match[key] or 0) for key in "HMS")
        if match["half"] and hour <= 12:
            hour = hour % 12 + (12 if match["half"] in "pP" else 0)
        try:
            found = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
        except ValueError:  # the 31st of February
            continue
        if _EARLIEST <= found <= latest:
            return found
    return None


def _local(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().replace(tzinfo=None)
    except (OverflowError, OSError, ValueError):  # a damaged filesystem can hand out any number
        return datetime(1970, 1, 1)  # noqa: DTZ001
