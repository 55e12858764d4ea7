"""The captions in the catalogue: a person's words, a model's, who waits for one, and the requests made so far.

`caption_status` is `off | pending | done | blocked | failed | private`, and only `pending` rows are ever asked for.
A person's words (`edited_at`) are never changed by a model.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, cast

from peewee import SQL, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import CaptionRequest, CaptionStatus, Event, EventKind, Image
from daemon.errors import Rejected

# As a literal: SQLite uses a partial index only where the query repeats its condition, and a parameter does not.
# The plus keeps it from taking the index of `status` instead, under which all filed images lie.
_PENDING: Any = SQL("(caption_status = 'pending' AND +status = 'done')")
_SIDECAR_DUE = SQL("(sidecar_due > 0 AND +status IN ('done', 'duplicate', 'failed'))")
_REQUESTS_KEPT_SECONDS = 3 * 24 * 3600
_BATCH = 500
# What a person may write, in characters and in number; what stands in a file beside a photo is cut to that.
MAX_CAPTION, MAX_TITLE, MAX_KEYWORDS, MAX_KEYWORD = 10_000, 1000, 200, 200
# A keyword within others ("Places|Italy|Rome") has all their names.
MAX_HIERARCHICAL = 1000
# How the wait for a caption can end without one.
Ended = Literal["blocked", "failed", "private", "off"]
_ENDED: dict[Ended, EventKind] = {
    "blocked": EventKind.CAPTION_BLOCKED,
    "failed": EventKind.CAPTION_FAILED,
    "private": EventKind.CAPTION_PRIVATE,
    "off": EventKind.CAPTION_OFF,
}


class _Kept(Enum):
    KEPT = "not mentioned"


KEPT = _Kept.KEPT


@dataclass(frozen=True)
class Words:
    """What is said of a photo; None is unknown."""

    caption: str | None = None
    keywords: tuple[str, ...] | None = None
    title: str | None = None
    visible_text: str | None = None
    hierarchical_keywords: tuple[str, ...] | None = None
    rating: int | None = None
    label: str | None = None


def cut_text(text: str | None, most: int = MAX_CAPTION) -> str | None:
    """Return a caption or another text that is as long as the API allows."""
    return None if text is None else text[:most]


def cut_keywords(words: Iterable[str], most: int = MAX_KEYWORD) -> tuple[str, ...]:
    """Return keywords, each once, that are as many and as long as the API allows."""
    return tuple(dict.fromkeys(word[:most] for word in words))[:MAX_KEYWORDS]


@dataclass(frozen=True)
class CaptionOrigin:
    """How a caption came about: the model, the prompt's version, and what it cost."""

    model: str
    prompt: str
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class CaptionJob:
    """An image whose caption is due. `wanted` is the model a person asked for ("" the configured one), or None."""

    id: int
    sha256: str
    folder: str
    destination: str
    attempts: int
    wanted: str | None
    taken_at: str | None
    taken_from: str | None
    camera_make: str | None
    camera_model: str | None


class Captions:
    """The captions of one catalogue; any thread may call it. `changed` is set whenever there is work for the loop."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.changed = threading.Event()
        self.version = catalogue.version

    def edit(
        self,
        image_id: int,
        now: float,
        *,
        caption: str | _Kept | None = KEPT,
        keywords: Sequence[str] | _Kept | None = KEPT,
        title: str | _Kept | None = KEPT,
        rating: int | _Kept | None = KEPT,
        label: str | _Kept | None = KEPT,
    ) -> None:
        """Write a person's words, which no model changes from then on; what is not mentioned stays.

        The sidecar follows within moments. Raises Rejected where there is no such image.
        """
        given: dict[str, Any] = {"caption": caption, "keywords": keywords, "title": title, "rating": rating}
        given["label"] = label
        words = {key: value for key, value in given.items() if value is not KEPT}
        with self._catalogue.writing():
            row = Image.get_or_none((Image.id == image_id) & Image.companion_of.is_null())
            if row is None:
                raise Rejected(f"there is no image {image_id}")
            changes = {**words, "sidecar_due": Image.sidecar_due + 1}
            # Stars and labels are always a person's; that there are none has to be noted, or the XMP that came with the
            # photo would bring its own back.
            none = [name for name in ("rating", "label") if name in words and words[name] is None]
            if noted := [*(words.keys() & {"caption", "keywords"}), *none]:
                changes |= {"edited": together(row.edited, noted), "edited_at": now}
            if "caption" in words:
                changes |= {"caption_status": "done", "caption_error": None, "caption_wanted": None}
            Image.update(changes).where(Image.id == image_id).execute()
            text = ", ".join(words)
            Event.insert(image_id=image_id, at=now, kind=EventKind.EDITED, text=text).execute()
        self.changed.set()

    def ask_again(self, image_id: int, now: float, model: str | None = None) -> None:
        """Have a model asked for a new caption; the one that is there stays until then.

        Raises Rejected where there is no filed image of that id, or its words are a person's.
        """
        with self._catalogue.writing():
            self.check(image_id)
            changes = {
                "caption_status": "pending",
                "caption_wanted": model or "",
                # Before all that merely wait their turn: somebody is looking.
                "caption_not_before": -1.0,
                "caption_attempts": 0,
                "caption_error": None,
            }
            Image.update(changes).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.CAPTION_ASKED, text=model).execute()
        self.changed.set()

    def check(self, image_id: int) -> tuple[str, str]:
        """Return an image's folders in inbox and library. Raises Rejected, saying why, where no model can be asked."""
        # Named: peewee takes 2 ms to write out all sixty of a row, and there may be thousands.
        columns = (Image.folder, Image.destination, Image.width, Image.edited)
        with self._catalogue.reading():
            row = Image.select(*columns).where((Image.id == image_id) & (Image.status == "done")).first()
        if row is None:
            raise Rejected(f"image {image_id} is not one that was filed")
        if row.width is None:
            raise Rejected(f"image {image_id} has no thumbnail that a model could be shown")
        if "caption" in (row.edited or ""):
            raise Rejected(f"image {image_id}: its caption is a person's words, which no model replaces")
        return str(row.folder), str(row.destination).rpartition("/")[0]

    def fill_in(self, image_ids: Sequence[int]) -> None:
        """Have the configured model asked for captions of images that have none."""
        changes = {"caption_status": "pending", "caption_not_before": 0.0, "caption_attempts": 0}
        with self._catalogue.writing():
            for start in range(0, len(image_ids), 500):
                Image.update(changes).where(Image.id.in_(image_ids[start : start + 500])).execute()
        self.changed.set()

    def next(self, now: float) -> CaptionJob | None:
        """Return the image whose caption has been due for longest; None when none is."""
        due = Image.select().where(_PENDING & (Image.caption_not_before <= now))
        with self._catalogue.reading():
            row = due.order_by(Image.caption_not_before, Image.id).first()
        if row is None:
            return None
        return CaptionJob(
            id=row.id,
            sha256=row.sha256,
            folder=row.folder,
            destination=row.destination,
            attempts=row.caption_attempts,
            wanted=row.caption_wanted,
            taken_at=row.taken_at,
            taken_from=row.taken_from,
            camera_make=row.camera_make,
            camera_model=row.camera_model,
        )

    def next_due(self) -> float | None:
        """Return when the next caption is due; None when none is waited for."""
        with self._catalogue.reading():
            due: float | None = Image.select(fn.MIN(Image.caption_not_before)).where(_PENDING).scalar()
        return due

    def store(self, image_id: int, words: Words, origin: CaptionOrigin, thumb_sha: str, now: float) -> bool:
        """Keep a model's answer, except where a person has written meanwhile; False where it is not wanted any more."""
        with self._catalogue.writing():
            row = Image.get_or_none((Image.id == image_id) & _PENDING)
            if row is None:
                return False
            edited = row.edited or ""
            changes = {
                "caption": row.caption if "caption" in edited else words.caption,
                "keywords": row.keywords if "keywords" in edited else _with_folders(row, words.keywords),
                "visible_text": words.visible_text,
                "caption_status": "done",
                "caption_model": origin.model,
                "caption_prompt": origin.prompt,
                "tokens_in": origin.tokens_in,
                "tokens_out": origin.tokens_out,
                "captioned_at": now,
                "caption_error": None,
                "caption_wanted": None,
                "thumb_sha": thumb_sha,
                "sidecar_due": Image.sidecar_due + 1,
            }
            Image.update(changes).where(Image.id == image_id).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.CAPTIONED, text=origin.model).execute()
        return True

    def twin(self, thumb_sha: str, image_id: int) -> tuple[Words, CaptionOrigin] | None:
        """Return the answer that a model has given for the very same thumbnail."""
        same = (Image.thumb_sha == thumb_sha) & (Image.caption_status == "done") & (Image.id != image_id)
        with self._catalogue.reading():
            row = Image.get_or_none(same & Image.edited.is_null() & Image.caption_model.is_null(False))
        if row is None:
            return None
        words = Words(row.caption, row.keywords, None, row.visible_text)
        return words, CaptionOrigin(str(row.caption_model), row.caption_prompt or "", 0, 0)

    def conclude(self, image_id: int, status: Ended, reason: str, now: float) -> None:
        """End the wait for a caption without one: blocked, failed, private or off."""
        with self._catalogue.writing():
            changes = {"caption_status": status, "caption_error": reason, "caption_wanted": None}
            if Image.update(changes).where((Image.id == image_id) & _PENDING).execute():
                Event.insert(image_id=image_id, at=now, kind=_ENDED[status], text=reason).execute()

    def later(self, image_id: int, until: float, reason: str, *, spent: bool = True) -> None:
        """Ask for a caption again later; `spent` counts the attempt."""
        changes: Mapping[str, Any] = {
            "caption_not_before": until,
            "caption_attempts": Image.caption_attempts + spent,
            "caption_error": reason,
        }
        with self._catalogue.writing():
            Image.update(changes).where((Image.id == image_id) & _PENDING).execute()

    def sidecars_due(self, after: int = 0, limit: int = 100) -> list[int]:
        """Return the next filed images whose sidecar is older than the row, by their ids."""
        due = Image.select(Image.id).where(_SIDECAR_DUE & (Image.id > after)).order_by(Image.id).limit(limit)
        with self._catalogue.reading():
            return [row.id for row in due]

    # -- counts, and the requests that were made

    def request(self, model: str, now: float) -> None:
        """Count a request; before it is sent, so that a crash can't forget one."""
        with self._catalogue.writing():
            CaptionRequest.insert(model=model, at=now).execute()
            CaptionRequest.delete().where(CaptionRequest.at < now - _REQUESTS_KEPT_SECONDS).execute()

    def requests(self, model: str, since: float) -> list[float]:
        """Return when requests to a model were made, oldest first."""
        made = (CaptionRequest.model == model) & (CaptionRequest.at > since)
        with self._catalogue.reading():
            rows = CaptionRequest.select(CaptionRequest.at).where(made).order_by(CaptionRequest.at)
            return [row.at for row in rows]

    def requests_by_model(self, since: float) -> dict[str, int]:
        """Count the requests to each model, by its name."""
        model = CaptionRequest.model
        made = CaptionRequest.select(model, fn.COUNT(CaptionRequest.at)).where(CaptionRequest.at > since)
        with self._catalogue.reading():
            return dict(cast(Any, made.group_by(model).order_by(model).tuples()))

    def count(self, status: CaptionStatus) -> int:
        """Count the filed images with a caption status, without scanning the table."""
        with self._catalogue.reading():
            row = next(iter(Image.raw("SELECT n FROM caption_tally WHERE status = ?", status).tuples()), (0,))
        return int(row[0])

    def missing(self) -> list[int]:
        """Return the filed images without a caption that none is waited for; not the private and the blocked ones.

        Of a kind without a decoder, nothing can be shown to a model.
        """
        without = (Image.status == "done") & Image.caption_status.in_(["off", "failed"]) & Image.width.is_null(False)
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(without).order_by(Image.id)]

    def waiting(self) -> list[int]:
        """Return the filed images whose caption is waited for."""
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(_PENDING).order_by(Image.id)]

    def pending_among(self, image_ids: Sequence[int]) -> int:
        """Count those of some images whose caption is waited for."""
        return sum(self._count(batch, _PENDING) for batch in _batched(image_ids))

    def without(self, image_ids: Sequence[int]) -> int:
        """Count those of some images for which the wait has ended without a caption."""
        return sum(n for _, n in self.reasons(image_ids))

    def reasons(self, image_ids: Sequence[int]) -> list[tuple[str, int]]:
        """Return why some images have no caption, with the number of each reason."""
        ended = Image.caption_status.in_(["blocked", "failed", "private"])
        found: dict[str, int] = {}
        for batch in _batched(image_ids):
            with self._catalogue.reading():
                for row in Image.select(Image.caption_error).where(Image.id.in_(batch) & ended):
                    reason = row.caption_error or "no reason is known"
                    found[reason] = found.get(reason, 0) + 1
        return sorted(found.items(), key=lambda item: -item[1])

    def _count(self, image_ids: Sequence[int], condition: Any) -> int:
        with self._catalogue.reading():
            return int(Image.select(fn.COUNT(Image.id)).where(Image.id.in_(image_ids) & condition).scalar())


def _with_folders(row: Image, keywords: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return a model's keywords, behind those that are the names of the folders that a photo came in."""
    folders = set(row.folder.split("/"))
    kept = [word for word in row.keywords or () if word in folders]
    return tuple(dict.fromkeys([*kept, *(keywords or ())])) or keywords


def together(edited: str | None, more: Iterable[str]) -> str:
    """Add to the names of the columns that a person wrote; a title is always a person's and needs no note."""
    return " ".join(sorted({*(edited or "").split(), *more} - {"title"}))


def _batched(image_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (image_ids[start : start + _BATCH] for start in range(0, len(image_ids), _BATCH))
