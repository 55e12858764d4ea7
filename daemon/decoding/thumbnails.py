"""Makes the small and the medium thumbnail: upright JPEG in sRGB, on white, without any metadata."""

import io
import math
from dataclasses import dataclass

from PIL import Image

from daemon.decoding.colours import Coding, to_srgb

SMALL, MEDIUM = 200, 800
_QUALITY = 80
# How much larger a picture is, at least, that BICUBIC scales well.
_AMPLE = 1.2
# The mean colour: how far from grey it is none, and how many hues are told apart.
_GREY, _HUES = 5.0, 7
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_DEEP = {"I", "I;16", "I;16L", "I;16B", "I;16N", "F"}


def fit(size: tuple[int, int], box: int) -> tuple[int, int]:
    """Return the largest size of the same aspect within a square of `box` pixels, never an enlarged one."""
    scale = min(1.0, box / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def load(picture: Image.Image) -> None:
    """Decode an opened picture in full, at the size that thumbnails need where its decoder can scale.

    Raises whatever Pillow raises on broken data.
    """
    draft(picture)
    picture.load()


def draft(picture: Image.Image) -> None:
    """Have a JPEG decoded at the scale that thumbnails need, half of it, a quarter or an eighth.

    One that would come out barely larger than that, at half its size, comes in full: it takes no longer than a photo of
    a camera, and would lose 1.5 dB.
    """
    if picture.format in ("JPEG", "MPO") and max(picture.size) > 2 * _AMPLE * MEDIUM:
        # The decoder takes the smaller scale of both axes, so a square box would undo it. Others have no
        # scaling of their own, or would hand out an embedded thumbnail without a look at the image itself.
        picture.draft(None, fit(picture.size, MEDIUM))


@dataclass(frozen=True)
class Thumbnails:
    """The small and the medium one, and the class of the picture's mean colour; without a picture there are none."""

    small: bytes = b""
    medium: bytes = b""
    colour: int | None = None


def make(
    picture: Image.Image, orientation: int, profile: bytes | None = None, coding: Coding | None = None
) -> Thumbnails:
    """Return the thumbnails of a loaded picture, turned as EXIF's `orientation` says.

    `profile` and `coding` say what its colours are where no profile came with it.
    """
    own = picture.info.get("icc_profile")
    medium = _flat(_scaled(_eight_bits(picture), fit(picture.size, MEDIUM)))
    medium = to_srgb(medium, own if isinstance(own, bytes) and own else profile, coding)
    if orientation in _UPRIGHT:
        medium = medium.transpose(_UPRIGHT[orientation])
    small = _scaled(medium, fit(medium.size, SMALL), gap=2.0)
    return Thumbnails(_jpeg(small), _jpeg(medium), colour(small))


def colour(image: Image.Image) -> int:
    """Return the class of the mean colour of an RGB picture, 0 to 63: eight times its lightness, and its tone.

    Both are 0 to 7; the tone 0 is grey, the others are the seven hues of `web/static/colours.css`, red first. By their
    channels, four steps each, the muted means of photographs would come out in strange hues.
    """
    luma, blue, red = image.convert("YCbCr").resize((1, 1), Image.Resampling.BOX).tobytes()
    blue, red = blue - 128, red - 128
    angle = math.atan2(-blue, red) % math.tau
    tone = 0 if math.hypot(blue, red) < _GREY else 1 + round(angle / math.tau * _HUES) % _HUES
    return luma // 32 * 8 + tone


def _scaled(image: Image.Image, size: tuple[int, int], gap: float = 3.0) -> Image.Image:
    """Return the image in this size; what is larger by more than `gap` is first made smaller by whole factors.

    Against LANCZOS of the picture in full size, BICUBIC costs 0.4 dB in place of LANCZOS and takes two thirds of its
    time, while the decoder has left it some pixels to choose from; else, what the decoder's own scaling has made coarse
    shows, and it is 0.6 dB (`tests/benchmarks/quality.py`).
    """
    if image.size == size:
        return image
    ample = max(image.size) >= _AMPLE * max(size)
    return image.resize(size, Image.Resampling.BICUBIC if ample else Image.Resampling.LANCZOS, reducing_gap=gap)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image in a mode of 8 bits a channel that can be resampled."""
    if image.mode in _DEEP:
        return _shallow(image)
    transparent = "transparency" in image.info
    if image.mode == "P":
        return image.convert("RGBA" if transparent else "RGB")
    if image.mode == "PA":
        return image.convert("RGBA")
    if image.mode in ("1", "L", "RGB") and transparent:
        return image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return image
    return image.convert("RGBA" if image.mode in _WITH_ALPHA else "RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """Return 16-bit, 32-bit and floating-point grey as 8 bits; Pillow's own conversion clips to white."""
    key = image.info.get("transparency")
    low, high = _extrema(image)
    if image.mode == "F" or high > 65535 or low < 0:
        # No range is agreed on for these: 0 to 1, 0 to 255, or whatever the instrument gave.
        top = 1.0 if high <= 1.0 else 255.0 if high <= 255.0 else high
        bottom = min(low, 0.0)
        scale = 255.0 / ((top - bottom) or 1.0)
        return image.convert("F").point(lambda value: value * scale - bottom * scale).convert("L")
    wide = image.convert("I")
    grey = wide.point([value >> 8 for value in range(65536)], "L")
    if isinstance(key, int):
        mask = wide.point([0 if value == key else 255 for value in range(65536)], "L")
        return Image.merge("LA", (grey, mask))
    return grey


def _extrema(image: Image.Image) -> tuple[float, float]:
    low, high = image.getextrema()
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise TypeError("not a grey image")
    return low, high


def _flat(image: Image.Image) -> Image.Image:
    """Return the image without transparency, on white."""
    if image.mode not in _WITH_ALPHA:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def _jpeg(image: Image.Image) -> bytes:
    bare = image.copy()
    bare.info = {}  # or the comment of a JPEG or GIF would go along
    output = io.BytesIO()
    bare.save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()
