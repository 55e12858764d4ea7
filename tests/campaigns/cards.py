"""A card is imported, killed in between at random instants, imported to the end, and once more: the receipt is true."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tests.campaigns import check, program
from tests.campaigns.acts import photo
from tests.campaigns.kill import Tally
from tests.campaigns.stage import Stage, temporary_stage
from tests.campaigns.watching import Skipped, mounted, remount

_PER_FOLDER = 100
_SIZES = [(96, 64), (400, 300), (1600, 1200)]


def fill(card: Path, stage: Stage, photos: int, seed: int) -> None:
    """Put photos on a card, each name in several folders, some with edits beside them, one of them twice."""
    rng = random.Random(seed)
    for number in range(photos):
        folder = card / f"DCIM/{100 + number // _PER_FOLDER}CANON"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"IMG_{number % _PER_FOLDER:04d}.JPG"
        path.write_bytes(photo(seed * 100_000 + number, rng.choice(_SIZES)))
        stage.expect(path.read_bytes())
        if number % 25 == 0:
            edit = path.with_suffix(".AAE")
            edit.write_bytes(b"<plist>an edit of %d</plist>" % number)
            stage.expect(edit.read_bytes())
    first = card / "DCIM/100CANON/IMG_0000.JPG"
    (first.parent / "COPY0000.JPG").write_bytes(first.read_bytes())


@contextmanager
def read_only_card(stage: Stage, photos: int, seed: int) -> Iterator[tuple[Path, bool]]:
    """Return a card in the stage's folder, and whether it is a medium of its own, mounted read-only."""
    card = stage.base / "card"
    with ExitStack() as stack:
        try:
            stack.enter_context(mounted(card, "-t", "tmpfs", "none"))
            is_mounted = True
        except Skipped:
            is_mounted = False
        fill(card, stage, photos, seed)
        if is_mounted:
            remount(card, "ro")
        yield card, is_mounted


def receipt_faults(stage: Stage, card: Path, receipt: dict[str, Any]) -> Iterator[str]:
    """Yield what of a receipt is not so: each file that it calls safe has to lie in the library, byte for byte."""
    library = stage.folder("library")
    held = {check.hash_of(path) for path in library.rglob("*") if path.is_file()}
    on_card = {str(path): check.hash_of(path) for path in card.rglob("*") if path.is_file()}
    safe = [*receipt["filed"], *receipt["known"]]
    yield from (f"{path} is called safe, and is not" for path in safe if on_card[path] not in held)
    if receipt["safe"] and set(safe) != set(on_card):
        yield f"{len(on_card)} files are on the card, and {len(safe)} are called safe"
    if not receipt["safe"] and set(on_card.values()) <= held:
        yield f"all is in the library, and the receipt says of some that it is not: {receipt['others'][:3]}"


def _looks(card: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns)
        for path in card.rglob("*")
    }


def play(kills: int, photos: int, *, served: bool = False, seed: int = 1) -> Tally:
    """Import a card, killed so often; with `served`, beside a running darkroom."""
    rng = random.Random(seed)
    tally = Tally(f"a card of {photos} photos" + (", beside a running darkroom" if served else ""), points=photos)
    with temporary_stage(across=served, quick=True) as stage, read_only_card(stage, photos, seed) as (card, is_medium):
        # Good images are interrupted more often here than any machine would.
        stage.configure(limits={"attempts": 100}, library={"follow_hours": 0})
        before = _looks(card)
        with program.serving(stage.base) if served else nullcontext():
            # So short that at each kill there is something left to do, mostly.
            seconds = 0.5 + 3 * photos / (100 * kills)
            for _ in range(5 * kills):
                if tally.kills == kills:
                    break
                process = program.start(stage.base, "import", str(card), "--json", output=subprocess.PIPE)
                time.sleep(rng.uniform(0.2, seconds))
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                text, _ = process.communicate()
                program.wait_for_group(process.pid)
                tally.kills += process.returncode == -signal.SIGKILL
                tally.problems += [f"after kill {tally.kills}: {fault}" for fault in check.visible(stage)]
                if (told := _document(text)) is not None:
                    tally.problems += [
                        f"after kill {tally.kills}: {fault}" for fault in receipt_faults(stage, card, told)
                    ]
            tally.problems += [] if tally.kills == kills else [f"only {tally.kills} of {kills} kills came about"]
            known = 0
            for _ in range(2):
                outcome = program.run(stage.base, "import", str(card), "--json", seconds=600)
                told = _document(outcome.text)
                if told is None or outcome.code != 0 or not told["safe"]:
                    tally.problems.append(f"it ended with {outcome.code}: {outcome.text[-2000:]}")
                    break
                tally.problems += receipt_faults(stage, card, told)
                tally.problems += [] if told["whole"] == is_medium else ["it says wrongly what may be formatted"]
                tally.problems += ["what was safe is so no more"] if len(told["known"]) < known else []
                tally.problems += ["the second time something was filed"] if known and told["filed"] else []
                known = len(told["filed"]) + len(told["known"])
        tally.problems += check.drained(stage)
        tally.problems += [] if _looks(card) == before else ["the card has changed"]
    return tally


def _document(text: str) -> dict[str, Any] | None:
    """Return the receipt in what an import has written, lines of its log around it; None where it came to none."""
    start = text.find("\n{\n") + 1 if not text.startswith("{\n") else 0
    end = text.find("\n}\n", start)
    if end < 0 or (start == 0 and not text.startswith("{\n")):
        return None
    found: dict[str, Any] = json.loads(text[start : end + 2])
    return found
