"""What monitors ask: metrics for Prometheus, read from the catalogue at the time, and whether every part is well."""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

from anyio import CapacityLimiter, move_on_after, to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue.history import History
from daemon.catalogue.stats import Statistics
from daemon.errors import EnvironmentFault
from daemon.health import PartHealth
from web.context import Context, respond, success
from web.models import ErrorBody, HealthAnswer, PartAnswer, UnhealthyAnswer

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# A monitor waits no longer than that, and a share may hang for ever.
_HEALTH_SECONDS = 5.0


class Metrics:
    """The registry of one program and its page."""

    def __init__(self, context: Context) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(context))
        ProcessCollector(registry=self._registry)

    async def page(self, _request: Request) -> Response:
        """Serve all metrics."""
        content = await run_in_threadpool(generate_latest, self._registry)
        return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


class _Collector(Collector):
    """Reads counts at the time of each scrape; the histogram counts what has become final since the start."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._statistics = Statistics(context.catalogue)
        self._durations = _Durations(self._statistics)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        now = time.time()
        with self._context.catalogue.session():
            stats = self._statistics.stats(now)
            oldest = self._statistics.oldest_waiting()
            usage = self._statistics.caption_usage()
            captions = self._statistics.captions()
            durations = self._durations.collect()
        images = GaugeMetricFamily("darkroom_images", "Images by status.", labels=["status"])
        for status, n in stats.counts.items():
            images.add_metric([status], n)
        yield images
        yield GaugeMetricFamily("darkroom_queue_depth", "Images that are not final yet.", value=stats.left)
        age = max(0.0, now - oldest) if oldest is not None else 0.0
        yield GaugeMetricFamily("darkroom_oldest_waiting_seconds", "Age of the oldest image in the queue.", value=age)
        paused = int(stats.paused is not None)
        yield GaugeMetricFamily("darkroom_paused", "1 while the queue is paused by a fault of a disk.", value=paused)
        yield durations
        captioned = GaugeMetricFamily(
            "darkroom_captions", "Filed images by the status of their caption.", labels=["status"]
        )
        for caption_status, n in captions.items():
            captioned.add_metric([caption_status], n)
        yield captioned
        yield CounterMetricFamily("darkroom_caption_requests", "Requests to a model.", value=usage.requests)
        tokens = CounterMetricFamily("darkroom_caption_tokens", "Tokens of captions.", labels=["direction"])
        tokens.add_metric(["in"], usage.tokens_in)
        tokens.add_metric(["out"], usage.tokens_out)
        yield tokens


class _Durations:
    """How long images took, counted up from one scrape to the next."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._lock = threading.Lock()
        self._after = time.time()
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0

    def collect(self) -> Metric:
        with self._lock:
            for at, milliseconds in self._statistics.finished(self._after):
                self._after = at
                self._sum += milliseconds / 1000
                self._counts[bisect_left(_BUCKETS, milliseconds / 1000)] += 1
            bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
            buckets = list(zip(bounds, accumulate(self._counts), strict=True))
            return HistogramMetricFamily(
                "darkroom_image_seconds",
                "Seconds from claim to final, per image.",
                buckets=buckets,
                sum_value=self._sum,
            )


class HealthCheck:
    """The health check, in threads of its own: what else is asked for at the time can't delay it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._history = History(context.catalogue)
        self._threads = CapacityLimiter(2)

    async def healthz(self, _request: Request) -> Response:
        """Return 200, or 503 where a part is not well."""
        late = f"does not answer within {_HEALTH_SECONDS:g} s: a disk or share hangs"
        parts: Mapping[str, PartHealth] = {"program": PartHealth(ok=False, detail=late)}
        with move_on_after(_HEALTH_SECONDS):
            parts = await to_thread.run_sync(self._parts, limiter=self._threads, abandon_on_cancel=True)
        shown = {name: PartAnswer(ok=part.ok, detail=self._context.scrub(part.detail)) for name, part in parts.items()}
        problems = [f"{name}: {part.detail}" for name, part in shown.items() if not part.ok]
        answer = HealthAnswer(healthy=not problems, parts=shown)
        if answer.healthy:
            return success(answer)
        error = ErrorBody(code="unhealthy", message="; ".join(problems))
        return respond(UnhealthyAnswer(status="error", data=answer, error=error), 503)

    def _parts(self) -> Mapping[str, PartHealth]:
        return {**self._context.health(), "database": self._database(), "free_space": self._free_space()}

    def _database(self) -> PartHealth:
        try:
            self._history.last()
        except EnvironmentFault as fault:
            return PartHealth(ok=False, detail=str(fault))
        return PartHealth(ok=True, detail="answers")

    def _free_space(self) -> PartHealth:
        for name, folder in self._context.folders().items():
            try:
                room = os.statvfs(folder)
            except OSError as error:
                return PartHealth(ok=False, detail=f"the {name} folder is gone: {error.strerror}")
            free = room.f_bavail * room.f_frsize
            if free < self._context.min_free_bytes:
                return PartHealth(ok=False, detail=f"the {name} folder has {free // 1_000_000} MB left (min_free_mb)")
        return PartHealth(ok=True, detail="enough")
