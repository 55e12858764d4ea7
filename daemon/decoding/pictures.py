"""Opens and decodes a picture as the one format that it is: by Pillow, of a RAW file its preview, JPEG strictly.

What Pillow can't decode, or is known to get wrong, goes to decoders that are imported only then: TIFF's odd samples,
JPEG XL, JPEG and JPEG 2000 of more than 8 bits. What only they refuse, and nothing shows to be damaged, is unsupported.

Pillow asks libjpeg for no more than its fatal errors. simplejpeg runs the same libjpeg-turbo at the same scale, to
the same pixels in the same time, and raises at what libjpeg only warns of. So it decodes first, and Pillow where it
can't: strictness costs nothing for a sound photo, and a second decoding for a damaged one.
"""

import importlib
import io
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from PIL import Image, ImageFile, UnidentifiedImageError

from daemon.decoding import Limits, UnsupportedError, boxes, codestreams, repairs, thumbnails, tiff
from daemon.decoding.colours import Coding, gamma_profile
from daemon.decoding.formats import AVIF, BMP, GIF, HEIC, HEIF, J2K, JP2, JPEG, JXL, PNG, TIFF, WEBP, Format
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


@dataclass(frozen=True)
class Opened:
    """A picture, decoded in full, and what its container says of it.

    `size` is that of the image in pixels, which the picture may be smaller than: of a RAW file upright, else as it is
    stored. `turns` is what the container says is to be done to make it upright, None where EXIF says that.
    """

    picture: Image.Image
    size: tuple[int, int]
    turns: int | None = None
    profile: bytes | None = None
    coding: Coding | None = None
    warning: str | None = None


def decoded(file: BinaryIO, kind: Format, limits: Limits) -> Opened:
    """Return the picture in a file of this kind.

    Raises Rejected for too many pixels, UnsupportedError where there is no decoder, and on damage whatever decoders do.
    """
    if kind.raw:
        picture, size = open_raw(file, limits)
        return Opened(picture, size, warning=load(picture))
    if kind is TIFF:
        return _tiff(file, limits)
    if kind in (HEIC, HEIF, AVIF):
        return _heif(file, kind, limits)
    if kind is JXL:
        return _jxl(file, limits)
    if kind is PNG:
        return _png(file, limits)
    if kind is WEBP:
        return _webp(file, limits)
    if kind in (JP2, J2K):
        return _jpeg_2000(file, kind, limits)
    return _jpeg(file, limits) if kind is JPEG else _by_pillow(file, kind, limits)


def _by_pillow(file: BinaryIO, kind: Format, limits: Limits) -> Opened:
    picture = open_picture(file, kind)
    size = picture.size
    check_pixels(size, limits)
    return Opened(picture, size, warning=load(picture))


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


def orientation_of(opened: Opened, exif: int | None, raw: bool) -> int:
    """Return what a decoded picture needs to be upright (EXIF 1 to 8), 1 for nothing; `exif` is EXIF's orientation.

    XMP has a say in nothing: tiff:Orientation is a copy of EXIF's, which programs leave behind when they turn a picture
    (Pillow's `getexif` mixes it in).
    """
    if opened.turns is not None:
        return opened.turns
    picture, size = opened.picture, opened.size
    orientation = _own_orientation(picture) if raw else exif or 1
    quarter = orientation in (5, 6, 7, 8)
    if raw and quarter and (picture.width > picture.height) == (size[0] > size[1]):
        return 1  # a preview that the camera has turned already
    return orientation


def _own_orientation(picture: Image.Image) -> int:
    """Return the orientation that a preview has in an EXIF block of its own."""
    try:
        block = picture.info.get("exif")
        found = Image.Exif()
        if isinstance(block, bytes):
            found.load(block)
        orientation = found.get(_ORIENTATION, 1)
    except Exception:  # whatever Pillow makes of a damaged block
        return 1
    return orientation if isinstance(orientation, int) and orientation in range(1, 9) else 1


# -- JPEG and JPEG 2000 of more than 8 bits


def _jpeg(file: BinaryIO, limits: Limits) -> Opened:
    try:
        return _by_pillow(file, JPEG, limits)
    except (Rejected, MemoryError):
        raise
    except Exception:  # whatever Pillow raises
        content = codestreams.jpeg_content(file)
        frame = codestreams.jpeg_frame(content)
        if frame is None or frame.bits == 8:
            raise
    check_pixels(frame.size, limits)
    return Opened(codestreams.jpeg(content, frame), frame.size)


def _jpeg_2000(file: BinaryIO, kind: Format, limits: Limits) -> Opened:
    profile = boxes.jp2_profile(file) if kind is JP2 else None
    frame = codestreams.jpeg_2000_frame(file)
    fault: Exception | None = None
    # Of more than 8 bits Pillow loses the transparency.
    if frame is None or frame.bits <= 8 or frame.channels in (1, 3):
        try:
            return replace(_by_pillow(file, kind, limits), profile=profile)
        except (Rejected, MemoryError):
            raise
        except Exception as error:  # whatever Pillow makes of it: damage, or channels that it doesn't know
            fault = error
            if frame is None:
                raise
    check_pixels(frame.size, limits)
    try:
        return Opened(codestreams.jpeg_2000(file, frame), frame.size, profile=profile)
    except (UnsupportedError, MemoryError):
        raise
    except Exception as error:  # Jpeg2kError, mostly; what Pillow says of it is what people know
        raise fault or error from None


# -- TIFF

# What Pillow's libtiff decodes: where it fails at one of these, the data are at fault. Of JPEG only the newer form.
_LIBTIFF = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000}
_GREY, _RGB, _PALETTE, _SEPARATED, _YCBCR = (0, 1), 2, 3, 5, 6


def _tiff(file: BinaryIO, limits: Limits) -> Opened:
    directory = tiff.main_directory(file)
    if directory is None:
        return _by_pillow(file, TIFF, limits)  # which says what is wrong
    check_pixels(directory.size, limits)
    first = next(tiff.directories(file))
    turns = directory.first(tiff.ORIENTATION)
    opened = Opened(Image.new("L", (1, 1)), directory.size, turns if turns in range(1, 9) else 1)
    fault: Exception | None = None
    if directory.offset == first.offset and _suits_pillow(directory):
        try:
            picture = open_picture(file, TIFF)
            # Else Pillow would turn it as XMP says.
            picture.getexif()[_ORIENTATION] = 1
            picture.load()
            return replace(opened, picture=picture)
        except Exception as error:  # whatever Pillow makes of it: damage, or a layout that it doesn't know
            fault = error
    # numpy comes along with it, and tifffile takes 3 MB: only such files should cost them.
    from daemon.decoding import tiff_samples

    refused = isinstance(fault, UnidentifiedImageError)
    damaged = isinstance(fault, OSError) and not refused and directory.first(tiff.COMPRESSION) in _LIBTIFF
    try:
        picture = tiff_samples.read(file, directory)
    except UnsupportedError:
        if fault is not None and damaged:
            raise fault from None
        raise
    warning = "its image data may be damaged: libtiff can't decode them" if damaged else None
    return replace(opened, picture=picture, warning=warning)


def _suits_pillow(directory: tiff.Directory) -> bool:
    """Return whether Pillow decodes such samples, and rightly.

    It doesn't see WhiteIsZero in 16 bits, shifts 12 bits out, takes planar ones of 16 bits apart wrongly, and clips.
    """
    bits = set(directory.numbers.get(tiff.BITS, (1,)))
    if len(bits) != 1 or set(directory.numbers.get(tiff.SAMPLE_FORMAT, (1,))) != {1}:
        return False
    width, samples = bits.pop(), directory.first(tiff.SAMPLES) or 1
    photometric = directory.first(tiff.PHOTOMETRIC)
    if photometric in (*_GREY, _PALETTE) and samples == 1:
        return width in (1, 2, 4, 8)
    if photometric == _SEPARATED:
        return width == 8 and samples == 4 and (directory.first(tiff.INK_SET) or 1) == 1
    return width == 8 and (photometric, samples) in {(1, 2), (_RGB, 3), (_RGB, 4), (_YCBCR, 3)}


# -- HEIF and AVIF

_KNOWN_CODECS = {HEIC: {"hvc1", "av01", "avc1", "jpeg"}, AVIF: {"av01"}}


def _heif(file: BinaryIO, kind: Format, limits: Limits) -> Opened:
    """Return the picture of a HEIF or AVIF, which libheif and libavif's callers hand out as the container turns it.

    By the standard EXIF's orientation is of no account in these (ISO/IEC 23008-12, A.2.4). But phones write 6 and 8
    there without `irot`, as do programs that copy EXIF from a JPEG, and phones' own viewers turn such a picture: its
    pixels lie as they came from the sensor. So what the container says decides, be it that nothing is to be turned
    (`irot` of 0), and EXIF only where the container says nothing at all.
    """
    said = boxes.primary(file)
    try:
        opened = _by_pillow(file, kind, limits)
    except Rejected:
        raise
    except Exception as error:
        if "nsupported" in str(error) or (
            said.codec and said.codec not in _KNOWN_CODECS.get(kind, _KNOWN_CODECS[HEIC])
        ):
            raise UnsupportedError(f"its pictures are coded as {said.codec or 'something else'}") from error
        raise
    turns = None
    if said.turned:  # by libheif; Pillow has put what an AVIF's container says into the EXIF block
        turns = _own_orientation(opened.picture) if kind is AVIF else 1
    block = _stored_exif(file, kind, opened.picture)
    if block:
        opened.picture.info["exif"] = block
    if said.coding is not None and said.coding.hdr and kind is not AVIF:
        return replace(opened, picture=_tone_mapped(file, said.coding, opened.picture), turns=turns)
    return replace(opened, turns=turns, coding=said.coding)


def _stored_exif(file: BinaryIO, kind: Format, picture: Image.Image) -> bytes | None:
    """Return the EXIF block as it is stored: both plugins change its orientation, pillow-heif by what XMP says."""
    if kind is AVIF:
        decoder = getattr(picture, "_decoder", None)
        block = decoder.get_info()[4] if decoder is not None else None
    else:
        import pillow_heif

        file.seek(0)
        block = pillow_heif.open_heif(file).info.get("exif")
    return block if isinstance(block, bytes) else None


def _tone_mapped(file: BinaryIO, coding: Coding, picture: Image.Image) -> Image.Image:
    """Return an HDR picture in sRGB, made of all of its bits: in eight of them colours step from shade to shade."""
    import numpy as np
    import pillow_heif

    from daemon.decoding import arrays

    file.seek(0)
    deep = pillow_heif.open_heif(file, convert_hdr_to_8bit=False)
    mapped = arrays.picture(np.asarray(deep), coding=coding)
    mapped.info = {**picture.info, "icc_profile": None}
    return mapped


# -- JPEG XL


def _jxl(file: BinaryIO, limits: Limits) -> Opened:
    # imagecodecs, and numpy with it: only such files should cost them.
    from daemon.decoding import jpeg_xl

    found = jpeg_xl.header(file)
    check_pixels(found.size, limits)
    original = jpeg_xl.original_jpeg(file)
    if original is not None:
        opened = _by_pillow(io.BytesIO(original), JPEG, limits)
        return replace(opened, turns=found.orientation)
    picture = jpeg_xl.read(file, found)
    block = jpeg_xl.exif_block(file)
    picture.info = {"exif": block} if block else {}
    coding = None if found.coding is not None and found.coding.hdr else found.display
    return Opened(picture, found.size, found.orientation, found.profile, coding)


# -- PNG and WebP


def _png(file: BinaryIO, limits: Limits) -> Opened:
    """Return the picture of a PNG: what stands beside its pixels is left aside where it is damaged."""
    if repairs.is_apple_png(file):
        raise UnsupportedError("it is of the form that Apple's tools pack into apps")
    coding = _cicp(file)
    try:
        opened = _by_pillow(file, PNG, limits)
        return replace(opened, coding=coding, profile=None if coding else _gama(opened.picture))
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # a ValueError, a SyntaxError, … of Pillow's, or zlib's
        first = error
    names = ", ".join(repairs.damaged_chunks(file))
    try:
        opened = _mended_png(file, limits)
    except (Rejected, MemoryError):
        raise
    except Exception:  # then it isn't that
        raise first from None
    said = f"what stands beside its pixels is damaged{f' ({names})' if names else ''} and was left aside"
    return replace(opened, coding=coding, warning=said)


def _mended_png(file: BinaryIO, limits: Limits) -> Opened:
    """Return the picture without what has a wrong checksum, or else without all that stands beside it."""
    try:
        return _by_pillow(repairs.png(file, bare=False), PNG, limits)
    except (Rejected, MemoryError):
        raise
    except Exception:  # checksums may be right of what is wrong
        return _by_pillow(repairs.png(file, bare=True), PNG, limits)


def _gama(picture: Image.Image) -> bytes | None:
    """Return a profile of a PNG's gamma (11.3.2.2), None where it is as good as sRGB's, or sRGB's by another chunk."""
    gamma = picture.info.get("gamma")
    if "srgb" in picture.info or not isinstance(gamma, float) or not 0.1 <= gamma <= 5 or abs(gamma - 0.45455) < 0.02:
        return None
    return gamma_profile(1 / gamma)


def _cicp(file: BinaryIO) -> Coding | None:
    """Return the code points of a PNG (third edition, 11.3.2.6)."""
    for chunk in repairs.png_heads(file):
        if chunk.name == b"cICP" and chunk.length == 4:
            file.seek(chunk.offset)
            return Coding(*file.read(2))
    return None


def _webp(file: BinaryIO, limits: Limits) -> Opened:
    try:
        return _by_pillow(file, WEBP, limits)
    except (Rejected, MemoryError):
        raise
    except Exception as error:  # whatever Pillow raises
        first = error
    try:
        opened = _by_pillow(repairs.webp(file), WEBP, limits)
    except Rejected:
        raise
    except Exception:  # then it isn't the size
        raise first from None
    return replace(opened, warning="the size at its start is wrong; all of the picture is there")


# -- RAW

_ENOUGH = 320
"""A preview whose longer side has fewer pixels is an icon: the sensor's data are tried first."""
_QUARTER_TURNS = (5, 6)  # LibRaw's flips that swap width and height


def open_raw(file: BinaryIO, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture, as if opened from a file of its own, and the RAW's size in pixels, upright.

    Raises rawpy's LibRawError for all that LibRaw can't read.
    """
    # Here, not above: where it can't be loaded only RAW files are lost.
    import rawpy

    file.seek(0)
    try:
        # Its bytes, not its name: by now nothing can be opened any more.
        opened = rawpy.imread(file)
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawNotImplementedError) as error:
        raise UnsupportedError("LibRaw doesn't know this camera's RAW format") from error
    with opened as raw:
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
    """Decode an opened picture as `thumbnails.load` does; return a warning for people where damage was swallowed.

    Raises Rejected for a JPEG of so many scans that nobody meant it to be seen, and whatever Pillow raises.
    """
    swallowed = None
    if isinstance(picture, ImageFile.ImageFile) and picture.format in ("JPEG", "MPO"):
        _check_scans(picture)
    if isinstance(picture, ImageFile.ImageFile) and picture.format in ("JPEG", "MPO") and picture.mode in _COLOURS:
        thumbnails.draft(picture)
        swallowed = _strictly(picture)
    thumbnails.load(picture)
    return swallowed


_SCAN, _END = 0xDA, 0xD9
# A marker, and none of those that stand within coded data (ITU-T T.81, B.1.1).
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Encoders make about ten; each costs a look at the whole picture, so a small file of thousands takes minutes.
_MAX_SCANS = 100


def _check_scans(picture: ImageFile.ImageFile) -> None:
    if picture.fp is None:
        return
    picture.fp.seek(0)
    content = picture.fp.read(_MOST_BYTES)
    # Nearly always that settles it; what else is in the file would have to be looked through for others.
    if not codestreams.is_of_one_scan(content) and _scans(content) > _MAX_SCANS:
        message = f"a JPEG of more than {_MAX_SCANS} scans, which takes too long to decode"
        raise Rejected(message, FailureReason.TOO_SLOW)


def _scans(content: bytes) -> int:
    """Return how many scans a JPEG has; what else lies in the file, such as a preview or a video, may look like one."""
    found, at = 0, 2
    while (marker := _MARKER.search(content, at)) and content[marker.end() - 1] != _END:
        found += content[marker.end() - 1] == _SCAN
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return found


def _strictly(picture: ImageFile.ImageFile) -> str | None:
    """Decode a JPEG, drafted to its scale, unless it is damaged; return in which way it is, None where it is not."""
    # Here, not above: as with rawpy.
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
