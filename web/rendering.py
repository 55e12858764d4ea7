"""Renders the pages: Jinja2 with everything escaped, compressed where a browser takes it, errors as pages."""

import gzip
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from daemon.errors import EnvironmentFault
from daemon.files.names import display
from web.context import ApiError

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
# Sooner than the network takes for what is saved; a higher level saves little.
_GZIP_LEVEL = 5
_GZIP_LEAST = 1024

Handler = Callable[[Request], Awaitable[Response]]


class Renderer:
    """The templates, read once; `can_sign_out` is whether there is a session to end."""

    def __init__(self, *, can_sign_out: bool) -> None:
        self._can_sign_out = can_sign_out

    @cached_property
    def _environment(self) -> "Environment":
        # Here, not above: who opens no page needs none of its 3 MB.
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            # Whatever the name of a template: names, captions and EXIF are other people's words.
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "thousands": thousands,
            "when": when,
            "size": size,
            "iso": iso,
            "shown": display,
        }
        environment.globals["can_sign_out"] = self._can_sign_out
        return environment

    def respond(
        self,
        request: Request,
        template: str,
        status: int = 200,
        *,
        headers: dict[str, str] | None = None,
        **values: object,
    ) -> Response:
        """Return a page. It is another one each time that it is asked for, and nobody keeps it but the browser."""
        text = self._environment.get_template(template).render(
            {"bar": None, "page": template.removesuffix(".html"), **values}
        )
        # Half of a surrogate pair, in a name of long ago, has no place in UTF-8.
        content = text.encode("utf-8", "replace")
        headers = {"Cache-Control": "private, no-cache", "Vary": "Accept-Encoding", **(headers or {})}
        content = compressed(request, content, headers)
        return Response(content, status, headers=headers, media_type="text/html")

    def page(self, handler: Handler) -> Handler:
        """Return a handler whose refusals are pages, too: who reads them is a person."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except ApiError as error:
                return self.error(request, error.status, str(error), error.headers)
            except EnvironmentFault:
                message = "The disk or the database is at fault; the log tells more. Try again in a moment."
                return self.error(request, 503, message)

        return handle

    def error(self, request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        """Return a page that says what went wrong."""
        return self.respond(request, "error.html", status, headers=headers, message=message, code=status)


def compressed(request: Request, content: bytes, headers: dict[str, str]) -> bytes:
    """Return content as the browser takes it, and say in `headers` how that is."""
    if len(content) < _GZIP_LEAST or "gzip" not in request.headers.get("accept-encoding", ""):
        return content
    headers["Content-Encoding"] = "gzip"
    return gzip.compress(content, _GZIP_LEVEL, mtime=0)


def thousands(number: int) -> str:
    """Return a number as people read it."""
    return f"{number:,}"


def when(seconds: float) -> str:
    """Return a moment in local time, for people; seconds since 1970."""
    at = datetime.fromtimestamp(seconds).astimezone()
    return f"{at.day} {at:%B %Y, %H:%M}"


def iso(seconds: float) -> str:
    """Return a moment for machines."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
