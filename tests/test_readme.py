"""Holds the README to the program: its commands exist, and so do its files."""

import re
import subprocess
import sys
from pathlib import Path

from tests.program import environment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> set[str]:
    helped = subprocess.run(
        [sys.executable, "-m", "daemon", "--help"], env=environment(), capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^    (\w+)", helped.stdout, re.MULTILINE))


def test_every_command_is_in_the_readme_and_every_command_there_exists() -> None:
    section = README.split("## Commands\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^    darkroom (\w+)", section, re.MULTILINE)) == commands()
    assert set(re.findall(r"darkroom (\w+)(?= |`|$)", section)) <= commands() | {"needs"}


def test_every_option_that_it_shows_exists() -> None:
    for command, words in re.findall(r"^    darkroom (\w+) +(.*?)(?:   |$)", README, re.MULTILINE):
        helped = subprocess.run(
            [sys.executable, "-m", "daemon", command, "--help"],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        for option in re.findall(r"--[\w-]+", words):
            assert option in helped.stdout, f"darkroom {command} {option}"
        assert f"example: darkroom {command}" in helped.stdout


def test_the_two_commands_are_there_as_promised() -> None:
    assert "\n    python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/darkroom run\n" in README
    assert "\n    python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n" in README


def test_it_names_the_packages_that_the_tests_need() -> None:
    pairs = (ROOT / ".ci/run").read_text().split("for pair in ")[1].split("; do")[0]
    named = README.split("beside Python (Debian's ")[1].split(")")[0]
    assert re.findall(r"`([\w-]+)`", named) == [pair.partition(":")[2] for pair in pairs.replace("\\", "").split()]


def test_its_pictures_are_there_and_small() -> None:
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', README)
    assert len(pictures) == 6
    for picture in pictures:
        assert 0 < (ROOT / picture).stat().st_size < 100_000, picture


def test_every_module_that_it_names_exists() -> None:
    for module in re.findall(r"python -m (tests[\w.]+)", README):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for file in re.findall(r"`(daemon/[\w/]+\.py)`", README):
        assert (ROOT / file).is_file(), file
