"""What the program remembers of itself across restarts, and shows other processes: mounts, the pause, faults."""

from daemon.catalogue.database import Catalogue
from daemon.catalogue.schema import FINAL, Image, Place, Setting
from daemon.loop import LoopFault

# Behind it the name of the loop.
_FAULT = "fault of "
_RECOVERIES = "recoveries"
_PLACES: dict[str, Place] = {place: place for place in FINAL}


class Settings:
    """Small JSON values by name; any thread may call it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def get(self, key: str) -> object:
        """Return the value that was set; None where none was."""
        with self._catalogue.reading():
            row = Setting.get_or_none(Setting.key == key)
        return None if row is None else row.value

    def set(self, key: str, value: object) -> None:
        """Keep a value; None forgets it."""
        with self._catalogue.writing():
            if value is None:
                Setting.delete().where(Setting.key == key).execute()
            else:
                Setting.replace(key=key, value=value).execute()

    def faults(self) -> dict[str, LoopFault]:
        """Return why which loops' last steps failed, by their names."""
        with self._catalogue.reading():
            rows = list(Setting.select().where(Setting.key.startswith(_FAULT)).order_by(Setting.key))
        return {row.key.removeprefix(_FAULT): LoopFault(**row.value) for row in rows}

    def set_fault(self, loop: str, fault: LoopFault | None) -> None:
        """Keep why a loop's last step failed; None where it went well."""
        self.set(_FAULT + loop, None if fault is None else vars(fault))

    def pause(self) -> tuple[str, float] | None:
        """Return why the queue is paused and since when (seconds since 1970); None where it is not."""
        stored = self.get("paused")
        return (str(stored["reason"]), float(stored["since"])) if isinstance(stored, dict) else None

    def set_pause(self, reason: str | None, since: float = 0.0) -> None:
        """Keep why the queue is paused; None where it goes on."""
        self.set("paused", None if reason is None else {"reason": reason, "since": since})

    def begin_recovery(self, image_id: int) -> int:
        """Note that what was left of an image is about to be resolved, and return how often that was begun so far.

        Whoever counts it has not ended it: the next process sees what the last ones died of.
        """
        tries = self._recoveries()
        tries[str(image_id)] = tries.get(str(image_id), 0) + 1
        self.set(_RECOVERIES, tries)
        return tries[str(image_id)]

    def end_recoveries(self) -> None:
        """Note that all has been resolved that was left."""
        if self._recoveries():
            self.set(_RECOVERIES, None)

    def _recoveries(self) -> dict[str, int]:
        stored = self.get(_RECOVERIES)
        return dict(stored) if isinstance(stored, dict) else {}

    def expected(self, folder: str) -> str | None:
        """Return the name of a file, relative to a folder, that should lie there if it is the right one, if any."""
        if folder == "inbox":
            names = Image.select(Image.path).where((Image.status == "queued") & Image.path.is_null(False))
        elif folder in _PLACES:
            status = FINAL[_PLACES[folder]]
            names = Image.select(Image.destination).where((Image.status == status) & (Image.place == folder))
        else:
            return None
        with self._catalogue.reading():
            name: str | None = names.order_by(Image.id.desc()).limit(1).scalar()
        return name
