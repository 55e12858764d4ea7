"""Measures uploads: `python -m tests.benchmarks.uploads [FILES] [CLIENTS]`, on the real program in a child process.

Many clients upload at once; each acknowledged photo must be filed once. Meanwhile /healthz is asked ten times a
second, and the memory of the program is watched. A last upload of one large body shows that memory stays flat.
"""

import hashlib
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil

from tests.program import Program
from tests.support import jpeg, wait_until

_LARGE = 1_000_000_000


class Monitor:
    """Asks for health and looks at the memory, from a thread, until `stop`."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self._url, self._process = url, process
        self._stopping = threading.Event()
        self.milliseconds: list[float] = []
        self.memory: list[int] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as http:
            while not self._stopping.wait(0.1):
                began = time.perf_counter()
                assert http.get("/healthz").status_code == 200
                self.milliseconds.append((time.perf_counter() - began) * 1000)
                self.memory.append(self._process.memory_info().rss)

    def report(self) -> str:
        """Return it in one line."""
        health = sorted(self.milliseconds)
        middle, late = statistics.median(health), health[int(len(health) * 0.99)]
        memory = f"memory {min(self.memory) / 1e6:.0f} to {max(self.memory) / 1e6:.0f} MB"
        return (
            f"/healthz {middle:.1f} ms at the median, {late:.1f} ms at the 99th percentile of {len(health)}; {memory}"
        )


def large(photo: bytes) -> Iterator[bytes]:
    """Yield a photo with a very long tail."""
    yield photo
    block = bytes(1 << 20)
    for _ in range(_LARGE // len(block)):
        yield block


def main(count: int, clients: int) -> None:
    """Upload, wait until all is filed, compare."""
    photo = jpeg((1600, 1200))
    photos = [photo + f"{number}".encode() for number in range(count)]
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder)) as program:
        wait_until(lambda: "serving http" in program.log(), what="the web server")
        [url] = re.findall(r"serving (http\S+)", program.log())
        process = psutil.Process(program.process.pid)
        with httpx2.Client(base_url=url, timeout=120, limits=httpx2.Limits(max_connections=clients)) as http:

            def upload(number: int) -> int:
                answer = http.post("/api/images", files={"file": (f"IMG_{number}.jpg", photos[number])})
                assert answer.status_code == 202, answer.text
                return int(answer.json()["data"]["image_id"])

            began = time.monotonic()
            with Monitor(url, process) as monitor, ThreadPoolExecutor(clients) as pool:
                ids = list(pool.map(upload, range(count)))
            took = time.monotonic() - began
            megabytes = sum(map(len, photos)) / 1e6
            print(f"{count} uploads, {clients} clients, {megabytes:.0f} MB: {took:.1f} s, {count / took:.0f} a second")
            print(monitor.report())
            program.wait_for(900, done=count, queued=0, processing=0, failed=0, duplicate=0)
            filed = program.query("SELECT count(DISTINCT id), count(DISTINCT sha256) FROM image WHERE status = 'done'")
            files = list((Path(folder) / "library").rglob("*.jpg"))
            hashes = {hashlib.sha256(path.read_bytes()).digest() for path in files}
            assert len(set(ids)) == count
            assert filed == [(count, count)]
            assert hashes == {hashlib.sha256(content).digest() for content in photos}
            assert not list((Path(folder) / "inbox").iterdir())
            print(f"all {count} filed once, byte for byte, {time.monotonic() - began:.0f} s after the first upload")
            began = time.monotonic()
            with Monitor(url, process) as monitor:
                answer = http.post("/api/images?name=large.jpg", content=large(photo))
            assert answer.status_code == 202, answer.text
            print(f"one upload of {_LARGE / 1e9:.0f} GB: {time.monotonic() - began:.1f} s")
            print(monitor.report())


if __name__ == "__main__":
    files, clients = ([int(word) for word in sys.argv[1:]] + [1000, 16][len(sys.argv) - 1 :])[:2]
    main(files, clients)
