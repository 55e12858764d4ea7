"""What tells that a companion ends early, of videos, sounds and texts."""

import os
import struct
from pathlib import Path

import pytest

from daemon.filing import endings


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def large(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


TYPE, DATA, INDEX = box(b"ftyp", b"qt  \0\0\0\0"), box(b"mdat", bytes(200)), box(b"moov", bytes(90))
SOUND = b"RIFF" + struct.pack("<I", 4 + 100) + b"WAVE" + bytes(100)
XML = b'<?xml version="1.0"?>\n<plist><dict/></plist>\n'


def missing(tmp_path: Path, name: str, content: bytes) -> str | None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with file.open("rb") as opened:
        return endings.missing(opened.fileno(), name, os.fstat(opened.fileno()).st_size)


WHOLE = [
    ("a.MOV", TYPE + DATA + INDEX),
    ("a.mp4", TYPE + INDEX + DATA),
    ("a.MP~2", TYPE + large(b"mdat", bytes(200)) + INDEX),
    ("a.mov", box(b"wide", b"") + DATA + INDEX),
    ("a.mov", TYPE + INDEX + struct.pack(">I4s", 0, b"mdat") + bytes(200)),
    ("a.mov", TYPE + DATA + INDEX + bytes(3)),
    ("a.mov", TYPE + DATA + INDEX + bytes(40)),
    ("a.wav", SOUND),
    ("a.xmp", XML + b" " * 2000),
    ("a.xmp", XML.decode().encode("utf-16")),
    ("a.aae", b"\xef\xbb\xbf" + XML),
    ("a.jpg.json", b'{"title": "a.jpg"}\n'),
]
OTHER = [
    ("a.mov", b"\xff\xd8\xff a photo by another name"),
    ("a.mp4", b"what is no video at all"),
    ("a.wav", b"what is no sound at all"),
    ("a.aae", b"bplist00 binary"),
    ("a.json", b"what is no JSON"),
    ("a.pp3", b"[Version]\nAppVersion="),
    ("a.jpg", b"\xff\xd8\xff"),
]


@pytest.mark.parametrize(("name", "content"), [*WHOLE, *OTHER])
def test_what_is_whole_or_unknown_is_waited_for_by_nobody(tmp_path: Path, name: str, content: bytes) -> None:
    assert missing(tmp_path, name, content) is None


CUT = [*WHOLE[:4], ("a.mov", TYPE + INDEX + DATA), ("a.wav", SOUND), ("a.json", b'{"title": "a.jpg", "url": "x"}')]


@pytest.mark.parametrize(("name", "content"), CUT)
def test_a_half_is_told_wherever_it_was_cut_off(tmp_path: Path, name: str, content: bytes) -> None:
    # Behind a box's end, and up to the next one's kind, nothing shows that there was more.
    unseen = range(len(TYPE + INDEX), len(TYPE + INDEX) + 8)
    told = {at: missing(tmp_path, name, content[:at]) for at in range(8, len(content)) if at not in unseen}
    assert [at for at, what in told.items() if what is None or "early" not in what] == []


def test_a_half_text_is_told_where_a_tag_is_left_open(tmp_path: Path) -> None:
    for half in (XML[:-3], XML[: XML.index(b"<dict")], XML[:30], XML.decode().encode("utf-16")[:-8]):
        assert missing(tmp_path, "a.xmp", half) == "its text ends early", half


def test_boxes_without_end_cost_nothing(tmp_path: Path) -> None:
    assert missing(tmp_path, "a.mov", TYPE + box(b"free", b"") * 50_000) == "the video ends early, before its index"
