"""Refuses XML that may be an attack, before anything is built of it.

XMP may come from anybody. A DTD is where entities that expand for ever and files of others come from, so a document
that has one is refused, and so are very large and very deep ones.
"""

from xml.parsers import expat

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
# Elements and attributes; a tree of so many takes about 100 MB.
_MAX_NODES = 50_000


class Malformed(Exception):
    """Raised when a file is no XMP packet that can be used; the message says why."""


def check(content: bytes) -> None:
    """Raise Malformed for a document that may be an attack; the parser itself resolves nothing external."""
    if len(content) > _MAX_BYTES:
        raise Malformed(f"larger than {_MAX_BYTES >> 20} MB")
    depth = nodes = 0

    def refuse(*_: object) -> None:
        raise Malformed("it has a DTD, which XMP never has")

    def deeper(_name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, nodes
        depth += 1
        nodes += 1 + len(attributes)
        if nodes > _MAX_NODES:
            raise Malformed(f"more than {_MAX_NODES} elements")
        if depth > _MAX_DEPTH:
            raise Malformed("nested too deeply")

    def up(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = deeper
    parser.EndElementHandler = up
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise Malformed(f"no well-formed XML: {error}") from error
