"""The queue's door for uploads: a row and the visible name of its file come into being together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daemon.catalogue.database import Catalogue
from daemon.catalogue.models import Image
from daemon.catalogue.queue import Queue
from daemon.catalogue.rows import record
from daemon.errors import EnvironmentFault, NameRefused


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
