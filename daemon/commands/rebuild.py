"""Make a lost catalogue anew."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from daemon import disk, lock
from daemon.care.rebuild import Outcome, Rebuild
from daemon.catalogue import Catalogue
from daemon.catalogue.restoring import Restoring
from daemon.config import Config
from daemon.develop import Limits
from daemon.develop.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Rejected
from daemon.names import display
from daemon.service import roots
from daemon.thumbnails import Thumbnails

_SUFFIXES = ("", "-wal", "-shm")


def main(config: Config, _args: argparse.Namespace) -> int:
    """Fill a new database beside the lost one's place, and put it there once it is whole."""
    state = config.folders.state
    with disk.blaming(str(state)):
        state.mkdir(parents=True, exist_ok=True)
    for name, root in roots(config).items():
        if not root.is_dir():
            raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
    folders = [path for name, path in config.folders.items() if name != "state" and path.is_dir()]
    with lock.exclusive(state, folders):
        _check_lost(state)
        outcome = _fill(config, state / "rebuilt.db")
        with disk.blaming(str(state)):
            for suffix in _SUFFIXES:
                (state / f"darkroom.db{suffix}").unlink(missing_ok=True)
            # Its last connection is closed, so all of it is in the one file.
            (state / "rebuilt.db").rename(state / "darkroom.db")
            disk.fsync_folder(state)
    return _report(outcome)


def _check_lost(state: Path) -> None:
    file = state / "darkroom.db"
    if not file.is_file():
        return
    try:
        images = Restoring(Catalogue(file)).count()
    except EnvironmentFault as fault:
        raise Rejected(f"{fault}\n  move {file} away (and {file.name}-wal, {file.name}-shm), then try again") from fault
    if images:
        raise Rejected(
            f"the catalogue {file} is there and knows {images:,} images; to make it anew nevertheless, move it away"
            f" (and {file.name}-wal, {file.name}-shm)"
        )


def _fill(config: Config, file: Path) -> Outcome:
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))
    thumbnails = Thumbnails(config.folders.state / "thumbnails")
    catalogue = Catalogue(file)
    console = Console(stderr=True)
    try:
        with catalogue.session(), Progress(console=console, disable=not console.is_terminal) as progress:
            work = Rebuild(catalogue, roots(config), thumbnails, sandbox.develop, config.inbox.ignore)
            task = progress.add_task("rebuilding", total=sum(1 for _ in work.files()))
            return work.run(lambda: progress.advance(task))
    finally:
        sandbox.close()


def _report(outcome: Outcome) -> int:
    for path, reason in outcome.left:
        print(f"left alone: {display(str(path))}: {reason}", file=sys.stderr)
    counts = ", ".join(f"{n:,} {status}" for status, n in outcome.restored.items())
    more = [f"{outcome.companions:,} files that came with them"] if outcome.companions else []
    more += [f"{outcome.new_ids:,} got a new id, since nothing beside them tells theirs"] if outcome.new_ids else []
    print("; ".join([f"made anew: {counts}", *more]))
    return 1 if outcome.left else 0
