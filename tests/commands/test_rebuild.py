"""The database is deleted; what the API answered before it answers again."""

import json
import os
import re
import shutil
import sqlite3
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.app import roots, sidecars
from daemon.catalogue import Catalogue, ImageEvent
from daemon.catalogue.captions import Captions
from daemon.catalogue.history import History
from daemon.catalogue.schema import Cause, EventKind
from daemon.catalogue.search import Inventory, Search
from daemon.commands.rebuild import Rebuild, RebuildReport
from daemon.errors import Rejected
from tests.captions.darkroom import FullRoom
from tests.captions.gemini_server import Gemini
from tests.program import Program, darkroom
from tests.support import Room, Texts, jpeg, tree, wait_until

slow = pytest.mark.slow

# 500 take more than a minute; .ci/run has them made.
_MANY = int(os.environ.get("REBUILD_IMAGES", "60"))
# What a time of processing is: when work was done, not when the photo came.
_TIMES = {"processed_at", "at"}


def lose(base: Path) -> None:
    for file in (base / "state").glob("darkroom.db*"):
        file.unlink()


def address(program: Program) -> str:
    """Return where the web is served, as the log has it."""
    serving = re.compile(r"serving (http://\S+?)/?\n")
    wait_until(lambda: serving.search(program.log()), what="the web")
    found: list[str] = serving.findall(program.log())
    return found[-1]


def answers(program: Program) -> dict[str, Any]:
    """Return everything that the API says of images."""
    url = address(program)

    def get(path: str) -> Any:
        with urllib.request.urlopen(url + path, timeout=30) as response:
            return json.load(response)

    listed, path = [], "/api/images?limit=200"
    while path:
        page = get(path)
        listed += page["data"]
        path = f"/api/images?limit=200&cursor={page['next']}" if page.get("next") else ""
    details = [get(f"/api/images/{image['image_id']}")["data"] for image in listed]
    return {"list": _without_times(listed), "details": _without_times(details)}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in _TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def patch(program: Program, image_id: int, words: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"{address(program)}/api/images/{image_id}",
        data=json.dumps(words).encode(),
        headers={"Content-Type": "application/json"},
        method="PATCH",
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status == 200


@slow
def test_what_the_api_answers_is_the_same_as_before(tmp_path: Path) -> None:
    base = tmp_path / "room"
    inbox = base / "inbox"
    photos = {f"trip/{n:03}.jpg": jpeg(seed=n, taken="2024:05:01 12:34:56") for n in range(_MANY)}
    photos |= {"again.jpg": photos["trip/007.jpg"], "poem.txt": b"roses are red", "trip/008.aae": b"edits"}
    for name, content in photos.items():
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(content)
    (base / "config.toml").write_text(
        "[web]\nport = 0\n[captions]\nrequests_per_minute = 0\nrequests_per_day = 0\nprivate = ['secret']\n"
    )
    with Gemini() as gemini:
        environ = {"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": gemini.url}
        with Program(base, **environ) as program:
            program.wait_for(120, done=_MANY, duplicate=1, failed=1, queued=0)
            (image,) = next(iter(program.query("SELECT id FROM image WHERE original_name = '009.jpg'")))
            (inbox / "secret").mkdir()
            (inbox / "secret/s.jpg").write_bytes(jpeg(seed=9999))
            program.wait_for(60, done=_MANY + 1)
            settled = "SELECT count(*) FROM image WHERE caption_status = 'pending' OR sidecar_due > 0"
            _until(lambda: program.query(settled) == [(0,)])
            patch(program, image, {"caption": "Grüße aus Rom <&>", "keywords": ["Rom", "Ferien"]})
            _until(lambda: program.query(settled) == [(0,)])
            before = answers(program)
            assert program.stop() == 0
        files = {name: tree(base / name) for name in ("library", "duplicates", "failed")}
        thumbnails = tree(base / "state/thumbnails")
        shutil.rmtree(base / "state")
        (base / "log").unlink()
        rebuilt = darkroom(base, "rebuild", seconds=300, **environ)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert f"made anew: {_MANY + 1} done, 1 duplicate, 1 failed; 1 file that came with them" in rebuilt.stdout
        assert {name: tree(base / name) for name in files} == files, "nothing but state is touched"
        assert tree(base / "state/thumbnails") == thumbnails
        asked = len(gemini.asked)
        with Program(base, **environ) as program:
            after = answers(program)
            assert after["list"] == before["list"]
            assert after["details"] == before["details"]
            highest = max(image["image_id"] for image in after["list"])
            (inbox / "new.jpg").write_bytes(jpeg(seed=12345))
            program.wait_for(60, done=_MANY + 2)
            assert program.query("SELECT max(id) FROM image") == [(highest + 1,)]
        assert len(gemini.asked) <= asked + 1, "no caption is paid for twice"
    assert darkroom(base, "verify").returncode == 0


def _until(condition: Any) -> None:
    wait_until(condition, 120, "captions and sidecars")


def room_of(tmp_path: Path, toml: str = "", **photos: bytes) -> Path:
    """File some photos into a room and return its folder."""
    base = tmp_path / "room"
    (base / "inbox").mkdir(parents=True)
    (base / "config.toml").write_text(toml)
    for name, content in photos.items():
        (base / "inbox" / f"{name}.jpg").write_bytes(content)
        assert darkroom(base, "run", "--once").returncode == 0
    return base


@pytest.fixture(scope="module")
def _filed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_of(tmp_path_factory.mktemp("filed"), a=jpeg(seed=1, taken="2024:05:01 12:00:00"))


@pytest.fixture
def base(_filed: Path, tmp_path: Path) -> Path:
    """The folder of a room with one photo, `2024/05/a.jpg`, of each test its own."""
    return Path(shutil.copytree(_filed, tmp_path / "room"))


def listed(base: Path) -> list[tuple[int, str, str]]:
    """Return all images, oldest first; from the database, which is much quicker than a command."""
    with closing(sqlite3.connect(base / "state/darkroom.db")) as database:
        return database.execute("SELECT id, status, destination FROM image ORDER BY id").fetchall()


@slow
def test_photos_without_a_sidecar_get_ids_behind_all_others(tmp_path: Path) -> None:
    base = room_of(tmp_path, a=jpeg(seed=1, taken="2024:05:01 12:00:00"), b=jpeg(seed=2, taken="2024:05:01 12:00:00"))
    lose(base)
    (base / "library/2024/05/a.jpg.xmp").unlink()
    (base / "library/notes.txt").write_text("no photo")
    done = darkroom(base, "rebuild")
    assert done.returncode == 1, "not all is in the catalogue"
    assert "left alone" in done.stderr
    assert "notes.txt: not an image" in done.stderr
    assert "1 got a new id" in done.stdout
    assert listed(base) == [(2, "done", "2024/05/b.jpg"), (3, "done", "2024/05/a.jpg")]


@slow
def test_a_photo_that_its_owner_moved_and_one_that_was_copied(base: Path) -> None:
    lose(base)
    library = base / "library"
    (library / "best").mkdir()
    for name in ("a.jpg", "a.jpg.xmp"):
        (library / "2024/05" / name).rename(library / "best" / name)
        shutil.copy(library / "best" / name, library / name)
    assert darkroom(base, "rebuild").returncode == 1
    [(image_id, status, where)] = listed(base)
    assert (image_id, status) == (1, "done")
    assert where in {"best/a.jpg", "a.jpg"}


@slow
def test_a_photo_that_rotted_meanwhile_is_still_the_one_that_was_filed(base: Path) -> None:
    photo = base / "library/2024/05/a.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    lose(base)
    assert darkroom(base, "rebuild").returncode == 0
    assert listed(base) == [(1, "done", "2024/05/a.jpg")]
    assert "rotten" in darkroom(base, "verify").stdout


@slow
def test_a_catalogue_that_is_there_is_left_alone(base: Path) -> None:
    refused = darkroom(base, "rebuild")
    assert refused.returncode == 1
    assert "knows 1 image;" in refused.stderr
    assert len(listed(base)) == 1


@slow
def test_an_empty_catalogue_and_a_damaged_one(base: Path) -> None:
    lose(base)
    (base / "state/darkroom.db").write_bytes(b"no database at all, but a long enough text" * 200)
    refused = darkroom(base, "rebuild")
    assert refused.returncode == 1
    assert "away" in refused.stderr
    lose(base)
    assert darkroom(base, "run", "--once").returncode == 0, "an empty one is made"
    assert listed(base) == []
    assert darkroom(base, "rebuild").returncode == 0
    assert [image_id for image_id, _, _ in listed(base)] == [1]


@slow
def test_it_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    base = room_of(tmp_path, a=jpeg(seed=1), b=jpeg(seed=2))
    database = base / "state/darkroom.db"
    lose(base)
    assert darkroom(base, "rebuild").returncode == 0
    whole = listed(base)
    # As far as a process got that was killed at the end: all is in the new file, which is not in its place yet.
    database.rename(base / "state/rebuilt.db")
    done = darkroom(base, "rebuild")
    assert done.returncode == 0
    assert "made anew: 0 done" in done.stdout
    assert listed(base) == whole
    assert not (base / "state/rebuilt.db").exists()


@slow
def test_not_while_darkroom_runs_and_not_without_the_library(tmp_path: Path) -> None:
    with Program(tmp_path / "room") as program:
        assert darkroom(program.base, "rebuild").returncode == 1
    (tmp_path / "room/library").rename(tmp_path / "away")
    refused = darkroom(tmp_path / "room", "rebuild")
    assert refused.returncode == 1
    assert "is its disk mounted" in refused.stderr


@slow
@pytest.mark.parametrize("sidecars", ["true", "false"])
def test_failures_keep_their_ids_with_sidecars_and_without(tmp_path: Path, sidecars: str) -> None:
    base = room_of(tmp_path, f"[filing]\nsidecars = {sidecars}\n")
    (base / "inbox/sub").mkdir()
    (base / "inbox/sub/poem.txt").write_text("roses")
    assert darkroom(base, "run", "--once").returncode == 1
    before = json.loads(darkroom(base, "list", "--json").stdout)
    lose(base)
    assert darkroom(base, "rebuild").returncode == 0
    after = json.loads(darkroom(base, "list", "--json").stdout)
    assert _without_times(after) == _without_times(before)
    assert darkroom(base, "retry", "1").returncode == 0
    assert (base / "inbox/sub/poem.txt").is_file()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    """A room that writes sidecars, in one process and with a scripted decoder."""
    made = FullRoom(tmp_path / "full")
    yield made
    made.close()


def rebuilt(room: Room) -> tuple[Catalogue, RebuildReport]:
    """Make a room's catalogue anew, beside the one that it has."""
    catalogue = Catalogue(room.state / "rebuilt.db")
    work = Rebuild(
        catalogue, roots(room.config), room.thumbnails, room.decoder.decode, Texts(), room.config.inbox.ignore
    )
    return catalogue, work.run(lambda: None)


def history(catalogue: Catalogue, image_id: int) -> list[ImageEvent]:
    """Return an image's history without its times, which a sidecar rounds."""
    return [replace(event, at=0.0, id=0) for event in History(catalogue).of(image_id)]


def put(room: Room, *names: str, content: bytes | None = None) -> None:
    for name in names:
        room.put(name, name.encode() if content is None else content)
        room.drain()


def test_histories_come_back_in_codes(full: FullRoom) -> None:
    full.decoder.errors = {"poem.txt": [Rejected("not an image")], "IMG_1.aae": [Rejected("not an image")] * 9}
    put(full, "trip/IMG_1.jpg", "trip/IMG_1.aae", "poem.txt")
    put(full, "again.jpg", content=b"trip/IMG_1.jpg")
    full.captions.edit(1, time.time(), caption="Rome")
    full.sidecars.write(1)
    catalogue, report = rebuilt(full)
    assert (report.restored, report.companions) == ({"done": 1, "duplicate": 1, "failed": 1}, 1)
    assert (report.new_ids, report.left) == (0, [])
    queued = ImageEvent(0.0, EventKind.QUEUED, Cause.FOUND, path="trip/IMG_1.jpg", image_id=1)
    done = ImageEvent(0.0, EventKind.DONE, place="library", path="2024/05/IMG_1.jpg", image_id=1)
    beside = replace(done, kind=EventKind.COMPANION, cause=Cause.CAME_WITH, path="2024/05/IMG_1.aae", other_id=2)
    edited = ImageEvent(0.0, EventKind.EDITED, text="caption", image_id=1)
    assert history(catalogue, 1) == [queued, done, replace(beside, text="IMG_1.aae"), edited]
    assert history(catalogue, 3) == [
        ImageEvent(0.0, EventKind.QUEUED, Cause.FOUND, path="poem.txt", image_id=3),
        ImageEvent(0.0, EventKind.FAILED, place="failed", path="poem.txt", text="not an image", image_id=3),
    ]
    assert history(catalogue, 4) == [
        ImageEvent(0.0, EventKind.QUEUED, Cause.FOUND, path="again.jpg", image_id=4),
        ImageEvent(0.0, EventKind.DUPLICATE, place="duplicates", path="again.jpg", image_id=4),
    ]
    assert all(history(catalogue, one) == history(full.catalogue, one) for one in (1, 3, 4))
    [came] = Inventory(catalogue).beside(1)
    assert (came.destination, came.original_name, came.folder) == ("2024/05/IMG_1.aae", "IMG_1.aae", "trip")
    for one in (1, 3, 4):
        before, after = Search(full.catalogue).image(one), Search(catalogue).image(one)
        assert before is not None
        assert after is not None
        for name in ("status", "place", "destination", "original_name", "folder", "sha256", "caption", "duplicate_of"):
            assert getattr(after, name) == getattr(before, name), name


def test_the_place_that_takeout_knows_comes_back(full: FullRoom) -> None:
    said = {"title": "a.jpg", "description": "at the lake", "geoData": {"latitude": 47.5, "longitude": 8.25}}
    full.decoder.errors = {"a.jpg.json": [Rejected("not an image")]}
    put(full, "a.jpg")
    put(full, "a.jpg.json", content=json.dumps(said).encode())
    catalogue, _ = rebuilt(full)
    assert Captions(catalogue).sidecars_due() == [1]
    sidecars(full.config, catalogue, Texts()).write(1)
    row = Search(catalogue).image(1)
    assert row is not None
    assert (row.caption, row.lat, row.lon, row.sidecar_due) == ("at the lake", 47.5, 8.25, 0)


def test_only_regular_files_are_read_and_no_more_of_them_than_there_may_be(full: FullRoom) -> None:
    put(full, "IMG_1.jpg", "IMG_2.jpg")
    folder = full.library / "2024/05"
    for name in ("IMG_1.jpg.xmp", "IMG_2.jpg.xmp"):
        (folder / name).unlink()
    os.mkfifo(folder / "IMG_1.jpg.xmp")
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "IMG_2.jpg.xmp").open("wb") as file:
        file.truncate(160 << 20)
    full.decoder.errors["IMG_2.jpg.xmp"] = [Rejected("not an image")]
    tracemalloc.start()
    catalogue, report = rebuilt(full)
    assert tracemalloc.get_traced_memory()[1] < 120 << 20
    tracemalloc.stop()
    assert report.restored["done"] == 2
    assert sorted(path.name for path, _ in report.left) == ["IMG_1.jpg.xmp", "IMG_2.jpg.xmp", "pipe.jpg"]
    catalogue.close()


def failed_poem(room: Room) -> Path:
    """Have a text fail; return the file that says why."""
    room.decoder.errors["poem.txt"] = [Rejected("not an image")]
    put(room, "sub/poem.txt")
    reason = room.failed / "sub/poem.txt.reason.txt"
    assert reason.is_file()
    return reason


def test_a_reason_whose_sentences_were_edited_still_tells_by_its_last_line(room: Room) -> None:
    put(room, "a.jpg")
    reason = failed_poem(room)
    *_, last = reason.read_text().splitlines()
    reason.write_text(f"Roses! Reason: none. It came as x.jpg and is image 77.\n\n{last}\n")
    catalogue, report = rebuilt(room)
    assert report.new_ids == 1, "the photo, which has no sidecar here"
    row = Search(catalogue).image(2)
    assert row is not None
    assert (row.status, row.error, row.destination) == ("failed", "not an image", "sub/poem.txt")
    assert (row.folder, row.original_name, row.source) == ("sub", "poem.txt", "inbox")
    assert history(catalogue, 2) == history(room.catalogue, 2)


@pytest.mark.parametrize(
    "text",
    [
        "poem.txt could not be filed.\n\nReason: not an image\n\nIt came as sub/poem.txt and is image 1.\n",
        "A note of the owner's.\n",
        '{"image_id": "one"}\n',
        "",
    ],
)
def test_a_reason_without_its_last_line_is_a_file_like_any(room: Room, text: str) -> None:
    reason = failed_poem(room)
    reason.write_text(text)
    catalogue, report = rebuilt(room)
    assert (report.restored["failed"], report.new_ids, report.left) == (2, 2, [])
    rows = [Search(catalogue).image(image_id) for image_id in (1, 2)]
    assert {row.destination for row in rows if row} == {"sub/poem.txt", "sub/poem.txt.reason.txt"}
    assert {row.error for row in rows if row} == {"found in the failed folder without its reason"}


def test_what_the_sidecar_tells_goes_before_what_the_file_tells(full: FullRoom) -> None:
    put(full, "a.jpg")
    before = Search(full.catalogue).image(1)
    assert before is not None
    (full.library / "2024/05/a.jpg").write_bytes(b"edited by its owner")
    after = Search(rebuilt(full)[0]).image(1)
    assert after is not None
    assert after.filed_sha256 == before.sha256 != after.sha256, "both are known: it was edited since"
    assert (after.size_bytes, after.camera_make) == (len(b"edited by its owner"), "Canon"), "which no sidecar holds"


def test_a_failed_link_keeps_its_id(room: Room) -> None:
    (room.inbox / "link.jpg").symlink_to("nowhere")
    room.drain()
    assert (room.failed / "link.jpg").is_symlink()
    catalogue, report = rebuilt(room)
    assert (report.restored["failed"], report.new_ids) == (1, 0)
    assert history(catalogue, 1) == history(room.catalogue, 1)


def test_a_sidecar_with_a_source_that_there_is_not(full: FullRoom) -> None:
    put(full, "a.jpg")
    sidecar = full.library / "2024/05/a.jpg.xmp"
    text = sidecar.read_text()
    assert "Source>inbox<" in text
    sidecar.write_text(text.replace("Source>inbox<", "Source>scanner<"))
    row = Search(rebuilt(full)[0]).image(1)
    assert row is not None
    assert row.source == "inbox"


def test_the_trash_the_removed_and_what_was_said_of_failures_come_back(full: FullRoom) -> None:
    full.decoder.errors = {"poem.txt": [Rejected("not an image")]}
    put(full, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "poem.txt")
    full.captions.edit(5, time.time(), caption="Roses", rating=2)
    full.captions.edit(1, time.time(), caption="Mine", rating=4, label="Red", title="T")
    for _ in range(2):
        full.caption()
    for number in (1, 2):
        full.app.trash.reject(number)
    full.app.trash.purge(full.app.trash.listed(time.time())[1])
    (full.library / "2024/05/c.jpg").unlink()
    full.app.follower.follow()
    before = {number: full.columns(number) for number in range(1, 6)}
    catalogue, report = rebuilt(full)
    assert (report.left, report.removed, report.new_ids) == ([], 2, 0)
    kept = ("status", "place", "destination", "sha256", "caption", "rating", "label", "title", "edited", "error")
    for number, was in before.items():
        row = Search(catalogue).image(number)
        assert row is not None
        assert {name: getattr(row, name) for name in kept} == {name: was[name] for name in kept}
    assert [event.kind for event in history(catalogue, 5)][:2] == [EventKind.QUEUED, EventKind.FAILED]
    assert EventKind.EDITED in [event.kind for event in history(catalogue, 5)]
    catalogue.close()
