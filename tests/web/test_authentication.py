"""Which calls need the token, and how a browser signs in."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support import Room, jpeg
from tests.web.serving import Served
from web.authentication import COOKIE, cookie_value

TOKEN = "a-long-random-text"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    room = Room(tmp_path / "guarded")
    with Served(room, token=TOKEN) as made:
        yield made
    room.catalogue.close()


def test_every_call_needs_the_token(guarded: Served) -> None:
    for path in guarded.app.table:
        place = (
            path.replace("{image_id:int}", "1")
            .replace("{image_id}", "x")
            .replace("{size}", "small")
            .replace("{name}", "docs.css")
        )
        for method in guarded.app.table[path]:
            answer = guarded.http.request(method, place)
            open_to_all = path in {"/healthz", "/sign-in", "/static/{name}"}
            assert (answer.status_code == 401) == (not open_to_all or method == "POST"), (method, path)
            if not open_to_all:
                assert answer.headers["www-authenticate"] == "Bearer"


def test_wrong_tokens(guarded: Served) -> None:
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"):
        headers = {b"Authorization": given.encode()}
        assert guarded.http.post("/api/images", content=jpeg(), headers=headers).status_code == 401
    assert guarded.left_behind() == []


def test_the_right_token(guarded: Served) -> None:
    for scheme in ("Bearer", "bearer"):
        assert guarded.http.get("/api/stats", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_signing_in(guarded: Served) -> None:
    with httpx2.Client(base_url=guarded.url, headers={"Accept": "text/html", "Origin": guarded.url}) as browser:
        assert browser.get("/").headers["location"] == "/sign-in"
        assert "password" in browser.get("/sign-in").text
        wrong = browser.post("/sign-in", data={"token": "wrong"})
        assert (wrong.status_code, COOKIE in browser.cookies) == (401, False)
        right = browser.post("/sign-in", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert browser.get("/api/stats").status_code == 200
    stale = {"Cookie": f"{COOKIE}={cookie_value('the token before')}"}
    assert guarded.http.get("/api/stats", headers=stale).status_code == 401


def test_signing_in_where_there_is_no_token(served: Served) -> None:
    assert served.http.get("/sign-in").headers["location"] == "/"
    assert served.http.post("/sign-in", data={"token": "x"}).headers["location"] == "/"
