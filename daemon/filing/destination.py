"""Where a file goes, relative to its folder: the template, the name that is still free, and what its row learns."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from daemon.catalogue import Job
from daemon.decoding import Decoded
from daemon.errors import EnvironmentFault, NameRefused
from daemon.files import atomic, names
from daemon.filing.dates import Taken

_log = logging.getLogger(__name__)


def mirrored(job: Job) -> PurePosixPath:
    """Keep the name and the subfolders that a file had in the inbox."""
    folder = [names.component(part) for part in job.path.split("/")[:-1]]
    return PurePosixPath(*folder, names.component(job.original_name))


def library_name(template: str, job: Job, decoded: Decoded, at: datetime) -> PurePosixPath:
    """Fill in the template for one image."""
    exif = decoded.exif
    make, model = exif.camera_make or "", exif.camera_model or ""
    # "Canon Canon EOS 40D" is how a camera introduces itself, not how anybody calls it.
    camera = model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()
    values = names.Values(
        taken=at,
        name=names.with_true_suffix(names.component(job.original_name), decoded.suffixes),
        folder=str(mirrored(job).parent) if "/" in job.path else "",
        camera=camera,
        make=exif.camera_make,
        model=exif.camera_model,
        lens=exif.lens_model,
        format=decoded.format,
        source=job.source,
    )
    return names.expand(template, values)


def columns(decoded: Decoded, when: Taken) -> dict[str, Any]:
    """Give the row's values of a developed image."""
    exif = {field.name: getattr(decoded.exif, field.name) for field in fields(decoded.exif)}
    del exif["raw"]
    return {
        **exif,
        "sha256": decoded.sha256,
        "size_bytes": decoded.identity.size,
        "format": decoded.format,
        "width": decoded.width,
        "height": decoded.height,
        "warning": decoded.warning,
        "taken_at": when.at.isoformat(),
        "taken_from": when.origin,
        "error": None,
    }


def reason_beside(failed: Path) -> Path:
    """Name the file that says why another is in `failed/`."""
    return failed.with_name(failed.name + ".reason.txt")


def write_reason(job: Job, destination: Path) -> None:
    """Say beside a failed file why it is there."""
    text = (
        f"{names.display(destination.name)} could not be filed.\n\nReason: {job.error}\n\n"
        f"It came as {names.display(job.path)} and is image {job.id}.\n"
        f"It came at {datetime.fromtimestamp(job.created_at, UTC).isoformat()}, by {job.source}.\n"
        f"To try again: darkroom retry {job.id}\n"
    )
    reason = reason_beside(destination)
    try:
        atomic.write_whole(reason, temporary(reason, job.id), text.encode("utf-8", "replace"))
    except FileExistsError:
        _log.debug("image %d: %s is there already", job.id, reason)
    except NameRefused as refused:
        # The row says it, too: `list`, `explain` and the API.
        _log.warning("image %d: the reason can't be written beside the file: %s", job.id, refused)


def temporary(destination: Path, image_id: int) -> Path:
    """Name the hidden file under which an image's bytes are copied before they get their name."""
    return destination.with_name(f".darkroom-{image_id}.part")


def holds(destination: Path, size: int, sha256: str | None) -> bool | None:
    """Tell whether a name is free (None), taken by other bytes (False), or has the very bytes already (True).

    The last is a library that the catalogue has forgotten: its files are adopted, not filed twice.
    """
    if not atomic.exists(destination):
        return None
    if sha256 is None:
        return False
    with atomic.blaming(str(destination)):
        return atomic.size_of(destination) == size and atomic.sha256(destination) == sha256


def check_kept(kept: Path, sha256: str) -> None:
    """Raise EnvironmentFault unless a filed file still has its bytes: it is read again, not believed."""
    with atomic.blaming(str(kept)):
        found = atomic.sha256(kept)
    if found != sha256:
        raise EnvironmentFault(f"{kept} no longer holds the bytes that were filed there: run darkroom verify")


_TRIES = 1_000_000
_REMEMBERED = 10_000


class Numbers:
    """The numbers that were used by this process; another process's are found by trying, once."""

    def __init__(self) -> None:
        self._next: OrderedDict[tuple[str, PurePosixPath], int] = OrderedDict()

    def untried(self, place: str, wanted: PurePosixPath) -> Iterator[int]:
        """Yield 0, since the plain name may be free again, and then the numbers that were not used yet."""
        yield 0
        yield from range(self._next.get((place, wanted), 1), _TRIES)

    def took(self, place: str, wanted: PurePosixPath, number: int) -> None:
        """Note that a number is used now."""
        if number == 0:
            return
        self._next[place, wanted] = number + 1
        self._next.move_to_end((place, wanted))
        if len(self._next) > _REMEMBERED:
            self._next.popitem(last=False)
