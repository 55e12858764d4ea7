"""Ids, pages, ranges and words of any length and content: refused in the envelope, never a 500."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import Room, jpeg
from tests.web.serving import Served, photo

NUMBERS = ["9" * 20, str(2**63), "9" * 4301, "9" * 30_000]
NO_NUMBERS = ["%D9%A3", "%C2%B2", "-1", "+1", "1_0", "%207", "1.0", "0x1", "x" * 5000, "%FF", "%ED%A0%80"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    room = Room(tmp_path_factory.mktemp("bad") / "room")
    with Served(room) as made:
        made.upload("a.jpg", jpeg())
        room.drain()
        yield made
    room.close()


def refusal(served: Served, method: str, path: str, status: int, **more: Any) -> str:
    """Send what is to be refused; returns what the refusal says."""
    answer = served.http.request(method, path, **more)
    assert answer.status_code == status, (path[:100], answer.status_code, answer.text[:300])
    body = answer.json()
    assert (body["status"], body["data"]) == ("error", None)
    assert len(body["error"]["message"]) < 300
    return str(body["error"]["message"])


@pytest.mark.parametrize("number", [*NUMBERS, *NO_NUMBERS], ids=lambda number: f"{number[:12]} ({len(number)})")
def test_what_can_not_be_an_id_is_not_found(served: Served, number: str) -> None:
    calls = [("GET", ""), ("GET", "/original"), ("GET", "/thumbnails/small"), ("POST", "/retry"), ("POST", "/caption")]
    for method, rest in calls:
        assert "is not an image's id" in refusal(served, method, f"/api/images/{number}{rest}", 404)
    assert "is not an image's id" in refusal(served, "PATCH", f"/api/images/{number}", 404, json={"caption": "x"})


@pytest.mark.parametrize("origin", ["http://[::1", "http://[x]", "http://", "//", "null", "x" * 5000])
def test_an_origin_that_is_none_is_foreign(served: Served, origin: str) -> None:
    answer = served.http.post("/api/images/1/retry", headers={"Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")


def test_an_upload_may_have_a_name_of_digits_alone(served: Served) -> None:
    for digits in ("7", "9" * 4301):
        answer = served.http.put(f"/api/images/{digits}", content=photo(len(digits)))
        assert answer.status_code == 202, answer.text


def test_what_can_not_be_a_limit_or_a_cursor(served: Served) -> None:
    for number in (*NUMBERS[:3], *NO_NUMBERS):
        assert refusal(served, "GET", f"/api/images?limit={number}", 400) == "limit is a number from 1 to 500"
        assert refusal(served, "GET", f"/api/images?cursor={number}", 400).startswith("cursor is what")
        for key in ("from", "to", "status", "has_gps"):
            refusal(served, "GET", f"/api/images?{key}={number}", 400)


@pytest.mark.slow
def test_every_part_of_a_request_may_be_anything(served: Served) -> None:
    headers = {
        b"Range": b"bytes=%s-,-%s",
        b"If-Range": b"%s",
        b"If-None-Match": b"%s",
        b"Last-Event-ID": b"%s",
        b"Cookie": b"darkroom=%s",
        b"Content-Type": b"multipart/form-data; boundary=%s",
    }
    paths = ["/api/images/{}/original", "/api/images/1/thumbnails/{}", "/api/images?cursor={}&limit={}&name={}"]
    for text in (b"9" * 4301, b"\xc2\xb2", b"\xd9\xa3", b"\xff", b"-1", b'"', b",,,", b""):
        for header, form in headers.items():
            more: Any = {"headers": [(header, form.replace(b"%s", text))]}
            for path in ("/api/images/1/original", "/api/images/1/thumbnails/small", "/api/images", "/docs"):
                assert served.http.get(path, **more).status_code < 500, (header, text, path)
            assert served.http.head("/api/events", **more).status_code < 500, (header, text)
            assert served.http.post("/api/images", content=b"x", **more).status_code < 500, (header, text)
        for path in paths:
            for method in ("GET", "PUT", "POST", "PATCH"):
                answer = served.http.request(method, path.replace("{}", quote(text)), content=b"x")
                assert answer.status_code < 500, (method, path, text)


@pytest.mark.parametrize(
    "body",
    [
        r'{"caption": "\ud800"}',
        r'{"caption": "words \udfff\ud83d"}',
        r'{"keywords": ["one", "\udc00"]}',
        r'{"title": "\ud800"}',
        r'{"\ud800": 1}',
        r'{"caption": "words", "\udfff": 1}',
        r'{"keywords": [{"deep": ["\ud800"]}]}',
        b'{"caption": "\xed\xa0\x80"}',
        '{"caption": "\ud800"}'.encode("utf-16", "surrogatepass"),
        '{"caption": "\ud800"}'.encode("utf-32", "surrogatepass"),
    ],
    ids=ascii,
)
def test_half_of_a_surrogate_pair_is_no_character(served: Served, body: str | bytes) -> None:
    before = served.http.get("/api/images/1").json()
    said = refusal(served, "PATCH", "/api/images/1", 400, content=body)
    assert said == r"the body holds half of a surrogate pair (\ud800 to \udfff) as a character"
    assert served.http.get("/api/images/1").json() == before


def test_a_whole_surrogate_pair_is_one(served: Served) -> None:
    for nested in (500, 100_000):
        refusal(served, "PATCH", "/api/images/1", 400, content='{"caption": ' + "[" * nested + "]" * nested + "}")
    refusal(served, "PATCH", "/api/images/1", 400, content=json.dumps({"caption": int("9" * 4000)}))
    refusal(served, "PATCH", "/api/images/1", 400, content=b'{"caption": "\\ud83d"}')
    answer = served.http.patch("/api/images/1", content=r'{"caption": "\ud83d\ude00", "keywords": ["\u0000"]}')
    assert answer.json()["data"]["caption"] == "\N{GRINNING FACE}"
