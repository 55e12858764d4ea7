"""`darkroom completion`: what a real bash makes of it, and that each shell gets something."""

import shutil
import subprocess
from pathlib import Path

import pytest
import shtab

from daemon.__main__ import SHELLS
from tests.program import darkroom
from tests.support import rest_slow

_TRY = """
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_darkroom
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with bash's script and a few things to complete."""
    here = tmp_path_factory.mktemp("completion")
    (here / "script").write_text(darkroom(here, "completion", "bash").stdout)
    (here / "other.toml").touch()
    (here / "outside").mkdir()
    return here


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("li", ["list"]),
        ("--vers", ["--version"]),
        ("list --lim", ["--limit"]),
        ("list --status f", ["failed"]),
        ("--config o", ["other.toml", "outside"]),
        ("undo --to o", ["outside"]),
        ("completion f", ["fish"]),
    ],
)
def test_bash_completes(folder: Path, words: str, offered: list[str]) -> None:
    command = ["bash", "-c", _TRY, "bash", "darkroom", *words.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", rest_slow(SHELLS, 1))
def test_every_shell_gets_a_script_that_it_can_read(tmp_path: Path, shell: str) -> None:
    assert shell in shtab.SUPPORTED_SHELLS
    script = tmp_path / "script"
    script.write_text(darkroom(tmp_path, "completion", shell).stdout)
    assert "rebuild" in script.read_text()
    if shell != "tcsh" and shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], timeout=60, check=True)
