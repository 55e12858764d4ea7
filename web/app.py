"""The routes as a table, the app made of them, and the server that runs it."""

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.catalogue.sessions import Sessions
from daemon.errors import ConfigError, EnvironmentFault
from daemon.files.names import display
from web.api import FILTERS, PAGING, Api
from web.authentication import MANIFEST, SHARE, SIGN_OUT, Doorkeeper, TokenMiddleware
from web.bulk import Bulk
from web.clients import Proxies, is_loopback
from web.connections import Connection, Connections, places, raise_descriptor_limit
from web.context import HANDLERS, AccessRules, Context, check_query
from web.events import EventStream
from web.failures import Failures
from web.files import Files
from web.metrics import HealthCheck, Metrics
from web.middleware import FullMiddleware, HostMiddleware, OriginMiddleware, allow_origins
from web.numbers import Numbers
from web.openapi import Document
from web.pages import Pages
from web.photo import PhotoPage
from web.rendering import Renderer
from web.selection import SelectionPage
from web.sheet import Sheet
from web.source_file import FIELDS
from web.uploads import UploadHandler

# How long requests in progress may take to end once the server stops.
_GRACE_SECONDS = 3
# So many may wait to be taken in (a caller who finds no place tries again only after a second), and so many are taken
# in before those that are open are looked at again.
_BACKLOG, _AT_ONCE = 4096, 64
# Shorter ones can be guessed over the network.
_LEAST_TOKEN = 16

# What the query of a call may hold, by path and method; all others of the API take none.
QUERIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("/api/images", "GET"): (*FILTERS, *PAGING),
    ("/api/images", "POST"): ("name", *FIELDS),
    ("/api/images", "PUT"): ("name", *FIELDS),
    ("/api/images/{image_id}", "PUT"): FIELDS,
}

# They stand where an image's id could: another method is none of an image's, either.
_CALLS = {"/api/images/known", "/api/images/bulk"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

Methods = dict[str, Callable[[Request], Awaitable[Response]]]


class App:
    """The ASGI app. `stop` ends its event streams, and soon the uploads that are still arriving."""

    def __init__(self, context: Context, access: AccessRules) -> None:
        self.proxies = Proxies(access.trusted_proxies)
        doorkeeper = _doorkeeper(context, access, self.proxies)
        api, files = Api(context), Files(context)
        renderer = Renderer(can_sign_out=doorkeeper is not None)
        page = renderer.page
        pages, sheet = Pages(doorkeeper, renderer), Sheet(context, api, renderer)
        photo, failures = PhotoPage(context, api, renderer), Failures(context, api, renderer)
        bulk = Bulk(context, renderer)
        self.events = EventStream(context, api.counts)
        self.uploads = UploadHandler(context)
        self.table: dict[str, Methods] = {
            "/api/images": {"GET": api.list, "POST": self.uploads.post, "PUT": self.uploads.post},
            "/api/images/known": {"POST": api.known},
            "/api/images/bulk": {"POST": bulk.act},
            # Not `{image_id:int}`: what is put may have any name, and Starlette fails at an id of 4,301 digits.
            "/api/images/{image_id}": {
                "GET": api.image,
                "PATCH": api.edit,
                "DELETE": api.reject,
                "PUT": self.uploads.put,
            },
            "/api/images/{image_id}/restore": {"POST": api.restore},
            "/api/images/{image_id}/thumbnails/{size}": {"GET": files.thumbnail},
            "/api/images/{image_id}/original": {"GET": files.original},
            "/api/images/{image_id}/sidecar": {"GET": files.sidecar},
            "/api/images/{image_id}/retry": {"POST": api.retry},
            "/api/images/{image_id}/caption": {"POST": api.caption},
            "/api/stats": {"GET": api.stats},
            "/api/events": {"GET": self.events.stream},
            "/healthz": {"GET": HealthCheck(context).healthz},
            "/metrics": {"GET": Metrics(context).page},
            "/openapi.json": {"GET": Document().serve},
            "/docs": {"GET": pages.docs},
            "/sign-in": {"GET": pages.sign_in_page, "POST": pages.sign_in},
            SIGN_OUT: {"POST": pages.sign_out},
            "/static/{name}": {"GET": pages.asset},
            "/favicon.ico": {"GET": pages.icon},
            MANIFEST: {"GET": pages.manifest},
            SHARE: {"POST": page(self.uploads.share)},
            "/": {"GET": page(sheet.page)},
            "/images/{image_id}": {"GET": page(photo.page), "POST": page(photo.act)},
            "/failed": {"GET": page(failures.page), "POST": page(failures.retry)},
            "/selection": {"POST": page(SelectionPage(bulk, renderer).act)},
            "/stats": {"GET": page(Numbers(context, api, renderer).page)},
        }
        routes = [_route(path, methods) for path, methods in self.table.items()]
        app: ASGIApp = Starlette(routes=routes, exception_handlers=HANDLERS)
        if doorkeeper is not None:
            app = TokenMiddleware(app, doorkeeper)
        app = allow_origins(FullMiddleware(OriginMiddleware(app, access), self._one_too_many), access)
        # A request passes Host, CORS, the number of its kind, Origin and token, in this order.
        self._layers = HostMiddleware(app, access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._layers(scope, receive, send)

    def _one_too_many(self, scope: Scope) -> Response | None:
        if scope["type"] != "http":
            return None
        path = scope["path"]
        if path == "/api/events":
            return self.events.refusal()
        is_upload = scope["method"] == "PUT" or (scope["method"] == "POST" and path in {"/api/images", SHARE})
        return self.uploads.refusal() if is_upload else None

    def stop(self) -> None:
        """End what would hold up the end of the server; on the event loop's thread."""
        self.events.stop()
        self.uploads.stop()


def _route(path: str, methods: Methods) -> Route:
    """Return the methods of a path as one route, so that a 405 names them all."""

    async def dispatch(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            raise HTTPException(405, headers={"Allow": ", ".join(methods)})
        # Pages and probes of others may add what they like.
        if path.startswith("/api/"):
            check_query(request, QUERIES.get((path, method), ()))
        return await methods[method](request)

    return Route(path, dispatch, methods=_METHODS if path in _CALLS else list(methods))


def _doorkeeper(context: Context, access: AccessRules, proxies: Proxies) -> Doorkeeper | None:
    """Return who looks at tokens; None where none is set."""
    if access.token is None:
        return None
    sessions = Sessions(context.catalogue, access.token)
    # Where the database is at fault, the same happens with the next sign-in.
    with suppress(EnvironmentFault):
        sessions.sweep(time.time())
    return Doorkeeper(access.token, sessions, proxies)


def bind(access: AccessRules, port: int) -> socket.socket:
    """Listen on the configured address. Raises ConfigError where that is not possible or not safe."""
    if (fault := unsafe(access)) is not None:
        raise ConfigError(f"[web] host: {': '.join(fault)}")
    family, address = _addresses(access.host, port)[0]
    try:
        # With the protocol named, or asyncio leaves Nagle's algorithm on: each answer then waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"[web] host: {display(access.host)}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and socket.has_dualstack_ipv6():
            # "::" is all addresses, whatever net.ipv6.bindv6only says.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"[web] port: {port} on {display(access.host)} can't be used: {error.strerror}; "
            "name another in config.toml, or stop the program that has it"
        ) from error
    return listener


def unsafe(access: AccessRules) -> tuple[str, str] | None:
    """Return why nothing may be served so, and what to do about it; None where it may.

    A token is offered where others can call and there is none, or one that can be guessed.
    """
    try:
        is_local = _is_loopback(access.host)
    except ConfigError as error:
        return str(error), "name an address or a host of this machine"
    if access.token is None:
        if is_local:
            return None
        fault = "there is no DARKROOM_TOKEN"
    else:
        if len(access.token) >= _LEAST_TOKEN or (is_local and not access.trusted_proxies):
            return None
        fault = f"DARKROOM_TOKEN has fewer than {_LEAST_TOKEN} characters"
    who = "through trusted_proxies" if is_local else f"at {display(access.host)}"
    return (
        f"other machines can call {who}, and {fault}",
        "set one, in .env or the environment, or serve this machine alone (host 127.0.0.1, no proxies). Here is one,"
        f" made just now:\n    DARKROOM_TOKEN={secrets.token_urlsafe(24)}",
    )


def url(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; of a name, every address must be such a one."""
    found = [str(address[0]) for _, address in _addresses(host, None)]
    return all(is_loopback(address) for address in found)


def _addresses(host: str, port: int | None) -> list[tuple[socket.AddressFamily, Any]]:
    """Return what to listen on, each with its family. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"{display(host)}: {error.strerror}") from error
    except ValueError as error:  # UnicodeError: IDNA knows no name with an empty label or one of 64 letters
        raise ConfigError(f"{display(host)} can't be the name of a host") from error
    return [(family, address) for family, _, _, _, address in found]


class Server:
    """One server on one listening socket."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self.connections = Connections(app.proxies, places(raise_descriptor_limit()))
        config = uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(Connection, self.connections)),
            backlog=_AT_ONCE,
            log_config=None,
            # Its warnings are of what clients send: a line for each would be theirs to write.
            log_level="error",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            # It would be of whenever uvicorn last came round; see middleware.py.
            date_header=False,
            # uvicorn would take the word of whatever calls from 127.0.0.1; see clients.py.
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = _Server(config)

    def run(self) -> None:
        """Serve until `stop`."""
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """End the streams and the server; any thread or signal handler may call it."""
        self._server.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self._app.stop()
        self._server.woken.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])


class _Server(uvicorn.Server):
    """uvicorn's server, with three of its methods replaced: none of them has a setting."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.woken = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve; asyncio has one number for who may wait and for who is taken in at once."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    async def main_loop(self) -> None:
        """Wait until `woken`, without coming round in between.

        uvicorn's own ten times a second, for the Date header and its settings that are not used here, cost 0.3 % of a
        core while nothing happens, on a machine that idles all day (`python -m tests.benchmarks.filing` measures it).
        """
        while not self.should_exit:
            await self.woken.wait()
            self.woken.clear()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: `run` handles them for all parts.

        uvicorn would take SIGINT and SIGTERM for itself, and raise them again at its end: the process would die of
        them before the other parts have stopped.
        """
        yield
