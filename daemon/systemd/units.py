"""The systemd unit: what starts darkroom at boot, watches over it and shuts it in.

Two flavours: for the system, run as one account with the one capability that leases on others' files need; and for
a user's own manager, which has no privileges and shuts the service in by a user namespace, where the kernel lets it.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

import daemon
from daemon.config import KEY_NAMES, Config
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
# Decoders shut themselves in (by calls that no group of systemd 252 has), and let others go first (nice, ioprio).
SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp
SystemCallFilter=setpriority ioprio_set
SystemCallErrorNumber=EPERM
KeyringMode=private
# What darkroom makes in the library has the modes of the folders there, whatever this says; the rest is its own.
UMask=0077
"""
_NAMESPACES = """\
ProtectSystem=strict
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

_OFFLINE = """\
# Nothing is served to other machines, and neither captions nor hooks are set: so nothing else is reached, or reaches
# in. With a Gemini key, a hook or another host make this unit anew.
IPAddressDeny=any
IPAddressAllow=localhost
"""
# Where the secrets of the system's service may stand.
ENVIRONMENT_FILE = Path("/etc/darkroom.env")
# Connections, files on their way, and what the decoders are handed: a few hundred.
_DESCRIPTORS = 8192
# The program itself, and the page cache of what it copies, in megabytes.
_MEMORY_MB = 1024

# What ProtectHome and PrivateTmp hide.
_HOMES = tuple(Path(name) for name in ("/home", "/root", "/run/user"))
_HIDDEN = (*_HOMES, Path("/tmp"), Path("/var/tmp"))  # noqa: S108
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
    decoders: int = 1,
    offline: bool = False,
) -> str:
    """Return the unit's text.

    `file` is the configuration, None where there is none and the working directory decides. `account` is who
    runs the system flavour. `namespaces` False leaves out what a user's manager can't do without user namespaces.
    `decoders` is how many decode at a time, and `offline` says that darkroom need not reach any other machine.
    """
    folders = [path for _, path in config.folders.items()]
    writable = writable_paths(folders)
    command = [*started.command, "run", *(["--config", str(file)] if file else [])]
    secrets = f"-{ENVIRONMENT_FILE}" if flavour == "system" else "-%h/.config/darkroom.env"
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
        "# Wrong configuration: starting again would change nothing. Where another process has the folders (exit 1) it",
        "# may: that one ends some day.",
        "RestartPreventExitStatus=2",
        "WatchdogSec=120",
        "KillMode=mixed",
        "TimeoutStopSec=60",
        f"MemoryMax={memory_max(config.limits.decode_memory_mb, decoders)}M",
        "TasksMax=256",
        f"LimitNOFILE={_DESCRIPTORS}",
        "# A decoder that runs out of memory costs one image its attempt, not the service.",
        "OOMPolicy=continue",
        "",
        *_ANY.splitlines(),
        *(_OFFLINE.splitlines() if offline else []),
    ]
    if namespaces:
        lines += [*_capabilities(flavour), *_NAMESPACES.splitlines(), *_paths(config, file, started, writable, flavour)]
    target = "multi-user.target" if flavour == "system" else "default.target"
    return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])


def memory_max(decode_mb: int, decoders: int) -> int:
    """Return what the whole service may use, in megabytes: each decoder at its own limit, and the rest of it."""
    return decode_mb * decoders + _MEMORY_MB


def is_offline(config: Config, environment: str = "") -> bool:
    """Return whether darkroom has nothing to do with other machines: served here alone, without captions and hooks.

    `environment` is the text of the unit's environment file, in which a key may stand, too. A hook's command may call
    anybody.
    """
    has_key = config.gemini_key is not None or any(f"{name}=" in environment for name in KEY_NAMES)
    has_hook = bool(config.hooks.url or config.hooks.command)
    return not has_key and not has_hook and _is_local(config.web.host)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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


def _paths(
    config: Config, file: Path | None, started: Program, writable: Sequence[Path], flavour: Flavour
) -> list[str]:
    settings = [config.base / ".env", file or config.base / "config.toml"]
    read_only = [path for path in [*settings, *started.files] if _is_under(path, writable)]
    hidden = _outermost(path for path in [*settings, *started.files] if _is_under(path, _HIDDEN))
    # Empty homes, into which something can be bound, where there is anything to bind: else none at all.
    is_at_home = any(_is_under(path, _HOMES) for path in [*settings, *started.files, *writable])
    lines = [
        f"ProtectHome={'tmpfs' if is_at_home or flavour == 'user' else 'yes'}",
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
