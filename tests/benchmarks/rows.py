"""Measures the pages and the API over a million rows: `python -m tests.benchmarks.rows [ROWS]` prints medians.

The rows are written straight into the database (a library of ten years, ten cameras, captions, 1 % failed), and
asked for over HTTP, from the same machine.
"""

import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.errors import FailureReason
from tests.support import Room
from tests.web.serving import Served

ROWS = 1_000_000
TIMES = 41
_CAMERAS = [("Canon", "Canon EOS R6"), ("Apple", "iPhone 14 Pro"), ("SONY", "ILCE-7M3"), ("FUJIFILM", "X-T30")]
_WORDS = (
    "dog cat garden beach mountain snow birthday cake child grandmother bicycle train car street night sunset "
    "flower tree river boat bridge church market dinner table window chair concert stage crowd football"
).split()
_COLUMNS = (
    "status, original_name, folder, source, created_at, not_before, attempts, size_bytes, processed_at, processing_ms,"
    " claimed_at, place, destination, sha256, format, width, height, taken_at, camera_make, camera_model, lat, lon,"
    " caption, keywords, caption_status, taken_order, colour, failure, arrived_on"
)


def rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Make up rows; the same ones each time."""
    chance = random.Random(1)
    now = time.time() - 3600
    for n in range(count):
        status = "failed" if n % 100 == 0 else "duplicate" if n % 33 == 0 else "done"
        place = {"failed": "failed", "duplicate": "duplicates", "done": "library"}[status]
        at = now - (count - n) * 300.0
        year, month, day = 2015 + n * 10 // count, n * 120 // count % 12 + 1, n % 28 + 1
        make, model = chance.choice(_CAMERAS)
        words = chance.sample(_WORDS, 6)
        name = f"IMG_{n:07d}.jpg"
        taken = datetime(year, month, day, 12, tzinfo=UTC).timestamp() + n % 80_000
        failure = FailureReason.DAMAGED if status == "failed" else None
        gps = (48.1, 11.5) if n % 3 else (None, None)
        yield (
            *(status, name, "", "inbox", at, at, 1, 4_000_000, at, 200, at, place, f"{year}/{month:02d}/{name}"),
            *(f"{n:064x}", "JPEG", 4000, 3000, f"{year}-{month:02d}-{day:02d}T12:00:00", make, model, *gps),
            *(
                " ".join(words),
                json.dumps(words[:3]),
                "done",
                taken,
                n % 64,
                failure,
                datetime.fromtimestamp(at).astimezone().date().isoformat(),
            ),
        )


def fill(file: Path, count: int) -> None:
    """Write the rows; the text index is built at the end, which is several times faster."""
    marks = ", ".join("?" * (_COLUMNS.count(",") + 1))
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA synchronous = off")
        [(trigger,)] = database.execute("SELECT sql FROM sqlite_master WHERE name = 'image_text_insert'").fetchall()
        database.execute("DROP TRIGGER image_text_insert")
        with database:
            database.executemany(f"INSERT INTO image ({_COLUMNS}) VALUES ({marks})", rows(count))
            database.execute("INSERT INTO event (image_id, at, kind) SELECT id, created_at, 'done' FROM image")
            database.execute("INSERT INTO image_text (image_text) VALUES ('rebuild')")
        database.execute(trigger)


def measure(served: Served, what: str, path: str) -> None:
    """Print the median and the slowest of some calls."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        answer = served.http.get(path)
        took.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.text
    size = int(answer.headers["content-length"])
    print(f"{what:34} {statistics.median(took):7.1f} ms   (slowest {max(took):7.1f} ms, {size:7} bytes)")


def main(count: int) -> None:
    """Fill, then measure."""
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder) / "room")
        began = time.monotonic()
        fill(room.state / "darkroom.db", count)
        size = (room.state / "darkroom.db").stat().st_size // 1_000_000
        print(f"{count} rows made in {time.monotonic() - began:.0f} s, {size} MB")
        with Served(room) as served:
            deep, last = count - min(count - 60, 10_000 * 50), 60
            middle = f"IMG_{count // 2:07d}"
            for what, path in {
                "first page": "/api/images",
                "first page of 500": "/api/images?limit=500",
                "page 10,000": f"/api/images?cursor={deep}",
                "last page": f"/api/images?cursor={last}",
                "one image": f"/api/images/{count // 2}",
                "search: one name": f"/api/images?q={middle}",
                "search: number of a name": f"/api/images?q={count // 2:07d}",
                "search: a frequent word": "/api/images?q=dog",
                "search: two frequent words": "/api/images?q=garden+beach",
                "search: a beginning": "/api/images?q=grandm",
                "search: two letters": "/api/images?q=im",
                "search: a word of all rows": "/api/images?q=jpg",
                "search: what is not there": "/api/images?q=unicorn",
                "search within failed": "/api/images?q=dog&status=failed",
                "search, page 1,000": f"/api/images?q=dog&cursor={count // 2}",
                "status failed": "/api/images?status=failed",
                "status queued (none)": "/api/images?status=queued",
                "status failed, deep": f"/api/images?status=failed&cursor={count // 10}",
                "camera": "/api/images?camera=eos",
                "one day": "/api/images?from=2018-05-03&to=2018-05-03",
                "one year": "/api/images?from=2018-01-01&to=2018-12-31",
                "the oldest year": "/api/images?from=2015-01-01&to=2015-12-31",
                "the oldest day": "/api/images?from=2015-01-01&to=2015-01-01",
                "all years": "/api/images?from=2000-01-01",
                "with a place": "/api/images?has_gps=true",
                "stats": "/api/stats",
                "sheet": "/",
                "sheet by date": "/?sort=taken",
                "sheet at a month": "/?at=2018-05",
                "sheet at a month by date": "/?at=2018-05&sort=taken",
                "sheet around a photo": f"/?at={count // 2}",
                "sheet around a photo by date": f"/?at={count // 2}&sort=taken",
                "sheet of a month by date": "/?month=2018-05&sort=taken",
                "sheet: a frequent word": "/?q=dog",
                "sheet: a frequent word by date": "/?q=dog&sort=taken",
                "sheet: a word of all, by date": "/?q=jpg&sort=taken",
                "sheet: one name by date": f"/?q={count // 2:07d}&sort=taken",
                "sheet: a camera by date": "/?camera=X-T30&sort=taken",
                "sheet: word and place": "/?q=dog&has_gps=true",
                "sheet: without captions (none)": "/?has_caption=false&sort=taken",
                "a photo": f"/images/{count // 2}",
                "failures": "/failed",
                "numbers": "/stats",
            }.items():
                measure(served, what, path)
        room.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
