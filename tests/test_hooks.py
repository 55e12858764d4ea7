"""Hooks are told of every outcome, in order, once, however slow or broken they are; filing never waits."""

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon import hooks as hooks_module
from daemon.app import roots
from daemon.catalogue import Place
from daemon.catalogue.history import Outcome
from daemon.catalogue.settings import Settings
from daemon.config import HooksSection, load
from daemon.errors import ConfigError, Rejected, Transient
from daemon.files.atomic import Root
from daemon.hooks import HookDocument, HookRefused, Hooks, post
from tests.program import Program, darkroom
from tests.support import Room, jpeg, no_new_descriptors, slow, wait_until

DOCUMENT = HookDocument(
    event="done",
    at="2026-11-23T07:52:31.563+00:00",
    detail="library/a.jpg",
    image_id=1,
    original_name="a.jpg",
    path="/library/a.jpg",
    error=None,
    duplicate_of=None,
    sha256="0" * 64,
    size_bytes=1,
    taken_at=None,
)


class Listener:
    """A web address that answers as it is told, the last answer for ever."""

    def __init__(self, answers: list[int], location: str = "", context: ssl.SSLContext | None = None) -> None:
        self.documents: list[dict[str, Any]] = []
        self._answers = answers
        self.hold = threading.Event()
        self.hold.set()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                listener.documents.append(document)
                listener.hold.wait()
                self.send_response(listener._answers.pop(0) if len(listener._answers) > 1 else listener._answers[0])
                self.send_header("Content-Length", "0")
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "https" if context else "http"
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def told(self) -> list[tuple[str, int]]:
        return [(document["event"], document["image_id"]) for document in self.documents]


@contextmanager
def listening(*answers: int, location: str = "", context: ssl.SSLContext | None = None) -> Iterator[Listener]:
    listener = Listener(list(answers) or [200], location, context)
    try:
        yield listener
    finally:
        listener.close()


def hooks(room: Room, **settings: Any) -> Hooks:
    return Hooks(HooksSection(**settings), room.catalogue, roots(room.config), backoff_seconds=0.01)


def file_three(room: Room) -> None:
    """One photo, the same again, and what is no photo."""
    photo = jpeg()
    room.decoder.errors["poem.txt"] = [Rejected("not an image: it looks like a poem")]
    for name, content in {"a.jpg": photo, "b.jpg": photo, "poem.txt": b"roses"}.items():
        room.put(name, content)
        room.drain()


def test_an_address_is_told_of_each_outcome(room: Room) -> None:
    with listening() as web:
        hook = hooks(room, url=web.url)
        assert hook.begin()
        file_three(room)
        hook.drain()
        assert web.told == [("done", 1), ("duplicate", 2), ("failed", 3)]
        done, duplicate, failed = web.documents
        assert done["path"] == str(room.library / "2024/05/a.jpg")
        assert done["original_name"] == "a.jpg"
        assert done["size_bytes"] == (room.library / "2024/05/a.jpg").stat().st_size
        assert duplicate["duplicate_of"] == 1
        assert failed["error"] == "not an image: it looks like a poem"
        hook.drain()
        assert len(web.told) == 3, "once is enough"


def test_only_the_events_that_were_asked_for(room: Room) -> None:
    with listening() as web:
        hook = hooks(room, url=web.url, on=("failed",))
        hook.begin()
        file_three(room)
        hook.drain()
        assert web.told == [("failed", 3)]


def test_a_command_gets_the_document_and_no_secrets(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_back = {"GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey", "DARKROOM_TOKEN", "NOTIFY_SOCKET"}
    for name in kept_back:
        monkeypatch.setenv(name, "secret")
    out = room.config.base / "told"
    code = (
        "import json, os, sys; print(json.dumps([json.load(sys.stdin), dict(os.environ)]), file=open(sys.argv[1], 'a'))"
    )
    hook = hooks(room, command=(sys.executable, "-c", code, str(out)))
    hook.begin()
    file_three(room)
    hook.drain()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [document["event"] for document, _ in told] == ["done", "duplicate", "failed"]
    document, environ = told[0]
    assert environ["DARKROOM_EVENT"] == "done"
    assert environ["DARKROOM_IMAGE_ID"] == "1"
    assert environ["DARKROOM_PATH"] == document["path"] == str(room.library / "2024/05/a.jpg")
    assert not kept_back & set(environ)


@pytest.mark.parametrize(("answers", "times"), [((503, 429, 200), 3), ((404, 200), 1), slow((500,), 4), ((204,), 1)])
def test_what_may_pass_is_tried_again(room: Room, answers: tuple[int, ...], times: int) -> None:
    with listening(*answers) as web:
        hook = hooks(room, url=web.url)
        hook.begin()
        room.put("a.jpg", jpeg())
        room.drain()
        hook.drain()
        assert web.told == [("done", 1)] * times


@pytest.mark.parametrize(
    ("answer", "location"),
    [
        (302, "elsewhere"),
        (302, "http://["),
        *(slow(*answer) for answer in ((301, "elsewhere"), (303, ""), (307, "elsewhere"), (308, "elsewhere"))),
    ],
)
def test_redirects_are_not_followed(room: Room, caplog: pytest.LogCaptureFixture, answer: int, location: str) -> None:
    with listening() as elsewhere, listening(answer, location=location.replace("elsewhere", elsewhere.url)) as web:
        hook = hooks(room, url=web.url)
        hook.begin()
        room.put("a.jpg", jpeg())
        room.drain()
        hook.drain()
        assert (web.told, elsewhere.told) == ([("done", 1)], [])
    points = f" and points to {location.replace('elsewhere', elsewhere.url)}" if location else ""
    said = f"{web.url} answers {answer}{points}; redirects are not followed: set [hooks] url to the final address"
    assert f"hook: image 1, done: {said}; not reported" in caplog.text


def test_where_a_redirect_points_is_fit_for_a_line_of_text() -> None:
    with listening(302, location="/\x1b[31m" + "x" * 1000) as web, pytest.raises(HookRefused) as refused:
        post(HooksSection(url=web.url), DOCUMENT, threading.Event())
    assert r"points to /\x1b[31mxxx" in str(refused.value)
    assert len(str(refused.value)) < 400


class Drip:
    """A server that reads a little of each request, and answers a piece at a time for ten seconds."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces, self._ending = pieces, threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.05)
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Drip":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while not self._ending.is_set():
            with suppress(OSError):
                self._answer(self._server.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            first, *others = self._pieces
            connection.sendall(first)
            for number in range(500):
                if self._ending.wait(0.02):
                    return
                if others:
                    connection.sendall(others[number % len(others)])


@pytest.mark.parametrize(
    ("scheme", "pieces"),
    [
        ("http", [b""]),
        slow("http", [b"HTTP/1.1 ", b"2"]),
        ("http", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"]),
        slow("http", [b"HTTP/1.1 503 Busy\r\n", b"X-Slow: yes\r\n"]),
        slow("http", [b"HTTP/1.1 100 Continue\r\n\r\n"] * 2),
        ("https", [b"\x16\x03\x03\x40\x00", b"x"]),
        ("proxied", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"]),
    ],
)
def test_an_address_that_answers_drop_by_drop_is_given_up(
    scheme: str, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with no_new_descriptors(), Drip(*pieces) as server:
        url = f"{scheme}://127.0.0.1:{server.port}/hook"
        if scheme == "proxied":
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
            url = "https://photos.example.org/hook"
        before, began = set(threading.enumerate()), time.monotonic()
        with pytest.raises(Transient) as fault:
            post(HooksSection(url=url, timeout_seconds=0.5), DOCUMENT, threading.Event())
        assert str(fault.value) == f"{url} did not answer within 0.5 s"
        assert time.monotonic() - began < 3
        assert set(threading.enumerate()) <= before


def test_an_address_that_takes_no_connection_is_given_up() -> None:
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    # The one place in its queue is taken: the kernel answers no further connection.
    with server, socket.create_connection(server.getsockname()):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        with no_new_descriptors(), pytest.raises(Transient, match=r"did not answer within 0\.5 s"):
            post(HooksSection(url=url, timeout_seconds=0.5), DOCUMENT, threading.Event())


def test_the_status_decides_and_the_rest_of_an_answer_is_not_read() -> None:
    with no_new_descriptors(), Drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as server:
        before = set(threading.enumerate())
        post(HooksSection(url=f"http://127.0.0.1:{server.port}/", timeout_seconds=3), DOCUMENT, threading.Event())
        assert set(threading.enumerate()) <= before


def test_a_name_that_is_not_looked_up_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def silent(*_: object, **__: object) -> list[Any]:
        answered.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    url = "http://photos.example.org/hook"
    before, began = set(threading.enumerate()), time.monotonic()
    with no_new_descriptors(), pytest.raises(Transient) as fault:
        post(HooksSection(url=url, timeout_seconds=0.5), DOCUMENT, threading.Event())
    assert str(fault.value) == f"{url} did not answer within 0.5 s"
    assert time.monotonic() - began < 3
    left = set(threading.enumerate()) - before
    assert all(thread.daemon for thread in left), "it would hold up the end of the process"
    answered.set()
    wait_until(lambda: not set(threading.enumerate()) - before, what="the end of the look-up")


def test_a_process_ends_while_a_name_is_looked_up() -> None:
    code = (
        "import socket, threading, time; socket.getaddrinfo = lambda *_, **__: time.sleep(60)\n"
        "from daemon.hooks import post; from daemon.errors import Transient; from daemon.config import HooksSection\n"
        "from tests.test_hooks import DOCUMENT\n"
        "try: post(HooksSection(url='http://photos.example.org', timeout_seconds=0.2), DOCUMENT, threading.Event())\n"
        "except Transient as fault: print(fault)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("http://photos.example.org did not answer within 0.2 s\n", "")


def test_a_name_that_nobody_knows_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with no_new_descriptors(), pytest.raises(Transient, match=r"example\.org/hook: Name or service not known$"):
        post(HooksSection(url="http://photos.example.org/hook"), DOCUMENT, threading.Event())


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(_host: object, port: int, **_: object) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with listening() as web:
        url = web.url.replace("127.0.0.1", "photos.example.org")
        post(HooksSection(url=url), DOCUMENT, threading.Event())
        assert web.told == [("done", 1)]
    with no_new_descriptors(), pytest.raises(Transient, match=r"hook: Connection refused$"):
        post(HooksSection(url=url), DOCUMENT, threading.Event())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "Server disconnected without sending a response"),
        (b"220 smtp.example.org ESMTP\r\n\r\n", "illegal status line"),
    ],
)
def test_what_is_no_web_server_is_given_up(answer: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = server.accept()[0]
            with connection:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        with pytest.raises(Transient, match=f"^{url}: {said}"):
            post(HooksSection(url=url), DOCUMENT, threading.Event())
        thread.join()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_is_one_that_the_system_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=photos", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with listening(context=context) as web:
        with pytest.raises(Transient, match=f"^{web.url}: .*certificate verify failed"):
            post(HooksSection(url=web.url), DOCUMENT, threading.Event())
        assert web.told == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        post(HooksSection(url=web.url), DOCUMENT, threading.Event())
        assert web.told == [("done", 1)]


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy, listening() as web:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        # What desktops set, and nobody here can use.
        monkeypatch.setenv("all_proxy", "socks://127.0.0.1:1/")
        post(HooksSection(url="http://photos.example.org/hook"), DOCUMENT, threading.Event())
        assert (proxy.told, web.told) == ([("done", 1)], [])
        monkeypatch.setenv("http_proxy", proxy.url.removeprefix("http://").removesuffix("/hook"))
        post(HooksSection(url="http://photos.example.org/hook"), DOCUMENT, threading.Event())
        assert (len(proxy.told), web.told) == (2, [])
        post(HooksSection(url=web.url), DOCUMENT, threading.Event())
        assert (len(proxy.told), web.told) == (2, [("done", 1)])


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("socks5://127.0.0.1:1", "SOCKS proxy"), ("gopher://127.0.0.1:1", "Unknown scheme"), ("http://[", "")],
)
def test_a_proxy_that_can_not_be_used(proxy: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    url = "http://photos.example.org/hook"
    with no_new_descriptors(), pytest.raises(Transient, match=f"^{url}: .*{said}"):
        post(HooksSection(url=url), DOCUMENT, threading.Event())


def test_httpx_is_not_loaded_for_a_command_alone() -> None:
    code = "import sys, daemon.app; print('httpx2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_an_address_that_is_not_there_is_given_up(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    with listening() as web:
        pass
    hook = hooks(room, url=web.url, attempts=2)
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    hook.drain()
    assert "hook: image 1, done: attempt 2 of 2 failed" in caplog.text
    assert "refused" in caplog.text


def test_a_command_that_fails_is_quoted(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    code = "import sys; sys.exit('the light is off')"
    hook = hooks(room, command=(sys.executable, "-c", code), attempts=1)
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    hook.drain()
    assert "exit code 1: the light is off" in caplog.text


def test_a_command_that_is_not_there(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    hook = hooks(room, command=("/nowhere/told",))
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    hook.drain()
    assert "/nowhere/told can't be started: No such file or directory; not reported" in caplog.text


@pytest.mark.parametrize(
    ("ending", "said"), [("exit 3", "exit code 3: the light is off"), ("sleep 60", "took longer than 1 s")]
)
def test_what_a_command_leaves_running_is_not_waited_for(
    room: Room, caplog: pytest.LogCaptureFixture, ending: str, said: str
) -> None:
    script, pids = room.config.base / "leaves", room.config.base / "pids"
    # In a session of its own, so that it outlives the command's process group and keeps the command's output open.
    script.write_text(
        f"#!/bin/sh\nsetsid sh -c 'echo $$ > {pids}.new; mv {pids}.new {pids}; exec sleep 20' &\n"
        f"while [ ! -e {pids} ]; do sleep 0.01; done\necho the light is off\n{ending}\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    hook = hooks(room, command=(str(script),), timeout_seconds=1 if "sleep" in ending else 30, attempts=1)
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    began = time.monotonic()
    try:
        with no_new_descriptors():
            hook.drain()
        assert time.monotonic() - began < 10
        assert said in caplog.text
        os.kill(int(pids.read_text()), 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(pids.read_text()), signal.SIGKILL)


def test_only_the_last_of_what_a_command_writes_is_kept(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    code = "import sys; [print('x' * 999_999) for _ in range(50)]; sys.exit('the light is off')"
    hook = hooks(room, command=(sys.executable, "-c", code), attempts=1)
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    tracemalloc.start()
    try:
        hook.drain()
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert "the light is off" in caplog.text


def test_a_command_that_is_stopped_with_the_program_was_not_slow(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    began = room.config.base / "began"
    code = f"import pathlib, time; pathlib.Path({str(began)!r}).touch(); time.sleep(60)"
    hook = hooks(room, command=(sys.executable, "-c", code), attempts=1)
    hook.start()
    room.put("a.jpg", jpeg())
    room.drain()
    wait_until(began.exists, what="the command's start")
    hook.stop()
    wait_until(lambda: "hook: image 1, done" in caplog.text, what="the line in the log")
    assert "darkroom is stopping" in caplog.text
    assert "took longer" not in caplog.text
    assert Settings(room.catalogue).get("hooks") == 0, "it is told again at the next start"


def test_a_command_that_hangs_dies_with_its_children(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    script = room.config.base / "hang"
    pids = room.config.base / "pids"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {pids}\nwait\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    hook = hooks(room, command=(str(script),), timeout_seconds=0.5, attempts=1)
    hook.begin()
    room.put("a.jpg", jpeg())
    room.drain()
    began = time.monotonic()
    hook.drain()
    assert time.monotonic() - began < 10
    assert "took longer than 0.5 s" in caplog.text
    child = Path(f"/proc/{pids.read_text().strip()}/stat")

    def dead() -> bool:
        try:
            return child.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(dead, what="the child's end")


def test_what_happened_before_there_were_hooks_is_not_told(room: Room) -> None:
    room.put("a.jpg", jpeg())
    room.drain()
    with listening() as web:
        hook = hooks(room, url=web.url)
        hook.begin()
        room.put("b.jpg", jpeg())
        room.drain()
        hook.drain()
        assert web.told == [("done", 2)]


def test_what_happened_between_two_processes_is_told(room: Room) -> None:
    with listening() as web:
        hooks(room, url=web.url).begin()
        room.put("a.jpg", jpeg())
        room.drain()
        later = hooks(room, url=web.url)
        later.begin()
        later.drain()
        assert web.told == [("done", 1)]


def test_hooks_that_come_back_do_not_tell_of_the_time_without(room: Room) -> None:
    with listening() as web:
        hooks(room, url=web.url).begin()
        assert not hooks(room).begin()
        assert Settings(room.catalogue).get("hooks") is None
        room.put("a.jpg", jpeg())
        room.drain()
        again = hooks(room, url=web.url)
        again.begin()
        again.drain()
        assert web.told == []


@pytest.mark.slow
def test_a_hook_that_hangs_holds_up_nothing_and_is_told_again(tmp_path: Path) -> None:
    with listening() as web:
        web.hold.clear()
        toml = f'[hooks]\nurl = "{web.url}"\n'
        with Program(tmp_path / "room", toml) as program:
            for number in range(5):
                (program.base / f"inbox/{number}.jpg").write_bytes(jpeg(seed=number))
            program.wait_for(done=5)
            wait_until(lambda: web.told, what="the first call")
            began = time.monotonic()
            assert program.stop() == 0
            assert time.monotonic() - began < 10
        first = web.told[0]
        web.hold.set()
        with Program(tmp_path / "room", toml):
            wait_until(lambda: len(web.told) >= 6, what="all calls")
        assert web.told[1] == first, "the one that was given up comes again, before the others"
        assert sorted(number for _, number in web.told[1:]) == [1, 2, 3, 4, 5]


def test_an_outcome_that_can_not_be_told_holds_up_no_other(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    describe = hooks_module.describe

    def faulty(outcome: Outcome, folders: Mapping[Place, Root]) -> HookDocument:
        if outcome.event.image_id == 2:
            raise KeyError("no such column")
        return describe(outcome, folders)

    monkeypatch.setattr("daemon.hooks.describe", faulty)
    monkeypatch.setattr("daemon.loop._LAST_SECONDS", 0.01)
    with listening() as web:
        hook = hooks(room, url=web.url)
        hook.begin()
        file_three(room)
        hook.loop.run(lambda: len(web.told) == 2)
        assert web.told == [("done", 1), ("failed", 3)]
    assert "hook: image 2: an error in darkroom itself: KeyError: 'no such column'; not reported" in caplog.text


def test_a_single_pass_tells_too(tmp_path: Path) -> None:
    base = tmp_path / "room"
    (base / "inbox").mkdir(parents=True)
    with listening() as web:
        (base / "config.toml").write_text(f'[hooks]\nurl = "{web.url}"\n')
        (base / "inbox/a.jpg").write_bytes(jpeg())
        assert darkroom(base, "run", "--once").returncode == 0
        assert web.told == [("done", 1)]


@pytest.mark.parametrize(
    "line", ['url = "ftp://x"', 'url = "nowhere"', 'on = ["lost"]', "attempts = 0", 'command = [""]', "cmd = []"]
)
def test_settings_that_make_no_sense(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.toml").write_text(f"[hooks]\n{line}\n")
    with pytest.raises(ConfigError, match=r"\[hooks\]"):
        load(tmp_path / "config.toml", {})
