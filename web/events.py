"""Server-sent events: each change of an image, and the counts, for as long as somebody listens."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import cast

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from daemon.catalogue import ImageEvent
from daemon.catalogue.history import History
from daemon.catalogue.schema import Status
from daemon.errors import EnvironmentFault
from web.context import Context, failure
from web.models import EventMessage, StatsAnswer, event_message

_log = logging.getLogger(__name__)

_LOOK_SECONDS, _EVENT_SECONDS = 0.5, 0.1
_KEEP_ALIVE_SECONDS = 15.0
_BATCH = 500
# So many of the last messages are kept for listeners who are slow, and for those who come back.
_KEPT = 2 * _BATCH
_MAX_LISTENERS = 100
# What changes with the clock alone, and is no news.
_OF_THE_CLOCK = {"rate", "seconds_left", "progress"}


@dataclass(frozen=True)
class _News:
    """One event as it is sent, and its number."""

    number: int
    text: str


class EventStream:
    """The stream. `stop` ends it for all listeners, who would hold up the end of the server otherwise.

    One task reads the catalogue while anybody listens, and all are sent what it has found.
    """

    def __init__(self, context: Context, counts: Callable[[], StatsAnswer]) -> None:
        self._context = context
        self._history = History(context.catalogue)
        self._counts = counts
        self._stopping = False
        self._reader: asyncio.Task[None] | None = None
        # Set and replaced whenever there is something new.
        self._changed = asyncio.Event()
        self._kept: deque[_News] = deque(maxlen=_KEPT)
        # The numbers between which all events are kept: from behind the first to the last one.
        self._before, self._last = 0, 0
        self._stats: tuple[StatsAnswer, str] | None = None
        self._failed = False
        # Who has missed more than is kept reads for himself, one at a time.
        self._reading = anyio.CapacityLimiter(1)
        self.listeners = 0

    def stop(self) -> None:
        """End all streams; on the event loop's thread."""
        self._stopping = True
        self._wake()

    def refusal(self) -> Response | None:
        """Return what one more listener is told where there is no place for him."""
        return _FULL if self.listeners >= _MAX_LISTENERS else None

    async def stream(self, request: Request) -> Response:
        """Serve what happens from now on, or from the event on that the client saw last."""
        if (full := self.refusal()) is not None:
            return full
        if request.method == "HEAD":
            return Response(headers=_HEADERS, media_type="text/event-stream")
        # Counted before anything is waited for: a thousand who come at once are not all let in.
        self.listeners += 1
        try:
            last = request.headers.get("last-event-id", "")
            known = last.isascii() and last.isdecimal() and len(last) < 19
            newest = await run_in_threadpool(self._history.last)
            after = min(int(last), newest) if known else newest
        except BaseException:
            self._leave()
            raise
        return _EventResponse(self._messages(after), self._leave)

    def _leave(self) -> None:
        self.listeners -= 1

    async def _messages(self, after: int) -> AsyncIterator[str]:
        if self._reader is None or self._reader.done():
            self._begin()
        sent: str | None = None
        while not self._stopping and not self._failed:
            changed = self._changed
            after, messages = await self._news(after)
            if self._stats is not None and self._stats[1] != sent:
                sent = self._stats[1]
                messages.append(sent)
            if messages:
                yield "".join(messages)
            elif after >= self._last and not await _is_set(changed, _KEEP_ALIVE_SECONDS):
                yield ":\n\n"

    async def _news(self, after: int) -> tuple[int, list[str]]:
        """Return what follows an event, and the number of the last of that."""
        if after >= self._before:
            return max(after, self._last), [news.text for news in self._kept if news.number > after]
        async with self._reading:
            events = await run_in_threadpool(self._history.after, after, _BATCH)
        news = self._texts(events)
        return (news[-1].number if news else self._last), [one.text for one in news]

    def _begin(self) -> None:
        self._kept.clear()
        self._before = self._last = 0
        self._stats, self._failed = None, False
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        """Read what is new for as long as anybody listens."""
        try:
            self._before = self._last = await run_in_threadpool(self._history.last)
            while self.listeners and not self._stopping:
                began = time.monotonic()
                events, counts = await run_in_threadpool(self._look)
                news = self._texts(events)
                if (dropped := len(self._kept) + len(news) - _KEPT) > 0:
                    self._before = self._kept[dropped - 1].number
                self._kept.extend(news)
                if news:
                    self._last = news[-1].number
                is_other = self._stats is None or _differ(self._stats[0], counts)
                if is_other:
                    self._stats = counts, _message("stats", counts)
                if news or is_other:
                    self._wake()
                if len(events) < _BATCH:
                    await self._pause(began + _LOOK_SECONDS)
        except Exception as error:
            # The clients connect again by themselves.
            if not isinstance(error, EnvironmentFault):
                _log.exception("the event streams end: an error in darkroom itself")
            self._failed = True
            self._wake()

    def _look(self) -> tuple[list[tuple[ImageEvent, str | None]], StatsAnswer]:
        with self._context.catalogue.session():
            return self._history.after(self._last, _BATCH), self._counts()

    def _texts(self, events: list[tuple[ImageEvent, str | None]]) -> list[_News]:
        return [_News(event.id, self._image_message(event, status)) for event, status in events]

    def _image_message(self, event: ImageEvent, status: str | None) -> str:
        data = event_message(event, cast("Status | None", status), self._context.scrub)
        return f"id: {event.id}\n{_message('image', data)}"

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _pause(self, until: float) -> None:
        """Wait for the next look, or for an event: who looks at the page sees a photo come in at once."""
        while not self._stopping and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _EVENT_SECONDS))
            # A tenth of what a look costs.
            if await run_in_threadpool(self._history.last) != self._last:
                return


_FULL = failure(503, "unavailable", f"{_MAX_LISTENERS} clients are listening already")
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _EventResponse(StreamingResponse):
    """A stream that tells when it has ended, also where its client went before it began."""

    def __init__(self, messages: AsyncIterator[str], ended: Callable[[], None]) -> None:
        super().__init__(messages, media_type="text/event-stream", headers=_HEADERS)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _differ(sent: StatsAnswer, counts: StatsAnswer) -> bool:
    return sent.model_dump(exclude=_OF_THE_CLOCK) != counts.model_dump(exclude=_OF_THE_CLOCK)


def _message(kind: str, data: EventMessage | StatsAnswer) -> str:
    # One line of ASCII: nothing in it can end the message.
    return f"event: {kind}\ndata: {json.dumps(data.model_dump())}\n\n"
