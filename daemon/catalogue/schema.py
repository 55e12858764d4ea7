"""The tables as peewee sees them, and the typed rows in which their values leave the catalogue."""

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, cast

from peewee import AutoField, Field, FloatField, IntegerField, JSONField, Model, TextField

from daemon.files.names import display


class FilenameField(Field):
    """A file's name: text where it is valid UTF-8, else the raw bytes, which SQLite keeps apart from any text."""

    field_type = "TEXT"

    def db_value(self, value: str | None) -> str | bytes | None:
        """Store bytes for names that are no UTF-8 (an old camera's, an unpacked archive's)."""
        if value is None:
            return None
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return os.fsencode(value)
        return value

    def python_value(self, value: Any) -> str | None:
        """Give the name as the file system calls take it."""
        return os.fsdecode(value) if isinstance(value, bytes) else value


class Image(Model):
    """One photo. Times are seconds since 1970, sizes bytes."""

    id = AutoField()
    status = TextField(default="queued")
    # In the inbox, relative to it; None once the file has left.
    path = FilenameField(null=True)
    original_name = TextField()
    folder = TextField(default="")
    source = TextField(default="inbox")
    created_at = FloatField()
    not_before = FloatField()
    attempts = IntegerField(default=0)
    size_bytes = IntegerField(null=True)
    mtime_ns = IntegerField(null=True)
    quiet_since = FloatField(null=True)
    waiting = TextField(null=True)
    claimed_at = FloatField(null=True)
    processed_at = FloatField(null=True)
    processing_ms = IntegerField(null=True)
    error = TextField(null=True)
    warning = TextField(null=True)

    # Where the file goes or went: written before the move, so that start-up can finish or undo it.
    place = TextField(null=True)
    destination = FilenameField(null=True)
    duplicate_of = IntegerField(null=True)

    sha256 = TextField(null=True)
    format = TextField(null=True)
    width = IntegerField(null=True)
    height = IntegerField(null=True)
    taken_at = TextField(null=True)
    taken_from = TextField(null=True)
    camera_make = TextField(null=True)
    camera_model = TextField(null=True)
    lens_model = TextField(null=True)
    datetime_original = TextField(null=True)
    iso = IntegerField(null=True)
    focal_length = FloatField(null=True)
    exposure_time = TextField(null=True)
    f_number = FloatField(null=True)
    orientation = IntegerField(null=True)
    lat = FloatField(null=True)
    lon = FloatField(null=True)

    caption = TextField(null=True)
    caption_status = TextField(default="off")
    title = TextField(null=True)
    # Letters as they are, not as \u escapes: the search index reads this text.
    keywords: JSONField = JSONField(null=True, dumps=partial(json.dumps, ensure_ascii=False))
    visible_text = TextField(null=True)
    caption_model = TextField(null=True)
    caption_prompt = TextField(null=True)
    tokens_in = IntegerField(null=True)
    tokens_out = IntegerField(null=True)
    captioned_at = FloatField(null=True)
    caption_not_before = FloatField(default=0)
    caption_attempts = IntegerField(default=0)
    caption_error = TextField(null=True)
    # A model that a person asked for, "" for the configured one; None where nobody has asked.
    caption_wanted = TextField(null=True)
    # Which words a person wrote ("caption", "keywords", "caption keywords"), and when: no model ever changes those.
    edited = TextField(null=True)
    edited_at = FloatField(null=True)
    thumb_sha = TextField(null=True)
    # How many changes of this row the sidecar on disk does not show yet.
    sidecar_due = IntegerField(default=0)
    # The image beside which this row's file is being filed; the row goes when the file is there.
    companion_of = IntegerField(null=True)

    class Meta:
        table_name = "image"


class RawExif(Model):
    """Every tag of one image; apart from its row, so that pages of rows stay small."""

    image_id = IntegerField(primary_key=True)
    tags = JSONField()

    class Meta:
        table_name = "raw_exif"


class Event(Model):
    """One line of an image's history; never changed, and kept when a withdrawn image's row goes."""

    id = AutoField()
    image_id = IntegerField()
    at = FloatField()
    kind = TextField()
    detail = TextField(default="")

    class Meta:
        table_name = "event"


class Tally(Model):
    """How many images have each status, and the time they took; triggers keep it, so counting scans nothing."""

    status = TextField(primary_key=True)
    n = IntegerField()
    processing_ms = IntegerField()

    class Meta:
        table_name = "tally"


class Setting(Model):
    """What the program remembers of itself: why it is paused, on which mount a folder was."""

    key = TextField(primary_key=True)
    value = JSONField()

    class Meta:
        table_name = "setting"


class Companion(Model):
    """A file that was filed beside an image, under its stem."""

    id = AutoField()
    image_id = IntegerField()
    place = TextField()
    destination = FilenameField()
    original_name = TextField()
    folder = TextField()
    sha256 = TextField()
    size_bytes = IntegerField()
    filed_at = FloatField()

    class Meta:
        table_name = "companion"


class CaptionRequest(Model):
    """One request to a model, written before it is sent; the quota counts them."""

    id = AutoField()
    model = TextField()
    at = FloatField()

    class Meta:
        table_name = "caption_request"


MODELS: tuple[type[Model], ...] = (Image, RawExif, Event, Tally, Setting, Companion, CaptionRequest)


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
