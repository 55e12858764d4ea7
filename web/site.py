"""What the web needs of the program, as the service hands it over; nothing here reaches back into the service."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from daemon.catalogue import Catalogue, Place, Queue
from daemon.catalogue.captions import Captions
from daemon.thumbnails import Thumbnails

# What looks like an absolute path once the known folders are replaced: a mount point, a device.
_ABSOLUTE = re.compile(r"(?<![\w./])/[^\s:,;'\"()]+")


@dataclass(frozen=True)
class Health:
    """How one part is: `detail` says in what way, for people."""

    ok: bool
    detail: str


@dataclass(frozen=True)
class Site:
    """The parts behind the web; sizes are in bytes.

    `health` looks at the watcher, the consumer and the captioner. `retry` queues a failed image again and raises
    Rejected where that can't be. `captions_line` says how far the captions are and when they will be done.
    """

    catalogue: Catalogue
    queue: Queue
    captions: Captions
    thumbnails: Thumbnails
    inbox: Path
    roots: Mapping[Place, Path]
    ignore: tuple[str, ...]
    upload_bytes: int
    min_free_bytes: int
    health: Callable[[], Mapping[str, Health]]
    retry: Callable[[int], None]
    captions_line: Callable[[], str]

    def folders(self) -> dict[str, Path]:
        """Give all folders that hold photos, by name."""
        return {"inbox": self.inbox} | {str(name): path for name, path in self.roots.items()}

    def scrub(self, text: str) -> str:
        """Take the paths of this machine's disk out of a message."""
        for name, path in sorted(self.folders().items(), key=lambda item: -len(str(item[1]))):
            text = text.replace(str(path), name)
        return _ABSOLUTE.sub("…", text)


@dataclass(frozen=True)
class Access:
    """Who may call: hosts beyond the ones listened on, origins of other pages, the token if one is set."""

    host: str
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    token: str | None = None
