"""Makes files that are meant to harm: damaged, lying, bombs and impostors; endlessly many, the same for a seed."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache

from PIL import Image

from tests.campaigns.acts import photo

Poison = tuple[str, bytes]


def coded(kind: str, seed: int = 0) -> bytes:
    """Make a sound image in one of Pillow's formats."""
    size = (64, 48)
    image = Image.frombytes("RGB", size, random.Random(seed).randbytes(64 * 48 * 3))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def _sound(rng: random.Random) -> Poison:
    kind = rng.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF"])
    suffix = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}.get(kind, kind.lower())
    return suffix, photo(rng.randrange(10**6)) if kind == "JPEG" else coded(kind, rng.randrange(10**6))


def truncated(rng: random.Random) -> Poison:
    """Cut a sound image at some per cent of its length."""
    suffix, content = _sound(rng)
    return suffix, content[: len(content) * rng.randrange(100) // 100]


def flipped(rng: random.Random) -> Poison:
    """Flip some bits, mostly in the headers."""
    suffix, content = _sound(rng)
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        damaged[rng.randrange(min(len(damaged), rng.choice([40, 400, 10**9])))] ^= 1 << rng.randrange(8)
    return suffix, bytes(damaged)


def zeroed(rng: random.Random) -> Poison:
    """Overwrite a block with zeros, as a failing card does."""
    suffix, content = _sound(rng)
    at, length = rng.randrange(len(content)), rng.choice([16, 512, 4096])
    return suffix, content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]


def wrong_length(rng: random.Random) -> Poison:
    """Let a JPEG segment or a PNG chunk lie about its length."""
    if rng.random() < 0.5:
        content = bytearray(photo(rng.randrange(10**6)))
        at = content.index(b"\xff\xe1") + 2
        content[at : at + 2] = struct.pack(">H", rng.choice([0, 1, 2, 0xFFFF, rng.randrange(0x10000)]))
        return "jpg", bytes(content)
    content = bytearray(coded("PNG", rng.randrange(10**6)))
    at = content.index(b"IDAT") - 4
    content[at : at + 4] = struct.pack(">I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(10**6)]))
    return "png", bytes(content)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


def pixel_bomb(rng: random.Random) -> Poison:
    """Claim far more pixels than there are bytes."""
    side = rng.choice([16_000, 40_000, 65_535, 2**31 - 1])
    if rng.random() < 0.3:
        return "gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + bytes(
            9
        ) + b"\x02\0;"
    return "png", _png(side, side, _chunk(b"IDAT", zlib.compress(bytes(1_000_000 + rng.randrange(1000)))))


def frame_bomb(rng: random.Random) -> Poison:
    """Hold thousands of frames."""
    frame = b",\0\0\0\0" + struct.pack("<HH", 1 + rng.randrange(999), 1000) + b"\0\x02\x02\x4c\x01\0"
    return "gif", b"GIF89a\xe8\x03\xe8\x03\x80\0\0" + bytes(6) + frame * rng.choice([100, 20_000]) + b";"


def text_bomb(rng: random.Random) -> Poison:
    """Unpack to hundreds of megabytes of text."""
    text = b"Comment\0\0" + zlib.compress(bytes(50_000_000 + rng.randrange(1000)), 1)
    return "png", _png(8, 8, *[_chunk(b"zTXt", text)] * rng.choice([1, 8]), _chunk(b"IDAT", zlib.compress(bytes(200))))


def exif_maze(rng: random.Random) -> Poison:
    """Carry EXIF directories that lead back to themselves, or tags of absurd counts."""
    kind = rng.choice(["loop", "count", "offset", "many"])
    entry = {
        "loop": struct.pack("<HHII", 0x8769, 4, 1, 8),
        "count": struct.pack("<HHII", 0x010F, 2, 0xFFFFFFFF, 8),
        "offset": struct.pack("<HHII", 0x010F, 5, 4, rng.randrange(2**32)),
        "many": struct.pack("<HHII", rng.randrange(2**16), rng.randrange(14), rng.randrange(2**32), 26),
    }[kind]
    times = 500 if kind == "many" else 1
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", times) + entry * times + struct.pack("<I", 8)
    sound = photo(rng.randrange(10**6))
    if rng.random() < 0.3:
        return "tif", block[6:] + rng.randbytes(rng.randrange(200))
    return "jpg", sound[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + sound[2:]


def impostor(rng: random.Random) -> Poison:
    """Be something else under an image's name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", rng.randbytes(20))
    return rng.choice(["jpg", "png", "heic", "gif"]), rng.choice(
        [
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(" + rng.randbytes(4).hex().encode() + b") run\n",
            b"%PDF-1.4\n" + rng.randbytes(100),
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>" + rng.randbytes(3),
            b"#!/bin/sh\nexit " + str(rng.randrange(99)).encode(),
            b"\x7fELF" + rng.randbytes(200),
            packed.getvalue(),
            rng.randbytes(rng.randrange(1, 3000)),
            bytes(rng.randrange(1, 5000)),
            b"",
        ]
    )


def polyglot(rng: random.Random) -> Poison:
    """Be a sound image and something else as well; or a sound image under another's suffix."""
    suffix, content = _sound(rng)
    tail = rng.choice([b"<?php system('id'); ?>", b"PK\x05\x06" + bytes(18), rng.randbytes(500), photo(1)])
    return rng.choice([suffix, "jpg", "png", "heic", "txt"]), content + rng.choice([b"", tail])


def endless(rng: random.Random) -> Poison:
    """Be a progressive JPEG of thousands of scans, each of which costs a look at the whole picture."""
    content = _progressive()
    last, end = content.rindex(b"\xff\xda"), content[-2:]
    comment = rng.randbytes(8).hex().encode()
    mark = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    return "jpg", content[:2] + mark + content[2:last] + content[last:-2] * 5000 + end


@cache
def _progressive() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(out, "JPEG", progressive=True)
    return out.getvalue()


KINDS: tuple[Callable[[random.Random], Poison], ...] = (
    truncated,
    flipped,
    zeroed,
    wrong_length,
    pixel_bomb,
    frame_bomb,
    text_bomb,
    exif_maze,
    endless,
    impostor,
    polyglot,
)


def poisons(count: int, seed: int = 1) -> Iterator[Poison]:
    """Make so many files, as suffix and bytes: every kind in turn; the bombs, which take seconds, more seldom."""
    rng = random.Random(seed)
    slow = {frame_bomb, text_bomb, pixel_bomb, endless}
    made = 0
    for turn in range(10**9):
        kind = KINDS[turn % len(KINDS)]
        if kind in slow and turn // len(KINDS) % 10:
            continue
        if made == count:
            return
        made += 1
        yield kind(rng)
