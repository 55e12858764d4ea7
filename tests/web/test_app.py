"""The web in the real program: start, stop, crash; and what it listens on."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from daemon.errors import ConfigError
from tests.program import Program, darkroom, environment
from tests.support import Room, jpeg, tree, wait_until
from tests.web.serving import Served
from web.app import bind
from web.context import AccessRules

TOKEN = "a-long-random-text"


def client(program: Program) -> httpx2.Client:
    """Make a client of the program, once it serves."""
    wait_until(lambda: "serving http" in program.log(), what="the web server")
    urls = re.findall(r"serving (http\S+)", program.log())
    return httpx2.Client(base_url=urls[-1], timeout=20)


def test_an_upload_is_filed_and_can_be_looked_at(tmp_path: Path) -> None:
    with Program(tmp_path) as program, client(program) as http:
        photo = jpeg((1200, 900), taken="2024:05:01 12:34:56")
        answer = http.post("/api/images", files={"file": ("IMG_1.jpg", photo)})
        assert answer.status_code == 202
        program.wait_for(done=1)
        image = http.get(answer.headers["location"]).json()["data"]
        assert image["library_path"] == "2024/05/IMG_1.jpg"
        assert (image["metadata"]["width"], image["metadata"]["format"]) == (1200, "JPEG")
        assert http.get(image["thumbnails"]["medium"]).content.startswith(b"\xff\xd8\xff")
        assert http.get(f"{answer.headers['location']}/original").content == photo
        health = http.get("/healthz")
        assert (health.status_code, health.json()["data"]["healthy"]) == (200, True)


@pytest.mark.slow
def test_the_program_ends_within_seconds_whoever_listens(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with Program(tmp_path / number.name) as program, client(program) as http:
            port = http.base_url.port
            assert port is not None
            with http.stream("GET", "/api/events") as stream, socket.create_connection(("127.0.0.1", port)) as half:
                next(stream.iter_lines())
                half.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
                half.sendall(jpeg().ljust(3_000_000, b"x"))
                wait_until(lambda: list((program.base / "inbox").iterdir()), what="the temporary")
                assert program.stop(number) == 0
            assert tree(program.base / "inbox") == {}
            assert "Traceback" not in program.log()


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill_in_the_next_instant(tmp_path: Path) -> None:
    photos = {f"{seed}.jpg": jpeg(seed=seed) for seed in range(5)}
    for name, photo in photos.items():
        # Each kill costs the image that is in work at the time an attempt.
        with Program(tmp_path, "[limits]\nattempts = 10") as program, client(program) as http:
            assert http.post(f"/api/images?name={name}", content=photo).status_code == 202
            program.process.kill()
        (tmp_path / "log").unlink()
    # An upload that is cut off by the kill: nothing of it stays.
    with Program(tmp_path) as program, client(program) as http:
        port = http.base_url.port
        assert port is not None
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n")
            half.sendall(jpeg().ljust(3_000_000, b"x"))
            wait_until(lambda: list((tmp_path / "inbox").glob(".darkroom-*")), what="the temporary")
            program.process.kill()
    with Program(tmp_path) as program:
        program.wait_for(done=5, failed=0, queued=0, processing=0)
        # A row is final before the name in the inbox goes.
        wait_until(lambda: tree(tmp_path / "inbox") == {})
        filed = tree(tmp_path / "library")
        assert sorted(filed[name] for name in filed if name.endswith(".jpg")) == sorted(photos.values())


def test_a_busy_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "config.toml").write_text(f"[web]\nport = {port}\n")
        answer = darkroom(tmp_path, "run")
    assert answer.returncode == 2
    assert f"port: {port} on 127.0.0.1 can't be used" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_other_machines_only_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[web]\nhost = "0.0.0.0"\nport = 0\n')
    answer = darkroom(tmp_path, "run")
    assert answer.returncode == 2
    offered = re.search(r"^    DARKROOM_TOKEN=(\S{32})$", answer.stderr, re.MULTILINE)
    assert offered is not None, answer.stderr
    assert len(answer.stderr.splitlines()) == 3
    short = darkroom(tmp_path, "run", DARKROOM_TOKEN="fifteen letters")
    assert (short.returncode, "fewer than 16 characters" in short.stderr) == (2, True)
    assert "fifteen" not in short.stderr
    with Program(tmp_path, DARKROOM_TOKEN=offered[1]) as program, client(program) as http:
        local = str(http.base_url).replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{local}api/stats").status_code == 401
        right = {"Authorization": f"Bearer {offered[1]}"}
        assert httpx2.get(f"{local}api/stats", headers=right).status_code == 200
        assert program.stop() == 0


def test_the_web_costs_nothing_where_it_is_not_served() -> None:
    served = "any(name.split('.')[0] in ('starlette', 'uvicorn', 'web') for name in sys.modules)"
    code = f"import daemon.commands.run, sys; sys.exit({served})"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0


def test_binding_to_all_addresses_takes_a_token() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="DARKROOM_TOKEN"):
            bind(AccessRules(host), 0)
        with pytest.raises(ConfigError, match="fewer than 16"):
            bind(AccessRules(host, token="x" * 15), 0)
        bind(AccessRules(host, token="x" * 16), 0).close()


def test_this_machine_alone_may_have_any_token_but_not_through_a_proxy() -> None:
    for token in (None, "x"):
        bind(AccessRules("127.0.0.1", token=token), 0).close()
    with pytest.raises(ConfigError, match="through trusted_proxies, and DARKROOM_TOKEN has fewer"):
        bind(AccessRules("127.0.0.1", token="x", trusted_proxies=("10.0.0.1",)), 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_all_addresses_of_ipv6_are_those_of_ipv4_too(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    with Served(room, host="::", token=TOKEN) as served:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for address in ("127.0.0.1", "127.0.0.2", "[::1]"):
            answer = httpx2.get(f"http://{address}:{served.port}/api/stats", headers=headers)
            assert answer.status_code == 200, (address, answer.text)
        # Where it came in is not what it says.
        foreign = {**headers, "Host": "127.0.0.2"}
        assert httpx2.get(f"http://127.0.0.3:{served.port}/api/stats", headers=foreign).status_code == 421
    room.close()


def test_answers_are_not_held_back_for_an_acknowledgement() -> None:
    with bind(AccessRules("127.0.0.1"), 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio sets TCP_NODELAY on these alone"


def test_binding_to_a_busy_port(served: Served) -> None:
    with pytest.raises(ConfigError, match=rf"port: {served.port} on 127.0.0.1 can't be used"):
        bind(AccessRules("127.0.0.1"), served.port)


def test_binding_to_what_is_no_address() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid"):
        bind(AccessRules("no.such.host.invalid"), 0)
