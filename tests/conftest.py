"""Fixtures that every test may use; the tests make their own images, and a corpus is used only where given."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--corpus", type=Path, default=None, help="a folder of real photos to try things on")


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> Path:
    folder: Path | None = request.config.getoption("--corpus")
    if folder is None:
        pytest.skip("needs --corpus DIR")
    return folder.resolve()
