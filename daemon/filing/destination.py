"""Where a file goes, relative to its folder, what its row learns of it, and the note beside one that failed."""

import json
import logging
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Protocol

from daemon.catalogue import ImageRow, Place
from daemon.catalogue.schema import CaptionStatus, Facts, Job, Past, Twin
from daemon.decoding import Decoded, Exif, Takeout, XmpDates
from daemon.errors import DarkroomError, EnvironmentFault, FailureReason, NameRefused
from daemon.files import atomic, names
from daemon.files.atomic import Location, Root
from daemon.filing.dates import Evidence, Taken, taken
from daemon.filing.inbox_file import InboxFile
from daemon.filing.zones import ZoneFinder
from daemon.sidecar.sidecars import read_facts
from daemon.sidecar.xmp import Packet

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
    `kept` is where the same bytes were filed before: then this copy is deleted. `sidecar` is Darkroom's own sidecar of
    the image that `facts` name: it goes into the one beside that, and has no place of its own.
    """

    place: Place
    wanted: PurePosixPath
    facts: Facts
    numbered: Callable[[PurePosixPath, int], PurePosixPath] = names.numbered
    thumbnails: tuple[bytes, bytes] | None = None
    kept: Location | None = None
    sidecar: Packet | None = None


class PastRows(Protocol):
    """What knows which bytes were filed."""

    def past(self, sha256: str) -> Past:
        """Return what is known of some bytes: the image that has them, or had them, and where they have been."""
        ...

    def rotten(self, image_id: int, sha256: str, other_id: int, now: float) -> None:
        """Note that a filed photo has other bytes now though nobody wrote to it; those it had are another image's."""
        ...


@dataclass(frozen=True)
class PlanningRules:
    """What decides where a photo goes, as it is configured.

    `file_again` says that what its owner has taken away is filed like any other photo when it comes again. A failed
    file of more than `hash_bytes` is moved without being hashed.
    """

    template: str
    delete_duplicates: bool = False
    file_again: bool = False
    folder_keywords: bool = False
    hash_bytes: int = 0


class Planner:
    """Decides where the files of an inbox go, and moves none.

    `caption_status` says with which one a photo of an inbox folder is filed, `packet` reads an XMP file, `look` looks
    after a filed image that isn't as it was.
    """

    def __init__(
        self,
        rows: PastRows,
        inbox: Root,
        roots: Mapping[Place, Root],
        rules: PlanningRules,
        *,
        caption_status: Callable[[str], CaptionStatus] = lambda _: "off",
        packet: Callable[[Location], Packet | None] = lambda _: None,
        look: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._rows, self._inbox, self._roots, self._rules = rows, inbox, roots, rules
        self._caption_status, self._packet, self._look = caption_status, packet, look
        self._zones = ZoneFinder()

    def rest(self, now: float) -> None:
        """Let go what a long pause doesn't need; `now` is in seconds since 1970."""
        self._zones.rest(now)

    def close(self) -> None:
        """Let go what runs beside this."""
        self._zones.close()

    def taken(
        self,
        job: Job,
        decoded: Decoded,
        beside: Callable[[], XmpDates | None],
        takeout: Callable[[], Takeout | None],
    ) -> Taken:
        """Return when an image was taken, by itself or by what lies beside it, which is read where it is needed."""
        evidence = Evidence(
            name=job.original_name,
            mtime=decoded.identity.mtime_ns / 1e9,
            texts=decoded.exif.dates,
            lat=decoded.exif.lat,
            lon=decoded.exif.lon,
            beside=beside,
            takeout=takeout,
        )
        return taken(evidence, time.time(), self._zones.name)

    def plan(self, job: Job, decoded: Decoded, when: Taken) -> Plan:
        """Return where a decoded image goes: into the library, or, where its bytes are there already, elsewhere.

        So do those that were there, and that its owner has taken away or edited since. Only a copy of what was just
        read in the library is deleted.
        """
        past = self._past(decoded)
        twin, remark = self._twin(decoded, past.twin)
        facts = facts_of(decoded, when)
        if twin is not None:
            is_filed = remark is None and twin.path is not None
            kept = self._roots["library"] / str(twin.path) if is_filed and self._rules.delete_duplicates else None
            warning = "; ".join(filter(None, (facts.warning, remark))) or None
            if kept is None or not self._is_rotten(job, twin, kept, decoded.sha256):
                return Plan(
                    "duplicates", mirrored(job), replace(facts, duplicate_of=twin.id, warning=warning), kept=kept
                )
        wanted = library_name(self._rules.template, job, decoded, when.at)
        caption_status = self._first_caption_status(job, decoded.sha256, past)
        if not decoded.small and caption_status != "private":  # of a kind without a decoder: nothing could be sent
            caption_status = "off"
        facts = replace(facts, caption_status=caption_status)
        if self._rules.folder_keywords and job.folder:
            facts = replace(facts, keywords=tuple(dict.fromkeys(names.display(job.folder).split("/"))))
        return Plan("library", wanted, facts, thumbnails=(decoded.small, decoded.medium))

    def plan_failure(self, job: Job, file: InboxFile, reason: str, failure: FailureReason) -> Plan:
        """Return where a file goes that can't be filed: to `failed/`, under the name that it came with."""
        sha256 = None
        # Of a file that is larger than any photo nobody needs the hash: a sparse one may be larger than the disk.
        if file.fd is not None and file.was.st_size <= self._rules.hash_bytes:
            with atomic.blaming(file.where):
                sha256 = atomic.sha256(file.fd)
        return Plan("failed", mirrored(job), Facts(sha256, file.was.st_size, error=reason, failure=failure))

    def _first_caption_status(self, job: Job, sha256: str, past: Past) -> CaptionStatus:
        """Return the caption status of a photo that is filed: what was private once does not leave the machine now.

        It may have been in a private folder before it was moved out, deleted or edited, or lie in the inbox beside its
        own sidecar that says so.
        """
        status = self._caption_status(job.folder)
        if status == "private" or "private" in map(self._caption_status, past.folders):
            return "private"
        packet = self._packet(self._inbox / f"{job.path}.xmp")
        known = None if packet is None else read_facts(packet)
        if known is None or sha256 not in {known.row.sha256, known.row.filed_sha256}:
            return status
        is_private = known.row.caption_status == "private" or self._caption_status(known.row.folder) == "private"
        return "private" if is_private else status

    def _past(self, decoded: Decoded) -> Past:
        """Return what is known of the bytes of a photo; the image that has them is looked for first where need be."""
        past = self._rows.past(decoded.sha256)
        twin = past.twin
        if twin is None or twin.kind != "filed" or self._lies(twin, decoded):
            return past
        self._look(twin.id)
        return self._rows.past(decoded.sha256)

    def _twin(self, decoded: Decoded, twin: Twin | None) -> tuple[Twin | None, str | None]:
        """Return the image that counts as having these bytes, with a remark for people where it does not lie there."""
        if twin is None or (twin.kind != "filed" and self._rules.file_again):
            return None, None
        day = datetime.fromtimestamp(twin.removed_at or 0.0).astimezone().date().isoformat()
        match twin.kind:
            case "filed" if self._lies(twin, decoded):
                return twin, None
            case "filed":
                return twin, f"the same bytes as image {twin.id}, which is not at library/{twin.path}: darkroom sync"
            case "edited":
                return twin, f"the bytes of image {twin.id} as it was filed, before you edited it"
            case "deleted":
                return twin, f"you deleted this from the library on {day}; darkroom restore {twin.id} files it again"
        return twin, f"you threw this away on {day}; darkroom restore {twin.id} files it again"

    def _lies(self, twin: Twin, decoded: Decoded) -> bool:
        """Return whether a filed original lies where it was filed, and looks as it did."""
        path = self._roots["library"] / str(twin.path)
        with atomic.blaming(path):
            here = path.lstat()
        if here is None or not stat.S_ISREG(here.st_mode) or here.st_size != decoded.identity.size:
            return False
        return here.st_mtime_ns == twin.mtime_ns

    def _is_rotten(self, job: Job, twin: Twin, kept: Location, sha256: str) -> bool:
        """Return whether a filed original has other bytes now though it looks as ever, and note it: once."""
        with atomic.blaming(kept):
            found = atomic.sha256(kept)
        if found == sha256:
            return False
        _log.warning("image %d: %s has rotted; the same photo came again as image %d", twin.id, kept, job.id)
        self._rows.rotten(twin.id, found, job.id, time.time())
        return True


def mirrored(job: Job) -> PurePosixPath:
    """Return the name and the subfolders that a file had in the inbox."""
    folder = [names.component(part) for part in job.folder.split("/") if part]
    return names.within_reach(PurePosixPath(*folder, names.component(job.original_name)))


def library_name(template: str, job: Job, decoded: Decoded, at: datetime) -> PurePosixPath:
    """Return the template filled in for one image."""
    exif = decoded.exif
    came = ImageRow(
        original_name=job.original_name,
        folder=names.display(job.folder),
        source=job.source,
        format=decoded.format,
        camera_make=exif.camera_make,
        camera_model=exif.camera_model,
        lens_model=exif.lens_model,
    )
    return refiled_name(template, came, decoded.suffixes, at)


def refiled_name(template: str, row: ImageRow, suffixes: tuple[str, ...], at: datetime) -> PurePosixPath:
    """Return the template filled in for one image as its row has it; `suffixes` are those that its bytes may have."""
    values = names.Values(
        taken=at,
        name=names.with_true_suffix(names.component(row.original_name), suffixes),
        folder=row.folder,
        camera=camera_name(row.camera_make or "", row.camera_model or ""),
        make=row.camera_make,
        model=row.camera_model,
        lens=row.lens_model,
        format=row.format or names.UNKNOWN,
        source=row.source,
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
    history: tuple[str, ...] = ()


def reason_beside(failed: Location) -> Location:
    """Return the name of the file that says why another is in `failed/`."""
    return failed.with_name(failed.name + ".reason.txt")


def write_reason(job: Job, destination: Location, history: Sequence[str] = ()) -> None:
    """Write beside a failed file why it is there: for people, and in its last line for `darkroom rebuild`."""
    failure = job.failure or FailureReason.OTHER
    note = FailureNote(job.id, job.error or "", job.path, job.source, job.created_at, failure, tuple(history))
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
        note = FailureNote(**{**found, "history": tuple(map(str, found.get("history", ())))})
        return note if _is_sound(note) else None
    except (OSError, DarkroomError, ValueError, TypeError, RecursionError):
        return None


def _is_sound(note: FailureNote) -> bool:
    """Return whether the values of a note, which anybody may have edited, are of their kinds."""
    texts = isinstance(note.error, str) and isinstance(note.path, str) and note.source in {"inbox", "upload"}
    texts = texts and note.failure in set(FailureReason)
    numbers = isinstance(note.image_id, int) and isinstance(note.created_at, int | float)
    return texts and numbers and 0 < note.image_id < 2**62 and 0 <= note.created_at < _YEAR_9999
