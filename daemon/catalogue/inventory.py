"""What should lie in the folders, according to the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from peewee import Expression, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Companion, Image
from daemon.catalogue.rows import Place

Kind = Literal["image", "companion"]
_FINAL = ("done", "duplicate", "failed")


@dataclass(frozen=True)
class Filed:
    """One file that was filed. `image_id` is the image that it is or belongs to, `sha256` None where nobody knows.

    `folder` and `original_name` are those that it came with.
    """

    kind: Kind
    id: int
    image_id: int
    status: str
    place: Place
    destination: str
    folder: str
    original_name: str
    sha256: str | None
    mtime_ns: int | None


class Inventory:
    """Reads only."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def total(self) -> tuple[int, int]:
        """Count the filed files and their bytes."""
        with self._catalogue.reading():
            sums = [
                Image.select(fn.COUNT(Image.id), fn.SUM(Image.size_bytes)).where(_filed()).tuples().first(),
                Companion.select(fn.COUNT(Companion.id), fn.SUM(Companion.size_bytes)).tuples().first(),
            ]
        return sum(one[0] for one in sums), sum(one[1] or 0 for one in sums)

    def after(self, kind: Kind, number: int, limit: int) -> list[Filed]:
        """List the next files of a kind, by the ids of their rows."""
        with self._catalogue.reading():
            if kind == "image":
                images = Image.select().where(_filed() & (Image.id > number)).order_by(Image.id).limit(limit)
                return [_image(row) for row in images]
            rows = Companion.select().where(Companion.id > number).order_by(Companion.id).limit(limit)
            return [_companion(row) for row in rows]

    def one(self, kind: Kind, number: int) -> Filed | None:
        """Give one file as its row has it now; None where it is no longer filed."""
        with self._catalogue.reading():
            if kind == "image":
                row = Image.get_or_none(_filed() & (Image.id == number))
                return None if row is None else _image(row)
            companion = Companion.get_or_none(Companion.id == number)
            return None if companion is None else _companion(companion)

    def beside(self, image_id: int) -> list[Filed]:
        """List the files that came with an image."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [_companion(row) for row in rows]

    def known(self, place: Place, paths: Sequence[str]) -> set[str]:
        """Pick those of some hundred paths that a row knows, also one whose file is just on its way there."""
        images = (Image.place == place) & Image.destination.in_(list(paths))
        companions = (Companion.place == place) & Companion.destination.in_(list(paths))
        with self._catalogue.reading():
            found = {row.destination for row in Image.select(Image.destination).where(images)}
            return found | {row.destination for row in Companion.select(Companion.destination).where(companions)}


def _filed() -> Expression:
    return Image.status.in_(_FINAL) & Image.place.is_null(False) & Image.destination.is_null(False)


def _image(row: Image) -> Filed:
    place = cast(Place, row.place)
    return Filed(
        "image",
        row.id,
        row.id,
        row.status,
        place,
        row.destination or "",
        row.folder,
        row.original_name,
        row.sha256,
        row.mtime_ns,
    )


def _companion(row: Companion) -> Filed:
    place = cast(Place, row.place)
    return Filed(
        "companion",
        row.id,
        row.image_id,
        "done",
        place,
        row.destination or "",
        row.folder,
        row.original_name,
        row.sha256,
        None,
    )
