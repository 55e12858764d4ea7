"""`darkroom service` prints a unit, or installs it, and says plainly why it can't."""

import os
import shutil
from pathlib import Path

import pytest

from tests.program import darkroom
from tests.support import rest_slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def fake_systemctl(tmp_path: Path, code: int = 0) -> str:
    """Return a PATH on which a systemctl notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "systemctl"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho "no such bus" >&2\nexit {code}\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_it_prints_the_unit_and_nothing_else(tmp_path: Path) -> None:
    printed = darkroom(tmp_path, "service", "--account", "daemon")
    assert printed.returncode == 0, printed.stderr
    assert "[Service]\nType=notify\n" in printed.stdout
    assert f"WorkingDirectory={tmp_path}\n" in printed.stdout, "there is no config.toml: the folder decides"
    assert list(tmp_path.iterdir()) == []


def test_it_installs_enables_and_starts(tmp_path: Path) -> None:
    base, home = tmp_path / "room", tmp_path / "xdg"
    base.mkdir()
    path = fake_systemctl(tmp_path)
    done = darkroom(base, "service", "--user", "--install", PATH=path, XDG_CONFIG_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert "ExecStart=" in (home / "systemd/user/darkroom.service").read_text()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--user daemon-reload", "--user enable darkroom.service", "--user restart darkroom.service"]
    # What the unit opens must be there when it starts.
    assert sorted(entry.name for entry in base.iterdir()) == [
        *("duplicates", "failed", "inbox", "library", "state", "trash")
    ]
    assert "enable-linger" in done.stdout


def test_a_systemctl_that_fails_is_quoted(tmp_path: Path) -> None:
    path = fake_systemctl(tmp_path, code=1)
    done = darkroom(tmp_path, "service", "--user", "--install", PATH=path, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert done.returncode == 1
    assert "daemon-reload` failed: no such bus" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_systemctl_nothing_is_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = darkroom(tmp_path, "service", "--user", "--install", PATH=str(empty), XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert done.returncode == 1
    assert "no systemctl" in done.stderr
    assert not (tmp_path / "xdg").exists()


@as_root
def test_root_is_not_to_decode_images(tmp_path: Path) -> None:
    done = darkroom(tmp_path, "service")
    assert done.returncode == 2
    assert "--account NAME" in done.stderr


@as_root
def test_the_inboxs_owner_runs_it(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    shutil.chown(tmp_path / "inbox", "daemon")
    assert "\nUser=daemon\n" in darkroom(tmp_path, "service").stdout


@pytest.mark.parametrize("account", rest_slow(["nobody-has-this", "4294967290", "9" * 30], 1))
def test_an_account_that_is_not_there(tmp_path: Path, account: str) -> None:
    said = darkroom(tmp_path, "service", "--account", account)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith(f"darkroom: there is no account {account!r} on this machine: make one (sudo useradd")


def test_an_account_is_not_for_a_users_own_service(tmp_path: Path) -> None:
    assert darkroom(tmp_path, "service", "--user", "--account", "daemon").returncode == 2
