"""Measures filing: `python -m tests.benchmarks.filing` prints start, latency, throughput, memory, and what rest costs.

Everything is measured on the real program in a child process, with photos made on the spot (camera-like: 12
megapixels, 4 to 5 MB; for the memory 24 megapixels). The throughput is also given as a ratio to a bare loop over
the same files in the same run: read, SHA-256, EXIF, decode, two thumbnails, and nothing written.
"""

import argparse
import io
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from PIL import ExifTags, Image, ImageFilter
from PIL.TiffImagePlugin import IFDRational

from tests.decoding.images import decode

TWELVE, TWENTY_FOUR = (4000, 3000), (6000, 4000)
# How long before rest is measured, and for how long: the system counts in hundredths of a second.
_CALM_SECONDS, _REST_SECONDS = 10.0, 120.0


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Make photos with the entropy of a camera's: soft shapes under sensor noise."""
    folder.mkdir(parents=True)
    base = Image.effect_noise((size[0] // 16, size[1] // 16), 200).resize(size, Image.Resampling.BICUBIC)
    noise = Image.effect_noise(size, 10)
    soft = base.filter(ImageFilter.GaussianBlur(2))
    photo = Image.merge("RGB", (Image.blend(soft, noise, 0.3), soft, Image.blend(soft, noise, 0.2)))
    with io.BytesIO() as out:
        photo.save(out, "JPEG", quality=90)
        content = out.getvalue()
    files = []
    for number in range(count):
        # The same picture, taken a minute later: other bytes, the same work.
        files.append(folder / f"IMG_{number:04}.jpg")
        files[-1].write_bytes(with_exif(content, datetime(2026, 6, 1, 12, tzinfo=UTC) + timedelta(minutes=number)))
    os.sync()
    return files


def with_exif(content: bytes, taken: datetime) -> bytes:
    """Return a JPEG with what a camera writes into it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon", "Canon EOS R6"
    exif[ExifTags.Base.Orientation] = 1
    exif[ExifTags.Base.DateTime] = f"{taken:%Y:%m:%d %H:%M:%S}"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = details[ExifTags.Base.DateTimeDigitized] = f"{taken:%Y:%m:%d %H:%M:%S}"
    details[ExifTags.Base.OffsetTimeOriginal] = "+02:00"
    details[ExifTags.Base.ExposureTime], details[ExifTags.Base.FNumber] = IFDRational(1, 250), IFDRational(56, 10)
    details[ExifTags.Base.ISOSpeedRatings], details[ExifTags.Base.FocalLength] = 200, IFDRational(50)
    details[ExifTags.Base.LensModel] = "RF24-105mm F4 L IS USM"
    block = exif.tobytes()
    return content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]


class Program:
    """A running `darkroom run` in a folder of its own."""

    def __init__(self, base: Path, *options: str, toml: str = "") -> None:
        base.mkdir(exist_ok=True)
        (base / "config.toml").write_text(toml)
        self.inbox, self._database = base / "inbox", base / "state/darkroom.db"
        self._connection: sqlite3.Connection | None = None
        environment = {key: value for key, value in os.environ.items() if "API_KEY" not in key}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        with (base / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "daemon", "run", *options], cwd=base, stderr=log, stdout=log, env=environment
            )
        began = time.monotonic()
        self.wait(lambda: self.inbox.is_dir() and "filing into" in (base / "log").read_text(), 20)
        self.started_in = time.monotonic() - began
        # The decoders are loaded ahead of the first photo.
        self.wait(lambda: len(self.processes()) >= 2, 20)
        time.sleep(1)

    @staticmethod
    def wait(condition: object, seconds: float, interval: float = 0.005) -> None:
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise TimeoutError("the program does not get there")
            time.sleep(interval)

    def done(self) -> int:
        if self._connection is None:
            # Kept: to open the database each time would cost as much as what is measured.
            self._connection = sqlite3.connect(self._database, timeout=10)
        counted = "SELECT sum(n) FROM tally WHERE status IN ('done', 'duplicate', 'failed')"
        return int(self._connection.execute(counted).fetchone()[0])

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def memory(self) -> float:
        """Return the memory of all processes in MB (PSS: what is shared counts once)."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total / 1e6

    def cpu(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def stop(self) -> int:
        if self._connection is not None:
            self._connection.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def latency(base: Path, photos: list[Path]) -> None:
    """Print the seconds from `mv` to `done`, one photo at a time, and what the program takes once it has rested."""
    began = time.monotonic()
    for photo in photos:
        decode(photo)
    bare = (time.monotonic() - began) / len(photos)
    program = Program(base / "latency")
    print(f"start to ready            {program.started_in:.2f} s")
    seconds = []
    for number, photo in enumerate(photos):
        begin = time.monotonic()
        photo.rename(program.inbox / photo.name)
        program.wait(lambda wanted=number + 1: program.done() >= wanted, 30)
        seconds.append(time.monotonic() - begin)
    middle = statistics.median(seconds)
    print(f"mv to done, 12 MP         median {middle * 1000:.0f} ms, slowest {max(seconds) * 1000:.0f} ms")
    print(f"  of 1.5 x decoding + 25  {middle / (1.5 * bare + 0.025):.2f}: decoding alone takes {bare * 1000:.0f} ms")
    # All decoders but one leave after a minute without work.
    program.wait(lambda: len(program.processes()) <= 2, 90, 1.0)
    time.sleep(_CALM_SECONDS)
    before, began = program.cpu(), time.monotonic()
    time.sleep(_REST_SECONDS)
    rest = (program.cpu() - before) / (time.monotonic() - began)
    print(f"at rest                   {rest * 100:.3f} % of a processor, {program.memory():.0f} MB")
    assert program.stop() == 0


def throughput(base: Path, photos: list[Path]) -> tuple[float, float]:
    """Return images a second: of the bare loop, and of the program when all are moved in at once."""
    decode(photos[0])
    begin = time.monotonic()
    for photo in photos:
        decode(photo)
    bare = len(photos) / (time.monotonic() - begin)
    program = Program(base / "throughput")
    begin = time.monotonic()
    for photo in photos:
        photo.rename(program.inbox / photo.name)
    program.wait(lambda: program.done() >= len(photos), 300, 0.05)
    filed = len(photos) / (time.monotonic() - begin)
    assert program.stop() == 0
    return bare, filed


def memory(base: Path, photos: list[Path]) -> float:
    """Return the peak of the whole program's memory in MB."""
    program = Program(base / "memory")
    for photo in photos:
        photo.rename(program.inbox / photo.name)
    peak = 0.0
    while program.done() < len(photos):
        peak = max(peak, program.memory())
    assert program.stop() == 0
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=100)
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="darkroom-bench-", dir=Path.cwd()))
    try:
        latency(base, make_photos(base / "a", 15, TWELVE))
        bare, filed = throughput(base, make_photos(base / "b", args.photos, TWELVE))
        print(f"{args.photos} photos of 12 MP at once  {filed:.1f}/s, bare loop {bare:.1f}/s, ratio {filed / bare:.2f}")
        print(f"peak memory, 24 MP        {memory(base, make_photos(base / 'c', 30, TWENTY_FOUR)):.0f} MB")
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
