"""JPEG and JPEG 2000 of more than 8 bits, without loss, and of odd channels."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from daemon.decoding import Limits, codestreams
from daemon.errors import Rejected, Truncated
from tests.decoding.images import CORNERS, corners, decode, near, photo, swapped_profile

RGB = np.asarray(photo())
GREY = np.asarray(photo(mode="L"))


def shown(path: Path, content: bytes) -> list[tuple[int, ...]]:
    (path / "photo").write_bytes(content)
    decoded = decode(path / "photo")
    assert (decoded.width, decoded.height, decoded.warning) == (96, 64, None)
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        return corners(medium)


def deep(samples: Any, bits: int) -> Any:
    return np.round(samples.astype(np.float64) / 255 * ((1 << bits) - 1)).astype(np.uint16)


def twelve_bits(**options: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(deep(RGB, 12), level=95, bitspersample=12, **options))


def test_jpeg_of_twelve_bits_as_of_scanners_and_x_rays(tmp_path: Path) -> None:
    assert near(shown(tmp_path, twelve_bits()), CORNERS)
    grey = bytes(imagecodecs.jpeg8_encode(deep(GREY, 12), level=95, bitspersample=12))
    assert near(shown(tmp_path, grey), corners(photo(mode="L")))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_without_loss(tmp_path: Path, bits: int) -> None:
    samples = GREY if bits == 8 else deep(GREY, bits)
    content = bytes(imagecodecs.ljpeg_encode(samples, bitspersample=bits))
    assert near(shown(tmp_path, content), corners(photo(mode="L")))


def test_what_stands_beside_deep_pixels_counts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Siemens", 6
    plain = io.BytesIO()
    photo().save(plain, "JPEG", exif=exif, icc_profile=swapped_profile())
    head = plain.getvalue()[2 : plain.getvalue().index(b"\xff\xdb")]
    (tmp_path / "photo").write_bytes(b"\xff\xd8" + head + twelve_bits()[2:])
    found = decode(tmp_path / "photo")
    assert (found.exif.camera_make, found.width, found.height) == ("Siemens", 64, 96)
    with Image.open(io.BytesIO(found.medium)) as medium:
        red, green, blue = corners(medium)[1]
    assert green > max(red, blue)  # the top left red one, turned to the right and of exchanged colours


def test_deep_pixels_are_counted_and_their_end_is_missed(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(twelve_bits())
    with pytest.raises(Rejected, match="more than the limit"):
        decode(tmp_path / "photo", Limits(megapixels=0))
    (tmp_path / "photo").write_bytes(twelve_bits()[:-20])
    with pytest.raises(Truncated):
        decode(tmp_path / "photo")


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
@pytest.mark.parametrize(("bits", "channels"), [(12, 1), (12, 3), (16, 1), (16, 3), (16, 4), (16, 2)])
def test_jpeg_2000_of_many_bits(tmp_path: Path, kind: str, bits: int, channels: int) -> None:
    samples = deep(RGB if channels > 2 else GREY[..., None], bits)
    if channels in (2, 4):
        samples = np.concatenate([samples, np.full_like(samples[..., :1], (1 << bits) - 1)], axis=-1)
    content = imagecodecs.jpeg2k_encode(samples.squeeze(), bitspersample=bits, codecformat=kind, level=0)
    wanted = CORNERS if channels > 2 else corners(photo(mode="L"))
    assert near(shown(tmp_path, bytes(content)), wanted)


def test_jpeg_2000_of_more_channels_than_colours(tmp_path: Path) -> None:
    samples = np.concatenate([RGB, GREY[..., None], GREY[..., None]], axis=-1)
    content = imagecodecs.jpeg2k_encode(samples, codecformat="j2k", level=0, planar=False)
    assert near(shown(tmp_path, bytes(content)), CORNERS)


def test_whether_a_jpeg_has_one_scan_is_read_off_its_head() -> None:
    plain, progressive = io.BytesIO(), io.BytesIO()
    photo().save(plain, "JPEG")
    photo().save(progressive, "JPEG", progressive=True)
    content = plain.getvalue()
    scan = content.index(b"\xff\xda")
    by_channel = content[: scan + 4] + b"\x01" + content[scan + 5 :]
    assert codestreams.is_of_one_scan(content)
    # A preview in its EXIF block has scans of its own, and says nothing of the picture.
    inside = b"\xff\xe1" + (len(progressive.getvalue()) + 2).to_bytes(2, "big") + progressive.getvalue()
    assert codestreams.is_of_one_scan(content[:2] + inside + content[2:])
    assert not codestreams.is_of_one_scan(progressive.getvalue())
    assert not codestreams.is_of_one_scan(by_channel)
    for end in (2, scan, scan + 4):
        assert not codestreams.is_of_one_scan(content[:end])
