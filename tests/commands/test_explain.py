"""`explain` knows a file by its id and by every name it ever had, and why it still waits."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.catalogue.captions import CaptionOrigin, Ended, Words
from daemon.catalogue.schema import Image
from daemon.commands.explain import Explainer
from daemon.errors import Postponed, Rejected, WaitingReason
from daemon.files import lock
from tests.captions.darkroom import FullRoom
from tests.program import darkroom
from tests.support import Room, jpeg, tree


def told(room: Room, target: str | Path, here: Path | None = None) -> str:
    explainer = Explainer(room.config, room.catalogue)
    found = explainer.find(str(target), here or room.config.base)
    return "\n".join(line for image_id in found for line in explainer.image(image_id))


def test_a_filed_photo_is_found_by_every_name_it_ever_had(room: Room) -> None:
    (room.config.base / "elsewhere").mkdir()
    room.put("trip/IMG_1.jpg", jpeg())
    room.drain()
    filed = room.library / "2024/05/IMG_1.jpg"
    by_id = told(room, "1")
    assert by_id.startswith("image 1: IMG_1.jpg\n")
    assert f"is done: {filed}" in by_id
    assert "queued: found in the inbox as trip/IMG_1.jpg" in by_id
    assert "done: library/2024/05/IMG_1.jpg" in by_id
    for name in (filed, "library/2024/05/IMG_1.jpg", room.inbox / "trip/IMG_1.jpg", "trip/IMG_1.jpg", "img_1.JPG"):
        assert told(room, name) == by_id, name
    assert told(room, "../library/2024/05/IMG_1.jpg", room.config.base / "elsewhere") == by_id
    assert told(room, "2024.jpg") == ""


def test_the_notes_that_darkroom_writes_beside_an_image_mean_the_image(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", sidecars=True)
    room.decoder.errors["b.jpg"] = [Rejected("not an image: it looks like a poem")]
    room.put("a.jpg", jpeg())
    room.drain()
    room.put("b.jpg", b"roses")
    room.drain()
    assert {"2024/05/a.jpg", "2024/05/a.jpg.xmp"} <= tree(room.library).keys()
    explainer, base = Explainer(room.config, room.catalogue), room.config.base
    for note in ("library/2024/05/a.jpg.xmp", "a.jpg.xmp", room.library / "2024/05/a.jpg.xmp"):
        assert explainer.find(str(note), base) == []
        assert explainer.find_beside(str(note), base) == ("the sidecar of this image", [1])
    assert explainer.find_beside("failed/b.jpg.reason.txt", base) == ("why this image failed", [2])
    assert explainer.find_beside("c.jpg.xmp", base) == ("the sidecar of this image", [])
    room.catalogue.close()
    said = darkroom(base, "explain", "failed/b.jpg.reason.txt").stdout
    assert said.startswith("failed/b.jpg.reason.txt: why this image failed\nimage 2: b.jpg\n  is failed: "), said


@pytest.mark.slow
def test_an_xmp_in_the_inbox_is_no_note(room: Room) -> None:
    (room.inbox / "c.jpg.xmp").write_bytes(b"<x/>")
    assert "c.jpg.xmp: has not been noticed" in darkroom(room.config.base, "explain", "c.jpg.xmp").stdout
    unknown = darkroom(room.config.base, "explain", "d.jpg.xmp")
    assert (unknown.returncode, unknown.stdout) == (1, "")


def test_place_and_words_are_told_with_where_they_are_from(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    assert "taken at" not in told(room, "1")
    with room.catalogue.writing():
        Image.update(lat=-33.8567844, lon=151.2152967, zone="Australia/Sydney").where(Image.id == 1).execute()
    room.captions.ask_again(1, time.time())
    assert "  caption: waits its turn" in told(room, "1")
    room.captions.store(1, Words("An opera\nhouse", ("sea", "roof")), CaptionOrigin("model-x", "p"), "t", time.time())
    lines = told(room, "1").splitlines()
    assert lines[2:6] == [
        "  taken 2024-05-01 12:34:56 (Australia/Sydney), from EXIF DateTimeOriginal",
        "  taken at 33.85678 S, 151.21530 E",
        "  caption: An opera house (by model-x)",
        "  keywords: sea, roof (by model-x)",
    ]
    room.captions.edit(1, time.time(), caption="Our opera house", title="Sydney", rating=4, label="Red")
    text = told(room, "1")
    for line in ("caption: Our opera house (by a person)", "keywords: sea, roof (by model-x)", "title: Sydney"):
        assert f"  {line}\n" in text
    assert "  stars: 4\n  label: Red\n" in text


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("blocked", "caption: none, Gemini may not describe it: too much skin"),
        ("failed", "caption: none, the model gave no usable answer: too much skin"),
        ("private", "caption: none, no model is asked about a private folder"),
    ],
)
def test_why_there_is_no_caption(room: Room, status: Ended, line: str) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    room.captions.ask_again(1, time.time())
    room.captions.conclude(1, status, "too much skin", time.time())
    assert f"  {line}\n" in told(room, "1") + "\n"


def test_a_file_named_like_an_id_is_a_file(room: Room) -> None:
    room.put("7", jpeg())
    room.scan()
    assert "found in the inbox as 7" in told(room, "7", room.inbox)
    assert told(room, "7") == "", "there is no image 7"


def test_a_name_that_came_twice_tells_both(room: Room) -> None:
    for seed in (1, 2):
        room.put("a.jpg", jpeg(seed=seed))
        room.drain()
    lines = told(room, "a.jpg").splitlines()
    assert [line for line in lines if line.startswith("image")] == ["image 1: a.jpg", "image 2: a.jpg"]


def test_what_failed_says_why_and_what_to_do(room: Room) -> None:
    room.decoder.errors["a.jpg"] = [Rejected("not an image: it looks like a poem")]
    room.put("a.jpg", b"roses")
    room.drain()
    text = told(room, "failed/a.jpg")
    assert "because not an image: it looks like a poem; to try again: darkroom retry 1" in text
    room.requeue.retry(1)
    assert "waits in the inbox" in told(room, "failed/a.jpg"), "the place it left is still known by the name"


def test_a_duplicate_names_its_original(room: Room) -> None:
    photo = jpeg()
    for name in ("a.jpg", "b.jpg"):
        room.put(name, photo)
        room.drain()
    assert "has the same bytes as image 1" in told(room, "b.jpg")


def test_a_companion_is_found_with_its_photo(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room")
    for came in ("IMG_1.jpg", "IMG_1.MOV", "IMG_1.aae"):
        room.put(f"trip/{came}", came.encode())
        room.drain()
    video = room.library / "2024/05/IMG_1.MOV"
    photo = told(room, "trip/IMG_1.jpg")
    assert photo.startswith("image 1: IMG_1.jpg\n")
    assert f"IMG_1.MOV came with it, and lies beside it: {video}\n" in photo
    for name in (video, "library/2024/05/IMG_1.MOV", "img_1.mov", "IMG_1.aae", "library/2024/05/IMG_1.aae"):
        assert told(room, name) == photo, name
    for path in (Path("trip/IMG_1.MOV"), room.inbox / "trip/IMG_1.MOV"):
        assert photo in told(room, path), path
        assert "queued: found in the inbox as trip/IMG_1.MOV" in told(room, path), "its own history too"
    assert told(room, "other/IMG_1.MOV", room.inbox) == photo, "by its name alone, like any file"
    video.unlink()
    assert f"{video} (but it is no longer there" in told(room, video)
    room.close()


def test_an_original_that_somebody_moved_away(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    (room.library / "2024/05/a.jpg").unlink()
    assert "(but it is no longer there: see darkroom verify)" in told(room, "1")


def test_what_was_withdrawn_is_still_explained(room: Room) -> None:
    path = room.put("a.jpg", jpeg())
    room.scan()
    path.unlink()
    room.consumer.run_once(time.time())
    assert "image 1: no longer in the catalogue" in told(room, "1")
    assert "withdrawn: a.jpg is no longer in the inbox" in told(room, path)


@pytest.fixture
def running(room: Room) -> Iterator[Room]:
    with lock.exclusive(room.state, []):
        yield room


def test_a_writer_is_named(running: Room) -> None:
    path = running.put("a.jpg", jpeg())
    code = "import sys, time; file = open(sys.argv[1], 'ab'); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            assert writer.stdout.readline() == b"open\n"
            running.drain()
            text = told(running, "a.jpg", running.inbox)
            assert f"is open for writing by python, pid {writer.pid}" in text.replace("python3.11", "python").replace(
                "python3", "python"
            )
            assert "is looked at again in" in text
            assert "not running" not in text
        finally:
            writer.kill()


def test_a_quiet_time_is_counted(running: Room) -> None:
    running.put("a.jpg", jpeg())
    running.scan()
    job = running.queue.claim(time.time())
    assert job is not None
    now = time.time()
    settle = running.config.inbox.settle_seconds
    running.queue.postpone(job, Postponed(WaitingReason.QUIET, 60.0, f"{settle:g}"), now)
    text = told(running, "1")
    assert "quiet for 0 of 2 s" in text
    assert "is looked at again in 60 s" in text
    assert "postponed: unchanged for less than 2 s" in text


def test_any_other_wait_is_told_by_its_reason(running: Room) -> None:
    running.put("a.jpg", jpeg())
    running.scan()
    job = running.queue.claim(time.time())
    assert job is not None
    running.queue.retry_later(job, "the decoder crashed", time.time() + 60, time.time())
    assert "  the decoder crashed\n  1 of 3 attempts failed\n" in told(running, "1")


def test_a_pause_and_a_queue_are_told(running: Room) -> None:
    for name in ("a.jpg", "b.jpg"):
        running.put(name, jpeg())
        running.scan()
    running.stored.set_pause("the library folder is full")
    text = told(running, "b.jpg")
    assert "the queue is paused: the library folder is full" in text
    assert "1 other before it" in text


def test_a_darkroom_that_does_not_run_is_told(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.scan()
    assert "darkroom is not running" in told(room, "1")


@pytest.mark.parametrize(
    ("name", "toml", "text"),
    [
        ("a.jpg.part", "", "matches '*.part' of [inbox] ignore"),
        (".hidden/a.jpg", "", "matches '.*' of [inbox] ignore"),
        ("sub/a.jpg", "[inbox]\nrecursive = false\n", "[inbox] recursive is off"),
        ("a.jpg", "", "has not been noticed: darkroom is not running"),
    ],
)
def test_a_file_that_nobody_has_queued(tmp_path: Path, name: str, toml: str, text: str) -> None:
    room = Room(tmp_path / "room", toml)
    room.put(name, jpeg())
    assert text in str(Explainer(room.config, room.catalogue).unqueued(f"inbox/{name}", room.config.base))
    room.close()


def test_a_folder_and_a_file_that_is_not_in_the_inbox(running: Room) -> None:
    explainer = Explainer(running.config, running.catalogue)
    (running.inbox / "trip").mkdir()
    running.put("a.jpg", jpeg())
    assert "is a folder" in str(explainer.unqueued("trip", running.inbox))
    assert "looked through every 60 s" in str(explainer.unqueued("a.jpg", running.inbox))
    assert explainer.unqueued(os.devnull, running.inbox) is None


def test_the_command(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    base = room.config.base
    assert darkroom(base, "explain", "1").stdout.startswith("image 1: a.jpg\n  is done: ")
    unknown = darkroom(base, "explain", "nothing.jpg")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "never seen" in unknown.stderr
    nowhere = darkroom(room.inbox, "explain", "1")
    assert nowhere.returncode == 1
    assert f"there is no darkroom in {room.inbox}, but there is one in {base}: go there" in nowhere.stderr
