"""The unit is one that systemd takes, that shuts the service in, and that lets it do its work."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon.config import Config, load
from daemon.systemd.units import Flavour, Program, is_offline, memory_max, program, unit, writable_paths

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


def exposure(tmp_path: Path, file: Path) -> int:
    """Return the score of `systemd-analyze security` in tenths: 0 is best, 100 worst."""
    scored = analyze(tmp_path, "security", "--offline=yes", "--no-pager", str(file))
    found = re.search(r"exposure level for \S+: (\d+)\.(\d)", scored.stdout)
    assert found is not None, scored.stdout + scored.stderr
    return int(found[1] + found[2])


@needs_systemd
@pytest.mark.parametrize("flavour", ["system", "user"])
@pytest.mark.parametrize("folder", ["plain", "a b%c$d'e\"f"])
@pytest.mark.parametrize("offline", [False, True])
def test_systemd_takes_the_unit_and_finds_it_safe(tmp_path: Path, flavour: Flavour, folder: str, offline: bool) -> None:
    made = config(tmp_path / folder)
    text = unit(made, made.file, PROGRAM, flavour, "daemon" if flavour == "system" else None, offline=offline)
    file = written(tmp_path, text)
    scope = ["--user"] if flavour == "user" else []
    verified = analyze(tmp_path, *scope, "verify", "--man=no", str(file))
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stderr
    if flavour == "user":
        # Offline, what names no user is taken for root's; a user's manager runs nothing as root.
        file.write_text(text.replace("[Service]\n", "[Service]\nUser=daemon\n"))
    assert exposure(tmp_path, file) <= (13 if offline else 14)


@needs_systemd
def test_what_lies_under_home_costs_a_tenth(tmp_path: Path) -> None:
    toml = '[folders]\ninbox = "/home/anna/Inbox"\nlibrary = "/home/anna/Pictures"\n'
    made = config(tmp_path / "room", toml)
    for offline, most in ((False, 15), (True, 13)):
        text = unit(made, made.file, PROGRAM, "system", "daemon", offline=offline)
        shutil.rmtree(tmp_path / "unit", ignore_errors=True)
        assert exposure(tmp_path, written(tmp_path, text)) <= most


@needs_systemd
def test_the_calls_that_decoders_need_to_shut_themselves_in_are_allowed(tmp_path: Path) -> None:
    made = config(tmp_path / "room")
    allowed: set[str] = set()
    for line in unit(made, made.file, PROGRAM, "system", "daemon").splitlines():
        key, _, words = line.partition("=")
        if key != "SystemCallFilter":
            continue
        calls = set().union(*(expanded(tmp_path, word) for word in words.removeprefix("~").split()))
        allowed = allowed - calls if words.startswith("~") else allowed | calls
    needed = {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "setpriority", "ioprio_set"}
    assert needed | {"seccomp", "prctl", "prlimit64"} <= allowed
    assert not allowed & {"mount", "ptrace", "reboot", "setrlimit", "sched_setscheduler", "bpf", "init_module"}


def expanded(tmp_path: Path, word: str) -> set[str]:
    """Return the calls of a group; a call stands for itself."""
    if not word.startswith("@"):
        return {word}
    listed = analyze(tmp_path, "syscall-filter", "--no-pager", word).stdout.splitlines()
    names = [line.strip() for line in listed if line.startswith("    ") and not line.strip().startswith("#")]
    return set().union(*(expanded(tmp_path, name) for name in names))


def test_memory_is_for_each_decoder(tmp_path: Path) -> None:
    assert memory_max(2048, 1) == 3072
    assert memory_max(2048, 4) == 9216
    made = config(tmp_path / "room", "[limits]\ndecode_memory_mb = 1000\n")
    assert "MemoryMax=4024M" in unit(made, None, PROGRAM, "user", decoders=3).splitlines()


@pytest.mark.parametrize(
    ("toml", "environ", "environment", "offline"),
    [
        ("", {}, "", True),
        ('[web]\nhost = "::1"', {}, "DARKROOM_TOKEN=x", True),
        ('[web]\nhost = "127.9.9.9"', {}, "", True),
        ('[web]\nhost = "localhost"', {}, "", True),
        ('[web]\nhost = "0.0.0.0"', {}, "", False),
        ('[web]\nhost = "nas.lan"', {}, "", False),
        ('[hooks]\nurl = "https://example.org/"', {}, "", False),
        ('[hooks]\ncommand = ["notify"]', {}, "", False),
        ("", {"GEMINI_API_KEY": "k"}, "", False),
        ("", {}, "X=1\nGOOGLE_API_KEY=k", False),
    ],
)
def test_it_is_cut_off_where_nothing_is_to_be_reached(
    tmp_path: Path, toml: str, environ: dict[str, str], environment: str, offline: bool
) -> None:
    (tmp_path / "config.toml").write_text(toml)
    made = load(tmp_path / "config.toml", environ)
    assert is_offline(made, environment) is offline
    lines = unit(made, made.file, PROGRAM, "system", "anna", offline=is_offline(made, environment)).splitlines()
    assert ("IPAddressDeny=any" in lines and "IPAddressAllow=localhost" in lines) is offline


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
    assert {"UMask=0077", "LimitNOFILE=8192", "ProtectHome=yes"} <= set(lines)
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
