"""Joins the parts of one darkroom, starts them and stops them; the only place that knows them all."""

import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from daemon.captions.captioner import Captioner
from daemon.captions.limits import CaptionProgress, progress
from daemon.captions.settings import LiveSettings
from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.catalogue.companions import CompanionRows, SidecarRows
from daemon.catalogue.library import LibraryRows
from daemon.catalogue.moves import Folder, MoveRows
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.config import Config, Fault, darkroom_in
from daemon.decoding import Limits, TextReader, machine
from daemon.decoding.sandbox import Sandbox
from daemon.errors import ConfigError, DarkroomError, EnvironmentFault
from daemon.files import atomic, state_folder
from daemon.files.atomic import UNREACHABLE, Root
from daemon.files.mounts import FolderCheck
from daemon.filing import recovery, sources
from daemon.filing.cleanup import Cleanup
from daemon.filing.companions import CompanionMatcher
from daemon.filing.consumer import Consumer, RetryPolicy, StabilityPolicy
from daemon.filing.destination import Planner, PlanningRules
from daemon.filing.filing import Filing
from daemon.filing.follower import Follower, FollowLoop
from daemon.filing.moves import Mover
from daemon.filing.prefetch import Prefetcher
from daemon.filing.recovery import Recovery, Requeue
from daemon.filing.removals import Removals
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.filing.trash import Trash
from daemon.health import Faults, PartHealth, Pulse, parts
from daemon.hooks import Hooks
from daemon.inbox.watcher import Watcher
from daemon.loop import Loop
from daemon.sidecar.sidecars import Sidecars

_log = logging.getLogger(__name__)

_CLEANUP_SECONDS = 10.0
# What `stop` grants the image that is being filed before its decoder is killed and it goes back into the queue.
_GRACE_SECONDS = 5.0
# How long a copy to a slow disk may take then, before the process ends without it.
_HUNG_SECONDS = 10.0


def open_catalogue(config: Config) -> Catalogue:
    """Open the database in the state folder, making both where there are none yet.

    Raises ConfigError, EnvironmentFault.
    """
    state = config.folders.state
    try:
        state_folder.make(state, _thumbnails(config))
    except OSError as error:
        if error.errno in UNREACHABLE:
            raise EnvironmentFault(f"the state folder {state} does not answer: {error.strerror}") from error
        raise ConfigError(f"the state folder {state} can't be made: {error.strerror}") from error
    return Catalogue(config.catalogue_file)


def existing_catalogue(config: Config) -> Catalogue:
    """Open the catalogue of a darkroom that has run. Raises DarkroomError where none has, and makes nothing."""
    file = config.catalogue_file
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DarkroomError(_nothing_here(config)) from None
    except OSError as error:
        raise EnvironmentFault(f"{file} can't be read: {error.strerror}; whose is it?") from error
    return Catalogue(file)


def check_begun(config: Config) -> None:
    """Raise DarkroomError where there is neither a configuration nor any of the folders."""
    if not any(map(os.path.lexists, (config.file, *dict(config.folders.items()).values()))):
        raise DarkroomError(_nothing_here(config))


def _nothing_here(config: Config) -> str:
    if os.path.lexists(config.file):
        said = f"nothing has run here yet: there is no {config.catalogue_file}"
        return f"{said}; darkroom run makes it, and darkroom rebuild one that was lost"
    near = next(filter(None, map(darkroom_in, config.base.parents)), None)
    there = f", but there is one in {near[0]}: go there" if near else ": go to the folder of one"
    return (
        f"there is no darkroom in {config.base}{there}, or name its config.toml (--config PATH); to begin one here:"
        " darkroom init"
    )


def unusable(config: Config) -> Iterator[Fault]:
    """Yield the folders that can't be used for a reason that will not go away by itself.

    A folder that is missing may be on a disk that is not mounted, but not before the first run.
    """
    has_run = os.path.lexists(config.catalogue_file)
    for name, folder in config.folders.items():
        there = folder if has_run else next(place for place in (folder, *folder.parents) if os.path.lexists(place))
        try:
            is_folder = stat.S_ISDIR(there.stat().st_mode)
        except OSError:  # it is waited for, or said by whoever makes it
            continue
        if not is_folder:
            yield f"[folders] {name}", f"{there} is no folder"
        elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            what = "can't be written" if there == folder else f"can't be made, since {there} can't be written"
            yield f"[folders] {name}", f"{folder} {what}"


def prepare(config: Config, settings: Settings) -> None:
    """Make the folders that are missing. Raises ConfigError with all that can't be used, a line each.

    A folder in which the catalogue expects files is not made anew: its disk is not mounted, and the queue pauses. So
    it does for one on a share that does not answer at the moment.
    """
    faults = []
    for name, folder in config.folders.items():
        try:
            is_there = folder.is_dir()
            if not is_there and settings.expected(name) is None:
                atomic.make_path(folder)
                is_there = True
        except OSError as error:
            if error.errno in UNREACHABLE:
                _log.warning("the %s folder %s does not answer: %s; it is waited for", name, folder, error.strerror)
            else:
                faults.append(f"[folders] {name}: {folder} can't be made: {error.strerror}")
            continue
        if is_there and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            faults.append(f"[folders] {name}: {folder} can't be written")
    if faults:
        raise ConfigError("\n  ".join(["the folders can't be used", *faults]))


def inbox(config: Config) -> Root:
    """Return the folder that files come from; no link in there is followed."""
    return Root(config.folders.inbox)


def roots(config: Config) -> dict[Place, Root]:
    """Return the folders that files go to, by the name under which a row knows them.

    In the library and beside it the owner's own links are followed; what lies in `failed/` came from anybody.
    """
    folders = config.folders
    return {
        "library": Root(folders.library, own_links=True),
        "duplicates": Root(folders.duplicates, own_links=True),
        "failed": Root(folders.failed),
        "trash": Root(folders.trash),
    }


def decoding_limits(config: Config) -> Limits:
    """Return what one image may cost."""
    limits = config.limits
    return Limits(limits.file_mb, limits.megapixels, limits.decode_seconds, limits.decode_memory_mb)


def decoder_count(config: Config) -> int:
    """Return how many images are decoded side by side."""
    return machine.decoders(config.limits.decoders, config.limits.decode_memory_mb)


def planning_rules(config: Config) -> PlanningRules:
    """Return what decides where a photo goes."""
    filing = config.filing
    return PlanningRules(
        template=filing.template,
        delete_duplicates=filing.duplicates == "delete",
        file_again=filing.deleted == "file again",
        folder_keywords=filing.folder_keywords,
        hash_bytes=config.limits.file_mb << 20,
    )


def thumbnail_store(config: Config) -> ThumbnailStore:
    """Return the store of thumbnails in the state folder."""
    return ThumbnailStore(_thumbnails(config))


def _thumbnails(config: Config) -> Path:
    return config.folders.state / "thumbnails"


def sidecars(config: Config, catalogue: Catalogue, reader: TextReader) -> Sidecars:
    """Return the sidecars of the library."""
    places = roots(config)
    others: dict[Place, Root] = {"duplicates": places["duplicates"], "failed": places["failed"]}
    return Sidecars(SidecarRows(catalogue), places["library"], reader, others, enabled=config.filing.sidecars)


def follower(config: Config, catalogue: Catalogue, sandbox: Sandbox, written: Sidecars) -> Follower:
    """Return what follows the owner's doings in the library; `written` are its sidecars, one for all threads."""
    settings, library = Settings(catalogue), roots(config)["library"]
    private = LiveSettings(config)
    return Follower(
        LibraryRows(catalogue),
        library,
        FolderCheck({"library": library.path}, settings, 0),
        settings,
        thumbnail_store(config),
        written,
        # Looked up each time: another one may stand in its place.
        lambda path: sandbox.decode(path),
        Removals(library),
        config.folders.state,
        trash=roots(config)["trash"],
        ignore=config.inbox.ignore,
        is_private=lambda folder: private().is_private(folder),
    )


def mover(config: Config, catalogue: Catalogue, written: Sidecars) -> Mover:
    """Return what moves images with all that is beside them; `written` are the library's sidecars, one for all."""
    places = roots(config)
    folders: dict[Folder, Root] = {"inbox": inbox(config), **dict(places.items())}
    removals, thumbnails = Removals(places["library"]), thumbnail_store(config)
    return Mover(MoveRows(catalogue), folders, removals, written, thumbnails, config.folders.state)


@dataclass(frozen=True)
class Darkroom:
    """The parts of one darkroom, joined; nothing runs before `start`."""

    config: Config
    catalogue: Catalogue
    settings: Settings
    queue: Queue
    statistics: Statistics
    thumbnails: ThumbnailStore
    sandbox: Sandbox
    sidecars: Sidecars
    captions: Captions
    caption_settings: LiveSettings
    captioner: Captioner
    companions: CompanionMatcher
    filing: Filing
    cleanup: Cleanup
    requeue: Requeue
    follower: Follower
    mover: Mover
    trash: Trash
    consumer: Consumer
    watcher: Watcher
    hooks: Hooks
    following: FollowLoop
    faults: Faults
    pulse: Pulse
    # Those that not every configuration has: whoever starts one adds it.
    other_loops: list[Loop] = field(default_factory=list)

    def sweep(self) -> None:
        """Remove what uploads and imports that have died have left in the inbox; before any new one can arrive."""
        recovery.remove_partial_uploads(inbox(self.config))
        sources.remove_partial_copies(inbox(self.config), self.config.folders.state)

    def start(self) -> None:
        """Start all parts; returns at once."""
        self.sweep()
        with suppress(EnvironmentFault):
            self.faults.clear()
        self.sandbox.start()
        self.consumer.loop.start()
        self.watcher.start()
        self.captioner.start()
        self.hooks.start()
        self.following.start()

    def stop(self) -> None:
        """Finish the image that is being filed, or put it back if that takes too long, and stop all parts."""
        self.consumer.loop.stop()
        self.watcher.stop()
        self.captioner.stop()
        self.hooks.stop()
        self.following.loop.stop()
        if not self.consumer.loop.stop(_GRACE_SECONDS):
            _log.info("the image that is being filed takes long; it goes back into the queue")
            self.sandbox.abort()
            if not self.consumer.loop.stop(_HUNG_SECONDS):
                # Nothing is lost: to be killed at any instant is what the order of all steps is made for.
                _log.warning("the consumer waits for a disk or share that does not answer; leaving without it")
        self.close()

    def close(self) -> None:
        """Let the decoder go, and the threads that wait for it."""
        self.consumer.close()
        self.sandbox.close()

    def captions_progress(self) -> CaptionProgress:
        """Return how far the captions are and when they will be done."""
        return progress(self.captions, self.settings, self.captioner.settings, time.time())

    def health(self) -> Mapping[str, PartHealth]:
        """Return how each part is, by its name."""
        return parts(self.watcher, self.consumer, self.captioner, self.other_loops, self.pulse)


def build(config: Config, catalogue: Catalogue | None = None, *, once: bool = False) -> Darkroom:
    """Join the parts; `once` is for a single pass over the inbox.

    Who gives a catalogue has also made the folders (`prepare`); else both is done here. Raises ConfigError,
    EnvironmentFault where that can't be done.
    """
    if catalogue is None:
        catalogue = open_catalogue(config)
        prepare(config, Settings(catalogue))
    folders, limits, settle = config.folders, config.limits, config.inbox.settle_seconds
    stability = StabilityPolicy(
        settle_seconds=settle,
        quiet_seconds=config.inbox.quiet_seconds,
        incomplete_seconds=60 * config.inbox.incomplete_minutes,
        # A single pass watches nothing: what it left behind for so long, another one gives up.
        began=0.0 if once else time.time(),
    )
    settings = Settings(catalogue)
    queue, places, faults = Queue(catalogue), roots(config), Faults(settings)
    thumbnails, captions = thumbnail_store(config), Captions(catalogue)
    decoders, costs = decoder_count(config), decoding_limits(config)
    sandbox = Sandbox(costs, count=decoders)
    beside, written = CompanionRows(catalogue), sidecars(config, catalogue, sandbox)
    caption_settings = LiveSettings(config)
    captioner = Captioner(
        captions,
        settings,
        lambda sha256: thumbnails.path(sha256, "medium").read_bytes(),
        written,
        caption_settings,
        session=catalogue.session,
        report=faults.reporter("captioner"),
    )
    arrivals = inbox(config)
    library = follower(config, catalogue, sandbox, written)
    planner = Planner(
        queue,
        arrivals,
        places,
        planning_rules(config),
        caption_status=caption_settings.status_for,
        packet=written.packet,
        look=library.look,
    )
    filing = Filing(queue, arrivals, places, thumbnails, written, beside)
    companions = CompanionMatcher(
        beside,
        places,
        sandbox,
        delete_duplicates=config.filing.duplicates == "delete",
        sidecars=config.filing.sidecars,
    )
    requeue = Requeue(queue, arrivals, places, folders.state)
    cleanup = Cleanup(arrivals, settle if once else max(_CLEANUP_SECONDS, settle))
    recovered = Recovery(queue, filing, requeue, cleanup, arrivals, thumbnails, settle)
    consumer = Consumer(
        catalogue,
        queue,
        settings,
        # Filing needs no trash.
        FolderCheck({name: path for name, path in folders.items() if name != "trash"}, settings, limits.min_free_mb),
        Prefetcher(arrivals, queue, sandbox, settle, stability.quiet_seconds, decoders),
        planner,
        filing,
        companions,
        recovered,
        cleanup,
        RetryPolicy(settle, limits.attempts),
        stability,
        arrivals,
        report=faults.reporter("consumer"),
    )
    following = FollowLoop(
        library,
        config.library.follow_hours,
        is_filing=lambda: consumer.is_filing,
        session=catalogue.session,
        report=faults.reporter("follower"),
    )
    watcher = Watcher(
        folders.inbox,
        queue,
        session=catalogue.session,
        ignore=config.inbox.ignore,
        recursive=config.inbox.recursive,
        observer=config.inbox.observer,
        rescan_seconds=config.inbox.rescan_seconds,
        report=faults.reporter("watcher"),
    )
    moving = mover(config, catalogue, written)
    hooks = Hooks(config.hooks, catalogue, places, report=faults.reporter("hooks"))
    return Darkroom(
        config=config,
        catalogue=catalogue,
        settings=settings,
        queue=queue,
        statistics=Statistics(catalogue),
        thumbnails=thumbnails,
        sandbox=sandbox,
        sidecars=written,
        captions=captions,
        caption_settings=caption_settings,
        captioner=captioner,
        companions=companions,
        filing=filing,
        cleanup=cleanup,
        requeue=requeue,
        follower=library,
        mover=moving,
        trash=Trash(moving),
        consumer=consumer,
        watcher=watcher,
        hooks=hooks,
        faults=faults,
        pulse=Pulse(watcher, consumer, queue, costs.longest(0)),
        following=following,
        other_loops=[hooks.loop, following.loop],
    )
