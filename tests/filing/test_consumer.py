import contextlib
import hashlib
import importlib
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.schema import Job
from daemon.errors import EnvironmentFault, InternalError, Rejected, Transient
from daemon.files import atomic
from daemon.files.atomic import Location, Root
from daemon.filing.cleanup import Cleanup
from daemon.filing.consumer import Turn
from tests.support import Room, jpeg, tree, wait_until


def test_a_photo_comes_out_filed(room: Room) -> None:
    photo = jpeg()
    room.put("IMG_1.jpg", photo)
    assert room.drain() == [Turn.FILED, Turn.IDLE]
    assert tree(room.library) == {"2024/05/IMG_1.jpg": photo}
    assert tree(room.inbox) == {}
    row = room.row()
    assert (row["status"], row["path"], row["place"], row["destination"]) == (
        "done",
        None,
        "library",
        "2024/05/IMG_1.jpg",
    )
    assert (row["taken_at"], row["taken_from"], row["attempts"]) == ("2024-05-01T12:34:56", "exif", 1)
    assert room.kinds() == ["queued", "done"]
    assert {path.name[-8:] for path in (room.state / "thumbnails").rglob("*.jpg")} == {"-200.jpg", "-800.jpg"}


def test_what_nothing_decodes_is_filed_by_its_date_without_thumbnails(room: Room) -> None:
    photo = jpeg()
    room.decoder.not_shown.add("IMG_1.x3f")
    room.put("IMG_1.x3f", photo)
    assert room.drain() == [Turn.FILED, Turn.IDLE]
    assert list(tree(room.library).values()) == [photo]
    row = room.row()
    assert (row["status"], row["place"], row["width"], row["error"]) == ("done", "library", None, None)
    assert row["warning"] == "has no thumbnail: nothing decodes it"
    assert (row["taken_at"], row["caption_status"], row["attempts"]) == ("2024-05-01T12:34:56", "off", 1)
    assert room.kinds() == ["queued", "done"]
    assert list((room.state / "thumbnails").rglob("*.jpg")) == []
    assert room.captions.missing() == []
    with pytest.raises(Rejected, match="no thumbnail"):
        room.captions.check(1)
    room.put("again/IMG_1.x3f", photo)
    room.drain()
    assert [one["status"] for one in room.rows()] == ["done", "duplicate"]


def test_oldest_first(room: Room) -> None:
    for name in ("c.jpg", "a.jpg", "b.jpg"):
        room.put(name, name.encode())
        room.scan()
    room.drain()
    assert room.decoder.seen == ["c.jpg", "a.jpg", "b.jpg"]


def test_mode_and_mtime_are_kept(room: Room) -> None:
    path = room.put("a.jpg", b"a")
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    inode = path.stat().st_ino
    room.drain()
    info = (room.library / "2024/05/a.jpg").stat()
    assert (info.st_mtime_ns, info.st_mode & 0o777) == (1_700_000_000_123_456_789, 0o640)
    assert info.st_ino == inode, "on one filesystem nothing is copied"


def test_same_name_other_bytes_gets_a_number(room: Room) -> None:
    for content in (b"one", b"two", b"three"):
        room.put("a.jpg", content)
        room.drain()
    assert tree(room.library) == {"2024/05/a.jpg": b"one", "2024/05/a-1.jpg": b"two", "2024/05/a-2.jpg": b"three"}


def test_same_bytes_are_a_duplicate(room: Room) -> None:
    for name in ("a.jpg", "sub/b.jpg"):
        room.put(name, b"same")
        room.drain()
    assert tree(room.library) == {"2024/05/a.jpg": b"same"}
    assert tree(room.duplicates) == {"sub/b.jpg": b"same"}
    second = room.rows()[1]
    assert (second["status"], second["duplicate_of"]) == ("duplicate", 1)


def test_a_lying_decoder_has_no_photo_deleted(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[filing]\nduplicates = "delete"\n[limits]\nattempts = 1\n')
    room.put("a.jpg", b"a")
    room.drain()
    of_another = hashlib.sha256(b"a").hexdigest()
    room.decode_with(lambda path: replace(room.decoder.decode(path), sha256=of_another))
    room.put("b.jpg", b"b")
    room.drain()
    row = room.row_of("b.jpg")
    assert (row["status"], row["error"]) == ("failed", "its bytes are not those that its decoder says")
    assert tree(room.failed)["b.jpg"] == b"b"
    room.close()


def test_duplicates_are_deleted_only_where_the_filed_bytes_are_still_right(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[filing]\nduplicates = "delete"\n')
    room.put("a.jpg", b"same")
    room.drain()
    room.put("b.jpg", b"same")
    room.drain()
    assert (tree(room.inbox), tree(room.duplicates)) == ({}, {})
    (room.library / "2024/05/a.jpg").write_bytes(b"edit")
    room.put("c.jpg", b"same")
    room.drain()
    assert (tree(room.inbox), tree(room.duplicates)) == ({}, {"c.jpg": b"same"})
    assert room.consumer.paused is None


def test_a_filed_original_that_is_gone_does_not_swallow_its_bytes(room: Room) -> None:
    room.put("a.jpg", b"same")
    room.drain()
    (room.library / "2024/05/a.jpg").unlink()
    room.put("b.jpg", b"same")
    room.drain()
    assert tree(room.duplicates) == {"b.jpg": b"same"}
    assert [row["status"] for row in room.rows()] == ["duplicate"]
    assert room.columns(1)["status"] == "deleted"


def test_a_library_that_the_catalogue_forgot_is_adopted(tmp_path: Path) -> None:
    first = Room(tmp_path / "room")
    first.put("a.jpg", b"a")
    first.drain()
    first.close()
    for file in first.state.glob("darkroom.db*"):
        file.unlink()
    again = Room(tmp_path / "room")
    again.put("a.jpg", b"a")
    again.drain()
    assert tree(again.library) == {"2024/05/a.jpg": b"a"}
    assert again.row()["status"] == "done"


def test_no_image_fails_with_the_reason_beside_it(room: Room) -> None:
    room.put("sub/a.jpg", b"text")
    room.decoder.errors["a.jpg"] = [Rejected("not an image: it looks like text")]
    room.drain()
    files = tree(room.failed)
    assert files["sub/a.jpg"] == b"text"
    assert b"it looks like text" in files["sub/a.jpg.reason.txt"]
    assert len(files) == 2
    assert room.row()["attempts"] == 1
    assert tree(room.inbox) == {}


def test_transient_faults_are_tried_again_and_then_fail(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.put("b.jpg", b"b")
    room.decoder.errors["a.jpg"] = [Transient("the decoder crashed")] * 3
    assert room.drain() == [Turn.FILED, Turn.FILED, Turn.IDLE]
    assert tree(room.library) == {"2024/05/b.jpg": b"b"}, "the next one does not wait for the backoff"
    first = room.queue.next_due()
    assert first is not None
    assert first == pytest.approx(time.time() + 2, abs=0.5)
    room.drain(first)
    second = room.queue.next_due()
    assert second == pytest.approx(time.time() + 8, abs=0.5)
    room.drain(second)
    assert room.row_of("a.jpg")["status"] == "failed"
    assert room.row_of("a.jpg")["attempts"] == 3
    assert "a.jpg" in tree(room.failed)


def test_a_file_that_changes_gets_its_attempts_back(room: Room) -> None:
    path = room.put("a.jpg", b"half")
    room.decoder.errors["a.jpg"] = [Transient("the decoder crashed")] * 2
    room.drain()
    path.write_bytes(b"whole now")
    room.drain()
    assert room.row()["attempts"] == 1
    room.drain(room.queue.next_due())
    assert tree(room.library) == {"2024/05/a.jpg": b"whole now"}


def test_a_file_open_for_writing_is_left_alone_and_spends_no_attempt(room: Room) -> None:
    path = room.put("a.jpg", b"begin")
    with path.open("ab") as writer:
        now = time.time() + 60
        assert room.drain(now) == [Turn.WAITING, Turn.IDLE]
        row = room.row()
        assert (row["status"], row["waiting"], row["attempts"]) == ("queued", "open for writing", 0)
        writer.write(b" and end")
    room.drain(now + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"begin and end"}
    assert room.kinds() == ["queued", "postponed", "done"]


def test_a_file_that_changes_while_it_is_developed_is_not_filed(room: Room) -> None:
    path = room.put("a.jpg", b"old")
    room.decoder.errors["a.jpg"] = [lambda: _replace(path, b"new")]
    # One time for all turns, however long they take: the file is looked at again a while after the first.
    now = time.time() + 60
    assert room.drain(now) == [Turn.WAITING, Turn.IDLE]
    assert (tree(room.library), tree(room.inbox)) == ({}, {"a.jpg": b"new"})
    room.drain(now + 60)
    assert tree(room.library) == {"2024/05/a.jpg": b"new"}


def test_a_newer_file_of_the_name_is_filed_too(room: Room) -> None:
    path = room.put("a.jpg", b"old")
    link = os.link
    linked: list[int] = []

    def link_then_replace(*args: object, **kwargs: object) -> None:
        link(*args, **kwargs)  # type: ignore[arg-type]
        if not linked:
            linked.append(1)
            _replace(path, b"new")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.files.atomic.os.link", link_then_replace)
        room.scan()
        room.consumer.run_once(time.time())
    room.drain(time.time() + 5)
    assert sorted(tree(room.library).values()) == [b"new", b"old"]
    assert tree(room.inbox) == {}


def test_a_deleted_file_is_withdrawn_with_its_history_kept(room: Room) -> None:
    path = room.put("a.jpg", b"a")
    room.scan()
    path.unlink()
    room.drain()
    assert room.rows() == []
    assert room.kinds() == ["queued", "withdrawn"]


def test_a_fault_of_the_environment_pauses_and_spends_nothing(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.decoder.errors["a.jpg"] = [EnvironmentFault("no room")]
    assert room.drain() == [Turn.PAUSED]
    assert room.consumer.paused == "no room"
    assert room.statistics.stats(time.time()).paused == "no room"
    room.drain(time.time() + 60)
    assert (room.row()["status"], room.row()["attempts"]) == ("done", 1)
    assert room.statistics.stats(time.time()).paused is None


def test_a_missing_library_pauses_before_anything_is_claimed(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.library.rename(room.library.with_name("away"))
    assert room.drain() == [Turn.PAUSED]
    assert "library" in str(room.consumer.paused)
    assert "gone" in str(room.consumer.paused)
    room.library.with_name("away").rename(room.library)
    assert room.drain() == [Turn.FILED, Turn.IDLE]


def test_links_and_pipes_are_moved_to_failed_unopened(room: Room, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (room.inbox / "link.jpg").symlink_to(secret)
    os.mkfifo(room.inbox / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        with contextlib.chdir(room.inbox):  # a socket's path may have but 107 bytes
            server.bind("sock.jpg")
        room.drain()
    assert (room.failed / "link.jpg").is_symlink()
    assert (room.failed / "pipe.jpg").is_fifo()
    assert secret.read_bytes() == b"secret"
    assert list(room.inbox.iterdir()) == []
    assert all(row["status"] == "failed" and row["error"] for row in room.rows())
    assert "symbolic link" in str(room.rows()[0]["error"]) + str(room.rows()[1]["error"]) + str(room.rows()[2]["error"])
    assert room.decoder.seen == []


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "q\"uote's.jpg", "x" * 251 + ".jpg", "\udcff\udcfe.jpg", "ü" * 125 + ".jpg"]
)
def test_odd_names(room: Room, name: str) -> None:
    room.put(name, b"a")
    room.drain()
    [filed] = tree(room.library)
    assert filed.startswith("2024/05/")
    assert filed.endswith(".jpg")
    assert filed.isprintable()
    assert len(filed.encode()) < 255
    assert tree(room.inbox) == {}
    room.put(name, b"b")
    room.drain()
    assert len(tree(room.library)) == 2


def test_a_file_that_kills_the_process_is_not_tried_for_ever(room: Room) -> None:
    room.put("a.jpg", b"a")
    room.scan()
    for _ in range(3):
        assert room.queue.claim(time.time()) is not None
        room.recover()
    room.drain()
    assert room.row()["status"] == "failed"
    assert "died each time" in str(room.row()["error"])
    assert "a.jpg" in tree(room.failed)


def test_an_error_of_our_own_costs_one_image_its_attempts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.loop._LAST_SECONDS", 0.05)
    room = Room(tmp_path / "room", "[inbox]\nsettle_seconds = 0.05\n")
    room.put("a.jpg", b"a")
    room.put("b.jpg", b"b")
    room.decoder.errors["a.jpg"] = [lambda: 1 / 0] * 3  # type: ignore[list-item]
    room.scan()
    room.consumer.loop.run(lambda: room.queue.next_due() is None)
    assert {row["original_name"]: row["status"] for row in room.rows()} == {"a.jpg": "failed", "b.jpg": "done"}
    assert "an error in darkroom itself: ZeroDivisionError" in str(room.row_of("a.jpg")["error"])
    assert tree(room.failed)["a.jpg"] == b"a"
    assert room.row_of("a.jpg")["attempts"] == 3


@pytest.mark.parametrize("step", ["daemon.filing.filing.Filing.record", "daemon.catalogue.Queue.plan"])
def test_a_row_that_can_not_even_be_failed_is_failed_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What raises for this image raises in each step that would put it right, too."""
    room = Room(tmp_path / "room", "[inbox]\nsettle_seconds = 0.05\n")
    module, _, name = step.rpartition(".")
    real = getattr(importlib.import_module(module.rpartition(".")[0]), module.rpartition(".")[2]).__dict__[name]

    def faulty(self: object, job: Job, *rest: object, **more: object) -> object:
        if job.original_name == "a.jpg":
            raise InternalError("a rule of the schema is broken")
        return real(self, job, *rest, **more)

    monkeypatch.setattr(step, faulty)
    monkeypatch.setattr("daemon.loop._LAST_SECONDS", 0.05)
    room.put("a.jpg", b"a")
    room.put("b.jpg", b"b")
    room.scan()
    room.consumer.loop.run(lambda: room.queue.next_due() is None and not room.queue.unfinished())
    assert room.row_of("b.jpg")["status"] == "done"
    row = room.row_of("a.jpg")
    assert (row["status"], row["destination"]) == ("failed", None)
    assert row["error"] == "a rule of the schema is broken; it stays in the inbox"
    assert tree(room.inbox) == {"a.jpg": b"a"}
    assert [name for name in tree(room.library) if "a.jpg" in name] == [], "no file without a row is left there"
    assert room.consumer.paused is None, "no disk is at fault"


def test_a_database_that_fails_while_nothing_is_due_pauses(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    real, faults = room.queue.next_due, [EnvironmentFault("the database is locked")]

    def next_due(now: float | None = None) -> float | None:
        if now is None and faults:
            raise faults.pop()
        return real(now)

    monkeypatch.setattr(room.queue, "next_due", next_due)
    turns: list[tuple[Turn, str | None]] = []

    def finished() -> bool:
        turns.append((room.consumer.turn, room.consumer.paused))
        return len(turns) == 2

    room.consumer.loop.run(finished)
    assert turns == [(Turn.PAUSED, "the database is locked"), (Turn.IDLE, None)]
    assert room.consumer.loop.failures == 0


@pytest.mark.parametrize(
    "place", ["library", *(pytest.param(place, marks=pytest.mark.slow) for place in ("duplicates", "failed"))]
)
@pytest.mark.slow
def test_many_files_of_one_name_take_linear_time(room: Room, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Telephones call every photo image.jpg: no earlier one is looked at again, let alone hashed."""
    looks: list[Location] = []
    hashed: list[Location] = []
    exists, sha256 = atomic.exists, atomic.sha256

    def look(file: Location) -> bool:
        looks.append(file)
        return exists(file)

    def read(file: Location | int) -> str:
        hashed.extend([] if isinstance(file, int) else [file])
        return sha256(file)

    monkeypatch.setattr(atomic, "exists", look)
    monkeypatch.setattr(atomic, "sha256", read)
    if place == "failed":
        room.decoder.errors["image.jpg"] = [Rejected("no image") for _ in range(40)]
    if place == "duplicates":
        room.put("first.jpg", b"000")
        room.drain()
    for number in range(40):
        content = b"000" if place == "duplicates" else b"%03d" % number
        room.put(f"{number}/image.jpg" if place == "library" else "image.jpg", content)
        if number == 20:
            looks.clear()
        room.drain()
    assert len(looks) <= 20 * 4, "a few looks for each, however many there are"
    assert [file for file in hashed if "image" in file.name] == []
    assert len([name for name in tree(getattr(room, place)) if name.endswith(".jpg")]) == 40
    again = Room(room.inbox.parent)
    hashed.clear()
    again.put("image.jpg", b"000" if place == "duplicates" else b"new")
    again.decoder.errors["image.jpg"] = [Rejected("no image")] if place == "failed" else []
    again.drain()
    assert [file for file in hashed if "image" in file.name] == []
    assert any(name.endswith("image-40.jpg") for name in tree(getattr(room, place)))


def test_a_broken_rule_of_the_schema_is_no_fault_of_a_disk(room: Room) -> None:
    """Nor does it matter whether peewee's statements break it, or those that are written out."""
    database: Any = room.catalogue._db
    with pytest.raises(InternalError, match="UNIQUE"), room.catalogue.writing():
        database.execute_sql("INSERT INTO setting VALUES ('twice', '1'), ('twice', '2')")
    with pytest.raises(InternalError, match="NOT NULL"), room.catalogue.writing():
        database.cursor().execute("INSERT INTO setting VALUES ('null', NULL)")
    with pytest.raises(EnvironmentFault, match="no such table"), room.catalogue.reading():
        database.cursor().execute("SELECT * FROM nowhere")


def test_emptied_subfolders_go_and_folders_that_were_empty_stay(room: Room) -> None:
    (room.inbox / "drop here").mkdir()
    room.put("card/DCIM/a.jpg", b"a")
    room.drain()
    while room.cleanup.remove_empty() is not None:
        pass
    assert [path.name for path in room.inbox.iterdir()] == ["drop here"]


def waits(cleanup: Cleanup) -> list[float]:
    """Remove what can be removed at once; return the waits that are left."""
    while (wait := cleanup.remove_empty()) == 0.0:
        pass
    return [] if wait is None else [wait]


def test_a_pass_over_the_inbox_waits_for_nobody_where_all_was_quiet_before(tmp_path: Path) -> None:
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    photo, quiet = deep / "p.jpg", 0.2
    photo.touch()
    wait_until(lambda: time.time() - deep.stat().st_ctime > quiet, what="a quiet folder")
    cleanup = Cleanup(Root(tmp_path), quiet)
    cleanup.begin()
    photo.unlink()
    cleanup.note("a/b/c/p.jpg")
    assert waits(cleanup) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_somebody_else_has_just_changed_is_waited_for(tmp_path: Path) -> None:
    long, folder = 1000.0, tmp_path / "a/b"
    folder.mkdir(parents=True)
    photo = folder / "p.jpg"
    photo.touch()
    # Made just before.
    cleanup = Cleanup(Root(tmp_path), long)
    cleanup.begin()
    photo.unlink()
    cleanup.note("a/b/p.jpg")
    assert 0 < waits(cleanup)[0] <= long
    # Quiet before, and changed since our own change.
    photo.touch()
    quiet = 0.2
    wait_until(lambda: time.time() - folder.stat().st_ctime > quiet, what="a quiet folder")
    cleanup = Cleanup(Root(tmp_path), quiet)
    cleanup.begin()
    cleanup.quiet_seconds = long
    photo.unlink()
    cleanup.note("a/b/p.jpg")
    ours = folder.stat().st_ctime

    def change() -> bool:
        (folder / "new").mkdir()
        (folder / "new").rmdir()
        return folder.stat().st_ctime != ours

    wait_until(change, what="a change within another tick of the clock")
    assert 0 < waits(cleanup)[0] <= long
    assert folder.is_dir()


def test_the_folders_around_one_that_goes_are_not_waited_for_again(tmp_path: Path) -> None:
    deep, quiet = tmp_path / "a/b/c", 0.2
    deep.mkdir(parents=True)
    cleanup = Cleanup(Root(tmp_path), quiet)
    cleanup.note("a/b/c/p.jpg")
    wait_until(lambda: cleanup.remove_empty() is not None and not deep.exists(), what="the innermost folder")
    assert waits(cleanup) == [], "their last change by others was before that in the innermost one"
    assert list(tmp_path.iterdir()) == []


def test_another_filesystem(room: Room) -> None:
    """The library on /dev/shm: a copy, checked and renamed, instead of a link."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK) or shm.stat().st_dev == room.inbox.stat().st_dev:
        pytest.skip("needs a second filesystem at /dev/shm")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        library = Path(folder)
        room.filing.roots["library"] = Root(library)  # type: ignore[index]
        path = room.put("a.jpg", b"a" * 3_000_000)
        path.chmod(0o640)
        os.utime(path, ns=(1, 1_700_000_000_123_456_789))
        room.drain()
        assert tree(library) == {"2024/05/a.jpg": b"a" * 3_000_000}
        info = (library / "2024/05/a.jpg").stat()
        assert (info.st_mtime_ns, info.st_mode & 0o777) == (1_700_000_000_123_456_789, 0o640)
        assert tree(room.inbox) == {}


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(".fresh")
    fresh.write_bytes(content)
    fresh.replace(path)
