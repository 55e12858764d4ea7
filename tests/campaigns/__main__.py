"""Plays campaigns and prints what they tried and found: python -m tests.campaigns all.

kill       before every call that changes the disk
owner      the same, in reject, restore, sync, adopt and refile
uploads    the same, while an upload arrives
restarts   the same, in the restart after a kill
random     at random instants, while files and uploads arrive
order      what must be durable before what, at every such call
power      what a power cut may leave after every such call
faults     every such call fails
troubles   those of a machine: full, unmounted, locked, …
poison     hostile files
decoders   that crash, hang and devour memory
two        programs on the same folders
writers    who open a photo's file while it leaves the inbox
neighbours who may write into the inbox, and want more (needs root)
clients    that are real bring photos in (cp, rsync, sftp, FTP, Samba, …)
cards      that are imported, killed in between
crowd      of idle connections, event streams and stalled uploads at the port
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.campaigns import (
    accounts,
    cards,
    clients,
    crowd,
    faults,
    kill,
    neighbours,
    poison,
    power,
    program,
    random_kills,
    restarts,
    trouble,
    two,
    uploads,
    writers,
)
from tests.campaigns.acts import ACTS, OWNERS, Act
from tests.campaigns.kill import Tally
from tests.campaigns.stage import has_second_filesystem

Report = tuple[str, str, list[str]]


def main() -> int:
    """Play what is asked for; the exit code is 1 when anything was found, and 2 where nothing can be traced."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", nargs="+", choices=[*CAMPAIGNS, "all"], metavar="CAMPAIGN")
    parser.add_argument("--long", action="store_true", help="every call instead of a choice, faults lasting as well")
    parser.add_argument("--corpus", type=Path, help="a folder of files to feed to the poison campaign as well")
    args = parser.parse_args()
    if "neighbours" in args.campaigns and (why := accounts.why_not()):
        print(f"neighbours {why}", file=sys.stderr)
        return 2
    if not program.has_strace():
        parser.error("strace is needed, and the right to trace (apt install strace)")
    began, found = time.monotonic(), 0
    print("| campaign | tried | seconds | wrong |\n| --- | --- | --- | --- |", flush=True)
    for name in CAMPAIGNS if "all" in args.campaigns else args.campaigns:
        at = time.monotonic()
        what, tried, problems = CAMPAIGNS[name](args)
        print(f"| {what} | {tried} | {time.monotonic() - at:,.0f} | {len(problems)} |", flush=True)
        found += len(problems)
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
    """Return on stderr what came of a part, and what is wrong as soon as it is known."""
    print(f"{time.strftime('%H:%M:%S')} {what}: {tally.name}: {tally.points}", file=sys.stderr)
    for problem in tally.problems:
        print(problem, file=sys.stderr, flush=True)
    return tally


def _kill(args: argparse.Namespace) -> Report:
    choice = "each call that changes" if args.long else "chosen calls that change"
    where, tally = _each("kill", ACTS, lambda act: kill.each(act, thin=not args.long))
    return f"kills before {choice} the disk, {where}", f"{tally.kills:,} kills", tally.problems


def _owner(args: argparse.Namespace) -> Report:
    total = Tally("owner")
    for act in OWNERS.values():
        if not act.across or has_second_filesystem():
            total.add(_told("owner", kill.each(act, thin=not args.long)))
    return "kills in reject, restore, sync, adopt and refile", f"{total.kills:,} kills", total.problems


def _uploads(args: argparse.Namespace) -> Report:
    tally = _told("uploads", uploads.each(thin=not args.long))
    return "kills while an upload arrives and is filed", f"{tally.kills:,} kills", tally.problems


def _restarts(args: argparse.Namespace) -> Report:
    where, tally = _each("restarts", restarts.ACTS, lambda act: restarts.each(act, thin=not args.long))
    return f"kills in the restart after a kill, {where}", f"{tally.kills:,} kills", tally.problems


def _random(_: argparse.Namespace) -> Report:
    tally = _told("random", random_kills.play(500))
    what = "kills at random instants, while files and uploads arrive"
    return what, f"{tally.kills:,} kills, {tally.points:,} files", tally.problems


def _order(_: argparse.Namespace) -> Report:
    where, tally = _each("order", ACTS, power.order)
    return f"what must be durable first is, at each call {where}", f"{tally.points:,} calls", tally.problems


def _power(args: argparse.Namespace) -> Report:
    every = 1 if args.long else 3
    where, tally = _each("power", ACTS, lambda act: power.cut(act, every=every))
    after = "each call" if every == 1 else "every third call"
    return f"what POSIX lets a power cut leave after {after}, {where}", f"{tally.points:,} cuts", tally.problems


def _faults(args: argparse.Namespace) -> Report:
    every = 1 if args.long else 4
    where, tally = _each(
        "faults", ACTS, lambda act: faults.each(act, thin=not args.long, every=every, lasting=args.long)
    )
    at = "each call, once and lasting" if args.long else "every fourth chosen call"
    return f"{', '.join(faults.ERRORS)} at {at}, {where}", f"{tally.points:,} faults", tally.problems


def _troubles(_: argparse.Namespace) -> Report:
    total, skipped = Tally("troubles"), []
    for make in trouble.TROUBLES:
        tally, why = trouble.play(make)
        total.add(_told("troubles", tally))
        skipped += [f"{make.__name__.replace('_', ' ')} ({why})"] if why else []
    left_out = f"; {len(skipped)} skipped: {', '.join(skipped)}" if skipped else ""
    what = "disk full, read-only, unmounted, locked database, no inotify, no descriptors, 3,000 files renamed, …"
    return what, f"{total.points} troubles{left_out}", total.problems


def _poison(args: argparse.Namespace) -> Report:
    figures = poison.play(20_000, folder=args.corpus, patience=3.0)
    _told("poison", figures.tally)
    before, after = figures.memory_mb
    what = (
        f"hostile files, {figures.good:,} good photos in between (which waited {figures.median:.1f} s in the median,"
        f" at most {figures.slowest:.1f} s; daemon {before} → {after} MB)"
    )
    return what, f"{figures.tally.points:,} files", figures.tally.problems


def _decoders(_: argparse.Namespace) -> Report:
    tally = _told("decoders", poison.decoders())
    return "decoders that crash, hang, devour memory, end", f"{tally.points} decoders", tally.problems


def _two(_: argparse.Namespace) -> Report:
    tally = _told("two", two.play())
    return "two programs on the same folders", f"{tally.points} starts", tally.problems


def _writers(args: argparse.Namespace) -> Report:
    what = f"writers at each of {writers.INSTANTS} instants of a photo's leaving"
    if not writers.has_leases():
        return f"{what}; skipped: no leases here", "0 tries", []
    total = Tally("writers")
    places = (False, True) if has_second_filesystem() else (False,)
    for across in places:
        for kind in writers.KINDS:
            tally = writers.play(250 if args.long else 40, across=across, kind=kind)
            total.add(_told("writers", tally))
    left_out = "" if len(places) == 2 else "; to another filesystem skipped: there is none"
    return f"{what}{left_out}", f"{total.points:,} tries, in {total.kills:,} the writer waited", total.problems


def _neighbours(args: argparse.Namespace) -> Report:
    total = Tally("neighbours")
    if why := accounts.why_not():
        return f"a neighbour who may write into the inbox; skipped: {why}", "0 tries", []
    for play in neighbours.PARTS.values():
        total.add(_told("neighbours", play(not args.long)))
    what = "a neighbour's swaps at calls, flips, planted names, modes, open files and second names"
    return what, f"{total.points:,} tries", total.problems


def _cards(_: argparse.Namespace) -> Report:
    total = Tally("cards")
    for served in (False, True):
        total.add(_told("cards", cards.play(10, 500, served=served)))
    what = "a card imported, killed at ten random instants, to the end and once more, alone and beside a darkroom"
    return what, f"{total.kills} kills, {total.points:,} photos", total.problems


def _crowd(args: argparse.Namespace) -> Report:
    total = Tally("crowd")
    for one in crowd.CROWDS.values():
        total.add(_told("crowd", crowd.play(one, 60 if args.long else 15)))
    what = ", ".join(f"{one.clients:,} {one.name}" for one in crowd.CROWDS.values())
    return f"{what}, while photos are filed and health is asked for", f"{total.points:,} clients", total.problems


def _clients(_: argparse.Namespace) -> Report:
    tally = clients.play_all()
    what = f"{tally.kills} real clients bring {clients.PHOTOS} photos each, one of them in two goes"
    left_out = "".join(f"; {name} left out: {why}" for name, why in clients.left_out().items())
    return what + left_out, f"{tally.points:,} photos", tally.problems


CAMPAIGNS: dict[str, Callable[[argparse.Namespace], Report]] = {
    "kill": _kill,
    "owner": _owner,
    "uploads": _uploads,
    "restarts": _restarts,
    "random": _random,
    "order": _order,
    "power": _power,
    "faults": _faults,
    "troubles": _troubles,
    "poison": _poison,
    "decoders": _decoders,
    "two": _two,
    "writers": _writers,
    "neighbours": _neighbours,
    "clients": _clients,
    "cards": _cards,
    "crowd": _crowd,
}

if __name__ == "__main__":
    sys.exit(main())
