"""Which calls need the token, how a browser signs in and out, and what wrong tokens cost."""

import logging
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from daemon.catalogue.sessions import SECONDS, Sessions
from tests.support import Room, jpeg
from tests.web.serving import Served
from web.authentication import COOKIE, SECURE_COOKIE, WrongTokens

TOKEN = "a-long-random-text"
README = Path(__file__).parent.parent.parent / "README.md"
OPEN_TO_ALL = {"/healthz", "/sign-in", "/sign-out", "/static/{name}", "/favicon.ico", "/manifest.webmanifest"}


@pytest.fixture
def guarded(room: Room) -> Iterator[Served]:
    # The test's client is a proxy, so that it can call for others.
    with Served(room, token=TOKEN, trusted_proxies=("127.0.0.1",)) as made:
        yield made


def browser(served: Served, address: str = "192.0.2.7", **headers: str) -> httpx2.Client:
    given = {"Accept": "text/html", "Origin": served.url, "X-Forwarded-For": address, **headers}
    return httpx2.Client(base_url=served.url, headers=given)


@contextmanager
def signed_in(served: Served, address: str = "192.0.2.7") -> Iterator[httpx2.Client]:
    with browser(served, address) as made:
        assert made.post("/sign-in", data={"token": TOKEN}).status_code == 303
        yield made


def sign_in(served: Served, address: str, token: str) -> httpx2.Response:
    with browser(served, address) as made:
        return made.post("/sign-in", data={"token": token})


def is_good(served: Served, address: str, session_id: str) -> bool:
    headers = {"Cookie": f"{COOKIE}={session_id}", "X-Forwarded-For": address}
    answer = served.http.get("/api/stats", headers=headers)
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


def may_read(client: httpx2.Client) -> bool:
    answer = client.get("/api/stats", headers={"Accept": "application/json"})
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


def guess(served: Served, address: str, token: str = "wrong") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    return served.http.get("/api/stats", headers=headers)


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
            is_open = path in OPEN_TO_ALL and (method, path) != ("POST", "/sign-in")
            assert (answer.status_code == 401) == (not is_open), (method, path)
            if path not in OPEN_TO_ALL:
                assert answer.headers["www-authenticate"] == "Bearer"


def test_wrong_tokens(guarded: Served) -> None:
    tries = ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü")
    for number, given in enumerate(tries):
        headers = {b"Authorization": given.encode(), b"X-Forwarded-For": f"192.0.2.{number}".encode()}
        assert guarded.http.post("/api/images", content=jpeg(), headers=headers).status_code == 401
    assert guarded.left_behind() == []


def test_the_right_token(guarded: Served) -> None:
    for scheme in ("Bearer", "bearer"):
        assert guarded.http.get("/api/stats", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_signing_in_and_out(guarded: Served) -> None:
    with browser(guarded) as client:
        assert client.get("/").headers["location"] == "/sign-in"
        assert "password" in client.get("/sign-in").text
        wrong = client.post("/sign-in", data={"token": "wrong"})
        assert (wrong.status_code, COOKIE in client.cookies) == (401, False)
        right = client.post("/sign-in", data={"token": TOKEN})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", f"Max-Age={SECONDS}", "Path=/"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert may_read(client)
        assert "Sign out" in client.get("/docs").text
        kept = client.cookies[COOKIE]
        out = client.post("/sign-out")
        assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
        assert COOKIE not in client.cookies
        assert not is_good(guarded, "192.0.2.7", kept), "it is of no use to who has kept it"


def test_another_page_can_not_sign_anybody_out(guarded: Served) -> None:
    with signed_in(guarded) as client:
        assert client.post("/sign-out", headers={"Origin": "https://evil.example"}).status_code == 403
        assert may_read(client)


def test_every_session_is_another(guarded: Served) -> None:
    with signed_in(guarded) as one, signed_in(guarded) as other:
        assert one.cookies[COOKIE] != other.cookies[COOKIE]
        one.post("/sign-out")
        assert may_read(other)


def test_a_session_is_of_no_use_at_another_address(guarded: Served) -> None:
    with signed_in(guarded) as client:
        for address, good in {"192.0.2.8": False, "2001:db8::7": False, "192.0.2.7": True}.items():
            assert is_good(guarded, address, client.cookies[COOKIE]) is good
    with signed_in(guarded, "2001:db8:0:1::7") as client:
        for address, good in {"2001:db8:0:2::7": False, "2001:db8:0:1:8:9:a:b": True}.items():
            assert is_good(guarded, address, client.cookies[COOKIE]) is good


def test_a_session_ends_with_a_new_token_for_good_and_not_with_a_restart(room: Room) -> None:
    proxies = ("127.0.0.1",)
    with Served(room, token=TOKEN, trusted_proxies=proxies) as served, signed_in(served) as client:
        session_id = client.cookies[COOKIE]
    for token, good in ((TOKEN, True), ("another-long-text", False), (TOKEN, False)):
        with Served(room, token=token, trusted_proxies=proxies) as served:
            assert is_good(served, "192.0.2.7", session_id) is good, token


def test_a_session_ends_after_a_week(room: Room) -> None:
    sessions, now = Sessions(room.catalogue, TOKEN), time.time()
    session_id = sessions.begin("192.0.2.7", now)
    assert sessions.is_open(session_id, "192.0.2.7", now + SECONDS - 1)
    assert not sessions.is_open(session_id, "192.0.2.7", now + SECONDS)
    assert not sessions.is_open("x" * 43, "192.0.2.7", now)
    sessions.begin("192.0.2.8", now + SECONDS)
    with closing(sqlite3.connect(room.state / "darkroom.db")) as database:
        rows = database.execute("SELECT hash, token, address FROM session").fetchall()
        assert [row[2] for row in rows] == ["192.0.2.8"], "what has expired is removed"
    assert session_id not in str(rows)
    assert TOKEN not in str(rows)


def test_the_oldest_of_too_many_sessions_goes(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.catalogue.sessions._MOST", 20)
    sessions = Sessions(room.catalogue, TOKEN)
    first, second, *_, last = [sessions.begin("192.0.2.7", float(number)) for number in range(21)]
    open_ = [sessions.is_open(one, "192.0.2.7", 21.0) for one in (first, second, last)]
    assert open_ == [False, True, True]


def test_behind_tls_the_cookie_stays_there(guarded: Served) -> None:
    with browser(guarded, **{"X-Forwarded-Proto": "https"}) as client:
        answer = client.post("/sign-in", data={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{SECURE_COOKIE}=")
        assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        session_id = cookie.split("; ")[0].partition("=")[2]
        for name, proto, status in (
            (SECURE_COOKIE, "https", 200),
            (COOKIE, "https", 401),
            (SECURE_COOKIE, "http", 401),
        ):
            headers = {"Cookie": f"{name}={session_id}", "X-Forwarded-Proto": proto, "Accept": "application/json"}
            assert client.get("/api/stats", headers=headers).status_code == status, (name, proto)


def test_nobody_but_a_trusted_proxy_says_who_calls(room: Room) -> None:
    with Served(room, token=TOKEN, trusted_proxies=("192.0.2.1",)) as served:
        with browser(served, **{"X-Forwarded-Proto": "https"}) as client:
            cookie = client.post("/sign-in", data={"token": TOKEN}).headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        answers = [guess(served, f"192.0.2.{number}").status_code for number in range(5)]
        assert answers == [401, 401, 401, 401, 429], "a made-up address brings no new tries"


@pytest.mark.slow
def test_wrong_tokens_cost_time_that_grows_and_others_nothing(guarded: Served) -> None:
    answers = [guess(guarded, "192.0.2.66") for _ in range(200)]
    assert [answer.status_code for answer in answers[:5]] == [401, 401, 401, 401, 429]
    assert (answers[4].json()["error"]["code"], answers[4].headers["retry-after"]) == ("wrong_tokens", "1")
    assert sum(answer.status_code == 401 for answer in answers) < 9
    while int(guess(guarded, "192.0.2.66").headers.get("retry-after", 0)) < 3:
        time.sleep(0.05)
    right = guess(guarded, "192.0.2.66", TOKEN)
    assert right.status_code == 429, "or guessing would cost no time"
    page = sign_in(guarded, "192.0.2.66", TOKEN)
    assert (page.status_code, page.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert "retry-after" in page.headers
    assert guess(guarded, "192.0.2.67", TOKEN).status_code == 200
    assert guarded.http.get("/healthz", headers={"X-Forwarded-For": "192.0.2.66"}).status_code == 200
    deadline = time.monotonic() + 30
    while guess(guarded, "192.0.2.66", TOKEN).status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_session_outlives_the_guesses_of_a_neighbour(guarded: Served) -> None:
    with signed_in(guarded) as client:
        for _ in range(6):
            guess(guarded, "192.0.2.7")
        assert guess(guarded, "192.0.2.7", TOKEN).status_code == 429
        assert may_read(client)


def test_the_time_doubles_up_to_a_minute_and_is_forgotten() -> None:
    wrong, now, waits = WrongTokens(), 1000.0, []
    for _ in range(12):
        wrong.add("2001:db8::1", now)
        waits.append(wrong.wait("2001:db8::1", now))
        assert wrong.wait("2001:db8::ffff", now) == waits[-1], "one of the same network is the same client"
        assert wrong.wait("2001:db8:0:1::1", now) == 0.0
        now += waits[-1]
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    wrong.add("2001:db8::1", now + 3700)
    assert wrong.wait("2001:db8::1", now + 3700) == 0.0


def test_twenty_thousand_addresses_take_little_memory_and_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    wrong = WrongTokens()
    with caplog.at_level(logging.WARNING):
        for number in range(20_000):
            wrong.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1000.0 + number / 20_000)
        assert len(wrong._records) <= 4096
        assert len(caplog.records) == 60
        wrong.add("192.0.2.1", 1100.0)
    assert [record.getMessage() for record in caplog.records[60:]] == [
        "19,940 more wrong tokens, of which nothing was logged",
        "wrong token from 192.0.2.1",
    ]


@pytest.mark.skipif(shutil.which("fail2ban-regex") is None, reason="needs fail2ban-regex")
def test_fail2ban_finds_the_line_by_the_pattern_of_the_readme(
    guarded: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for address in ("192.0.2.66", "2001:db8::66"):
            assert guess(guarded, address).status_code == 401
            assert sign_in(guarded, address, "wrong").status_code == 401
    said = [record.getMessage() for record in caplog.records]
    assert said == ["wrong token from 192.0.2.66"] * 2 + ["wrong token from 2001:db8::66"] * 2
    lines = [f"2026-11-26 04:57:48 {line}" for line in said]
    lines += [f"2026-11-26T04:57:49+00:00 nas darkroom[4711]: {said[0]}"]
    lines += [f"2026-11-26 04:57:50 WARNING web.authentication: {said[2]}"]
    others = [
        "2026-11-26 04:57:51 image 7: wrong token from 192.0.2.1",
        "2026-11-26 04:57:51 wrong token from 192.0.2.1: Permission denied",
        "2026-11-26 04:57:51 7 more wrong tokens, of which nothing was logged",
    ]
    (tmp_path / "log").write_text("\n".join([*lines, *others, ""]))
    shown = re.search(r"^failregex = (.+)$", README.read_text(), re.MULTILINE)
    assert shown is not None
    (tmp_path / "darkroom.conf").write_text(f"[Definition]\nfailregex = {shown[1]}\n")
    found = subprocess.run(
        ["fail2ban-regex", "--print-all-matched", str(tmp_path / "log"), str(tmp_path / "darkroom.conf")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.search(rf"^Lines: {len(lines + others)} lines, 0 ignored, {len(lines)} matched", found.stdout, re.M), (
        found.stdout + found.stderr
    )


def test_signing_in_where_there_is_no_token(served: Served) -> None:
    assert served.http.get("/sign-in").headers["location"] == "/"
    assert served.http.post("/sign-in", data={"token": "x"}).headers["location"] == "/"
    assert served.http.post("/sign-out").headers["location"] == "/sign-in"
    assert "Sign out" not in served.http.get("/docs").text
