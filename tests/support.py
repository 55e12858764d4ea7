"""What many tests need: photos made on the spot, folder trees as dictionaries, waiting for a condition."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from daemon.app import prepare, roots
from daemon.catalogue import Catalogue, Queue
from daemon.catalogue.settings import Settings
from daemon.catalogue.stats import Statistics
from daemon.config import Config, load
from daemon.decoding import Decoded, Exif
from daemon.errors import DarkroomError
from daemon.files.mounts import FolderCheck
from daemon.files.opening import Identity
from daemon.files.walk import walk
from daemon.filing.cleanup import Cleanup
from daemon.filing.companions import CompanionFiling
from daemon.filing.consumer import Consumer, RetryPolicy, Turn
from daemon.filing.filing import Filing
from daemon.filing.recovery import Requeue
from daemon.filing.thumbnail_store import Thumbnails


def jpeg(size: tuple[int, int] = (64, 48), seed: int = 0, taken: str | None = None) -> bytes:
    """Make a JPEG whose bytes differ by `seed`; `taken` is an EXIF date ("2024:05:01 12:34:56")."""
    image = Image.effect_noise(size, 30 + seed % 100).convert("RGB")
    image.putpixel((0, 0), (seed % 256, seed // 256 % 256, seed // 65536 % 256))
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, exif=exif, comment=f"photo {seed}".encode())
    return out.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """Give all regular files below a folder, by their relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def wait_until(condition: Callable[[], object], seconds: float = 20.0, what: str = "the condition") -> None:
    """Wait until something is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.01)


class Script:
    """A developer that reads the file and does as it is told: an error by name, else a plausible `Developed`."""

    def __init__(self) -> None:
        self.errors: dict[str, list[DarkroomError | Callable[[], None]]] = {}
        self.seen: list[str] = []

    def decode(self, path: Path) -> Decoded:
        self.seen.append(path.name)
        todo = self.errors.get(path.name, [])
        if todo:
            step = todo.pop(0)
            if isinstance(step, DarkroomError):
                raise step
            step()
        content, info = path.read_bytes(), path.stat()
        return Decoded(
            identity=Identity.of(info),
            sha256=hashlib.sha256(content).hexdigest(),
            format="JPEG",
            suffixes=(".jpg", ".jpeg"),
            width=4,
            height=3,
            exif=Exif(datetime_original="2024-05-01T12:34:56", camera_make="Canon", camera_model="Canon EOS 40D"),
            small=b"small",
            medium=b"medium",
        )


@cache
def _empty_catalogue() -> bytes:
    """Make a new catalogue's file, once for all rooms: the migrations take longer than most tests."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "darkroom.db"
        Catalogue(file).close()
        return file.read_bytes()


class Room:
    """The core in one folder: everything but the watcher, the child process and the web, driven turn by turn."""

    def __init__(self, base: Path, toml: str = "") -> None:
        base.mkdir(exist_ok=True)
        (base / "config.toml").write_text(toml)
        self.config: Config = load(base / "config.toml", {})
        folders = self.config.folders
        self.inbox, self.library = folders.inbox, folders.library
        self.duplicates, self.failed, self.state = folders.duplicates, folders.failed, folders.state
        self.state.mkdir(exist_ok=True)
        database = self.state / "darkroom.db"
        if not database.exists():
            database.write_bytes(_empty_catalogue())
        self.catalogue = Catalogue(database)
        prepare(self.config, Settings(self.catalogue))
        self.queue, self.statistics, self.decoder = Queue(self.catalogue), Statistics(self.catalogue), Script()
        self.cleanup = Cleanup(self.inbox, 0.0)
        self.filing = Filing(
            self.queue,
            roots(self.config),
            self.config.filing.template,
            Thumbnails(self.state / "thumbnails"),
            self.cleanup.note,
            delete_duplicates=self.config.filing.duplicates == "delete",
        )
        self.requeue = Requeue(self.queue, self.inbox, roots(self.config), self.state)
        self.consumer = self.new_consumer()

    def new_consumer(self, companions: CompanionFiling | None = None) -> Consumer:
        """Make a consumer as a new process would."""
        stored, limits = Settings(self.catalogue), self.config.limits
        return Consumer(
            self.inbox,
            self.catalogue,
            self.queue,
            FolderCheck(dict(self.config.folders.items()), stored, stored.expected, limits.min_free_mb),
            self.decoder,
            self.filing,
            self.cleanup,
            RetryPolicy(self.config.inbox.settle_seconds, limits.attempts),
            self.requeue,
            companions,
        )

    def put(self, name: str, content: bytes) -> Path:
        """Put a complete file into the inbox."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def scan(self) -> None:
        """Enqueue what lies in the inbox."""
        self.queue.enqueue(list(walk(self.inbox, self.config.inbox.ignore, recursive=True)), time.time())

    def drain(self, now: float | None = None) -> list[Turn]:
        """Scan, and take turns until nothing is due."""
        self.scan()
        turns = []
        while (turn := self.consumer.run_once(now or time.time())) not in {Turn.IDLE, Turn.PAUSED}:
            turns.append(turn)
        return [*turns, turn]

    def recover(self) -> None:
        """Do what start-up does after a crash."""
        self.new_consumer().recover()

    def rows(self) -> list[dict[str, object]]:
        """Give all rows, oldest first."""
        return list(self.statistics.images(None, None, 1_000_000))[::-1]

    def row(self) -> dict[str, object]:
        """Give the only row."""
        [row] = self.rows()
        return row

    def row_of(self, name: str) -> dict[str, object]:
        """Give the only row of a file that came under a name."""
        [row] = [row for row in self.rows() if row["original_name"] == name]
        return row

    def kinds(self, image_id: int = 1) -> list[str]:
        """Give the kinds of an image's history."""
        return [str(event["event"]) for event in self.statistics.history(image_id)]


@contextmanager
def no_new_descriptors() -> Iterator[None]:
    """Hold a block to closing every descriptor that it opens."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before
