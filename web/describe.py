"""Describes single operations in OpenAPI's terms: what every call may answer, and what one does."""

from typing import Any

from web.schemas import Schema, envelope, ref

_ANYWHERE = {
    400: "malformed: the message says what",
    401: "the token is missing or wrong",
    421: "the Host header names another server",
    503: "a disk or the database is at fault",
}
_UPLOAD_EXAMPLE = {"status": "success", "data": {"image_id": 42, "status": "queued"}, "error": None}
_ON_WRITES = {403: "the Origin is another page's", 413: "the body is too large"}


def call(
    summary: str,
    answers: dict[int, Any],
    refusals: dict[int, str] | None = None,
    parameters: list[Schema] | None = None,
    *,
    body: Schema | None = None,
    security: bool = True,
) -> Schema:
    """Describe one operation: what it answers, and how it may refuse.

    One without `security` is open to all, and has to cope with a missing body, too.
    """
    error = {"application/json": {"schema": ref("Error")}}
    writes = _ON_WRITES if 202 in answers or body else {}
    refused = {code: content(text, error) for code, text in {**_ANYWHERE, **writes, **(refusals or {})}.items()}
    operation: Schema = {
        "summary": summary,
        "responses": {str(code): told for code, told in sorted({**refused, **answers}.items())},
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": security, "content": body}
    if not security:
        operation["security"] = []
    return operation


def parameter(where: str, name: str, schema: Schema, description: str) -> Schema:
    """Describe one parameter; those of the path are required."""
    return {"in": where, "name": name, "required": where == "path", "schema": schema, "description": description}


def content(description: str, types: Schema) -> Schema:
    """Describe an answer by its content types."""
    return {"description": description, "content": types}


def answer(data: Schema, status: int = 200) -> dict[int, Any]:
    """Describe a JSON answer in its envelope."""
    return {status: content("done", {"application/json": {"schema": envelope(data)}})}


def uploaded(*, several: bool = False) -> dict[int, Any]:
    """Describe what an upload answers; of `several` files it is a list."""
    receipts: Schema = ref("Receipt")
    if several:
        receipts = {"oneOf": [ref("Receipt"), {"type": "array", "minItems": 2, "items": ref("Receipt")}]}
    types = {"application/json": {"schema": envelope(receipts), "example": _UPLOAD_EXAMPLE}}
    where = {"Location": {"schema": {"type": "string"}, "description": "the image, where it is one"}}
    return {
        200: {**content("all bytes are in the library already", types), "headers": where},
        202: {**content("safe on disk and queued", types), "headers": where},
    }


def form() -> Schema:
    """Describe the body of an upload: a form, or raw."""
    parts = {
        "type": "object",
        "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
        "required": ["file"],
    }
    return {"multipart/form-data": {"schema": parts}, **raw()}


def raw() -> Schema:
    """Describe the body of an upload that is the file itself."""
    return {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
