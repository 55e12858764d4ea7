"""Uploads: what is acknowledged is safe and queued once, what is refused leaves nothing behind."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from daemon.catalogue import Queue
from daemon.errors import DiskFull
from daemon.files.atomic import Root
from daemon.filing.recovery import UPLOAD_PREFIX, remove_partial_uploads
from tests.support import jpeg, tree, wait_until
from tests.web.serving import Served, photo, picture


def receipt(image_id: int, status: str) -> dict[str, object]:
    """Return the receipt of `photo()`, which is known already."""
    sha256 = hashlib.sha256(photo()).hexdigest()
    return {"image_id": image_id, "status": status, "sha256": sha256, "duplicate": True}


def test_a_form_is_queued_and_filed_under_the_name_it_came_with(served: Served) -> None:
    content = photo(1)
    answer = served.http.post("/api/images", files={"file": ("Sommer 2024, Ü.jpg", content)})
    assert answer.status_code == 202
    data = {"image_id": 1, "status": "queued", "sha256": hashlib.sha256(content).hexdigest()}
    assert answer.json() == {"status": "success", "data": data, "error": None}
    assert answer.headers["location"] == "/api/images/1"
    assert tree(served.room.inbox) == {"Sommer 2024, Ü.jpg": content}
    row = served.room.row()
    assert (row["source"], row["original_name"]) == ("upload", "Sommer 2024, Ü.jpg")
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    served.room.drain()
    filed = {path: data for path, data in tree(served.room.library).items() if path.endswith(".jpg")}
    assert list(filed.values()) == [content]
    assert [row["status"] for row in served.room.rows()] == ["done"]


def test_raw_bodies_of_post_and_put(served: Served) -> None:
    answers = [
        served.http.post("/api/images?name=a.jpg", content=photo(1)),
        served.http.post("/api/images", content=photo(2)),
        served.http.put("/api/images/c.jpg", content=photo(3)),
        served.http.put("/api/images/12", content=photo(4)),
        served.http.put("/api/images?name=e.jpg", content=photo(5)),
    ]
    assert [answer.status_code for answer in answers] == [202] * 5
    assert [row["original_name"] for row in served.room.rows()] == ["a.jpg", "upload", "c.jpg", "12", "e.jpg"]
    assert sorted(tree(served.room.inbox)) == ["12.jpg", "a.jpg", "c.jpg", "e.jpg", "upload.jpg"]


def test_several_files_in_one_request(served: Served) -> None:
    files = [("file", (f"{n}.jpg", photo(n))) for n in range(3)]
    answer = served.http.post("/api/images", files=files)
    assert answer.status_code == 202
    assert [receipt["image_id"] for receipt in answer.json()["data"]] == [1, 2, 3]
    assert len(served.room.rows()) == 3


def test_a_wrong_file_among_several_refuses_all(served: Served) -> None:
    files = [("file", ("a.jpg", photo())), ("file", ("b.txt", b"no image at all, just text"))]
    answer = served.http.post("/api/images", files=files)
    assert answer.status_code == 415
    assert "b.txt" in answer.json()["error"]["message"]
    assert served.left_behind() == []
    assert served.room.rows() == []


def test_the_same_name_twice_gets_two_files(served: Served) -> None:
    for seed in range(12):
        served.upload("image.jpg", photo(seed))
    rows = served.room.rows()
    assert {row["original_name"] for row in rows} == {"image.jpg"}
    assert len({row["path"] for row in rows}) == 12


def test_a_name_that_lies_in_the_inbox_is_left_alone(served: Served) -> None:
    served.room.put("a.jpg", b"somebody's")
    served.upload("a.jpg", photo())
    assert tree(served.room.inbox) == {"a.jpg": b"somebody's", "a-1.jpg": photo()}


def test_bytes_that_are_filed_already(served: Served) -> None:
    served.upload("a.jpg", photo())
    served.room.drain()
    answer = served.http.post("/api/images", files={"file": ("b.jpg", photo())})
    assert answer.status_code == 200
    assert answer.json()["data"] == receipt(1, "done")
    assert served.left_behind() == []
    assert len(served.room.rows()) == 1


def test_bytes_whose_filed_original_is_gone_are_taken_again(served: Served) -> None:
    served.upload("a.jpg", photo())
    served.room.drain()
    (served.room.library / str(served.room.row()["destination"])).unlink()
    assert served.http.post("/api/images", files={"file": ("a.jpg", photo())}).status_code == 202


def test_an_upload_that_is_sent_again_before_it_is_filed(served: Served) -> None:
    first = served.upload("a.jpg", photo())
    again = served.http.post("/api/images", files={"file": ("a.jpg", photo())})
    assert again.status_code == 202
    assert again.json()["data"] == receipt(first, "queued")
    # Changed in the inbox since: then it is not the same any more.
    served.room.put("a.jpg", photo(5))
    assert served.http.post("/api/images", files={"file": ("a.jpg", photo())}).json()["data"]["image_id"] != first


@pytest.mark.parametrize("name", ["../../etc/x.jpg", "..\\..\\x.jpg", "/etc/x.jpg", "a\0\x1b\n.jpg", ".hidden.jpg"])
def test_hostile_names_become_plain_ones_in_the_inbox(served: Served, name: str) -> None:
    served.http.post("/api/images", params={"name": name}, content=photo()).raise_for_status()
    [visible] = served.left_behind()
    assert not visible.startswith(".")
    assert visible.isprintable()
    assert "/" not in str(served.room.row()["original_name"])


def test_a_very_long_name_is_cut_by_bytes(served: Served) -> None:
    served.upload("ä" * 400 + ".jpg", photo())
    [visible] = served.left_behind()
    assert len(visible.encode()) <= 255
    assert visible.endswith(".jpg")


@pytest.mark.parametrize("name", ["Thumbs.db", "x.part", "~$x", "x.png", "no suffix"])
def test_the_visible_name_is_never_one_that_a_scan_overlooks(served: Served, name: str) -> None:
    served.http.post("/api/images", params={"name": name}, content=photo()).raise_for_status()
    [found] = served.left_behind()
    assert found.endswith(".jpg")
    served.room.drain()
    assert [row["status"] for row in served.room.rows()] == ["done"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_each_kind_of_image_is_taken(served: Served, kind: str) -> None:
    assert served.http.post("/api/images", content=picture(kind)).status_code == 202


@pytest.mark.parametrize("content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x89PN", b"GIF"])
def test_what_is_no_image_is_refused_with_the_reason(served: Served, content: bytes) -> None:
    answer = served.http.post("/api/images?name=x.jpg", content=content)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "not_an_image"
    assert served.left_behind() == []


def test_empty_files_and_missing_fields(served: Served) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    refused = [
        served.http.post("/api/images", content=b""),
        served.http.post("/api/images", files={"file": ("a.jpg", b"")}),
        served.http.post("/api/images", files={"picture": ("a.jpg", photo())}),
        served.http.post("/api/images", content=b"--x\r\nthis is no part", headers=form),
        served.http.post("/api/images", content=b"--x--\r\n", headers=form),
        served.http.post("/api/images", content=b"", headers=form),
        served.http.post("/api/images", content=photo(), headers={"Content-Type": "multipart/form-data"}),
        served.http.post("/api/images", content=photo(), headers={"Content-Type": "multipart/mixed; boundary="}),
    ]
    assert [answer.status_code for answer in refused] == [400] * len(refused)
    assert all(answer.json()["status"] == "error" for answer in refused)
    assert served.left_behind() == []
    assert served.room.rows() == []


def test_a_form_that_ends_too_early(served: Served) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    answer = served.http.post(
        "/api/images",
        content=head + jpeg((900, 900)),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 400
    assert served.left_behind() == []


def test_too_large_is_said_at_once_by_the_length_alone(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(
            b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert client.recv(20).startswith(b"HTTP/1.1 413")
    assert served.left_behind() == []


def test_too_large_is_noticed_while_it_arrives(served: Served) -> None:
    def endless() -> object:
        yield photo()
        for _ in range(200):
            yield b"x" * 65536

    answer = served.http.post("/api/images", content=endless())  # type: ignore[arg-type]
    assert answer.status_code == 413
    assert "5 MB" in answer.json()["error"]["message"]
    assert served.left_behind() == []


def test_a_client_that_goes_away_leaves_nothing(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n")
        client.sendall(jpeg((800, 800)).ljust(2_500_000, b"x"))
        wait_until(lambda: any(name.startswith(UPLOAD_PREFIX) for name in served.left_behind()), what="the temporary")
    wait_until(lambda: served.left_behind() == [], what="its removal")
    assert served.room.rows() == []


def test_a_full_disk_is_said_and_leaves_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk can't be filled here; what the system then says can be said for it.
    real = os.fsync

    def fsync(fd: int) -> None:
        if UPLOAD_PREFIX in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    answer = served.http.post("/api/images", content=photo())
    assert answer.status_code == 507
    assert answer.json()["error"]["code"] == "no_room"
    assert served.left_behind() == []
    assert served.room.rows() == []


def test_a_full_disk_under_the_database_is_said_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def upload(*_: object) -> None:
        raise DiskFull("the database /state/darkroom.db: database or disk is full")

    monkeypatch.setattr(Queue, "upload", upload)
    answer = served.http.post("/api/images", content=photo())
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "no_room")
    assert served.left_behind() == []


def test_a_missing_inbox_is_said_without_its_path(served: Served) -> None:
    served.room.inbox.rmdir()
    answer = served.http.post("/api/images", content=photo())
    assert answer.status_code == 503
    assert str(served.room.inbox.parent) not in answer.text


def test_a_row_that_can_not_be_written_takes_the_file_back(served: Served) -> None:
    served.sql("CREATE TRIGGER full BEFORE INSERT ON image BEGIN SELECT RAISE(ABORT, 'the disk is at fault'); END")
    answer = served.http.post("/api/images", content=photo())
    # A rule of the schema that is broken is a mistake in Darkroom, and no disk's fault.
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert served.left_behind() == []


def test_leftovers_of_a_dead_process_are_removed_at_start(tmp_path: Path) -> None:
    (tmp_path / f"{UPLOAD_PREFIX}0123").write_bytes(b"half")
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    remove_partial_uploads(Root(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.jpg"]
    remove_partial_uploads(Root(tmp_path / "not there"))


def test_the_watcher_finds_nothing_new_in_an_upload(served: Served) -> None:
    served.upload("a.jpg", photo())
    served.room.scan()
    assert len(served.room.rows()) == 1


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("filename*=UTF-8''Gr%C3%BC%C3%9Fe.jpg", "Grüße.jpg"),
        ("filename*=utf-8'de-DE'Gr%C3%BC%C3%9Fe.jpg", "Grüße.jpg"),
        ("filename*=ISO-8859-1''Gr%FC%DFe.jpg", "Grüße.jpg"),
        ("filename*=iso-8859-1'en'%A3.jpg", "£.jpg"),
        ("filename=\"x.jpg\"; filename* = UTF-8''y.jpg", "y.jpg"),
        ("filename=\"x.jpg\"; filename*=koi8-r''%C1.jpg", "x.jpg"),
        ("filename=\"x; filename*=UTF-8''y.jpg\"", "x; filename*=UTF-8''y.jpg"),
    ],
)
def test_names_in_the_extended_form_are_read(served: Served, said: str, name: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; {said}\r\n\r\n'
    body = head.encode() + photo() + b"\r\n--x--\r\n"
    served.http.post("/api/images", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert served.room.row()["original_name"] == name


def test_a_huge_body_that_is_only_announced(served: Served) -> None:
    head = b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n"
    assert b" 413 " in served.raw(head % b"POST /api/images")
    assert b" 413 " in served.raw(head % b"PUT /api/images/x.jpg")
    assert served.left_behind() == []
