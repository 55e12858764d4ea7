"""Compares thumbnails with those of vips and ImageMagick, for `python -m tests.corpus FOLDER --pictures`.

Both programs have weaknesses of their own, so a thumbnail is far off where it is far from each that shows the file. A
kind of difference that is meant is printed with its reason.
"""

import io
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from daemon.decoding import Decoded, Limits, boxes, formats, repairs, tiff
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError

_SIDE = 64
_FAR = 12.0
"""A mean difference, of 255, from which on two small pictures are not the same any more."""
_TURNS = tuple(Image.Transpose)
_SECONDS = 60
_COMMANDS = {
    "vips": ["vips", "thumbnail", "{file}", ".png", "400", "--size", "down", "--export-profile", "srgb"],
    "ImageMagick": ["convert", "{file}[0]", "-auto-orient", "-thumbnail", "400x400>", "-background", "white",
                    "-flatten", "-colorspace", "sRGB", "-depth", "8", "png24:-"],
}  # fmt: skip


@dataclass(frozen=True)
class Sighting:
    """How far one file's thumbnail is from that of each program; `reason` is why that is meant, None where it isn't."""

    path: Path
    said: str
    reason: str | None


def missing() -> list[str]:
    """Return which of the programs are not installed."""
    return [name for name, command in _COMMANDS.items() if shutil.which(command[0]) is None]


def compare(folder: Path) -> Iterator[Sighting]:
    """Yield what is far off, or refused as damaged though another program shows it without a complaint."""
    sandbox = Sandbox(Limits())
    try:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            try:
                decoded = sandbox.decode(path)
            except DarkroomError as error:
                if "damaged" in str(error) or "ends early" in str(error):
                    shown = [name for name in _COMMANDS if _shown_by(name, path) is not None]
                    if shown:
                        yield Sighting(path, f"{error}, but {' and '.join(shown)} show it", None)
                continue
            if decoded.medium:
                yield from _judged(path, decoded)
    finally:
        sandbox.close()


def _judged(path: Path, decoded: Decoded) -> Iterator[Sighting]:
    with Image.open(io.BytesIO(decoded.medium)) as medium:
        ours = medium.convert("RGB")
    said, turned = [], False
    for name in _COMMANDS:
        theirs = _shown_by(name, path)
        if theirs is None:
            continue
        theirs = _as_jpeg(theirs)
        far = _difference(ours, theirs)
        if far <= _FAR:
            return
        turn = next((turn.name for turn in _TURNS if _difference(ours, theirs.transpose(turn)) <= _FAR), None)
        turned = turned or turn is not None
        said.append(f"{far:.0f} from {name}" + (f", which has it turned ({turn})" if turn else ""))
    if said:
        yield Sighting(path, "; ".join(said), _reason(path, decoded, turned))


def _difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(_small(one) - _small(other)).mean())


def _small(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)).astype(np.float64)


def _as_jpeg(image: Image.Image) -> Image.Image:
    """Return the image as it looks as a JPEG like ours: in icons of few pixels that alone makes a difference."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return Image.open(content)


def _shown_by(name: str, path: Path) -> Image.Image | None:
    """Return the picture of another program, None where it fails or complains."""
    command = [part.replace("{file}", str(path)) for part in _COMMANDS[name]]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        if result.returncode or result.stderr.strip():
            return None
        with Image.open(io.BytesIO(result.stdout)) as image:
            flat = Image.new("RGBA", image.size, "white")
            flat.alpha_composite(image.convert("RGBA"))
            return flat.convert("RGB")
    except (subprocess.TimeoutExpired, OSError):
        return None


_TURNED = "its container says nothing of turning, so EXIF does, as on phones"
_HDR = "HDR, which these programs show without tone mapping"
_RAW = "of a RAW file the camera's own preview is shown, not what a program makes of the sensor"
_INKS = "inks without a profile are shown as they print, which ImageMagick doesn't do"
_FEW_BITS = "bits that a wide sample does not use are left out, or it would be next to black"
_GAMMA = "a PNG's own gamma is heeded, as browsers do; vips doesn't, nor does ImageMagick heed every value"
_UNSTATED = "a sample of no stated meaning is not transparency"


def _reason(path: Path, decoded: Decoded, turned: bool) -> str | None:
    """Return why a thumbnail is meant to be another one, as far as the file itself shows that."""
    with path.open("rb") as file:
        if decoded.format in {"HEIC", "HEIF", "AVIF"}:
            said = boxes.primary(file)
            if said.coding is not None and said.coding.hdr:
                return _HDR
            return _TURNED if turned and not said.turned else None
        kind = formats.identify(file)
        if kind is not None and kind.raw:
            return _RAW
        if kind is formats.PNG and {chunk.name for chunk in repairs.png_heads(file)} & {b"gAMA", b"cICP"}:
            return _GAMMA
        directory = tiff.main_directory(file) if kind is formats.TIFF else None
    if directory is None:
        return None
    if directory.first(tiff.PHOTOMETRIC) == 5:
        return _INKS
    if directory.first(tiff.EXTRA_SAMPLES) == 0:
        return _UNSTATED
    return _FEW_BITS if (directory.first(tiff.BITS) or 1) > 8 else None
