"""The tree of errors. Steps raise them; only the consumer decides what each means for the queue.

    DarkroomError
    ├── ConfigError            the configuration, or the catalogue's version, can't be used: exit 2
    ├── Busy                   another process has these folders: exit 1, and systemd tries again
    ├── Rejected               the image's own fault, for good: to failed/ at once
    │   └── Truncated          the bytes end early: once no more of them have come for long
    ├── Transient              this attempt failed: again after a backoff, then to failed/
    │   └── TimedOut           decoding reached a time limit: tried once more, and no oftener
    ├── Postponed              not ready yet: no attempt is spent
    ├── Withdrawn              the file has left the inbox: its row goes too
    ├── Immovable              the file can't be moved at all: it fails where it lies
    ├── EnvironmentFault       a disk, mount or right is at fault: where a probe shows it, too, the queue pauses
    │   ├── NameRefused        a filesystem can't hold a name: a plainer one is tried first
    │   ├── DiskFull           there is no room: an upload is refused, a file waits for it
    │   ├── Unresponsive       a disk or share does not answer: a file waits for it
    │   ├── FolderFault        a filesystem refuses anything else: a probe shows whether to all files or to this one
    │   └── DatabaseFault      the catalogue can't be used: the queue always pauses
    │       └── DatabaseFull   there is no room for it: an upload is refused
    └── InternalError          darkroom itself is wrong: the row is tried three times, then fails

Every message is written for the person who reads it in `failed/`, in the log or in `status`; what code decides on is
the class, or a code that the error bears.
"""

from enum import StrEnum


class DarkroomError(Exception):
    """Base of every error that Darkroom raises on purpose; its message is fit for a line of text."""

    def __init__(self, message: str = "") -> None:
        # Whatever named a file may have put escape sequences into the name.
        super().__init__("".join(c if c.isprintable() or c in self._KEPT else _escaped(c) for c in message))

    # The joiners of Persian and of emoji.
    _KEPT = "\u200c\u200d"


def _escaped(c: str) -> str:
    return c.encode("unicode_escape", "surrogatepass").decode("ascii")


class FailureReason(StrEnum):
    """Why an image could not be filed: the code that its row keeps beside the sentence."""

    NOT_AN_IMAGE = "not an image"
    DAMAGED = "damaged"
    INCOMPLETE = "incomplete"
    TOO_LARGE = "too large"
    TOO_SLOW = "too slow"
    MEMORY = "memory"
    CRASHED = "crashed"
    NOT_A_FILE = "not a file"
    UNREADABLE = "unreadable"
    NO_PHOTO = "no photo"
    INTERNAL = "internal"
    OTHER = "other"


class ConfigError(DarkroomError):
    """Raised with all faults of the configuration in one message, a line each."""

    _KEPT = "\n" + DarkroomError._KEPT


class Busy(DarkroomError):
    """Raised when another process, mostly a running darkroom, holds the same folders."""


class Rejected(DarkroomError):
    """Raised when an image can never be filed: no image, a bomb, not a regular file."""

    def __init__(self, message: str = "", failure: FailureReason = FailureReason.OTHER) -> None:
        super().__init__(message)
        self.failure = failure


class Truncated(Rejected):
    """Raised when a file is empty or its bytes end early: no attempt changes that, but the rest may still come."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, FailureReason.INCOMPLETE)


class Transient(DarkroomError):
    """Raised when an attempt failed and a later one may go well: a crash, a time limit."""

    def __init__(self, message: str = "", failure: FailureReason = FailureReason.OTHER) -> None:
        super().__init__(message)
        self.failure = failure


class TimedOut(Transient):
    """Raised when an image takes longer to decode than it may."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message, FailureReason.TOO_SLOW)


class WaitingReason(StrEnum):
    """Why a queued file is not filed yet: the code that its row keeps."""

    WRITER = "writer"
    QUIET = "quiet"
    INCOMPLETE = "incomplete"
    LEASE = "lease"
    CHANGED = "changed"
    FOLDER = "folder"
    PHOTO = "photo"
    TAKEOUT = "takeout"
    ATTEMPT = "attempt"
    RENAMED = "renamed"
    LEAVING = "leaving"
    STAYS = "stays"
    DISK = "disk"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    FAULT = "fault"

    def sentence(self, detail: str = "") -> str:
        """Return the reason for people; `detail` is what the row keeps beside the code."""
        return _WAITING[self].format(detail)


_WAITING = {
    WaitingReason.WRITER: "open for writing",
    WaitingReason.QUIET: "unchanged for less than {} s",
    WaitingReason.INCOMPLETE: "incomplete: {}",
    WaitingReason.LEASE: "in use: another program holds a lease on the file",
    WaitingReason.CHANGED: "changed while it was being {}",
    WaitingReason.FOLDER: "its folder {} can't be written, so it can't leave",
    WaitingReason.PHOTO: "waiting for its photo",
    WaitingReason.TAKEOUT: "waiting for its JSON of Google Takeout, which may know its date",
    WaitingReason.ATTEMPT: "{}",
    WaitingReason.RENAMED: "renamed or moved while it was being filed",
    WaitingReason.LEAVING: "out of sight for {} s, so that nobody opens it any more",
    WaitingReason.STAYS: "filed, but its name can't be removed from the inbox: {}",
    WaitingReason.DISK: "{}",
    WaitingReason.STOPPING: "darkroom is stopping",
    WaitingReason.INTERRUPTED: "darkroom was interrupted",
    WaitingReason.FAULT: "interrupted by a fault",
}


class Postponed(DarkroomError):
    """Raised when a file is not ready yet; `seconds` is when to look again, `detail` completes the reason."""

    def __init__(self, reason: WaitingReason, seconds: float, detail: str = "") -> None:
        super().__init__(reason.sentence(detail))
        self.reason = reason
        self.seconds = seconds
        self.detail = detail


class Withdrawn(DarkroomError):
    """Raised when a queued file is no longer in the inbox."""


class Immovable(DarkroomError):
    """Raised when a file can be neither linked, copied nor renamed, or its path is too long to be reached."""


class EnvironmentFault(DarkroomError):
    """Raised when a folder, disk or right is at fault and no image is; `where` is the file or folder, if known."""

    where: object = None


class NameRefused(EnvironmentFault):
    """Raised when a filesystem can't hold a name or a path: too long, or with a character that it doesn't know.

    Who chooses names tries a plainer one; where none is left to try, it is a fault of the environment like any other.
    """


class DiskFull(EnvironmentFault):
    """Raised when there is no room left on a disk for a file."""


class Unresponsive(EnvironmentFault):
    """Raised when a disk or share does not answer (EIO, ESTALE, …): another time may go well, so nothing is judged."""


class FolderFault(EnvironmentFault):
    """Raised when a filesystem refuses something for another reason: a right, a read-only mount."""


class DatabaseFault(EnvironmentFault):
    """Raised when SQLite can't use the catalogue: locked, read-only, damaged."""


class DatabaseFull(DatabaseFault):
    """Raised when there is no room for what is to be written into the catalogue."""


class InternalError(DarkroomError):
    """Raised when darkroom itself has made a mistake, such as a row that breaks a rule of the schema."""
