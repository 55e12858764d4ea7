"""Traces the way of one photo through the modules: `python -m tests.trace` prints it.

From the claim to the leaving of the inbox, with everything warm, one JPEG: which modules are visited, and how often
the calls move from one to another. A move is a call whose module is not that of the call before it, in the consumer's
thread.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import daemon
from daemon.app import build
from daemon.config import load
from daemon.files.atomic import Root
from daemon.files.walk import walk
from tests.support import jpeg

_ROOT = str(Path(daemon.__file__).parent.parent) + "/"
_WARM = 3


@dataclass(frozen=True)
class Call:
    """One call of a function of ours."""

    module: str
    function: str


BEGIN = Call("daemon.catalogue.queue", "claim")
END = Call("daemon.filing.filing", "leave")


def trace(base: Path) -> list[Call]:
    """Return the calls from claim to leave of a photo that is filed when others have been.

    Raises RuntimeError where the two were not met: then other calls were traced, or none.
    """
    base.mkdir(exist_ok=True)
    (base / "config.toml").write_text("")
    darkroom = build(load(base / "config.toml", {}), once=True)
    inbox, config = darkroom.config.folders.inbox, darkroom.config.inbox
    calls: list[Call] = []
    begun = ended = False

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal begun, ended
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if not file.startswith((_ROOT + "daemon/", _ROOT + "web/")):
            return
        module = file.removeprefix(_ROOT).removesuffix(".py").replace("/", ".")
        call = Call(module, name)
        if call == BEGIN:
            begun = True
        if event == "call" and begun and not ended:
            calls.append(call)
        if event == "return" and call == END:
            ended = True

    darkroom.sandbox.start()
    try:
        with darkroom.catalogue.session():
            for number in range(_WARM + 1):
                (inbox / f"{number}.jpg").write_bytes(jpeg(seed=number, taken="2024:05:01 12:34:56"))
                darkroom.queue.enqueue(list(walk(Root(inbox), config.ignore, recursive=True)), time.time())
                sys.setprofile(note if number == _WARM else None)
                darkroom.consumer.run_once(time.time())
                sys.setprofile(None)
    finally:
        sys.setprofile(None)
        darkroom.close()
    if not begun or not ended:
        missing = END if begun else BEGIN
        raise RuntimeError(f"{missing.module}.{missing.function} was not called: was it renamed?")
    return calls


def moves(calls: list[Call]) -> list[list[Call]]:
    """Return the calls in groups, each of those in a row that stay in one module."""
    groups: list[list[Call]] = []
    for call in calls:
        if groups and groups[-1][-1].module == call.module:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = moves(trace(Path(folder) / "room"))
    for group in found:
        print(f"{group[0].module:<30} {' '.join(dict.fromkeys(call.function for call in group))}"[:150])
    print(f"{len({group[0].module for group in found})} modules, {len(found)} moves")
