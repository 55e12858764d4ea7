"""Makes a sound copy, in memory, of a file whose picture is whole and whose wrapping is not: PNG and WebP.

Browsers, libpng and libwebp's own tools show such files; Pillow gives them up. The file itself is never changed.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from daemon.errors import FailureReason, Rejected

_BLOCK = 1 << 20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Chunk:
    """One chunk of a PNG: where its data are, and whether its checksum is right."""

    name: bytes
    offset: int
    length: int
    matches: bool

    @property
    def critical(self) -> bool:
        """Whether the picture can't be shown without it (PNG, 5.4): the first letter is a capital."""
        return not self.name[0] & 0x20


def png_chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks of a PNG up to its end."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        offset, checksum, left = file.tell(), zlib.crc32(name), length
        while left and (block := file.read(min(left, _BLOCK))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
        yield Chunk(name, offset, length, not left and file.read(4) == checksum.to_bytes(4, "big"))
        if name == b"IEND":
            return


def png_heads(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks before the pixels, without a look at their checksums."""
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return
        length, name = struct.unpack(">I4s", head)
        yield Chunk(name, at + 8, length, matches=True)
        at += 12 + length


def damaged_chunks(file: BinaryIO) -> list[str]:
    """Return the names of a whole PNG's ancillary chunks whose checksums are wrong.

    Raises Rejected where that of a critical one is. Pillow does not look at those of pixels, and refuses all others.
    """
    wrong = [chunk for chunk in png_chunks(file) if not chunk.matches]
    if critical := next((chunk for chunk in wrong if chunk.critical), None):
        message = f"a damaged PNG: the checksum of its {_shown(critical.name)} doesn't match"
        raise Rejected(message, FailureReason.DAMAGED)
    return list(dict.fromkeys(_shown(chunk.name) for chunk in wrong))


def _shown(name: bytes) -> str:
    return name.decode("latin-1") if name.isalpha() else name.hex()


# What may stand beside the pixels and belongs to them: transparency.
_KEPT = {b"tRNS"}
# Apple's own form of PNG, without zlib's header and with blue and red exchanged.
_APPLE = b"CgBI"


def is_apple_png(file: BinaryIO) -> bool:
    """Return whether a PNG is of the form that Xcode packs into apps, which Apple's own decoders alone show."""
    first = next(png_heads(file), None)
    return first is not None and first.name == _APPLE


def png(file: BinaryIO, bare: bool) -> BinaryIO:
    """Return a PNG without the ancillary chunks whose checksums are wrong; `bare`, without nearly all of them."""
    copy = io.BytesIO()
    copy.write(_PNG_SIGNATURE)
    for chunk in list(png_chunks(file)):
        if chunk.critical or (chunk.matches and (not bare or chunk.name in _KEPT)):
            file.seek(chunk.offset - 8)
            copy.write(file.read(chunk.length + 12))
    copy.seek(0)
    return copy


def webp(file: BinaryIO) -> BinaryIO:
    """Return a WebP with the right size at its start, and padded to the end of its last chunk."""
    file.seek(0)
    content = bytearray(file.read())
    at = 12
    while at + 8 <= len(content):
        end = at + 8 + struct.unpack_from("<I", content, at + 4)[0]
        if end > len(content):
            break
        at = end + end % 2
    content += bytes(max(0, at - len(content)))
    struct.pack_into("<I", content, 4, at - 8)
    return io.BytesIO(content)
