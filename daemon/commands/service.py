"""Prints the systemd unit; with --install writes, enables and starts it.

Installing makes the folders that are missing, and replaces a unit of that name; nothing else on disk is changed.
"""

import argparse
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from daemon.app import decoder_count
from daemon.config import Config
from daemon.errors import ConfigError, DarkroomError
from daemon.files.names import display
from daemon.files.state_folder import FOLDER_MODE
from daemon.phrases import system_words
from daemon.systemd.units import ENVIRONMENT_FILE, Flavour, is_offline, program, unit

_NAME = "darkroom.service"
# What systemctl may take: `restart` waits until darkroom has stopped and started.
_SECONDS = 120


def main(config: Config, args: argparse.Namespace) -> int:
    """Print the unit on standard output; with --install write, enable and start it."""
    flavour: Flavour = "user" if args.user else "system"
    if flavour == "user" and args.account:
        raise ConfigError("--account is for the system's service; one of a user runs as that user")
    file = config.file if config.file.is_file() else None
    account = (_known(args.account) if args.account else _owner(config)) if flavour == "system" else None
    namespaces = flavour == "system" or _user_namespaces()
    # A user's manager has no right to filter addresses.
    offline = flavour == "system" and _is_offline(config)
    text = unit(
        config,
        file,
        program(sys.argv[0]),
        flavour,
        account,
        namespaces=namespaces,
        offline=offline,
        decoders=decoder_count(config),
    )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = display(text[: error.end].splitlines()[-1])
        raise ConfigError(f"a unit is UTF-8, and this path is not, so rename the folder: {line}…") from None
    if not namespaces:
        print("this kernel gives users no namespaces, so the unit shuts darkroom in less", file=sys.stderr)
    if not args.install:
        print(text, end="")
        return 0
    _install(config, text, flavour, account)
    return 0


def _is_offline(config: Config) -> bool:
    """Return whether the system's unit can be cut off; its environment file may hold a key, too."""
    try:
        environment = ENVIRONMENT_FILE.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        environment = ""
    except OSError:
        # It is root's: whoever only prints the unit can't know what is in it.
        return False
    return is_offline(config, environment)


def _known(account: str) -> str:
    """Return an account that there is, by its name or number. Raises ConfigError."""
    try:
        return pwd.getpwuid(int(account)).pw_name if account.isdecimal() else pwd.getpwnam(account).pw_name
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(
            f"there is no account {account!r} on this machine: make one (sudo useradd --system --user-group {account}),"
            " or name another with --account"
        ) from None


def _owner(config: Config) -> str:
    """Return the account that the inbox belongs to: darkroom is to read and move its files."""
    inbox = config.folders.inbox
    there = next(place for place in (inbox, *inbox.parents) if place.exists())
    try:
        account = pwd.getpwuid(there.stat().st_uid).pw_name
    except KeyError:
        account = str(there.stat().st_uid)
    if account == "root":
        raise ConfigError(
            f"{there} belongs to root, and nothing should decode images as root:\n"
            "  give the folders to an account of their own (chown), or name one: darkroom service --account NAME"
        )
    return account


def _user_namespaces() -> bool:
    """Return whether a user's services can be shut in: some kernels and distributions forbid user namespaces."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    try:
        asked = subprocess.run(  # noqa: S603
            [unshare, "--user", "--map-root-user", "--mount", "true"], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _install(config: Config, text: str, flavour: Flavour, account: str | None) -> None:
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise DarkroomError("there is no systemctl here, so nothing was installed; `darkroom service` prints the unit")
    for name, folder in config.folders.items():
        _make(name, folder, account)
    file = _folder(flavour) / _NAME
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except PermissionError:
        raise DarkroomError(
            f"{file} can't be written: run this with sudo, or install for yourself with --user"
        ) from None
    except OSError as error:
        raise DarkroomError(f"{file} can't be written: {error.strerror}") from error
    print(f"wrote {file}")
    scope = ["--user"] if flavour == "user" else []
    # Restarted, not just started: a unit that runs already is to run as this text says.
    for words in (["daemon-reload"], ["enable", _NAME], ["restart", _NAME]):
        _systemctl([systemctl, *scope, *words])
    print("enabled and started; how it is: " + " ".join(["systemctl", *scope, "status darkroom"]))
    if flavour == "user":
        print("it starts when you log in; to have it start at boot: loginctl enable-linger")


def _make(name: str, folder: Path, account: str | None) -> None:
    """Make a folder that is missing, and what leads to it, for the account that is to use it.

    The unit opens these folders and no others, so they must be there when it starts.
    """
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make(f"what {name} is in", folder.parent, account)
    try:
        folder.mkdir(mode=FOLDER_MODE if name == "state" else 0o777)
        if account and os.geteuid() == 0:
            shutil.chown(folder, account)
    except (OSError, LookupError) as error:
        raise DarkroomError(
            f"[folders] {name}: {folder} can't be made for {account or 'you'}: {system_words(error)}"
        ) from error


def _folder(flavour: Flavour) -> Path:
    if flavour == "system":
        return Path("/etc/systemd/system")
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    try:
        return Path(home).expanduser() / "systemd" / "user"
    except RuntimeError:
        raise DarkroomError(f"there is no home folder for {home}: set XDG_CONFIG_HOME to where it is") from None


def _systemctl(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DarkroomError(f"`{' '.join(command)}` did not end within {_SECONDS} s") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise DarkroomError(f"`{' '.join(command)}` failed: {said}")
