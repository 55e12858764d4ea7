"""Turns watchdog's events into paths that are to be looked at; the only importer of watchdog.

watchdog's threads do nothing here but write a path down and wake the watcher: an exception or a wait in a handler
would stop the events of the whole inbox.
"""

import errno
import logging
import os
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

logger = logging.getLogger(__name__)

# Not closed alone: a move or link makes none, and in new folders it is often missing. Not opened or deleted: our
# own reading and filing would make them.
_WANTED: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileClosedEvent, FileMovedEvent),
    *(DirCreatedEvent, DirMovedEvent),
]
_MOST = 50_000


@dataclass
class PendingEvents:
    """Paths, relative to the inbox, that somebody should look at; `lost` says that there were more.

    The renames are in order. They are applied before the files are looked at, whatever came between.
    """

    files: dict[str, None] = field(default_factory=dict)
    folders: dict[str, None] = field(default_factory=dict)
    renames: list[tuple[str, str]] = field(default_factory=list)
    lost: bool = False


class InboxEvents(FileSystemEventHandler):
    """A watch on the inbox, from construction to `close`; sets `wake` when there are some to `take`."""

    def __init__(self, inbox: Path, recursive: bool, wake: threading.Event) -> None:
        """Begin to watch; raises OSError, for which `advice` has words."""
        # watchdog would watch a link itself, not the folder behind it.
        self._root = os.path.realpath(inbox)
        self._wake = wake
        self._lock = threading.Lock()
        self._pending = PendingEvents()
        self._broken = self._rootless = False
        # A race of folders warns with the repr of its whole table, which may be megabytes.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.observers")
        self._observer = Observer()
        self._watchdog_log = _WatchdogLog(self)
        try:
            self._observer.schedule(self, self._root, recursive=recursive, event_filter=_WANTED)
            self._observer.start()
        except BaseException:
            self.close()  # its reading thread has been running, and holding descriptors, since it was made
            raise

    def dispatch(self, event: FileSystemEvent) -> None:
        """Write an event down."""
        try:
            self._note(event)
        except Exception:
            logger.exception("an event could not be noted: %r", event)
            self.lose()

    def take(self) -> PendingEvents:
        """Hand over all that have come so far."""
        with self._lock:
            pending, self._pending = self._pending, PendingEvents()
        return pending

    def lose(self, *, broken: bool = False) -> None:
        """Note that events were lost, or that the watch itself is broken."""
        with self._lock:
            self._pending.lost = True
            self._broken = self._broken or broken
        self._wake.set()

    def intact(self) -> bool:
        """Return whether events can still arrive; cheap enough for every second."""
        observer = self._observer
        if self._broken or not observer.is_alive() or not all(one.is_alive() for one in observer.emitters):
            return False
        # Two deaths have no public sign: that of the reading thread (a KeyError, when a folder that was moved away
        # is deleted), and that of the root's watch in the kernel (an unmount, though it be mounted again).
        reader = getattr(observer, "_inotify_fd", None)
        if reader is not None and not reader.is_alive():
            return False
        groups = [getattr(one, "_inotify", None) for one in observer.emitters]
        tables = [getattr(group, "_active_callbacks_by_path", None) for group in groups]
        rootless = any(table is not None and os.fsencode(self._root) not in table for table in tables)
        # After an overflow the table is empty for a moment while it is built anew: two looks in a row count.
        lost, self._rootless = rootless and self._rootless, rootless
        return not lost

    def close(self) -> None:
        """End the watch."""
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join()
        self._watchdog_log.close()

    def _note(self, event: FileSystemEvent) -> None:
        source, target = self._relative(event.src_path), self._relative(event.dest_path)
        path = target if isinstance(event, FileMovedEvent | DirMovedEvent) else source
        if path is None:
            return
        with self._lock:
            if isinstance(event, DirCreatedEvent | DirMovedEvent):
                self._pending.folders[path] = None
            elif isinstance(event, FileMovedEvent | FileCreatedEvent | FileClosedEvent):
                self._pending.files[path] = None
            if isinstance(event, FileMovedEvent | DirMovedEvent) and source is not None:
                self._pending.renames.append((source, path))
            if len(self._pending.files) + len(self._pending.renames) > _MOST:
                self._pending = PendingEvents(lost=True)  # a scan costs less than to remember more
        self._wake.set()

    def _relative(self, path: bytes | str) -> str | None:
        prefix = self._root.rstrip("/") + "/"
        text = os.fsdecode(path)
        return text.removeprefix(prefix) if text.startswith(prefix) else None


class _WatchdogLog(logging.Handler):
    """Reads in watchdog's log what it reports nowhere else: that the kernel's queue overflowed."""

    _LOG = logging.getLogger("watchdog.observers")

    def __init__(self, events: InboxEvents) -> None:
        super().__init__()
        self._events = events
        self._LOG.addHandler(self)
        self._LOG.propagate = False
        # Whatever level the program logs at: a warning that is filtered out would not be heard.
        self._LOG.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        logger.debug("watchdog says: %s", text)
        if "overflow" in text:
            self._events.lose()
        elif "Unable to rebuild" in text:
            self._events.lose(broken=True)

    def close(self) -> None:
        self._LOG.removeHandler(self)
        self._LOG.propagate = not self._LOG.handlers
        super().close()


def advice(error: OSError) -> str:
    """Return why there can be no events, and how to fix that."""
    if error.errno == errno.ENOSPC:
        return _limit("max_user_watches", 524_288)
    if error.errno == errno.EMFILE:
        try:
            os.close(os.open("/", os.O_RDONLY))
        except OSError:
            return "this process may not open more files (see `ulimit -n`)"
        return _limit("max_user_instances", 1024)
    return f"no events can be had: {error.strerror or error}"


def _limit(name: str, least: int) -> str:
    try:
        now = int(Path("/proc/sys/fs/inotify", name).read_text())
    except (OSError, ValueError):
        now = 0
    more = max(2 * now, least)
    return f"the kernel's limit fs.inotify.{name}={now} is reached (raise it: `sysctl fs.inotify.{name}={more}`)"
