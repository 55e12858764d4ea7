"""Takeout's JSON is read whatever stands in it, within limits."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.decoding import MAX_TEXT_BYTES, Takeout
from daemon.decoding.takeout import read
from daemon.sidecar import xmp
from daemon.sidecar.takeout import WEAK, parse_name, words


def test_all_that_is_of_use() -> None:
    said = {
        "title": "a.jpg",
        "description": " At the lake ",
        "photoTakenTime": {"timestamp": "-86400", "formatted": "whatever"},
        "geoData": {"latitude": 0.0, "longitude": 0.0},
        "geoDataExif": {"latitude": -33.9, "longitude": 18},
        "people": [{"name": "Ann"}, {"name": "Bob"}, {"name": "Ann"}],
    }
    assert read(json.dumps(said).encode()) == Takeout(
        "a.jpg", "At the lake", ("Ann", "Bob"), datetime(1969, 12, 31, tzinfo=UTC), -33.9, 18.0
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"{" + b"," * 200_000 + b"}",
        b'"' + b"x" * MAX_TEXT_BYTES + b'"',
        b'{"title": 3, "description": [], "people": {}, "photoTakenTime": 7, "geoData": "x"}',
        b'{"photoTakenTime": {"timestamp": "0"}, "people": [1, null, {"name": " "}]}',
        b'{"photoTakenTime": {"timestamp": "99999999999999999"}, "geoData": {"latitude": NaN, "longitude": 1}}',
        b'{"geoData": {"latitude": 1' + b"0" * 4000 + b', "longitude": 1}}',
        b'{"geoData": {"latitude": 91, "longitude": 1}, "photoTakenTime": {"timestamp": null}}',
        b'{"title": "\\ud800", "description": "\\u0000"}',
    ],
)
def test_nonsense_is_nothing(data: bytes) -> None:
    assert read(data) == Takeout()


def test_words_keep_to_the_limits_of_the_api() -> None:
    packet = words(Takeout(description="x" * 20_000, people=tuple(f"{number} {'x' * 300}" for number in range(300))))
    assert len(packet.text(xmp.DC, "description") or "") == 10_000
    names = packet.texts(xmp.DC, "subject")
    assert (len(names), {len(name) for name in names}) == (200, {200})


@given(st.text(min_size=1), st.text(), st.text(), st.sampled_from(["", "(1)", ".suppl", ".supplemental-metadata(2)"]))
def test_no_name_is_too_odd(name: str, photo: str, title: str, tail: str) -> None:
    parsed = parse_name(f"{name}{tail}.json")
    assert parsed is not None
    assert parsed.rank(photo, title) in {None, 0, 1, 2, WEAK}
    if parsed.rank(photo) is not None:
        assert parsed.may_fit(photo)
