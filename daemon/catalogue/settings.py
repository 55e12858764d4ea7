"""What the program remembers of itself across restarts, and tells other processes: mounts, the pause."""

from typing import Any

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import Image, Setting
from daemon.loop import LoopFault

# Behind it the name of the loop.
FAULT_PREFIX = "fault of "


class Settings:
    """Small JSON values by name."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def get(self, key: str) -> Any:
        """Give the value that was remembered; None where none was."""
        with self._catalogue.reading():
            row = Setting.get_or_none(Setting.key == key)
        return None if row is None else row.value

    def set(self, key: str, value: object) -> None:
        """Keep a value; None forgets."""
        with self._catalogue.writing():
            if value is None:
                Setting.delete().where(Setting.key == key).execute()
            else:
                Setting.replace(key=key, value=value).execute()

    def faults(self) -> dict[str, LoopFault]:
        """Return why which loops' last steps failed, by their names."""
        with self._catalogue.reading():
            rows = list(Setting.select().where(Setting.key.startswith(FAULT_PREFIX)).order_by(Setting.key))
        return {row.key.removeprefix(FAULT_PREFIX): LoopFault(**row.value) for row in rows}

    def expected(self, folder: str) -> str | None:
        """Name a file, relative to a folder, that should lie there if it is the right one; None if none should."""
        newest = Image.select().order_by(Image.id.desc()).limit(1)
        with self._catalogue.reading():
            if folder == "inbox":
                row = newest.where((Image.status == "queued") & Image.path.is_null(False)).first()
                return None if row is None else str(row.path)
            statuses = {"library": "done", "duplicates": "duplicate", "failed": "failed"}
            if folder not in statuses:
                return None
            row = newest.where((Image.status == statuses[folder]) & (Image.place == folder)).first()
            return None if row is None else str(row.destination)
