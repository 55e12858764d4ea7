"""Reads config.toml, .env and the environment into one frozen `Config`; all faults are reported together.

The shipped config.toml documents every key with its default; a test compares it with the models below.
"""

import difflib
import errno
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from daemon.errors import ConfigError
from daemon.files.names import check_template, display
from daemon.files.walk import DEFAULT_IGNORE

# The names under which people keep the Gemini key, the first that is set wins.
KEY_NAMES = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey")
# What no other program is given.
SECRET_NAMES = (*KEY_NAMES, "DARKROOM_TOKEN")

_BASE_URL = "GOOGLE_GEMINI_BASE_URL"
# A model's name: it becomes a part of the address of each request.
MODEL = r"^[A-Za-z0-9_.-]{1,100}$"
_NAME = "config.toml"
_CATALOGUE = "darkroom.db"
# How much of a value a message quotes.
_QUOTED = 300

# How long a file is waited for, at most: a week. It may be 0, which is not to wait at all.
_WEEK_SECONDS = 7 * 24 * 3600
Seconds = Annotated[float, Field(gt=0, le=_WEEK_SECONDS)]
Megabytes = Annotated[int, Field(ge=1, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FoldersSection(_Section):
    """Where the files are; relative paths are relative to config.toml."""

    # Strict pydantic wants a Path object, TOML has only strings.
    inbox: Path = Field(default=Path("inbox"), strict=False)
    library: Path = Field(default=Path("library"), strict=False)
    duplicates: Path = Field(default=Path("duplicates"), strict=False)
    failed: Path = Field(default=Path("failed"), strict=False)
    trash: Path = Field(default=Path("trash"), strict=False)
    state: Path = Field(default=Path("state"), strict=False)

    def items(self) -> Iterator[tuple[str, Path]]:
        """Yield each folder's key and path."""
        for name in type(self).model_fields:
            yield name, getattr(self, name)


class InboxSection(_Section):
    """How files are noticed and when they count as complete."""

    settle_seconds: Seconds = 2.0
    quiet_seconds: Annotated[float, Field(ge=0, le=_WEEK_SECONDS)] = 0.0
    incomplete_minutes: Annotated[float, Field(ge=0, le=_WEEK_SECONDS / 60)] = 10.0
    rescan_seconds: Seconds = 60.0
    observer: Literal["auto", "events", "polling"] = "auto"
    recursive: bool = True
    ignore: tuple[str, ...] = Field(default=DEFAULT_IGNORE, strict=False)


class FilingSection(_Section):
    """Where in the library a photo goes."""

    template: Annotated[str, AfterValidator(check_template)] = "{taken:%Y/%m}/{name}"
    duplicates: Literal["keep", "delete"] = "keep"
    deleted: Literal["keep out", "file again"] = "keep out"
    folder_keywords: bool = False
    sidecars: bool = True


class LibrarySection(_Section):
    """How the catalogue follows what the owner does in the library."""

    follow_hours: Annotated[float, Field(ge=0, le=24 * 365)] = 24.0


class LimitsSection(_Section):
    """What one image may cost, and when the queue pauses."""

    upload_mb: Megabytes = 2048
    file_mb: Megabytes = 2048
    megapixels: Annotated[int, Field(ge=1, le=10_000)] = 250
    decoders: Annotated[int, Field(ge=0, le=1024)] = 0
    decode_seconds: Seconds = 20.0
    decode_memory_mb: Annotated[int, Field(ge=256, le=1_000_000)] = 2048
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    min_free_mb: Annotated[int, Field(ge=0, le=1_000_000_000)] = 200


def _folder(text: str) -> str:
    """Check one subfolder of the inbox, given by its name or by its path from there."""
    parts = text.strip("/").split("/")
    if text.startswith("/") or not all(part not in {"", ".", ".."} for part in parts):
        raise ValueError(f"should be a subfolder of the inbox, such as Private or 2024/Doctor, not {_quoted(text)}")
    return "/".join(parts)


class CaptionsSection(_Section):
    """What Gemini is asked, how often, and about which photos never."""

    model: Annotated[str, Field(pattern=MODEL)] = "gemini-flash-lite-latest"
    language: Annotated[str, Field(min_length=1, max_length=100)] = "English"
    prompt: Annotated[str, Field(max_length=10_000)] = ""
    facts: bool = False
    requests_per_minute: Annotated[int, Field(ge=0, le=100_000)] = 15
    requests_per_day: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    private: tuple[Annotated[str, AfterValidator(_folder)], ...] = Field(default=(), strict=False)


def _origin(text: str) -> str:
    """Check one origin as browsers write it: scheme, host, port, and nothing after them."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or text != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(f"should be an origin such as https://photos.example.org, not {_quoted(text)}")
    return text.lower()


def _network(text: str) -> str:
    """Check one address or network."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        # Bits behind the prefix, too: 10.1.2.3/8 would trust more than is meant.
        raise ValueError(f"should be an address or a network such as 10.0.0.0/8, not {_quoted(text)}") from None


class WebSection(_Section):
    """Where the REST API and the page are served, and to whom."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    allowed_hosts: tuple[str, ...] = Field(default=(), strict=False)
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(default=(), strict=False)
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(default=(), strict=False)


def _address(text: str) -> str:
    """Check a web address that is called: HTTP clients refuse what is none only when they call it."""
    if not text:
        return text
    try:
        parts = urlsplit(text)
        # Each of these two may raise ValueError: a port that is no number, a name with an empty or endless label.
        known = parts.port != 0 and (parts.hostname or "").encode("idna") and parts.scheme in {"http", "https"}
    except ValueError:
        known = False
    if known and text.isprintable() and " " not in text and (parts.path + parts.query).isascii():
        return text
    raise ValueError(f"should be an address such as http://127.0.0.1:8123/api/webhook/photos, not {_quoted(text)}")


class HooksSection(_Section):
    """What is called for each image that became final."""

    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    url: Annotated[str, AfterValidator(_address)] = ""
    on: tuple[Literal["done", "duplicate", "failed"], ...] = Field(
        default=("done", "duplicate", "failed"), strict=False
    )
    timeout_seconds: Seconds = 30.0
    attempts: Annotated[int, Field(ge=1, le=20)] = 4


class _File(_Section):
    """What config.toml may hold."""

    folders: FoldersSection = FoldersSection()
    inbox: InboxSection = InboxSection()
    filing: FilingSection = FilingSection()
    library: LibrarySection = LibrarySection()
    limits: LimitsSection = LimitsSection()
    captions: CaptionsSection = CaptionsSection()
    web: WebSection = WebSection()
    hooks: HooksSection = HooksSection()


class Config(_File):
    """Everything that the user decides, with absolute folders; secrets never print."""

    base: Path
    file: Path
    gemini_key: SecretStr | None = None
    gemini_base_url: str | None = None
    token: SecretStr | None = None

    @property
    def catalogue_file(self) -> Path:
        """Where the catalogue is, or would be."""
        return self.folders.state / _CATALOGUE


# A fault: at which key it is, and what is wrong there.
Fault = tuple[str, str]


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    check: Callable[[Config], Iterable[Fault]] = lambda _: (),
) -> Config:
    """Read the configuration.

    `path` None means config.toml of the working directory, or all defaults where there is none. `environ`
    (the process's own by default) goes before the `.env` beside config.toml. `check` tells what else stands in the way
    of what is to be done with it; it gets the defaults of what has a fault. Raises ConfigError.
    """
    name = str(path or _NAME)
    try:
        file = (path or Path(_NAME)).absolute()
    except FileNotFoundError:
        raise ConfigError("the working directory is gone: change to another one") from None
    environ = os.environ if environ is None else environ
    table = _read(file, name, required=path is not None)
    sections, wrong = _parse(table)
    folders, unusable = _anchor(file.parent, table, environ)
    secrets, unreadable = _secrets(file.parent / ".env", environ)
    key = next((secrets[name] for name in KEY_NAMES if secrets.get(name)), None)
    config = Config(
        **{**dict(sections), "folders": FoldersSection(**folders)},
        base=file.parent,
        file=file,
        gemini_key=SecretStr(key) if key else None,
        gemini_base_url=secrets.get(_BASE_URL) or None,
        token=SecretStr(secrets["DARKROOM_TOKEN"]) if secrets.get("DARKROOM_TOKEN") else None,
    )
    # Of each key the first fault that is found: the others mostly follow from it.
    faults: dict[str, str] = {}
    for where, what in (*_nuls(table), *wrong, *unusable, *check(config)):
        faults.setdefault(where, what)
    if faults or unreadable:
        raise ConfigError("\n".join([*_report(name, faults), *unreadable]))
    return config


def darkroom_in(folder: Path) -> tuple[Path, Path | None] | None:
    """Return the darkroom of a folder: that folder, and the inbox whose subfolders it looks through, if it does.

    Known are those with a config.toml, or with a catalogue where the state folder is by default.
    """
    try:
        table = _read(folder / _NAME, _NAME, required=False)
    except ConfigError:  # another program's, or one that may not be read
        return None
    folders, _ = _anchor(folder, table, os.environ)
    # Other programs have a config.toml, too.
    is_one = bool(table) and table.keys() <= _File.model_fields.keys()
    if not is_one and not os.path.lexists(folders["state"] / _CATALOGUE):
        return None
    sections, _ = _parse(table)
    return folder, folders["inbox"] if sections.inbox.recursive else None


def inbox_around(place: Path, own: Path | None = None) -> tuple[Path, Path] | None:
    """Return the inbox of another darkroom in which a resolved path lies, and where that darkroom is; None for none.

    It would file what is there. `own` is the inbox of one's own.
    """
    for parent in place.parents:
        other = darkroom_in(parent)
        if other is not None and other[1] not in {None, own} and place.is_relative_to(other[1]):
            return other[1], other[0]
    return None


def within_another(config: Config) -> Iterator[Fault]:
    """Yield what of this darkroom lies in the inbox of another one: first of all the folder that it is in."""
    folders = {f"[folders] {name}": path for name, path in config.folders.items()}
    for where, path in {"this folder": config.base.resolve(), **folders}.items():
        if (around := inbox_around(path, config.folders.inbox)) is not None:
            inbox, base = around
            yield where, f"{path} lies in {inbox}, the inbox of the darkroom in {base}, which would file what is here"
            if where == "this folder":
                return


def _read(file: Path, name: str, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"{_brief(name)}: there is no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{_brief(name)}: can't be read: {_reason(error)}") from None
    except (ValueError, RecursionError):
        # int() takes no more than 4,300 digits, and tomllib calls itself for each list in a list.
        reason = "a number has thousands of digits, or hundreds of lists lie in each other"
        raise ConfigError(f"{_brief(name)}: can't be read: {reason}") from None


def _secrets(file: Path, environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return `.env` with the environment laid over it, and a line for each fault of what is used of it."""
    given: dict[str, str | None] = {}
    faults = []
    try:
        given = dotenv_values(stream=StringIO(_text(file)))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{file.name}: can't be read: {_reason(error)}")
    secrets = {key: value for key, value in given.items() if value is not None}
    # `GEMINI_API_KEY= darkroom run`, and what a compose file passes on though nobody has set it, hides nothing.
    secrets |= {key: value for key, value in environ.items() if value.strip() or key not in secrets}
    for name in SECRET_NAMES:
        if not secrets.get(name, "").isprintable():
            faults.append(f"{name}: holds a character that can't be printed: copy it anew")
    try:
        _address(secrets.get(_BASE_URL, ""))
    except ValueError as error:
        faults.append(f"{_BASE_URL}: {error}")
    return secrets, faults


def _text(file: Path) -> str:
    """Return a file's text, without the byte order mark that Notepad puts before it."""
    return file.read_text(encoding="utf-8").removeprefix("\ufeff")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte 0x{error.object[error.start]:02x} at position {error.start})"
    if isinstance(error, tomllib.TOMLDecodeError):
        # It names a section as Python does: ('web',).
        said = re.sub(r"\('([^']*)',\)", r"[\1]", str(error))
        return f"{_brief(said)}; texts and paths stand in quotes, each key and section stands once"
    return _brief(getattr(error, "strerror", None) or str(error))


def _parse(table: dict[str, Any]) -> tuple[_File, list[Fault]]:
    """Return the sections, with the defaults of what has a fault, and the faults."""
    try:
        return _File.model_validate(table), []
    except ValidationError as error:
        faults = error.errors()
    wrong = {fault["loc"][:2] for fault in faults}
    sound = {
        name: {key: value for key, value in section.items() if (name, key) not in wrong}
        for name, section in table.items()
        if (name,) not in wrong
    }
    return _File.model_validate(sound), [_explain(fault) for fault in faults]


def _nuls(table: dict[str, Any]) -> Iterator[Fault]:
    """Yield where a text holds a NUL, which the system, SQLite or HTTP would refuse or end at, and the fault."""
    found: list[tuple[tuple[str | int, ...], Any]] = [((), table)]
    # It grows meanwhile. No function that calls itself: dotted keys lead as deep as somebody likes.
    for keys, value in found:
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            found += [((*keys, key), item) for key, item in inner]
        elif isinstance(value, str) and "\0" in value:
            yield _where(keys), f"holds a NUL character, which no text here may: {_quoted(value)}"


def _anchor(base: Path, table: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Path], list[Fault]]:
    """Return each folder's path, the default's for one with a fault, and the faults: also of those in each other."""
    given = table.get("folders")
    given = given if isinstance(given, dict) else {}
    folders, sound, faults = {}, {}, []
    for name, default in FoldersSection().items():
        text = given.get(name, str(default))
        folders[name] = base / default
        try:
            # What is no text is a fault already.
            if isinstance(text, str):
                sound[name] = _absolute(base, Path(_filled_in(text, environ)))
        except ValueError as error:
            faults.append((f"[folders] {name}", f"{_brief(text)} {error}"))
    return folders | sound, [*faults, *_nested(sound)]


def _filled_in(text: str, environ: Mapping[str, str]) -> str:
    """Return a path with the variables in it filled in. Raises ValueError for one that is not set, or empty."""

    def value(found: re.Match[str]) -> str:
        if known := environ.get(found[1].strip("{}")):
            return known
        raise ValueError(f"can't be used: the environment has no variable {found[0]}")

    return re.sub(r"\$(\w+|\{[^}]*\})", value, text)


def _absolute(base: Path, path: Path) -> Path:
    """Anchor `path` at `base` and follow links, so that nesting can't hide behind one. Raises ValueError."""
    try:
        path = base / path.expanduser()
    except RuntimeError:
        raise ValueError(f"can't be used: there is no home folder {path.parts[0]}") from None
    try:
        _look(path)
        resolved = path.resolve()
        _look(resolved)
    except OSError as error:
        raise ValueError(f"can't be used: {error.strerror}") from None
    except RuntimeError:  # before Python 3.13
        raise ValueError(f"can't be used: {os.strerror(errno.ELOOP)}") from None
    return resolved


def _look(path: Path) -> None:
    """Raise OSError where nothing can ever be under a path; what is missing or forbidden today is no fault."""
    try:
        path.stat()
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENAMETOOLONG}:
            raise


def _nested(folders: Mapping[str, Path]) -> Iterator[Fault]:
    for (one, first), (two, second) in combinations(folders.items(), 2):
        if first == second:
            yield f"[folders] {one} and {two} are the same folder", str(first)
        elif first.is_relative_to(second):
            yield f"[folders] {one} lies inside {two}", str(first)
        elif second.is_relative_to(first):
            yield f"[folders] {two} lies inside {one}", str(second)


# What pydantic finds, by its codes, in words for people; a test tries all that it can find in these sections.
_SENTENCES = {
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be a text in quotes",
    "path_type": "should be a path in quotes",
    "tuple_type": 'should be a list in brackets, such as ["one", "another"]',
    "model_type": "should be a section, with its keys below it",
    "literal_error": "should be {expected}",
    "greater_than": "should be more than {gt}",
    "greater_than_equal": "should be {ge} or more",
    "less_than_equal": "should be {le} or less",
    "string_too_short": "should be {min_length} character or more",
    "string_too_long": "should be {max_length} characters or fewer",
    "string_pattern_mismatch": "should be a model's name such as gemini-flash-lite-latest",
}


def _explain(fault: Any) -> Fault:
    """Return where one fault of pydantic's list is, and what is wrong there."""
    section, *keys = fault["loc"]
    code, value = fault["type"], fault["input"]
    if code == "extra_forbidden" and not keys and isinstance(value, dict):
        near = difflib.get_close_matches(section, _File.model_fields, n=1)
        return _where([section]), "unknown section" + (f"; did you mean [{near[0]}]?" if near else "")
    if code == "extra_forbidden":
        # One without a section stands before all of them.
        where = _where([section, *keys]) if keys else _brief(section)
        return where, f"unknown key{_meant(section, keys[0] if keys else section)}"
    if code == "value_error":
        return _where([section, *keys]), _brief(str(fault["ctx"]["error"]))
    # "604800.0" and 'one' are Python's spellings.
    context = {name: str(value).removesuffix(".0").replace("'", '"') for name, value in fault.get("ctx", {}).items()}
    return _where([section, *keys]), f"{_SENTENCES[code].format(**context)}, not {_quoted(value)}"


def _meant(section: str, key: str) -> str:
    """Return where a key belongs, or what it probably should be; "" where nothing is like it."""
    known = {name: type(value).model_fields for name, value in _File()}
    if homes := [f"[{name}]" for name, keys in known.items() if key in keys]:
        return f"; it belongs under {' or '.join(homes)}"
    near = difflib.get_close_matches(key, known.get(section, ()), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _where(keys: Iterable[str | int]) -> str:
    section, *rest = keys
    # The first one of a list is its entry 1 to people.
    inner = [f", entry {key + 1}" if isinstance(key, int) else f" {key}" for key in rest]
    return f"[{_brief(str(section))}]{_brief(''.join(inner))}"


def _quoted(value: object) -> str:
    """Return a value as TOML has it, or nearly so."""
    try:
        # JSON has no dates, and writes other names for infinity and for what is no number.
        plain = isinstance(value, str | int | list | dict)
        text = json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)
    except (ValueError, RecursionError):  # a hexadecimal number of thousands of digits; tables in tables in tables
        return "what is there"
    return _brief(text)


def _brief(text: str) -> str:
    """Return a text as a message quotes it: on one line, and not all of a long one."""
    return display(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def _report(name: str, faults: Mapping[str, str]) -> list[str]:
    if not faults:
        return []
    head = f"{_brief(name)}: " + ("one fault" if len(faults) == 1 else f"{len(faults)} faults")
    return [head, *(f"  {where}: {what}" for where, what in faults.items())]
