"""Looks at the configuration, the catalogue and the machine."""

import sqlite3
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

import daemon
from daemon.catalogue import Catalogue
from daemon.catalogue.restoring import Restoring
from daemon.config import Config
from daemon.doctor import Finding
from daemon.errors import EnvironmentFault
from daemon.scan import subfolders, walk

_INOTIFY = Path("/proc/sys/fs/inotify")
# Other programs watch folders too.
_SHARE = 0.8


def configuration(config: Config) -> Finding:
    """Tell what was read, and whether others may read the secrets."""
    text = str(config.file) if config.file.is_file() else f"there is no {config.file}: all defaults"
    secrets = config.base / ".env"
    try:
        open_to_all = secrets.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except OSError:
        return Finding("configuration", text)
    if open_to_all:
        return Finding("configuration", f"{secrets} can be read by others than its owner", f"chmod 600 {secrets}")
    return Finding("configuration", f"{text}, secrets from {secrets}")


def catalogue(config: Config) -> Finding:
    """Run SQLite's own check."""
    file = config.folders.state / "darkroom.db"
    if not file.is_file():
        return _lost(config) or Finding("catalogue", "none yet: the first run makes it")
    try:
        opened = Catalogue(file)
        said = opened.check()
        if said == "ok" and not Restoring(opened).count() and (lost := _lost(config)):
            return lost
    except (EnvironmentFault, sqlite3.DatabaseError) as fault:
        said = str(fault)
    if said != "ok":
        mend = f"stop darkroom, move {file} away (and {file.name}-wal, {file.name}-shm), then: darkroom rebuild"
        return Finding("catalogue", said, mend)
    return Finding("catalogue", f"{file} is sound")


def _lost(config: Config) -> Finding | None:
    """Tell a library whose catalogue was lost: left alone, its photos would be filed beside once more."""
    library = config.folders.library
    if not library.is_dir() or next(walk(library, config.inbox.ignore, recursive=True), None) is None:
        return None
    text = "the library holds files, and no image is in the catalogue"
    return Finding("catalogue", text, "if they were filed by darkroom: stop it, then darkroom rebuild")


def watches(config: Config, limits: Path = _INOTIFY) -> Finding:
    """Compare the folders that are to be watched with what the kernel allows."""
    try:
        allowed = int((limits / "max_user_watches").read_text())
    except (OSError, ValueError):
        return Finding("inotify", "this system has no such limit")
    if config.inbox.observer == "polling":
        return Finding("inotify", "not used")
    wanted = _folders(config.folders.inbox) if config.inbox.recursive else 1
    text = f"{wanted:,} folders to watch, {allowed:,} allowed"
    if wanted <= allowed * _SHARE:
        return Finding("inotify", text)
    more = max(524_288, 2 * wanted)
    line = f"fs.inotify.max_user_watches={more}"
    return Finding("inotify", text, f"sudo sysctl {line}; for good: echo {line} | sudo tee /etc/sysctl.d/darkroom.conf")


def _folders(inbox: Path) -> int:
    return 1 + sum(1 for _ in subfolders(inbox))


def clock(now: float | None = None) -> Finding:
    """Tell a clock that nobody has set: it is earlier than this program."""
    now = time.time() if now is None else now
    made = Path(daemon.__file__).stat().st_mtime
    text = datetime.fromtimestamp(now, UTC).astimezone().isoformat(" ", "seconds")
    # A day: the program may have been unpacked in another time zone.
    if now < made - 86_400:
        return Finding(
            "clock", f"it says {text}, before this program was made", "set it: sudo timedatectl set-ntp true"
        )
    return Finding("clock", text)
