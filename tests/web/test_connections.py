"""How many connections there may be, from whom, and how long one may keep its place."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from unittest.mock import Mock

import pytest

from tests.support import Room, jpeg, wait_until
from tests.web.serving import Served
from web import connections, uploads
from web.clients import Proxies
from web.connections import places

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PUT = b"PUT /api/images/a.jpg HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n"
Connect = Callable[..., socket.socket]


@pytest.fixture
def connect(served: Served) -> Iterator[Connect]:
    with ExitStack() as stack:

        def connected(says: bytes = b"", room: int | None = None, source: str = "127.0.0.1") -> socket.socket:
            client = stack.enter_context(closing(socket.socket()))
            client.settimeout(10)
            if room is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            client.bind((source, 0))
            client.connect(("127.0.0.1", served.port))
            client.sendall(says)
            return client

        yield connected


def is_closed(client: socket.socket) -> bool:
    """Return whether the server has ended a connection, whatever it has said before that."""
    client.settimeout(0.01)
    try:
        while client.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


def wait_closed(client: socket.socket) -> None:
    wait_until(lambda: is_closed(client), what="the end of the connection")


def healthy(served: Served) -> bool:
    return b"200" in served.raw(HEAD)


def test_a_head_has_a_deadline(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.3)
    silent = connect()
    began = time.monotonic()
    dripping = connect()
    for byte in b"GET /healthz HTTP/1.1\r\n" * 10:
        try:
            dripping.sendall(bytes([byte]))
        except ConnectionError:
            break
        time.sleep(0.02)
    assert time.monotonic() - began < 4
    wait_closed(silent)
    wait_closed(dripping)
    assert healthy(served)


def test_a_second_request_has_one_too(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.5)
    without_body = HEAD.replace(b"GET", b"HEAD")
    client = connect(without_body)
    assert b"200 OK" in client.recv(1 << 16)
    client.sendall(without_body)
    assert b"200 OK" in client.recv(1 << 16)
    client.sendall(without_body[:-2])
    wait_closed(client)


def test_a_request_that_takes_long_is_not_cut(
    served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.2)
    photo = jpeg()
    client = connect(PUT.replace(b"5000000", str(len(photo)).encode()) + photo[:100])
    time.sleep(0.6)
    client.sendall(photo[100:])
    assert b"202 Accepted" in client.recv(1 << 16)


def test_small_bodies_have_a_deadline(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.context._BODY_SECONDS", 0.2)
    number = served.upload("a.jpg", jpeg())
    client = connect(f"PATCH /api/images/{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{{".encode())
    assert b"408" in client.recv(1 << 16)
    wait_closed(client)


def test_what_is_sent_on_behind_a_refusal_ends_soon(
    served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REST_SECONDS", 0.3)
    client = connect(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    assert b"404" in client.recv(1 << 16)
    began = time.monotonic()
    while not is_closed(client):
        assert time.monotonic() - began < 5
        try:
            client.sendall(b"x")
        except ConnectionError:
            break


@pytest.mark.slow
def test_who_asks_and_does_not_read_is_given_up(
    served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_READ_SECONDS", 0.3)
    number = served.upload("a.jpg", jpeg((1200, 800)))
    served.room.drain()
    client = connect(f"GET /api/images/{number}/original HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 20, room=4096)
    pool = served.server.connections
    wait_until(lambda: not [one for one in pool.open if not one.is_asking], what="the end of the connection")
    wait_closed(client)


def test_there_is_always_a_place_for_a_health_check(served: Served, connect: Connect) -> None:
    pool = served.server.connections
    pool.limit = 20
    crowd = [connect() for _ in range(50)]
    assert healthy(served)
    assert len(pool.open) <= 20
    # They went in the order in which they came.
    wait_until(lambda: all(is_closed(one) for one in crowd[:30]), what="the end of the first ones")
    assert not is_closed(crowd[-1])


def test_a_stalled_upload_gives_way_and_a_busy_one_does_not(
    served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = served.server.connections
    pool.limit = 5
    crowd = [connect(PUT + jpeg()) for _ in range(5)]
    wait_until(lambda: sum(not one.is_asking for one in pool.open) == 5, what="the uploads")
    refused = connect()
    wait_closed(refused)
    monkeypatch.setattr(connections, "_STALLED_SECONDS", 0.0)
    assert healthy(served)
    wait_until(lambda: any(is_closed(one) for one in crowd), what="the end of an upload")
    assert len([record for record in caplog.records if "connection" in record.getMessage()]) == 1


def test_one_address_can_not_have_all_places(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = served.server.connections
    pool.per_address = 3
    many = [connect(source="127.0.0.5") for _ in range(6)]  # this machine's own addresses are not counted
    assert not any(is_closed(one) for one in many)
    monkeypatch.setattr(connections, "is_loopback", lambda _: False)
    pool.proxies = Proxies(["127.0.0.1"])
    for one in many:
        one.close()
    wait_until(lambda: not pool.open, what="the end of all connections")
    many = [connect(source="127.0.0.5") for _ in range(6)]
    wait_until(lambda: sum(is_closed(one) for one in many) == 3, what="the end of three connections")
    assert healthy(served)


def test_descriptors_are_left_for_the_rest_of_the_program() -> None:
    assert [places(limit) for limit in (-1, 1 << 20, 1024, 300, 64)] == [256, 256, 256, 44, 16]


def test_two_lengths_in_one_request_are_refused(served: Served) -> None:
    lengths = b"Content-Length: 5\r\nTransfer-Encoding: chunked"
    assert b"400" in served.raw(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\n" + lengths + b"\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_parts_of_a_file_are_refused(served: Served, method: str) -> None:
    answer = served.http.request(
        method, "/api/images/a.jpg", content=jpeg(), headers={"Content-Range": "bytes 0-9/100"}
    )
    assert answer.status_code in {400, 405}
    answer = served.http.request(method, "/api/images?name=a.jpg", content=jpeg(), headers={"Content-Range": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "partial")
    assert served.left_behind() == []


def test_a_slow_upload_is_given_up(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_PACE_SECONDS", 0.5)
    client = connect(PUT + jpeg())
    began = time.monotonic()
    while not is_closed(client) and time.monotonic() - began < 5:
        try:
            client.sendall(b"x" * 100)
        except ConnectionError:
            break
        time.sleep(0.02)
    assert time.monotonic() - began < 5
    wait_until(lambda: served.left_behind() == [], what="the removal of what had come")


def test_too_many_uploads_at_once(served: Served, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_AT_ONCE", 3)
    arriving = [connect(PUT + jpeg((300, 200))) for _ in range(3)]
    wait_until(lambda: len(served.app.uploads.arriving) == 3, what="the uploads")
    answer = served.http.post("/api/images?name=b.jpg", content=jpeg(seed=1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    monkeypatch.setattr(uploads, "_STALLED_SECONDS", 0.0)
    assert served.http.post("/api/images?name=b.jpg", content=jpeg(seed=1)).status_code == 202
    wait_until(lambda: sum(map(is_closed, arriving)) == 1, what="the end of a stalled upload")


def test_one_too_many_is_told_so_before_anything_else(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    monkeypatch.setattr(served.app.uploads, "_check_announced", lambda request: reached.append(request.url.path))
    monkeypatch.setattr(uploads, "_AT_ONCE", 1)
    monkeypatch.setattr(served.app.uploads, "arriving", {Mock(stalled_seconds=0.0)})
    monkeypatch.setattr(served.app.events, "listeners", 10_000)
    calls = [("POST", "/api/images?name=a.jpg"), ("PUT", "/api/images/a.jpg"), ("GET", "/api/events")]
    for method, path in calls:
        answer = served.http.request(method, path, content=b"x" if method != "GET" else None)
        assert (answer.status_code, answer.json()["status"]) == (503, "error"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert served.http.patch("/api/images/1", json={"caption": "a"}).status_code == 404, "what is no upload goes on"
    assert not reached


def test_every_byte_of_a_form_counts(served: Served) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + jpeg() + b"\r\n--x--\r\n"
    for body in (form + b"e" * 7_000_000, b"p" * 7_000_000 + form):
        answer = served.http.post(
            "/api/images", content=iter([body]), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code in {400, 413}
    assert served.left_behind() == []


def test_a_photo_with_the_suffix_of_a_companion(room: Room) -> None:
    with Served(room) as served:
        for number, name in enumerate(("x.xmp", "y.mov", "z.JSON")):
            served.upload(name, jpeg(seed=number))
        room.drain()
        rows = served.http.get("/api/images").json()["data"]
        assert {row["status"] for row in rows} == {"done"}
        assert sorted(row["original_name"] for row in rows) == ["x.jpg", "y.jpg", "z.jpg"]
