import io
import re
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from daemon.decoding import Decoded, Limits, decode, thumbnails
from daemon.decoding.thumbnails import fit
from tests.decoding.images import BLUE, CORNERS, GREEN, RED, YELLOW, corners, near, photo, swapped_profile

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def decode_file(path: Path) -> Decoded:
    return decode.decode(path, Limits())


def medium_of(path: Path) -> Image.Image:
    with Image.open(io.BytesIO(decode_file(path).medium)) as image:
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
    decoded = decode_file(path)
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
    decoded = decode_file(path)
    assert (decoded.width, decoded.height) == (96, 64)
    assert decoded.exif.orientation == (orientation if suffix != ".avif" or orientation != 1 else None)
    with Image.open(io.BytesIO(decoded.small)) as small:
        assert small.size == (96, 64)
        assert near(corners(small), CORNERS, 40)


def test_heic_is_upright_as_it_is_whatever_its_exif_says(tmp_path: Path) -> None:
    # In HEIF the container's own boxes turn the image; the tag is kept for information (ISO/IEC 23008-12, A.2.4).
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(96, 64).save(tmp_path / "photo.heic", exif=exif)
    decoded = decode_file(tmp_path / "photo.heic")
    assert (decoded.width, decoded.height, decoded.exif.orientation) == (96, 64, 6)
    assert decoded.exif.raw["Image Orientation"] == 6
    assert near(corners(medium_of(tmp_path / "photo.heic")), CORNERS)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_a_senseless_orientation_turns_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo().save(tmp_path / "photo.jpg", exif=exif)
    decoded = decode_file(tmp_path / "photo.jpg")
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
    wanted = {"1": [BLACK, WHITE, BLACK, WHITE]}.get(mode, list(CORNERS))
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
    assert near(corners(medium_of(path)), CORNERS, 40)


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
        small, medium, _ = thumbnails.make(image, 1)
    assert near(corners(Image.open(io.BytesIO(medium))), CORNERS)
    assert len(small) < len(medium)


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
