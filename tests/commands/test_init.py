"""`darkroom init`: a folder with both files, and nothing that is there touched."""

import os
import stat
from pathlib import Path

import pytest

from daemon import config
from tests.program import HUMBLE, darkroom
from tests.support import tree

ROOT = Path(__file__).parent.parent.parent


def test_it_writes_both_files_and_says_what_comes_next(tmp_path: Path) -> None:
    said = darkroom(tmp_path, "init", "new photos/of 2026")
    there = tmp_path / "new photos/of 2026"
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        f"made {there}/config.toml",
        f"made {there}/.env",
        "next: cd 'new photos/of 2026' && darkroom run",
    ]
    assert sorted(path.name for path in there.iterdir()) == [".env", "config.toml"]
    assert (there / "config.toml").read_text() == (ROOT / "config.toml").read_text()
    assert stat.S_IMODE((there / ".env").stat().st_mode) == 0o600
    # Until somebody takes a # away, all is as without them.
    assert config.load(there / "config.toml", {}) == config.load(there / "config.toml", {"GEMINI_API_KEY": ""})
    assert config.load(there / "config.toml", {}).gemini_key is None
    assert darkroom(there, "run", "--once").returncode == 0


def test_each_secret_that_it_names_counts_once_it_is_there(tmp_path: Path) -> None:
    darkroom(tmp_path, "init")
    file = tmp_path / ".env"
    file.write_text(
        file.read_text().replace("#GEMINI_API_KEY=", "GEMINI_API_KEY=k").replace("#DARKROOM_TOKEN=", "DARKROOM_TOKEN=t")
    )
    loaded = config.load(tmp_path / "config.toml", {})
    assert loaded.gemini_key is not None
    assert loaded.token is not None
    assert (loaded.gemini_key.get_secret_value(), loaded.token.get_secret_value()) == ("k", "t")


@pytest.mark.parametrize("name", ["config.toml", ".env"])
def test_what_is_there_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# mine\n")
    said = darkroom(tmp_path, "init")
    assert said.returncode == 0
    assert f"{tmp_path / name} is there already, and stays as it is\n" in said.stdout
    assert (tmp_path / name).read_text() == "# mine\n"
    before = tree(tmp_path)
    assert sorted(before) == [".env", "config.toml"]
    again = darkroom(tmp_path, "init")
    assert (again.returncode, again.stdout.count("is there already"), tree(tmp_path)) == (0, 2, before)


def test_a_link_that_leads_nowhere_is_there_too(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("/nowhere/secrets")
    assert f"{tmp_path}/.env is there already" in darkroom(tmp_path, "init").stdout
    assert os.readlink(tmp_path / ".env") == "/nowhere/secrets"


def test_not_in_the_inbox_of_another(tmp_path: Path) -> None:
    darkroom(tmp_path, "init")
    (tmp_path / "inbox/card").mkdir(parents=True)
    for folder in ("inbox", "inbox/card", "inbox/new"):
        said = darkroom(tmp_path, "init", folder)
        where = f"{tmp_path}/{folder} lies in {tmp_path}/inbox, the inbox of the darkroom in {tmp_path}"
        assert (said.returncode, said.stderr) == (2, f"darkroom: {where}: choose another folder\n")
    assert [path.name for path in (tmp_path / "inbox").rglob("*")] == ["card"]


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = darkroom(tmp_path, "init", "file")
    assert (said.returncode, said.stderr) == (1, f"darkroom: {tmp_path}/file can't be made: File exists\n")
    (tmp_path / "shut").mkdir(mode=0o500)
    said = darkroom(tmp_path, "init", "shut", under=HUMBLE)
    assert (said.returncode, len(said.stderr.splitlines())) == (1, 1)
    assert "Permission denied" in said.stderr
