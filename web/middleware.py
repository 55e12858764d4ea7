"""Who may call: the Host, the Origin, the token; and the headers that tell a browser what it may do."""

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.files.names import display
from web.context import AccessRules, failure

_log = logging.getLogger(__name__)

COOKIE = "darkroom"
SIGN_IN = "/sign-in"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_READS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers send "Origin: null" with our own sign-in form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class HostMiddleware:
    """The outermost layer: refuses foreign hosts and odd paths, and puts its headers on every answer."""

    def __init__(self, app: ASGIApp, access: AccessRules) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        answered = False

        async def headed(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not self._access.cors_origins:
                    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            await send(message)

        try:
            await (self._refuse(scope) or self._app)(scope, receive, headed)
        except Exception:
            # Starlette has answered 500 by now. Raised further, the server would cut the connection behind that answer.
            if not answered:
                raise
            _log.exception("%s %s: an error in darkroom itself", scope["method"], display(scope["path"]))

    def _refuse(self, scope: Scope) -> Response | None:
        hosts = Headers(scope=scope).getlist("host")
        name = _hostname(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return failure(400, "bad_host", "the request needs one Host header")
        if not self._known(name, scope):
            return failure(
                421, "foreign_host", f"{name!a} is not a name of this server; add it to allowed_hosts in config.toml"
            )
        if ".." in re.split(r"[/\\]", scope["path"]) or "\0" in scope["path"]:
            return failure(400, "bad_path", "`..` and NUL have no place in a path")
        return None

    def _known(self, name: str, scope: Scope) -> bool:
        configured = self._access.host.lower()
        if name in _LOCAL or (name == configured and configured not in _EVERYWHERE):
            return True
        # The address at which the connection came in: no name that an attacker lets point here is that.
        server = (scope.get("server") or ("",))[0]
        if _address(name) is not None and _address(name) == _address(server):
            return True
        return any(_matches(name, pattern.lower()) for pattern in self._access.allowed_hosts)


class AccessMiddleware:
    """The inner layer: refuses writes from other pages, and calls without the token where there is one."""

    def __init__(self, app: ASGIApp, access: AccessRules) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refuse(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refuse(self, request: Request) -> Response | None:
        if request.method not in _READS and self._is_foreign(request):
            return failure(403, "foreign_origin", "writes from other origins are refused; see cors_origins")
        if self._access.token is None or is_public(request.url.path) or self._has_token(request, self._access.token):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(SIGN_IN, 303, headers={"Cache-Control": "no-store"})
        headers = {"WWW-Authenticate": "Bearer"}
        return failure(401, "unauthorized", "the token is missing or wrong: Authorization: Bearer …", headers=headers)

    def _is_foreign(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        if origin is None:
            # Browsers send at least one of the two with every write; programs send neither.
            return request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        if origin.lower() in self._access.cors_origins:
            return False
        try:
            parts = urlsplit(origin)
        except ValueError:  # "http://[x]"
            return True
        default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        ours = request.headers["host"].lower()
        return parts.netloc.lower().removesuffix(default) != ours.removesuffix(default) or not parts.netloc

    def _has_token(self, request: Request, token: str) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return matches_token(given.strip(), token)
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), cookie_value(token).encode())


def is_public(path: str) -> bool:
    """Tell whether a path is served without a token: it shows nothing of the photos."""
    return path in {"/healthz", SIGN_IN} or path.startswith("/static/")


def matches_token(given: str, token: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def cookie_value(token: str) -> str:
    """Derive what the cookie holds: the token can't be read from it, and a new token ends all sessions."""
    return hmac.new(token.encode(), b"darkroom sign-in", hashlib.sha256).hexdigest()


def wrap(app: ASGIApp, access: AccessRules, cors: Callable[..., Any]) -> ASGIApp:
    """Put the layers around an app."""
    app = AccessMiddleware(app, access)
    if access.cors_origins:
        app = cors(
            app,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Location", "Link"],
        )
    return HostMiddleware(app, access)


def _hostname(header: str) -> str | None:
    """Take the port off a Host header, and the brackets off an IPv6 address."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _matches(name: str, pattern: str) -> bool:
    return pattern == "*" or name == pattern.strip("[]") or (pattern.startswith("*.") and name.endswith(pattern[1:]))
