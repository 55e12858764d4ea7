"""What the captioner needs of the configuration, and the news when it changes on disk.

A dead key or a retired model pauses captions until somebody fixes config.toml or `.env`; that must not take a restart.
"""

import hashlib
import logging
import threading
import time
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from daemon import config as configuration
from daemon.catalogue.schema import CaptionStatus
from daemon.config import Config
from daemon.errors import ConfigError

_log = logging.getLogger(__name__)

# An editor that empties a file and writes it anew, or replaces it, is done within this time.
_SAVING_SECONDS = 1.0

# How a file looks: when it was changed, its size and its inode; why it can't be examined; None where it is missing.
Stamp = tuple[int, int, int] | str | None


@dataclass(frozen=True)
class CaptionSettings:
    """The captioner's part of the configuration; without a `key` captions are off."""

    key: str | None = field(default=None, repr=False)
    base_url: str | None = None
    model: str = "gemini-flash-lite-latest"
    language: str = "English"
    prompt: str = ""
    facts: bool = False
    requests_per_minute: int = 15
    requests_per_day: int = 1000
    private: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Return a hash of what a refused request depends on, which doesn't show the key."""
        what = "\0".join([self.key or "", self.base_url or "", self.model, self.prompt, self.language])
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    def is_private(self, folder: str) -> bool:
        """Return whether photos of a subfolder of the inbox never leave the machine.

        A private folder named without a slash counts wherever it lies, and upper or lower case makes no difference:
        a photo too many stays here rather than one too few.
        """
        parts = _plain(folder).split("/")
        for private in map(_plain, self.private):
            wanted = private.split("/")
            if (len(wanted) == 1 and private in parts) or parts[: len(wanted)] == wanted:
                return True
        return False


def caption_settings(config: Config) -> CaptionSettings:
    """Return the captioner's part of a configuration."""
    section = config.captions
    return CaptionSettings(
        key=config.gemini_key.get_secret_value() if config.gemini_key else None,
        base_url=config.gemini_base_url,
        model=section.model,
        language=section.language,
        prompt=section.prompt,
        facts=section.facts,
        requests_per_minute=section.requests_per_minute,
        requests_per_day=section.requests_per_day,
        private=section.private,
    )


class LiveSettings:
    """The settings as config.toml and `.env` have them; a change counts once both have looked the same for a second.

    A file that is just being saved is missing, empty or cut short for a moment. Read then it would give defaults, and
    photos of `private` folders would leave the machine.
    """

    def __init__(self, config: Config) -> None:
        self._file = config.file
        self._settings = caption_settings(config)
        self._lock = threading.Lock()
        # How the files looked when the settings were read, when they were last decided on, and last of all.
        self._used = self._decided = self._seen = self._look()
        self._since = time.monotonic()
        self._is_gone = False

    def status_for(self, folder: str) -> CaptionStatus:
        """Return the caption status with which a photo of a subfolder of the inbox is filed."""
        settings = self()
        if settings.is_private(folder):
            return "private"
        return "pending" if settings.key else "off"

    def __call__(self) -> CaptionSettings:
        """Return the settings; files that can't be used, or a config.toml that is gone, leave them as they were."""
        # While one thread looks, the others take what is known: on a share a look may take long.
        if self._lock.acquire(blocking=False):
            try:
                self._follow(self._look(), time.monotonic())
            finally:
                self._lock.release()
        return self._settings

    def _follow(self, look: tuple[Stamp, Stamp], now: float) -> None:
        if look != self._seen:
            self._seen, self._since = look, now
        elif look != self._decided and now - self._since >= _SAVING_SECONDS:
            self._decided = look
            self._decide(look)

    def _decide(self, look: tuple[Stamp, Stamp]) -> None:
        """Take over the files as they look now, or say why not."""
        was_gone, self._is_gone = self._is_gone, _holds(look[0]) < _holds(self._used[0])
        if self._is_gone:
            if not was_gone:
                what = "is missing" if look[0] is None else "is empty"
                _log.warning(
                    "captions go on with the settings as they were: %s %s; put it back, or start darkroom anew to go on"
                    " without it",
                    self._file,
                    what,
                )
            return
        if look == self._used:
            return
        try:
            for stamp in look:
                if isinstance(stamp, str):
                    raise ConfigError(stamp)
            settings = caption_settings(configuration.load(None if look[0] is None else self._file))
        except (ConfigError, OSError) as error:
            _log.warning("captions go on with the settings as they were: %s", error)
            return
        if self._look() == look:
            self._settings, self._used = settings, look
        else:  # changed while it was read: that may have been half of it
            self._decided = self._used

    def _look(self) -> tuple[Stamp, Stamp]:
        return _stamp(self._file), _stamp(self._file.with_name(".env"))


def _stamp(path: Path) -> Stamp:
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{path} can't be examined: {error.strerror}"
    return info.st_mtime_ns, info.st_size, info.st_ino


def _holds(stamp: Stamp) -> int:
    """Return what a file holds: 0 it is missing, 1 nothing, 2 something."""
    if stamp is None:
        return 0
    return 1 if isinstance(stamp, tuple) and stamp[1] == 0 else 2


def _plain(folder: str) -> str:
    return unicodedata.normalize("NFC", folder).casefold().strip("/")
