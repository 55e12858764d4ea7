import hashlib
import io
import os
import random
import socket
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import pillow_heif
import pytest
from PIL import Image

from daemon.develop import Developed, Limits
from daemon.develop.decode import develop as develop_within
from daemon.errors import Postponed, Rejected, Transient, Truncated, Withdrawn
from tests.develop.images import BLUE, CORNERS, RED, corners, dng, near, photo

pillow_heif.register_heif_opener()

WRITERS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 92},
    "PNG": {},
    "WEBP": {"quality": 92},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
    "BMP": {},
    "AVIF": {"quality": 85},
    "HEIF": {"quality": 85},
    "JPEG2000": {},
}


def develop(path: Path, limits: Limits | None = None) -> Developed:
    return develop_within(path, limits or Limits())


def image_bytes(name: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, name, **cast("Any", WRITERS[name] | options))
    return buffer.getvalue()


def noise(width: int = 300, height: int = 200) -> Image.Image:
    """What compresses badly: a file long enough to be cut in many places."""
    return Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))


@pytest.mark.parametrize(
    ("name", "format_name", "suffix"),
    [
        ("JPEG", "JPEG", ".jpg"),
        ("PNG", "PNG", ".png"),
        ("WEBP", "WebP", ".webp"),
        ("TIFF", "TIFF", ".tif"),
        ("GIF", "GIF", ".gif"),
        ("BMP", "BMP", ".bmp"),
        ("AVIF", "AVIF", ".avif"),
        ("HEIF", "HEIC", ".heic"),
        ("JPEG2000", "JPEG 2000", ".jp2"),
    ],
)
def test_every_format_is_developed_whatever_its_name(tmp_path: Path, name: str, format_name: str, suffix: str) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(image_bytes(name))
    developed = develop(path)
    assert (developed.format, developed.width, developed.height) == (format_name, 96, 64)
    assert developed.suffixes[0] == suffix
    assert developed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    status = path.stat()
    assert (developed.identity.inode, developed.identity.size) == (status.st_ino, status.st_size)
    assert developed.warning is None
    with Image.open(io.BytesIO(developed.medium)) as medium:
        assert near(corners(medium), CORNERS)


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


def test_a_jpeg_of_several_pictures_shows_its_first(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo().save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    developed = develop(path)
    assert developed.format == "JPEG"
    with Image.open(io.BytesIO(developed.small)) as small:
        assert near(corners(small), CORNERS)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo"
    others = [Image.new("RGB", (96, 64), colour) for colour in (RED, BLUE)]
    path.write_bytes(image_bytes(name, save_all=True, append_images=others))
    with Image.open(io.BytesIO(develop(path).medium)) as medium:
        assert near(corners(medium), CORNERS)


@pytest.mark.parametrize("name", ["PNG", "GIF", "WEBP", "HEIF"])
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A text file named .jpg", "not an image: it looks like a text file"),
        (b"%PDF-1.7 ...", "not an image: it looks like a PDF document"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL image, a format not supported yet"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", r"not an image: it looks like a video \(MP4\)"),
    ],
)
def test_what_is_no_image_is_rejected_with_a_guess(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(Rejected, match=reason):
        develop(path)


def test_an_empty_file_may_still_be_arriving(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    with pytest.raises(Truncated, match="the file is empty"):
        develop(path)


def test_a_file_beyond_the_size_limit_is_rejected_unread(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    os.truncate(path, 3 << 20)
    with pytest.raises(Rejected, match="3 MB, more than the limit of 2 MB"):
        develop(path, Limits(file_mb=2))


def test_only_regular_files_are_opened_and_none_blocks(tmp_path: Path) -> None:
    target = tmp_path / "secret.jpg"
    photo().save(target)
    (tmp_path / "link.jpg").symlink_to(target)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    for name, reason in {
        "link.jpg": "a symbolic link, not a file",
        "fifo.jpg": "a named pipe, not a file",
        "folder.jpg": "a folder, not a file",
        "socket.jpg": "a socket, not a file",
    }.items():
        with pytest.raises(Rejected, match=reason):
            develop(tmp_path / name)
    with pytest.raises(Withdrawn, match="the file is gone"):
        develop(tmp_path / "gone.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo().save(path)
    path.chmod(0)
    with pytest.raises(Transient, match="can't be read: Permission denied"):
        develop(path)


def test_a_disk_that_cannot_be_read_is_no_fault_of_the_image() -> None:
    # The kernel's own memory opens as a regular file, and reading its first bytes is an I/O error.
    with pytest.raises((Transient, Truncated)) as raised:
        develop(Path("/proc/self/mem"))
    assert "read" in str(raised.value) or "empty" in str(raised.value)


def test_a_file_that_changes_meanwhile_is_postponed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    for data in (image_bytes("JPEG"), image_bytes("JPEG")[:500]):
        path.write_bytes(data)
        real = hashlib.file_digest

        def digest(*args: object, real: object = real) -> object:
            with path.open("ab") as file:
                file.write(b"more")
            assert callable(real)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", digest)
            with pytest.raises(Postponed, match="changed while it was being read") as raised:
                develop(path)
        assert raised.value.seconds == 1.0


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_file_shows_its_preview_upright(tmp_path: Path, orientation: int) -> None:
    photo(640, 480).save(tmp_path / "preview.jpg")
    path = dng(tmp_path / "photo.dng", (tmp_path / "preview.jpg").read_bytes(), orientation)
    developed = develop(path)
    assert developed.format == "DNG"
    assert (developed.width, developed.height) == ((48, 64) if orientation in (6, 8) else (64, 48))
    assert (developed.exif.camera_make, developed.exif.orientation) == ("Darkroom", orientation)
    upright = {
        1: CORNERS,
        3: CORNERS[::-1],
        6: tuple(CORNERS[i] for i in (2, 0, 3, 1)),
        8: tuple(CORNERS[i] for i in (1, 3, 0, 2)),
    }
    with Image.open(io.BytesIO(developed.medium)) as medium:
        assert near(corners(medium), upright[orientation])


def test_a_raw_file_without_a_preview_is_developed_from_the_sensor(tmp_path: Path) -> None:
    developed = develop(dng(tmp_path / "photo.dng", orientation=6))
    with Image.open(io.BytesIO(developed.medium)) as medium:
        top, bottom = corners(medium)[0], corners(medium)[2]
        assert medium.size == (24, 32)
    assert min(top) > 200
    assert max(bottom) < 60


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
