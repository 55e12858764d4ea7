"""What many tests need: photos made on the spot, folder trees as dictionaries, waiting for a condition."""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image

from daemon.app import Darkroom, build, prepare
from daemon.catalogue import Catalogue, ImageRow
from daemon.catalogue.history import History, sentence
from daemon.catalogue.search import ImageQuery, Search
from daemon.catalogue.settings import Settings
from daemon.config import Config, load
from daemon.decoding import DateTexts, Decoded, Element, Exif, Limits, Takeout
from daemon.decoding.sandbox import Sandbox
from daemon.decoding.takeout import read as read_takeout
from daemon.decoding.xmp import read as read_xmp
from daemon.errors import DarkroomError
from daemon.files.atomic import Root
from daemon.files.opening import Identity
from daemon.files.walk import walk
from daemon.filing.consumer import Consumer, Turn
from daemon.sidecar.xmp import Packet


class Texts:
    """Reads the texts that lie beside photos as the sandbox does, but in this process."""

    def read_xmp(self, content: bytes) -> list[Element]:
        """Return the properties of an XMP file."""
        return read_xmp(content)

    def read_takeout(self, content: bytes) -> Takeout:
        """Return what a JSON says."""
        return read_takeout(content)


def packet_of(content: bytes) -> Packet:
    """Return the packet in an XMP file."""
    return Packet.of(read_xmp(content))


def slow(*values: object) -> Any:
    """Return one set of a test's values that `.ci/run` alone tries."""
    return pytest.param(*values, marks=pytest.mark.slow)


def rest_slow(values: Iterable[Any], quick: int) -> list[Any]:
    """Return a test's values, all but the first `quick` as those that `.ci/run` alone tries."""
    values = list(values)
    return [*values[:quick], *map(slow, values[quick:])]


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


def has_photos(folder: Path) -> bool:
    """Return whether a folder has a JPEG that can be read; of links that lead nowhere there are only names."""
    return any(_begins_as_jpeg(path) for path in folder.rglob("*"))


def _begins_as_jpeg(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(2) == b"\xff\xd8"
    except OSError:
        return False


def tree(folder: Path) -> dict[str, bytes]:
    """Return all regular files below a folder, by their relative path."""
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
    """Stands for the decoders: raises the error set for a name, else returns a plausible `Decoded`."""

    def __init__(self) -> None:
        self.errors: dict[str, list[DarkroomError | Callable[[], None]]] = {}
        self.seen: list[str] = []
        # The names of files of a kind without a decoder.
        self.not_shown: set[str] = set()

    def decode(self, path: Path) -> Decoded:
        # It is named by its descriptor.
        name = os.readlink(path).rpartition("/")[2] if path.is_relative_to("/proc") else path.name
        self.seen.append(name)
        todo = self.errors.get(name, [])
        if todo:
            step = todo.pop(0)
            if isinstance(step, DarkroomError):
                raise step
            step()
        content, info = path.read_bytes(), path.stat()
        shown = name not in self.not_shown
        return Decoded(
            identity=Identity.of(info),
            sha256=hashlib.sha256(content).hexdigest(),
            format="JPEG",
            suffixes=(".jpg", ".jpeg"),
            width=4 if shown else None,
            height=3 if shown else None,
            exif=Exif(
                datetime_original="2024-05-01T12:34:56",
                camera_make="Canon",
                camera_model="Canon EOS 40D",
                dates=DateTexts(original="2024:05:01 12:34:56"),
            ),
            small=b"small" if shown else b"",
            medium=b"medium" if shown else b"",
            warning=None if shown else "has no thumbnail: nothing decodes it",
        )


@cache
def _empty_catalogue() -> bytes:
    """Make a new catalogue's file, once for all rooms: making the tables takes longer than most tests."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "darkroom.db"
        Catalogue(file).close()
        return file.read_bytes()


@cache
def _reader(process: int) -> Sandbox:
    """Return what reads texts for all rooms of a process: to start a decoder for each takes longer than most tests."""
    return Sandbox(Limits())


class Room:
    """One darkroom in one folder, driven turn by turn: nothing is started, and a `Script` stands for the decoders.

    Texts that lie beside photos are read in a decoder's process, as ever, but all rooms share it.
    Without `sidecars` none are written, whatever the configuration says: the trees are then the photos alone.
    """

    def __init__(self, base: Path, toml: str = "", environ: Mapping[str, str] = {}, *, sidecars: bool = False) -> None:
        base.mkdir(exist_ok=True)
        (base / "config.toml").write_text(toml)
        config = load(base / "config.toml", environ)
        if "decoders" not in toml:
            # One after the other, so that what comes of them is the same each time.
            config = config.model_copy(update={"limits": config.limits.model_copy(update={"decoders": 1})})
        if not sidecars:
            config = config.model_copy(update={"filing": config.filing.model_copy(update={"sidecars": False})})
        self.config: Config = config
        folders = config.folders
        self.inbox, self.library = folders.inbox, folders.library
        self.duplicates, self.failed, self.state = folders.duplicates, folders.failed, folders.state
        self.state.mkdir(exist_ok=True)
        database = self.state / "darkroom.db"
        if not database.exists():
            database.write_bytes(_empty_catalogue())
        self.catalogue = Catalogue(database)
        prepare(config, Settings(self.catalogue))
        self.decoder = Script()
        self._built: list[Darkroom] = []
        self.app = self.restarted()
        self.stored, self.queue, self.statistics = self.app.settings, self.app.queue, self.app.statistics
        self.filing, self.requeue, self.cleanup = self.app.filing, self.app.requeue, self.app.cleanup
        self.companions, self.sidecars, self.consumer = self.app.companions, self.app.sidecars, self.app.consumer
        self.captions, self.captioner, self.thumbnails = self.app.captions, self.app.captioner, self.app.thumbnails

    def restarted(self) -> Darkroom:
        """Join the parts anew, as the next process would."""
        app = build(self.config, self.catalogue, once=True)
        self._built.append(app)
        reader = _reader(os.getpid())
        setattr(app.sandbox, "decode", self.decoder.decode)  # noqa: B010
        setattr(app.sandbox, "read_xmp", reader.read_xmp)  # noqa: B010
        setattr(app.sandbox, "read_takeout", reader.read_takeout)  # noqa: B010
        app.cleanup.quiet_seconds = 0.0
        return app

    def close(self) -> None:
        """Let all go that the parts have started, and close the database."""
        for app in self._built:
            app.close()
        self.catalogue.close()

    def decode_with(self, decode: Callable[[Path], Decoded]) -> None:
        """Have something else stand for the decoders."""
        setattr(self.app.sandbox, "decode", decode)  # noqa: B010
        setattr(self.app.sandbox, "read_xmp", read_xmp)  # noqa: B010
        setattr(self.app.sandbox, "read_takeout", read_takeout)  # noqa: B010

    def new_consumer(self) -> Consumer:
        """Make a consumer as a new process would."""
        return self.restarted().consumer

    def put(self, name: str, content: bytes) -> Path:
        """Put a complete file into the inbox."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def scan(self) -> None:
        """Enqueue what lies in the inbox."""
        self.queue.enqueue(list(walk(Root(self.inbox), self.config.inbox.ignore, recursive=True)), time.time())

    def drain(self, now: float | None = None) -> list[Turn]:
        """Scan, and take turns until nothing is due."""
        # As its loop does, it keeps its connection over all turns.
        with self.catalogue.session():
            self.scan()
            turns = []
            while (turn := self.consumer.run_once(now or time.time())) not in {Turn.IDLE, Turn.PAUSED}:
                turns.append(turn)
            return [*turns, turn]

    def recover(self) -> None:
        """Do what start-up does after a crash."""
        self.new_consumer().recover()

    def images(self) -> list[ImageRow]:
        """Return all rows, oldest first."""
        return Search(self.catalogue).page(ImageQuery(), 1_000_000)[::-1]

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows as dictionaries, oldest first; `waiting` is the sentence."""
        return [_columns(row) for row in self.images()]

    def row(self) -> dict[str, Any]:
        """Return the only row."""
        [row] = self.rows()
        return row

    def row_of(self, name: str) -> dict[str, Any]:
        """Return the only row of a file that came under a name."""
        [row] = [row for row in self.rows() if row["original_name"] == name]
        return row

    def columns(self, image_id: int = 1) -> dict[str, Any]:
        """Return all columns of an image."""
        row = Search(self.catalogue).image(image_id)
        assert row is not None
        return _columns(row)

    def history(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Return an image's history in words."""
        events = History(self.catalogue).of(image_id)
        return [{"at": event.at, "event": event.kind.value, "detail": sentence(event)} for event in events]

    def kinds(self, image_id: int = 1) -> list[str]:
        """Return the kinds of an image's history."""
        return [event.kind.value for event in History(self.catalogue).of(image_id)]


def _columns(row: ImageRow) -> dict[str, Any]:
    keywords = None if row.keywords is None else list(row.keywords)
    return {**vars(row), "waiting": row.waiting_text, "keywords": keywords}


@contextmanager
def no_new_descriptors() -> Iterator[None]:
    """Hold a block to closing every descriptor that it opens."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before
