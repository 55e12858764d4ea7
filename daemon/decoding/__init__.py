"""Decodes one image: what it really is, its SHA-256, EXIF and thumbnails.

Plain values in, a frozen `Decoded` out. `sandbox.Sandbox` is the way in; all that decodes runs in its child
process, and only `formats.sniff` is safe and cheap enough for the main program. Nothing here knows of the
configuration, the database or the other folders.

    sandbox ──► worker ──► decode ──► formats      what is it, by its first bytes?
                                  ├─► pictures     opened and decoded: by Pillow, of a RAW file its preview, and
                                  │                what Pillow can't (tiff_samples, jpeg_xl), mended (repairs)
                                  ├─► exif         read within bounds, as people search by it
                                  ├─► metadata     the dates in XMP and IPTC, read within bounds
                                  ├─► thumbnails   upright, in sRGB (colours, colorimetry)
                                  └─► truncation   does it stop too early? (tiff: directories, boxes: HEIF's)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.files.opening import Identity


class UnsupportedError(Exception):
    """Raised within for what is sound as far as can be seen, and of a kind that has no decoder: it is filed without."""


@dataclass(frozen=True)
class Limits:
    """What one image may cost."""

    file_mb: int = 2048
    megapixels: int = 250
    seconds: float = 60.0
    memory_mb: int = 2048


@dataclass(frozen=True)
class XmpDates:
    """The dates of an XMP packet, as the texts that stand in it: exif:DateTimeOriginal, photoshop:DateCreated, …"""

    original: str | None = None
    photoshop: str | None = None
    created: str | None = None


@dataclass(frozen=True)
class DateTexts:
    """What a file says of when it was taken: the texts as they stand in it, short, by no means all dates.

    `original`, `created` and `modified` are EXIF's DateTimeOriginal, DateTimeDigitized (exiftool's CreateDate) and
    DateTime (ModifyDate), each with the offset that stands beside it; `gps` is GPS's date and time, in UTC, and `iptc`
    IPTC's (2:55 and 2:60), a space between them.
    """

    original: str | None = None
    original_offset: str | None = None
    created: str | None = None
    created_offset: str | None = None
    gps: str | None = None
    xmp: XmpDates = XmpDates()
    iptc: str | None = None
    modified: str | None = None
    modified_offset: str | None = None


@dataclass(frozen=True)
class Exif:
    """The EXIF fields that people search by; absent is None, never a made-up value.

    `focal_length` is in millimetres, `exposure_time` as photographers write it ("1/250", "2.5"),
    `datetime_original` ISO 8601 with the offset where EXIF has one, `lat` and `lon` decimal degrees
    (north and east positive), `raw` every tag as JSON values. `dates` are those of XMP and IPTC, too.
    """

    camera_make: str | None = None
    camera_model: str | None = None
    lens_model: str | None = None
    datetime_original: str | None = None
    iso: int | None = None
    focal_length: float | None = None
    exposure_time: str | None = None
    f_number: float | None = None
    orientation: int | None = None
    lat: float | None = None
    lon: float | None = None
    dates: DateTexts = DateTexts()
    raw: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """All that one image's bytes tell. `width` and `height` are in pixels, upright.

    Of a kind without a decoder there are neither, and both thumbnails are empty.
    """

    identity: Identity
    sha256: str
    format: str
    suffixes: tuple[str, ...]
    width: int | None
    height: int | None
    exif: Exif
    small: bytes
    medium: bytes
    warning: str | None = None
