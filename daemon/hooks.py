"""Tells a command or a web address of each image that became final, from a loop of its own.

What was told of last is remembered in the catalogue, so a restart loses nothing: after a crash the last one may be
told of twice. Filing never waits for any of this.
"""

import http.client
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from daemon.catalogue import Catalogue, Place
from daemon.catalogue.history import EventFeed, Outcome
from daemon.catalogue.settings import Settings
from daemon.config import SECRET_NAMES, HooksSection
from daemon.errors import DarkroomError, EnvironmentFault, Transient
from daemon.files.names import display
from daemon.loop import Loop, LoopFault, Strikes


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


# What a command is not told: the secrets, and how darkroom itself reports to systemd.
_KEPT_BACK = {*SECRET_NAMES, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
_POLL_SECONDS = 0.05
_KILL_SECONDS = 1.0
_READ_BYTES = 65536
_TAIL_BYTES = 4096
_QUOTED_BYTES = 300
# What each way takes: the settings, the document, and the event that ends a wait.
Way = Callable[[HooksSection, dict[str, Any], threading.Event], None]
# These answers may be other ones later (RFC 9110); every other 4xx stays what it is.
_AGAIN = {408, 425, 429}


class HookRefused(DarkroomError):
    """Raised when telling of an outcome failed and would fail again."""


def run_command(settings: HooksSection, document: dict[str, Any], stopping: threading.Event) -> None:
    """Run the command with the document on its standard input; it is done when it ends itself.

    What it leaves running is not waited for; at the time limit it is killed with its process group. Raises Transient
    where a later try may go well, Refused.
    """
    environ = {key: value for key, value in os.environ.items() if key not in _KEPT_BACK}
    environ |= {"DARKROOM_EVENT": document["event"], "DARKROOM_IMAGE_ID": str(document["image_id"])}
    environ |= {"DARKROOM_PATH": document["path"] or ""}
    try:
        # A file, not a pipe: nothing has to be written while the command runs, and it may leave it unread.
        with tempfile.TemporaryFile() as source:
            source.write(json.dumps(document).encode())
            source.seek(0)
            process = _start(settings.command, source, environ)
    except OSError as error:
        raise Transient(f"the document can't be put into a temporary file: {error.strerror}") from error
    try:
        output = _watch(settings, process, stopping)
    finally:
        _kill(process)
    if process.returncode:
        raise Transient(f"exit code {process.returncode}{_quote(output)}")


def _start(command: tuple[str, ...], source: IO[bytes], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            bufsize=0,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
    except OSError as error:
        raise HookRefused(f"{command[0]} can't be started: {error.strerror}") from error


def _watch(settings: HooksSection, process: subprocess.Popen[bytes], stopping: threading.Event) -> bytes:
    """Return the last that the command wrote, once it has ended. Raises Transient where it is to be given up."""
    output, tail = cast(IO[bytes], process.stdout), b""
    deadline = time.monotonic() + settings.timeout_seconds
    with output, selectors.DefaultSelector() as selector:
        os.set_blocking(output.fileno(), False)
        selector.register(output, selectors.EVENT_READ)
        while process.poll() is None:
            if stopping.is_set():
                raise Transient("was stopped, because darkroom is stopping; it is run again at the next start")
            if time.monotonic() >= deadline:
                raise Transient(f"took longer than {settings.timeout_seconds:g} s{_quote(tail)}")
            if not selector.get_map():
                stopping.wait(_POLL_SECONDS)
            elif selector.select(_POLL_SECONDS):
                read = output.read(_READ_BYTES)
                tail = (tail + read)[-_TAIL_BYTES:]
                if not read:
                    selector.unregister(output)
                    # Most end now; `wait` looks more often than once in this time.
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
        # No more than a pipe holds: what it has left running may go on writing for ever.
        for _ in range(1_048_576 // _READ_BYTES):
            tail = (tail + (output.read(_READ_BYTES) or b""))[-_TAIL_BYTES:]
    return tail


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a command that has not ended itself, and what it started in its process group."""
    if process.poll() is None:
        with suppress(OSError):  # it has just ended, or it became another user's
            os.killpg(process.pid, signal.SIGKILL)
        # One that hangs in the kernel, on a dead share, dies some day: it is given up.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECONDS)


def _quote(output: bytes) -> str:
    said = display(" ".join(output[-_QUOTED_BYTES:].decode(errors="replace").split()))
    return f": {said}" if said else ""


def post(settings: HooksSection, document: dict[str, Any], _stopping: threading.Event) -> None:
    """Send the document to the web address. Raises Transient where a later try may go well, Refused."""
    request = urllib.request.Request(  # noqa: S310 - the configuration takes http and https alone
        settings.url,
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "darkroom"},
    )
    try:
        status, location = send(request, settings.timeout_seconds)
    except DeadlineOver as error:
        raise Transient(f"{settings.url} did not answer within {settings.timeout_seconds:g} s") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Transient(f"{settings.url}: {reason}") from error
    except Exception as error:  # http.client raises whatever a confused server makes of HTTP
        raise Transient(f"{settings.url}: {error!r}") from error
    if 300 <= status < 400:
        points = f" and points to {display(location)[:200]}" if location else ""
        final = "redirects are not followed: set [hooks] url to the final address"
        raise HookRefused(f"{settings.url} answers {status}{points}; {final}")
    if not 200 <= status < 300:
        kind = Transient if status >= 500 or status in _AGAIN else HookRefused
        raise kind(f"{settings.url} answers {status}")


def describe(outcome: Outcome, roots: Mapping[Place, Path]) -> dict[str, Any]:
    """Give what a hook is told: the event, the image, and where its file is now (None where it is nowhere)."""
    row = outcome.row or {}
    place, destination = row.get("place"), row.get("destination")
    path = None
    if place and destination:
        # What is no UTF-8 in a name must not make the whole document unreadable.
        path = os.fsencode(roots[place] / destination).decode("utf-8", "replace")
    return {
        "event": outcome.kind,
        "at": datetime.fromtimestamp(outcome.at, UTC).isoformat(timespec="milliseconds"),
        "detail": outcome.detail,
        "image_id": outcome.image_id,
        "original_name": row.get("original_name"),
        "path": path,
        "error": row.get("error"),
        "duplicate_of": row.get("duplicate_of"),
        "sha256": row.get("sha256"),
        "size_bytes": row.get("size_bytes"),
        "taken_at": row.get("taken_at"),
    }


_log = logging.getLogger(__name__)

_MEMORY = "hooks"
_LOOK_SECONDS = 1.0
_BATCH = 100
_STOP_SECONDS = 5.0
_BACKOFF_SECONDS = 1.0
_BACKOFF_FACTOR = 4


class Hooks:
    """The loop, from `start` to `stop`; nothing where neither a command nor a URL is configured."""

    def __init__(
        self,
        settings: HooksSection,
        catalogue: Catalogue,
        roots: Mapping[Place, Path],
        backoff_seconds: float = _BACKOFF_SECONDS,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._feed, self._stored = EventFeed(catalogue), Settings(catalogue)
        self._roots = roots
        self._backoff_seconds = backoff_seconds
        self._stopping = threading.Event()
        self._begun = False
        self._strikes = Strikes()
        self.loop = Loop("hooks", self._step, within=catalogue.session, report=report)

    @property
    def wanted(self) -> bool:
        """Whether anything is configured."""
        return bool(self._settings.command or self._settings.url)

    def start(self) -> None:
        """Tell of what happens from now on, and of what happened since an earlier process stopped."""
        # Before anything is filed. Where the database is at fault nothing will be, and the first step tries again.
        with suppress(EnvironmentFault):
            self.begin()
        if self.wanted:
            self.loop.start()

    def begin(self) -> bool:
        """Note from where on to tell; False where nothing is configured."""
        known = self._stored.get(_MEMORY)
        if not self.wanted:
            # Should hooks come back in a year, they must not tell of that year.
            if known is not None:
                self._stored.set(_MEMORY, None)
            return False
        if known is None:
            self._stored.set(_MEMORY, self._feed.last())
        self._begun = True
        return True

    def drain(self) -> None:
        """Tell of all that there is to tell in the caller's thread; after `begin`."""
        if self._stored.get(_MEMORY) is not None:
            self._turn()

    def stop(self) -> None:
        """End the loop; what is being told is given up, and told again by the next process."""
        self._stopping.set()
        self.loop.stop(_STOP_SECONDS)

    def _step(self) -> float:
        if not self._begun:
            self.begin()
        self._turn()
        return _LOOK_SECONDS

    def _turn(self) -> None:
        number = int(self._stored.get(_MEMORY) or 0)
        while outcomes := self._feed.after(number, self._settings.on, _BATCH):
            for outcome in outcomes:
                if self._strikes.out(outcome.number):
                    _log.warning("hook: image %d: %s; not told", outcome.image_id, self._strikes.reason(outcome.number))
                else:
                    with self._strikes.counting(outcome.number):
                        if self._stopping.is_set() or not self._tell(outcome):
                            return
                self._strikes.forget(outcome.number)
                number = outcome.number
                self._stored.set(_MEMORY, number)

    def _tell(self, outcome: Outcome) -> bool:
        """Tell of one outcome; False where the program is to stop before that is done."""
        ways = ((run_command, self._settings.command), (post, self._settings.url))
        return all(self._insist(way, outcome) for way, wanted in ways if wanted)

    def _insist(self, way: Way, outcome: Outcome) -> bool:
        """Try one way as often as is allowed; False where the program is to stop before that is done."""
        document, which = describe(outcome, self._roots), f"image {outcome.image_id}, {outcome.kind}"
        attempts = self._settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                way(self._settings, document, self._stopping)
            except HookRefused as refused:
                _log.warning("hook: %s: %s; not told", which, refused)
                return True
            except Transient as fault:
                level = logging.WARNING if attempt == attempts else logging.DEBUG
                _log.log(level, "hook: %s: attempt %d of %d failed: %s", which, attempt, attempts, fault)
            else:
                return True
            if attempt < attempts:
                self._stopping.wait(self._backoff_seconds * _BACKOFF_FACTOR ** (attempt - 1))
            if self._stopping.is_set():
                return False
        return True
