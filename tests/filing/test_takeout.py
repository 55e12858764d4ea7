"""Each JSON of Google Takeout reaches its photo, dates it, and gives it its owner's words; who can't tell waits."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from daemon.catalogue.companions import CompanionRows, SidecarRows
from daemon.catalogue.schema import Image
from daemon.decoding import Decoded, Exif
from daemon.errors import Rejected
from daemon.filing.consumer import Turn
from daemon.filing.dates import Origin
from daemon.sidecar import xmp
from tests.captions.darkroom import FullRoom
from tests.support import packet_of, rest_slow, tree

LONG = "a walk along the river with the whole of our family "
CUT = LONG[:46]
JULY_2011 = 1_310_000_000


def takeout(title: str, **more: object) -> bytes:
    """Make a JSON as Takeout has it."""
    return json.dumps({"title": title, "photoTakenTime": {"timestamp": str(JULY_2011)}, **more}).encode()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    made = FullRoom(tmp_path / "room")

    def decode(path: Path) -> Decoded:
        name = os.readlink(path).rpartition("/")[2]
        if name.endswith(".json"):
            raise Rejected("not an image: a text file")
        return replace(made.decoder.decode(path), exif=Exif())

    made.decode_with(decode)
    yield made
    made.close()


def beside(room: FullRoom) -> dict[str, str]:
    """Return which photo each JSON was filed beside, by the names that they came with."""
    names = {row["id"]: row["original_name"] for row in room.rows()}
    found = room.beside()
    return {path.rpartition("/")[2]: names[image_id] for path, image_id in found.items()}


# The photos, and each JSON with the title inside and the photo that it belongs to.
CASES: list[tuple[list[str], list[tuple[str, str, str]]]] = [
    (
        [f"{LONG}1.jpg", f"{LONG}2.jpg"],
        [(f"{CUT}.json", f"{LONG}1.jpg", f"{LONG}1.jpg"), (f"{CUT}(1).json", f"{LONG}2.jpg", f"{LONG}2.jpg")],
    ),
    (
        ["pic(1).jpg", "pic(1)(1).jpg", "pic(1)-editado.jpg"],
        [
            ("pic(1).jpg.supplemental-metadata.json", "pic(1).jpg", "pic(1).jpg"),
            ("pic(1).jpg.supplemental-metadata(1).json", "pic(1)(1).jpg", "pic(1)(1).jpg"),
        ],
    ),
    (
        ["pic.jpg", "pic(1).jpg"],
        [("pic.jpg.json", "pic.jpg", "pic.jpg"), ("pic.jpg(1).json", "pic.jpg", "pic(1).jpg")],
    ),
    (
        [f"{LONG}.jpg", f"{LONG}(1).jpg"],
        [(f"{CUT}.json", f"{LONG}.jpg", f"{LONG}.jpg"), (f"{CUT}(1).json", f"{LONG}.jpg", f"{LONG}(1).jpg")],
    ),
    (["🌊🌋" * 14 + "🗻.jpg"], [("🌊🌋" * 11 + "🌊.json", "🌊🌋" * 14 + "🗻.jpg", "🌊🌋" * 14 + "🗻.jpg")]),
    (["ü" * 48 + ".jpg", "ü" * 47 + "ö.jpg"], [("ü" * 46 + ".json", "ü" * 48 + ".jpg", "ü" * 48 + ".jpg")]),
    (["x" * 42 + ".JPEG"], [("x" * 42 + ".JPE.json", "x" * 42 + ".JPEG", "x" * 42 + ".JPEG")]),
    (
        [f"{'y' * 47}.jpg", f"{'y' * 47}(1).jpg"],
        [
            (f"{'y' * 46}.json", f"{'y' * 60}.jpg", f"{'y' * 47}.jpg"),
            (f"{'y' * 46}(1).json", f"{'y' * 58}zz.jpg", f"{'y' * 47}(1).jpg"),
        ],
    ),
    (["Tom_Jerry_s day.jpg"], [("Tom_Jerry_s day.jpg.json", "Tom&Jerry&#39;s day.jpg", "Tom_Jerry_s day.jpg")]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0][0][:12])
@pytest.mark.parametrize("order", rest_slow(["one by one", "photos first", "jsons first", "backwards"], 1))
def test_each_json_reaches_its_photo(
    full: FullRoom, case: tuple[list[str], list[tuple[str, str, str]]], order: str
) -> None:
    photos, jsons = case
    files = {name: f"photo {name}".encode() for name in photos}
    files |= {name: takeout(title, description=f"of {photo}") for name, title, photo in jsons}
    names = list(files) if order == "photos first" else list(files)[::-1]
    if order == "one by one":
        names = sorted(files)
    for name in names:
        full.put(name, files[name])
        if order in {"one by one", "backwards"}:
            full.drain()
    full.drain()
    for later in (11, 40):
        full.drain(time.time() + later)
    assert tree(full.inbox) == tree(full.failed) == {}
    for _, _, photo in jsons:
        assert full.row_of(photo)["caption"] == f"of {photo}"
    assert sorted(beside(full).values()) == sorted(photo for *_, photo in jsons)


@pytest.mark.parametrize("order", list(permutations(["a.jpg", "a.jpg.json"])))
def test_a_json_that_is_there_dates_its_photo(full: FullRoom, order: tuple[str, str]) -> None:
    for name in order:
        full.put(name, takeout("a.jpg") if name.endswith(".json") else b"a photo")
    full.drain()
    assert (full.row()["taken_from"], full.row()["taken_at"][:7]) == (Origin.TAKEOUT_HERE, "2011-07")
    assert {name for name in tree(full.library) if not name.endswith(".xmp")} == {"2011/07/a.jpg", "2011/07/a.jpg.json"}


def test_it_goes_before_the_name_and_its_edit_has_the_same_date(full: FullRoom) -> None:
    full.put("IMG_20200102_030405.jpg", b"a photo")
    full.put("IMG_20200102_030405-edited.jpg", b"an edit")
    full.put("IMG_20200102_030405.jpg.json", takeout("IMG_20200102_030405.jpg"))
    full.drain()
    full.put("IMG_20200102_030405-effects.jpg", b"an edit that comes when the JSON is filed")
    full.drain()
    assert {row["taken_from"] for row in full.rows()} == {Origin.TAKEOUT_HERE}
    assert set(beside(full).values()) == {"IMG_20200102_030405.jpg"}


def test_a_photo_without_a_date_waits_a_moment_for_its_json(full: FullRoom) -> None:
    full.put("other.jpg.json", takeout("other.jpg"))
    full.put("a.jpg", b"a photo")
    full.drain()
    waiting = full.row_of("a.jpg")
    assert waiting["waiting"] == "waiting for its JSON of Google Takeout, which may know its date"
    assert (waiting["attempts"], waiting["status"]) == (0, "queued")
    assert waiting["not_before"] <= waiting["created_at"] + 10
    full.put("b.jpg", b"its JSON comes with it, and it waits for nobody")
    full.put("b.jpg.json", takeout("b.jpg"))
    full.drain()
    assert full.row_of("b.jpg")["status"] == "done"
    full.put("a.jpg.json", takeout("a.jpg"))
    full.drain()
    assert (full.row_of("a.jpg")["status"], full.row_of("a.jpg")["taken_from"]) == ("done", Origin.TAKEOUT_HERE)


def test_it_waits_ten_seconds_and_no_longer(full: FullRoom) -> None:
    full.put("other.jpg.json", takeout("other.jpg"))
    full.put("a.jpg", b"a photo")
    full.drain()
    full.drain(time.time() + 11)
    assert (full.row_of("a.jpg")["status"], full.row_of("a.jpg")["taken_from"]) == ("done", "mtime")


def test_one_pass_does_not_wait(full: FullRoom) -> None:
    full.put("other.jpg.json", takeout("other.jpg"))
    full.put("a.jpg", b"a photo")
    full.drain()
    assert full.companions.give_up()
    full.drain()
    assert full.row_of("a.jpg")["status"] == "done"
    assert full.row_of("other.jpg.json")["status"] == "failed"


def test_nobody_waits_where_there_is_no_json(full: FullRoom) -> None:
    full.put("a.jpg", b"a photo")
    full.put("elsewhere/b.jpg.json", takeout("b.jpg"))
    assert full.drain()[0] is Turn.FILED


def test_photos_and_jsons_in_turn_wait_for_each_other(full: FullRoom) -> None:
    for name in ("a.jpg", "b.jpg"):
        for one in (name, f"{name}.json")[:: 1 if name == "b.jpg" else -1]:
            full.put(one, takeout(name) if one.endswith(".json") else name.encode())
            full.drain()
    assert {row["taken_from"] for row in full.rows()} == {Origin.TAKEOUT_HERE}


def test_a_half_written_json_is_waited_for(full: FullRoom) -> None:
    full.put("a.jpg", b"a photo")
    full.put("a.jpg.json", takeout("a.jpg")[:30])
    full.drain()
    assert full.row_of("a.jpg")["status"] == "queued"
    full.put("a.jpg.json", takeout("a.jpg"))
    full.drain()
    full.drain(time.time() + 2)
    assert full.row()["taken_from"] == Origin.TAKEOUT_HERE


def test_one_that_fits_two_photos_waits_and_says_so(full: FullRoom) -> None:
    name = f"{CUT}.json"
    full.put(name, b"{}")
    for number in (1, 2):
        full.put(f"{LONG}{number}.jpg", b"photo %d" % number)
    full.drain()
    full.drain(time.time() + 40)
    assert full.row_of(name)["waiting"] == "waiting for its photo"
    full.drain(time.time() + 601)
    row = full.row_of(name)
    assert row["status"] == "failed"
    assert row["error"].endswith(f"it may belong to each of these photos: {LONG}1.jpg, {LONG}2.jpg")
    assert tree(full.failed)[name] == b"{}"


def test_a_number_that_may_be_the_jsons_own_is_a_tie(full: FullRoom) -> None:
    for name in (f"{LONG}1.jpg", f"{LONG}2.jpg", f"{LONG}2(1).jpg"):
        full.put(name, name.encode())
    full.put(f"{CUT}(1).json", takeout(f"{LONG}2.jpg"))
    full.drain()
    full.drain(time.time() + 601)
    assert "it may belong to each of" in full.row_of(f"{CUT}(1).json")["error"]


def test_a_videos_json_is_no_photos(full: FullRoom) -> None:
    full.put(f"{LONG}1.jpg", b"a photo")
    full.put(f"{CUT}.json", takeout(f"{LONG}1.mp4"))
    full.drain()
    full.drain(time.time() + 40)
    assert full.beside() == {}


WORDS = {
    "description": "Grandma at the lake",
    "people": [{"name": "Grandma"}, {"name": "Tom"}],
    "geoData": {"latitude": 47.5, "longitude": 8.25},
}


@pytest.mark.parametrize("sidecars", [True, False])
def test_words_and_place_are_taken_over_in_row_and_sidecar(tmp_path: Path, sidecars: bool) -> None:
    room = FullRoom(tmp_path / "room", f"[filing]\nsidecars = {str(sidecars).lower()}\n")
    room.put("a.jpg", b"a photo")
    room.drain()
    room.put("a.jpg.json", takeout("a.jpg", **WORDS))
    room.drain()
    row = room.columns()
    assert (row["caption"], row["keywords"], row["lat"], row["lon"]) == (
        "Grandma at the lake",
        ["Grandma", "Tom"],
        47.5,
        8.25,
    )
    assert (row["caption_status"], row["edited"]) == ("done", "caption")
    assert row["destination"] == "2024/05/a.jpg"
    said = "caption, keywords, place out of library/2024/05/a.jpg.json, as Google Photos had it"
    assert said in [event["detail"] for event in room.history()]
    if sidecars:
        sidecar = packet_of((room.library / "2024/05/a.jpg.xmp").read_bytes())
        assert sidecar.text(xmp.DC, "description") == "Grandma at the lake"
        assert sidecar.texts(xmp.DC, "subject") == ["Grandma", "Tom"]
        assert sidecar.text(xmp.EXIF, "GPSLatitude") == "47,30.000000N"
    room.close()


def test_a_persons_words_and_the_cameras_place_stay(full: FullRoom) -> None:
    full.put("a.jpg", b"a photo")
    full.drain()
    full.captions.edit(1, time.time(), caption="my own", keywords=("mine",))
    with full.catalogue.writing():
        Image.update(lat=1.0, lon=2.0).execute()
    full.put("a.jpg.json", takeout("a.jpg", **WORDS))
    full.drain()
    row = full.columns()
    assert (row["caption"], row["keywords"], row["lat"], row["lon"]) == ("my own", ["mine"], 1.0, 2.0)


def test_an_empty_description_is_none(full: FullRoom) -> None:
    full.put("a.jpg", b"a photo")
    full.put("a.jpg.json", takeout("a.jpg", description="  ", people=[{}], geoData={"latitude": 0, "longitude": 0.0}))
    full.drain()
    row = full.columns()
    assert (row["caption"], row["keywords"], row["lat"], row["edited"]) == (None, None, None, None)


class _Killed(BaseException):
    """Stands for a power cut: no handler of the program catches it."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", rest_slow(["adopt", "arrived", "forget"], 1))
def test_killed_while_the_words_are_taken_over(
    full: FullRoom, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    full.put("a.jpg", b"a photo")
    full.drain()
    full.put("a.jpg.json", takeout("a.jpg", **WORDS))
    where: type[CompanionRows | SidecarRows] = SidecarRows if step == "adopt" else CompanionRows
    work = getattr(where, step)

    def die(*args: object, **named: object) -> None:
        if after:
            work(*args, **named)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(where, step, die)
        with pytest.raises(_Killed):
            full.drain()
    full.recover()
    full.drain()
    full.caption()
    assert tree(full.inbox) == tree(full.failed) == {}
    assert beside(full) == {"a.jpg.json": "a.jpg"}
    row = full.columns()
    assert (row["caption"], row["keywords"], row["lat"]) == ("Grandma at the lake", ["Grandma", "Tom"], 47.5)
    assert [event["event"] for event in full.history()].count("edited") == 1
