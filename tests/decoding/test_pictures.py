import io
import random
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from daemon.decoding import pictures, thumbnails
from daemon.errors import Rejected
from tests.decoding.images import decode


def photo(size: tuple[int, int] = (1600, 1200), mode: str = "RGB", **options: Any) -> bytes:
    coarse = Image.frombytes("RGB", (160, 120), random.Random(1).randbytes(160 * 120 * 3))
    out = io.BytesIO()
    coarse.resize(size).convert(mode).save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def zeroed(content: bytes) -> bytes:
    """Overwrite 4 KiB in the middle, as a failing card does."""
    middle = len(content) // 2
    return content[:middle] + bytes(4096) + content[middle + 4096 :]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 4}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_those_of_pillow(mode: str, options: dict[str, Any]) -> None:
    content = photo(mode=mode, **options)
    mine, theirs = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content))
    assert pictures.load(mine) is None
    thumbnails.load(theirs)
    assert mine.size == theirs.size
    assert mine.mode == theirs.mode
    assert ImageChops.difference(mine, theirs).getbbox() is None


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 4}])
def test_a_zeroed_block_is_a_warning_and_the_photo_is_filed(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(zeroed(photo(**options)))
    decoded = decode(path)
    assert decoded.warning is not None
    assert "may be damaged" in decoded.warning
    path.write_bytes(photo(**options))
    assert decode(path).warning is None


@pytest.mark.parametrize("mode", ["CMYK", "1"])
def test_other_kinds_are_left_to_pillow(mode: str) -> None:
    picture = Image.open(io.BytesIO(photo(mode=mode)))
    assert pictures.load(picture) is None
    assert max(picture.size) >= thumbnails.MEDIUM


def test_fine_photos_are_not_complained_about(corpus: Path) -> None:
    photos = [path for path in corpus.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"} and path.stat().st_size]
    damaged = 0
    for path in photos:
        try:
            with Image.open(path, formats=["JPEG"]) as picture:
                damaged += pictures.load(picture) is not None
        except OSError:  # broken for good: not this module's matter
            continue
    assert damaged <= len(photos) // 50 + 1


def with_scans(content: bytes, count: int) -> bytes:
    """Return a progressive JPEG in which the last scan comes so many times."""
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(out, "JPEG", progressive=True)
    content = out.getvalue()
    path = tmp_path / "scans.jpg"
    path.write_bytes(with_scans(content, 5000))
    began = time.process_time()
    with pytest.raises(Rejected, match="a JPEG of more than 100 scans"):
        decode(path)
    assert time.process_time() - began < 2
    path.write_bytes(with_scans(content, 50))
    assert decode(path).format == "JPEG"


def test_what_looks_like_a_scan_behind_the_picture_is_none(tmp_path: Path) -> None:
    path = tmp_path / "motion.jpg"
    path.write_bytes(photo(progressive=True) + b"a video, say" + b"\xff\xda" * 5000)
    assert decode(path).format == "JPEG"
