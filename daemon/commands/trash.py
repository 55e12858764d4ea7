"""Throws images away, takes them back, lists the trash and deletes what lies there: `reject`, `restore`, `trash`.

Nothing in the trash is ever deleted unless somebody says `--older-than`, or empties the folder himself.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime

from daemon.app import decoding_limits, existing_catalogue, mover, sidecars
from daemon.config import Config
from daemon.decoding.sandbox import Sandbox
from daemon.errors import DarkroomError, EnvironmentFault
from daemon.files import atomic
from daemon.files.names import display
from daemon.filing.trash import Trash
from daemon.phrases import counted


def main(config: Config, args: argparse.Namespace) -> int:
    """Do what the command says; 1 when something of it can't be."""
    catalogue = existing_catalogue(config)
    folder = config.folders.trash
    if not folder.is_dir():
        try:
            atomic.make_path(folder)
        except OSError as error:
            raise EnvironmentFault(f"the trash folder {folder} can't be made: {error.strerror}") from error
    with catalogue.session(), closing(Sandbox(decoding_limits(config))) as sandbox:
        moving = mover(config, catalogue, sidecars(config, catalogue, sandbox))
        moving.resume()
        work = Trash(moving)
        match args.command:
            case "reject":
                return _each(args.ids, work.reject, "thrown away")
            case "restore":
                return _each(args.ids, work.restore, "taken back")
        if args.older_than is None:
            return _list(work)
        return _purge(work, time.time() - args.older_than)


def _each(image_ids: Sequence[int], move: Callable[[int], str], done: str) -> int:
    refused = 0
    for image_id in image_ids:
        try:
            print(f"image {image_id}: {display(move(image_id))}")
        except DarkroomError as reason:
            print(reason, file=sys.stderr)
            refused += 1
    print(f"{counted(len(image_ids) - refused, 'image')} {done}")
    return 1 if refused else 0


def _list(work: Trash) -> int:
    rows = work.listed(time.time())
    for row in rows:
        day = datetime.fromtimestamp(row.removed_at or 0.0).astimezone().isoformat(" ", "minutes")
        print(f"{row.id:>7}  {day[:16]}  trash/{display(row.destination or '')}")
    size = sum(row.size_bytes or 0 for row in rows) / 1e6
    hint = "; darkroom restore ID takes one back" if rows else ""
    print(f"{counted(len(rows), 'image')} in the trash, {size:,.1f} MB{hint}")
    return 0


def _purge(work: Trash, before: float) -> int:
    gone = refused = 0
    for row in work.listed(before):
        try:
            work.purge(row)
            gone += 1
        except DarkroomError as reason:
            print(reason, file=sys.stderr)
            refused += 1
    print(f"{counted(gone, 'image')} deleted for good")
    return 1 if refused else 0
