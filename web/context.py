"""What the web needs of the program, the envelope around every JSON answer, and what turns errors into it."""

import json
import logging
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from daemon.catalogue import Catalogue, ImageRow, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.errors import EnvironmentFault
from daemon.files.atomic import Root
from daemon.files.names import display
from daemon.filing.thumbnail_store import ThumbnailStore
from daemon.health import PartHealth
from web.models import ErrorAnswer, ErrorBody, Success

_log = logging.getLogger(__name__)

_BODY_SECONDS = 10.0
# How much of what a client has sent an answer quotes.
_QUOTED = 50
# What looks like an absolute path once the known folders are replaced: a mount point, a device.
_ABSOLUTE = re.compile(r"(?<![\w./])/[^\s:,;'\"()]+")


@dataclass(frozen=True)
class Context:
    """The parts behind the web; sizes are in bytes.

    `template` is that of the library's names. `health` returns how each part is, by its name, `captions_on` whether a
    model can be asked, `is_private` whether photos of a subfolder of the inbox never leave the machine, `captions_line`
    how far the captions are. `retry` queues a failed image again and raises Rejected where that can't be, `look` looks
    after a filed one that isn't as it was. `reject` throws one away and `restore` takes it back, and both raise
    Rejected where that can't be.
    """

    catalogue: Catalogue
    queue: Queue
    captions: Captions
    thumbnails: ThumbnailStore
    inbox: Root
    roots: Mapping[Place, Root]
    ignore: tuple[str, ...]
    template: str
    upload_bytes: int
    min_free_bytes: int
    health: Callable[[], Mapping[str, PartHealth]]
    captions_on: Callable[[], bool]
    is_private: Callable[[str], bool]
    captions_line: Callable[[], str]
    retry: Callable[[int], None]
    look: Callable[[int], None]
    reject: Callable[[int], str]
    restore: Callable[[int], str]

    def folders(self) -> dict[str, Path]:
        """Return all folders that hold photos, by name."""
        return {"inbox": self.inbox.path} | {str(name): root.path for name, root in self.roots.items()}

    def keeps_private(self, row: ImageRow) -> bool:
        """Return whether the folder that an image came in, or that it lies in, is private."""
        return any(map(self.is_private, (row.folder, (row.destination or "").rpartition("/")[0])))

    def scrub(self, text: str) -> str:
        """Return a message without the paths of this machine's disk."""
        for name, path in sorted(self.folders().items(), key=lambda item: -len(str(item[1]))):
            text = text.replace(str(path), name)
        return _ABSOLUTE.sub("…", text)


@dataclass(frozen=True)
class AccessRules:
    """Who may call: hosts beyond the ones listened on, origins of other pages, the token if one is set.

    `trusted_proxies` are addresses and networks of proxies whose word on the client counts.
    """

    host: str
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    token: str | None = None
    trusted_proxies: tuple[str, ...] = ()


class Json(JSONResponse):
    """JSON in UTF-8 whatever the values hold: names and EXIF are other people's bytes."""

    def render(self, content: Any) -> bytes:
        """Return a model's or a document's bytes: `?` for what is no valid Unicode, null for NaN and infinity."""
        if isinstance(content, BaseModel):
            try:
                # For a page of 500 images 2 ms; through Python's values it takes 11.
                return content.model_dump_json().encode()
            except PydanticSerializationError:  # half of a surrogate pair
                content = content.model_dump()
        try:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def respond(answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response that nobody caches."""
    return Json(answer, status, headers={"Cache-Control": "no-store", **(headers or {})})


def success(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return what was asked for, a model or several, in its envelope."""
    return respond(Success(status="success", data=data, error=None), status, headers)


def failure(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in its envelope."""
    body = ErrorBody(code=code, message=message)
    return respond(ErrorAnswer(status="error", data=None, error=body), status, headers)


_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "not_an_image",
    416: "bad_range",
    429: "too_many_requests",
    503: "unavailable",
    507: "no_room",
}


class ApiError(Exception):
    """A refusal as the client gets it: the HTTP status, and what happened and what to do, for people."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or _CODES[status]
        self.headers: dict[str, str] = {}


def check_query(request: Request, known: Collection[str]) -> None:
    """Raise ApiError 400 for a key of the query that a call doesn't know: it would be passed over, unseen."""
    for key in request.query_params:
        if key not in known:
            words = f"known are {', '.join(known)}" if known else "none is known here"
            raise ApiError(400, f"unknown query key {display(key[:_QUOTED])}: {words}", "unknown_key")


async def read_body(request: Request, limit: int) -> bytes:
    """Return a small body. Raises ApiError: 413 for one of more than `limit` bytes, 408 for one that does not come."""
    content = b""
    try:
        with anyio.fail_after(_BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > limit:
                    raise ApiError(413, f"the body is larger than {limit // 1024} KiB")
    except TimeoutError:
        raise closing(ApiError(408, f"the body did not come within {_BODY_SECONDS:.0f} seconds")) from None
    return content


def json_object(content: bytes) -> object:
    """Return the object that a body holds. Raises ApiError 400 for one that is no JSON, or no object."""
    try:
        body = json.loads(content)
        # Neither the database nor a sidecar can hold half of a pair, in whatever text of the body it stands.
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body holds half of a surrogate pair (\\ud800 to \\udfff) as a character") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body


def closing(error: ApiError) -> ApiError:
    """Return a refusal behind which the connection ends: what is left of the body is not the next request."""
    error.headers["Connection"] = "close"
    return error


async def on_api_error(_request: Request, error: Exception) -> Response:
    """Return a refusal."""
    assert isinstance(error, ApiError)  # noqa: S101
    return failure(error.status, error.code, str(error), error.headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Return what the routing refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101
    messages = {404: "there is nothing here; /docs lists all calls", 405: f"{request.method} is not possible here"}
    message = messages.get(error.status_code, str(error.detail))
    return failure(error.status_code, _CODES.get(error.status_code, "error"), message, error.headers)


async def on_environment_fault(_request: Request, error: Exception) -> Response:
    """Return that a disk or the database is at fault; the details, which name paths, go to the log."""
    _log.warning("%s", error)
    return failure(503, "unavailable", "the disk or the database is at fault; /healthz and the log tell more")


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    """Return what nobody reads: the client has gone."""
    return failure(400, "disconnected", "the connection was closed before the request was complete")


async def on_crash(_request: Request, _error: Exception) -> Response:
    """Return an error of our own; Starlette raises it further, and the outermost layer logs it."""
    return failure(500, "internal", "an error in Darkroom itself; the log has the details")


HANDLERS: dict[Any, Any] = {
    ApiError: on_api_error,
    HTTPException: on_http_error,
    EnvironmentFault: on_environment_fault,
    ClientDisconnect: on_disconnect,
    Exception: on_crash,
}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
