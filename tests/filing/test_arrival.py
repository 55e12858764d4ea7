"""Files that arrive in pieces: when one counts as complete, and how long its rest is waited for."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.app import build
from daemon.catalogue.schema import Upload
from daemon.commands.explain import Explainer
from daemon.decoding import Decoded
from daemon.errors import Rejected, Transient, Truncated, WaitingReason
from daemon.files.atomic import Root
from daemon.files.walk import Found, walk
from daemon.filing.consumer import Turn
from tests.decoding.images import decode
from tests.filing.test_endings import DATA, INDEX, TYPE
from tests.program import Program, darkroom
from tests.support import Room, jpeg, tree, wait_until

PHOTO = jpeg((400, 300), taken="2024:05:01 12:34:56")
HALF = PHOTO[: len(PHOTO) // 2]
MINUTE = 60.0


def _decode(path: Path) -> Decoded:
    return decode(path)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    """A room with the real decoder, here in this process."""
    made = Room(tmp_path / "room")
    made.decode_with(_decode)
    yield made
    made.close()


def _drain(room: Room, now: float) -> list[Turn]:
    """Look through the inbox at some time, and take turns at that time until nothing is due."""
    room.queue.enqueue(list(walk(Root(room.inbox), room.config.inbox.ignore, recursive=True)), now)
    return list(iter(lambda: room.consumer.run_once(now), Turn.IDLE))


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize("pause", [30.0, 5 * MINUTE, 9.9 * MINUTE])
def test_half_a_photo_waits_for_its_rest(room: Room, pause: float) -> None:
    now = time.time()
    path = room.put("IMG_1.jpg", HALF)
    _drain(room, now)
    row = room.row()
    assert (row["status"], row["attempts"]) == ("queued", 0)
    assert row["waiting"] == "incomplete: the JPEG ends early"
    _drain(room, now + pause)
    assert tree(room.failed) == {}
    _append(path, PHOTO[len(HALF) :])
    assert _drain(room, now + pause) == [Turn.WAITING]
    assert _drain(room, now + pause + room.config.inbox.settle_seconds) == [Turn.FILED]
    assert tree(room.library) == {"2024/05/IMG_1.jpg": PHOTO}
    assert (tree(room.failed), tree(room.inbox)) == ({}, {})
    assert room.kinds() == ["queued", "postponed", "done"]


@pytest.mark.parametrize("content", [b"", HALF, bytes(5000), b"\xff\xd8"])
def test_what_stays_incomplete_fails_once_its_time_is_over(room: Room, content: bytes) -> None:
    now = time.time()
    room.put("IMG_1.jpg", content)
    _drain(room, now)
    _drain(room, now + 9 * MINUTE)
    assert room.row()["waiting"].startswith("incomplete: ")
    _drain(room, now + 10 * MINUTE + 1)
    row = room.row()
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert tree(room.failed)["IMG_1.jpg"] == content
    assert tree(room.inbox) == {}


def test_every_change_that_is_seen_begins_the_wait_anew(room: Room) -> None:
    now = time.time()
    path = room.put("IMG_1.jpg", HALF)
    _drain(room, now)
    for minutes in (9, 18, 27):
        _append(path, b"more")
        # Whatever its own time says: `cp -a` sets that to the original's.
        os.utime(path, (minutes, minutes))
        assert _drain(room, now + minutes * MINUTE) == [Turn.WAITING]
        assert _drain(room, now + minutes * MINUTE + 2) == [Turn.WAITING]
    assert room.row()["status"] == "queued"
    room.consumer.run_once(now + 37 * MINUTE + 1)
    assert room.row()["status"] == "failed"


def test_a_change_that_no_event_told_of_is_seen_when_it_is_opened(room: Room) -> None:
    now = time.time()
    path = room.put("IMG_1.jpg", HALF)
    _drain(room, now)
    _append(path, PHOTO[len(HALF) :])
    due = now + 10 * MINUTE + 1
    assert room.consumer.run_once(due) is Turn.WAITING, "it has changed just now"
    assert room.consumer.run_once(due + 2) is Turn.FILED
    assert room.row()["status"] == "done"


def test_an_old_time_of_its_own_does_not_shorten_the_wait(room: Room) -> None:
    now = time.time()
    path = room.put("IMG_1.jpg", HALF)
    os.utime(path, (1, 1))
    _drain(room, now)
    _drain(room, now + 9 * MINUTE)
    assert room.row()["status"] == "queued"


def test_others_are_filed_meanwhile_and_go_first_when_its_time_is_over(room: Room) -> None:
    now = time.time()
    room.put("a half.jpg", HALF)
    _drain(room, now)
    room.put("b.jpg", PHOTO)
    assert _drain(room, now + 1) == [Turn.FILED]
    room.put("c.jpg", jpeg(seed=3))
    room.queue.enqueue([Found("c.jpg", 1, 1)], now + 11 * MINUTE)
    room.consumer.run_once(now + 11 * MINUTE)
    assert room.row_of("c.jpg")["status"] == "done"
    assert room.row_of("a half.jpg")["status"] == "queued", "never tried ones go first"


def test_a_writer_who_comes_and_goes_does_not_have_it_decoded_each_time(room: Room) -> None:
    seen: list[str] = []

    def counting(path: Path) -> Decoded:
        seen.append(path.name)
        return _decode(path)

    room.decode_with(counting)
    now = time.time()
    path = room.put("a.jpg", HALF)
    _drain(room, now)
    for step in range(20):
        _append(path, b"x")
        _drain(room, now + step / 10)
    assert len(seen) == 1
    assert room.row()["waiting"] == "incomplete: the JPEG ends early"
    assert room.kinds() == ["queued", "postponed"], "its history does not grow with each write"


def test_the_wait_outlives_the_program(room: Room) -> None:
    room.put("IMG_1.jpg", HALF)
    _drain(room, time.time() - 5 * MINUTE)
    again = room.restarted()
    setattr(again.sandbox, "decode", _decode)  # noqa: B010
    again.consumer.recover()
    now = time.time()
    assert again.consumer.run_once(now) is Turn.WAITING, "five minutes are left to it"
    again.consumer.run_once(now + 5 * MINUTE + 1)
    assert room.row()["status"] == "failed"


def test_a_server_that_was_off_gives_the_rest_its_whole_time(room: Room) -> None:
    now = time.time()
    room.put("IMG_1.jpg", HALF)
    _drain(room, now - 60 * MINUTE)
    server = build(room.config, room.catalogue)
    setattr(server.sandbox, "decode", _decode)  # noqa: B010
    server.consumer.run_once(now)
    assert room.row()["status"] == "queued", "whoever was sending it may have been off as well"
    server.consumer.run_once(now + 11 * MINUTE)
    assert room.row()["status"] == "failed"
    server.close()


def test_a_shorter_time_counts_from_the_next_start(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    room.decoder.errors["a.jpg"] = [Truncated("the JPEG ends early")] * 2
    room.put("a.jpg", HALF)
    _drain(room, time.time() - 2 * MINUTE)
    room.close()
    again = Room(tmp_path / "room", "[inbox]\nincomplete_minutes = 1\n")
    again.decoder.errors["a.jpg"] = [Truncated("the JPEG ends early")]
    again.recover()
    _drain(again, time.time() + 1)
    assert again.row()["status"] == "failed"
    again.close()


def test_no_wait_at_all(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[inbox]\nincomplete_minutes = 0\n")
    room.decode_with(_decode)
    room.put("IMG_1.jpg", HALF)
    _drain(room, time.time())
    assert (room.row()["status"], room.row()["attempts"]) == ("failed", 1)
    room.close()


def test_an_empty_companion_waits_for_its_bytes(room: Room) -> None:
    """A browser makes an empty placeholder of the final name, and renames the whole file over it."""
    now = time.time()
    room.put("IMG_1.jpg", PHOTO)
    video = room.put("IMG_1.MOV", b"")
    _drain(room, now)
    assert room.row_of("IMG_1.MOV")["waiting"] == "incomplete: the file is empty"
    whole = room.inbox / "IMG_1.MOV.part"
    whole.write_bytes(b"a video")
    whole.rename(video)
    _drain(room, now + 1)
    _drain(room, now + 4)
    assert tree(room.library) == {"2024/05/IMG_1.jpg": PHOTO, "2024/05/IMG_1.MOV": b"a video"}
    assert tree(room.failed) == {}


def test_a_video_whose_upload_breaks_off_waits_for_its_rest(room: Room) -> None:
    now, whole = time.time(), TYPE + DATA + INDEX
    room.put("IMG_1.jpg", PHOTO)
    video = room.put("IMG_1.MOV", whole[:100])
    _drain(room, now)
    assert (
        room.row_of("IMG_1.MOV")["waiting"]
        == f"incomplete: the video ends early, at 100 of at least {len(TYPE + DATA)} bytes"
    )
    with video.open("ab") as resumed:
        resumed.write(whole[100:])
    _drain(room, now + 300)
    _drain(room, now + 303)
    assert tree(room.library) == {"2024/05/IMG_1.jpg": PHOTO, "2024/05/IMG_1.MOV": whole}
    room.put("IMG_2.jpg", jpeg(seed=2))
    room.put("IMG_2.MOV", whole[:100])
    _drain(room, now + 310)
    _drain(room, now + 311 + 600)
    [half] = [content for path, content in tree(room.library).items() if path.endswith("IMG_2.MOV")]
    assert half == whole[:100], "what stays a half is its owner's all the same"
    assert tree(room.failed) == {}


def _upload(room: Room, content: bytes, now: float) -> Path:
    """Have the queue take a file as REST does: it gets its inbox name when it is whole."""
    path, arrived = room.inbox / "IMG_1.jpg", room.config.base / "arrived"
    arrived.write_bytes(content)
    info = arrived.stat()

    def publish(name: str) -> None:
        arrived.rename(room.inbox / name)

    room.queue.upload(Upload("IMG_1.jpg", info.st_size, info.st_mtime_ns, "0" * 64), [path.name], publish, now)
    return path


def test_an_upload_came_whole_and_nothing_is_waited_for(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[inbox]\nquiet_seconds = 60\n")
    room.decode_with(_decode)
    _upload(room, HALF, time.time())
    _drain(room, time.time() + 0.1)
    assert (room.row()["status"], room.row()["attempts"]) == ("failed", 1)
    _upload(room, PHOTO, time.time())
    assert _drain(room, time.time() + 0.1) == [Turn.FILED]
    assert tree(room.library) == {"2024/05/IMG_1.jpg": PHOTO}
    room.close()


def test_an_upload_that_somebody_writes_into_is_waited_for_like_any_file(room: Room) -> None:
    now = time.time()
    path = _upload(room, PHOTO, now)
    path.write_bytes(HALF)
    _drain(room, now + 1)
    assert room.row()["waiting"] == "incomplete: the JPEG ends early"


def test_pages_that_a_scanner_appends_are_one_document(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[inbox]\nquiet_seconds = 5\n")
    now = time.time()
    path = room.put("scan.tif", b"page 1")
    for page in (2, 3):
        assert _drain(room, now) == [Turn.WAITING]
        assert room.row()["waiting"] == "unchanged for less than 5 s"
        now += 4
        assert _drain(room, now) == [], "nor is it decoded ahead"
        _append(path, b" page %d" % page)
    _drain(room, now)
    assert _drain(room, now + 4.9) == []
    assert room.decoder.seen == []
    assert _drain(room, now + 5.1) == [Turn.FILED]
    assert list(tree(room.library).values()) == [b"page 1 page 2 page 3"]
    room.close()


def test_what_is_not_quiet_is_not_decoded_ahead(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[inbox]\nquiet_seconds = 5\n")
    now = time.time()
    room.put("a.jpg", b"a")
    _drain(room, now)
    room.put("b.jpg", b"b")
    assert _drain(room, now + 4) == [Turn.WAITING]
    assert _drain(room, now + 6) == [Turn.FILED]
    assert room.decoder.seen == ["a.jpg"]
    room.close()


def test_explain_says_how_long_it_still_waits(room: Room) -> None:
    room.put("IMG_1.jpg", HALF)
    _drain(room, time.time() - 2 * MINUTE)
    text = "\n".join(Explainer(room.config, room.catalogue).image(1))
    assert "incomplete: the JPEG ends early; unchanged for 2 of 10 minutes, then it fails" in text
    assert "is looked at again in 4" in text
    assert "postponed: incomplete: the JPEG ends early" in text


def test_the_queue_keeps_why_by_a_code(room: Room) -> None:
    room.put("IMG_1.jpg", b"")
    _drain(room, time.time())
    assert room.images()[0].waiting is WaitingReason.INCOMPLETE


def test_a_crash_of_the_decoder_is_tried_again_as_ever(room: Room) -> None:
    def crash(_: Path) -> Decoded:
        raise Transient("the decoder crashed")

    room.decode_with(crash)
    room.put("IMG_1.jpg", HALF)
    _drain(room, time.time())
    assert room.row()["waiting"] == "the decoder crashed"
    assert issubclass(Truncated, Rejected)


def test_once_does_not_wait_for_the_rest_and_names_what_stays(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/whole.jpg").write_bytes(PHOTO)
    (tmp_path / "inbox/half.jpg").write_bytes(HALF)
    (tmp_path / "config.toml").write_text("[inbox]\nsettle_seconds = 0.05\n")
    done = darkroom(tmp_path, "run", "--once")
    assert done.returncode == 1
    assert re.search(r"image \d stays in the inbox: half.jpg: incomplete: the JPEG ends early\n", done.stderr)
    assert list(tree(tmp_path / "inbox")) == ["half.jpg"]
    assert not tree(tmp_path / "failed")
    (tmp_path / "inbox/half.jpg").write_bytes(jpeg(seed=2))
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    assert not tree(tmp_path / "inbox")


def test_once_waits_until_a_file_was_quiet(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox/whole.jpg").write_bytes(PHOTO)
    (tmp_path / "config.toml").write_text("[inbox]\nsettle_seconds = 0.05\nquiet_seconds = 1.5\n")
    assert darkroom(tmp_path, "run", "--once").returncode == 0
    assert not tree(tmp_path / "inbox")


def test_the_program_files_pages_as_one_document_and_a_resumed_half_as_one_photo(tmp_path: Path) -> None:
    with Program(tmp_path / "room", "[inbox]\nsettle_seconds = 0.2\nquiet_seconds = 0.5\n") as program:
        inbox = program.base / "inbox"
        (inbox / "half.jpg").write_bytes(HALF)
        wait_until(lambda: program.query("SELECT waiting FROM image") == [("incomplete",)], what="that it waits")
        (inbox / "other.jpg").write_bytes(jpeg(seed=1))
        program.wait_for(done=1)
        _append(inbox / "half.jpg", PHOTO[len(HALF) :])
        program.wait_for(done=2, queued=0, failed=0)
        assert sorted(content for content in tree(program.base / "library").values() if content == PHOTO) == [PHOTO]
        assert program.stop() == 0
