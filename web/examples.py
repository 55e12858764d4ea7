"""What the OpenAPI document shows as examples: of each answer one, made by the models of the answers themselves."""

import json
from typing import Any, NamedTuple

from pydantic import BaseModel

from daemon.catalogue import ImageEvent, ImageRow
from daemon.catalogue.schema import Cause, EventKind
from web.models import (
    BulkReceipt,
    BulkRefusal,
    CaptionReceipt,
    ErrorAnswer,
    ErrorBody,
    EventMessage,
    HealthAnswer,
    ImageDetail,
    ImagePage,
    PartAnswer,
    RetryReceipt,
    StatsAnswer,
    UnhealthyAnswer,
    UploadReceipt,
    event_message,
    image_detail,
    image_summary,
)

SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_ARRIVED = 1_714_752_000.0
_FILED = ImageEvent(_ARRIVED + 2, EventKind.DONE, place="library", path="2024/05/IMG_1234.jpg", image_id=42, id=97)
_HISTORY = [ImageEvent(_ARRIVED, EventKind.QUEUED, cause=Cause.UPLOADED, path="Alps/IMG_1234.jpg"), _FILED]
_ROW = ImageRow(
    id=42,
    status="done",
    original_name="IMG_1234.jpg",
    folder="Alps",
    source="upload",
    created_at=_ARRIVED,
    processed_at=_ARRIVED + 2,
    place="library",
    destination="2024/05/IMG_1234.jpg",
    sha256=SHA256,
    format="JPEG",
    size_bytes=3_481_234,
    width=4032,
    height=3024,
    taken_at="2024-05-01T12:34:56",
    taken_utc=1_714_559_696.0,
    zone="Europe/Zurich",
    taken_from="exif",
    camera_make="Apple",
    camera_model="iPhone 13",
    lens_model="iPhone 13 back dual wide camera 5.1mm f/1.6",
    datetime_original="2024-05-01T12:34:56+02:00",
    iso=50,
    focal_length=5.1,
    exposure_time="1/250",
    f_number=1.6,
    orientation=1,
    lat=46.547,
    lon=7.985,
    caption="A hut below a snow-covered ridge.",
    caption_status="done",
    keywords=("hut", "snow"),
    hierarchical_keywords=("Places|Switzerland|Grindelwald",),
    rating=4,
    label="Green",
)
_PARTS = {"watcher": PartAnswer(ok=True, detail="events"), "captioner": PartAnswer(ok=True, detail="on")}
_ILL = {**_PARTS, "consumer": PartAnswer(ok=False, detail="paused: library is full")}


def _as_it_is(text: str) -> str:
    return text


_STATS = StatsAnswer(
    total=1248,
    queued=3,
    processing=1,
    done=1240,
    duplicate=2,
    failed=2,
    deleted=0,
    rejected=5,
    avg_processing_time_ms=112.5,
    rate=8.2,
    seconds_left=0.5,
    progress="1,240 filed · 3 waiting · 1 in hand · 8.2 a second · 1 s left",
    captions={"done": 1180, "pending": 60},
    captions_progress="captions: 1,180 done, 60 waiting (about 8 h); 180 of 200 requests to a-model made today",
    paused=None,
    paused_since=None,
    waiting={"open for writing": 1},
    staying={},
)
EXAMPLES: dict[type[BaseModel], BaseModel] = {
    ImagePage: ImagePage(status="success", data=(image_summary(_ROW, _as_it_is),), error=None, next="42"),
    ImageDetail: image_detail(_ROW, {"Image Make": "Apple"}, _HISTORY, _as_it_is),
    UploadReceipt: UploadReceipt(image_id=42, status="queued", sha256=SHA256),
    RetryReceipt: RetryReceipt(image_id=42, status="queued"),
    CaptionReceipt: CaptionReceipt(image_id=42, caption_status="pending"),
    BulkReceipt: BulkReceipt(
        selected=312,
        changed=310,
        unchanged=1,
        refused=(BulkRefusal(image_id=17, code="not_found", message="there is no image 17"),),
        undo="fV9d3kQ1vXx8a2mB7nTzLw",
        undo_seconds=10,
    ),
    StatsAnswer: _STATS,
    EventMessage: event_message(_FILED, "done", _as_it_is),
    HealthAnswer: HealthAnswer(healthy=True, parts=_PARTS),
    UnhealthyAnswer: UnhealthyAnswer(
        status="error",
        data=HealthAnswer(healthy=False, parts=_ILL),
        error=ErrorBody(code="unhealthy", message="not well: consumer"),
    ),
}


class Refused(NamedTuple):
    """A refusal: when it comes, and what it says; without a code it is the usual one of its status."""

    when: str
    code: str = ""
    message: str = ""


_USUAL = {
    400: ("bad_request", "limit is a number from 1 to 500"),
    401: ("unauthorized", "the token is missing or wrong: Authorization: Bearer …"),
    403: ("foreign_origin", "writes from other origins are refused; see cors_origins"),
    404: ("not_found", "there is no image 42"),
    405: ("method_not_allowed", "PUT is not possible here"),
    408: ("timeout", "less than 64 KiB came in 60 seconds; send this again over a better connection"),
    409: ("conflict", "image 42 is not one that was filed"),
    413: ("too_large", "the body is larger than 256 KiB"),
    415: ("not_an_image", "notes.txt is not an image that Darkroom can read, by its first bytes"),
    416: ("bad_range", "the file has 3481234 bytes"),
    421: ("foreign_host", "'photos.example.org' is not a name of this server; add it to allowed_hosts in config.toml"),
    429: ("wrong_tokens", "too many wrong tokens from this address: try again in 4 s"),
    503: ("unavailable", "the disk or the database is at fault; /healthz and the log tell more"),
    507: ("no_room", "there is no room for this file on the disk of the inbox (min_free_mb counts, too)"),
}


def refusal(status: int, said: Refused) -> Any:
    """Return what a refusal looks like, as JSON."""
    code, message = (said.code, said.message) if said.code else _USUAL[status]
    return _plain(ErrorAnswer(status="error", data=None, error=ErrorBody(code=code, message=message)))


def example(model: type[BaseModel]) -> Any:
    """Return what an answer looks like, as JSON, in its envelope if it has one."""
    if model in EXAMPLES:
        return _plain(EXAMPLES[model])
    [data] = model.__pydantic_generic_metadata__["args"]
    return _plain(model(status="success", data=EXAMPLES[data], error=None))


def _plain(answer: BaseModel) -> Any:
    return json.loads(answer.model_dump_json())
