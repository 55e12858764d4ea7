"""The pages that show no photos: the documentation, the sign-in; and the files that all pages need."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from web.authentication import SIGN_IN, Doorkeeper
from web.context import ApiError
from web.rendering import Renderer

_STATIC = Path(__file__).parent / "static"
# Not the mimetypes module: what that says of .js depends on the machine's tables.
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


class Pages:
    """The handlers. The files are few and small: they are read once."""

    def __init__(self, doorkeeper: Doorkeeper | None, renderer: Renderer) -> None:
        """Take who looks at tokens, None where none is set."""
        self._doorkeeper = doorkeeper
        self._renderer = renderer
        self._assets = {file.name: _asset(file) for file in _STATIC.iterdir() if file.is_file()}

    async def asset(self, request: Request) -> Response:
        """Serve a file that a page needs."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise ApiError(404, f"there is no file {name!a}")
        return self._asset(request, name)

    async def docs(self, request: Request) -> Response:
        """Serve the documentation, to read and to try."""
        return self._renderer.respond(request, "docs.html")

    async def icon(self, request: Request) -> Response:
        """Serve the icon under the name that browsers ask for unasked."""
        return self._asset(request, "favicon.svg")

    async def manifest(self, request: Request) -> Response:
        """Serve what a browser has to know to install the pages as an app, with which photos can be shared."""
        return self._asset(request, "darkroom.webmanifest")

    async def sign_in_page(self, request: Request) -> Response:
        """Serve the page that asks for the token."""
        if self._doorkeeper is None:
            return RedirectResponse("/", 303)
        is_shared = "shared" in request.query_params
        message = "Sign in, and share it again: this browser is not signed in, so nothing was taken."
        return self._form(request, 200, message if is_shared else None)

    async def sign_in(self, request: Request) -> Response:
        """Begin the session of a browser that knows the token."""
        if self._doorkeeper is None:
            return RedirectResponse("/", 303)
        try:
            answer = await self._doorkeeper.sign_in(request)
        except ApiError as error:
            if error.status != 429:
                raise
            message = "Too many wrong tokens from this address: wait a minute, then try again."
            return self._form(request, 429, message, error.headers)
        return answer or self._form(request, 401, "That is not the token.")

    async def sign_out(self, request: Request) -> Response:
        """End a browser's session."""
        return RedirectResponse(SIGN_IN, 303) if self._doorkeeper is None else await self._doorkeeper.sign_out(request)

    def _form(
        self, request: Request, status: int, message: str | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        headers = {"Cache-Control": "no-store", **(headers or {})}
        return self._renderer.respond(request, "sign-in.html", status, headers=headers, message=message)

    def _asset(self, request: Request, name: str) -> Response:
        asset = self._assets[name]
        headers = {"Cache-Control": "no-cache", "ETag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)


def _asset(file: Path) -> _Asset:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _Asset(content, _TYPES.get(file.suffix, "application/octet-stream"), etag)
