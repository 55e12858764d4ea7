"""Kills the restart after a kill as well: before each call with which it resolves what it found."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.kill import Tally, distinct, in_parallel, kill_at, points, thinned
from tests.campaigns.stage import Stage

# One of each way to file, on one filesystem and across.
ACTS = (
    "a photo",
    "a photo to another filesystem",
    "no image to another filesystem",
    "a duplicate, deleted",
    "asking to try again, from another filesystem",
)
_START = ("run", "--once")
# A part of a hidden name that another run draws otherwise.
_DRAWN = re.compile(r"[0-9a-f]{16}")
# Columns that differ from run to run though nothing else does.
_TIMES = re.compile(r"_at$|_ms$|_ns$|_since$|not_before$")


def each(act: Act, *, thin: bool = True, wrecked: int = 1, every: int = 1) -> Tally:
    """Kill an act before each call, and then, for each different wreck that this leaves, its restart before each.

    Where `thin`, a restart is killed until it does no more than to file afresh, which `kill.each` has tried.
    `wrecked` and `every` take one of so many of the first and of the second kills.
    """
    tally = Tally(act.name)
    start = replace(act, words=_START, names="second")
    with ExitStack() as stack:
        template = stack.enter_context(act.template())
        wrecks = _wrecks(act, template, stack, wrecked)
        afresh = _afresh(act, template) if thin else []

        def listed(wreck: Stage) -> list[trace.Call]:
            calls = points(start, wreck)
            return distinct(_own(thinned(calls), wreck, afresh)) if thin else calls

        lists = in_parallel(listed, [wreck for _, wreck in wrecks])
        jobs = [(was, wreck, call) for (was, wreck), calls in zip(wrecks, lists, strict=True) for call in calls][
            ::every
        ]
        outcomes = in_parallel(lambda job: kill_at(start, job[1], job[2]), jobs)
        for (was, _, call), (killed, faults) in zip(jobs, outcomes, strict=True):
            tally.points += 1
            tally.kills += killed
            tally.note(call, came=killed)
            tally.problems += [
                f"{act.name}: killed before {was}, restarted, killed before {call}: {fault}" for fault in faults
            ]
    tally.expect_most()
    return tally


def _wrecks(act: Act, template: Stage, stack: ExitStack, every: int = 1) -> list[tuple[trace.Call, Stage]]:
    """Return the different wrecks that kills of an act leave, each with the first call before which it was killed."""
    calls = distinct(thinned(points(act, template)))[::every]
    stages = [stack.enter_context(act.stage(template)) for _ in calls]

    def wreck(job: tuple[trace.Call, Stage]) -> str:
        call, stage = job
        under = trace.at(call, template.moved_to(stage), "signal=SIGKILL")
        program.run(stage.base, *act.words, under=under, names=act.names)
        return _fingerprint(stage)

    found: dict[str, tuple[trace.Call, Stage]] = {}
    jobs = list(zip(calls, stages, strict=True))
    for job, print_ in zip(jobs, in_parallel(wreck, jobs), strict=True):
        found.setdefault(print_, job)
    return list(found.values())


def _fingerprint(stage: Stage) -> str:
    """Name a wreck by all that a restart decides by: its files, their bytes and links, and its rows.

    Of the state folder that is the rows alone: SQLite answers for its files, and thumbnails are made anew.
    """
    digest = hashlib.sha256()
    inodes: dict[tuple[int, int], str] = {}
    for root in stage.roots:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_file() and not path.is_relative_to(stage.state) and name != "config.toml":
                here = path.stat().st_dev, path.stat().st_ino
                digest.update(f"{name} {inodes.setdefault(here, name)} {check.hash_of(path)}".encode())
    # A copy: who closes the database last tidies it, and the restart is to find it as the kill has left it.
    with tempfile.TemporaryDirectory(prefix="campaign-") as copy:
        shutil.copytree(stage.state, Path(copy, "state"), ignore=shutil.ignore_patterns("thumbnails", "*-shm"))
        for table in ("image", "companion"):
            digest.update(repr(list(_lasting(Stage(Path(copy)), table))).encode())
    return digest.hexdigest()


def _lasting(stage: Stage, table: str) -> Iterator[list[tuple[str, object]]]:
    for row in check.rows(stage, table):
        yield sorted((name, value) for name, value in row.items() if not _TIMES.search(name))


def _afresh(act: Act, template: Stage) -> list[tuple[str, ...]]:
    """List what filing afresh does outside the state folder."""
    if act.words == _START:
        return _steps(points(act, template), template)
    with act.stage(template) as stage:
        program.run(stage.base, *act.words)
        calls = points(replace(act, words=_START, names="second"), stage)
        return _steps([trace.relocated(call, stage.moved_to(template)) for call in calls], template)


def _steps(calls: Sequence[trace.Call], stage: Stage) -> list[tuple[str, ...]]:
    return [_step(call, stage) for call in calls if _tells(call, stage)]


def _step(call: trace.Call, stage: Stage) -> tuple[str, ...]:
    anywhere = {root: Path(f"/{number}") for number, root in enumerate(stage.roots)}
    return call.name, *(_DRAWN.sub("*", path) for path in trace.relocated(call, anywhere).paths)


def _tells(call: trace.Call, stage: Stage) -> bool:
    """Return whether a call is one of filing: folders may be there already, syncs come at all times."""
    return (
        call.ok
        and call.name.startswith(("write", "link", "rename", "unlink", "copy_file_range", "sendfile"))
        and not Path(call.paths[-1]).is_relative_to(stage.state)
    )


def _own(calls: Sequence[trace.Call], wreck: Stage, afresh: Sequence[tuple[str, ...]]) -> list[trace.Call]:
    """Keep of a restart's calls those from its first change of a row or a file until it files afresh.

    How the database is opened and closed is the same in every run.
    """
    telling = [index for index, call in enumerate(calls) if _tells(call, wreck)]
    tail = telling[-len(afresh) :] if afresh else []
    if tail and [_step(calls[index], wreck) for index in tail] == list(afresh):
        calls = calls[: tail[0]]
    log = f"{wreck.state}/darkroom.db-wal"
    working = [
        index
        for index, call in enumerate(calls)
        if not Path(call.paths[-1]).is_relative_to(wreck.state) or (call.name, call.paths[-1]) == ("pwrite64", log)
    ]
    # One more: before it the last of these has been done.
    return list(calls[working[0] : working[-1] + 2]) if working else []
