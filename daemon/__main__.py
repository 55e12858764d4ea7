"""The command line: what is asked, with which configuration, and how errors become text and exit codes."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from daemon import logs
from daemon.errors import Busy, ConfigError, DarkroomError

_STATUSES = ("queued", "processing", "done", "duplicate", "failed")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 done, 1 something failed, 2 wrong use or configuration."""
    parser = _parser()
    args = parser.parse_args(argv)
    logs.set_up(verbose=args.verbose)
    if args.command == "retry" and bool(args.ids) == args.failed:
        parser.error("retry takes either image ids or --failed")
    if args.command == "caption" and bool(args.ids) == args.missing:
        parser.error("caption takes either image ids or --missing")
    if args.command == "undo" and bool(args.ids) == (args.since is not None):
        parser.error("undo takes either image ids or --since")
    # Here, not above: --help must not wait for the configuration's libraries.
    from daemon import config

    try:
        module = importlib.import_module(f"daemon.commands.{args.command}")
        code = int(module.main(config.load(args.config), args))
        sys.stdout.flush()
    except (ConfigError, Busy) as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 2
    except DarkroomError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # What the folders do comes as a DarkroomError; this is whoever reads along: `head`, a file on a full disk.
        if not isinstance(error, BrokenPipeError):
            print(f"darkroom: {error}", file=sys.stderr)
        # The interpreter flushes once more as it ends: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="PATH", help="the configuration (default: config.toml here)")
    common.add_argument("-v", "--verbose", action="store_true", help="say what happens inside, too")
    parser = argparse.ArgumentParser(
        prog="darkroom", description="An image inbox: photos copied into a folder come out filed."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, parents=[common], help=text, description=text, epilog=f"example: darkroom {example}"
        )

    run = add("run", "watch the inbox and file what lands in it", "run")
    run.add_argument("--once", action="store_true", help="file what is in the inbox, then exit")
    status = add("status", "show the counts, the rate, and what is paused and why", "status --watch")
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--watch", action="store_true", help="a live progress bar, until Ctrl-C")
    listing = add("list", "list images, newest first", "list --status failed")
    listing.add_argument("query", nargs="?", metavar="QUERY", help="a part of a name or camera")
    listing.add_argument("--status", choices=_STATUSES, help="only images of this status")
    listing.add_argument("--limit", type=_positive, default=100, metavar="N", help="at most N (default: 100)")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    retry = add("retry", "queue failed images again", "retry --failed")
    retry.add_argument("ids", nargs="*", type=_positive, metavar="ID", help="an image's id")
    retry.add_argument("--failed", action="store_true", help="all that failed")
    caption = add("caption", "ask for captions again, saying first how many requests that makes", "caption --missing")
    caption.add_argument("ids", nargs="*", type=_positive, metavar="ID", help="an image's id")
    caption.add_argument("--missing", action="store_true", help="all filed images that have none")
    caption.add_argument("--model", metavar="M", help="another model than the configured one")
    explain = add("explain", "tell everything that happened to one file, and where it is now", "explain IMG_1234.jpg")
    explain.add_argument("target", metavar="PATH|ID", help="a path, now or once, of the file, or an image's id")
    undo = add(
        "undo",
        "move filed originals out again, under the names they came with",
        "undo --since 1h --to ~/taken-back",
    )
    undo.add_argument("ids", nargs="*", type=_positive, metavar="ID", help="an image's id")
    undo.add_argument("--since", type=_span, metavar="SPAN", help="all filed within 90s, 30m, 1h, 2d or 1w")
    undo.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to move them into")
    doctor = add("doctor", "look whether all that darkroom needs is there, and say how to mend what is not", "doctor")
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    verify = add("verify", "read every filed original again and compare it with the catalogue", "verify --mend")
    verify.add_argument("--mend", action="store_true", help="make missing thumbnails again")
    verify.add_argument("--again", action="store_true", help="from the start, not from where an earlier one stopped")
    verify.add_argument("--json", action="store_true", help="one JSON document")
    add("rebuild", "make a lost catalogue anew from the library, its sidecars and the other folders", "rebuild")
    service = add("service", "print the systemd unit that starts darkroom at boot, or install it", "service --install")
    service.add_argument("--install", action="store_true", help="write, enable and start it")
    service.add_argument("--user", action="store_true", help="for your own systemd manager instead of the system's")
    service.add_argument("--account", metavar="NAME", help="who runs it (default: the inbox's owner)")
    return parser


def _span(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    if unit not in seconds or not number.isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"a span such as 90s, 30m, 1h, 2d or 1w, not {text!r}")
    return float(int(number) * seconds[unit])


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
