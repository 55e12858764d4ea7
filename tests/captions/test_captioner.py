"""The captioner over real rows, a real server and the real SDK: what each outcome does to the image and to the rest."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.captions.captioner import Captioner
from daemon.captions.limits import day_ends, progress, until_when
from daemon.captions.settings import CaptionSettings
from daemon.catalogue.schema import Image
from daemon.filing.thumbnail_store import Size
from tests.captions.darkroom import FullRoom
from tests.captions.gemini_server import (
    BLOCKED,
    BROKEN,
    CUT_OFF,
    DEAD_KEY,
    DROP,
    EMPTY,
    HANG,
    ODD_IMAGE,
    PER_DAY,
    PER_MINUTE,
    RETIRED,
    SIGN_IN,
    Answer,
    Gemini,
    caption,
    says,
)
from tests.support import slow, wait_until

Make = Callable[..., tuple[FullRoom, Gemini]]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return a room with some filed photos, each with a thumbnail of its own, and the server that it asks."""
    opened: list[tuple[FullRoom, Gemini]] = []

    def made(
        *answers: Answer, photos: int = 1, usually: Answer | None = None, **changes: object
    ) -> tuple[FullRoom, Gemini]:
        server = Gemini(answers, usually).__enter__()
        settings = CaptionSettings(**{"key": "a key", "base_url": server.url, **changes})  # type: ignore[arg-type]
        room = FullRoom(tmp_path / "room", settings=settings)
        opened.append((room, server))
        for number in range(photos):
            room.put(f"{number}.jpg", f"photo {number}".encode())
        room.drain()
        for row in room.rows():
            room.thumbnails.path(str(row["sha256"]), "medium").write_bytes(f"thumbnail {row['id']}".encode())
        return room, server

    yield made
    for room, server in opened:
        room.captioner.stop()
        room.close()
        server.__exit__(None, None, None)


def statuses(room: FullRoom) -> list[object]:
    return [row["caption_status"] for row in room.rows()]


def filed(room: FullRoom) -> bool:
    return {row["status"] for row in room.rows()} == {"done"}


def test_a_caption_and_all_that_is_known_of_it(make: Make) -> None:
    room, server = make()
    assert room.columns()["caption_status"] == "pending"
    room.caption()
    row = room.columns()
    assert (row["caption"], row["keywords"], row["visible_text"]) == (
        "A grey cat sleeps on a red sofa.",
        ["cat", "sofa"],
        "HOME",
    )
    assert (row["caption_status"], row["caption_model"]) == ("done", "gemini-flash-lite-latest")
    assert (row["tokens_in"], row["tokens_out"]) == (1290, 50)
    assert len(row["caption_prompt"]) == 8
    assert abs(row["captioned_at"] - time.time()) < 10
    assert server.asked[0].image == b"thumbnail 1"
    assert room.kinds()[-1] == "captioned"
    assert room.caption() > 0
    assert len(server.asked) == 1


def test_a_limit_of_the_minute_is_obeyed_and_spends_nothing(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    room, server = make(PER_MINUTE, PER_MINUTE)
    caplog.set_level(logging.INFO)
    assert 34 < room.caption() < 36
    now = time.time()  # a pause counts from when the answer came
    assert room.caption(now + 10) > 20
    assert 34 < room.caption(now + 35) < 36
    assert len(server.asked) == 2
    assert sum("paused" in record.message for record in caplog.records) == 1
    room.caption(now + 80)
    assert statuses(room) == ["done"]
    assert room.columns()["caption_attempts"] == 0


def test_a_limit_of_the_day_lasts_until_midnight_pacific_and_over_a_restart(make: Make) -> None:
    room, server = make(PER_DAY)
    now = time.time()
    room.caption(now)
    room.captioner = room.new_captioner()
    later = min(60.0, (day_ends(now) - now) / 2)  # the test may run just before midnight
    assert room.caption(now + later) == pytest.approx(day_ends(now) - now - later, abs=5)
    assert len(server.asked) == 1
    told = progress(room.captions, room.stored, room.captioner.settings, now + later)
    assert told.paused is not None
    assert told.paused_until == day_ends(now)
    room.caption(day_ends(now) + 1)
    assert statuses(room) == ["done"]
    told = progress(room.captions, room.stored, room.captioner.settings, day_ends(now) + 2)
    assert told.paused is None


def test_a_pause_is_said_whenever_it_becomes_another_one(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    room, _server = make(PER_MINUTE, PER_MINUTE, PER_DAY, photos=2)
    caplog.set_level(logging.INFO)
    now = time.time()
    for later in (0, 40, 80):
        room.caption(now + later)
    said = [record.getMessage() for record in caplog.records if "paused" in record.message]
    model = room.captioner.settings.model
    assert len(said) == 2
    assert f": Google's quota of the minute for {model} is used up (" in said[0]
    assert f": Google's quota of the day for {model} is used up (" in said[1]
    assert said[1].startswith(f"captions are paused {until_when(day_ends(now))}: ")
    line = progress(room.captions, room.stored, room.captioner.settings, now + 81).line()
    assert f"; paused {until_when(day_ends(now))}: Google's quota of the day for {model} is used up (" in line


def test_requests_are_counted_by_model(make: Make) -> None:
    room, _server = make(photos=3)
    room.caption()
    room.captions.ask_again(2, time.time(), "another-model")
    room.caption()
    told = progress(room.captions, room.stored, room.captioner.settings, time.time())
    assert (told.done, told.waiting, told.requests_today, told.requests_to_others) == (2, 1, 1, {"another-model": 1})
    per_day = f"1 of {told.per_day:,} requests to {told.model} made today, 1 to another-model"
    assert told.line().startswith("captions: 2 done, 1 waiting (about ")
    assert told.line().endswith(f"; {per_day}")


@pytest.mark.parametrize("answer", [BROKEN, slow(DROP), slow(SIGN_IN)])
def test_a_service_that_fails_pauses_longer_and_longer(
    make: Make, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    room, server = make(answer, answer, answer, photos=3)
    caplog.set_level(logging.INFO)
    now, waits = time.time(), []
    for _ in range(3):
        waits.append(room.caption(now))
        # A pause counts from when the answer came.
        now = max(now, time.time()) + waits[-1] + 0.5
    assert waits == [5.0, 10.0, 20.0]
    assert sum("paused" in record.message for record in caplog.records) == 1
    while (wait := room.caption(now)) < 1000 and "pending" in statuses(room):
        now += wait + 0.5
    assert statuses(room) == ["done"] * 3
    assert any("captions go on" in record.message for record in caplog.records)
    assert filed(room)
    assert len(server.asked) == 6


def test_a_hang_costs_its_time_limit(make: Make) -> None:
    room, _ = make(HANG)
    room.captioner = room.new_captioner(seconds=0.3)
    assert room.caption() == 5.0
    assert statuses(room) == ["pending"]
    assert "did not answer in time" in room.columns()["caption_error"]


def test_an_image_that_the_service_stumbles_over_fails_in_the_end(make: Make) -> None:
    room, server = make(usually=BROKEN)
    now = time.time()
    for _ in range(30):
        due = room.captions.next_due()
        if due is None:
            break
        now = max(now + 601, due)
        room.caption(now)
    assert statuses(room) == ["failed"]
    assert len(server.asked) == 10
    assert filed(room)


@pytest.mark.parametrize("answer", [DEAD_KEY, RETIRED])
def test_what_only_the_configuration_mends(make: Make, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    room, server = make(answer, photos=3)
    caplog.set_level(logging.INFO)
    now = time.time()
    assert room.caption(now) == float("inf")
    room.captioner = room.new_captioner()
    assert room.caption(now + 40 * 86400) == float("inf")
    assert len(server.asked) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    room.settings = CaptionSettings(key="another key", base_url=server.url)
    room.captioner = room.new_captioner()
    for _ in range(3):
        room.caption()
    assert statuses(room) == ["done"] * 3


def test_a_blocked_image_is_blocked_and_the_others_are_not(make: Make) -> None:
    room, server = make(BLOCKED, photos=2)
    room.caption()
    room.caption()
    assert statuses(room) == ["blocked", "done"]
    assert "PROHIBITED_CONTENT" in room.columns(1)["caption_error"]
    assert room.captions.missing() == []
    assert len(server.asked) == 2


@pytest.mark.parametrize("answer", [EMPTY, CUT_OFF, says("no JSON at all")])
def test_an_answer_that_is_none_is_asked_for_again(make: Make, answer: Answer) -> None:
    room, server = make(answer)
    now = time.time()
    room.caption(now)
    assert (statuses(room), room.columns()["caption"]) == (["pending"], None)
    room.caption(now + 70)
    assert statuses(room) == ["done"]
    tokens = [asked.body["generationConfig"]["maxOutputTokens"] for asked in server.asked]
    assert tokens[1] == 2 * tokens[0]


def test_an_answer_nested_ten_thousand_deep_is_the_fault_of_one_image(make: Make) -> None:
    deep = "[" * 10_000 + "]" * 10_000
    room, _ = make(says(f'{{"caption": {deep}}}'), Answer(f'{{"candidates": {deep}}}'.encode()), photos=3)
    for _ in range(3):
        room.caption()
    assert statuses(room) == ["pending", "pending", "done"]
    assert room.captioner.loop.fault is None


def test_three_answers_that_are_none_are_enough(make: Make) -> None:
    room, server = make(usually=CUT_OFF)
    now = time.time()
    for _ in range(5):
        room.caption(now)
        now += 3600
    assert statuses(room) == ["failed"]
    assert len(server.asked) == 3
    assert room.captions.missing() == [1]


def test_one_odd_image_fails_alone(make: Make) -> None:
    room, _ = make(ODD_IMAGE, photos=2)
    room.caption()
    room.caption()
    assert statuses(room) == ["failed", "done"]


def test_odd_images_in_a_row_are_not_the_images_fault(make: Make) -> None:
    room, server = make(usually=ODD_IMAGE, photos=5)
    waits = [room.caption() for _ in range(4)]
    assert waits[2:] == [float("inf")] * 2
    assert statuses(room) == ["pending"] * 5
    assert len(server.asked) == 3


def test_the_quota_is_kept_over_restarts(make: Make) -> None:
    room, server = make(photos=5, requests_per_minute=2, requests_per_day=3)
    now = day_ends(time.time()) - 40_000
    for _ in range(3):
        room.captioner = room.new_captioner()
        room.caption(now)
    assert len(server.asked) == 2
    assert room.caption(now) == 60
    room.caption(now + 61)
    assert len(server.asked) == 3
    assert room.caption(now + 122) == pytest.approx(40_000 - 122)
    told = progress(room.captions, room.stored, room.captioner.settings, now + 122)
    assert told.line() == f"captions: 3 done, 2 waiting (about 12 h); 3 of 3 requests to {told.model} made today"
    room.caption(now + 40_001)
    assert len(server.asked) == 4


def test_the_same_pixels_cost_one_request(make: Make) -> None:
    room, server = make(photos=3)
    for row in room.rows():
        room.thumbnails.path(str(row["sha256"]), "medium").write_bytes(b"the same picture")
    for _ in range(3):
        room.caption()
    assert statuses(room) == ["done"] * 3
    assert len(server.asked) == 1
    assert {row["caption"] for row in room.rows()} == {"A grey cat sleeps on a red sofa."}
    room.captions.ask_again(2, time.time())
    room.caption()
    assert len(server.asked) == 2


def test_private_folders_never_leave_the_machine(make: Make) -> None:
    room, server = make(photos=0, private=("Family", "docs/ids"))
    for folder in ("Family", "2024/family/sub", "docs/ids/old", "docs", "families"):
        room.put(f"{folder}/a.jpg", folder.encode())
    room.drain()
    for row in room.rows():
        room.thumbnails.path(str(row["sha256"]), "medium").write_bytes(str(row["id"]).encode())
    with room.catalogue.writing():
        Image.update(caption_status="pending").where(Image.folder == "Family").execute()
    for _ in range(8):
        room.caption()
    assert {str(row["folder"]): row["caption_status"] for row in room.rows()} == {
        "Family": "private",
        "2024/family/sub": "private",
        "docs/ids/old": "private",
        "docs": "done",
        "families": "done",
    }
    assert len(server.asked) == 2


def test_a_persons_words_win(make: Make) -> None:
    room, server = make(photos=2)
    room.captions.edit(1, time.time(), caption="Anna's cat.")
    room.captions.edit(2, time.time(), keywords=["Anna"])
    for _ in range(3):
        room.caption()
    assert (room.columns(1)["caption"], room.columns(1)["caption_status"]) == ("Anna's cat.", "done")
    assert (room.columns(2)["caption"], room.columns(2)["keywords"]) == ("A grey cat sleeps on a red sofa.", ["Anna"])
    assert len(server.asked) == 1


def test_words_written_while_the_answer_is_on_its_way_win(make: Make) -> None:
    room, server = make()
    server.delay = 0.5
    turn = threading.Thread(target=room.caption)
    turn.start()
    wait_until(lambda: server.asked)
    room.captions.edit(1, time.time(), caption="Mine.")
    turn.join()
    assert room.columns()["caption"] == "Mine."


def test_another_model_on_request(make: Make) -> None:
    room, server = make(caption(), RETIRED)
    room.caption()
    room.captions.ask_again(1, time.time(), "gemini-0.5")
    room.caption()
    assert server.asked[1].model == "gemini-0.5"
    assert room.columns()["caption_status"] == "failed"
    assert room.columns()["caption"] == "A grey cat sleeps on a red sofa."


def test_facts_only_when_asked_to(make: Make) -> None:
    room, server = make(facts=True)
    room.caption()
    assert "taken on 2024-05-01" in server.asked[0].text
    assert "Canon" in server.asked[0].text


def test_without_a_key_nothing_is_asked_and_it_is_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    room, server = make(key=None)
    caplog.set_level(logging.INFO)
    for _ in range(5):
        room.caption()
    assert statuses(room) == ["off"]
    assert [record.message for record in caplog.records if "captions" in record.message] == [
        "captions are off: there is no GEMINI_API_KEY in the environment or in .env"
    ]
    assert server.asked == []


def test_a_missing_thumbnail_fails_the_caption_alone(make: Make) -> None:
    room, _ = make(photos=2)
    room.thumbnails.path(str(room.columns(1)["sha256"]), "medium").unlink()
    room.caption()
    room.caption()
    assert statuses(room) == ["failed", "done"]
    assert filed(room)


def test_stop_does_not_wait_for_a_hang(make: Make) -> None:
    room, server = make(HANG)
    captioner: Captioner = room.captioner
    captioner.start()
    wait_until(lambda: server.asked)
    began = time.monotonic()
    captioner.stop()
    assert time.monotonic() - began < 2
    assert not captioner.loop.alive
    assert statuses(room) == ["pending"]


def test_an_image_on_which_the_captioner_itself_fails_holds_up_no_other(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong with one, its caption or its sidecar: at the third time it is given up."""
    room, server = make(photos=3)
    monkeypatch.setattr("daemon.loop._LAST_SECONDS", 0.01)
    bad = room.captions.next(time.time())
    assert bad is not None
    path, write, broken = room.thumbnails.path, room.sidecars.write, room.columns(3)["sha256"]

    def thumbnail(sha256: str, size: Size) -> Path:
        return path(sha256, size) if sha256 != bad.sha256 else [][1]

    def sidecar(image_id: int) -> None:
        if room.columns(image_id)["sha256"] == broken:
            raise KeyError("sidecar")
        write(image_id)

    monkeypatch.setattr(room.thumbnails, "path", thumbnail)
    monkeypatch.setattr(room.sidecars, "write", sidecar)
    room.captions.edit(3, time.time(), title="The third")
    room.captioner.loop.run(lambda: "pending" not in statuses(room))
    assert sorted(map(str, statuses(room))) == ["done", "done", "failed"]
    assert "an error in darkroom itself: IndexError" in room.columns(bad.id)["caption_error"]
    assert room.columns(3)["sidecar_due"] == 0
    assert any(event["event"] == "sidecar" and "KeyError" in event["detail"] for event in room.history(3))
    assert len(server.asked) == 2
