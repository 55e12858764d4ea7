"""Plays the campaigns and prints what they tried and found: python -m tests.campaigns all.

kill     before every call that changes the disk, before those of the restart, and at random instants
power    what a power cut may leave after every such call
faults   every such call fails; and the troubles of a machine: full, unmounted, locked, …
poison   hostile files, and decoders that crash, hang and devour memory
two      two programs on the same folders
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.campaigns import faults, kill, poison, power, program, random_kills, restarts, trouble, two, uploads
from tests.campaigns.acts import ACTS, Act
from tests.campaigns.kill import Tally
from tests.campaigns.stage import has_second_filesystem

Report = tuple[str, str, list[str]]


def main() -> int:
    """Play what is asked for; the exit code is 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__.partition("\n")[0])
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--long", action="store_true", help="every call instead of a choice, faults lasting as well")
    parser.add_argument("--corpus", type=Path, help="a folder of files to feed to the poison campaign as well")
    args = parser.parse_args()
    if not program.has_strace():
        raise SystemExit("strace is needed, and the right to trace (apt install strace)")
    began, found = time.monotonic(), 0
    print("| campaign | tried | seconds | wrong |\n| --- | --- | --- | --- |", flush=True)
    for name in CAMPAIGNS if args.campaign == "all" else [args.campaign]:
        at = time.monotonic()
        for part, tried, problems in CAMPAIGNS[name](args):
            print(f"| {name}: {part} | {tried} | {time.monotonic() - at:,.0f} | {len(problems)} |", flush=True)
            found += len(problems)
            at = time.monotonic()
    seconds = time.monotonic() - began
    print(f"| all of it | on {os.cpu_count()} processors | {seconds:,.0f} | {found} |", flush=True)
    return 1 if found else 0


def _each(what: str, names: Iterable[str], play: Callable[[Act], Tally]) -> tuple[str, Tally]:
    """Play in several situations; gives how many they were, for the table, and the sum of what came of them."""
    total, acts, skipped = Tally(what), 0, 0
    for act in (ACTS[name] for name in names):
        if act.across and not has_second_filesystem():
            skipped += 1
            continue
        total.add(_told(what, play(act)))
        acts += 1
    left_out = f"; {skipped} skipped: no second filesystem" if skipped else ""
    return f"in {acts} situations{left_out}", total


def _told(what: str, tally: Tally) -> Tally:
    """Tell on stderr what came of a part, and what is wrong as soon as it is known."""
    print(f"{time.strftime('%H:%M:%S')} {what}: {tally.name}: {tally.points}", file=sys.stderr)
    for problem in tally.problems:
        print(problem, file=sys.stderr, flush=True)
    return tally


def _kill(args: argparse.Namespace) -> Iterator[Report]:
    choice = "each call that changes" if args.long else "chosen calls that change"
    where, tally = _each("kill", ACTS, lambda act: kill.each(act, thin=not args.long))
    yield f"before {choice} the disk, {where}", f"{tally.kills:,} kills", tally.problems
    tally = _told("kill", uploads.each(1 if args.long else 3, thin=not args.long))
    yield "while an upload arrives and is filed", f"{tally.kills:,} kills", tally.problems
    where, tally = _each("kill the restart", restarts.ACTS, lambda act: restarts.each(act, thin=not args.long))
    yield f"in the restart after a kill, {where}", f"{tally.kills:,} kills", tally.problems
    tally = _told("kill", random_kills.play(500))
    yield "at random, while files and uploads arrive", f"{tally.kills:,} kills, {tally.points:,} files", tally.problems


def _power(args: argparse.Namespace) -> Iterator[Report]:
    where, order = _each("order", ACTS, power.order)
    yield f"what must be durable first is, at each call {where}", f"{order.points:,} calls", order.problems
    every = 1 if args.long else 3
    where, cuts = _each("power", ACTS, lambda act: power.cut(act, every=every))
    after = "each call" if every == 1 else "every third call"
    yield f"what POSIX lets a cut leave after {after}, {where}", f"{cuts.points:,} cuts", cuts.problems


def _faults(args: argparse.Namespace) -> Iterator[Report]:
    every = 1 if args.long else 4
    where, tally = _each(
        "faults", ACTS, lambda act: faults.each(act, thin=not args.long, every=every, lasting=args.long)
    )
    at = "each call, once and lasting" if args.long else "every fourth chosen call"
    yield f"{', '.join(faults.ERRORS)} at {at}, {where}", f"{tally.points:,} faults", tally.problems
    total, skipped = Tally("troubles"), []
    for make in trouble.TROUBLES:
        tally, why = trouble.play(make)
        total.add(_told("faults", tally))
        skipped += [f"{make.__name__.replace('_', ' ')} ({why})"] if why else []
    left_out = f"; {len(skipped)} skipped: {', '.join(skipped)}" if skipped else ""
    what = "disk full, read-only, unmounted, locked database, no inotify, no descriptors, 3,000 files renamed, …"
    yield what, f"{total.points} troubles{left_out}", total.problems


def _poison(args: argparse.Namespace) -> Iterator[Report]:
    figures = poison.play(20_000, folder=args.corpus)
    _told("poison", figures.tally)
    before, after = figures.memory_mb
    what = (
        f"hostile files, {figures.good:,} good photos in between (which waited {figures.median:.1f} s in the median,"
        f" at most {figures.slowest:.1f} s; daemon {before} → {after} MB)"
    )
    yield what, f"{figures.tally.points:,} files", figures.tally.problems
    tally = _told("poison", poison.decoders())
    yield "decoders that crash, hang, devour memory, end", f"{tally.points} decoders", tally.problems


def _two(_: argparse.Namespace) -> Iterator[Report]:
    tally = _told("two", two.play())
    yield "programs on the same folders", f"{tally.points} starts", tally.problems


CAMPAIGNS: dict[str, Callable[[argparse.Namespace], Iterator[Report]]] = {
    "kill": _kill,
    "power": _power,
    "faults": _faults,
    "poison": _poison,
    "two": _two,
}

if __name__ == "__main__":
    sys.exit(main())
