"""Reads an XMP file (Adobe's XMP specification, part 1) into its properties, and nothing else of it.

It may come from anybody: a document with a DTD is refused before anything is built of it, and so are very large and
very deep ones.
"""

from collections.abc import Iterator
from typing import Any
from xml.parsers.expat import ExpatError

from defusedxml.common import DefusedXmlException

# Not by its minidom, which does just that and brings half a web client along: 4 MB in each decoder.
from defusedxml.expatbuilder import parseString

from daemon.decoding import MAX_DEPTH, MAX_MARKS, MAX_TEXT_BYTES, RDF, XML, XMLNS, Attribute, Element
from daemon.errors import Rejected

_MAX_NAME = 1000


def read(content: bytes) -> list[Element]:
    """Return the properties of a packet in their order. Raises Rejected with why it is none that can be used."""
    document = _parsed(content)
    found = document.getElementsByTagNameNS(RDF, "RDF")
    if not found:
        raise Rejected("XML, but without the rdf:RDF of XMP")
    properties = []
    for description in _elements(found[0]):
        for attribute in description.attributes.values():
            if attribute.namespaceURI not in {None, RDF, XML, XMLNS}:
                # The short form of a property; its prefix means outside what it means here.
                properties.append(Element(attribute.namespaceURI, attribute.name, (), (attribute.value,)))
        properties += [_element(element) for element in _elements(description) if element.namespaceURI is not None]
    document.unlink()
    return properties


def _parsed(content: bytes) -> Any:
    if len(content) > MAX_TEXT_BYTES:
        raise Rejected(f"larger than {MAX_TEXT_BYTES >> 20} MB")
    if content.count(b"<") + content.count(b"=") > MAX_MARKS:
        raise Rejected("too many elements and attributes")
    try:
        document = parseString(content, forbid_dtd=True)  # type: ignore[arg-type]  # its stub knows no bytes
    except DefusedXmlException as error:
        raise Rejected("it has a DTD, which XMP never has") from error
    except (ExpatError, ValueError, LookupError) as error:
        raise Rejected(f"no well-formed XML: {error}") from error
    # Level by level: whatever else walks a tree does so by recursion, which ends at Python's limit.
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level for child in _elements(parent)]
    if level:
        raise Rejected("nested too deeply")
    return document


def _element(element: Any) -> Element:
    names = [name for one in (element, *element.attributes.values()) for name in (one.namespaceURI, one.nodeName)]
    if any(name and len(name) > _MAX_NAME for name in names):
        raise Rejected("names that are too long")  # one of them may stand for each of thousands of elements
    attributes = tuple(Attribute(one.namespaceURI, one.name, one.value) for one in element.attributes.values())
    children: list[Element | str] = []
    for node in element.childNodes:
        if node.nodeType == node.ELEMENT_NODE:
            children.append(_element(node))
        elif node.nodeType in {node.TEXT_NODE, node.CDATA_SECTION_NODE}:
            children.append(node.data)
    return Element(element.namespaceURI, element.tagName, attributes, tuple(children))


def _elements(parent: Any) -> Iterator[Any]:
    return (node for node in parent.childNodes if node.nodeType == node.ELEMENT_NODE)
