"""Decodes TIFF that Pillow can't decode, or is known to get wrong: samples of any width, kind and layout.

tifffile and imagecodecs take strips and tiles apart; what their samples mean stands here (TIFF 6.0, and Adobe's
technical notes). Each part is scaled down as soon as it is decoded, so that a scan of 250 megapixels of 96 bits
needs little more memory than its largest strip.
"""

import logging
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from daemon.decoding import UnsupportedError, arrays, colorimetry
from daemon.decoding.colorimetry import Floats
from daemon.decoding.tiff import Directory

# tifffile complains of odd tags to the log.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, SEPARATED, YCBCR, CIE_LAB, ICC_LAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
_CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, MASK: 1, YCBCR: 3, CIE_LAB: 3, ICC_LAB: 3}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNCOMPRESSED, _CMYK = 1, 1
# Decoded as RGB whatever the photometric interpretation: JPEG, WebP, JPEG XL, JPEG 2000 but Aperio's.
_DECODED_TO_RGB = {6, 7, 33007, 34892, 50001, 50002, 52546, 33005, 34712}
_CHUNK = 1 << 22


@dataclass
class _Range:
    """What is learnt of the samples' values while they pass by."""

    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    count: int = 0

    def note(self, samples: NDArray[Any]) -> None:
        if samples.size:
            self.low, self.high = min(self.low, float(samples.min())), max(self.high, float(samples.max()))
            self.total += float(samples.sum(dtype=np.float64))
            self.count += samples.size


def read(file: BinaryIO, directory: Directory) -> Image.Image:
    """Return the picture of one directory in 8 bits (L, RGB or CMYK), scaled down, with its profile, on white.

    Raises UnsupportedError; on damage, whatever tifffile and imagecodecs raise.
    """
    file.seek(0)
    # With a name, or it would take the number of an open file for one.
    with tifffile.TiffFile(tifffile.FileHandle(file, name="image")) as tiff:
        tiff.filehandle.seek(directory.offset)
        page = tifffile.TiffPage(tiff, 0)
        channels = _supported(page)
        try:
            values, seen = _reduced(page, channels)
        except ImportError as error:  # of a rare codec, where modules are out of reach
            raise UnsupportedError(f"the codec of its compression {int(page.compression)} can't be loaded") from error
        picture = _shown(page, values, seen, channels)
        profile = page.iccprofile
        if isinstance(profile, bytes) and page.photometric not in (CIE_LAB, ICC_LAB):
            picture.info["icc_profile"] = profile
        return picture


def load_codecs() -> None:
    """Load the codecs that photos and scans have, while files can be opened in any case.

    The rare ones are loaded when a file needs them, where Landlock lets modules be read; elsewhere they are not there.
    """
    for compression in _COMPRESSIONS:
        _has_decoder(compression)


# LZW, JPEG, Deflate, PackBits, JPEG 2000, lossy DNG's JPEG, Zstandard, WebP, JPEG XL.
_COMPRESSIONS = (5, 7, 8, 32773, 34712, 34892, 50000, 50001, 50002)


def _supported(page: tifffile.TiffPage) -> int:
    """Return how many samples of a pixel are its colour; raise UnsupportedError for what nothing here decodes."""
    photometric, samples = page.photometric, page.samplesperpixel
    if page.compression != _UNCOMPRESSED and not _has_decoder(page.compression):
        raise UnsupportedError(f"its compression {int(page.compression)} has no decoder")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise UnsupportedError(f"samples of {page.bitspersample} bits of format {page.sampleformat} have no decoder")
    if page.is_subsampled and page.compression not in _DECODED_TO_RGB:
        raise UnsupportedError("its subsampled colours have no decoder")
    channels = _CHANNELS.get(photometric, 0)
    if page.planarconfig == 2 and photometric in (PALETTE, CIE_LAB):
        raise UnsupportedError("its planes of a palette or of L*a*b* have no decoder")
    if photometric == SEPARATED and page.tags.valueof(332, _CMYK) == _CMYK:
        channels = min(samples, 4)
    if not 0 < channels <= samples or channels == 2 or page.imagedepth > 1:
        raise UnsupportedError(f"its colours (photometric interpretation {int(photometric)}) have no decoder")
    return channels


def _has_decoder(compression: int) -> bool:
    try:
        return callable(tifffile.TIFF.DECOMPRESSORS[compression])
    except (KeyError, ImportError, OSError):  # none, or one that can't be loaded here
        return False


def _reduced(page: tifffile.TiffPage, channels: int) -> tuple[Floats, _Range]:
    """Return the mean of each square of pixels, channel by channel, and the range of all samples."""
    width, height = page.imagewidth, page.imagelength
    factor = arrays.factor((width, height))
    kept = 3 if page.photometric == PALETTE else channels + (1 if _has_alpha(page) else 0)
    sums = np.zeros((-(-height // factor), -(-width // factor), kept), np.float32 if _is_narrow(page) else np.float64)
    seen = _Range()
    for part, at, shape in page.segments(maxworkers=1):
        if part is None:  # a sparse file: nothing was written there
            continue
        plane, _, top, left, _ = at
        if plane >= kept:
            continue
        rows = min(shape[1], height - top)
        step = max(1, _CHUNK // max(1, shape[2] * shape[3]) // factor) * factor
        for start in range(-(top % factor), rows, step):
            begin, end = max(0, start), min(rows, start + step)
            chunk = _prepared(page, part[0, begin:end, : width - left, :kept], channels, seen)
            target = slice(plane, plane + 1) if page.planarconfig == 2 else slice(None)
            _add(sums[..., target], chunk, top + begin, left, factor)
    counts = _counts(height, factor)[:, None] * _counts(width, factor)[None, :]
    return sums / counts[..., None], seen


def _is_narrow(page: tifffile.TiffPage) -> bool:
    return page.dtype is not None and page.dtype.itemsize <= 2


def _prepared(page: tifffile.TiffPage, samples: NDArray[Any], channels: int, seen: _Range) -> NDArray[Any]:
    """Return samples whose mean is of use: signs and palettes resolved, what is no number as 0."""
    if page.photometric == PALETTE and page.colormap is not None:
        colours: NDArray[Any] = np.moveaxis(page.colormap[:, samples[..., 0]], 0, -1)
        return colours
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float64)
        seen.note(samples[..., :channels][np.isfinite(samples[..., :channels])])
        numbers: NDArray[Any] = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        return numbers
    seen.note(samples[..., :channels])
    if page.photometric == CIE_LAB and samples.dtype.kind == "u":
        # L* is unsigned, a* and b* are in two's complement.
        signed: NDArray[Any] = samples.astype(np.int32)
        bits = 8 * samples.dtype.itemsize
        signed[..., 1:channels] = (signed[..., 1:channels] + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
        return signed
    return samples


def _add(sums: Floats, chunk: NDArray[Any], top: int, left: int, factor: int) -> None:
    """Add a chunk, whose first pixel is at `top` and `left`, to the sums of the squares that it lies in."""
    if factor > 1:
        chunk = np.add.reduceat(chunk, _starts(top, chunk.shape[0], factor), axis=0, dtype=sums.dtype)
        chunk = np.add.reduceat(chunk, _starts(left, chunk.shape[1], factor), axis=1)
    y, x = top // factor, left // factor
    sums[y : y + chunk.shape[0], x : x + chunk.shape[1]] += chunk


def _starts(first: int, length: int, factor: int) -> list[int]:
    return [0, *range(factor - first % factor, length, factor)]


def _counts(length: int, factor: int) -> NDArray[np.int64]:
    return np.bincount(np.arange(length) // factor)


def _has_alpha(page: tifffile.TiffPage) -> bool:
    """Return whether the sample behind the colours is transparency; one of no stated meaning may be infrared."""
    return bool(page.extrasamples) and page.extrasamples[0] in (_ASSOCIATED, _UNASSOCIATED)


def _shown(page: tifffile.TiffPage, values: Floats, seen: _Range, channels: int) -> Image.Image:
    """Return the picture that the mean samples mean."""
    photometric = page.photometric
    if photometric in (CIE_LAB, ICC_LAB):
        return arrays.image(colorimetry.from_lab(_lab(page, values[..., :3])))
    if photometric == PALETTE:
        return arrays.image(values / (65535 if page.colormap is not None and page.colormap.max() > 255 else 255))
    low, high = _limits(page, seen)
    colours = (values[..., :channels] - low) / (high - low)
    if photometric == WHITE_IS_ZERO:
        colours = 1 - colours
    if photometric == YCBCR and page.compression not in _DECODED_TO_RGB:
        colours = (colours - (0, 0.5, 0.5)) @ _FROM_YCBCR.T
    if page.dtype is not None and page.dtype.kind == "f" and photometric == RGB and seen.high > high:
        colours = colorimetry.encoded(colours)  # brighter than white: that is linear light
    if values.shape[-1] > channels:
        alpha = np.clip((values[..., channels:] - low) / (high - low), 0, 1)
        if page.extrasamples[0] == _UNASSOCIATED:
            colours = colours * alpha
        if photometric != SEPARATED:  # no ink is white already
            colours = colours + 1 - alpha
    if photometric == SEPARATED and channels == 3:
        colours = np.concatenate([colours, np.zeros_like(colours[..., :1])], axis=-1)
    return arrays.image(colours)


# JFIF's, as TIFF's own defaults are.
_FROM_YCBCR = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])


def _limits(page: tifffile.TiffPage, seen: _Range) -> tuple[float, float]:
    """Return which sample is black and which is white (for WhiteIsZero the other way round).

    Unsigned ones have the range of their bits, or of those that are in use where the picture would be next to black:
    what 12 bits of a sensor, or 8, are in a wider sample. For the others no range is agreed on: floats are from 0 to 1
    if most of them are, else they and signed ones from 0 to 255, or whatever the instrument gave.
    """
    dtype = page.dtype
    if dtype is None or seen.count == 0:
        return 0.0, 1.0
    if dtype.kind == "b":
        return 0.0, 1.0
    if dtype.kind == "u":
        most = float((1 << page.bitspersample) - 1)
        if page.bitspersample > 8 and seen.high <= most / 16:
            most = float((1 << max(8, int(seen.high).bit_length())) - 1)
        return 0.0, most
    low = min(seen.low, 0.0)
    if dtype.kind == "f" and seen.total <= seen.count:
        return max(low, -1.0) if seen.low < -0.5 else 0.0, 1.0
    high = 255.0 if low == 0.0 and seen.high <= 255.0 else seen.high
    return low, high if high > low else low + 1.0


def _lab(page: tifffile.TiffPage, values: Floats) -> Floats:
    """Return CIE L*a*b* of TIFF's two encodings (TIFF 6.0, section 23; Adobe's technical notes for ICCLab)."""
    if page.dtype is None or page.dtype.kind == "f":
        return values
    unit = 1 << (8 * (page.dtype.itemsize - 1))  # what one step of a and b is
    if page.photometric == ICC_LAB:
        return np.stack(
            [values[..., 0] / (2.55 * unit), values[..., 1] / unit - 128, values[..., 2] / unit - 128], axis=-1
        )
    top = (1 << (8 * page.dtype.itemsize)) - 1
    return np.stack([values[..., 0] / top * 100, values[..., 1] / unit, values[..., 2] / unit], axis=-1)
