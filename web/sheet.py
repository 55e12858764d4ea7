"""The contact sheet: all photos, newest first, in sections by month, as one view that its address describes."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from typing import Literal
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue import ImageRow
from daemon.catalogue.facets import MONTH, Facets
from daemon.catalogue.schema import STATUSES
from daemon.catalogue.search import ImageQuery, Search
from web.api import MAX_ID, Api, image_query, whole
from web.context import Context
from web.models import has_thumbnails
from web.rendering import Renderer

PAGE = 200
_ALT = 300
# What of a query belongs to the view, in the order in which an address has it; `at`, `before` and `after` say what part
# of it is shown.
_VIEW = (
    "q",
    "status",
    "camera",
    "model",
    "month",
    "folder",
    "from",
    "to",
    "has_gps",
    "has_caption",
    "caption_status",
    "rating",
    "sort",
)
_WORDS = {"has_gps": "has a place", "has_caption": "has a caption"}
_CHOICES = 500
# A visit ends so many seconds after the sheet was last asked for.
_VISIT_SECONDS = 30 * 60
_COOKIE, _COOKIE_SECONDS = "darkroom-visit", 365 * 86_400
_COOKIE_VALUE = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,18})", re.ASCII)
_STARS = {"5": "★★★★★", **{f"{n}..": f"{'★' * n} or more" for n in (4, 3, 2, 1)}}


@dataclass(frozen=True)
class View:
    """What is looked at: the filters and the order, as the address has them."""

    given: Mapping[str, str]

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "View":
        """Return the view of a query; an empty field of a form is none."""
        return cls({key: query[key] for key in _VIEW if query.get(key) and (key, query[key]) != ("sort", "arrived")})

    @property
    def sort(self) -> Literal["arrived", "taken"]:
        """The order."""
        return "taken" if self.given.get("sort") == "taken" else "arrived"

    @property
    def is_filtered(self) -> bool:
        """Whether it holds less than all."""
        return bool(self.given.keys() - {"sort"})

    def url(self, path: str = "/", **changes: str | int | None) -> str:
        """Return the address of this view, with changes; None leaves a key out."""
        pairs = {**self.given, **changes}
        query = urlencode({key: value for key, value in pairs.items() if value is not None})
        return f"{path}?{query}" if query else path

    def filter(self, cameras: Mapping[str, int]) -> dict[str, str]:
        """Return the view as a filter of the API: filed photos where no other status is named."""
        filters = {"status": "done", **self.given}
        # Chosen from the list it is that camera alone, and not the one whose name begins with this one's.
        if filters.get("camera") in cameras:
            filters["model"] = filters.pop("camera")
        return filters

    def query(self, cameras: Mapping[str, int]) -> ImageQuery:
        """Return what to look for. Raises ApiError 400."""
        return image_query(self.filter(cameras))

    def chips(self) -> Iterator[tuple[str, str]]:
        """Yield each filter in words, and the address without it."""
        for key, value in self.given.items():
            if key in {"q", "sort"}:
                continue
            words = value
            if key in _WORDS:
                words = _WORDS[key] if value == "true" else _WORDS[key].replace("has a", "has no")
            if key == "month":
                words = title(value)
            if key == "rating":
                stars = int(value.removesuffix(".."))
                words = f"{'★' * stars or stars}{' or more' * value.endswith('..')}"
            if key == "caption_status":
                words = f"caption {value}"
            if key in {"from", "to", "folder", "status"}:
                words = f"{key} {value}"
            yield words, View({one: other for one, other in self.given.items() if one != key}).url()


@dataclass(frozen=True)
class Visit:
    """A browser's visit of the sheet, as its cookie has it.

    Images with an id above `since` are new; `newest` is the highest one that was seen.
    """

    since: int
    newest: int

    @classmethod
    def of(cls, request: Request, now: float) -> "Visit":
        """Return the visit that a request belongs to; to who comes for the first time nothing is new."""
        found = _COOKIE_VALUE.fullmatch(request.cookies.get(_COOKIE, ""))
        if found is None:
            return cls(MAX_ID, 0)
        since, newest, at = map(int, found.groups())
        return cls(since if now - at <= _VISIT_SECONDS else newest, newest)

    def keep(self, answer: Response, newest: int, now: float) -> None:
        """Have the browser remember it, and the highest id that it is shown now."""
        newest = max(newest, self.newest)
        since = min(self.since, newest)
        # Not Strict: who follows a link to the sheet is on the same visit.
        answer.set_cookie(
            _COOKIE, f"{since}-{newest}-{int(now)}", max_age=_COOKIE_SECONDS, httponly=True, samesite="lax"
        )


@dataclass(frozen=True)
class Cell:
    """One photo on the sheet; `text` is shown where there is no picture."""

    id: int
    month: str
    alt: str
    colour: int | None
    has_picture: bool
    text: str
    is_new: bool


@dataclass(frozen=True)
class Section:
    """The photos of one month; `n` is how many the month has in all, None where nobody counts them."""

    month: str
    title: str
    n: int | None
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Shown:
    """A part of the view: its sections, and the addresses of what is newer and what is older."""

    sections: Sequence[Section]
    newer: str | None
    older: str | None

    @property
    def cells(self) -> list[Cell]:
        """All photos."""
        return [cell for section in self.sections for cell in section.cells]

    @property
    def count(self) -> str:
        """How many there are, for who does not see them."""
        n = len(self.cells)
        return f"{n} {'photo' if n == 1 else 'photos'}{', and more below' if self.older else ''}"

    @property
    def count_of_new(self) -> str:
        """How many of them are new; "" where none is."""
        n = sum(cell.is_new for cell in self.cells)
        return f"{n}{'+' if self.older and n == len(self.cells) else ''}" if n else ""


class Sheet:
    """The handler of the contact sheet."""

    def __init__(self, context: Context, api: Api, renderer: Renderer) -> None:
        self._context = context
        self._api = api
        self._renderer = renderer
        self._search, self._facets = Search(context.catalogue), Facets(context.catalogue)

    async def page(self, request: Request) -> Response:
        """Serve the sheet."""
        return await run_in_threadpool(self._page, request)

    def _page(self, request: Request) -> Response:
        view, now = View.of(request.query_params), time.time()
        visit = Visit.of(request, now)
        with self._context.catalogue.session():
            cameras = self._facets.counts("camera", _CHOICES)
            query = view.query(cameras)
            months = self._facets.months(view.sort)
            shown = self._shown(view, query, request.query_params, months, visit.since)
            counts = self._api.counts()
            folders = self._facets.counts("folder", _CHOICES)
        answer = self._renderer.respond(
            request,
            "sheet.html",
            view=view,
            shown=shown,
            years=by_year(months),
            cameras=cameras,
            folders=folders,
            statuses=STATUSES,
            stars=_STARS,
            months=months,
            month_title=title,
            filed=counts.done,
            said={key: whole(request.query_params.get(key, ""), MAX_ID) or 0 for key in ("shared", "known")},
            filter=json.dumps(view.filter(cameras)),
            can_ask=self._context.captions_on(),
            bar=counts,
        )
        visit.keep(answer, max((cell.id for cell in shown.cells), default=0), now)
        return answer

    def _shown(
        self, view: View, query: ImageQuery, given: Mapping[str, str], months: Mapping[str, int], since: int
    ) -> Shown:
        """Return the part that is asked for: around a photo or from a month on, older or newer than a photo."""
        before, after, at = (whole(given.get(key, ""), MAX_ID) for key in ("before", "after", "at"))
        if at is None and MONTH.fullmatch(given.get("at", "")):
            at = self._search.first_of(given["at"], view.sort)
            rows = self._search.page(replace(query, at=at), PAGE + 1)
        elif at is not None:
            newer = self._search.page(replace(query, after=at), PAGE // 2)
            rows = newer + self._search.page(replace(query, at=at), PAGE + 1 - len(newer))
        elif after is not None:
            rows = self._search.page(replace(query, after=after), PAGE)
        else:
            rows = self._search.page(replace(query, before=before), PAGE + 1)
        begins_first = (before, after, at) == (None, None, None)
        if not rows and not begins_first:
            # What it was to begin with is gone, or the filter leaves nothing there.
            return self._shown(view, query, {}, months, since)
        page = rows[:PAGE]
        has_newer = not begins_first and bool(page and self._search.ids(replace(query, after=page[0].id), 1))
        has_older = len(rows) > PAGE or bool(after and page and self._search.ids(replace(query, before=page[-1].id), 1))
        counted = {} if view.given.keys() - {"sort", "month"} else months
        return Shown(
            sections=sections(page, view.sort, counted, since),
            newer=view.url(after=page[0].id) if has_newer else None,
            older=view.url(before=page[-1].id) if has_older else None,
        )


def sections(
    rows: Sequence[ImageRow], sort: Literal["arrived", "taken"], counted: Mapping[str, int], since: int
) -> list[Section]:
    """Return photos, which are in that order, by their months; those with an id above `since` are new."""
    cells = [cell(row, sort, since) for row in rows]
    return [
        Section(month, title(month), counted.get(month), list(within))
        for month, within in groupby(cells, key=lambda one: one.month)
    ]


def cell(row: ImageRow, sort: Literal["arrived", "taken"], since: int) -> Cell:
    """Return a photo as the sheet shows it."""
    day = (row.taken_at if sort == "taken" else row.arrived_on) or ""
    words = row.caption or row.title or row.original_name
    return Cell(
        id=row.id,
        month=day[:7] if MONTH.fullmatch(day[:7]) else "",
        alt=words if len(words) <= _ALT else f"{words[:_ALT]}…",
        colour=row.colour,
        has_picture=has_thumbnails(row),
        text=row.original_name[:_ALT],
        is_new=row.id > since,
    )


def title(month: str) -> str:
    """Return a month for people; "" is that of photos without a date."""
    return f"{datetime.fromisoformat(f'{month}-01'):%B %Y}" if MONTH.fullmatch(month) else "No date"


def by_year(months: Mapping[str, int]) -> list[tuple[str, list[tuple[str, str, int]]]]:
    """Return the month index: each year with its months, their names and their counts, newest first."""
    named = [(month, title(month).partition(" ")[0], n) for month, n in months.items()]
    return [(year, list(within)) for year, within in groupby(named, key=lambda one: one[0][:4])]
