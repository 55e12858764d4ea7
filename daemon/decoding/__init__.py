"""Decodes one image: what it really is, its SHA-256, EXIF and thumbnails; and reads the texts that come beside it.

An open file in, a frozen `Decoded` out. `sandbox.Sandbox` is the way in; all that decodes runs in its processes, and
only `formats.sniff` is safe and cheap enough for the main program. Nothing here knows of the configuration, the
database or the other folders.

    sandbox        as many processes as it was given
      child        one of them, from outside: started, handed an open file, held to its limits
      answers      what it says, read with suspicion
    ── a socket ──
      worker       the process from within ──► confinement: Landlock and seccomp
        decode ──► formats      what is it, by its first bytes?
               ├─► pictures     opened and decoded: by Pillow, of a RAW file its preview, and what
               │                Pillow can't (tiff_samples, jpeg_xl), mended (repairs)
               ├─► exif         read within bounds, as people search by it
               ├─► metadata     dates in XMP and IPTC, words in XMP, read within bounds
               ├─► thumbnails   upright, in sRGB (colours, colorimetry)
               └─► truncation   does it stop too early? (tiff: directories, boxes: HEIF's)
        xmp, takeout            what lies beside a photo: the properties of an XMP file, a JSON of Google Takeout
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from daemon.files.opening import Identity

# The namespaces of RDF, in which XMP is written, and of XML itself.
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XML = "http://www.w3.org/XML/1998/namespace"
XMLNS = "http://www.w3.org/2000/xmlns/"

MAX_TEXT_BYTES = 16 << 20
"""No XMP file and no JSON of Takeout's is as large as this; nobody needs to read more to know that it is none."""
MAX_MARKS = 100_000
"""What opens, closes or gives a value in a text: no tree has more parts, and counting costs no tree."""
MAX_DEPTH = 64

ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML can't hold, escaped or not."""

# How many times the processor time may pass where others are at work, too, and what the slowest disk or share that
# anybody keeps photos on still reads in a second.
_BUSY = 10
_BYTES_PER_SECOND = 1_000_000


class UnsupportedError(Exception):
    """Raised within for what is sound as far as can be seen, and of a kind that has no decoder: it is filed without."""


@dataclass(frozen=True)
class Limits:
    """What one image may cost: `seconds` of processor time, and no progress at all for `stall_seconds`."""

    file_mb: int = 2048
    megapixels: int = 250
    seconds: float = 20.0
    memory_mb: int = 2048
    stall_seconds: float = 30.0

    def longest(self, size: int) -> float:
        """Return how many seconds a file of so many bytes may take in all, on a busy machine and a slow disk."""
        return self.stall_seconds + _BUSY * self.seconds + size / _BYTES_PER_SECOND


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
    (north and east positive), `raw` every tag as JSON values, and a person's words in XMP ("XMP dc:title"). `dates` are
    those of XMP and IPTC, too.
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
    # The class of the mean colour, as `thumbnails.colour` has it.
    colour: int | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Attribute:
    """One attribute of an element, by its namespace and its name with the prefix."""

    namespace: str | None
    name: str
    value: str


@dataclass(frozen=True)
class Element:
    """A property of XMP, or an element within one, with what it holds: XML without anything that could run."""

    namespace: str | None
    name: str
    attributes: tuple[Attribute, ...]
    children: "tuple[Element | str, ...]"


@dataclass(frozen=True)
class Takeout:
    """What one JSON of Google Takeout says of a photo. `title` is its file name in Google Photos.

    None is not said; `taken_utc` has its offset, places are decimal degrees.
    """

    title: str | None = None
    description: str | None = None
    people: tuple[str, ...] = ()
    taken_utc: datetime | None = None
    lat: float | None = None
    lon: float | None = None


class TextReader(Protocol):
    """What reads the texts that lie beside photos (the sandbox): they, too, may come from anybody."""

    def read_xmp(self, content: bytes) -> Sequence[Element]:
        """Return the properties of an XMP file. Raises Rejected, Transient, EnvironmentFault."""

    def read_takeout(self, content: bytes) -> Takeout:
        """Return what a JSON says, nothing where it is none of Takeout's. Raises Transient, EnvironmentFault."""
