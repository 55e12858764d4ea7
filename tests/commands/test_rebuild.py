"""The database is deleted; what the API answered before it answers again."""

import json
import os
import re
import shutil
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.captions.gemini_server import Gemini
from tests.program import Program, darkroom
from tests.support import jpeg, tree, wait_until

pytestmark = pytest.mark.slow

# 500 take more than a minute; .ci/run has them made.
_MANY = int(os.environ.get("REBUILD_IMAGES", "60"))
# What a time of processing is: when work was done, not when the photo came.
_TIMES = {"processed_at", "at"}


def lose(base: Path) -> None:
    for file in (base / "state").glob("darkroom.db*"):
        file.unlink()


def address(program: Program) -> str:
    """Tell where the web is served, as the log does."""
    serving = re.compile(r"serving (http://\S+?)/?\n")
    wait_until(lambda: serving.search(program.log()), what="the web")
    found: list[str] = serving.findall(program.log())
    return found[-1]


def answers(program: Program) -> dict[str, Any]:
    """Ask for everything that the API says of images."""
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
        assert f"made anew: {_MANY + 1} done, 1 duplicate, 1 failed; 1 files that came with them" in rebuilt.stdout
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
    """File some photos into a room; returns its folder."""
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
    """List all images, oldest first; from the database, which is much quicker than a command."""
    with closing(sqlite3.connect(base / "state/darkroom.db")) as database:
        return database.execute("SELECT id, status, destination FROM image ORDER BY id").fetchall()


def test_photos_without_a_sidecar_get_ids_behind_all_others(tmp_path: Path) -> None:
    base = room_of(tmp_path, a=jpeg(seed=1, taken="2024:05:01 12:00:00"), b=jpeg(seed=2, taken="2024:05:01 12:00:00"))
    lose(base)
    (base / "library/2024/05/a.jpg.xmp").unlink()
    (base / "library/stranger.txt").write_text("no photo")
    done = darkroom(base, "rebuild")
    assert done.returncode == 1, "not all is in the catalogue"
    assert "left alone" in done.stderr
    assert "stranger.txt: not an image" in done.stderr
    assert "1 got a new id" in done.stdout
    assert listed(base) == [(2, "done", "2024/05/b.jpg"), (3, "done", "2024/05/a.jpg")]


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


def test_a_photo_that_rotted_meanwhile_is_still_the_one_that_was_filed(base: Path) -> None:
    photo = base / "library/2024/05/a.jpg"
    photo.write_bytes(photo.read_bytes()[:200])
    lose(base)
    assert darkroom(base, "rebuild").returncode == 0
    assert listed(base) == [(1, "done", "2024/05/a.jpg")]
    assert "changed" in darkroom(base, "verify").stdout


def test_a_catalogue_that_is_there_is_left_alone(base: Path) -> None:
    refused = darkroom(base, "rebuild")
    assert refused.returncode == 1
    assert "knows 1 images" in refused.stderr
    assert len(listed(base)) == 1


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


def test_not_while_darkroom_runs_and_not_without_the_library(tmp_path: Path) -> None:
    with Program(tmp_path / "room") as program:
        assert darkroom(program.base, "rebuild").returncode == 2
    (tmp_path / "room/library").rename(tmp_path / "away")
    refused = darkroom(tmp_path / "room", "rebuild")
    assert refused.returncode == 1
    assert "is its disk mounted" in refused.stderr


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
