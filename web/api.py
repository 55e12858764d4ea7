"""The JSON calls about images: lists, one image, a person's words, queue again, the counts."""

import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue import ImageRow
from daemon.catalogue.captions import KEPT
from daemon.catalogue.facets import MONTH
from daemon.catalogue.history import History
from daemon.catalogue.schema import CAPTION_STATUSES, STATUSES
from daemon.catalogue.search import FileSearch, HeldBytes, ImageQuery, Search
from daemon.catalogue.stats import Statistics
from daemon.errors import Busy, Rejected
from daemon.files import atomic
from daemon.filing.inbox_file import hidden_and_shown
from web import models
from web.context import ApiError, Context, json_object, read_body, respond, success
from web.models import CaptionEdit, CaptionReceipt, ImageDetail, ImagePage, KnownRequest, RetryReceipt, StatsAnswer

FILTERS = (
    *("status", "q", "camera", "model", "from", "to", "month", "folder", "has_gps", "has_caption"),
    *("caption_status", "rating", "sort"),
)
PAGING = ("limit", "cursor")
PAGE, MAX_PAGE = 50, 500
MAX_QUERY = 500
_MAX_BODY = 256 * 1024
# SQLite's integers end here.
MAX_ID = 2**63 - 1
# How much of what is no id an answer quotes.
_QUOTED = 50

_Request = TypeVar("_Request", bound=BaseModel)


class Api:
    """The handlers; each does its blocking work in one call in a thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._search, self._files = Search(context.catalogue), FileSearch(context.catalogue)
        self._history = History(context.catalogue)
        self._statistics = Statistics(context.catalogue)

    async def list(self, request: Request) -> Response:
        """Return a page of images, newest first."""
        query, limit = image_query(request.query_params), _limit(request.query_params)
        rows = await run_in_threadpool(self._search.page, query, limit + 1)
        shown = tuple(models.image_summary(row, self._context.scrub) for row in rows[:limit])
        cursor = str(shown[-1].image_id) if len(rows) > limit else None
        page = ImagePage(status="success", data=shown, error=None, next=cursor)
        if cursor is None:
            return respond(page)
        pairs = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        url = f"{request.url.path}?{urlencode([*pairs, ('cursor', cursor)])}"
        return respond(page, headers={"Link": f'<{url}>; rel="next"'})

    async def image(self, request: Request) -> Response:
        """Return everything about one image."""
        return success(await run_in_threadpool(self._detail, image_id(request)))

    async def edit(self, request: Request) -> Response:
        """Keep a person's words; return the image."""
        number = image_id(request)
        words = requested(CaptionEdit, await read_body(request, _MAX_BODY))

        def edit() -> ImageDetail:
            self._row(number)
            with self._conflicts():
                self._context.captions.edit(
                    number,
                    time.time(),
                    caption=words.caption if "caption" in words.model_fields_set else KEPT,
                    keywords=words.keywords if "keywords" in words.model_fields_set else KEPT,
                    title=words.title if "title" in words.model_fields_set else KEPT,
                    rating=words.rating if "rating" in words.model_fields_set else KEPT,
                    label=words.label if "label" in words.model_fields_set else KEPT,
                )
            return self._detail(number)

        return success(await run_in_threadpool(edit))

    async def retry(self, request: Request) -> Response:
        """Queue a failed image again."""
        number = image_id(request)

        def retry() -> None:
            self._row(number)
            with self._conflicts():
                self._context.retry(number)

        await run_in_threadpool(retry)
        return success(RetryReceipt(image_id=number, status="queued"), 202)

    async def reject(self, request: Request) -> Response:
        """Throw an image away into the trash; return it."""
        return await self._moved(request, self._context.reject)

    async def restore(self, request: Request) -> Response:
        """Take an image back that was thrown away, or deleted; return it."""
        return await self._moved(request, self._context.restore)

    async def _moved(self, request: Request, move: Callable[[int], str]) -> Response:
        number = image_id(request)

        def work() -> ImageDetail:
            self._row(number)
            with self._conflicts():
                move(number)
            return self._detail(number)

        return success(await run_in_threadpool(work))

    async def caption(self, request: Request) -> Response:
        """Have a model asked for a caption again."""
        number = image_id(request)
        row = await run_in_threadpool(self.ask, number)
        return success(CaptionReceipt(image_id=number, caption_status=row.caption_status), 202)

    def ask(self, number: int) -> ImageRow:
        """Have a model asked about an image, and return its row; blocking. Raises ApiError 404, 409."""
        if self._context.keeps_private(self._row(number)):
            raise ApiError(409, "its folder is private, so no model is asked about it", "private")
        if not self._context.captions_on():
            raise ApiError(409, "captions are off: no Gemini key is set (GEMINI_API_KEY)", "captions_off")
        with self._conflicts():
            self._context.captions.ask_again(number, time.time())
        return self._row(number)

    async def known(self, request: Request) -> Response:
        """Return of each of some hashes whether a file with it is here, and no more."""
        wanted = requested(KnownRequest, await read_body(request, _MAX_BODY)).sha256
        here = await run_in_threadpool(self._known, sorted({sha256.lower() for sha256 in wanted}))
        return success({sha256: sha256.lower() in here for sha256 in wanted})

    def _known(self, wanted: Sequence[str]) -> set[str]:
        return {held.sha256 for held in self._files.holding(wanted) if self._is_here(held)}

    def _is_here(self, held: HeldBytes) -> bool:
        """Return whether what a row says is true of the file as far as can be told without reading it."""
        if held.status == "processing":
            return True
        with suppress(OSError):  # a share that stutters: it is sent again, and compared once that answers
            if held.status == "done":
                return atomic.size_of(self._context.roots["library"] / held.path) == held.size
            for file in hidden_and_shown(self._context.inbox / held.path, held.token):
                here = file.lstat()
                if here is not None and stat.S_ISREG(here.st_mode):
                    return (here.st_size, here.st_mtime_ns) == (held.size, held.mtime_ns)
        return False

    async def stats(self, _request: Request) -> Response:
        """Return the counts."""
        return success(await run_in_threadpool(self.counts))

    def counts(self) -> StatsAnswer:
        """Return the counts; blocking."""
        context = self._context
        with context.catalogue.session():
            now, captions = self._statistics.stats(time.time()), self._statistics.captions()
            return models.stats_answer(now, captions, context.captions_line(), context.scrub)

    def _row(self, number: int) -> ImageRow:
        row = self._search.image(number)
        if row is None:
            raise no_image(number)
        return row

    def _detail(self, number: int) -> ImageDetail:
        with self._context.catalogue.session():
            row, raw = self._row(number), self._search.raw_exif(number)
            return models.image_detail(row, raw, self._history.of(number), self._context.scrub)

    @contextmanager
    def _conflicts(self) -> Iterator[None]:
        """Turn Rejected, which says why an image is not one for this, and Busy into ApiError 409."""
        try:
            yield
        except (Rejected, Busy) as error:
            raise ApiError(409, self._context.scrub(str(error))) from error


def requested(model: type[_Request], content: bytes) -> _Request:
    """Return what a JSON body asks for. Raises ApiError 400."""
    try:
        return models.request_of(model, json_object(content))
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def image_id(request: Request) -> int:
    """Return the id in the path. Raises ApiError 404 where it can't be one."""
    text = str(request.path_params["image_id"])
    number = whole(text, MAX_ID)
    if number is None:
        raise ApiError(404, f"{text[:_QUOTED]!a}{'…' * (len(text) > _QUOTED)} is not an image's id")
    return number


def no_image(number: int) -> ApiError:
    """Return the refusal where there is no such image."""
    return ApiError(404, f"there is no image {number}")


def image_query(query: Mapping[str, str]) -> ImageQuery:
    """Return what a query asks for. Raises ApiError 400 saying what is wrong with it."""
    status = query.get("status")
    if status is not None and status not in STATUSES:
        raise ApiError(400, f"status is one of {', '.join(STATUSES)}")
    caption_status = query.get("caption_status")
    if caption_status is not None and caption_status not in CAPTION_STATUSES:
        raise ApiError(400, f"caption_status is one of {', '.join(CAPTION_STATUSES)}")
    gps, caption = _flag(query, "has_gps"), _flag(query, "has_caption")
    month = query.get("month")
    if month is not None and not MONTH.fullmatch(month):
        raise ApiError(400, "month is a year and a month (2026-11)")
    cursor = query.get("cursor")
    before = None if cursor is None else whole(cursor, MAX_ID)
    if cursor is not None and before is None:
        raise ApiError(400, "cursor is what `next` of the page before said")
    for key in ("q", "camera", "model", "folder"):
        if len(query.get(key, "")) > MAX_QUERY:
            raise ApiError(400, f"{key} is longer than {MAX_QUERY} characters")
    stars = re.fullmatch(r"(-1|[0-5])(\.\.)?", query.get("rating", "0"))
    if stars is None:
        raise ApiError(400, "rating is a number of stars (3), or that and more (3..)")
    if query.get("sort", "arrived") not in {"arrived", "taken"}:
        raise ApiError(400, "sort is arrived or taken")
    return ImageQuery(
        sort="taken" if query.get("sort") == "taken" else "arrived",
        status=status,
        text=query.get("q"),
        camera=query.get("camera"),
        model=query.get("model"),
        taken_from=_moment(query, "from"),
        taken_to=_moment(query, "to", after=True),
        has_gps=gps,
        captioned=caption,
        caption_status=caption_status,
        rating=int(stars[1]) if "rating" in query else None,
        rating_or_more=stars[2] is not None,
        month=month,
        folder=query.get("folder"),
        before=before,
    )


def _flag(query: Mapping[str, str], key: str) -> bool | None:
    text = query.get(key)
    if text not in {None, "true", "false"}:
        raise ApiError(400, f"{key} is true or false")
    return None if text is None else text == "true"


def _limit(query: Mapping[str, str]) -> int:
    number = whole(query.get("limit", str(PAGE)), MAX_PAGE)
    if not number:
        raise ApiError(400, f"limit is a number from 1 to {MAX_PAGE}")
    return number


def whole(text: str, largest: int) -> int | None:
    """Return the whole number that a text is; None where it is none, or a larger one."""
    # int() by itself takes digits of other scripts, and fails at more than 4,300 of any.
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(largest))
    return int(text) if is_number and int(text) <= largest else None


def _moment(query: Mapping[str, str], key: str, *, after: bool = False) -> str | None:
    """Return a day or a local time; with `after` what follows it, so that the day itself is included."""
    text = query.get(key)
    if text is None:
        return None
    try:
        if len(text) == len("2026-11-23"):
            day = date.fromisoformat(text)
            return (day + timedelta(days=1) if after and day < date.max else day).isoformat()
        at = datetime.fromisoformat(text).replace(tzinfo=None)
        return (at + timedelta(seconds=1) if after and at.year < date.max.year else at).isoformat()
    except ValueError:
        raise ApiError(400, f"{key} is a day (2026-11-23) or a local time (2026-11-23T18:30:00)") from None
