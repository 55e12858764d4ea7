import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from daemon import config
from daemon.errors import ConfigError
from tests.program import darkroom

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
        "6 faults",
        "library lies inside inbox",
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


def faults(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(folder, text), environ)
    message = str(caught.value)
    assert len(message) < 1000, "a message is for people, and quotes no more than they read"
    return message


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nosuchuser/x", "~nosuchuser/x can't be used: there is no home folder ~nosuchuser"),
        ("loop", "loop can't be used: Too many levels of symbolic links"),
        ("loop/x", "loop/x can't be used: Too many levels of symbolic links"),
        ("missing/../loop/x", "missing/../loop/x can't be used: Too many levels of symbolic links"),
        ("a" * 300, "can't be used: File name too long"),
        ("a/" * 5000, "can't be used: File name too long"),
        (r"a\u0000b", r"holds a NUL character, which no text here may: 'a\x00b'"),
        (r"~\u0000", "holds a NUL character"),
    ],
)
@pytest.mark.parametrize("key", ["inbox", "state"])
def test_a_folder_that_can_not_be_is_a_fault_of_its_key(tmp_path: Path, key: str, path: str, words: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    message = faults(tmp_path, f'[folders]\n{key} = "{path}"')
    assert message.splitlines()[0].endswith("config.toml: one fault")
    assert message.splitlines()[1].startswith(f"  [folders] {key}: ")
    assert words in message


def test_every_kind_of_fault_is_in_the_one_message_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / ".env").mkdir()
    text = r"""
        [folders]
        inbox = "~nosuchuser/x"
        library = "loop/x"
        duplicates = "failed/again"
        [filing]
        template = "{nme}"
        [hooks]
        command = ["notify", "\u0000"]
    """
    write(tmp_path, text)
    refused = darkroom(tmp_path, "status")
    assert (refused.returncode, refused.stdout) == (2, "")
    first, *lines = refused.stderr.splitlines()
    assert first == "darkroom: config.toml: 5 faults"
    starts = [
        "  [hooks] command.1: holds a NUL",
        "  [filing] template: unknown field {nme}",
        "  [folders] inbox: ~nosuchuser/x can't be used",
        "  [folders] library: loop/x can't be used",
        "  [folders] duplicates lies inside failed: ",
        ".env: can't be read: Is a directory",
    ]
    assert len(lines) == len(starts), refused.stderr
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


def test_a_nul_is_found_wherever_it_stands(tmp_path: Path) -> None:
    texts = {
        "folders": "failed",
        "filing": "template",
        "captions": "model language prompt",
        "web": "host",
        "hooks": "url",
    }
    lists = {"inbox": "ignore", "captions": "private", "web": "allowed_hosts cors_origins", "hooks": "command"}
    document = [r'unknown = {deep = [{deeper = "\u0000"}]}']
    wanted = ["[unknown] deep.0.deeper"]
    for section in dict.fromkeys([*texts, *lists]):
        document.append(f"[{section}]")
        for key in texts.get(section, "").split():
            document.append(rf'{key} = "a\u0000"')
            wanted.append(f"[{section}] {key}")
        for key in lists.get(section, "").split():
            document.append(rf'{key} = ["a", "\u0000"]')
            wanted.append(f"[{section}] {key}.1")
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, "\n".join(document)), {})
    lines = str(caught.value).splitlines()
    for where in wanted:
        assert [line for line in lines if line.startswith(f"  {where}: holds a NUL")], where
        assert len([line for line in lines if line.startswith(f"  {where}: ")]) == 1, where


def test_a_key_with_a_nul_or_a_line_end_is_shown_on_one_line(tmp_path: Path) -> None:
    message = faults(tmp_path, '"a\\nb" = 1\n[folders]\n"c\\u0000d" = 1')
    assert message.splitlines()[1:] == ["  [folders] c\\x00d: unknown key", "  [a\\nb]: unknown key"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[web]\nport = " + "9" * 5000, "thousands of digits"),
        ("[web]\nport = 0x" + "f" * 5000, "[web] port: should be less than or equal to 65535"),
        ("x = " + "[" * 5000, "lie in each other"),
        ("folders.inbox." + "a." * 5000 + "b = 1", "[folders] inbox"),
        ("a." * 5000 + r'b = "\u0000"', "holds a NUL"),
        ('[limits]\nfile_mb = "' + "x" * 5000 + '"', "[limits] file_mb: should be a valid integer"),
        ("[folders]\n" + "x" * 5000 + " = 1", "unknown key"),
        ('[filing]\ntemplate = "{' + "x" * 5000 + '}"', "[filing] template: unknown field"),
    ],
)
@pytest.mark.slow
def test_what_is_endless_is_a_fault_like_any_other(tmp_path: Path, text: str, words: str) -> None:
    assert words in faults(tmp_path, text)


def test_an_address_is_one_that_can_be_called(tmp_path: Path) -> None:
    for good in ("http://[::1]:8123/x?y=1", "https://me:pass@b\u00fccher.example/", ""):
        assert config.load(write(tmp_path, f'[hooks]\nurl = "{good}"'), {}).hooks.url == good
    for host in (
        "[::1",
        "[x]",
        "127.0.0.1:b",
        "127.0.0.1:99999",
        "a..b",
        "a" * 64 + ".org",
        "a b",
        "a/b c",
        "a/\u00fc",
    ):
        wrong = f"http://{host}/"
        assert "[hooks] url: should be an address such as" in faults(tmp_path, f'[hooks]\nurl = "{wrong}"')
        message = faults(tmp_path, "", GOOGLE_GEMINI_BASE_URL=wrong)
        assert message.startswith("GOOGLE_GEMINI_BASE_URL: should be an address such as")


@pytest.mark.parametrize("model", ["m\u00f6del", "x" * 101])
def test_what_is_no_name_of_a_model(tmp_path: Path, model: str) -> None:
    assert "[captions] model: " in faults(tmp_path, f'[captions]\nmodel = "{model}"')


def make_unreadable(file: Path, how: str) -> str:
    """Put something in a file's place; returns what is said of it."""
    if how == "folder":
        file.mkdir()
        return "Is a directory"
    if how == "links in a circle":
        file.symlink_to(file.name)
        return "Too many levels of symbolic links"
    file.write_bytes(b"# \xff\n")
    return "it is not UTF-8 (byte 0xff at position 2)"


@pytest.mark.parametrize("how", ["folder", "links in a circle", "not UTF-8"])
def test_files_that_can_not_be_read(tmp_path: Path, how: str) -> None:
    said = make_unreadable(tmp_path / ".env", how)
    assert faults(tmp_path, "") == f".env: can't be read: {said}"
    file = tmp_path / "other.toml"
    said = make_unreadable(file, how)
    with pytest.raises(ConfigError, match=re.escape(f"other.toml: can't be read: {said}")):
        config.load(file, {})
    refused = darkroom(tmp_path, "status", "--config", "other.toml")
    assert (refused.returncode, refused.stderr) == (2, f"darkroom: other.toml: can't be read: {said}\n")


@pytest.mark.parametrize("path", ["a" * 5000, "a/" * 2500, "a\nb"])
def test_a_configuration_that_is_nowhere(tmp_path: Path, path: str) -> None:
    refused = darkroom(tmp_path, "status", "--config", path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert len(refused.stderr) < 500


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbf[web]\nport = 7\n")
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfDARKROOM_TOKEN=token\n")
    loaded = config.load(file, {})
    assert loaded.web.port == 7
    assert loaded.token is not None
    assert loaded.token.get_secret_value() == "token"


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey", "DARKROOM_TOKEN"])
@pytest.mark.parametrize("secret", ["sesame\udcff", "sesame\r", "sesame\0"])
def test_a_secret_that_can_not_be_sent_is_a_fault_and_is_not_shown(tmp_path: Path, name: str, secret: str) -> None:
    message = faults(tmp_path, "", **{name: secret})
    assert message == f"{name}: holds a character that can't be printed: copy it anew"
    (tmp_path / ".env").write_bytes(f"{name}=ses\0ame\n".encode())
    assert faults(tmp_path, "") == message


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the working directory is gone"):
        config.load(None, {})
