"""Opens a picture by Pillow as the one format that it is, and tells how it must be turned."""

import importlib
from typing import BinaryIO

from PIL import Image

from daemon.develop import Limits
from daemon.develop.formats import (
    AVIF,
    BMP,
    GIF,
    HEIC,
    HEIF,
    J2K,
    JP2,
    JPEG,
    PNG,
    TIFF,
    WEBP,
    Format,
)
from daemon.errors import Rejected

# Pillow's name of each format and the one module that knows it: by itself Pillow would import all 47.
_PLUGINS = {
    JPEG: ("JPEG", "PIL.JpegImagePlugin"),
    PNG: ("PNG", "PIL.PngImagePlugin"),
    WEBP: ("WEBP", "PIL.WebPImagePlugin"),
    TIFF: ("TIFF", "PIL.TiffImagePlugin"),
    GIF: ("GIF", "PIL.GifImagePlugin"),
    BMP: ("BMP", "PIL.BmpImagePlugin"),
    AVIF: ("AVIF", "PIL.AvifImagePlugin"),
    JP2: ("JPEG2000", "PIL.Jpeg2KImagePlugin"),
    J2K: ("JPEG2000", "PIL.Jpeg2KImagePlugin"),
    HEIC: ("HEIF", "pillow_heif"),
    HEIF: ("HEIF", "pillow_heif"),
}
_ORIENTATION = 0x0112


def open_picture(file: BinaryIO, kind: Format) -> Image.Image:
    """Return the picture opened but not decoded; whoever calls checks its pixels first."""
    # One limit, ours, holds for every format; Pillow's own would refuse at 179 million pixels.
    Image.MAX_IMAGE_PIXELS = None
    name, module = _PLUGINS[kind]
    plugin = importlib.import_module(module)
    if name == "HEIF":
        # The image itself and nothing else: an embedded thumbnail would hide that the rest is damaged.
        plugin.options.THUMBNAILS = plugin.options.DEPTH_IMAGES = plugin.options.AUX_IMAGES = False
        Image.register_open(name, plugin.HeifImageFile)
    # Without `formats` a file may choose its decoder, and EPS would start Ghostscript.
    return Image.open(file, formats=[name])


def check_pixels(size: tuple[int, int], limits: Limits) -> None:
    """Raise Rejected for more pixels than the limit; a few bytes can claim billions of them."""
    pixels = size[0] * size[1]
    if pixels > limits.megapixels * 1_000_000:
        raise Rejected(
            f"{size[0]} by {size[1]} pixels are {pixels / 1e6:.0f} megapixels, "
            f"more than the limit of {limits.megapixels}"
        )


def orientation_of(picture: Image.Image, raw_size: tuple[int, int] | None = None) -> int:
    """Return what a loaded picture needs to be upright (EXIF 1 to 8), 1 for nothing.

    `raw_size` is that of the RAW file which the picture is a preview of, upright.
    """
    if picture.format in ("HEIF", "TIFF"):  # turned by their decoders
        return 1
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow makes of a damaged block
        return 1
    if orientation not in range(1, 9):
        return 1
    quarter = orientation in (5, 6, 7, 8)
    if raw_size and quarter and (picture.width > picture.height) == (raw_size[0] > raw_size[1]):
        return 1  # a preview that the camera has turned already
    return int(orientation)
