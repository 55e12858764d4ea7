"""Compares how true thumbnails are: `python -m tests.benchmarks.quality [FOLDER]` prints PSNR in dB.

The reference is LANCZOS of the picture decoded in full size; what is compared with it comes out of a JPEG of the same
quality. libvips' `vipsthumbnail` is the peer. Without a folder of photos some are made, soft shapes under noise.
"""

import argparse
import io
import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, median

from PIL import Image, ImageChops, ImageStat

from daemon.decoding.colours import exif_profile
from daemon.decoding.thumbnails import MEDIUM, SMALL, fit
from tests.benchmarks.filing import TWELVE, TWENTY_FOUR, make_photos
from tests.decoding.images import decode

_QUALITY = 80


def psnr(image: Image.Image, reference: Image.Image) -> float:
    """Return the peak signal-to-noise ratio in dB, 99 at most; the mean square is that of all channels."""
    squares = ImageStat.Stat(ImageChops.difference(image, reference)).sum2
    error = sum(squares) / (len(squares) * image.width * image.height)
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0


def _vips(photo: Path, box: int, folder: Path) -> Image.Image | None:
    output = folder / "vips.jpg"
    command = ["vipsthumbnail", str(photo), "--no-rotate", "--size", f"{box}x{box}>", "-o", f"{output}[Q={_QUALITY}]"]
    done = subprocess.run(command, check=False, capture_output=True)
    return _opened(output) if done.returncode == 0 else None


def _opened(file: Path | bytes) -> Image.Image:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return image.convert("RGB")


def compared(photos: Iterable[Path], folder: Path) -> dict[str, list[tuple[float, float | None]]]:
    """Return by size the PSNR of each photo's thumbnail, and that of libvips' where there is one of the same size."""
    found: dict[str, list[tuple[float, float | None]]] = {"small": [], "medium": []}
    has_vips = shutil.which("vipsthumbnail") is not None
    for photo in photos:
        decoded, whole = decode(photo), _opened(photo)
        # Turned, or of colours that are brought to sRGB: not what the reference is made of.
        if decoded.exif.orientation not in (None, 1) or exif_profile(decoded.exif) is not None:
            continue
        for size, content, box in (("small", decoded.small, SMALL), ("medium", decoded.medium, MEDIUM)):
            reference = whole.resize(fit(whole.size, box), Image.Resampling.LANCZOS)
            theirs = _vips(photo, box, folder) if has_vips else None
            is_same = theirs is not None and theirs.size == reference.size
            peer = psnr(theirs, reference) if theirs is not None and is_same else None
            found[size].append((psnr(_opened(content), reference), peer))
    return found


def usable(folder: Path) -> list[Path]:
    """Return the sound RGB JPEGs of a folder that are larger than a medium thumbnail."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            with Image.open(path, formats=["JPEG"]) as image:
                image.load()
                if image.mode == "RGB" and max(image.size) > MEDIUM * 2 and not image.info.get("icc_profile"):
                    found.append(path)
        except (OSError, SyntaxError):
            continue
    return found


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="photos of one's own")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as name:
        base = Path(name)
        photos = usable(args.folder) if args.folder else None
        if photos is None:
            photos = make_photos(base / "12", 1, TWELVE) + make_photos(base / "24", 1, TWENTY_FOUR)
        print("| thumbnail | photos | darkroom, mean (median) | libvips, mean (median) |\n| --- | ---: | ---: | ---: |")
        for size, pairs in compared(photos, base).items():
            theirs = [peer for _, peer in pairs if peer is not None]
            ours = [one for one, peer in pairs if peer is not None or not theirs]
            peer = f"{mean(theirs):.1f} ({median(theirs):.1f}) dB" if theirs else "not installed"
            print(f"| {size} | {len(ours)} | {mean(ours):.1f} ({median(ours):.1f}) dB | {peer} |")


if __name__ == "__main__":
    main()
