"""Wires the parts together, starts them and stops them."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from daemon import disk
from daemon.captions.loop import Captioner
from daemon.captions.progress import Progress, progress
from daemon.captions.settings import Live
from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.memory import Memory
from daemon.catalogue.reports import Reports
from daemon.catalogue.sidecars import SidecarRows
from daemon.config import Config
from daemon.consumer import Consumer, Patience
from daemon.develop import Limits
from daemon.develop.sandbox import Sandbox
from daemon.errors import ConfigError
from daemon.filing import recovery
from daemon.filing.pairing import Pairing
from daemon.filing.prune import Pruner
from daemon.filing.steps import Filing
from daemon.folders import Folders
from daemon.hooks.loop import Hooks
from daemon.scan import Found
from daemon.sidecar.store import Sidecars
from daemon.systemd.heartbeat import Pulse
from daemon.thumbnails import Thumbnails
from daemon.watcher.loop import Watcher

_log = logging.getLogger(__name__)

_PRUNE_SECONDS = 10.0
# What `stop` grants the image in hand before its child process is killed and it goes back into the queue.
_GRACE_SECONDS = 5.0


def open_catalogue(config: Config) -> Catalogue:
    """Open the database in the state folder, making both where there are none yet. Raises ConfigError."""
    state = config.folders.state
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the state folder {state} can't be made: {error.strerror}") from error
    return Catalogue(state / "darkroom.db")


def prepare(config: Config, memory: Memory) -> None:
    """Make the folders that are missing. Raises ConfigError with all that can't be used, a line each.

    A folder in which the catalogue expects files is not made anew: its disk is not mounted, and the queue pauses.
    """
    faults = []
    for name, folder in config.folders.items():
        try:
            if not folder.is_dir() and memory.expected(name) is None:
                disk.make_path(folder)
        except OSError as error:
            faults.append(f"[folders] {name}: {folder} can't be made: {error.strerror}")
            continue
        if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            faults.append(f"[folders] {name}: {folder} can't be written")
    if faults:
        raise ConfigError("\n  ".join(["the folders can't be used", *faults]))


def roots(config: Config) -> dict[Place, Path]:
    """Give the folders that files go to, by the name under which a row knows them."""
    return {
        "library": config.folders.library,
        "duplicates": config.folders.duplicates,
        "failed": config.folders.failed,
    }


class Service:
    """One running darkroom: the watcher, the consumer and the child process in which images are developed."""

    def __init__(self, config: Config, catalogue: Catalogue, *, once: bool = False) -> None:
        self.config = config
        self.catalogue = catalogue
        self.queue = Queue(catalogue)
        self.reports = Reports(catalogue)
        folders, limits = config.folders, config.limits
        self.thumbnails = Thumbnails(folders.state / "thumbnails")
        self.sandbox = Sandbox(
            Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb)
        )
        settle = config.inbox.settle_seconds
        self.pruner = Pruner(folders.inbox, settle if once else max(_PRUNE_SECONDS, settle))
        memory = Memory(catalogue)
        self.sidecars = Sidecars(SidecarRows(catalogue), folders.library, enabled=config.filing.sidecars)
        self.captions = Captions(catalogue)
        self.captioner = Captioner(
            self.captions, memory, self.thumbnails, self.sidecars, Live(config), session=catalogue.session
        )
        beside = CompanionRows(catalogue)
        self.filing = Filing(
            self.queue,
            roots(config),
            config.filing.template,
            self.thumbnails,
            self.pruner.note,
            delete_duplicates=config.filing.duplicates == "delete",
            sidecars=self.sidecars,
            beside=beside,
            caption_status=self.captioner.status_for,
        )
        self.pairing = Pairing(
            beside, self.filing, roots(config), delete_duplicates=config.filing.duplicates == "delete"
        )
        self.consumer = Consumer(
            folders.inbox,
            catalogue,
            self.queue,
            Folders(dict(folders.items()), memory, memory.expected, limits.min_free_mb),
            self.sandbox,
            self.filing,
            self.pruner,
            Patience(settle, limits.attempts),
            self.pairing,
        )
        self.watcher = Watcher(
            folders.inbox,
            _Inlet(self.queue, catalogue),
            ignore=config.inbox.ignore,
            recursive=config.inbox.recursive,
            observer=config.inbox.observer,
            rescan_seconds=config.inbox.rescan_seconds,
        )
        self.hooks = Hooks(config.hooks, catalogue, roots(config))
        self._loop = threading.Thread(target=self.consumer.run, name="consumer")

    def start(self) -> None:
        """Start all parts; returns at once."""
        recovery.sweep_uploads(self.config.folders.inbox)
        self.sandbox.start()
        self._loop.start()
        self.watcher.start()
        self.captioner.start()
        self.hooks.start()

    def captions_progress(self) -> Progress:
        """Tell how far the captions are and when they will be done."""
        return progress(self.captions, Memory(self.catalogue), self.captioner.settings, time.time())

    def health(self) -> dict[str, tuple[bool, str]]:
        """Tell of each part whether it is well, and how it is, for people."""
        watcher = self.watcher.state
        pulse = Pulse(self.watcher, self.consumer, self.queue, self.config.limits.decode_seconds)
        stuck = pulse.fault() if self._loop.is_alive() else "the consumer has ended"
        captions = "on" if self.captioner.settings.key else "off"
        return {
            "watcher": (self.watcher.alive() and watcher.healthy, watcher.problem or watcher.reason or watcher.mode),
            "consumer": (not (stuck or self.consumer.paused), stuck or self.consumer.paused or "working"),
            "captioner": (self.captioner.alive(), captions if self.captioner.alive() else "has ended"),
        }

    def stop(self) -> None:
        """Finish the image in hand, or put it back if that takes too long, and stop all parts."""
        self.consumer.stop()
        self.watcher.stop()
        self.captioner.stop()
        self.hooks.stop()
        if self._loop.ident is not None:
            self._loop.join(_GRACE_SECONDS)
            if self._loop.is_alive():
                _log.info("the image in hand takes long; it goes back into the queue")
                self.sandbox.abort()
                self._loop.join()
        self.sandbox.close()


class _Inlet:
    """The queue as the watcher sees it."""

    def __init__(self, queue: Queue, catalogue: Catalogue) -> None:
        self._queue = queue
        self._catalogue = catalogue

    def enqueue(self, files: Sequence[Found]) -> list[str]:
        # The watcher's thread keeps its connection: opening one costs more than the insert.
        self._catalogue.hold()
        return self._queue.enqueue(files, time.time())

    def rename(self, old: str, new: str) -> None:
        self._queue.rename(old, new)
