"""Wires the parts together, starts them and stops them."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from daemon.captions.captioner import Captioner
from daemon.captions.limits import CaptionProgress, progress
from daemon.captions.settings import LiveSettings
from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.catalogue.companions import CompanionRows, SidecarRows
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.config import Config
from daemon.decoding import Limits
from daemon.decoding.sandbox import Sandbox
from daemon.errors import ConfigError, EnvironmentFault
from daemon.files import atomic
from daemon.files.mounts import FolderCheck
from daemon.files.walk import Found
from daemon.filing import recovery
from daemon.filing.cleanup import Cleanup
from daemon.filing.companions import CompanionFiling
from daemon.filing.consumer import Consumer, RetryPolicy
from daemon.filing.filing import Filing
from daemon.filing.recovery import Requeue
from daemon.filing.thumbnail_store import Thumbnails
from daemon.health import Faults, Pulse, parts
from daemon.hooks import Hooks
from daemon.inbox.watcher import Watcher
from daemon.loop import Loop
from daemon.sidecar.sidecars import Sidecars

_log = logging.getLogger(__name__)

_CLEANUP_SECONDS = 10.0
# What `stop` grants the image in hand before its child process is killed and it goes back into the queue.
_GRACE_SECONDS = 5.0
# How long a copy to a slow disk may take then, before the process ends without it.
_HUNG_SECONDS = 10.0


def open_catalogue(config: Config) -> Catalogue:
    """Open the database in the state folder, making both where there are none yet.

    Raises ConfigError, EnvironmentFault.
    """
    state = config.folders.state
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in atomic.UNREACHABLE:
            raise EnvironmentFault(f"the state folder {state} does not answer: {error.strerror}") from error
        raise ConfigError(f"the state folder {state} can't be made: {error.strerror}") from error
    return Catalogue(state / "darkroom.db")


def prepare(config: Config, stored: Settings) -> None:
    """Make the folders that are missing. Raises ConfigError with all that can't be used, a line each.

    A folder in which the catalogue expects files is not made anew: its disk is not mounted, and the queue pauses. So
    it does for one on a share that does not answer at the moment.
    """
    faults = []
    for name, folder in config.folders.items():
        try:
            is_there = folder.is_dir()
            if not is_there and stored.expected(name) is None:
                atomic.make_path(folder)
                is_there = True
        except OSError as error:
            if error.errno in atomic.UNREACHABLE:
                _log.warning("the %s folder %s does not answer: %s; it is waited for", name, folder, error.strerror)
            else:
                faults.append(f"[folders] {name}: {folder} can't be made: {error.strerror}")
            continue
        if is_there and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
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
        self.statistics = Statistics(catalogue)
        folders, limits = config.folders, config.limits
        self.thumbnails = Thumbnails(folders.state / "thumbnails")
        self.sandbox = Sandbox(
            Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb)
        )
        settle = config.inbox.settle_seconds
        self.cleanup = Cleanup(folders.inbox, settle if once else max(_CLEANUP_SECONDS, settle))
        stored = Settings(catalogue)
        self.faults = Faults(stored)
        self.sidecars = Sidecars(SidecarRows(catalogue), folders.library, enabled=config.filing.sidecars)
        self.captions = Captions(catalogue)
        self.captioner = Captioner(
            self.captions,
            stored,
            self.thumbnails,
            self.sidecars,
            LiveSettings(config),
            session=catalogue.session,
            report=self.faults.reporter("captioner"),
        )
        beside = CompanionRows(catalogue)
        self.filing = Filing(
            self.queue,
            roots(config),
            config.filing.template,
            self.thumbnails,
            self.cleanup.note,
            delete_duplicates=config.filing.duplicates == "delete",
            sidecars=self.sidecars,
            beside=beside,
            caption_status=self.captioner.status_for,
        )
        self.companions = CompanionFiling(
            beside, self.filing, roots(config), delete_duplicates=config.filing.duplicates == "delete"
        )
        self.requeue = Requeue(self.queue, folders.inbox, roots(config), folders.state)
        self.consumer = Consumer(
            folders.inbox,
            catalogue,
            self.queue,
            FolderCheck(dict(folders.items()), stored, stored.expected, limits.min_free_mb),
            self.sandbox,
            self.filing,
            self.cleanup,
            RetryPolicy(settle, limits.attempts),
            self.requeue,
            self.companions,
            report=self.faults.reporter("consumer"),
        )
        self.watcher = Watcher(
            folders.inbox,
            _ScannedFiles(self.queue, catalogue),
            ignore=config.inbox.ignore,
            recursive=config.inbox.recursive,
            observer=config.inbox.observer,
            rescan_seconds=config.inbox.rescan_seconds,
            report=self.faults.reporter("watcher"),
        )
        self.hooks = Hooks(config.hooks, catalogue, roots(config), report=self.faults.reporter("hooks"))
        self.pulse = Pulse(self.watcher, self.consumer, self.queue, limits.decode_seconds)
        # Those that not every configuration has: whoever starts one adds it.
        self.other_loops: list[Loop] = [self.hooks.loop]

    def start(self) -> None:
        """Start all parts; returns at once."""
        recovery.sweep_uploads(self.config.folders.inbox)
        with suppress(EnvironmentFault):
            self.faults.clear()
        self.sandbox.start()
        self.consumer.loop.start()
        self.watcher.start()
        self.captioner.start()
        self.hooks.start()

    def captions_progress(self) -> CaptionProgress:
        """Tell how far the captions are and when they will be done."""
        return progress(self.captions, Settings(self.catalogue), self.captioner.settings, time.time())

    def health(self) -> dict[str, tuple[bool, str]]:
        """Tell of each part whether it is well, and how it is, for people."""
        return parts(self.watcher, self.consumer, self.captioner, self.other_loops, self.pulse)

    def stop(self) -> None:
        """Finish the image in hand, or put it back if that takes too long, and stop all parts."""
        self.consumer.loop.stop()
        self.watcher.stop()
        self.captioner.stop()
        self.hooks.stop()
        if not self.consumer.loop.stop(_GRACE_SECONDS):
            _log.info("the image in hand takes long; it goes back into the queue")
            self.sandbox.abort()
            if not self.consumer.loop.stop(_HUNG_SECONDS):
                # Nothing is lost: to be killed at any instant is what the order of all steps is made for.
                _log.warning("the consumer waits for a disk or share that does not answer; leaving without it")
        self.consumer.close()
        self.sandbox.close()


class _ScannedFiles:
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
