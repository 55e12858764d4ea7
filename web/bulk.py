"""One act on many images: those of some ids, or all that pass a filter of the list.

Rows change a hundred at a time, and in between others get as long to write: neither filing nor a health check waits
for thousands of them. One act is worked on at a time. What can't be done in one request is left and said.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import parse_qs

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from daemon.catalogue.keywords import KeywordChange, Keywords, KeywordState, Refusal
from daemon.catalogue.search import ALL, ImageQuery, Search
from daemon.errors import Busy, EnvironmentFault, Rejected
from daemon.files.names import display
from web.api import FILTERS, image_query, requested
from web.archive import PhotoArchive
from web.context import ApiError, Context, read_body, success
from web.models import BulkReceipt, BulkRefusal, BulkRequest
from web.rendering import Renderer

_log = logging.getLogger(__name__)

_MAX_BODY = 512 * 1024
_BATCH = 100
# Many proxies wait for a minute.
_SECONDS = 45.0
_LONGEST_TURN = 0.1
_MOST_REFUSALS = 20
# How much of an unknown name an answer quotes.
_QUOTED = 50
UNDO_SECONDS = 10
# An undo that is on its way when they are over is in time.
_UNDO_GRACE = 5.0
# So many rows can be put back at a time, in all: about 30 MB.
_MOST_UNDONE = 100_000


class Bulk:
    """The handler."""

    def __init__(self, context: Context, renderer: Renderer) -> None:
        self._context, self._renderer = context, renderer
        self._search = Search(context.catalogue)
        self._keywords = Keywords(context.catalogue, context.captions.changed)
        self._undos = KeywordUndos()
        self._one = CapacityLimiter(1)

    async def act(self, request: Request) -> Response:
        """Do what a JSON asks for, or a browser's form that has it in a field, whose refusals are pages."""
        content = await read_body(request, _MAX_BODY)
        if not _is_form(request, content):
            return await self._act(content)
        fields = parse_qs(content.decode("utf-8", "replace"), keep_blank_values=True)
        field = fields.get("request", [""])[-1].encode()
        return await self._renderer.page(lambda _: self._act(field))(request)

    async def _act(self, content: bytes) -> Response:
        wanted = requested(BulkRequest, content)
        if wanted.act == "download":
            return await self.download(wanted)
        return success(await self.done(wanted))

    async def done(self, wanted: BulkRequest) -> BulkReceipt:
        """Do what is asked for, and return what became of it. Raises ApiError."""
        return await to_thread.run_sync(self._done, wanted, limiter=self._one)

    async def download(self, wanted: BulkRequest) -> Response:
        """Return the photos that are meant as one archive. Raises ApiError."""
        return await to_thread.run_sync(self._download, wanted)

    def _done(self, wanted: BulkRequest) -> BulkReceipt:
        if wanted.act == "undo":
            return self._undo(wanted.undo or "")
        if wanted.act == "count":
            return _Outcome(self._count(wanted)).receipt()
        ids = self._selected(wanted)
        outcome = _Outcome(len(ids))
        match wanted.act:
            case "caption":
                self._caption(ids, outcome)
            case "retry":
                self._retry(ids, outcome)
            case _:
                self._change_keywords(ids, outcome, wanted)
        return outcome.receipt()

    # -- what is meant

    def _count(self, wanted: BulkRequest) -> int:
        if (query := _filter(wanted)) is None:
            return len(set(wanted.ids or ()))
        return self._search.count(query)

    def _selected(self, wanted: BulkRequest) -> list[int]:
        """Return the ids that are meant. Raises ApiError 400, and 409 where they are not as many as was said."""
        query = _filter(wanted)
        ids = list(dict.fromkeys(wanted.ids or ())) if query is None else self._search.ids(query, ALL)
        if wanted.expected not in {None, len(ids)}:
            message = f"{len(ids):,} images are meant by now, and not {wanted.expected:,}; nothing was done"
            raise ApiError(409, message, "count_changed")
        return ids

    # -- the acts

    def _change_keywords(self, ids: list[int], outcome: "_Outcome", wanted: BulkRequest) -> None:
        if not wanted.keywords:
            raise ApiError(400, f"{wanted.act} needs `keywords`")
        words = tuple(dict.fromkeys(wanted.keywords))
        now = time.time()
        change = KeywordChange(now, add=words) if wanted.act == "add_keywords" else KeywordChange(now, remove=words)
        before: dict[int, KeywordState] = {}

        def step(batch: Sequence[int]) -> None:
            done = self._keywords.change(batch, change)
            before.update(done.before)
            outcome.add(len(batch), len(done.before), done.refused)

        self._in_steps(ids, outcome, step)
        outcome.undo = self._undos.keep(KeywordUndo(change, before))

    def _undo(self, token: str) -> BulkReceipt:
        undo = self._undos.get(token)
        ids = list(undo.before)
        outcome = _Outcome(len(ids))

        def step(batch: Sequence[int]) -> None:
            done = self._keywords.put_back({one: undo.before[one] for one in batch}, undo.change, time.time())
            # What a fault leaves can be undone again.
            for one in batch:
                del undo.before[one]
            outcome.add(len(batch), len(done.before), done.refused)

        self._in_steps(ids, outcome, step)
        if not undo.before:
            self._undos.forget(token)
        return outcome.receipt()

    def _download(self, wanted: BulkRequest) -> Response:
        ids = self._selected(wanted)
        if not ids:
            raise ApiError(409, "no image is meant, so there is nothing to download", "nothing_selected")
        archive = PhotoArchive(self._context, self._search, ids, sidecars=wanted.sidecars)
        name = f"darkroom-{len(ids)}-photo{'s' * (len(ids) != 1)}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return _Download(archive.stream(), headers)

    def _caption(self, ids: list[int], outcome: "_Outcome") -> None:
        if not self._context.captions_on():
            raise ApiError(409, "captions are off: no Gemini key is set (GEMINI_API_KEY)", "captions_off")
        is_private, captions, now = cache(self._context.is_private), self._context.captions, time.time()

        def ask(image_id: int) -> None:
            if any(map(is_private, captions.check(image_id))):
                raise ApiError(409, "its folder is private, so no model is asked about it", "private")
            captions.ask_again(image_id, now)

        def step(batch: Sequence[int]) -> None:
            with self._context.catalogue.writing():
                self._each(batch, outcome, ask)

        self._in_steps(ids, outcome, step)

    def _retry(self, ids: list[int], outcome: "_Outcome") -> None:
        # Each moves a file, between transactions of its own.
        self._in_steps(ids, outcome, lambda one: self._each(one, outcome, self._context.retry), size=1)

    def _each(self, batch: Sequence[int], outcome: "_Outcome", act: Callable[[int], None]) -> None:
        refused = []
        for image_id in batch:
            try:
                act(image_id)
            except (Rejected, Busy) as error:
                refused.append(Refusal(image_id, "conflict", self._context.scrub(str(error))))
            except ApiError as error:
                refused.append(Refusal(image_id, error.code, str(error)))
        outcome.add(len(batch), len(batch) - len(refused), refused)

    def _in_steps(
        self, ids: list[int], outcome: "_Outcome", step: Callable[[Sequence[int]], None], size: int | None = None
    ) -> None:
        """Take a step for each batch of ids; what time or a fault leaves is refused. Raises EnvironmentFault."""
        try:
            for batch in _turns(ids, size or _BATCH):
                step(batch)
        except EnvironmentFault as fault:
            # With nothing done the answer is that of any call; else what was done is told, and can be undone.
            if not outcome.seen:
                raise
            _log.warning("an act on %d images was broken off: %s", len(ids), fault)
            outcome.leave(ids, "unavailable", "the disk or the database is at fault; the log tells more")
        outcome.leave(ids, "time", f"the {_SECONDS:.0f} seconds of a request were over; ask again for the rest")


class _Download(StreamingResponse):
    """An archive that is made while it is sent, and let go of with the client."""

    def __init__(self, archive: Generator[bytes, None, None], headers: dict[str, str]) -> None:
        super().__init__(archive, headers=headers, media_type="application/zip")
        self._archive = archive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._archive.close()


def _is_form(request: Request, content: bytes) -> bool:
    """Return whether a body is a form; curl calls a JSON so, too."""
    is_said = request.headers.get("content-type", "").lower().startswith("application/x-www-form-urlencoded")
    return is_said and not content.lstrip().startswith(b"{")


def _filter(wanted: BulkRequest) -> ImageQuery | None:
    """Return the filter, None where there are ids instead. Raises ApiError 400."""
    if (wanted.ids is None) == (wanted.filter is None):
        raise ApiError(400, "the images are named by `ids` or by a `filter`, by one of the two")
    if wanted.filter is None:
        return None
    for key in wanted.filter:
        if key not in FILTERS:
            message = f"unknown name in the filter {display(key[:_QUOTED])}: known are {', '.join(FILTERS)}"
            raise ApiError(400, message, "unknown_key")
    flags = {True: "true", False: "false"}
    given = {key: flags[value] if isinstance(value, bool) else str(value) for key, value in wanted.filter.items()}
    return image_query(given)


def _turns(ids: list[int], size: int) -> Iterator[Sequence[int]]:
    """Yield the batches that there is time for; whoever waits for the database gets as long as one has taken."""
    until = time.monotonic() + _SECONDS
    for start in range(0, len(ids), size):
        began = time.monotonic()
        if began > until:
            return
        yield ids[start : start + size]
        time.sleep(min(_LONGEST_TURN, time.monotonic() - began))


@dataclass
class _Outcome:
    """What has become of the images of an act so far."""

    selected: int
    seen: int = 0
    changed: int = 0
    unchanged: int = 0
    undo: str | None = None
    refused: list[BulkRefusal] = field(default_factory=list)

    def add(self, seen: int, changed: int, refused: Sequence[Refusal]) -> None:
        """Count a batch; what was neither changed nor refused was so already."""
        self.seen += seen
        self.changed += changed
        self.unchanged += seen - changed - len(refused)
        self._refuse(refused)

    def leave(self, ids: Sequence[int], code: str, message: str) -> None:
        """Refuse all that were not seen."""
        self._refuse([Refusal(one, code, message) for one in ids[self.seen : self.seen + _MOST_REFUSALS]])
        self.seen = len(ids)

    def _refuse(self, refused: Sequence[Refusal]) -> None:
        for one in refused[: _MOST_REFUSALS - len(self.refused)]:
            self.refused.append(BulkRefusal(image_id=one.image_id, code=one.code, message=one.message))

    def receipt(self) -> BulkReceipt:
        """Return the answer."""
        return BulkReceipt(
            selected=self.selected,
            changed=self.changed,
            unchanged=self.unchanged,
            refused=tuple(self.refused),
            undo=self.undo,
            undo_seconds=UNDO_SECONDS,
        )


@dataclass(frozen=True)
class KeywordUndo:
    """A change of keywords, and the rows that it changed as they were before."""

    change: KeywordChange
    before: dict[int, KeywordState]


class KeywordUndos:
    """What can be undone yet, by tokens that can't be guessed; in memory alone, and for seconds."""

    def __init__(self, most: int = _MOST_UNDONE, seconds: float = UNDO_SECONDS + _UNDO_GRACE) -> None:
        """Keep at most so many rows, in all, for so long."""
        self._most, self._seconds = most, seconds
        self._kept: OrderedDict[str, tuple[float, KeywordUndo]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, undo: KeywordUndo) -> str | None:
        """Return the token of a change; None where it has changed nothing, or too much to be kept."""
        if not 0 < len(undo.before) <= self._most:
            return None
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._sweep()
            self._kept[token] = time.monotonic() + self._seconds, undo
            while sum(len(kept.before) for _, kept in self._kept.values()) > self._most:
                self._kept.popitem(last=False)
        return token

    def get(self, token: str) -> KeywordUndo:
        """Return what a token undoes. Raises ApiError 409 where that can't be undone any more."""
        with self._lock:
            self._sweep()
            if token not in self._kept:
                message = f"that can't be undone any more: an edit can for {UNDO_SECONDS} seconds"
                raise ApiError(409, message, "undo_expired")
            return self._kept[token][1]

    def forget(self, token: str) -> None:
        """Let a change go that is undone."""
        with self._lock:
            self._kept.pop(token, None)

    def _sweep(self) -> None:
        now = time.monotonic()
        for token in [token for token, (until, _) in self._kept.items() if until < now]:
            del self._kept[token]
