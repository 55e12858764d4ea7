"""Makes a small image of every format, for the doctor to try the decoders on."""

import io
import struct
from collections.abc import Callable

_SIZE = (64, 48)


def samples() -> dict[str, Callable[[], bytes]]:
    """Give what makes a test image of each format, by the name that `develop` gives the format."""
    pillow = {"JPEG": "JPEG", "PNG": "PNG", "WebP": "WEBP", "TIFF": "TIFF", "GIF": "GIF", "BMP": "BMP"}
    pillow |= {"AVIF": "AVIF", "JPEG 2000": "JPEG2000"}
    makers: dict[str, Callable[[], bytes]] = {
        name: lambda encoder=encoder: _encoded(encoder)  # type: ignore[misc]
        for name, encoder in pillow.items()
    }
    return makers | {"HEIC": _heic, "DNG": _dng}


def _encoded(encoder: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.linear_gradient("L").resize(_SIZE).convert("RGB").save(out, encoder)
    return out.getvalue()


def _heic() -> bytes:
    import pillow_heif
    from PIL import Image

    out = io.BytesIO()
    pillow_heif.from_pillow(Image.linear_gradient("L").resize(_SIZE).convert("RGB")).save(out)
    return out.getvalue()


def _dng() -> bytes:
    """Make the least that LibRaw takes for a camera's file: one bare sensor (tag numbers of DNG 1.7)."""
    width, height = _SIZE
    sensor = struct.pack(f"<{width}H", *range(0, width * 1000, 1000)) * height
    one, data = struct.pack("<H", 1), b""
    identity = struct.pack("<18i", *(value for row in range(3) for column in range(3) for value in (row == column, 1)))
    tags: list[tuple[int, str, bytes]] = [
        (0xFE, "I", struct.pack("<I", 0)),
        (0x100, "I", struct.pack("<I", width)),
        (0x101, "I", struct.pack("<I", height)),
        (0x102, "H", struct.pack("<H", 16)),
        (0x103, "H", one),
        (0x106, "H", struct.pack("<H", 32803)),
        (0x10F, "s", b"Darkroom\0"),
        (0x110, "s", b"Doctor\0"),
        (0x111, "I", struct.pack("<I", 8)),
        (0x115, "H", one),
        (0x116, "I", struct.pack("<I", height)),
        (0x117, "I", struct.pack("<I", len(sensor))),
        (0x828D, "H", struct.pack("<2H", 2, 2)),
        (0x828E, "B", bytes((0, 1, 1, 2))),
        (0xC612, "B", bytes((1, 4, 0, 0))),
        (0xC614, "s", b"Darkroom Doctor\0"),
        (0xC621, "r", identity),
    ]
    kinds = {"B": (1, 1), "s": (2, 1), "H": (3, 2), "I": (4, 4), "r": (10, 8)}
    start = 8 + len(sensor)
    rest = start + 2 + 12 * len(tags) + 4
    directory = struct.pack("<H", len(tags))
    for number, kind, value in tags:
        code, size = kinds[kind]
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack("<I", rest + len(data))
            data += value + bytes(len(value) % 2)
        directory += struct.pack("<HHI", number, code, len(value) // size) + place
    return b"II*\0" + struct.pack("<I", start) + sensor + directory + bytes(4) + data
