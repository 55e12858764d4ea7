"""A ZIP archive of photos, made while it is sent: nothing is compressed, and little is in memory at a time.

The CRC of each file stands before its bytes. Data descriptors, which would let it follow them, are what the Archive
Utility of macOS fails at where a file is stored. So each is read before it is sent: into memory, or twice where it
is large. (APPNOTE.TXT 6.3.10 has the format; Python's zipfile writes descriptors wherever it can't seek.)
"""

import os
import stat
import struct
import time
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import PurePosixPath
from typing import BinaryIO

from daemon.catalogue import ImageRow
from daemon.catalogue.search import Search
from daemon.errors import DarkroomError
from daemon.files import names
from daemon.files.atomic import Location
from daemon.files.opening import Identity, open_regular
from web.context import Context

_BATCH = 100
_BLOCK = 256 << 10
# What is no larger is read once; most photos are not.
_WHOLE = 8 << 20
# What has no place in 32 or 16 bits stands in a Zip64 extra field instead.
_MAX_32, _MAX_16 = 0xFFFFFFFF, 0xFFFF
_STORED, _UTF8, _UNIX = 0, 0x0800, 3 << 8
_VERSION, _VERSION_64 = 20, 45
# 2 January 1980 and 31 December 2107: in whatever zone, these are years that DOS knows.
_DOS_FROM, _DOS_TO = 315_619_200, 4_354_732_800
_MISSING = "_missing.txt"


@dataclass(frozen=True)
class ZipEntry:
    """One file of an archive; `size` in bytes, `mtime` in seconds since 1970."""

    name: bytes
    size: int
    crc: int
    mtime: float


class ZipWriter:
    """The parts of an archive beside the bytes of its files, which are sent as they are."""

    def __init__(self) -> None:
        self._at = 0
        self._directory: list[bytes] = []

    def begin(self, entry: ZipEntry) -> bytes:
        """Return what stands before a file's bytes, of which there have to be as many as it says."""
        self._directory.append(_directory_header(entry, self._at))
        header = _local_header(entry)
        self._at += len(header) + entry.size
        return header

    def end(self) -> bytes:
        """Return what stands behind the last file."""
        directory, entries, start = b"".join(self._directory), len(self._directory), self._at
        size, end = len(directory), b""
        if start + size >= _MAX_32 or entries >= _MAX_16:
            record = (44, _UNIX | _VERSION_64, _VERSION_64, 0, 0, entries, entries, size, start)
            end += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *record)
            end += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
        few, short = min(entries, _MAX_16), (min(size, _MAX_32), min(start, _MAX_32))
        return directory + end + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, few, few, *short, 0)


def _local_header(entry: ZipEntry) -> bytes:
    is_large, size = entry.size >= _MAX_32, min(entry.size, _MAX_32)
    extra = _times(entry) + (struct.pack("<2H2Q", 1, 16, entry.size, entry.size) if is_large else b"")
    version = _VERSION_64 if is_large else _VERSION
    fields = (version, _UTF8, _STORED, *_dos_time(entry.mtime), entry.crc, size, size, len(entry.name), len(extra))
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + entry.name + extra


def _directory_header(entry: ZipEntry, at: int) -> bytes:
    size, start = min(entry.size, _MAX_32), min(at, _MAX_32)
    large = [entry.size] * 2 * (size == _MAX_32) + [at] * (start == _MAX_32)
    extra = _times(entry) + (struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b"")
    version = _VERSION_64 if large else _VERSION
    fields = (_UNIX | version, version, _UTF8, _STORED, *_dos_time(entry.mtime), entry.crc, size, size)
    mode = (stat.S_IFREG | 0o644) << 16
    lengths = (len(entry.name), len(extra), 0, 0, 0, mode, start)
    return struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fields, *lengths) + entry.name + extra


def _dos_time(mtime: float) -> tuple[int, int]:
    """Return local time and date as DOS has them: to two seconds, from 1980 to 2107."""
    at = datetime.fromtimestamp(min(max(mtime, _DOS_FROM), _DOS_TO)).astimezone()
    return at.hour << 11 | at.minute << 5 | at.second // 2, at.year - 1980 << 9 | at.month << 5 | at.day


def _times(entry: ZipEntry) -> bytes:
    """Return the extra field of Info-ZIP that has the time in UTC, to the second."""
    seconds = int(entry.mtime // 1)
    return struct.pack("<2HBl", 0x5455, 5, 1, seconds) if -(2**31) <= seconds < 2**31 else b""


class PhotoArchive:
    """The archive of some images, and of their sidecars where they are wanted, made once.

    What is gone, not filed, or changed while it is read is left out, and named in a text at the end.
    """

    def __init__(self, context: Context, search: Search, ids: Sequence[int], *, sidecars: bool) -> None:
        self._context, self._search = context, search
        self._ids, self._with_sidecars = ids, sidecars
        self._zip = ZipWriter()
        self._names: set[str] = set()
        self._missing: list[str] = []

    def stream(self) -> Generator[bytes, None, None]:
        """Yield the archive's bytes; blocking. Raises EnvironmentFault where the database is at fault.

        To be closed where it is not read to its end: a file is open.
        """
        for start in range(0, len(self._ids), _BATCH):
            batch = self._ids[start : start + _BATCH]
            # No transaction and no connection outlives this: how fast a client reads is its own affair.
            found = {row.id: row for row in self._search.images(batch)}
            for image_id in batch:
                if image_id in found:
                    yield from self._photo(found[image_id])
                else:
                    self._missing.append(f"image {image_id}: there is no such image any more")
        if self._missing:
            text = "".join(f"{line}\n" for line in ("These are not in this archive:", *self._missing)).encode()
            yield self._zip.begin(ZipEntry(self._name(_MISSING), len(text), zlib.crc32(text), time.time()))
            yield text
        yield self._zip.end()

    def _photo(self, row: ImageRow) -> Iterator[bytes]:
        what = f"image {row.id}, {names.display(row.original_name)}"
        if row.place is None or not row.destination or row.status in {"queued", "processing"}:
            self._missing.append(f"{what}: it is {row.status}, and not filed")
            return
        inside = row.destination if row.place == "library" else f"{row.place}/{row.destination}"
        photo = self._context.roots[row.place] / row.destination
        name = self._name(inside)
        yield from self._file(photo, name, what)
        if self._with_sidecars and row.place == "library":
            beside = photo.with_name(f"{photo.name}.xmp")
            yield from self._file(beside, self._name(f"{name.decode()}.xmp"), None)

    def _file(self, file: Location, name: bytes, what: str | None) -> Iterator[bytes]:
        """Yield one file; of one that need not be there `what` is None."""
        try:
            with os.fdopen(open_regular(file), "rb", buffering=0) as opened:
                yield from self._opened(opened, name, what or f"the sidecar {name.decode()}")
        except (DarkroomError, OSError) as error:
            if what is not None:
                self._missing.append(f"{what}: {self._context.scrub(str(error))}")

    def _opened(self, opened: BinaryIO, name: bytes, what: str) -> Iterator[bytes]:
        info = os.fstat(opened.fileno())
        size, crc, content = info.st_size, 0, b""
        if size <= _WHOLE:
            content = b"".join(_blocks(opened, size))
            crc, read = zlib.crc32(content), len(content)
        else:
            crc, read = _crc(opened, size)
        if read != size or Identity.of(os.fstat(opened.fileno())) != Identity.of(info):
            self._missing.append(f"{what}: it was changed while it was read")
            return
        yield self._zip.begin(ZipEntry(name, size, crc, info.st_mtime))
        if size <= _WHOLE:
            yield from (content[at : at + _BLOCK] for at in range(0, size, _BLOCK))
        else:
            opened.seek(0)
            yield from self._again(opened, size, crc, what)

    def _again(self, opened: BinaryIO, size: int, crc: int, what: str) -> Iterator[bytes]:
        """Yield as many bytes as were announced, whatever has become of the file since."""
        sent = again = 0
        fault = ""
        try:
            for block in _blocks(opened, size):
                sent, again = sent + len(block), zlib.crc32(block, again)
                yield block
        except OSError as error:
            fault = os.strerror(error.errno or 0)
        is_whole = (sent, again) == (size, crc)
        while sent < size:
            block = bytes(min(_BLOCK, size - sent))
            sent += len(block)
            yield block
        if not is_whole:
            why = fault or "it was changed while it was sent"
            self._missing.append(f"{what}: {why}; what is in here of it is damaged")

    def _name(self, inside: str) -> bytes:
        """Return a name that no other file has, not even where letter case makes no difference."""
        path = PurePosixPath(names.display(inside).replace("\\", "_"))
        shapes = (str(names.numbered(path, number)) for number in count())
        free = next(shape for shape in shapes if names.fold(shape) not in self._names)
        self._names.add(names.fold(free))
        return free.encode("utf-8", "replace")


def _blocks(opened: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield a file's bytes, at most so many."""
    while size > 0 and (block := opened.read(min(_BLOCK, size))):
        size -= len(block)
        yield block


def _crc(opened: BinaryIO, size: int) -> tuple[int, int]:
    """Return the checksum of a file's bytes, and how many there were."""
    crc = read = 0
    for block in _blocks(opened, size):
        crc, read = zlib.crc32(block, crc), read + len(block)
    return crc, read
