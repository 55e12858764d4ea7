import json
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from daemon.decoding import Exif, exif
from tests.corpus import compare, main
from tests.decoding.images import decode, exif_block, photo, tiff_bytes
from tests.support import rest_slow

needs_exiftool = pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")

MAKE, ARTIST, ISO = 0x10F, 0x13B, 0x8827


@needs_exiftool
def test_what_exiftool_writes_is_read_in_every_format(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic", "a.avif"]
    for name in names:
        photo().save(tmp_path / name)
    tags = {
        "Make": "FUJIFILM", "Model": "X-T5", "LensModel": "XF35mmF1.4 R", "ISO": 400, "FocalLength": 35,
        "DateTimeOriginal": "2026:05:01 12:34:56", "OffsetTimeOriginal": "-03:30", "ExposureTime": "1/250",
        "FNumber": 1.4, "GPSLatitude": 33.856784, "GPSLatitudeRef": "S", "GPSLongitude": 70.5, "GPSLongitudeRef": "W",
    }  # fmt: skip
    arguments = [f"-EXIF:{name}={value}" for name, value in tags.items()]
    subprocess.run(
        ["exiftool", "-q", "-overwrite_original", *arguments, *names], cwd=tmp_path, check=True, capture_output=True
    )
    for name in names:
        found = decode(tmp_path / name).exif
        assert (found.camera_make, found.camera_model, found.lens_model) == ("FUJIFILM", "X-T5", "XF35mmF1.4 R"), name
        assert (found.iso, found.focal_length, found.f_number) == (400, 35.0, 1.4), name
        assert (found.datetime_original, found.exposure_time) == ("2026-05-01T12:34:56-03:30", "1/250"), name
        assert found.lat == pytest.approx(-33.856784, abs=1e-6), name
        assert found.lon == -70.5, name
        assert found.raw["Image Model"] == "X-T5", name
        json.dumps(found.raw, allow_nan=False)


def test_exif_that_png_carries_as_text_is_read(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    data = exif_block({MAKE: ("s", b"Canon")})
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=True)
    photo().save(tmp_path / "photo.png", pnginfo=info)
    assert decode(tmp_path / "photo.png").exif.camera_make == "Canon"


def test_the_raw_tags_are_json_of_a_bearable_size() -> None:
    found, _ = exif.read_block(exif_block({
        MAKE: ("s", b"A\x00B"), ARTIST: ("s", b"long " * 10_000), 0x9000: ("U", tuple(range(256)) * 3),
        0xC000: ("H", (1,) * 900), 0x829A: ("R", (1, 0)),
    }))  # fmt: skip
    text = json.dumps(found.raw, allow_nan=False)
    assert "\\u0000" not in text
    assert len(text) < 10_000
    assert found.raw["Image ExposureTime"] is None
    many = {0xC000 + number: ("s", os.urandom(3000).hex().encode()) for number in range(200)}
    assert len(json.dumps(exif.read_block(exif_block(many))[0].raw)) <= 256 * 1024


HOSTILE = {
    "a directory of 65535 entries in 26 bytes": b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x9000, 4, 999, 8),
    "entries that all read much": b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x9000, 4, 999, 8) * 5000,
    "texts of 4 GB": b"II*\0\x08\0\0\0\xff\x00" + struct.pack("<HHII", 0x9000, 2, 0xFFFFFFFF, 8) * 255,
    "a directory within itself": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4),
    "positions within themselves": b"II*\0\x08\0\0\0\x32\0" + struct.pack("<HHII", 0x8825, 4, 1, 8) * 50,
    "a chain without end": b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HI", 0, 14 + 6 * n) for n in range(300_000)),
    "nonsense": bytes(range(256)) * 100,
    "nothing": b"",
}


@pytest.mark.parametrize("name", rest_slow(HOSTILE, 4))
def test_hostile_exif_costs_little_and_never_the_image(tmp_path: Path, name: str) -> None:
    began = time.process_time()
    found, _ = exif.read_block(HOSTILE[name])
    assert time.process_time() - began < 3
    assert found.camera_make is None
    photo().save(tmp_path / "photo.webp", exif=b"Exif\0\0" + HOSTILE[name])
    assert decode(tmp_path / "photo.webp").width == 96


def test_what_exifread_gives_up_on_is_read_by_pillow(tmp_path: Path) -> None:
    # One floating-point value beyond the block's end makes ExifRead fail as a whole.
    data = bytearray(tiff_bytes({MAKE: ("s", b"Panasonic"), ISO: ("H", (200,)), 0xC000: ("U", (1,))}))
    struct.pack_into("<HHII", data, data.index(struct.pack("<HHI", 0xC000, 7, 1)), 0xC000, 12, 1, 0xFFFFFF00)
    photo().save(tmp_path / "photo.webp", exif=b"Exif\0\0" + bytes(data))
    decoded = decode(tmp_path / "photo.webp")
    assert (decoded.exif.camera_make, decoded.exif.iso) == ("Panasonic", 200)
    assert decoded.exif.raw["Image Make"] == "Panasonic"
    assert decoded.warning == "its EXIF is damaged; what could be read of it was kept"


def test_a_big_tiff_is_developed_without_exif(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.tif", big_tiff=True, tiffinfo={MAKE: "Leica"})
    decoded = decode(tmp_path / "photo.tif")
    assert (decoded.format, decoded.width, decoded.exif, decoded.warning) == ("TIFF", 96, Exif(), None)


def test_no_exif_is_no_fault() -> None:
    assert exif.read_block(None) == (Exif(), None)


@needs_exiftool
def test_the_corpus_reads_as_exiftool_reads_it(corpus: Path) -> None:
    found = compare(corpus)
    assert [one for one in found.differences if one.reason is None] == []
    assert found.compared > 0


@needs_exiftool
def test_differences_are_printed_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("same.jpg", "zeros.jpg", "lens.jpg"):
        photo().save(tmp_path / name)
    (tmp_path / "poem.txt").write_text("roses are red")
    same = ["Make=Canon", "ISO=400", "Orientation=6", "DateTimeOriginal=2024:05:01 12:34:56", "ExposureTime=1/250"]
    zeros = ["GPSLatitude=0", "GPSLatitudeRef=N", "GPSLongitude=0", "GPSLongitudeRef=E"]
    for name, tags in (("same.jpg", same), ("zeros.jpg", zeros), ("lens.jpg", ["XMP-aux:Lens=Meyer"])):
        command = ["exiftool", "-q", "-n", "-overwrite_original", *(f"-{tag}" for tag in tags), name]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "zeros.jpg: GPS: None, exiftool (0.0, 0.0): explained: zeros are" in text
    assert "lens.jpg: lens: None, exiftool 'Meyer': explained: " in text
    assert "same.jpg" not in text
    assert "3 files compared, 1 not decoded; 2 differences" in text


@needs_exiftool
def test_what_is_not_explained_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo().save(tmp_path / "a.jpg", exif=exif_block({MAKE: ("s", b"Canon")}))
    monkeypatch.setattr("tests.corpus.EXPLANATIONS", ())
    monkeypatch.setattr("tests.corpus._first", lambda _tags, *_names: "Kodak")
    assert main([str(tmp_path)]) == 1
    assert "a.jpg: make: 'Canon', exiftool 'Kodak': UNEXPLAINED" in capsys.readouterr().out
