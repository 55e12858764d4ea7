"""The companions in the catalogue: the photos that one may belong to, those that were filed, those that wait."""

from dataclasses import dataclass
from typing import Any, cast

from peewee import SQL

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Companion, Image
from daemon.catalogue.rows import Job, Place, record
from daemon.names import display

WAITING = "waiting for its photo"

# The index `image_original`; and as literals, or SQLite would not use the partial index `image_lonely`.
_BETWEEN = "(original_name COLLATE NOCASE >= ? AND original_name COLLATE NOCASE < ?)"
_WAITS: Any = SQL(f"(status = 'queued' AND waiting = '{WAITING}')")


@dataclass(frozen=True)
class Photo:
    """An image that a companion may belong to."""

    id: int
    name: str
    status: str
    created_at: float
    place: Place | None
    destination: str | None
    duplicate_of: int | None


class CompanionRows:
    """The companions of one catalogue; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def photos(self, folder: str, stem: str, *, cut: bool = False) -> list[Photo]:
        """List images that came from a subfolder of the inbox under a stem, or `cut` one that begins so, newest first.

        Upper and lower case of ASCII letters make no difference.
        """
        first, end = (stem, stem + "\U0010ffff") if cut else (stem + ".", stem + "/")
        with self._catalogue.reading():
            named = (Image.folder == folder) & SQL(_BETWEEN, (first, end))
            rows = Image.select().where(named & Image.companion_of.is_null())
            return [_photo(row) for row in rows.order_by(Image.id.desc()).limit(1000)]

    def photo(self, image_id: int) -> Photo | None:
        """Give one image."""
        with self._catalogue.reading():
            row = Image.get_or_none(Image.id == image_id)
        return None if row is None else _photo(row)

    def beside(self, image_id: int) -> list[tuple[Place, str, str]]:
        """List what was filed beside an image: place, destination and SHA-256."""
        with self._catalogue.reading():
            rows = Companion.select().where(Companion.image_id == image_id).order_by(Companion.id)
            return [(cast("Place", row.place), row.destination, row.sha256) for row in rows]

    def arrived(self, job: Job, now: float) -> None:
        """Note that a companion lies at its destination; its row of the queue stays until `forget`."""
        with self._catalogue.writing():
            mine = (Companion.place == job.place) & (Companion.destination == job.destination)
            if not Companion.select().where(mine).exists():
                row = Image.get_by_id(job.id)
                values = {name: getattr(row, name) for name in ("place", "destination", "sha256", "size_bytes")}
                names = {"original_name": row.original_name, "folder": row.folder}
                Companion.insert(image_id=job.companion_of, filed_at=now, **values, **names).execute()
                where = f"{job.place}/{display(str(job.destination))}"
                record(job.id, now, "companion", f"filed beside image {job.companion_of}: {where}")
                record(cast(int, job.companion_of), now, "companion", f"{row.original_name} came with it: {where}")
            changed = Image.update(sidecar_due=Image.sidecar_due + 1)
            changed.where((Image.id == job.companion_of) & (Image.place == job.place)).execute()

    def forget(self, image_id: int) -> None:
        """Remove a companion's row from the queue, once its inbox name is gone; its history stays."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == image_id).execute()

    def waiting(self, folder: str, prefix: str) -> list[tuple[int, str]]:
        """List the companions that wait for a photo of a name that begins so: id and name."""
        named = (Image.folder == folder) & SQL(_BETWEEN, (prefix, prefix + "\U0010ffff"))
        with self._catalogue.reading():
            rows = Image.select(Image.id, Image.original_name).where(named & _WAITS)
            return [(row.id, row.original_name) for row in rows]

    def due(self, image_ids: list[int] | None, now: float) -> None:
        """Have companions looked at now; None stands for all that wait."""
        if image_ids == []:
            return
        these = _WAITS if image_ids is None else _WAITS & Image.id.in_(image_ids)
        with self._catalogue.writing():
            Image.update(not_before=now).where(these).execute()

    def waits(self) -> bool:
        """Tell whether any companion waits."""
        with self._catalogue.reading():
            return bool(Image.select().where(_WAITS).exists())


def _photo(row: Image) -> Photo:
    return Photo(
        id=row.id,
        name=row.original_name,
        status=row.status,
        created_at=row.created_at,
        place=cast("Place | None", row.place),
        destination=row.destination,
        duplicate_of=row.duplicate_of,
    )
