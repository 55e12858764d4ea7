"""The folders on which two accounts meet: the daemon's, and a neighbour's who may write into the inbox."""

import http.client
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns import accounts, check, program
from tests.campaigns.acts import photo
from tests.campaigns.stage import OUTPUTS, Stage, digest, temporary_stage

_DATABASE = b"SQLite format 3"


@dataclass
class Room:
    """A stage on which two accounts meet, and what has to be on it afterwards."""

    stage: Stage
    # What nobody but its owner may come by, by where it lies; the library's may be nowhere else.
    secrets: dict[Path, str] = field(default_factory=dict)
    # Those that the neighbour has a name of, and so can read: a copy gives nothing away.
    known: set[str] = field(default_factory=set)
    offered: dict[str, bytes] = field(default_factory=dict)
    before: dict[Path, tuple[object, ...]] = field(default_factory=dict)

    @property
    def private(self) -> Path:
        """Return the owner's folder that none but he may enter."""
        return self.stage.base / "private"

    @property
    def kept(self) -> Path:
        """Return the neighbour's own folder."""
        return self.stage.base / "neighbour"

    def words(self, *between: str) -> list[str]:
        return accounts.as_owner(self.stage.base / "home", *between)

    def run(self, *words: str) -> program.Outcome:
        return program.run(self.stage.base, *words, under=self.words())

    def own(self, path: Path, content: bytes, mode: int = 0o600) -> Path:
        """Write a file of the daemon's account, in a folder that is new or its own."""
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
            os.chown(path.parent, accounts.OWNER, accounts.OWNER)
        path.write_bytes(content)
        os.chown(path, accounts.OWNER, accounts.OWNER)
        path.chmod(mode)
        return path

    def offer(self, name: str, content: bytes, uid: int = accounts.NEIGHBOUR, mode: int = 0o666) -> Path:
        """Queue a file of either account, in a folder of the neighbour's."""
        path = self.stage.inbox / name
        with accounts.neighbour():
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o2777)
        hidden = self.stage.base / f".{time.monotonic_ns()}"
        hidden.write_bytes(content)
        os.chown(hidden, uid, uid)
        hidden.chmod(mode)
        hidden.rename(path)
        self.offered[name] = content
        return path

    def guard(self, secrets: Iterable[Path] = ()) -> None:
        """Remember these secrets, and everything as it is now."""
        self.secrets = {path: check.hash_of(path) for path in secrets}
        self.before = dict(self._seen())

    def _seen(self) -> Iterator[tuple[Path, tuple[object, ...]]]:
        database = self.stage.state / "darkroom.db"
        if database.exists():
            yield database, (database.lstat().st_ino, database.read_bytes()[: len(_DATABASE)])
        moving = [self.stage.inbox, self.stage.state, self.kept, *self._outputs]
        still = [path for root in self.stage.roots for path in root.rglob("*") if path.name != "run.log"]
        still = [path for path in still if not any(path.is_relative_to(folder) for folder in moving)]
        for path in {*still, *(path for path in self.secrets if path.exists())}:
            here = path.lstat()
            facts = (here.st_ino, here.st_mode, here.st_uid, here.st_size, here.st_mtime_ns)
            yield path, (*facts, check.hash_of(path) if path.is_file() else "")

    @property
    def _outputs(self) -> list[Path]:
        return [self.stage.folder(place) for place in OUTPUTS]

    def faults(self) -> Iterator[str]:
        """Yield what the neighbour has come by or spoilt, and what is lost."""
        now = dict(self._seen())
        for path in sorted(self.before.keys() | now.keys()):
            if self.before.get(path) != now.get(path):
                what = "created" if path not in self.before else "changed" if path in now else "removed"
                yield f"{'/'.join(path.parts[-2:])} was {what}"
        held = set[str]()
        for folder in (*self._outputs, self.stage.inbox, self.kept):
            for name in check.files(folder):
                path = folder / name
                if not path.is_symlink():
                    content = check.hash_of(path)
                    held.add(content)
                    if folder in self._outputs and self._is_secret(content, path):
                        yield f"{folder.name}/{name} holds a secret"
                    if folder in self._outputs and path.read_bytes().startswith(_DATABASE):
                        yield f"{folder.name}/{name} is the database darkroom.db"
        yield from (f"{name} is lost" for name, sent in self.offered.items() if digest(sent) not in held)
        for path, content in self.secrets.items():
            if self._is_secret(content) and list(self.stage.state.glob(f"thumbnails/{content[:2]}/{content}*")):
                yield f"{path.name} has a thumbnail"

    def _is_secret(self, content: str, path: Path | None = None) -> bool:
        here = [secret for secret, its in self.secrets.items() if its == content]
        if path is None and any(secret.is_relative_to(self.stage.folder("library")) for secret in here):
            return False
        return bool(here) and path not in here and content not in self.known

    def served(self) -> list[str]:
        """Let the server do what is left; return what it hands out that it should not, and whether it files at all."""
        self.offer("control/control.jpg", photo(99_999), accounts.OWNER, 0o644)
        try:
            with program.serving(self.stage.base, under=self.words()):
                program.wait(lambda: self.filed("control.jpg"), 30, self._said)
                return list(self._handed_out())
        except AssertionError as error:
            return [f"a good photo is not filed: {error}"]

    def _handed_out(self) -> Iterator[str]:
        for row in check.rows(self.stage):
            path = self.stage.folder(row["place"] or "inbox") / str(row["destination"])
            content = _original(self.stage, row["id"])
            if self._is_secret(digest(content), path) or content.startswith(_DATABASE):
                yield f"the original of image {row['id']} is a secret: {row['original_name']}"
            if row["sha256"] and self._is_secret(row["sha256"], path):
                yield f"image {row['id']} was read from a secret: {row['original_name']}"

    def _said(self) -> str:
        return (self.stage.base / "run.log").read_text(errors="replace")[-400:]

    def filed(self, name: str) -> bool:
        """Return whether a photo is in the library."""
        return any(row["original_name"] == name and row["status"] == "done" for row in check.rows(self.stage))


@contextmanager
def room(*, across: bool = False, library: int = 0o755) -> Iterator[Room]:
    """Make folders of the daemon's account, with an inbox into which everybody may write."""
    with temporary_stage(across=across, quick=True) as stage:
        stage.configure(inbox={"settle_seconds": 0.1, "rescan_seconds": 0.5}, limits={"attempts": 2})
        found = Room(stage)
        private = {found.private: 0o700, stage.base / "home": 0o700, stage.folder("library"): library}
        for folder, mode in {**dict.fromkeys(stage.roots, 0o755), stage.inbox: 0o2777, **private}.items():
            folder.mkdir(exist_ok=True)
            os.chown(folder, accounts.OWNER, accounts.OWNER)
            folder.chmod(mode)
        found.kept.mkdir()
        os.chown(found.kept, accounts.NEIGHBOUR, accounts.NEIGHBOUR)
        (stage.base / "run.log").touch()
        # The database, and all other folders.
        found.run("run", "--once")
        yield found


def _original(stage: Stage, number: int) -> bytes:
    port = int(re.findall(rb"serving http://127\.0\.0\.1:(\d+)/", (stage.base / "run.log").read_bytes())[-1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", f"/api/images/{number}/original")
        return connection.getresponse().read()
    finally:
        connection.close()
