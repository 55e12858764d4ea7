"""Measures whether filing slows down as the library grows: `python -m tests.benchmarks.growth [ROWS…]`.

Into catalogues of 1,000, 100,000 and 1,000,000 rows the same photos are filed, in rounds in turn; what counts is the
median of a size's rounds. The photos are small, so that what the catalogue costs is not lost in decoding.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.filing import Program, make_photos
from tests.benchmarks.rows import fill

_SIZES = (1_000, 100_000, 1_000_000)
_PHOTOS, _SIDES = 200, (1600, 1200)
_TOML = "[limits]\ndecoders = 1\n[web]\nport = 0\n"


def filed_in(room: Path, photos: list[Path]) -> float:
    """Return the seconds from the first move to the last row that is done."""
    program = Program(room, toml=_TOML)
    before = program.done()
    began = time.monotonic()
    for photo in photos:
        shutil.copyfile(photo, program.inbox / f".{photo.name}.part")
        (program.inbox / f".{photo.name}.part").rename(program.inbox / photo.name)
    program.wait(lambda: program.done() >= before + len(photos), 300, 0.05)
    seconds = time.monotonic() - began
    if program.stop() != 0:
        raise RuntimeError("darkroom did not end well")
    return seconds


def prepared(base: Path, count: int) -> Path:
    """Return the folder of a room whose catalogue has so many rows."""
    room = base / f"rows-{count}"
    Program(room, toml=_TOML).stop()
    fill(room / "state/darkroom.db", count)
    return room


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, default=_SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="darkroom-bench-", dir=Path.cwd()))
    try:
        rooms = {count: prepared(base, count) for count in args.rows}
        photos = make_photos(base / "photos", _PHOTOS * args.rounds, _SIDES)
        took: dict[int, list[float]] = {count: [] for count in rooms}
        for number in range(args.rounds):
            these = photos[number * _PHOTOS : (number + 1) * _PHOTOS]
            for count, room in rooms.items():
                took[count].append(filed_in(room, these))
        print("| rows | ms a photo | ratio |\n| ---: | ---: | ---: |")
        first = median(next(iter(took.values())))
        for count, seconds in took.items():
            print(f"| {count:,} | {median(seconds) / _PHOTOS * 1000:.1f} | {median(seconds) / first:.2f} |")
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
