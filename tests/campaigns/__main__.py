"""Plays the campaigns and prints what they tried and found: python -m tests.campaigns all --long.

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
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns import faults, kill, poison, power, program, random_kills, trouble, two, uploads
from tests.campaigns.acts import ACTS, Act
from tests.campaigns.stage import has_second_filesystem

Report = tuple[str, str, list[str]]


def main() -> int:
    """Play what is asked for; the exit code is 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__.partition("\n")[0])
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--long", action="store_true", help="every call instead of a choice, 500 kills, 20,000 files")
    parser.add_argument("--corpus", type=Path, help="a folder of files to feed to the poison campaign as well")
    args = parser.parse_args()
    began, found = time.monotonic(), 0
    print("| campaign | tried | seconds | wrong |\n| --- | --- | --- | --- |", flush=True)
    for name in CAMPAIGNS if args.campaign == "all" else [args.campaign]:
        at = time.monotonic()
        for part, tried, problems in CAMPAIGNS[name](args):
            print(f"| {name}: {part} | {tried} | {time.monotonic() - at:.0f} | {len(problems)} |", flush=True)
            for problem in problems:
                print(problem, file=sys.stderr)
            found += len(problems)
            at = time.monotonic()
    print(f"\n{found} wrong, in {time.monotonic() - began:.0f} s on {os.cpu_count()} processors")
    return 1 if found else 0


def _acts() -> Iterator[Act]:
    if not program.has_strace():
        raise SystemExit("strace is needed, and the right to trace (apt install strace)")
    yield from (act for act in ACTS.values() if not act.across or has_second_filesystem())


def _kill(args: argparse.Namespace) -> Iterator[Report]:
    for act in _acts():
        tally = kill.each(act, thin=not args.long)
        yield act.name, f"{tally.kills} kills", tally.problems
    tally = uploads.each(1 if args.long else 3)
    yield tally.name, f"{tally.kills} kills", tally.problems
    for name in RESTARTED if args.long else RESTARTED[:1]:
        tally = kill.each_restart(ACTS[name], every=1 if args.long else 4)
        yield f"{name}, and its restart", f"{tally.kills} kills", tally.problems
    tally = random_kills.play(500 if args.long else 40)
    yield "at random, while files and uploads arrive", f"{tally.kills} kills, {tally.points} files", tally.problems


def _power(args: argparse.Namespace) -> Iterator[Report]:
    for act in _acts():
        order = power.order(act)
        cuts = power.cut(act, every=1 if args.long else 3)
        yield act.name, f"{order.points} calls in order, {cuts.points} cuts", order.problems + cuts.problems


def _faults(args: argparse.Namespace) -> Iterator[Report]:
    for act in _acts():
        tally = faults.each(act, every=1 if args.long else 4, lasting=args.long)
        yield f"{', '.join(faults.ERRORS)} in {act.name}", f"{tally.points} faults", tally.problems
    for make in trouble.TROUBLES:
        tally, skipped = trouble.play(make)
        yield tally.name, f"skipped: {skipped}" if skipped else "1 trouble", tally.problems


def _poison(args: argparse.Namespace) -> Iterator[Report]:
    figures = poison.play(20_000 if args.long else 1_000, folder=args.corpus)
    tried = (
        f"{figures.tally.points} files and {figures.good} good photos, which waited at most {figures.slowest:.1f} s;"
        f" the daemon's memory {figures.memory_mb[0]} MB → {figures.memory_mb[1]} MB"
    )
    yield "hostile files", tried, figures.tally.problems
    tally = poison.decoders()
    yield "decoders that crash, hang, devour memory", f"{tally.points} files", tally.problems


def _two(_: argparse.Namespace) -> Iterator[Report]:
    tally = two.play()
    yield "on the same folders", f"{tally.points} starts", tally.problems


# Whose restarts are killed as well: one of each way to file, on one filesystem and across.
RESTARTED = (
    "a photo",
    "a photo to another filesystem",
    "no image to another filesystem",
    "a duplicate, deleted",
    "asking to try again, from another filesystem",
)
CAMPAIGNS: dict[str, Callable[[argparse.Namespace], Iterator[Report]]] = {
    "kill": _kill,
    "power": _power,
    "faults": _faults,
    "poison": _poison,
    "two": _two,
}

if __name__ == "__main__":
    sys.exit(main())
