"""Kills the whole process group at random instants, while writers of every kind fill the inbox and clients upload."""

import http.client
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally, restarted
from tests.campaigns.stage import Stage, digest, temporary_stage

_KILLS_A_ROUND = 10
# Then fresh folders: those who look at all files after each kill would take ever longer.
_KILLS_A_STAGE = 50
_MOST_WAITING = 60
_PORT = re.compile(rb"serving http://127\.0\.0\.1:(\d+)/")


def copy_in_place(stage: Stage, name: str, content: bytes, rng: random.Random) -> None:
    """Write under the final name, bit by bit, as cp and cameras do."""
    with (stage.inbox / name).open("wb", buffering=0) as out:
        for start in range(0, len(content), 1 + len(content) // 4):
            out.write(content[start : start + 1 + len(content) // 4])
            time.sleep(rng.uniform(0, 0.02))


def by_temporary_name(stage: Stage, name: str, content: bytes, rng: random.Random) -> None:
    """Write under a hidden name and rename, as rsync and browsers do."""
    hidden = stage.inbox / f".{name}.part"
    hidden.write_bytes(content)
    time.sleep(rng.uniform(0, 0.02))
    hidden.rename(stage.inbox / name)


def by_move(stage: Stage, name: str, content: bytes, rng: random.Random) -> None:
    """Make the whole file elsewhere and move it into a subfolder of the inbox."""
    outside = stage.base / f"outside {name}"
    outside.write_bytes(content)
    folder = stage.inbox / f"card {rng.randrange(3)}"
    while True:
        folder.mkdir(exist_ok=True)
        # An emptied folder may be tidied away in between; mv would say so and be asked again.
        with suppress(FileNotFoundError):
            outside.rename(folder / name)
            return


def by_link(stage: Stage, name: str, content: bytes, rng: random.Random) -> None:
    """Make the whole file elsewhere and give it a second name in the inbox; the first one goes later."""
    outside = stage.base / f"outside {name}"
    outside.write_bytes(content)
    os.link(outside, stage.inbox / name)
    time.sleep(rng.uniform(0, 0.02))
    outside.unlink()


def upload(stage: Stage, name: str, content: bytes, rng: random.Random) -> bool:
    """Upload by REST; False where no answer came, so that the client knows nothing."""
    ports = _PORT.findall((stage.base / "run.log").read_bytes())
    if not ports:
        time.sleep(0.05)
        return False
    connection = http.client.HTTPConnection("127.0.0.1", int(ports[-1]), timeout=10)
    try:
        connection.request("POST", f"/api/images?name={quote(name)}", content, {"Content-Type": "image/jpeg"})
        return connection.getresponse().status == 202
    except (OSError, http.client.HTTPException):
        time.sleep(rng.uniform(0, 0.05))
        return False
    finally:
        connection.close()


WRITERS: tuple[Callable[[Stage, str, bytes, random.Random], bool | None], ...] = (
    copy_in_place,
    by_temporary_name,
    by_move,
    by_link,
    upload,
)


class Poller(threading.Thread):
    """Looks at the outputs all the time, as a gallery would; `faults` are the files it should never have seen."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage, self._stop_now, self._seen = stage, threading.Event(), set[tuple[str, int, int]]()
        self.faults: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._stop_now.wait(0.005):
            for place in ("library", "duplicates", "failed"):
                for path in self._stage.folder(place).rglob("[!.]*"):
                    with suppress(OSError):
                        self._look(path)

    def _look(self, path: Path) -> None:
        info = path.lstat()
        key = (str(path), info.st_ino, info.st_size)
        if key in self._seen or not path.is_file() or path.name.endswith(check.BESIDE):
            return
        self.looks += 1
        if not self._stage.knows(check.hash_of(path)):
            self.faults.append(f"a poller saw {path.relative_to(self._stage.base)} half-written")
        self._seen.add(key)

    def stop(self) -> None:
        """End the looking."""
        self._stop_now.set()
        self.join()


def _write(stage: Stage, writer: Callable[..., bool | None], seed: int, until: threading.Event) -> None:
    rng = random.Random(seed)
    for number in range(1_000_000):
        if until.wait(rng.uniform(0, 0.15)):
            return
        while len(os.listdir(stage.inbox)) > _MOST_WAITING and not until.wait(0.05):
            pass
        content = photo(seed * 1000 + number, rng.choice([(96, 64), (400, 300), (1600, 1200)]))
        stage.may[digest(content)] += 1
        if writer(stage, f"{writer.__name__} {seed} {number}.jpg", content, rng) is not False:
            stage.must[digest(content)] += 1
            del stage.may[digest(content)]


def play(kills: int, seed: int = 1) -> Tally:
    """Kill so often; check after each kill what can be seen, and after each round of kills all of it."""
    rng = random.Random(seed)
    tally = Tally("random kills")
    for first in range(0, kills, _KILLS_A_STAGE):
        with temporary_stage() as stage:
            # Good images are interrupted more often here than any machine would.
            stage.configure(limits={"attempts": 100})
            for number in range(first, min(first + _KILLS_A_STAGE, kills), _KILLS_A_ROUND):
                _round(stage, min(_KILLS_A_ROUND, kills - number), seed * 10_000 + number * 10, rng, tally)
                files = tally.points + sum(stage.must.values())
                print(f"random kills: {tally.kills} of {kills}, {files} files", file=sys.stderr, flush=True)
                if tally.problems:
                    return tally
            tally.points += sum(stage.must.values())
    return tally


def _round(stage: Stage, kills: int, seed: int, rng: random.Random, tally: Tally) -> None:
    until = threading.Event()
    writers = [
        threading.Thread(target=_write, args=(stage, writer, seed + number, until))
        for number, writer in enumerate(WRITERS)
    ]
    poller = Poller(stage)
    log = stage.base / "run.log"
    log.touch()
    for thread in (poller, *writers):
        thread.start()
    for _ in range(kills):
        log.write_bytes(b"")
        with log.open("ab") as out:
            process = program.start(stage.base, "run", output=out)
        # It takes most of a second to start: some kills hit that, most the work.
        time.sleep(rng.uniform(0.1, 2.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        program.wait_for_group(process.pid)
        tally.kills += 1
        tally.problems += [f"after kill {tally.kills}: {fault}" for fault in check.visible(stage)]
    until.set()
    for thread in writers:
        thread.join()
    poller.stop()
    try:
        faults = [*poller.faults, *restarted(stage)]
    except AssertionError as error:
        faults = [str(error)]
    tally.problems += [f"after kill {tally.kills}: {fault}" for fault in faults]
