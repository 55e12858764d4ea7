"""A room with sidecars and a captioner that has a key, driven turn by turn like the rest."""

import time
from pathlib import Path

from daemon.app import Darkroom
from daemon.captions.captioner import Captioner
from daemon.captions.settings import CaptionSettings
from daemon.catalogue.companions import CompanionRows
from daemon.catalogue.schema import Companion
from tests.support import Room


class FullRoom(Room):
    """A room whose configuration writes sidecars, with the captions' settings given."""

    def __init__(self, base: Path, toml: str = "", settings: CaptionSettings | None = None) -> None:
        self._given = settings
        super().__init__(base, toml, sidecars=True)
        self.companion_rows = CompanionRows(self.catalogue)
        self.captioner = self.new_captioner()

    @property
    def settings(self) -> CaptionSettings:
        """Return the captions' settings as they are now."""
        return self.app.caption_settings()

    @settings.setter
    def settings(self, settings: CaptionSettings) -> None:
        setattr(self.app.caption_settings, "_settings", settings)  # noqa: B010

    def restarted(self) -> Darkroom:
        """Join the parts anew, as the next process would."""
        app = super().restarted()
        if self._given is not None:
            setattr(app.caption_settings, "_settings", self._given)  # noqa: B010
        return app

    def new_captioner(self, seconds: float = 5.0) -> Captioner:
        """Make a captioner as a new process would."""
        return Captioner(
            self.captions,
            self.stored,
            lambda sha256: self.thumbnails.path(sha256, "medium").read_bytes(),
            self.sidecars,
            self.app.caption_settings,
            request_seconds=seconds,
        )

    def caption(self, now: float | None = None) -> float:
        """Do one turn of the captioner; returns the wait."""
        return self.captioner.run_once(now or time.time())

    def beside(self) -> dict[str, int]:
        """Return where companions were filed, and with which image."""
        with self.catalogue.reading():
            return {f"{row.place}/{row.destination}": row.image_id for row in Companion.select()}
