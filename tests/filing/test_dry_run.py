"""What is said of where files would go is what comes of filing them, and saying it changes nothing."""

import json
import os
import random
from pathlib import Path

import pytest

from daemon.app import planning_rules, roots
from daemon.errors import Rejected
from daemon.files.atomic import Root
from daemon.files.walk import walk
from daemon.filing.dry_run import DryRun, Fate, FoundFile, PlannedFile
from tests.captions.darkroom import FullRoom
from tests.filing.mixture import AAE, drain, fill, lie
from tests.program import darkroom
from tests.support import Room, Texts, jpeg, rest_slow, slow, tree


def found(room: Room) -> list[FoundFile]:
    """Return what lies in the inbox, in the order in which it is filed."""
    room.scan()
    root = Root(room.inbox)
    rows = [row for row in room.rows() if row["status"] == "queued"]
    assert sorted(row["path"] for row in rows) == sorted(one.path for one in walk(root, (), recursive=True))
    return [FoundFile(root, row["path"], row["path"].rpartition("/")[0]) for row in rows]


def said(room: Room, files: list[FoundFile] | None = None) -> list[PlannedFile]:
    run = DryRun(
        *(room.catalogue, Root(room.inbox), roots(room.config), planning_rules(room.config), room.decoder.decode),
        Texts(),
        sidecars=room.config.filing.sidecars,
    )
    return list(run.plan(found(room) if files is None else files))


def places(planned: list[PlannedFile]) -> list[str]:
    return sorted(f"{one.place}/{one.destination}" for one in planned if one.destination is not None)


def everything(room: Room) -> object:
    paths = [path for path in room.config.base.rglob("*") if "state" not in path.parts]
    looks = {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in paths}
    return looks, room.rows()


@pytest.mark.parametrize("seed", rest_slow(range(12), 1))
@pytest.mark.parametrize("duplicates", ["keep", slow("delete")])
def test_what_was_said_comes_true(tmp_path: Path, seed: int, duplicates: str) -> None:
    room, rng = FullRoom(tmp_path / "room", f'[filing]\nduplicates = "{duplicates}"'), random.Random(seed)
    kept: list[bytes] = []
    for _ in range(3):
        before = lie(room)
        fill(room, rng, kept)
        room.scan()
        errors = {name: list(errors) for name, errors in room.decoder.errors.items()}
        all_that_is, told = everything(room), said(room)
        assert everything(room) == all_that_is
        assert len(told) == sum(row["status"] == "queued" for row in room.rows())
        room.decoder.errors = errors
        drain(room)
        new = list(lie(room))
        for one in before:
            new.remove(one)
        assert places(told) == new, "\n".join(f"{one.path.name} {one.fate} {one.destination}" for one in told)
    room.close()


def test_it_says_why(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room")
    photo = room.put("trip/IMG_1.jpg", jpeg()).read_bytes()
    drain(room)
    room.put("trip/IMG_1.jpg", jpeg(seed=2))
    room.put("trip/IMG_1.aae", AAE)
    room.put("again.jpg", photo)
    room.put("poem.txt", b"roses")
    room.put("empty.jpg", b"")
    room.decoder.errors["poem.txt"] = [Rejected("not an image")]
    by_name = {one.path.name: one for one in said(room)}
    filed = by_name["IMG_1.jpg"]
    assert (filed.fate, filed.destination, filed.camera) == (Fate.FILED, "2024/05/IMG_1-1.jpg", "Canon EOS 40D")
    assert filed.taken is not None
    assert (str(filed.taken.at), filed.taken.origin) == ("2024-05-01 12:34:56", "exif")
    beside = by_name["IMG_1.aae"]
    assert (beside.fate, beside.destination) == (Fate.COMPANION, "2024/05/IMG_1-1.aae")
    assert beside.beside == "library/2024/05/IMG_1-1.jpg"
    again = by_name["again.jpg"]
    assert (again.fate, again.place, again.beside) == (Fate.DUPLICATE, "duplicates", "library/2024/05/IMG_1.jpg")
    assert (by_name["poem.txt"].fate, by_name["poem.txt"].reason) == (Fate.FAILED, "not an image")
    assert (by_name["empty.jpg"].fate, by_name["empty.jpg"].reason) == (Fate.WAITING, "incomplete: the file is empty")
    room.close()


def test_what_its_owner_threw_away_goes_to_duplicates_and_says_so(room: Room) -> None:
    photo = room.put("a.jpg", jpeg()).read_bytes()
    room.drain()
    room.app.trash.reject(1)
    room.put("b.jpg", photo)
    [planned] = said(room)
    assert (planned.fate, planned.place) == (Fate.DUPLICATE, "duplicates")
    assert "you threw this away on" in str(planned.reason)


def test_two_of_the_same_bytes(room: Room) -> None:
    photo = room.put("a/1.jpg", jpeg()).read_bytes()
    room.put("b/1.jpg", photo)
    first, second = said(room)
    assert (first.fate, second.fate) == (Fate.FILED, Fate.DUPLICATE)
    assert second.beside == f"library/{first.destination}"


def test_without_a_catalogue_what_lies_in_the_library_counts(room: Room) -> None:
    (room.library / "2024/05").mkdir(parents=True)
    photo = jpeg()
    (room.library / "2024/05/a.jpg").write_bytes(b"another's")
    (room.library / "2024/05/b.jpg").write_bytes(photo)
    for name, content in {"a.jpg": jpeg(seed=2), "b.jpg": photo}.items():
        room.put(name, content)
    planned = said(room)
    assert sorted(str(one.destination) for one in planned) == ["2024/05/a-1.jpg", "2024/05/b.jpg"]


def test_the_command_leaves_no_trace(tmp_path: Path) -> None:
    card = tmp_path / "card/DCIM"
    card.mkdir(parents=True)
    (card / "IMG_1.jpg").write_bytes(jpeg(taken="2024:05:01 12:34:56"))
    (card / "IMG_1.aae").write_bytes(AAE)
    (card / os.fsdecode(b"bad\xff.txt")).write_bytes(b"roses")
    base = tmp_path / "room"
    base.mkdir()
    told = darkroom(base, "plan", "../card", "--template", "{taken:%Y}/[{camera}/]{folder}/{name}")
    assert told.returncode == 1, "one is no image"
    lines = told.stdout.splitlines()
    assert lines[0].endswith("card/DCIM/IMG_1.jpg → library/2024/card/DCIM/IMG_1.jpg")
    assert lines[1] == "    taken 2024-05-01 12:34:56 (EXIF DateTimeOriginal)"
    assert lines[2].endswith("bad\\udcff.txt → failed/card/DCIM/bad_udcff.txt: not an image: it looks like a text file")
    assert lines[3].endswith("IMG_1.aae → library/2024/card/DCIM/IMG_1.aae, beside library/2024/card/DCIM/IMG_1.jpg")
    assert lines[4] == "3 files: 1 into the library, 1 beside their photos, 1 to failed; nothing was changed"
    assert list(base.iterdir()) == []
    document = json.loads(darkroom(base, "plan", str(card / "IMG_1.jpg"), "--json").stdout)
    assert [(one["outcome"], one["destination"]) for one in document] == [("filed", "2024/05/IMG_1.jpg")]
    assert list(base.iterdir()) == []


@pytest.mark.slow
def test_wrong_use_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library/a.jpg").write_bytes(jpeg())
    (tmp_path / "a.part").write_bytes(jpeg())
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert "there is no such file" in darkroom(tmp_path, "plan", "gone").stderr
    assert "darkroom refile --dry-run" in darkroom(tmp_path, "plan", "library/a.jpg").stderr
    assert "never taken" in darkroom(tmp_path, "plan", "a.part").stderr
    wrong = darkroom(tmp_path, "plan", "a.jpg", "--template", "{nme}")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("darkroom: --template {nme}: unknown field {nme}; there are ")
    assert darkroom(tmp_path, "run", "--dry-run").returncode == 2


@pytest.mark.slow
def test_once_as_a_dry_run_says_what_once_does(tmp_path: Path) -> None:
    (tmp_path / "inbox/trip").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"inbox/trip/{number}.jpg").write_bytes(jpeg(seed=number, taken=f"2024:05:0{number + 1} 12:00:00"))
    before = tree(tmp_path)
    told = darkroom(tmp_path, "run", "--once", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert told.stdout.count(" → library/2024/05/") == 3
    assert tree(tmp_path) == before
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    assert sorted(name for name in tree(tmp_path / "library") if name.endswith(".jpg")) == [
        f"2024/05/{number}.jpg" for number in range(3)
    ]
