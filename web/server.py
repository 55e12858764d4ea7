"""Runs the app on uvicorn, on the event loop of the calling thread, with the caller's handling of signals."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from daemon.errors import ConfigError
from daemon.names import display
from web.app import App
from web.site import Access

_log = logging.getLogger(__name__)

# How long requests in progress may take to end once the server is told to stop.
_GRACE_SECONDS = 3
_BACKLOG = 256


def bind(access: Access, port: int) -> socket.socket:
    """Listen on the configured address. Raises ConfigError where that is not possible or not safe."""
    if access.token is None and not _is_loopback(access.host):
        raise ConfigError(
            f"[web] host {display(access.host)} can be reached from other machines: set DARKROOM_TOKEN, in the "
            "environment or in .env, to a long random text, or leave the host at 127.0.0.1"
        )
    family, address = _addresses(access.host, port)[0]
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
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
    """Give the address to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; of a name, every address must be such a one."""
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
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
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
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.woken = asyncio.Event()

    async def main_loop(self) -> None:
        """Come round once a second, for the Date header: uvicorn's ten times cost an idle machine 0.3 % of a core."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would raise them again at the end, and the process would die of them."""
        yield
