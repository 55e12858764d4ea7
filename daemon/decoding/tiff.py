"""Reads the directories (IFDs) of TIFF and of the RAW formats built on it: enough to tell what a file is.

Tag numbers are those of TIFF 6.0, TIFF/EP and DNG 1.7. Every count is bounded, so hostile files cost nothing.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION = 0x00FE, 0x00FF, 0x0100, 0x0101, 0x0102, 0x0103
PHOTOMETRIC, MAKE, STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_COUNTS = 0x0106, 0x010F, 0x0111, 0x0112, 0x0115, 0x0117
PLANAR, TILE_OFFSETS, TILE_COUNTS, INK_SET, SUB_IFDS, SAMPLE_FORMAT = 0x011C, 0x0144, 0x0145, 0x014C, 0x014A, 0x0153
EXTRA_SAMPLES, DNG_VERSION = 0x0152, 0xC612

# Classic TIFF is 42, BigTIFF 43; Olympus writes "RO" or "RS" and Panasonic 0x55 in its place.
_BIG = 43
_MAGICS = {42, _BIG, 0x4F52, 0x5352, 0x55}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_ASCII = 2
# Bytes of a value of each type: of TIFF 6.0, 13 of its supplement 1, 16 to 18 of BigTIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Of all directories together half a million values: a picture of 250 megapixels in strips of one line has 50,000.
_MAX_ENTRIES, _MAX_VALUES, _MAX_DIRECTORIES, _MAX_TOTAL = 1024, 100_000, 64, 500_000
_WANTED = {SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, MAKE, STRIP_OFFSETS}
_WANTED |= {ORIENTATION, SAMPLES, STRIP_COUNTS, PLANAR, TILE_OFFSETS, TILE_COUNTS, INK_SET, SUB_IFDS, SAMPLE_FORMAT}
_WANTED |= {EXTRA_SAMPLES, DNG_VERSION}


@dataclass(frozen=True)
class Directory:
    """One IFD: where it is and ends, its tags of those named above, and whether all of it was there to be read.

    `sane` says that its entries can be entries at all: ascending, of known types. `end` is behind what it refers to.
    """

    offset: int = 0
    end: int = 0
    sane: bool = True
    numbers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    complete: bool = True

    def first(self, tag: int) -> int | None:
        """Return the first value of a whole-number tag."""
        values = self.numbers.get(tag)
        return values[0] if values else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, zeros where they are missing."""
        return self.first(WIDTH) or 0, self.first(HEIGHT) or 0

    @property
    def reduced(self) -> bool:
        """Whether it is a smaller version of another picture in the file, by either of the two tags that say so."""
        return bool((self.first(SUBFILE_TYPE) or 0) & 1) or self.first(OLD_SUBFILE_TYPE) == 2


def main_directory(file: BinaryIO) -> Directory | None:
    """Return the directory of the picture: the first, or the largest other one where the first is a reduced one."""
    found = [directory for directory in directories(file) if all(directory.size)]
    whole = [directory for directory in found if not directory.reduced]
    if found and found[0].reduced and whole:
        return max(whole, key=lambda directory: directory.size[0] * directory.size[1])
    return found[0] if found else None


def directories(file: BinaryIO) -> Iterator[Directory]:
    """Yield the first directory, then the others: the chain of pages and all sub-directories."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8 or struct.unpack_from(order + "H", head, 2)[0] not in _MAGICS:
        return
    big = struct.unpack_from(order + "H", head, 2)[0] == _BIG
    if big and len(head) < 16:
        return
    pending = [struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]]
    seen: set[int] = set()
    room = _MAX_TOTAL
    while pending and len(seen) < _MAX_DIRECTORIES and room > 0:
        offset = pending.pop(0)
        if offset == 0 or offset in seen:
            continue
        seen.add(offset)
        directory, following = _read(file, offset, order, big)
        room -= sum(map(len, directory.numbers.values()))
        yield directory
        pending += [following, *directory.numbers.get(SUB_IFDS, ())[:_MAX_DIRECTORIES]]


def _read(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[Directory, int]:
    """Return the directory at `offset` and the offset of the next one, 0 for none."""
    size, width, word = (20, 8, "Q") if big else (12, 4, "I")
    count_size = 8 if big else 2
    try:
        file.seek(offset)
    except (OSError, OverflowError, ValueError):  # an offset beyond what a file can have
        return Directory(offset, complete=False), 0
    head = file.read(count_size)
    if len(head) < count_size:
        return Directory(offset, complete=False), 0
    entries = min(struct.unpack(order + ("Q" if big else "H"), head)[0], _MAX_ENTRIES)
    table = file.read(entries * size + width)
    complete = len(table) == entries * size + width
    numbers: dict[int, tuple[int, ...]] = {}
    texts: dict[int, str] = {}
    end, sane, last = offset + count_size + len(table), entries > 0, -1
    for start in range(0, min(len(table) - size + 1, entries * size), size):
        tag, kind, count = struct.unpack_from(order + "HH" + word, table, start)
        sane, last = sane and tag >= last and kind in _SIZES, tag
        if count * _SIZES.get(kind, 0) > width:
            end = max(end, struct.unpack_from(order + word, table, start + size - width)[0] + count * _SIZES[kind])
        letter = _INTEGERS.get(kind, "s" if kind == _ASCII else "")
        if tag not in _WANTED or not letter or not 0 < count <= _MAX_VALUES:
            continue
        length = count * struct.calcsize("=" + letter)
        value = table[start + size - width : start + size]
        if length > width:
            value = _read_at(file, struct.unpack(order + word, value)[0], length)
        if len(value) < length:
            continue
        if kind == _ASCII:
            texts[tag] = value[:length].split(b"\0")[0].decode("latin-1").strip()
        else:
            numbers[tag] = struct.unpack_from(f"{order}{count}{letter}", value)
    directory = Directory(offset, end, sane, numbers, texts, complete)
    return directory, struct.unpack(order + word, table[-width:])[0] if complete else 0


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    try:
        file.seek(offset)
    except (OSError, OverflowError, ValueError):
        return b""
    return file.read(length)
