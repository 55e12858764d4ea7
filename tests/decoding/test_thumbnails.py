import io
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from daemon.decoding import thumbnails
from daemon.decoding.thumbnails import fit
from tests.decoding.images import BLUE, CORNERS, GREEN, RED, YELLOW, corners, decode, near, photo, swapped_profile

# What the four colours look like in print, their inks being mere complements: duller than any screen.
PRINTED = [(208, 58, 41), (0, 136, 74), (68, 55, 127), (229, 204, 39)]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def medium_of(path: Path) -> Image.Image:
    with Image.open(io.BytesIO(decode(path).medium)) as image:
        image.load()
        return image


@pytest.mark.parametrize(
    ("size", "box", "wanted"),
    [
        ((4000, 3000), 800, (800, 600)),
        ((3000, 4000), 200, (150, 200)),
        ((640, 480), 800, (640, 480)),
        ((10000, 3), 200, (200, 1)),
        ((1, 1), 200, (1, 1)),
    ],
)
def test_sizes_fit_the_box_and_never_grow(size: tuple[int, int], box: int, wanted: tuple[int, int]) -> None:
    assert fit(size, box) == wanted


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_thumbnails_are_bare_jpegs_of_the_two_sizes(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Canon"
    path = tmp_path / f"photo{suffix}"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo(2000, 1500).save(path, exif=exif, icc_profile=profile, dpi=(300, 300), comment="a secret")
    decoded = decode(path)
    for data, size in ((decoded.small, (200, 150)), (decoded.medium, (800, 600))):
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size)
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert near(corners(image), CORNERS)
    assert b"secret" not in decoded.medium


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_all_orientations_come_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    # The inverse of what a viewer has to do with each value (EXIF 2.32, 4.6.4).
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = photo(96, 64)
    if orientation in stored:
        image = image.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    image.save(path, exif=exif)
    decoded = decode(path)
    assert (decoded.width, decoded.height) == (96, 64)
    assert decoded.exif.orientation == (orientation if suffix != ".avif" or orientation != 1 else None)
    with Image.open(io.BytesIO(decoded.small)) as small:
        assert small.size == (96, 64)
        assert near(corners(small), CORNERS, 40)


XMP_SAYS_6 = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def turned(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def unnoticed(value: int) -> bytes:
    """EXIF whose orientation stands under another number, so that no plugin writes `irot` by it; see `noticed`."""
    exif = Image.Exif()
    exif[0x0113] = value
    return exif.tobytes()


def noticed(path: Path) -> None:
    entry = struct.Struct(">HHI")
    path.write_bytes(path.read_bytes().replace(entry.pack(0x0113, 3, 1), entry.pack(0x0112, 3, 1)))


def test_what_a_container_says_beats_exif(tmp_path: Path) -> None:
    lying = photo(96, 64).transpose(Image.Transpose.ROTATE_90)
    heic, avif = tmp_path / "photo.heic", tmp_path / "photo.avif"
    lying.save(heic, exif=turned(6))
    heic.write_bytes(heic.read_bytes().replace(turned(6), turned(3)))
    # Pillow moves the orientation from EXIF into `irot`.
    both = Image.Exif()
    both[0x0112], both[0x0113] = 6, 3
    lying.save(avif, exif=both.tobytes())
    noticed(avif)
    for path in (heic, avif):
        decoded = decode(path)
        assert (decoded.width, decoded.height, decoded.exif.orientation) == (96, 64, 3), path.name
        assert near(corners(medium_of(path)), CORNERS), path.name


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_exif_turns_where_the_container_says_nothing(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = photo(96, 64).transpose(stored[orientation]) if orientation in stored else photo(96, 64)
    path = tmp_path / f"photo{suffix}"
    image.save(path, exif=unnoticed(orientation))
    noticed(path)
    decoded = decode(path)
    assert (decoded.width, decoded.height, decoded.exif.orientation) == (96, 64, orientation)
    assert near(corners(medium_of(path)), CORNERS)


@pytest.mark.parametrize("exif", [None, 1])
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif", ".heic", ".png", ".tif"])
def test_xmp_turns_nothing(tmp_path: Path, suffix: str, exif: int | None) -> None:
    path = tmp_path / f"photo{suffix}"
    options: dict[str, Any] = {} if exif is None else {"exif": turned(exif)}
    if suffix == ".png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP_SAYS_6.decode())
    elif suffix == ".tif":
        options = {"tiffinfo": {700: XMP_SAYS_6} | ({} if exif is None else {0x0112: exif})}
    else:  # or pillow-heif would write `irot` by it
        options["xmp"] = XMP_SAYS_6.replace(b"Orientation", b"orientatioN")
    photo(96, 64).save(path, **options)
    path.write_bytes(path.read_bytes().replace(b"orientatioN", b"Orientation"))
    assert b"tiff:Orientation" in path.read_bytes()
    assert (decode(path).width, decode(path).height) == (96, 64)
    assert near(corners(medium_of(path)), CORNERS, 40)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_senseless_orientation_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().save(tmp_path / "photo.jpg", exif=exif)
    decoded = decode(tmp_path / "photo.jpg")
    assert (decoded.width, decoded.exif.orientation) == (96, None)


MODES = {
    ".png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    ".tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "LAB"],
    ".jpg": ["1", "L", "RGB", "CMYK", "YCbCr"],
    ".jp2": ["L", "LA", "RGB", "RGBA", "CMYK", "I;16"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_every_mode_keeps_its_colours(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"photo{suffix}"
    if mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(photo(), transform)
        assert image
    elif mode == "I;16":
        image = photo(mode="L").convert("I").point(lambda value: value * 257).convert("I;16")
    elif mode == "1":
        image = photo(mode="L").point(lambda value: 255 if value > 100 else 0).convert("1")
    else:
        image = photo(mode=mode)
    image.save(path)
    wanted = {"1": [BLACK, WHITE, BLACK, WHITE], "CMYK": PRINTED}.get(mode, list(CORNERS))
    if mode in ("L", "LA", "I;16"):
        wanted = [(pixel[0],) * 3 for pixel in corners(photo(mode="L"))]
    assert near(corners(medium_of(path)), wanted, 40)


def test_deep_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = Image.new("I", (256, 16))
    ramp.putdata([x * 257 for _ in range(16) for x in range(256)])
    ramp.convert("I;16").save(tmp_path / "sixteen.png")
    ramp.save(tmp_path / "thirty-two.tif")
    ramp.convert("F").point(lambda value: value * (1 / 65535) + 0).save(tmp_path / "float.tif")
    for name in ("sixteen.png", "thirty-two.tif", "float.tif"):
        medium = medium_of(tmp_path / name).convert("L")
        assert [abs(int(str(medium.getpixel((x, 8)))) - x) <= 4 for x in (5, 64, 128, 200, 250)] == [True] * 5, name


def test_transparency_is_shown_on_white(tmp_path: Path) -> None:
    image = photo(mode="RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 48, 32))
    palette = photo().quantize(8, dither=Image.Dither.NONE)
    clear = palette.getpixel((10, 10))
    grey = Image.new("I", (96, 64), 40000)
    grey.paste(777, (0, 0, 48, 32))
    image.save(tmp_path / "alpha.png")
    image.save(tmp_path / "alpha.webp", lossless=True)
    image.convert("LA").save(tmp_path / "grey-alpha.png")
    palette.save(tmp_path / "palette.png", transparency=clear)
    palette.save(tmp_path / "palette.gif", transparency=clear)
    photo().save(tmp_path / "key.png", transparency=RED)
    grey.convert("I;16").save(tmp_path / "deep-key.png", transparency=777)
    for path in tmp_path.iterdir():
        found = corners(medium_of(path))
        assert near(found[:1], [WHITE], 6), path.name
        assert max(found[1]) < 240, path.name


def test_colours_are_converted_by_the_profile(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png", ".tif", ".webp", ".avif", ".heic"):
        path = tmp_path / f"photo{suffix}"
        photo().save(path, icc_profile=swapped_profile())
        found = corners(medium_of(path))
        assert near(found, (GREEN, RED, BLUE, YELLOW), 70), (suffix, found)
        assert found[0][1] > found[0][0]


def test_a_broken_or_foreign_profile_leaves_the_colours_alone(tmp_path: Path) -> None:
    profile = swapped_profile()
    for number, broken in enumerate((b"nonsense", profile[:200], profile[:128] + bytes(len(profile) - 128))):
        path = tmp_path / f"{number}.png"
        photo().save(path, icc_profile=broken)
        assert near(corners(medium_of(path)), CORNERS)
    path = tmp_path / "cmyk.jpg"
    photo(mode="CMYK").save(path, icc_profile=profile)
    assert near(corners(medium_of(path)), PRINTED, 12)


def test_grey_with_a_profile_for_colours_stays_grey(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo(mode="L").save(path, icc_profile=profile)
    assert near(corners(medium_of(path)), corners(photo(mode="L")))


def test_a_large_photo_is_not_decoded_in_full(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    photo(6000, 4000).save(path)
    with Image.open(path) as image:
        thumbnails.load(image)
        assert image.size == (1500, 1000)
        made = thumbnails.make(image, 1)
    assert near(corners(Image.open(io.BytesIO(made.medium))), CORNERS)
    assert len(made.small) < len(made.medium)


def test_the_mean_colour_is_one_of_the_stylesheet() -> None:
    sheet = (Path(__file__).parent.parent.parent / "web/static/colours.css").read_text()
    rules = re.findall(r"^\.c(\d+) \{ background: (#\w{6}); \}$", sheet, re.MULTILINE)
    assert [int(number) for number, _ in rules] == list(range(64))
    # At both ends there are not all hues.
    for number, colour in rules[8:-8]:
        assert thumbnails.colour(Image.new("RGB", (40, 30), colour)) == int(number), colour


def test_the_mean_colour_is_that_of_the_whole_picture() -> None:
    image = Image.new("RGB", (100, 100), "black")
    image.paste((255, 255, 255), (0, 0, 100, 50))
    assert thumbnails.colour(image) == thumbnails.colour(Image.new("RGB", (1, 1), (127, 127, 127)))
    classes = {thumbnails.colour(Image.new("RGB", (2, 2), (n, n, n))) for n in range(256)}
    assert classes == {8 * lightness for lightness in range(8)}
