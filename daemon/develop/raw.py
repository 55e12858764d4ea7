"""Opens the picture in a camera's RAW file: its embedded preview, or what LibRaw makes of the sensor's data."""

import io
import os
from contextlib import suppress
from typing import BinaryIO, cast

from PIL import Image

from daemon.develop import Limits
from daemon.develop.formats import JPEG
from daemon.develop.pictures import check_pixels, open_picture

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
