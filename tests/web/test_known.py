"""Which bytes are here: filed in the library or in the inbox by now, as far as the files themselves say so, too."""

import hashlib
import os
import time
from typing import Any

import pytest

from daemon.catalogue.schema import Image
from daemon.filing.inbox_file import leaving_name
from tests.support import Room
from tests.web.serving import Served, photo


def sha256(seed: int) -> str:
    return hashlib.sha256(photo(seed)).hexdigest()


def ask(served: Served, *hashes: str) -> Any:
    answer = served.http.post("/api/images/known", json={"sha256": hashes})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def is_here(served: Served, seed: int) -> bool:
    return bool(ask(served, sha256(seed))[sha256(seed)])


def test_what_is_filed_or_queued_is_here_and_nothing_else(served: Served) -> None:
    served.upload("filed.jpg", photo(1))
    served.room.drain()
    served.upload("queued.jpg", photo(2))
    assert ask(served, sha256(1), sha256(2), sha256(3)) == {sha256(1): True, sha256(2): True, sha256(3): False}
    assert ask(served) == {}
    assert ask(served, sha256(1).upper()) == {sha256(1).upper(): True}


def test_what_is_in_hand_is_here(served: Served) -> None:
    served.upload("a.jpg", photo(1))
    assert served.room.queue.claim(time.time()) is not None
    assert is_here(served, 1)


def test_what_waits_under_its_hidden_name_is_here(served: Served) -> None:
    served.upload("a.jpg", photo(1))
    job = served.room.queue.claim(time.time())
    assert job is not None
    with served.room.catalogue.writing():
        Image.update(status="queued").execute()
    os.rename(served.room.inbox / "a.jpg", served.room.inbox / leaving_name(job.token, "a.jpg"))
    assert is_here(served, 1)


@pytest.mark.parametrize("how", ["gone", "edited", "as large, at the same time"])
def test_a_queued_file_that_is_not_what_was_sent_any_more(served: Served, how: str) -> None:
    served.upload("a.jpg", photo(1))
    file = served.room.inbox / "a.jpg"
    was = file.stat()
    if how == "gone":
        file.unlink()
    elif how == "edited":
        file.write_bytes(photo(1) + b"more")
    else:
        # As far as its looks go it is the same until the watcher, which sees each write, has said otherwise.
        file.write_bytes(photo(1)[:-1] + b"x")
        served.room.scan()
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
        served.room.scan()
    assert not is_here(served, 1)


def test_a_filed_photo_that_its_owner_has_taken_away(served: Served) -> None:
    for seed in (1, 2):
        served.upload(f"{seed}.jpg", photo(seed))
    served.room.drain()
    (served.room.library / str(served.room.row_of("1.jpg")["destination"])).unlink()
    assert (is_here(served, 1), is_here(served, 2)) == (False, True)
    served.http.delete("/api/images/2").raise_for_status()
    assert not is_here(served, 2)


def test_what_failed_is_not_here(served: Served) -> None:
    served.upload("a.jpg", photo(1))
    served.room.drain()
    with served.room.catalogue.writing():
        Image.update(status="failed", place="failed").execute()
    assert not is_here(served, 1)


def test_a_thousand_at_a_time(served: Served) -> None:
    served.upload("a.jpg", photo(1))
    others = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(999)]
    found = ask(served, *others, sha256(1))
    assert len(found) == 1000
    assert [one for one, here in found.items() if here] == [sha256(1)]
    said = served.http.post("/api/images/known", json={"sha256": [*others, sha256(1), sha256(2)]})
    assert said.status_code == 400
    assert said.json()["error"]["message"] == "sha256 is a list of at most 1000 hashes of 64 hexadecimal digits each"


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], {"sha256": None}, {"sha256": "x"}, {"sha256": [1]}, {"sha256": ["x" * 64]}, {"sha256": ["a" * 63]}),
        *({"sha256": [sha256(1) + "\n"]}, {"sha256": [], "more": 1}),
    ],
)
def test_what_is_no_list_of_hashes_is_refused(served: Served, body: object) -> None:
    assert served.http.post("/api/images/known", json=body).status_code == 400


def test_it_needs_the_token(tmp_path: Any) -> None:
    room = Room(tmp_path / "room")
    with Served(room, token="a token of sixteen") as served:
        assert served.http.post("/api/images/known", json={"sha256": [sha256(1)]}).status_code == 401
        headers = {"Authorization": "Bearer a token of sixteen"}
        answer = served.http.post("/api/images/known", json={"sha256": [sha256(1)]}, headers=headers)
        assert answer.json()["data"] == {sha256(1): False}
    room.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_it_is_no_image_of_that_name(served: Served, method: str) -> None:
    for call in ("known", "bulk"):
        answer = served.http.request(method, f"/api/images/{call}", content=b"{}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
