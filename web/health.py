"""Tells whether every part is well."""

import os

from anyio import CapacityLimiter, move_on_after, to_thread
from starlette.requests import Request
from starlette.responses import Response

from daemon.catalogue.search import Search
from daemon.errors import EnvironmentFault
from web.envelope import Json, success
from web.site import Health, Site

# A monitor waits no longer than that, and a share may hang for ever.
_SECONDS = 5.0


class Checks:
    """The health check, in threads of its own: what else is asked for at the time can't delay it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._search = Search(site.catalogue)
        self._threads = CapacityLimiter(2)

    async def healthz(self, _request: Request) -> Response:
        """Answer 200, or 503 where a part is not well."""
        parts = {"program": Health(ok=False, detail=f"does not answer within {_SECONDS:g} s: a disk or share hangs")}
        with move_on_after(_SECONDS):
            parts = await to_thread.run_sync(self._parts, limiter=self._threads, abandon_on_cancel=True)
        data = {
            "healthy": all(part.ok for part in parts.values()),
            "parts": {name: {"ok": part.ok, "detail": self._site.scrub(part.detail)} for name, part in parts.items()},
        }
        if data["healthy"]:
            return success(data)
        ill = "; ".join(f"{name}: {self._site.scrub(part.detail)}" for name, part in parts.items() if not part.ok)
        error = {"code": "unhealthy", "message": ill}
        return Json({"status": "error", "data": data, "error": error}, 503, headers={"Cache-Control": "no-store"})

    def _parts(self) -> dict[str, Health]:
        return {**self._site.health(), "database": self._database(), "free_space": self._free_space()}

    def _database(self) -> Health:
        try:
            self._search.last_event()
        except EnvironmentFault as fault:
            return Health(ok=False, detail=str(fault))
        return Health(ok=True, detail="answers")

    def _free_space(self) -> Health:
        for name, folder in self._site.folders().items():
            try:
                room = os.statvfs(folder)
            except OSError as error:
                return Health(ok=False, detail=f"the {name} folder is gone: {error.strerror}")
            free = room.f_bavail * room.f_frsize
            if free < self._site.min_free_bytes:
                return Health(ok=False, detail=f"the {name} folder has {free // 1_000_000} MB left (min_free_mb)")
        return Health(ok=True, detail="enough")
