"""Who may call, and what every answer carries."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from daemon.errors import ConfigError
from tests.support import Room, jpeg
from tests.web.serving import Served
from web.app import bind
from web.context import AccessRules
from web.middleware import COOKIE, cookie_value

TOKEN = "a-long-random-text"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    room = Room(tmp_path / "guarded")
    with Served(room, token=TOKEN) as made:
        yield made
    room.catalogue.close()


def raw(served: Served, request: bytes) -> bytes:
    """Send bytes that no client library would; returns the status line."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        client.sendall(request)
        return client.recv(4096).split(b"\r\n")[0]


def test_foreign_hosts_are_refused(served: Served) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.1.2.3", "localhost."):
        answer = served.http.post("/api/images", content=jpeg(), headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, "foreign_host")
    assert served.left_behind() == []


def test_own_hosts_are_known(served: Served) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]:80", "LOCALHOST:8080"):
        assert served.http.get("/api/stats", headers={"Host": host}).status_code == 200


def test_odd_host_headers(served: Served) -> None:
    for head in (b"", b"Host: a\r\nHost: localhost\r\n", b"Host: [x\r\n", b"Host: \r\n"):
        assert b" 4" in raw(served, b"GET /api/stats HTTP/1.1\r\n" + head + b"\r\n")


def test_configured_hosts(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with Served(room, allowed_hosts=("photos.example.org", "*.lan")) as served:
        for host, status in {"photos.example.org": 200, "nas.lan:8080": 200, "lan": 421, "example.org": 421}.items():
            assert served.http.get("/healthz", headers={"Host": host}).status_code == status
    room.catalogue.close()


def test_writes_of_other_pages_are_refused(served: Served) -> None:
    origins = ("https://evil.example", "null", "http://127.0.0.1:1", "")
    sites = ("cross-site", "same-site")
    for headers in [*({"Origin": origin} for origin in origins), *({"Sec-Fetch-Site": context} for context in sites)]:
        answer = served.http.post("/api/images", content=jpeg(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in answer.headers
        assert served.http.get("/api/stats", headers=headers).status_code == 200
    assert served.left_behind() == []


def test_writes_of_the_own_page_are_not(served: Served) -> None:
    own = {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}
    assert served.http.post("/api/images", content=jpeg(), headers=own).status_code == 202


def test_other_origins_that_are_configured(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with Served(room, cors_origins=("https://app.example.org",)) as served:
        origin = {"Origin": "https://app.example.org"}
        answer = served.http.post("/api/images", content=jpeg(), headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (202, origin["Origin"])
        ask = {**origin, "Access-Control-Request-Method": "PATCH"}
        assert served.http.options("/api/images/1", headers=ask).status_code == 200
        other = {"Origin": "https://evil.example"}
        assert served.http.post("/api/images", content=jpeg(), headers=other).status_code == 403
    room.catalogue.close()


def test_dots_in_paths_lead_nowhere(served: Served) -> None:
    images = ["/api/images/../../x.jpg", "/api/images/..%2f..%2fx.jpg", "/api/images/%2e%2e", "/api/images/x%00.jpg"]
    static = ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static/%00"]
    for path in ["/../etc/passwd", *images, *static]:
        for method in ("GET", "PUT"):
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            assert raw(served, head.encode()) == b"HTTP/1.1 400 Bad Request", path
    assert served.left_behind() == []


def test_a_huge_body_that_is_only_announced(served: Served) -> None:
    head = b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    assert b" 413 " in raw(served, head % b"POST /api/images")
    assert b" 413 " in raw(served, head % b"PUT /api/images/x.jpg")
    assert served.left_behind() == []


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


def test_every_answer_has_the_headers(served: Served) -> None:
    for path in ("/api/stats", "/nothing", "/docs", "/static/docs.js", "/api/images/1/original", "/%2e%2e"):
        headers = served.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_all_errors_come_in_the_envelope(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(served.app._handlers.api._search, "page", broken)
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


def test_other_machines_only_with_a_token() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="DARKROOM_TOKEN"):
            bind(AccessRules(host), 0)
    bind(AccessRules("0.0.0.0", token="x"), 0).close()


def test_a_busy_port_is_said(served: Served) -> None:
    with pytest.raises(ConfigError, match=rf"port {served.port} on 127.0.0.1 can't be used"):
        bind(AccessRules("127.0.0.1"), served.port)


def test_a_host_that_is_no_address() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        bind(AccessRules("no.such.host.invalid"), 0)
