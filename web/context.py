"""What the web needs of the program, the envelope around every JSON answer, and what turns errors into it."""

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.errors import EnvironmentFault
from daemon.filing.thumbnail_store import Thumbnails

# What looks like an absolute path once the known folders are replaced: a mount point, a device.
_ABSOLUTE = re.compile(r"(?<![\w./])/[^\s:,;'\"()]+")


@dataclass(frozen=True)
class Health:
    """How one part is: `detail` says in what way, for people."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class Context:
    """The parts behind the web; sizes are in bytes.

    `health` looks at the watcher, the consumer and the captioner. `retry` queues a failed image again and raises
    Rejected where that can't be. `captions_line` says how far the captions are and when they will be done.
    """

    catalogue: Catalogue
    queue: Queue
    captions: Captions
    thumbnails: Thumbnails
    inbox: Path
    roots: Mapping[Place, Path]
    ignore: tuple[str, ...]
    upload_bytes: int
    min_free_bytes: int
    health: Callable[[], Mapping[str, Health]]
    retry: Callable[[int], None]
    captions_line: Callable[[], str]

    def folders(self) -> dict[str, Path]:
        """Give all folders that hold photos, by name."""
        return {"inbox": self.inbox} | {str(name): path for name, path in self.roots.items()}

    def scrub(self, text: str) -> str:
        """Take the paths of this machine's disk out of a message."""
        for name, path in sorted(self.folders().items(), key=lambda item: -len(str(item[1]))):
            text = text.replace(str(path), name)
        return _ABSOLUTE.sub("…", text)


@dataclass(frozen=True)
class AccessRules:
    """Who may call: hosts beyond the ones listened on, origins of other pages, the token if one is set."""

    host: str
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    token: str | None = None


_log = logging.getLogger(__name__)

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


class Json(JSONResponse):
    """JSON in UTF-8 whatever the values hold: names and EXIF are other people's bytes."""

    def render(self, content: Any) -> bytes:
        """Write text that is no valid Unicode with `?` in place of what is not, NaN and infinity as null."""
        try:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def success(data: Any, status: int = 200, *, headers: Mapping[str, str] | None = None, **beside: Any) -> Response:
    """Wrap an answer; `beside` stands beside `data`."""
    content = {"status": "success", "data": data, "error": None, **beside}
    return Json(content, status, headers={"Cache-Control": "no-store", **(headers or {})})


def failure(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """Wrap an error."""
    content = {"status": "error", "data": None, "error": {"code": code, "message": message}}
    return Json(content, status, headers={"Cache-Control": "no-store", **(headers or {})})


async def on_api_error(_request: Request, error: Exception) -> Response:
    """Answer with a refusal."""
    assert isinstance(error, ApiError)  # noqa: S101
    return failure(error.status, error.code, str(error), headers=error.headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the routing refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101
    messages = {404: "there is nothing here; /docs lists all calls", 405: f"{request.method} is not possible here"}
    message = messages.get(error.status_code, str(error.detail))
    return failure(error.status_code, _CODES.get(error.status_code, "error"), message, headers=error.headers)


async def on_environment_fault(_request: Request, error: Exception) -> Response:
    """Answer when a disk or the database is at fault; the details, which name paths, go to the log."""
    _log.warning("%s", error)
    return failure(503, "unavailable", "the disk or the database is at fault; /healthz and the log tell more")


async def on_disconnect(_request: Request, _error: Exception) -> Response:
    """Answer nobody: the client has gone."""
    return failure(400, "disconnected", "the connection was closed before the request was complete")


async def on_crash(_request: Request, _error: Exception) -> Response:
    """Answer after an error of our own; Starlette raises it further, and the outermost layer logs it."""
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
