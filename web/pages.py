"""The pages for people: the documentation, the sign-in, where `/` leads, and the files that the pages need."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from web.authentication import SIGN_IN, Doorkeeper
from web.context import ApiError

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

# Taken out of a page where nobody signs in.
_SIGN_OUT = b'<form method="post" action="/sign-out"><button>Sign out</button></form>\n'


@dataclass(frozen=True)
class _Asset:
    content: bytes
    media_type: str
    etag: str


class Pages:
    """The handlers of pages. Their files are few and small: they are read once."""

    def __init__(self, doorkeeper: Doorkeeper | None) -> None:
        """Take who looks at tokens, None where none is set."""
        self._doorkeeper = doorkeeper
        files = [file for file in _STATIC.iterdir() if file.is_file()]
        self._assets = {file.name: _asset(file, can_sign_out=doorkeeper is not None) for file in files}

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

    async def icon(self, request: Request) -> Response:
        """Serve the icon under the name that browsers ask for unasked."""
        return self._page(request, "favicon.svg")

    async def sign_in_page(self, request: Request) -> Response:
        """Serve the page that asks for the token."""
        return RedirectResponse("/", 303) if self._doorkeeper is None else self._page(request, "sign-in.html")

    async def sign_in(self, request: Request) -> Response:
        """Begin the session of a browser that knows the token."""
        if self._doorkeeper is None:
            return RedirectResponse("/", 303)
        try:
            answer = await self._doorkeeper.sign_in(request)
        except ApiError as error:
            if error.status != 429:
                raise
            return self._again("sign-in-later.html", 429, error.headers)
        return answer or self._again("sign-in-again.html", 401, {})

    async def sign_out(self, request: Request) -> Response:
        """End a browser's session."""
        return RedirectResponse(SIGN_IN, 303) if self._doorkeeper is None else await self._doorkeeper.sign_out(request)

    def _again(self, name: str, status: int, headers: dict[str, str]) -> Response:
        headers = {"Cache-Control": "no-store", **headers}
        return Response(self._assets[name].content, status, headers=headers, media_type="text/html")

    def _page(self, request: Request, name: str) -> Response:
        asset = self._assets[name]
        headers = {"Cache-Control": "no-cache", "ETag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, headers=headers, media_type=asset.media_type)


def _asset(file: Path, *, can_sign_out: bool) -> _Asset:
    content = file.read_bytes()
    if not can_sign_out:
        content = content.replace(_SIGN_OUT, b"")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _Asset(content, _TYPES.get(file.suffix, "application/octet-stream"), etag)
