"""What is sent to systemd: READY, the counts, STOPPING, and WATCHDOG only while the loops make progress."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.app import build
from daemon.catalogue.schema import Status
from daemon.catalogue.stats import Stats
from daemon.decoding import Decoded
from daemon.health import Pulse, sentence_of
from daemon.systemd.notify import Heartbeat, Notifier
from tests.program import Program
from tests.support import Room, jpeg, wait_until


class Manager:
    """The end of the socket that systemd holds."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(0.05)
        self.address = address
        self.messages: list[str] = []

    def listen(self) -> str:
        """Take in what has come; gives all of it so far."""
        try:
            while True:
                self.messages.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return "\n".join(self.messages)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_arrives_as_systemd_wants_it(tmp_path: Path, abstract: bool) -> None:
    with manager(f"@darkroom-test-{os.getpid()}" if abstract else str(tmp_path / "notify")) as systemd:
        notifier = Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "6000000"})
        notifier.send(READY=1, STATUS="two\nlines: 3 Bilder für später")
        assert systemd.listen() == "READY=1\nSTATUS=two lines: 3 Bilder für später"
        assert notifier.wanted
        assert notifier.watchdog_seconds == 6.0


def test_without_systemd_nothing_is_sent_and_nothing_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = Notifier({"WATCHDOG_USEC": "6000000"})
    silent.send(READY=1)
    assert not silent.wanted
    assert silent.watchdog_seconds is None
    assert not caplog.messages
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send(READY=1)
    assert "READY" in caplog.text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_fed_when_it_is_ours(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", **environ}).watchdog_seconds == seconds


def test_the_service_tells_how_it_is_from_start_to_end(tmp_path: Path) -> None:
    with manager(str(tmp_path / "notify")) as systemd:
        environ: Any = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "300000"}
        with Program(tmp_path / "room", **environ) as program:
            wait_until(lambda: "READY=1" in systemd.listen(), what="READY")
            (program.base / "inbox/a.jpg").write_bytes(jpeg())
            wait_until(lambda: "0 queued, 1 done, 0 duplicate, 0 failed" in systemd.listen(), what="the counts")
            fed = systemd.listen().count("WATCHDOG=1")
            wait_until(lambda: systemd.listen().count("WATCHDOG=1") > fed + 2, what="signs of life")
            assert "STOPPING=1" not in systemd.listen()
            assert program.stop() == 0
            assert "STOPPING=1" in systemd.listen()


class Stuck:
    """A developer that never comes back by itself."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def decode(self, _path: Path) -> Decoded:
        self.entered.set()
        self.let_go.wait()
        raise AssertionError("let go at the end of the test")


@pytest.mark.slow
def test_the_watchdog_starves_when_the_consumer_is_stuck(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    service, stuck = build(room.config, room.catalogue), Stuck()
    setattr(service.sandbox, "decode", stuck.decode)  # noqa: B010
    pulse = Pulse(service.watcher, service.consumer, service.queue, decode_seconds=0.1, turn_seconds=2.5)
    with manager(str(tmp_path / "notify")) as systemd:
        notifier = Notifier({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "300000"})
        service.start()
        try:
            with Heartbeat(notifier, lambda: sentence_of(service.statistics.stats(time.time())), pulse.fault):
                wait_until(lambda: systemd.listen().count("WATCHDOG=1") > 3, what="signs of life")
                room.put("a.jpg", jpeg())
                assert stuck.entered.wait(20)
                wait_until(lambda: "STATUS=the consumer has been stuck" in systemd.listen(), what="the fault")
                fed = systemd.listen().count("WATCHDOG=1")
                deadline = time.monotonic() + 1
                wait_until(lambda: time.monotonic() > deadline)
                assert systemd.listen().count("WATCHDOG=1") == fed
        finally:
            stuck.let_go.set()
            service.stop()


def test_a_large_image_in_hand_is_no_stuck_consumer(room: Room) -> None:
    service = build(room.config, room.catalogue)
    pulse = Pulse(service.watcher, service.consumer, service.queue, decode_seconds=0.1, turn_seconds=1)
    service.watcher.start()
    try:
        service.consumer.loop.progress = time.monotonic() - 60
        assert "stuck for 60 s" in str(pulse.fault())
        os.truncate(room.put("large.jpg", b""), 100_000_000)
        room.scan()
        # The watcher has news of it, too, and each has it wait for that moment.
        wait_until(lambda: room.queue.claim(time.time()) is not None)
        assert pulse.fault() is None, "100 MB may take a slow disk that long"
        service.consumer.loop.progress = time.monotonic() - 600
        assert "stuck for 600 s" in str(pulse.fault())
    finally:
        service.watcher.stop()
        service.sandbox.close()


def test_a_dead_watcher_is_told(room: Room) -> None:
    service = build(room.config, room.catalogue)
    assert "watcher" in str(Pulse(service.watcher, service.consumer, service.queue, 60).fault())
    service.sandbox.close()


def test_the_counts_in_a_sentence() -> None:
    counts: dict[Status, int] = {"queued": 11, "processing": 1, "done": 3401, "duplicate": 0, "failed": 2}
    stats = Stats(counts, None, 0.0, None, "the library folder is gone", 0.0, {}, {})
    assert sentence_of(stats) == "12 queued, 3,401 done, 0 duplicate, 2 failed; paused: the library folder is gone"
