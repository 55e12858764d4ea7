"""Tell everything that happened to one file, and where it is now."""

import argparse
import sys
from pathlib import Path

from daemon.care.explain import LARGEST_ID, Explainer, number
from daemon.catalogue import Catalogue
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.names import display

# How much of a path that leads nowhere a message holds.
_QUOTED = 200


def main(config: Config, args: argparse.Namespace) -> int:
    """Print a paragraph for each image that was meant; 1 when there is none."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        print(f"nothing has run here yet: there is no {file}", file=sys.stderr)
        return 1
    shown = display(args.target if len(args.target) <= _QUOTED else f"{args.target[:_QUOTED]}…")
    explainer = Explainer(config, Catalogue(file))
    here = Path.cwd()
    paragraphs = [list(explainer.image(image_id)) for image_id in explainer.find(args.target, here)]
    paragraphs = [lines for lines in paragraphs if lines]
    untracked = None if paragraphs else explainer.untracked(args.target, here)
    if untracked:
        paragraphs = [[f"{shown}: {untracked}"]]
    if not paragraphs and args.target.isdecimal() and number(args.target) is None:
        raise ConfigError(f"{shown} is no image's id, which is a number from 1 to {LARGEST_ID}")
    if not paragraphs:
        print(f"{shown}: darkroom has never seen such an image", file=sys.stderr)
        return 1
    print("\n\n".join("\n".join(lines) for lines in paragraphs))
    return 0
