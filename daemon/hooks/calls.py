"""The two ways in which a hook is told: a command, and a web address."""

import json
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.catalogue import Place
from daemon.catalogue.feed import Outcome
from daemon.config import Hooks as Settings
from daemon.errors import DarkroomError, Transient

_OUTPUT_BYTES = 300
# What each way takes: the settings, the document, and the event that ends a wait.
Way = Callable[[Settings, dict[str, Any], threading.Event], None]
# These answers may be other ones later (RFC 9110); every other 4xx stays what it is.
_AGAIN = {408, 425, 429}


class Refused(DarkroomError):
    """Raised when telling of an outcome failed and would fail again."""


def run_command(settings: Settings, document: dict[str, Any], stopping: threading.Event) -> None:
    """Run the command with the document on its standard input; what it started dies with it.

    Raises Transient where a later try may go well, Refused.
    """
    own = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey"}
    environ = {key: value for key, value in os.environ.items() if key not in own}
    environ |= {"DARKROOM_EVENT": document["event"], "DARKROOM_IMAGE_ID": str(document["image_id"])}
    environ |= {"DARKROOM_PATH": document["path"] or ""}
    try:
        process = subprocess.Popen(  # noqa: S603
            settings.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(f"{settings.command[0]} can't be started: {error.strerror}") from error
    with process:
        output = _watched(settings, process, json.dumps(document).encode(), stopping)
    if process.returncode:
        said = " ".join(output[-_OUTPUT_BYTES:].decode(errors="replace").split())
        raise Transient(f"exit code {process.returncode}" + (f": {said}" if said else ""))


def _watched(settings: Settings, process: subprocess.Popen[bytes], document: bytes, stopping: threading.Event) -> bytes:
    waited, data = 0.0, document
    while True:
        step = min(0.2, settings.timeout_seconds)
        try:
            return process.communicate(data or None, timeout=step)[0]
        except subprocess.TimeoutExpired:
            waited, data = waited + step, b""
        if waited >= settings.timeout_seconds or stopping.is_set():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Transient(f"took longer than {settings.timeout_seconds:g} s")


def post(settings: Settings, document: dict[str, Any], _stopping: threading.Event) -> None:
    """Send the document to the web address. Raises Transient where a later try may go well, Refused."""
    request = urllib.request.Request(  # noqa: S310 - the configuration takes http and https alone
        settings.url,
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "darkroom"},
    )
    try:
        with urllib.request.urlopen(request, timeout=settings.timeout_seconds):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in _AGAIN:
            raise Transient(f"{settings.url} answers {error.code}") from error
        raise Refused(f"{settings.url} answers {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Transient(f"{settings.url}: {reason}") from error
    except Exception as error:  # http.client raises whatever a confused server makes of HTTP
        raise Transient(f"{settings.url}: {error!r}") from error


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
