"""The tree of errors. Steps raise them; only the consumer decides what each means for the queue.

    DarkroomError
    ├── ConfigError            the configuration can't be used: exit 2
    ├── Busy                   another darkroom has these folders: exit 2
    ├── Rejected               the image's own fault, for good: to failed/ at once
    ├── Transient              this attempt failed: again after a backoff, then to failed/
    │   └── Truncated          the bytes end early: perhaps they are still arriving
    ├── Postponed              not ready yet: no attempt is spent
    ├── Withdrawn              the file has left the inbox: its row goes too
    ├── Immovable              the file can't be moved at all: it fails where it lies
    ├── EnvironmentFault       a disk, mount or right is at fault: the whole queue pauses
    │   └── NameRefused        a filesystem can't hold a name: a plainer one is tried first
    └── InternalError          darkroom itself is wrong: the row is tried three times, then fails

Every message is written for the person who reads it in `failed/`, in the log or in `status`.
"""


class DarkroomError(Exception):
    """Base of every error that Darkroom raises on purpose."""


class ConfigError(DarkroomError):
    """Raised with all faults of the configuration in one message, a line each."""


class Busy(DarkroomError):
    """Raised when another running darkroom holds the same folders."""


class Rejected(DarkroomError):
    """Raised when an image can never be filed: no image, a bomb, not a regular file."""


class Transient(DarkroomError):
    """Raised when an attempt failed and a later one may go well: a crash, a time limit."""


class Truncated(Transient):
    """Raised when the bytes of an image end early."""


class Postponed(DarkroomError):
    """Raised when a file is not complete yet; `seconds` is when to look again."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Withdrawn(DarkroomError):
    """Raised when a queued file is no longer in the inbox."""


class Immovable(DarkroomError):
    """Raised when a file can be neither linked, copied nor renamed, or its path is too long to be reached."""


class EnvironmentFault(DarkroomError):
    """Raised when a folder, disk or right is at fault and no image is."""


class NameRefused(EnvironmentFault):
    """Raised when a filesystem can't hold a name or a path: too long, or with a character that it doesn't know.

    Who chooses names tries a plainer one; where none is left to try, it is a fault of the environment like any other.
    """


class InternalError(DarkroomError):
    """Raised when darkroom itself has made a mistake, such as a row that breaks a rule of the schema."""
