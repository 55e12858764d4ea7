"""Swaps what is queued for links to secrets: after each call that names it, and as fast as it can be done."""

import ctypes
import itertools
import math
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import accounts, check, program, stops
from tests.campaigns.acts import TEXT, photo
from tests.campaigns.kill import Tally, in_parallel
from tests.campaigns.shared import Room, room

# What is queued: whether it is no photo, and whose file it is.
OFFERS = {
    "a photo": (False, accounts.NEIGHBOUR),
    "no photo": (True, accounts.NEIGHBOUR),
    "the owner's photo": (False, accounts.OWNER),
}
# What is swapped, and for a link to what; the hard link to what he can see at least.
SWAPS = [*itertools.product(("folder", "file"), ("keys", "picture", "library", "database")), ("hard link", "library")]
_A_ROOM = 24
# A stolen database is the end of all that comes after it.
_A_ROOM_FOR_DATABASES = 12
_SECONDS = 120.0
_FLIP_SECONDS = 2.0
_DOORS = 6
# The file that is looked at to count the calls is alone; among others there are fewer, so some instants never come.
_CAME, _ROUNDS = 0.5, 3
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


@dataclass
class Try:
    """One file that he queues, and what he does to it after the call that is `instant`th to name it."""

    number: int
    offer: str
    swap: str
    secret: str
    instant: int = 0
    # After which call he did it; empty where that instant never came, or where the kernel refused.
    call: str = ""

    @property
    def folder(self) -> str:
        return f"trip-{self.number}"

    @property
    def name(self) -> str:
        return "darkroom.db" if self.secret == "database" else f"x-{self.number}.jpg"

    @property
    def content(self) -> bytes:
        return f"{self.number} {TEXT.decode()}".encode() if OFFERS[self.offer][0] else photo(self.number)

    def __str__(self) -> str:
        when = f" after call {self.instant}, {self.call}" if self.instant else ""
        return f"{self.offer} {self.number}, the {self.swap} for {self.secret}{when}"


def at_each_call(every: int = 1) -> Tally:
    """Swap each thing for a link to each secret, after each call that names a file on its way out of the inbox."""
    tally = Tally("swaps")
    instants = dict(zip(OFFERS, in_parallel(_instants, list(OFFERS)), strict=True))
    points = [(offer, *swap, instant) for offer in OFFERS for swap in SWAPS for instant in instants[offer]]
    tries = [Try(number, *point) for number, point in enumerate(points[::every], 1)]
    # The kernel may refuse hard links (fs.protected_hardlinks).
    possible, left = [one for one in tries if one.swap != "hard link"], tries
    for _ in range(_ROUNDS):
        for problems in in_parallel(_swap_all, list(_rooms(left))):
            tally.problems += problems
        # How many calls name a file is not the same each time, and the last ones may not have come.
        left = [one for one in possible if not one.call]
    tally.points = sum(bool(one.call) for one in tries)
    if sum(bool(one.call) for one in possible) < _CAME * len(possible):
        tally.problems.append(f"swaps: only {tally.points} of {len(tries)} came about")
    return tally


def _rooms(tries: Sequence[Try]) -> Iterator[list[Try]]:
    """Share the tries out among rooms."""
    for databases, size in ((False, _A_ROOM), (True, _A_ROOM_FOR_DATABASES)):
        some = [one for one in tries if (one.secret == "database") == databases]
        yield from (some[first : first + size] for first in range(0, len(some), size))


def _instants(offer: str) -> list[int]:
    """List the calls that name a file while it is filed, by their number; of the same ones in a row the first."""
    names: list[str] = []
    with room() as here:
        one = Try(1, offer, "folder", "keys")
        _prepare(here, [one])
        _stopped(here, [one], lambda _, name: names.append(name))
    return [number for number, name in enumerate(names, 1) if number == 1 or names[number - 2] != name]


def _swap_all(tries: Sequence[Try]) -> list[str]:
    """Play some tries in one room, each at its own instant; one line for each that was of use to him."""
    with room() as here:
        secrets = _prepare(here, tries)
        counts: Counter[int] = Counter()

        def swap(one: Try, name: str) -> None:
            counts[one.number] += 1
            if counts[one.number] == one.instant and _swap(here, one, secrets[one.number]):
                one.call = name

        problems = _stopped(here, tries, swap)
        problems += [*here.served(), *here.faults()]
        return list(_by_try(tries, problems))


def _prepare(here: Room, tries: Sequence[Try]) -> dict[int, Path]:
    """Make the secrets of the tries; return where each lies."""
    found = {one.number: here.stage.state / one.name for one in tries}
    for one in tries:
        if one.secret == "library":
            here.own(here.stage.inbox / one.name, photo(50_000 + one.number), 0o644)
        elif one.secret != "database":
            content = photo(60_000 + one.number) if one.secret == "picture" else f"ssh-rsa {one.number}\n".encode()
            found[one.number] = here.own(here.private / one.folder / one.name, content)
    outcome = here.run("run", "--once")
    assert outcome.code == 0, outcome
    for row in check.rows(here.stage):
        number = int(re.sub(r"\D", "", row["original_name"]))
        found[number] = here.stage.folder("library") / row["destination"]
    here.guard(path for path in found.values() if not path.is_relative_to(here.stage.state))
    return found


def _queue(here: Room, tries: Sequence[Try]) -> None:
    for one in tries:
        here.offer(f"{one.folder}/{one.name}", one.content, OFFERS[one.offer][1])


def _stopped(here: Room, tries: Sequence[Try], act: Callable[[Try, str], None]) -> list[str]:
    """File what the tries queue, and act in the standstill after each call that names a try's file or folder."""
    _queue(here, tries)
    inbox = here.stage.inbox
    by_number = {one.number: one for one in tries}
    paths = [inbox, *(path for one in tries for path in (inbox / one.folder, inbox / one.folder / one.name))]

    def note(name: str, text: str) -> None:
        for number in set(re.findall(r'[/"]trip-(\d+)[/">]', text)):
            act(by_number[int(number)], name)

    return stops.run(here.stage.base, here.words, paths, note, _SECONDS)


def _swap(here: Room, one: Try, secret: Path) -> bool:
    """Do what the neighbour does; False where the kernel refused it."""
    folder, link = here.stage.inbox / one.folder, here.kept / f"link-{one.number}"
    with accounts.neighbour():
        try:
            if one.swap == "folder":
                with suppress(FileNotFoundError):
                    folder.rename(here.kept / one.folder)
                folder.symlink_to(secret.parent)
                return True
            if one.swap == "file":
                link.symlink_to(secret)
            else:
                os.link(secret, link)
                here.known.add(here.secrets[secret])
            folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                (folder / one.name).rename(here.kept / f"{one.folder}-{one.name}")
            link.rename(folder / one.name)
        except OSError:
            return False
    return True


def _by_try(tries: Iterable[Try], problems: Iterable[str]) -> Iterator[str]:
    """Put what is wrong together, a line for each try."""
    tries = list(tries)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for problem in problems:
        of = {int(number) for number in re.findall(r"(?:trip|x)-(\d+)", problem)}
        label = next((str(one) for one in tries if one.number in of), "")
        if not label:
            stolen = "darkroom.db" in problem
            label = " or ".join(str(one) for one in tries if stolen and one.secret == "database") or "all of a room"
        found[label].append(problem)
    yield from (f"{label}: {'; '.join(of)}" for label, of in found.items())


def flips(seconds: float) -> Tally:
    """Flip folders and files between themselves and links to secrets, a few at a time, while they are filed."""
    tally = Tally("flips")
    kinds = list(itertools.product(OFFERS, ("folder", "file"), ("keys", "picture", "library")))
    random.Random(len(kinds)).shuffle(kinds)
    exchanged, left = 0, seconds
    while left > 0:
        first = tally.points + 1
        count = min(_DOORS * 4, _DOORS * math.ceil(left / _FLIP_SECONDS))
        tries = [Try(number, *kinds[number % len(kinds)]) for number in range(first, first + count)]
        # The last: were it stolen, nothing would go on.
        tries[-1].swap, tries[-1].secret = "folder", "database"
        with room() as here:
            secrets = _prepare(here, tries)
            problems = []
            try:
                with program.serving(here.stage.base, under=here.words()):
                    for start in range(0, count, _DOORS):
                        some, began = tries[start : start + _DOORS], time.monotonic()
                        _queue(here, some)
                        with accounts.neighbour():
                            exchanged += _flip(here, some, secrets, began + min(left, _FLIP_SECONDS))
                        left -= time.monotonic() - began
            except AssertionError as error:
                problems.append(f"the daemon {error}")
            tally.problems += _by_try(tries, [*problems, *here.served(), *here.faults()])
        tally.points += count
    tally.name = f"flips, {exchanged:,} of them"
    return tally


def _flip(here: Room, tries: Sequence[Try], secrets: dict[int, Path], until: float) -> int:
    """Flip for a time, or until nothing is left to be flipped; return how often it was done.

    In between all is as it should be for a moment: what never stands still is never taken.
    """
    rename, rng = ctypes.CDLL(None).renameat2, random.Random(tries[0].number)
    pairs = []
    for one in tries:
        link, folder = here.kept / f"link-{one.number}", here.stage.inbox / one.folder
        link.symlink_to(secrets[one.number].parent if one.swap == "folder" else secrets[one.number])
        pairs.append((os.fsencode(link), os.fsencode(folder if one.swap == "folder" else folder / one.name)))
    done, came = 0, len(pairs)
    while came and time.monotonic() < until:
        burst = min(until, time.monotonic() + rng.uniform(0.0, 0.1))
        while came and time.monotonic() < burst:
            for _ in range(2):
                came = sum(rename(_AT_FDCWD, link, _AT_FDCWD, path, _RENAME_EXCHANGE) == 0 for link, path in pairs)
                done += came
        time.sleep(rng.uniform(0.0, 0.2))
    return done
