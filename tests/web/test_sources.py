"""What a client says of a file comes with it: its folder, its own time, and the digest that its bytes must have."""

import base64
import errno
import hashlib
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue import Queue
from daemon.errors import DatabaseFault
from daemon.files import atomic
from daemon.files.atomic import Entry
from tests.decoding.images import decode
from tests.support import Room, jpeg, tree
from tests.web.serving import Served, photo


def digest(content: bytes, name: str = "sha-256") -> str:
    value = hashlib.new(name.replace("-", ""), content).digest()
    return f"{name}=:{base64.b64encode(value).decode()}:"


def form(*parts: tuple[str, str | bytes] | tuple[str, bytes, str]) -> bytes:
    """Make a form of fields, in their order; a file may have a digest of its own."""
    made = b""
    for name, value, *digests in parts:
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"'
        if isinstance(value, bytes):
            head += '; filename="a.jpg"'
        for line in digests:
            head += f"\r\nContent-Digest: {line}"
        made += head.encode() + b"\r\n\r\n" + (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return made + b"--x--\r\n"


def post(served: Served, *parts: Any, **more: Any) -> Any:
    headers = {"Content-Type": "multipart/form-data; boundary=x", **more.pop("headers", {})}
    return served.http.post("/api/images", content=form(*parts), headers=headers, **more)


def nothing_is_left(served: Served) -> bool:
    return served.left_behind() == [] and served.room.rows() == []


def refused(served: Served, answer: Any, code: str, status: int = 400) -> str:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert served.room.rows() == []
    return str(answer.json()["error"]["message"])


def test_the_folder_of_a_photo_becomes_the_folder_of_the_template(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[filing]\ntemplate = "{folder}/{name}"')
    with Served(room) as served:
        served.http.post("/api/images?name=a.jpg&folder=2024/Älps", content=photo(1)).raise_for_status()
        served.http.put("/api/images/b.jpg?folder=2024\\Älps/", content=photo(2)).raise_for_status()
        post(served, ("folder", "./a//b"), ("file", photo(3))).raise_for_status()
        assert set(tree(room.inbox)) == {"2024/Älps/a.jpg", "2024/Älps/b.jpg", "a/b/a.jpg"}
        assert [row["folder"] for row in room.rows()] == ["2024/Älps", "2024/Älps", "a/b"]
        room.scan()
        room.drain()
        assert set(tree(room.library)) == {"2024/Älps/a.jpg", "2024/Älps/b.jpg", "a/b/a.jpg"}
        assert len(room.rows()) == 3
    room.close()


def test_fields_are_of_the_files_that_follow_them(served: Served) -> None:
    answer = post(
        served,
        ("file", photo(1)),
        ("folder", "one"),
        ("mtime", "1000000000"),
        ("file", photo(2)),
        ("file", photo(3)),
        ("folder", "two"),
        ("mtime", ""),
        ("file", photo(4)),
    )
    assert answer.status_code == 202
    assert [one["sha256"] for one in answer.json()["data"]] == [
        hashlib.sha256(photo(seed)).hexdigest() for seed in (1, 2, 3, 4)
    ]
    rows = served.room.rows()
    assert [row["path"] for row in rows] == ["a.jpg", "one/a.jpg", "one/a-1.jpg", "two/a.jpg"]
    assert [row["mtime_ns"] == 10**18 for row in rows] == [False, True, True, False]


def test_what_the_query_says_holds_for_a_form_without_fields(served: Served) -> None:
    post(served, ("file", photo(1)), ("folder", "b"), ("file", photo(2)), params={"folder": "a"}).raise_for_status()
    assert [row["folder"] for row in served.room.rows()] == ["a", "b"]


@pytest.mark.parametrize(
    "folder",
    [
        *("..", "a/../b", "a\\..\\b", " .. /a", "/etc", "\\\\host\\share", "C:\\photos", "c:"),
        *("/".join("x" * 33), "/".join(["ü" * 100] * 6), "ü" * 128, "\0" * 2000),
    ],
    ids=lambda folder: ascii(folder)[:20],
)
def test_a_folder_that_leads_elsewhere_or_too_deep_is_refused(served: Served, folder: str) -> None:
    said = refused(served, served.http.post("/api/images", params={"folder": folder}, content=photo()), "bad_folder")
    assert said.startswith("folder ")
    refused(served, post(served, ("folder", folder), ("file", photo())), "bad_folder")
    assert nothing_is_left(served)


@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        (".hidden/x", "_hidden/x"),
        ("@eaDir", "@eaDir_"),
        ("now.part/~$x", "now.part_/_~$x_"),
        ("a\x1b\n\u202eb", "a___b"),
        ("trailing. ", "trailing"),
        ("...", "_"),
        (".darkroom-upload-1", "_darkroom-upload-1"),
        ("ü" * 120, "ü" * 115),
        ("I\u0308", "\u00cf"),
    ],
    ids=ascii,
)
def test_a_folder_is_made_of_names_that_a_scan_sees(served: Served, folder: str, inside: str) -> None:
    served.http.post("/api/images", params={"name": "a.jpg", "folder": folder}, content=photo()).raise_for_status()
    assert set(tree(served.room.inbox)) == {f"{inside}/a.jpg"}
    served.room.scan()
    assert len(served.room.rows()) == 1
    served.room.drain()
    assert served.room.row()["status"] == "done"


def test_a_folder_that_every_pattern_matches_is_refused(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", '[inbox]\nignore = ["*x*"]')
    with Served(room) as served:
        answer = served.http.post("/api/images", params={"folder": "a/x"}, content=photo())
        assert "ignores" in refused(served, answer, "bad_folder")
    room.close()


@pytest.mark.parametrize("kind", ["file", "link", "long"])
def test_a_folder_that_can_not_be_made_is_refused(served: Served, kind: str, tmp_path: Path) -> None:
    inbox = served.room.inbox
    if kind == "link":
        (inbox / "x").symlink_to(tmp_path)
    else:
        (inbox / "x").write_bytes(b"somebody's")
    folder = "x/" + "y" * 200 if kind == "long" else "x/y"
    answer = served.http.post("/api/images", params={"folder": folder}, content=photo())
    assert "there can't be a folder x/y" in refused(served, answer, "bad_folder", 409)
    assert served.left_behind() == ["x"]
    assert not list(tmp_path.glob("*.jpg"))


def test_a_folder_on_another_disk_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(atomic, "rename_exclusive", rename)
    answer = served.http.post("/api/images", params={"folder": "a/b"}, content=photo())
    assert "a disk of its own" in refused(served, answer, "bad_folder", 409)
    assert nothing_is_left(served)


def test_a_folder_that_was_just_removed_as_empty_is_made_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic.rename_exclusive
    removed: list[Entry] = []

    def rename(source: Entry, destination: Entry) -> None:
        if len(removed) < 3:
            (served.room.inbox / "a/b").rmdir()
            removed.append(destination)
        real(source, destination)

    monkeypatch.setattr(atomic, "rename_exclusive", rename)
    served.http.post("/api/images", params={"name": "x.jpg", "folder": "a/b"}, content=photo()).raise_for_status()
    assert set(tree(served.room.inbox)) == {"a/b/x.jpg"}


def test_folders_that_were_made_for_nothing_go_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (served.room.inbox / "mine").mkdir()
    real = Queue.upload

    def upload(*arguments: Any) -> int:
        real(*arguments)
        raise DatabaseFault("the database is gone")

    monkeypatch.setattr(Queue, "upload", upload)
    answer = served.http.post("/api/images", params={"folder": "mine/a/b"}, content=photo())
    assert answer.status_code == 503
    assert served.left_behind() == ["mine"]
    assert list((served.room.inbox / "mine").iterdir()) == []


def test_the_time_of_a_file_dates_a_photo_that_says_nothing_itself(served: Served) -> None:
    served.room.decode_with(lambda path: decode(path))
    content = jpeg(seed=3)
    served.http.post("/api/images?name=x.jpg&mtime=1086259200", content=content).raise_for_status()
    served.room.scan()
    served.room.drain()
    row = served.room.row()
    assert (row["taken_from"], row["taken_at"]) == (
        "mtime",
        datetime.fromtimestamp(1086259200).astimezone().isoformat()[:19],
    )
    filed = served.room.library / row["destination"]
    assert filed.parent == served.room.library / "2004/06"
    assert filed.stat().st_mtime == 1086259200


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1714559696", 1_714_559_696_000_000_000),
        ("1714559696.123456789", 1_714_559_696_123_456_789),
        ("1714559696123", 1_714_559_696_123_000_000),
        ("1714559696123.4", 1_714_559_696_123_400_000),
        ("0", 0),
        ("-86400", -86_400_000_000_000),
        ("-100000000001", -100_000_000_001_000_000),
        ("2024-05-01T12:34:56Z", 1_714_566_896_000_000_000),
        ("2024-05-01T12:34:56+02:00", 1_714_559_696_000_000_000),
        ("2024-05-01 12:34:56.5 02:00", 1_714_559_696_500_000_000),
        ("2024-05-01T12:34:56-0330", 1_714_579_496_000_000_000),
    ],
)
def test_a_time_may_have_several_forms(served: Served, text: str, nanoseconds: int) -> None:
    served.http.post("/api/images", params={"name": "a.jpg", "mtime": text}, content=photo()).raise_for_status()
    assert (served.room.inbox / "a.jpg").stat().st_mtime_ns == nanoseconds == served.room.row()["mtime_ns"]


@pytest.mark.parametrize(
    "text",
    [
        *("yesterday", "nan", "inf", "1e9", "٣", "0x10", "2024-05-01T12:34:56", "2024-05-01", "-99999999999"),
        *("99999999999", "1714559696123456789", "9" * 20, "9" * 4000),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    ],
    ids=lambda text: text[:26],
)
def test_what_is_no_time_is_refused(served: Served, text: str) -> None:
    answer = served.http.post("/api/images", params={"mtime": text}, content=photo())
    assert refused(served, answer, "bad_mtime").startswith("mtime ")
    refused(served, post(served, ("mtime", text), ("file", photo())), "bad_mtime")
    assert nothing_is_left(served)


def test_the_header_with_the_date_of_the_request_says_nothing_of_the_file(served: Served) -> None:
    headers = {"Date": "Thu, 03 Jun 2004 10:40:00 GMT", "Last-Modified": "Thu, 03 Jun 2004 10:40:00 GMT"}
    served.http.post("/api/images?name=a.jpg", content=photo(), headers=headers).raise_for_status()
    assert abs((served.room.inbox / "a.jpg").stat().st_mtime - time.time()) < 60


@pytest.mark.parametrize("text", ["x" * 4097, b"\xff\xfe"], ids=["long", "no UTF-8"])
def test_a_field_that_is_no_short_text_is_refused(served: Served, text: str | bytes) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="folder"\r\n\r\n'
    value = text.encode() if isinstance(text, str) else text
    body = head + value + b"\r\n" + form(("file", photo()))
    answer = served.http.post("/api/images", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    refused(served, answer, "bad_folder")
    assert nothing_is_left(served)


def test_a_digest_that_is_right(served: Served) -> None:
    both = f"{digest(photo(1))} , md5=:AAAA:, crc32c=12;a=b,{digest(photo(1), 'sha-512')};q=1"
    answers = [
        served.http.post("/api/images", content=photo(1), headers={"Content-Digest": both}),
        served.http.put("/api/images/b.jpg", content=photo(2), headers={"Content-Digest": digest(photo(2), "sha-512")}),
        served.http.put("/api/images/c.jpg", content=photo(3), headers={"Content-Digest": "unixsum=30637, x"}),
        served.http.put("/api/images/c.jpg", content=photo(3), headers={"Content-Digest": ""}),
        post(served, ("folder", "x"), ("file", photo(4), digest(photo(4)), digest(photo(4), "sha-512"))),
        post(served, ("file", photo(5)), headers={"Content-Digest": digest(form(("file", photo(5))))}),
    ]
    for answer, seed in zip(answers, (1, 2, 3, 3, 4, 5), strict=True):
        assert answer.status_code == 202, answer.text
        assert answer.json()["data"]["sha256"] == hashlib.sha256(photo(seed)).hexdigest()
    # RFC 9530: that of an answer is of the answer.
    assert [answer.headers.get("content-digest") for answer in answers] == [
        *(digest(answer.content) for answer in answers[:4]),
        None,
        digest(answers[5].content),
    ]


def test_other_bytes_than_their_digest_says_leave_nothing_behind(served: Served) -> None:
    wrong = {"Content-Digest": digest(photo(9))}
    half = {"Content-Digest": f"{digest(photo(1))}, {digest(photo(2), 'sha-512')}"}
    good, bad = ("file", photo(1), digest(photo(1))), ("file", photo(2), digest(photo(9)))
    answers = [
        served.http.post("/api/images", params={"folder": "a/b"}, content=photo(1), headers=wrong),
        served.http.put("/api/images/a.jpg", content=photo(1), headers=half),
        post(served, good, ("folder", "x/y"), bad),
        post(served, good, headers=wrong),
    ]
    for answer in answers:
        assert "send it again" in refused(served, answer, "digest_mismatch")
        assert nothing_is_left(served)


@pytest.mark.parametrize(
    "field",
    [
        *("sha-256", "sha-256=abc", "sha-256=:%%:", "sha-256=:AAAA:", "SHA-256=:AAAA:", "=", ",,", 'x="a'),
        *("sha-256=12", f"sha-256=:{'A' * 43}:", f"{digest(b'')};", f"{digest(b'')} x"),
    ],
)
def test_a_malformed_digest_is_refused(served: Served, field: str) -> None:
    answer = served.http.post("/api/images", content=photo(), headers={"Content-Digest": field})
    assert "malformed" in refused(served, answer, "bad_digest")
    refused(served, post(served, ("file", photo(), field)), "bad_digest")
    assert nothing_is_left(served)
