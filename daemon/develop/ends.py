"""Tells from a format's own structure whether a file ends before its image does.

Decoders call truncation by many names, or by none: a RAW file's preview and a GIF's first frame decode well
without the rest. A file that ends early may still be arriving; one that is damaged within never gets better.
"""

import os
import struct
from typing import BinaryIO

from daemon.develop import tiff
from daemon.develop.formats import (
    AVIF,
    BMP,
    CR3,
    GIF,
    HEIC,
    HEIF,
    J2K,
    JP2,
    JPEG,
    PNG,
    RAF,
    TIFF,
    WEBP,
    Format,
)

# What programs that reserve a file's whole size ahead leave at its end until the bytes arrive.
_RESERVED = 512
_BLOCK = 1 << 20


def ends_early(file: BinaryIO, kind: Format) -> bool:
    """Tell whether the file of this kind stops before its own structure says that it should.

    False where the structure itself is broken: such a file is damaged, not short.
    """
    size = file.seek(0, os.SEEK_END)
    if kind in (JPEG, J2K):
        return not _has_jpeg_end(file, size, kind)
    if kind is PNG:
        return _png(file, size)
    if kind is GIF:
        return _gif(file)
    if kind in (HEIC, HEIF, AVIF, CR3, JP2):
        return _boxes(file, size)
    if kind is WEBP:
        return _number(file, 4) + 8 > size
    if kind is BMP:
        return _number(file, 2) > size
    if kind is RAF:
        parts = struct.unpack(">6I", _at(file, 84, 24).ljust(24, b"\xff"))
        return any(parts[i] + parts[i + 1] > size for i in (0, 2, 4))
    return (kind is TIFF or kind.raw) and _directories(file, size)


def ends_in_nothing(file: BinaryIO) -> bool:
    """Tell whether the last bytes are all zero, as where a program reserved the room and is still writing."""
    size = file.seek(0, os.SEEK_END)
    return size >= 2 * _RESERVED and not any(_at(file, size - _RESERVED, _RESERVED))


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
        if len(head) < 4 or at > size:
            return False
        if head[0] != 0xFF or head[1] == 0xD9:
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
        if b"\xff\xd9" in last + block:
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


def _gif(file: BinaryIO) -> bool:
    """Walk the blocks of GIF89a. Many a GIF lacks the last byte, the trailer, and is whole all the same."""
    head = _at(file, 6, 7)
    if len(head) < 7:
        return True
    file.seek(13 + _palette(head[4]))
    while introducer := file.read(1):
        if introducer == b",":
            head = file.read(9)
            if len(head) < 9:
                return True
            file.seek(_palette(head[8]) + 1, os.SEEK_CUR)
        elif introducer == b"!":
            file.seek(1, os.SEEK_CUR)
        else:
            return False
        while True:
            length = file.read(1)
            if not length:
                return True
            if length == b"\0":
                break
            if len(file.read(length[0])) < length[0]:
                return True
    return False


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
        if length < 8 or not name.isascii():
            return False  # 0: up to the end of the file, however long; or padding, or broken
        at += length
    return at > size


_PARTS = ((tiff.STRIP_OFFSETS, tiff.STRIP_COUNTS), (tiff.TILE_OFFSETS, tiff.TILE_COUNTS))


def _directories(file: BinaryIO, size: int) -> bool:
    for directory in tiff.directories(file):
        if not directory.complete:
            return True
        for offsets, counts in _PARTS:
            parts = zip(directory.numbers.get(offsets, ()), directory.numbers.get(counts, ()), strict=False)
            if any(offset + count > size for offset, count in parts):
                return True
    return False
