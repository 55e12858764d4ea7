"""The models, the answers of the API and what the command line prints are of one kind."""

import json
from argparse import Namespace
from typing import Any

import pytest
from pydantic import BaseModel

from daemon.catalogue.schema import Image
from daemon.commands import list as list_command
from daemon.commands import status as status_command
from tests.support import jpeg
from tests.web.serving import Served, photo
from web.models import (
    CaptionEdit,
    CaptionReceipt,
    ErrorAnswer,
    EventMessage,
    HealthAnswer,
    ImageDetail,
    ImagePage,
    StatsAnswer,
    Success,
    UnhealthyAnswer,
    UploadReceipt,
    UploadReceipts,
    request_of,
)


def is_such(model: type[BaseModel], answer: Any) -> None:
    """Hold an answer to a model: all fields, of their types, and no others."""
    content = answer.content
    assert json.loads(model.model_validate_json(content, strict=True).model_dump_json()) == json.loads(content)


def fill(served: Served) -> None:
    content = jpeg()
    for name, data in {"a.jpg": content, "again.jpg": content, "b.jpg": jpeg(seed=2)}.items():
        served.room.put(name, data)
        served.room.drain()
    served.upload("waiting.jpg", jpeg(seed=3))
    values = {"lat": 48.5, "lon": -11.25, "iso": 200, "focal_length": 35.0, "exposure_time": "1/250", "orientation": 6}
    with served.room.catalogue.writing():
        Image.update({**values, "keywords": ["one", "two"], "warning": "odd"}).where(Image.id == 1).execute()
        Image.update(waiting="quiet", waiting_detail="2").where(Image.id == 4).execute()
    served.sql("""INSERT OR REPLACE INTO raw_exif VALUES (1, '{"Image Make": "Canon", "n": [1, null, 2.5]}')""")


def test_every_answer_is_as_its_model_says(served: Served) -> None:
    fill(served)
    http = served.http
    is_such(ImagePage, http.get("/api/images"))
    is_such(ImagePage, http.get("/api/images?limit=1"))
    for number in range(1, 5):
        is_such(Success[ImageDetail], http.get(f"/api/images/{number}"))
    is_such(Success[ImageDetail], http.patch("/api/images/1", json={"caption": "Oma", "keywords": ["Mai"]}))
    is_such(Success[StatsAnswer], http.get("/api/stats"))
    is_such(Success[CaptionReceipt], http.post("/api/images/3/caption"))
    is_such(Success[UploadReceipt], http.post("/api/images", content=photo(9)))
    is_such(Success[UploadReceipt], http.post("/api/images", content=photo(9)))
    several = [("file", (f"{n}.jpg", photo(n))) for n in range(2)]
    is_such(Success[UploadReceipts], http.post("/api/images", files=several))
    is_such(Success[HealthAnswer], http.get("/healthz"))
    served.room.duplicates.rename(served.room.state / "moved")
    is_such(UnhealthyAnswer, http.get("/healthz"))
    for path in ("/api/images/99", "/nothing", "/api/images?limit=x"):
        is_such(ErrorAnswer, http.get(path))
    with http.stream("GET", "/api/events", headers={"Last-Event-ID": "0"}) as stream:
        data = [line.removeprefix("data: ") for line in _until_stats(stream.iter_lines()) if line.startswith("data: ")]
    *events, counts = data
    assert events
    for event in events:
        EventMessage.model_validate_json(event, strict=True)
    StatsAnswer.model_validate_json(counts, strict=True)


def _until_stats(lines: Any) -> list[str]:
    found: list[str] = []
    while "event: stats" not in found[-2:-1]:
        found.append(next(lines))
    return found


def test_all_tags_are_in_the_answer_for_one_image_alone(served: Served) -> None:
    fill(served)
    [*_, listed] = served.http.get("/api/images").json()["data"]
    assert "raw" not in listed["metadata"]["exif"]
    assert served.http.get("/api/images/2").json()["data"]["metadata"]["exif"]["raw"] == {}
    shown = served.http.get("/api/images/1").json()["data"]
    assert shown["metadata"]["exif"].pop("raw") == {"Image Make": "Canon", "n": [1, None, 2.5]}
    more = {key: shown.pop(key) for key in ("warning", "visible_text", "history")}
    assert shown == listed
    assert more["warning"] == "odd"


def test_an_odd_value_in_one_row_costs_no_page(served: Served) -> None:
    fill(served)
    with served.room.catalogue.writing():
        Image.update(orientation=9, width=-1, duplicate_of=0, lat=float("inf")).where(Image.id == 1).execute()
    shown = served.http.get("/api/images").json()["data"][-1]
    assert (shown["metadata"]["exif"]["orientation"], shown["metadata"]["width"]) == (9, -1)
    assert shown["metadata"]["exif"]["gps"] == {"lat": None, "lon": -11.25}


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_list_prints_what_the_api_answers(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    fill(served)
    config = served.room.config
    for query, status in ((None, None), ("again", None), ("canon", "done"), ("nothing", None)):
        args = Namespace(json=True, query=query, status=status, by="arrived", limit=100, page=1, all=False)
        assert list_command.main(config, args) == 0
        local = {"warning", "attempts", "sha256", "place", "destination", "inbox_path"}
        rows = printed(capsys)
        params = {key: value for key, value in {"q": query, "status": status}.items() if value}
        answer = served.http.get("/api/images", params=params).json()["data"]
        assert [{key: row[key] for key in row.keys() - local} for row in rows] == answer
        assert all(local <= row.keys() for row in rows)
        assert {row["taken_from"] for row in rows if row["status"] in {"done", "duplicate"}} <= {"exif"}


def test_list_goes_from_page_to_page(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(served)
    monkeypatch.setattr(list_command, "_BATCH", 2)
    for limit in range(1, 7):
        list_command.main(
            served.room.config,
            Namespace(json=True, query=None, status=None, by="arrived", limit=limit, page=1, all=False),
        )
        assert [row["image_id"] for row in printed(capsys)] == [4, 3, 2, 1][:limit]


def test_status_prints_what_the_api_answers(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    fill(served)
    served.room.stored.set_pause(f"{served.room.library} is full", 1_700_000_000.0)
    assert status_command.main(served.room.config, Namespace(json=True, watch=False)) == 0
    shown = printed(capsys)
    more = {key: shown.pop(key) for key in ("running", "pid", "inbox_gone", "faults", "captioner")}
    assert (more["running"], more["pid"], more["faults"]) == (False, None, {})
    assert (more["captioner"]["on"], more["captioner"]["requests_today"]) == (False, 0)
    answer = served.http.get("/api/stats").json()["data"]
    assert answer.keys() == shown.keys()
    assert shown.pop("paused") == f"{served.room.library} is full"
    assert answer.pop("paused") == "library is full"
    assert shown["paused_since"] == "2023-11-14T22:13:20.000Z"
    for changing in ("rate", "seconds_left", "progress"):
        del shown[changing], answer[changing]
    assert shown == answer


def test_what_is_not_mentioned_is_not_changed() -> None:
    assert request_of(CaptionEdit, {"caption": None}).model_fields_set == {"caption"}
    both = request_of(CaptionEdit, {"caption": "x", "keywords": ["a", "b", "a"]})
    assert both == CaptionEdit(caption="x", keywords=("a", "b"))


_KNOWN = "the body names one or more of `caption`, `keywords`, `title`, `rating`, `label`, and nothing else"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, _KNOWN),
        (
            {"author": "x"},
            _KNOWN,
        ),
        (
            {"caption": 1, "author": "x"},
            _KNOWN,
        ),
        ({"rating": 6}, "rating is null, a number of stars from 0 to 5, or -1 for rejected"),
        ({"caption": 1}, "caption is null or a text of at most 10000 characters"),
        ({"caption": "x" * 10_001}, "caption is null or a text of at most 10000 characters"),
        ({"keywords": None}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": "ab"}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": {"a": "b"}}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": ["a", 1]}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": [""]}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": ["a" * 201]}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
        ({"keywords": ["a"] * 201}, "keywords is a list of at most 200 texts of 1 to 200 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_words_are_refused_with_what_is_right(body: object, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("`", ".")):
        request_of(CaptionEdit, body)
