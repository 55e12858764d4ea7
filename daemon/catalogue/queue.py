"""The queue: every change of a row's status, each in one transaction together with its line of history.

The attempt is counted by the claim, before the work, so a file that kills the process can't loop for ever;
what turns out not to be the image's fault gives the attempt back. `not_before` carries debounce and backoff.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from peewee import fn

from daemon.catalogue.database import CURRENT, Catalogue, FilenameField, insert_row, read_rows, read_value, update_rows
from daemon.catalogue.history import CAME_UNDECODABLE
from daemon.catalogue.schema import (
    FINAL,
    Cause,
    Event,
    EventKind,
    Facts,
    Final,
    Image,
    Job,
    Past,
    Place,
    RawExif,
    SidecarLook,
    Twin,
    Upload,
)
from daemon.errors import EnvironmentFault, FailureReason, NameRefused, Postponed, WaitingReason, Withdrawn
from daemon.files.names import display
from daemon.files.opening import Snapshot
from daemon.files.walk import Found


class Queue:
    """The queue over one catalogue; any thread may call it. `changed` is set whenever work may be due."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.changed = threading.Event()

    # -- files come in

    def enqueue(self, files: Sequence[Found], now: float) -> list[str]:
        """Make a row for each file that has none; returns the paths that are new or have changed.

        A queued file that has changed is due at once, with all its attempts: it is another file now. One under the
        name of a filed one that could not be removed gets a row of its own.
        """
        if not files:
            return []
        with self._catalogue.writing():
            known = _known(files)
            changed, fresh = [], {}
            for file in files:
                row = known.get(file.path)
                if row is None:
                    fresh[file.path] = file
                elif row[1:3] != (file.size, file.mtime_ns):
                    if _is_filed(row):
                        Image.update(path=None, waiting=None, waiting_detail=None).where(Image.id == row[0]).execute()
                        fresh[file.path] = file
                    else:
                        _touch(row, file, now)
                        changed.append(file.path)
            if fresh:
                _insert(list(fresh.values()), now)
        if changed or fresh:
            self.changed.set()
        return changed + list(fresh)

    def rename(self, old: str, new: str, now: float) -> None:
        """Follow a file that was renamed inside the inbox, while it waits or is in hand; its new name is what counts.

        Where `old` was a folder, all that is in it is followed. Nothing where a new name has a row.
        """
        below = (Image.path > f"{old}/") & (Image.path < f"{old}0")  # "0" comes behind "/"
        moved = ((Image.path == old) | below) & Image.status.in_(["queued", "processing"])
        with self._catalogue.writing():
            for row in list(Image.select(Image.id, Image.path, Image.status).where(moved)):
                path = new + row.path[len(old) :]
                if Image.select().where(Image.path == path).exists():
                    continue
                changes: dict[str, Any] = {**_names(path), "path": path}
                if row.status == "queued":
                    changes["not_before"] = now
                Image.update(changes).where(Image.id == row.id).execute()
                Event.insert(image_id=row.id, at=now, kind=EventKind.RENAMED, path=path).execute()
        self.changed.set()

    def upload(self, upload: Upload, names: Iterable[str], publish: Callable[[str], None], now: float) -> int:
        """Queue an upload under the first name that is free, in the inbox and in the queue; return its id.

        `publish` gives the file that inbox name and raises FileExistsError where the name is taken. It is called
        inside the transaction: the watcher, which sees the name at once, can't make a row before this one is there.
        Killed before the commit, the file is one that somebody put into the inbox.
        """
        with self._catalogue.writing():
            path = _publish(names, publish)
            image_id = Image.insert(
                path=path,
                original_name=upload.original_name,
                folder=_names(path)["folder"],
                source="upload",
                created_at=now,
                arrived_on=_day(now),
                not_before=now,
                size_bytes=upload.size,
                mtime_ns=upload.mtime_ns,
                quiet_since=now,
                sha256=upload.sha256,
            ).execute()
            Event.insert(image_id=image_id, at=now, kind=EventKind.QUEUED, cause=Cause.UPLOADED, path=path).execute()
        self.changed.set()
        return int(image_id)

    def waiting_uploads(self, sha256: str) -> list[tuple[int, str]]:
        """Return the ids and inbox names of the queued uploads with these bytes."""
        with self._catalogue.reading():
            rows = Image.select(Image.id, Image.path).where((Image.sha256 == sha256) & (Image.status == "queued"))
            return [(row.id, row.path) for row in rows if row.path is not None]

    # -- and are worked on

    def claim(self, now: float) -> Job | None:
        """Take the oldest row that is due, counting the attempt; None when nothing is.

        Those that were never tried go first, those that have met a fault of the environment last.
        """
        with self._catalogue.noting():
            rows = read_rows(Image, Image, _CLAIM, now, now)
        return _job(rows[0]) if rows else None

    def following(self, now: float, most: int) -> list[Job]:
        """Look at the rows that `claim` would take next, in that order, and leave them as they are."""
        with self._catalogue.reading():
            rows = read_rows(Image, Image, _FOLLOWING, now, most)
        return list(map(_job, rows))

    def next_due(self, now: float | None = None) -> float | None:
        """Return when the next queued row is due; None when none waits.

        Given `now`, rows that have been seen or claimed later than that are due: the clock was set back.
        """
        with self._catalogue.reading():
            due: float | None = read_value(_NEXT_DUE)
            if now is None or due is None or due <= now:
                return due
            later = fn.COALESCE(Image.claimed_at, Image.created_at) > now + 1
            rows = (Image.status == "queued") & (Image.not_before > now) & later
            if not Image.select().where(rows).exists():
                return due
        with self._catalogue.writing():
            Image.update(not_before=now).where(rows).execute()
        return now

    def postpone(self, job: Job, later: Postponed, now: float, snapshot: Snapshot | None = None) -> None:
        """Put a row back without spending the attempt; `snapshot` is what the file looks like now."""
        changes: dict[str, Any] = {"attempts": job.attempts - 1}
        if later.reason is WaitingReason.INCOMPLETE:
            changes["rank"] = _TRIED
        if snapshot is not None:
            changes |= {"size_bytes": snapshot.size, "mtime_ns": snapshot.mtime_ns, "quiet_since": snapshot.since}
        self._back(job, later.reason, later.detail, now + later.seconds, now, changes)

    def retry_later(self, job: Job, error: str, until: float, now: float) -> None:
        """Put a row back after a failed attempt."""
        self._back(job, WaitingReason.ATTEMPT, error, until, now, {"error": error, "rank": _TRIED})

    def release(
        self, job: Job, reason: WaitingReason, until: float, now: float, *, spent: bool, detail: str = ""
    ) -> None:
        """Put a row back after a crash (the attempt is spent) or a fault of the environment (it is not)."""
        rank = _FAULTY if reason is not WaitingReason.INTERRUPTED else _TRIED if spent else 0
        self._back(job, reason, detail, until, now, {"rank": rank} | ({} if spent else {"attempts": job.attempts - 1}))

    def _back(
        self, job: Job, reason: WaitingReason, detail: str, until: float, now: float, changes: Mapping[str, Any]
    ) -> None:
        with self._catalogue.writing():
            row = Image.get_by_id(job.id)
            # An event that came while the row was claimed has changed what the file looks like: look at once.
            touched = (row.size_bytes, row.mtime_ns) != (job.size, job.mtime_ns)
            touched = (touched and reason is not WaitingReason.LEAVING) or row.path != job.path
            if (row.waiting, row.waiting_detail or "") != (reason, detail):
                failed = reason is WaitingReason.ATTEMPT
                kind, cause = (EventKind.RETRY, None) if failed else (EventKind.POSTPONED, reason)
                Event.insert(image_id=job.id, at=now, kind=kind, cause=cause, text=detail or None).execute()
            merged = {
                "status": "queued",
                "not_before": now if touched else until,
                "waiting": reason,
                "waiting_detail": detail or None,
                "place": None,
                "destination": None,
                "companion_of": None,
                "token": job.token if reason is WaitingReason.LEAVING else None,
                **({"attempts": 0, "rank": 0} if touched else changes),
            }
            # Never one that has become final meanwhile: its file is where the row says.
            Image.update(merged).where((Image.id == job.id) & (Image.status == "processing")).execute()

    def withdraw(self, job: Job, now: float) -> None:
        """Forget a row whose file has left the inbox; its history stays."""
        with self._catalogue.writing():
            Image.delete().where(Image.id == job.id).execute()
            RawExif.delete().where(RawExif.image_id == job.id).execute()
            Event.insert(image_id=job.id, at=now, kind=EventKind.WITHDRAWN, path=job.path).execute()

    # -- and become final

    def plan(self, job: Job, place: Place, destination: str, facts: Facts) -> bool:
        """Write down what was learned and where the file is about to go; False when that name is another row's."""
        changes = {**_columns(facts), "place": place, "destination": destination}
        if facts.caption_status is not None:
            changes["caption_status"] = facts.caption_status
        if facts.keywords:
            changes["keywords"] = facts.keywords
        name = _name(job, place, destination, facts.companion_of)
        with self._catalogue.writing():
            if read_value(_OWNED, *name):
                return False
            if not update_rows(Image, changes, "id = ? AND status = 'processing'", job.id, expressions=_EXPRESSIONS):
                raise Withdrawn(f"image {job.id} was taken out of the queue while it was being filed")
            if facts.raw:
                RawExif.replace(image_id=job.id, tags=facts.raw).execute()
        return True

    def owned(self, job: Job, place: Place, destination: str, companion_of: int | None = None) -> bool:
        """Return whether a name in one of the folders is another row's."""
        name = _name(job, place, destination, companion_of)
        with self._catalogue.reading():
            return bool(read_value(_OWNED, *name))

    def finish(self, job: Job, now: float, stays: str | None = None, sidecar: SidecarLook | None = None) -> None:
        """Make a row final whose file is at its destination; `path` stays until `left` says that the name is gone.

        `stays` is why it can't go, `sidecar` the look of the sidecar that was just written.
        """
        place = cast("Place", job.place)
        event = {"place": place, "path": job.destination, "text": job.error if place == "failed" else None}
        changes = _stays(stays)
        if sidecar is not None:
            changes |= {"sidecar_size": sidecar.size, "sidecar_mtime_ns": sidecar.mtime_ns}
        self._finish(job, FINAL[place], now, changes, event)

    def finish_deleted(self, job: Job, original: int, facts: Facts, now: float, stays: str | None = None) -> None:
        """Make a row final whose file is about to be deleted, since an original has the same bytes."""
        changes = {**_columns(facts), "duplicate_of": original, **_stays(stays)}
        self._finish(job, "duplicate", now, changes, {"cause": Cause.DELETED, "other_id": original})

    def fail_in_place(self, job: Job, error: str, failure: FailureReason, now: float) -> None:
        """Fail a row whose file stays in the inbox."""
        changes = {"error": error, "failure": failure, "place": None, "destination": None}
        self._finish(job, "failed", now, changes, {"text": error}, leaves=False)

    def _finish(
        self,
        job: Job,
        status: Final,
        now: float,
        changes: Mapping[str, Any],
        event: Mapping[str, Any],
        *,
        leaves: bool = True,
    ) -> None:
        spent = max(0, round((now - job.claimed_at) * 1000))
        final = {"status": status, "processed_at": now, "processing_ms": spent, "waiting": None, "waiting_detail": None}
        with self._catalogue.writing():
            # It left under the name that it was claimed by: an event that says otherwise was of a file that had the
            # name before it, as where two files swap theirs.
            if leaves and _filename.python_value(read_value(_PATH, job.id)) not in {job.path, None}:
                name = {"original_name": job.original_name, "folder": display(job.folder)}
                Image.update({**name, "sidecar_due": Image.sidecar_due + 1}).where(Image.id == job.id).execute()
            update_rows(Image, {**final, **changes}, "id = ?", job.id)
            insert_row(Event, {"image_id": job.id, "at": now, "kind": EventKind(status), **event})

    def left(self, image_id: int) -> str | None:
        """Note that a final row's file has left the inbox; return the name that the row had there."""
        changes = {"path": None, "token": None, "waiting": None, "waiting_detail": None}
        with self._catalogue.noting():
            path = _filename.python_value(read_value(_PATH, image_id))
            update_rows(Image, changes, "id = ?", image_id)
        return path

    def stays(self, image_id: int, reason: str) -> None:
        """Note why a filed row's name can't be removed from the inbox."""
        with self._catalogue.writing():
            Image.update(_stays(reason)).where(Image.id == image_id).execute()

    def warn(self, image_id: int, warning: str) -> None:
        """Note what is wrong with a filed image."""
        with self._catalogue.writing():
            Image.update(warning=warning).where(Image.id == image_id).execute()

    def hidden(self) -> list[Job]:
        """Return the queued rows whose file waits under its hidden name."""
        with self._catalogue.reading():
            return [_job(row) for row in Image.select().where(_HIDDEN)]

    def shown(self, image_id: int, now: float) -> None:
        """Note that a queued row's file has its own name again."""
        changes = {"token": None, "waiting": None, "waiting_detail": None, "not_before": now}
        with self._catalogue.writing():
            Image.update(changes).where((Image.id == image_id) & _HIDDEN).execute()

    def filed(self, sha256: str) -> tuple[int, str] | None:
        """Return the image that was filed with these bytes, its id and its place in the library; None for none."""
        with self._catalogue.reading():
            rows = read_rows(Image, Image, _FILED, sha256)
        return (rows[0].id, rows[0].destination) if rows else None

    def past(self, sha256: str) -> Past:
        """Return what is known of some bytes: the image that has them, or had them, and where they have been."""
        # Written out, each part with the condition of its index: every photo asks.
        with self._catalogue.reading():
            row = CURRENT.execute_sql(_TWIN, (sha256, sha256, sha256)).fetchone()
            paths = CURRENT.execute_sql(_FORMER_PATHS, (sha256, sha256, sha256, sha256)).fetchall()
        twin, folders = None, set()
        if row is not None:
            _, image_id, kind, path, size, mtime_ns, removed_at = row
            twin = Twin(image_id, kind, _filename.python_value(path), size, mtime_ns, removed_at)
        for (path,) in paths:
            folders.add((_filename.python_value(path) or "").rpartition("/")[0])
        return Past(twin, frozenset(folders))

    def rotten(self, image_id: int, sha256: str, other_id: int, now: float) -> None:
        """Note that a filed photo has other bytes now though nobody wrote to it; those it had are another image's."""
        with self._catalogue.writing():
            row = Image.get_by_id(image_id)
            warning = f"its file has rotted on the disk; image {other_id} has the bytes that it was filed with"
            # The hash that it was filed with is the other's from now on, and not kept here: nobody has edited it.
            changes = {"sha256": sha256, "warning": warning, "sidecar_due": Image.sidecar_due + 1}
            Image.update(changes).where((Image.id == image_id) & (Image.status == "done")).execute()
            event = {"image_id": image_id, "at": now, "place": "library", "path": row.destination}
            Event.insert(kind=EventKind.CHANGED, cause=Cause.ROTTEN, other_id=other_id, **event).execute()

    # -- what a crash has left

    def hasten(self, now: float) -> None:
        """Make due what whoever starts anew may have mended (a disk, a folder, a fault), or configured otherwise."""
        reasons = [WaitingReason.DISK, WaitingReason.FOLDER, WaitingReason.FAULT]
        reasons += [WaitingReason.QUIET, WaitingReason.INCOMPLETE]
        waits = (Image.status == "queued") & Image.waiting.in_(reasons)
        with self._catalogue.writing():
            Image.update(not_before=now).where(waits & (Image.not_before > now)).execute()

    def unfinished(self) -> list[Job]:
        """Return the rows that a crash left in the middle of the work."""
        with self._catalogue.reading():
            return [_job(row) for row in Image.select().where(Image.status == "processing").order_by(Image.id)]

    def leaving(self) -> list[Job]:
        """Return the final rows whose file may still be in the inbox; those that failed there stay there."""
        with self._catalogue.reading():
            rows = Image.select().where(
                Image.path.is_null(False)
                # What is rejected leaves for the trash, by whoever has begun that.
                & Image.status.not_in(["queued", "processing", "rejected"])
                & ~((Image.status == "failed") & Image.destination.is_null())
            )
            return [_job(row) for row in rows]

    def came_from(self, folder: str) -> bool:
        """Return whether any file came from this subfolder of the inbox."""
        with self._catalogue.reading():
            return bool(Image.select().where((Image.folder == display(folder)) & (Image.folder != "")).exists())

    # -- failed images are tried again

    def failed(self, image_id: int) -> Job | None:
        """Return a failed row; None where it is not one."""
        with self._catalogue.reading():
            row = Image.get_or_none((Image.id == image_id) & _FAILED)
        return None if row is None else _job(row)

    def failures(self) -> list[int]:
        """Return the ids of all failed rows."""
        with self._catalogue.reading():
            return [row.id for row in Image.select(Image.id).where(_FAILED).order_by(Image.id)]

    def undecodable_path(self, job: Job) -> str | None:
        """Return the path under which a file came where that is no UTF-8; None for any other."""
        came = (Event.image_id == job.id) & CAME_UNDECODABLE
        with self._catalogue.reading():
            event = Event.select().where(came).order_by(Event.id.desc()).first()
        is_it = event is not None and display(event.path.rpartition("/")[2]) == job.original_name
        return event.path if is_it else None

    def again(self, image_id: int, path: str, now: float, *, returning: bool) -> bool:
        """Queue a failed row under an inbox name; False when that name is another row's.

        While it is `returning` it keeps its place in `failed/` too, and is not claimed before `returned`. False also
        where the row is neither failed nor returning any more.
        """
        changes: dict[str, Any] = {"status": "queued", "path": path, "not_before": now, "attempts": 0, "rank": 0}
        changes |= {"waiting": None, "waiting_detail": None}
        if not returning:
            changes |= {"error": None, "failure": None, "place": None, "destination": None}
        with self._catalogue.writing():
            if Image.select().where((Image.path == path) & (Image.id != image_id)).exists():
                return False
            if not Image.update(changes).where((Image.id == image_id) & (_FAILED | _RETURNING)).execute():
                return False
            Event.insert(image_id=image_id, at=now, kind=EventKind.QUEUED, cause=Cause.ASKED, path=path).execute()
        self.changed.set()
        return True

    def returning(self) -> list[Job]:
        """Return the rows whose file is on its way from `failed/` into the inbox."""
        with self._catalogue.reading():
            return [_job(row) for row in Image.select().where(_RETURNING)]

    def returned(self, image_id: int, now: float) -> None:
        """Note that a returning row's file is in the inbox, and only there."""
        changes = {"error": None, "failure": None, "place": None, "destination": None, "not_before": now}
        with self._catalogue.writing():
            # Not one that returned before: it may have been filed since, and has another place.
            Image.update(changes).where((Image.id == image_id) & _RETURNING).execute()
        self.changed.set()

    def not_returned(self, image_id: int, reason: str, now: float) -> None:
        """Fail a returning row again, with the error that it had, since its file can't be moved into the inbox."""
        changes = {"status": "failed", "path": None}
        with self._catalogue.writing():
            if Image.update(changes).where((Image.id == image_id) & _RETURNING).execute():
                Event.insert(image_id=image_id, at=now, kind=EventKind.FAILED, text=reason).execute()


_FAILED = Image.status == "failed"
_HIDDEN = (Image.status == "queued") & Image.token.is_null(False)
_TRIED, _FAULTY = 1, 2
# On its way from `failed/` into the inbox: see `again`.
_RETURNING = (Image.status == "queued") & Image.destination.is_null(False)
# Which row this one is beside, or a copy of, and why it failed: that is no more than the newest plan says.
_ALWAYS_WRITTEN = frozenset({"error", "failure", "duplicate_of", "companion_of"})
_JOB = """id, path, original_name, source, created_at, attempts, size_bytes, mtime_ns, quiet_since, claimed_at, token,
 waiting, waiting_detail, place, destination, sha256, error, failure, companion_of"""
_DUE = "FROM image WHERE status = 'queued' AND not_before <= ? AND destination IS NULL ORDER BY rank, id"
_FOLLOWING = f"SELECT {_JOB} {_DUE} LIMIT ?"
_NEXT_DUE = "SELECT MIN(not_before) FROM image WHERE status = 'queued'"
# Nobody can foretell a token; a file that waits under its hidden name keeps it.
_CLAIM = f"""UPDATE image SET status = 'processing', claimed_at = ?, attempts = attempts + 1,
 token = COALESCE(token, LOWER(HEX(RANDOMBLOB(8)))) WHERE id = (SELECT id {_DUE} LIMIT 1) RETURNING {_JOB}"""  # noqa: S608
_FILED = "SELECT id, destination FROM image WHERE sha256 = ? AND status = 'done' LIMIT 1"
_PATH = "SELECT path FROM image WHERE id = ?"
# Whether a name is another row's, of an image or of a companion.
_OWNED = """SELECT EXISTS (SELECT 1 FROM image WHERE place = ? AND destination = ? AND id != ?)
 OR EXISTS (SELECT 1 FROM companion WHERE place = ? AND destination = ? AND image_id != ?)"""
# A person's words, written while the file waited, stay: no model is asked for others.
_EXPRESSIONS = {
    "caption_status": "IIF(INSTR(COALESCE(edited, ''), 'caption'), caption_status, ?)",
    "keywords": "COALESCE(keywords, ?)",
}
_filename = FilenameField()
# "+status": else SQLite, which has no statistics, might take the index by status, and walk through the whole library.
_TWIN = """
SELECT 0, id, 'filed', destination, size_bytes, mtime_ns, NULL FROM image WHERE sha256 = ? AND status = 'done'
UNION ALL
SELECT 1, id, 'edited', destination, size_bytes, mtime_ns, NULL FROM image
 WHERE filed_sha256 = ? AND filed_sha256 IS NOT NULL AND +status = 'done'
UNION ALL
SELECT 2, id, status, NULL, size_bytes, mtime_ns, removed_at FROM image
 WHERE sha256 = ? AND status IN ('deleted', 'rejected')
ORDER BY 1, 7 DESC LIMIT 1
"""
# By undo, by its owner, or by an edit. What its owner took away has the name of a folder before its path.
_FORMER_PATHS = """
SELECT was.path FROM event AS gone JOIN event AS was ON was.image_id = gone.image_id
 WHERE gone.kind = 'undone' AND gone.text = ? AND gone.text IS NOT NULL AND was.path IS NOT NULL
 AND was.kind IN ('queued', 'renamed', 'done', 'moved')
UNION SELECT folder || '/' FROM image WHERE sha256 = ? AND status IN ('deleted', 'rejected')
UNION SELECT substr(removed_from, instr(removed_from, '/') + 1) FROM image
 WHERE sha256 = ? AND status IN ('deleted', 'rejected') AND removed_from IS NOT NULL
UNION SELECT folder || '/' FROM image WHERE filed_sha256 = ? AND filed_sha256 IS NOT NULL AND +status = 'done'
"""
# path, id, size_bytes, mtime_ns, status, and whether the file has a place outside the inbox. Plain SQL, here and for
# the new rows: a burst of 50,000 files is an ordinary day, and peewee's query builder takes most of its time.
_KNOWN = "SELECT path, id, size_bytes, mtime_ns, status, destination IS NOT NULL FROM image WHERE path IN (%s)"


def _columns(facts: Facts) -> dict[str, Any]:
    """Return the columns that some facts change.

    A second plan may be for other bytes: of what was decoded all is written, also what these bytes don't have.
    """
    is_decoded = facts.format is not None
    columns = {name: value for name, value in vars(facts).items() if name not in {"raw", "caption_status", "keywords"}}
    return {
        name: value for name, value in columns.items() if is_decoded or value is not None or name in _ALWAYS_WRITTEN
    }


def _job(row: Image) -> Job:
    path = row.path or ""
    return Job(
        id=row.id,
        path=path,
        folder=path.rpartition("/")[0],
        original_name=row.original_name,
        source=row.source,
        created_at=row.created_at,
        attempts=row.attempts,
        size=row.size_bytes,
        mtime_ns=row.mtime_ns,
        quiet_since=row.quiet_since,
        claimed_at=row.claimed_at or row.created_at,
        token=row.token or "",
        waiting=row.waiting,
        waiting_detail=row.waiting_detail or "",
        place=cast("Place | None", row.place),
        destination=row.destination,
        sha256=row.sha256,
        error=row.error,
        failure=row.failure,
        companion_of=row.companion_of,
    )


def _name(job: Job, place: Place, destination: str, companion_of: int | None) -> tuple[object, ...]:
    """Return what `_OWNED` is asked about."""
    where = place, _filename.db_value(destination)
    return *where, job.id, *where, companion_of or 0


def _known(files: Sequence[Found]) -> dict[str | None, tuple[Any, ...]]:
    names = [_filename.db_value(file.path) for file in files]
    rows = CURRENT.execute_sql(_KNOWN % ", ".join("?" * len(names)), names)
    return {_filename.python_value(path): tuple(rest) for path, *rest in rows}


def _insert(files: list[Found], now: float) -> None:
    values = [_new_row(file, now) for file in files]
    columns = list(values[0])
    into = f"INSERT INTO image ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    cursor = CURRENT.cursor()
    cursor.executemany(into, [list(row.values()) for row in values])
    # AUTOINCREMENT: the rows of one transaction have consecutive ids that end here.
    last = cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'image'").fetchone()[0]
    cursor.executemany(
        "INSERT INTO event (image_id, at, kind, cause, path) VALUES (?, ?, 'queued', 'found', ?)",
        [(image_id, now, row["path"]) for image_id, row in enumerate(values, last - len(files) + 1)],
    )


def _new_row(file: Found, now: float) -> dict[str, Any]:
    return {
        "path": _filename.db_value(file.path),
        **_names(file.path),
        "source": "inbox",
        "status": "queued",
        "attempts": 0,
        "created_at": now,
        "arrived_on": _day(now),
        "not_before": now,
        "size_bytes": file.size,
        "mtime_ns": file.mtime_ns,
        "quiet_since": now,
    }


def _day(now: float) -> str:
    """Return the local day of a moment, as the trigger for other rows has it; that would double the time of a burst."""
    return datetime.fromtimestamp(now).astimezone().date().isoformat()


def _names(path: str) -> dict[str, Any]:
    """Return what a row keeps of a file's name in the inbox."""
    folder, _, name = path.rpartition("/")
    return {"original_name": display(name), "folder": display(folder)}


def _stays(reason: str | None) -> dict[str, Any]:
    return {} if reason is None else {"waiting": WaitingReason.STAYS, "waiting_detail": reason}


def _is_filed(row: tuple[Any, ...]) -> bool:
    """Return whether a row's bytes are safe elsewhere, though its name is still in the inbox."""
    _, _, _, status, has_place = row
    return status in {"done", "duplicate"} or (status == "failed" and bool(has_place))


def _touch(row: tuple[Any, ...], file: Found, now: float) -> None:
    """Note that a known file has changed: while it waits, while it is worked on, or stuck as failed."""
    image_id, _, _, status, has_left = row
    changes: dict[str, Any] = {"size_bytes": file.size, "mtime_ns": file.mtime_ns, "quiet_since": now}
    if status == "queued":
        # What an upload was said to hash to, it does no longer.
        changes |= {"not_before": now, "attempts": 0, "rank": 0, "sha256": None}
    elif status == "failed" and not has_left:
        changes |= {"status": "queued", "not_before": now, "attempts": 0, "rank": 0, "error": None, "failure": None}
        event = {"image_id": image_id, "at": now, "path": file.path}
        Event.insert(kind=EventKind.QUEUED, cause=Cause.CHANGED, **event).execute()
    Image.update(changes).where(Image.id == image_id).execute()


def _publish(names: Iterable[str], publish: Callable[[str], None]) -> str:
    for name in names:
        if Image.select().where(Image.path == name).exists():
            continue
        try:
            publish(name)
        except (FileExistsError, NameRefused):
            continue
        return name
    raise EnvironmentFault("the inbox is full of files of that name")
