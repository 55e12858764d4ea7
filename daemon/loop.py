"""The one loop in which every thread of the program runs: take a step, wait, and never end by an error.

Whatever a step raises is logged once, kept as the loop's `fault` for those who ask how the program is, and tried
again after a pause that doubles. Nothing but `stop` ends a loop.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from daemon.errors import DarkroomError, EnvironmentFault

_log = logging.getLogger(__name__)

_FIRST_SECONDS, _LAST_SECONDS = 1.0, 60.0
_NEWS_SECONDS, _SELDOM_SECONDS = 2.0, 6.0
# How many looks for news are in vain until the next ones are seldom.
_QUIET = 15


@dataclass(frozen=True)
class LoopFault:
    """Why a loop's last step failed, and since when its steps have been failing (seconds since 1970)."""

    reason: str
    since: float


class Loop:
    """One supervised loop: `start` runs it in a thread of its own, `run` in the caller's.

    `step` does one turn and returns the seconds until the next; `wake` ends that wait early, and so does a change of
    what `news` returns, for what no event of this process tells: it is asked every two seconds, and more seldom once
    nothing has happened for a while. `within` is entered before the first step, left at the end, and left and entered
    again after a step that failed: a connection to the database, say. `report` is called with each new fault, and with
    None at its end; what it raises counts as a fault.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float],
        *,
        wake: threading.Event | None = None,
        news: Callable[[], object] | None = None,
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
        report: Callable[[LoopFault | None], None] = lambda _: None,
        first_backoff: float = _FIRST_SECONDS,
    ) -> None:
        self.name = name
        self._step, self._news, self._within, self._report = step, news, within, report
        self._wake = wake or threading.Event()
        self._first_backoff = first_backoff
        # Set by `stop`: for those who wait for something within a step.
        self.stop_requested = threading.Event()
        # Daemonic: a loop that waits for a share which does not answer must not hold up the end of the process, and
        # the process may end at any instant.
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)
        self._reported: LoopFault | None = None
        self.fault: LoopFault | None = None
        self.failures = 0
        self._quiet = 0
        # When the last step ended (monotonic seconds), well or not: for a watchdog.
        self.progress = time.monotonic()

    @property
    def started(self) -> bool:
        """Whether `start` has been called."""
        return self._thread.ident is not None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self.stop_requested.is_set()

    def start(self) -> None:
        """Begin, in a thread of the loop's own."""
        self._thread.start()

    def stop(self, seconds: float | None = 0.0) -> bool:
        """End after the step that is being taken; wait up to `seconds` for it. Return whether the thread has ended."""
        self.stop_requested.set()
        self._wake.set()
        if self.started:
            self._thread.join(seconds)
        return not self.alive

    def run(
        self,
        finished: Callable[[], bool] = lambda: False,
        attempts: float = math.inf,
        longest: float = math.inf,
    ) -> None:
        """Take steps until `stop`, or `finished`, asked after each, says so, or `attempts` of them failed in a row.

        `longest` is the most seconds between two of them, whatever the step says: for a `finished` that depends on the
        time. In the caller's thread KeyboardInterrupt and SystemExit are raised further.
        """
        done = False
        while not (done or self.stopping or self.failures >= attempts):
            try:
                with self._within():
                    while not (done or self.stopping):
                        self._wake.clear()  # before the step looks for work, or news that comes meanwhile would be lost
                        known = self._heard()
                        wait = self._step()
                        self._succeeded()
                        done = finished()
                        if not (done or self.stopping):
                            self._rest(min(max(0.0, wait), longest), known)
            except BaseException as error:
                # In a thread of the loop's own that is all there is: even a library that calls sys.exit must not end
                # it. In the caller's it is meant, and so is Ctrl-C.
                if not isinstance(error, Exception) and threading.current_thread() is not self._thread:
                    raise
                self._failed(error)
                if self.failures < attempts:
                    self.stop_requested.wait(self.backoff())

    def _heard(self) -> object:
        try:
            return None if self._news is None else self._news()
        except DarkroomError as fault:  # of which the step has to make something
            return str(fault)

    def _rest(self, seconds: float, known: object) -> None:
        """Wait until it is time for the next step, or there is something new."""
        end = time.monotonic() + seconds
        while seconds > 0:
            every = math.inf if self._news is None else _NEWS_SECONDS if self._quiet < _QUIET else _SELDOM_SECONDS
            if self._wake.wait(min(every, seconds)) or self._heard() != known:
                self._quiet = 0
                return
            self._quiet += 1
            self.progress = time.monotonic()
            seconds = end - self.progress

    def backoff(self) -> float:
        """Return the seconds until a failed step is tried again: doubled each time, up to a minute."""
        return float(min(_LAST_SECONDS, self._first_backoff * 2.0 ** min(max(self.failures - 1, 0), 16)))

    def _succeeded(self) -> None:
        self.progress = time.monotonic()
        self.failures = 0
        if self.fault is not None:
            _log.warning("%s: goes on; what had failed: %s", self.name, self.fault.reason)
            self.fault = None
        if self._reported is not None:
            self._report(None)
            self._reported = None

    def _failed(self, error: BaseException) -> None:
        self.progress = time.monotonic()
        self.failures += 1
        reason = describe(error)
        if self.fault is None or reason != self.fault.reason:
            text = "%s: %s; it is tried again by itself"
            expected = isinstance(error, DarkroomError | OSError)
            _log.log(
                logging.WARNING if expected else logging.ERROR, text, self.name, reason, exc_info=not expected and error
            )
        self.fault = LoopFault(reason, time.time() if self.fault is None else self.fault.since)
        if self.fault != self._reported:
            try:
                self._report(self.fault)
                self._reported = self.fault
            except Exception as unreported:
                # Often it is the database that is at fault; the next step that fails tries again.
                _log.debug("%s: the fault could not be stored: %s", self.name, unreported)


def describe(error: BaseException) -> str:
    """Return an error in one line for people: its own words, where it has some that were written for them."""
    if isinstance(error, DarkroomError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"an error in darkroom itself: {text[:300]}"


class Strikes:
    """How often the work on each item has raised what nobody foresaw, so that no item is tried for ever.

    Faults of the environment are not the item's and don't count.
    """

    LIMIT = 3

    def __init__(self) -> None:
        self._counts: Counter[Hashable] = Counter()
        self._reasons: dict[Hashable, str] = {}

    @contextmanager
    def counting(self, item: Hashable) -> Iterator[None]:
        """Count what a block raises against an item; it is raised further."""
        try:
            yield
        except EnvironmentFault:
            raise
        except BaseException as error:
            self.count(item, error)
            raise

    def count(self, item: Hashable, error: BaseException) -> None:
        """Count an error against an item."""
        self._counts[item] += 1
        self._reasons[item] = describe(error)

    def of(self, item: Hashable) -> int:
        """Return how often in a row the work on an item has raised."""
        return self._counts[item]

    def reason(self, item: Hashable) -> str:
        """Return what it raised last, in one line; "" where it has not."""
        return self._reasons.get(item, "")

    def out(self, item: Hashable) -> bool:
        """Return whether an item is not to be tried again."""
        return self._counts[item] >= self.LIMIT

    def forget(self, item: Hashable) -> None:
        """Clear an item's count: the work on it has come to an end."""
        self._counts.pop(item, None)
        self._reasons.pop(item, None)
