"""The OpenAPI 3.1 document: the operations stand here, what they answer in models.py.

A test holds the document to the routes, and another the answers to it.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from starlette.requests import Request
from starlette.responses import Response

from daemon import version
from daemon.catalogue.facets import MONTH
from daemon.catalogue.schema import CAPTION_STATUSES, STATUSES
from daemon.filing.thumbnail_store import SIZES
from web.api import MAX_PAGE, MAX_QUERY, PAGE
from web.bulk import UNDO_SECONDS
from web.context import Json
from web.digests import FIELD
from web.examples import SHA256, Refused, example, refusal
from web.models import (
    BulkReceipt,
    BulkRequest,
    CaptionEdit,
    CaptionReceipt,
    ErrorAnswer,
    EventMessage,
    HealthAnswer,
    ImageDetail,
    ImagePage,
    KnownRequest,
    RetryReceipt,
    StatsAnswer,
    Success,
    UnhealthyAnswer,
    UploadReceipt,
    UploadReceipts,
)
from web.source_file import MAX_VALUE

Schema = dict[str, Any]
"""A part of the document, which is JSON."""

SEARCHED = "names, folders, cameras, lenses, captions, titles, keywords and text in the picture"
"""What the words of a search are looked for in."""

_ANYWHERE: dict[int, str | Refused] = {
    400: "malformed: the message says what",
    401: "the token is missing or wrong",
    421: "the Host header names another server",
    429: "too many wrong tokens from this address; Retry-After says for how long no other is looked at",
    503: "a disk or the database is at fault",
}
_ON_WRITES: dict[int, str | Refused] = {403: "the Origin is another page's", 413: "the body is too large"}
_BYTES: Schema = {"type": "string", "format": "binary"}
_PAGE_EXAMPLE = "<!doctype html>…"


class _PlainSchemas(GenerateJsonSchema):
    """Leaves out what a reader has no use for: titles that repeat the names, and defaults of what may be absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        made.pop("title", None)
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def inline(model: type[BaseModel], mode: Literal["serialization", "validation"] = "serialization") -> Schema:
    """Return a model's schema; those that it refers to are in `$defs`, from where `build` takes them."""
    return model.model_json_schema(
        mode=mode, ref_template="#/components/schemas/{model}", schema_generator=_PlainSchemas
    )


def ref(model: type[BaseModel], mode: Literal["serialization", "validation"] = "serialization") -> Schema:
    """Return a reference to a model's schema, with the schema in `$defs`."""
    schema = inline(model, mode)
    others = schema.pop("$defs", {})
    name = model.__name__
    return {"$ref": f"#/components/schemas/{name}", "$defs": {**others, name: schema}}


def call(
    summary: str,
    answers: dict[int, Any],
    refusals: Mapping[int, str | Refused] | None = None,
    parameters: list[Schema] | None = None,
    *,
    body: Schema | None = None,
    security: bool = True,
    is_page: bool = False,
) -> Schema:
    """Return one operation: what it answers, and how it may refuse.

    One without `security` is open to all, and has to cope with a missing body, too. What `is_page` refuses by pages,
    but for what is refused before it is known which one is wanted.
    """
    writes = _ON_WRITES if 202 in answers or body else {}
    said = {**_ANYWHERE, **writes, **(refusals or {})}
    refused = {status: _refused(status, one, is_page=is_page) for status, one in said.items()}
    operation: Schema = {
        "summary": summary,
        "responses": {str(code): response for code, response in sorted({**refused, **answers}.items())},
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": security, "content": body}
    if not security:
        operation["security"] = []
    return operation


def _refused(status: int, said: str | Refused, *, is_page: bool) -> Schema:
    """Return the answer of a refusal, with an example."""
    one = Refused(said) if isinstance(said, str) else said
    error: Schema = {"application/json": {"schema": ref(ErrorAnswer), "example": refusal(status, one)}}
    made = content(one.when, error | ({"text/html": {}} if is_page else {}))
    if status == 429:
        made["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "in so many seconds"}}
    return made


def parameter(where: str, name: str, schema: Schema, description: str) -> Schema:
    """Return one parameter; those of the path are required."""
    return {"in": where, "name": name, "required": where == "path", "schema": schema, "description": description}


def content(description: str, types: Schema) -> Schema:
    """Return an answer by its content types; what has no schema is text, or bytes."""
    made = {}
    for name, one in types.items():
        made[name] = {"schema": {"type": "string"} if name.startswith("text/") else _BYTES, **one}
        if name == "text/html":
            made[name]["example"] = _PAGE_EXAMPLE
    return {"description": description, "content": made}


def answer(model: type[BaseModel], status: int = 200) -> dict[int, Any]:
    """Return a JSON answer by its status, with an example."""
    return {status: content("done", {"application/json": {"schema": inline(model), "example": example(model)}})}


def asked(model: type[BaseModel]) -> Schema:
    """Return a JSON body, with the first of its model's examples."""
    schema = ref(model, "validation")
    return {"application/json": {"schema": schema, "example": schema["$defs"][model.__name__]["examples"][0]}}


def uploaded(model: type[BaseModel]) -> dict[int, Any]:
    """Return what an upload answers."""
    shown = example(Success[UploadReceipt])
    known = {**shown, "data": {**shown["data"], "status": "done", "duplicate": True}}
    types = {
        status: {"application/json": {"schema": inline(model), "example": one}}
        for status, one in ((200, known), (202, shown))
    }
    where = {
        "Location": {"schema": {"type": "string"}, "description": "the image, where it is one"},
        FIELD: {"schema": _DIGEST, "description": "of this answer, where the request had one"},
    }
    return {
        200: {**content("all bytes are in the library already", types[200]), "headers": where},
        202: {**content("safe on disk and queued", types[202]), "headers": where},
    }


def form() -> Schema:
    """Return the body of an upload: a form, or raw."""
    parts = {
        "type": "object",
        "properties": {
            "folder": {**_FOLDER, "description": f"of the files that follow: {_FOLDER_MEANS}"},
            "mtime": {**_MTIME, "description": f"of the files that follow: {_MTIME_MEANS}"},
            "file": {
                "type": "array",
                "minItems": 1,
                "items": _BYTES,
                "description": "each part may have a Content-Digest of its own",
            },
        },
        "required": ["file"],
    }
    shown = {"folder": "2024/Alps", "mtime": "1714559696123", "file": ["(the bytes of a file)"]}
    return {"multipart/form-data": {"schema": parts, "example": shown}, **raw()}


def raw() -> Schema:
    """Return the body of an upload that is the file itself."""
    return {"image/*": {"schema": _BYTES}, "application/octet-stream": {"schema": _BYTES}}


_FOLDER: Schema = {"type": "string", "maxLength": MAX_VALUE, "examples": ["2024/Alps"]}
_FOLDER_MEANS = "the relative path of the folder that it came in, which is {folder} in the template"
_MTIME: Schema = {
    "type": "string",
    "maxLength": MAX_VALUE,
    "examples": ["1714559696", "1714559696123", "2024-05-01T12:34:56+02:00"],
}
_MTIME_MEANS = "the file's own time: seconds or milliseconds since 1970, or ISO 8601 with an offset"
_DIGEST: Schema = {"type": "string", "examples": [f"sha-256=:{b64encode(bytes.fromhex(SHA256)).decode()}:"]}
_REFUSED_UPLOADS: dict[int, str | Refused] = {
    400: Refused(
        "malformed: the message says what, and the code, where it is `digest_mismatch`, `bad_folder` or `bad_mtime`",
        "digest_mismatch",
        "IMG_1234.jpg has arrived with other bytes than its sha-256 says, and was not taken: send it again",
    ),
    409: Refused(
        "there can't be such a folder in the inbox",
        "bad_folder",
        "there can't be a folder 2024/Alps in the inbox: a file, a link or a disk of its own has that name, or the"
        " inbox's disk can't hold it; name another folder",
    ),
    408: "nothing came for a minute",
    413: Refused(
        "larger than upload_mb", "too_large", "larger than 1000 MB, the limit of an upload (upload_mb, file_mb)"
    ),
    415: "not an image, by its first bytes",
    507: "no room on the disk",
}
_NAME: Schema = {"type": "string", "examples": ["IMG_1234.jpg"]}
_SIZE: Schema = {"type": "string", "enum": list(SIZES)}
_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE}
_MONTH: Schema = {"type": "string", "pattern": f"^{MONTH.pattern}$", "examples": ["2026-11"]}
_XMP: Schema = {"application/rdf+xml": {}}
_NOT_FOUND: dict[int, str | Refused] = {404: "there is no such image"}
# What the fields of the pages' forms may hold.
_FIELDS = {"act": "edit", "caption": "The hut in May", "reason": "damaged", "token": "DARKROOM_TOKEN of the server"}
_METRICS = '# TYPE darkroom_images gauge\ndarkroom_images{status="done"} 1240.0\n'
_MANIFEST: Schema = {"schema": {"type": "object"}, "example": {"name": "Darkroom", "start_url": "/"}}
_DOCUMENT: Schema = {"schema": {"type": "object"}, "example": {"openapi": "3.1.0", "info": {"title": "Darkroom"}}}
_IMAGES: Schema = {"image/*": {}, "application/octet-stream": {}}


class Document:
    """The handler of /openapi.json."""

    async def serve(self, _request: Request) -> Response:
        """Serve the document."""
        return Json(build(), headers={"Cache-Control": "no-cache"})


@cache
def build() -> Schema:
    """Return the document."""
    paths, schemas = _paths(), dict[str, Schema]()
    _collect(paths, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Darkroom",
            "version": version(),
            "description": "Upload photos, and see what became of them. Every JSON answer has the same envelope.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "DARKROOM_TOKEN, where one is set"}
            },
        },
    }


def _collect(node: Any, schemas: dict[str, Schema]) -> None:
    """Move what stands in `$defs` anywhere below a node into one place."""
    if isinstance(node, dict):
        schemas.update(node.pop("$defs", {}))
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _collect(value, schemas)


def _paths() -> Schema:
    number = parameter(
        "path", "image_id", {"type": "integer", "minimum": 1, "maximum": 2**63 - 1, "examples": [42]}, "an image's id"
    )
    name = parameter("query", "name", _NAME, "the file's name, for a raw body")
    origin = [
        parameter("query", "folder", _FOLDER, _FOLDER_MEANS),
        parameter("query", "mtime", _MTIME, _MTIME_MEANS),
        parameter("header", FIELD, _DIGEST, "of the body (RFC 9530), by sha-256 or sha-512: is checked"),
    ]
    return {
        "/api/images": {
            "get": call("List images, newest first", _page(), {}, _filters()),
            "post": call(
                "Upload",
                uploaded(Success[UploadReceipt | UploadReceipts]),
                _REFUSED_UPLOADS,
                [name, *origin],
                body=form(),
            ),
            "put": call(
                "Upload with `curl -T`", uploaded(Success[UploadReceipt]), _REFUSED_UPLOADS, [name, *origin], body=raw()
            ),
        },
        "/api/images/known": {
            "post": call(
                "Which files are here already? Of each hash whether its bytes are filed, or in the inbox, and no more",
                {
                    200: content(
                        "done",
                        {
                            "application/json": {
                                "schema": inline(Success[dict[str, bool]]),
                                "example": {"status": "success", "data": {SHA256: True}, "error": None},
                            }
                        },
                    )
                },
                {403: _ON_WRITES[403]},
                body=asked(KnownRequest),
            )
        },
        "/api/images/bulk": {
            "post": call(
                "One act on many images, of some ids or all that pass a filter: `count` them, `add_keywords` or"
                " `remove_keywords`, ask a model for a `caption` again, `retry` what failed. Keywords can be undone for"
                f" {UNDO_SECONDS} seconds: `undo`. A hundred images are changed in one transaction. `download` answers"
                " with a ZIP archive of the photos; what is not in it is named in its `_missing.txt`",
                {
                    200: content(
                        "done; or the archive",
                        {
                            "application/json": {
                                "schema": inline(Success[BulkReceipt]),
                                "example": example(Success[BulkReceipt]),
                            },
                            "application/zip": {},
                        },
                    )
                },
                {
                    403: _ON_WRITES[403],
                    409: Refused(
                        "not as many as `expected`, nothing to undo any more, or captions are off; nothing was done",
                        "count_changed",
                        "313 images are meant by now, and not 312; nothing was done",
                    ),
                },
                body={
                    **asked(BulkRequest),
                    "application/x-www-form-urlencoded": {
                        "schema": {
                            "type": "object",
                            "properties": {"request": {"type": "string", "contentMediaType": "application/json"}},
                            "required": ["request"],
                        },
                        "example": {"request": '{"act": "download", "ids": [42]}'},
                    },
                },
                is_page=True,
            )
        },
        "/api/images/{image_id}": {
            "get": call("Everything about an image", answer(Success[ImageDetail]), _NOT_FOUND, [number]),
            "patch": call(
                "Write caption, keywords, title, stars, label: kept for good, no model overwrites them",
                answer(Success[ImageDetail]),
                _NOT_FOUND | {409: "not possible for this image"},
                [number],
                body=asked(CaptionEdit),
            ),
            "delete": call(
                "Throw an image away: its files go to the trash, and its bytes are remembered",
                answer(Success[ImageDetail]),
                _NOT_FOUND
                | {
                    403: _ON_WRITES[403],
                    409: Refused("it is being filed, or its file is gone", "conflict", "image 42 is being filed"),
                },
                [number],
            ),
            "put": call(
                "Upload with `curl -T FILE …/api/images/`, which puts the file's name here",
                uploaded(Success[UploadReceipt]),
                _REFUSED_UPLOADS | {404: "the name has a slash", 405: "the name is missing"},
                [parameter("path", "image_id", {**_NAME, "minLength": 1}, "the file's name"), *origin],
                body=raw(),
            ),
        },
        "/api/images/{image_id}/restore": {
            "post": call(
                "Take an image back from the trash; file one again that was deleted, out of a copy in duplicates",
                answer(Success[ImageDetail]),
                _NOT_FOUND | {403: _ON_WRITES[403], 409: "its file is gone, or its bytes are filed"},
                [number],
            )
        },
        "/api/images/{image_id}/thumbnails/{size}": {
            "get": call(
                "A thumbnail: upright, sRGB, without metadata",
                {
                    200: content("the thumbnail", {"image/jpeg": {}}),
                    206: content("a range of it", {"image/jpeg": {}, "multipart/byteranges": {}}),
                    304: {"description": "unchanged"},
                },
                {
                    400: Refused("no such size", "unknown_size", "the sizes are small and medium"),
                    404: Refused(
                        "no such image, or its thumbnail is not ready",
                        "not_ready",
                        "image 42 has no thumbnail (yet): it is queued",
                    ),
                    416: "the range is outside the file",
                },
                [
                    number,
                    parameter("path", "size", _SIZE, "fits 200 or 800 pixels square"),
                ],
            )
        },
        "/api/images/{image_id}/original": {
            "get": call(
                "The bytes as they were filed",
                {
                    200: content("all bytes", _IMAGES),
                    206: content("a range of them", _IMAGES | {"multipart/byteranges": {}}),
                    304: {"description": "unchanged"},
                },
                {
                    404: Refused(
                        "no such image, or it is not filed yet",
                        "not_ready",
                        "image 42 has no filed original: it is queued",
                    ),
                    416: "the range is outside the file",
                },
                [number],
            )
        },
        "/api/images/{image_id}/sidecar": {
            "get": call(
                "What lies beside a filed photo for other programs: XMP",
                {
                    200: content("the sidecar", _XMP),
                    206: content("a range of it", _XMP | {"multipart/byteranges": {}}),
                    304: {"description": "unchanged"},
                },
                {
                    404: Refused(
                        "no such image, or it has no sidecar", "not_ready", "image 42 has no sidecar: it is queued"
                    ),
                    416: "the range is outside the file",
                },
                [number],
            )
        },
        "/api/images/{image_id}/retry": {
            "post": call(
                "Queue a failed image again",
                answer(Success[RetryReceipt], 202),
                _NOT_FOUND
                | {409: Refused("it has not failed, or its file is gone", "conflict", "image 42 is not a failed one")},
                [number],
            )
        },
        "/api/images/{image_id}/caption": {
            "post": call(
                "Ask a model for a caption again",
                answer(Success[CaptionReceipt], 202),
                _NOT_FOUND | {409: "captions are off, its folder is private, or its words are a person's"},
                [number],
            )
        },
        "/api/stats": {"get": call("Counts, rate, time left", answer(Success[StatsAnswer]))},
        "/api/events": {
            "get": call(
                "Server-sent events: `image` (a line of history with the image's id and its present status)"
                " and `stats` (as /api/stats)",
                {200: content("the stream, until the client ends it", {"text/event-stream": _message()})},
                {},
                [
                    parameter(
                        "header",
                        "Last-Event-ID",
                        {"type": "string", "pattern": "^[0-9]{1,18}$", "examples": ["97"]},
                        "go on after this one",
                    )
                ],
            )
        },
        "/healthz": {
            "get": call(
                "Is every part well?",
                answer(Success[HealthAnswer])
                | {
                    503: content(
                        "a part is not well",
                        {"application/json": {"schema": inline(UnhealthyAnswer), "example": example(UnhealthyAnswer)}},
                    )
                },
                security=False,
            )
        },
        "/metrics": {
            "get": call("Metrics for Prometheus", {200: content("metrics", {"text/plain": {"example": _METRICS}})})
        },
        "/openapi.json": {"get": call("This document", {200: content("OpenAPI 3.1", {"application/json": _DOCUMENT})})},
        "/docs": {"get": call("These pages", {200: content("a page", {"text/html": {}})})},
        "/static/{name}": {
            "get": call(
                "What the pages are made of",
                {200: content("a file", {"text/*": {}, "image/*": {}}), 304: {"description": "unchanged"}},
                {404: "there is no such file"},
                [parameter("path", "name", {"type": "string", "examples": ["sheet.css"]}, "the file's name")],
                security=False,
            )
        },
        "/favicon.ico": {
            "get": call(
                "The icon",
                {200: content("an icon", {"image/svg+xml": {}}), 304: {"description": "unchanged"}},
                security=False,
            )
        },
        "/manifest.webmanifest": {
            "get": call(
                "What a browser has to know to install the pages as an app",
                {
                    200: content("the manifest", {"application/manifest+json": _MANIFEST}),
                    304: {"description": "unchanged"},
                },
                security=False,
            )
        },
        "/share": {
            "post": call(
                "Takes the photos that another app shares with this one, as a form",
                {303: {"description": "taken; to the sheet"}},
                _REFUSED_UPLOADS,
                is_page=True,
                body={"multipart/form-data": form()["multipart/form-data"]},
            )
        },
        "/sign-out": {
            "post": call(
                "Ends a browser's session",
                {303: {"description": "signed out"}},
                {403: _ON_WRITES[403]},
                security=False,
            )
        },
        "/": {
            "get": shown(
                "The contact sheet, for people; takes the same query as the list of images", _of_a_form(_filters()[:-2])
            )
        },
        "/images/{image_id}": {
            "get": shown("The page of one photo", [number], {404: "there is no such image"}),
            "post": call(
                "What a form of that page asks for",
                {303: {"description": "done; to the page"}} | _page_of(404) | _page_of(409) | _page_of(413),
                parameters=[number],
                is_page=True,
                body=_form("act", "caption", "keywords", "rating", "label"),
            ),
        },
        "/failed": {
            "get": shown("What failed, by its reason"),
            "post": call(
                "Queues one, a group or all of them again",
                {303: {"description": "done; to the page"}},
                body=_form("id", "reason", "all"),
                is_page=True,
            ),
        },
        "/selection": {
            "post": call(
                "Acts on the photos that are selected on the sheet, and says what became of it",
                _page_of(200) | _page_of(400) | _page_of(409) | _page_of(413),
                body=_form("act", "id", "ids", "filter", "whole", "keywords", "undo"),
                is_page=True,
            ),
        },
        "/stats": {"get": shown("Numbers, drawn")},
        "/sign-in": {
            "get": call(
                "Asks for the token",
                {200: content("a page", {"text/html": {}}), 303: {"description": "no token is set"}},
                security=False,
            ),
            "post": call(
                "Begins the session of a browser that knows the token, and sets its cookie",
                {
                    303: {"description": "signed in"},
                    401: content("not the token", {"text/html": {}}),
                    429: content("too many wrong tokens from this address", {"text/html": {}}),
                },
                body=_form("token"),
                security=False,
            ),
        },
    }


def shown(summary: str, parameters: list[Schema] | None = None, refusals: dict[int, str] | None = None) -> Schema:
    """Return a page for people; what it refuses is a page, too."""
    return call(summary, _page_of(200), refusals, parameters, is_page=True)


def _page_of(status: int) -> dict[int, Any]:
    return {status: content("a page", {"text/html": {}})}


def _form(*names: str) -> Schema:
    fields = {name: {"type": "string"} for name in names}
    shown = {name: value for name, value in _FIELDS.items() if name in names}
    return {"application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": fields}, "example": shown}}


def _of_a_form(parameters: list[Schema]) -> list[Schema]:
    """Return parameters that may be empty: a browser's form sends all of its fields."""
    return [{**one, "schema": {"anyOf": [one["schema"], {"const": ""}]}} for one in parameters]


def _page() -> dict[int, Any]:
    link = {"Link": {"schema": {"type": "string"}, "description": 'the next page, rel="next"'}}
    types = {"application/json": {"schema": inline(ImagePage), "example": example(ImagePage)}}
    return {200: {**content("a page; `next` is the cursor of the next", types), "headers": link}}


def _message() -> Schema:
    """Return one message of the event stream, as OpenAPI 3.2 writes it, with an example."""
    kinds: list[tuple[str, type[BaseModel]]] = [("image", EventMessage), ("stats", StatsAnswer)]
    shown = json.dumps(example(EventMessage), ensure_ascii=False)
    schema = {
        "description": "one message of the stream",
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "event": {"const": kind},
                    "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": ref(model)},
                },
                "required": ["event", "data"],
            }
            for kind, model in kinds
        ],
    }
    return {"schema": schema, "example": {"event": "image", "data": shown}}


def _filters() -> list[Schema]:
    day = {"type": "string", "anyOf": [{"format": "date"}, {"format": "date-time"}], "examples": ["2026-11-23"]}

    def text(shown: str) -> Schema:
        return {"type": "string", "maxLength": MAX_QUERY, "examples": [shown]}

    return [
        parameter("query", "status", {"type": "string", "enum": list(STATUSES)}, "only images of this status"),
        parameter("query", "q", text("lighthouse"), f"words of {SEARCHED}; the last may be a beginning"),
        parameter("query", "camera", text("canon eos"), "words of the camera's make and model"),
        parameter(
            "query",
            "model",
            text("Canon EOS 40D"),
            "of this camera alone: its name in full, as the contact sheet lists it",
        ),
        parameter("query", "from", day, "taken on this day or later; local time"),
        parameter("query", "to", day, "taken on this day or earlier; local time"),
        parameter("query", "month", _MONTH, "of this month, of arrival or of the date taken: by `sort`; local time"),
        parameter("query", "folder", text("Alps"), "that came in this folder of the inbox, and in none that is in it"),
        parameter("query", "has_gps", {"type": "boolean"}, "with a place, or without"),
        parameter("query", "has_caption", {"type": "boolean"}, "with a caption, or without"),
        parameter(
            "query",
            "caption_status",
            {"type": "string", "enum": list(CAPTION_STATUSES)},
            "what became of the caption",
        ),
        parameter(
            "query",
            "rating",
            {"type": "string", "pattern": "^(-1|[0-5])(\\.\\.)?$", "examples": ["3.."]},
            "so many stars; `3..`: or more",
        ),
        parameter(
            "query",
            "sort",
            {"type": "string", "enum": ["arrived", "taken"], "default": "arrived"},
            "newest first by this",
        ),
        parameter("query", "limit", _LIMIT, "images a page"),
        parameter(
            "query",
            "cursor",
            {"type": "string", "pattern": "^[0-9]{1,18}$", "examples": ["42"]},
            "`next` of the page before",
        ),
    ]
