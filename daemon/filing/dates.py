"""Decides when a photo was taken: the first of an ordered list of sources that says a date which makes sense.

What counts is local time as the photographer's clock showed it: that is the day under which people look for a photo.
Where the instant is known too, by an offset beside the date, by GPS or by the zone of the place, it is kept beside it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from daemon.decoding import DateTexts, Takeout, XmpDates

# Niépce's first photograph that is left. What is later than tomorrow is a wrong clock.
_EARLIEST_YEAR = 1826
# What a clock says that has lost its time: the beginnings of Unix's and of the Macintosh's counting, and GPS's.
_LOST_DAYS = {(1970, 1, 1), (1904, 1, 1)}
_GPS_EPOCH = (1980, 1, 6)
_MOST_OFFSET = timedelta(hours=14)
_QUARTER = timedelta(minutes=15)


class Origin(StrEnum):
    """Where a date is from: the codes of `taken_from`. GPS and Takeout say UTC, which became local by either zone."""

    EXIF = "exif"
    EXIF_CREATED = "exif created"
    GPS = "gps"
    GPS_HERE = "gps, this machine's zone"
    XMP_BESIDE = "xmp beside"
    XMP = "xmp"
    IPTC = "iptc"
    TAKEOUT = "takeout"
    TAKEOUT_HERE = "takeout, this machine's zone"
    NAME = "name"
    EXIF_MODIFIED = "exif modified"
    MTIME = "mtime"


class Taken(NamedTuple):
    """When a photo was taken: local time without offset, where that is from, and the instant where it is known.

    `zone` is the name of the place's zone, or else the offset ("+02:00") by which local time became `utc`.
    """

    at: datetime
    origin: Origin
    utc: datetime | None = None
    zone: str | None = None


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Evidence:
    """All that may date one photo; `mtime` is the file's own time in seconds since 1970.

    `beside` reads the dates of an XMP file that came along, `takeout` what Google's JSON says; each is called only
    where nothing before it says a date.
    """

    name: str
    mtime: float
    texts: DateTexts = field(default_factory=DateTexts)
    lat: float | None = None
    lon: float | None = None
    beside: Callable[[], XmpDates | None] = _nothing
    takeout: Callable[[], Takeout | None] = _nothing


class _Written(NamedTuple):
    """A date as somebody wrote it: local time, with its offset where one stands there."""

    at: datetime
    offset: timedelta | None = None


class _Instant(NamedTuple):
    """A date that is known in UTC alone, aware, and the place where that is from if it isn't the photo's own."""

    utc: datetime
    place: tuple[float, float] | None = None


_Found = _Written | _Instant


@dataclass(frozen=True)
class Source:
    """One place where a date may stand: what the row says of it, what people are told, and how it is read.

    `here` is the code where a date in UTC became local by this machine's zone.
    """

    origin: Origin
    words: str
    find: Callable[[Evidence, datetime], Iterator[_Found | None]]
    here: Origin | None = None


def _exif(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    texts = evidence.texts
    # OffsetTimeDigitized holds where both were written in one moment, OffsetTime where nobody has edited since.
    offset = texts.original_offset
    if offset is None and texts.created == texts.original:
        offset = texts.created_offset
    if offset is None and texts.modified == texts.original:
        offset = texts.modified_offset
    yield parsed(texts.original, offset)


def _exif_created(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    yield parsed(evidence.texts.created, evidence.texts.created_offset)


def _gps(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    # A date without a time is no instant, but a day.
    yield _gps_time(evidence.texts) or parsed(evidence.texts.gps)


def _xmp(dates: XmpDates | None) -> Iterator[_Found | None]:
    if dates is not None:
        for text in (dates.original, dates.photoshop, dates.created):
            yield parsed(text)


def _iptc(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    found = parsed(evidence.texts.iptc)
    # "+0000" is what programs write that know no offset.
    yield found and found._replace(offset=found.offset or None)


def _takeout(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    said = evidence.takeout()
    if said is not None and said.taken_utc is not None:
        place = None if said.lat is None or said.lon is None else (said.lat, said.lon)
        yield _Instant(said.taken_utc.astimezone(UTC), place)


def _name(evidence: Evidence, latest: datetime) -> Iterator[_Found | None]:
    yield from (_Written(at) for at in dates_in(evidence.name) if at <= latest)


def _modified(evidence: Evidence, _: datetime) -> Iterator[_Found | None]:
    yield parsed(evidence.texts.modified, evidence.texts.modified_offset)


SOURCES: tuple[Source, ...] = (
    Source(Origin.EXIF, "EXIF DateTimeOriginal", _exif),
    Source(Origin.EXIF_CREATED, "EXIF CreateDate", _exif_created),
    Source(Origin.GPS, "GPS date and time", _gps, Origin.GPS_HERE),
    Source(Origin.XMP_BESIDE, "the .xmp that came along", lambda evidence, _: _xmp(evidence.beside())),
    Source(Origin.XMP, "XMP inside the file", lambda evidence, _: _xmp(evidence.texts.xmp)),
    Source(Origin.IPTC, "IPTC DateCreated", _iptc),
    Source(Origin.TAKEOUT, "Google Takeout's photoTakenTime", _takeout, Origin.TAKEOUT_HERE),
    Source(Origin.NAME, "the name", _name),
    Source(Origin.EXIF_MODIFIED, "EXIF ModifyDate", _modified),
)
"""The sources in the order in which they are asked; the file's own time is what is left."""

_WORDS = {source.origin: source.words for source in SOURCES} | {
    **{source.here: f"{source.words}, in this machine's zone" for source in SOURCES if source.here is not None},
    Origin.MTIME: "the file's own time",
}


def words(origin: str) -> str:
    """Return what people are told of a code of `taken_from`; a code that isn't known as it is."""
    return _WORDS[Origin(origin)] if origin in set(Origin) else origin


def no_zone(_lat: float, _lon: float) -> str | None:
    """Return None: the zone of no place is known."""
    return None


def taken(evidence: Evidence, now: float, zone_at: Callable[[float, float], str | None] = no_zone) -> Taken:
    """Decide when a photo was taken; `now` is in seconds since 1970. Never raises.

    `zone_at` returns the name of the time zone at a latitude and a longitude, None where it isn't known.
    """
    tomorrow = _local(now).date() + timedelta(days=1)
    latest = datetime.combine(tomorrow, time.max)
    for source in SOURCES:
        for found in source.find(evidence, latest):
            if found is None or not _is_sensible(found, latest):
                continue
            place = None if evidence.lat is None or evidence.lon is None else (evidence.lat, evidence.lon)
            if isinstance(found, _Instant):
                return _localized(found, _zone(place or found.place, zone_at), source)
            return Taken(found.at, source.origin, *_instant(found, _zone(place, zone_at), _gps_time(evidence.texts)))
    return Taken(_local(evidence.mtime), Origin.MTIME)


# -- judging


def _is_sensible(found: _Found, latest: datetime) -> bool:
    at = found.at if isinstance(found, _Written) else found.utc.replace(tzinfo=None)
    if at.year < _EARLIEST_YEAR or at > latest:
        return False
    day = (at.year, at.month, at.day)
    # The same beginning, west of Greenwich: full hours of New Year's Eve, as no camera of that day could write them.
    eve = (at.month, at.day) == (12, 31) and at.year in {1969, 1903}
    if day in _LOST_DAYS or (eve and at.hour >= 12 and (at.minute, at.second) == (0, 0)):
        return False
    return not (isinstance(found, _Instant) and day == _GPS_EPOCH)


def _gps_time(texts: DateTexts) -> _Instant | None:
    """Return GPS's date and time as an instant; None where either is missing or makes no sense."""
    found = parsed(texts.gps) if ":" in _clock_of(texts.gps) else None
    return None if found is None else _Instant(found.at.replace(tzinfo=UTC))


def _clock_of(text: str | None) -> str:
    return (text or "").partition(" ")[2]


def _zone(place: tuple[float, float] | None, zone_at: Callable[[float, float], str | None]) -> ZoneInfo | None:
    if place is None:
        return None
    name = zone_at(*place)
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # newer than this system's zones
        return None


def _localized(found: _Instant, zone: ZoneInfo | None, source: Source) -> Taken:
    """Return a date in UTC as local time: by the place's zone, or else by this machine's, which the code then says."""
    if zone is not None:
        return Taken(found.utc.astimezone(zone).replace(tzinfo=None), source.origin, found.utc, zone.key)
    here = found.utc.astimezone()
    return Taken(here.replace(tzinfo=None), source.here or source.origin, found.utc, _offset_text(here.utcoffset()))


def _instant(written: _Written, zone: ZoneInfo | None, gps: _Instant | None) -> tuple[datetime | None, str | None]:
    """Return the instant of a date as written, and by what it is known: its offset, GPS's time, the place's zone."""
    offset, name = written.offset, None
    if offset is None and written.at.time() == time.min:
        return None, None  # a day without a time, which is no instant
    if offset is None and gps is not None:
        offset = _offset_by_gps(written.at, gps, zone)
    if zone is not None:
        # In the hour that a clock shows twice, both offsets are the zone's.
        both = [written.at.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
        offset = both[0] if offset is None else offset
        name = zone.key if offset in both else None
    if offset is None:
        return None, None
    try:
        return (written.at - offset).replace(tzinfo=UTC), name or _offset_text(offset)
    except OverflowError:
        return None, None


def _offset_by_gps(at: datetime, gps: _Instant, zone: ZoneInfo | None) -> timedelta | None:
    """Return the offset of a camera's clock, as the receiver beside it tells: the difference, in quarters of an hour.

    A clock may be minutes off, and the receiver's time that of its last fix: what the place's zone explains to half an
    hour is the zone. A clock that was left at home is off by an offset that some zone has, to a minute.
    """
    apart = at - gps.utc.replace(tzinfo=None)
    if abs(apart) > _MOST_OFFSET + _QUARTER:
        return None
    if zone is not None:
        both = [offset for fold in (0, 1) if (offset := at.replace(tzinfo=zone, fold=fold).utcoffset()) is not None]
        nearest = min(both, key=lambda offset: abs(apart - offset), default=None)
        if nearest is not None and abs(apart - nearest) <= 2 * _QUARTER:
            return nearest
    offset = round(apart / _QUARTER) * _QUARTER
    return offset if abs(apart - offset) <= timedelta(minutes=1) and abs(offset) <= _MOST_OFFSET else None


def _offset_text(offset: timedelta | None) -> str | None:
    if offset is None:
        return None
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _local(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().replace(tzinfo=None)
    except (OverflowError, OSError, ValueError):  # a damaged filesystem can hand out any number
        return datetime(1970, 1, 1)  # noqa: DTZ001


# -- dates as files hold them

_SEP = r"\s*[-:/. ]\s*"
# Year, month and day with something in between, or in one piece, the time behind it perhaps too; of what follows the
# year, or the month, there may be nothing.
_YEAR_FIRST = re.compile(
    rf"(?P<Y>\d{{4}})(?:{_SEP}(?P<m>\d{{1,2}})(?:{_SEP}(?P<d>\d{{1,2}})(?!\d)|(?=\D*$))"
    r"|(?P<M>\d\d)(?P<D>\d\d)(?:(?!\d)|(?=\d{6}(?!\d)))|(?=\D*$))"
)
# The day is first where dots stand between; with slashes it may be the month.
_DAY_FIRST = re.compile(r"(?P<d>\d{1,2})(?P<s>[./-])(?P<m>\d{1,2})(?P=s)(?P<Y>\d{4})(?!\d)")
# East Asia's phones write the half of the day in words before the hour, in EXIF as in names.
_EARLY = r"(?P<early>[上下]午|午[前後]|오[전후])"
_TIME = re.compile(
    rf"[\sT,]*{_EARLY}?\s*(?P<H>\d{{1,2}})"
    r"(?:\s*[:.\-]\s*(?P<M>\d{1,2})(?:\s*[:.\-]\s*(?P<S>\d{1,2})(?:[.,]\d+)?)?|(?P<MM>\d\d)(?P<SS>\d\d)?)"
    r"\s*(?P<half>[AaPp]\.?\s?[Mm]\.?)?\s*(?P<offset>Z|[+-]\d\d:?\d\d|[+-]\d\d?)?"
)


def parsed(text: str | None, offset: str | None = None) -> _Written | None:
    """Return the date in a text of EXIF, XMP or IPTC; None where there is none.

    As much as can be read counts: a date without a time is its midnight, an hour of 24 is that day's first (Java's
    "kk", as Android's cameras had it), a 60th second the 59th, a month or day of zero (IPTC's "unknown") the first.
    """
    text = (text or "").strip()
    match = _YEAR_FIRST.match(text)
    if match:
        year, month, day = match["Y"], match["m"] or match["M"] or 1, match["d"] or match["D"] or 1
    elif match := _DAY_FIRST.match(text):
        year, month, day = match["Y"], match["m"], match["d"]
        if match["s"] != "." and int(month) <= 12 and int(day) <= 12 and month != day:
            return None  # 5/6/2012 is in May or in June
        month, day = (day, month) if int(month) > 12 else (month, day)
    else:
        return None
    behind = _TIME.match(text, match.end())
    clock = None if behind is None else _clock(behind)
    try:
        at = datetime(int(year), int(month) or 1, int(day) or 1, *(clock or (0, 0, 0)))  # noqa: DTZ001
    except ValueError:
        return None
    if behind is None or clock is None:
        return _Written(at)
    return _Written(at, _offset(behind["offset"] or offset))


def _clock(match: re.Match[str]) -> tuple[int, int, int] | None:
    """Return hour, minute and second; None where they are none."""
    hour, minute, second = int(match["H"]), int(match["M"] or match["MM"] or 0), int(match["S"] or match["SS"] or 0)
    hour = _hour(hour, match["half"] or match["early"])
    if hour > 24 or minute > 59 or second > 60:
        return None
    return hour % 24, minute, min(second, 59)


def _hour(hour: int, half: str | None) -> int:
    """Return the hour of a day of 24, of one of a half of 12: AM, PM, and what is said for them in East Asia."""
    if not half or hour > 12:
        return hour
    return hour % 12 + (12 if half[0] in "pP下" or half[-1] in "後후" else 0)


def _offset(text: str | None) -> timedelta | None:
    match = re.fullmatch(r"(?:(Z)|([+-])(\d\d?):?(\d\d)?)", (text or "").strip())
    if match is None:
        return None
    if match[1]:
        return timedelta()
    minutes = int(match[4] or 0)
    offset = timedelta(hours=int(match[3]), minutes=minutes) * (-1 if match[2] == "-" else 1)
    return offset if abs(offset) <= _MOST_OFFSET and minutes < 60 else None


# -- dates in names

# What looks like a date and is none: UUIDs, hashes, sizes in pixels, Facebook's three numbers in a row.
_NO_DATES = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
    r"|(?<![0-9a-z])(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{20,}(?![0-9a-z])"
    r"|(?<!\d)\d{2,5} ?[x\u00d7] ?\d{2,5}(?!\d)"
    r"|(?<!\d)\d{6,}_\d{10,}_\d{6,}_[a-z](?![a-z])",
    re.IGNORECASE,
)
_M, _D, _Y = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])", r"(?:18[2-9]|19\d|20\d)\d"
_M1, _D1 = r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_H, _60 = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
# Groups of one meaning differ by the digit at their end. 2024-05-01, 2024_05_01, 2024.5.1, 2024年5月1日; 01.05.2024 has
# the day in front, as has Telegram's export, photo_7@01-05-2024_12-34-56.jpg.
_APART = (
    rf"(?:(?P<Y1>{_Y})(?P<s1>[-.])(?P<m1>{_M1})(?P=s1)(?P<d1>{_D1})"
    rf"|(?P<Y2>{_Y})(?P<s2>[_ ])(?P<m2>{_M})(?P=s2)(?P<d2>{_D})"
    rf"|(?P<Y3>{_Y})年\s?(?P<m3>{_M1})月\s?(?P<d3>{_D1})日"
    rf"|(?P<d4>{_D1})\.(?P<m4>{_M1})\.(?P<Y4>{_Y})"
    rf"|(?<=@)(?P<d5>{_D})-(?P<m5>{_M})-(?P<Y5>{_Y}))(?!\d)"
)
# "um", "à", "a las", "kl.", "alle", "às", "o", "в": one or two short words may stand before the time.
_BETWEEN = r"(?:[\s_,]*[-T.]?[\s_,]*|[\s_,]+(?:[^\W\d_]{1,5}\.?[\s_]+){1,2})"
_APART_TIME = (
    rf"{_EARLY}?\s?(?:(?P<H1>[01]?\d|2[0-3])"
    rf"(?:(?P<t1>[-_.: ])(?P<M1>{_60})(?P=t1)(?P<S1>{_60})|[.:h](?P<M2>{_60})(?![-_.:h]?\d)"
    r"|[時时点](?P<M3>[0-5]?\d)分(?:(?P<S3>[0-5]?\d)秒)?)"
    r"(?:\s?(?P<half>[AP])\.?\s?M\b)?"
    rf"|(?P<H2>{_H})(?P<M4>{_60})(?P<S4>{_60})(?!\d))"
)
# Digits in one piece: 8 of the day, 12 or 14 with the time, 17 with milliseconds. Any other number is an id, but for
# the 16 of a Nintendo Switch, which a hash follows ("#" by then). Behind a separator the time may have
# milliseconds (Pixel, Motorola) or hundredths (Epson's scanners).
_RUN = re.compile(
    rf"(?<!\d)(?P<Y>{_Y})(?P<m>{_M})(?P<d>{_D})"
    rf"(?:(?P<H1>{_H})(?P<M1>{_60})(?:(?P<S1>{_60})(?:\d{{3}}|\d\d(?=-#))?)?)?(?!\d)"
    rf"(?:[-_ T.](?P<H2>{_H})(?P<t>[-_.]?)(?P<M2>{_60})(?P=t)(?P<S2>{_60})(?:\d{{2,3}})?(?!\d))?"
)
_IN_PARTS = re.compile(rf"(?<!\d){_APART}(?:{_BETWEEN}{_APART_TIME})?", re.IGNORECASE)


def dates_in(name: str) -> Iterator[datetime]:
    """Yield the dates, with the times where there are some, in a file's name, those in front first."""
    # A Mac may hand over "à" as two characters.
    name = _NO_DATES.sub("#", unicodedata.normalize("NFC", name))
    matches = [*_IN_PARTS.finditer(name), *_RUN.finditer(name)]
    for match in sorted(matches, key=lambda match: match.start()):
        found = {key.rstrip("12345"): value for key, value in match.groupdict().items() if value is not None}
        hour = _hour(int(found.get("H", 0)), found.get("half") or found.get("early"))
        clock = hour, int(found.get("M", 0)), int(found.get("S", 0))
        try:
            at = datetime(int(found["Y"]), int(found["m"]), int(found["d"]), *clock)  # noqa: DTZ001
        except ValueError:  # the 31st of February
            continue
        if at.year >= _EARLIEST_YEAR:
            yield at
