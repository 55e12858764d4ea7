"""A newcomer does what the README says from top to bottom, in a fresh account, and all of it is as it says."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.captions.gemini_server import Gemini
from tests.newcomer import Account, Reader, free_port, rows
from tests.readme import ROOT, Block, blocks
from tests.support import jpeg

# How many photos are on the card: fewer than Gemini is asked about in a minute.
CARD = 12


def library(folder: Path) -> dict[str, str]:
    """Return the photos in a library, each with its hash."""
    root = folder / "library"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.jpg"))
    }


@pytest.fixture
def tools() -> Iterator[Path]:
    """Return a folder of programs that the reader has from his distribution: pipx and uv."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        # Not this one, which may be root's own.
        python = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.executable
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        subprocess.run([folder / "venv/bin/pip", "install", "-q", "pipx", "uv"], check=True, capture_output=True)
        (folder / "bin").mkdir()
        for name in ("pipx", "uv"):
            (folder / "bin" / name).symlink_to(folder / f"venv/bin/{name}")
        yield folder / "bin"


def checkout(account: Account, port: int) -> Path:
    """Make what the reader clones: all that is in this folder, as a repository."""
    origin = account.home / ".origin"
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, known.split("\0")):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (origin / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, origin / name, follow_symlinks=False)
    config = origin / "config.toml"
    config.write_text(config.read_text().replace("port = 8080", f"port = {port}"))
    account.give(origin)
    git = ("git", "-C", origin)
    account.run(*git, "init", "-q")
    account.run(*git, "add", "--all")
    account.run(*git, "-c", "user.name=Somebody", "-c", "user.email=s@example.org", "commit", "-q", "-m", "All of it")
    return origin


def make_card(account: Account) -> Path:
    """Make a camera's card: photos that say when they were taken, and one that does not."""
    folder = account.home / "card/DCIM/100CANON"
    folder.mkdir(parents=True)
    for number in range(1234, 1234 + CARD - 1):
        taken = f"2024:05:{number - 1230:02} 12:00:00"
        (folder / f"IMG_{number}.jpg").write_bytes(jpeg((300, 200), seed=number, taken=taken))
    (folder / "old.jpg").write_bytes(jpeg((300, 200), seed=1))
    stamp = time.mktime((2019, 3, 2, 12, 0, 0, 0, 0, -1))
    os.utime(folder / "old.jpg", (stamp, stamp))
    (account.home / "backup/photos").mkdir(parents=True)
    account.give(account.home / "card")
    account.give(account.home / "backup")
    return account.home / "card"


def check_tried(reader: Reader) -> None:
    """The first run, in the folder of the code."""
    clone = reader.account.home / "darkroom"
    assert len(library(clone)) == CARD
    assert "2019/03/old.jpg" in library(clone), "cp -a keeps the time by which it is dated"
    git = ("git", "-C", clone)
    assert reader.account.run(*git, "status", "--porcelain") == "", "nothing is left behind in it"
    assert "Would remove library/" in reader.account.run(*git, "clean", "-xdn")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def check_installed(reader: Reader) -> None:
    """All that is no module is installed, too; where it is edited all is there anyway."""
    [installed] = (reader.account.home / ".local/share/pipx/venvs/darkroom/lib").glob("python3*/site-packages")
    for package in ("daemon", "web"):
        assert files(installed / package) == files(ROOT / package)


def check_filed(reader: Reader) -> None:
    assert len(library(reader.photos)) == CARD
    # For `retry`.
    broken = reader.account.home / "broken.jpg"
    broken.write_bytes(b"no photo")
    reader.account.give(broken)
    broken.rename(reader.photos / "inbox/broken.jpg")


def check_imported(reader: Reader) -> None:
    said = f"{CARD} photos: {CARD} in the library already: safe to delete"
    assert said in reader.account.terminals[-1].said()


def check_refiled(reader: Reader) -> None:
    assert len(library(reader.photos)) == CARD, "nothing has moved, since the template is as it was"


def check_captions(reader: Reader) -> None:
    assert rows(reader.photos, "SELECT count(*) FROM image WHERE status = 'done' AND caption IS NULL") == [(0,)]


def check_undone(reader: Reader) -> None:
    assert library(reader.photos) == {}
    assert len(list((reader.account.home / "back").rglob("*.jpg"))) >= CARD


def check_rebuilt(reader: Reader) -> None:
    assert len(library(reader.photos)) == CARD
    check_captions(reader)


def check_token(reader: Reader) -> None:
    url = f"http://127.0.0.1:{reader.port}/api/stats"
    assert httpx2.get(url).status_code == 401


def check_backup(reader: Reader) -> None:
    copied = reader.account.home / "backup/photos"
    assert library(copied) == library(reader.photos)
    assert (copied / ".env").read_text() == (reader.photos / ".env").read_text()
    assert not (copied / "state").exists()


# What is looked at after which line.
CHECKS = {
    ".venv/bin/darkroom status --watch": check_tried,
    "pipx ensurepath": check_installed,
    "darkroom status --watch": check_filed,
    "darkroom import": check_imported,
    "darkroom caption --missing": check_captions,
    "darkroom refile": check_refiled,
    "darkroom undo --since 1h": check_undone,
    "darkroom rebuild": check_rebuilt,
    "curl -H": check_token,
    "rsync -a --exclude=/state": check_backup,
}


def test_what_fails_in_a_terminal_is_noticed(tmp_path: Path) -> None:
    account = Account(20_003, tmp_path)
    try:
        terminal = account.open()
        terminal.type("cd /; export NAME=value")
        assert terminal.type('echo "$PWD $NAME"').strip() == "/ value"
        with pytest.raises(AssertionError, match="exit code 3"):
            terminal.type("(exit 3)")
    finally:
        account.leave()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("rsync"), reason="needs rsync")
def test_from_top_to_bottom(tools: Path) -> None:
    # Not 8080, which may be taken: tests run side by side. The tests themselves are played by .ci/run.
    port, done = free_port(), set()
    with Gemini() as gemini:
        account = Account(
            20_001,
            tools,
            GOOGLE_GEMINI_BASE_URL=gemini.url,
            PYTEST_ADDOPTS="--collect-only -q -n 0 -p no:cacheprovider",
        )
        places = {
            "URL": str(checkout(account, port)),
            "/media/card": str(make_card(account)),
            "/media/backup": str(account.home / "backup"),
        }
        for number in range(1234, 1240):
            # Those that REST is given.
            (account.home / f"IMG_{number}.jpg").write_bytes(jpeg((320, 200), seed=number))
        reader = Reader(account, places, port)
        try:
            for block in blocks("sh", "dotenv"):
                if block.before.startswith("**Another machine**"):
                    move(reader, block, tools)
                    continue
                reader.read(block)
                for line in CHECKS:
                    if any(shown.startswith(line) for shown in block.lines):
                        CHECKS[line](reader)
                        done.add(line)
            assert done == set(CHECKS)
            assert len(library(reader.photos)) > CARD, "they stay"
            assert not (account.home / ".local/bin/darkroom").exists()
        except BaseException:
            for terminal in account.terminals:
                print(terminal.said())
            raise
        finally:
            reader.close()


def move(reader: Reader, block: Block, tools: Path) -> None:
    """Do on another machine, on which there is uv, what is said for it: all is there again."""
    old, new = reader.account.home, Account(20_002, tools)
    there = Reader(new, {"/media/backup": str(new.home / "backup")}, reader.port)
    try:
        for name, copy in ((".origin", "darkroom"), ("backup", "backup")):
            shutil.copytree(old / name, new.home / copy, symlinks=True)
            new.give(new.home / copy)
        [install] = [one for one in blocks("sh") if one.heading == "Install" and "pipx install" in one.text]
        for line in install.lines:
            there.do(line.partition("# or: ")[2] or line)
        there.terminal = new.open()
        there.read(block)
        assert library(there.photos) == library(reader.photos)
        known = "SELECT id, sha256, caption, status FROM image WHERE status IN ('done', 'duplicate') ORDER BY id"
        assert rows(there.photos, known) == rows(reader.photos, known)
    finally:
        there.close()
