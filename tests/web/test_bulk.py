"""One act on many images: what it says, what it changes, and how that is undone, to the last byte."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from daemon.catalogue.keywords import KeywordChange, Keywords, KeywordState
from daemon.catalogue.schema import Image
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, Rejected
from daemon.sidecar import xmp
from tests.captions.darkroom import FullRoom
from tests.program import Program, darkroom
from tests.support import jpeg, packet_of, tree, wait_until
from tests.web.serving import Served, photo
from web import bulk
from web.bulk import KeywordUndo, KeywordUndos
from web.context import ApiError

# Of a row, what writing a sidecar changes, whatever is in it.
LOOKS = {"sidecar_mtime_ns", "sidecar_size", "sidecar_due"}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Served]:
    """A served room that writes sidecars."""
    room = FullRoom(tmp_path / "room", "[filing]\nfolder_keywords = true")
    with Served(room) as made:
        yield made
    room.close()


def fill(served: Served, n: int, **columns: Any) -> None:
    """File two photos, the second in a folder, and more that are copies of these rows; say something of all of them."""
    room = served.room
    for seed in range(min(n, 2)):
        room.put(f"{'trip/' * seed}{seed:05}.jpg", photo(seed))
    room.drain()
    with room.catalogue.writing():
        rows = [Image.get_by_id(one).__data__ for one in range(1, min(n, 2) + 1)]
        for seed in range(2, n):
            path = f"{Path(rows[seed % 2]['destination']).parent}/{seed:05}.jpg"
            (room.library / path).write_bytes(photo(seed))
            own = {"id": seed + 1, "original_name": path[-9:], "destination": path, "sha256": f"{seed:064}"}
            Image.insert({**rows[seed % 2], **own, "sidecar_due": 1}).execute()
        if columns:
            Image.update(columns).execute()


def act(served: Served, name: str, **more: Any) -> Any:
    answer = served.http.post("/api/images/bulk", json={"act": name, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def refused(served: Served, status: int, name: str, **more: Any) -> Any:
    answer = served.http.post("/api/images/bulk", json={"act": name, **more})
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def keywords(served: Served) -> list[Any]:
    return [row["keywords"] for row in served.room.rows()]


def lasting(served: Served) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in LOOKS} for row in served.room.rows()]


def write_sidecars(served: Served) -> dict[str, bytes]:
    room = served.room
    assert isinstance(room, FullRoom)
    with room.catalogue.session():
        room.caption()
    return {path: content for path, content in tree(room.library).items() if path.endswith(".xmp")}


def vary(served: Served) -> None:
    """Give the photos words of all kinds: a model's, a person's, none, nested ones."""
    with served.room.catalogue.writing():
        for n, row in enumerate(Image.select(Image.id).order_by(Image.id)):
            changes: list[dict[str, Any]] = [
                {},
                {"keywords": ("a", "b", "ü"), "caption": "A model's", "caption_status": "done", "captioned_at": 5.0},
                {"keywords": (), "edited": "keywords", "edited_at": 1234.5},
                {"keywords": ("Rome",), "hierarchical_keywords": ("Places|Rome",), "title": "T", "rating": 3},
                {"caption": "Mine", "caption_status": "done", "edited": "caption", "edited_at": 99.25},
            ]
            Image.update({**changes[n % 5], "sidecar_due": 1}).where(Image.id == row.id).execute()


def test_an_added_keyword_can_be_taken_back_to_the_last_byte(full: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_BATCH", 10)
    add_and_undo(full, 25)


@pytest.mark.slow
def test_an_added_keyword_can_be_taken_back_of_5000(full: Served) -> None:
    add_and_undo(full, 5000, written=200)


def add_and_undo(served: Served, n: int, written: int | None = None) -> None:
    """Add keywords and take them back, once so many sidecars show them; the others are written meanwhile."""
    fill(served, n)
    vary(served)
    assert len(before := write_sidecars(served)) == n
    rows = lasting(served)
    assert act(served, "count", filter={"status": "done"})["selected"] == n
    added = act(served, "add_keywords", filter={"status": "done"}, expected=n, keywords=["Summer", "ü"])
    assert (added["selected"], added["changed"], added["unchanged"], added["refused"]) == (n, n, 0, [])
    assert added["undo_seconds"] == 10
    assert all("Summer" in row["keywords"] and "ü" in row["keywords"] for row in served.room.rows())
    assert all("keywords" in row["edited"] for row in served.room.rows())
    writer = threading.Thread(target=write_sidecars, args=(served,))
    writer.start()
    wait_until(lambda: shown(served) >= (written or n), what="the sidecars that show them")
    undone = act(served, "undo", undo=added["undo"])
    assert (undone["selected"], undone["changed"], undone["refused"], undone["undo"]) == (n, n, [], None)
    assert lasting(served) == rows
    writer.join()
    assert write_sidecars(served) == before
    assert served.room.kinds(1)[-2:] == ["edited", "edited"]
    assert served.room.history(1)[-1]["detail"] == "keywords as before: the edit was taken back"
    assert refused(served, 409, "undo", undo=added["undo"])["code"] == "undo_expired"


def shown(served: Served) -> int:
    """Count the sidecars that show the added keyword."""
    files = served.room.library.rglob("*.xmp")
    return sum(b"<rdf:li>Summer</rdf:li>" in file.read_bytes() for file in files)


def test_removed_keywords_come_back_in_their_order(full: Served) -> None:
    fill(full, 6)
    vary(full)
    before, rows = write_sidecars(full), lasting(full)
    removed = act(full, "remove_keywords", ids=[1, 2, 3, 4, 5, 6], keywords=["a", "ü", "Rome", "none of these"])
    assert (removed["changed"], removed["unchanged"]) == (2, 4)
    assert keywords(full) == [None, ["b"], [], [], None, ["trip"]]
    assert write_sidecars(full) != before
    act(full, "undo", undo=removed["undo"])
    assert (lasting(full), write_sidecars(full)) == (rows, before)


def test_an_undo_that_comes_before_the_sidecars_are_written(full: Served) -> None:
    fill(full, 3)
    before = write_sidecars(full)
    looks = {file: file.stat().st_mtime_ns for file in full.room.library.rglob("*.xmp")}
    added = act(full, "add_keywords", filter={}, keywords=["x"])
    act(full, "undo", undo=added["undo"])
    assert write_sidecars(full) == before
    assert {file: file.stat().st_mtime_ns for file in looks} == looks, "what is as it was is not written"


def test_what_has_changed_since_is_left_and_said(full: Served) -> None:
    fill(full, 4)
    added = act(full, "add_keywords", ids=[4, 3, 2, 1], keywords=["x"])
    full.http.patch("/api/images/1", json={"keywords": ["mine"]}).raise_for_status()
    full.http.patch("/api/images/2", json={"title": "of another matter"}).raise_for_status()
    full.sql("DELETE FROM image WHERE id = 3")
    undone = act(full, "undo", undo=added["undo"])
    assert (undone["selected"], undone["changed"], undone["unchanged"]) == (4, 2, 0)
    assert {one["image_id"]: one["code"] for one in undone["refused"]} == {1: "changed_since", 3: "not_found"}
    assert keywords(full) == [["mine"], ["trip"], ["trip"]]


def test_no_model_changes_what_was_added_and_one_may_again_after_an_undo(full: Served) -> None:
    fill(full, 1, keywords=("model's",))
    added = act(full, "add_keywords", ids=[1], keywords=["mine"])
    assert full.room.columns()["edited"] == "keywords"
    act(full, "undo", undo=added["undo"])
    assert full.room.columns()["edited"] is None


def test_what_is_so_already_is_not_changed(served: Served) -> None:
    fill(served, 3, keywords=("x",))
    rows = served.room.rows()
    added = act(served, "add_keywords", filter={}, keywords=["x", "x"])
    assert (added["selected"], added["changed"], added["unchanged"], added["undo"]) == (3, 0, 3, None)
    assert served.room.rows() == rows


def test_keywords_have_an_end(served: Served) -> None:
    fill(served, 2)
    with served.room.catalogue.writing():
        Image.update(keywords=tuple(map(str, range(199)))).where(Image.id == 1).execute()
    added = act(served, "add_keywords", ids=[1, 2, 99], keywords=["x", "y"])
    assert (added["selected"], added["changed"]) == (3, 1)
    assert [(one["image_id"], one["code"]) for one in added["refused"]] == [(1, "too_many_keywords"), (99, "not_found")]
    assert added["refused"][0]["message"] == "image 1 would have more than 200 keywords"


def test_of_many_that_are_refused_twenty_are_named(served: Served) -> None:
    done = act(served, "add_keywords", ids=list(range(1, 1001)), keywords=["x"])
    assert (done["selected"], done["changed"], done["unchanged"]) == (1000, 0, 0)
    assert [one["image_id"] for one in done["refused"]] == list(range(1, 21))


def test_a_filter_means_what_the_list_shows(served: Served) -> None:
    fill(served, 9)
    with served.room.catalogue.writing():
        Image.update(camera_model="Canon EOS R6 Mark II", folder="Alps").where(Image.id > 3).execute()
        Image.update(camera_model="Canon EOS R6", lat=1.0, lon=2.0, rating=4).where(Image.id <= 3).execute()
        Image.update(status="failed").where(Image.id == 9).execute()
        Image.update(status="rejected").where(Image.id == 8).execute()
    for given in (
        {},
        {"status": "done"},
        {"status": "rejected"},
        {"q": "jpg"},
        {"q": "jpg", "sort": "taken"},
        {"camera": "canon eos r6"},
        {"model": "Canon EOS R6"},
        {"folder": "Alps", "from": "2024-05-01", "to": "2024-05-01"},
        {"month": "2024-05", "sort": "taken", "status": "done"},
        {"rating": "3..", "has_gps": "true", "has_caption": "false", "caption_status": "off"},
        {"q": "nothing"},
    ):
        listed = served.http.get("/api/images", params={**given, "limit": "500"}).json()["data"]
        assert act(served, "count", filter=given)["selected"] == len(listed), given
    assert act(served, "count", filter={"has_gps": True, "rating": 4})["selected"] == 3
    act(served, "add_keywords", filter={"model": "Canon EOS R6"}, keywords=["x"])
    assert [row["id"] for row in served.room.rows() if row["keywords"]] == [1, 2, 3]


def test_a_selection_that_is_another_by_now_is_not_acted_on(served: Served) -> None:
    fill(served, 3)
    said = refused(served, 409, "add_keywords", filter={}, expected=2, keywords=["x"])
    assert said == {
        "code": "count_changed",
        "message": "3 images are meant by now, and not 2; nothing was done",
    }
    assert keywords(served) == [None] * 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"act": "count"}, "the images are named by `ids` or by a `filter`, by one of the two"),
        ({"act": "count", "ids": [1], "filter": {}}, "the images are named by `ids` or"),
        ({"act": "add_keywords", "ids": [1]}, "add_keywords needs `keywords`"),
        ({"act": "add_keywords", "ids": [1], "keywords": [""]}, "keywords is a list of at most 200 texts of"),
        ({"act": "fly", "ids": [1]}, "act is one of count, add_keywords, remove_keywords, caption, retry"),
        ({"ids": [1]}, "act is one of count"),
        ({"act": "count", "ids": [0]}, "ids is a list of at most 10000 ids; more by a filter"),
        ({"act": "count", "ids": ["1"]}, "ids is a list"),
        ({"act": "count", "ids": [2**63]}, "ids is a list"),
        ({"act": "count", "ids": list(range(1, 10_002))}, "ids is a list"),
        ({"act": "count", "filter": {"status": "x"}}, "status is one of"),
        ({"act": "count", "filter": {"limit": "1"}}, "unknown name in the filter limit: known are status, q, camera"),
        ({"act": "count", "filter": {"q": ["x"]}}, "filter is an object with the names and values of the query"),
        ({"act": "count", "filter": "x"}, "filter is an object"),
        ({"act": "count", "filter": {}, "expected": -1}, "expected is the number of images"),
        ({"act": "count", "filter": {}, "more": 1}, "the body names one or more of `act`, `ids`, `filter`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_makes_no_sense_is_refused_with_what_would(served: Served, body: object, said: str) -> None:
    answer = served.http.post("/api/images/bulk", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)


def test_a_browsers_form_may_ask_too_and_is_answered_with_pages(served: Served) -> None:
    fill(served, 2)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = urlencode({"request": json.dumps({"act": "count", "filter": {}})})
    answer = served.http.post("/api/images/bulk", content=body, headers=form)
    assert answer.json()["data"]["selected"] == 2
    for wrong in ("", "request=", "request=x", urlencode({"request": '{"act": "count"}'})):
        answer = served.http.post("/api/images/bulk", content=wrong, headers=form)
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/html")


def test_captions_are_asked_for_again(served: Served) -> None:
    fill(served, 4)
    with served.room.catalogue.writing():
        Image.update(folder="secret").where(Image.id == 2).execute()
        Image.update(status="failed").where(Image.id == 3).execute()
    served.private = ("secret",)
    done = act(served, "caption", filter={})
    assert (done["selected"], done["changed"], done["undo"]) == (4, 2, None)
    assert {one["image_id"]: one["code"] for one in done["refused"]} == {2: "private", 3: "conflict"}
    assert [row["caption_status"] for row in served.room.rows()] == ["pending", "off", "off", "pending"]
    assert served.room.kinds(1)[-1] == "caption asked"
    served.captions_on = False
    assert refused(served, 409, "caption", filter={})["code"] == "captions_off"


def test_what_failed_is_queued_again(served: Served) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        served.room.put(name, b"no image")
    served.room.decode_with(not_an_image)
    served.room.drain()
    (served.room.failed / "b.jpg").unlink()
    done = act(served, "retry", filter={"status": "failed"}, expected=3)
    assert (done["selected"], done["changed"]) == (3, 2)
    [left] = done["refused"]
    assert (left["image_id"], left["code"]) == (served.room.row_of("b.jpg")["id"], "conflict")
    assert str(served.room.config.base) not in left["message"]
    assert [served.room.row_of(name)["status"] for name in ("a.jpg", "b.jpg", "c.jpg")] == [
        "queued",
        "failed",
        "queued",
    ]
    assert sorted(tree(served.room.inbox)) == ["a.jpg", "c.jpg"]


def not_an_image(_: Path) -> Decoded:
    raise Rejected("not an image")


def test_others_write_in_between(served: Served) -> None:
    """While thousands of rows change, nobody waits for the database much longer than for one batch of them."""
    fill(served, 1)
    with served.room.catalogue.writing():
        row = Image.get_by_id(1).__data__
        for n in range(2, 1001):
            Image.insert({**row, "id": n, "destination": f"{n}.jpg", "sha256": f"{n:064}"}).execute()
    waits: list[float] = []
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            began = time.monotonic()
            served.room.queue.warn(1, "x")
            waits.append(time.monotonic() - began)
            time.sleep(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert act(served, "add_keywords", filter={}, keywords=["x"])["changed"] == 1000
    finally:
        ended.set()
        writer.join()
    assert len(waits) >= 5
    assert max(waits) < 2


def test_what_there_is_no_time_for_is_left_and_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(served, 5)
    monkeypatch.setattr(bulk, "_SECONDS", 0.0)
    done = act(served, "add_keywords", filter={}, keywords=["x"])
    assert (done["selected"], done["changed"], done["unchanged"], done["undo"]) == (5, 0, 0, None)
    assert [(one["image_id"], one["code"]) for one in done["refused"]] == [(one, "time") for one in (5, 4, 3, 2, 1)]


def test_a_fault_in_the_middle_leaves_the_rest_and_what_was_done_can_be_undone(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(served, 5)
    monkeypatch.setattr(bulk, "_BATCH", 2)
    real, calls = Keywords.change, []

    def change(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise EnvironmentFault("the database /x/y is locked")
        return real(*arguments)

    monkeypatch.setattr(Keywords, "change", change)
    done = act(served, "add_keywords", ids=[1, 2, 3, 4, 5], keywords=["x"])
    assert (done["changed"], [one["image_id"] for one in done["refused"]]) == (2, [3, 4, 5])
    assert {one["code"] for one in done["refused"]} == {"unavailable"}
    assert keywords(served) == [["x"], ["x"], None, None, None]
    assert act(served, "undo", undo=done["undo"])["changed"] == 2
    assert keywords(served) == [None] * 5
    calls[:] = [()]
    assert refused(served, 503, "add_keywords", ids=[1], keywords=["x"])["code"] == "unavailable"


def test_undos_are_bounded_and_end() -> None:
    def undo(n: int) -> KeywordUndo:
        return KeywordUndo(KeywordChange(0.0), {one: KeywordState(None, None, None) for one in range(n)})

    undos = KeywordUndos(most=10, seconds=60)
    assert undos.keep(undo(0)) is None
    assert undos.keep(undo(11)) is None
    first, second, third = undos.keep(undo(4)), undos.keep(undo(4)), undos.keep(undo(4))
    assert first is not None
    assert second is not None
    assert third is not None
    with pytest.raises(ApiError, match="can't be undone any more"):
        undos.get(first)
    assert len(undos.get(second).before) == len(undos.get(third).before) == 4
    ended = KeywordUndos(most=10, seconds=-1)
    token = ended.keep(undo(1))
    assert token
    with pytest.raises(ApiError):
        ended.get(token)


@pytest.mark.slow
def test_killed_in_the_middle_it_leaves_no_sidecar_behind_its_row(tmp_path: Path) -> None:
    """Rows come first, a hundred at a time, and their sidecars follow, in this process or the next one."""
    base = tmp_path / "room"
    with Program(base) as program:
        for seed in range(250):
            (program.folders.inbox / f"{seed:05}.jpg").write_bytes(jpeg(seed=seed))
        program.wait_for(120, done=250)
        body = json.dumps({"act": "add_keywords", "filter": {"status": "done"}, "keywords": ["x"]}).encode()
        asked = threading.Thread(target=lambda: suppressed(program, body))
        asked.start()
        changed = "SELECT count(*) FROM image WHERE keywords IS NOT NULL"
        wait_until(lambda: program.query(changed) != [(0,)], what="the first of them")
        os.killpg(program.process.pid, signal.SIGKILL)
        asked.join()
        [(done,)] = program.query(changed)
        assert done % 100 in {0, 50}, "all of a batch or nothing"
        assert program.query("SELECT count(*) FROM image WHERE sidecar_due > 0") != [(0,)]
    with Program(base) as program:
        wait_until(
            lambda: program.query("SELECT count(*) FROM image WHERE sidecar_due > 0") == [(0,)],
            60,
            "the sidecars of what was changed",
        )
        rows = program.query("SELECT destination, keywords FROM image")
        for destination, words in rows:
            packet = packet_of((program.folders.library / f"{destination}.xmp").read_bytes())
            assert packet.texts(xmp.DC, "subject") == json.loads(words or "[]")
        assert program.stop() == 0
    assert darkroom(base, "verify").returncode == 0


def suppressed(program: Program, body: bytes) -> None:
    with suppress(OSError, HTTPException):
        program.ask("/api/images/bulk", "POST", body)
