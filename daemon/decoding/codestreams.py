"""Decodes what Pillow refuses, or gets wrong, of JPEG and JPEG 2000: more than 8 bits a sample, odd channels.

libjpeg-turbo and OpenJPEG by imagecodecs; what the codestreams say of themselves is read here, so that the limit of
pixels is checked before anything is decoded. Sections are those of ITU-T T.81 (JPEG) and T.800 (JPEG 2000).
"""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from daemon.decoding import UnsupportedError, boxes
from daemon.errors import Truncated

_MOST_BYTES = 256 << 20
# A marker, and none of those that stand within coded data (T.81, B.1.1), and those that begin a frame.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_BASELINE, _SCAN, _END = 0xC0, 0xDA, b"\xff\xd9"
# Huffman and arithmetic; all others come in several scans or are lossless (T.81, table B.1).
_SEQUENTIAL = {0xC0, 0xC1, 0xC9}


@dataclass(frozen=True)
class Frame:
    """What a codestream says of its samples; `at` is where a JPEG's marker stands."""

    size: tuple[int, int]
    bits: int
    channels: int
    signed: bool = False
    at: int = 0


def jpeg_frame(content: bytes) -> Frame | None:
    """Return the frame's header of a JPEG (T.81, B.2.2); None where there is none before the pixels."""
    at = 2
    while marker := _MARKER.search(content, at):
        code = content[marker.end() - 1]
        if code in _FRAMES and marker.end() + 8 <= len(content):
            bits, height, width, channels = struct.unpack_from(">BHHB", content, marker.end() + 2)
            return Frame((width, height), bits, channels, at=marker.start())
        if code == _SCAN:
            return None
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return None


def is_of_one_scan(content: bytes) -> bool:
    """Return whether a JPEG's first scan is known to be its only one: of all channels at once, and not progressive.

    A decoder needs nothing behind such a one (T.81, A.2 and G.1.1).
    """
    frame = jpeg_frame(content)
    if frame is None or content[frame.at + 1] not in _SEQUENTIAL:
        return False
    at = frame.at
    while marker := _MARKER.search(content, at):
        length = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        if content[marker.end() - 1] == _SCAN:
            return marker.end() + 2 < len(content) and content[marker.end() + 2] == frame.channels
        at = marker.end() + length
    return False


def jpeg_content(file: BinaryIO) -> bytes:
    """Return the bytes of a JPEG."""
    file.seek(0)
    return file.read(_MOST_BYTES)


def jpeg(content: bytes, frame: Frame) -> Image.Image:
    """Return the picture of a JPEG of any depth, and what stands beside its pixels. Raises Truncated, Jpeg8Error."""
    import imagecodecs

    from daemon.decoding import arrays

    if frame.channels not in (1, 3):
        raise UnsupportedError(f"{frame.channels} channels of {frame.bits} bits have no decoder")
    if content.find(_END, frame.at) < 0:  # the decoder would only warn
        raise Truncated("the JPEG ends early")
    picture = arrays.picture(imagecodecs.jpeg8_decode(content), frame.bits)
    # Pillow reads what stands beside the pixels of a frame that it knows, and isn't asked for these.
    known = bytearray(content)
    known[frame.at + 1], known[frame.at + 4] = _BASELINE, 8
    with Image.open(io.BytesIO(bytes(known)), formats=["JPEG"]) as beside:
        picture.info = dict(beside.info)
    return picture


def jpeg_2000_frame(file: BinaryIO) -> Frame | None:
    """Return the header of a codestream, bare or in its box (T.800, A.5.1: SIZ); None where there is none."""
    file.seek(0)
    start = file.read(64)
    if not start.startswith(b"\xff\x4f"):
        start = (boxes.first_box(file, b"jp2c") or b"")[:64]
    if len(start) < 43 or start[2:4] != b"\xff\x51":
        return None
    right, bottom, left, top = struct.unpack_from(">4I", start, 8)
    channels, depth = struct.unpack_from(">HB", start, 40)
    return Frame((right - left, bottom - top), (depth & 0x7F) + 1, channels, signed=depth > 0x7F)


def jpeg_2000(file: BinaryIO, frame: Frame) -> Image.Image:
    """Return the picture of a JPEG 2000 of any depth. Raises Jpeg2kError on damage."""
    import imagecodecs
    import numpy as np

    from daemon.decoding import arrays

    if frame.channels == 4 and boxes.jp2_colours(file) == boxes.CMYK:
        raise UnsupportedError(f"inks of {frame.bits} bits have no decoder")
    file.seek(0)
    pixels = imagecodecs.jpeg2k_decode(file.read(), numthreads=1)
    if pixels.ndim == 3 and pixels.shape[2] > 4:
        pixels = pixels[..., :3]  # the others have no meaning that all agree on
    if frame.signed:
        pixels = (pixels.astype(np.int64) + (1 << frame.bits - 1)).astype(np.uint32)
    return arrays.picture(pixels, frame.bits)
