"""The routes as a table, the app made of them, and the server that runs it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.errors import ConfigError
from daemon.files.names import display
from web.api import Api
from web.authentication import TokenMiddleware
from web.connections import Connection, Connections, is_loopback, places, raise_descriptor_limit
from web.context import HANDLERS, AccessRules, Context
from web.events import EventStream
from web.files import Files
from web.metrics import HealthCheck, Metrics
from web.middleware import HostMiddleware, OriginMiddleware, allow_origins
from web.openapi import Document
from web.pages import Pages
from web.uploads import UploadHandler

# How long requests in progress may take to end once the server stops.
_GRACE_SECONDS = 3
# So many may wait to be taken in (a caller who finds no place tries again only after a second), and so many are taken
# in before those that are open are looked at again.
_BACKLOG, _AT_ONCE = 4096, 64

Methods = dict[str, Callable[[Request], Awaitable[Response]]]


class App:
    """The ASGI app. `stop` ends its event streams, and soon the uploads that are still arriving."""

    def __init__(self, context: Context, access: AccessRules) -> None:
        api, files, pages = Api(context), Files(context), Pages(access)
        self.events = EventStream(context, api.counts)
        self.uploads = UploadHandler(context)
        self.table: dict[str, Methods] = {
            "/api/images": {"GET": api.list, "POST": self.uploads.post, "PUT": self.uploads.post},
            # Not `{image_id:int}`: what is put may have any name, and Starlette fails at an id of 4,301 digits.
            "/api/images/{image_id}": {"GET": api.image, "PATCH": api.edit, "PUT": self.uploads.put},
            "/api/images/{image_id}/thumbnails/{size}": {"GET": files.thumbnail},
            "/api/images/{image_id}/original": {"GET": files.original},
            "/api/images/{image_id}/retry": {"POST": api.retry},
            "/api/images/{image_id}/caption": {"POST": api.caption},
            "/api/stats": {"GET": api.stats},
            "/api/events": {"GET": self.events.stream},
            "/healthz": {"GET": HealthCheck(context).healthz},
            "/metrics": {"GET": Metrics(context).page},
            "/openapi.json": {"GET": Document().serve},
            "/docs": {"GET": pages.docs},
            "/sign-in": {"GET": pages.sign_in_page, "POST": pages.sign_in},
            "/static/{name}": {"GET": pages.asset},
            "/": {"GET": pages.home},
        }
        routes = [_route(path, methods) for path, methods in self.table.items()]
        self._layers = _guarded(Starlette(routes=routes, exception_handlers=HANDLERS), access)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._layers(scope, receive, send)

    def stop(self) -> None:
        """End what would hold up the end of the server; on the event loop's thread."""
        self.events.stop()
        self.uploads.stop()


def _route(path: str, methods: Methods) -> Route:
    """Return the methods of a path as one route, so that a 405 names them all."""

    async def dispatch(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, dispatch, methods=list(methods))


def _guarded(app: ASGIApp, access: AccessRules) -> ASGIApp:
    """Return an app behind its checks: a request passes Host, CORS, Origin and token, in this order."""
    if access.token is not None:
        app = TokenMiddleware(app, access.token)
    return HostMiddleware(allow_origins(OriginMiddleware(app, access), access), access)


def bind(access: AccessRules, port: int) -> socket.socket:
    """Listen on the configured address. Raises ConfigError where that is not possible or not safe."""
    if access.token is None and not _is_loopback(access.host):
        raise ConfigError(
            f"[web] host {display(access.host)} can be reached from other machines: set DARKROOM_TOKEN, in the "
            "environment or in .env, to a long random text, or leave the host at 127.0.0.1"
        )
    family, address = _addresses(access.host, port)[0]
    try:
        # With the protocol named, or asyncio leaves Nagle's algorithm on: each answer then waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"[web] host {display(access.host)}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"[web] port {port} on {display(access.host)} can't be used: {error.strerror}; "
            "name another in config.toml, or stop the program that has it"
        ) from error
    return listener


def url(listener: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; of a name, every address must be such a one."""
    found = [str(address[0]) for _, address in _addresses(host, None)]
    return all(address.startswith("127.") or address == "::1" for address in found)


def _addresses(host: str, port: int | None) -> list[tuple[socket.AddressFamily, Any]]:
    """Return what to listen on, each with its family. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"[web] host {display(host)}: {error.strerror}") from error
    except ValueError as error:  # UnicodeError: IDNA knows no name with an empty label or one of 64 letters
        raise ConfigError(f"[web] host {display(host)}: this can't be the name of a host") from error
    return [(family, address) for family, _, _, _, address in found]


class Server:
    """One server on one listening socket."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        self._app = app
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self.connections = Connections(is_loopback, places(raise_descriptor_limit()))
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
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = _Server(config)

    def run(self) -> None:
        """Serve until `stop`."""
        asyncio.run(self._serve())

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
        """Come round once a second, for the Date header, and at once when `woken`.

        uvicorn's own ten times a second cost 0.3 % of a core while nothing happens, on a machine that idles all day
        (`python -m tests.benchmarks.filing` measures it).
        """
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: `run` handles them for all parts.

        uvicorn would take SIGINT and SIGTERM for itself, and raise them again at its end: the process would die of
        them before the other parts have stopped.
        """
        yield
