"""Serve until it is stopped, or file what is there and leave."""

import argparse
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from daemon.app import Darkroom, build, inbox, open_catalogue, prepare, roots, unusable
from daemon.catalogue import Catalogue
from daemon.catalogue.schema import Status
from daemon.catalogue.search import ImageQuery, Search
from daemon.catalogue.settings import Settings
from daemon.commands import access_rules, doctor, plan
from daemon.commands.probes import sweep
from daemon.config import Config, Fault, within_another
from daemon.errors import Busy, DarkroomError, EnvironmentFault
from daemon.files import lock
from daemon.files.names import display
from daemon.filing.consumer import Turn
from daemon.filing.follower import say
from daemon.health import sentence_of
from daemon.loop import Strikes
from daemon.phrases import counted
from daemon.systemd.notify import Heartbeat, Notifier

if TYPE_CHECKING:
    from web.context import Context

_log = logging.getLogger(__name__)

# What an executor's thread may take to end after the parts have stopped.
_LEAVE_SECONDS = 3.0
# Of mallopt(3).
_M_ARENA_MAX = -8
# How many of the files that stay in the inbox --once names.
_NAMED = 100
# How often --once asks itself whether it has waited long enough for what others are still writing.
_LOOK_SECONDS = 0.5


def faults(config: Config, args: argparse.Namespace) -> Iterator[Fault]:
    """Yield what of the configuration keeps it from running, though it is written well."""
    yield from within_another(config)
    yield from unusable(config)
    if not args.once:
        from web.app import unsafe

        if (fault := unsafe(access_rules(config))) is not None:
            yield "[web] host", ": ".join(fault)


def main(config: Config, args: argparse.Namespace) -> int:
    """Run; 0 when stopped cleanly, 1 when --once left failed images, or any in the inbox."""
    if args.dry_run:
        return plan.show(config, plan.waiting(config))
    catalogue = open_catalogue(config)
    # One connection for all of it: SQLite makes and removes its log with the first and the last one.
    with catalogue.session():
        settings = Settings(catalogue)
        prepare(config, settings)
        with _held(config):
            with suppress(EnvironmentFault):  # for `refile`, which can do without it
                settings.set("template", config.filing.template)
            darkroom = build(config, catalogue, once=args.once)
            _finish_moves(darkroom)
            code = _Once(darkroom).run() if args.once else _serve(darkroom)
    return leave(code)


def file_once(config: Config, catalogue: Catalogue, on_turn: Callable[[], object]) -> int:
    """File what is in the inbox, without captions, and return what `run --once` would; `on_turn` is called meanwhile.

    Raises Busy where a darkroom runs.
    """
    with _held(config), _own_signals():
        darkroom = build(config, catalogue, once=True)
        _finish_moves(darkroom)
        return _Once(darkroom, captions=False, on_turn=on_turn).run()


def recover(config: Config, catalogue: Catalogue) -> None:
    """Finish or undo what an earlier process has left half done, and file nothing else.

    Raises Busy where a darkroom runs, EnvironmentFault.
    """
    with _held(config):
        darkroom = build(config, catalogue, once=True)
        try:
            _finish_moves(darkroom)
            darkroom.consumer.recover()
        finally:
            darkroom.close()


def _held(config: Config) -> AbstractContextManager[None]:
    """Hold the folders for this process. Raises Busy where another one has them, or has them in its inbox."""
    folders = [path for name, path in config.folders.items() if name != "state"]
    return lock.exclusive(config.folders.state, folders, config.folders.inbox if config.inbox.recursive else None)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Give the signals back, in the end, that a run takes for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish_moves(darkroom: Darkroom) -> None:
    """Finish what was on its way to the trash or back, out of the library, or to another name in it.

    What can't be done now waits for the next start.
    """
    try:
        darkroom.mover.resume()
    except DarkroomError as error:
        _log.warning("what was on its way from one folder to another is not there yet: %s", error)


def leave(code: int) -> int:
    """Return the exit code; end the process at once where a thread waits for a share that does not answer.

    Python would wait for it.
    """
    deadline = time.monotonic() + _LEAVE_SECONDS
    others = [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        logging.shutdown()
        os._exit(code)
    return code


def _share_one_arena() -> None:
    """Have all threads allocate from one place: at rest, an arena of each would keep 2 MB that nothing needs."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_ARENA_MAX, 1)


def _serve(darkroom: Darkroom) -> int:
    _share_one_arena()
    # Here, not above: --once needs none of it.
    from web.app import App, Server, bind, url

    config = darkroom.config
    access = access_rules(config)
    with bind(access, config.web.port) as listener:
        server = Server(App(web_context(darkroom), access), listener)
        _on_signals(server.stop)
        _log.info("filing into %s", config.folders.library)
        # What is loaded now stays: the garbage collector need not look through it behind every few photos.
        gc.collect()
        gc.freeze()
        darkroom.start()
        # Beside the work, not before it: a slow share must not hold up the start.
        checks = threading.Thread(target=doctor.warn, args=(config,), name="start-up checks", daemon=True)
        checks.start()
        try:
            _log.info("serving %s", url(listener))
            heartbeat = Heartbeat(
                Notifier(os.environ),
                lambda: sentence_of(darkroom.statistics.stats(time.time())),
                darkroom.pulse.fault,
                darkroom.faults.reporter("heartbeat"),
            )
            darkroom.other_loops.append(heartbeat.loop)
            with heartbeat:
                server.run()
                _log.info("stopping")
        finally:
            darkroom.stop()
            # They tidy up behind themselves, where no share holds them up.
            checks.join(_LEAVE_SECONDS)
    return 0


def web_context(darkroom: Darkroom) -> "Context":
    """Return what the web needs of a darkroom, and no more."""
    from web.context import Context

    config = darkroom.config
    limits = config.limits
    return Context(
        catalogue=darkroom.catalogue,
        queue=darkroom.queue,
        captions=darkroom.captions,
        thumbnails=darkroom.thumbnails,
        inbox=inbox(config),
        roots=roots(config),
        ignore=config.inbox.ignore,
        template=config.filing.template,
        upload_bytes=min(limits.upload_mb, limits.file_mb) * 1_000_000,
        min_free_bytes=limits.min_free_mb * 1_000_000,
        health=darkroom.health,
        captions_on=lambda: bool(darkroom.captioner.settings.key),
        is_private=lambda folder: darkroom.captioner.settings.is_private(folder),
        captions_line=lambda: darkroom.captions_progress().line(),
        retry=darkroom.requeue.retry,
        look=darkroom.follower.look,
        reject=darkroom.trash.reject,
        restore=darkroom.trash.restore,
    )


class _Once:
    """One pass over the inbox: until all is filed, or only files are left that others are still writing.

    How long a file must be unchanged is waited out, but not how long its rest may still come.
    """

    def __init__(
        self, darkroom: Darkroom, *, captions: bool = True, on_turn: Callable[[], object] = lambda: None
    ) -> None:
        self._darkroom, self._captions, self._on_turn = darkroom, captions, on_turn
        waits = darkroom.config.inbox
        # The second time out of sight, as `InboxFile.check_complete` has it.
        self._grace = max(waits.settle_seconds, waits.quiet_seconds) + waits.settle_seconds + 1
        self._blocked_since: float | None = None
        self._stopped = False

    def run(self) -> int:
        darkroom = self._darkroom
        _on_signals(self._stop)
        before = darkroom.statistics.stats(time.time()).counts
        darkroom.sweep()
        for _, folder in darkroom.config.folders.items():
            sweep(folder)
        with suppress(EnvironmentFault):
            darkroom.faults.clear()
        darkroom.sandbox.start()
        darkroom.hooks.begin()
        try:
            darkroom.cleanup.begin()
            darkroom.watcher.scan_now()
            darkroom.consumer.loop.run(self._finished, attempts=Strikes.LIMIT, longest=_LOOK_SECONDS)
            while not self._stopped and (seconds := darkroom.cleanup.remove_empty()) is not None:
                time.sleep(min(seconds, 0.1))
            self._follow()
            code = self._report(before)
            darkroom.hooks.drain()
            # Before the decoders go: they read the sidecars that captions are written into.
            if self._captions:
                self._caption()
        finally:
            darkroom.close()
        return code

    def _follow(self) -> None:
        """Look through the library where that is due; what stands in the way is said, and is no failure."""
        follower, hours = self._darkroom.follower, self._darkroom.config.library.follow_hours
        if not self._stopped and hours and follower.seconds_left(hours, time.time()) <= 0:
            follower.is_stopping = lambda: self._stopped
            try:
                say(follower.follow())
            except (Busy, EnvironmentFault) as fault:
                _log.warning("the library was not looked through: %s", fault)

    def _caption(self) -> None:
        """Make the captions that the quota allows; what is left is made another time and is no failure."""
        darkroom = self._darkroom
        darkroom.captioner.drain()
        now = darkroom.captions_progress()
        if now.waiting:
            _log.info("%s", now.line())

    def _stop(self) -> None:
        self._stopped = True
        self._darkroom.consumer.loop.stop()
        self._darkroom.captioner.stop()
        self._darkroom.hooks.stop()

    def _finished(self) -> bool:
        self._on_turn()
        turn = self._darkroom.consumer.turn
        if turn is not Turn.IDLE:
            if turn is Turn.FILED:
                self._blocked_since = None
            return turn is Turn.PAUSED
        if self._darkroom.statistics.in_progress():
            return False
        due = self._darkroom.queue.next_due()
        if due is None:
            return True
        if self._darkroom.companions.give_up():
            return False
        if due > time.time() + self._grace:  # what ends early, and may still get its rest
            return True
        self._blocked_since = self._blocked_since or time.monotonic()
        return time.monotonic() - self._blocked_since > self._grace

    def _report(self, before: Mapping[Status, int]) -> int:
        stats = self._darkroom.statistics.stats(time.time())
        new = {status: n - before[status] for status, n in stats.counts.items()}
        _log.info("%d filed, %s, %d failed", new["done"], counted(new["duplicate"], "duplicate"), new["failed"])
        stay = stats.counts["queued"]
        if stay:
            self._name_queued(stay)
        if new["failed"] > 0:
            _log.warning("what failed is in %s, with the reasons", self._darkroom.config.folders.failed)
        troubled = self._darkroom.consumer.paused or self._darkroom.consumer.loop.fault
        return 1 if new["failed"] > 0 or stay or troubled else 0

    def _name_queued(self, count: int) -> None:
        rows = Search(self._darkroom.catalogue).page(ImageQuery(status="queued"), _NAMED)
        for row in reversed(rows):
            reason = f": {row.waiting_text}" if row.waiting_text else ""
            _log.warning("image %d stays in the inbox: %s%s", row.id, display(row.path or row.original_name), reason)
        if count > len(rows):
            _log.warning("and %s in the inbox", counted(count - len(rows), "other stays", "others stay"))


def _on_signals(stop: Callable[[], None]) -> None:
    """Call `stop` on the first SIGINT or SIGTERM; a second one ends the process at once, which loses nothing."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(1))
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
