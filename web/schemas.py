"""The shapes of the API's answers as JSON Schema, the components of the OpenAPI document."""

from typing import Any

from web.api import MAX_CAPTION, MAX_KEYWORD, MAX_KEYWORDS, STATUSES

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
