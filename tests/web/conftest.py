"""The web over a core that is driven turn by turn, served on loopback by the real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Room
from tests.web.serving import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    room = Room(tmp_path / "room")
    with Served(room) as made:
        yield made
    room.close()
