"""Real files of the kinds that people reported come through decoding and filing to their day."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from daemon.app import roots
from daemon.catalogue import Catalogue
from daemon.commands.rebuild import Rebuild
from daemon.filing.dates import SOURCES, words
from daemon.filing.destination import camera_name
from daemon.sidecar import xmp
from daemon.sidecar.sidecars import NAMESPACE
from tests.captions.darkroom import FullRoom
from tests.commands.test_explain import told
from tests.decoding.images import decode, image_bytes
from tests.decoding.test_exif import needs_exiftool
from tests.support import Texts, jpeg, packet_of, rest_slow

CASES = {
    "createdate_only.jpg": (["EXIF:CreateDate=2009:07:04 15:16:17"], "2009-07-04T15:16:17", "exif created"),
    "lost_original.jpg": (
        ["EXIF:DateTimeOriginal=0000:00:00 00:00:00", "EXIF:CreateDate=2009:07:04 15:16:17"],
        *("2009-07-04T15:16:17", "exif created"),
    ),
    "modifydate_only.jpg": (["EXIF:ModifyDate=2005:03:02 11:12:13"], "2005-03-02T11:12:13", "exif modified"),
    "year1955.jpg": (["EXIF:DateTimeOriginal=1955:08:14 12:00:00"], "1955-08-14T12:00:00", "exif"),
    "dateonly.jpg": (["EXIF:DateTimeOriginal=2012:05:06"], "2012-05-06T00:00:00", "exif"),
    "noseconds.jpg": (["EXIF:DateTimeOriginal=2012:05:06 10:30"], "2012-05-06T10:30:00", "exif"),
    "unknown_time.jpg": (["EXIF:DateTimeOriginal=2012:05:06   :  :  "], "2012-05-06T00:00:00", "exif"),
    "xmp_only.jpg": (["XMP-exif:DateTimeOriginal=2011:01:02 03:04:05"], "2011-01-02T03:04:05", "xmp"),
    "iptc_only.jpg": (
        ["IPTC:DateCreated=2011:01:02", "IPTC:TimeCreated=03:04:05+00:00"],
        *("2011-01-02T03:04:05", "iptc"),
    ),
    "gps_only.jpg": (
        [
            *("GPSDateStamp=2011:01:02", "GPSTimeStamp=23:04:05", "GPSLatitude=35.68", "GPSLatitudeRef=N"),
            *("GPSLongitude=139.69", "GPSLongitudeRef=E"),
        ],
        *("2011-01-03T08:04:05", "gps"),
    ),
    "1985-07-14 wedding.jpg": ([], "1985-07-14T00:00:00", "name"),
    "PXL_20240501_203456789.jpg": ([], "2024-05-01T20:34:56", "name"),
    "Bildschirmfoto 2024-05-01 um 12.34.56.jpg": ([], "2024-05-01T12:34:56", "name"),
    "received_2012051312345678.jpeg": ([], None, "mtime"),
}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    made = FullRoom(tmp_path / "room")
    made.decode_with(lambda path: decode(path))
    yield made
    made.app.close()
    made.close()


def tagged(path: Path, *tags: str) -> bytes:
    path.write_bytes(jpeg())
    arguments = ["-q", "-m", "-n", "-overwrite_original", *(f"-{tag}" for tag in tags)]
    if tags:
        subprocess.run(["exiftool", *arguments, str(path)], check=True, capture_output=True)
    return path.read_bytes()


@needs_exiftool
@pytest.mark.parametrize("name", rest_slow(CASES, 4))
def test_row_folder_sidecar_and_explain_agree(full: FullRoom, tmp_path: Path, name: str) -> None:
    tags, at, origin = CASES[name]
    full.put(name, tagged(tmp_path / name, *tags))
    full.drain()
    [row] = full.images()
    assert row.taken_from == origin
    if at is not None:
        assert row.taken_at == at
    assert row.taken_at is not None
    assert row.destination is not None
    assert row.destination.startswith(f"{row.taken_at[:4]}/{row.taken_at[5:7]}/")
    packet = packet_of((full.library / f"{row.destination}.xmp").read_bytes())
    assert packet.text(NAMESPACE, "TakenAt") == row.taken_at
    assert packet.text(NAMESPACE, "TakenFrom") == origin
    assert packet.has(NAMESPACE, "TakenUTC") == (row.taken_utc is not None)
    assert packet.text(NAMESPACE, "Zone") == row.zone
    created = packet.text(xmp.PHOTOSHOP, "DateCreated")
    assert created is None if origin == "mtime" else (created or "").startswith(row.taken_at)
    text = told(full, "1")
    shown = row.taken_at.replace("T", " ").partition(".")[0].removesuffix(":00")
    assert f"taken {shown}{f' ({row.zone})' if row.zone else ''}, from {words(origin)}" in text


@needs_exiftool
def test_zeros_are_no_place_unless_a_receiver_says_so(tmp_path: Path) -> None:
    zeros = ["GPSLatitude=0", "GPSLatitudeRef=N", "GPSLongitude=0", "GPSLongitudeRef=E"]
    for status, place in ((None, None), ("V", None), ("A", 0.0)):
        tags = [*zeros, *([f"GPSStatus={status}"] if status else [])]
        (tmp_path / "a.jpg").unlink(missing_ok=True)
        tagged(tmp_path / "a.jpg", *tags)
        assert decode(tmp_path / "a.jpg").exif.lat == place


def test_the_order_in_the_readme_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    listed = text.split("The first of these that says a date which makes sense:\n\n")[1].split("\n\n")[0]
    numbered = [line.strip() for line in listed.splitlines()]
    told = [f"{n}. {source.words}" for n, source in enumerate(SOURCES, 1)]
    told.append(f"{len(SOURCES) + 1}. {words('mtime')}")
    assert [line.partition(":")[0] for line in numbered] == told


def xmp_file(**attributes: str) -> bytes:
    values = " ".join(f"{name.replace('_', ':')}={quoteattr(value)}" for name, value in attributes.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:exif="{xmp.EXIF}" xmlns:xmp="{xmp.XMP}" {values}/></rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.mark.parametrize("name", ["b.jpg.xmp", "B.XMP"])
@pytest.mark.parametrize("earlier", [True, False])
def test_the_xmp_that_comes_along_dates_its_photo(full: FullRoom, name: str, earlier: bool) -> None:
    full.put(name, xmp_file(exif_DateTimeOriginal="2003-02-01T10:11:12+01:00"))
    if earlier:
        full.drain()
    full.put("b.jpg", jpeg())
    full.put("bb.jpg", jpeg(seed=2))
    full.drain(time.time() + 5)
    rows = {row.original_name: row for row in full.images()}
    assert (rows["b.jpg"].taken_at, rows["b.jpg"].taken_from) == ("2003-02-01T10:11:12", "xmp beside")
    assert rows["b.jpg"].zone == "+01:00"
    assert rows["bb.jpg"].taken_from == "mtime"
    assert "b.xmp" in {path.name.lower() for path in (full.library / "2003/02").iterdir()}


def test_an_xmp_that_makes_no_sense_costs_no_photo(full: FullRoom) -> None:
    full.put("b.xmp", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>")
    full.put("b.jpg", jpeg())
    full.drain(time.time() + 5)
    assert {row.original_name: row.taken_from for row in full.images()}["b.jpg"] == "mtime"


@needs_exiftool
def test_what_is_known_of_the_date_is_there_again_after_a_rebuild(full: FullRoom, tmp_path: Path) -> None:
    tags = ["GPSLatitude=35.68", "GPSLatitudeRef=N", "GPSLongitude=139.69", "GPSLongitudeRef=E"]
    full.put("a.jpg", tagged(tmp_path / "a.jpg", "EXIF:DateTimeOriginal=2024:05:01 23:30:00", *tags))
    full.put("b.jpg", jpeg(seed=3))
    full.put("b.jpg.xmp", xmp_file(exif_DateTimeOriginal="2003-02-01T10:11:12+01:00"))
    full.drain(time.time() + 5)
    before = {row.original_name: row for row in full.images() if row.status == "done"}
    assert [before[name].zone for name in ("a.jpg", "b.jpg")] == ["Asia/Tokyo", "+01:00"]
    fresh = Catalogue(tmp_path / "fresh.db")
    with fresh.session():
        Rebuild(fresh, roots(full.config), full.thumbnails, lambda path: decode(path), Texts(), ()).run(lambda: None)
    full.catalogue, lost = fresh, full.catalogue
    lost.close()
    assert {row.original_name for row in full.images()} == set(before)
    for row in full.images():
        for column in ("taken_at", "taken_from", "taken_utc", "zone", "taken_order"):
            assert getattr(row, column) == getattr(before[row.original_name], column), column


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("NIKON CORPORATION", "NIKON D70", "NIKON D70"),
        ("NIKON", "NIKON D70", "NIKON D70"),
        ("PENTAX Corporation", "PENTAX K10D", "PENTAX K10D"),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", "PENTAX K-1"),
        ("RICOH IMAGING COMPANY, LTD.", "RICOH GR III", "RICOH GR III"),
        ("Canon", "Canon EOS 40D", "Canon EOS 40D"),
        ("Eastman Kodak Company", "KODAK DX4900", "KODAK DX4900"),
        ("CASIO COMPUTER CO.,LTD.", "EX-Z3", "CASIO EX-Z3"),
        ("OLYMPUS IMAGING CORP.", "E-M5", "OLYMPUS E-M5"),
        ("KONICA MINOLTA CAMERA, Inc.", "DiMAGE A200", "KONICA MINOLTA DiMAGE A200"),
        ("LG Electronics", "LG-H870", "LG-H870"),
        ("Apple", "iPhone 12", "Apple iPhone 12"),
        ("SONY", "", "SONY"),
        ("", "X100", "X100"),
        ("LTD", "X", "LTD X"),
        ("", "", ""),
    ],
)
def test_cameras_are_called_as_people_call_them(make: str, model: str, name: str) -> None:
    assert camera_name(make, model) == name


@pytest.mark.parametrize(
    ("kind", "name", "filed"),
    [
        ("JPEG", "a.insp", "a.insp"),
        ("JPEG", "a.mpo", "a.mpo"),
        ("AVIF", "a.avifs", "a.avifs"),
        ("HEIF", "a.hif", "a.hif"),
        ("HEIF", "a.HIF", "a.HIF"),
        ("PNG", "a.insp", "a.png"),
        ("JPEG", "a.avifs", "a.jpg"),
    ],
)
def test_suffixes_stay_where_the_bytes_are_what_they_say(full: FullRoom, kind: str, name: str, filed: str) -> None:
    full.put(name, image_bytes(kind))
    full.drain()
    assert (full.images()[0].destination or "").rpartition("/")[2] == filed
