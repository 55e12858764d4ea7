"""`verify` names what rotted, what is gone and what is unknown, goes on where it stopped, and fixes thumbnails."""

import json
import os
from pathlib import Path

import pytest

from daemon.app import roots, thumbnail_store
from daemon.commands.verify import FixThumbnails, Problem, ProblemKind, Verification
from daemon.errors import EnvironmentFault, Rejected
from daemon.files.atomic import Location
from tests.program import darkroom
from tests.support import Room, jpeg, tree

FILED = "2024/05/a.jpg"


def verification(room: Room, fix: FixThumbnails | None = None) -> Verification:
    return Verification(room.catalogue, roots(room.config), thumbnail_store(room.config), room.config.inbox.ignore, fix)


def problems(room: Room, *, again: bool = False) -> list[tuple[str, int | None]]:
    return [(one.kind, one.image_id) for one in verification(room).run(again=again)]


@pytest.fixture
def filed(room: Room) -> Room:
    photos = {name: jpeg(seed=number) for number, name in enumerate(("a.jpg", "b.jpg", "c.jpg"))}
    room.decoder.errors["poem.txt"] = [Rejected("not an image")]
    for name, content in {**photos, "twin.jpg": photos["a.jpg"], "poem.txt": b"roses"}.items():
        room.put(name, content)
        room.drain()
    return room


def flip(file: Path, *, mtime: bool) -> None:
    """Change one byte, as a disk does, or as a program does (with a new date)."""
    info = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    if not mtime:
        os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_all_is_as_it_was_filed(filed: Room) -> None:
    before = tree(filed.config.base / "library")
    work = verification(filed)
    assert list(work.run()) == []
    assert (work.files, work.bytes) == (5, work.total()[1])
    assert tree(filed.library) == before


@pytest.mark.parametrize(
    ("mtime", "kind", "text"),
    [(False, "rotten", "under the same size and time"), (True, "edited", "written to at 20")],
)
def test_one_flipped_byte_is_named(filed: Room, mtime: bool, kind: ProblemKind, text: str) -> None:
    flip(filed.library / FILED, mtime=mtime)
    [one] = verification(filed).run()
    assert one == Problem(kind, str(filed.library / FILED), 1, one.detail)
    assert one.is_wrong is (kind == "rotten")
    assert text in one.detail


def test_a_missing_file_and_an_unknown_one(filed: Room) -> None:
    (filed.library / FILED).rename(filed.library / "moved.jpg")
    (filed.failed / "poem.txt").unlink()
    (filed.library / ".DS_Store").touch()
    (filed.library / "2024/05/b.jpg.xmp").write_text("a sidecar")
    (filed.library / "x.xmp").write_text("nobody's")
    found = {(one.kind, Path(one.path).name, one.image_id) for one in verification(filed).run()}
    assert found == {
        ("missing", "a.jpg", 1),
        ("missing", "poem.txt", 5),
        ("unknown", "moved.jpg", None),
        ("unknown", "x.xmp", None),
    }


def test_duplicates_are_read_too(filed: Room) -> None:
    flip(filed.duplicates / "twin.jpg", mtime=False)
    assert problems(filed) == [("rotten", filed.row_of("twin.jpg")["id"])]


def test_a_folder_in_the_place_of_a_photo(filed: Room) -> None:
    (filed.library / FILED).unlink()
    (filed.library / FILED).mkdir()
    assert problems(filed) == [("missing", 1)]


def test_thumbnails_are_made_again(filed: Room) -> None:
    sha256 = str(filed.row_of("b.jpg")["sha256"])
    thumbnail = thumbnail_store(filed.config).path(sha256, "medium")
    thumbnail.unlink()
    assert problems(filed) == [("thumbnail", 2)]
    made: list[Path] = []
    work = verification(filed, lambda file, _sha256: made.append(file.path))
    assert list(work.run()) == []
    assert made == [filed.library / "2024/05/b.jpg"]
    assert work.fixed == 1

    def refuse(_file: Location, _sha256: str) -> None:
        raise Rejected("a damaged JPEG")

    [one] = verification(filed, refuse).run()
    assert one.detail == "no thumbnails can be made: a damaged JPEG"


def test_it_goes_on_where_it_stopped_and_checks_problems_again(filed: Room) -> None:
    flip(filed.library / FILED, mtime=False)
    (filed.library / "2024/05/b.jpg").rename(filed.library / "away.jpg")
    first = verification(filed)
    assert first.resumed() is None
    running = first.run()
    assert [next(running).kind, next(running).kind] == ["rotten", "missing"]
    running.close()
    (filed.library / "away.jpg").rename(filed.library / "2024/05/b.jpg")
    second = verification(filed)
    assert second.resumed() is not None
    assert [one.kind for one in second.run()] == ["rotten"], "b.jpg was put back meanwhile"
    assert second.files == 5
    assert verification(filed).resumed() is None, "what is finished begins anew"


def test_stopped_twice_it_forgets_no_problem(filed: Room) -> None:
    for name in ("a.jpg", "b.jpg"):
        flip(filed.library / "2024/05" / name, mtime=False)
    for _ in range(2):
        running = verification(filed).run()
        next(running)
        next(running, None)
        running.close()
        running = verification(filed).run()
        assert next(running).image_id == 1, "it is checked again first"
        running.close()
    assert problems(filed) == [("rotten", 1), ("rotten", 2)]


def test_a_pass_can_be_begun_anew(filed: Room) -> None:
    (filed.library / FILED).unlink()
    running = verification(filed).run()
    next(running)
    running.close()
    work = verification(filed)
    assert [one.kind for one in work.run(again=True)] == ["missing"]
    assert work.files == 5


def test_an_unmounted_library_is_not_a_thousand_missing_photos(filed: Room) -> None:
    filed.library.rename(filed.config.base / "away")
    with pytest.raises(EnvironmentFault, match="is its disk mounted"):
        list(verification(filed).run())


@pytest.mark.slow
def test_the_command_lists_and_fixes(tmp_path: Path) -> None:
    base = tmp_path / "room"
    (base / "inbox").mkdir(parents=True)
    (base / "inbox/a.jpg").write_bytes(jpeg(taken="2024:05:01 12:34:56"))
    assert darkroom(base, "run", "--once").returncode == 0
    well = darkroom(base, "verify")
    assert (well.returncode, well.stdout.count("\n")) == (0, 1)
    assert "all as they were filed" in well.stdout
    thumbnails = tree(base / "state/thumbnails")
    for path in (base / "state/thumbnails").rglob("*.jpg"):
        path.unlink()
    assert darkroom(base, "verify").returncode == 1
    assert "thumbnails of 1 made again" in darkroom(base, "verify", "--fix").stdout
    assert darkroom(base, "verify").returncode == 0
    assert tree(base / "state/thumbnails") == thumbnails
    flip(base / "library/2024/05/a.jpg", mtime=False)
    rotten = darkroom(base, "verify")
    assert rotten.returncode == 1
    assert f"rotten     {base}/library/2024/05/a.jpg (image 1): other bytes" in rotten.stdout
    assert rotten.stdout.endswith(" read: 1 problem\n")
    document = json.loads(darkroom(base, "verify", "--json").stdout)
    assert (document["files"], document["thumbnails_fixed"]) == (1, 0)
    [problem] = document["problems"]
    assert (problem["kind"], problem["image_id"]) == ("rotten", 1)


def test_nothing_to_verify(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    answer = darkroom(tmp_path, "verify")
    assert answer.returncode == 1
    assert "darkroom rebuild" in answer.stderr
