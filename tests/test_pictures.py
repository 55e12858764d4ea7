"""`python -m tests.corpus FOLDER --pictures`: what is far off is found by itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from daemon.decoding import Decoded, Limits, thumbnails
from daemon.decoding.sandbox import Sandbox
from tests import pictures
from tests.corpus import main
from tests.decoding.images import decode, photo

pytestmark = pytest.mark.skipif(bool(pictures.missing()), reason="needs vips and ImageMagick")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "photos"
    made.mkdir()
    yield made
    shutil.rmtree(made)


def test_what_is_right_is_not_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo().save(folder / "a.jpg", exif=exif)
    photo().save(folder / "b.png")
    (folder / "poem.txt").write_text("roses are red")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-200])
    assert main([str(folder), "--pictures"]) == 0
    assert capsys.readouterr().out == "     0 unexplained\n"


def test_what_is_meant_is_listed_with_its_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Twelve bits of a sensor in sixteen: others show next to black.
    samples = np.asarray(photo(mode="L")).astype(np.uint16) * 4
    tifffile.imwrite(folder / "dark.tif", samples, photometric="minisblack")
    assert main([str(folder), "--pictures"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dark.tif: ")
    assert "from vips; " in out
    assert "explained: bits that a wide sample does not use" in out


@pytest.mark.parametrize(("turn", "said"), [(3, "turned (ROTATE_180)"), (1, "")])
def test_what_is_far_off_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], turn: int, said: str
) -> None:
    photo().save(folder / "a.png")

    def decoded(_: Sandbox, path: Path) -> Decoded:
        with Image.open(path) as image:
            image.load()
            wrong = thumbnails.make(image if turn > 1 else Image.new("RGB", image.size), turn)
        return Decoded(**{**vars(decode(path, Limits())), "small": wrong.small, "medium": wrong.medium})

    monkeypatch.setattr(Sandbox, "decode", decoded)
    assert main([str(folder), "--pictures"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("a.png: ")
    assert said in out
    assert "UNEXPLAINED\n     1 unexplained" in out
