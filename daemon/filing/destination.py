"""Where a file goes, relative to its folder, what its row learns of it, and the note beside one that failed."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import PurePosixPath

from daemon.catalogue import Place
from daemon.catalogue.schema import Facts, Job
from daemon.decoding import Decoded, Exif
from daemon.errors import DarkroomError, EnvironmentFault, FailureReason, NameRefused
from daemon.files import atomic, names
from daemon.files.atomic import Location
from daemon.filing.dates import Taken

_log = logging.getLogger(__name__)

_EXIF = [field.name for field in fields(Exif) if field.name not in {"raw", "dates"}]
# What stands behind the name in that of a company.
_COMPANY = set(
    "CORPORATION CORP COMPANY CO LTD INC GMBH AG KG LLC OPTICAL IMAGING COMPUTER CAMERA TECHWIN ELECTRONICS".split()
)
# Brands under which another company sells: RICOH and Hewlett-Packard.
_BRANDS = {"pentax", "hp"}
_WORD = re.compile(r"[^\W_]+")
_MAX_NOTE_BYTES = 1 << 20
# In seconds since 1970; dates end there.
_YEAR_9999 = 253_000_000_000


@dataclass(frozen=True)
class Plan:
    """Where a file is to go, and what its row learns: the library, beside its photo, the duplicates, or `failed/`.

    `wanted` is its name where that is free, and `numbered` gives those that are tried otherwise. Without a hash in
    `facts` the file is moved without being read. `thumbnails` are the small and the medium one, where it has some.
    `kept` is where the same bytes were filed before: then this copy is deleted.
    """

    place: Place
    wanted: PurePosixPath
    facts: Facts
    numbered: Callable[[PurePosixPath, int], PurePosixPath] = names.numbered
    thumbnails: tuple[bytes, bytes] | None = None
    kept: Location | None = None


def mirrored(job: Job) -> PurePosixPath:
    """Return the name and the subfolders that a file had in the inbox."""
    folder = [names.component(part) for part in job.folder.split("/") if part]
    return names.within_reach(PurePosixPath(*folder, names.component(job.original_name)))


def library_name(template: str, job: Job, decoded: Decoded, at: datetime) -> PurePosixPath:
    """Return the template filled in for one image."""
    exif = decoded.exif
    camera = camera_name(exif.camera_make or "", exif.camera_model or "")
    values = names.Values(
        taken=at,
        name=names.with_true_suffix(names.component(job.original_name), decoded.suffixes),
        folder=job.folder,
        camera=camera,
        make=exif.camera_make,
        model=exif.camera_model,
        lens=exif.lens_model,
        format=decoded.format,
        source=job.source,
    )
    return names.within_reach(names.expand(template, values))


def camera_name(make: str, model: str) -> str:
    """Return what people call a camera: "NIKON D70", not "NIKON CORPORATION NIKON D70"; "CASIO EX-Z3"."""
    words = make.replace(",", " ").replace("/", " ").split()
    brand = list(takewhile(lambda word: word.upper().strip(".,") not in _COMPANY, words)) or words
    # Most models begin with their maker's name, or with a part of it: KODAK of the Eastman Kodak Company.
    first = _WORD.match(model)
    if first is not None and first[0].lower() in {word.lower() for word in brand} | _BRANDS:
        return model
    return " ".join([*brand, model]).strip()


def facts_of(decoded: Decoded, taken: Taken) -> Facts:
    """Return what a row learns of a decoded image."""
    at, utc = taken.at.isoformat(), None if taken.utc is None else taken.utc.timestamp()
    return Facts(
        sha256=decoded.sha256,
        size_bytes=decoded.identity.size,
        format=decoded.format,
        width=decoded.width,
        height=decoded.height,
        colour=decoded.colour,
        warning=decoded.warning,
        taken_at=at,
        taken_from=taken.origin.value,
        taken_utc=utc,
        zone=taken.zone,
        taken_order=order(at, utc),
        raw=decoded.exif.raw,
        **{name: getattr(decoded.exif, name) for name in _EXIF},
    )


def order(taken_at: str | None, taken_utc: float | None) -> float | None:
    """Return what a list sorts by, in seconds since 1970: the instant, or else local time in this machine's zone.

    None where there is neither; a sidecar, which anybody may have edited, can hold any text.
    """
    if taken_utc is not None or taken_at is None:
        return taken_utc
    try:
        return datetime.fromisoformat(taken_at).timestamp()
    except (OverflowError, OSError, ValueError):
        return None


def check_kept(kept: Location, sha256: str) -> None:
    """Raise EnvironmentFault unless a filed file still has its bytes: it is read again, not believed."""
    with atomic.blaming(kept):
        found = atomic.sha256(kept)
    if found != sha256:
        raise EnvironmentFault(f"{kept} no longer holds the bytes that were filed there: run darkroom verify")


@dataclass(frozen=True)
class FailureNote:
    """What the file beside a failed one says for `darkroom rebuild`; `path` is that in the inbox, times in seconds."""

    image_id: int
    error: str
    path: str
    source: str
    created_at: float
    failure: str = FailureReason.OTHER


def reason_beside(failed: Location) -> Location:
    """Return the name of the file that says why another is in `failed/`."""
    return failed.with_name(failed.name + ".reason.txt")


def write_reason(job: Job, destination: Location) -> None:
    """Write beside a failed file why it is there: for people, and in its last line for `darkroom rebuild`."""
    note = FailureNote(
        job.id, job.error or "", job.path, job.source, job.created_at, job.failure or FailureReason.OTHER
    )
    text = (
        f"{names.display(destination.name)} could not be filed.\n\nReason: {job.error}\n\n"
        f"It came as {names.display(job.path)} and is image {job.id}.\n"
        f"It came at {datetime.fromtimestamp(job.created_at, UTC).isoformat()}, by {job.source}.\n"
        f"To try again: darkroom retry {job.id}\n\n"
        f"The next line is for darkroom rebuild:\n{json.dumps(asdict(note))}\n"
    )
    reason = reason_beside(destination)
    try:
        atomic.atomic_write(reason.parent, {reason.name: text.encode("utf-8", "replace")}, str(job.id))
    except FileExistsError:
        _log.debug("image %d: %s is there already", job.id, reason)
    except NameRefused as refused:
        # The row says it, too: `list`, `explain` and the API.
        _log.warning("image %d: the reason can't be written beside the file: %s", job.id, refused)


def read_reason(failed: Location) -> FailureNote | None:
    """Return what the file beside a failed one says for `rebuild`; None where there is none of Darkroom's."""
    try:
        lines = reason_beside(failed).read_bytes(_MAX_NOTE_BYTES).decode("utf-8").split("\n")
        found = json.loads(next((line for line in reversed(lines) if line.strip()), ""))
        note = FailureNote(**found)
        return note if _is_sound(note) else None
    except (OSError, DarkroomError, ValueError, TypeError, RecursionError):
        return None


def _is_sound(note: FailureNote) -> bool:
    """Return whether the values of a note, which anybody may have edited, are of their kinds."""
    texts = isinstance(note.error, str) and isinstance(note.path, str) and note.source in {"inbox", "upload"}
    texts = texts and note.failure in set(FailureReason)
    numbers = isinstance(note.image_id, int) and isinstance(note.created_at, int | float)
    return texts and numbers and 0 < note.image_id < 2**62 and 0 <= note.created_at < _YEAR_9999
