"""Sidecars as exiftool, exiv2 and Darkroom itself read them; what other programs wrote is kept."""

import json
import os
import shutil
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.catalogue import ImageRow
from daemon.catalogue.captions import MAX_CAPTION, MAX_KEYWORD, MAX_KEYWORDS, CaptionOrigin, Words
from daemon.catalogue.history import sentence
from daemon.catalogue.schema import EventKind, Image
from daemon.decoding import DateTexts, Decoded, Exif
from daemon.errors import Rejected
from daemon.files.atomic import temporary
from daemon.sidecar import xmp
from daemon.sidecar.sidecars import NAMESPACE, gps, read_facts, tag_of
from tests.captions.darkroom import FullRoom
from tests.support import Script, packet_of, rest_slow, tree

WORDS = Words("Ein Schloß <am> See & ☀.", ("Schloß", "See", "a, b"), None, 'EXIT "here"')
ORIGIN = CaptionOrigin("gemini-flash-lite-latest", "12345678", 1290, 50)
FOREIGN = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:d="http://purl.org/dc/elements/1.1/"
    xmlns:darktable="http://darktable.sf.net/" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmp:Rating="4" darktable:xmp_version="5" crs:Exposure2012="+0.50">
   {words}
   <darktable:history><rdf:Seq><rdf:li darktable:num="0" darktable:operation="exposure"/></rdf:Seq></darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
THEIRS = """<d:description><rdf:Alt><rdf:li xml:lang="x-default">Anna at the lake</rdf:li>
 <rdf:li xml:lang="de-DE">Anna am See</rdf:li></rdf:Alt></d:description>
 <d:subject><rdf:Bag><rdf:li>Anna</rdf:li></rdf:Bag></d:subject>"""


class Placed(Script):
    """Stands for decoders that find a place and a full date in each photo."""

    def decode(self, path: Path) -> Decoded:
        decoded = super().decode(path)
        dates = DateTexts(original="2024:05:01 12:34:56", original_offset="+02:00")
        exif = Exif(datetime_original="2024-05-01T12:34:56+02:00", lat=-33.8567844, lon=151.2152967, dates=dates)
        return Decoded(**{**vars(decoded), "exif": exif})


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    made = FullRoom(tmp_path / "room")
    yield made
    made.close()


def filed(room: FullRoom, name: str = "IMG_1.JPG") -> Path:
    """File a photo; gives its sidecar."""
    room.put(name, b"a photo called " + name.encode())
    room.drain()
    return room.library / f"2024/05/{name}.xmp"


def captioned(room: FullRoom, image_id: int = 1) -> None:
    """Return an image a model's caption, as the captioner does."""
    room.captions.fill_in([image_id])
    assert room.captions.store(image_id, WORDS, ORIGIN, "0" * 64, time.time())
    room.caption()


def packet(path: Path) -> xmp.Packet:
    return packet_of(path.read_bytes())


def test_written_at_filing_and_anew_with_the_caption(full: FullRoom) -> None:
    path = filed(full)
    first = packet(path)
    assert first.text(NAMESPACE, "ImageID") == "1"
    assert first.text(xmp.XMP, "CreatorTool") == "Darkroom"
    assert first.text(xmp.PHOTOSHOP, "DateCreated") == "2024-05-01T12:34:56"
    assert not first.has(xmp.DC, "description")
    before = (full.library / "2024/05/IMG_1.JPG").read_bytes()
    captioned(full)
    second = packet(path)
    assert second.text(xmp.DC, "description") == WORDS.caption
    assert tuple(second.texts(xmp.DC, "subject")) == WORDS.keywords
    assert full.columns()["sidecar_due"] == 0
    assert (full.library / "2024/05/IMG_1.JPG").read_bytes() == before
    assert set(tree(full.library)) == {"2024/05/IMG_1.JPG", "2024/05/IMG_1.JPG.xmp"}


def test_what_a_killed_writer_left_goes_with_the_next_writing(full: FullRoom) -> None:
    path = filed(full)
    left = path.with_name(temporary(tag_of(1)))
    left.write_bytes(b"half")
    captioned(full)
    assert not left.exists()
    assert packet(path).text(xmp.DC, "description") == WORDS.caption


def test_it_holds_the_whole_row(full: FullRoom) -> None:
    path = filed(full)
    captioned(full)
    full.captions.edit(1, time.time(), title="The lake")
    full.caption()
    facts, [row] = read_facts(packet(path)), full.images()
    assert facts is not None
    assert facts.row.edited_at is None
    assert [event.kind for event in facts.history] == [
        *(EventKind.QUEUED, EventKind.DONE, EventKind.CAPTIONED, EventKind.EDITED)
    ]
    kept = [name for name, value in vars(facts.row).items() if value != getattr(ImageRow(), name)]
    assert {"id", "sha256", "caption", "keywords", "title", "visible_text", "tokens_in", "taken_at"} <= set(kept)
    for column in kept:
        known, wanted = getattr(facts.row, column), getattr(row, column)
        if column.endswith("_at") and column != "taken_at":
            assert known == pytest.approx(wanted, abs=1e-5)
        else:
            assert known == wanted, column


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_it_without_a_warning(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room")
    room.decoder = Placed()
    room.decode_with(room.decoder.decode)
    path = filed(room)
    captioned(room)
    room.captions.edit(1, time.time(), title="Opera")
    room.caption()
    assert _exiftool(path, "-warning", "-error", "-a") == {}
    assert _exiftool(path, "-XMP-dc:all", "-XMP-photoshop:all", "-XMP-exif:all", "-XMP-xmp:all") == {
        "XMP:Description": WORDS.caption,
        "XMP:Subject": list(WORDS.keywords or ()),
        "XMP:Title": "Opera",
        "XMP:DateCreated": "2024:05:01 12:34:56+02:00",
        "XMP:GPSLatitude": pytest.approx(-33.8567844, abs=1e-7),
        "XMP:GPSLongitude": pytest.approx(151.2152967, abs=1e-7),
        "XMP:CreatorTool": "Darkroom",
    }
    room.close()


def _exiftool(path: Path, *tags: str) -> dict[str, Any]:
    done = subprocess.run(
        ["exiftool", "-json", "-n", "-G", *tags, path], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    [found] = json.loads(done.stdout)
    del found["SourceFile"]
    return dict(found)


@pytest.mark.skipif(shutil.which("exiv2") is None, reason="exiv2 is not installed")
def test_exiv2_reads_it(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room")
    room.decode_with(Placed().decode)
    path = filed(room)
    captioned(room)
    done = subprocess.run(["exiv2", "-px", path], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    lines = {line.split()[0]: line[60:].strip() for line in done.stdout.splitlines()}
    assert lines["Xmp.dc.description"] == f'lang="x-default" {WORDS.caption}'
    assert lines["Xmp.dc.subject"] == "Schloß, See, a, b"
    assert lines["Xmp.photoshop.DateCreated"] == "2024-05-01T12:34:56+02:00"
    assert lines["Xmp.exif.GPSLatitude"] == "33,51.407064S"
    assert lines["Xmp.exif.GPSLongitude"] == "151,12.917802E"
    assert lines["Xmp.darkroom.ImageID"] == "1"
    room.close()


@pytest.mark.parametrize(
    ("degrees", "text"),
    [(0.0, "0,0.000000N"), (-0.5, "0,30.000000S"), (59.99999999999, "60,0.000000N"), (48.8584, "48,51.504000N")],
)
def test_coordinates(degrees: float, text: str) -> None:
    assert gps(degrees, "NS") == text


@pytest.mark.parametrize("name", ["IMG_1.xmp", "IMG_1.JPG.xmp"])
@pytest.mark.parametrize("first", [True, False])
def test_the_fields_of_an_xmp_that_came_with_the_photo_stay(full: FullRoom, name: str, first: bool) -> None:
    content = FOREIGN.format(words=THEIRS).encode()
    if first:
        full.put(name, content)
        full.drain()
    path = filed(full)
    if not first:
        full.put(name, content)
        full.drain()
    full.drain(time.time() + 5)
    assert (full.library / "2024/05/IMG_1.xmp").read_bytes() == content
    merged = packet(path)
    assert merged.text(xmp.XMP, "Rating") == "4"
    assert merged.has("http://darktable.sf.net/", "history")
    assert merged.text("http://ns.adobe.com/camera-raw-settings/1.0/", "Exposure2012") == "+0.50"
    assert merged.text(xmp.DC, "description") == "Anna at the lake"
    assert b"Anna am See" in path.read_bytes()
    [row] = full.rows()
    assert (row["caption"], row["keywords"], row["caption_status"]) == ("Anna at the lake", ["Anna"], "done")
    assert row["edited_at"] is not None


def test_a_persons_keywords_join_the_models_caption(full: FullRoom) -> None:
    keywords = "<d:subject><rdf:Bag><rdf:li>Anna</rdf:li></rdf:Bag></d:subject>"
    path = filed(full)
    full.put("IMG_1.xmp", FOREIGN.format(words=keywords).encode())
    full.drain()
    captioned(full)
    assert packet(path).texts(xmp.DC, "subject") == ["Anna", "Schloß", "See", "a, b"]
    assert packet(path).text(xmp.DC, "description") == WORDS.caption
    assert full.columns()["keywords"] == ["Anna", "Schloß", "See", "a, b"]


def test_what_another_program_changed_in_the_sidecar_stays_and_is_learned(full: FullRoom) -> None:
    path = filed(full)
    captioned(full)
    changed = packet(path)
    changed.set_language(xmp.DC, "description", "Anna's castle")
    changed.set(xmp.XMP, "Rating", "5")
    changed.set_list(xmp.DC, "subject", ["Schloß", "See", "a, b", "Anna"])
    path.write_bytes(changed.serialize())
    full.captions.edit(1, time.time(), title="Castle")
    full.caption()
    after = packet(path)
    assert after.text(xmp.DC, "description") == "Anna's castle"
    assert after.text(xmp.XMP, "Rating") == "5"
    assert "Anna" in after.texts(xmp.DC, "subject")
    assert after.text(xmp.DC, "title") == "Castle"
    row = full.columns()
    assert (row["caption"], row["caption_status"]) == ("Anna's castle", "done")
    assert row["edited_at"] is not None


def test_an_edit_of_the_caption_goes_into_the_sidecar(full: FullRoom) -> None:
    path = filed(full)
    captioned(full)
    full.captions.edit(1, time.time(), caption="Mine.", keywords=["one"])
    full.caption()
    assert packet(path).text(xmp.DC, "description") == "Mine."
    assert packet(path).texts(xmp.DC, "subject") == ["one"]
    full.captions.edit(1, time.time(), caption=None, keywords=None)
    full.caption()
    assert not packet(path).has(xmp.DC, "description")
    assert not packet(path).has(xmp.DC, "subject")
    assert full.columns()["caption_status"] == "done"


def test_somebody_elses_sidecar_is_left_alone(full: FullRoom, caplog: pytest.LogCaptureFixture) -> None:
    path = full.library / "2024/05/IMG_1.JPG.xmp"
    path.parent.mkdir(parents=True)
    content = FOREIGN.format(words="").encode()
    path.write_bytes(content)
    filed(full)
    captioned(full)
    assert path.read_bytes() == content
    assert full.row()["status"] == "done"
    assert "is not Darkroom's" in caplog.text


@pytest.mark.parametrize(
    "content",
    rest_slow(
        [
            b"",
            b"\x00\x01",
            b"<not xml",
            b"<a/>",
            b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>',
            b'<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x"><a/>',
            b"<a>" * 500,
            b"<a>" + b"<b/>" * 60_000 + b"</a>",
            b'<?xml version="1.0" encoding="no-such"?><a/>',
            "<a/>".encode("utf-16"),
        ],
        4,
    ),
)
def test_an_xmp_that_makes_no_sense_is_kept_and_harms_nothing(full: FullRoom, content: bytes) -> None:
    full.put("IMG_1.xmp", content)
    path = filed(full)
    # Some end early, and their rest is waited for.
    for later in (5, 605):
        full.drain(time.time() + later)
    assert (full.library / "2024/05/IMG_1.xmp").read_bytes() == content
    assert packet(path).text(NAMESPACE, "ImageID") == "1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><a>&b;</a>', "it has a DTD"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x"><a/>'.encode("utf-16"), "it has a DTD"),
        (b"<a>" * 500 + b"</a>" * 500, "nested too deeply"),
        (b"<a>" * 40_000 + b"</a>" * 40_000, "nested too deeply"),
        (b"<a>" + b"<b/>" * 100_000 + b"</a>", "too many elements and attributes"),
        (b"<a " + b" ".join(b"a%d=''" % number for number in range(100_000)) + b"/>", "too many elements"),
        (b"<a>" + b" " * (16 << 20) + b"</a>", "larger than 16 MB"),
        (b"<a>", "no well-formed XML"),
        (b"<a/>", r"without the rdf:RDF of XMP"),
    ],
    ids=["entities", "external", "deep", "very deep", "elements", "attributes", "bytes", "unclosed", "no XMP"],
)
def test_why_an_xmp_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Rejected, match=said):
        packet_of(content)


def test_an_enormous_xmp_and_json_are_not_read(full: FullRoom) -> None:
    for name in ("IMG_1.xmp", "IMG_1.JPG.json"):
        with (full.inbox / name).open("wb") as file:
            file.truncate(160 << 20)
    tracemalloc.start()
    path = filed(full)
    for _ in range(2):
        full.drain(time.time() + 60)
    assert tracemalloc.get_traced_memory()[1] < 120 << 20
    tracemalloc.stop()
    assert {entry.stat().st_size for entry in path.parent.iterdir()} >= {160 << 20}
    row = full.row_of("IMG_1.JPG")
    assert row["status"] == "done"
    assert packet(path).text(NAMESPACE, "ImageID") == str(row["id"])


def test_words_from_an_xmp_are_no_more_than_the_api_takes(full: FullRoom) -> None:
    words = "".join(f"<rdf:li>{number} {'x' * 300}</rdf:li>" for number in range(500))
    text = f"<d:description>{'y' * 20_000}</d:description><d:subject><rdf:Bag>{words}</rdf:Bag></d:subject>"
    full.put("IMG_1.xmp", FOREIGN.format(words=text).encode())
    path = filed(full)
    for _ in range(2):
        full.drain(time.time() + 60)
    row = full.row_of("IMG_1.JPG")
    assert row["caption"] == "y" * MAX_CAPTION
    assert (len(row["keywords"]), {len(word) for word in row["keywords"]}) == (MAX_KEYWORDS, {MAX_KEYWORD})
    full.sidecars.write(row["id"])
    again = full.row_of("IMG_1.JPG")
    assert (again["caption"], again["keywords"]) == (row["caption"], row["keywords"])
    assert packet(path).text(xmp.DC, "description") == row["caption"]


def test_a_library_whose_catalogue_is_lost_keeps_its_captions(full: FullRoom, tmp_path: Path) -> None:
    filed(full)
    captioned(full)
    old = full.columns()
    full.close()
    again = FullRoom(tmp_path / "again")
    shutil.copytree(full.library, again.library, dirs_exist_ok=True)
    path = filed(again)
    row = again.columns()
    for column in ("caption", "keywords", "visible_text", "caption_status", "caption_model", "tokens_in"):
        assert row[column] == old[column], column
    assert packet(path).text(xmp.DC, "description") == WORDS.caption
    again.close()


def test_a_photo_that_was_taken_away_gets_no_sidecar(full: FullRoom) -> None:
    path = filed(full)
    path.unlink()
    (full.library / "2024/05/IMG_1.JPG").unlink()
    captioned(full)
    assert not path.exists()
    assert full.captions.sidecars_due() == []


def test_switched_off_there_are_none(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room", "[filing]\nsidecars = false\n")
    path = filed(room)
    captioned(room)
    assert not path.exists()
    assert room.captions.sidecars_due() == []
    room.close()


def test_killed_between_the_caption_and_its_sidecar(full: FullRoom) -> None:
    path = filed(full)
    full.captions.fill_in([1])
    full.captions.store(1, WORDS, ORIGIN, "0" * 64, time.time())
    assert not packet(path).has(xmp.DC, "description")
    full.captioner = full.new_captioner()
    full.caption()
    assert packet(path).text(xmp.DC, "description") == WORDS.caption


@pytest.mark.parametrize("place", ["library", "duplicates"])
def test_what_is_written_while_a_photo_is_filed_need_not_be_written_again(full: FullRoom, place: str) -> None:
    """All that becomes of a photo with its filing is foretold: when it will have been filed, and that it was."""
    path = filed(full)
    if place == "duplicates":
        full.put("again.jpg", (full.library / "2024/05/IMG_1.JPG").read_bytes())
        full.drain()
        [path] = full.duplicates.rglob("*.xmp")
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert (b'"kind": "done"' if place == "library" else b'"kind": "duplicate"').replace(b'"', b"&quot;") in content
    with full.catalogue.writing():
        Image.update(sidecar_due=1).execute()
    full.caption()
    assert full.captions.sidecars_due() == []
    assert path.read_bytes() == content
    if place == "library":
        assert path.stat().st_mtime_ns == written


def test_words_that_come_and_go_leave_a_sidecar_as_it_was(full: FullRoom) -> None:
    path = filed(full)
    before = path.read_bytes()
    for keywords, title, edited in ((("a", "b"), "T", "keywords"), (None, None, None)):
        changes = {"keywords": keywords, "title": title, "edited": edited, "lat": keywords and 1.0}
        with full.catalogue.writing():
            Image.update({**changes, "lon": keywords and 2.0, "sidecar_due": 1}).execute()
        full.caption()
        assert (path.read_bytes() == before) is (keywords is None)


def test_all_sidecars_that_are_due_are_written_in_one_turn(full: FullRoom) -> None:
    path = filed(full)
    with full.catalogue.writing():
        row = Image.get_by_id(1).__data__
        for n in range(2, 231):
            own = {"id": n, "destination": f"{n}.jpg", "sha256": f"{n:064}", "sidecar_due": 1}
            Image.insert({**row, **own}).execute()
        Image.update(title="T", sidecar_due=1).where(Image.id == 1).execute()
    with full.catalogue.session():
        full.caption()
    assert full.captions.sidecars_due() == []
    assert packet(path).text(xmp.DC, "title") == "T"


def test_what_can_have_no_sidecar_does_not_hold_up_the_others(tmp_path: Path) -> None:
    room = FullRoom(tmp_path / "room", "[filing]\nsidecars = false\n")
    filed(room)
    with room.catalogue.writing():
        row = Image.get_by_id(1).__data__
        for n in range(2, 120):
            Image.insert(
                {**row, "id": n, "status": "duplicate", "place": "duplicates", "destination": str(n)}
            ).execute()
        Image.insert({**row, "id": 200, "sha256": "x", "destination": "200.jpg"}).execute()
        Image.update(sidecar_due=1).where(Image.id > 1).execute()
    room.caption()
    assert 200 not in room.captions.sidecars_due(limit=1000)
    room.close()


def test_rewriting_does_not_grow(full: FullRoom) -> None:
    path = filed(full)
    full.put("IMG_1.xmp", FOREIGN.format(words=THEIRS).encode())
    full.drain()
    captioned(full)
    sizes = set()
    for number in range(5):
        with full.catalogue.writing():
            Image.update(sidecar_due=1, title=str(number)).execute()
        full.caption()
        sizes.add(len(path.read_bytes()))
    assert len(sizes) == 1


def test_two_meanings_of_one_prefix() -> None:
    one, two = xmp.Packet(), xmp.Packet()
    one.declare("urn:one", "p")
    one.set("urn:one", "a", "1")
    two.declare("urn:two", "p")
    two.set("urn:two", "b", "2")
    one.absorb(two)
    again = packet_of(one.serialize())
    assert (again.text("urn:one", "a"), again.text("urn:two", "b")) == ("1", "2")


def test_a_keyword_written_elsewhere_outlives_another_models_caption(full: FullRoom) -> None:
    path = filed(full)
    captioned(full)
    changed = packet(path)
    changed.set_list(xmp.DC, "subject", [*(WORDS.keywords or []), "Anna"])
    path.write_bytes(changed.serialize())
    full.captions.ask_again(1, time.time(), "another")
    assert full.captions.store(1, Words("New.", ("x",)), ORIGIN, "0" * 64, time.time())
    full.sidecars.write(1)
    assert "Anna" in packet(path).texts(xmp.DC, "subject")
    assert packet(path).text(xmp.DC, "description") == "New."
    full.captions.ask_again(1, time.time(), "a third")
    assert full.captions.store(1, Words("Newer.", ("y",)), ORIGIN, "0" * 64, time.time())
    full.sidecars.write(1)
    assert "Anna" in packet(path).texts(xmp.DC, "subject")


def complete(*history: str, **more: str) -> xmp.Packet:
    """Make a sidecar of all that one must have, and `more`."""
    packet = xmp.Packet()
    packet.declare(NAMESPACE, "darkroom")
    known = {"ImageID": "1", "SHA256": "0" * 64, "OriginalName": "a.jpg", "CreatedAt": "2026-01-01T00:00:00+00:00"}
    for name, text in (known | more).items():
        packet.set(NAMESPACE, name, text)
    packet.set_list(NAMESPACE, "History", history)
    return packet


def test_ten_thousand_properties_take_no_time() -> None:
    head, tail = FOREIGN.format(words="@").encode().split(b"@")
    many = b"".join(b"<darktable:p%d>1</darktable:p%d>" % (n, n) for n in range(10_000))
    began = time.thread_time()
    packet = packet_of(head + many + tail)
    assert packet.text("http://darktable.sf.net/", "p9999") == "1"
    assert time.thread_time() - began < 5


@pytest.mark.parametrize(
    "line",
    [
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "queued", "cause": "bogus"}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "postponed", "cause": "found"}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "done", "place": "cellar", "path": "x"}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "done", "other_id": 1' + "0" * 30 + "}",
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "done", "other_id": true}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "done", "path": ["x"]}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "done", "path": "\\ud800"}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "failed", "text": "\\ud800"}',
        '{"at": "2026-01-01T00:00:00+00:00", "kind": "of another version"}',
        '{"at": "9999-12-31T23:59:59-12:00", "kind": "done"}',
        '{"at": "0001-01-01T00:00:00+12:00", "kind": "done"}',
        '{"at": "9999-12-31T23:59:59+00:00", "kind": "done"}',
        '{"kind": "done"}',
        "[]",
    ],
)
def test_a_line_of_history_that_makes_no_sense_is_passed_over(line: str) -> None:
    sound = '{"at": "2026-01-01T00:00:00+00:00", "kind": "postponed", "cause": "quiet", "text": "2", "id": "7"}'
    facts = read_facts(complete(line, sound))
    assert facts is not None
    assert [(event.id, event.kind, sentence(event)) for event in facts.history] == [
        (0, EventKind.POSTPONED, "unchanged for less than 2 s")
    ]


def test_a_path_of_raw_bytes_is_kept_in_the_history() -> None:
    line = '{"at": "2026-01-01T00:00:00+00:00", "kind": "queued", "cause": "found", "path": "caf\\udce9.jpg"}'
    facts = read_facts(complete(line))
    assert facts is not None
    assert [event.path for event in facts.history] == [os.fsdecode(b"caf\xe9.jpg")]


@pytest.mark.parametrize("time_text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "0001-01-01T00:00:00"])
def test_a_time_that_no_calendar_shows_is_as_in_a_new_row(time_text: str) -> None:
    facts = read_facts(complete(FiledAt=time_text, CaptionedAt=time_text, EditedAt=time_text))
    assert facts is not None
    assert (facts.row.processed_at, facts.row.captioned_at, facts.row.edited_at) == (None, None, None)
    assert read_facts(complete(CreatedAt=time_text)) is None, "not complete without"


def test_an_unknown_caption_status_is_as_in_a_new_row() -> None:
    facts = read_facts(complete(CaptionStatus="of another version", Title="The garden"))
    assert facts is not None
    assert (facts.row.caption_status, facts.row.title) == ("off", "The garden")
