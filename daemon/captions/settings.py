"""What the captioner needs of the configuration, and the news when it changes on disk.

A dead key or a retired model pauses captions until somebody mends config.toml or `.env`; that must not take a restart.
"""

import hashlib
import logging
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from daemon import config as configuration
from daemon.config import Config
from daemon.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
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
        """Stand for what a refused request depends on, without showing the key."""
        told = "\0".join([self.key or "", self.base_url or "", self.model, self.prompt, self.language])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def is_private(self, folder: str) -> bool:
        """Tell whether photos of a subfolder of the inbox never leave the machine.

        A private folder named without a slash counts wherever it lies, and upper or lower case makes no difference:
        a photo too many stays here rather than one too few.
        """
        parts = _plain(folder).split("/")
        for private in map(_plain, self.private):
            wanted = private.split("/")
            if (len(wanted) == 1 and private in parts) or parts[: len(wanted)] == wanted:
                return True
        return False


def of(config: Config) -> Settings:
    """Take the captioner's part of a configuration."""
    section = config.captions
    return Settings(
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


class Live:
    """The settings as config.toml and `.env` have them now; read anew when either file has changed."""

    def __init__(self, config: Config) -> None:
        self._file = config.file
        self._settings = of(config)
        self._seen = self._look()

    def __call__(self) -> Settings:
        """Give the settings; a file that can't be used leaves them as they were."""
        look = self._look()
        if look != self._seen:
            self._seen = look
            try:
                self._settings = of(configuration.load(self._file if self._file.exists() else None))
            except ConfigError as error:
                _log.warning("captions go on with the settings as they were: %s", error)
        return self._settings

    def _look(self) -> tuple[object, ...]:
        return tuple(_stamp(path) for path in (self._file, self._file.with_name(".env")))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino


def _plain(folder: str) -> str:
    return unicodedata.normalize("NFC", folder).casefold().strip("/")
