"""Server-sent events: each change of an image, and the counts, for as long as somebody listens."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from daemon.catalogue import ImageEvent
from daemon.catalogue.history import History
from daemon.catalogue.schema import Status
from daemon.errors import EnvironmentFault
from web.context import ApiError, Context
from web.models import EventMessage, StatsAnswer, event_message

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_KEEP_ALIVE_SECONDS = 15.0
_BATCH = 500
_MAX_LISTENERS = 100
# What changes with the clock alone, and is no news.
_OF_THE_CLOCK = {"rate", "seconds_left"}


class EventStream:
    """The stream. `stop` ends it for all listeners, who would hold up the end of the server otherwise."""

    def __init__(self, context: Context, counts: Callable[[], StatsAnswer]) -> None:
        self._context = context
        self._history = History(context.catalogue)
        self._counts = counts
        self._stopping = asyncio.Event()
        self.listeners = 0

    def stop(self) -> None:
        """End all streams; on the event loop's thread."""
        self._stopping.set()

    async def stream(self, request: Request) -> Response:
        """Serve what happens from now on, or from the event on that the client saw last."""
        if self.listeners >= _MAX_LISTENERS:
            raise ApiError(503, f"{_MAX_LISTENERS} clients are listening already")
        last = request.headers.get("last-event-id", "")
        known = last.isascii() and last.isdecimal() and len(last) < 19
        after = int(last) if known else await run_in_threadpool(self._history.last)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type="text/event-stream")
        return StreamingResponse(self._messages(after), media_type="text/event-stream", headers=headers)

    async def _messages(self, after: int) -> AsyncIterator[str]:
        self.listeners += 1
        sent: StatsAnswer | None = None
        sent_at = time.monotonic()
        try:
            while not self._stopping.is_set():
                events, counts = await run_in_threadpool(self._look, after)
                messages = [self._image_message(event, status) for event, status in events]
                if sent is None or _differ(sent, counts):
                    sent = counts
                    messages.append(_message("stats", counts))
                if events:
                    after = events[-1][0].id
                if not messages and time.monotonic() - sent_at > _KEEP_ALIVE_SECONDS:
                    messages = [":\n\n"]
                if messages:
                    sent_at = time.monotonic()
                    yield "".join(messages)
                if len(events) < _BATCH:
                    await self._pause()
        except EnvironmentFault as fault:
            # The client connects again by itself.
            _log.debug("the event stream ends: %s", fault)
        finally:
            self.listeners -= 1

    def _look(self, after: int) -> tuple[list[tuple[ImageEvent, str | None]], StatsAnswer]:
        with self._context.catalogue.session():
            return self._history.after(after, _BATCH), self._counts()

    def _image_message(self, event: ImageEvent, status: str | None) -> str:
        data = event_message(event, cast("Status | None", status), self._context.scrub)
        return f"id: {event.id}\n{_message('image', data)}"

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return


def _differ(sent: StatsAnswer, counts: StatsAnswer) -> bool:
    return sent.model_dump(exclude=_OF_THE_CLOCK) != counts.model_dump(exclude=_OF_THE_CLOCK)


def _message(kind: str, data: EventMessage | StatsAnswer) -> str:
    # One line of ASCII: nothing in it can end the message.
    return f"event: {kind}\ndata: {json.dumps(data.model_dump())}\n\n"
