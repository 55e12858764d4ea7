import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from daemon import config
from daemon.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "config.toml"


def write(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def test_nothing_needs_to_be_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = config.load(None, {})
    assert loaded.folders.inbox == tmp_path / "inbox"
    assert loaded.gemini_key is None


def test_the_shipped_file_states_every_key_with_its_default(tmp_path: Path) -> None:
    shipped = tomllib.loads(SHIPPED.read_text())
    assert {section: set(keys) for section, keys in shipped.items()} == {
        name: set(type(getattr(config.load(write(tmp_path, ""), {}), name)).model_fields)
        for name in config._File.model_fields
    }
    assert config.load(write(tmp_path, SHIPPED.read_text()), {}) == config.load(write(tmp_path, ""), {})


def test_every_key_of_the_shipped_file_has_a_comment() -> None:
    lines = SHIPPED.read_text().splitlines()
    for before, line in pairwise(lines):
        if re.match(r"\w+ = ", line) and not re.match(r"\w+ = ", before):
            assert before.startswith("#"), line


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    text = """
        [folders]
        library = "inbox/library"
        [inbox]
        settle_secs = 1
        observer = "guess"
        rescan_seconds = "often"
        [filing]
        template = "{nme}"
        [limts]
    """
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), {})
    message = str(caught.value)
    for part in (
        "5 faults",
        "did you mean settle_seconds",
        "observer",
        "rescan_seconds",
        "{nme}",
        "did you mean limits",
    ):
        assert part in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ('library = "inbox/library"', "", "library lies inside inbox"),
        ('inbox = "library/inbox"', "", "inbox lies inside library"),
        ('failed = "duplicates"', "", "are the same folder"),
        ('state = "."', "", "lies inside state"),
    ],
)
def test_folders_in_each_other(tmp_path: Path, one: str, two: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config.load(write(tmp_path, f"[folders]\n{one}\n{two}"), {})


def test_nesting_can_not_hide_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "inbox")
    with pytest.raises(ConfigError, match="inside inbox"):
        config.load(write(tmp_path, '[folders]\nlibrary = "elsewhere/library"'), {})


@pytest.mark.parametrize("text", ["= 1", "[folders]\ninbox = 3", "\0", "[inbox]\nsettle_seconds = -1"])
def test_what_is_no_configuration_is_a_config_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        config.load(write(tmp_path, text), {})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "none.toml", {})


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey"])
def test_secrets_come_from_dotenv_and_the_environment_goes_first(tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text(f"{name}=from-file\nDARKROOM_TOKEN=token\n")
    loaded = config.load(write(tmp_path, ""), {})
    assert loaded.gemini_key is not None
    assert loaded.token is not None
    assert loaded.gemini_key.get_secret_value() == "from-file"
    assert "from-file" not in repr(loaded)
    other = config.load(write(tmp_path, ""), {name: "from-environment"})
    assert other.gemini_key is not None
    assert other.gemini_key.get_secret_value() == "from-environment"
    assert os.environ.get("DARKROOM_TOKEN") is None
