"""The envelope around all answers, whatever they hold."""

import json
from typing import Any

import pytest

from daemon.catalogue.search import Search
from tests.web.serving import Served
from web.context import Json
from web.models import HistoryLine


def test_all_errors_come_in_the_envelope(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Search, "page", broken)
    for method, path, status in [
        ("GET", "/nothing", 404),
        ("GET", "/static/nothing", 404),
        ("DELETE", "/api/images", 405),
        ("POST", "/api/stats", 405),
        ("GET", "/api/images", 500),
    ]:
        answer = served.http.request(method, path)
        body = answer.json()
        assert (answer.status_code, body["status"], body["data"]) == (status, "error", None)
        assert set(body["error"]) == {"code", "message"}
    assert set(served.http.delete("/api/images").headers["allow"].split(", ")) == {"GET", "HEAD", "POST", "PUT"}


@pytest.mark.parametrize("text", ["plain", "Grüße \N{GRINNING FACE}", 'a "quoted" \\ one', "\0\x1f\x7f\u2028"])
def test_a_model_is_written_as_its_values_are(text: str) -> None:
    line = HistoryLine(at=text, event=text, detail=text)
    for content in (line, line.model_dump()):
        assert json.loads(bytes(Json(content).body)) == line.model_dump()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("half \ud800", "half ?"),
        (["\udcff.jpg"], ["?.jpg"]),
        (float("nan"), None),
        ({"a": [float("-inf"), 1.5]}, {"a": [None, 1.5]}),
    ],
    ids=ascii,
)
def test_what_json_can_not_hold_is_replaced(value: Any, written: Any) -> None:
    assert json.loads(bytes(Json(value).body)) == written
    if isinstance(value, str):
        assert json.loads(bytes(Json(HistoryLine(at="", event="", detail=value)).body))["detail"] == written
