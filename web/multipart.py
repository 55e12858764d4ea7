"""Cuts a multipart/form-data body into its parts as it streams in; nothing is kept."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from web.context import ApiError
from web.digests import FIELD

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 1000
# RFC 8187: charset'language'value. RFC 7578 forbids it in forms, and clients send it nevertheless for names that are
# not ASCII.
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[a-z0-9-]*'([^;\s]+)", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')


@dataclass(frozen=True)
class Begin:
    """A part begins; `filename` is None for a plain field, `digests` are the lines of its Content-Digest."""

    field: str
    filename: str | None
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """Some bytes of the part that has begun."""

    block: bytes


@dataclass(frozen=True)
class End:
    """The part is complete."""


class Multipart:
    """A parser fed with the body's chunks. Raises ApiError 400 for a body that is malformed."""

    def __init__(self, content_type: str) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise ApiError(400, "the Content-Type names no boundary between the parts")
        self._events: list[Begin | Data | End] = []
        self._name, self._value = b"", b""
        self._disposition = ""
        self._digests: list[str] = []
        self._parts = 0
        self.complete = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise ApiError(400, f"malformed multipart body: {error}") from error

    def feed(self, chunk: bytes) -> list[Begin | Data | End]:
        """Return what the next chunk brings."""
        if self.complete:
            return []  # an epilogue, which RFC 2046 has readers ignore
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise ApiError(400, f"malformed multipart body: {error}") from error
        events, self._events = self._events, []
        return events

    def _on_begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise ApiError(400, f"more than {_MAX_PARTS} parts in one request")
        self._disposition, self._digests = "", []

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value.decode("latin-1")
        if self._name.lower() == FIELD.lower().encode():
            self._digests.append(self._value.decode("latin-1"))
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        filename = options.get(b"filename")
        # What stands in quotes is part of another value.
        extended = _EXTENDED.search(_QUOTED.sub('""', self._disposition))
        shown = unquote(extended[2], extended[1]) if extended else None if filename is None else _text(filename)
        self._events.append(Begin(_text(options.get(b"name", b"")), shown, tuple(self._digests)))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(Data(data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(End())

    def _on_end(self) -> None:
        self.complete = True


def _text(value: bytes) -> str:
    """Return a form's name: UTF-8 as browsers send it, else in the encoding that takes any byte."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
