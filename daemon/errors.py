"""The tree of errors. Steps raise them; only the consumer decides what each means for the queue.

    DarkroomError
    ├── ConfigError            the configuration can't be used: exit 2
    ├── Busy                   another darkroom has these folders: exit 2
    ├── Rejected               the image's own fault, for good: to failed/ at once
    ├── Transient              this attempt failed: again after a backoff, then to failed/
    │   └── Truncated          the bytes end early: perhaps they are still arriving
    ├── Postponed              not ready yet: no attempt is spent
    ├── Withdrawn              the file has left the inbox: its row goes too
    └── EnvironmentFault       a disk, mount or right is at fault: the whole queue pauses

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


class EnvironmentFault(DarkroomError):
    """Raised when a folder, disk or right is at fault and no image is."""
