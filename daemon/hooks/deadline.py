"""One HTTP request with a time limit for all of it, from the connection to the head of the answer.

The time limit of a socket is one for each read: an answer that comes a byte a second never reaches it.
"""

import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any


class DeadlineOver(Exception):
    """Raised when the head of an answer was not there in time."""


def send(request: urllib.request.Request, seconds: float) -> tuple[int, str]:
    """Return the status of the answer and its Location, "" where it has none; redirects are not followed.

    Nothing else of the answer is read. Raises DeadlineOver, and before the deadline what urllib and http.client raise.
    """
    deadline = _Deadline(seconds)
    opener = urllib.request.OpenerDirector()
    # Without those of urllib's handlers that follow redirects and make exceptions of answers.
    for handler in (urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), _Handler(deadline.connect)):
        opener.add_handler(handler)
    try:
        with deadline, opener.open(request, timeout=seconds) as answer:
            deadline.check()
            return answer.status, answer.headers.get("Location") or ""
    except Exception as error:
        if deadline.is_over():
            raise DeadlineOver from error
        raise


class _Deadline:
    """Shuts the connections of one request down when its time is over; a context manager that closes its own."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._shut = threading.Event()
        self._connections: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        # One that is not would hold up the end of the program.
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for connection in self._connections:
            connection.close()

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return self._shut.is_set() or time.monotonic() >= self._end

    def check(self) -> None:
        """Raise TimeoutError where the connections were shut down: http.client takes their end for that of the head."""
        if self._shut.is_set():
            raise TimeoutError

    def connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Return a connection to an address; raise OSError, as socket.create_connection does."""
        fault = OSError(f"{address[0]} has no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(max(0.001, self._end - time.monotonic()))
                connection.connect(place)
                # A descriptor of its own: TLS takes the other away from its socket.
                self._connections.append(connection.dup())
                # Perhaps the others were shut down before this one was in the list.
                self.check()
            except OSError as error:
                connection.close()
                fault = error
            else:
                return connection
        raise fault

    def _shut_down(self) -> None:
        self._shut.set()
        for connection in self._connections:
            with suppress(OSError):  # the other side has closed it
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Sends requests over connections that `connect` makes."""

    def __init__(self, connect: Callable[..., socket.socket]) -> None:
        super().__init__()
        self._connect = connect

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._make, http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._make, http.client.HTTPSConnection), req)

    def _make(self, kind: type[http.client.HTTPConnection], host: str, **options: Any) -> http.client.HTTPConnection:
        made = kind(host, **options)
        # There is no public way to have the connection before a proxy's answer and the TLS handshake are read.
        vars(made)["_create_connection"] = self._connect
        return made
