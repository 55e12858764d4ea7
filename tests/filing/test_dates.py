import calendar
from datetime import datetime

import pytest

from daemon.filing.dates import date_in, taken

NOW = calendar.timegm((2026, 11, 23, 12, 0, 0))
AT = "2024-05-01 12:34:56"
DAY = "2024-05-01 00:00:00"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG_20240501_123456.jpg", AT),
        ("IMG_20240501_123456_1.jpg", AT),
        ("IMG20240501123456.jpg", AT),
        ("PXL_20240501_123456789.MP.jpg", AT),
        ("WhatsApp Image 2024-05-01 at 12.34.56 (1).jpeg", AT),
        ("IMG-20240501-WA0001.jpg", DAY),
        ("Screenshot_20240501-123456.png", AT),
        ("Screenshot_2024-05-01-12-34-56-123_com.app.png", AT),
        ("Screenshot from 2024-05-01 12-34-56.png", AT),
        ("Screenshot 2024-05-01 at 12.34.56\u202fPM.png", AT),
        ("Screenshot 2024-05-01 at 1.34.56 PM.png", "2024-05-01 13:34:56"),
        ("Screenshot 2024-05-01 at 12.34.56 AM.png", "2024-05-01 00:34:56"),
        ("signal-2024-05-01-123456.jpg", AT),
        ("photo_2024-05-01_12-34-56.jpg", AT),
        ("Scan 2024.05.01.tif", DAY),
        ("1714567890123.jpg", None),
        ("DSC01234.jpg", None),
        ("20241301_000000.jpg", None),
        ("20240230_000000.jpg", None),
        ("IMG_20990501_123456.jpg", None),
        ("1920x1080.png", None),
        ("", None),
    ],
)
def test_dates_in_names(name: str, expected: str | None) -> None:
    assert date_in(name, NOW) == (None if expected is None else datetime.fromisoformat(expected))


def test_exif_goes_before_the_name_and_the_name_before_the_mtime() -> None:
    name = "IMG_20240501_123456.jpg"
    assert taken("2020-02-02T20:20:20+09:00", name, 0, NOW) == (datetime(2020, 2, 2, 20, 20, 20), "exif")  # noqa: DTZ001
    assert taken(None, name, 0, NOW).origin == "name"
    assert taken("1970-01-01T00:00:00", name, 0, NOW).origin == "name"
    assert taken(None, "a.jpg", NOW, NOW).origin == "mtime"


@pytest.mark.parametrize("mtime", [float("inf"), float("nan"), 1e20, -1e20])
def test_a_damaged_mtime_is_survived(mtime: float) -> None:
    assert taken(None, "a.jpg", mtime, NOW).at.year == 1970
