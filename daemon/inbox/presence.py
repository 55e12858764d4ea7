"""Sees to it that the inbox is there, is still the same folder, and that events come from it if they can."""

import errno
import logging
import math
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from daemon.files.mounts import filesystem, is_network
from daemon.inbox.events import InboxEvents, PendingEvents, advice

logger = logging.getLogger(__name__)

ObserverChoice = Literal["auto", "events", "polling"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the watcher does what no user needs to set; in seconds.

    `poll` is the shortest interval of polling, `check` that between two looks at the inbox and its watch,
    `retry` when events are tried again after they could not be had, `late` how old a file that only a scan
    found must be to count against the events, `between_scans` the least time between scans after lost events,
    `after_error` when to go on after an error.
    """

    poll: float = 2.0
    check: float = 5.0
    retry: float = 300.0
    late: float = 5.0
    between_scans: float = 1.0
    after_error: float = 5.0


class Presence:
    """The inbox and the watch on it.

    `gone` says why there is no inbox at the moment, `reason` why events are not enough; None where all is well.
    """

    def __init__(self, inbox: Path, recursive: bool, choice: ObserverChoice, wake: threading.Event, pace: Pace) -> None:
        self._inbox, self._recursive, self._choice = inbox, recursive, choice
        self._wake, self._pace = wake, pace
        self._events: InboxEvents | None = None
        self._identity: tuple[int, int] | None = None
        self._attached_at, self._retry_at = -math.inf, math.inf
        self.gone: str | None = None
        self.reason: str | None = None

    @property
    def polls(self) -> bool:
        """Return whether the inbox is to be scanned at short intervals."""
        return self.reason is not None and self._choice != "events"

    def check(self, now: float) -> bool:
        """Look at the inbox and the watch on it, set a broken watch anew, and return whether a whole scan is due.

        A folder with the same name but another device or inode is another inbox (replaced, mounted, unmounted).
        """
        try:
            info = self._inbox.stat()
        except OSError as error:
            return self._miss(error.strerror or str(error))
        if not stat.S_ISDIR(info.st_mode):
            return self._miss("it is no folder")
        identity = (info.st_dev, info.st_ino)
        if identity != self._identity:
            if self.gone is not None:
                logger.warning("the inbox %r is there again", str(self._inbox))
            elif self._identity is not None:
                logger.warning("the inbox %r is another folder now; watching that one", str(self._inbox))
            self._identity, self.gone = identity, None
            return self._attach(now)
        if self._events is not None and not self._events.intact():
            return self._watch_again(now)
        return self._events is None and now >= self._retry_at and self._attach(now)

    def take(self) -> PendingEvents:
        """Hand over what events have come since the last time."""
        return self._events.take() if self._events is not None else PendingEvents()

    def note_missed(self, missed: str) -> None:
        """Note that no events come for files such as `missed`; believed until the watch is set anew."""
        self.reason = (
            f"events do not arrive for {missed!r} and others: the filesystem makes none, "
            "or fs.inotify.max_user_watches is too low for all its folders"
        )

    def release(self) -> None:
        """End the watch."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _miss(self, why: str) -> bool:
        if self.gone is None:
            self.gone = f"the inbox {str(self._inbox)!r} is gone ({why}); waiting for it"
            logger.warning("%s", self.gone)
            self.release()
        self._identity = None
        return False

    def _attach(self, now: float) -> bool:
        self.release()
        self._attached_at, self._retry_at = now, math.inf
        if self._choice == "polling":
            self.reason = "as configured"
            return True
        try:
            self._events = InboxEvents(self._inbox, self._recursive, self._wake)
        except OSError as error:
            self.reason = advice(error)
            # Gone between two looks: the next one knows more.
            self._retry_at = now + (0.0 if error.errno == errno.ENOENT else self._pace.retry)
            return True
        except RecursionError:  # watchdog calls itself for each folder in a folder
            self.reason = "there are no events for folders that lie a thousand deep in each other"
            self._retry_at = now + self._pace.retry
            return True
        except RuntimeError as error:  # no more threads to be had
            self.reason = f"no events can be had: {error}"
            self._retry_at = now + self._pace.retry
            return True
        shared = self._choice == "auto" and is_network(kind := filesystem(self._inbox))
        self.reason = f"{kind} makes no events for what other machines write" if shared else None
        return True

    def _watch_again(self, now: float) -> bool:
        if now - self._attached_at > 10 * self._pace.check:
            logger.warning("the watch on the inbox %r was lost; setting it again", str(self._inbox))
            return self._attach(now)
        self.release()
        self._retry_at = now + self._pace.retry
        self.reason = "the watch on it is lost again and again"
        return True
