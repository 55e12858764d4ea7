"""Cuts the power: the order of writes, fsyncs and commits is traced, and what each instant would leave is restarted."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from daemon.files.names import LEAVING_PREFIX
from tests.campaigns import check, program, trace
from tests.campaigns.acts import Act
from tests.campaigns.disk import Cut, Disk
from tests.campaigns.kill import Tally, restarted
from tests.campaigns.stage import OUTPUTS, Stage

_OPENING = (*trace.CHANGING, "openat")


def record(act: Act, stage: Stage) -> list[trace.Call]:
    """Run an act, and list all that it did to the folders, with the bytes that it wrote."""
    with tempfile.NamedTemporaryFile(suffix=".strace") as log:
        program.run(stage.base, *act.words, under=trace.words(Path(log.name), _OPENING, written=20_000_000))
        calls = trace.read(Path(log.name))
    changing = trace.changes(calls, stage.roots, _OPENING)
    return [call for call in changing if call.name != "openat" or "O_CREAT" in call.text or "O_TRUNC" in call.text]


def order(act: Act) -> Tally:
    """Check, at each call of an act, that nothing is removed or shown before what must precede it is durable."""
    tally = Tally(act.name)
    with act.template() as template, act.stage(template) as stage:
        disk = Disk(stage.roots)
        for name in check.files(stage.inbox):
            # Its writer has closed it, which promises nothing.
            disk.forget_bytes(stage.inbox / name)
        calls = record(act, stage)
        for call in calls:
            tally.points += 1
            tally.problems += [f"{act.name}: {fault}" for fault in _broken(disk, call, stage)]
            disk.apply(call)
        for place in OUTPUTS:
            for name in check.files(stage.folder(place)):
                path = stage.folder(place) / name
                if disk.promised(path) != path.read_bytes():
                    tally.problems.append(f"{act.name}: {place}/{name} is not durable in the end")
    return tally


def _broken(disk: Disk, call: trace.Call, stage: Stage) -> Iterator[str]:
    """Judge one call by what is promised just before it."""
    if not call.ok:
        return
    source = call.paths[0]
    now = disk.content(source)
    if call.name.startswith("unlink") and now is not None and Path(source).is_relative_to(stage.base):
        sources = (stage.inbox, stage.folder("failed"))
        if any(Path(source).is_relative_to(folder) for folder in sources) and not source.endswith(".reason.txt"):
            if not any(
                content == now for path, content in disk.all_promised() if path != source and "/state/" not in path
            ):
                yield f"{call}: its bytes are not durable anywhere else"
            if disk.unpromised(f"{stage.state}/darkroom.db-wal"):
                yield f"{call}: the row that says so is not committed"
    is_hiding = Path(call.paths[-1]).name.startswith(LEAVING_PREFIX)
    if call.name.startswith("rename") and not is_hiding and disk.unpromised(source):
        yield f"{call}: shown before its bytes are durable"


def cut(act: Act, every: int = 1) -> Tally:
    """Cut the power after each call of an act, in each way that POSIX allows, restart, and judge."""
    tally = Tally(act.name)
    with act.template() as template, act.stage(template) as stage:
        disk = Disk(stage.roots)
        calls = record(act, stage)
        seen: set[str] = set()
        for number, call in enumerate(calls):
            disk.apply(call)
            for way in Cut if number % every == 0 else ():
                if (left := disk.fingerprint(way)) in seen:
                    continue
                seen.add(left)
                # In its own place: what `undo` writes down are whole paths.
                disk.materialise(way, {root: root for root in stage.roots})
                tally.points += 1
                tally.problems += [
                    f"{act.name}: power cut after {call} ({way.value}): {fault}"
                    for fault in restarted(replace(stage, again=True))
                ]
    return tally
