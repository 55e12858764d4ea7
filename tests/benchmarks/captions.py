"""Measures whether captions hold up filing: `python -m tests.benchmarks.captions [PHOTOS]` prints the ratio.

The same photos are filed by the real program without a key, and with a Gemini on loopback that takes 2 s for each
caption; the time runs from the first photo in the inbox to the last row that is done. Both run at the same time, so
that whatever else the machine does weighs on both; the ratio is the median of several rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.captions.gemini_server import Gemini
from tests.program import Program
from tests.support import jpeg, wait_until

PHOTOS, DELAY, ROUNDS = 1000, 2.0, 3


def seconds_to_file(base: Path, photos: Path, count: int, gemini: Gemini | None) -> tuple[float, int]:
    """File all photos; gives the seconds, and how many were captioned by then."""
    keys = {} if gemini is None else {"GEMINI_API_KEY": "k", "GOOGLE_GEMINI_BASE_URL": gemini.url}
    toml = "[captions]\nrequests_per_minute = 0\nrequests_per_day = 0\n"
    before = 0 if gemini is None else len(gemini.asked)
    with Program(base, toml, **keys) as program:
        began = time.monotonic()
        for photo in sorted(photos.iterdir()):
            shutil.copyfile(photo, base / "inbox" / photo.name)
        wait_until(lambda: program.query("SELECT n FROM tally WHERE status = 'done'") == [(count,)], 600, "filing")
        seconds = time.monotonic() - began
        asked = 0 if gemini is None else len(gemini.asked) - before
        program.stop()
    return seconds, asked


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="?", type=int, default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    off: list[float] = []
    on: list[float] = []
    asked = 0
    with tempfile.TemporaryDirectory() as folder, Gemini(delay=DELAY) as gemini:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for number in range(args.photos):
            (photos / f"{number:05}.jpg").write_bytes(jpeg((1600, 1200), seed=number))
        for turn in range(args.rounds):
            with ThreadPoolExecutor(2) as pool:
                without = pool.submit(seconds_to_file, Path(folder) / f"off{turn}", photos, args.photos, None)
                with_captions = pool.submit(seconds_to_file, Path(folder) / f"on{turn}", photos, args.photos, gemini)
            off.append(without.result()[0])
            took, asked = with_captions.result()
            on.append(took)
    ratio = statistics.median(a / b for a, b in zip(on, off, strict=True))
    for name, seconds in (("captions off", off), (f"{DELAY:g} s a caption", on)):
        spread = f"from {min(seconds):.1f} to {max(seconds):.1f}"
        print(f"{args.photos} photos, {name}: {statistics.median(seconds):.1f} s ({spread})")
    print(f"ratio {ratio:.2f}; {asked} captions had been asked for when the last photo was filed")


if __name__ == "__main__":
    main()
