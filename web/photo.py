"""The page of one photo: the picture, its words, what the camera wrote, why it lies where it lies, its history."""

import csv
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daemon.catalogue import ImageRow
from daemon.catalogue.captions import MAX_CAPTION, MAX_KEYWORD, MAX_KEYWORDS
from daemon.catalogue.facets import Facets
from daemon.catalogue.history import History, sentence
from daemon.catalogue.schema import REMOVED, ImageEvent
from daemon.catalogue.search import ImageQuery, Inventory, Search
from daemon.errors import Busy, Rejected
from daemon.files import atomic
from daemon.files.names import display, split
from daemon.filing.dates import words
from web.api import Api, image_id, no_image
from web.context import ApiError, Context, read_body
from web.models import READY, has_thumbnails
from web.rendering import Renderer
from web.sheet import View

# What every browser of today shows, by the names of decoding/formats.py.
_SHOWABLE = {"JPEG", "PNG", "GIF", "WebP", "AVIF", "BMP"}
_MAX_FORM = 256 * 1024
_STARS = {"5": "★★★★★", "4": "★★★★", "3": "★★★", "2": "★★", "1": "★", "0": "0 stars", "-1": "Rejected"}
_TWINS = 20


@dataclass(frozen=True)
class Neighbours:
    """The photos beside this one in the view that it was opened from; None at its ends."""

    newer: int | None
    older: int | None


class PhotoPage:
    """The handlers of a photo's page."""

    def __init__(self, context: Context, api: Api, renderer: Renderer) -> None:
        self._context = context
        self._api = api
        self._renderer = renderer
        self._search, self._facets = Search(context.catalogue), Facets(context.catalogue)
        self._history, self._inventory = History(context.catalogue), Inventory(context.catalogue)

    async def page(self, request: Request) -> Response:
        """Serve the page."""
        return await run_in_threadpool(self._page, request, image_id(request))

    async def act(self, request: Request) -> Response:
        """Do what one of the page's forms asks for, and show the page again."""
        number = image_id(request)
        form = parse_qs((await read_body(request, _MAX_FORM)).decode("utf-8", "replace"), keep_blank_values=True)
        given = {key: values[-1] for key, values in form.items()}
        await run_in_threadpool(self._act, number, given)
        return RedirectResponse(View.of(request.query_params).url(f"/images/{number}"), 303)

    def _act(self, number: int, given: Mapping[str, str]) -> None:
        if self._search.image(number) is None:
            raise no_image(number)
        try:
            match given.get("act"):
                case "retry":
                    self._context.retry(number)
                case "ask":
                    self._api.ask(number)
                case "edit":
                    self._edit(number, given)
                case "reject":
                    self._context.reject(number)
                case "restore":
                    self._context.restore(number)
                case _:
                    raise ApiError(400, "the form doesn't say what to do")
        except (Rejected, Busy) as error:
            raise ApiError(409, self._context.scrub(str(error))) from error

    def _edit(self, number: int, given: Mapping[str, str]) -> None:
        """Keep what a person has changed; what stands there as it did is not theirs."""
        row = self._search.image(number) or ImageRow()
        # A form sends CRLF for the ends of lines, whatever they were.
        caption = given.get("caption", "").replace("\r\n", "\n").strip()
        keywords = keywords_of(given.get("keywords", ""))
        stars, label = given.get("rating", ""), given.get("label", "").strip()
        if len(caption) > MAX_CAPTION:
            raise ApiError(400, f"a caption has at most {MAX_CAPTION} characters")
        if len(keywords) > MAX_KEYWORDS or any(len(word) > MAX_KEYWORD for word in keywords):
            raise ApiError(400, f"there are at most {MAX_KEYWORDS} keywords of at most {MAX_KEYWORD} characters")
        if stars not in {"", *_STARS}:
            raise ApiError(400, "stars are a number from 0 to 5, or -1 for a photo that is rejected")
        if len(label) > MAX_KEYWORD:
            raise ApiError(400, f"a label has at most {MAX_KEYWORD} characters")
        rating = int(stars) if stars else None
        now = time.time()
        if "caption" in given and caption != (row.caption or ""):
            self._context.captions.edit(number, now, caption=caption or None)
        if "keywords" in given and keywords != (row.keywords or ()):
            self._context.captions.edit(number, now, keywords=keywords)
        if "rating" in given and rating != row.rating:
            self._context.captions.edit(number, now, rating=rating)
        if "label" in given and label != (row.label or ""):
            self._context.captions.edit(number, now, label=label or None)

    def _page(self, request: Request, number: int) -> Response:
        view = View.of(request.query_params)
        with self._context.catalogue.session():
            row = self._search.image(number)
            if row is None:
                raise no_image(number)
            beside = self._neighbours(view, number)
            companions = self._inventory.beside(number)
            twins = self._search.duplicates_of(number, _TWINS)
            history = self._history.of(number)
            counts = self._api.counts()
        can_ask = self._context.captions_on() and row.status == "done" and not _is_own(row, "caption")
        return self._renderer.respond(
            request,
            "photo.html",
            row=row,
            view=view,
            beside=beside,
            companions=[(file.original_name, f"{file.place}/{display(file.destination)}") for file in companions],
            twins=twins,
            is_ready=row.status in READY,
            stars=_STARS,
            is_removed=row.status in REMOVED,
            can_reject=row.status not in {"processing", *REMOVED},
            has_picture=has_thumbnails(row),
            is_filed=row.place is not None and row.status not in {"queued", "processing"},
            shows_original=row.format in _SHOWABLE and row.status == "done",
            is_full=request.query_params.get("full") == "1",
            has_sidecar=row.place == "library"
            and atomic.exists(self._context.roots["library"] / f"{row.destination}.xmp"),
            exposure=" · ".join(exposure(row)),
            camera=camera(row),
            author=author(row),
            keywords=keywords_text(row.keywords or ()),
            can_ask=can_ask and has_thumbnails(row) and not self._context.keeps_private(row),
            reasons=list(reasons(row, self._context.template)),
            error=None if row.error is None else self._context.scrub(row.error),
            waiting=None if row.waiting_text is None else self._context.scrub(row.waiting_text),
            warning=None if row.warning is None else self._context.scrub(row.warning),
            history=[self._line(event) for event in history],
            bar=counts,
        )

    def _line(self, event: ImageEvent) -> tuple[float, str, str]:
        return event.at, event.kind.value, self._context.scrub(sentence(event))

    def _neighbours(self, view: View, number: int) -> Neighbours:
        query = view.query(self._facets.counts("camera", 500)) if view.given else ImageQuery(status="done")
        newer = self._search.ids(replace(query, after=number), 1)
        older = self._search.ids(replace(query, before=number), 1)
        return Neighbours(newer[0] if newer else None, older[0] if older else None)


def exposure(row: ImageRow) -> Iterator[str]:
    """Yield how a photo was exposed, as photographers write it: f/1.8, 1/250 s, ISO 64, 24 mm."""
    if row.f_number:
        yield f"f/{row.f_number:g}"
    if row.exposure_time:
        yield f"{row.exposure_time} s"
    if row.iso:
        yield f"ISO {row.iso}"
    if row.focal_length:
        yield f"{row.focal_length:g} mm"


def camera(row: ImageRow) -> str:
    """Return the camera's name, with its maker's where the model doesn't begin with that."""
    make, model = (row.camera_make or "").strip(), (row.camera_model or "").strip()
    first = make.partition(" ")[0].lower()
    return model if first and model.lower().startswith(first) else f"{make} {model}".strip()


def author(row: ImageRow) -> str | None:
    """Return who wrote a photo's words, for people; None where there are none."""
    if not row.caption and not row.keywords:
        return None
    own = [word for word in ("caption", "keywords") if _is_own(row, word)]
    model = f"by {row.caption_model}" if row.caption_model else None
    if len(own) == 2 or (own and not model):
        return "by you"
    return f"{own[0]} by you, the rest {model}" if own else model


def _is_own(row: ImageRow, word: str) -> bool:
    return word in (row.edited or "").split()


def reasons(row: ImageRow, template: str) -> Iterator[str]:
    """Yield why a photo lies where it lies: its date, the template, what its name was changed for."""
    if row.taken_at is not None and row.place == "library":
        yield f"Dated {taken(row)}, from {words(row.taken_from or '')}."
    if row.place == "library":
        yield f"The template {template} makes its folder and its name of that."
    if row.place is not None and row.destination is not None and (because := renamed_because(row)) is not None:
        yield f"It came as {row.original_name}, and was renamed: {because}."


def taken(row: ImageRow) -> str:
    """Return when a photo was taken, for people: local time as the photographer's clock showed it."""
    try:
        at = datetime.fromisoformat(row.taken_at or "")
    except ValueError:
        return (row.taken_at or "")[:40]
    zone = f" ({row.zone})" if row.zone else ""
    return f"{at.day} {at:%B %Y, %H:%M}{zone}"


def renamed_because(row: ImageRow) -> str | None:
    """Return why a filed photo has another name than it came with; None where it has the same."""
    name, came = PurePosixPath(row.destination or "").name, display(row.original_name)
    if name == came:
        return None
    (stem, suffix), (old_stem, old_suffix) = split(name), split(came)
    causes = []
    if suffix.lower() != old_suffix.lower():
        causes.append(f"by its bytes it is {row.format}")
    numbered = stem.removeprefix(f"{old_stem}-")
    if stem != old_stem and numbered.isdecimal():
        causes.append("another photo had that name")
    elif stem != old_stem:
        causes.append("the template, or what the disk can hold, wants it otherwise")
    return " and ".join(causes) or "suffixes are written in one way"


def keywords_text(keywords: tuple[str, ...]) -> str:
    """Return keywords as a line to edit: between commas, in quotes where one has a comma of its own."""
    return ", ".join(
        f'"{word.replace(chr(34), chr(34) * 2)}"' if set(word) & set(',"\n') else word for word in keywords
    )


def keywords_of(text: str) -> tuple[str, ...]:
    """Return the keywords of such a line, each once."""
    rows = csv.reader([text.replace("\r", " ").replace("\n", " ").replace("\0", " ")], skipinitialspace=True)
    found = (word.strip() for row in rows for word in row)
    return tuple(dict.fromkeys(word for word in found if word))
