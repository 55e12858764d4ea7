"""The page of numbers: when photos were taken and filed, by what, how fast, what captions cost, room on the disks."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue.facets import Facets
from daemon.catalogue.stats import Statistics
from web.api import Api
from web.context import Context
from web.rendering import Renderer, thousands
from web.sheet import title

_WIDTH, _HEIGHT = 600, 120
_DAYS = 90
# A bar of its own width for each, also where there are few.
_LEAST = 24
_MOST = 12
# The sample for the seconds that an image takes, and the ends of its classes.
_SAMPLE = 5000
_CLASSES_MS = (50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Column:
    """One bar of a chart that stands: its place and size in units of the picture, and what it says."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart of standing bars; `begin` and `end` stand below it, `text` says in words what it shows."""

    columns: Sequence[Column]
    begin: str
    end: str
    text: str
    width: int = _WIDTH
    height: int = _HEIGHT


@dataclass(frozen=True)
class Row:
    """One line of a ranking; `width` is its bar's, 100 for the largest."""

    name: str
    n: int
    width: float


@dataclass(frozen=True)
class Disk:
    """The room on the disk of some folders, in bytes."""

    folders: str
    used: int
    total: int

    @property
    def share(self) -> float:
        """How much of it is used, in per cent."""
        return 100 * self.used / max(1, self.total)


class Numbers:
    """The handler of the page."""

    def __init__(self, context: Context, api: Api, renderer: Renderer) -> None:
        self._context = context
        self._api = api
        self._renderer = renderer
        self._facets, self._statistics = Facets(context.catalogue), Statistics(context.catalogue)

    async def page(self, request: Request) -> Response:
        """Serve the page."""
        return await run_in_threadpool(self._page, request)

    def _page(self, request: Request) -> Response:
        today = date.today()  # noqa: DTZ011  (days are this machine's, as `arrived_on` is)
        with self._context.catalogue.session():
            counts = self._api.counts()
            months = self._facets.months("taken")
            days = self._facets.days((today - timedelta(days=_DAYS - 1)).isoformat())
            cameras, formats = self._facets.counts("camera", _MOST), self._facets.counts("format", _MOST)
            usage = self._statistics.caption_usage()
            milliseconds = self._statistics.recent_milliseconds(_SAMPLE)
            size_bytes = self._facets.size_bytes()
        return self._renderer.respond(
            request,
            "stats.html",
            counts=counts,
            size_bytes=size_bytes,
            taken=chart(every_month(months), "taken"),
            filed=chart(every_day(days, today), "filed"),
            seconds=chart(classes(milliseconds), "images"),
            sample=len(milliseconds),
            cameras=ranking(cameras),
            formats=ranking(formats),
            usage=usage,
            disks=disks(self._context),
            bar=counts,
        )


def chart(values: Mapping[str, int], what: str) -> Chart | None:
    """Return a chart of values by their names, in that order; None where there is nothing to show."""
    if not any(values.values()):
        return None
    most, width = max(values.values()), _WIDTH / max(len(values), _LEAST)
    columns = []
    for number, (name, n) in enumerate(values.items()):
        # What is more than nothing can be seen.
        height = max(1.5, _HEIGHT * n / most) if n else 0
        gap = min(1.0, width / 5)
        x, y = round(number * width, 2), round(_HEIGHT - height, 2)
        columns.append(Column(x, y, round(width - gap, 2), round(height, 2), f"{name}: {thousands(n)} {what}"))
    names = list(values)
    largest = max(values, key=lambda name: values[name])
    text = f"From {names[0]} to {names[-1]}; the most, {thousands(most)}, in {largest}."
    return Chart(columns, names[0], names[-1], text)


def every_month(months: Mapping[str, int]) -> dict[str, int]:
    """Return all months from the first to the last one with their counts, oldest first, also those without photos.

    Beyond 50 years they are years.
    """
    if not months:
        return {}
    (first_year, first), (last_year, last) = (map(int, month.split("-")) for month in (min(months), max(months)))
    if last_year - first_year > 50:
        years = {str(year): 0 for year in range(first_year, last_year + 1)}
        for month, n in months.items():
            years[str(int(month[:4]))] += n
        return years
    numbers = range(first_year * 12 + first - 1, last_year * 12 + last)
    keys = [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in numbers]
    return {title(key): months.get(key, 0) for key in keys}


def every_day(days: Mapping[str, int], today: date) -> dict[str, int]:
    """Return the last days with their counts, oldest first, also those without photos."""
    all_days = [today - timedelta(days=ago) for ago in range(_DAYS - 1, -1, -1)]
    return {f"{day.day} {day:%B %Y}": days.get(day.isoformat(), 0) for day in all_days}


def classes(milliseconds: Sequence[int]) -> dict[str, int]:
    """Count images by the time that they took."""
    if not milliseconds:
        return {}
    ends = [*_CLASSES_MS, None]
    counted, begin = {}, 0
    for end in ends:
        name = f"over {begin / 1000:g} s" if end is None else f"up to {end / 1000:g} s"
        counted[name] = sum(1 for one in milliseconds if begin < one + (begin == 0) and (end is None or one <= end))
        begin = end or begin
    return counted


def ranking(counts: Mapping[str, int]) -> list[Row]:
    """Return counts with the widths of their bars, the largest first."""
    most = max(counts.values(), default=0)
    return [Row(name, n, round(100 * n / most, 1)) for name, n in counts.items()]


def disks(context: Context) -> list[Disk]:
    """Return the disks that the folders are on; one that does not answer is left out."""
    found: dict[int, tuple[list[str], int, int]] = {}
    for name, path in context.folders().items():
        with suppress(OSError):
            usage, device = shutil.disk_usage(path), path.stat().st_dev
            found.setdefault(device, ([], usage.used, usage.total))[0].append(name)
    return [Disk(", ".join(names), used, total) for names, used, total in found.values()]
