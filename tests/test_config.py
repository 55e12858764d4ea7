import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from daemon import config
from daemon.errors import ConfigError
from tests.program import Program, darkroom

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
        "[limts]: unknown section; did you mean [limits]?",
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
        (r"a\u0000b", r'holds a NUL character, which no text here may: "a\u0000b"'),
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
        "  [hooks] command, entry 2: holds a NUL",
        "  [filing] template: unknown field {nme}",
        "  [folders] inbox: ~nosuchuser/x can't be used",
        "  [folders] library: loop/x can't be used",
        "  [folders] duplicates lies inside failed: ",
        ".env: can't be read: Is a directory",
    ]
    assert len(lines) == len(starts), refused.stderr
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)


SLIPS = r"""
    port = 80
    [folders]
    library = 5
    failed = ["x"]
    [inbox]
    settle_seconds = "often"
    rescan_seconds = 0.0
    incomplete_minutes = inf
    recursive = "yes"
    ignore = "x"
    observer = "guess"
    attempts = 3
    [limits]
    decoders = 1.5
    megapixels = 2026-01-01
    attempts = 0
    [captions]
    model = "a b"
    language = ""
    prompt = 7
    private = ["/x", 3]
    [web]
    port = 99999
    cors_origins = ["example.org"]
    trusted_proxies = ["10.1.2.3/8"]
    [hooks]
    timeout_seconds = {a = true}
    [limts]
    """


def test_every_fault_is_in_plain_words_with_what_stands_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, SLIPS), {})
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "[folders] library: should be a path in quotes, not 5",
        '[folders] failed: should be a path in quotes, not ["x"]',
        '[inbox] settle_seconds: should be a number, not "often"',
        "[inbox] incomplete_minutes: should be 10080 or less, not inf",
        "[inbox] rescan_seconds: should be more than 0, not 0.0",
        '[inbox] observer: should be "auto", "events" or "polling", not "guess"',
        '[inbox] recursive: should be true or false, not "yes"',
        '[inbox] ignore: should be a list in brackets, such as ["one", "another"], not "x"',
        "[inbox] attempts: unknown key; it belongs under [limits] or [hooks]",
        "[limits] megapixels: should be a whole number, not 2026-01-01",
        "[limits] decoders: should be a whole number, not 1.5",
        "[limits] attempts: should be 1 or more, not 0",
        '[captions] model: should be a model\'s name such as gemini-flash-lite-latest, not "a b"',
        '[captions] language: should be 1 character or more, not ""',
        "[captions] prompt: should be a text in quotes, not 7",
        '[captions] private, entry 1: should be a subfolder of the inbox, such as Private or 2024/Doctor, not "/x"',
        "[captions] private, entry 2: should be a text in quotes, not 3",
        "[web] port: should be 65535 or less, not 99999",
        '[web] cors_origins, entry 1: should be an origin such as https://photos.example.org, not "example.org"',
        '[web] trusted_proxies, entry 1: should be an address or a network such as 10.0.0.0/8, not "10.1.2.3/8"',
        '[hooks] timeout_seconds: should be a number, not {"a": true}',
        "port: unknown key; it belongs under [web]",
        "[limts]: unknown section; did you mean [limits]?",
    ]


def test_all_that_pydantic_can_find_has_words() -> None:
    """By what the schema of the sections can refuse: who adds a constraint of another kind adds its sentence."""
    codes = {"model_type", "extra_forbidden"}
    kinds = {"int": "int_type", "float": "float_type", "bool": "bool_type", "str": "string_type", "tuple": "tuple_type"}
    limits = {
        "gt": "greater_than",
        "ge": "greater_than_equal",
        "le": "less_than_equal",
        "pattern": "string_pattern_mismatch",
    }
    limits |= {"min_length": "string_too_short", "max_length": "string_too_long"}

    def look(schema: Any) -> None:
        if isinstance(schema, dict):
            codes.update(kinds[schema["type"]] for _ in (1,) if schema.get("type") in kinds)
            codes.update(code for name, code in limits.items() if name in schema)
            codes.update({"literal_error"} if schema.get("type") == "literal" else ())
            for inner in schema.values():
                look(inner)
        for inner in schema if isinstance(schema, list | tuple) else ():
            look(inner)

    look(config._File.__pydantic_core_schema__)
    assert codes - {"extra_forbidden"} <= config._SENTENCES.keys()


def test_what_a_command_needs_is_told_with_all_else(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("no folder")
    write(tmp_path, '[web]\nhost = "0.0.0.0"\ntrusted_proxies = ["?"]\n[filing]\ntemplate = "../{name}"')
    said = darkroom(tmp_path, "run")
    assert said.returncode == 2
    head, *lines = said.stderr.splitlines()
    assert head == "darkroom: config.toml: 4 faults"
    starts = [
        "  [filing] template: leads out of the library",
        "  [web] trusted_proxies, entry 1: should be an address",
        f"  [folders] library: {tmp_path}/library is no folder",
        "  [web] host: other machines can call at 0.0.0.0, and there is no DARKROOM_TOKEN: set one, in .env or",
        "    DARKROOM_TOKEN=",
    ]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(start)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "library"]
    # Who only asks needs no token, which may be in the service's environment alone.
    assert config.load(write(tmp_path, '[web]\nhost = "0.0.0.0"'), {}).token is None


def test_variables_in_paths_are_filled_in(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "WHO": "ann"}
    text = '[folders]\ninbox = "$HOME/photos/${WHO}/in"\nlibrary = "a$WHO"'
    folders = config.load(write(tmp_path, text), environ).folders
    assert (folders.inbox, folders.library) == (tmp_path / "photos/ann/in", tmp_path / "aann")
    for wrong in ("$NOBODY/x", "${WHO:-x}/y", "$HOME/${}/x"):
        message = faults(tmp_path, f'[folders]\ninbox = "{wrong}"', **environ)
        assert f"[folders] inbox: {wrong} can't be used: the environment has no variable $" in message


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "DARKROOM_TOKEN", "GOOGLE_GEMINI_BASE_URL"])
@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_hides_nothing(tmp_path: Path, name: str, empty: str) -> None:
    (tmp_path / ".env").write_text(f"{name}=http://from-file\n")
    loaded = config.load(write(tmp_path, ""), {name: empty})
    used = loaded.gemini_key or loaded.token
    assert (used.get_secret_value() if used else loaded.gemini_base_url) == "http://from-file"


def test_a_darkroom_in_the_inbox_of_another_is_a_fault(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer/arrivals/inner"
    inner.mkdir(parents=True)
    write(outer, '[folders]\ninbox = "arrivals"\n')
    where = f"lies in {outer}/arrivals, the inbox of the darkroom in {outer}, which would file what is here"

    def found(text: str, folder: Path) -> list[config.Fault]:
        return list(config.within_another(config.load(write(folder, text), {})))

    assert found("", inner) == [("this folder", f"{inner} {where}")]
    library = outer / "arrivals/library"
    assert found(f'[folders]\nlibrary = "{library}"\n', tmp_path) == [("[folders] library", f"{library} {where}")]
    # Beside the inbox, or where no subfolders are taken, it is in nobody's way.
    (outer / "beside").mkdir()
    assert found("", outer / "beside") == []
    write(outer, '[folders]\ninbox = "arrivals"\n[inbox]\nrecursive = false\n')
    assert found("", inner) == []


def test_the_program_does_not_run_in_the_inbox_of_another(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[inbox]\n")
    (tmp_path / "inbox").mkdir()
    said = darkroom(tmp_path / "inbox", "run", "--once")
    assert (said.returncode, said.stdout) == (2, "")
    assert f"\n  this folder: {tmp_path}/inbox lies in {tmp_path}/inbox, the inbox of the darkroom in " in said.stderr
    assert list((tmp_path / "inbox").iterdir()) == []


@pytest.mark.slow
def test_nor_in_the_inbox_of_one_that_runs_wherever_its_configuration_is(tmp_path: Path) -> None:
    with Program(tmp_path / "elsewhere", f'[folders]\ninbox = "{tmp_path}/scans"'):
        inner = tmp_path / "scans/inner"
        inner.mkdir()
        said = darkroom(inner, "run", "--once")
        assert (said.returncode, said.stderr) == (
            1,
            f"darkroom: {tmp_path}/scans is the inbox of another darkroom, which would file what this one has in it\n",
        )


def test_another_programs_configuration_above_is_no_darkroom(tmp_path: Path) -> None:
    for text in ('title = "a site"\n[inbox]\n', "= no TOML", ""):
        (tmp_path / "config.toml").write_text(text)
        assert config.darkroom_in(tmp_path) is None
    (tmp_path / "config.toml").unlink()
    (tmp_path / "state").mkdir()
    (tmp_path / "state/darkroom.db").touch()
    assert config.darkroom_in(tmp_path) == (tmp_path, tmp_path / "inbox")


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
    wanted = ["[unknown] deep, entry 1 deeper"]
    for section in dict.fromkeys([*texts, *lists]):
        document.append(f"[{section}]")
        for key in texts.get(section, "").split():
            document.append(rf'{key} = "a\u0000"')
            wanted.append(f"[{section}] {key}")
        for key in lists.get(section, "").split():
            document.append(rf'{key} = ["a", "\u0000"]')
            wanted.append(f"[{section}] {key}, entry 2")
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, "\n".join(document)), {})
    lines = str(caught.value).splitlines()
    for where in wanted:
        assert [line for line in lines if line.startswith(f"  {where}: holds a NUL")], where
        assert len([line for line in lines if line.startswith(f"  {where}: ")]) == 1, where


def test_a_key_with_a_nul_or_a_line_end_is_shown_on_one_line(tmp_path: Path) -> None:
    message = faults(tmp_path, '"a\\nb" = 1\n[folders]\n"c\\u0000d" = 1')
    assert message.splitlines()[1:] == ["  [folders] c\\x00d: unknown key", "  a\\nb: unknown key"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[web]\nport = " + "9" * 5000, "thousands of digits"),
        ("[web]\nport = 0x" + "f" * 5000, "[web] port: should be 65535 or less"),
        ("x = " + "[" * 5000, "lie in each other"),
        ("folders.inbox." + "a." * 5000 + "b = 1", "[folders] inbox"),
        ("a." * 5000 + r'b = "\u0000"', "holds a NUL"),
        ('[limits]\nfile_mb = "' + "x" * 5000 + '"', "[limits] file_mb: should be a whole number"),
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
