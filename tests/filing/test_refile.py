"""The library moves to another template with all that is beside its photos, as if filed so; nothing is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.moves import MoveRows
from daemon.catalogue.schema import Image
from daemon.errors import NameRefused, Rejected
from daemon.files import atomic
from daemon.filing.refile import Refile, Relocation
from tests.captions.darkroom import FullRoom
from tests.filing.mixture import AAE, RAW, drain, fill, lie
from tests.program import Program, darkroom, environment
from tests.support import Room, jpeg, rest_slow, slow, tree, wait_until

OTHER = "{taken:%Y}/{camera}/{name}"


def refile(room: Room, template: str = OTHER, *, everything: bool = False) -> Refile:
    return Refile(room.catalogue, room.app.mover, template, everything=everything)


def run(room: Room, template: str = OTHER, *, everything: bool = False) -> list[tuple[str, str]]:
    """Refile all; returns what could not be moved."""
    work = refile(room, template, everything=everything)
    plan = work.plan()
    for one in plan.moves:
        assert work.move(one) == one.new
    return plan.left


def test_a_photo_moves_with_all_that_is_beside_it(full: FullRoom) -> None:
    photo = jpeg()
    full.put("trip/a.jpg", photo)
    full.put("trip/a.aae", AAE)
    drain(full)
    number = full.row()["id"]
    was = (full.library / "2024/05/a.jpg").stat()
    work = refile(full)
    [planned] = work.plan().moves
    assert planned == Relocation(
        *(number, "2024/05/a.jpg", "2024/Canon EOS 40D/a.jpg"),
        (
            ("2024/05/a.jpg.xmp", "2024/Canon EOS 40D/a.jpg.xmp"),
            ("2024/05/a.aae", "2024/Canon EOS 40D/a.aae"),
        ),
    )
    assert work.move(planned) == planned.new
    assert sorted(tree(full.library)) == [f"2024/Canon EOS 40D/{name}" for name in ("a.aae", "a.jpg", "a.jpg.xmp")]
    assert not (full.library / "2024/05").exists(), "what was emptied goes"
    now = (full.library / planned.new).stat()
    assert (now.st_ino, now.st_mtime_ns, now.st_nlink) == (was.st_ino, was.st_mtime_ns, 1)
    assert full.beside() == {"library/2024/Canon EOS 40D/a.aae": number}
    row = full.columns(number)
    assert (row["destination"], row["sidecar_due"]) == (planned.new, 0)
    assert full.history(number)[-1]["detail"] == (
        "moved from library/2024/05/a.jpg to library/2024/Canon EOS 40D/a.jpg, by another template"
    )
    assert b"refiled" in (full.library / f"{planned.new}.xmp").read_bytes(), "rebuild will know it"
    assert full.app.follower.follow().changes == 0
    again = refile(full).plan()
    assert (again.moves, again.right) == ([], 1)


@pytest.mark.parametrize("seed", rest_slow(range(12), 1))
def test_it_is_as_if_it_had_been_filed_so(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    templates = ["{taken:%Y/%m}/{name}", "{taken:%Y}/[{folder}/]{name}", "{folder}/{taken:%Y%m%d}-{name}", "{stem}"]
    one, other = rng.sample(templates, 2)
    moved = FullRoom(tmp_path / "moved", f'[filing]\ntemplate = "{one}"')
    filed = FullRoom(tmp_path / "filed", f'[filing]\ntemplate = "{other}"')
    for round_ in range(2):
        fill(moved, rng, [])
        for path, content in tree(moved.inbox).items():
            filed.put(path, content)
        filed.decoder.errors = {name: list(errors) for name, errors in moved.decoder.errors.items()}
        for room in (moved, filed):
            drain(room)
        if round_ == 0:
            assert run(moved, other) == []
            assert run(moved, one) == [], "and back"
    assert run(moved, other) == []

    def photos(room: Room) -> dict[str, str | None]:
        return {row["original_name"] + str(row["sha256"]): row["destination"] for row in room.rows()}

    stems = {key: Path(str(path)).parent for key, path in photos(moved).items()}
    assert stems == {key: Path(str(path)).parent for key, path in photos(filed).items()}
    assert len(lie(moved)) == len(lie(filed))
    assert moved.app.follower.follow().changes == 0
    assert refile(moved, other).plan().moves == []
    for room in (moved, filed):
        room.close()


def test_what_was_said_is_what_is_done_and_nothing_is_overwritten(room: Room) -> None:
    for number in range(3):
        room.put(f"{number}/a.jpg", jpeg(seed=number))
    room.drain()
    (room.library / "2024/Canon EOS 40D").mkdir()
    (room.library / "2024/Canon EOS 40D/a-1.jpg").write_bytes(b"mine")
    before = tree(room.library)
    work = refile(room)
    said = work.plan().moves
    assert tree(room.library) == before
    assert [one.new.rpartition("/")[2] for one in said] == ["a.jpg", "a-2.jpg", "a-3.jpg"]
    for one in said:
        work.move(one)
    after = tree(room.library)
    assert after == {one.new: before[one.old] for one in said} | {"2024/Canon EOS 40D/a-1.jpg": b"mine"}


def test_a_name_that_another_leaves_is_free_and_of_two_that_swap_one_gets_a_number(room: Room) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        room.put(name, jpeg(seed=ord(name[0])))
        room.drain()
    # They came as if in a chain, and two of them crosswise.
    with room.catalogue.writing():
        for was, name in (("a.jpg", "b.jpg"), ("b.jpg", "e.jpg"), ("c.jpg", "d.jpg"), ("d.jpg", "c.jpg")):
            Image.update(original_name=name).where(Image.destination == f"2024/05/{was}").execute()
    content = {path.rpartition("/")[2]: file for path, file in tree(room.library).items()}
    run(room, "{taken:%Y/%m}/{name}")
    assert tree(room.library) == {
        "2024/05/b.jpg": content["a.jpg"],
        "2024/05/e.jpg": content["b.jpg"],
        "2024/05/d-1.jpg": content["c.jpg"],
        "2024/05/c.jpg": content["d.jpg"],
    }


def test_a_pair_keeps_one_stem_and_others_get_none_of_theirs(room: Room) -> None:
    room.put("x/a.jpg", jpeg(seed=9))
    room.drain()
    room.put("y/a.cr2", RAW)
    room.put("y/a.jpg", jpeg())
    room.drain()
    formats = {row["id"]: row["original_name"] for row in room.rows()}
    with room.catalogue.writing():
        # Script says that all are JPEGs.
        Image.update(destination="2024/05/a-1.cr2").where(Image.original_name == "a.cr2").execute()
        Image.update(datetime_original="2024-05-01T12:34:57").where(Image.folder == "x").execute()
    for path in (room.library / "2024/05").glob("*"):
        if path.read_bytes() == RAW:
            path.rename(path.with_name("a-1.cr2"))
    lie_now = {row["destination"] for row in room.rows()}
    assert {Path(str(path)).name for path in lie_now} >= {"a.jpg", "a-1.cr2"}, formats
    run(room)
    by_folder = {(row["folder"], row["original_name"]): str(row["destination"]) for row in room.rows()}
    pair = {Path(by_folder["y", name]).stem for name in ("a.cr2", "a.jpg")}
    assert len(pair) == 1
    assert Path(by_folder["x", "a.jpg"]).stem not in pair


def test_what_its_owner_has_put_somewhere_stays_there(full: FullRoom) -> None:
    for name in ("a.jpg", "b.jpg"):
        full.put(name, jpeg(seed=ord(name[0])))
        full.drain()
    (full.library / "wedding").mkdir()
    for name in ("a.jpg", "a.jpg.xmp"):
        (full.library / f"2024/05/{name}").rename(full.library / f"wedding/{name}")
    (full.library / "old").mkdir()
    (full.library / "old/c.jpg").write_bytes(jpeg(seed=3))
    full.app.follower.follow(adopt=True)
    plan = refile(full).plan()
    assert ([one.old for one in plan.moves], plan.kept) == (["2024/05/b.jpg"], 2)
    assert run(full, everything=True) == []
    assert sorted(name for name in tree(full.library) if name.endswith(".jpg")) == [
        f"2024/Canon EOS 40D/{name}.jpg" for name in "abc"
    ]
    assert refile(full, "{name}").plan().kept == 1, "what was adopted; what it has moved itself is no owner's move"


def test_what_cant_be_moved_says_why_and_the_others_move(room: Room) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        room.put(name, jpeg(seed=ord(name[0])))
    room.drain()
    (room.library / "2024/05/a.jpg").unlink()
    with room.catalogue.writing():
        Image.update(taken_at=None).where(Image.original_name == "b.jpg").execute()
    work = refile(room)
    plan = work.plan()
    assert sorted(plan.left) == [
        ("2024/05/a.jpg", "it is not there: darkroom sync looks for it"),
        ("2024/05/b.jpg", "no date of it is known"),
    ]
    c, d = sorted(plan.moves, key=lambda one: one.old)
    with (room.library / c.old).open("ab"), pytest.raises(Rejected, match="open for writing"):
        work.move(c)
    work.move(d)
    with pytest.raises(Rejected, match="has just changed"):
        work.move(d)
    work.move(c)
    assert sorted(tree(room.library)) == ["2024/05/b.jpg", "2024/Canon EOS 40D/c.jpg", "2024/Canon EOS 40D/d.jpg"]


def test_what_lies_in_a_private_folder_is_not_taken_out_of_it(room: Room) -> None:
    for name in ("Private/a.jpg", "b.jpg"):
        room.put(name, jpeg(seed=ord(name[-5])))
    room.drain()
    (room.library / "Private").mkdir()
    (room.library / "2024/05/b.jpg").rename(room.library / "Private/b.jpg")
    room.app.follower.follow()
    work = Refile(
        room.catalogue, room.app.mover, OTHER, everything=True, is_private=lambda folder: "Private" in folder.split("/")
    )
    plan = work.plan()
    assert plan.left == [("Private/b.jpg", "it lies in a private folder")]
    assert [one.old for one in plan.moves] == ["2024/05/a.jpg"], "this one is private by the folder that it came in"


def test_a_backup_of_hard_links_does_not_double(room: Room, tmp_path: Path) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    os.link(room.library / "2024/05/a.jpg", tmp_path / "backup.jpg")
    run(room)
    assert (room.library / "2024/Canon EOS 40D/a.jpg").samefile(tmp_path / "backup.jpg")


def test_what_was_edited_and_not_looked_at_yet_moves_as_it_is(full: FullRoom) -> None:
    full.put("a.jpg", jpeg())
    full.drain()
    edited = jpeg(seed=7)
    (full.library / "2024/05/a.jpg").write_bytes(edited)
    assert run(full) == []
    assert tree(full.library)["2024/Canon EOS 40D/a.jpg"] == edited
    assert full.app.follower.follow().edited == 1


def test_a_name_that_the_disk_refuses_becomes_a_plainer_one(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.put("a.jpg", jpeg())
    room.put("b.jpg", jpeg(seed=2))
    room.drain()
    original = atomic.place

    def place(fd: int, destination: atomic.Location, *more: Any) -> object:
        if ":" in destination.inside:
            raise NameRefused("exFAT holds no such name")
        return original(fd, destination, *more)

    monkeypatch.setattr(atomic, "place", place)
    template = "{taken:%H:%M}/{name}"
    work = refile(room, template)
    assert sorted(work.move(one) for one in work.plan().moves) == ["12_34/a.jpg", "12_34/b.jpg"]
    assert sorted(tree(room.library)) == ["12_34/a.jpg", "12_34/b.jpg"]
    plan = refile(room, template).plan()
    assert (plan.moves, plan.right) == ([], 2)


_KILLED = """
import sys
from pathlib import Path
from daemon import app
from daemon.catalogue import Catalogue
from daemon.catalogue.moves import MoveRows
from daemon.config import load
from daemon.files import atomic
from daemon.files.atomic import Entry
from daemon.filing.moves import Mover
from daemon.filing.refile import Refile
from tests.dying import die_at
from tests.support import Texts

config = load(Path(sys.argv[1]), {})
at, when = int(sys.argv[2]), sys.argv[3]
die_at(
    at, when,
    (MoveRows, "begin"), (atomic, "place"), (MoveRows, "commit"), (Entry, "unlink"),
    (Mover, "remove_emptied"), (MoveRows, "end"),
)
catalogue = Catalogue(config.folders.state / "darkroom.db")
work = Refile(catalogue, app.mover(config, catalogue, app.sidecars(config, catalogue, Texts())), sys.argv[4])
for one in work.plan().moves:
    work.move(one)
"""


@pytest.mark.parametrize("when", [slow("before"), "after"])
@pytest.mark.parametrize("step", rest_slow([2, 5, 1, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14], 2))
def test_killed_at_any_step_all_are_in_one_place(full: FullRoom, step: int, when: str) -> None:
    content = {}
    for name in ("a.jpg", "b.jpg"):
        content[name] = jpeg(seed=ord(name[0]))
        full.put(name, content[name])
        full.drain()
    full.put("a.aae", AAE)
    drain(full)
    words = [str(full.config.file), str(step), when, OTHER]
    died = subprocess.run([sys.executable, "-c", _KILLED, *words], env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    for one in (*content.values(), AAE):
        assert one in tree(full.library).values()
    full.app.mover.resume()
    full.app.mover.resume()
    found = {name: file for name, file in tree(full.library).items() if not name.endswith(".xmp")}
    assert sorted(found.values()) == sorted([*content.values(), AAE]), "in one place, whole"
    assert {row["destination"] for row in full.rows()} == {name for name in found if name.endswith(".jpg")}
    assert MoveRows(full.catalogue).journal() is None
    assert run(full) == []
    assert sorted(tree(full.library)) == [
        f"2024/Canon EOS 40D/{name}" for name in ("a.aae", "a.jpg", "a.jpg.xmp", "b.jpg", "b.jpg.xmp")
    ]
    assert [path for path in full.library.rglob("*") if path.name.startswith(".") or path.name == "05"] == []
    assert full.app.follower.follow().changes == 0


def test_the_command(tmp_path: Path) -> None:
    base = tmp_path / "room"
    (base / "inbox/trip").mkdir(parents=True)
    for number in range(2):
        (base / f"inbox/trip/{number}.jpg").write_bytes(jpeg(seed=number, taken="2024:05:01 12:34:56"))
    assert darkroom(base, "run", "--once").returncode == 0
    before = tree(base / "library")
    told = darkroom(base, "refile", "--template", "[{camera}/]{folder}/{name}", "--dry-run")
    assert told.stdout.splitlines() == [
        "2024/05/0.jpg → trip/0.jpg, with 1 file beside it",
        "2024/05/1.jpg → trip/1.jpg, with 1 file beside it",
        "2 photos would move; nothing was changed",
    ]
    assert tree(base / "library") == before
    done = darkroom(base, "refile", "--template", "[{camera}/]{folder}/{name}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 photos moved",
        'to file new photos like this, write under [filing] into config.toml: template = "[{camera}/]{folder}/{name}"',
    ]
    assert sorted(tree(base / "library")) == sorted(name.replace("2024/05", "trip") for name in before)
    document = json.loads(darkroom(base, "refile", "--json").stdout)
    assert [one["new"] for one in document["moved"]] == ["2024/05/0.jpg", "2024/05/1.jpg"]
    assert tree(base / "library").keys() == before.keys()


@pytest.mark.slow
def test_a_running_darkroom_files_on_meanwhile(tmp_path: Path) -> None:
    with Program(tmp_path / "room") as program:
        for number in range(60):
            (program.folders.inbox / f"{number}.jpg").write_bytes(jpeg(seed=number, taken="2024:05:01 12:34:56"))
        program.wait_for(done=60)
        wait_until(lambda: "template" in dict(program.query("SELECT key, value FROM setting")), what="the template")
        work = subprocess.Popen(
            [sys.executable, "-m", "daemon", "refile", "--template", "{taken:%Y}/{name}"],
            cwd=program.base,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(60, 90):
            (program.folders.inbox / f"{number}.jpg").write_bytes(jpeg(seed=number, taken="2024:05:01 12:34:56"))
            time.sleep(0.02)
        out, _ = work.communicate(timeout=60)
        assert work.returncode == 0, out
        program.wait_for(done=90)
        program.wait_for(failed=0)
        assert darkroom(program.base, "verify").returncode == 0
        photos = [name for name in tree(program.folders.library) if name.endswith(".jpg")]
        assert len(photos) == 90
        assert sum(name.startswith("2024/05/") for name in photos) <= 30
        assert program.stop() == 0
