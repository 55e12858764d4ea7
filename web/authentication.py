"""The token, where one is set: which calls need it, how they show it, and the sessions of browsers that signed in."""

import hmac
import logging
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.catalogue.sessions import SECONDS, Sessions
from daemon.errors import EnvironmentFault
from daemon.phrases import counted
from web.clients import Proxies, neighbourhood
from web.context import ApiError, failure, on_environment_fault, read_body

_log = logging.getLogger(__name__)

COOKIE = "darkroom"
# A browser takes a cookie of this name from this very host alone, over TLS alone: no neighbour under the same domain
# can put one of his own in its place (RFC 6265bis, 4.1.3.2).
SECURE_COOKIE = f"__Host-{COOKIE}"
SIGN_IN, SIGN_OUT, SHARE, MANIFEST = "/sign-in", "/sign-out", "/share", "/manifest.webmanifest"
# A browser asks for the manifest without its cookies.
_PUBLIC = {"/healthz", "/favicon.ico", MANIFEST, SIGN_IN, SIGN_OUT}
_MAX_FORM = 16 * 1024

# Mistyped, or a program that was not told of a new token yet.
_FREE = 3
_FIRST_SECONDS, _LONGEST_SECONDS = 1.0, 60.0
# After an hour without a wrong one an address is like any other.
_FORGET_SECONDS = 3600.0
# At most so many addresses are known at a time, about 1 MB; those that were wrong longest ago go first.
_MOST = 4096
# What is logged in a minute, by all addresses together: for fail2ban, and not to fill the disk.
_LINES, _LINES_SECONDS = 60, 60.0


class Doorkeeper:
    """Knows who has shown the token: with the call, or before, in a session."""

    def __init__(self, token: str, sessions: Sessions, proxies: Proxies) -> None:
        self._token = token
        self._sessions = sessions
        self._proxies = proxies
        self._wrong = WrongTokens()

    async def admits(self, request: Request) -> bool:
        """Return whether a call may be served. Raises ApiError 429 from an address that has to wait.

        A session is good meanwhile, too: its id can't be guessed at any speed. Raises EnvironmentFault.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and given.strip():
            return self._is_right(given.strip(), request)
        session_id = request.cookies.get(self._cookie(request), "")
        if not session_id:
            return False
        return await run_in_threadpool(self._sessions.is_open, session_id, self._address(request), time.time())

    async def sign_in(self, request: Request) -> Response | None:
        """Return the answer with the cookie of a new session; None where the form holds a wrong token.

        Raises ApiError 408, 413, and 429 from an address that has to wait.
        """
        given = await _token_of_form(request)
        if not given or not self._is_right(given, request):
            return None
        session_id = await run_in_threadpool(self._sessions.begin, self._address(request), time.time())
        answer = RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            self._cookie(request),
            session_id,
            max_age=SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._proxies.is_tls(request.scope),
        )
        return answer

    async def sign_out(self, request: Request) -> Response:
        """End the session of a browser, if it has one, and have it forget the cookie."""
        name = self._cookie(request)
        session_id = request.cookies.get(name, "")
        if session_id:
            await run_in_threadpool(self._sessions.end, session_id)
        answer = RedirectResponse(SIGN_IN, 303, headers={"Cache-Control": "no-store"})
        secure = self._proxies.is_tls(request.scope)
        answer.delete_cookie(name, httponly=True, samesite="strict", secure=secure)
        return answer

    def _is_right(self, given: str, request: Request) -> bool:
        client, now = self._proxies.client(request.scope), time.monotonic()
        wait = math.ceil(self._wrong.wait(client, now))
        if wait:
            refusal = ApiError(429, f"too many wrong tokens from this address: try again in {wait} s", "wrong_tokens")
            refusal.headers["Retry-After"] = str(wait)
            raise refusal
        # In a time that tells nothing of the token.
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            return True
        self._wrong.add(client, now)
        return False

    def _address(self, request: Request) -> str:
        """Return what a session is bound to: a browser takes a new IPv6 address every day, of the same network."""
        return neighbourhood(self._proxies.client(request.scope))

    def _cookie(self, request: Request) -> str:
        return SECURE_COOKIE if self._proxies.is_tls(request.scope) else COOKIE


@dataclass
class _Record:
    wrong: int = 0
    until: float = 0.0
    last: float = 0.0


class WrongTokens:
    """How long a client that has sent wrong tokens must wait before the next is looked at, and the line about each.

    Nobody waits on an open connection for it: within its time an address is refused at once, whatever token it sends.
    Were a right one let in meanwhile, guessing would cost no time. All clients behind one address wait together, so a
    proxy in between has to be known as one (`[web] trusted_proxies`).

    For the event loop's thread alone; `now` is a monotonic time in seconds.
    """

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lines = 0
        self._unsaid = 0
        self._since = 0.0

    def wait(self, address: str, now: float) -> float:
        """Return for how many seconds no token from an address is looked at; 0 where the next one is."""
        record = self._records.get(neighbourhood(address))
        return 0.0 if record is None else max(0.0, record.until - now)

    def add(self, address: str, now: float) -> None:
        """Note a wrong token, and log it."""
        key = neighbourhood(address)
        record = self._records.setdefault(key, _Record())
        if now - record.last > _FORGET_SECONDS:
            record.wrong = 0
        record.wrong += 1
        record.last = now
        if record.wrong > _FREE:
            doublings = min(record.wrong - _FREE - 1, 20)
            record.until = now + min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0**doublings)
        self._records.move_to_end(key)
        if len(self._records) > _MOST:
            self._records.popitem(last=False)
        self._say(address, now)

    def _say(self, address: str, now: float) -> None:
        if now - self._since >= _LINES_SECONDS:
            if self._unsaid:
                _log.warning("%s, of which nothing was logged", counted(self._unsaid, "more wrong token"))
            self._lines, self._unsaid, self._since = 0, 0, now
        if self._lines >= _LINES:
            self._unsaid += 1
            return
        self._lines += 1
        # Read by fail2ban; the README has the pattern, and nothing in the line is of the client's choice.
        _log.warning("wrong token from %s", address or "unknown")


class TokenMiddleware:
    """Refuses calls without the token; a browser is led to the sign-in page."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper) -> None:
        self._app = app
        self._doorkeeper = doorkeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = await self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        try:
            if is_public(request.url.path) or await self._doorkeeper.admits(request):
                return None
        except ApiError as error:
            return failure(error.status, error.code, str(error), error.headers)
        except EnvironmentFault as error:
            return await on_environment_fault(request, error)
        if "text/html" in request.headers.get("accept", "") and (request.method == "GET" or request.url.path == SHARE):
            where = f"{SIGN_IN}?shared" if request.url.path == SHARE else SIGN_IN
            return RedirectResponse(where, 303, headers={"Cache-Control": "no-store"})
        message = "the token is missing or wrong: Authorization: Bearer …"
        return failure(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def is_public(path: str) -> bool:
    """Return whether a path is served without a token: it shows nothing of the photos."""
    return path in _PUBLIC or path.startswith("/static/")


async def _token_of_form(request: Request) -> str:
    form = await read_body(request, _MAX_FORM)
    return parse_qs(form.decode("utf-8", "replace")).get("token", [""])[0].strip()
