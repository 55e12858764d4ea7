"""What `darkroom status` shows: what the program is doing, how fast, and what waits."""

import time

from daemon.commands.status import Activity, lines_of, progress_of, status_of
from daemon.errors import Postponed, WaitingReason
from daemon.files import lock
from tests.support import Room, jpeg


def shown(room: Room) -> tuple[str, str]:
    return progress_of(status_of(room.config, room.statistics))


def activity(room: Room) -> Activity:
    return status_of(room.config, room.statistics).activity


def printed(room: Room) -> str:
    return "\n".join(lines_of(status_of(room.config, room.statistics)))


def test_a_rate_is_shown_while_there_is_work(room: Room) -> None:
    room.put("a.jpg", jpeg(seed=1))
    room.drain()
    assert shown(room) == ("not running", "")
    assert activity(room) is Activity.NOT_RUNNING
    with lock.exclusive(room.state, []):
        assert status_of(room.config, room.statistics).stats.rate > 0, "some minutes long"
        assert shown(room) == ("idle", ""), "there is nothing left that could have a rate"
        assert activity(room) is Activity.IDLE
        room.put("b.jpg", jpeg(seed=2))
        room.scan()
        what, speed = shown(room)
        assert what == "filing"
        assert activity(room) is Activity.FILING
        assert "/s, " in speed
        assert speed.endswith(" s left")
        assert "a second" in printed(room)
        room.stored.set_pause("the library folder is full", 0.0)
        assert shown(room) == ("paused: the library folder is full", "")
        assert activity(room) is Activity.PAUSED
        assert "a second" not in printed(room)
        room.stored.set_pause(None)
        job = room.queue.claim(time.time())
        assert job is not None
        room.queue.postpone(job, Postponed(WaitingReason.WRITER, 60.0), time.time())
        assert shown(room) == ("waiting", ""), "nobody knows for how long"
        assert activity(room) is Activity.WAITING
        assert "waiting: 1 open for writing" in printed(room)


def test_no_rate_before_the_first_is_filed(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.scan()
    with lock.exclusive(room.state, []):
        assert shown(room) == ("filing", "")
