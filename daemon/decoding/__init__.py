"""Decodes one image: what it really is, its SHA-256, EXIF and thumbnails.

Plain values in, a frozen `Decoded` out. `sandbox.Sandbox` is the way in; all that decodes runs in its child
process, and only `formats.sniff` is safe and cheap enough for the main program. Nothing here knows of the
configuration, the database or the other folders.

    sandbox ──► worker ──► decode ──► formats      what is it, by its first bytes?
                                  ├─► pictures     opened by Pillow, of a RAW file its preview
                                  ├─► thumbnails   decoded in full, upright, in sRGB
                                  ├─► exif         read within bounds, as people search by it
                                  └─► truncation   does it stop too early? (tiff: directories)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.files.opening import Identity


@dataclass(frozen=True)
class Limits:
    """What one image may cost."""

    file_mb: int = 2048
    megapixels: int = 250
    seconds: float = 60.0
    memory_mb: int = 2048


@dataclass(frozen=True)
class Exif:
    """The EXIF fields that people search by; absent is None, never a made-up value.

    `focal_length` is in millimetres, `exposure_time` as photographers write it ("1/250", "2.5"),
    `datetime_original` ISO 8601 with the offset where EXIF has one, `lat` and `lon` decimal degrees
    (north and east positive), `raw` every tag as JSON values.
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
    raw: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """All that one image's bytes tell. `width` and `height` are in pixels, upright."""

    identity: Identity
    sha256: str
    format: str
    suffixes: tuple[str, ...]
    width: int
    height: int
    exif: Exif
    small: bytes
    medium: bytes
    warning: str | None = None
