"""Probes of the folders: what filing does with files is done with a small one of Darkroom's own.

Each returns a finding for `darkroom doctor`, and leaves nothing in the folders.
"""

import os
import pwd
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from daemon.config import Config
from daemon.errors import DarkroomError
from daemon.files import atomic, opening
from daemon.files.atomic import Entry, Root
from daemon.files.mounts import filesystem, is_network
from daemon.files.names import OWN_PREFIX
from daemon.health import Finding
from daemon.inbox.events import InboxEvents, advice

_BLOCK = b"darkroom" * 512
_PREFIX = f"{OWN_PREFIX}doctor-"
_EVENT_SECONDS = 2.0
# How long a file must be left alone, where nothing better is known, for a slow network not to look like an end.
_QUIET_SECONDS = 10.0
_SKEW_SECONDS = 5.0


def folders(config: Config) -> Iterator[Finding]:
    """Yield whether each folder can be used; one that is missing before the first run is no fault."""
    fresh = not config.catalogue_file.is_file()
    for name, path in config.folders.items():
        if fresh and not os.path.lexists(path):
            yield Finding(name, f"{path} is made by the first run")
            continue
        try:
            yield folder(name, path)
        except OSError as error:
            yield Finding(name, f"{path} does not answer: {error.strerror}", "look at its disk or share")
    if atomic.is_folder(config.folders.inbox) and atomic.is_folder(config.folders.library):
        yield filing(config)


def folder(name: str, path: Path) -> Finding:
    """Return whether one folder can be used: writes, links, renames and deletes there, as filing does."""
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "is not there"
        return Finding(
            name, f"{path} {what}", f"mount its disk, make it (mkdir -p {path}), or name another in config.toml"
        )
    sweep(path)
    try:
        with _probe(path) as first, _probe(path) as second, _probe(path) as third:
            _write(first)
            fd = first.open()
            with os.fdopen(fd, "rb") as opened:
                os.fsync(fd)
                if opened.read() != _BLOCK:
                    return Finding(name, f"{path} gives back other bytes than were written", "replace the disk")
            linked = _linked(first, second)
            atomic.rename_exclusive(first, third)
            third.unlink()
    except OSError as error:
        return Finding(name, f"{path} can't be written: {error.strerror}", _right(path))
    kind = filesystem(path) or "an unknown filesystem"
    return Finding(name, f"{path} on {kind}" + ("" if linked else ", without hard links: files are copied"))


def filing(config: Config) -> Finding:
    """Return whether photos go into the library by a link or by a copy; both are safe, a copy takes longer."""
    try:
        with _probe(config.folders.inbox) as source:
            _write(source)
            linked = False
            # A library that can't be reached is told above.
            with suppress(OSError), _probe(config.folders.library) as target:
                linked = _linked(source, target)
    except OSError as error:
        return Finding("filing", f"a file can't go from inbox to library: {error.strerror}", "fix the folders above")
    how = "by link, at once" if linked else "by copy: they are on different filesystems or mounts"
    return Finding("filing", f"from inbox to library {how}")


def space(config: Config) -> Iterator[Finding]:
    """Yield how much room each filesystem has, compared with min_free_mb."""
    devices: dict[int, list[str]] = {}
    paths = dict(config.folders.items())
    for name, path in paths.items():
        with suppress(OSError):
            devices.setdefault(path.stat().st_dev, []).append(name)
    for names in devices.values():
        try:
            free = shutil.disk_usage(paths[names[0]]).free // 1_000_000
        except OSError as error:
            yield Finding("space", f"{paths[names[0]]} does not answer: {error.strerror}", "look at its disk or share")
            continue
        text = f"{free:,} MB free for {', '.join(names)}"
        wanted = config.limits.min_free_mb
        fix = f"make room, or lower min_free_mb ({wanted})" if free < wanted else None
        yield Finding("space", text, fix)


def events(config: Config) -> Finding:
    """Return whether the kernel sends an event for a file that is made in the inbox."""
    inbox = config.folders.inbox
    if config.inbox.observer == "polling":
        return Finding("events", "not asked for: the inbox is looked through at short intervals")
    wake = threading.Event()
    try:
        watch = InboxEvents(inbox, False, wake)
    except OSError as error:
        return Finding("events", "there can be none", f"{advice(error)}; until then the inbox is polled")
    try:
        with _probe(inbox) as probe:
            _write(probe)
            deadline, came = time.monotonic() + _EVENT_SECONDS, False
            while not came and (left := deadline - time.monotonic()) > 0:
                wake.wait(left)
                wake.clear()
                came = probe.name in watch.take().files
    except OSError as error:
        return Finding("events", f"the inbox can't be written: {error.strerror}", _right(inbox))
    finally:
        watch.close()
    if not came:
        return Finding("events", f"none came from {inbox}", 'set [inbox] observer = "polling" in config.toml')
    if is_network(kind := filesystem(inbox)):
        return Finding("events", f"they come; what other machines write on {kind} is found by polling")
    return Finding("events", "they come")


def leases(config: Config) -> Finding:
    """Return whether the kernel grants leases, by which a file that is still being written is known."""
    inbox, quiet = config.folders.inbox, config.inbox.settle_seconds
    try:
        with _probe(inbox) as probe:
            _write(probe)
            granted = _granted(probe)
    except (OSError, DarkroomError) as error:
        return Finding("leases", f"could not be tried: {error}", _right(inbox))
    refused = _refused(inbox) if granted else None
    if granted and refused is None:
        return Finding("leases", "granted: a file that is still being written is never taken")
    what = f"none on files of other owners ({refused})" if refused else f"none on {filesystem(inbox)}"
    if quiet >= _QUIET_SECONDS:
        return Finding("leases", f"{what}; a file counts as complete once it is unchanged for {quiet:g} s")
    wait = f"set [inbox] settle_seconds to {_QUIET_SECONDS:g} or more"
    fix = f"let systemd run darkroom (darkroom service --install), which grants them, or {wait}" if granted else wait
    return Finding("leases", f"{what}, and {quiet:g} s without a change may be a pause in a slow copy", fix)


def clocks(config: Config) -> Finding | None:
    """Return how far the inbox's clock (a file server's, perhaps) is off from this machine's; None where they agree."""
    try:
        with _probe(config.folders.inbox) as probe:
            before = time.time()
            _write(probe)
            skew = probe.lstat().st_mtime - before
    except OSError:
        return None
    if abs(skew) < _SKEW_SECONDS:
        return None
    return Finding("clock", f"the inbox's server is {skew:+.0f} s off from this machine", "set both by NTP")


def sweep(folder: Path) -> None:
    """Remove what a doctor left that was killed; what can't be read or removed stays for the next time."""
    for left in _left_in(folder):
        number = left.name.split("-")[2]
        # OverflowError: a number that no process can have.
        with suppress(OSError, OverflowError), left:
            if number.isdecimal() and not psutil.pid_exists(int(number)):
                left.unlink()


def _left_in(folder: Path) -> Iterator[Entry]:
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*-*"):
            with suppress(OSError):
                yield (Root(folder) / path.name).entry()


def _granted(probe: Entry) -> bool:
    fd = opening.open_regular(probe)
    try:
        with opening.Lease(fd) as lease:
            # Held by a writer: then leases work here.
            return lease.state is not opening.LeaseState.UNSUPPORTED
    finally:
        os.close(fd)


def _refused(inbox: Path) -> str | None:
    """Return a file of another owner in the inbox itself on which no lease is granted; None where there is none."""
    with suppress(OSError), os.scandir(inbox) as entries:
        for entry in entries:
            # What can't be read at all shows nothing of leases.
            with suppress(OSError, DarkroomError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                    with (Root(inbox) / entry.name).entry() as file:
                        return None if _granted(file) else entry.name
    return None


def _linked(source: Entry, target: Entry) -> bool:
    try:
        os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)
    except OSError:
        # Whatever the reason, filing would copy; what forbids writing too shows there.
        return False
    return True


@contextmanager
def _probe(folder: Path) -> Iterator[Entry]:
    """Open a folder, and give a name there that the watcher ignores and nobody can foretell; it is removed then."""
    with (Root(folder) / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}").entry() as probe:
        try:
            yield probe
        finally:
            with suppress(OSError):
                probe.unlink()


def _write(probe: Entry) -> None:
    with probe.create() as file:
        file.write(_BLOCK)


def _right(path: Path) -> str:
    return f"give {_user()} the right to {path} (chown, chmod), or look whether its disk is full or mounted read-only"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
