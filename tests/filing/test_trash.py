"""What is thrown away lies in the trash whole, comes back whole, and is remembered; nothing is lost at any instant."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.moves import MoveRows
from daemon.catalogue.schema import Image
from daemon.errors import Rejected
from daemon.files import atomic
from daemon.files.atomic import Root
from daemon.filing.moves import Mover
from daemon.filing.removals import FILE, Removals
from daemon.filing.trash import Trash
from tests.captions.darkroom import FullRoom
from tests.program import darkroom, environment
from tests.support import Room, jpeg, slow, tree

FILED = "2024/05/a.jpg"


def trash(room: Room) -> Trash:
    return room.app.trash


def folder(room: Room) -> Path:
    return room.config.folders.trash


def file(room: Room, name: str, content: bytes | None = None) -> bytes:
    content = content or jpeg()
    room.put(name, content)
    room.drain()
    return content


def library(room: Room) -> dict[str, bytes]:
    """Return the library without what Darkroom writes: sidecars, and which bytes were removed."""
    return {name: content for name, content in tree(room.library).items() if not name.endswith((".xmp", FILE))}


def test_original_sidecar_and_companions_go_and_come_back(full: FullRoom) -> None:
    photo = jpeg()
    full.put("a.jpg", photo)
    full.put("a.aae", b"edits")
    for _ in range(3):
        full.drain(time.time() + 60)
    number = full.row()["id"]
    full.captions.edit(number, time.time(), title="Mine")
    full.caption()
    assert trash(full).reject(number) == f"trash/library/{FILED}"
    assert sorted(tree(folder(full))) == [f"library/2024/05/{name}" for name in ("a.aae", "a.jpg", "a.jpg.xmp")]
    assert sorted(tree(full.library)) == [FILE]
    assert full.rows() == [], "out of the lists"
    row = full.columns(number)
    assert (row["status"], row["place"], row["removed_from"]) == ("rejected", "trash", f"library/{FILED}")
    with pytest.raises(Rejected, match="is rejected already"):
        trash(full).reject(number)
    assert trash(full).restore(number) == f"library/{FILED}"
    assert tree(folder(full)) == {}
    assert library(full) == {FILED: photo, "2024/05/a.aae": b"edits"}
    row = full.columns(number)
    assert (row["status"], row["title"], row["removed_at"]) == ("done", "Mine", None)
    assert list(full.beside()) == ["library/2024/05/a.aae"]
    assert full.kinds(number)[-2:] == ["rejected", "restored"]
    assert full.app.follower.follow().changes == 0


def test_rejected_bytes_are_kept_out_until_they_are_restored(room: Room) -> None:
    photo = file(room, "a.jpg")
    trash(room).reject(1)
    assert Removals(Root(room.library)).read()[room.columns(1)["sha256"]].kind == "rejected"
    file(room, "again.jpg", photo)
    again = room.columns(2)
    assert (again["status"], again["duplicate_of"]) == ("duplicate", 1)
    assert "you threw this away on" in again["warning"]
    assert "darkroom restore 1" in again["warning"]
    assert trash(room).restore(2) == f"library/{FILED}", "that copy means that image"
    assert library(room) == {FILED: photo}
    assert Removals(Root(room.library)).read() == {}


def test_deleted_bytes_are_kept_out_and_filed_again_out_of_the_copy(full: FullRoom) -> None:
    photo = file(full, "a.jpg")
    full.captions.edit(1, time.time(), caption="Mine")
    (full.library / FILED).unlink()
    file(full, "trip/again.jpg", photo)
    assert full.columns(1)["status"] == "deleted", "looked for at the moment of need"
    assert "you deleted this from the library on" in full.columns(2)["warning"]
    assert tree(full.duplicates)["trip/again.jpg"] == photo
    assert trash(full).restore(1) == f"library/{FILED}"
    assert (library(full), tree(full.duplicates)) == ({FILED: photo}, {})
    assert (full.columns(1)["status"], full.columns(1)["caption"]) == ("done", "Mine")
    assert (full.columns(2)["place"], full.columns(2)["duplicate_of"]) == (None, 1)


@pytest.mark.parametrize("duplicates", ["keep", "delete"])
def test_no_copy_is_deleted_of_what_is_not_in_the_library(tmp_path: Path, duplicates: str) -> None:
    room = Room(tmp_path / "room", f'[filing]\nduplicates = "{duplicates}"\n')
    photo = file(room, "a.jpg")
    (room.library / FILED).unlink()
    file(room, "b.jpg", photo)
    assert tree(room.duplicates) == {"b.jpg": photo}
    other = file(room, "c.jpg")
    (room.library / "2024/05/c.jpg").write_bytes(jpeg((90, 70)))
    file(room, "d.jpg", other)
    assert tree(room.duplicates) == {"b.jpg": photo, "d.jpg": other}
    assert "before you edited it" in str(room.row_of("d.jpg")["warning"])
    room.close()


def test_file_again_files_it_again(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[filing]\ndeleted = "file again"\n')
    photo = file(room, "a.jpg")
    (room.library / FILED).unlink()
    file(room, "b.jpg", photo)
    assert library(room) == {"2024/05/b.jpg": photo}
    assert [(row["id"], row["status"]) for row in room.rows()] == [(2, "done")]
    room.close()


def test_beside_a_rotten_copy_the_good_one_is_filed_and_that_is_said_once(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[filing]\nduplicates = "delete"\n')
    photo = file(room, "a.jpg")
    was = (room.library / FILED).stat()
    (room.library / FILED).write_bytes(photo[:-1] + bytes([photo[-1] ^ 1]))
    os.utime(room.library / FILED, ns=(was.st_atime_ns, was.st_mtime_ns))
    file(room, "trip/a.jpg", photo)
    assert library(room)["2024/05/a-1.jpg"] == photo
    assert [row["status"] for row in room.rows()] == ["done", "done"]
    assert "rotted" in str(room.columns(1)["warning"])
    file(room, "more/a.jpg", photo)
    assert len(library(room)) == 2, "of the good one it is a copy like any other"
    assert room.kinds(1) == ["queued", "done", "changed"]
    room.close()


def test_a_queued_photo_is_withdrawn_and_goes_back_into_the_queue(room: Room) -> None:
    photo = jpeg()
    room.put("trip/a.jpg", photo)
    room.scan()
    assert trash(room).reject(1) == "trash/inbox/trip/a.jpg"
    assert (tree(room.inbox), tree(folder(room))) == ({}, {"inbox/trip/a.jpg": photo})
    room.drain()
    assert (tree(room.library), room.columns(1)["status"]) == ({FILE: tree(room.library)[FILE]}, "rejected")
    assert trash(room).restore(1) == "inbox/trip/a.jpg"
    room.scan()
    assert [(row["id"], row["status"]) for row in room.rows()] == [(1, "queued")]
    room.drain()
    assert library(room) == {FILED: photo}
    assert room.columns(1)["status"] == "done"


def test_what_is_open_for_writing_stays_in_the_queue(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.scan()
    with (room.inbox / "a.jpg").open("ab"), pytest.raises(Rejected, match="open for writing"):
        trash(room).reject(1)
    assert (room.columns(1)["status"], tree(folder(room))) == ("queued", {})
    assert MoveRows(room.catalogue).journal() is None


def test_a_failure_that_is_taken_back_has_nothing_beside_it_but_its_reason(full: FullRoom) -> None:
    full.put("poem.txt", b"no photo")
    full.decoder.errors["poem.txt"] = [Rejected("not an image")]
    full.drain()
    before = tree(full.failed)
    trash(full).reject(1)
    trash(full).restore(1)
    full.caption()
    assert tree(full.failed) == before


def test_failed_and_duplicates_alike(room: Room) -> None:
    photo = file(room, "a.jpg")
    file(room, "twin.jpg", photo)
    room.decoder.errors["poem.txt"] = [Rejected("not an image")]
    file(room, "poem.txt", b"roses")
    before = {**tree(room.failed), **tree(room.duplicates)}
    for number in (2, 3):
        trash(room).reject(number)
    assert (tree(room.failed), tree(room.duplicates)) == ({}, {})
    assert sorted(tree(folder(room))) == ["duplicates/twin.jpg", "failed/poem.txt", "failed/poem.txt.reason.txt"]
    for number in (2, 3):
        trash(room).restore(number)
    assert {**tree(room.failed), **tree(room.duplicates)} == before
    assert [row["status"] for row in room.rows()] == ["done", "duplicate", "failed"]


def test_nothing_is_overwritten_on_the_way_back(room: Room) -> None:
    photo = file(room, "a.jpg")
    trash(room).reject(1)
    other = file(room, "a.jpg")
    assert trash(room).restore(1) == "library/2024/05/a-1.jpg"
    assert library(room) == {FILED: other, "2024/05/a-1.jpg": photo}


def test_a_name_that_becomes_another_row_s_in_the_last_moment_is_left_to_it(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(room, "a.jpg")
    trash(room).reject(1)
    room.put("a.jpg", jpeg(seed=2))
    room.scan()
    original = atomic.place

    def place(*args: Any) -> object:
        # As the consumer does just now in another process: it is about to file its photo there.
        with room.catalogue.writing():
            Image.update(status="processing", place="library", destination=FILED).where(Image.id == 2).execute()
        return original(*args)

    monkeypatch.setattr(atomic, "place", place)
    before = tree(folder(room))
    with pytest.raises(Rejected, match="has just become another's; try again"):
        trash(room).restore(1)
    assert (tree(folder(room)), library(room)) == (before, {})
    assert room.columns(1)["status"] == "rejected"
    assert MoveRows(room.catalogue).journal() is None


def test_what_cant_be_done_says_why(room: Room) -> None:
    file(room, "a.jpg")
    with pytest.raises(Rejected, match="there is no image 9"):
        trash(room).reject(9)
    with pytest.raises(Rejected, match="nothing to take back"):
        trash(room).restore(1)
    (room.library / FILED).unlink()
    with pytest.raises(Rejected, match="darkroom sync looks for it"):
        trash(room).reject(1)
    room.app.follower.follow()
    with pytest.raises(Rejected, match="no copy of it in duplicates"):
        trash(room).restore(1)


def test_the_trash_is_emptied_only_when_somebody_says_so(room: Room) -> None:
    photo = file(room, "a.jpg")
    trash(room).reject(1)
    [row] = trash(room).listed(time.time())
    assert trash(room).listed(time.time() - 3600) == []
    trash(room).purge(row)
    assert list(folder(room).iterdir()) == []
    file(room, "b.jpg", photo)
    assert room.columns(2)["status"] == "duplicate", "its bytes are remembered"
    assert trash(room).restore(1) == f"library/{FILED}", "and the copy is filed"


def test_another_file_in_the_trash_is_not_deleted(room: Room) -> None:
    file(room, "a.jpg")
    trash(room).reject(1)
    (folder(room) / "library" / FILED).write_bytes(b"mine")
    [row] = trash(room).listed(time.time())
    with pytest.raises(Rejected, match="another file than was thrown away"):
        trash(room).purge(row)
    assert tree(folder(room)) == {f"library/{FILED}": b"mine"}


def test_a_companion_that_is_gone_does_not_stand_in_the_way(full: FullRoom) -> None:
    full.put("a.jpg", jpeg())
    full.put("a.aae", b"edits")
    for _ in range(3):
        full.drain(time.time() + 60)
    (full.library / "2024/05/a.aae").unlink()
    trash(full).reject(full.row()["id"])
    assert sorted(tree(folder(full))) == [f"library/{FILED}", f"library/{FILED}.xmp"]


def test_the_old_name_stays_where_the_new_one_was_taken_away_meanwhile(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    photo = file(room, "a.jpg")
    monkeypatch.setattr(Mover, "_remove", die)
    with pytest.raises(KeyboardInterrupt):
        trash(room).reject(1)
    monkeypatch.undo()
    (folder(room) / "library" / FILED).unlink()
    room.app.mover.resume()
    assert library(room) == {FILED: photo}
    assert room.app.follower.follow().came_back == 1
    assert (room.columns(1)["status"], room.columns(1)["place"]) == ("done", "library")


_KILLED = """
import os, signal, sys
from pathlib import Path
from daemon import app
from daemon.catalogue import Catalogue
from daemon.catalogue.moves import MoveRows
from daemon.config import load
from daemon.files import atomic
from daemon.files.atomic import Entry
from daemon.filing.trash import Trash
from tests.dying import die_at
from tests.support import Texts

config = load(Path(sys.argv[1]), {})
at, when, act = int(sys.argv[2]), sys.argv[3], sys.argv[4]
die_at(
    at, when,
    (MoveRows, "begin"), (atomic, "place"), (MoveRows, "commit"), (Entry, "unlink"), (MoveRows, "end"),
)
catalogue = Catalogue(config.folders.state / "darkroom.db")
getattr(Trash(app.mover(config, catalogue, app.sidecars(config, catalogue, Texts()))), act)(1)
"""


@pytest.mark.parametrize("when", [slow("before"), "after"])
@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("act", ["reject", "restore", "withdraw"])
def test_killed_at_any_step_it_is_in_one_place(room: Room, step: int, when: str, act: str) -> None:
    photo = jpeg()
    room.put("a.jpg", photo)
    room.scan()
    if act != "withdraw":
        room.drain()
    if act == "restore":
        trash(room).reject(1)
    words = [str(room.config.file), str(step), when, "restore" if act == "restore" else "reject"]
    died = subprocess.run([sys.executable, "-c", _KILLED, *words], env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    where = {"library": room.library, "trash": folder(room), "inbox": room.inbox}
    assert photo in [content for path in where.values() for content in tree(path).values()]
    room.app.mover.resume()
    room.app.mover.resume()
    found = [name for name, path in where.items() for content in tree(path).values() if content == photo]
    assert len(found) == 1, "in one place, whole"
    row = room.columns(1)
    assert (row["status"], row["place"]) == {
        "library": ("done", "library"),
        "trash": ("rejected", "trash"),
        "inbox": ("queued", None),
    }[found[0]]
    assert [path for one in where.values() for path in one.rglob(".darkroom*")] == []
    assert MoveRows(room.catalogue).journal() is None


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    base = tmp_path / "room"
    (base / "inbox").mkdir(parents=True)
    (base / "inbox/a.jpg").write_bytes(jpeg())
    assert darkroom(base, "run", "--once").returncode == 0
    assert darkroom(base, "reject", "1", "7").returncode == 1
    assert "library" in darkroom(base, "trash").stdout
    assert darkroom(base, "restore", "1").stdout.startswith("image 1: library/")
    assert darkroom(base, "reject", "1").returncode == 0
    assert darkroom(base, "trash", "--older-than", "1w").stdout == "0 images deleted for good\n"
    assert darkroom(base, "verify").returncode == 0
