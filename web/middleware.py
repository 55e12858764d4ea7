"""Which requests are served at all: by Host and Origin; and the headers that tell a browser what it may do."""

import ipaddress
import logging
import re
from collections.abc import Callable
from email.utils import formatdate
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.files.names import display
from web.clients import plain_address
from web.context import AccessRules, failure

_log = logging.getLogger(__name__)

_LOCAL = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_READS = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "manifest-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with that, browsers send "Origin: null" with our own sign-in form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class HostMiddleware:
    """The outermost layer: refuses foreign hosts and odd paths, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, access: AccessRules) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Date", formatdate(usegmt=True))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not self._access.cors_origins:
                    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)
        except Exception:
            # Starlette has answered 500 by now. Raised further, the server would cut the connection behind that answer.
            if not answered:
                raise
            _log.exception("%s %s: an error in darkroom itself", scope["method"], display(scope["path"]))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        name = _hostname(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return failure(400, "bad_host", "the request needs one Host header")
        if not self._known(name, scope):
            return failure(
                421, "foreign_host", f"{name!a} is not a name of this server; add it to allowed_hosts in config.toml"
            )
        if ".." in re.split(r"[/\\]", scope["path"]) or "\0" in scope["path"]:
            return failure(400, "bad_path", "`..` and NUL have no place in a path")
        if "content-length" in headers and "transfer-encoding" in headers:
            # RFC 9112, 6.3: two who read it differently see different requests behind it.
            message = "a request has Content-Length or Transfer-Encoding, not both"
            return failure(400, "bad_framing", message, {"Connection": "close"})
        if scope["method"] not in _READS and "content-range" in headers:
            # RFC 9110, 14.5: taken for the whole, a part would be filed as a broken photo.
            return failure(400, "partial", "parts of a file (Content-Range) can't be sent; send the whole")
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


class OriginMiddleware:
    """Refuses writes from other pages, which a browser would send with its cookies."""

    def __init__(self, app: ASGIApp, access: AccessRules) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if request.method in _READS or not self._is_foreign(request):
            return None
        return failure(403, "foreign_origin", "writes from other origins are refused; see cors_origins")

    def _is_foreign(self, request: Request) -> bool:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is None:
            # Browsers send at least one of the two with every write; programs send neither.
            return (site or "none") not in {"none", "same-origin"}
        if (origin, site) == ("null", "none"):
            # No page has begun it, and no page can have a browser say so: another app has shared a photo with this one.
            return False
        if origin.lower() in self._access.cors_origins:
            return False
        try:
            parts = urlsplit(origin)
        except ValueError:  # "http://[x]"
            return True
        default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        ours = request.headers["host"].lower()
        return parts.netloc.lower().removesuffix(default) != ours.removesuffix(default) or not parts.netloc


class FullMiddleware:
    """Answers what would be one too many, before anything else is done for it.

    A crowd that is sent away, and comes again, may not cost what it would if it were let in; so nobody is asked for a
    token here, and all that is told is that the server is busy.
    """

    def __init__(self, app: ASGIApp, refusal: Callable[[Scope], Response | None]) -> None:
        self._app = app
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await (self._refusal(scope) or self._app)(scope, receive, send)


def allow_origins(app: ASGIApp, access: AccessRules) -> ASGIApp:
    """Return an app that lets the pages of the configured origins read its answers (CORS)."""
    if not access.cors_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=access.cors_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH"],
        allow_headers=["Authorization", "Content-Digest", "Content-Type", "Last-Event-ID"],
        expose_headers=["Content-Digest", "Location", "Link"],
    )


def _hostname(header: str) -> str | None:
    """Return a Host header without the port, and without the brackets of an IPv6 address; None where it is none."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(plain_address(text)))
    except ValueError:
        return None


def _matches(name: str, pattern: str) -> bool:
    return pattern == "*" or name == pattern.strip("[]") or (pattern.startswith("*.") and name.endswith(pattern[1:]))
