"""Server-sent events: each change of an image, and the counts, for as long as somebody listens."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from daemon.catalogue.search import Search
from daemon.errors import EnvironmentFault
from web import models
from web.context import ApiError, Context

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15.0
_BATCH = 500
_MAX_LISTENERS = 100


class EventStream:
    """The stream. `stop` ends it for all listeners, who would hold up the end of the server otherwise."""

    def __init__(self, context: Context, counts: Callable[[], dict[str, Any]]) -> None:
        self._context = context
        self._search = Search(context.catalogue)
        self._counts = counts
        self._listeners = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all streams; on the event loop's thread."""
        self._stopping.set()

    async def stream(self, request: Request) -> Response:
        """Tell what happens from now on, or from the event that the client saw last."""
        if self._listeners >= _MAX_LISTENERS:
            raise ApiError(503, f"{_MAX_LISTENERS} clients are listening already")
        last = request.headers.get("last-event-id", "")
        known = last.isascii() and last.isdecimal() and len(last) < 19
        after = int(last) if known else await run_in_threadpool(self._search.last_event)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(self._messages(after), media_type="text/event-stream", headers=headers)

    async def _messages(self, after: int) -> AsyncIterator[str]:
        self._listeners += 1
        told: dict[str, Any] | None = None
        sent_at = time.monotonic()
        try:
            while not self._stopping.is_set():
                lines, counts = await run_in_threadpool(self._look, after)
                messages = [_message("image", models.event(self._context, line), line["number"]) for line in lines]
                if told is None or _differ(told, counts):
                    told = counts
                    messages.append(_message("stats", counts))
                if lines:
                    after = lines[-1]["number"]
                if not messages and time.monotonic() - sent_at > _KEEP_ALIVE_SECONDS:
                    messages = [":\n\n"]
                if messages:
                    sent_at = time.monotonic()
                    yield "".join(messages)
                if len(lines) < _BATCH:
                    await self._pause()
        except EnvironmentFault as fault:
            # The client connects again by itself.
            _log.debug("the event stream ends: %s", fault)
        finally:
            self._listeners -= 1

    def _look(self, after: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with self._context.catalogue.session():
            return self._search.events(after, _BATCH), self._counts()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return


def _differ(told: dict[str, Any], counts: dict[str, Any]) -> bool:
    """Tell whether counts are news: the rate alone, which changes with the clock, is none."""
    return any(told[key] != counts[key] for key in counts if key not in {"rate", "seconds_left"})


def _message(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    head = "" if number is None else f"id: {number}\n"
    # One line of ASCII: nothing in it can end the message.
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"
