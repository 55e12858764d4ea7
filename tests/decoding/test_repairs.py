"""What is sound but for its wrapping is shown, what has no decoder is filed, and what is damaged is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from daemon.decoding import Decoded, Limits
from daemon.errors import Rejected, Truncated
from tests.decoding.images import CORNERS, corners, decode, image_bytes, near, photo, swapped_profile


def decoded(tmp_path: Path, content: bytes) -> Decoded:
    (tmp_path / "photo").write_bytes(content)
    return decode(tmp_path / "photo")


def shown(found: Decoded) -> list[tuple[int, ...]]:
    with Image.open(io.BytesIO(found.medium)) as medium:
        return corners(medium)


def chunk(name: bytes, data: bytes, right: bool = True) -> bytes:
    checksum = zlib.crc32(name + data) ^ (not right)
    return struct.pack(">I", len(data)) + name + data + checksum.to_bytes(4, "big")


def png(*extra: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    content = image_bytes("PNG")
    return content[:33] + b"".join(extra) + content[33:]


@pytest.mark.parametrize("name", [b"iCCP", b"tEXt", b"pHYs", b"gAMA", b"eXIf", b"tIME", b"prVt"])
def test_a_wrong_checksum_beside_the_pixels_is_a_warning(tmp_path: Path, name: bytes) -> None:
    data = b"p\0\0" + zlib.compress(swapped_profile()) if name == b"iCCP" else bytes(9)
    found = decoded(tmp_path, png(chunk(name, data, right=False)))
    assert near(shown(found), CORNERS)
    assert "beside its pixels is damaged" in (found.warning or "")
    assert name.decode() in (found.warning or "")


def test_nonsense_beside_the_pixels_is_left_aside(tmp_path: Path) -> None:
    for extra in (chunk(b"iCCP", b"p\0\7abc"), chunk(b"pHYs", b"\1"), chunk(b"zTXt", b"a\0\0" + b"x" * 20)):
        assert near(shown(decoded(tmp_path, png(extra))), CORNERS)


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_the_picture_itself_is_damage(tmp_path: Path, name: bytes) -> None:
    content = bytearray(image_bytes("PNG", photo().quantize(8)))
    at = content.index(name)
    (length,) = struct.unpack_from(">I", content, at - 4)
    content[at + 4 + length] ^= 1
    with pytest.raises(Rejected, match="a damaged PNG"):
        decoded(tmp_path, bytes(content))


def test_apples_own_png_is_filed_without_a_thumbnail(tmp_path: Path) -> None:
    content = image_bytes("PNG")
    found = decoded(tmp_path, content[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + content[8:])
    assert (found.medium, found.width) == (b"", None)
    assert "has no thumbnail" in (found.warning or "")


@pytest.mark.parametrize(
    "size", [lambda size: size + 1, lambda size: size - 1, lambda size: 0, lambda size: size + 100]
)
def test_a_webp_whose_size_is_wrong_is_whole(tmp_path: Path, size: Any) -> None:
    content = bytearray(image_bytes("WEBP"))
    struct.pack_into("<I", content, 4, size(len(content) - 8))
    assert near(shown(decoded(tmp_path, bytes(content))), CORNERS)


@pytest.mark.parametrize("left", [30, 0.5, 0.9])
def test_a_webp_that_is_cut_ends_early(tmp_path: Path, left: float) -> None:
    content = image_bytes("WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    with pytest.raises(Truncated):
        decoded(tmp_path, content[: int(left if left > 1 else left * len(content))])


def test_raw_files_of_unknown_cameras_are_filed_without_a_thumbnail(tmp_path: Path) -> None:
    for head in (b"FOVb\0\0\2\0", b"\0MRM\0\0\0\0", b"II\x1a\0\0\0HEAPCCDR"):
        found = decoded(tmp_path, head + bytes(range(1, 200)) * 20)
        assert (found.medium, found.width) == (b"", None)
        assert "has no thumbnail" in (found.warning or "")


# -- JPEG XL


def jxl(**options: Any) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(np.asarray(photo()), **options))


@pytest.mark.parametrize("options", [{"lossless": True}, {"level": 90}, {"usecontainer": True, "level": 90}])
def test_jpeg_xl(tmp_path: Path, options: dict[str, Any]) -> None:
    found = decoded(tmp_path, jxl(**options))
    assert (found.format, found.suffixes, found.width, found.height) == ("JPEG XL", (".jxl",), 96, 64)
    assert near(shown(found), CORNERS)


def test_jpeg_xl_of_sixteen_bits_and_of_grey(tmp_path: Path) -> None:
    deep = bytes(imagecodecs.jpegxl_encode(np.asarray(photo()).astype("u2") * 257, lossless=True))
    # The encoder calls 16 bits linear light: as sRGB such numbers are lighter.
    assert near(shown(decoded(tmp_path, deep)), [(239, 79, 79), (79, 229, 78), (79, 79, 239), (239, 239, 79)], 8)
    grey = bytes(imagecodecs.jpegxl_encode(np.asarray(photo(mode="L")), lossless=True))
    assert near(shown(decoded(tmp_path, grey)), corners(photo(mode="L")))


def test_a_jpeg_in_jpeg_xl_is_taken_out_again(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    packed = bytes(imagecodecs.jpegxl_encode_jpeg(image_bytes("JPEG", exif=exif, icc_profile=swapped_profile())))
    found = decoded(tmp_path, packed)
    assert (found.exif.camera_make, found.width) == ("Canon", 96)
    assert shown(found)[0][1] > shown(found)[0][0]  # by its profile


def test_jpeg_xl_that_is_cut_or_too_large(tmp_path: Path) -> None:
    content = bytes(imagecodecs.jpegxl_encode(np.asarray(photo(400, 300)), lossless=True))
    with pytest.raises(Truncated):
        decoded(tmp_path, content[: len(content) // 2])
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(Rejected, match="more than the limit"):
        decode(tmp_path / "photo", Limits(megapixels=0))


# -- colours


def test_adobe_rgb_by_dcf(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    plain = Image.new("RGB", (64, 64), (100, 180, 80))
    with_dcf = decoded(tmp_path, image_bytes("JPEG", plain, exif=exif))
    # What the numbers are in sRGB: greener than it can show of this red.
    assert near(shown(with_dcf), [(0, 182, 69)] * 4, 6)
    assert near(shown(decoded(tmp_path, image_bytes("JPEG", plain))), [(100, 180, 80)] * 4, 4)


def test_code_points_of_png(tmp_path: Path) -> None:
    content = image_bytes("PNG", Image.new("RGB", (64, 64), (100, 180, 80)))
    with_points = content[:33] + chunk(b"cICP", bytes([12, 13, 0, 1])) + content[33:]
    assert near(shown(decoded(tmp_path, with_points)), [(64, 182, 62)] * 4, 6)  # Display P3
    for transfer, white in ((16, 148), (18, 191)):  # paper, of 203 cd/m², in PQ and in HLG
        content = image_bytes("PNG", Image.new("RGB", (64, 64), (white,) * 3))
        with_points = content[:33] + chunk(b"cICP", bytes([9, transfer, 0, 1])) + content[33:]
        assert min(shown(decoded(tmp_path, with_points))[0]) >= 250


def test_a_profile_in_jpeg_2000(tmp_path: Path) -> None:
    content = image_bytes("JPEG2000")
    at = content.index(b"colr") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    box = b"colr\2\0\0" + swapped_profile()
    changed = content[:at] + struct.pack(">I", len(box) + 4) + box + content[at + length :]
    start = content.index(b"jp2h") - 4
    grown = int.from_bytes(content[start : start + 4], "big") + len(box) + 4 - length
    found = shown(decoded(tmp_path, changed[:start] + struct.pack(">I", grown) + changed[start + 4 :]))
    assert found[0][1] > found[0][0]


def test_xmp_in_png_is_read_for_dates_alone(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert decoded(tmp_path, image_bytes("PNG", pnginfo=info)).width == 96
