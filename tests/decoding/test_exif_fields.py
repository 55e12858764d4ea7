from typing import Any

import pytest

from daemon.decoding import Exif, exif
from daemon.decoding.exif import fields
from tests.decoding.images import exif_block

MAKE, MODEL, ORIENTATION = 0x10F, 0x110, 0x112
EXPOSURE, F_NUMBER, ISO, TAKEN, OFFSET, FOCAL, LENS = 0x829A, 0x829D, 0x8827, 0x9003, 0x9011, 0x920A, 0xA434


def read(tags: dict[int, tuple[str, Any]]) -> Exif:
    found, warning = exif.read_block(exif_block(tags))
    assert warning is None
    return found


@pytest.mark.parametrize(
    ("rational", "text"),
    [
        ((1, 250), "1/250"),
        ((10, 2500), "1/250"),
        ((1, 8000), "1/8000"),
        ((1, 4), "1/4"),
        ((3, 10), "0.3"),
        ((1, 2), "0.5"),
        ((2, 1), "2"),
        ((25, 10), "2.5"),
        ((30, 1), "30"),
        ((0, 1), None),
        ((1, 0), None),
        ((0, 0), None),
    ],
)
def test_exposure_times_are_written_as_photographers_do(rational: tuple[int, int], text: str | None) -> None:
    assert read({EXPOSURE: ("R", rational)}).exposure_time == text


@pytest.mark.parametrize(
    ("taken", "offset", "iso"),
    [
        (b"2024:02:29 23:59:59", None, "2024-02-29T23:59:59"),
        (b"2024:02:29 23:59:59", b"+05:45", "2024-02-29T23:59:59+05:45"),
        (b"2024:02:29 23:59:59", b"Z", "2024-02-29T23:59:59"),
        (b"2024:02:29 23:59:59", b"+99:99", "2024-02-29T23:59:59"),
        (b"2024-02-29T23:59:59", None, "2024-02-29T23:59:59"),
        (b"0000:00:00 00:00:00", b"+00:00", None),
        (b"2023:02:29 10:00:00", None, None),
        (b"    :  :     :  :  ", None, None),
        (b"yesterday", None, None),
        (b"", None, None),
    ],
)
def test_dates_are_iso_or_absent(taken: bytes, offset: bytes | None, iso: str | None) -> None:
    tags = {TAKEN: ("s", taken)} | ({OFFSET: ("s", offset)} if offset else {})
    assert read(tags).datetime_original == iso


@pytest.mark.parametrize(
    ("tags", "iso"),
    [
        ({ISO: ("H", (100,))}, 100),
        ({ISO: ("H", (65535,)), 0x8832: ("I", (102400,))}, 102400),
        ({ISO: ("H", (65535,)), 0x8831: ("I", (81920,))}, 81920),
        ({ISO: ("H", (65535,))}, None),
        ({ISO: ("H", (0,))}, None),
        ({ISO: ("H", (200, 0))}, 200),
    ],
)
def test_iso_is_a_number_that_was_meant(tags: dict[int, tuple[str, Any]], iso: int | None) -> None:
    assert fields_of_sub_directory(tags)["iso"] == iso


def fields_of_sub_directory(tags: dict[int, tuple[str, Any]]) -> dict[str, Any]:
    """Read tags as from an Exif directory, which tiff_bytes does not write."""
    found = read(tags).raw
    return vars(fields({name.replace("Image", "EXIF"): v if isinstance(v, list) else [v] for name, v in found.items()}))


@pytest.mark.parametrize(
    ("latitude", "ref", "degrees"),
    [
        ([48.0, 30.0, 36.0], "N", 48.51),
        ([48.0, 30.0, 36.0], "S", -48.51),
        ([48.0, 30.6], "South", -48.51),
        ([48.51], None, 48.51),
        ([90.5, 0.0, 0.0], "N", None),
        ([48.0, None, 0.0], "N", None),
        ([], "N", None),
        ([0.0, 0.0, 0.0], "N", 0.0),
    ],
)
def test_positions_have_their_sign_or_are_absent(latitude: list[Any], ref: str | None, degrees: float | None) -> None:
    tags: dict[str, Any] = {
        "GPS GPSLatitude": latitude,
        "GPS GPSLongitude": [10.0, 0.0, 0.0],
        "GPS GPSLongitudeRef": "W",
    }
    if ref:
        tags["GPS GPSLatitudeRef"] = ref
    found = vars(fields(tags))
    assert (found["lat"], found["lon"]) == ((degrees, -10.0) if degrees is not None else (None, None))


def test_a_receiver_without_a_fix_has_been_nowhere() -> None:
    tags: dict[str, Any] = {"GPS GPSLatitude": [0.0] * 3, "GPS GPSLongitude": [0.0] * 3, "GPS GPSStatus": "V"}
    assert fields(tags).lat is None


def test_senseless_values_are_absent_and_text_is_clean() -> None:
    found = read({
        MAKE: ("s", b"  Canon\0\0junk"), MODEL: ("s", b" \0"), LENS: ("s", "Objectif été".encode("latin-1")),
        ORIENTATION: ("H", (9,)), F_NUMBER: ("R", (0, 1)), FOCAL: ("R", (50, 0)),
    })  # fmt: skip
    assert (found.camera_make, found.camera_model, found.lens_model) == ("Canon", None, "Objectif été")
    assert (found.orientation, found.f_number, found.focal_length) == (None, None, None)
