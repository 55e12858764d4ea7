"""A browser's visit of the sheet, as its cookie has it: what came since the last one is new."""

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from web.api import MAX_ID

# It ends so many seconds after the sheet was last asked for.
_SECONDS = 30 * 60
_COOKIE, _KEPT_SECONDS = "darkroom-visit", 365 * 86_400
_VALUE = re.compile(r"(\d{1,18})-(\d{1,18})-(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Visit:
    """One visit: images with an id above `since` are new, `newest` is the highest one that was seen."""

    since: int
    newest: int

    @classmethod
    def of(cls, request: Request, now: float) -> "Visit":
        """Return the visit that a request belongs to; to who comes for the first time nothing is new."""
        found = _VALUE.fullmatch(request.cookies.get(_COOKIE, ""))
        if found is None:
            return cls(MAX_ID, 0)
        since, newest, at = map(int, found.groups())
        return cls(since if now - at <= _SECONDS else newest, newest)

    def keep(self, answer: Response, newest: int, now: float) -> None:
        """Have the browser remember it, and the highest id that it is shown now."""
        newest = max(newest, self.newest)
        since = min(self.since, newest)
        # Not Strict: who follows a link to the sheet is on the same visit.
        answer.set_cookie(_COOKIE, f"{since}-{newest}-{int(now)}", max_age=_KEPT_SECONDS, httponly=True, samesite="lax")
