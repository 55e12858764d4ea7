import struct
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from daemon.decoding import DateTexts, XmpDates, metadata
from tests.decoding.images import decode, photo
from tests.decoding.test_exif import needs_exiftool

HEAD = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
NAMES = (
    'xmlns:e="http://ns.adobe.com/exif/1.0/" xmlns:p="http://ns.adobe.com/photoshop/1.0/"'
    ' xmlns:x="http://ns.adobe.com/xap/1.0/"'
)
TAIL = "</rdf:RDF></x:xmpmeta>"


def packet(attributes: str = "", elements: str = "", before: str = "") -> bytes:
    body = f"<rdf:Description {NAMES} {attributes}>{elements}</rdf:Description>"
    return f"{before}{HEAD}{body}{TAIL}".encode()


def written(folder: Path, names: list[str], *arguments: str) -> None:
    for name in names:
        photo().save(folder / name)
    command = ["exiftool", "-q", "-m", "-overwrite_original", *arguments, *names]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def dates(file: Path) -> DateTexts:
    return decode(file).exif.dates


@needs_exiftool
def test_the_dates_of_xmp_are_read_in_every_format(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic", "a.avif"]
    values = {"exif:DateTimeOriginal": "2011:01:02 03:04:05", "photoshop:DateCreated": "2011:01:03"}
    written(tmp_path, names, *(f"-XMP-{name}={value}" for name, value in values.items()), "-XMP-xmp:CreateDate=2011")
    for name in names:
        assert dates(tmp_path / name).xmp == XmpDates("2011-01-02T03:04:05", "2011-01-03", "2011"), name


@needs_exiftool
def test_the_dates_of_iptc_are_read_in_every_format(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.tif"]
    written(tmp_path, names, "-IPTC:DateCreated=2011:01:02", "-IPTC:TimeCreated=03:04:05+00:00", "-IPTC:City=Rome")
    for name in names:
        assert dates(tmp_path / name).iptc == "20110102 030405+0000", name


@needs_exiftool
def test_the_dates_of_exif_are_handed_over_as_they_stand_there(tmp_path: Path) -> None:
    tags = {
        "DateTimeOriginal": "2012:05:06", "CreateDate": "2012:05:06 10:30:00", "ModifyDate": "2012:05:07 10:30:00",
        "OffsetTimeOriginal": "+02:00", "OffsetTimeDigitized": "+03:00", "OffsetTime": "+04:00",
        "GPSDateStamp": "2012:05:06", "GPSTimeStamp": "08:30:59",
    }  # fmt: skip
    names = ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic", "a.avif"]
    # -n: exiftool would refuse to write a date without a time.
    written(tmp_path, names, "-n", *(f"-EXIF:{name}={value}" for name, value in tags.items()))
    wanted = DateTexts(
        *("2012:05:06", "+02:00", "2012:05:06 10:30:00", "+03:00", "2012:05:06 08:30:59"),
        modified="2012:05:07 10:30:00",
        modified_offset="+04:00",
    )
    for name in names:
        assert dates(tmp_path / name) == wanted, name


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (packet('e:DateTimeOriginal="2011"'), XmpDates(original="2011")),
        (packet("", "<e:DateTimeOriginal> 2011 </e:DateTimeOriginal>"), XmpDates(original="2011")),
        (packet('x:CreateDate="2"', "<p:DateCreated>1</p:DateCreated>"), XmpDates(photoshop="1", created="2")),
        # Of another file: where this one was made from.
        (packet("", '<x:Derived><rdf:Description e:DateTimeOriginal="2011"/></x:Derived>'), XmpDates()),
        (packet("", "<x:Derived><e:DateTimeOriginal>2011</e:DateTimeOriginal></x:Derived>"), XmpDates()),
        (packet('e:DateTimeOriginal="2011"').replace(b"exif/1.0/", b"other/1.0/"), XmpDates()),
        (packet(f'e:DateTimeOriginal="{"2" * 9999}"'), XmpDates(original="2" * 64)),
        (packet('e:DateTimeOriginal="2011"') + b"\0\0\0", XmpDates(original="2011")),
        (packet('e:DateTimeOriginal="2011"').decode().encode("utf-16"), XmpDates()),
        (packet('e:DateTimeOriginal="2011"')[:-5], XmpDates()),
        (packet('e:DateTimeOriginal="&d;"', before='<!DOCTYPE x [<!ENTITY d "2011">]>'), XmpDates()),
        (packet('e:DateTimeOriginal="2011"', "<a>" * 9999 + "</a>" * 9999), XmpDates()),
        (b"DateTimeOriginal", XmpDates()),
        (b"", XmpDates()),
        (None, XmpDates()),
    ],
)
def test_xmp(content: bytes | None, found: XmpDates) -> None:
    assert metadata.xmp_dates(content) == found


def test_hostile_xmp_costs_little() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = packet('e:DateTimeOriginal="&l9;"', before=f'<!DOCTYPE x [<!ENTITY l0 "lol">{lol}]>')
    many = packet("", '<e:DateTimeOriginal a="1"/>' * 100_000)
    long = packet("", f"<e:DateTimeOriginal>{'2' * 4_000_000}</e:DateTimeOriginal>")
    began = time.thread_time()
    assert metadata.xmp_dates(bomb) == metadata.xmp_dates(many) == XmpDates()
    assert metadata.xmp_dates(long).original in {None, "2" * 64}
    assert time.thread_time() - began < 3


def dataset(number: int, text: bytes, record: int = 2) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(text)) + text


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (dataset(5, b"a title") + dataset(55, b"20110102") + dataset(60, b"030405+0000"), "20110102 030405+0000"),
        (dataset(55, b"20110102"), "20110102"),
        (dataset(60, b"030405+0000"), None),
        (dataset(55, b"20110102", record=1), None),
        (dataset(55, b"20110102")[:-3], "20110"),
        (struct.pack(">BBBHI", 0x1C, 2, 120, 0x8004, 1 << 31) + dataset(55, b"20110102"), None),
        (dataset(55, b"\0\1\2"), None),
        (b"\x1c", None),
        (None, None),
    ],
)
def test_iptc(block: bytes | None, found: str | None) -> None:
    assert metadata.iptc_date(block) == found


def test_damaged_metadata_never_costs_the_image(tmp_path: Path) -> None:
    for number, content in enumerate((b"\xff" * 100, b"<" * 1000, packet()[:50], b"DateCreated<!DOCTYPE")):
        photo().save(tmp_path / f"{number}.webp", xmp=content)
        photo().save(tmp_path / f"{number}.jpg", xmp=content)
        with Image.open(tmp_path / f"{number}.jpg") as image:
            assert "xmp" in image.info
        assert dates(tmp_path / f"{number}.webp") == dates(tmp_path / f"{number}.jpg") == DateTexts()
