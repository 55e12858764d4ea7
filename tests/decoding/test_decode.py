import errno
import hashlib
import io
import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from daemon.decoding import Limits
from daemon.errors import Postponed, Rejected, Transient, Unresponsive, Withdrawn
from tests.decoding.images import BLUE, CORNERS, RED, corners, decode, dng, image_bytes, near, photo


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
    decoded = decode(path)
    assert (decoded.format, decoded.width, decoded.height) == (format_name, 96, 64)
    assert decoded.suffixes[0] == suffix
    assert decoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    status = path.stat()
    assert (decoded.identity.inode, decoded.identity.size) == (status.st_ino, status.st_size)
    assert decoded.warning is None
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        assert near(corners(medium), CORNERS)


def test_a_jpeg_of_several_pictures_shows_its_first(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo().save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (96, 64))])
    decoded = decode(path)
    assert decoded.format == "JPEG"
    with Image.open(io.BytesIO(decoded.small)) as small:
        assert near(corners(small), CORNERS)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / "photo"
    others = [Image.new("RGB", (96, 64), colour) for colour in (RED, BLUE)]
    path.write_bytes(image_bytes(name, save_all=True, append_images=others))
    with Image.open(io.BytesIO(decode(path).medium)) as medium:
        assert near(corners(medium), CORNERS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A text file named .jpg", "not an image: it looks like a text file"),
        (b"%PDF-1.7 ...", "not an image: it looks like a PDF document"),
        (b"8BPS" + bytes(50), "a Photoshop document"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", r"not an image: it looks like a video \(MP4\)"),
    ],
)
def test_what_is_no_image_is_rejected_with_a_guess(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(Rejected, match=reason):
        decode(path)


def test_a_file_beyond_the_size_limit_is_rejected_unread(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.touch()
    os.truncate(path, 3 << 20)
    with pytest.raises(Rejected, match="3 MB, more than the limit of 2 MB"):
        decode(path, Limits(file_mb=2))


def test_only_regular_files_are_opened_and_none_blocks(tmp_path: Path) -> None:
    target = tmp_path / "secret.jpg"
    photo().save(target)
    (tmp_path / "link.jpg").symlink_to(target)
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.jpg"))
    for name, reason in {
        "link.jpg": "is a symbolic link to .*, not a regular file",
        "fifo.jpg": "is a named pipe, not a regular file",
        "folder.jpg": "is a folder, not a regular file",
        "socket.jpg": "is a socket, not a regular file",
    }.items():
        with pytest.raises(Rejected, match=reason):
            decode(tmp_path / name)
    with pytest.raises(Withdrawn, match="no longer there"):
        decode(tmp_path / "gone.jpg")


def test_a_file_without_the_right_to_read_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo().save(path)
    path.chmod(0)
    me = os.geteuid()
    if me == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(Transient, match="permission denied"):
            decode(path)
    finally:
        os.seteuid(me)


def test_a_disk_that_cannot_be_read_is_no_fault_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    photo().save(path)

    def digest(*args: object) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "sha256", digest)
    with pytest.raises(Unresponsive, match="can't be read: Input/output error"):
        decode(path)


def test_a_file_that_changes_meanwhile_is_postponed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    for data in (image_bytes("JPEG"), image_bytes("JPEG")[:500]):
        path.write_bytes(data)
        real = hashlib.sha256

        def digest(*args: object, real: object = real) -> object:
            with path.open("ab") as file:
                file.write(b"more")
            assert callable(real)
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "sha256", digest)
            with pytest.raises(Postponed, match="changed while it was being read") as raised:
                decode(path)
        assert raised.value.seconds == 1.0


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_file_shows_its_preview_upright(tmp_path: Path, orientation: int) -> None:
    photo(640, 480).save(tmp_path / "preview.jpg")
    path = dng(tmp_path / "photo.dng", (tmp_path / "preview.jpg").read_bytes(), orientation)
    decoded = decode(path)
    assert decoded.format == "DNG"
    assert (decoded.width, decoded.height) == ((48, 64) if orientation in (6, 8) else (64, 48))
    assert (decoded.exif.camera_make, decoded.exif.orientation) == ("Darkroom", orientation)
    upright = {
        1: CORNERS,
        3: CORNERS[::-1],
        6: tuple(CORNERS[i] for i in (2, 0, 3, 1)),
        8: tuple(CORNERS[i] for i in (1, 3, 0, 2)),
    }
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        assert near(corners(medium), upright[orientation])


def test_a_raw_file_without_a_preview_is_developed_from_the_sensor(tmp_path: Path) -> None:
    decoded = decode(dng(tmp_path / "photo.dng", orientation=6))
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        top, bottom = corners(medium)[0], corners(medium)[2]
        assert medium.size == (24, 32)
    assert min(top) > 200
    assert max(bottom) < 60
