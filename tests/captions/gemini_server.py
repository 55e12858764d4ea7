"""A real HTTP server that speaks as much of Gemini's REST as captions need, with scripted behaviour.

By itself: python -m tests.captions.gemini --port 8081 --delay 2, then GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8081
"""

import argparse
import base64
import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

CAPTION = {"caption": "A grey cat sleeps on a red sofa.", "keywords": ["cat", "sofa"], "visible_text": "HOME"}


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire."""

    model: str
    key: str
    body: dict[str, Any]
    at: float

    @property
    def image(self) -> bytes:
        data = next(part["inlineData"]["data"] for part in self._parts if "inlineData" in part)
        return base64.urlsafe_b64decode(data)

    @property
    def text(self) -> str:
        return "".join(part.get("text", "") for part in self._parts)

    @property
    def _parts(self) -> list[dict[str, Any]]:
        return [part for content in self.body["contents"] for part in content["parts"]]


@dataclass(frozen=True)
class Answer:
    """What to send back; `hang` holds the connection until the server closes, `drop` closes it without a word."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    hang: bool = False
    drop: bool = False


def says(text: str, reason: str = "STOP") -> Answer:
    """A model's answer of this very text."""
    usage = {"promptTokenCount": 1290, "candidatesTokenCount": 41, "thoughtsTokenCount": 9}
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": reason, "index": 0}
    return Answer(json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode())


def caption(**changes: Any) -> Answer:
    """A good answer."""
    return says(json.dumps({**CAPTION, **changes}))


def error(status: int, name: str, message: str, *details: dict[str, Any]) -> Answer:
    """An error as Google's APIs write it."""
    body = {"error": {"code": status, "message": message, "status": name, "details": list(details)}}
    return Answer(json.dumps(body).encode(), status)


def limited(quota: str, seconds: float | None) -> Answer:
    """A 429, naming the quota and how long to wait."""
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "Learn more", "url": "https://x"}]},
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {"quotaMetric": "generate_content_free_tier_requests", "quotaId": quota, "quotaValue": "20"}
            ],
        },
    ]
    if seconds is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds:g}s"})
    return error(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", *details)


PER_MINUTE = limited("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", 34.5)
PER_DAY = limited("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 34.5)
BROKEN = error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
DEAD_KEY = error(
    400,
    "INVALID_ARGUMENT",
    "API key not valid. Please pass a valid API key.",
    {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},
)
LEAKED_KEY = error(403, "PERMISSION_DENIED", "Your API key was reported as leaked. Please use another API key.")
RETIRED = error(404, "NOT_FOUND", "models/gemini-0.5 is not found for API version v1beta.")
ODD_IMAGE = error(400, "INVALID_ARGUMENT", "Unable to process input image.")
SIGN_IN = Answer(b"<!doctype html><title>Welcome to Hotel WiFi</title>", 200, "text/html")
BLOCKED = Answer(json.dumps({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}).encode())
UNSAFE = Answer(json.dumps({"candidates": [{"finishReason": "SAFETY", "index": 0}]}).encode())
EMPTY = Answer(json.dumps({"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]}).encode())
CUT_OFF = says('{"caption": "A grey cat sl', "MAX_TOKENS")
HANG = Answer(hang=True)
DROP = Answer(drop=True)


@dataclass
class Script:
    """The answers that are still to be given, then `usually` for ever."""

    usually: Answer = field(default_factory=caption)
    next: list[Answer] = field(default_factory=list)


class Gemini:
    """The server, as a context manager; `asked` is every request so far."""

    def __init__(
        self, answers: Iterable[Answer] = (), usually: Answer | None = None, *, port: int = 0, delay: float = 0
    ) -> None:
        self.script = Script(usually or caption(), list(answers))
        self.asked: list[Asked] = []
        self.delay = delay
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            answer = self.script.next.pop(0) if self.script.next else self.script.usually
        if self.delay:
            self._closing.wait(self.delay)
        if answer.hang:
            self._closing.wait()
        return answer

    def wait_closed(self) -> None:
        self._closing.wait()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed in the middle of requests here."""


def _handler(gemini: Gemini) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model, _, method = unquote(self.path).rpartition("/")[2].partition(":")
            if not self.path.startswith("/v1beta/models/") or method != "generateContent":
                self._send(error(404, "NOT_FOUND", f"no such path: {self.path}"))
                return
            asked = Asked(model, self.headers.get("x-goog-api-key", ""), body, time.time())
            answer = gemini.answer(asked)
            if answer.drop or answer.hang:
                self.close_connection = True
                return
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            try:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
            except OSError:  # the client has given up waiting
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    args = parser.parse_args()
    with Gemini(port=args.port, delay=args.delay) as server:
        print(f"GOOGLE_GEMINI_BASE_URL={server.url}", flush=True)
        with suppress(KeyboardInterrupt):
            server.wait_closed()


if __name__ == "__main__":
    main()
