"""Move filed originals out again."""

import argparse
import sys
import time

from daemon import disk
from daemon.care.undo import Undo, alone
from daemon.config import Config
from daemon.errors import DarkroomError, NameRefused, Rejected
from daemon.service import open_catalogue
from daemon.thumbnails import Thumbnails


def main(config: Config, args: argparse.Namespace) -> int:
    """Move each image into --to; 1 when one can't be."""
    try:
        to = args.to.expanduser().absolute()
        disk.make_path(to)
    except (OSError, RuntimeError, ValueError) as error:  # ~ of nobody, a NUL
        raise DarkroomError(f"{args.to} can't be made: {getattr(error, 'strerror', None) or error}") from error
    catalogue = open_catalogue(config)
    refused = moved = 0
    with alone(config.folders.state):
        undo = Undo(catalogue, dict(config.folders.items()), Thumbnails(config.folders.state / "thumbnails"))
        undo.resume()
        for image_id in args.ids or undo.since(time.time() - args.since):
            try:
                print(f"image {image_id}: {undo.out(image_id, to)}")
                moved += 1
            except (Rejected, NameRefused) as reason:
                print(reason, file=sys.stderr)
                refused += 1
    print(f"{moved} moved out")
    return 1 if refused else 0
