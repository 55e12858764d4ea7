"""Tries out the folders: what filing does with files is done with a small one of our own."""

import os
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
# How long a file must be left alone, where nothing better tells, for a slow network not to look like an end.
_QUIET_SECONDS = 10.0
_SKEW_SECONDS = 5.0


def folders(config: Config) -> Iterator[Finding]:
    """Write, link, rename and delete in each folder; one that is missing before the first run is no fault."""
    fresh = not (config.folders.state / "darkroom.db").is_file()
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
    """Do in one folder what filing does."""
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "is not there"
        return Finding(
            name, f"{path} {what}", f"mount its disk, make it (mkdir -p {path}), or name another in config.toml"
        )
    probe = _names(path)
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
    """Tell whether photos go into the library by a link or by a copy; both are safe, a copy takes longer."""
    source, target = _names(config.folders.inbox)[0], _names(config.folders.library)[1]
    try:
        source.write_bytes(_BLOCK)
        linked = _linked(source, target)
    except OSError as error:
        return Finding("filing", f"a file can't go from inbox to library: {error.strerror}", "mend the folders above")
    finally:
        _remove(source, target)
    how = "by link, at once" if linked else "by copy: they are on different filesystems or mounts"
    return Finding("filing", f"from inbox to library {how}")


def space(config: Config) -> Iterator[Finding]:
    """Compare the free space of each filesystem with min_free_mb."""
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
    """Make a file in the inbox and listen whether the kernel tells of it."""
    inbox = config.folders.inbox
    if config.inbox.observer == "polling":
        return Finding("events", "not asked for: the inbox is looked through at short intervals")
    wake, canary = threading.Event(), _names(inbox)[0]
    try:
        listening = InboxEvents(inbox, False, wake)
    except OSError as error:
        return Finding("events", "there can be none", f"{advice(error)}; until then the inbox is polled")
    try:
        canary.touch()
        deadline, heard = time.monotonic() + _EVENT_SECONDS, False
        while not heard and (left := deadline - time.monotonic()) > 0:
            wake.wait(left)
            wake.clear()
            heard = canary.name in listening.take().files
    except OSError as error:
        return Finding("events", f"the inbox can't be written: {error.strerror}", _right(inbox))
    finally:
        listening.close()
        _remove(canary)
    if not heard:
        return Finding("events", f"none came from {inbox}", 'set [inbox] observer = "polling" in config.toml')
    if is_network(kind := filesystem(inbox)):
        return Finding("events", f"they come; what other machines write on {kind} is found by polling")
    return Finding("events", "they come")


def leases(config: Config) -> Finding:
    """Ask the kernel for a lease, which tells whether a file is still being written."""
    inbox, quiet = config.folders.inbox, config.inbox.settle_seconds
    probe = _names(inbox)[0]
    try:
        probe.write_bytes(_BLOCK)
        granted = _granted(probe)
    except (OSError, DarkroomError) as error:
        return Finding("leases", f"could not be tried: {error}", _right(inbox))
    finally:
        _remove(probe)
    foreign = _foreign(inbox)
    if granted and (foreign is None or _granted(foreign)):
        return Finding("leases", "granted: a file that is still being written is never taken")
    what = f"none on files of other owners ({foreign.name})" if granted and foreign else f"none on {filesystem(inbox)}"
    if quiet >= _QUIET_SECONDS:
        return Finding("leases", f"{what}; a file counts as complete once it is unchanged for {quiet:g} s")
    wait = f"set [inbox] settle_seconds to {_QUIET_SECONDS:g} or more"
    fix = f"let systemd run darkroom (darkroom service --install), which grants them, or {wait}" if granted else wait
    return Finding("leases", f"{what}, and {quiet:g} s without a change may be a pause in a slow copy", fix)


def clocks(config: Config) -> Finding | None:
    """Compare the inbox's clock (a file server's, perhaps) with this machine's; None where they agree."""
    probe = _names(config.folders.inbox)[0]
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


def _granted(path: Path) -> bool:
    fd = opening.open_regular(path)
    try:
        with opening.Lease(fd) as lease:
            # Held by a writer: then leases do tell.
            return lease.state is not opening.LeaseState.UNSUPPORTED
    finally:
        os.close(fd)


def _foreign(inbox: Path) -> Path | None:
    """Find a file of another owner in the inbox itself; those are the ones that a lease may be refused on."""
    with os.scandir(inbox) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                    return Path(entry.path)
    return None


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        # Whatever the reason, filing would copy; what forbids writing too shows there.
        return False
    return True


def _names(folder: Path) -> list[Path]:
    """Name three files that the watcher takes for none of its business."""
    return [folder / f"{OWN_PREFIX}doctor-{os.getpid()}-{number}" for number in range(3)]


def sweep(folder: Path) -> None:
    """Remove what a doctor left that was killed; what can't be looked at or removed stays for the next time."""
    with suppress(OSError):
        for left in folder.glob(f"{OWN_PREFIX}doctor-*"):
            number = left.name.split("-")[2]
            if number.isdecimal() and not psutil.pid_exists(int(number)):
                _remove(left)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _right(path: Path) -> str:
    return f"give {_user()} the right to {path} (chown, chmod), or look whether its disk is full or mounted read-only"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
