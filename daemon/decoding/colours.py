"""Brings a picture into sRGB, by whatever says what its numbers mean: ICC profile, EXIF, code points, or nothing."""

import io
import struct
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageCms

from daemon.decoding import Exif

# What a profile's colour space must meet in Pillow's modes (ICC.1, 7.2.6).
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


Colorants = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Coding:
    """How RGB is coded: primaries and transfer as ITU-T H.273 numbers them; 2 is unknown, and taken for sRGB's."""

    primaries: int = 2
    transfer: int = 2

    @property
    def hdr(self) -> bool:
        """Whether the numbers are of light far brighter than paper: PQ or HLG."""
        return self.transfer in (_PQ, _HLG)


_LINEAR, _GAMMA_22, _GAMMA_28, _PQ, _HLG = 8, 4, 5, 16, 18
_BT2020, _DCI_P3, _DISPLAY_P3 = 9, 11, 12
# Red, green and blue of each, in XYZ and adapted to D50 as ICC profiles hold them (ICC.1, annex E).
_COLORANTS = {
    1: ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    _BT2020: ((0.67348, 0.27905, -0.00193), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79686)),
    _DISPLAY_P3: ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
}
_ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ADOBE_GAMMA = 563 / 256  # Adobe RGB (1998) Color Image Encoding, 4.3.4.2
_GAMMAS = {_LINEAR: 1.0, _GAMMA_22: 2.2, _GAMMA_28: 2.8}
_UNCALIBRATED, _ADOBE = 65535, 2


def to_srgb(image: Image.Image, profile: bytes | None, coding: Coding | None = None) -> Image.Image:
    """Return the image in sRGB; one whose profile is broken, or not of its colours, as if it had none.

    A profile beats the code points of the container, as in HEIF and PNG, but for HDR: profiles clip its highlights.
    """
    if coding is not None and coding.hdr and image.mode == "RGB":
        return _tone_mapped(image, coding)
    if profile is None and coding is not None:
        profile = _coding_profile(coding)
    converted = _by_profile(image, profile) if profile else None
    if converted is not None:
        return converted
    if image.mode == "CMYK":
        return _printed(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def exif_profile(exif: Exif) -> bytes | None:
    """Return the profile of Adobe RGB where EXIF says that, None where it doesn't.

    By DCF 2.0 (3.3.2) that is the interoperability index R03 beside the colour space "uncalibrated"; some programs
    write a colour space of 2 instead.
    """
    space = exif.raw.get("EXIF ColorSpace")
    if space in (_ADOBE, "Adobe RGB"):
        return adobe_rgb()
    index = str(exif.raw.get("Interoperability InteroperabilityIndex", "")).strip("\0 ")
    return adobe_rgb() if index == "R03" and space in (_UNCALIBRATED, "Uncalibrated", None) else None


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space)
        if mode == "RGB" and image.mode == "L":  # a grey picture saved with the screen's profile
            image = image.convert("RGB")
        if mode == image.mode:
            return ImageCms.profileToProfile(image, source, _srgb_profile(), outputMode="RGB") or image
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        pass
    return None


@cache
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _coding_profile(coding: Coding) -> bytes | None:
    """Return the profile of code points, None for those that are as good as sRGB.

    BT.709's and BT.601's curves are those of cameras; pictures are shown with the curve of sRGB all the same, and the
    primaries of the two differ by less than a printer can.
    """
    colorants = {_DCI_P3: _COLORANTS[_DISPLAY_P3], **_COLORANTS}.get(coding.primaries, _COLORANTS[1])
    gamma = _GAMMAS.get(coding.transfer)
    if gamma is None and colorants is _COLORANTS[1]:
        return None
    return matrix_profile(colorants, gamma)


@cache
def adobe_rgb() -> bytes:
    """Return a profile of Adobe RGB (1998)."""
    return matrix_profile(_ADOBE_RGB, _ADOBE_GAMMA)


def gamma_profile(gamma: float) -> bytes:
    """Return a profile of sRGB's primaries and a plain gamma."""
    return matrix_profile(_COLORANTS[1], gamma)


def matrix_profile(colorants: Colorants, gamma: float | None) -> bytes:
    """Return an ICC profile (version 4, matrix and curves) of these colorants, sRGB's curve for a gamma of None."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 0 if gamma else 3, 0)
    numbers = (gamma,) if gamma else (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve += b"".join(_fixed(number) for number in numbers)
    tags = {b"wtpt": b"XYZ " + bytes(4) + _WHITE}
    for name, colorant in zip((b"r", b"g", b"b"), colorants, strict=True):
        tags[name + b"XYZ"] = b"XYZ " + bytes(4) + b"".join(_fixed(number) for number in colorant)
        tags[name + b"TRC"] = curve
    table, data = b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4xI12s", 128 + len(body), 0x04200000, b"mntrRGB XYZ ") + bytes(12) + b"acsp"
    return (head.ljust(68, b"\0") + _WHITE).ljust(128, b"\0") + body


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


_WHITE = b"".join(_fixed(number) for number in (0.9642, 1.0, 0.8249))


def _tone_mapped(image: Image.Image, coding: Coding) -> Image.Image:
    # numpy comes along: only such pictures should cost it.
    import numpy as np

    from daemon.decoding import colorimetry

    shown = colorimetry.from_hdr(np.asarray(image) / np.float32(255), coding.primaries, coding.transfer)
    return Image.fromarray(np.round(shown * 255).astype(np.uint8))


def _printed(image: Image.Image) -> Image.Image:
    """Return what inks without a profile look like in print; Pillow would take them for mere light filters."""
    import numpy as np

    from daemon.decoding import colorimetry

    shown = colorimetry.from_cmyk(np.asarray(image) / np.float32(255))
    return Image.fromarray(np.round(shown * 255).astype(np.uint8))
