"""The settings follow config.toml and `.env`, and are never the defaults because a file is just being saved."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import config
from daemon.captions.settings import CaptionSettings, LiveSettings
from tests.captions.gemini_server import Gemini
from tests.program import Program
from tests.support import jpeg, wait_until

PRIVATE = "[captions]\nlanguage = 'Latin'\nprivate = ['Family']\n"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder without configuration, and without anybody's keys."""
    monkeypatch.chdir(tmp_path)
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files count as saved sooner."""
    monkeypatch.setattr("daemon.captions.settings._SAVING_SECONDS", 0.2)


def follow(live: LiveSettings, until: Callable[[CaptionSettings], object], meanwhile: CaptionSettings) -> None:
    """Ask for the settings until they are as wanted; before that they are `meanwhile`, at every look."""

    def reached() -> bool:
        settings = live()
        if until(settings):
            return True
        assert settings == meanwhile
        return False

    wait_until(reached, what="the settings")


@pytest.mark.usefixtures("soon")
def test_a_new_key_is_noticed_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    live = LiveSettings(config.load(file))
    before = live()
    assert before.key is None
    (tmp_path / ".env").write_text("GEMINI_API_KEY=one\nGOOGLE_GEMINI_BASE_URL=http://127.0.0.1:1\n")
    follow(live, lambda now: (now.key, now.base_url) == ("one", "http://127.0.0.1:1"), before)
    assert live().fingerprint != before.fingerprint
    with_key = live()
    file.write_text("[captions]\nmodel = 3\n")
    follow(live, lambda _: "[captions] model" in caplog.text, with_key)
    assert [live() for _ in range(100)] == [with_key] * 100
    assert len(caplog.records) == 1, "it is said once"
    file.write_text("[captions]\nmodel = 'other'\n")
    follow(live, lambda now: now.model == "other", with_key)
    assert "one" not in repr(live())


@pytest.mark.usefixtures("soon")
def test_a_configuration_that_is_gone_leaves_the_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.toml"
    file.write_text(PRIVATE)
    live = LiveSettings(config.load(file))
    before = live()
    assert before.private == ("Family",)
    file.rename(tmp_path / "config.toml~")
    follow(live, lambda _: "config.toml is missing; put it back" in caplog.text, before)
    (tmp_path / ".env").write_text("GEMINI_API_KEY=one\n")
    (tmp_path / "config.toml~").rename(file)
    follow(live, lambda now: now.key == "one", before)
    assert live().private == ("Family",)
    file.write_text("")
    follow(live, lambda _: "config.toml is empty; put it back" in caplog.text, live())
    file.write_text("[captions]\nprivate = ['Docs']\n")
    follow(live, lambda now: now.private == ("Docs",), live())
    file.unlink()
    follow(live, lambda _: caplog.text.count("config.toml is missing") == 2, live())
    assert [live().private for _ in range(100)] == [("Docs",)] * 100
    assert len(caplog.records) == 3, "once for each time"


@pytest.mark.usefixtures("soon")
def test_a_configuration_that_came_later_and_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = LiveSettings(config.load())
    (tmp_path / "config.toml").write_text(PRIVATE)
    follow(live, lambda now: now.private, live())
    before = live()
    (tmp_path / "config.toml").unlink()
    follow(live, lambda _: "config.toml is missing" in caplog.text, before)


def test_settings_while_the_files_are_saved(tmp_path: Path) -> None:
    file, secrets = tmp_path / "config.toml", tmp_path / ".env"
    file.write_text(PRIVATE)
    secrets.write_text("GEMINI_API_KEY=one\n")
    live = LiveSettings(config.load(file))
    before, ending = live(), threading.Event()
    answers: set[CaptionSettings] = set()

    def ask() -> None:
        while not ending.wait(0.001):
            answers.add(live())

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        # Emptied and written in pieces; then replaced by way of no file at all.
        for path, text in ((file, PRIVATE), (secrets, "GEMINI_API_KEY=one\n")):
            with path.open("w") as saving:
                ending.wait(0.05)
                for line in text.splitlines(keepends=True):
                    saving.write(line)
                    saving.flush()
                    ending.wait(0.05)
            path.rename(tmp_path / "old")
            ending.wait(0.05)
            path.write_text(text)
    ending.set()
    for thread in threads:
        thread.join()
    assert answers == {before}


@pytest.mark.usefixtures("soon")
def test_without_a_configuration_the_key_comes_and_goes(tmp_path: Path) -> None:
    secrets = tmp_path / ".env"
    live = LiveSettings(config.load())
    without = live()
    secrets.write_text("GEMINI_API_KEY=one\n")
    follow(live, lambda now: now.key == "one", without)
    with_key = live()
    secrets.unlink()
    assert live() == with_key, "an editor may be replacing it"
    follow(live, lambda now: now == without, with_key)


@pytest.mark.usefixtures("soon")
def test_a_file_that_can_not_be_examined_leaves_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secrets = tmp_path / ".env"
    secrets.write_text("GEMINI_API_KEY=one\n")
    live = LiveSettings(config.load())
    before = live()
    assert before.key == "one"
    secrets.unlink()
    secrets.symlink_to(secrets)
    follow(live, lambda _: ".env can't be examined: Too many levels of symbolic links" in caplog.text, before)
    assert [live() for _ in range(100)] == [before] * 100
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_photos_of_private_folders_stay_here_whatever_becomes_of_the_configuration(tmp_path: Path) -> None:
    toml = "[captions]\nprivate = ['Family']\n[inbox]\nsettle_seconds = 0.05\n"
    with (
        Gemini() as server,
        Program(tmp_path / "p", toml, GEMINI_API_KEY="k", GOOGLE_GEMINI_BASE_URL=server.url) as program,
    ):
        (program.base / "config.toml").unlink()
        for number, name in enumerate(("Family/a.jpg", "b.jpg")):
            (program.base / "inbox" / name).parent.mkdir(exist_ok=True)
            (program.base / "inbox" / name).write_bytes(jpeg(seed=number))
        wait_until(lambda: len(program.query("SELECT 1 FROM image WHERE caption_status IN ('done', 'private')")) == 2)
        statuses = program.query("SELECT original_name, caption_status FROM image ORDER BY original_name")
        assert statuses == [("a.jpg", "private"), ("b.jpg", "done")]
        assert len(server.asked) == 1
        wait_until(lambda: "config.toml is missing" in program.log(), what="the warning")
