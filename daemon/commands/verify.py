"""Read every filed file again, with a progress bar, and list what is not as it should be."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from daemon.care.verify import Amiss, Mend, Verification
from daemon.catalogue import Catalogue
from daemon.config import Config
from daemon.develop import Limits
from daemon.develop.sandbox import Sandbox
from daemon.errors import EnvironmentFault, Rejected
from daemon.service import roots
from daemon.thumbnails import Thumbnails


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a line for each thing amiss; 1 when there is any."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        raise EnvironmentFault(f"there is no catalogue {file} to compare with; darkroom rebuild makes one")
    thumbnails = Thumbnails(config.folders.state / "thumbnails")
    with _mender(config, thumbnails, wanted=args.mend) as mend:
        work = Verification(Catalogue(file), roots(config), thumbnails, config.inbox.ignore, mend)
        since = None if args.again else work.resumed()
        if since is not None:
            when = datetime.fromtimestamp(since).astimezone().isoformat(" ", "minutes")
            print(f"going on with what was begun at {when}; --again begins anew", file=sys.stderr)
        found = _watched(work, again=args.again, silent=args.json)
    return _report(work, found, as_json=args.json)


def _watched(work: Verification, *, again: bool, silent: bool) -> list[Amiss]:
    """Run to the end, showing how far it is and each thing amiss at once."""
    found = []
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # On standard error, and only where somebody watches.
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=work.total()[1])
        work.on_bytes = lambda done: progress.update(task, completed=done)
        for amiss in work.run(again=again):
            found.append(amiss)
            if not silent:
                print(_line(amiss), flush=True)
    return found


def _report(work: Verification, found: list[Amiss], *, as_json: bool) -> int:
    if as_json:
        document: dict[str, Any] = {"files": work.files, "bytes": work.bytes, "thumbnails_mended": work.mended}
        print(json.dumps(document | {"amiss": [vars(one) for one in found]}, indent=2))
    else:
        mended = f", thumbnails of {work.mended:,} made again" if work.mended else ""
        verdict = f"{len(found):,} amiss" if found else "all as they were filed"
        print(f"{work.files:,} files, {work.bytes / 1e6:,.1f} MB read: {verdict}{mended}")
    return 1 if found else 0


def _line(amiss: Amiss) -> str:
    image = "" if amiss.image_id is None else f" (image {amiss.image_id})"
    return f"{amiss.kind:<10} {amiss.path}{image}: {amiss.detail}"


@contextmanager
def _mender(config: Config, thumbnails: Thumbnails, *, wanted: bool) -> Iterator[Mend | None]:
    """Give what makes thumbnails again, in the child process in which all images are decoded."""
    if not wanted:
        yield None
        return
    limits = config.limits
    sandbox = Sandbox(Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb))

    def mend(path: Path, sha256: str) -> None:
        developed = sandbox.develop(path)
        if developed.sha256 != sha256:
            raise Rejected("it has changed since it was read")
        thumbnails.save(sha256, developed.small, developed.medium)

    try:
        yield mend
    finally:
        sandbox.close()
