"""Reads what a decoder's process answers, as if it had been taken over: plain bytes, held to bounds, nothing run.

Every field is checked against what an honest decoder says: types, ranges, lengths, texts of one line. Formats and
errors are chosen from closed lists.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from daemon.decoding import (
    MAX_DEPTH,
    MAX_MARKS,
    XML,
    XMLNS,
    Attribute,
    DateTexts,
    Decoded,
    Element,
    Exif,
    Takeout,
    XmpDates,
    formats,
)
from daemon.decoding.confinement import Confinement
from daemon.decoding.worker import HEADER, ErrorCode
from daemon.errors import DarkroomError, FailureReason, Rejected, Transient, Truncated, Unresponsive
from daemon.files.opening import Identity

# The tags of an image are at most 256 KiB of JSON, which escapes up to sixfold, and its words in XMP, three texts and
# three lists of 200, at most 630 kB; the other fields are short. A medium thumbnail of pure noise is about 0.5 MB.
_MAX_JSON, _MAX_JPEG = 8 << 20, 4 << 20
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

# Names in namespaces (Namespaces in XML 1.0, NCName).
_FIRST = (
    "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c\u200d\u2070-\u218f"
    "\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_PART = f"[{_FIRST}][-.0-9\u00b7\u0300-\u036f\u203f-\u2040{_FIRST}]*"
_NAME = re.compile(f"{_PART}(?::{_PART})?")

_ERRORS: dict[ErrorCode, type[DarkroomError]] = {
    ErrorCode.REJECTED: Rejected,
    ErrorCode.TRANSIENT: Transient,
    ErrorCode.TRUNCATED: Truncated,
    ErrorCode.UNRESPONSIVE: Unresponsive,
}
_FORMATS = {(kind.name, kind.suffixes) for kind in vars(formats).values() if isinstance(kind, formats.Format)}


class Nonsense(Exception):
    """Raised when an answer is none that an honest decoder gives."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("should be printable")
    return text


def _finite(value: JsonValue) -> JsonValue:
    """Check numbers at any depth: JSON knows no infinity, and what is sent on to browsers is JSON."""
    parts = [value]
    for part in parts:  # it grows meanwhile
        if isinstance(part, list | dict):
            parts += part.values() if isinstance(part, dict) else part
        elif isinstance(part, float) and not math.isfinite(part):
            raise ValueError("should be finite")
    return value


Text = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
_Words = Annotated[str, Field(max_length=10_000)]
_Float = Annotated[float, Field(allow_inf_nan=False)]
_Pixels = Annotated[int, Field(ge=1, le=1 << 31)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _XmpDates(_Message):
    original: Text | None
    photoshop: Text | None
    created: Text | None


class _DateTexts(_Message):
    original: Text | None
    original_offset: Text | None
    created: Text | None
    created_offset: Text | None
    gps: Text | None
    xmp: _XmpDates
    iptc: Text | None
    modified: Text | None
    modified_offset: Text | None


class _Exif(_Message):
    camera_make: Text | None
    camera_model: Text | None
    lens_model: Text | None
    datetime_original: Text | None
    iso: Annotated[int, Field(ge=0, lt=1 << 32)] | None
    focal_length: _Float | None
    exposure_time: Text | None
    f_number: _Float | None
    orientation: Annotated[int, Field(ge=1, le=8)] | None
    lat: Annotated[float, Field(ge=-90, le=90)] | None
    lon: Annotated[float, Field(ge=-180, le=180)] | None
    dates: _DateTexts
    raw: dict[Annotated[str, Field(max_length=1000)], Annotated[JsonValue, AfterValidator(_finite)]]


class _Image(_Message):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    format: str
    suffixes: list[str]
    width: _Pixels | None
    height: _Pixels | None
    exif: _Exif
    # The classes that `thumbnails.colour` has.
    colour: Annotated[int, Field(ge=0, le=63)] | None
    warning: Text | None


class _Refusal(_Message):
    # Strictly an enum would have to be one already, which JSON has not.
    code: Annotated[ErrorCode, Field(strict=False)]
    text: Annotated[str, Field(max_length=1000)]
    failure: Annotated[FailureReason, Field(strict=False)]


class _Fault(_Message):
    fault: Annotated[str, Field(max_length=1000)]


class _Hello(_Message):
    landlock: int
    seccomp: bool
    lacks: list[str]


class _Properties(_Message):
    properties: tuple[Element, ...]


class _Takeout(_Message):
    title: _Words | None
    description: _Words | None
    people: Annotated[tuple[_Words, ...], Field(max_length=200)]
    taken_utc: Annotated[datetime, Field(strict=False)] | None
    lat: Annotated[float, Field(ge=-90, le=90)] | None
    lon: Annotated[float, Field(ge=-180, le=180)] | None


_ANSWER: TypeAdapter[_Image | _Refusal] = TypeAdapter(_Image | _Refusal)
_PROPERTIES: TypeAdapter[_Properties | _Refusal] = TypeAdapter(_Properties | _Refusal)
_TAKEOUT: TypeAdapter[_Takeout | _Refusal] = TypeAdapter(_Takeout | _Refusal)
_GREETING: TypeAdapter[_Hello | _Fault] = TypeAdapter(_Hello | _Fault)


@dataclass(frozen=True)
class Lengths:
    """How many bytes of an answer are JSON, the small and the medium thumbnail."""

    text: int
    small: int
    medium: int

    @classmethod
    def parse(cls, header: bytes, most: int = _MAX_JSON) -> "Lengths":
        """Return the lengths in a header. Raises Nonsense where no answer is as long as that."""
        found = cls(*HEADER.unpack(header))
        if found.text > most or found.small > _MAX_JPEG or found.medium > _MAX_JPEG:
            raise Nonsense("an answer longer than any")
        return found

    @property
    def total(self) -> int:
        """The length of all that comes behind the header."""
        return self.text + self.small + self.medium


def read_greeting(content: bytes) -> Confinement:
    """Return how a process is shut in. Raises Transient with its reason where it could not begin, Nonsense."""
    try:
        found = _GREETING.validate_json(content)
    except ValidationError as error:
        raise Nonsense("no greeting") from error
    if isinstance(found, _Fault):
        raise Transient(found.fault)
    return Confinement(found.landlock, found.seccomp, tuple(found.lacks))


def read(content: bytes, lengths: Lengths, identity: Identity) -> Decoded:
    """Return what was decoded of the file of this identity.

    Raises Rejected, Transient, Truncated or Unresponsive where the answer says so, Nonsense where it makes no sense.
    """
    try:
        found = _ANSWER.validate_json(content[: lengths.text])
    except ValidationError as error:
        raise Nonsense("its fields are not those of an image") from error
    if isinstance(found, _Refusal):
        raise _error(found)
    if (found.format, tuple(found.suffixes)) not in _FORMATS:
        raise Nonsense("no format has this name and these suffixes")
    small, medium = (
        content[lengths.text : lengths.text + lengths.small],
        content[lengths.text + lengths.small : lengths.total],
    )
    shown = found.width is not None
    if (found.height is not None) != shown or not (shown or (found.colour, small, medium) == (None, b"", b"")):
        raise Nonsense("half of what a picture has")
    if shown and not all(one.startswith(_JPEG_START) and one.endswith(_JPEG_END) for one in (small, medium)):
        raise Nonsense("its thumbnails are no JPEGs")
    told = found.exif
    dates = {**vars(told.dates), "xmp": XmpDates(**vars(told.dates.xmp))}
    exif = Exif(**{**vars(told), "dates": DateTexts(**dates)})
    return Decoded(
        identity,
        found.sha256,
        found.format,
        tuple(found.suffixes),
        found.width,
        found.height,
        exif,
        small,
        medium,
        found.colour,
        found.warning,
    )


def read_properties(content: bytes) -> tuple[Element, ...]:
    """Return the properties of an XMP file. Raises what `read` raises."""
    try:
        found = _PROPERTIES.validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise Nonsense("its fields are not those of XMP") from error
    if isinstance(found, _Refusal):
        raise _error(found)
    if not all(isinstance(one.namespace, str) for one in found.properties) or not _is_xml(found.properties):
        raise Nonsense("no XML can be made of it")
    return found.properties


def read_takeout(content: bytes) -> Takeout:
    """Return what a JSON of Google Takeout says. Raises what `read` raises."""
    try:
        found = _TAKEOUT.validate_json(content)
    except ValidationError as error:
        raise Nonsense("its fields are not those of a JSON") from error
    if isinstance(found, _Refusal):
        raise _error(found)
    if found.taken_utc is not None and found.taken_utc.utcoffset() is None:
        raise Nonsense("a time without an offset")
    return Takeout(**vars(found))


def _is_xml(properties: Sequence[Element]) -> bool:
    """Return whether XML can be written of it that means the same: names are written as they are."""
    level, count = list(properties), 0
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_MARKS or not all(map(_is_named_well, level)):
            return False
        level = [child for one in level for child in one.children if isinstance(child, Element)]
    return not level


def _is_named_well(element: Element) -> bool:
    parts: list[Element | Attribute] = [element, *element.attributes]
    return all(_is_name(part.name, part.namespace) for part in parts)


def _is_name(name: str, namespace: str | None) -> bool:
    """Return whether a name stands for one in this namespace; the prefixes of XML itself stand for nothing else."""
    prefix = name.partition(":")[0]
    is_xml, is_declaration = name.startswith("xml:"), prefix == "xmlns"
    if is_xml != (namespace == XML) or is_declaration != (namespace == XMLNS):
        return False
    return _NAME.fullmatch(name) is not None and (bool(namespace) or ":" not in name)


def _error(found: _Refusal) -> DarkroomError:
    kind = _ERRORS[found.code]
    return kind(found.text, found.failure) if kind in {Rejected, Transient} else kind(found.text)
