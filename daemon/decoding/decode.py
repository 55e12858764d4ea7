"""Decodes one image file: hashes it, decodes it in full and reads its EXIF.

Runs in a process of the sandbox. Whatever the decoders make of hostile bytes leaves here as one of Darkroom's errors.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedReader

from PIL import Image, UnidentifiedImageError

from daemon.decoding import Decoded, Exif, Limits, exif, metadata, pictures, thumbnails
from daemon.decoding.formats import CR3, HEAD_BYTES, PNG, RAF, TIFF, Format, describe, identify, is_beginning
from daemon.decoding.pictures import check_pixels, open_picture, open_raw, orientation_of
from daemon.decoding.truncation import checksums_match, ends_early
from daemon.errors import DarkroomError, FailureReason, Rejected, Transient, Truncated, Unresponsive
from daemon.files.atomic import UNREACHABLE
from daemon.files.opening import Identity


def decode(file: BufferedReader, limits: Limits) -> Decoded:
    """Return all that the bytes of an open file tell.

    Raises Rejected for what can never be filed, Truncated for what may still be arriving, Transient where a
    later attempt may go well, Unresponsive where the disk does not answer.
    """
    identity = Identity.of(os.fstat(file.fileno()))
    # Decoders warn of much that is wrong with a file; only errors decide about it.
    with warnings.catch_warnings(action="ignore"):
        return _decode(file, identity, limits)


def _decode(file: BufferedReader, identity: Identity, limits: Limits) -> Decoded:
    if identity.size == 0:
        raise Truncated("the file is empty")
    if identity.size > limits.file_mb << 20:
        message = f"{identity.size >> 20} MB, more than the limit of {limits.file_mb} MB"
        raise Rejected(message, FailureReason.TOO_LARGE)
    with _explained(file, None, limits):
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        kind = _identified(file)
    with _explained(file, kind, limits):
        picture, size = _opened_picture(file, kind, limits)
        swallowed = pictures.load(picture)
        orientation = orientation_of(picture, size if kind.raw else None)
        small, medium, colour = thumbnails.make(picture, orientation)
        found, warning = _exif(file, kind, picture)
        if orientation in (5, 6, 7, 8) and not kind.raw:
            size = size[1], size[0]
    warning = "; ".join(filter(None, (swallowed, warning))) or None
    if ends_early(file, kind, decoded=True):
        raise Truncated(f"the {kind.name} ends early")
    if kind is PNG and not checksums_match(file):
        raise Rejected("a damaged PNG: its checksums don't match", FailureReason.DAMAGED)
    return Decoded(identity, sha256, kind.name, kind.suffixes, *size, found, small, medium, colour, warning)


def _identified(file: BufferedReader) -> Format:
    kind = identify(file)
    if kind:
        return kind
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not any(head):
        raise Truncated("nothing but zeros where an image should begin")
    if is_beginning(head):
        raise Truncated("the file ends within its first bytes")
    raise Rejected(f"not an image: it looks like {describe(head)}", FailureReason.NOT_AN_IMAGE)


def _opened_picture(file: BufferedReader, kind: Format, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """Return the picture, not decoded yet, and the size of the image in pixels: of a RAW file upright."""
    if kind.raw:
        return open_raw(file, limits)
    picture = open_picture(file, kind)
    check_pixels(picture.size, limits)
    return picture, picture.size


def _exif(file: BufferedReader, kind: Format, picture: Image.Image) -> tuple[Exif, str | None]:
    found, warning = _own_exif(file, kind, picture)
    (xmp, words), iptc = metadata.read_xmp(metadata.xmp_of(picture)), metadata.iptc_date(metadata.iptc_of(picture))
    dates = replace(found.dates, xmp=xmp, iptc=iptc or found.dates.iptc)
    return replace(found, dates=dates, raw={**found.raw, **words}), warning


def _own_exif(file: BufferedReader, kind: Format, picture: Image.Image) -> tuple[Exif, str | None]:
    if kind is TIFF or (kind.raw and kind not in (RAF, CR3)):
        return exif.read_file(file)
    block = picture.info.get("exif")
    if not block and kind is PNG:
        block = metadata.hex_profile(picture.info.get("Raw profile type exif"))
    found, warning = exif.read_block(block if isinstance(block, bytes) else None)
    original = picture.info.get("original_orientation")  # pillow-heif resets the tag in the block
    if original:
        found = replace(found, orientation=original, raw={**found.raw, "Image Orientation": original})
    return found, warning


@contextmanager
def _explained(file: BufferedReader, kind: Format | None, limits: Limits) -> Iterator[None]:
    """Turn whatever a decoder raises, which may be anything, into an error that says what it means."""
    try:
        yield
    except DarkroomError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and error.errno in UNREACHABLE:
            raise Unresponsive(f"can't be read: {error.strerror}") from error
        if isinstance(error, OSError) and error.errno:
            raise Transient(f"can't be read: {error.strerror}", FailureReason.UNREADABLE) from error
        if kind and ends_early(file, kind, decoded=False):
            raise Truncated(f"the {kind.name} ends early") from error
        # Decoders report it in words of their own; libheif's "security limit" is about the file, not about us.
        # They have no code for it.
        if isinstance(error, MemoryError) or ("memory" in reason.lower() and "limit" not in reason.lower()):
            message = f"needs more than the limit of {limits.memory_mb} MB to decode"
            raise Transient(message, FailureReason.MEMORY) from error
        if kind is None:
            raise Transient(f"can't be read: {reason}", FailureReason.UNREADABLE) from error
        if isinstance(error, UnidentifiedImageError) or not reason:
            reason = "its header makes no sense"
        raise Rejected(f"a damaged {kind.name}: {reason}", FailureReason.DAMAGED) from error
