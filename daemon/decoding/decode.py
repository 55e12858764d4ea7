"""Decodes one image file: hashes it, decodes it in full and reads its EXIF.

Runs in a process of the sandbox. Whatever the decoders make of hostile bytes leaves here as one of Darkroom's errors.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedReader
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from daemon.decoding import Decoded, Exif, Limits, UnsupportedError, exif, metadata, pictures, repairs, thumbnails
from daemon.decoding.colours import exif_profile
from daemon.decoding.formats import (
    CR3,
    CRW,
    HEAD_BYTES,
    MRW,
    PNG,
    RAF,
    TIFF,
    X3F,
    Format,
    describe,
    identify,
    is_beginning,
)
from daemon.decoding.thumbnails import Thumbnails
from daemon.decoding.truncation import ends_early
from daemon.errors import DarkroomError, FailureReason, Rejected, Transient, Truncated, Unresponsive
from daemon.files.atomic import UNREACHABLE
from daemon.files.opening import Identity

# Up to this size a file is read once and decoded from memory: for a photo three readings less, a tenth of the work.
# In steps, so that whoever watches how far it has come sees a slow disk get on.
_IN_MEMORY, _STEP = 32 << 20, 1 << 20


def decode(file: BufferedReader, limits: Limits) -> Decoded:
    """Return all that the bytes of an open file tell.

    Raises Rejected for what can never be filed, Truncated for what may still be arriving, Transient where a
    later attempt may go well, Unresponsive where the disk does not answer.
    """
    identity = Identity.of(os.fstat(file.fileno()))
    # Decoders warn of much that is wrong with a file; only errors decide about it.
    with warnings.catch_warnings(action="ignore"):
        return _decode(file, identity, limits)


def _decode(opened: BufferedReader, identity: Identity, limits: Limits) -> Decoded:
    if identity.size == 0:
        raise Truncated("the file is empty")
    if identity.size > limits.file_mb << 20:
        message = f"{identity.size >> 20} MB, more than the limit of {limits.file_mb} MB"
        raise Rejected(message, FailureReason.TOO_LARGE)
    with _explained(opened, None, limits):
        file, sha256 = _hashed(opened, identity.size)
        kind = _identified(file)
    try:
        with _explained(file, kind, limits):
            shown = _shown(file, kind, limits)
    except UnsupportedError as error:
        with _explained(file, kind, limits):
            shown = _not_shown(file, kind, str(error))
    if ends_early(file, kind, decoded=True):
        raise Truncated(f"the {kind.name} ends early")
    if kind is PNG and (names := repairs.damaged_chunks(file)) and shown.warning is None:
        shown = replace(shown, warning=f"what stands beside its pixels is damaged: {', '.join(names)}")
    width, height = shown.size or (None, None)
    made = shown.thumbnails
    return Decoded(
        identity=identity,
        sha256=sha256,
        format=kind.name,
        suffixes=kind.suffixes,
        width=width,
        height=height,
        exif=shown.exif,
        small=made.small,
        medium=made.medium,
        colour=made.colour,
        warning=shown.warning,
    )


def _hashed(file: BufferedReader, size: int) -> tuple[BinaryIO, str]:
    """Return a file of these bytes to decode from, and their SHA-256 in hex.

    One that grows meanwhile is read as far as it was; the main program looks whether it has.
    """
    if size > _IN_MEMORY:
        return file, hashlib.file_digest(file, "sha256").hexdigest()
    blocks, left, digest = [], size, hashlib.sha256()
    while left > 0 and (block := file.read(min(left, _STEP))):
        digest.update(block)
        blocks.append(block)
        left -= len(block)
    return io.BytesIO(b"".join(blocks)), digest.hexdigest()


@dataclass(frozen=True)
class _Shown:
    """What a file's content came to: its size upright, its EXIF, and its thumbnails."""

    exif: Exif
    size: tuple[int, int] | None = None
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    warning: str | None = None


def _shown(file: BinaryIO, kind: Format, limits: Limits) -> _Shown:
    opened = pictures.decoded(file, kind, limits)
    found, warning = _exif(file, kind, opened.picture)
    orientation = pictures.orientation_of(opened, found.orientation, raw=kind.raw)
    profile = opened.profile or exif_profile(found)
    size = opened.size
    if orientation in (5, 6, 7, 8) and not kind.raw:
        size = size[1], size[0]
    return _Shown(
        exif=found,
        size=size,
        thumbnails=thumbnails.make(opened.picture, orientation, profile, opened.coding),
        warning="; ".join(filter(None, (opened.warning, warning))) or None,
    )


def _not_shown(file: BinaryIO, kind: Format, reason: str) -> _Shown:
    """Return what can be told of a picture that nothing here decodes."""
    found, warning = exif.read_file(file) if _is_tiff(kind) else (Exif(), None)
    return _Shown(exif=found, warning="; ".join(filter(None, (f"has no thumbnail: {reason}", warning))))


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
    raise Rejected(f"not an image: it looks like {describe(head)}", FailureReason.NOT_AN_IMAGE)


def _exif(file: BinaryIO, kind: Format, picture: Image.Image) -> tuple[Exif, str | None]:
    found, warning = _own_exif(file, kind, picture)
    (xmp, words), iptc = metadata.read_xmp(metadata.xmp_of(picture)), metadata.iptc_date(metadata.iptc_of(picture))
    dates = replace(found.dates, xmp=xmp, iptc=iptc or found.dates.iptc)
    return replace(found, dates=dates, raw={**found.raw, **words}), warning


def _own_exif(file: BinaryIO, kind: Format, picture: Image.Image) -> tuple[Exif, str | None]:
    if _is_tiff(kind):
        return exif.read_file(file)
    block = picture.info.get("exif")
    if not block and kind is PNG:
        block = metadata.hex_profile(picture.info.get("Raw profile type exif"))
    return exif.read_block(block if isinstance(block, bytes) else None)


def _is_tiff(kind: Format) -> bool:
    """Return whether EXIF readers can read the file itself."""
    return kind is TIFF or (kind.raw and kind not in (RAF, CR3, CRW, MRW, X3F))


@contextmanager
def _explained(file: BinaryIO, kind: Format | None, limits: Limits) -> Iterator[None]:
    """Turn whatever a decoder raises, which may be anything, into an error that says what it means."""
    try:
        yield
    except (DarkroomError, UnsupportedError):
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
        if reason.lower().startswith("unsupported"):
            raise UnsupportedError(reason) from error
        if isinstance(error, UnidentifiedImageError) or not reason:
            reason = "its header makes no sense"
        raise Rejected(f"a damaged {kind.name}: {reason}", FailureReason.DAMAGED) from error
