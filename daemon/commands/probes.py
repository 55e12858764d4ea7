"""Probes of the folders: what filing does with files is done with a small one of Darkroom's own.

Each returns a finding for `darkroom doctor`, and leaves nothing in the folders.
"""

import os
import pwd
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.config import Config
from daemon.errors import DarkroomError
from daemon.files import atomic, opening
from daemon.files.mounts import filesystem, is_network
from daemon.files.walk import OWN_PREFIX
from daemon.health import Finding
from daemon.inbox.events import InboxEvents, advice

_BLOCK = b"darkroom" * 512
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
    probe = _probe_files(path)
    sweep(path)
    try:
        probe[0].write_bytes(_BLOCK)
        with probe[0].open("rb") as opened:
            os.fsync(opened.fileno())
            if opened.read() != _BLOCK:
                return Finding(name, f"{path} gives back other bytes than were written", "replace the disk")
        linked = _linked(probe[0], probe[1])
        atomic.rename_exclusive(probe[0], probe[2])
        probe[2].unlink()
    except OSError as error:
        return Finding(name, f"{path} can't be written: {error.strerror}", _right(path))
    finally:
        _remove(*probe)
    kind = filesystem(path) or "an unknown filesystem"
    return Finding(name, f"{path} on {kind}" + ("" if linked else ", without hard links: files are copied"))


def filing(config: Config) -> Finding:
    """Return whether photos go into the library by a link or by a copy; both are safe, a copy takes longer."""
    source, target = _probe_files(config.folders.inbox)[0], _probe_files(config.folders.library)[1]
    try:
        source.write_bytes(_BLOCK)
        linked = _linked(source, target)
    except OSError as error:
        return Finding("filing", f"a file can't go from inbox to library: {error.strerror}", "fix the folders above")
    finally:
        _remove(source, target)
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
    wake, probe = threading.Event(), _probe_files(inbox)[0]
    try:
        watch = InboxEvents(inbox, False, wake)
    except OSError as error:
        return Finding("events", "there can be none", f"{advice(error)}; until then the inbox is polled")
    try:
        probe.touch()
        deadline, came = time.monotonic() + _EVENT_SECONDS, False
        while not came and (left := deadline - time.monotonic()) > 0:
            wake.wait(left)
            wake.clear()
            came = probe.name in watch.take().files
    except OSError as error:
        return Finding("events", f"the inbox can't be written: {error.strerror}", _right(inbox))
    finally:
        watch.close()
        _remove(probe)
    if not came:
        return Finding("events", f"none came from {inbox}", 'set [inbox] observer = "polling" in config.toml')
    if is_network(kind := filesystem(inbox)):
        return Finding("events", f"they come; what other machines write on {kind} is found by polling")
    return Finding("events", "they come")


def leases(config: Config) -> Finding:
    """Return whether the kernel grants leases, by which a file that is still being written is known."""
    inbox, quiet = config.folders.inbox, config.inbox.settle_seconds
    probe = _probe_files(inbox)[0]
    try:
        probe.write_bytes(_BLOCK)
        granted = _granted(probe)
    except (OSError, DarkroomError) as error:
        return Finding("leases", f"could not be tried: {error}", _right(inbox))
    finally:
        _remove(probe)
    refused = _refused(inbox) if granted else None
    if granted and refused is None:
        return Finding("leases", "granted: a file that is still being written is never taken")
    what = f"none on files of other owners ({refused.name})" if refused else f"none on {filesystem(inbox)}"
    if quiet >= _QUIET_SECONDS:
        return Finding("leases", f"{what}; a file counts as complete once it is unchanged for {quiet:g} s")
    wait = f"set [inbox] settle_seconds to {_QUIET_SECONDS:g} or more"
    fix = f"let systemd run darkroom (darkroom service --install), which grants them, or {wait}" if granted else wait
    return Finding("leases", f"{what}, and {quiet:g} s without a change may be a pause in a slow copy", fix)


def clocks(config: Config) -> Finding | None:
    """Return how far the inbox's clock (a file server's, perhaps) is off from this machine's; None where they agree."""
    probe = _probe_files(config.folders.inbox)[0]
    try:
        before = time.time()
        probe.write_bytes(_BLOCK)
        skew = probe.stat().st_mtime - before
    except OSError:
        return None
    finally:
        _remove(probe)
    if abs(skew) < _SKEW_SECONDS:
        return None
    return Finding("clock", f"the inbox's server is {skew:+.0f} s off from this machine", "set both by NTP")


def sweep(folder: Path) -> None:
    """Remove what a doctor left that was killed; what can't be read or removed stays for the next time."""
    with suppress(OSError):
        for left in folder.glob(f"{OWN_PREFIX}doctor-*"):
            number = left.name.split("-")[2]
            if number.isdecimal() and not psutil.pid_exists(int(number)):
                _remove(left)


def _granted(path: Path) -> bool:
    fd = opening.open_regular(path)
    try:
        with opening.Lease(fd) as lease:
            # Held by a writer: then leases do tell.
            return lease.state is not opening.LeaseState.UNSUPPORTED
    finally:
        os.close(fd)


def _refused(inbox: Path) -> Path | None:
    """Return a file of another owner in the inbox itself on which no lease is granted; None where there is none."""
    with suppress(OSError), os.scandir(inbox) as entries:
        for entry in entries:
            # What can't be read at all shows nothing of leases.
            with suppress(OSError, DarkroomError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                    return None if _granted(Path(entry.path)) else Path(entry.path)
    return None


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        # Whatever the reason, filing would copy; what forbids writing too shows there.
        return False
    return True


def _probe_files(folder: Path) -> list[Path]:
    """Return the paths of three files that the watcher ignores."""
    return [folder / f"{OWN_PREFIX}doctor-{os.getpid()}-{number}" for number in range(3)]


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _right(path: Path) -> str:
    return f"give {_user()} the right to {path} (chown, chmod), or look whether its disk is full or mounted read-only"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
