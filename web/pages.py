"""The pages for people: the documentation, the sign-in, where `/` leads, and the files that the pages need."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from web.authentication import form_has_token, set_cookie
from web.context import AccessRules, ApiError

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
    """The handlers of pages. Their files are few and small: they are read once."""

    def __init__(self, access: AccessRules) -> None:
        self._token = access.token
        self._assets = {file.name: _read(file) for file in _STATIC.iterdir() if file.is_file()}

    async def asset(self, request: Request) -> Response:
        """Serve a file that a page needs."""
        name = request.path_params["name"]
        if name not in self._assets:
            raise ApiError(404, f"there is no file {name!a}")
        return self._page(request, name)

    async def home(self, _request: Request) -> Response:
        """Lead to what there is to see."""
        return RedirectResponse("/docs", 303)

    async def docs(self, request: Request) -> Response:
        """Serve the documentation, to read and to try."""
        return self._page(request, "docs.html")

    async def sign_in_page(self, request: Request) -> Response:
        """Serve the page that asks for the token."""
        return RedirectResponse("/", 303) if self._token is None else self._page(request, "sign-in.html")

    async def sign_in(self, request: Request) -> Response:
        """Set the cookie of a browser that knows the token."""
        if self._token is None:
            return RedirectResponse("/", 303)
        if not await form_has_token(request, self._token):
            return Response(self._assets["sign-in-again.html"].content, 401, media_type="text/html")
        answer = RedirectResponse("/", 303)
        set_cookie(answer, self._token, secure=request.url.scheme == "https")
        return answer

    def _page(self, request: Request, name: str) -> Response:
        asset = self._assets[name]
        headers = {"Cache-Control": "no-cache", "ETag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)


def _read(file: Path) -> _Asset:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _Asset(content, _TYPES.get(file.suffix, "application/octet-stream"), etag)
