"""The command line: what is asked, with which configuration, and how errors become text and exit codes."""

import argparse
import difflib
import importlib
import io
import locale
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from daemon import logs, version
from daemon.commands import LARGEST, whole_number
from daemon.errors import ConfigError, DarkroomError

# Those of the catalogue's schema, which --help must not load.
STATUSES = ("queued", "processing", "done", "duplicate", "failed", "deleted", "rejected")
# Those of shtab, which nothing else needs.
SHELLS = ("bash", "zsh", "fish", "tcsh")
# Commands of one noun are in one module, and `import` is a word of Python's.
_MODULES = {"reject": "trash", "restore": "trash", "import": "imports"}
# Those that need no configuration.
_UNCONFIGURED = {"init", "completion"}
# What names the images of a command that takes ids, where none are given.
_OR_IDS = {"retry": "failed", "caption": "missing", "undo": "since"}
_MAX_QUERY = 500
_QUERY_HELP = "words of names, folders, cameras, lenses, captions, titles, keywords and text in the picture"
# No path is longer on Linux, in bytes.
_MAX_PATH = 4095
# How much a message holds of what was typed: its beginning and its end.
_QUOTED = 200


class _Parser(argparse.ArgumentParser):
    """A parser that says what was probably meant, and whose messages stay short, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        if len(message) > 2 * _QUOTED:
            message = f"{message[:_QUOTED]} … {message[-_QUOTED:]}"
        # Not all of the usage, among which the one line would be lost.
        self.exit(2, f"{self.prog}: {message}\n  {self.prog} --help shows how it is used\n")

    def refuse_options(self, unknown: list[str]) -> NoReturn:
        """Say what of the words that nobody knows was meant."""
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            self.error(f"there is a word too many: {word!r}")
        self.error(f"there is no option {word}{_nearest(word, self._option_string_actions)}")

    # argparse has no public way to say more than what the choices are, and Python 3.14's own suggestion wants all of
    # them in the message. It is called with every value of an argument that has choices, so a test would notice.
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            near = _nearest(value, [*known, *self._option_string_actions]) or "; darkroom --help lists all"
            self.error(f"there is no command {value!r}{near}")
        raise argparse.ArgumentError(action, f"not {value!r}, but one of {', '.join(known)}{_nearest(value, known)}")


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return what to add to a message where something is known that looks like a word; "" else."""
    # Nobody means a command by a hundred letters, and comparing them takes long.
    plain = {name.lstrip("-"): name for name in known}
    near = difflib.get_close_matches(word.lstrip("-")[:100], plain, n=1)
    return f"; did you mean {plain[near[0]]}?" if near else ""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 something failed, 2 wrong use or configuration."""
    _open_closed_streams()
    if argv is None:
        _use_utf8_for_names()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name may hold bytes that are no text, and a terminal may take ASCII alone: both become escapes.
            stream.reconfigure(encoding=_terminal_encoding(stream), errors="backslashreplace")
    args = _arguments(argv)
    logs.set_up(verbose=args.verbose, quiet=args.quiet)
    # Here, not above: --help must not wait for the configuration's libraries.
    from daemon import config

    try:
        module = importlib.import_module(f"daemon.commands.{_MODULES.get(args.command, args.command)}")
        if args.command in _UNCONFIGURED:
            return int(module.main(args))
        # What a command needs of the configuration is told together with what is wrong in it.
        faults = getattr(module, "faults", None)
        loaded = config.load(args.config, check=lambda config: faults(config, args) if faults else ())
        code = int(module.main(loaded, args))
        sys.stdout.flush()
    except ConfigError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 2
    except DarkroomError as error:
        print(f"darkroom: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # What the folders do comes as a DarkroomError; this is whoever reads along: `head`, a file on a full disk.
        if not isinstance(error, BrokenPipeError):
            where = f"{error.filename}: " if error.filename else ""
            print(f"darkroom: {where}{error.strerror or error}", file=sys.stderr)
        # The interpreter flushes once more as it ends: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _open_closed_streams() -> None:
    """Lead the standard streams that whoever started this has closed (`>&-`) to nowhere.

    Their numbers would go to the next files that are opened, such as the catalogue, and what a library writes to
    standard error would be written into those.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _use_utf8_for_names() -> None:
    """Start anew in Python's UTF-8 mode where the locale has names on disk read and written as anything else.

    Names are what others wrote, and in the library what others read: that is UTF-8 whatever the terminal shows.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def _terminal_encoding(stream: io.TextIOWrapper) -> str:
    """Return the encoding of what reads a stream: the locale's, too, where `_use_utf8_for_names` has passed it over."""
    passed_over = "utf8" in sys._xoptions and "PYTHONIOENCODING" not in os.environ
    return locale.getencoding() if passed_over else stream.encoding


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return what was asked for; ends the program where that was help, the version, or nothing that there is."""
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    command: _Parser = args.parser
    if unknown:
        command.refuse_options(unknown)
    if args.version:
        print(f"darkroom {version()}")
        parser.exit()
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if args.verbose and args.quiet:
        command.error("say -v or -q: more is logged, or less")
    if args.command == "help":
        parser.parse_args([*args.about, "--help"])
    if (other := _OR_IDS.get(args.command)) and bool(args.ids) == bool(getattr(args, other)):
        command.error(f"name the images by their ids, or say --{other}: one of the two")
    if args.command == "run" and args.dry_run and not args.once:
        command.error("--dry-run goes with --once alone")
    if args.config is None and (named := os.environ.get("DARKROOM_CONFIG")):
        args.config = Path(named)
    return args


def _options(default: Any) -> _Parser:
    """Return the options of all commands; their defaults are those of `default`, or they have none at all."""
    common = _Parser(add_help=False, argument_default=default)
    said = "the configuration (default: $DARKROOM_CONFIG, or config.toml in this folder)"
    group = common.add_argument_group("options of all commands, before or after the command")
    group.add_argument("--config", type=Path, metavar="PATH", help=said)
    # They exclude each other, which a parser that is another's parent would forget.
    group.add_argument("-v", "--verbose", action="store_true", default=default, help="say what happens inside, too")
    group.add_argument("-q", "--quiet", action="store_true", default=default, help="log only what goes wrong")
    return common


def _parser() -> _Parser:
    parser = _Parser(
        prog="darkroom",
        description="An image inbox: photos copied into a folder come out filed.",
        epilog="darkroom COMMAND --help shows what else a command takes, and an example.\n"
        "Exit codes: 0 done, 1 something failed (it says what), 2 wrong use or configuration.",
        parents=[_options(None)],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="store_true", help="say which darkroom this is")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    # Given before the command, too: without a default it does not undo what was said there.
    common = _options(argparse.SUPPRESS)

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, parents=[common], help=text, description=text, epilog=f"example: darkroom {example}"
        )
        command.set_defaults(parser=command)
        return command

    # Not in the list: --help is.
    commands.add_parser("help").add_argument("about", nargs="*")
    init = add("init", "write a config.toml that documents every key, and a .env for secrets", "init ~/photos")
    init.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder, made if it is missing (default: this one)",
    )
    run = add("run", "watch the inbox and file what lands in it", "run")
    run.add_argument("--once", action="store_true", help="file what is in the inbox, then exit")
    run.add_argument("--dry-run", action="store_true", help="with --once: say where it would go, and file nothing")
    bring = add("import", "copy in what the library does not hold yet, and say what is safe", "import /media/card")
    bring.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a camera's card, or any other folder")
    bring.add_argument("--move", action="store_true", help="remove each file there once it was read in the library")
    bring.add_argument("--dry-run", action="store_true", help="say what would be copied, and copy nothing")
    bring.add_argument("--json", action="store_true", help="one JSON document")
    plan = add("plan", "show where files would go, and why; nothing is changed", "plan /media/card/DCIM")
    plan.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a folder with all in it")
    plan.add_argument("--template", metavar="T", help="another template than the configured one")
    plan.add_argument("--json", action="store_true", help="one JSON document")
    status = add("status", "show the counts, the rate, and what is paused and why", "status --watch")
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document")
    form.add_argument("--watch", action="store_true", help="a live progress bar, until Ctrl-C")
    listing = add("list", "list images, newest first", "list --status failed")
    listing.add_argument("query", nargs="?", type=_query, metavar="QUERY", help=_QUERY_HELP)
    listing.add_argument("--status", choices=STATUSES, metavar="STATUS", help=f"only one of {', '.join(STATUSES)}")
    orders = ("arrived", "taken")
    said = "newest first by when they came, or when they were taken (default: arrived)"
    listing.add_argument("--by", choices=orders, default="arrived", metavar="DATE", help=f"arrived or taken: {said}")
    listing.add_argument("--limit", type=_whole_number, default=100, metavar="N", help="N to a page (default: 100)")
    pages = listing.add_mutually_exclusive_group()
    pages.add_argument("--page", type=_whole_number, default=1, metavar="N", help="the N-th page (default: 1)")
    pages.add_argument("--all", action="store_true", help="all pages in one")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    retry = add("retry", "queue failed images again", "retry --failed")
    retry.add_argument("ids", nargs="*", type=_whole_number, metavar="ID", help="an image's id")
    retry.add_argument("--failed", action="store_true", help="all images that failed")
    caption = add("caption", "ask for captions again, saying first how many requests that makes", "caption --missing")
    caption.add_argument("ids", nargs="*", type=_whole_number, metavar="ID", help="an image's id")
    caption.add_argument("--missing", action="store_true", help="all filed images that have none")
    caption.add_argument("--model", metavar="M", help="ask this model, and not the configured one")
    explain = add("explain", "show everything that happened to one file, and where it is now", "explain IMG_1234.jpg")
    target = "a path that the file has or once had, or an image's id"
    explain.add_argument("target", type=_target, metavar="PATH|ID", help=target)
    undo = add(
        "undo",
        "move filed originals out again, under the names they came with",
        "undo --since 1h --to ~/taken-back",
    )
    undo.add_argument("ids", nargs="*", type=_whole_number, metavar="ID", help="an image's id")
    undo.add_argument("--since", type=_span, metavar="SPAN", help="all filed within 90s, 30m, 1h, 2d or 1w")
    undo.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to move them into")
    undo.add_argument("--dry-run", action="store_true", help="say where they would go, and move nothing")
    doctor = add("doctor", "check whether all that darkroom needs is there, and say how to fix what is not", "doctor")
    doctor.add_argument("--json", action="store_true", help="one JSON document")
    verify = add("verify", "read every filed original again and compare it with the catalogue", "verify --fix")
    verify.add_argument("--fix", action="store_true", help="make missing thumbnails again")
    verify.add_argument("--again", action="store_true", help="begin anew, and not where an earlier one stopped")
    verify.add_argument("--json", action="store_true", help="one JSON document")
    add("rebuild", "make a lost catalogue anew from the library, its sidecars and the other folders", "rebuild")
    sync = add("sync", "follow what you edited, moved, deleted or brought back in the library", "sync --adopt")
    sync.add_argument("--adopt", action="store_true", help="take in photos that were never filed, where they lie")
    sync.add_argument("--yes", action="store_true", help="take all missing photos for deleted, however many they are")
    refile = add("refile", "move what is filed to where another template wants it", "refile --dry-run")
    refile.add_argument("--template", metavar="T", help="another template than the configured one")
    refile.add_argument("--all", action="store_true", help="also what you have moved yourself, or was adopted")
    refile.add_argument("--dry-run", action="store_true", help="list the moves, and make none")
    refile.add_argument("--json", action="store_true", help="one JSON document")
    rejected = add("reject", "throw images away, into the trash; their bytes are remembered", "reject 17 18")
    rejected.add_argument("ids", nargs="+", type=_whole_number, metavar="ID", help="an image's id")
    restored = add("restore", "take images back that were thrown away or deleted", "restore 17")
    restored.add_argument("ids", nargs="+", type=_whole_number, metavar="ID", help="an image's id")
    trash = add("trash", "list what is in the trash, or delete what has been there for long", "trash --older-than 30d")
    trash.add_argument(
        "--older-than", type=_span, metavar="SPAN", help="delete for good what has been there for longer"
    )
    service = add("service", "print the systemd unit that starts darkroom at boot, or install it", "service --install")
    service.add_argument("--install", action="store_true", help="write, enable and start it")
    service.add_argument("--user", action="store_true", help="for your own systemd manager instead of the system's")
    service.add_argument("--account", type=_account, metavar="NAME", help="who runs it (default: the inbox's owner)")
    completion = add(
        "completion",
        "print the script by which a shell completes commands, options and paths",
        "completion bash > ~/.local/share/bash-completion/completions/darkroom",
    )
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    completion.set_defaults(of=parser)
    return parser


def _span(text: str) -> float:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    # Ten digits are three centuries of seconds; int() takes no more than 4,300.
    if not re.fullmatch("0{0,9}[1-9][0-9]{0,9}[smhdw]", text):
        raise argparse.ArgumentTypeError(f"a span such as 90s, 30m, 1h, 2d or 1w, not {text!r}")
    return float(int(text[:-1]) * seconds[text[-1]])


def _whole_number(text: str) -> int:
    number = whole_number(text)
    if number is None:
        bound = f"at most {LARGEST}" if re.fullmatch("[0-9]*[1-9][0-9]*", text) else "1 or more"
        raise argparse.ArgumentTypeError(f"must be a whole number, {bound}, not {text!r}")
    return number


def _query(text: str) -> str:
    if len(text) > _MAX_QUERY:
        raise argparse.ArgumentTypeError(f"at most {_MAX_QUERY} characters, not {len(text)}")
    return text


def _target(text: str) -> str:
    if not text or len(os.fsencode(text)) > _MAX_PATH:
        raise argparse.ArgumentTypeError(f"a path of 1 to {_MAX_PATH} bytes, or an image's id, not {text!r}")
    return text


def _account(text: str) -> str:
    # It becomes a line of the unit.
    if not text or len(text) > 256 or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError(f"the name of an account, not {text!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
