"""Measures `darkroom sync` over a large library: `python -m tests.benchmarks.follow [PHOTOS]` prints what it takes.

The library and its rows are made directly, small files that stand for photos, with a sidecar beside each. Then a
hundredth each is edited, moved, deleted and new, and every verdict is compared with what was done.
"""

import argparse
import hashlib
import resource
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from daemon.filing.follower import FollowReport
from daemon.sidecar import xmp
from daemon.sidecar.sidecars import NAMESPACE
from tests.support import Room

PHOTOS = 100_000
_COLUMNS = (
    "status, original_name, folder, source, created_at, not_before, attempts, size_bytes, mtime_ns, processed_at,"
    " place, destination, sha256, format, width, height, sidecar_size, sidecar_mtime_ns"
)


def content(number: int, edit: str = "") -> bytes:
    """Return what stands for a photo; the sizes vary as those of photos do."""
    return f"photo {number} {edit}".encode() + b"." * (1000 + number * 37 % 3001)


def sidecar(image_id: int, sha256: str) -> bytes:
    """Return a sidecar of Darkroom's own."""
    packet = xmp.Packet()
    packet.declare(NAMESPACE, "darkroom")
    packet.set(NAMESPACE, "SHA256", sha256)
    packet.set(NAMESPACE, "ImageID", str(image_id))
    return packet.serialize()


def make(room: Room, count: int) -> None:
    """Write the library and its rows."""
    marks = ", ".join("?" * (_COLUMNS.count(",") + 1))
    rows = []
    for number in range(count):
        name = f"{2000 + number // 5000:04}/{number // 400 % 12 + 1:02}/IMG_{number:06}.jpg"
        path = room.library / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
        sha256 = hashlib.sha256(content(number)).hexdigest()
        beside = path.with_name(path.name + ".xmp")
        beside.write_bytes(sidecar(number + 1, sha256))
        here, look = path.stat(), beside.stat()
        filed = ("done", path.name, "", "inbox", 0.0, 0.0, 1, here.st_size, here.st_mtime_ns, 0.0, "library", name)
        rows.append((*filed, sha256, "JPEG", 4, 3, look.st_size, look.st_mtime_ns))
        if len(rows) == 1000 or number == count - 1:
            with closing(sqlite3.connect(room.state / "darkroom.db")) as database, database:
                database.executemany(f"INSERT INTO image ({_COLUMNS}) VALUES ({marks})", rows)
            rows = []


def measure(room: Room, what: str, *, adopt: bool = False) -> FollowReport:
    """Follow once, and print what it took and found."""
    began, used = time.perf_counter(), time.process_time()
    with room.catalogue.session():  # as the command and the loop do
        report = room.app.follower.follow(adopt=adopt)
    took, used = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{what:<40} {took:7.2f} s ({used:.2f} s of a core), {peak} MB at most", flush=True)
    return report


def disturb(room: Room, count: int) -> dict[str, dict[int, str]]:
    """Edit, move, delete and add a hundredth each; return by its id where each should be, "" for nowhere."""
    share = count // 100
    wanted: dict[str, dict[int, str]] = {"edited": {}, "moved": {}, "deleted": {}}
    paths = sorted(path for path in room.library.rglob("*.jpg"))
    ids = {path: int(path.stem[4:]) + 1 for path in paths}
    for number, path in enumerate(paths[:: len(paths) // (3 * share)][: 3 * share]):
        inside = str(path.relative_to(room.library))
        if number % 3 == 0:
            path.write_bytes(content(ids[path] - 1, "edited"))
            wanted["edited"][ids[path]] = inside
        elif number % 3 == 1:
            target = room.library / "albums" / f"{number % 7}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            wanted["moved"][ids[path]] = str(target.relative_to(room.library))
        else:
            path.unlink()
            wanted["deleted"][ids[path]] = ""
    for number in range(share):
        path = room.library / "never filed" / f"NEW_{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(count + number))
    return wanted


def wrong(room: Room, wanted: dict[str, dict[int, str]], count: int) -> int:
    """Count the rows that are not as they should be."""
    with closing(sqlite3.connect(room.state / "darkroom.db")) as database:
        rows = {row[0]: row[1:] for row in database.execute("SELECT id, status, destination, filed_sha256 FROM image")}
    faults = 0
    done = {image_id: kind for kind, ids in wanted.items() for image_id in ids}
    for image_id in range(1, count + 1):
        status, destination, filed = rows[image_id]
        kind = done.get(image_id)
        expected = wanted[kind][image_id] if kind else destination
        is_right = (status == "deleted") == (kind == "deleted") and (destination or "") == expected
        faults += not (is_right and (filed is not None) == (kind == "edited"))
    return faults


def main(count: int) -> None:
    """Make, measure, disturb, measure, judge."""
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder) / "room", sidecars=True)
        began = time.monotonic()
        make(room, count)
        print(f"{count:,} photos with sidecars made in {time.monotonic() - began:.0f} s")
        for _ in range(2):
            assert measure(room, "nothing has changed").changes == 0
        wanted = disturb(room, count)
        report = measure(room, f"{count // 100:,} edited, moved, deleted, new each")
        print(f"edited {report.edited}, moved {report.moved}, deleted {report.deleted}, new {report.new}")
        print(f"{wrong(room, wanted, count)} wrong")
        report = measure(room, "the new ones adopted", adopt=True)
        print(f"adopted {report.adopted}, new {report.new}")
        away = room.library.rename(room.library.with_name("away"))
        room.library.mkdir()
        report = measure(room, "the library is empty all of a sudden")
        print(f"deleted {report.deleted}, missing {report.missing}")
        room.library.rmdir()
        away.rename(room.library)
        room.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser("python -m tests.benchmarks.follow", description=__doc__)
    arguments.add_argument("photos", type=int, nargs="?", default=PHOTOS, help="how many photos the library has")
    main(arguments.parse_args().photos)
