"""Finds in a format's own structure whether a file ends before its image does.

Decoders call truncation by many names, or by none: a RAW file's preview and a GIF's first frame decode well
without the rest, and zeros decode as grey. A file that ends early may still be arriving; one that is damaged
within never gets better.
"""

import os
import struct
from typing import BinaryIO

from daemon.decoding import tiff
from daemon.decoding.formats import (
    AVIF,
    BMP,
    CR3,
    CRW,
    GIF,
    HEIC,
    HEIF,
    J2K,
    JP2,
    JPEG,
    JXL,
    MRW,
    PNG,
    RAF,
    TIFF,
    WEBP,
    X3F,
    Format,
)

_PARTS = ((tiff.STRIP_OFFSETS, tiff.STRIP_COUNTS), (tiff.TILE_OFFSETS, tiff.TILE_COUNTS))
_BOXES = {
    b"JXL ",
    b"jxll",
    b"jxlc",
    b"jxlp",
    b"jbrd",
    b"brob",
    b"Exif",
    b"xml ",
    b"jumb",
    b"ftyp",
    b"meta",
    b"mdat",
    b"moov",
    b"uuid",
    b"jP  ",
    b"jp2h",
    b"jp2c",
    b"idat",
}
_PADDING = {b"free", b"skip"}
_JPEG_END = b"\xff\xd9"
# A program that reserves a file's whole size ahead leaves zeros where bytes are still to come. Compressed data
# never hold so many in a row.
_RESERVED, _FEW = 512, 16
_BLOCK = 1 << 20


def ends_early(file: BinaryIO, kind: Format, decoded: bool) -> bool:
    """Return whether the file of this kind stops before its own structure says that it should.

    `decoded` says that the decoder found no fault: then only what is proof by itself counts. False where the
    structure itself is broken: such a file is damaged, not short.
    """
    real = file.seek(0, os.SEEK_END)
    size = _written(file, real, _RESERVED if decoded else _FEW)
    if kind in (JPEG, J2K):
        return (not decoded or size < real) and not _has_jpeg_end(file, size, kind)
    if kind is PNG:
        return _png(file, size)
    if kind is GIF:
        return _gif(file, size)
    if kind in (HEIC, HEIF, AVIF, CR3, JP2):
        return _boxes(file, size)
    if kind is JXL:
        return _at(file, 0, 2) != b"\xff\x0a" and _boxes(file, size)  # a bare codestream has no structure to walk
    if kind in (CRW, MRW, X3F):
        return False
    if kind is WEBP:
        return _webp(file, size)
    if kind is BMP:
        return not decoded and _number(file, 2) > size  # black pixels are zeros too
    if kind is RAF:
        parts = struct.unpack(">6I", _at(file, 84, 24).ljust(24, b"\xff"))
        return any(parts[i] + parts[i + 1] > real for i in (0, 2, 4))
    return _directories(file, real if decoded else size, lenient=decoded and kind is TIFF)


def _written(file: BinaryIO, size: int, at_least: int) -> int:
    """Return the size without the zeros at the end, but for a few, where there are too many for an image."""
    at = size
    while at:
        start = max(0, at - _BLOCK)
        block = _at(file, start, at - start).rstrip(b"\0")
        at = start + len(block)
        if block:
            break
    return at + _FEW if size - at >= max(at_least, _FEW) else size


def _at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _number(file: BinaryIO, offset: int) -> int:
    return int.from_bytes(_at(file, offset, 4), "little")


def _has_jpeg_end(file: BinaryIO, size: int, kind: Format) -> bool:
    """Look for the end marker after the headers; coded data never contain one (ITU T.81, B.1.1.5)."""
    at = 2
    while True:
        head = _at(file, at, 4)
        if len(head) < 4 or at >= size:
            return False
        if head[0] != 0xFF or head[1] == _JPEG_END[1]:
            return True  # broken, or indeed at its end
        if head[1] == 0xFF or 0xD0 <= head[1] <= 0xD7:
            at += 1 if head[1] == 0xFF else 2
            continue
        if head[1] == (0xDA if kind is JPEG else 0x90):  # the first scan, or the first tile
            break
        at += 2 + struct.unpack(">H", head[2:])[0]
    last = b""
    file.seek(at)
    while block := file.read(_BLOCK):
        if _JPEG_END in last + block:
            return True
        last = block[-1:]
    return False


def _png(file: BinaryIO, size: int) -> bool:
    at = 8
    while at < size:
        head = _at(file, at, 8)
        if len(head) < 8:
            return True
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND" or not name.isalpha():
            return at + 12 > size
        at += 12 + length
    return True


def _webp(file: BinaryIO, size: int) -> bool:
    """Walk the chunks (RFC 9649, section 2): the size at the start is often off by one, or was never filled in.

    It is believed where the file promises more than there is: metadata, or an animation's frames, however many.
    """
    at, seen, promised = 12, set[bytes](), set[bytes]()
    while at + 8 <= size:
        name, length = struct.unpack("<4sI", _at(file, at, 8))
        if name == b"VP8X":
            flags = _at(file, at + 8, 1)[0]
            promised = {one for bit, one in _WEBP_PROMISES.items() if flags & bit}
        seen.add(name)
        at += 8 + length
        if at > size:
            return True
        at += length % 2  # the last chunk's padding is often left out
    more = _number(file, 4) + 8 > size + 1
    if more and (b"ANMF" in promised or not promised <= seen):
        return True
    return not seen & {b"VP8 ", b"VP8L", b"ANMF"}


_WEBP_PROMISES = {0x20: b"ICCP", 0x08: b"EXIF", 0x04: b"XMP ", 0x02: b"ANMF"}


def _gif(file: BinaryIO, size: int) -> bool:
    """Walk the blocks of GIF89a. Many a GIF lacks the last byte, the trailer, and is whole all the same."""
    head = _at(file, 6, 7)
    frames = 0
    file.seek(13 + _palette(head[4] if len(head) == 7 else 0))
    while introducer := file.read(1):
        if introducer == b",":
            frames += 1
            head = file.read(9)
            file.seek((_palette(head[8]) if len(head) == 9 else 0) + 1, os.SEEK_CUR)
        elif introducer == b"!":
            file.seek(1, os.SEEK_CUR)
        else:
            break
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], os.SEEK_CUR)
        else:
            return True
    return frames == 0 or file.tell() > size


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _boxes(file: BinaryIO, size: int) -> bool:
    at = 0
    while at < size:
        head = _at(file, at, 16)
        if len(head) < 8:
            return True
        length, name = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if name in _PADDING and length >= 8:
            at = min(at + length, size)
            continue
        if name not in _BOXES:
            return False  # what some phones append, or padding, or broken
        if length < 8:  # up to the end of the file, however long that is to be
            return name == b"jp2c" and _at(file, size - 2, 2) != _JPEG_END
        at += length
    return at > size


def _directories(file: BinaryIO, size: int, lenient: bool) -> bool:
    """Look for directories and pixels beyond the end.

    `lenient` forgives a last strip that claims too much, and behind the first directory a stray number in place of
    the next one's offset: a file that was cut ends elsewhere than all that the directories before it refer to.
    """
    if size < 8:
        return True
    known = 0
    for directory in tiff.directories(file):
        missing = not directory.complete or directory.offset >= size
        if lenient and known and (not directory.sane or missing):
            return (directory.sane or directory.offset >= size) and abs(size - known) > _FEW
        if missing:
            return True
        known = max(known, directory.end)
        for offsets, counts in _PARTS:
            parts = list(zip(directory.numbers.get(offsets, ()), directory.numbers.get(counts, ()), strict=False))
            if any(count and offset + (1 if lenient else count) > size for offset, count in parts):
                return True
            known = max([known, *(offset + count for offset, count in parts)])
    return False
