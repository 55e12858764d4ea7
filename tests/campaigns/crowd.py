"""Crowds at the port: connections that say nothing, event streams, uploads that stall; meanwhile photos are filed."""

import asyncio
import contextlib
import os
import random
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.campaigns.kill import Tally
from tests.program import Program, environment
from tests.support import jpeg, wait_until

# What must hold, whatever the crowd does.
HEALTH_SECONDS, LOG_BYTES, MEMORY_BYTES, CORE = 0.1, 100_000, 200 << 20, 0.5
_CONNECTING = 200


@dataclass(frozen=True)
class Crowd:
    """Clients of one kind: how many, and what each says, of which it never reads an answer."""

    name: str
    clients: int
    says: bytes


IDLE = Crowd("idle connections", 8000, b"")
STREAMS = Crowd("event streams", 1000, b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
UPLOADS = Crowd(
    "stalled uploads",
    1000,
    b"PUT /api/images/x.jpg HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n" + jpeg((600, 400))[:60_000],
)
CROWDS = {crowd.name: crowd for crowd in (IDLE, STREAMS, UPLOADS)}


@dataclass
class _Figures:
    health: list[float]
    refused: int
    filed: int
    memory: int
    cpu: float

    @property
    def p99(self) -> float:
        return sorted(self.health)[int(len(self.health) * 0.99)]


def play(crowd: Crowd, seconds: float) -> Tally:
    """Let a crowd in for some seconds; who is sent away comes back."""
    tally = Tally(crowd.name)
    with tempfile.TemporaryDirectory() as folder, Program(Path(folder) / "room") as darkroom:
        wait_until(lambda: "serving http" in darkroom.log(), what="the web server")
        port = int(re.findall(r"serving http://[^/]*:(\d+)/", darkroom.log())[-1])
        process = psutil.Process(darkroom.process.pid)
        # In a process of its own: what it is busy with is not the server's slowness.
        with subprocess.Popen(
            [sys.executable, "-m", __name__, crowd.name, str(crowd.clients), str(port)], env=environment()
        ) as come:
            try:
                figures = _look_on(port, darkroom, process, seconds)
            finally:
                come.kill()
        wait_until(lambda: _filed(darkroom) == figures.filed, 30, "the last photo")
        log = len(darkroom.log())
        code = darkroom.stop()
    tally.points = crowd.clients
    tally.name += (
        f": /healthz {1000 * figures.p99:.0f} ms at p99 of {len(figures.health)}, {figures.refused} refused, "
        f"{figures.filed} photos filed, {figures.memory >> 20} MB, {100 * figures.cpu:.0f} % of a core, log {log} bytes"
    )
    for wrong in (
        figures.p99 > HEALTH_SECONDS and "health checks took too long",
        figures.refused and "health checks were refused",
        figures.memory > MEMORY_BYTES and "too much memory",
        log > LOG_BYTES and "too long a log",
        code != 0 and f"it ended with {code}",
    ):
        if wrong:
            tally.problems.append(f"{wrong}: {tally.name}")
    return tally


def _look_on(port: int, darkroom: Program, process: psutil.Process, seconds: float) -> _Figures:
    figures = _Figures([], 0, 0, 0, 0.0)
    time.sleep(min(5.0, seconds / 4))
    family = [process, *process.children(recursive=True)]
    used, began = _cpu(family), time.monotonic()
    while time.monotonic() - began < seconds:
        figures.filed += 1
        (darkroom.folders.inbox / f"{figures.filed}.jpg").write_bytes(jpeg(seed=figures.filed))
        for _ in range(5):
            at = time.monotonic()
            if not _is_healthy(port):
                figures.refused += 1
            figures.health.append(time.monotonic() - at)
            time.sleep(0.1)
        figures.memory = max(figures.memory, _memory(family))
    figures.cpu = (_cpu(family) - used) / (time.monotonic() - began)
    return figures


async def _come(crowd: Crowd, clients: int, port: int) -> None:
    gate = asyncio.Semaphore(_CONNECTING)
    await asyncio.gather(*(_client(crowd, port, gate) for _ in range(clients)))


async def _client(crowd: Crowd, port: int, gate: asyncio.Semaphore) -> None:
    while True:
        with contextlib.suppress(OSError):
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(crowd.says)
                while await reader.read(65536):
                    pass
            finally:
                writer.transport.abort()
        # As programs would that are patient, each at a time of its own: the flood is of connections, not of attempts.
        await asyncio.sleep(random.uniform(3, 7))


def _is_healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return client.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _filed(darkroom: Program) -> int:
    return int(darkroom.query("SELECT COUNT(*) FROM image WHERE status = 'done'")[0][0])


def _each(family: list[psutil.Process], figure: Callable[[psutil.Process], float]) -> float:
    total = 0.0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += figure(process)
    return total


def _memory(family: list[psutil.Process]) -> int:
    return int(_each(family, lambda process: process.memory_full_info().pss))


def _cpu(family: list[psutil.Process]) -> float:
    return _each(family, lambda process: sum(process.cpu_times()[:2]))


if __name__ == "__main__":
    # Real clients have processors of their own.
    os.nice(10)
    wanted, limits = int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    asyncio.run(_come(CROWDS[sys.argv[1]], wanted, int(sys.argv[3])))
