"""Makes pictures of the arrays that decoders other than Pillow hand out: of any depth, scaled down, in 8 bits.

numpy is imported with this module, so who needs it imports it late.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daemon.decoding import UnsupportedError, colorimetry
from daemon.decoding.colorimetry import Floats
from daemon.decoding.colours import Coding

_ENOUGH = 1600
"""Pictures are not scaled down below this many pixels on the longer side: thumbnails are made of the result."""
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}


def factor(size: tuple[int, int]) -> int:
    """Return by what whole number a picture of this size may be scaled down."""
    return max(1, max(size) // _ENOUGH)


def picture(pixels: NDArray[Any], bits: int | None = None, coding: Coding | None = None) -> Image.Image:
    """Return rows of pixels with 1 to 4 channels (L, LA, RGB, RGBA) as a picture, on white.

    `bits` are those in use where the array's own are more; floats are from 0 to 1. HDR is tone-mapped, by all its bits.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.dtype.kind not in "uf":
        raise UnsupportedError(f"an array of the shape {pixels.shape} and the type {pixels.dtype}")
    by = factor((pixels.shape[1], pixels.shape[0]))
    height, width = pixels.shape[0] // by, pixels.shape[1] // by
    squares = pixels[: height * by, : width * by].reshape(height, by, width, by, pixels.shape[2])
    most = 1.0 if pixels.dtype.kind == "f" else float((1 << (bits or pixels.dtype.itemsize * 8)) - 1)
    values = squares.mean((1, 3), np.float32) / np.float32(most)
    channels = 1 if pixels.shape[2] < 3 else 3
    colours, alpha = values[..., :channels], values[..., channels:]
    if coding is not None and coding.hdr and channels == 3:
        colours = colorimetry.from_hdr(colours, coding.primaries, coding.transfer)
    if alpha.size:
        colours = colours * alpha + 1 - alpha
    return image(colours)


def image(colours: Floats) -> Image.Image:
    """Return colours from 0 to 1 as L, RGB or, of four channels, CMYK."""
    pixels = np.round(np.clip(np.nan_to_num(colours), 0.0, 1.0) * 255).astype(np.uint8)
    return Image.frombytes(_MODES[pixels.shape[2]], (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
