"""Plain lines for people, priorities for the journal."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.program import environment

_SCRIPT = """
import logging
from daemon import logs
logs.set_up(verbose=False)
log = logging.getLogger("daemon.test")
log.debug("hidden"); log.info("filed"); log.warning("paused"); log.critical("gone")
try:
    raise ValueError("two\\nlines")
except ValueError:
    log.exception("stumbled")
"""


def said(file: Path, *, journal: bool) -> list[str]:
    """Run the script with a file for its standard error, which systemd says is the journal, or is not."""
    with file.open("wb") as stream:
        here = os.fstat(stream.fileno())
        known = f"{here.st_dev}:{here.st_ino}" if journal else f"{here.st_dev}:{here.st_ino + 1}"
        subprocess.run(
            [sys.executable, "-c", _SCRIPT], stderr=stream, env=environment(JOURNAL_STREAM=known), check=True
        )
    return file.read_text().splitlines()


def test_the_journal_gets_a_priority_on_every_line(tmp_path: Path) -> None:
    lines = said(tmp_path / "journal", journal=True)
    assert lines[:4] == ["<6>filed", "<4>paused", "<2>gone", "<3>stumbled"]
    assert lines[-2:] == ["<3>ValueError: two", "<3>lines"]
    assert all(line.startswith("<") for line in lines)


def test_a_terminal_gets_plain_lines_with_the_time(tmp_path: Path) -> None:
    lines = said(tmp_path / "stderr", journal=False)
    assert lines[0].endswith(" filed")
    assert lines[0][:4].isdecimal()
    assert not any(line.startswith("<") for line in lines)


def test_a_closed_standard_error_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon import logs

    monkeypatch.setattr(sys, "stderr", None)
    assert not logs._is_journal({"JOURNAL_STREAM": "1:2"})
    assert logs._priority(logging.DEBUG) == 7
