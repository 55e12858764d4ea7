"""A room with sidecars, companions and a captioner, which are driven turn by turn like the rest."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.app import roots
from daemon.captions.captioner import Captioner
from daemon.captions.settings import CaptionSettings
from daemon.catalogue.captions import Captions
from daemon.catalogue.companions import CompanionRows, SidecarRows
from daemon.catalogue.schema import Companion, Image
from daemon.catalogue.settings import Settings
from daemon.filing.companions import CompanionFiling
from daemon.filing.filing import Filing
from daemon.filing.thumbnail_store import Thumbnails
from daemon.sidecar.sidecars import Sidecars
from tests.support import Room


class FullRoom(Room):
    """All of the core but the watcher, the child process and the web."""

    def __init__(
        self,
        base: Path,
        toml: str = "",
        settings: CaptionSettings | Callable[[], CaptionSettings] = CaptionSettings(),  # noqa: B008
    ) -> None:
        super().__init__(base, toml)
        config, stored = self.config, Settings(self.catalogue)
        self.stored = stored
        self.settings = settings
        self.captions = Captions(self.catalogue)
        self.thumbnails = Thumbnails(self.state / "thumbnails")
        self.sidecars = Sidecars(SidecarRows(self.catalogue), self.library, enabled=config.filing.sidecars)
        self.companion_rows = CompanionRows(self.catalogue)
        self.captioner = self.new_captioner()
        deletes = config.filing.duplicates == "delete"
        self.filing = Filing(
            self.queue,
            roots(config),
            config.filing.template,
            self.thumbnails,
            self.cleanup.note,
            delete_duplicates=deletes,
            sidecars=self.sidecars,
            beside=self.companion_rows,
            caption_status=lambda folder: self.captioner.status_for(folder),
        )
        self.companions = CompanionFiling(self.companion_rows, self.filing, roots(config), delete_duplicates=deletes)
        self.consumer = self.new_consumer(self.companions)

    def new_captioner(self, seconds: float = 5.0) -> Captioner:
        """Make a captioner as a new process would."""
        chosen = self.settings
        give = chosen if callable(chosen) else lambda: chosen
        return Captioner(self.captions, self.stored, self.thumbnails, self.sidecars, give, request_seconds=seconds)

    def caption(self, now: float | None = None) -> float:
        """Do one turn of the captioner; returns the wait."""
        return self.captioner.run_once(now or time.time())

    def columns(self, image_id: int = 1) -> dict[str, Any]:
        """Give all columns of an image."""
        with self.catalogue.reading():
            return dict(Image.get_by_id(image_id).__data__)

    def beside(self) -> dict[str, int]:
        """Give where companions were filed, and with which image."""
        with self.catalogue.reading():
            return {f"{row.place}/{row.destination}": row.image_id for row in Companion.select()}
