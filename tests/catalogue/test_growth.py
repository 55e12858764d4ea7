"""What filing asks of the catalogue costs as much in a large library as in a small one."""

from pathlib import Path

from tests.benchmarks.rows import fill
from tests.support import Room

_EVERY = 10
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'


def steps(base: Path, rows: int) -> int:
    """Return how many tens of SQLite's steps it takes to file some photos of each kind, in a library of so many."""
    room = Room(base, sidecars=True)
    fill(room.state / "darkroom.db", rows)
    done: list[str] = []
    running = ""

    def begins(statement: str) -> None:
        nonlocal running
        running = statement

    def step() -> None:
        # The full-text index merges its parts now and then, which grows with the logarithm, spread over many photos.
        if not running.startswith("-- "):
            done.append(running)

    room.put("trip/first.jpg", b"first")
    room.put("trip/first.jpg.xmp", XMP)
    room.put("again.jpg", b"first")
    room.put("second.jpg", b"second")
    # Of a number that many have.
    room.put("IMG_0000.jpg", b"third")
    room.put("second.mov", b"a video")
    with room.catalogue.session():
        connection = room.catalogue._db.connection()  # type: ignore[no-untyped-call]  # no stub has it
        room.consumer.recover()
        connection.set_trace_callback(begins)
        connection.set_progress_handler(step, _EVERY)
        room.drain()
        connection.set_progress_handler(None, 0)
    assert [row["status"] for row in room.rows()[rows:]].count("done") == 3
    room.close()
    return len(done)


def test_what_filing_costs_does_not_grow_with_the_library(tmp_path: Path) -> None:
    small, large = steps(tmp_path / "small", 500), steps(tmp_path / "large", 5_000)
    # A search in an index takes some steps more in a larger one.
    assert large < small * 1.1
