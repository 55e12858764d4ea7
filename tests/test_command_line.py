"""The command line against what somebody may type: an exit code and a line, never a traceback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon import version
from daemon.__main__ import STATUSES, _arguments
from daemon.catalogue import schema
from daemon.commands import LARGEST, whole_number
from tests.program import HUMBLE, darkroom, environment
from tests.support import Room, jpeg, rest_slow, slow

DIGITS = "9" * 5000
PAST = str(2**63)
# A terminal that takes UTF-8 alone, as most do: what is no text can't be written to it.
STRICT: Any = {"PYTHONIOENCODING": "utf-8:strict"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which a photo with an undecodable name was filed, and others are in the inbox."""
    room = Room(tmp_path_factory.mktemp("line") / "room")
    room.put(os.fsdecode(b"bad\xff.jpg"), jpeg())
    room.drain()
    room.put(os.fsdecode(b"new\xff.jpg"), jpeg(seed=2))
    room.put("new\n\x1b[1m.jpg", jpeg(seed=3))
    (room.config.base / "loop").symlink_to("loop")
    room.close()
    return room.config.base


def refused(base: Path, *words: str) -> str:
    """Run what is wrong use; returns the line that says so."""
    outcome = darkroom(base, *words)
    assert (outcome.returncode, outcome.stdout) == (2, ""), outcome.stderr
    line, *more = outcome.stderr.splitlines()
    assert all(re.fullmatch(r"  darkroom( \w+)? --help shows how it is used", text) for text in more), outcome.stderr
    assert line.startswith("darkroom")
    assert len(line) < 700, "nobody reads all of what was typed again"
    return line


@pytest.mark.parametrize("number", [PAST, DIGITS, "\u0663", "1_000", " 7 ", "+5", "\udcff", "x" * 5000])
def test_what_is_no_number_of_an_image(base: Path, number: str) -> None:
    bound = "at most 9223372036854775807" if number in {PAST, DIGITS} else "1 or more"
    assert f"argument ID: must be a whole number, {bound}, not '" in refused(base, "retry", number)


@pytest.mark.parametrize("words", ["caption", "undo --to out", "list --limit"])
def test_every_command_takes_the_same_numbers(base: Path, words: str) -> None:
    for number in (PAST, DIGITS):
        said = refused(base, *words.split(), number)
        assert "must be a whole number, at most 9223372036854775807, not '" in said
    assert not (base / "out").exists()


@pytest.mark.parametrize("span", ["9" * 400 + "w", DIGITS + "w", "9" * 11 + "s", "\u0663s", "x" * 5000])
def test_what_is_no_span_of_time(base: Path, span: str) -> None:
    assert "a span such as 90s, 30m, 1h, 2d or 1w, not '" in refused(base, "undo", "--to", "out", "--since", span)


def test_the_commands_read_a_number_alike() -> None:
    assert [whole_number(text) for text in ("1", "007", str(LARGEST))] == [1, 7, LARGEST]
    assert [whole_number(text) for text in ("", "0", "-1", PAST, DIGITS, "\u0663", "1_000", " 7 ", "7\n")] == [None] * 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stats",), "darkroom: there is no command 'stats'; did you mean status?"),
        (("verison",), "darkroom: there is no command 'verison'; did you mean --version?"),
        (("frobnicate",), "darkroom: there is no command 'frobnicate'; darkroom --help lists all"),
        (("--verison",), "darkroom: there is no option --verison; did you mean --version?"),
        (("list", "--stauts=done"), "darkroom list: there is no option --stauts; did you mean --status?"),
        (("list", "--status", "fialed"), "darkroom list: argument --status: not 'fialed', but one of "),
        (("retry", "--failed", "17"), "darkroom retry: name the images by their ids, or say --failed: one of the two"),
        (("help", "lst"), "darkroom: there is no command 'lst'; did you mean list?"),
    ],
    ids=" ".join,
)
def test_a_slip_is_told_with_what_was_meant(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    line = refused(tmp_path, *words)
    assert line.startswith(said)
    if "fialed" in words:
        assert line.endswith("; did you mean failed?")


def test_the_options_of_all_commands_stand_before_or_after_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (
        "--config a status -v",
        "status --config a -v",
        "-v --config=b status --config=a",
        "-v --config a status",
    ):
        args = _arguments(words.split())
        assert (args.command, args.config, bool(args.verbose), bool(args.quiet)) == ("status", Path("a"), True, False)
    monkeypatch.setenv("DARKROOM_CONFIG", "env.toml")
    assert _arguments(["status"]).config == Path("env.toml")
    assert _arguments(["status", "--config", "a"]).config == Path("a"), "what is typed goes before the environment"
    monkeypatch.setenv("DARKROOM_CONFIG", "")
    assert _arguments(["status"]).config is None


@pytest.mark.slow
def test_how_much_is_logged(tmp_path: Path) -> None:
    assert darkroom(tmp_path, "status", DARKROOM_CONFIG="a").stderr == "darkroom: a: there is no such file\n"
    (tmp_path / "config.toml").write_text("")
    assert darkroom(tmp_path, "-q", "run", "--once").stderr == ""
    assert "daemon.commands.run: " in darkroom(tmp_path, "-v", "run", "--once").stderr


def test_help_and_version_are_answers(tmp_path: Path) -> None:
    helped = darkroom(tmp_path, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert darkroom(tmp_path, "help").stdout == helped.stdout
    assert darkroom(tmp_path, "help", "list").stdout == darkroom(tmp_path, "list", "-h").stdout != ""
    nothing = darkroom(tmp_path)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (2, "", helped.stdout)
    assert darkroom(tmp_path, "--version").stdout == darkroom(tmp_path, "-V").stdout == f"darkroom {version()}\n"
    assert not list(tmp_path.iterdir()), "who only asks finds nothing made"


NEED_ONE = (
    "list; status; explain 1; retry 1; retry --failed; caption --missing; undo 1 --to out; sync; verify; reject 1;"
    " restore 1; trash; rebuild"
).split("; ")


@pytest.mark.parametrize("command", rest_slow(NEED_ONE, 2))
def test_where_there_is_no_darkroom_it_says_so_and_makes_nothing(tmp_path: Path, command: str) -> None:
    said = darkroom(tmp_path, *command.split())
    assert (said.returncode, said.stdout) == (1, "")
    there = ": go to the folder of one, or name its config.toml (--config PATH); to begin one here: darkroom init"
    assert said.stderr == f"darkroom: there is no darkroom in {tmp_path}{there}\n"
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.toml").write_text("")
    if command != "rebuild":  # which makes one
        assert (
            f"nothing has run here yet: there is no {tmp_path}/state/darkroom.db"
            in darkroom(tmp_path, *command.split()).stderr
        )
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_subfolder_of_a_darkroom_is_told_where_that_is(base: Path) -> None:
    said = darkroom(base / "library/2024", "list")
    assert (said.returncode, f", but there is one in {base}: go there, " in said.stderr) == (1, True)


@pytest.mark.skipif(not HUMBLE and os.geteuid() == 0, reason="needs setpriv")
def test_a_catalogue_that_may_not_be_read_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/darkroom.db").touch()
    (tmp_path / "state").chmod(0)
    said = darkroom(tmp_path, "list", under=HUMBLE)
    assert (said.returncode, said.stderr) == (
        1,
        f"darkroom: {tmp_path}/state/darkroom.db can't be read: Permission denied; whose is it?\n",
    )


def test_the_statuses_are_those_of_the_catalogue() -> None:
    assert STATUSES == schema.STATUSES


@pytest.mark.slow
def test_the_largest_numbers_are_numbers(base: Path) -> None:
    last = str(2**63 - 1)
    for command in ("retry", "explain"):
        assert darkroom(base, command, last).returncode == 1, command
    assert len(darkroom(base, "list", "--limit", last).stdout.splitlines()) == 2
    # Exactly what was too large for SQLite before.
    assert refused(base, "explain", PAST).startswith(f"darkroom: {PAST} is no image's id")
    assert refused(base, "explain", "0").startswith("darkroom: 0 is no image's id, which is a number from 1 to ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", DIGITS), "a path of 1 to 4095 bytes"),
        (("list", "x" * 501), "argument QUERY: at most 500 characters, not 501"),
        (("list", "--status", "x" * 5000), "but one of queued, processing, done"),
        (("status", "x" * 5000), "there is a word too many: 'xxx"),
        (("caption", "1", "--model", "../../x"), "--model takes a model's name"),
        (("service", "--account", "a\nExecStartPre=/bin/x"), "the name of an account"),
        slow(("explain", "\u0663" * 5000), "a path of 1 to 4095 bytes"),
        slow(("explain", "a/" * 5000), "a path of 1 to 4095 bytes"),
        slow(("explain", ""), "a path of 1 to 4095 bytes"),
        slow(("explain", "9" * 400), "is no image's id"),
        slow(("x" * 5000,), "there is no command"),
        slow(("caption", "1", "--model", "\udcff"), "--model takes a model's name"),
        slow(("caption", "--missing", "--model", "x" * 5000), "--model takes a model's name"),
        slow(("service", "--account", "\udcff"), "the name of an account"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_wrong_use_is_told_in_one_line(base: Path, words: tuple[str, ...], said: str) -> None:
    assert said in refused(base, *words)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (os.fsdecode(b"inbox/new\xff.jpg"), "inbox/new\\udcff.jpg"),
        ("inbox/new\n\x1b[1m.jpg", "inbox/new\\n\\x1b[1m.jpg"),
    ],
)
def test_a_name_that_is_not_known_yet_is_shown_on_one_line(base: Path, path: str, shown: str) -> None:
    told = darkroom(base, "explain", path, **STRICT)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"{shown}: has not been noticed: ")
    assert len(told.stdout.splitlines()) == 1


@pytest.mark.parametrize("path", ["~nosuchuser/x", os.fsdecode(b"~nosuchuser/\xff"), "a" * 4000])
def test_a_path_that_leads_nowhere_was_never_seen(base: Path, path: str) -> None:
    told = darkroom(base, "explain", path, **STRICT)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.endswith(": darkroom has never seen such an image\n")
    assert len(told.stderr) < 500


@pytest.mark.slow
def test_an_undecodable_name_is_found_and_explained(base: Path) -> None:
    for query in (os.fsdecode(b"bad\xff"), "\udcff", "bad"):
        listed = darkroom(base, "list", query, **STRICT)
        assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 2), listed.stderr
    assert darkroom(base, "list", "\udcfe", **STRICT).stderr == "no images match\n"
    for path in (b"bad\xff.jpg", b"inbox/bad\xff.jpg", b"library/2024/05/bad_udcff.jpg", b"1"):
        told = darkroom(base, "explain", os.fsdecode(path), **STRICT)
        assert told.stdout.startswith("image 1: bad\\udcff.jpg\n  is done: "), told.stderr
        assert "queued: found in the inbox as bad\\udcff.jpg" in told.stdout


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict", "ascii:strict"])
def test_what_a_terminal_can_not_show_is_an_escape(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    (folder / "library").write_bytes(b"no folder")
    told = darkroom(folder, "doctor", PYTHONIOENCODING=encoding)
    assert told.returncode == 1, told.stderr
    assert "bad\\udcff/library" in told.stdout
    assert "\N{RIGHTWARDS ARROW} " in told.stdout or "\\u2192 " in told.stdout, "what is to fix has an arrow before it"
    document = json.loads(darkroom(folder, "doctor", "--json", PYTHONIOENCODING=encoding).stdout)
    assert [one for one in document if os.fsdecode(b"bad\xff/library") in one["text"]]


@pytest.mark.parametrize("command", rest_slow(["list", "explain 1", "status --json"], 1))
def test_a_standard_output_that_is_closed(base: Path, command: str) -> None:
    script = f'exec "$0" -m daemon {command} >&-'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        cwd=base,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("host", rest_slow(["a..b", "a" * 64 + ".org", "\\u00ad", "127.0.0.1\\n"], 1))
def test_a_host_that_is_no_name(tmp_path: Path, host: str) -> None:
    (tmp_path / "config.toml").write_text(f'[web]\nhost = "{host}"\nport = 0\n')
    head, line = darkroom(tmp_path, "run").stderr.splitlines()
    assert head == "darkroom: config.toml: one fault"
    assert line.startswith("  [web] host: ")
    assert not (tmp_path / "inbox").exists()


def test_a_unit_can_not_name_what_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    said = refused(folder, "service", "--user")
    assert said.startswith("darkroom: a unit is UTF-8, and this path is not, so rename the folder: ")
    assert said.endswith("bad\\udcff…")
