"""A server on loopback in a thread, over the folders of a Room."""

import io
import socket
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx2
from PIL import Image

from daemon.captions.settings import CaptionSettings
from daemon.commands.run import web_context
from daemon.health import PartHealth
from tests.support import Room
from web.app import App, Server, bind, url
from web.context import AccessRules

WELL = {"watcher": PartHealth(ok=True, detail="events"), "captioner": PartHealth(ok=True, detail="on")}


class Served:
    """The web of one Room; `http` is a client, `health`, `captions_on` and `private` what the parts behind it say."""

    def __init__(self, room: Room, *, host: str = "127.0.0.1", upload_bytes: int = 5_000_000, **access: Any) -> None:
        self.room = room
        self.health: Mapping[str, PartHealth] = WELL
        self.captions_on = True
        self.private: tuple[str, ...] = ()
        self.context = replace(
            web_context(room.app),
            upload_bytes=upload_bytes,
            min_free_bytes=0,
            health=lambda: self.health,
            captions_on=lambda: self.captions_on,
            is_private=lambda folder: CaptionSettings(private=self.private).is_private(folder),
        )
        self.access = AccessRules(host, **access)

    def __enter__(self) -> "Served":
        self.start()
        self.http = httpx2.Client(base_url=self.url, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.stop()

    def start(self, port: int = 0) -> None:
        """Serve, at any port that is free or at this one."""
        self.listener = bind(self.access, port)
        self.app = App(self.context, self.access)
        self.server = Server(self.app, self.listener)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.url = url(self.listener).rstrip("/")
        self.port = self.listener.getsockname()[1]

    def stop(self) -> None:
        """End the server; fails where it does not end within seconds."""
        self.server.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.listener.close()

    def upload(self, name: str, content: bytes) -> int:
        """Upload one photo that is new; returns its id."""
        answer = self.http.post("/api/images", files={"file": (name, content)})
        assert answer.status_code == 202, answer.text
        return int(answer.json()["data"]["image_id"])

    def raw(self, request: bytes) -> bytes:
        """Send bytes that no client library would; returns the status line."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as client:
            client.sendall(request)
            return client.recv(4096).split(b"\r\n")[0]

    def sql(self, statement: str) -> None:
        """Do to the database what the program itself never does."""
        with closing(sqlite3.connect(self.room.state / "darkroom.db")) as database, database:
            database.execute(statement)

    def left_behind(self) -> list[str]:
        """List all that lies in the inbox, hidden or not."""
        return sorted(entry.name for entry in self.room.inbox.iterdir())


def picture(kind: str, seed: int = 0) -> bytes:
    """Make a small picture of a format."""
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (seed % 256, seed // 256, 99)).save(out, kind)
    return out.getvalue()


def photo(seed: int = 0) -> bytes:
    """Make a JPEG whose bytes follow from `seed` alone."""
    return picture("JPEG", seed) + f"{seed}".encode()
