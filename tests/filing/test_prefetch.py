"""Looking ahead: the next photo is developed while one is filed, and nothing but time may come of it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue.schema import Image, Job
from daemon.errors import EnvironmentFault, Postponed, Rejected, TimedOut, Transient, WaitingReason
from daemon.filing.consumer import Turn
from tests.support import Room, no_new_descriptors, tree, wait_until

NOW = 2e9


def arrive(room: Room, *names: str) -> None:
    """Queue files in this order; each holds the first letter of its name."""
    for name in names:
        room.put(name, name[0].encode())
        room.scan()


@pytest.fixture
def two(room: Room) -> Room:
    """Return a room in which one photo has been filed and the next one was looked ahead at."""
    arrive(room, "a.jpg", "b.jpg")
    assert room.consumer.run_once(NOW) is Turn.FILED
    wait_until(lambda: room.decoder.seen == ["a.jpg", "b.jpg"])
    return room


def is_free(path: Path) -> bool:
    """Return whether a writer can open a file at once."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return False
    return True


def test_the_next_photo_is_developed_once_and_its_row_only_waits(two: Room) -> None:
    row = two.row_of("b.jpg")
    assert (row["status"], row["attempts"]) == ("queued", 0)
    assert tree(two.inbox) == {"b.jpg": b"b"}
    assert two.drain() == [Turn.FILED, Turn.IDLE]
    assert two.decoder.seen == ["a.jpg", "b.jpg"]
    assert tree(two.library) == {"2024/05/a.jpg": b"a", "2024/05/b.jpg": b"b"}
    assert two.row_of("b.jpg")["attempts"] == 1


def test_developing_ahead_goes_on_while_a_photo_is_filed(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    place = room.filing.place

    def wait_for_the_other(*args: Any) -> Job:
        wait_until(lambda: len(room.decoder.seen) == 2)
        return place(*args)

    arrive(room, "a.jpg", "b.jpg")
    monkeypatch.setattr(room.filing, "place", wait_for_the_other)
    assert room.consumer.run_once(NOW) is Turn.FILED
    monkeypatch.undo()
    room.drain()
    assert len(tree(room.library)) == 2


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(b"other")
    path.with_name("new").rename(path)


def renamed(path: Path) -> None:
    path.rename(path.with_name("other.jpg"))


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "left"), [(replaced, {"b.jpg": b"other"}), (renamed, {"other.jpg": b"b"}), (touched, {"b.jpg": b"b"})]
)
def test_another_file_by_its_turn_is_looked_at_anew(
    two: Room, change: Callable[[Path], None], left: dict[str, bytes]
) -> None:
    change(two.inbox / "b.jpg")
    two.drain()
    assert len(two.decoder.seen) == 3
    assert tree(two.library) == {"2024/05/a.jpg": b"a", **{f"2024/05/{name}": was for name, was in left.items()}}
    assert tree(two.inbox) == {}


def test_deleted_before_its_turn_it_is_withdrawn(two: Room) -> None:
    (two.inbox / "b.jpg").unlink()
    assert two.drain() == [Turn.FILED, Turn.IDLE]
    assert [row["original_name"] for row in two.rows()] == ["a.jpg"]
    assert tree(two.library) == {"2024/05/a.jpg": b"a"}


def test_a_writer_that_comes_before_its_turn_gets_in(two: Room) -> None:
    path = two.inbox / "b.jpg"
    code = "import sys; file = open(sys.argv[1], 'ab'); file.write(b' and more'); print('in', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        [ahead] = two.consumer._prefetcher._ahead.values()
        assert ahead.file.lease is not None
        wait_until(ahead.file.lease.broken)
        assert two.consumer.run_once(NOW) is Turn.WAITING
        assert writer.stdout.readline() == b"in\n"
        writer.communicate(b"\n")
    assert two.drain(NOW + 60)[0] is Turn.FILED
    assert tree(two.library)["2024/05/b.jpg"] == b"b and more"


def test_what_went_wrong_ahead_is_said_when_its_turn_comes(room: Room) -> None:
    room.decoder.errors = {"b.jpg": [Transient("crashed"), Rejected("is broken")]}
    arrive(room, "a.jpg", "b.jpg")
    assert room.drain() == [Turn.FILED, Turn.FILED, Turn.IDLE]
    row = room.row_of("b.jpg")
    assert (row["status"], row["attempts"], row["waiting"]) == ("queued", 1, "crashed")
    room.drain(NOW)
    assert (room.row_of("b.jpg")["attempts"], room.row_of("b.jpg")["error"]) == (2, "is broken")


@pytest.mark.parametrize("fault", [EnvironmentFault("no room"), KeyboardInterrupt()])
def test_nothing_is_held_once_the_loop_stands_still(
    room: Room, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fail(*_: object) -> str:
        assert not is_free(room.inbox / "b.jpg"), "looked ahead at: under a lease"
        raise fault

    arrive(room, "a.jpg", "b.jpg")
    monkeypatch.setattr(room.filing, "place", fail)
    with no_new_descriptors():
        if isinstance(fault, EnvironmentFault):
            assert room.consumer.run_once(NOW) is Turn.PAUSED
        else:
            with pytest.raises(KeyboardInterrupt):
                room.consumer.run_once(NOW)
        finish_developing(room)
        assert is_free(room.inbox / "b.jpg")


def test_stopped_it_holds_nothing(room: Room) -> None:
    arrive(room, "a.jpg", "b.jpg")
    room.consumer.loop.run(lambda: True)
    assert is_free(room.inbox / "b.jpg")


def seen_after_one_turn(room: Room) -> list[str]:
    """Return what has been developed, or is about to be, once the first photo is filed."""
    assert room.consumer.run_once(NOW) is Turn.FILED
    finish_developing(room)
    return room.decoder.seen


def finish_developing(room: Room) -> None:
    """Wait until nothing is being developed, nor about to be."""
    room.consumer._prefetcher._threads.submit(lambda: None).result()


def test_blamed_for_another_once_it_is_filed_alone(room: Room) -> None:
    arrive(room, "a.jpg", "b.jpg")
    room.queue.claim(NOW)
    room.recover()
    assert room.row_of("a.jpg")["attempts"] == 1
    assert seen_after_one_turn(room) == ["b.jpg"], "what was never tried goes first"
    assert seen_after_one_turn(room) == ["b.jpg", "a.jpg"]


def test_with_one_attempt_each_photo_is_filed_alone(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[limits]\nattempts = 1\n")
    arrive(room, "a.jpg", "b.jpg")
    assert seen_after_one_turn(room) == ["a.jpg"]


def test_what_was_tried_before_is_not_looked_ahead_at(room: Room) -> None:
    room.decoder.errors = {"a.jpg": [Postponed(WaitingReason.LEASE, 600.0)], "b.jpg": [Transient("crashed")]}
    arrive(room, "a.jpg", "b.jpg")
    room.drain()
    assert seen_after_one_turn(room) == ["a.jpg", "b.jpg", "a.jpg"]


@pytest.mark.parametrize("name", ["b.mov", "b.xmp", "b"])
def test_what_may_be_no_photo_waits_its_turn(room: Room, name: str) -> None:
    arrive(room, "a.jpg", name)
    assert seen_after_one_turn(room) == ["a.jpg"]


def test_without_leases_what_is_out_of_sight_is_looked_ahead_at(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.files.mounts.filesystem", lambda _: "nfs4")
    arrive(room, "a.jpg", "b.jpg")
    assert [room.consumer.run_once(time.time()) for _ in "ab"] == [Turn.WAITING, Turn.WAITING]
    # Quiet for long enough, they wait once more under hidden names.
    assert [room.consumer.run_once(NOW - 10) for _ in "ab"] == [Turn.WAITING, Turn.WAITING]
    assert all(path.name.startswith(".darkroom-leaving-") for path in room.inbox.iterdir())
    assert room.decoder.seen == []
    seen = seen_after_one_turn(room)
    assert [name.rpartition("-")[2] for name in seen] == ["a.jpg", "b.jpg"]
    assert all(path.name.startswith(".darkroom-leaving-") for path in room.inbox.iterdir()), "it stays out of sight"
    assert room.consumer.run_once(NOW) is Turn.FILED
    assert len(room.decoder.seen) == 2
    assert tree(room.library) == {"2024/05/a.jpg": b"a", "2024/05/b.jpg": b"b"}
    assert tree(room.inbox) == {}


def test_without_leases_what_was_looked_ahead_at_is_shown_again_in_the_end(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.files.mounts.filesystem", lambda _: "nfs4")
    arrive(room, "a.jpg", "b.jpg")
    for now in (time.time(), NOW - 10):
        assert [room.consumer.run_once(now) for _ in "ab"] == [Turn.WAITING, Turn.WAITING]
    seen_after_one_turn(room)
    room.consumer.loop.run(lambda: True)
    assert tree(room.inbox) == {"b.jpg": b"b"}


def test_as_many_are_decoded_ahead_as_there_are_decoders(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[limits]\ndecoders = 3\n")
    names = [f"{letter}.jpg" for letter in "abcdef"]
    together = threading.Barrier(3, timeout=20)

    def meet() -> None:
        together.wait()

    for name in names[:3]:
        room.decoder.errors[name] = [meet]
    arrive(room, *names)
    assert room.consumer.run_once(NOW) is Turn.FILED
    wait_until(lambda: len(room.decoder.seen) == 5)
    assert sorted(room.decoder.seen) == names[:5], "one more than work at a time, and in the queue's order"
    assert [turn for turn in room.drain() if turn is Turn.FILED] == [Turn.FILED] * 5
    assert sorted(room.decoder.seen) == names
    assert [row["attempts"] for row in room.rows()] == [1] * 6
    filed = sorted(room.rows(), key=lambda row: row["processed_at"])
    assert [row["original_name"] for row in filed] == names
    room.close()


def test_whose_turn_it_is_no_more_is_let_go(room: Room) -> None:
    arrive(room, "a.jpg", "b.jpg", "c.jpg")
    assert room.consumer.run_once(NOW) is Turn.FILED
    finish_developing(room)
    assert not is_free(room.inbox / "b.jpg")
    with room.catalogue.writing():
        Image.update(not_before=NOW * 2).where(Image.original_name == "b.jpg").execute()
    assert room.consumer.run_once(NOW) is Turn.FILED
    assert is_free(room.inbox / "b.jpg")
    assert sorted(tree(room.library)) == ["2024/05/a.jpg", "2024/05/c.jpg"]


def test_a_time_limit_that_is_reached_twice_is_final(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", "[limits]\nattempts = 9\n")
    room.decoder.errors["a.jpg"] = [TimedOut("slow"), Transient("crashed"), TimedOut("slow again")]
    arrive(room, "a.jpg")
    for attempt in (1, 2):
        assert room.consumer.run_once(NOW) is Turn.FILED
        assert (room.row()["status"], room.row()["attempts"]) == ("queued", attempt)
    assert room.consumer.run_once(NOW) is Turn.FILED
    assert (room.row()["status"], room.row()["error"]) == ("failed", "slow again")
    assert room.row()["attempts"] == 3
    room.close()
