"""The queue: every change of a row's status, each in one transaction together with its line of history.

The attempt is counted by the claim, before the work, so a file that kills the process can't loop for ever;
what turns out not to be the image's fault gives the attempt back. `not_before` carries debounce and backoff.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import SQL, Case, ModelSelect, fn

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import (
    JOB_COLUMNS,
    Companion,
    Event,
    FilenameField,
    Final,
    Image,
    Job,
    Look,
    Place,
    RawExif,
    Seen,
    new_row,
    record,
    to_job,
)
from daemon.errors import EnvironmentFault, NameRefused, Withdrawn
from daemon.files.names import display


class Queue:
    """The queue over one catalogue; any thread may call it. `changed` is set whenever work may be due."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.changed = threading.Event()

    def enqueue(self, files: Sequence[Seen], now: float) -> list[str]:
        """Make a row for each file that has none; returns the paths that are new or have changed."""
        if not files:
            return []
        with self._catalogue.writing():
            told = take_in(files, now)
        if told:
            self.changed.set()
        return told

    def rename(self, old: str, new: str) -> None:
        """Follow a queued file that was renamed inside the inbox; nothing where the new name has a row."""
        with self._catalogue.writing():
            if not Image.select().where(Image.path == new).exists():
                Image.update(path=new).where((Image.path == old) & (Image.status == "queued")).execute()

    def claim(self, now: float) -> Job | None:
        """Take the oldest row that is due, counting the attempt; None when nothing is."""
        with self._catalogue.noting():
            rows = list(
                Image.update(status="processing", claimed_at=now, attempts=Image.attempts + 1)
                .where(Image.id == _oldest(now, Image.id))
                .returning(*JOB_COLUMNS)
                .execute()
            )
        return to_job(rows[0]) if rows else None

    def following(self, now: float) -> Job | None:
        """Look at the row that `claim` would take next, and leave it as it is; None when nothing is due."""
        with self._catalogue.reading():
            row = _oldest(now, *JOB_COLUMNS).first()
        return None if row is None else to_job(row)

    def next_due(self, now: float | None = None) -> float | None:
        """Tell when the next queued row is due; None when none waits.

        Given `now`, rows that have been seen or claimed later than that are due: the clock was set back.
        """
        with self._catalogue.reading():
            due: float | None = Image.select(fn.MIN(Image.not_before)).where(Image.status == "queued").scalar()
            if now is None or due is None or due <= now:
                return due
            later = fn.COALESCE(Image.claimed_at, Image.created_at) > now + 1
            rows = (Image.status == "queued") & (Image.not_before > now) & later
            if not Image.select().where(rows).exists():
                return due
        with self._catalogue.writing():
            Image.update(not_before=now).where(rows).execute()
        return now

    def postpone(self, job: Job, reason: str, until: float, now: float, seen: Look | None = None) -> None:
        """Put a row back without spending the attempt; `seen` is what the file looks like now."""
        changes: dict[str, Any] = {"attempts": job.attempts - 1}
        if seen is not None:
            changes |= {"size_bytes": seen.size, "mtime_ns": seen.mtime_ns, "quiet_since": seen.since}
        self._back(job, reason, until, now, "postponed", changes)

    def retry_later(self, job: Job, reason: str, until: float, now: float) -> None:
        """Put a row back after a failed attempt."""
        self._back(job, reason, until, now, "retry", {"error": reason})

    def release(self, job: Job, reason: str, until: float, now: float, *, spent: bool) -> None:
        """Put a row back after a crash (the attempt is spent) or a fault of the environment (it is not)."""
        self._back(job, reason, until, now, "postponed", {} if spent else {"attempts": job.attempts - 1})

    def _back(self, job: Job, reason: str, until: float, now: float, kind: str, changes: Mapping[str, Any]) -> None:
        with self._catalogue.writing():
            row = Image.get_by_id(job.id)
            # An event that came while the row was claimed has changed what the file looks like: look at once.
            touched = (row.size_bytes, row.mtime_ns) != (job.size, job.mtime_ns)
            if row.waiting != reason:
                record(job.id, now, kind, reason)
            merged = {
                "status": "queued",
                "not_before": now if touched else until,
                "waiting": reason,
                "place": None,
                "destination": None,
                "companion_of": None,
                **({"attempts": 0} if touched else changes),
            }
            Image.update(merged).where(Image.id == job.id).execute()

    def withdraw(self, job: Job, now: float) -> None:
        """Forget a row whose file has left the inbox; its history stays."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == job.id).execute()
            RawExif.delete().where(RawExif.image_id == job.id).execute()
            record(job.id, now, "withdrawn", f"{display(job.path)} is no longer in the inbox")

    def plan(
        self,
        job: Job,
        place: Place,
        destination: str,
        values: Mapping[str, Any],
        raw: Mapping[str, Any] | None,
    ) -> bool:
        """Write down what was learned and where the file is about to go; False when that name is another row's."""
        with self._catalogue.writing():
            if _owned(job, place, destination, values.get("companion_of")):
                return False
            changes = {**values, "place": place, "destination": destination}
            if "caption_status" in values:
                kept = (_CAPTION_IS_WRITTEN, Image.caption_status)
                changes["caption_status"] = Case(None, [kept], values["caption_status"])
            if not Image.update(changes).where((Image.id == job.id) & (Image.status == "processing")).execute():
                raise Withdrawn(f"image {job.id} was taken out of the queue while it was being filed")
            if raw:
                RawExif.replace(image_id=job.id, tags=raw).execute()
        return True

    def owned(self, job: Job, place: Place, destination: str, companion_of: int | None = None) -> bool:
        """Return whether a name in one of the folders is another row's."""
        with self._catalogue.reading():
            return _owned(job, place, destination, companion_of)

    def finish(self, job: Job, status: Final, detail: str, now: float, values: Mapping[str, Any] | None = None) -> None:
        """Make a row final. Its `path` stays until `left` says that the inbox name is gone."""
        changes = {
            "status": status,
            "processed_at": now,
            "processing_ms": max(0, round((now - job.claimed_at) * 1000)),
            "waiting": None,
            **(values or {}),
        }
        with self._catalogue.writing():
            Image.update(changes).where(Image.id == job.id).execute()
            record(job.id, now, status, detail)

    def filed(self, sha256: str) -> tuple[int, str] | None:
        """Find the image that was filed with these bytes: its id and its place in the library."""
        with self._catalogue.reading():
            # The status as a literal: that it is the one of the partial index must be plain to SQLite.
            filed = (Image.sha256 == sha256) & SQL("status = 'done'")
            row = Image.select(Image.id, Image.destination).where(filed).first()
        return None if row is None else (row.id, row.destination)

    def lost(self, image_id: int, reason: str, now: float) -> None:
        """Note that a filed original is no longer where it was filed, so that its bytes may be filed anew."""
        with self._catalogue.writing():
            Image.update(status="failed", error=reason, place=None, destination=None).where(
                Image.id == image_id
            ).execute()
            record(image_id, now, "lost", reason)

    def unfinished(self) -> list[Job]:
        """List the rows that a crash left in the middle of the work."""
        with self._catalogue.reading():
            return [to_job(row) for row in Image.select().where(Image.status == "processing").order_by(Image.id)]

    def leaving(self) -> list[Job]:
        """List the final rows whose file may still be in the inbox; those that failed there stay there."""
        with self._catalogue.reading():
            rows = Image.select().where(
                Image.path.is_null(False)
                & Image.status.not_in(["queued", "processing"])
                & ~((Image.status == "failed") & Image.destination.is_null())
            )
            return [to_job(row) for row in rows]

    def left(self, image_id: int) -> None:
        """Note that a final row's file has left the inbox."""
        with self._catalogue.noting():
            Image.update(path=None).where(Image.id == image_id).execute()

    def came_from(self, folder: str) -> bool:
        """Tell whether any file came from this subfolder of the inbox."""
        with self._catalogue.reading():
            return bool(Image.select().where((Image.folder == display(folder)) & (Image.folder != "")).exists())

    def failed(self, image_id: int) -> Job | None:
        """Give a failed row; None where it is not one."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.id == image_id) & (Image.status == "failed"))
        return None if row is None else to_job(row)

    def failures(self) -> list[int]:
        """List the ids of all failed rows."""
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(Image.status == "failed").order_by(Image.id)]

    def again(self, image_id: int, path: str, now: float, *, returning: bool) -> bool:
        """Queue a failed row under an inbox name; False when that name is another row's.

        While it is `returning` it keeps its place in `failed/` too, and is not claimed before `returned`. False also
        where the row is neither failed nor returning any more.
        """
        changes = {
            "status": "queued",
            "path": path,
            "not_before": now,
            "attempts": 0,
            "waiting": None,
        }
        if not returning:
            changes |= {"error": None, "place": None, "destination": None}
        with self._catalogue.writing():
            if Image.select().where((Image.path == path) & (Image.id != image_id)).exists():
                return False
            if not Image.update(changes).where((Image.id == image_id) & (_FAILED | _RETURNING)).execute():
                return False
            record(image_id, now, "queued", "asked to try again")
        self.changed.set()
        return True

    def returning(self) -> list[Job]:
        """List the rows whose file is on its way from `failed/` into the inbox."""
        with self._catalogue.reading():
            return [to_job(row) for row in Image.select().where(_RETURNING)]

    def returned(self, image_id: int, now: float) -> None:
        """Note that a returning row's file is in the inbox, and only there."""
        changes = {"error": None, "place": None, "destination": None, "not_before": now}
        with self._catalogue.writing():
            # Not one that returned before: it may have been filed since, and has another place.
            Image.update(changes).where((Image.id == image_id) & _RETURNING).execute()
        self.changed.set()

    def not_returned(self, image_id: int, reason: str, now: float) -> None:
        """Fail a returning row again, with the error that it had, since its file can't be moved into the inbox."""
        changes = {"status": "failed", "path": None}
        with self._catalogue.writing():
            if Image.update(changes).where((Image.id == image_id) & _RETURNING).execute():
                record(image_id, now, "failed", reason)


_FAILED = Image.status == "failed"
# On its way from `failed/` into the inbox: see `again`.
_RETURNING = (Image.status == "queued") & Image.destination.is_null(False)
# A person's words, written while the file waited: no model is asked for others.
_CAPTION_IS_WRITTEN = fn.INSTR(fn.COALESCE(Image.edited, ""), "caption") > 0


def _owned(job: Job, place: Place, destination: str, companion_of: int | None) -> bool:
    """Return whether a name is another row's; within a connection of the caller's."""
    other = (Image.place == place) & (Image.destination == destination) & (Image.id != job.id)
    beside = (Companion.place == place) & (Companion.destination == destination)
    another = Companion.image_id != (companion_of or 0)
    return bool(Image.select().where(other).exists() or Companion.select().where(beside & another).exists())


def _oldest(now: float, *columns: Any) -> "ModelSelect[Image]":
    due = (Image.status == "queued") & (Image.not_before <= now) & Image.destination.is_null()
    return Image.select(*columns).where(due).order_by(Image.id).limit(1)


_path = FilenameField()
# path, id, size_bytes, mtime_ns, status, and whether the file has a place outside the inbox.
_KNOWN = "SELECT path, id, size_bytes, mtime_ns, status, destination IS NOT NULL FROM image WHERE path IN (%s)"


def take_in(files: Sequence[Seen], now: float) -> list[str]:
    """Make a row for each file that has none; returns the paths that are new or have changed.

    A queued file that has changed is due at once, with all its attempts: it is another file now.
    """
    known = _known(files)
    changed, fresh = [], {}
    for file in files:
        row = known.get(file.path)
        if row is None:
            fresh[file.path] = file
        elif row[1:3] != (file.size, file.mtime_ns):
            _touch(row, file, now)
            changed.append(file.path)
    if fresh:
        _insert(list(fresh.values()), now)
    return changed + list(fresh)


def _known(files: Sequence[Seen]) -> dict[str | None, tuple[Any, ...]]:
    database = Image._meta.database
    names = [_path.db_value(file.path) for file in files]
    rows = database.execute_sql(_KNOWN % ", ".join("?" * len(names)), names)
    return {_path.python_value(path): tuple(rest) for path, *rest in rows}


def _insert(files: list[Seen], now: float) -> None:
    database = Image._meta.database
    values = [{**new_row(file, now), "path": _path.db_value(file.path)} for file in files]
    columns = list(values[0])
    into = f"INSERT INTO image ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    cursor = database.cursor()
    cursor.executemany(into, [list(row.values()) for row in values])
    # AUTOINCREMENT: the rows of one transaction have consecutive ids that end here.
    last = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'image'").fetchone()[0]
    cursor.executemany(
        "INSERT INTO event (image_id, at, kind, detail) VALUES (?, ?, 'queued', ?)",
        [
            (image_id, now, f"found in the inbox as {display(file.path)}")
            for image_id, file in enumerate(files, last - len(files) + 1)
        ],
    )


def _touch(row: tuple[Any, ...], file: Seen, now: float) -> None:
    """Note that a known file has changed: while it waits, while it is worked on, or stuck as failed."""
    image_id, _, _, status, has_left = row
    changes: dict[str, Any] = {"size_bytes": file.size, "mtime_ns": file.mtime_ns, "quiet_since": now}
    if status == "queued":
        changes |= {"not_before": now, "attempts": 0}
    elif status == "failed" and not has_left:
        changes |= {"status": "queued", "not_before": now, "attempts": 0, "error": None}
        Event.insert(image_id=image_id, at=now, kind="queued", detail="the file has changed").execute()
    Image.update(changes).where(Image.id == image_id).execute()


@dataclass(frozen=True)
class Upload:
    """A file that has arrived whole; `size` is in bytes, `mtime_ns` nanoseconds since 1970."""

    original_name: str
    size: int
    mtime_ns: int
    sha256: str


class Uploads:
    """Inserts uploaded files into the queue."""

    def __init__(self, catalogue: Catalogue, queue: Queue) -> None:
        self._catalogue = catalogue
        self._queue = queue

    def submit(self, upload: Upload, names: Iterable[str], publish: Callable[[str], None], now: float) -> int:
        """Queue an upload under the first name that is free, in the inbox and in the queue; returns its id.

        `publish` gives the file that inbox name and raises FileExistsError where the name is taken. It is called
        inside the transaction: the watcher, which sees the name at once, can't make a row before this one is there.
        Killed before the commit, the file is one that somebody put into the inbox.
        """
        with self._catalogue.writing():
            image_id = self._insert(upload, self._publish(names, publish), now)
        self._queue.changed.set()
        return image_id

    def waiting(self, sha256: str) -> list[tuple[int, str]]:
        """List the queued uploads with these bytes: ids and inbox names."""
        with self._catalogue.reading():
            rows = Image.select(Image.id, Image.path).where((Image.sha256 == sha256) & (Image.status == "queued"))
            return [(row.id, row.path) for row in rows if row.path is not None]

    def _publish(self, names: Iterable[str], publish: Callable[[str], None]) -> str:
        for name in names:
            if Image.select().where(Image.path == name).exists():
                continue
            try:
                publish(name)
            except (FileExistsError, NameRefused):
                continue
            return name
        raise EnvironmentFault("the inbox is full of files of that name")

    def _insert(self, upload: Upload, path: str, now: float) -> int:
        image_id = Image.insert(
            path=path,
            original_name=upload.original_name,
            source="upload",
            created_at=now,
            not_before=now,
            size_bytes=upload.size,
            mtime_ns=upload.mtime_ns,
            quiet_since=now,
            sha256=upload.sha256,
        ).execute()
        record(image_id, now, "queued", f"uploaded as {path}")
        return int(image_id)
