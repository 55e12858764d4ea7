"""TIFF as scanners, instruments and Photoshop write it: every width, kind and layout of samples."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from daemon.decoding import Decoded
from daemon.errors import Rejected, Truncated
from tests.decoding.images import CORNERS, corners, decode, near, photo, tiff_bytes

RGB = np.asarray(photo()).astype(np.float64) / 255
GREY = np.asarray(photo(mode="L")).astype(np.float64) / 255
GREYS = corners(photo(mode="L"))


def written(path: Path, samples: NDArray[Any], **options: Any) -> Decoded:
    tifffile.imwrite(path / "photo.tif", samples, **options)
    return decode(path / "photo.tif")


def colours(decoded: Decoded) -> list[tuple[int, ...]]:
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        return corners(medium)


def scaled(values: NDArray[Any], kind: str, bits: int | None = None) -> NDArray[Any]:
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return values.astype(dtype)
    return np.round(values * ((1 << (bits or dtype.itemsize * 8)) - 1)).astype(dtype)


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"byteorder": ">", "bigtiff": True},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw", "tile": (32, 48)},
    {"compression": "zstd", "rowsperstrip": 7},
]


@pytest.mark.parametrize("options", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f2", "f4", "f8"])
def test_colours_of_every_width_and_layout(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    predictor = {"predictor": 3} if "predictor" in options and kind[0] == "f" else {}
    decoded = written(tmp_path, scaled(RGB, kind), photometric="rgb", **(options | predictor))
    assert near(colours(decoded), CORNERS)
    assert (decoded.width, decoded.height, decoded.warning) == (96, 64, None)
    planes = np.ascontiguousarray(np.moveaxis(scaled(RGB, kind), -1, 0))
    decoded = written(tmp_path, planes, photometric="rgb", planarconfig="separate", **(options | predictor))
    assert near(colours(decoded), CORNERS)


@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
def test_packed_bits(tmp_path: Path, bits: int) -> None:
    samples = scaled(GREY, "u2" if bits > 8 else "u1", bits)
    decoded = written(tmp_path, samples, photometric="minisblack", bitspersample=bits)
    assert near(colours(decoded), GREYS, 45 if bits == 2 else 12)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
def test_white_is_zero(tmp_path: Path, kind: str) -> None:
    assert near(colours(written(tmp_path, scaled(1 - GREY, kind), photometric="miniswhite")), GREYS)


def test_few_bits_in_wide_samples_are_not_black(tmp_path: Path) -> None:
    for kind, used in (("u2", 12), ("u4", 16), ("u4", 8)):
        assert near(colours(written(tmp_path, scaled(GREY, kind, used), photometric="minisblack")), GREYS, 12)


def test_floats_are_shown_in_the_range_that_they_have(tmp_path: Path) -> None:
    for top in (1, 255):
        assert near(colours(written(tmp_path, (GREY * top).astype("f4"), photometric="minisblack")), GREYS)
    holes = RGB.copy()
    holes[:4] = np.nan
    assert near(colours(written(tmp_path, holes.astype("f4"), photometric="rgb")), CORNERS)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_transparency_is_on_white_and_infrared_is_not_transparency(tmp_path: Path, kind: str) -> None:
    clear = np.ones(GREY.shape)
    clear[:32, :48] = 0
    for base, photometric in ((GREY[..., None], "minisblack"), (RGB, "rgb")):
        samples = scaled(np.dstack([base, clear]), kind)
        options = {"photometric": photometric, "planarconfig": "contig"}
        assert near(colours(written(tmp_path, samples, extrasamples=["unassalpha"], **options))[:1], [(255,) * 3], 6)
        shown = colours(written(tmp_path, samples, extrasamples=["unspecified"], **options))
        assert near(shown, CORNERS if photometric == "rgb" else GREYS)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_inks_with_transparency(tmp_path: Path, kind: str) -> None:
    samples = scaled(np.dstack([1 - RGB, np.zeros(GREY.shape), np.ones(GREY.shape)]), kind)
    shown = colours(written(tmp_path, samples, photometric="separated", extrasamples=["unassalpha"]))
    assert near(shown, [(208, 58, 41), (0, 136, 74), (68, 55, 127), (229, 204, 39)], 12)


def test_lab_of_sixteen_bits(tmp_path: Path) -> None:
    # CIE L*a*b* under D50 of sRGB's red, and of a middle grey.
    lab = np.zeros((64, 96, 3))
    lab[:, :48], lab[:, 48:] = (54.29, 80.81, 69.89), (53.59, 0.0, 0.0)
    icc = np.dstack([lab[..., 0] * 652.8, (lab[..., 1] + 128) * 256, (lab[..., 2] + 128) * 256]).round().astype("u2")
    cie = np.dstack([lab[..., 0] * 655.35, lab[..., 1] * 256, lab[..., 2] * 256]).round().astype("i4").astype("u2")
    for samples, photometric in ((icc, "icclab"), (cie, "cielab")):
        shown = colours(written(tmp_path, samples, photometric=photometric))
        assert near(shown, [(255, 0, 0), (128, 128, 128)] * 2, 8), photometric


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxl", "lzma", "lerc"])
def test_pictures_within_tiff(tmp_path: Path, compression: str) -> None:
    assert near(colours(written(tmp_path, scaled(RGB, "u1"), photometric="rgb", compression=compression)), CORNERS)


def test_a_reduced_first_page_is_not_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((16, 24, 3), "u1"), photometric="rgb", subfiletype=1)
        tiff.write(scaled(RGB, "u1"), photometric="rgb", metadata=None)
    decoded = decode(path)
    assert (decoded.width, decoded.height) == (96, 64)
    assert near(colours(decoded), CORNERS)


def pages(path: Path, count: int) -> bytes:
    with tifffile.TiffWriter(path) as tiff:
        for _ in range(count):
            tiff.write(scaled(RGB, "u1"), photometric="rgb", metadata=None)
    return path.read_bytes()


def test_a_stray_number_behind_the_last_directory_is_no_end(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    content = bytearray(pages(path, 1))
    with tifffile.TiffFile(path) as tiff:
        link = tiff.pages.first.offset + 2 + 12 * len(tiff.pages.first.tags)
    for stray in (0x7FFFFFF0, 300, len(content) + 10):
        content[link : link + 4] = stray.to_bytes(4, "little")
        path.write_bytes(content)
        assert near(colours(decode(path)), CORNERS), stray


def test_pages_that_are_cut_off_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    content = pages(path, 3)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(Truncated, match="ends early"):
        decode(path)


def test_a_large_scan_is_scaled_down_strip_by_strip(tmp_path: Path) -> None:
    large = scaled(RGB, "u2").repeat(60, axis=0).repeat(60, axis=1)  # 5760 by 3840
    decoded = written(tmp_path, large, photometric="rgb", rowsperstrip=101, compression="zlib")
    assert (decoded.width, decoded.height) == (5760, 3840)
    assert near(colours(decoded), CORNERS, 4)


def test_a_kind_without_a_decoder_is_filed_without_a_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    tags = {
        0x100: ("I", (8,)), 0x101: ("I", (8,)), 0x102: ("H", (8,)), 0x103: ("H", (34676,)), 0x106: ("H", (32844,)),
        0x10F: ("s", b"Canon"), 0x111: ("I", (8,)), 0x116: ("I", (8,)), 0x117: ("I", (64,)),
    }  # fmt: skip
    path.write_bytes(tiff_bytes(tags, blobs=bytes(range(1, 65))))
    decoded = decode(path)
    assert decoded.warning == "has no thumbnail: its compression 34676 has no decoder"
    assert (decoded.small, decoded.medium, decoded.width, decoded.height) == (b"", b"", None, None)
    assert decoded.exif.camera_make == "Canon"


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_damage_is_damage_still(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "photo.tif"
    noise = np.random.default_rng(1).integers(0, 65536, (64, 96, 3), "u2")
    tifffile.imwrite(path, noise, photometric="rgb", compression=compression)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        middle = tiff.pages[0].dataoffsets[0]
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(Rejected, match="a damaged TIFF"):
        decode(path)
