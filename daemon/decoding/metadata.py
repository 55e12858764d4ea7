"""Reads the dates in an image's XMP packet and IPTC block, and nothing else of them.

Both come from anybody. XMP is streamed through expat, which builds nothing of it, and is left at the first DTD, so no
entity is ever expanded; of IPTC two short datasets are looked for. What is damaged has no dates.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from xml.parsers import expat

from PIL import Image

from daemon.decoding import XmpDates

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DESCRIPTION, _ROOT = f"{_RDF} Description", f"{_RDF} RDF"
_XMP_DATES = {
    "http://ns.adobe.com/exif/1.0/ DateTimeOriginal": "original",
    "http://ns.adobe.com/photoshop/1.0/ DateCreated": "photoshop",
    "http://ns.adobe.com/xap/1.0/ CreateDate": "created",
}
# A packet without these can't hold what is looked for, and most are not parsed.
_NAMES = (b"DateTimeOriginal", b"DateCreated", b"CreateDate")
_MAX_XMP, _MAX_IPTC, _MAX_DEPTH, _MAX_TEXT = 4 << 20, 1 << 20, 256, 64
# Where each format's plugin of Pillow leaves the packet, and what ImageMagick and exiftool write into PNG as text.
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_IPTC_RESOURCE = 0x0404


class _Left(Exception):
    """Raised to leave a document that is no XMP."""


def xmp_dates(packet: bytes | None) -> XmpDates:
    """Return the dates of an XMP packet (Adobe's XMP specification, part 2); none where it is damaged or has a DTD."""
    if packet is None or len(packet) > _MAX_XMP or not any(name in packet for name in _NAMES):
        return XmpDates()
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(packet.strip(b"\0"), True)
    except (expat.ExpatError, ValueError, LookupError, _Left):
        # What came before the damage was well-formed, but by whom it was written is anybody's guess.
        return XmpDates()
    return XmpDates(**reader.found)


class _Reader:
    """Collects the properties of the descriptions right below rdf:RDF; those of structures are of other files."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._path: list[str] = []
        self._text = ""

    def doctype(self, *_: object) -> None:
        raise _Left

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._path) >= _MAX_DEPTH:
            raise _Left
        self._path.append(name)
        self._text = ""
        if self._path[-2:] == [_ROOT, _DESCRIPTION]:
            for attribute, value in attributes.items():
                self._note(attribute, value)

    def text(self, data: str) -> None:
        if len(self._text) < _MAX_TEXT:
            self._text += data

    def end(self, name: str) -> None:
        if self._path[-3:-1] == [_ROOT, _DESCRIPTION]:
            self._note(name, self._text)
        self._path.pop()
        self._text = ""

    def _note(self, name: str, value: str) -> None:
        text = value.strip()
        if name in _XMP_DATES and text and text.isprintable():
            self.found.setdefault(_XMP_DATES[name], text[:_MAX_TEXT])


def iptc_date(block: bytes | None) -> str | None:
    """Return DateCreated and TimeCreated of an IPTC block (IIM 4.2, 2:55 and 2:60) as they stand there."""
    found = dict(_datasets((block or b"")[:_MAX_IPTC]))
    day = found.get(55)
    return None if day is None else " ".join(filter(None, (day, found.get(60))))


def _datasets(block: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of the dates in record 2; each dataset is 0x1C, record, number, length and the text."""
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, number, size = struct.unpack_from(">BBH", block, at + 1)
        if size & 0x8000:  # an extended dataset, of sizes that no date has
            return
        at += 5 + size
        if record == 2 and number in (55, 60):
            text = block[at - size : at][:_MAX_TEXT].decode("latin-1").strip(" \0")
            if text and text.isprintable():
                yield number, text


def xmp_of(picture: Image.Image) -> bytes | None:
    """Return the XMP packet of an opened picture."""
    for key in _XMP_KEYS:
        value = picture.info.get(key)
        if isinstance(value, str):
            value = hex_profile(value) if key.startswith("Raw") else value.encode("utf-8", "replace")
        if isinstance(value, bytes):
            return value
    return None


def iptc_of(picture: Image.Image) -> bytes | None:
    """Return the IPTC block of an opened picture, from Photoshop's resources or PNG's text; TIFF has a tag for it."""
    profile = picture.info.get("Raw profile type iptc")
    if isinstance(profile, str):
        block = hex_profile(profile) or b""
        return _resource(block) if block.startswith(b"8BIM") else block
    resources = picture.info.get("photoshop")
    value = resources.get(_IPTC_RESOURCE) if isinstance(resources, Mapping) else None
    return value if isinstance(value, bytes) else None


def iptc_of_tag(values: Sequence[object]) -> bytes | None:
    """Return the IPTC block in the values of TIFF's tag 33723, which Photoshop and exiftool give the type LONG."""
    numbers = [value for value in values[: _MAX_IPTC // 4] if isinstance(value, int) and 0 <= value < 1 << 32]
    if len(numbers) != len(values):
        return None
    if all(number < 256 for number in numbers):
        return bytes(numbers)
    # In the byte order of the file: in the right one it begins with IPTC's mark.
    return next(
        (block for order in "<>" if (block := struct.pack(f"{order}{len(numbers)}I", *numbers))[0] == 0x1C), None
    )


def _resource(block: object) -> bytes | None:
    """Return IPTC's part of Photoshop's image resources: 8BIM, number, padded name, length, padded data."""
    at = 0
    while isinstance(block, bytes) and block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        (number,) = struct.unpack_from(">H", block, at + 4)
        start = at + 6 + (block[at + 6] // 2 + 1) * 2
        if start + 4 > len(block):
            return None
        (size,) = struct.unpack_from(">I", block, start)
        if number == _IPTC_RESOURCE:
            return block[start + 4 : start + 4 + size]
        at = start + 4 + size + size % 2
    return None


def hex_profile(text: object) -> bytes | None:
    """Return the block that ImageMagick and exiftool write into PNG as text: name, length, lines of hexadecimal."""
    try:
        return bytes.fromhex("".join(str(text).strip().splitlines()[2:]))
    except ValueError:
        return None
