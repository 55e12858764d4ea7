"""Reads the boxes of ISO media files: how HEIF and AVIF turn and colour their picture, and JPEG 2000's colours.

Pillow and libheif tell what they made of it, not what stood there. Box names are those of ISO/IEC 14496-12 and 23008-12
(HEIF), and of 15444-1, annex I (JP2). Every count is bounded; what is damaged has no properties.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.decoding.colours import Coding

_MAX_META, _MAX_BOXES = 4 << 20, 4096


@dataclass(frozen=True)
class Primary:
    """What a HEIF or AVIF says of its primary picture: whether it turns or mirrors it, its colours, and its coding.

    `codec` is the type of its item, or of the tiles that it is made of: hvc1, av01, …
    """

    turned: bool = False
    coding: Coding | None = None
    codec: str = ""


def primary(file: BinaryIO) -> Primary:
    """Return the properties of a HEIF's primary item."""
    try:
        meta = dict(_boxes(_payload(file, b"meta")[4:]))
        properties = dict(_boxes(meta[b"iprp"]))
        item = _number(meta[b"pitm"], 4, 2 if meta[b"pitm"][0] == 0 else 4)
        owned = list(_boxes(properties[b"ipco"]))
        mine = [owned[index - 1] for index in _associated(properties[b"ipma"], item) if 0 < index <= len(owned)]
        types = _types(meta[b"iinf"])
    except (KeyError, IndexError, struct.error):
        return Primary()
    codec = types.get(item, "")
    if codec in _DERIVED:  # its parts are what has to be decoded
        codec = next((one for one in types.values() if one in _CODECS), codec)
    codes = [struct.unpack_from(">HH", box, 4) for name, box in mine if name == b"colr" and box[:4] == b"nclx"]
    return Primary(
        turned=any(name in (b"irot", b"imir") for name, _ in mine),
        coding=Coding(*codes[0]) if codes else None,
        codec=codec,
    )


_DERIVED = {"grid", "iden", "iovl", "tmap"}
_CODECS = {"hvc1", "av01", "avc1", "vvc1", "jpeg", "j2k1", "unci", "lhv1", "hev1"}


def jp2_profile(file: BinaryIO) -> bytes | None:
    """Return the ICC profile of a JPEG 2000 file (`colr` by the restricted or any method); Pillow skips it."""
    for name, box in _boxes(_payload(file, b"jp2h")):
        if name == b"colr" and box[:1] in (b"\2", b"\3"):
            return box[3:]
    return None


CMYK = 12
"""Among the colour spaces that have numbers (ISO/IEC 15444-2, M.11.7.3)."""


def jp2_colours(file: BinaryIO) -> int | None:
    """Return the number of a JPEG 2000 file's colour space, None where it has none."""
    for name, box in _boxes(_payload(file, b"jp2h")):
        if name == b"colr" and box[:1] == b"\1" and len(box) >= 7:
            return int.from_bytes(box[3:7], "big")
    return None


def first_box(file: BinaryIO, wanted: bytes) -> bytes | None:
    """Return the content of the first top-level box of this name, up to 4 MiB; None where there is none."""
    return _payload(file, wanted) or None


def _payload(file: BinaryIO, wanted: bytes) -> bytes:
    at = 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length, name = struct.unpack_from(">I4s", head)
        start = 8
        if length == 1 and len(head) == 16:
            length, start = struct.unpack_from(">Q", head, 8)[0], 16
        if name == wanted:
            file.seek(at + start)
            return file.read(min(length - start, _MAX_META) if length else _MAX_META)
        if length < start:
            break
        at += length
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        length = length or len(content) - at
        if length < 8:
            return
        yield name, content[at + 8 : at + length]
        at += length


def _associated(box: bytes, item: int) -> list[int]:
    """Return the numbers of an item's properties, from 1 (`ipma`)."""
    wide, long = _number(box, 3, 1) & 1, box[0] > 0
    at = 8
    for _ in range(min(_number(box, 4, 4), _MAX_BOXES)):
        number, at = _number(box, at, 4 if long else 2), at + (4 if long else 2)
        count, at = box[at], at + 1
        size = 2 if wide else 1
        found = [_number(box, at + size * index, size) & (0x7FFF if wide else 0x7F) for index in range(count)]
        at += size * count
        if number == item:
            return found
    return []


def _types(box: bytes) -> dict[int, str]:
    """Return the type of each item by its number (`iinf`)."""
    found: dict[int, str] = {}
    for name, entry in _boxes(box[6 if box[0] == 0 else 8 :]):
        if name == b"infe" and entry[0] in (2, 3) and len(found) < _MAX_BOXES:
            size = 2 if entry[0] == 2 else 4
            found[_number(entry, 4, size)] = entry[6 + size : 10 + size].decode("latin-1")
    return found


def _number(content: bytes, at: int, size: int) -> int:
    if at + size > len(content):
        raise IndexError
    return int.from_bytes(content[at : at + size], "big")
