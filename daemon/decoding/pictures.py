"""Opens and decodes a picture as the one format that it is: by Pillow, of a RAW file its preview, JPEG strictly.

Pillow asks libjpeg for no more than its fatal errors. simplejpeg runs the same libjpeg-turbo at the same scale, to
the same pixels in the same time, and raises at what libjpeg only warns of. So it decodes first, and Pillow where it
can't: strictness costs nothing for a sound photo, and a second decoding for a damaged one.
"""

import importlib
import io
import os
from contextlib import suppress
from typing import BinaryIO, cast

from PIL import Image, ImageFile

from daemon.decoding import Limits, thumbnails
from daemon.decoding.formats import AVIF, BMP, GIF, HEIC, HEIF, J2K, JP2, JPEG, PNG, TIFF, WEBP, Format
from daemon.errors import FailureReason, Rejected

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
            f"more than the limit of {limits.megapixels}",
            FailureReason.TOO_LARGE,
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


_ENOUGH = 320
"""A preview whose longer side has fewer pixels is an icon: the sensor's data are tried first."""
_QUARTER_TURNS = (5, 6)  # LibRaw's flips that swap width and height


def open_raw(file: BinaryIO, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture, as if opened from a file of its own, and the RAW's size in pixels, upright.

    Raises rawpy's LibRawError for all that LibRaw can't read.
    """
    # Threads reserve address space by the number of cores, which would use up the memory limit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    import rawpy  # numpy comes along: 18 MB and 0.4 s that only RAW files should cost

    # By descriptor: LibRaw reads what it needs of it, and it is the very file that was hashed.
    with rawpy.imread(f"/dev/fd/{file.fileno()}") as raw:
        sizes = raw.sizes
        size = sizes.crop_width or sizes.width, sizes.crop_height or sizes.height
        check_pixels(size, limits)
        if sizes.flip in _QUARTER_TURNS:
            size = size[1], size[0]
        preview: Image.Image | None = None
        with suppress(rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError, OSError):
            preview = _picture(raw.extract_thumb().data)
            check_pixels(preview.size, limits)
        if preview and max(preview.size) >= min(_ENOUGH, *size):
            return preview, size
        try:
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True)), size
        except rawpy.LibRawError:
            if preview:
                return preview, size
            raise


def _picture(data: object) -> Image.Image:
    if isinstance(data, bytes):
        return open_picture(io.BytesIO(data), JPEG)
    return Image.fromarray(cast("Image.SupportsArrayInterface", data))


_COLOURS = {"RGB": "RGB", "L": "GRAY"}
# Of libjpeg's warnings (jerror.h), of which simplejpeg hands on the words alone, those about coded data. It also calls
# "extraneous bytes" what some cameras leave at the end of a sound photo: about one photo of a hundred, so the words
# stay careful.
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
_MOST_BYTES = 256 << 20


def load(picture: Image.Image) -> str | None:
    """Decode an opened picture as `thumbnails.load` does; return a warning for people where damage was swallowed."""
    swallowed = None
    if isinstance(picture, ImageFile.ImageFile) and picture.format in ("JPEG", "MPO") and picture.mode in _COLOURS:
        picture.draft(None, thumbnails.fit(picture.size, thumbnails.MEDIUM))
        swallowed = _strictly(picture)
    thumbnails.load(picture)
    return swallowed


def _strictly(picture: ImageFile.ImageFile) -> str | None:
    """Decode a JPEG, drafted to its scale, unless it is damaged; return in which way it is, None where it is not."""
    # Here, not above: it brings numpy along, which a worker without JPEGs does not need.
    import simplejpeg  # type: ignore[import-untyped]

    if picture.fp is None:
        return None
    picture.fp.seek(0)
    content = picture.fp.read(_MOST_BYTES)
    width, height = picture.size
    try:
        pixels = simplejpeg.decode_jpeg(content, _COLOURS[picture.mode], min_height=height, min_width=width)
    except ValueError as error:
        if str(error).startswith(_DAMAGE):
            return f"its image data may be damaged: {str(error).partition(': ')[2] or error}"
        return None  # of a kind that simplejpeg does not know
    if pixels.shape[:2] == (height, width):
        # What Pillow's own `load` does when its decoder is done.
        picture.im = Image.frombuffer(picture.mode, picture.size, pixels, "raw", picture.mode, 0, 1).im
        picture.tile = []
    return None
