"""How many captions are made, wait and are missing, and the requests that were made for them."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from peewee import SQL, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import CaptionRequest, Image

CaptionStatus = Literal["off", "pending", "done", "blocked", "failed", "private"]

# As a literal: SQLite uses a partial index only where the query repeats its condition, and a parameter does not.
# The plus keeps it from taking the index of `status` instead, under which all filed images lie.
PENDING: Any = SQL("(caption_status = 'pending' AND +status = 'done')")
_REQUESTS_KEPT_SECONDS = 3 * 24 * 3600
_BATCH = 500


class CaptionCounts:
    """The counts of one catalogue, and the ledger of its requests; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def request(self, model: str, now: float) -> None:
        """Count a request; before it is sent, so that a crash can't forget one."""
        with self._catalogue.writing():
            CaptionRequest.insert(model=model, at=now).execute()
            CaptionRequest.delete().where(CaptionRequest.at < now - _REQUESTS_KEPT_SECONDS).execute()

    def requests(self, model: str, since: float) -> list[float]:
        """List when requests to a model were made, oldest first."""
        made = (CaptionRequest.model == model) & (CaptionRequest.at > since)
        with self._catalogue.reading():
            rows = CaptionRequest.select(CaptionRequest.at).where(made).order_by(CaptionRequest.at)
            return [row.at for row in rows]

    def count(self, status: CaptionStatus) -> int:
        """Count the filed images with a caption status."""
        these = PENDING if status == "pending" else (Image.caption_status == status) & (Image.status == "done")
        with self._catalogue.reading():
            return int(Image.select(fn.COUNT(Image.id)).where(these).scalar())

    def missing(self) -> list[int]:
        """List the filed images without a caption that none is waited for; not the private and the blocked ones."""
        without = (Image.status == "done") & Image.caption_status.in_(["off", "failed"])
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(without).order_by(Image.id)]

    def waiting(self) -> list[int]:
        """List the filed images whose caption is waited for."""
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(PENDING).order_by(Image.id)]

    def pending_among(self, image_ids: Sequence[int]) -> int:
        """Count those of some images whose caption is waited for."""
        return sum(self._count(batch, PENDING) for batch in _batched(image_ids))

    def without(self, image_ids: Sequence[int]) -> int:
        """Count those of some images for which the wait has ended without a caption."""
        return sum(n for _, n in self.reasons(image_ids))

    def reasons(self, image_ids: Sequence[int]) -> list[tuple[str, int]]:
        """Say why some images have no caption, with the number of each reason."""
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


def _batched(image_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (image_ids[start : start + _BATCH] for start in range(0, len(image_ids), _BATCH))
