"""The form on the sheet that acts on many photos, and what it says of what it did.

It is the call for many images of the API, for people: a form that needs no script, and sentences.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from daemon.errors import EnvironmentFault
from web.api import MAX_ID, requested, whole
from web.bulk import Bulk
from web.context import ApiError, read_body
from web.models import BulkReceipt, BulkRequest
from web.photo import keywords_of
from web.rendering import Renderer, thousands

# Ten thousand ids of nine digits take a fifth of it.
_MAX_FORM = 512 * 1024

# What is said of those that were changed, and of those that were so already, by the act.
_CHANGED = {
    "add_keywords": ("Added to {}.", "{} had them already."),
    "remove_keywords": ("Removed from {}.", "{} did not have them."),
    "caption": ("A model is asked about {}.", "{} are being asked about already."),
    "retry": ("{} queued again.", "{} were queued already."),
    "undo": ("Undone for {}.", "{} had been changed since."),
}


class SelectionPage:
    """The handler of the form."""

    def __init__(self, bulk: Bulk, renderer: Renderer) -> None:
        self._bulk = bulk
        self._renderer = renderer

    async def act(self, request: Request) -> Response:
        """Do what the form asks for, and say what became of it."""
        try:
            content = (await read_body(request, _MAX_FORM)).decode("utf-8", "replace")
            wanted = wanted_of(parse_qs(content, keep_blank_values=True))
            if wanted.act == "download":
                return await self._bulk.download(wanted)
            receipt = await self._bulk.done(wanted)
        except ApiError as error:
            return self._said(request, sentence_of(str(error)), error.status)
        except EnvironmentFault:
            return self._said(request, "The disk or the database is at fault; the log tells more. Try again.", 503)
        return self._said(request, " ".join(sentences(wanted.act, receipt)), undo=receipt.undo)

    def _said(self, request: Request, text: str, status: int = 200, undo: str | None = None) -> Response:
        is_refusal = status != 200
        return self._renderer.respond(request, "selection.html", status, text=text, undo=undo, is_refusal=is_refusal)


def wanted_of(form: Mapping[str, Sequence[str]]) -> BulkRequest:
    """Return what a form asks for. Raises ApiError 400.

    What is meant is the view as it was counted (`filter`, `whole`), or the photos that are ticked (`id`) and those that
    a script has noted besides (`ids`, with commas).
    """
    given = {key: values[-1] for key, values in form.items()}
    if given.get("undo"):
        return BulkRequest(act="undo", undo=given["undo"])
    body: dict[str, object] = {"act": given.get("act", "")}
    count = whole(given.get("whole", ""), MAX_ID)
    if count is not None:
        body |= {"expected": count}
        with suppress(ValueError):
            body["filter"] = json.loads(given.get("filter", ""))
    else:
        texts = [*form.get("id", ()), *given.get("ids", "").split(",")]
        numbers = (whole(text, MAX_ID) for text in texts)
        body["ids"] = sorted({number for number in numbers if number is not None}, reverse=True)
        if not body["ids"]:
            raise ApiError(400, "no photo is selected")
    if body["act"] == "download":
        body["sidecars"] = given.get("sidecars") == "true"
    if body["act"] in {"add_keywords", "remove_keywords"}:
        body["keywords"] = keywords_of(given.get("keywords", ""))
        if not body["keywords"]:
            raise ApiError(400, "no keyword is written")
    return requested(BulkRequest, json.dumps(body).encode())


def sentences(act: str, receipt: BulkReceipt) -> list[str]:
    """Return what became of an act, for people."""
    changed, unchanged = _CHANGED[act]
    said = [changed.format(photos(receipt.changed))]
    if receipt.unchanged:
        said.append(unchanged.format(thousands(receipt.unchanged)))
    left = receipt.selected - receipt.changed - receipt.unchanged
    if left:
        said.append(f"{thousands(left)} could not be: {receipt.refused[0].message}.")
    return said


def sentence_of(text: str) -> str:
    """Return a refusal as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def photos(count: int) -> str:
    """Return a number of photos."""
    return f"{thousands(count)} {'photo' if count == 1 else 'photos'}"
