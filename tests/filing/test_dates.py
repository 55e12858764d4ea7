import calendar
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from daemon.decoding import DateTexts, Takeout, XmpDates
from daemon.filing.dates import SOURCES, Evidence, Origin, Taken, dates_in, parsed, taken, words
from daemon.filing.destination import order
from daemon.filing.zones import ZoneFinder

NOW = calendar.timegm((2026, 11, 23, 12, 0, 0))
AT = "2024-05-01 12:34:56"
EVENING = "2024-05-01 20:34:56"
DAY = "2024-05-01 00:00:00"
BERLIN, TOKYO = (52.5, 13.4), (35.68, 139.69)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def google(text: str | None, place: tuple[float | None, float | None] = (None, None)) -> Callable[[], Takeout | None]:
    """What reads the JSON of Google Takeout that says a time in UTC, and perhaps a place."""
    return lambda: None if text is None else Takeout(taken_utc=utc(text), lat=place[0], lon=place[1])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this machine be in New York."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- names

NAMES = {
    # phones and cameras
    "IMG_20240501_123456.jpg": AT,
    "IMG_20240501_123456_1.jpg": AT,
    "IMG20240501123456.jpg": AT,
    "20240501_123456(0).jpg": AT,
    "20240501_123456~2.jpg": AT,
    "PXL_20240501_123456789.MP.jpg": AT,
    "PXL_20240501_203456789.jpg": EVENING,
    "PXL_20240501_193456789.PORTRAIT.jpg": "2024-05-01 19:34:56",
    "IMG_20240501_203456789_HDR.jpg": EVENING,
    "MVIMG_20240501_203456.jpg": EVENING,
    "00001IMG_00001_BURST20240501203456_COVER.jpg": EVENING,
    "BURST20240501203456789.jpg": EVENING,
    "WP_20240501_12_34_56_Pro.jpg": AT,
    "WP_20240501_001.jpg": DAY,
    "DJI_20240501123456_0001_D.JPG": AT,
    "IMG_20240501_123456_00_001.insp": AT,
    "DSC_20240501.jpg": DAY,
    # scanners
    "img20240501_12345678.jpg": AT,
    "202405011234.jpg": "2024-05-01 12:34:00",
    "Scan 2024.05.01.tif": DAY,
    "Scan_20240501 (2).tif": DAY,
    # chat programs
    "IMG-20240501-WA0001.jpg": DAY,
    "WhatsApp Image 2024-05-01 at 12.34.56 (1).jpeg": AT,
    "WhatsApp Bild 2024-05-01 um 12.34.56.jpeg": AT,
    "signal-2024-05-01-123456_002.jpeg": AT,
    "signal-2024-05-01-12-34-56-123.jpg": AT,
    "photo_2024-05-01_12-34-56.jpg": AT,
    "photo_7@01-05-2024_12-34-56.jpg": AT,
    "KakaoTalk_20240501_203456789.jpg": EVENING,
    "KakaoTalk_Photo_2024-05-01-20-34-56 001.jpeg": EVENING,
    "LINE_ALBUM_20240501_240501_1.jpg": DAY,
    # screenshots
    "Screenshot_20240501-123456.png": AT,
    "Screenshot_20240501-203456_Chrome.jpg": EVENING,
    "Screenshot_2024-05-01-12-34-56-123_com.app.png": AT,
    "Screenshot from 2024-05-01 12-34-56.png": AT,
    "Screenshot 2024-05-01 123456.png": AT,
    "Screenshot 2024-05-01 at 12.34.56\u202fPM.png": AT,
    "Screenshot 2024-05-01 at 1.34.56 PM.png": "2024-05-01 13:34:56",
    "Screenshot 2024-05-01 at 12.34.56 AM.png": "2024-05-01 00:34:56",
    "Screenshot_2024-03-20_at_15.47.20.jpeg": "2024-03-20 15:47:20",
    "Bildschirmfoto 2024-05-01 um 12.34.56.png": AT,
    "Capture d\u2019écran 2024-05-01 à 12.34.56.png": AT,
    "Capture d\u2019écran 2024-05-01 a\u0300 12.34.56.png": AT,
    "Captura de pantalla 2024-05-01 a las 8.34.56 p. m..png": EVENING,
    "Captura de Tela 2024-05-01 às 12.34.56.png": AT,
    "Skærmbillede 2024-05-01 kl. 12.34.56.png": AT,
    "Schermafbeelding 2024-05-01 om 12.34.56.png": AT,
    "Schermata 2024-05-01 alle 12.34.56.png": AT,
    "Schermata 2024-05-01 alle ore 12.34.56.png": AT,
    "Zrzut ekranu 2024-05-1 o 12.34.56.png": AT,
    "Снимок экрана 2024-05-01 в 12.34.56.png": AT,
    "截屏2024-05-01 下午8.34.56.png": EVENING,
    "스크린샷 2024-05-01 오전 8.34.56.png": "2024-05-01 08:34:56",
    "スクリーンショット 2024-05-01 20.34.56.png": EVENING,
    "Desktop Screenshot 2024.05.01 - 12.34.56.78.png": AT,
    "VRChat_2024-05-01_12-34-56.551_2560x1440.png": AT,
    "2024050112345600-02CB906EA538A35643C1E1484C4B947D.jpg": AT,
    # people
    "2024-05-01 12.34.56-1.jpg": AT,
    "2024-05-01_0012.jpg": DAY,
    "1985-07-14 wedding.jpg": "1985-07-14 00:00:00",
    "19850714_001.jpg": "1985-07-14 00:00:00",
    "1890-01-01 grandma.jpg": "1890-01-01 00:00:00",
    "18950312 grandma.jpg": "1895-03-12 00:00:00",
    "01.05.2024.jpg": DAY,
    "Foto 1.5.2024 12.34.jpg": "2024-05-01 12:34:00",
    "2024-5-1.jpg": DAY,
    "2024_05_01.jpg": DAY,
    "2024年5月1日 12時34分.jpg": "2024-05-01 12:34:00",
}
NO_DATES = [
    "1714567890123.jpg",
    "received_2012051312345678.jpeg",
    "2012051312345.jpg",
    "1234_20120513123.jpg",
    "20120513_10155302123456789_1234567890123456789_n.jpg",
    "IMG_18250704.jpg",
    "20120513-1234-4abc-8def-0123456789ab.jpg",
    "d41d8cd98f00b20120513e9800998ecf.jpg",
    "IMG_20990501_123456.jpg",
    "1920x1080.png",
    "wall_2012x1215.jpg",
    "Scan 2024-02-30.jpg",
    "holiday 01-05-2024.jpg",
    "IMG_0012.jpg",
    "",
]


def by_name(name: str) -> datetime | None:
    found = taken(Evidence(name, 0), NOW)
    return found.at if found.origin is Origin.NAME else None


@pytest.mark.parametrize("name", NAMES)
def test_dates_in_names(name: str) -> None:
    assert by_name(name) == at(NAMES[name])


@pytest.mark.parametrize("name", NO_DATES)
def test_ids_sizes_and_riddles_are_no_dates(name: str) -> None:
    assert by_name(name) is None


def test_a_hostile_name_is_read_in_no_time() -> None:
    began = time.thread_time()
    for piece in ("2024-05-01 ", "1", "a ", "2024_", "_" * 9, "0a", "x1", "2024-05-01 aa. "):
        list(dates_in((piece * 300)[:255]))
    assert time.thread_time() - began < 1


# -- texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2012:05:06 10:30:45", "2012-05-06 10:30:45"),
        ("2012-05-06T10:30:45.123", "2012-05-06 10:30:45"),
        ("2012/05/06 10:30:45", "2012-05-06 10:30:45"),
        ("2012.05.06 10.30.45", "2012-05-06 10:30:45"),
        ("2012: 5: 6  9: 3: 7", "2012-05-06 09:03:07"),
        ("2012:5:6 9:3:7", "2012-05-06 09:03:07"),
        ("2012:05:06 10:30", "2012-05-06 10:30:00"),
        ("2012:05:06", "2012-05-06 00:00:00"),
        ("2012:05:06   :  :", "2012-05-06 00:00:00"),
        ("2012:05:06 99:99:99", "2012-05-06 00:00:00"),
        ("2012:05:06 24:15:17", "2012-05-06 00:15:17"),
        ("2012:05:06 10:30:60", "2012-05-06 10:30:59"),
        ("2012/05/06 1:30:45 PM", "2012-05-06 13:30:45"),
        ("2012:05:06 12:30:45 a.m.", "2012-05-06 00:30:45"),
        ("2012:05:06 下午 1:30:45", "2012-05-06 13:30:45"),
        ("20120506 103045+0200", "2012-05-06 10:30:45"),
        ("20120506103045", "2012-05-06 10:30:45"),
        ("20120506 1030", "2012-05-06 10:30:00"),
        ("19550000", "1955-01-01 00:00:00"),
        ("1955:08:00 00:00:00", "1955-08-01 00:00:00"),
        ("1955-08", "1955-08-01 00:00:00"),
        ("1955:  :     :  :", "1955-01-01 00:00:00"),
        ("06.05.2012 10:30:45", "2012-05-06 10:30:45"),
        ("25/05/2012", "2012-05-25 00:00:00"),
        ("5/25/2012 1:30 PM", "2012-05-25 13:30:00"),
        ("05/06/2012", None),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :", None),
        ("2012:02:30 10:30:45", None),
        ("2012:123:45", None),
        ("20120506103", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_as_much_of_a_text_as_can_be_read_counts(text: str | None, expected: str | None) -> None:
    found = parsed(text)
    assert (found and found.at) == (None if expected is None else at(expected))


@pytest.mark.parametrize(
    ("text", "offset", "hours"),
    [
        ("2012:05:06 10:30:45", "+02:00", 2.0),
        ("2012:05:06 10:30:45", "-0330", -3.5),
        ("2012-05-06T10:30:45+05:45", None, 5.75),
        ("2012-05-06T10:30:45Z", "+02:00", 0.0),
        ("2012:05:06 10:30:45", "+99:99", None),
        ("2012:05:06 10:30:45", "   :  ", None),
        ("2012:05:06", "+02:00", None),
    ],
)
def test_an_offset_beside_a_time(text: str, offset: str | None, hours: float | None) -> None:
    found = parsed(text, offset)
    assert found is not None
    assert found.offset == (None if hours is None else timedelta(hours=hours))


# -- the order


def test_each_source_goes_before_those_behind_it() -> None:
    """Take away one source after the other: what is left decides."""
    full: dict[Origin, dict[str, Any]] = {
        Origin.EXIF: {"original": "2001:01:01 01:01:01"},
        Origin.EXIF_CREATED: {"created": "2002:01:01 01:01:01"},
        Origin.GPS_HERE: {"gps": "2003:01:01 11:01:01"},
        Origin.XMP_BESIDE: {},
        Origin.XMP: {"xmp": XmpDates(created="2005-01-01T01:01:01")},
        Origin.IPTC: {"iptc": "20060101 010101+0000"},
        Origin.TAKEOUT_HERE: {},
        Origin.NAME: {},
        Origin.EXIF_MODIFIED: {"modified": "2009:01:01 01:01:01"},
        Origin.MTIME: {},
    }
    origins = list(full)
    assert [source.here or source.origin for source in SOURCES] == origins[:-1]
    for number, origin in enumerate(origins):
        left = set(origins[number:])
        texts = DateTexts(**{key: value for one in left for key, value in full[one].items()})
        evidence = Evidence(
            "2008-01-01.jpg" if Origin.NAME in left else "a.jpg",
            calendar.timegm((2010, 1, 1, 12, 0, 0)),
            texts,
            beside=lambda left=left: XmpDates(photoshop="2004-01-01") if Origin.XMP_BESIDE in left else None,  # type: ignore[misc]
            takeout=google("2007-01-01 12:00" if Origin.TAKEOUT_HERE in left else None),
        )
        found = taken(evidence, NOW)
        assert (found.origin, found.at.year) == (origin, 2001 + number)


def test_the_xmp_beside_is_read_only_where_it_decides() -> None:
    def fail() -> XmpDates:
        raise AssertionError

    assert taken(Evidence("a.jpg", 0, DateTexts(original="2001:01:01"), beside=fail), NOW).origin is Origin.EXIF


def test_within_xmp_the_original_goes_first() -> None:
    def year(*dates: str) -> int:
        return taken(Evidence("a.jpg", 0, DateTexts(xmp=XmpDates(*dates))), NOW).at.year

    assert year("2001-01-01", "2002-01-01", "2003-01-01") == 2001
    assert year("1970-01-01", "2002-01-01", "2003-01-01") == 2002
    assert year("", "", "2003") == 2003


@pytest.mark.parametrize(
    "text",
    [
        "1970:01:01 00:00:00",
        "1970:01:01 09:00:01",
        "1969:12:31 19:00:00",
        "1904:01:01 00:00:00",
        "1903:12:31 16:00:00",
        "0000:00:00 00:00:00",
        "1825:12:31 23:59:59",
        "2026:11:25 00:00:00",
        "2098:01:01 00:00:00",
    ],
)
def test_a_lost_or_impossible_clock_is_no_date(text: str) -> None:
    evidence = Evidence("IMG_20240501_123456.jpg", 0, DateTexts(original=text))
    assert taken(evidence, NOW).origin is Origin.NAME


@pytest.mark.parametrize(
    "text", ["1826:01:01 00:00:00", "1955:08:14 12:00:00", "1969:12:31 23:14:00", "2026:11:24 23:59:59"]
)
def test_what_is_within_the_bounds_counts(text: str) -> None:
    assert taken(Evidence("a.jpg", 0, DateTexts(original=text)), NOW).origin is Origin.EXIF


def test_a_receiver_without_a_fix_says_the_beginning_of_its_own_time() -> None:
    assert taken(Evidence("a.jpg", 0, DateTexts(gps="1980:01:06 00:00:12")), NOW).origin is Origin.MTIME


def test_a_takeout_of_zero_is_no_date() -> None:
    assert taken(Evidence("a.jpg", 0, takeout=google("1970-01-01 00:00")), NOW).origin is Origin.MTIME


@pytest.mark.parametrize("mtime", [float("inf"), float("nan"), 1e20, -1e20])
def test_a_damaged_mtime_is_survived(mtime: float) -> None:
    assert taken(Evidence("a.jpg", mtime), NOW).at.year == 1970


def test_people_are_told_in_words() -> None:
    assert words("exif") == "EXIF DateTimeOriginal"
    assert words("gps, this machine's zone") == "GPS date and time, in this machine's zone"
    assert words("what somebody wrote") == "what somebody wrote"
    assert len({words(origin) for origin in Origin}) == len(Origin)


# -- zones: on which local day, and at which instant


@pytest.fixture(scope="module")
def zones() -> Iterator[ZoneFinder]:
    finder = ZoneFinder()
    yield finder
    finder.close()


@dataclass(frozen=True)
class Case:
    """What a photo says, UTC unless local is meant, and what is right: local time, source, UTC, zone."""

    local: str
    origin: Origin
    instant: str | None = None
    zone: str | None = None
    original: str | None = None
    offset: str | None = None
    gps: str | None = None
    iptc: str | None = None
    place: tuple[float, float] | None = None
    takeout: str | None = None


EXIF, GPS, BY_TOKYO, BY_BERLIN = Origin.EXIF, Origin.GPS, "Asia/Tokyo", "Europe/Berlin"
ZONES = {
    "a phone abroad": Case(
        *("2024-05-01 23:30", EXIF, "2024-05-01 14:30", BY_TOKYO),
        *("2024:05:01 23:30:00", "+09:00", "2024:05:01 14:30:00"),
        place=TOKYO,
    ),
    "an offset and no place": Case(
        *("2024-05-01 23:30", EXIF, "2024-05-01 14:30", "+09:00"), *("2024:05:01 23:30:00", "+09:00")
    ),
    "a place and no offset": Case(
        *("2024-05-01 23:30", EXIF, "2024-05-01 14:30", BY_TOKYO), "2024:05:01 23:30:00", place=TOKYO
    ),
    "neither": Case("2024-05-01 23:30", EXIF, original="2024:05:01 23:30:00"),
    "a camera in another zone, which GPS tells": Case(
        *("2024-05-01 16:30", EXIF, "2024-05-01 14:30", "+02:00"),
        *("2024:05:01 16:30:00", None, "2024:05:01 14:30:00"),
        place=TOKYO,
    ),
    "a camera in another zone, which its offset tells": Case(
        *("2024-05-01 16:30", EXIF, "2024-05-01 14:30", "+02:00"), *("2024:05:01 16:30:00", "+02:00"), place=TOKYO
    ),
    "before the clocks go forward": Case(
        *("2024-03-31 01:30", GPS, "2024-03-31 00:30", BY_BERLIN), gps="2024:03:31 00:30:00", place=BERLIN
    ),
    "after the clocks went forward": Case(
        *("2024-03-31 03:30", GPS, "2024-03-31 01:30", BY_BERLIN), gps="2024:03:31 01:30:00", place=BERLIN
    ),
    "the hour that comes twice": Case(
        *("2024-10-27 02:30", EXIF, "2024-10-27 01:30", BY_BERLIN),
        *("2024:10:27 02:30:00", None, "2024:10:27 01:30:00"),
        place=BERLIN,
    ),
    "GPS at sea": Case(
        *("2024-04-30 23:00", GPS, "2024-05-01 01:00", "Etc/GMT+2"), gps="2024:05:01 01:00:00", place=(40.0, -30.0)
    ),
    "GPS without a place": Case(
        *("2024-04-30 22:00", Origin.GPS_HERE, "2024-05-01 02:00", "-04:00"), gps="2024:05:01 02:00:00"
    ),
    "Takeout only": Case(
        *("2024-12-31 18:30", Origin.TAKEOUT_HERE, "2024-12-31 23:30", "-05:00"), takeout="2024-12-31 23:30"
    ),
    "Takeout with a place": Case(
        *("2025-01-01 00:30", Origin.TAKEOUT, "2024-12-31 15:30", BY_TOKYO), takeout="2024-12-31 15:30", place=TOKYO
    ),
    "an old fix is no other zone": Case(
        *("2024-05-01 23:20", EXIF, "2024-05-01 14:20", BY_TOKYO),
        *("2024:05:01 23:20:00", None, "2024:05:01 13:58:00"),
        place=TOKYO,
    ),
    "a fix of days ago is none": Case(
        "2024-05-01 23:20", EXIF, original="2024:05:01 23:20:00", gps="2024:04:28 13:58:00"
    ),
    "GPS's day alone is a day": Case("2024-05-01", GPS, gps="2024:05:01", place=TOKYO),
    "IPTC's +0000 is nothing": Case("2024-05-01 23:30", Origin.IPTC, iptc="20240501 233000+0000"),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ZONES)
def test_zones(zones: ZoneFinder, name: str) -> None:
    case = ZONES[name]
    lat, lon = case.place or (None, None)
    texts = DateTexts(original=case.original, original_offset=case.offset, gps=case.gps, iptc=case.iptc)
    evidence = Evidence("a.jpg", 0, texts, lat, lon, takeout=google(case.takeout))
    instant = None if case.instant is None else utc(case.instant)
    assert taken(evidence, NOW, zones.name) == Taken(at(case.local), case.origin, instant, case.zone)


@pytest.mark.usefixtures("here")
def test_takeouts_own_place_tells_the_zone_of_its_time(zones: ZoneFinder) -> None:
    evidence = Evidence("a.jpg", 0, takeout=google("2024-05-01 20:00", TOKYO))
    found = taken(evidence, NOW, zones.name)
    assert found == Taken(at("2024-05-02 05:00"), Origin.TAKEOUT, utc("2024-05-01 20:00"), "Asia/Tokyo")


@pytest.mark.usefixtures("here")
def test_lists_sort_by_the_instant_or_else_by_local_time_here() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=ZoneInfo("America/New_York")).timestamp()
    assert order("2024-05-01T12:00:00", None) == noon
    assert order("2024-05-01T12:00:00", 5.0) == 5.0
    assert order("1826-01-01T12:00:00", None) is not None
    assert order("some day", None) is None
    assert order(None, None) is None


def test_the_offset_of_the_other_date_counts_where_both_are_one_moment() -> None:
    same = DateTexts(original="2024:05:01 10:00:00", created="2024:05:01 10:00:00", created_offset="+02:00")
    assert taken(Evidence("a.jpg", 0, same), NOW).utc == utc("2024-05-01 08:00")
    edited = DateTexts(original="2024:05:01 10:00:00", modified="2024:06:01 10:00:00", modified_offset="+02:00")
    assert taken(Evidence("a.jpg", 0, edited), NOW).utc is None


# -- the process that knows the zones


def test_the_zones_process_ends_when_nobody_asks_and_begins_again() -> None:
    finder = ZoneFinder()
    assert finder.name(*BERLIN) == "Europe/Berlin"
    process = finder._process
    assert process is not None
    finder.rest(1000.0)
    finder.rest(1050.0)
    assert process.poll() is None
    finder.rest(1061.0)
    assert process.poll() is not None
    assert finder.name(*BERLIN) == "Europe/Berlin"
    assert finder._process is None
    assert finder.name(*TOKYO) == "Asia/Tokyo"
    finder.close()


def test_a_zones_process_that_died_costs_no_photo(caplog: pytest.LogCaptureFixture) -> None:
    finder = ZoneFinder()
    assert finder.name(*BERLIN) == "Europe/Berlin"
    assert finder._process is not None
    os.kill(finder._process.pid, 9)
    finder._process.wait()
    assert finder.name(*TOKYO) is None
    assert "this machine's zone" in caplog.text
    assert finder.name(*TOKYO) == "Asia/Tokyo"
    finder.close()
