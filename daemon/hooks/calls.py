"""The two ways in which a hook is told: a command, and a web address."""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from daemon.catalogue import Place
from daemon.catalogue.feed import Outcome
from daemon.config import SECRET_NAMES
from daemon.config import Hooks as Settings
from daemon.errors import DarkroomError, Transient
from daemon.hooks.deadline import DeadlineOver, send
from daemon.names import display

# What a command is not told: the secrets, and how darkroom itself reports to systemd.
_KEPT_BACK = {*SECRET_NAMES, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
_LOOK_SECONDS = 0.05
_KILL_SECONDS = 1.0
_READ_BYTES = 65536
_TAIL_BYTES = 4096
_QUOTED_BYTES = 300
# What each way takes: the settings, the document, and the event that ends a wait.
Way = Callable[[Settings, dict[str, Any], threading.Event], None]
# These answers may be other ones later (RFC 9110); every other 4xx stays what it is.
_AGAIN = {408, 425, 429}


class Refused(DarkroomError):
    """Raised when telling of an outcome failed and would fail again."""


def run_command(settings: Settings, document: dict[str, Any], stopping: threading.Event) -> None:
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
        raise Refused(f"{command[0]} can't be started: {error.strerror}") from error


def _watch(settings: Settings, process: subprocess.Popen[bytes], stopping: threading.Event) -> bytes:
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
                stopping.wait(_LOOK_SECONDS)
            elif selector.select(_LOOK_SECONDS):
                read = output.read(_READ_BYTES)
                tail = (tail + read)[-_TAIL_BYTES:]
                if not read:
                    selector.unregister(output)
                    # Most end now; `wait` looks more often than once in this time.
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK_SECONDS)
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


def post(settings: Settings, document: dict[str, Any], _stopping: threading.Event) -> None:
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
        raise Refused(f"{settings.url} answers {status}{points}; {final}")
    if not 200 <= status < 300:
        kind = Transient if status >= 500 or status in _AGAIN else Refused
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
