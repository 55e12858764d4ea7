"""Compares how many photos a second are thumbnailed: `python -m tests.benchmarks.speed` prints ratios to the floor.

The floor is the least that has to be done, on one processor: read, SHA-256, scaled decode, two sizes, two encodes,
nothing written. Darkroom does all of its work, from the move into the inbox to the last row that is done. All take the
same files, made on the spot, in rounds in turn; what counts is the median of a way's rounds. `--chart` also writes it
as SVG. Peers that are not installed are named and left out.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import median

from PIL import Image

from tests.benchmarks.filing import TWELVE, TWENTY_FOUR, Program, make_photos

MEDIUM, SMALL = 800, 200
_QUALITY = 80
# In a process of its own, as whoever has it would use it: it is not one of Darkroom's dependencies.
_PYVIPS = """
import sys, time
import pyvips
paths = sys.argv[1:]
def make(path):
    for size in (800, 200):
        pyvips.Image.thumbnail(path, size, height=size, size="down").jpegsave_buffer(Q=80)
make(paths[0])
began = time.monotonic()
for path in paths:
    make(path)
print(time.monotonic() - began)
"""


@dataclass
class Way:
    """One way to make the thumbnails of all photos; `run` returns the seconds that it took."""

    name: str
    run: Callable[[Sequence[Path]], float]
    missing: str | None = None
    seconds: list[float] = field(default_factory=list)


def timed(make: Callable[[Path], object]) -> Callable[[Sequence[Path]], float]:
    """Return what takes one photo after the other in this process, the first once more to begin with."""

    def run(photos: Sequence[Path]) -> float:
        make(photos[0])
        began = time.monotonic()
        for photo in photos:
            make(photo)
        return time.monotonic() - began

    return run


def _encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _fitting(size: tuple[int, int], most: int) -> tuple[int, int]:
    scale = min(1.0, most / max(size))
    return round(size[0] * scale), round(size[1] * scale)


def floor(path: Path) -> None:
    """Do the least."""
    content = path.read_bytes()
    hashlib.sha256(content).hexdigest()
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    size = _fitting(image.size, MEDIUM)
    image.draft("RGB", size)
    medium = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    _encoded(medium)
    _encoded(medium.resize(_fitting(size, SMALL), Image.Resampling.LANCZOS))


def plain_pillow(path: Path) -> None:
    """Do as Pillow's manual has it, once for each size."""
    for most in (MEDIUM, SMALL):
        with Image.open(path) as image:
            image.thumbnail((most, most))
            _encoded(image)


def first_document(path: Path) -> None:
    """Do as the project's first document had it: decode in full, convert, and make two copies smaller."""
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for most in (MEDIUM, SMALL):
        copy = whole.copy()
        copy.thumbnail((most, most))
        _encoded(copy)


def _pyvips(photos: Sequence[Path]) -> float:
    command = [sys.executable, "-c", _PYVIPS, *map(str, photos)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _vipsthumbnail(photos: Sequence[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        for photo in photos:
            for most in (MEDIUM, SMALL):
                output = f"{folder}/{photo.stem}-{most}.jpg[Q={_QUALITY}]"
                command = ["vipsthumbnail", str(photo), "--size", f"{most}x{most}>", "-o", output]
                subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - began


def _darkroom(base: Path, decoders: int) -> Callable[[Sequence[Path]], float]:
    rounds = iter(range(1000))

    def run(photos: Sequence[Path]) -> float:
        room = base / f"decoders-{decoders}-{next(rounds)}"
        arriving = room.with_suffix(".arriving")
        arriving.mkdir()
        for photo in photos:
            shutil.copyfile(photo, arriving / photo.name)
        os.sync()
        program = Program(room, toml=f"[limits]\ndecoders = {decoders}\n[web]\nport = 0\n")
        began = time.monotonic()
        for photo in sorted(arriving.iterdir()):
            photo.rename(program.inbox / photo.name)
        program.wait(lambda: program.done() >= len(photos), 600, 0.05)
        seconds = time.monotonic() - began
        if program.stop() != 0:
            raise RuntimeError("darkroom did not end well")
        shutil.rmtree(room)
        arriving.rmdir()
        return seconds

    return run


def ways(base: Path) -> list[Way]:
    """Return all that are compared, the floor first."""
    has_pyvips = subprocess.run([sys.executable, "-c", "import pyvips"], capture_output=True, check=False)
    return [
        Way("floor, one processor", timed(floor)),
        Way("darkroom, decoders = 0", _darkroom(base, 0)),
        Way("darkroom, decoders = 1", _darkroom(base, 1)),
        Way("pyvips", _pyvips, "pip install 'pyvips[binary]'" if has_pyvips.returncode else None),
        Way(
            "vipsthumbnail, per file",
            _vipsthumbnail,
            None if shutil.which("vipsthumbnail") else "apt install libvips-tools",
        ),
        Way("plain Pillow", timed(plain_pillow)),
        Way("the first document's way", timed(first_document)),
    ]


def play(photos: Sequence[Path], compared: Sequence[Way], rounds: int) -> None:
    """Have each way that can be tried take all photos, in rounds in turn."""
    for number in range(rounds):
        for way in compared:
            if way.missing is None:
                way.seconds.append(way.run(photos))
                print(f"round {number + 1}: {way.name}: {way.seconds[-1]:.1f} s", file=sys.stderr)


def table(compared: Sequence[Way], photos: int) -> str:
    """Return the rates and their ratios to the floor, as Markdown."""
    lines = ["| way | photos a second | of the floor |", "| --- | ---: | ---: |"]
    for name, rate, ratio in figures(compared, photos):
        lines.append(f"| {name} | {rate:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def figures(compared: Sequence[Way], photos: int) -> list[tuple[str, float, float]]:
    """Return each way's name, photos a second by the median round, and ratio to the first way's."""
    rates = [(way.name, photos / median(way.seconds)) for way in compared if way.seconds]
    return [(name, rate, rate / rates[0][1]) for name, rate in rates]


def chart(rows: Sequence[tuple[str, float, float]]) -> str:
    """Return the ratios as bars, in SVG that can be read on light and on dark."""
    line, left, width = 26, 190, 380
    scale = width / max(ratio for *_, ratio in rows)
    bars = []
    for number, (name, _, ratio) in enumerate(rows):
        y, own = number * line, name.startswith("darkroom")
        fill = "#c2410c" if own else "#8b8f97"
        bars.append(
            f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y + 4}" width="{ratio * scale:.0f}" height="18" rx="2" fill="{fill}"/>'
            f'<text x="{left + ratio * scale + 6:.0f}" y="{y + 17}">{ratio:.2f}</text>'
        )
    height = len(rows) * line
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 50} {height}" role="img"'
        ' font-family="sans-serif" font-size="13" fill="#777b83">'
        f"<title>Photos a second, as a ratio to the floor of one processor</title>{''.join(bars)}</svg>\n"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=120, help="every fourth of 24 megapixels (default: 120)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chart", type=Path, help="write the ratios there, as SVG")
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="darkroom-bench-", dir=Path.cwd()))
    try:
        large = max(1, args.photos // 4)
        photos = make_photos(base / "12", max(1, args.photos - large), TWELVE)
        photos += [path.rename(base / f"12/L{path.name}") for path in make_photos(base / "24", large, TWENTY_FOUR)]
        compared = ways(base)
        play(photos, compared, args.rounds)
        megabytes = sum(path.stat().st_size for path in photos) / 1e6 / len(photos)
        print(
            f"{len(photos)} photos of {megabytes:.1f} MB, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n"
        )
        print(table(compared, len(photos)))
        for way in compared:
            if way.missing is not None:
                print(f"\nleft out: {way.name}, which is not installed ({way.missing})")
        if args.chart is not None:
            args.chart.write_text(chart(figures(compared, len(photos))))
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
