"""What start-up makes of each thing that a crash can leave; the campaigns find out whether these are all."""

import errno
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from daemon.catalogue.schema import Facts
from daemon.errors import DiskFull, EnvironmentFault, Rejected
from daemon.files import atomic
from daemon.files.atomic import Entry, Root, temporary
from daemon.filing.consumer import Turn
from tests.support import Room, tree


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is tidied up."""


def kill_at(monkeypatch: pytest.MonkeyPatch, target: str, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    def die(*args: object, **kwargs: object) -> None:
        if when(*args, **kwargs):
            raise Killed

    monkeypatch.setattr(target, die)


@pytest.mark.parametrize(
    "target",
    [
        "daemon.filing.thumbnail_store.ThumbnailStore.save",
        "daemon.catalogue.Queue.plan",
        "daemon.files.atomic.place",
        "daemon.files.opening.Entry.fsync_folder",
        "daemon.catalogue.Queue.finish",
        "daemon.filing.filing.Filing.leave",
        "daemon.catalogue.Queue.left",
    ],
)
def test_killed_at_each_step_nothing_is_lost_or_doubled(
    room: Room, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    room.put("a.jpg", b"a")
    room.scan()
    with monkeypatch.context() as patch:
        kill_at(patch, target)
        with pytest.raises(Killed):
            room.consumer.run_once(time.time())
    room.recover()
    room.drain(time.time() + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"a"}
    assert (tree(room.inbox), tree(room.duplicates), tree(room.failed)) == ({}, {}, {})
    assert [row["status"] for row in room.rows()] == ["done"]
    assert room.row()["path"] is None


@pytest.mark.parametrize(
    "target", ["daemon.files.atomic.place", "daemon.catalogue.Queue.finish", "daemon.catalogue.Queue.left"]
)
def test_a_failing_image_survives_a_kill_too(room: Room, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    room.put("a.jpg", b"a")
    room.decoder.errors["a.jpg"] = [Rejected("no image"), Rejected("no image")]
    room.scan()
    with monkeypatch.context() as patch:
        kill_at(patch, target)
        with pytest.raises(Killed):
            room.consumer.run_once(time.time())
    room.recover()
    room.drain(time.time() + 60)
    assert sorted(tree(room.failed)) == ["a.jpg", "a.jpg.reason.txt"]
    assert tree(room.inbox) == {}
    assert room.row()["status"] == "failed"


def test_another_file_of_the_name_is_not_taken_for_the_one_that_left(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = room.put("a.jpg", b"old")
    room.scan()
    with monkeypatch.context() as patch:
        kill_at(patch, "daemon.filing.filing.Filing.leave")
        with pytest.raises(Killed):
            room.consumer.run_once(time.time())
    path.unlink()
    path.write_bytes(b"new")
    room.recover()
    room.drain(time.time() + 60)
    assert sorted(tree(room.library).values()) == [b"new", b"old"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path / "room", sidecars=True)
    room.put("a.jpg", b"a")
    room.scan()
    with monkeypatch.context() as patch:
        kill_at(patch, "daemon.catalogue.Queue.finish")
        with pytest.raises(Killed):
            room.consumer.run_once(time.time())
    sha256 = hashlib.sha256(b"a").hexdigest()
    left = [
        room.library / "2024/05" / temporary(1),
        room.library / "2024/05" / temporary("1.xmp"),
        room.state / "thumbnails" / temporary(sha256),
    ]
    others = [room.library / "2024/05" / temporary(12), room.library / "2024/05/.darkroom-1-of mine.jpg"]
    for path in left + others:
        path.write_bytes(b"half")
    room.recover()
    room.drain(time.time() + 60)
    assert [path.name for path in left if path.exists()] == []
    assert all(path.exists() for path in others)
    room.close()


def test_a_copy_that_was_cut_off_leaves_no_temporary(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.scan()
    job = room.queue.claim(time.time())
    assert job is not None
    (room.library / "2024/05").mkdir(parents=True)
    assert room.queue.plan(job, "library", "2024/05/a.jpg", Facts("0" * 64))
    (room.library / f"2024/05/.darkroom-{job.id}-0123456789abcdef.part").write_bytes(b"half")
    room.recover()
    assert tree(room.library) == {}
    room.drain(time.time() + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"a"}


def test_what_kills_each_recovery_is_left_out_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path / "room", "[limits]\nattempts = 2\n", sidecars=True)
    room.put("a.jpg", b"a")
    room.scan()
    with monkeypatch.context() as patch:
        kill_at(patch, "daemon.sidecar.sidecars.Sidecars.write")
        with pytest.raises(Killed):
            room.consumer.run_once(time.time())
        for _ in range(2):
            with pytest.raises(Killed):
                room.recover()
        room.recover()
        assert tree(room.library) == {"2024/05/a.jpg": b"a"}
    assert (room.row()["status"], room.row()["attempts"]) == ("done", 1)
    # That is over: the next one is not held to account for it.
    room.recover()
    assert room.stored.begin_recovery(1) == 1
    room.close()


def test_somebody_elses_file_at_the_destination_is_left_alone(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.scan()
    job = room.queue.claim(time.time())
    assert job is not None
    assert room.queue.plan(job, "library", "2024/05/a.jpg", Facts("0" * 64))
    (room.library / "2024/05").mkdir(parents=True)
    (room.library / "2024/05/a.jpg").write_bytes(b"mine")
    room.recover()
    room.drain(time.time() + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"mine", "2024/05/a-1.jpg": b"a"}


def failed(room: Room) -> int:
    room.put("sub/a.jpg", b"a")
    room.decoder.errors["a.jpg"] = [Rejected("no image")]
    room.drain()
    return 1


def test_retry_brings_the_file_back_into_the_inbox(room: Room) -> None:
    room.requeue.retry(failed(room))
    assert (tree(room.inbox), tree(room.failed)) == ({"sub/a.jpg": b"a"}, {})
    room.drain()
    assert tree(room.library) == {"2024/05/a.jpg": b"a"}
    assert room.row()["id"] == 1


def test_retry_leaves_a_newer_file_of_the_name_alone(room: Room) -> None:
    image_id = failed(room)
    room.put("sub/a.jpg", b"other")
    room.requeue.retry(image_id)
    assert tree(room.inbox) == {"sub/a.jpg": b"other", "sub/a-1.jpg": b"a"}
    room.drain()
    assert sorted(tree(room.library).values()) == [b"a", b"other"]


@pytest.mark.parametrize(
    "target",
    [
        "daemon.filing.recovery.Requeue._appear",
        "daemon.files.opening.Entry.fsync_folder",
        "daemon.catalogue.Queue.returned",
    ],
)
def test_retry_survives_a_kill(room: Room, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    image_id = failed(room)
    with monkeypatch.context() as patch:
        kill_at(patch, target)
        with pytest.raises(Killed):
            room.requeue.retry(image_id)
    room.recover()
    room.drain(time.time() + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"a"}
    assert (tree(room.inbox), tree(room.failed)) == ({}, {})


def test_retry_says_what_it_can_not_do(room: Room) -> None:
    with pytest.raises(Rejected, match="not a failed one"):
        room.requeue.retry(99)
    image_id = failed(room)
    (room.failed / "sub/a.jpg").unlink()
    with pytest.raises(Rejected, match="is gone"):
        room.requeue.retry(image_id)


def test_a_row_that_has_returned_is_not_touched_by_another_retry(room: Room) -> None:
    image_id = failed(room)
    room.requeue.retry(image_id)
    room.drain()
    before = room.row()
    assert (before["status"], before["place"]) == ("done", "library")
    room.queue.returned(image_id, time.time())
    assert not room.queue.again(image_id, "b.jpg", time.time(), returning=True)
    assert room.row() == before


@pytest.mark.parametrize("step", ["_place", "unlink"])
def test_a_retry_that_a_disk_refuses_leaves_the_image_failed(
    room: Room, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    image_id, failed_root = failed(room), room.filing.roots["failed"]
    before = room.row()
    with monkeypatch.context() as patch:
        if step == "_place":
            patch.setattr("daemon.files.opening.Entry.fsync_folder", _refuse)
        else:
            unlink = Entry.unlink
            patch.setattr(Entry, "unlink", lambda name: _refuse() if name.where.root == failed_root else unlink(name))
        with pytest.raises(EnvironmentFault):
            room.requeue.retry(image_id)
    after = room.row()
    assert {key: after[key] for key in ("status", "error", "place", "destination", "path")} == {
        key: before[key] for key in ("status", "error", "place", "destination", "path")
    }
    assert (tree(room.inbox), "sub/a.jpg" in tree(room.failed)) == ({}, True)
    room.requeue.retry(image_id)
    room.drain()
    assert tree(room.library) == {"2024/05/a.jpg": b"a"}
    assert (tree(room.inbox), tree(room.failed), tree(room.duplicates)) == ({}, {}, {})


@pytest.mark.parametrize("kind", ["linked", "copied", "a link"])
def test_what_can_not_be_made_durable_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source, folder = tmp_path / "source" / "a.jpg", tmp_path / "library"
    source.parent.mkdir()
    folder.mkdir()
    if kind == "a link":
        source.symlink_to("elsewhere")
    else:
        source.write_bytes(b"a")
    if kind == "copied":
        source.chmod(0o666)
    monkeypatch.setattr("daemon.files.opening.Entry.fsync_folder", _refuse)
    with (Root(source.parent) / "a.jpg").entry() as entry, ExitStack() as opened:
        place: Callable[[], object]
        if kind == "a link":
            place = partial(atomic.place_node, entry, entry.lstat(), Root(folder) / "a.jpg")
        else:
            fd = entry.open()
            opened.callback(os.close, fd)
            place = partial(atomic.place, fd, Root(folder) / "a.jpg", 1, hashlib.sha256(b"a").hexdigest())
        with pytest.raises(EnvironmentFault):
            place()
    assert os.listdir(folder) == []
    assert os.path.lexists(source)


def test_a_retry_without_room_leaves_the_same_photo_that_came_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = failed(room)

    def place(*_: object) -> None:
        room.put("sub/a.jpg", b"a")
        raise DiskFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "place", place)
        with pytest.raises(DiskFull):
            room.requeue.retry(image_id)
    assert tree(room.inbox) == {"sub/a.jpg": b"a"}
    assert "sub/a.jpg" in tree(room.failed)


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_library_on_another_mount_than_it_was_is_not_filed_into(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.put("a.jpg", b"a")
    room.drain()
    hidden = room.library.with_name("hidden")
    room.library.rename(hidden)
    room.library.mkdir()
    elsewhere = {room.library: Path("/mnt/disk")}
    monkeypatch.setattr("daemon.files.mounts.mount_point", lambda path: elsewhere.get(path, Path("/")))
    again = Room(room.library.parent)
    again.put("b.jpg", b"b")
    assert again.drain() == [Turn.PAUSED]
    assert "not mounted" in str(again.consumer.paused)
    os.rmdir(room.library)
    hidden.rename(room.library)
    assert again.drain(time.time() + 60) == [Turn.FILED, Turn.IDLE], "the files are there, so the move was meant"
