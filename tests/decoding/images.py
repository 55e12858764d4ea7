"""Pictures, colour profiles and RAW files that the tests make for themselves."""

import io
import random
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pillow_heif
from PIL import Image

from daemon.decoding import Decoded, Limits
from daemon.decoding.decode import decode as decode_open
from daemon.files.opening import unchanged

pillow_heif.register_heif_opener()


def decode(path: Path, limits: Limits | None = None) -> Decoded:
    """Decode a file as the sandbox does, but in this process."""
    with unchanged(path) as (file, _):
        return decode_open(file, limits or Limits())


RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 200, 20), (20, 20, 220), (220, 220, 20)
CORNERS = (RED, GREEN, BLUE, YELLOW)
"""The colours of `photo`: top left, top right, bottom left, bottom right."""


def photo(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Four quarters in four colours: turned or mirrored in any way, it tells which."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image.convert(mode)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quarters, as in `CORNERS`."""
    rgb = image.convert("RGB")
    xs, ys = (rgb.width // 4, rgb.width * 3 // 4), (rgb.height // 4, rgb.height * 3 // 4)
    found = [rgb.getpixel((x, y)) for y in ys for x in xs]
    return [pixel for pixel in found if isinstance(pixel, tuple)]


def near(found: Iterable[tuple[int, ...]], wanted: Iterable[tuple[int, ...]], within: int = 24) -> bool:
    return all(abs(a - b) <= within for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True))


def swapped_profile() -> bytes:
    """An ICC profile (v2, matrix and curves) in which red means green and green means red."""
    srgb = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}
    columns = {"r": srgb["g"], "g": srgb["r"], "b": srgb["b"]}

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {f"{name}XYZ".encode(): xyz(values) for name, values in columns.items()}
    tags |= {f"{name}TRC".encode(): b"curv\0\0\0\0" + struct.pack(">IH", 1, 563) + b"\0\0" for name in "rgb"}
    tags |= {
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"swap\0" + bytes(78),
    }
    tags |= {b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def tiff_bytes(*directories: Mapping[int, tuple[str, Any]], blobs: bytes = b"", magic: bytes = b"II*\0") -> bytes:
    """A little-endian TIFF: `blobs` at offset 8, then the directories, chained; tags are (type, values)."""
    kinds = {"B": 1, "s": 2, "H": 3, "I": 4, "R": 5, "U": 7, "r": 10}
    body = bytearray(magic + bytes(4) + blobs)
    link = 4
    for tags in directories:
        body += bytes(len(body) % 2)
        body[link : link + 4] = struct.pack("<I", len(body))
        at = len(body) + 2
        link = at + 12 * len(tags)
        body += struct.pack("<H", len(tags)) + bytes(12 * len(tags) + 4)
        for number, (kind, values) in sorted(tags.items()):
            if kind == "s":
                data, count = values + b"\0", len(values) + 1
            elif kind in "RrU":
                letter = {"R": "I", "r": "i", "U": "B"}[kind]
                data = struct.pack(f"<{len(values)}{letter}", *values)
                count = len(values) // (1 if kind == "U" else 2)
            else:
                data, count = struct.pack(f"<{len(values)}{kind}", *values), len(values)
            if len(data) > 4:
                place = struct.pack("<I", len(body))
                body += data + bytes(len(data) % 2)
            else:
                place = data.ljust(4, b"\0")
            body[at : at + 12] = struct.pack("<HHI", number, kinds[kind], count) + place
            at += 12
    return bytes(body)


def exif_block(tags: Mapping[int, tuple[str, Any]]) -> bytes:
    """EXIF as image files carry it, all tags in the first directory."""
    return b"Exif\0\0" + tiff_bytes(tags)


def dng(path: Path, preview: bytes | None = None, orientation: int = 1, width: int = 64, height: int = 48) -> Path:
    """A DNG file with a bare sensor, left half bright, and a JPEG preview if there is to be one."""
    row = struct.pack(f"<{width}H", *[60000 if x < width // 2 else 1000 for x in range(width)])
    sensor = row * height
    tags = {
        0xFE: ("I", (0,)), 0x100: ("I", (width,)), 0x101: ("I", (height,)), 0x102: ("H", (16,)), 0x103: ("H", (1,)),
        0x106: ("H", (32803,)), 0x10F: ("s", b"Darkroom"), 0x110: ("s", b"Test 1"), 0x111: ("I", (8,)),
        0x112: ("H", (orientation,)), 0x115: ("H", (1,)), 0x116: ("I", (height,)), 0x117: ("I", (len(sensor),)),
        0x828D: ("H", (2, 2)), 0x828E: ("B", (0, 1, 1, 2)), 0xC612: ("B", (1, 4, 0, 0)),
        0xC614: ("s", b"Darkroom Test 1"),
        0xC621: ("r", (10000, 10000, 0, 1, 0, 1, 0, 1, 10000, 10000, 0, 1, 0, 1, 0, 1, 10000, 10000)),
    }  # fmt: skip
    if preview is None:
        path.write_bytes(tiff_bytes(tags, blobs=sensor))
        return path
    with Image.open(io.BytesIO(preview)) as image:
        size = image.size
    small = {
        0xFE: ("I", (1,)), 0x100: ("I", (size[0],)), 0x101: ("I", (size[1],)), 0x102: ("H", (8, 8, 8)),
        0x103: ("H", (7,)), 0x106: ("H", (6,)), 0x111: ("I", (8 + len(sensor),)), 0x115: ("H", (3,)),
        0x116: ("I", (size[1],)), 0x117: ("I", (len(preview),)),
    }  # fmt: skip
    path.write_bytes(tiff_bytes(tags, small, blobs=sensor + preview))
    return path


WRITERS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 92},
    "PNG": {},
    "WEBP": {"quality": 92},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
    "BMP": {},
    "AVIF": {"quality": 85},
    "HEIF": {"quality": 85},
    "JPEG2000": {},
}


def image_bytes(name: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, name, **cast("Any", WRITERS[name] | options))
    return buffer.getvalue()


def noise(width: int = 300, height: int = 200) -> Image.Image:
    """What compresses badly: a file long enough to be cut in many places."""
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))
