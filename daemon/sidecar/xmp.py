"""XMP packets, made and written (Adobe's XMP specification, part 1), keeping properties that it knows nothing of.

What is written has one rdf:Description of properties as elements. What others have written is read by
`daemon.decoding.xmp`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.dom.minidom import getDOMImplementation

from daemon.decoding import ILLEGAL, RDF, XML, XMLNS, Element

DC = "http://purl.org/dc/elements/1.1/"
XMP = "http://ns.adobe.com/xap/1.0/"
EXIF = "http://ns.adobe.com/exif/1.0/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
LIGHTROOM = "http://ns.adobe.com/lightroom/1.0/"
# A name of our own that claims nobody's address (RFC 9562).
DARKROOM = "urn:uuid:d3ed3d13-7c08-4015-9a3d-8cfa5a0057b2#"
DIGIKAM = "http://www.digikam.org/ns/1.0/"

_META = "adobe:ns:meta/"
_PREFIXES = {RDF: "rdf", DC: "dc", XMP: "xmp", EXIF: "exif", PHOTOSHOP: "photoshop", LIGHTROOM: "lr"}


class Packet:
    """One XMP packet; a property is named by its namespace and its name."""

    def __init__(self) -> None:
        implementation: Any = getDOMImplementation()
        self._document: Any = implementation.createDocument(_META, "x:xmpmeta", None)
        root = self._document.documentElement
        root.setAttributeNS(XMLNS, "xmlns:x", _META)
        self._description: Any = None
        self._properties: dict[tuple[str, str], Any] = {}
        self._rdf = self._child(root, RDF, "rdf:RDF")
        self._rdf.setAttributeNS(XMLNS, "xmlns:rdf", RDF)
        self._description = self._child(self._rdf, RDF, "rdf:Description")
        self._description.setAttributeNS(RDF, "rdf:about", "")

    @classmethod
    def of(cls, properties: Sequence[Element]) -> "Packet":
        """Return a packet of what was read out of a file."""
        packet = cls()
        for element in properties:
            packet._take_in(packet._built(element))
        return packet

    def absorb(self, other: "Packet") -> None:
        """Take over each property of another packet that this one lacks."""
        for element in _elements(other._description):
            self._take_in(self._document.importNode(element, True))

    def text(self, namespace: str, name: str) -> str | None:
        """Return a property's text: of the default language, or the first, where it has several."""
        element = self._find(namespace, name)
        if element is None:
            return None
        items = list(_items(element))
        if not items:
            return _text(element)
        default = [item for item in items if item.getAttributeNS(XML, "lang") == "x-default"]
        return _text((default or items)[0])

    def texts(self, namespace: str, name: str) -> list[str]:
        """Return a property's texts, whether it is a list or a single one."""
        element = self._find(namespace, name)
        if element is None:
            return []
        items = [_text(item) for item in _items(element)] or [_text(element)]
        return [item for item in items if item]

    def has(self, namespace: str, name: str) -> bool:
        """Return whether there is such a property."""
        return self._find(namespace, name) is not None

    def set(self, namespace: str, name: str, value: str | None) -> None:
        """Set a plain property; None removes it."""
        self._remove(namespace, name)
        if value is not None:
            self._add(namespace, self._qualified(namespace, name), value)

    def offer(self, properties: Mapping[tuple[str, str], str]) -> None:
        """Set some plain properties, where there is none of them."""
        if not any(self.has(namespace, name) for namespace, name in properties):
            for (namespace, name), value in properties.items():
                self.set(namespace, name, value)

    def set_language(self, namespace: str, name: str, value: str | None) -> None:
        """Set a property's text of the default language (the others stay); None removes the property."""
        element = self._find(namespace, name)
        others = [] if element is None or value is None else list(_items(element))
        self._remove(namespace, name)
        if value is None:
            return
        alternatives = self._container(namespace, name, "rdf:Alt")
        self._item(alternatives, value, "x-default")
        for item in others:
            language = item.getAttributeNS(XML, "lang")
            if language and language != "x-default":
                self._item(alternatives, _text(item), language)

    def set_list(self, namespace: str, name: str, values: Sequence[str]) -> None:
        """Set a property to an unordered list; an empty one removes it."""
        self._remove(namespace, name)
        if values:
            bag = self._container(namespace, name, "rdf:Bag")
            for value in values:
                self._item(bag, value)

    def serialize(self) -> bytes:
        """Return the packet as a file's content, which follows from its properties, whatever order they came in."""
        self._put_in_order()
        self._rdf.normalize()
        body: str = self._document.documentElement.toxml()
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n' + body + '\n<?xpacket end="w"?>\n'
        ).encode()

    def declare(self, namespace: str, prefix: str) -> None:
        """Use a prefix for a namespace of one's own."""
        self._declare(self._description, f"xmlns:{prefix}", namespace)

    def _put_in_order(self) -> None:
        """Sort the properties and the declarations above them, of which those go that no property needs."""
        above, elements = self._description, [self._properties[name] for name in sorted(self._properties)]
        for node in list(above.childNodes):
            above.removeChild(node)
        used: dict[str, str] = {}
        for element in elements:
            self._append(above, element)
            _prefixes(element, used)
        declared = {a.name: a.value for a in above.attributes.values() if a.namespaceURI == XMLNS}
        for name in declared:
            above.removeAttribute(name)
        for name in sorted(declared.keys() & used.keys()):
            if (name, declared[name]) != ("xmlns:rdf", RDF):  # which stands further up
                above.setAttributeNS(XMLNS, name, declared[name])

    def _qualified(self, namespace: str, name: str) -> str:
        declared = self._description.attributes.values()
        own = {a.value: a.localName for a in declared if a.namespaceURI == XMLNS}
        return f"{own.get(namespace) or _PREFIXES[namespace]}:{name}"

    def _find(self, namespace: str, name: str) -> Any:
        return self._properties.get((namespace, name))

    def _remove(self, namespace: str, name: str) -> None:
        element = self._find(namespace, name)
        if element is not None:
            after = element.nextSibling
            if after is not None and after.nodeType == after.TEXT_NODE:
                self._description.removeChild(after)
            self._description.removeChild(element)
            del self._properties[namespace, name]

    def _add(self, namespace: str, qualified: str, text: str) -> None:
        if not self.has(namespace, qualified.rpartition(":")[2]):
            element = self._child(self._description, namespace, qualified)
            self._declare_prefix(element, qualified, namespace)
            element.appendChild(self._document.createTextNode(_legal(text)))

    def _container(self, namespace: str, name: str, kind: str) -> Any:
        qualified = self._qualified(namespace, name)
        element = self._child(self._description, namespace, qualified)
        self._declare_prefix(element, qualified, namespace)
        return self._child(element, RDF, kind)

    def _item(self, container: Any, text: str, language: str | None = None) -> None:
        item = self._child(container, RDF, "rdf:li")
        if language is not None:
            item.setAttributeNS(XML, "xml:lang", language)
        item.appendChild(self._document.createTextNode(_legal(text)))

    def _built(self, element: Element) -> Any:
        made = self._document.createElementNS(element.namespace, element.name)
        for attribute in element.attributes:
            made.setAttributeNS(attribute.namespace, attribute.name, _legal(attribute.value))
        for child in element.children:
            if isinstance(child, str):
                made.appendChild(self._document.createTextNode(_legal(child)))
            else:
                made.appendChild(self._built(child))
        return made

    def _take_in(self, element: Any) -> None:
        """Append a property of another document, unless there is one of its name."""
        if self.has(element.namespaceURI, element.localName):
            return
        # The declarations stand on ancestors that don't come along; two documents may mean different things by one
        # prefix, so each property brings its own.
        used: dict[str, str] = {}
        _prefixes(element, used)
        for name, namespace in used.items():
            self._declare(element, name, namespace)
        self._append(self._description, element)

    def _declare(self, element: Any, name: str, namespace: str) -> None:
        """Declare a prefix once, above all properties; where it means something else there, at the one property."""
        above = self._description
        if name == "xmlns" or above.getAttributeNS(XMLNS, name.partition(":")[2]) not in {"", namespace}:
            above = element
        above.setAttributeNS(XMLNS, name, namespace)

    def _declare_prefix(self, element: Any, qualified: str, namespace: str) -> None:
        prefix = qualified.partition(":")[0] if ":" in qualified else ""
        self._declare(element, f"xmlns:{prefix}" if prefix else "xmlns", namespace)

    def _child(self, parent: Any, namespace: str, qualified: str) -> Any:
        element = self._document.createElementNS(namespace, qualified)
        self._append(parent, element)
        return element

    def _append(self, parent: Any, element: Any) -> None:
        if not parent.childNodes:
            parent.appendChild(self._document.createTextNode("\n"))
        parent.appendChild(element)
        if parent is self._description:
            self._properties[element.namespaceURI, element.localName] = element
        parent.appendChild(self._document.createTextNode("\n"))


def _legal(text: str) -> str:
    return ILLEGAL.sub("", text)


def _elements(parent: Any) -> Iterator[Any]:
    return (node for node in list(parent.childNodes) if node.nodeType == node.ELEMENT_NODE)


def _items(element: Any) -> Iterator[Any]:
    for container in _elements(element):
        if container.namespaceURI == RDF and container.localName in {"Alt", "Bag", "Seq"}:
            yield from (item for item in _elements(container) if item.localName == "li")


def _text(element: Any) -> str:
    parts = [node.data for node in element.childNodes if node.nodeType in {node.TEXT_NODE, node.CDATA_SECTION_NODE}]
    return "".join(parts).strip()


def _prefixes(element: Any, used: dict[str, str]) -> None:
    """Collect the declarations that an element and all in it need."""
    for node in (element, *element.attributes.values()):
        if node.namespaceURI and node.namespaceURI not in {XML, XMLNS}:
            used.setdefault(f"xmlns:{node.prefix}" if node.prefix else "xmlns", node.namespaceURI)
    for child in _elements(element):
        _prefixes(child, used)
