"""The unit is one that systemd takes, that shuts the service in, and that lets it do its work."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.config import Config, load
from daemon.systemd.units import Flavour, Program, program, unit, writable_paths

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
PROGRAM = Program(("/usr/bin/env", "darkroom"), (Path("/usr/lib/darkroom"),))


def config(base: Path, toml: str = "") -> Config:
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.toml").write_text(toml)
    return load(base / "config.toml", {})


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "unit" / "darkroom.service"
    file.parent.mkdir()
    file.write_text(text)
    return file


def analyze(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["systemd-analyze", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        timeout=60,
        check=False,
    )


@needs_systemd
@pytest.mark.parametrize("flavour", ["system", "user"])
@pytest.mark.parametrize("folder", ["plain", "a b%c$d'e\"f"])
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path, flavour: Flavour, folder: str) -> None:
    made = config(tmp_path / folder)
    text = unit(made, made.file, PROGRAM, flavour, "daemon" if flavour == "system" else None)
    file = str(written(tmp_path, text))
    scope = ["--user"] if flavour == "user" else []
    verified = analyze(tmp_path, *scope, "verify", "--man=no", file)
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stderr
    # The score of a unit is the same for both managers; offline it needs neither.
    scored = analyze(tmp_path, "security", "--offline=yes", "--threshold=15", "--no-pager", file)
    assert scored.returncode == 0, scored.stdout[-300:] + scored.stderr


@needs_systemd
def test_without_user_namespaces_the_unit_is_still_one(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    text = unit(made, made.file, PROGRAM, "user", namespaces=False)
    assert "ProtectSystem" not in text
    assert "NoNewPrivileges=yes" in text
    assert analyze(tmp_path, "--user", "verify", "--man=no", str(written(tmp_path, text))).returncode == 0


def test_what_the_service_must_write_is_writable_and_nothing_else(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    lines = unit(made, made.file, PROGRAM, "system", "anna").splitlines()
    assert f"ReadWritePaths={tmp_path}/room" in lines
    assert f"ReadOnlyPaths=-{tmp_path}/room/config.toml" in lines
    assert f"ExecStart=/usr/bin/env darkroom run --config {tmp_path}/room/config.toml" in lines
    assert "User=anna" in lines
    assert {"Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2", "KillMode=mixed"} <= set(lines)
    assert {"AmbientCapabilities=CAP_LEASE", "MemoryDenyWriteExecute=yes", "ProtectSystem=strict"} <= set(lines)


def test_an_inbox_under_home_is_bound_into_the_empty_home(tmp_path: Path) -> None:
    toml = '[folders]\ninbox = "/home/anna/Inbox"\nlibrary = "/home/anna/Pictures"\n'
    lines = unit(config(tmp_path / "room", toml), None, PROGRAM, "system", "anna").splitlines()
    assert "ProtectHome=tmpfs" in lines
    assert {"BindPaths=/home/anna/Inbox", "BindPaths=/home/anna/Pictures"} <= set(lines)
    # Missing, it must keep the service from starting: what it filed into an empty home would be gone.
    assert not any(line.startswith("BindPaths=-") for line in lines)


def test_folders_of_one_filesystem_are_opened_as_one_so_that_links_work(tmp_path: Path) -> None:
    inside = [tmp_path / "photos" / name for name in ("inbox", "library")]
    assert writable_paths(inside) == [tmp_path / "photos"]


def test_a_folder_that_holds_much_else_is_not_opened_as_a_whole() -> None:
    apart = [Path("/srv/inbox"), Path("/srv/library")]
    assert writable_paths(apart) == apart
    own = [Path("/home/anna/Inbox"), Path("/home/anna/Pictures")]
    assert writable_paths(own) == own


def test_two_filesystems_are_opened_apart(tmp_path: Path) -> None:
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two filesystems")
    folders = [tmp_path / "room/inbox", tmp_path / "room/failed", Path("/dev/shm/darkroom/library")]
    assert writable_paths(folders) == [tmp_path / "room", Path("/dev/shm/darkroom/library")]
    made = config(tmp_path / "room", '[folders]\nlibrary = "/dev/shm/darkroom/library"\n')
    text = unit(made, made.file, PROGRAM, "system", "daemon")
    assert "ExecStartPre=+mountpoint -q /dev/shm\n" in text, "the start waits for the disk"
    if shutil.which("systemd-analyze"):
        verified = analyze(tmp_path, "verify", "--man=no", str(written(tmp_path, text)))
        assert (verified.returncode, verified.stderr) == (0, "")


def test_an_installed_command_is_started_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "darkroom"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert program(str(script)).command == (str(script),)
    assert program(str(script)).environment is None
