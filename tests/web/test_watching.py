"""The event stream, the health check and the metrics."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.health import PartHealth
from tests.support import jpeg, wait_until
from tests.web.serving import Served
from web import events


def messages(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events: the kind and the data of each."""
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def until(told: Iterator[tuple[str, dict[str, Any]]], status: str) -> dict[str, Any]:
    """Read on until the one image has come to a status, by its line and by the counts, in whichever order."""
    line: dict[str, Any] | None = None
    counts: dict[str, Any] = {}
    while line is None or counts.get(status) != 1:
        kind, data = next(told)
        if kind == "stats":
            counts = data  # there may be one of the work between
        else:
            assert data["event"] == status
            line = data
    return line


def test_events_tell_what_happens_and_the_counts(served: Served) -> None:
    with served.http.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = messages(stream.iter_lines())
        kind, counts = next(told)
        assert (kind, counts["total"]) == ("stats", 0)
        served.upload("a.jpg", jpeg())
        assert until(told, "queued") | {"at": None} == {
            "image_id": 1,
            "at": None,
            "event": "queued",
            "detail": "uploaded as a.jpg",
            "status": "queued",
        }
        served.room.drain()
        assert until(told, "done")["status"] == "done"


def test_a_stream_goes_on_where_the_last_one_ended(served: Served) -> None:
    for seed in range(3):
        served.upload(f"{seed}.jpg", jpeg(seed=seed))
    with served.http.stream("GET", "/api/events", headers={"Last-Event-ID": "1"}) as stream:
        told = messages(stream.iter_lines())
        assert [next(told)[1]["image_id"] for _ in range(2)] == [2, 3]


def test_who_has_missed_more_than_is_kept_is_told_all_of_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_BATCH", 3)
    for seed in range(10):
        served.upload(f"{seed}.jpg", jpeg(seed=seed))
    with served.http.stream("GET", "/api/events") as stream:
        present = messages(stream.iter_lines())
        next(present)
        with (
            httpx2.Client(base_url=served.url) as other,
            other.stream("GET", "/api/events", headers={"Last-Event-ID": "0"}) as behind,
        ):
            told = (data for kind, data in messages(behind.iter_lines()) if kind == "image")
            assert [next(told)["image_id"] for _ in range(10)] == list(range(1, 11))
            served.upload("last.jpg", jpeg(seed=99))
            assert next(told)["image_id"] == 11


@pytest.mark.slow
def test_one_reader_for_all_who_listen(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    look = served.app.events._look

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(served.app.events, "_look", counted)
    with ExitStack() as stack:
        listening = []
        for _ in range(30):
            client = stack.enter_context(httpx2.Client(base_url=served.url))
            stream = stack.enter_context(client.stream("GET", "/api/events"))
            listening.append(messages(stream.iter_lines()))
            assert next(listening[-1])[0] == "stats"
        began, before = time.monotonic(), looks
        wait_until(lambda: looks >= before + 3, what="three looks")
        assert looks - before <= (time.monotonic() - began) / 0.4 + 2
    wait_until(lambda: served.app.events.listeners == 0, what="the end of all streams")


def test_of_many_who_come_at_once_no_more_listen_than_may(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_MAX_LISTENERS", 5)
    asked = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port), 10)) for _ in range(40)]
        for client in clients:
            client.sendall(asked)
        answers = [client.recv(12) for client in clients]
    assert sorted(answers) == [b"HTTP/1.1 200"] * 5 + [b"HTTP/1.1 503"] * 35
    wait_until(lambda: served.app.events.listeners == 0, what="the end of all streams")


def test_open_streams_do_not_hold_up_the_end(served: Served) -> None:
    with httpx2.Client(base_url=served.url) as other, other.stream("GET", "/api/events") as stream:
        next(stream.iter_lines())
        served.stop()


def test_health_names_the_part_that_is_not_well(served: Served) -> None:
    well = served.http.get("/healthz")
    assert (well.status_code, well.json()["data"]["healthy"]) == (200, True)
    assert set(well.json()["data"]["parts"]) == {"watcher", "captioner", "database", "free_space"}
    served.health = {"consumer": PartHealth(ok=False, detail=f"paused: {served.room.library} is full")}
    ill = served.http.get("/healthz")
    assert ill.status_code == 503
    assert ill.json()["error"] == {"code": "unhealthy", "message": "consumer: paused: library is full"}
    assert ill.json()["data"]["parts"]["consumer"]["ok"] is False


def test_health_looks_at_the_folders(served: Served) -> None:
    served.room.duplicates.rmdir()
    ill = served.http.get("/healthz")
    assert ill.status_code == 503
    assert "duplicates folder is gone" in ill.json()["error"]["message"]


def samples(served: Served) -> dict[tuple[str, ...], float]:
    text = served.http.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(served: Served) -> None:
    before = samples(served)
    assert before["darkroom_image_seconds_count",] == 0
    for seed in range(3):
        served.upload(f"{seed}.jpg", jpeg(seed=seed))
    waiting = samples(served)
    assert waiting["darkroom_queue_depth",] == 3
    assert waiting["darkroom_oldest_waiting_seconds",] > 0
    served.room.drain()
    for _ in range(2):  # a second scrape counts nothing twice
        after = samples(served)
        assert after["darkroom_images", "done"] == 3
        assert after["darkroom_image_seconds_count",] == after["darkroom_image_seconds_bucket", "+Inf"] == 3
    assert after["darkroom_paused",] == 0
    served.room.captions.request("a-model", 1.0)
    assert samples(served)["darkroom_caption_requests_total",] == 1
    assert after["process_resident_memory_bytes",] > 0


def test_many_listeners_come_and_go(served: Served) -> None:
    for _ in range(5):
        with served.http.stream("GET", "/api/events") as stream:
            next(stream.iter_lines())
    wait_until(lambda: served.app.events.listeners == 0, what="the end of the streams")
