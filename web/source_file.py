"""What a client says of the file that it sends: its name, the folder that it lay in, and its own time."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from daemon.files import names
from daemon.files.walk import is_junk
from web.context import ApiError

FIELDS = ("folder", "mtime")
# A folder is refused when it is longer than names.py has it: this is what is looked at at all.
MAX_VALUE = 4096
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
# In a query a plus that was not encoded has become a space.
_LOST_PLUS = re.compile(r" (?=[0-9]{2}:?[0-9]{2}$)")
# What is more are milliseconds, as in a browser's File.lastModified: in seconds it would be the year 5138.
_MOST_SECONDS = 100_000_000_000
# Niépce's first photograph that is left, and a clock that can't be meant.
_EARLIEST, _LATEST = datetime(1826, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class SourceFile:
    """A file where it came from; `folder` is relative and made of legal names, "" where none was said.

    `mtime_ns` is in nanoseconds since 1970, None where nothing was said.
    """

    name: str
    folder: str = ""
    mtime_ns: int | None = None

    @classmethod
    def of(cls, name: str, fields: Mapping[str, str], ignore: Sequence[str]) -> "SourceFile":
        """Return what the fields `folder` and `mtime` say of a file. Raises ApiError 400."""
        folder, mtime = fields.get("folder", ""), fields.get("mtime", "").strip()
        return cls(name, folder_of(folder, ignore), mtime_ns_of(mtime) if mtime else None)


def folder_of(text: str, ignore: Sequence[str]) -> str:
    """Return a folder in which the inbox overlooks nothing. Raises ApiError 400."""
    try:
        parts = names.folder(text).split("/")
    except ValueError as error:
        raise ApiError(400, f"folder {text[:50]!a} can't be taken: {error}", "bad_folder") from None
    seen = [_seen(part, ignore) for part in parts]
    if None in seen:
        raise ApiError(400, f"folder {text[:50]!a} is one that the inbox ignores ([inbox] ignore)", "bad_folder")
    return "/".join(filter(None, seen))


def _seen(part: str, ignore: Sequence[str]) -> str | None:
    """Return a name that no pattern of the inbox matches; what is sent on purpose is no junk."""
    return next((name for name in (part, f"{part}_", f"_{part}_") if not is_junk(name, ignore)), None)


def mtime_ns_of(text: str) -> int:
    """Return a file's time in nanoseconds since 1970; a number, or ISO 8601 with an offset. Raises ApiError 400."""
    if _NUMBER.fullmatch(text):
        seconds = Decimal(text)
        nanoseconds = int(seconds * 1_000_000 if abs(seconds) > _MOST_SECONDS else seconds * 1_000_000_000)
    else:
        try:
            at = datetime.fromisoformat(_LOST_PLUS.sub("+", text))
        except ValueError:
            raise _bad_mtime(text) from None
        if at.tzinfo is None:
            raise _bad_mtime(text)
        since = at - datetime.fromtimestamp(0, UTC)
        nanoseconds = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
    if not _EARLIEST.timestamp() <= nanoseconds / 1e9 < _LATEST.timestamp():
        message = f"mtime {text[:50]!a} is before {_EARLIEST.year} or after {_LATEST.year - 1}; leave it out if unknown"
        raise ApiError(400, message, "bad_mtime")
    return nanoseconds


def _bad_mtime(text: str) -> ApiError:
    forms = "seconds or milliseconds since 1970, or ISO 8601 with an offset (2024-05-01T12:34:56+02:00)"
    return ApiError(400, f"mtime {text[:50]!a} is none of these: {forms}", "bad_mtime")
