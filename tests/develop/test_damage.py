import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from daemon.develop import Developed, Limits
from daemon.develop.decode import develop as develop_within
from daemon.errors import Rejected, Transient, Truncated
from tests.develop.images import WRITERS, dng, image_bytes, noise, photo


def develop(path: Path, limits: Limits | None = None) -> Developed:
    return develop_within(path, limits or Limits())


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_file_that_ends_early_may_still_be_arriving(tmp_path: Path, name: str, part: float) -> None:
    data = image_bytes(name, noise())
    path = tmp_path / "photo"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(Truncated, match="ends early"):
        develop(path)


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"BMP"}))
def test_room_reserved_ahead_is_not_taken_for_an_image(tmp_path: Path, name: str) -> None:
    data = image_bytes(name, noise())
    path = tmp_path / "photo"
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(Truncated):
        develop(path)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(Truncated, match="nothing but zeros"):
        develop(path)


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("length", [1, 5, 9, 13, 30])
def test_a_few_first_bytes_may_still_be_arriving(tmp_path: Path, name: str, length: int) -> None:
    path = tmp_path / "photo"
    path.write_bytes(image_bytes(name)[:length])
    with pytest.raises(Truncated):
        develop(path)


@pytest.mark.parametrize("name", sorted(WRITERS))
@pytest.mark.parametrize("tail", [b"\0" * 5000, b"what a phone appends" * 300])
def test_bytes_after_the_end_do_no_harm(tmp_path: Path, name: str, tail: bytes) -> None:
    path = tmp_path / "photo"
    path.write_bytes(image_bytes(name) + tail)
    assert develop(path).width == 96


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_a_damaged_image_is_rejected_with_its_kind(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo"
    data = bytearray(image_bytes(name, noise()))
    data[len(data) // 2 : len(data) // 2 + 2000] = b"\xaa" * 2000
    path.write_bytes(data)
    with pytest.raises(Rejected, match="a damaged "):
        develop(path)


def test_one_flipped_bit_in_the_pixels_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    data = bytearray(image_bytes("PNG", noise()))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Rejected, match="a damaged PNG"):
        develop(path)


def test_garbage_behind_a_good_signature_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "photo.gif"
    path.write_bytes(b"\xff\xd8\xff\xe0" + b"garbage" * 1000 + b"\xff\xd9")
    with pytest.raises((Rejected, Truncated)):
        develop(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"garbage " * 1000)
    with pytest.raises(Rejected, match="a damaged PNG"):
        develop(path)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_pixels_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(20_000, 20_000))
    reason = "20000 by 20000 pixels are 400 megapixels, more than the limit of 250"
    with pytest.raises(Rejected, match=reason):
        develop(path)
    gif = bytearray(image_bytes("GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    path.write_bytes(gif)
    with pytest.raises(Rejected, match="4295 megapixels"):
        develop(path)


def test_the_pixel_limit_is_ours_and_not_pillows(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (16_000, 12_000)).save(path)  # 192 megapixels: Pillow by itself would refuse
    assert develop(path).width == 16_000
    with pytest.raises(Rejected, match="192 megapixels, more than the limit of 100"):
        develop(path, Limits(megapixels=100))


def test_a_text_bomb_in_a_png_ends_in_an_error_or_an_image(tmp_path: Path) -> None:
    text = b"comment\0\0" + zlib.compress(bytes(80 << 20))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    data = image_bytes("PNG")
    path = tmp_path / "text.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(Rejected, match="a damaged PNG"):
        develop(path)


def test_an_empty_file_may_still_be_arriving(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    with pytest.raises(Truncated, match="the file is empty"):
        develop(path)


def test_a_raw_file_whose_sensor_data_are_missing_ends_early(tmp_path: Path) -> None:
    photo(640, 480).save(tmp_path / "preview.jpg")
    path = dng(tmp_path / "photo.dng", (tmp_path / "preview.jpg").read_bytes())
    data = bytearray(path.read_bytes())
    assert develop(path).format == "DNG"
    # As cameras write it, the pixels come last: the preview is there, they are not.
    at = data.index(struct.pack("<HHII", 0x111, 4, 1, 8))
    struct.pack_into("<I", data, at + 8, len(data) - 1000)
    path.write_bytes(data)
    with pytest.raises(Truncated, match="the DNG ends early"):
        develop(path)


def test_reasons_are_one_line_for_people(tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "photo"
    for name in WRITERS:
        data = image_bytes(name)
        for _ in range(12):
            broken = bytearray(data)
            for _ in range(20):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            path.write_bytes(broken)
            reason = ""
            try:
                develop(path)
            except (Rejected, Transient) as error:
                reason = str(error)
            assert "\n" not in reason
            assert "0x" not in reason
            assert len(reason) < 300
