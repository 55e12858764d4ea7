import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from daemon.decoding import formats, tiff
from daemon.decoding.formats import describe, sniff
from tests.decoding.images import dng, photo, tiff_bytes

MAKE, SUBFILE, SUB_IFDS, PHOTOMETRIC = 0x10F, 0xFE, 0x14A, 0x106


def box(brand: bytes, *compatible: bytes) -> bytes:
    rest = b"".join((brand, bytes(4), *compatible))
    return (len(rest) + 8).to_bytes(4, "big") + b"ftyp" + rest


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", formats.JPEG),
        (b"\x89PNG\r\n\x1a\n", formats.PNG),
        (b"RIFF\0\0\0\0WEBPVP8 ", formats.WEBP),
        (b"GIF89a", formats.GIF),
        (b"BM" + bytes(12) + b"\x28\0\0\0", formats.BMP),
        (b"II*\0\x08\0\0\0", formats.ANY_TIFF),
        (b"MM\0+\0\x08\0\0", formats.ANY_TIFF),
        (b"II*\0\x10\0\0\0CR\x02\0", formats.CR2),
        (b"IIRO\x08\0\0\0", formats.ORF),
        (b"MMOR\0\0\0\x08", formats.ORF),
        (b"IIU\0\x18\0\0\0", formats.RW2),
        (b"FUJIFILMCCD-RAW 0201", formats.RAF),
        (b"\0\0\0\x0cjP  \r\n\x87\n", formats.JP2),
        (b"\xff\x4f\xff\x51", formats.J2K),
        (box(b"heic", b"mif1"), formats.HEIC),
        (box(b"mif1", b"heic"), formats.HEIC),
        (box(b"mif1", b"avif"), formats.AVIF),
        (box(b"mif1", b"unci"), formats.HEIF),
        (box(b"avif", b"mif1"), formats.AVIF),
        (box(b"crx ", b"isom"), formats.CR3),
        (box(b"isom", b"mp42"), None),
        (box(b"qt  "), None),
        (b"BMW drives well, says the text", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"\xff\x0a", formats.JXL),
        (b"\0\0\0\x0cJXL \r\n\x87\n", formats.JXL),
        (b"FOVb", formats.X3F),
        (b"\0MRM", formats.MRW),
        (b"II\x1a\0\0\0HEAPCCDR", formats.CRW),
        (b"%PDF-1.7", None),
        (b"II", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell(head: bytes, kind: formats.Format | None) -> None:
    assert sniff(head) == kind


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({MAKE: ("s", b"NIKON CORPORATION"), SUBFILE: ("I", (1,)), SUB_IFDS: ("I", (8,))}, formats.NEF),
        ({MAKE: ("s", b"SONY"), SUBFILE: ("I", (1,)), SUB_IFDS: ("I", (8,))}, formats.ARW),
        ({MAKE: ("s", b"PENTAX"), PHOTOMETRIC: ("H", (32803,))}, formats.RAW),
        ({MAKE: ("s", b"NIKON CORPORATION"), SUBFILE: ("I", (0,))}, formats.TIFF),
        ({SUBFILE: ("I", (1,)), SUB_IFDS: ("I", (8,))}, formats.TIFF),
    ],
)
def test_raw_files_are_told_from_pictures_by_their_directories(
    tags: dict[int, tuple[str, object]], kind: object
) -> None:
    assert formats.identify(io.BytesIO(tiff_bytes(tags))) == kind


def test_a_dng_file_is_known_by_its_version_tag(tmp_path: Path) -> None:
    path = dng(tmp_path / "photo.tif")
    assert sniff(path.read_bytes()) == formats.ANY_TIFF
    with path.open("rb") as file:
        assert formats.identify(file) == formats.DNG


def test_what_a_tiff_leads_to_is_not_followed() -> None:
    # 64 directories of a thousand tags, each of which is a hundred thousand numbers of the same few bytes.
    entries, size = 1000, 2 + 1000 * 12 + 4
    tags = b"".join(struct.pack("<HHII", tag, 1, 100_000, 8) for tag in (tiff.STRIP_OFFSETS, *range(1000, 1999)))
    chain = (struct.pack("<H", entries) + tags + struct.pack("<I", 8 + (at + 1) * size) for at in range(64))
    bomb = b"II*\0\x08\0\0\0" + b"".join(chain) + bytes(4)
    tracemalloc.start()
    assert sniff(bomb[: formats.HEAD_BYTES]) == formats.ANY_TIFF
    assert tracemalloc.get_traced_memory()[1] < 100_000
    assert formats.identify(io.BytesIO(bomb)) == formats.TIFF
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_every_format_has_suffixes_and_a_type() -> None:
    kinds = [value for value in vars(formats).values() if isinstance(value, formats.Format)]
    assert len(kinds) > 15
    for kind in kinds:
        assert kind.mime.startswith("image/")
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in kind.suffixes)


def test_pillow_agrees_about_what_it_writes() -> None:
    for name, kind in (("JPEG", formats.JPEG), ("PNG", formats.PNG), ("WEBP", formats.WEBP), ("AVIF", formats.AVIF)):
        buffer = io.BytesIO()
        photo().save(buffer, name)
        assert sniff(buffer.getvalue()[:4096]) == kind
        with Image.open(buffer) as image:
            assert image.get_format_mimetype() == kind.mime


@pytest.mark.parametrize(
    ("head", "guess"),
    [
        (b"Dear diary,\nnothing happened.", "a text file"),
        ("Grüße aus München".encode("latin-1"), "a text file"),
        ("\ufeffDear diary".encode("utf-16"), "a text file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?><svg>", "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\3\4", "a ZIP archive or an office document"),
        (box(b"isom"), "a video (MP4)"),
        (box(b"qt  "), "a video (QuickTime)"),
        (b"8BPS", "a Photoshop document"),
        (b"\x8aPNG\r\n\x1a\n", "a damaged PNG"),
        (b"\x01\x02\x03\x04\x05", "something unknown"),
    ],
)
def test_what_is_no_image_gets_a_helpful_guess(head: bytes, guess: str) -> None:
    assert describe(head) == guess
