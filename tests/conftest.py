"""Fixtures that every test may use; the tests make their own images, and a corpus is used only where given."""

import compileall
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import Room, has_photos

# Begun last, one of these would keep a worker busy after all others have ended.
_LONG = (
    *(
        "test_bulk.py",
        "test_rebuild.py",
        "test_campaigns_short.py",
        "test_openapi.py",
        "test_queue_machine.py",
        "test_faults.py",
    ),
    *(
        "test_blame.py",
        "test_renames.py",
        "test_program.py",
        "test_service.py",
        "test_notify.py",
        "test_settings.py",
        "test_command_line.py",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONG)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--corpus", type=Path, default=None, help="a folder of real photos to try things on")
    parser.addoption("--update-texts", action="store_true", help="write texts.txt anew, to be read")
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed (but for the corpus)")


def pytest_xdist_auto_num_workers() -> int:
    # More than processors: much of the time goes into waiting, for a disk, for a timer that is being tried out.
    return (len(os.sched_getaffinity(0)) * 3 + 1) // 2


def pytest_configure(config: pytest.Config) -> None:
    folder: Path | None = config.getoption("--corpus")
    if folder is not None:
        if not has_photos(folder):
            raise pytest.UsageError(f"--corpus {folder}: there are no photos in it that can be read")
        config.option.corpus = folder.resolve()
    # Else, where Python is told to write no bytecode, each program that a test starts compiles all of it anew.
    if not hasattr(config, "workerinput"):
        for part in ("daemon", "web"):
            compileall.compile_dir(Path(__file__).parent.parent / part, quiet=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    no_corpus = "corpus" in getattr(item, "fixturenames", ()) and item.config.getoption("--corpus") is None
    if report.skipped and item.config.getoption("--no-skips") and not no_corpus:
        report.outcome = "failed"
    return report


@pytest.fixture
def corpus(request: pytest.FixtureRequest) -> Path:
    folder: Path | None = request.config.getoption("--corpus")
    if folder is None:
        pytest.skip("needs --corpus DIR")
    return folder


@pytest.fixture(autouse=True)
def working_folder() -> Iterator[None]:
    """Hold that a test leaves the working folder as it was: what is relative leads elsewhere in those after it."""
    before = os.getcwd()
    yield
    assert os.getcwd() == before


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "room")
    yield made
    made.close()
