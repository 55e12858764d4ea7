"""Makes the catalogue anew from the folders, for one that was lost.

What a sidecar or a reason says comes first, under the ids that the images had; what nothing speaks of gets ids
behind all of those. The pixels are looked at again for what sidecars don't hold: EXIF and thumbnails. The new database
is filled beside the lost one's place and put there once it is whole; killed before, the next rebuild goes on with it.
Nothing outside the state folder is changed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from daemon.app import check_begun, decoding_limits, roots, thumbnail_store
from daemon.catalogue import Catalogue, Final, ImageEvent, ImageRow, Place
from daemon.catalogue.restore import Restore
from daemon.catalogue.schema import FINAL, Cause, EventKind
from daemon.config import Config
from daemon.decoding import Decoded, TextReader
from daemon.decoding.sandbox import Sandbox
from daemon.errors import EnvironmentFault, FailureReason, Rejected, Transient
from daemon.files import atomic, lock, state_folder
from daemon.files.atomic import Location, Root, by_descriptor
from daemon.files.names import component, display
from daemon.files.opening import open_regular
from daemon.files.walk import is_junk, walk
from daemon.filing.dates import Evidence, taken
from daemon.filing.destination import FailureNote, facts_of, order, read_reason, reason_beside
from daemon.filing.removals import FILE as REMOVED_FILE
from daemon.filing.removals import Removals
from daemon.filing.thumbnail_store import SIZES, ThumbnailStore
from daemon.filing.zones import ZoneFinder
from daemon.phrases import counted
from daemon.sidecar.sidecars import NAMESPACE, SidecarFacts, path_beside, read_facts, read_history, read_packet

# A database, and what SQLite keeps beside one.
_SUFFIXES = ("", "-wal", "-shm")
_REASON = ".reason.txt"


def main(config: Config, _args: argparse.Namespace) -> int:
    """Make the catalogue anew; 1 when a file in the folders is not in it."""
    check_begun(config)
    state, database = config.folders.state, config.catalogue_file
    for name, root in roots(config).items():
        if not root.path.is_dir():
            raise EnvironmentFault(f"the {name} folder {root} is not there: is its disk mounted?")
    with atomic.blaming(state):
        state_folder.make(state, state / "thumbnails")
    folders = [path for name, path in config.folders.items() if name != "state" and path.is_dir()]
    with lock.exclusive(state, folders):
        _check_lost(database)
        fresh = state / "rebuilt.db"
        report = _fill(config, fresh)
        with atomic.blaming(state):
            for suffix in _SUFFIXES:
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            # Its last connection is closed, so all of it is in the one file.
            fresh.rename(database)
            atomic.fsync_folder(state)
    return _print(report)


def _check_lost(database: Path) -> None:
    """Raise Rejected where there is a catalogue that knows images, or one that can't be read."""
    if not database.is_file():
        return
    beside = f"(and {database.name}-wal, {database.name}-shm)"
    try:
        images = Restore(Catalogue(database)).count()
    except EnvironmentFault as fault:
        raise Rejected(f"{fault}; move {database} away {beside}, then try again") from fault
    if images:
        known = counted(images, "image")
        raise Rejected(
            f"the catalogue {database} is there and knows {known}; to make it anew nevertheless, move it away {beside}"
        )


def _fill(config: Config, file: Path) -> "RebuildReport":
    sandbox, catalogue = Sandbox(decoding_limits(config)), Catalogue(file)
    console = Console(stderr=True)
    try:
        with catalogue.session(), Progress(console=console, disable=not console.is_terminal) as progress:
            decode, ignore = sandbox.decode, config.inbox.ignore
            work = Rebuild(catalogue, roots(config), thumbnail_store(config), decode, sandbox, ignore)
            task = progress.add_task("rebuilding", total=work.total())
            return work.run(lambda: progress.advance(task))
    finally:
        sandbox.close()


def _print(report: "RebuildReport") -> int:
    for path, reason in report.left:
        print(f"left alone: {display(str(path))}: {reason}", file=sys.stderr)
    counts = ", ".join(f"{n:,} {status}" for status, n in report.restored.items())
    more = [f"{counted(report.companions, 'file')} that came with them"] if report.companions else []
    more += [f"{report.removed:,} that were deleted or rejected"] if report.removed else []
    more += [f"{report.new_ids:,} got a new id, since nothing beside them says theirs"] if report.new_ids else []
    print("; ".join([f"made anew: {counts}", *more]))
    return 1 if report.left else 0


@dataclass
class RebuildReport:
    """What came back, and the files that nothing could be made of, each with the reason."""

    restored: dict[Final, int] = field(default_factory=lambda: {"done": 0, "duplicate": 0, "failed": 0})
    companions: int = 0
    removed: int = 0
    new_ids: int = 0
    left: list[tuple[Location, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    """One file of a folder, with what was decoded of it, and why nothing could be."""

    place: Place
    inside: str
    path: Location
    decoded: Decoded | None = None
    error: str = ""


class Rebuild:
    """Fills one new catalogue; killed in the middle, the next one goes on."""

    def __init__(
        self,
        catalogue: Catalogue,
        roots: Mapping[Place, Root],
        thumbnails: ThumbnailStore,
        decode: Callable[[Path], Decoded],
        reader: TextReader,
        ignore: tuple[str, ...],
    ) -> None:
        self._rows, self._roots, self._thumbnails = Restore(catalogue), roots, thumbnails
        self._decode, self._reader, self._ignore = decode, reader, ignore
        self._report = RebuildReport()
        self._zones = ZoneFinder()
        # What nothing speaks of, and what is no image: only once all known ids are taken, all photos known.
        self._without_id: list[_File] = []
        self._no_images: list[_File] = []

    def total(self) -> int:
        """Return how many files lie in the folders, notes included."""
        return sum(1 for _ in self._files())

    def run(self, on_file: Callable[[], object]) -> RebuildReport:
        """Restore all that there is; `on_file` is called after each file. Raises EnvironmentFault."""
        self._thumbnails.sweep()
        for file in self._files():
            if not is_note(file.path, self._reader) and not self._rows.has(file.place, file.inside):
                if file.place == "failed" or file.inside.startswith("failed/"):
                    self._restore_failed(file)
                else:
                    self._restore_filed(file)
            on_file()
        for file in self._without_id:
            self._restore_with_new_id(file)
        for file in self._no_images:
            self._restore_companion(file)
        for removal in Removals(self._roots["library"]).read().values():
            # What lies in the library all the same, or in the trash, was restored above.
            self._report.removed += self._rows.removed(
                removal.sha256, removal.at, removal.kind == "rejected", removal.image_id, removal.name
            )
        self._zones.close()
        return self._report

    def _files(self) -> Iterator[_File]:
        """Yield what lies in the folders, the library first."""
        for place, root in self._roots.items():
            for found in walk(root, (), recursive=True):
                if not is_junk(found.path, self._ignore) and found.path != REMOVED_FILE:
                    yield _File(place, found.path, root / found.path)

    def _restore_failed(self, file: _File) -> None:
        note = read_reason(file.path)
        if note is None or not self._rows.is_free(note.image_id):
            self._without_id.append(file)
        else:
            packet = read_packet(path_beside(file.path), self._reader)
            said = None if packet is None else read_facts(packet)
            row = _failed_row(note, file.path)
            if said is not None and said.row.id == note.image_id:
                # What its owner said of it, too.
                row = replace(said.row, error=row.error, processed_at=row.processed_at)
            known = said.history if said is not None else read_history(note.history)
            self._write(file, row, known or [_queued(note.created_at, note.source, note.path)])

    def _restore_filed(self, file: _File) -> None:
        known = _sidecar_of(file.path, self._reader)
        try:
            fd = open_regular(file.path)
            try:
                file = replace(file, decoded=self._decode(by_descriptor(fd, file.path.path)))
            finally:
                os.close(fd)
        except (Rejected, Transient) as error:
            file = replace(file, error=str(error))
        self._keep_thumbnails(file)
        file = _without_pixels(file)
        if known is not None and self._rows.is_free(known.row.id):
            self._write(file, known.row, known.history)
        elif known is not None or file.decoded is not None:
            self._without_id.append(file)
        else:
            self._no_images.append(file)

    def _restore_with_new_id(self, file: _File) -> None:
        """Take in a file that nothing speaks of; its caption is off, since its folder may have been a private one."""
        came = _stat_of(file.path).st_ctime
        row = ImageRow(original_name=display(file.path.name), created_at=came, processed_at=came)
        if file.place == "library":
            row = replace(row, sidecar_due=1)
        if file.place == "duplicates" and file.decoded is not None:
            row = replace(row, duplicate_of=self._rows.filed(file.decoded.sha256))
        if file.place == "failed":
            row = replace(row, error="found in the failed folder without its reason", failure=FailureReason.OTHER)
        self._report.new_ids += self._write(file, row, ())

    def _write(self, file: _File, known: ImageRow, history: Sequence[ImageEvent]) -> bool:
        """Write a row of what is known and what the file says; return False where the library has its bytes twice."""
        row = replace(
            _completed(known, file, self._zones),
            status=FINAL[file.place],
            place=file.place,
            destination=file.inside,
            # Anybody may have edited the sidecar, and the schema takes these alone.
            source=known.source if known.source in {"upload", "library"} else "inbox",
            **_removal(file),
            duplicate_of=known.duplicate_of if file.place == "duplicates" else None,
            attempts=1,
            not_before=known.created_at,
        )
        twin = self._rows.filed(row.sha256) if row.sha256 and file.place == "library" else None
        if twin is not None:
            self._report.left.append((file.path, f"the same bytes as image {twin}"))
            return False
        self._rows.restore(row, _complete_history(row, history), file.decoded.exif.raw if file.decoded else None)
        self._report.restored[FINAL[file.place]] = self._report.restored.get(FINAL[file.place], 0) + 1
        return True

    def _restore_companion(self, file: _File) -> None:
        """Take in what came with a photo; anything else is left alone."""
        found = self._rows.came_with(file.place, file.inside)
        size = atomic.size_of(file.path)
        if found is None or size is None:
            self._report.left.append((file.path, file.error))
            return
        with atomic.blaming(file.path):
            sha256, came = atomic.sha256(file.path), _stat_of(file.path).st_ctime
        self._rows.companion(file.place, file.inside, *found, sha256, size, came)
        self._report.companions += 1

    def _keep_thumbnails(self, file: _File) -> None:
        decoded = file.decoded
        if decoded is not None and not all(self._thumbnails.has(decoded.sha256, size) for size in SIZES):
            self._thumbnails.save(decoded.sha256, decoded.small, decoded.medium)


def is_note(path: Location, reader: TextReader) -> bool:
    """Return whether a file is Darkroom's own note beside another one, not a file that came."""
    if path.name.endswith(_REASON):
        return read_reason(path.with_name(path.name.removesuffix(_REASON))) is not None
    packet = read_packet(path, reader) if path.name.endswith(".xmp") else None
    return packet is not None and packet.has(NAMESPACE, "SHA256")


def _sidecar_of(photo: Location, reader: TextReader) -> SidecarFacts | None:
    packet = read_packet(path_beside(photo), reader)
    return None if packet is None else read_facts(packet)


def _failed_row(note: FailureNote, path: Location) -> ImageRow:
    folder, _, name = note.path.rpartition("/")
    return ImageRow(
        id=note.image_id,
        original_name=display(name) or component(path.name),
        folder=display(folder),
        source=note.source,
        created_at=note.created_at,
        processed_at=_stat_of(reason_beside(path)).st_mtime,
        error=note.error,
        failure=FailureReason(note.failure),
    )


def _stat_of(file: Location) -> os.stat_result:
    """Return what lies there. Raises EnvironmentFault where it has gone since it was listed."""
    with atomic.blaming(file):
        here = file.lstat()
    if here is None:
        raise EnvironmentFault(f"{file} has gone meanwhile: try again")
    return here


def _completed(known: ImageRow, file: _File, zones: ZoneFinder) -> ImageRow:
    """Return a row with what the file itself says, where nothing else is known."""
    info, decoded = _stat_of(file.path), file.decoded
    row = replace(known, mtime_ns=info.st_mtime_ns)
    if decoded is not None:
        exif = decoded.exif
        evidence = Evidence(known.original_name, info.st_mtime, exif.dates, exif.lat, exif.lon)
        facts = facts_of(decoded, taken(evidence, time.time(), zones.name))
        if known.sha256 not in {None, decoded.sha256}:
            # Edited since the sidecar was written.
            row = replace(row, sha256=decoded.sha256, filed_sha256=known.filed_sha256 or known.sha256)
        if known.taken_at not in {None, facts.taken_at}:
            # The sidecar knows it by something that is not here any more: then this instant is another one's.
            facts = replace(facts, taken_utc=None, zone=None)
        row = facts.fill(row)
        return replace(row, taken_order=order(row.taken_at, row.taken_utc))
    if (size := atomic.size_of(file.path)) is None:
        return row
    with atomic.blaming(file.path):
        return replace(row, size_bytes=size, sha256=known.sha256 or atomic.sha256(file.path))


def _complete_history(row: ImageRow, known: Sequence[ImageEvent]) -> list[ImageEvent]:
    """Return a history with what must have happened: the sidecar may have been written before the end was."""
    history, kinds = list(known), {event.kind for event in known}
    if EventKind.QUEUED not in kinds:
        path = "/".join(filter(None, (row.folder, row.original_name)))
        history.insert(0, _queued(row.created_at, row.source, path))
    if EventKind(row.status) not in kinds:
        at = row.created_at if row.processed_at is None else row.processed_at
        end = ImageEvent(at, EventKind(row.status), place=row.place, path=row.destination, text=row.error)
        later = next((n for n, event in enumerate(history) if event.at > at), len(history))
        history.insert(later, end)
    return history


def _queued(at: float, source: str, path: str) -> ImageEvent:
    return ImageEvent(at, EventKind.QUEUED, Cause.UPLOADED if source == "upload" else Cause.FOUND, path=path)


def _without_pixels(file: _File) -> _File:
    """Return a file without what would fill the memory while thousands wait for their ids."""
    if file.decoded is None:
        return file
    return replace(file, decoded=replace(file.decoded, small=b"", medium=b""))


def _removal(file: _File) -> dict[str, Any]:
    """Return when what lies in the trash was thrown away, and where from, as the folders there tell."""
    if file.place != "trash":
        return {}
    return {"removed_at": _stat_of(file.path).st_ctime, "removed_from": file.inside}
