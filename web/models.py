"""The API's answers: the field names of the contract, times in UTC, nothing of this machine's disk."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from daemon.catalogue.stats import Stats
from daemon.files.names import display
from web.context import Context

READY = ("done", "duplicate")
STATUSES = ("queued", "processing", "done", "duplicate", "failed")
MAX_CAPTION, MAX_KEYWORDS, MAX_KEYWORD = 10_000, 200, 200


def moment(seconds: float | None) -> str | None:
    """Write seconds since 1970 as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summary(context: Context, row: Mapping[str, Any]) -> dict[str, Any]:
    """Give an image as lists show it."""
    filed = row["place"] == "library" and row["status"] == "done"
    return {
        "image_id": row["id"],
        "original_name": row["original_name"],
        "status": row["status"],
        "error": _scrubbed(context, row["error"]),
        "waiting": _scrubbed(context, row["waiting"]),
        "source": row["source"],
        "created_at": moment(row["created_at"]),
        "processed_at": moment(row["processed_at"]),
        "taken_at": row["taken_at"],
        "caption": row["caption"],
        "caption_status": row["caption_status"],
        "title": row["title"],
        "keywords": row["keywords"] or [],
        "duplicate_of": row["duplicate_of"],
        "library_path": display(row["destination"]) if filed and row["destination"] else None,
        "thumbnails": _thumbnails(row),
        "metadata": _metadata(row),
    }


def detail(
    context: Context, row: Mapping[str, Any], raw: Mapping[str, Any], history: list[dict[str, Any]]
) -> dict[str, Any]:
    """Give all of an image."""
    shown = summary(context, row)
    shown["metadata"]["exif"]["raw"] = raw
    shown["warning"] = _scrubbed(context, row["warning"])
    shown["visible_text"] = row["visible_text"]
    shown["history"] = [
        {"at": moment(line["at"]), "event": line["event"], "detail": context.scrub(line["detail"])} for line in history
    ]
    return shown


def stats(context: Context, now: Stats, captions: Mapping[str, int]) -> dict[str, Any]:
    """Give the counts; the rate is in images a second."""
    return {
        "total": now.total,
        **{status: now.counts[status] for status in ("queued", "processing", "done", "duplicate", "failed")},
        "avg_processing_time_ms": now.avg_processing_time_ms,
        "rate": round(now.rate, 3),
        "seconds_left": now.seconds_left,
        "captions": captions,
        "captions_progress": context.scrub(context.captions_line()),
        "paused": _scrubbed(context, now.paused),
        "paused_since": moment(now.paused_since),
        "waiting": {context.scrub(reason): n for reason, n in now.waiting.items()},
    }


def event(context: Context, line: Mapping[str, Any]) -> dict[str, Any]:
    """Give one line of the event stream."""
    return {
        "image_id": line["image_id"],
        "at": moment(line["at"]),
        "event": line["event"],
        "detail": context.scrub(line["detail"]),
        "status": line["status"],
    }


def _thumbnails(row: Mapping[str, Any]) -> dict[str, str | None]:
    base = f"/api/images/{row['id']}/thumbnails"
    ready = row["status"] in READY
    return {size: f"{base}/{size}" if ready else None for size in ("small", "medium")}


def _metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    exif = {
        key: row[key]
        for key in (
            *("camera_make", "camera_model", "datetime_original", "lens_model", "iso", "focal_length"),
            *("exposure_time", "f_number", "orientation"),
        )
    }
    place = None if row["lat"] is None or row["lon"] is None else {"lat": row["lat"], "lon": row["lon"]}
    return {
        "width": row["width"],
        "height": row["height"],
        "format": row["format"],
        "size_bytes": row["size_bytes"],
        "exif": {**exif, "gps": place},
    }


def _scrubbed(context: Context, text: str | None) -> str | None:
    return None if text is None else context.scrub(text)


Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """Point at a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    """Allow null: the value is not known, or not there (yet)."""
    if "$ref" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def record(properties: dict[str, Schema], optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """Describe an object with these properties and no others; all are there but the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
        **more,
    }


def envelope(data: Schema, **beside: Schema) -> Schema:
    """Put the envelope of a success around a shape."""
    return record({"status": {"const": "success"}, "data": data, "error": {"type": "null"}, **beside})


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_MOMENT: Schema = {"type": "string", "format": "date-time", "description": "UTC"}
_ID: Schema = {"type": "integer", "minimum": 1}
_STATUS: Schema = {"type": "string", "enum": list(STATUSES)}
_ORIENTATION: Schema = {"type": "integer", "minimum": 1, "maximum": 8}

_EXIF: dict[str, Schema] = {
    "camera_make": maybe(_TEXT),
    "camera_model": maybe(_TEXT),
    "datetime_original": maybe({**_TEXT, "description": "ISO 8601, with the offset where EXIF has one"}),
    "lens_model": maybe(_TEXT),
    "iso": maybe({"type": "integer"}),
    "focal_length": maybe({**_NUMBER, "description": "millimetres"}),
    "exposure_time": maybe({**_TEXT, "examples": ["1/250"]}),
    "f_number": maybe(_NUMBER),
    "orientation": maybe(_ORIENTATION),
    "gps": maybe(ref("Place")),
    "raw": {"type": "object", "description": "every tag; only in the answer for one image"},
}
_METADATA: dict[str, Schema] = {
    "width": maybe({**_COUNT, "description": "pixels, upright"}),
    "height": maybe({**_COUNT, "description": "pixels, upright"}),
    "format": maybe({**_TEXT, "examples": ["JPEG"]}),
    "size_bytes": maybe(_COUNT),
    "exif": record(_EXIF, optional=("raw",)),
}
_IMAGE: dict[str, Schema] = {
    "image_id": _ID,
    "original_name": _TEXT,
    "status": _STATUS,
    "error": maybe({**_TEXT, "description": "why it failed, or why the last attempt did"}),
    "waiting": maybe({**_TEXT, "description": "why a queued image is not worked on yet"}),
    "source": {"type": "string", "enum": ["inbox", "upload"]},
    "created_at": _MOMENT,
    "processed_at": maybe(_MOMENT),
    "taken_at": maybe({**_TEXT, "description": "local time, from EXIF, else the name, else the file"}),
    "caption": maybe(_TEXT),
    "caption_status": {"type": "string", "enum": ["off", "pending", "done", "blocked", "failed", "private"]},
    "title": maybe(_TEXT),
    "keywords": {"type": "array", "items": _TEXT},
    "duplicate_of": maybe(_ID),
    "library_path": maybe({**_TEXT, "description": "relative to the library"}),
    "thumbnails": record({"small": maybe(_TEXT), "medium": maybe(_TEXT)}),
    "metadata": record(_METADATA),
}
_HISTORY: Schema = {"type": "array", "items": record({"at": _MOMENT, "event": _TEXT, "detail": _TEXT})}

SCHEMAS: dict[str, Schema] = {
    "Error": record(
        {
            "status": {"const": "error"},
            "data": {"type": "null"},
            "error": record({"code": _TEXT, "message": {**_TEXT, "description": "for people"}}),
        }
    ),
    "Place": record({"lat": _NUMBER, "lon": _NUMBER}, description="decimal degrees, north and east positive"),
    "Receipt": record(
        {
            "image_id": _ID,
            "status": _STATUS,
            "duplicate": {"const": True, "description": "these bytes are filed, or queued, already"},
        },
        optional=("duplicate",),
    ),
    "Image": record(_IMAGE),
    "ImageDetail": record({**_IMAGE, "warning": maybe(_TEXT), "visible_text": maybe(_TEXT), "history": _HISTORY}),
    "Words": record(
        {
            "caption": {"type": ["string", "null"], "maxLength": MAX_CAPTION},
            "keywords": {
                "type": "array",
                "maxItems": MAX_KEYWORDS,
                "items": {"type": "string", "minLength": 1, "maxLength": MAX_KEYWORD},
            },
        },
        optional=("caption", "keywords"),
        minProperties=1,
        examples=[{"caption": "Grandma's garden in May", "keywords": ["garden", "May"]}],
    ),
    "Stats": record(
        {
            "total": _COUNT,
            **dict.fromkeys(STATUSES, _COUNT),
            "avg_processing_time_ms": maybe(_NUMBER),
            "rate": {**_NUMBER, "description": "images a second, over the last minutes"},
            "seconds_left": maybe({**_NUMBER, "description": "for the queue, at that rate"}),
            "captions": {"type": "object", "additionalProperties": _COUNT, "description": "filed images by status"},
            "captions_progress": {
                **_TEXT,
                "examples": ["captioned 180 of 200 today, 312 waiting, done in about 2 days"],
            },
            "paused": maybe({**_TEXT, "description": "why the queue is paused"}),
            "paused_since": maybe(_MOMENT),
            "waiting": {"type": "object", "additionalProperties": _COUNT, "description": "reasons and how many wait"},
        }
    ),
    "Health": record(
        {
            "healthy": {"type": "boolean"},
            "parts": {
                "type": "object",
                "additionalProperties": record({"ok": {"type": "boolean"}, "detail": _TEXT}),
            },
        }
    ),
}
