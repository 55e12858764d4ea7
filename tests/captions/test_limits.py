"""The quota's day and its estimates; which folders are private."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon import config
from daemon.captions.limits import Quota, day_began, day_ends, roughly
from daemon.captions.settings import CaptionSettings
from daemon.catalogue.schema import CaptionRequest
from daemon.errors import ConfigError
from tests.support import Room


def quota(room: Room, now: float, made: int, per_minute: int, per_day: int) -> Quota:
    """Return the quota of a model of which so many requests were made at one moment."""
    with room.catalogue.writing():
        for _ in range(made):
            CaptionRequest.insert(model="m", at=now).execute()
    return Quota(room.captions, "m", per_minute, per_day)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("now", "began", "ends"),
    [
        ("2026-11-23T07:00", "2026-11-22T08:00", "2026-11-23T08:00"),
        ("2026-07-01T07:00", "2026-07-01T07:00", "2026-07-02T07:00"),
        ("2026-03-08T12:00", "2026-03-08T08:00", "2026-03-09T07:00"),
        ("2026-11-01T12:00", "2026-11-01T07:00", "2026-11-02T08:00"),
    ],
)
def test_the_day_is_that_of_california(now: str, began: str, ends: str) -> None:
    assert (day_began(at(now)), day_ends(at(now))) == (at(began), at(ends))


def test_zero_is_no_limit(room: Room) -> None:
    now = at("2026-11-23T12:00")
    free = quota(room, now, 1000, 0, 0)
    assert free.free_at(now) == now
    assert free.seconds_for(10_000, now) == 0


def test_the_estimate_counts_what_is_left_of_today(room: Room) -> None:
    now = at("2026-11-23T12:00")
    some = quota(room, now, 180, 15, 200)
    assert some.seconds_for(15, now) == 60
    assert some.seconds_for(312, now) == pytest.approx(20 * 3600 + 86400 + 92 * 4)
    assert roughly(some.seconds_for(312, now)) == "2 days"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (40, "40 s"), (700, "12 min"), (5 * 3600, "5 h"), (100_000, "28 h"), (2e5, "3 days")],
)
def test_spans_as_people_say_them(seconds: float, text: str) -> None:
    assert roughly(seconds) == text


@pytest.mark.parametrize("folder", ["/etc", "a/../b", "", ".", "a//b"])
def test_private_folders_are_folders_of_the_inbox(tmp_path: Path, folder: str) -> None:
    (tmp_path / "config.toml").write_text(f"[captions]\nprivate = ['{folder}']\n")
    with pytest.raises(ConfigError, match=r"\[captions\] private"):
        config.load(tmp_path / "config.toml", {})


@pytest.mark.parametrize(
    ("folder", "private"),
    [("Family", True), ("family/x", True), ("a/Family", True), ("docs/ids", True), ("a/docs/ids", False), ("", False)],
)
def test_what_counts_as_private(folder: str, private: bool) -> None:
    assert CaptionSettings(private=("Family", "docs/IDs")).is_private(folder) is private
