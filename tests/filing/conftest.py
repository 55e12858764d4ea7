"""What tests of several modules of filing begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.captions.darkroom import FullRoom


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullRoom]:
    made = FullRoom(tmp_path / "room")
    yield made
    made.close()
