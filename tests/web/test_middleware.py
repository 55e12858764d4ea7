"""Which hosts and origins are served, and what every answer carries."""

from pathlib import Path

from tests.support import Room, jpeg
from tests.web.serving import Served


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
        assert b" 4" in served.raw(b"GET /api/stats HTTP/1.1\r\n" + head + b"\r\n")


def test_configured_hosts(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with Served(room, allowed_hosts=("photos.example.org", "*.lan")) as served:
        for host, status in {"photos.example.org": 200, "nas.lan:8080": 200, "lan": 421, "example.org": 421}.items():
            assert served.http.get("/healthz", headers={"Host": host}).status_code == status
    room.close()


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
    room.close()


def test_dots_in_paths_lead_nowhere(served: Served) -> None:
    images = ["/api/images/../../x.jpg", "/api/images/..%2f..%2fx.jpg", "/api/images/%2e%2e", "/api/images/x%00.jpg"]
    static = ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static/%00"]
    for path in ["/../etc/passwd", *images, *static]:
        for method in ("GET", "PUT"):
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
            assert served.raw(head.encode()) == b"HTTP/1.1 400 Bad Request", path
    assert served.left_behind() == []


def test_every_answer_has_the_headers(served: Served) -> None:
    for path in ("/api/stats", "/nothing", "/docs", "/static/docs.js", "/api/images/1/original", "/%2e%2e"):
        headers = served.http.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers
