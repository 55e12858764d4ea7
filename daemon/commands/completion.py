"""Prints a script by which a shell completes the commands, options and paths of darkroom."""

import argparse
from pathlib import Path

import shtab


def main(args: argparse.Namespace) -> int:
    """Print the script of a shell for all that the parser takes; 0."""
    _complete_paths(args.of)
    print(shtab.complete(args.of, shell=args.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Say of each argument of a parser, and of its commands, what is a path."""
    # argparse shows what a parser takes to nobody; shtab, too, looks here.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
        elif action.type is Path or str(action.metavar).startswith("PATH"):
            folder = action.metavar in {"DIR", "FOLDER"}
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
