"""The systemd unit: what starts darkroom at boot, watches over it and shuts it in.

Two flavours: for the system, run as one account with the one capability that leases on others' files need; and for
a user's own manager, which has no privileges and shuts the service in by a user namespace, where the kernel lets it.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import daemon
from daemon.config import Config
from daemon.files.mounts import mount_point

Flavour = Literal["system", "user"]

_ANY = """\
NoNewPrivileges=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""
_NAMESPACES = """\
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RemoveIPC=yes
"""

# What ProtectHome and PrivateTmp hide.
_HIDDEN = tuple(Path(name) for name in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # noqa: S108
# Folders that hold far more than photos: never made writable as a whole.
_BROAD = frozenset(
    "/ /bin /boot /dev /etc /home /lib /media /mnt /opt /proc /root /run /run/media /srv /sys /tmp /usr /usr/local"
    " /var /var/lib /var/tmp /Volumes".split()
)


@dataclass(frozen=True)
class Program:
    """How darkroom is started, and the files that it is made of."""

    command: tuple[str, ...]
    files: tuple[Path, ...]
    environment: str | None = None


def unit(
    config: Config,
    file: Path | None,
    started: Program,
    flavour: Flavour,
    account: str | None = None,
    *,
    namespaces: bool = True,
) -> str:
    """Return the unit's text.

    `file` is the configuration, None where there is none and the working directory decides. `account` is who
    runs the system flavour. `namespaces` False leaves out what a user's manager can't do without user namespaces.
    """
    folders = [path for _, path in config.folders.items()]
    writable = writable_paths(folders)
    command = [*started.command, "run", *(["--config", str(file)] if file else [])]
    secrets = "-/etc/darkroom.env" if flavour == "system" else "-%h/.config/darkroom.env"
    lines = [
        "# Made by `darkroom service`; make it again when folders in config.toml change. Your own changes belong",
        f"# into a drop-in: systemctl {'--user ' if flavour == 'user' else ''}edit darkroom",
        "[Unit]",
        "Description=Darkroom, the image inbox",
        *(["After=local-fs.target remote-fs.target network.target"] if flavour == "system" else []),
        # A disk that is missing for hours must not make systemd give up.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={' '.join(_escaped(word, command=True) for word in command)}",
        *([] if file else [f"WorkingDirectory={_plain(config.base)}"]),
        *([f"Environment={_escaped(started.environment)}"] if started.environment else []),
        "# GEMINI_API_KEY=… and DARKROOM_TOKEN=…, one a line; read before privileges are dropped, so mode 0600 of root",
        "# will do. A .env beside config.toml works as well.",
        f"EnvironmentFile={secrets}",
        *([f"User={account}"] if account else []),
        *_mounted(folders),
        "Restart=on-failure",
        "RestartSec=5",
        "# Wrong configuration, or another darkroom at work: starting again would change nothing.",
        "RestartPreventExitStatus=2",
        "WatchdogSec=120",
        "KillMode=mixed",
        "TimeoutStopSec=60",
        f"MemoryMax={config.limits.decode_memory_mb + 1024}M",
        "TasksMax=256",
        "# A decoder that runs out of memory costs one image its attempt, not the service.",
        "OOMPolicy=continue",
        "",
        *_ANY.splitlines(),
    ]
    if namespaces:
        lines += [*_capabilities(flavour), *_NAMESPACES.splitlines(), *_paths(config, file, started, writable)]
    target = "multi-user.target" if flavour == "system" else "default.target"
    return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def program(argv0: str) -> Program:
    """Return the command that started this process, as one that systemd can start too."""
    package = Path(daemon.__file__).parent
    files = (Path(sys.prefix), Path(sys.base_prefix), package, package.parent / "web")
    for script in (Path(argv0).absolute(), Path(sys.prefix) / "bin" / "darkroom"):
        if script.name == "darkroom" and os.access(script, os.X_OK) and script.is_file():
            return Program((str(script),), (*files, script))
    # Started as `python -m daemon`, perhaps out of a checkout that is not installed.
    return Program((sys.executable, "-m", "daemon"), files, f"PYTHONPATH={package.parent}")


def _mounted(folders: Sequence[Path]) -> list[str]:
    """Return what has the start wait for the disks: in its namespace every writable path would look mounted."""
    points = sorted({mount_point(folder) for folder in folders} - {Path("/")})
    if not points:
        return []
    return [
        "# These disks must be there; until they are, systemd tries again.",
        *(f"ExecStartPre=+mountpoint -q {_escaped(point, command=True)}" for point in points),
    ]


def _capabilities(flavour: Flavour) -> list[str]:
    if flavour == "user":
        return [
            "PrivateUsers=yes",
            "CapabilityBoundingSet=",
            "# ProtectHome hides /run/user too, and in it the socket on which the manager waits for READY.",
            "BindReadOnlyPaths=%t/systemd/notify",
        ]
    return [
        "# Leases on files of other owners: the kernel then says whether a file is still being written.",
        "CapabilityBoundingSet=CAP_LEASE",
        "AmbientCapabilities=CAP_LEASE",
    ]


def _paths(config: Config, file: Path | None, started: Program, writable: Sequence[Path]) -> list[str]:
    settings = [config.base / ".env", file or config.base / "config.toml"]
    read_only = [path for path in [*settings, *started.files] if _is_under(path, writable)]
    hidden = _outermost(path for path in [*settings, *started.files] if _is_under(path, _HIDDEN))
    lines = [
        "# Folders on one filesystem are opened through a folder that they share where there is one: each by itself",
        "# would be a mount of its own, photos could not be linked between them, and each would be copied.",
        *(f"ReadWritePaths={_escaped(path)}" for path in writable),
        *(f"ReadOnlyPaths={_optional(path)}" for path in read_only),
    ]
    # Not optional: were one missing, darkroom would file photos into an empty folder that is gone at its end.
    lines += [f"BindPaths={_escaped(path, colon=True)}" for path in writable if _is_under(path, _HIDDEN)]
    seen = [path for path in hidden if not _is_under(path, writable)]
    return lines + [f"BindReadOnlyPaths={_optional(path, colon=True)}" for path in seen]


def writable_paths(folders: Sequence[Path]) -> list[Path]:
    """Return what must be writable: for folders of one filesystem what they share, unless that holds much else."""
    devices: dict[int, list[Path]] = {}
    for folder in folders:
        devices.setdefault(_device(folder), []).append(folder)
    chosen: list[Path] = []
    for device, group in devices.items():
        shared = Path(os.path.commonpath(group))
        chosen += [shared] if not _is_broad(shared) and _device(shared) == device else group
    return _outermost(chosen)


def _is_broad(path: Path) -> bool:
    return str(path) in _BROAD or path.parent == Path("/home") or path == Path.home()


def _device(path: Path) -> int:
    there = next(place for place in (path, *path.parents) if place.exists())
    return there.stat().st_dev


def _is_under(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether a path is, or lies in, one of some folders."""
    return any(path.is_relative_to(folder) for folder in folders)


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths without those that are given twice, or lie in another."""
    unique = list(dict.fromkeys(paths))
    return [path for path in unique if not _is_under(path, [other for other in unique if other != path])]


def _escaped(text: str | Path, *, command: bool = False, colon: bool = False) -> str:
    """Return a word quoted for a unit file: systemd.syntax(7), and in commands and binds what their keys add to it."""
    word = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    if command:
        word = word.replace("$", "$$")
    if colon:
        word = word.replace(":", "\\\\:")
    return word if all(c.isalnum() or c in "/._-=%+@," for c in word) else f'"{word}"'


def _optional(path: Path, *, colon: bool = False) -> str:
    """Return a path that need not be there, quoted."""
    word = _escaped(path, colon=colon)
    return f'"-{word[1:]}' if word.startswith('"') else f"-{word}"


def _plain(path: Path) -> str:
    """Return a path for a key that takes the whole line as it is."""
    return str(path).replace("%", "%%")
