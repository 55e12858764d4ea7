"""Decodes JPEG XL by imagecodecs' libjxl; its header, and what its boxes hold, are read here.

Sections are those of ISO/IEC 18181-1 (the codestream) and 18181-2 (the container). The pixel limit is checked before
anything is decoded, and the colours stand in the header alone: libjxl's plain decoder doesn't hand them out.
"""

from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from daemon.decoding import arrays, boxes
from daemon.decoding.colours import Coding, Colorants, matrix_profile
from daemon.errors import Truncated

_SIGNATURE = b"\xff\x0a"
_ENOUGH = 4096
_SRGB = Coding(1, 13)
_CUSTOM, _XYB, _GREY, _LINEAR = 2, 2, 1, 8


@dataclass(frozen=True)
class Header:
    """What a codestream says of its picture: its size as stored, EXIF's orientation, bits a sample, and its colours.

    `coding` is None where an ICC profile has them, which libjxl alone can unpack and does not hand out: then those of a
    lossy picture come in linear sRGB, and a lossless one is taken for sRGB. `profile` is made of primaries of its own.
    """

    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8
    coding: Coding | None = _SRGB
    profile: bytes | None = None
    lossy: bool = True

    @property
    def display(self) -> Coding | None:
        """What the colours that libjxl hands out are coded in."""
        return self.coding or (Coding(1, _LINEAR) if self.lossy else None)


def header(file: BinaryIO) -> Header:
    """Return the header of a file; raise Truncated where it ends before."""
    file.seek(0)
    start = file.read(_ENOUGH)
    if not start.startswith(_SIGNATURE):
        start = boxes.first_box(file, b"jxlc") or (boxes.first_box(file, b"jxlp") or b"")[4:]
    try:
        return _header(_Bits(start[len(_SIGNATURE) : _ENOUGH]))
    except IndexError:
        raise Truncated("the JPEG XL ends early") from None


def exif_block(file: BinaryIO) -> bytes | None:
    """Return the EXIF block in the container (18181-2, 9.6): behind four bytes of offset, perhaps compressed."""
    block = boxes.first_box(file, b"Exif")
    if block is None and (packed := boxes.first_box(file, b"brob")) and packed[:4] == b"Exif":
        block = bytes(imagecodecs.brotli_decode(packed[4:]))
    return block[4 + int.from_bytes(block[:4], "big") :] if block and len(block) > 4 else None


def original_jpeg(file: BinaryIO) -> bytes | None:
    """Return the JPEG that was packed into the file, byte for byte, None where the file was not made of one."""
    if boxes.first_box(file, b"jbrd") is None:
        return None
    file.seek(0)
    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(file.read(), numthreads=1))
    except imagecodecs.JpegxlError:
        return None  # then its pixels are decoded, and tell what is wrong


def read(file: BinaryIO, found: Header) -> Image.Image:
    """Return the first frame, scaled down, as it is stored; HDR is tone-mapped. Raises JpegxlError on damage."""
    file.seek(0)
    try:
        pixels = imagecodecs.jpegxl_decode(file.read(), index=0, keeporientation=True, numthreads=1)
    except imagecodecs.JpegxlError as error:
        if "NEED_MORE_INPUT" in str(error):
            raise Truncated("the JPEG XL ends early") from error
        raise
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    # 10 bits are handed out in 16.
    bits = found.bits if pixels.dtype.kind == "u" and found.bits < pixels.dtype.itemsize * 8 else None
    return arrays.picture(np.ascontiguousarray(pixels), bits, found.coding)


class _Bits:
    """Reads numbers from the least significant bit on (18181-1, B.2)."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, count: int) -> int:
        number = 0
        for shift in range(count):
            number |= (self._content[self._at >> 3] >> (self._at & 7) & 1) << shift
            self._at += 1
        return number

    def flag(self) -> bool:
        return self.take(1) == 1

    def one_of(self, *choices: tuple[int, int]) -> int:
        """Return U32: two bits choose an offset, and how many bits are added to it."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def enum(self) -> int:
        return self.one_of((0, 0), (1, 0), (2, 4), (18, 6))


def _header(bits: _Bits) -> Header:
    """Return SizeHeader and ImageMetadata (18181-1, D.2 and D.3)."""
    size = _size(bits)
    if bits.flag():  # all of the rest is as usual
        return Header(size)
    orientation = 1
    if bits.flag():
        orientation = 1 + bits.take(3)
        if bits.flag():
            _size(bits)
        if bits.flag():
            _preview(bits)
        if bits.flag():
            _animation(bits)
    depth = _depth(bits)
    bits.flag()  # whether 16 bits are enough to decode it
    for _ in range(bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
        _extra_channel(bits)
    lossy = bits.flag()
    coding, profile = _colours(bits)
    return Header(size, orientation, depth, coding, profile, lossy)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.flag()

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.one_of((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
    chosen = bits.take(3)
    width = height * ratio[chosen - 1][0] // ratio[chosen - 1][1] if chosen else side()
    return width, height


def _preview(bits: _Bits) -> None:
    eights = bits.flag()
    sides = ((16, 0), (32, 0), (1, 5), (33, 9)) if eights else ((1, 6), (65, 8), (321, 10), (1345, 12))
    bits.one_of(*sides)
    if bits.take(3) == 0:
        bits.one_of(*sides)


def _animation(bits: _Bits) -> None:
    bits.one_of((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.one_of((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.one_of((0, 0), (0, 3), (0, 16), (0, 32))
    bits.flag()


def _depth(bits: _Bits) -> int:
    if not bits.flag():
        return bits.one_of((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.one_of((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)
    return depth


def _extra_channel(bits: _Bits) -> None:
    if bits.flag():  # plain transparency
        return
    kind = bits.enum()
    _depth(bits)
    bits.one_of((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.one_of((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)
    if kind == 0:
        bits.flag()
    elif kind == 2:
        bits.take(64)
    elif kind == 5:
        bits.one_of((1, 0), (0, 2), (3, 4), (19, 8))


def _colours(bits: _Bits) -> tuple[Coding | None, bytes | None]:
    """Return the ColourEncoding (18181-1, D.3.5): H.273's numbers, or a profile of its own primaries; else neither."""
    if bits.flag():
        return _SRGB, None
    packed, space = bits.flag(), bits.enum()
    if packed or space == _XYB:
        return None, None
    white = bits.enum()
    neutral = _chromaticity(bits) if white == _CUSTOM else _D65
    primaries = 1 if space == _GREY else bits.enum()
    own = [_chromaticity(bits) for _ in range(3)] if primaries == _CUSTOM else None
    gamma, transfer = None, 13
    if bits.flag():
        gamma = 1e7 / max(1, bits.take(24))
    else:
        transfer = bits.enum()
    if own is None and gamma is None:
        return Coding(_P3.get(primaries, primaries), transfer), None
    return Coding(2, transfer), matrix_profile(_colorants(own or _BT709, neutral), gamma)


def _colorants(primaries: list[tuple[float, float]], white: tuple[float, float]) -> Colorants:
    """Return red, green and blue in XYZ, adapted to D50 by Bradford's transform (ICC.1, annex E)."""
    columns = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in primaries]).T
    neutral = np.array([white[0] / white[1], 1.0, (1 - white[0] - white[1]) / white[1]])
    columns = columns * np.linalg.solve(columns, neutral)
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ neutral))
    adapted = np.linalg.solve(_BRADFORD, cones @ _BRADFORD @ columns).T.tolist()
    return tuple((x, y, z) for x, y, z in adapted)


_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50, _D65 = np.array([0.9642, 1.0, 0.8249]), (0.3127, 0.3290)
_BT709 = [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)]
_P3 = {11: 12}
"""P3's primaries have a number of their own here, whatever the white."""


def _chromaticity(bits: _Bits) -> tuple[float, float]:
    """Return x and y, in millionths and with the sign in the lowest bit."""

    def one() -> float:
        packed = bits.one_of((0, 19), (524288, 19), (1048576, 20), (2097152, 21))
        return (-(packed + 1) // 2 if packed & 1 else packed // 2) / 1e6

    x, y = one(), one()
    return x, y or 1.0
