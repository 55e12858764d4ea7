"""The API's answers and the body that it takes, as pydantic models: both the JSON and the OpenAPI document follow.

Times are in UTC. `scrub` takes the paths of this machine's disk out of a text. The limits of answers are documented
and not checked: their values are our own, and one odd row must not cost a whole page.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from operator import not_
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from daemon.catalogue import ImageEvent, ImageRow
from daemon.catalogue.captions import MAX_CAPTION, MAX_KEYWORD, MAX_KEYWORDS, MAX_TITLE
from daemon.catalogue.history import sentence
from daemon.catalogue.schema import CaptionStatus, Status, Tags
from daemon.catalogue.stats import Stats
from daemon.files.names import display
from daemon.filing.dates import Origin

READY = ("done", "duplicate", "rejected")
MAX_HASHES = 1000
MAX_IDS = 10_000
BulkAct = Literal["count", "add_keywords", "remove_keywords", "caption", "retry", "download", "undo"]

Scrub = Callable[[str], str]
_Data = TypeVar("_Data")
_Request = TypeVar("_Request", bound=BaseModel)
_ImageId = Annotated[int, Field(json_schema_extra={"minimum": 1})]
_Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
_Moment = Annotated[str, Field(description="UTC", json_schema_extra={"format": "date-time"})]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# -- the envelope


class Success(_Answer, Generic[_Data]):
    """The answer to a call that went well."""

    status: Literal["success"]
    data: _Data
    error: None


class ErrorBody(_Answer):
    """What was refused or went wrong: `code` is for programs."""

    code: str
    message: str = Field(description="for people")


class ErrorAnswer(_Answer):
    """The answer to a call that was refused or went wrong."""

    status: Literal["error"]
    data: None
    error: ErrorBody


# -- images


class GpsPosition(_Answer):
    """Decimal degrees, north and east positive."""

    lat: float
    lon: float


class ExifFields(_Answer):
    """What a camera wrote into a photo."""

    camera_make: str | None
    camera_model: str | None
    datetime_original: str | None = Field(description="ISO 8601, with the offset where EXIF has one")
    lens_model: str | None
    iso: int | None
    focal_length: float | None = Field(description="millimetres")
    exposure_time: str | None = Field(examples=["1/250"])
    f_number: float | None
    orientation: int | None = Field(json_schema_extra={"minimum": 1, "maximum": 8})
    gps: GpsPosition | None
    raw: Annotated[dict[str, Any] | None, WithJsonSchema({"type": "object"})] = Field(
        default=None,
        exclude_if=lambda raw: raw is None,
        description="every tag; only in the answer for one image",
    )


class ImageMetadata(_Answer):
    """What an image's file says of itself."""

    width: _Count | None = Field(description="pixels, upright")
    height: _Count | None = Field(description="pixels, upright")
    format: str | None = Field(examples=["JPEG"])
    size_bytes: _Count | None
    exif: ExifFields


class ThumbnailLinks(_Answer):
    """Where the thumbnails of an image are; null while there are none."""

    small: str | None
    medium: str | None


class ImageSummary(_Answer):
    """One image, as lists show it."""

    image_id: _ImageId
    original_name: str
    status: Status
    error: str | None = Field(description="why it failed, or why the last attempt did")
    waiting: str | None = Field(description="why a queued image is not worked on yet")
    source: Literal["inbox", "upload", "library"] = Field(description="library: adopted where it lay")
    created_at: _Moment
    processed_at: _Moment | None
    taken_at: str | None = Field(description="local time, as the photographer's clock showed it; without offset")
    taken_utc: _Moment | None = Field(description="the same instant in UTC, where an offset or a place tells it")
    zone: str | None = Field(
        description="by what the instant is known: the zone of the place, or an offset",
        examples=["Europe/Berlin", "+02:00"],
    )
    taken_from: str | None = Field(description="where taken_at is from", examples=[origin.value for origin in Origin])
    caption: str | None
    caption_status: CaptionStatus
    title: str | None
    keywords: tuple[str, ...]
    hierarchical_keywords: tuple[str, ...] = Field(examples=[["Places|Italy|Rome"]])
    rating: int | None = Field(
        description="stars, or -1 for rejected, as XMP has it", json_schema_extra={"minimum": -1, "maximum": 5}
    )
    label: str | None = Field(description="a colour, mostly, as XMP has it", examples=["Red"])
    duplicate_of: _ImageId | None
    library_path: str | None = Field(description="relative to the library")
    removed_at: _Moment | None = Field(description="when it was thrown away, or found to be deleted")
    thumbnails: ThumbnailLinks
    metadata: ImageMetadata


class HistoryLine(_Answer):
    """One thing that happened to an image; `detail` is for people."""

    at: _Moment
    event: str
    detail: str


class ImageDetail(ImageSummary):
    """Everything about one image."""

    warning: str | None
    visible_text: str | None
    history: tuple[HistoryLine, ...]


class ImagePage(_Answer):
    """One page of a list, newest first; `next` is the cursor of the page that follows."""

    status: Literal["success"]
    data: tuple[ImageSummary, ...]
    error: None
    next: str | None


class EventMessage(_Answer):
    """One thing that happened, in the event stream; `status` is what the image has now, null where it is gone."""

    image_id: _ImageId
    at: _Moment
    event: str
    detail: str
    status: Status | None


# -- what is done with images


class UploadReceipt(_Answer):
    """What became of an upload: queued, or known already."""

    image_id: _ImageId
    status: Status
    sha256: str = Field(description="of the bytes that arrived", json_schema_extra={"pattern": "^[0-9a-f]{64}$"})
    duplicate: bool = Field(
        default=False,
        exclude_if=not_,
        description="these bytes are filed, or queued, already",
        json_schema_extra={"const": True},
    )


UploadReceipts = Annotated[tuple[UploadReceipt, ...], Field(json_schema_extra={"minItems": 2})]
"""The answer to several files in one form."""


class RetryReceipt(_Answer):
    """A failed image that is queued again."""

    image_id: _ImageId
    status: Status


class BulkRefusal(_Answer):
    """An image that was left as it is; `code` is for programs."""

    image_id: _ImageId
    code: str
    message: str


class BulkReceipt(_Answer):
    """What became of an act on many images; those that are in neither count were refused."""

    selected: _Count = Field(description="images that were meant")
    changed: _Count
    unchanged: _Count = Field(description="images that were so already")
    refused: tuple[BulkRefusal, ...] = Field(description="some of them, where there are many")
    undo: str | None = Field(description="undoes it; null where it can't be undone")
    undo_seconds: _Count = Field(description="for so long")


class CaptionReceipt(_Answer):
    """An image for which a model is asked for a caption."""

    image_id: _ImageId
    caption_status: CaptionStatus


def _once_each(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


class CaptionEdit(BaseModel):
    """A person's words; what is not mentioned stays as it is."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={
            "minProperties": 1,
            "examples": [{"caption": "Grandma's garden in May", "keywords": ["garden", "May"]}],
        },
    )

    caption: Annotated[str, Field(max_length=MAX_CAPTION)] | None = Field(
        default=None, description=f"null or a text of at most {MAX_CAPTION} characters"
    )
    keywords: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_KEYWORD)], ...], AfterValidator(_once_each)
    ] = Field(
        default=(),
        max_length=MAX_KEYWORDS,
        strict=False,  # JSON has lists and no tuples
        description=f"a list of at most {MAX_KEYWORDS} texts of 1 to {MAX_KEYWORD} characters",
    )

    title: Annotated[str, Field(max_length=MAX_TITLE)] | None = Field(
        default=None, description=f"null or a text of at most {MAX_TITLE} characters"
    )
    rating: Annotated[int, Field(ge=-1, le=5)] | None = Field(
        default=None, description="null, a number of stars from 0 to 5, or -1 for rejected"
    )
    label: Annotated[str, Field(max_length=MAX_KEYWORD)] | None = Field(
        default=None, description=f"null or a text of at most {MAX_KEYWORD} characters"
    )

    @model_validator(mode="after")
    def _mentions_something(self) -> "CaptionEdit":
        if not self.model_fields_set:
            raise ValueError("nothing is mentioned")
        return self


class KnownRequest(BaseModel):
    """Hashes of files that a client might send."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"sha256": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]}]
        },
    )

    sha256: tuple[Annotated[str, Field(pattern="^[0-9A-Fa-f]{64}$")], ...] = Field(
        max_length=MAX_HASHES,
        strict=False,
        description=f"a list of at most {MAX_HASHES} hashes of 64 hexadecimal digits each",
    )


class BulkRequest(BaseModel):
    """One act on many images: on those of some ids, or on all that pass a filter."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"act": "count", "filter": {"q": "lighthouse", "status": "done"}},
                {"act": "add_keywords", "filter": {"folder": "Alps"}, "expected": 312, "keywords": ["Alps"]},
                {"act": "undo", "undo": "fV9d3kQ1vXx8a2mB7nTzLw"},
                {"act": "download", "ids": [17, 42], "sidecars": True},
            ]
        },
    )

    act: BulkAct = Field(description=f"one of {', '.join(get_args(BulkAct))}")
    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] | None = Field(
        default=None,
        max_length=MAX_IDS,
        strict=False,
        description=f"a list of at most {MAX_IDS} ids; more by a filter",
    )
    filter: dict[str, str | bool | int] | None = Field(
        default=None, description="an object with the names and values of the query of GET /api/images"
    )
    expected: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="the number of images that a person was told; with another nothing is done"
    )
    keywords: tuple[Annotated[str, Field(min_length=1, max_length=MAX_KEYWORD)], ...] = Field(
        default=(),
        max_length=MAX_KEYWORDS,
        strict=False,
        description=f"a list of at most {MAX_KEYWORDS} texts of 1 to {MAX_KEYWORD} characters",
    )
    sidecars: bool = Field(default=False, description="true or false: in a download, the sidecars, too")
    undo: str | None = Field(default=None, description="what the answer to the act that is undone had as its `undo`")


def request_of(model: type[_Request], body: object) -> _Request:
    """Return what a JSON body asks for. Raises ValueError saying, for people, what is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        fields = model.model_fields
        wrong = [str(fault["loc"][0]) if fault["loc"] else "" for fault in error.errors(include_url=False)]
        if set(wrong) <= set(fields):
            raise ValueError(f"{wrong[0]} is {fields[wrong[0]].description}") from None
        known = ", ".join(f"`{name}`" for name in fields)
        raise ValueError(f"the body names one or more of {known}, and nothing else") from None


# -- the whole


class StatsAnswer(_Answer):
    """The counts, how fast it goes, and what is paused."""

    total: _Count
    queued: _Count
    processing: _Count
    done: _Count
    duplicate: _Count
    failed: _Count
    deleted: _Count = Field(description="gone from the library; not in total")
    rejected: _Count = Field(description="thrown away; not in total")
    avg_processing_time_ms: float | None
    rate: float = Field(description="images a second, over the last minutes")
    seconds_left: float | None = Field(description="for the queue, at that rate")
    progress: str = Field(description="how it goes", examples=["4,200 filed · 312 waiting · 3.1 a second · 2 min left"])
    captions: dict[str, _Count] = Field(description="filed images by status")
    captions_progress: str = Field(
        examples=[
            "captions: 40 done, 312 waiting (about 2 days); 180 of 200 requests to gemini-flash-lite-latest made today"
        ]
    )
    paused: str | None = Field(description="why the queue is paused")
    paused_since: _Moment | None
    waiting: dict[str, _Count] = Field(description="reasons and how many wait")
    staying: dict[str, _Count] = Field(description="reasons why filed ones can't leave the inbox, and how many")


class PartAnswer(_Answer):
    """Whether one part of the program is well; `detail` is for people."""

    ok: bool
    detail: str


class HealthAnswer(_Answer):
    """Whether every part of the program is well."""

    healthy: bool
    parts: dict[str, PartAnswer]


class UnhealthyAnswer(_Answer):
    """The answer of the health check where a part is not well."""

    status: Literal["error"]
    data: HealthAnswer
    error: ErrorBody


# -- made of what the catalogue has


def moment(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def image_summary(row: ImageRow, scrub: Scrub) -> ImageSummary:
    """Return an image as lists show it."""
    return ImageSummary(**_fields(row, scrub, None))


def image_detail(row: ImageRow, raw: Tags, history: list[ImageEvent], scrub: Scrub) -> ImageDetail:
    """Return everything about an image."""
    return ImageDetail(
        **_fields(row, scrub, dict(raw)),
        warning=_scrubbed(row.warning, scrub),
        visible_text=row.visible_text,
        history=tuple(
            HistoryLine(at=moment(event.at), event=event.kind.value, detail=scrub(sentence(event))) for event in history
        ),
    )


def event_message(event: ImageEvent, status: Status | None, scrub: Scrub) -> EventMessage:
    """Return an event as the stream sends it."""
    return EventMessage(
        image_id=event.image_id,
        at=moment(event.at),
        event=event.kind.value,
        detail=scrub(sentence(event)),
        status=status,
    )


def stats_answer(stats: Stats, captions: Mapping[str, int], captions_progress: str, scrub: Scrub) -> StatsAnswer:
    """Return the counts; `captions` are those of the filed images, by status."""
    return StatsAnswer(
        total=stats.total,
        **stats.counts,
        avg_processing_time_ms=stats.avg_processing_time_ms,
        rate=round(stats.rate, 3),
        seconds_left=stats.seconds_left,
        progress=" · ".join(_progress(stats)),
        captions=dict(captions),
        captions_progress=scrub(captions_progress),
        paused=_scrubbed(stats.paused, scrub),
        paused_since=None if stats.paused_since is None else moment(stats.paused_since),
        waiting={scrub(reason): n for reason, n in stats.waiting.items()},
        staying={scrub(reason): n for reason, n in stats.staying.items()},
    )


def _progress(stats: Stats) -> Iterator[str]:
    """Yield the parts of the line that says how it goes."""
    yield f"{stats.counts['done']:,} filed"
    if stats.counts["queued"]:
        yield f"{stats.counts['queued']:,} waiting"
    if stats.counts["processing"]:
        yield f"{stats.counts['processing']:,} in hand"
    if stats.left and stats.rate:
        yield f"{stats.rate:.1f} a second"
        if stats.seconds_left is not None:
            yield f"{_duration(stats.seconds_left)} left"


def _duration(seconds: float) -> str:
    """Return a length of time for people, rounded up."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{round(minutes / 60)} h"


def has_thumbnails(row: ImageRow) -> bool:
    """Return whether an image has thumbnails by now: of a kind without a decoder there are no pixels, and none."""
    return row.status in READY and row.width is not None


def _fields(row: ImageRow, scrub: Scrub, raw: dict[str, object] | None) -> dict[str, Any]:
    filed = row.place == "library" and row.status == "done"
    links = f"/api/images/{row.id}/thumbnails" if has_thumbnails(row) else None
    return {
        "image_id": row.id,
        "original_name": row.original_name,
        "status": row.status,
        "error": _scrubbed(row.error, scrub),
        "waiting": _scrubbed(row.waiting_text, scrub),
        "source": row.source,
        "created_at": moment(row.created_at),
        "processed_at": None if row.processed_at is None else moment(row.processed_at),
        "taken_at": row.taken_at,
        "taken_utc": None if row.taken_utc is None else moment(row.taken_utc),
        "zone": row.zone,
        "taken_from": row.taken_from,
        "caption": row.caption,
        "caption_status": row.caption_status,
        "title": row.title,
        "keywords": row.keywords or (),
        "hierarchical_keywords": row.hierarchical_keywords or (),
        "rating": row.rating,
        "label": row.label,
        "removed_at": None if row.removed_at is None else moment(row.removed_at),
        "duplicate_of": row.duplicate_of,
        "library_path": display(row.destination) if filed and row.destination else None,
        "thumbnails": ThumbnailLinks(
            small=links and f"{links}/small",
            medium=links and f"{links}/medium",
        ),
        "metadata": _metadata(row, raw),
    }


def _metadata(row: ImageRow, raw: dict[str, object] | None) -> ImageMetadata:
    return ImageMetadata(
        width=row.width,
        height=row.height,
        format=row.format,
        size_bytes=row.size_bytes,
        exif=ExifFields(
            camera_make=row.camera_make,
            camera_model=row.camera_model,
            datetime_original=row.datetime_original,
            lens_model=row.lens_model,
            iso=row.iso,
            focal_length=row.focal_length,
            exposure_time=row.exposure_time,
            f_number=row.f_number,
            orientation=row.orientation,
            gps=None if row.lat is None or row.lon is None else GpsPosition(lat=row.lat, lon=row.lon),
            raw=raw,
        ),
    )


def _scrubbed(text: str | None, scrub: Scrub) -> str | None:
    return None if text is None else scrub(text)
