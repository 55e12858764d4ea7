"""The web over a core that is driven turn by turn, served on loopback by the real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support import Room
from tests.web.browser import chromium
from tests.web.serving import Served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    room = Room(tmp_path / "room")
    with Served(room) as made:
        yield made
    room.close()
