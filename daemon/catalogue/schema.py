"""The tables as peewee sees them (schema.sql makes them), and the typed rows in which their values leave."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from peewee import AutoField, CompositeKey, FloatField, IntegerField, Model, TextField

from daemon.catalogue.database import CURRENT, CodeField, FilenameField, JsonField, WordsField
from daemon.errors import FailureReason, WaitingReason

Status = Literal["queued", "processing", "done", "duplicate", "failed", "deleted", "rejected"]
Final = Literal["done", "duplicate", "failed", "rejected"]
Place = Literal["library", "duplicates", "failed", "trash"]
CaptionStatus = Literal["off", "pending", "done", "blocked", "failed", "private"]
Tags = Mapping[str, object]
"""Every EXIF tag of an image, as JSON values."""

STATUSES: tuple[Status, ...] = ("queued", "processing", "done", "duplicate", "failed", "deleted", "rejected")
REMOVED: tuple[Status, ...] = ("deleted", "rejected")
"""What its owner took away: only who asks for it is shown it."""
CAPTION_STATUSES: tuple[CaptionStatus, ...] = ("off", "pending", "done", "blocked", "failed", "private")
FINAL: dict[Place, Final] = {
    "library": "done",
    "duplicates": "duplicate",
    "failed": "failed",
    "trash": "rejected",
}


class EventKind(StrEnum):
    """What can happen to an image."""

    QUEUED = "queued"
    POSTPONED = "postponed"
    RETRY = "retry"
    RENAMED = "renamed"
    WITHDRAWN = "withdrawn"
    DONE = "done"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    LOST = "lost"
    COMPANION = "companion"
    EDITED = "edited"
    CAPTION_ASKED = "caption asked"
    CAPTIONED = "captioned"
    CAPTION_BLOCKED = "caption blocked"
    CAPTION_FAILED = "caption failed"
    CAPTION_PRIVATE = "caption private"
    CAPTION_OFF = "caption off"
    SIDECAR = "sidecar"
    UNDONE = "undone"
    ORIGINAL_GONE = "original gone"
    CHANGED = "changed"
    MOVED = "moved"
    DELETED = "deleted"
    REJECTED = "rejected"
    RESTORED = "restored"
    ADOPTED = "adopted"
    PURGED = "purged"
    GIVEN_BACK = "given back"
    REFILED = "refiled"


class Cause(StrEnum):
    """How it came about, where a kind of event has several ways; a postponed one has its WaitingReason instead."""

    FOUND = "found"
    UPLOADED = "uploaded"
    CHANGED = "changed"
    ASKED = "asked"
    DELETED = "deleted"
    BESIDE = "beside"
    CAME_WITH = "came with"
    SIDECAR = "sidecar"
    TAKEOUT = "takeout"
    PHOTO = "photo"
    ROTTEN = "rotten"
    TAKEN_BACK = "taken back"


@dataclass(frozen=True)
class ImageEvent:
    """One line of an image's history (times in seconds since 1970); `history.sentence` says it in words.

    `id` grows over all images, and is 0 before it is written. `path` is relative to the inbox or to
    `place`, `other_id` another image that has to do with it, `text` an error, a name, a model.
    """

    at: float
    kind: EventKind
    cause: str | None = None
    place: Place | None = None
    path: str | None = None
    other_id: int | None = None
    text: str | None = None
    image_id: int = 0
    id: int = 0


@dataclass(frozen=True)
class ImageRow:
    """One image: the columns of schema.sql, which says what each is. `ImageRow(**row.__data__)` makes it of a row."""

    id: int = 0
    status: Status = "queued"
    path: str | None = None
    original_name: str = ""
    folder: str = ""
    source: str = "inbox"
    created_at: float = 0.0
    arrived_on: str | None = None
    not_before: float = 0.0
    attempts: int = 0
    rank: int = 0
    token: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    inode: int | None = None
    ctime_ns: int | None = None
    quiet_since: float | None = None
    waiting: WaitingReason | None = None
    waiting_detail: str | None = None
    claimed_at: float | None = None
    processed_at: float | None = None
    processing_ms: int | None = None
    error: str | None = None
    failure: FailureReason | None = None
    warning: str | None = None
    place: Place | None = None
    destination: str | None = None
    duplicate_of: int | None = None
    removed_at: float | None = None
    removed_from: str | None = None
    sha256: str | None = None
    filed_sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    colour: int | None = None
    taken_at: str | None = None
    taken_from: str | None = None
    taken_utc: float | None = None
    zone: str | None = None
    taken_order: float | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    lens_model: str | None = None
    datetime_original: str | None = None
    iso: int | None = None
    focal_length: float | None = None
    exposure_time: str | None = None
    f_number: float | None = None
    orientation: int | None = None
    lat: float | None = None
    lon: float | None = None
    caption: str | None = None
    caption_status: CaptionStatus = "off"
    title: str | None = None
    keywords: tuple[str, ...] | None = None
    hierarchical_keywords: tuple[str, ...] | None = None
    rating: int | None = None
    label: str | None = None
    visible_text: str | None = None
    caption_model: str | None = None
    caption_prompt: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    captioned_at: float | None = None
    caption_not_before: float = 0.0
    caption_attempts: int = 0
    caption_error: str | None = None
    caption_wanted: str | None = None
    edited: str | None = None
    edited_at: float | None = None
    thumb_sha: str | None = None
    sidecar_due: int = 0
    sidecar_size: int | None = None
    sidecar_mtime_ns: int | None = None
    companion_of: int | None = None

    @property
    def waiting_text(self) -> str | None:
        """The reason why a queued image is not worked on yet, for people."""
        return None if self.waiting is None else self.waiting.sentence(self.waiting_detail or "")


@dataclass(frozen=True)
class Job:
    """A claimed row; its values are those of the claim.

    `path` is relative to the inbox, `folder` that of it, "" for the inbox itself; `token` makes the file's hidden name.
    """

    id: int
    path: str
    folder: str
    original_name: str
    source: str
    created_at: float
    attempts: int
    size: int | None
    mtime_ns: int | None
    quiet_since: float | None
    claimed_at: float
    token: str = ""
    waiting: WaitingReason | None = None
    waiting_detail: str = ""
    place: Place | None = None
    destination: str | None = None
    sha256: str | None = None
    error: str | None = None
    failure: FailureReason | None = None
    companion_of: int | None = None


@dataclass(frozen=True)
class Facts:
    """What a row learns when its file is filed.

    None is not known. It leaves a column as it is, but for those of a decoded image (`format` is known), and for
    `error`, `failure`, `duplicate_of` and `companion_of`, which are what the newest plan says.
    """

    sha256: str | None = None
    size_bytes: int | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    colour: int | None = None
    warning: str | None = None
    taken_at: str | None = None
    taken_from: str | None = None
    taken_utc: float | None = None
    zone: str | None = None
    taken_order: float | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    lens_model: str | None = None
    datetime_original: str | None = None
    iso: int | None = None
    focal_length: float | None = None
    exposure_time: str | None = None
    f_number: float | None = None
    orientation: int | None = None
    lat: float | None = None
    lon: float | None = None
    error: str | None = None
    failure: FailureReason | None = None
    duplicate_of: int | None = None
    companion_of: int | None = None
    caption_status: CaptionStatus | None = None
    keywords: tuple[str, ...] | None = None
    raw: Tags | None = None

    def fill(self, row: ImageRow) -> ImageRow:
        """Return a row with those facts that it does not have yet."""
        known = {name: value for name, value in vars(self).items() if name != "raw"}
        return replace(row, **{name: value for name, value in known.items() if getattr(row, name) is None})


@dataclass(frozen=True)
class Twin:
    """An image that has, or had, certain bytes; `path` is where it lies in the library, where it still does.

    `kind` is "filed" where it has them now, "edited" where its owner has edited them since, or how they were removed.
    """

    id: int
    kind: Literal["filed", "edited", "deleted", "rejected"]
    path: str | None
    size: int | None
    mtime_ns: int | None
    removed_at: float | None


@dataclass(frozen=True)
class Past:
    """What is known of some bytes.

    `folders` are those of the inbox and of the library in which they were before they were moved out, deleted, thrown
    away or edited.
    """

    twin: Twin | None
    folders: frozenset[str]


@dataclass(frozen=True)
class SidecarLook:
    """How a sidecar looks to stat; `mtime_ns` in nanoseconds since 1970. Another look is somebody else's change."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Upload:
    """A file that has arrived whole; `size` is in bytes, `mtime_ns` nanoseconds since 1970."""

    original_name: str
    size: int
    mtime_ns: int
    sha256: str


class _Base(Model):
    class Meta:
        database = CURRENT


class Image(_Base):
    """One photo. Times are seconds since 1970, sizes bytes."""

    id = AutoField()
    status = TextField(default="queued")
    path = FilenameField(null=True)
    original_name = TextField()
    folder = TextField(default="")
    source = TextField(default="inbox")
    created_at = FloatField()
    arrived_on = TextField(null=True)
    not_before = FloatField()
    attempts = IntegerField(default=0)
    rank = IntegerField(default=0)
    token = TextField(null=True)
    size_bytes = IntegerField(null=True)
    mtime_ns = IntegerField(null=True)
    inode = IntegerField(null=True)
    ctime_ns = IntegerField(null=True)
    quiet_since = FloatField(null=True)
    waiting = CodeField(WaitingReason, null=True)
    waiting_detail = TextField(null=True)
    claimed_at = FloatField(null=True)
    processed_at = FloatField(null=True)
    processing_ms = IntegerField(null=True)
    error = TextField(null=True)
    failure = CodeField(FailureReason, null=True)
    warning = TextField(null=True)

    place = TextField(null=True)
    destination = FilenameField(null=True)
    duplicate_of = IntegerField(null=True)
    removed_at = FloatField(null=True)
    removed_from = FilenameField(null=True)

    sha256 = TextField(null=True)
    filed_sha256 = TextField(null=True)
    format = TextField(null=True)
    width = IntegerField(null=True)
    height = IntegerField(null=True)
    colour = IntegerField(null=True)
    taken_at = TextField(null=True)
    taken_from = TextField(null=True)
    taken_utc = FloatField(null=True)
    zone = TextField(null=True)
    taken_order = FloatField(null=True)
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
    keywords = WordsField(null=True)
    hierarchical_keywords = WordsField(null=True)
    rating = IntegerField(null=True)
    label = TextField(null=True)
    visible_text = TextField(null=True)
    caption_model = TextField(null=True)
    caption_prompt = TextField(null=True)
    tokens_in = IntegerField(null=True)
    tokens_out = IntegerField(null=True)
    captioned_at = FloatField(null=True)
    caption_not_before = FloatField(default=0)
    caption_attempts = IntegerField(default=0)
    caption_error = TextField(null=True)
    caption_wanted = TextField(null=True)
    edited = TextField(null=True)
    edited_at = FloatField(null=True)
    thumb_sha = TextField(null=True)
    sidecar_due = IntegerField(default=0)
    sidecar_size = IntegerField(null=True)
    sidecar_mtime_ns = IntegerField(null=True)
    companion_of = IntegerField(null=True)

    class Meta:
        table_name = "image"


class RawExif(_Base):
    """Every tag of one image; apart from its row, so that pages of rows stay small."""

    image_id = IntegerField(primary_key=True)
    tags = JsonField()

    class Meta:
        table_name = "raw_exif"


class Event(_Base):
    """One line of an image's history; never changed, and kept when a withdrawn image's row goes."""

    id = AutoField()
    image_id = IntegerField()
    at = FloatField()
    kind = CodeField(EventKind)
    cause = TextField(null=True)
    place = TextField(null=True)
    path = FilenameField(null=True)
    other_id = IntegerField(null=True)
    text = TextField(null=True)

    class Meta:
        table_name = "event"


class Tally(_Base):
    """How many images have each status, the time they took and their bytes."""

    status = TextField(primary_key=True)
    n = IntegerField()
    processing_ms = IntegerField()
    size_bytes = IntegerField()

    class Meta:
        table_name = "tally"


class Facet(_Base):
    """How many filed images have one value of what people choose by."""

    kind = TextField()
    value = TextField()
    n = IntegerField()

    class Meta:
        table_name = "facet"
        primary_key = CompositeKey("kind", "value")


class Setting(_Base):
    """What the program remembers of itself: why it is paused, on which mount a folder was."""

    key = TextField(primary_key=True)
    value = JsonField()

    class Meta:
        table_name = "setting"


class Session(_Base):
    """A browser that has signed in, by its session's hash."""

    hash = TextField(primary_key=True)
    token = TextField()
    address = TextField()
    created_at = FloatField()
    expires_at = FloatField()

    class Meta:
        table_name = "session"


class Companion(_Base):
    """A file that was filed beside an image, under its stem."""

    id = AutoField()
    image_id = IntegerField()
    place = TextField()
    destination = FilenameField()
    original_name = TextField()
    folder = TextField()
    sha256 = TextField()
    size_bytes = IntegerField()
    mtime_ns = IntegerField(null=True)
    filed_at = FloatField()

    class Meta:
        table_name = "companion"


class CaptionRequest(_Base):
    """One request to a model, written before it is sent; the quota counts them."""

    id = AutoField()
    model = TextField()
    at = FloatField()

    class Meta:
        table_name = "caption_request"
