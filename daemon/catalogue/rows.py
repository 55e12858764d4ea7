"""What goes into a row when a file is seen, and the plain value that the consumer gets when it claims one."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, cast

from daemon.catalogue.models import Event, Image
from daemon.names import display

Place = Literal["library", "duplicates", "failed"]
Final = Literal["done", "duplicate", "failed"]


class Seen(Protocol):
    """A file of the inbox as a look at the directory tells it."""

    @property
    def path(self) -> str:
        """Relative to the inbox."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970."""


class Look(Protocol):
    """What a file looked like, and since when (seconds since 1970)."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def since(self) -> float:
        """Seconds since 1970."""


@dataclass(frozen=True)
class Job:
    """A claimed row; its values are those of the claim."""

    id: int
    path: str
    original_name: str
    source: str
    created_at: float
    attempts: int
    size: int | None
    mtime_ns: int | None
    quiet_since: float | None
    claimed_at: float
    place: Place | None = None
    destination: str | None = None
    sha256: str | None = None
    error: str | None = None
    companion_of: int | None = None


def new_row(file: Seen, now: float) -> dict[str, Any]:
    """Give the values of a file of the inbox that is seen for the first time."""
    path = PurePosixPath(file.path)
    return {
        "path": file.path,
        "original_name": display(path.name),
        "folder": "" if str(path.parent) == "." else display(str(path.parent)),
        "source": "inbox",
        "status": "queued",
        "attempts": 0,
        "created_at": now,
        "not_before": now,
        "size_bytes": file.size,
        "mtime_ns": file.mtime_ns,
        "quiet_since": now,
    }


def record(image_id: int, now: float, kind: str, detail: str) -> None:
    """Append a line to an image's history; within the transaction that makes it true."""
    Event.insert(image_id=image_id, at=now, kind=kind, detail=detail).execute()


# The columns of a job. Naming them counts: peewee takes 2 ms to write out all sixty of a row.
JOB_COLUMNS: tuple[Any, ...] = tuple(
    getattr(Image, name)
    for name in (
        "id path original_name source created_at attempts size_bytes mtime_ns quiet_since claimed_at place destination"
        " sha256 error companion_of"
    ).split()
)


def to_job(row: Image) -> Job:
    """Give a row's values as the consumer sees them."""
    return Job(
        id=row.id,
        path=row.path or "",
        original_name=row.original_name,
        source=row.source,
        created_at=row.created_at,
        attempts=row.attempts,
        size=row.size_bytes,
        mtime_ns=row.mtime_ns,
        quiet_since=row.quiet_since,
        claimed_at=row.claimed_at or row.created_at,
        place=cast("Place | None", row.place),
        destination=row.destination,
        sha256=row.sha256,
        error=row.error,
        companion_of=row.companion_of,
    )
