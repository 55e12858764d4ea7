"""The JSON calls about images: lists, one image, a person's words, queue again, the counts."""

import json
import time
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue.captions import KEPT
from daemon.catalogue.search import ImageQuery, Search
from daemon.catalogue.stats import Statistics
from daemon.errors import Rejected
from web import models
from web.context import ApiError, Context, success
from web.models import MAX_CAPTION, MAX_KEYWORD, MAX_KEYWORDS, STATUSES

PAGE, MAX_PAGE = 50, 500
MAX_QUERY = 500
_MAX_BODY = 256 * 1024
# SQLite's integers end here.
_MAX_ID = 2**63 - 1
# How much of what is no id an answer quotes.
_QUOTED = 50


class Api:
    """The handlers; each does its blocking work in one call in a thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._search = Search(context.catalogue)
        self._statistics = Statistics(context.catalogue)

    async def list(self, request: Request) -> Response:
        """List images, newest first."""
        wanted, limit = _wanted(request.query_params), _limit(request.query_params)
        rows = await run_in_threadpool(self._search.page, wanted, limit + 1)
        shown = [models.summary(self._context, row) for row in rows[:limit]]
        if len(rows) <= limit:
            return success(shown, next=None)
        cursor = str(shown[-1]["image_id"])
        pairs = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        url = f"{request.url.path}?{urlencode([*pairs, ('cursor', cursor)])}"
        return success(shown, next=cursor, headers={"Link": f'<{url}>; rel="next"'})

    async def image(self, request: Request) -> Response:
        """Give all of one image."""
        return success(await run_in_threadpool(self._detail, image_id(request)))

    async def edit(self, request: Request) -> Response:
        """Keep a person's words."""
        number = image_id(request)
        words = _words(await _body(request))

        def edit() -> dict[str, Any]:
            self._row(number)
            self._context.captions.edit(number, time.time(), **words)
            return self._detail(number)

        return success(await run_in_threadpool(edit))

    async def retry(self, request: Request) -> Response:
        """Queue a failed image again."""
        number = image_id(request)

        def retry() -> None:
            self._row(number)
            self._act(lambda: self._context.retry(number))

        await run_in_threadpool(retry)
        return success({"image_id": number, "status": "queued"}, 202)

    async def caption(self, request: Request) -> Response:
        """Have a model asked for a caption again."""
        number = image_id(request)

        def ask() -> dict[str, Any]:
            self._row(number)
            captioner = self._context.health().get("captioner")
            if captioner is None or captioner.detail == "off":
                raise ApiError(409, "captions are off: no Gemini key is set (GEMINI_API_KEY)", "captions_off")
            self._act(lambda: self._context.captions.ask_again(number, time.time()))
            return self._row(number)

        row = await run_in_threadpool(ask)
        return success({"image_id": number, "caption_status": row["caption_status"]}, 202)

    async def stats(self, _request: Request) -> Response:
        """Count."""
        return success(await run_in_threadpool(self.counts))

    def counts(self) -> dict[str, Any]:
        """Read the counts; blocking."""
        with self._context.catalogue.session():
            return models.stats(self._context, self._statistics.stats(time.time()), self._search.captions())

    def _row(self, number: int) -> dict[str, Any]:
        row = self._search.image(number)
        if row is None:
            raise no_image(number)
        return row

    def _detail(self, number: int) -> dict[str, Any]:
        with self._context.catalogue.session():
            row = self._row(number)
            return models.detail(self._context, row, self._search.raw_exif(number), self._statistics.history(number))

    def _act(self, action: Any) -> None:
        try:
            action()
        except Rejected as error:
            raise ApiError(409, self._context.scrub(str(error))) from error


def image_id(request: Request) -> int:
    """Return the id in the path. Raises ApiError 404 where it can't be one."""
    text = str(request.path_params["image_id"])
    number = _whole(text, _MAX_ID)
    if number is None:
        raise ApiError(404, f"{text[:_QUOTED]!a}{'…' * (len(text) > _QUOTED)} is not an image's id")
    return number


def no_image(number: int) -> ApiError:
    """Say that there is no such image."""
    return ApiError(404, f"there is no image {number}")


def _wanted(query: Mapping[str, str]) -> ImageQuery:
    status = query.get("status")
    if status is not None and status not in STATUSES:
        raise ApiError(400, f"status is one of {', '.join(STATUSES)}")
    gps = query.get("has_gps")
    if gps not in {None, "true", "false"}:
        raise ApiError(400, "has_gps is true or false")
    cursor = query.get("cursor")
    before = None if cursor is None else _whole(cursor, _MAX_ID)
    if cursor is not None and before is None:
        raise ApiError(400, "cursor is what `next` of the page before said")
    for key in ("q", "camera"):
        if len(query.get(key, "")) > MAX_QUERY:
            raise ApiError(400, f"{key} is longer than {MAX_QUERY} characters")
    return ImageQuery(
        status=status,
        text=query.get("q"),
        camera=query.get("camera"),
        taken_from=_moment(query, "from"),
        taken_to=_moment(query, "to", after=True),
        has_gps=None if gps is None else gps == "true",
        before=before,
    )


def _limit(query: Mapping[str, str]) -> int:
    number = _whole(query.get("limit", str(PAGE)), MAX_PAGE)
    if not number:
        raise ApiError(400, f"limit is a number from 1 to {MAX_PAGE}")
    return number


def _whole(text: str, largest: int) -> int | None:
    """Return the whole number that a text is; None where it is none, or a larger one."""
    # int() by itself takes digits of other scripts, and fails at more than 4,300 of any.
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(largest))
    return int(text) if is_number and int(text) <= largest else None


def _moment(query: Mapping[str, str], key: str, *, after: bool = False) -> str | None:
    """Read a day or a local time; `after` gives what follows it, so that the day itself is included."""
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


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY:
            raise ApiError(413, f"the body is larger than {_MAX_BODY // 1024} KiB")
    try:
        body = json.loads(content)
        # Neither the database nor a sidecar can hold half of a pair, in whatever text of the body it stands.
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "the body holds half of a surrogate pair (\\ud800 to \\udfff) as a character") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is not a JSON object")
    return body


def _words(body: Mapping[str, Any]) -> dict[str, Any]:
    """Check a person's words: what is not mentioned stays as it is."""
    unknown = set(body) - {"caption", "keywords"}
    if unknown or not body:
        raise ApiError(400, "the body names `caption`, `keywords` or both, and nothing else")
    caption, keywords = body.get("caption", KEPT), body.get("keywords", KEPT)
    if "caption" in body and caption is not None and not (isinstance(caption, str) and len(caption) <= MAX_CAPTION):
        raise ApiError(400, f"caption is null or a text of at most {MAX_CAPTION} characters")
    if "keywords" in body:
        keywords = _keywords(keywords)
    return {"caption": caption, "keywords": keywords}


def _keywords(given: Any) -> Any:
    valid = isinstance(given, list) and all(isinstance(word, str) and 0 < len(word) <= MAX_KEYWORD for word in given)
    if not valid or len(given) > MAX_KEYWORDS:
        raise ApiError(400, f"keywords is a list of at most {MAX_KEYWORDS} texts of 1 to {MAX_KEYWORD} characters")
    return list(dict.fromkeys(given))
