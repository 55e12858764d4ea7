"""A writer opens a photo's inbox file at each instant between the decoder's answer and the end of the inbox name.

Each try is one turn of a consumer, in a process whose calls are counted: before the chosen one the writer, a process
of its own, is told to go. It has written before the turn goes on, or is seen to wait in its open(), where the lease
holds it. What it has written has to be somewhere in the end, and every row has to know the bytes of its file.

The window is found by a turn without a writer: the calls before which the inbox is not empty. Half of the instants
are its last ones, where the name goes; the others are spread over what comes before.
"""

import fcntl
import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.calls import Calls
from tests.campaigns import program
from tests.campaigns.kill import WORKERS, Tally, in_parallel
from tests.campaigns.stage import OUTPUTS, filesystems

if TYPE_CHECKING:
    from tests.support import Room

KINDS = ("append", "overwrite")
INSTANTS = 20
_PHOTO_BYTES = 40_000
# Where an overwriting writer begins, and how much of the photo it touches at most.
_AT, _TOUCHED = 10, 200
_ANSWER_SECONDS = 100.0  # more than a lease may hold a writer: /proc/sys/fs/lease-break-time
_ROUNDS = 20
_MOST_IN_A_ROOM = 40

# A real program that saves into a file which it knows by name: where the name is gone it makes the file anew.
_WRITER = """
import json, os, sys
for line in sys.stdin.buffer:
    kind, text, path = json.loads(line)
    flags = os.O_WRONLY | (os.O_APPEND if kind == "append" else 0)
    os.write(1, b"opening\\n")
    try:
        try:
            fd, how = os.open(path, flags), "opened"
        except FileNotFoundError:
            fd, how = os.open(path, flags | os.O_CREAT, 0o644), "came late"
        if kind == "append":
            os.write(fd, text.encode())
        else:
            os.pwrite(fd, text.encode(), int(sys.argv[1]))
        os.close(fd)
    except OSError as error:
        how = f"failed: {error}"
    os.write(1, how.encode() + b"\\n")
"""


@dataclass(frozen=True)
class Try:
    """A writer of one kind that comes before the `at`-th call of the window; None for a turn without one."""

    kind: str
    at: int | None
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a try: `call` is the one before which the writer came, `how` what the writer said of its open().

    `window` is how many calls there were, counted from the decoder's answer, until the inbox was empty.
    """

    call: str
    how: str
    waited: bool
    window: int
    problems: list[str]


def play(tries: int, *, across: bool, kind: str) -> Tally:
    """Let a writer come so many times, at instants that are spread evenly over the window."""
    tally = Tally(f"{kind}, {'to another filesystem' if across else 'on one filesystem'}")
    window = _play([Try(kind, None)], across)[0].window
    if window < INSTANTS:
        tally.problems.append(f"{tally.name}: only {window} calls lie between the decoder and the end of the name")
    chosen = [Try(kind, at, number) for number, at in enumerate(_instants(window, tries))]
    batches = [chosen[number::WORKERS] for number in range(min(WORKERS, tries))]
    outcomes = in_parallel(lambda batch: list(zip(batch, _play(batch, across), strict=True)), batches)
    for one, outcome in (pair for batch in outcomes for pair in batch):
        tally.points += 1
        tally.kills += outcome.waited
        tally.meant[outcome.call] += 1
        tally.came[outcome.call] += bool(outcome.how)
        where = f"{tally.name}, before call {one.at} ({outcome.call}), the writer {outcome.how or 'never came'}"
        tally.problems += [f"{where}: {problem}" for problem in outcome.problems]
    tally.expect_most()
    return tally


def _instants(window: int, tries: int) -> Iterator[int]:
    """Yield before which call each try is: where there are few, some of the instants, the first and the last with them.

    The early ones move on in each round, so that with many tries every call has its turn.
    """
    late = min(INSTANTS // 2, window)
    stripe = max(1, (window - late) // (INSTANTS - late))
    for number in range(tries):
        few = number * (INSTANTS - 1) // max(1, tries - 1)
        instant, turn = (few, 0) if tries < INSTANTS else (number % INSTANTS, number // INSTANTS)
        early = INSTANTS - late
        yield instant * stripe + turn % stripe if instant < early else window - INSTANTS + instant


def has_leases() -> bool:
    """Return whether the kernel grants this account leases where the inboxes are."""
    with tempfile.NamedTemporaryFile(dir=filesystems()[0]) as file:
        fd = os.open(file.name, os.O_RDONLY)
        try:
            file.close()
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except (OSError, AttributeError):
            return False
        finally:
            os.close(fd)
    return True


def _play(tries: Sequence[Try], across: bool) -> list[Outcome]:
    """Play some tries in a process of their own, whose calls are counted."""
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-", dir=folder)) for folder in filesystems()
        )
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.writers", here, there if across else ""],
            cwd=program.ROOT,
            env=program.environment(),
            input=json.dumps([asdict(one) for one in tries]),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise AssertionError(f"the player ended with {done.returncode}: {done.stderr[-3000:]}")
    return [Outcome(**each) for each in json.loads(done.stdout)]


# What follows runs in the player's process.


class _Writer:
    """The writer's process, which stands ready: to start Python would take longer than a turn."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(_AT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._said = b""

    def go(self, kind: str, text: str, path: Path) -> bool:
        """Have it write; returns once it has answered, or waits in open(): True then."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([kind, text, str(path)]).encode() + b"\n")
        assert self.answer() == "opening"
        looks = 0
        while not self._has_answered():
            # From here on it sleeps nowhere but in open(); that it has not answered is asked after that.
            looks = looks + 1 if self._sleeps() and not self._has_answered() else 0
            if looks == 2:
                return True
            time.sleep(0.001)
        return False

    def answer(self) -> str:
        """Return the next line of what it says."""
        assert self._child.stdout is not None
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._child.stdout], [], [], _ANSWER_SECONDS)
            more = self._child.stdout.read(1000) if ready else b""
            assert more, "the writer does not answer"
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def end(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _has_answered(self) -> bool:
        assert self._child.stdout is not None
        return b"\n" in self._said or bool(select.select([self._child.stdout], [], [], 0)[0])

    def _sleeps(self) -> bool:
        stat = Path(f"/proc/{self._child.pid}/stat").read_bytes()
        return stat.rpartition(b") ")[2].startswith(b"S")


def _main(here: Path, there: Path | None) -> None:
    """Play the tries that are read from the standard input, and print what came of them."""
    calls, writer, outcomes = Calls(), _Writer(), []
    rooms = (_room(here / str(number), there / str(number) if there else None) for number in count())
    try:
        with calls.counted():
            room, used = next(rooms), 0
            for one in (Try(**each) for each in json.load(sys.stdin)):
                outcomes.append(_play_one(one, calls, writer, room))
                used += 1
                # What went wrong once would be found again each time, and to judge a full one takes long.
                if outcomes[-1].problems or used == _MOST_IN_A_ROOM:
                    _close(room)
                    room, used = next(rooms), 0
            _close(room)
    finally:
        writer.end()
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


def _room(base: Path, away: Path | None) -> "Room":
    """Return a darkroom, its outputs perhaps elsewhere; a first photo has been filed, which takes more calls."""
    # Not above: what the program takes out of the C library has to be counted, too.
    from tests.support import Room

    folders = "" if away is None else "".join(f'{name} = "{away / name}"\n' for name in OUTPUTS)
    # A file that has changed is not due for so long; the time is jumped over.
    room = Room(base, f"[folders]\n{folders}[inbox]\nsettle_seconds = 0.05\n[limits]\nmin_free_mb = 1\n")
    room.put("first.jpg", b"the first photo of all")
    room.drain()
    return room


def _close(room: "Room") -> None:
    room.consumer.close()
    room.close()


def _play_one(one: Try, calls: Calls, writer: _Writer, room: "Room") -> Outcome:
    photo, text = random.Random(one.seed).randbytes(_PHOTO_BYTES), f"<what the writer of try {one.seed} has written>"
    path = room.put(f"IMG_{one.seed}.jpg", photo)
    seen: list[str] = []
    window, waited, came, problems = 0, False, False, []

    def before(name: str) -> None:
        nonlocal window, waited, came
        seen.append(name)
        if any(room.inbox.iterdir()):
            window = len(seen)
        if one.at == len(seen) - 1:
            came, waited = True, writer.go(one.kind, text, path)

    def decode(file: Path) -> Any:
        decoded = room.decoder.decode(file)
        calls.begin(before)
        return decoded

    room.decode_with(decode)
    room.scan()
    try:
        room.consumer.run_once(time.time())
    except Exception as error:  # noqa: BLE001, RUF100 - whatever it is, it is what came of the try
        problems.append(f"the turn raised {error!r}")
    calls.end()
    room.decode_with(room.decoder.decode)
    how = writer.answer() if came else ""
    if how.startswith("failed"):
        problems.append("its open() or write() was refused")
    problems += _drain(room)
    problems += _judge(room, one, photo, text if how and not how.startswith("failed") else "")
    call = seen[one.at] if one.at is not None and one.at < len(seen) else "none"
    return Outcome(call, how, waited, window, problems)


def _drain(room: "Room") -> list[str]:
    """Scan and take turns until nothing is left to do."""
    for number in range(_ROUNDS):
        with suppress(FileNotFoundError):
            room.drain(time.time() + 5 * number)
        if not any(room.inbox.iterdir()) and not any(row["status"] in {"queued", "processing"} for row in room.rows()):
            return []
    rows = [(row["path"], row["status"], row["waiting"]) for row in room.rows()]
    return [f"it never comes to rest: {os.listdir(room.inbox)}, {rows}, paused: {room.consumer.paused}"]


def _judge(room: "Room", one: Try, photo: bytes, text: str) -> Iterator[str]:
    folders = {"inbox": room.inbox, "library": room.library, "duplicates": room.duplicates, "failed": room.failed}
    files = {
        f"{place}/{path.relative_to(folder)}": path.read_bytes()
        for place, folder in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }
    if text and not any(text.encode() in content for content in files.values()):
        yield "what it has written is lost"
    rest = photo if one.kind == "append" else photo[_TOUCHED:]
    if not any(rest in content for content in files.values()):
        yield "the photo is lost"
    for row in room.rows():
        if row["status"] not in {"done", "duplicate", "failed"}:
            continue
        name = f"{row['place']}/{row['destination']}"
        if name not in files:
            yield f"row {row['id']} ({row['status']}) has no file at {name}"
        elif hashlib.sha256(files[name]).hexdigest() != row["sha256"]:
            yield f"{name} has changed, and its row does not know"
    filed = Counter(content for name, content in files.items() if name.startswith("library/"))
    if filed and max(filed.values()) > 1:
        yield "the library has a file twice"
    for folder in folders.values():
        yield from (f"a temporary name remains: {path.name}" for path in folder.rglob(".darkroom-*"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None)
