"""Rows for files that are seen in the inbox, thousands at a time; within a transaction of the caller's.

Plain SQL, since a burst of 50,000 files is an ordinary day and peewee's query builder takes most of its time.
"""

from collections.abc import Sequence
from typing import Any

from daemon.catalogue.models import Event, FilenameField, Image
from daemon.catalogue.rows import Seen, new_row
from daemon.names import display

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
