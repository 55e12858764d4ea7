"""The token, where one is set: which calls need it, how they show it, and the cookie of a browser that signed in."""

import hashlib
import hmac
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web.context import failure, read_body

COOKIE = "darkroom"
SIGN_IN = "/sign-in"
_MONTH_SECONDS = 30 * 24 * 3600
_MAX_FORM = 16 * 1024


class TokenMiddleware:
    """Refuses calls without the token; a browser is led to the sign-in page."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if is_public(request.url.path) or self._has_token(request):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(SIGN_IN, 303, headers={"Cache-Control": "no-store"})
        message = "the token is missing or wrong: Authorization: Bearer …"
        return failure(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return matches_token(given.strip(), self._token)
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), cookie_value(self._token).encode())


def is_public(path: str) -> bool:
    """Return whether a path is served without a token: it shows nothing of the photos."""
    return path in {"/healthz", SIGN_IN} or path.startswith("/static/")


def matches_token(given: str, token: str) -> bool:
    """Return whether a client has given the token, in a time that tells nothing of it."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def cookie_value(token: str) -> str:
    """Return what the cookie holds: the token can't be read from it, and a new token ends all sessions."""
    return hmac.new(token.encode(), b"darkroom sign-in", hashlib.sha256).hexdigest()


async def form_has_token(request: Request, token: str) -> bool:
    """Return whether the form of the sign-in page holds the token. Raises ApiError 408, 413."""
    form = await read_body(request, _MAX_FORM)
    given = parse_qs(form.decode("utf-8", "replace")).get("token", [""])[0]
    return matches_token(given.strip(), token)


def set_cookie(answer: Response, token: str, *, secure: bool) -> None:
    """Have a browser send the cookie with its calls for a month; `secure` is for HTTPS."""
    answer.set_cookie(
        COOKIE, cookie_value(token), max_age=_MONTH_SECONDS, httponly=True, samesite="strict", secure=secure
    )
