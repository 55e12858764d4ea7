"""Develops one image file: opens it with suspicion, hashes, decodes it and reads its EXIF.

Runs in the worker process. Whatever the decoders make of hostile bytes leaves here as one of Darkroom's errors.
"""

import hashlib
import importlib
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from daemon.develop import Developed, Exif, Identity, Limits, exif, thumbnails
from daemon.develop.ends import ends_early, ends_in_nothing
from daemon.develop.formats import (
    AVIF,
    BMP,
    GIF,
    HEAD_BYTES,
    HEIC,
    HEIF,
    J2K,
    JP2,
    JPEG,
    PNG,
    RAF,
    TIFF,
    WEBP,
    Format,
    identify,
    is_beginning,
)
from daemon.develop.kinds import describe
from daemon.errors import DarkroomError, Postponed, Rejected, Transient, Truncated, Withdrawn

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
_CHANGED = "changed while it was being read"


def develop(path: Path, limits: Limits) -> Developed:
    """Return all that the bytes of one file tell.

    Raises Rejected for what can never be filed, Truncated for what may still be arriving, Transient where a later
    attempt may go well, Postponed when the file changed meanwhile and Withdrawn when it is gone.
    """
    with _opened(path) as file:
        before = _identity(file)
        try:
            # Decoders warn of much that is wrong with a file; only errors decide about it.
            with warnings.catch_warnings(action="ignore"):
                developed = _developed(file, before, limits)
        except (Rejected, Transient) as error:
            if _identity(file) != before:  # half a file looks damaged
                raise Postponed(_CHANGED, 1.0) from error
            raise
        if _identity(file) != before:
            raise Postponed(_CHANGED, 1.0)
    return developed


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading: following no link and waiting for no other end of a FIFO."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Withdrawn("the file is gone") from error
    except BlockingIOError as error:  # another process holds a lease for writing
        raise Postponed("another program has it locked", 1.0) from error
    except OSError as error:
        if path.is_symlink():
            raise Rejected("a symbolic link, not a file") from error
        if path.is_socket():
            raise Rejected("a socket, not a file") from error
        raise Transient(f"can't be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        yield file


def _identity(file: BinaryIO) -> Identity:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
        raise Rejected(f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a file")
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _developed(file: BinaryIO, identity: Identity, limits: Limits) -> Developed:
    if identity.size == 0:
        raise Truncated("the file is empty")
    if identity.size > limits.file_mb << 20:
        raise Rejected(f"{identity.size >> 20} MB, more than the limit of {limits.file_mb} MB a file")
    with _explained(file, None, limits):
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        kind = _identified(file)
    with _explained(file, kind, limits):
        image, size = _image(file, kind, limits)
        orientation = _orientation(image, size if kind.raw else None)
        small, medium = thumbnails.make(image, orientation)
        found, warning = _exif(file, kind, image)
        if kind.raw:
            width, height = size
        else:
            width, height = (size[1], size[0]) if orientation in (5, 6, 7, 8) else size
    if _is_short(file, kind):
        raise Truncated(f"the {kind.name} ends early")
    return Developed(
        identity, sha256, kind.name, kind.suffixes, width, height, found, small, medium, warning
    )  # fmt: skip


def _identified(file: BinaryIO) -> Format:
    kind = identify(file)
    if kind:
        return kind
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not any(head):
        raise Truncated("nothing but zeros where an image should begin")
    if is_beginning(head):
        raise Truncated("the file ends within its first bytes")
    raise Rejected(f"not an image: it looks like {describe(head)}")


def _image(file: BinaryIO, kind: Format, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """Return the image opened but not decoded yet, and its size in pixels."""
    # The limit is ours, and is the same for every format; Pillow's own would refuse at 179 million pixels.
    Image.MAX_IMAGE_PIXELS = None
    if kind.raw:
        from daemon.develop.raw import open_raw

        image, size = open_raw(file)
        _check_pixels(size, limits)
    else:
        name, module = _PLUGINS[kind]
        plugin = importlib.import_module(module)
        if name == "HEIF" and name not in Image.OPEN:
            # Only the image itself: an embedded thumbnail would hide that the rest is damaged.
            plugin.options.THUMBNAILS = plugin.options.DEPTH_IMAGES = plugin.options.AUX_IMAGES = False
            Image.register_open(name, plugin.HeifImageFile)
        image = Image.open(file, formats=[name])
        size = image.size
    _check_pixels(image.size, limits)
    return image, size


def _check_pixels(size: tuple[int, int], limits: Limits) -> None:
    pixels = size[0] * size[1]
    if pixels > limits.megapixels * 1_000_000:
        raise Rejected(
            f"{size[0]} × {size[1]} are {pixels / 1e6:.0f} megapixels, more than the limit of {limits.megapixels}"
        )


def _orientation(image: Image.Image, raw_size: tuple[int, int] | None) -> int:
    """Return what the pixels need to be upright, 1 for nothing."""
    if image.format in ("HEIF", "TIFF"):  # turned by their decoders
        return 1
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # whatever a damaged EXIF block makes of Pillow
        return 1
    if orientation not in range(1, 9):
        return 1
    turned = orientation in (5, 6, 7, 8)
    if raw_size and turned and (image.width > image.height) == (raw_size[0] > raw_size[1]):
        return 1  # a preview that the camera has turned already
    return int(orientation)


def _exif(file: BinaryIO, kind: Format, image: Image.Image) -> tuple[Exif, str | None]:
    if kind is TIFF or (kind.raw and kind is not RAF):
        return exif.read_file(file)
    block = image.info.get("exif")
    if not block and kind is PNG:
        block = _hex_profile(image.info.get("Raw profile type exif"))
    found, warning = exif.read_block(block if isinstance(block, bytes) else None)
    original = image.info.get("original_orientation")  # pillow-heif resets the tag in the block
    if original:
        found = replace(found, orientation=original, raw=found.raw | {"Image Orientation": original})
    return found, warning


def _hex_profile(text: object) -> bytes | None:
    """Return the EXIF block that ImageMagick writes into PNG as text: name, length, lines of hexadecimal."""
    try:
        return bytes.fromhex("".join(str(text).split()[2:]))
    except ValueError:
        return None


def _is_short(file: BinaryIO, kind: Format) -> bool:
    """Tell whether a file that was decoded well is incomplete nevertheless."""
    if kind in (JPEG, J2K):
        # A decoder paints zeros grey: half a JPEG in a file of its full size decodes without a complaint.
        return ends_in_nothing(file) and ends_early(file, kind)
    return kind not in (TIFF, BMP) and ends_early(file, kind)


@contextmanager
def _explained(file: BinaryIO, kind: Format | None, limits: Limits) -> Iterator[None]:
    """Turn whatever a decoder raises, which may be anything, into an error that says what it means."""
    try:
        yield
    except DarkroomError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, MemoryError) or "memory" in reason.lower():
            raise Transient(f"needs more than the limit of {limits.memory_mb} MB to decode") from error
        if kind is None or (isinstance(error, OSError) and error.errno):
            raise Transient(f"can't be read: {getattr(error, 'strerror', None) or reason}") from error
        if ends_in_nothing(file) or ends_early(file, kind):
            raise Truncated(f"the {kind.name} ends early") from error
        if isinstance(error, UnidentifiedImageError) or not reason:
            reason = "its header makes no sense"
        raise Rejected(f"a damaged {kind.name}: {reason}") from error
