"""The page of what failed, as a to-do list: grouped by the reason, each with what to do, to be tried again."""

import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import parse_qs, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daemon.catalogue import ImageRow
from daemon.catalogue.facets import Facets
from daemon.errors import FailureReason, Rejected
from daemon.files.names import split
from web.api import MAX_ID, Api, whole
from web.context import ApiError, Context, read_body
from web.rendering import Renderer

_SHOWN = 50
_MAX_FORM = 16 * 1024
# So long one request moves files back into the inbox; what is left is said, and asked for again.
_SECONDS = 10.0

# Of those there is a part of the picture, most often.
_PARTIAL = {FailureReason.INCOMPLETE, FailureReason.DAMAGED}
_SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".png", ".webp", ".gif"}
# Of many large ones the page would take long.
_MAX_PICTURE = 32 * 1024 * 1024

# What each reason is called, and what to do about it.
ADVICE: dict[FailureReason, tuple[str, str]] = {
    FailureReason.NOT_AN_IMAGE: (
        "Not an image",
        "By its bytes each is something else, whatever its name says. Keep them elsewhere.",
    ),
    FailureReason.DAMAGED: (
        "Damaged",
        "Copy them from the card or the phone once more; often the first copy alone is broken.",
    ),
    FailureReason.INCOMPLETE: (
        "Incomplete",
        "The end is missing: copy or download them again, and put the whole file into the inbox.",
    ),
    FailureReason.TOO_LARGE: (
        "Over a limit",
        "If you trust them, raise file_mb or megapixels in config.toml, restart, then try again.",
    ),
    FailureReason.TOO_SLOW: (
        "Took too long",
        "The machine may have been busy: try again. If that doesn't help, raise decode_seconds in config.toml.",
    ),
    FailureReason.MEMORY: (
        "Needed too much memory",
        "Raise decode_memory_mb in config.toml if the machine has the memory, restart, then try again.",
    ),
    FailureReason.CRASHED: (
        "Crashed the decoder",
        "Try again once; if it happens again, the file is one that no decoder here can read.",
    ),
    FailureReason.NOT_A_FILE: (
        "Not a file",
        "A link, a pipe or a device leads elsewhere: put the photo itself into the inbox.",
    ),
    FailureReason.UNREADABLE: (
        "Could not be read",
        "Give Darkroom the right to read them, or look after the disk, then try again.",
    ),
    FailureReason.NO_PHOTO: (
        "Without their photo",
        "What belongs beside a photo can't be filed without it: mend the photo first, then try these again.",
    ),
    FailureReason.INTERNAL: (
        "A mistake in Darkroom",
        "Try again; the log says more. Please report it.",
    ),
    FailureReason.OTHER: ("Failed otherwise", "The reason stands beside each. Mend it, then try again."),
}


class Failures:
    """The handlers of the page."""

    def __init__(self, context: Context, api: Api, renderer: Renderer) -> None:
        self._context = context
        self._api = api
        self._renderer = renderer
        self._facets = Facets(context.catalogue)

    async def page(self, request: Request) -> Response:
        """Serve the page."""
        return await run_in_threadpool(self._page, request)

    async def retry(self, request: Request) -> Response:
        """Queue one, a group or all again, as one of the page's forms asks; lead back to the page."""
        form = parse_qs((await read_body(request, _MAX_FORM)).decode("utf-8", "replace"))
        again, refused, left = await run_in_threadpool(self._retry, form)
        counted = {"again": again, "refused": refused, "left": left}
        return RedirectResponse(f"/failed?{urlencode({key: n for key, n in counted.items() if n})}", 303)

    def _page(self, request: Request) -> Response:
        with self._context.catalogue.session():
            groups = self._facets.failures(_SHOWN)
            counts = self._api.counts()
        said = {key: whole(request.query_params.get(key, ""), MAX_ID) or 0 for key in ("again", "refused", "left")}
        return self._renderer.respond(
            request,
            "failed.html",
            groups=groups,
            pictures={row.id: self._picture(row, group.reason) for group in groups for row in group.newest},
            total=sum(group.n for group in groups),
            advice=ADVICE,
            scrub=self._context.scrub,
            bar=counts,
            said=said,
        )

    def _picture(self, row: ImageRow, reason: FailureReason) -> str | None:
        """Return the address of a picture, if one can be had.

        That is a thumbnail where one is kept: what failed later had been decoded before. Browsers show
        what there is of a photo whose end is missing; they decode it shut in, too.
        """
        with suppress(OSError):
            if row.sha256 is not None and self._context.thumbnails.has(row.sha256, "small"):
                return f"/api/images/{row.id}/thumbnails/small"
        is_shown = split(row.original_name)[1].lower() in _SHOWN_BY_BROWSERS and (row.size_bytes or 0) <= _MAX_PICTURE
        is_here = row.place == "failed" and row.destination is not None
        return f"/api/images/{row.id}/original" if reason in _PARTIAL and is_shown and is_here else None

    def _retry(self, form: dict[str, list[str]]) -> tuple[int, int, int]:
        """Return how many are queued again, how many can't be, and how many are left to be asked for."""
        again = refused = 0
        wanted = self._wanted(form)
        until = time.monotonic() + _SECONDS
        for number in wanted:
            if time.monotonic() > until:
                break
            try:
                self._context.retry(number)
                again += 1
            except Rejected:
                refused += 1
        return again, refused, len(wanted) - again - refused

    def _wanted(self, form: dict[str, list[str]]) -> Sequence[int]:
        if "id" in form:
            numbers = [whole(text, MAX_ID) for text in form["id"]]
            return [number for number in numbers if number is not None]
        reasons = form.get("reason", [])
        if form.get("all") == ["1"]:
            reasons = [group.reason.value for group in self._facets.failures(1)]
        if not reasons or not set(reasons) <= set(FailureReason):
            raise ApiError(400, "the form names no image and no reason")
        return [number for reason in reasons for number in self._facets.failed_for(FailureReason(reason))]
