"""Calls a command or a web address for each image that became final, from a loop of its own.

What was last reported is remembered in the catalogue, so a restart loses nothing: after a crash the last one may be
reported twice. Filing never waits for any of this.
"""

import asyncio
import json
import logging
import os
import selectors
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from daemon.catalogue import Catalogue, ImageRow, Place
from daemon.catalogue.history import History, Outcome, sentence
from daemon.catalogue.settings import Settings
from daemon.config import SECRET_NAMES, HooksSection
from daemon.errors import DarkroomError, EnvironmentFault, Transient
from daemon.files.atomic import Root
from daemon.files.names import display
from daemon.loop import Loop, LoopFault, Strikes
from daemon.phrases import system_words

_log = logging.getLogger(__name__)

_REPORTED = "hooks"
_LOOK_SECONDS = 1.0
_BATCH = 100
_STOP_SECONDS = 5.0
_BACKOFF_SECONDS = 1.0
_BACKOFF_FACTOR = 4

# What a command is not given: the secrets, and how darkroom itself reports to systemd.
_KEPT_BACK = {*SECRET_NAMES, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
_POLL_SECONDS = 0.05
_KILL_SECONDS = 1.0
_READ_BYTES = 65536
_TAIL_BYTES = 4096
_QUOTED_BYTES = 300

# These answers may be other ones later (RFC 9110); every other 4xx stays what it is.
_AGAIN = {408, 425, 429}


class HookRefused(DarkroomError):
    """Raised when reporting an outcome failed and would fail again."""


@dataclass(frozen=True)
class HookDocument:
    """What a hook is given, as JSON: the event, the image, and where its file is now (None where it is nowhere)."""

    event: str
    at: str
    detail: str
    image_id: int
    original_name: str | None
    path: str | None
    error: str | None
    duplicate_of: int | None
    sha256: str | None
    size_bytes: int | None
    taken_at: str | None

    def json(self) -> bytes:
        """Return the document as it is sent."""
        return json.dumps(asdict(self)).encode()


def describe(outcome: Outcome, roots: Mapping[Place, Root]) -> HookDocument:
    """Return what a hook is given of an outcome; `roots` are the folders of the places."""
    event, row = outcome.event, outcome.row or ImageRow()
    path = None
    if row.place and row.destination:
        # What is no UTF-8 in a name must not make the whole document unreadable.
        path = os.fsencode((roots[row.place] / row.destination).path).decode("utf-8", "replace")
    return HookDocument(
        event=event.kind.value,
        at=datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        detail=sentence(event),
        image_id=event.image_id,
        original_name=row.original_name or None,
        path=path,
        error=row.error,
        duplicate_of=row.duplicate_of,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        taken_at=row.taken_at,
    )


# What each way takes: the settings, the document, and the event that ends a wait.
Way = Callable[[HooksSection, HookDocument, threading.Event], None]


def run_command(settings: HooksSection, document: HookDocument, stopping: threading.Event) -> None:
    """Run the command with the document on its standard input; it is done when it ends itself.

    What it leaves running is not waited for; at the time limit it is killed with its process group. Raises Transient
    where a later try may go well, otherwise HookRefused.
    """
    environ = {key: value for key, value in os.environ.items() if key not in _KEPT_BACK}
    environ |= {"DARKROOM_EVENT": document.event, "DARKROOM_IMAGE_ID": str(document.image_id)}
    environ |= {"DARKROOM_PATH": document.path or ""}
    try:
        # A file, not a pipe: nothing has to be written while the command runs, and it may leave it unread.
        with tempfile.TemporaryFile() as source:
            source.write(document.json())
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


def _reap_orphans() -> None:
    """Let go of what commands left running and has ended since, where this is process 1 of a container without an init.

    To that one the kernel gives all orphans. Who waits for them by number takes no status from whom it is due: decoders
    are in this session, and no command runs while this is called.
    """
    if os.getpid() != 1:
        return
    session = os.getsid(0)
    with suppress(OSError), os.scandir("/proc") as entries:
        for pid in [int(entry.name) for entry in entries if entry.name.isdecimal()]:
            with suppress(OSError):  # no child of this process
                if os.getsid(pid) != session:
                    os.waitpid(pid, os.WNOHANG)


def _quote(output: bytes) -> str:
    said = display(" ".join(output[-_QUOTED_BYTES:].decode(errors="replace").split()))
    return f": {said}" if said else ""


def post(settings: HooksSection, document: HookDocument, _stopping: threading.Event) -> None:
    """Send the document to the web address, by one request under one time limit; the status of the answer decides.

    Raises Transient where a later try may go well, otherwise HookRefused.
    """
    import httpx2

    url = settings.url
    try:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            status, location = runner.run(_send(url, document.json(), settings.timeout_seconds))
    except TimeoutError as error:
        raise Transient(f"{url} did not answer within {settings.timeout_seconds:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError) as error:
        # ValueError and ImportError: a proxy of the environment that httpx2 can't use.
        raise Transient(f"{url}: {system_words(error)}") from error
    if 300 <= status < 400:
        points = f" and points to {display(location)[:200]}" if location else ""
        final = "redirects are not followed: set [hooks] url to the final address"
        raise HookRefused(f"{url} answers {status}{points}; {final}")
    if not 200 <= status < 300:
        kind = Transient if status >= 500 or status in _AGAIN else HookRefused
        raise kind(f"{url} answers {status}")


async def _send(url: str, content: bytes, seconds: float) -> tuple[int, str]:
    """Return the status of the answer and its Location, "" where it has none; nothing else of it is read.

    Raises TimeoutError where the head of the answer is not there in time, and before that what httpx2 raises.
    """
    import httpx2

    connections: list[Any] = []

    async def note(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            connections.append(info["return_value"])

    headers = {"Content-Type": "application/json", "User-Agent": "darkroom"}
    request = httpx2.Request("POST", url, content=content, headers=headers, extensions={"trace": note})
    try:
        async with asyncio.timeout(seconds):
            # The bare transport: a client would read ~/.netrc, and fail where a redirect points to what is no address.
            # The certificates are the system's, with those that its owner has added.
            async with httpx2.AsyncHTTPTransport(verify=ssl.create_default_context(), proxy=_proxy(url)) as transport:
                answer = await transport.handle_async_request(request)
                await answer.aclose()
                return answer.status_code, answer.headers.get("Location", "")
    finally:
        # httpcore2 leaves a connection open whose TLS handshake is given up.
        for connection in connections:
            await connection.aclose()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that looks up each name in a daemonic thread, which can be left to itself.

    The pool that asyncio takes for this is waited for at the end of the loop and of the process, however long a name
    server is silent.
    """

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        found: Future[Any] = Future()
        # From now on it can't be cancelled: a result that nobody waits for any more is no error.
        found.set_running_or_notify_cancel()

        def look_up() -> None:
            try:
                found.set_result(socket.getaddrinfo(*args, **options))
            except (OSError, UnicodeError) as error:
                found.set_exception(error)

        threading.Thread(target=look_up, name="hook address", daemon=True).start()
        return await asyncio.wrap_future(found)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address; one for all schemes, mostly SOCKS, is not taken."""
    address = urlsplit(url)
    proxy = None if proxy_bypass(address.netloc.rpartition("@")[2]) else getproxies().get(address.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class Hooks:
    """The loop, from `start` to `stop`; nothing where neither a command nor a URL is configured."""

    def __init__(
        self,
        settings: HooksSection,
        catalogue: Catalogue,
        roots: Mapping[Place, Root],
        backoff_seconds: float = _BACKOFF_SECONDS,
        report: Callable[[LoopFault | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._history, self._stored = History(catalogue), Settings(catalogue)
        self._roots = roots
        self._backoff_seconds = backoff_seconds
        self._begun = False
        self._strikes = Strikes()
        self.loop = Loop("hooks", self._step, within=catalogue.session, report=report)

    @property
    def wanted(self) -> bool:
        """Whether anything is configured."""
        return bool(self._settings.command or self._settings.url)

    def start(self) -> None:
        """Begin with what happens from now on, and with what happened since an earlier process stopped."""
        # Before anything is filed. Where the database is at fault nothing will be, and the first step tries again.
        with suppress(EnvironmentFault):
            self.begin()
        if self.wanted:
            self.loop.start()

    def begin(self) -> bool:
        """Note from where on to report, and return whether anything is configured."""
        known = self._stored.get(_REPORTED)
        if not self.wanted:
            # Should hooks come back in a year, they must not report that year.
            if known is not None:
                self._stored.set(_REPORTED, None)
            return False
        if known is None:
            self._stored.set(_REPORTED, self._history.last())
        self._begun = True
        return True

    def drain(self) -> None:
        """Do all that there is to do, in the caller's thread; after `begin`."""
        if self._stored.get(_REPORTED) is not None:
            self._turn()

    def stop(self) -> None:
        """End the loop; what is being reported is given up, and reported again by the next process."""
        self.loop.stop(_STOP_SECONDS)

    def _step(self) -> float:
        if not self._begun:
            self.begin()
        _reap_orphans()
        self._turn()
        return _LOOK_SECONDS

    def _turn(self) -> None:
        number = _number(self._stored.get(_REPORTED))
        while outcomes := self._history.outcomes(number, self._settings.on, _BATCH):
            for outcome in outcomes:
                event = outcome.event
                if self._strikes.out(event.id):
                    _log.warning("hook: image %d: %s; not reported", event.image_id, self._strikes.reason(event.id))
                else:
                    with self._strikes.counting(event.id):
                        if self.loop.stopping or not self._report(outcome):
                            return
                self._strikes.forget(event.id)
                number = event.id
                self._stored.set(_REPORTED, number)

    def _report(self, outcome: Outcome) -> bool:
        """Return whether one outcome was reported; False where the program is to stop before that."""
        ways = ((run_command, self._settings.command), (post, self._settings.url))
        return all(self._try(way, outcome) for way, wanted in ways if wanted)

    def _try(self, way: Way, outcome: Outcome) -> bool:
        """Try one way as often as is allowed; return False where the program is to stop before that is done."""
        document, which = describe(outcome, self._roots), f"image {outcome.event.image_id}, {outcome.event.kind.value}"
        attempts = self._settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                way(self._settings, document, self.loop.stop_requested)
            except HookRefused as refused:
                _log.warning("hook: %s: %s; not reported", which, refused)
                return True
            except Transient as fault:
                level = logging.WARNING if attempt == attempts else logging.DEBUG
                _log.log(level, "hook: %s: attempt %d of %d failed: %s", which, attempt, attempts, fault)
            else:
                return True
            if attempt < attempts:
                self.loop.stop_requested.wait(self._backoff_seconds * _BACKOFF_FACTOR ** (attempt - 1))
            if self.loop.stopping:
                return False
        return True


def _number(stored: object) -> int:
    return stored if isinstance(stored, int) else 0
