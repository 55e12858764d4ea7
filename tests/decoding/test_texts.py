"""What lies beside photos is read in the decoders' processes, and their answers are taken for nothing else."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.decoding import MAX_DEPTH, XML, XMLNS, Attribute, Element, Limits, Takeout, answers
from daemon.decoding.answers import Nonsense
from daemon.decoding.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Postponed, Rejected
from daemon.sidecar.xmp import DC, Packet
from tests.decoding.misbehave import deed, work
from tests.support import packet_of, wait_until

ROOT = Path(__file__).parents[2]
XMP = b"""<?xpacket begin="" id="x"?><x:xmpmeta xmlns:x="adobe:ns:meta/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:RDF><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:a="urn:a" a:short="1 &lt; 2" xml:lang="en">
<dc:subject><rdf:Bag><rdf:li>\xc3\xa9t\xc3\xa9</rdf:li><rdf:li><![CDATA[a<b]]></rdf:li></rdf:Bag></dc:subject>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">T</rdf:li></rdf:Alt></dc:title>
<b xmlns="urn:b" c="d"><!-- gone --><b/></b></rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(Limits(stall_seconds=2.0), work)
    yield made
    made.close()


def test_an_xmp_comes_back_with_all_its_properties(sandbox: Sandbox) -> None:
    packet = Packet.of(sandbox.read_xmp(XMP))
    assert packet.texts(DC, "subject") == ["été", "a<b"]
    assert packet.text("urn:a", "short") == "1 < 2"
    assert packet.serialize() == packet_of(XMP).serialize()
    again = Packet.of(sandbox.read_xmp(packet.serialize()))
    assert again.serialize() == packet.serialize()


def test_a_json_comes_back_with_all_that_it_says(sandbox: Sandbox) -> None:
    said = {"title": "a.jpg", "people": [{"name": "Ann"}], "photoTakenTime": {"timestamp": "86400"}}
    place = {"geoData": {"latitude": 1, "longitude": -2.5}}
    found = sandbox.read_takeout(json.dumps({**said, **place}).encode())
    assert (found.title, found.people, found.lat, found.lon) == ("a.jpg", ("Ann",), 1.0, -2.5)
    assert found.taken_utc is not None
    assert found.taken_utc.isoformat() == "1970-01-02T00:00:00+00:00"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<a/>", "without the rdf:RDF"),
        (b"<!DOCTYPE a SYSTEM 'x'><a/>", "DTD"),
        (b" " * ((16 << 20) + 1), "larger than 16 MB"),
        (XMP.replace(b"urn:b", b"u" * 2000), "names that are too long"),
    ],
    ids=["no XMP", "DTD", "bytes", "names"],
)
def test_an_xmp_that_makes_no_sense_is_refused_with_the_reason(sandbox: Sandbox, content: bytes, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        sandbox.read_xmp(content)
    assert sandbox.read_takeout(b"[") == Takeout()


def test_a_process_that_has_died_idle_costs_nothing(sandbox: Sandbox) -> None:
    sandbox.read_takeout(b"{}")
    for pid in sandbox.pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(not child.is_sound() for child in sandbox._children))
    assert sandbox.read_xmp(XMP)


def test_a_text_comes_before_photos_that_wait_and_is_read_while_stopping(tmp_path: Path) -> None:
    made = Sandbox(Limits(stall_seconds=60.0), work)
    (tmp_path / "slow.jpg").write_bytes(deed("hang"))
    outcomes: list[str] = []

    def is_busy() -> bool:
        """Return whether one photo is in the only process, and the other one waits; not yet while that starts."""
        with made._changed:
            return bool(made._children) and not made._idle and made._waiting == 1

    def decode() -> None:
        with pytest.raises(Postponed):
            made.decode(tmp_path / "slow.jpg")
        outcomes.append("photo")

    photos = [threading.Thread(target=decode) for _ in range(2)]
    for thread in photos:
        thread.start()
    wait_until(is_busy, what="that one photo waits for the other")
    text = threading.Thread(target=lambda: outcomes.append(str(len(made.read_xmp(XMP)))))
    text.start()
    wait_until(lambda: made._waiting_to_read == 1, what="that the text waits")
    made.abort()
    for thread in (*photos, text):
        thread.join()
    assert sorted(outcomes) == ["4", "photo", "photo"]
    made.close()
    with pytest.raises(EnvironmentFault, match="darkroom is stopping"):
        made.read_xmp(XMP)


def element(name: str = "a:b", namespace: str | None = "urn:a", **more: Any) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "attributes": [], "children": [], **more}


def nested(levels: int) -> dict[str, Any]:
    made = element()
    for _ in range(levels - 1):
        made = element(children=[made])
    return made


def attribute(name: str, namespace: str | None) -> dict[str, Any]:
    return element(attributes=[{"namespace": namespace, "name": name, "value": "x"}])


FORGED = {
    "no properties": {},
    "a text alone": {"properties": ["x"]},
    "no namespace": {"properties": [element("b", None)]},
    "markup in a name": {"properties": [element("a:b><c")]},
    "a blank in a name": {"properties": [element("a:b c")]},
    "no name": {"properties": [element("")]},
    "two colons": {"properties": [element("a:b:c")]},
    "a name that begins with a digit": {"properties": [element("a:1")]},
    "a line behind a name": {"properties": [element("a:b\n")]},
    "markup in an attribute": {"properties": [attribute('b="" c', None)]},
    "a prefix of nothing": {"properties": [attribute("a:b", None)]},
    "XML's own prefix for another": {"properties": [attribute("xml:lang", "urn:a")]},
    "another prefix for XML": {"properties": [attribute("a:lang", XML)]},
    "a declaration that is none": {"properties": [attribute("xmlns:a", "urn:a")]},
    "a name as a declaration": {"properties": [attribute("a:b", XMLNS)]},
    "markup further in": {"properties": [element(children=[element(children=[element("<")])])]},
    "too deep": {"properties": [nested(MAX_DEPTH + 1)]},
    "very deep": {"properties": [nested(400)]},
    "too many": {"properties": [element(children=[element()] * 100_000)]},
    "another field": {"properties": [element(more=1)]},
    "half a character": {"properties": [element(children=["\ud800"])]},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_properties_become_no_xml(name: str) -> None:
    with pytest.raises(Nonsense):
        answers.read_properties(json.dumps(FORGED[name]).encode())


def test_what_an_honest_reader_says_is_taken() -> None:
    told = {"properties": [nested(MAX_DEPTH), attribute("xml:lang", XML), attribute("xmlns:é", XMLNS)]}
    first, second, _ = answers.read_properties(json.dumps(told).encode())
    assert (first.name, len(first.children)) == ("a:b", 1)
    assert second == Element("urn:a", "a:b", (Attribute(XML, "xml:lang", "x"),), ())


SAID: dict[str, Any] = {"title": None, "description": None, "people": [], "taken_utc": None, "lat": None, "lon": None}
FORGED_JSON = {
    "nothing": {},
    "a time without an offset": {**SAID, "taken_utc": "2020-01-01T00:00:00"},
    "a place on no map": {**SAID, "lat": 91.0, "lon": 0.0},
    "a crowd": {**SAID, "people": ["x"] * 201},
    "a long title": {**SAID, "title": "x" * 10_001},
    "a number": {**SAID, "title": 1},
}


@pytest.mark.parametrize("name", FORGED_JSON)
def test_a_forged_json_says_nothing(name: str) -> None:
    assert answers.read_takeout(json.dumps(SAID).encode()) == Takeout()
    with pytest.raises(Nonsense):
        answers.read_takeout(json.dumps(FORGED_JSON[name]).encode())


def test_the_main_program_has_nothing_that_parses_them() -> None:
    script = "import sys, daemon.app; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"daemon.decoding.xmp", "daemon.decoding.takeout", "defusedxml", "PIL"} & set(ran.stdout.split())
