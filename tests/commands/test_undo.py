"""`undo` gives the photos back under the names they came with, loses nothing, and can be killed at any instant."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.moves import MoveRows
from daemon.commands.undo import Undo
from daemon.errors import Busy, EnvironmentFault, Rejected
from daemon.files import atomic
from daemon.filing.moves import Mover
from tests.captions.darkroom import FullRoom
from tests.program import darkroom, environment
from tests.support import Room, jpeg, rest_slow, slow, tree


def undo(room: Room) -> Undo:
    return Undo(room.catalogue, room.app.mover)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_photo_comes_out_under_the_name_it_came_with(room: Room, out: Path) -> None:
    photo = jpeg()
    room.put("trip/IMG 1.JPEG", photo)
    room.drain()
    filed = room.library / "2024/05/IMG 1.JPEG"
    was = filed.stat()
    assert undo(room).out(1, out) == out / "trip/IMG 1.JPEG"
    assert tree(out) == {"trip/IMG 1.JPEG": photo}
    assert (out / "trip/IMG 1.JPEG").stat().st_mtime_ns == was.st_mtime_ns
    assert tree(room.library) == {}
    assert tree(room.state / "thumbnails") == {}
    assert room.rows() == []
    assert room.kinds(1) == ["queued", "done", "undone"]
    assert MoveRows(room.catalogue).journal() is None


def test_put_back_it_is_filed_anew_and_is_no_duplicate(room: Room, out: Path) -> None:
    photo = jpeg()
    room.put("a.jpg", photo)
    room.drain()
    undo(room).out(1, out)
    room.put("a.jpg", (out / "a.jpg").read_bytes())
    room.drain()
    assert [(row["id"], row["status"]) for row in room.rows()] == [(2, "done")]
    assert tree(room.library) == {"2024/05/a.jpg": photo}


def test_nothing_is_overwritten(room: Room, out: Path) -> None:
    (out / "a.jpg").write_bytes(b"mine")
    photo = jpeg()
    room.put("a.jpg", photo)
    room.drain()
    assert undo(room).out(1, out) == out / "a-1.jpg"
    assert tree(out) == {"a.jpg": b"mine", "a-1.jpg": photo}


def test_another_filesystem(room: Room) -> None:
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == room.library.stat().st_dev:
        pytest.skip("needs two filesystems")
    to = Path(f"/dev/shm/darkroom-test-{os.getpid()}")
    to.mkdir()
    try:
        photo = jpeg()
        room.put("a.jpg", photo)
        room.drain()
        undo(room).out(1, to)
        assert tree(to) == {"a.jpg": photo}
        assert tree(room.library) == {}
    finally:
        shutil.rmtree(to)


def test_its_sidecar_and_its_companions_come_along(tmp_path: Path, out: Path) -> None:
    room = FullRoom(tmp_path / "room")
    photo = jpeg()
    room.put("trip/a.jpg", photo)
    room.put("trip/a.aae", b"edits")
    for _ in range(3):
        room.drain(time.time() + 60)
    assert sorted(tree(room.library)) == ["2024/05/a.aae", "2024/05/a.jpg", "2024/05/a.jpg.xmp"]
    [row] = room.rows()
    undo(room).out(int(str(row["id"])), out)
    found = tree(out)
    assert sorted(found) == ["trip/a.aae", "trip/a.jpg", "trip/a.jpg.xmp"]
    assert (found["trip/a.jpg"], found["trip/a.aae"]) == (photo, b"edits")
    assert tree(room.library) == {}
    room.close()


def test_duplicates_come_out_too_and_lose_their_original(room: Room, out: Path) -> None:
    photo = jpeg()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        room.put(name, photo)
        room.drain()
    assert undo(room).out(1, out) == out / "a.jpg"
    assert [(row["id"], row["duplicate_of"]) for row in room.rows()] == [(2, None), (3, None)]
    assert room.kinds(2)[-1] == "original gone"
    assert len(tree(room.state / "thumbnails")) == 2, "the duplicates show them still"
    undo(room).out(2, out)
    undo(room).out(3, out)
    assert tree(out) == {"a.jpg": photo, "b.jpg": photo, "c.jpg": photo}
    assert tree(room.duplicates) == {}
    assert tree(room.state / "thumbnails") == {}


def test_what_cant_be_undone_says_why(room: Room, out: Path) -> None:
    room.decoder.errors["poem.txt"] = [Rejected("not an image")]
    room.put("poem.txt", b"roses")
    room.put("a.jpg", jpeg())
    room.drain()
    failed, filed = (int(str(room.row_of(name)["id"])) for name in ("poem.txt", "a.jpg"))
    with pytest.raises(Rejected, match="darkroom retry"):
        undo(room).out(failed, out)
    with pytest.raises(Rejected, match="no image 99"):
        undo(room).out(99, out)
    with pytest.raises(Rejected, match="lies in the inbox folder"):
        undo(room).out(filed, room.inbox)
    with pytest.raises(Rejected, match="lies in the library folder"):
        undo(room).out(filed, room.library / "2024")
    (room.library / "2024/05/a.jpg").unlink()
    with pytest.raises(Rejected, match="is gone"):
        undo(room).out(filed, out)
    assert tree(out) == {}


def test_a_folder_that_cant_be_written_leaves_all_as_it_was(room: Room, tmp_path: Path) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    with pytest.raises(EnvironmentFault):
        undo(room).out(1, tmp_path / "gone")
    assert room.row()["status"] == "done"
    assert len(tree(room.library)) == 1
    assert MoveRows(room.catalogue).journal() is None, "nothing stands in the way of the next start"
    (tmp_path / "gone").mkdir()
    undo(room).out(1, tmp_path / "gone")
    assert sorted(tree(tmp_path / "gone")) == ["a.jpg"]


def test_since_means_what_was_filed_since(room: Room) -> None:
    for name in ("a.jpg", "b.jpg"):
        room.put(name, jpeg())
        room.drain()
    moment = float(str(room.row_of("b.jpg")["processed_at"]))
    assert undo(room).since(moment) == [2]
    assert undo(room).since(0) == [1, 2]


_KILLED = """
import os, signal, sys
from pathlib import Path
from daemon import app
from daemon.files import atomic
from daemon.files.atomic import Entry
from daemon.commands.undo import Undo
from daemon.catalogue import Catalogue
from daemon.catalogue.moves import MoveRows
from daemon.config import load
from tests.dying import die_at
from tests.support import Texts

config = load(Path(sys.argv[1]), {})
at, when = int(sys.argv[2]), sys.argv[3]
die_at(
    at, when,
    (MoveRows, "begin"), (atomic, "place"), (MoveRows, "commit"), (Entry, "unlink"),
    (Path, "unlink"), (MoveRows, "end"),
)
catalogue = Catalogue(config.folders.state / "darkroom.db")
Undo(catalogue, app.mover(config, catalogue, app.sidecars(config, catalogue, Texts()))).out(1, Path(sys.argv[4]))
"""


# Before a step is all but after the one before it.
@pytest.mark.parametrize("when", [slow("before"), "after"])
@pytest.mark.parametrize("step", rest_slow([3, 6, 1, 2, 4, 5, 7], 2))
def test_killed_at_any_step_the_photo_is_never_nowhere(room: Room, out: Path, step: int, when: str) -> None:
    photo = jpeg()
    room.put("a.jpg", photo)
    room.drain()
    words = [str(room.config.file), str(step), when, str(out)]
    died = subprocess.run([sys.executable, "-c", _KILLED, *words], env=environment(), check=False)
    assert died.returncode == -signal.SIGKILL
    assert photo in [*tree(room.library).values(), *tree(out).values()]
    room.app.mover.resume()
    room.app.mover.resume()
    assert [*tree(room.library).values(), *tree(out).values()] == [photo], "in one place, whole"
    assert bool(room.rows()) is bool(tree(room.library)), "and the catalogue knows which"
    assert list(out.rglob(".*")) == []
    assert MoveRows(room.catalogue).journal() is None


def test_killed_and_the_emptied_folder_deleted_it_still_ends(
    room: Room, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    room.put("a.jpg", jpeg())
    room.drain()
    monkeypatch.setattr(Mover, "_remove_thumbnails", die)
    with pytest.raises(KeyboardInterrupt):
        undo(room).out(1, out)
    monkeypatch.undo()
    (room.library / "2024/05").rmdir()
    room.app.mover.resume()
    assert MoveRows(room.catalogue).journal() is None
    assert list(tree(out)) == ["a.jpg"]


def test_a_name_that_is_taken_at_the_last_moment(room: Room, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    original = atomic.place

    def place(*args: Any) -> None:
        (out / "a.jpg").write_bytes(b"somebody else's")
        original(*args)

    monkeypatch.setattr(atomic, "place", place)
    with pytest.raises(Rejected, match="has taken the name"):
        undo(room).out(1, out)
    assert tree(out) == {"a.jpg": b"somebody else's"}
    assert room.row()["status"] == "done"
    assert len(tree(room.library)) == 1


def test_two_at_a_time_are_one_too_many(room: Room, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    monkeypatch.setattr("daemon.filing.moves._BUSY_SECONDS", 0.0)
    with room.app.mover.alone(), pytest.raises(Busy):
        undo(room).out(1, out)
    undo(room).out(1, out)


def test_what_was_said_to_be_done_is_done_and_saying_it_changes_nothing(tmp_path: Path, out: Path) -> None:
    room = FullRoom(tmp_path / "room")
    room.put("trip/a.jpg", jpeg())
    room.put("trip/a.aae", b"edits")
    for _ in range(3):
        room.drain(time.time() + 60)
    room.put("trip/a.jpg", jpeg(seed=2))
    room.drain()
    numbers = [row["id"] for row in room.rows()]
    before, asked = (tree(room.library), room.rows()), undo(room)
    said = [path for number in numbers for path in asked.would_go(number, out)]
    assert [str(path.relative_to(out)) for path in said] == [
        *("trip/a.jpg", "trip/a.aae", "trip/a.jpg.xmp"),
        *("trip/a-1.jpg", "trip/a-1.jpg.xmp"),
    ]
    assert (tree(room.library), room.rows()) == before
    assert list(out.iterdir()) == []
    for number in numbers:
        undo(room).out(number, out)
    assert sorted(tree(out)) == sorted(str(path.relative_to(out)) for path in said)
    room.close()


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    base = tmp_path / "room"
    (base / "inbox/trip").mkdir(parents=True)
    photos = {f"trip/{number}.jpg": jpeg(seed=number) for number in range(3)}
    for name, content in photos.items():
        (base / "inbox" / name).write_bytes(content)
    assert darkroom(base, "run", "--once").returncode == 0
    wrong = darkroom(base, "undo", "1", "--since", "1h", "--to", "out")
    assert wrong.returncode == 2
    assert darkroom(base, "undo", "--since", "soon", "--to", "out").returncode == 2
    slip = darkroom(base, "undo", "99", "--to", "out")
    assert (slip.returncode, slip.stderr, (base / "out").exists()) == (1, "there is no image 99\n", False)
    assert darkroom(base, "undo", "1", "99", "--to", "out").returncode == 1
    told = darkroom(base, "undo", "--since", "1h", "--to", "out/back", "--dry-run")
    assert told.stdout.splitlines()[0] == f"image 2: {base}/out/back/trip/1.jpg", told.stderr
    assert told.stdout.endswith("\n2 images would be moved out; nothing was changed\n")
    assert not (base / "out/back").exists()
    done = darkroom(base, "undo", "--since", "1h", "--to", "out")
    assert done.returncode == 0, done.stderr
    assert "2 images moved out" in done.stdout
    assert {name: content for name, content in tree(base / "out").items() if not name.endswith(".xmp")} == photos
    assert darkroom(base, "verify").returncode == 0
    assert "undone: moved out to" in darkroom(base, "explain", "2").stdout
