"""Reads config.toml, .env and the environment into one frozen `Config`; all faults are reported together.

The shipped config.toml documents every key with its default; a test compares it with the models below.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from daemon.errors import ConfigError
from daemon.names import check_template
from daemon.scan import DEFAULT_IGNORE

# The names under which people keep the Gemini key, the first that is set wins.
_KEY_NAMES = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "geminikey")
# What no other program is given.
SECRET_NAMES = (*_KEY_NAMES, "DARKROOM_TOKEN")

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
Megabytes = Annotated[int, Field(ge=1, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Folders(_Section):
    """Where the files are; relative paths are relative to config.toml."""

    # Strict pydantic wants a Path object, TOML has only strings.
    inbox: Path = Field(default=Path("inbox"), strict=False)
    library: Path = Field(default=Path("library"), strict=False)
    duplicates: Path = Field(default=Path("duplicates"), strict=False)
    failed: Path = Field(default=Path("failed"), strict=False)
    state: Path = Field(default=Path("state"), strict=False)

    def items(self) -> Iterator[tuple[str, Path]]:
        """Yield each folder's key and path."""
        for name in type(self).model_fields:
            yield name, getattr(self, name)


class Inbox(_Section):
    """How files are noticed and when they count as complete."""

    settle_seconds: Seconds = 2.0
    rescan_seconds: Seconds = 60.0
    observer: Literal["auto", "events", "polling"] = "auto"
    recursive: bool = True
    ignore: tuple[str, ...] = Field(default=DEFAULT_IGNORE, strict=False)


class Filing(_Section):
    """Where in the library a photo goes."""

    template: Annotated[str, AfterValidator(check_template)] = "{taken:%Y/%m}/{name}"
    duplicates: Literal["keep", "delete"] = "keep"
    sidecars: bool = True


class Limits(_Section):
    """What one image may cost, and when the queue pauses."""

    upload_mb: Megabytes = 2048
    file_mb: Megabytes = 2048
    megapixels: Annotated[int, Field(ge=1, le=10_000)] = 250
    decode_seconds: Seconds = 60.0
    decode_memory_mb: Annotated[int, Field(ge=256, le=1_000_000)] = 2048
    attempts: Annotated[int, Field(ge=1, le=100)] = 3
    min_free_mb: Annotated[int, Field(ge=0, le=1_000_000_000)] = 200


def _folder(text: str) -> str:
    """Check one subfolder of the inbox, given by its name or by its path from there."""
    parts = text.strip("/").split("/")
    if text.startswith("/") or not all(part not in {"", ".", ".."} for part in parts):
        raise ValueError("should be a subfolder of the inbox, by its name or by its path from the inbox")
    return "/".join(parts)


class Captions(_Section):
    """What Gemini is asked, how often, and about which photos never."""

    model: Annotated[str, Field(min_length=1, pattern=r"^[\w.-]+$")] = "gemini-flash-lite-latest"
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
        raise ValueError("should be an origin such as https://photos.example.org")
    return text.lower()


class Web(_Section):
    """Where the REST API and the page are served, and to whom."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    allowed_hosts: tuple[str, ...] = Field(default=(), strict=False)
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(default=(), strict=False)


def _address(text: str) -> str:
    """Check the address of a webhook."""
    if text and (urlsplit(text).scheme not in {"http", "https"} or not urlsplit(text).hostname):
        raise ValueError("should be an address such as http://127.0.0.1:8123/api/webhook/photos")
    return text


class Hooks(_Section):
    """Whom to tell of each image that became final."""

    command: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), strict=False)
    url: Annotated[str, AfterValidator(_address)] = ""
    on: tuple[Literal["done", "duplicate", "failed"], ...] = Field(
        default=("done", "duplicate", "failed"), strict=False
    )
    timeout_seconds: Seconds = 30.0
    attempts: Annotated[int, Field(ge=1, le=20)] = 4


class _File(_Section):
    """What config.toml may hold."""

    folders: Folders = Folders()
    inbox: Inbox = Inbox()
    filing: Filing = Filing()
    limits: Limits = Limits()
    captions: Captions = Captions()
    web: Web = Web()
    hooks: Hooks = Hooks()


class Config(_File):
    """Everything that the user decides, with absolute folders; secrets never print."""

    base: Path
    file: Path
    gemini_key: SecretStr | None = None
    gemini_base_url: str | None = None
    token: SecretStr | None = None


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration.

    `path` None means config.toml of the working directory, or all defaults where there is none. `environ`
    (the process's own by default) goes before the `.env` beside config.toml. Raises ConfigError.
    """
    environ = os.environ if environ is None else environ
    file = (path or Path("config.toml")).absolute()
    name = str(path or "config.toml")
    table = _read(file, name, required=path is not None)
    faults: list[str] = []
    try:
        parsed = _File.model_validate(table)
    except ValidationError as error:
        faults = [_explain(fault) for fault in error.errors()]
        raise ConfigError(_report(name, faults)) from None
    folders = Folders(**{key: _absolute(file.parent, value) for key, value in parsed.folders.items()})
    faults = list(_nested(folders))
    if faults:
        raise ConfigError(_report(name, faults))
    secrets = {**_dotenv(file.parent / ".env"), **environ}
    key = next((secrets[name] for name in _KEY_NAMES if secrets.get(name)), None)
    return Config(
        **{**dict(parsed), "folders": folders},
        base=file.parent,
        file=file,
        gemini_key=SecretStr(key) if key else None,
        gemini_base_url=secrets.get("GOOGLE_GEMINI_BASE_URL") or None,
        token=SecretStr(secrets["DARKROOM_TOKEN"]) if secrets.get("DARKROOM_TOKEN") else None,
    )


def _read(file: Path, name: str, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"{name}: there is no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{name}: can't be read: {error}") from None


def _dotenv(file: Path) -> dict[str, str]:
    try:
        return {key: value for key, value in dotenv_values(file).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file.name}: can't be read: {error}") from None


def _absolute(base: Path, path: Path) -> Path:
    """Anchor `path` at `base` and follow links, so that nesting can't hide behind one."""
    return (base / path.expanduser()).resolve()


def _nested(folders: Folders) -> Iterator[str]:
    for (one, first), (two, second) in combinations(folders.items(), 2):
        if first == second:
            yield f"[folders] {one} and {two} are the same folder: {first}"
        elif first.is_relative_to(second):
            yield f"[folders] {one} lies inside {two}: {first}"
        elif second.is_relative_to(first):
            yield f"[folders] {two} lies inside {one}: {second}"


def _explain(fault: Any) -> str:
    """Say one fault of pydantic's list as `[section] key: what is wrong`."""
    section, *rest = [str(part) for part in fault["loc"]]
    where = f"[{section}]" + (f" {'.'.join(rest)}" if rest else "")
    if fault["type"] == "extra_forbidden":
        fields = type(getattr(_File(), section)).model_fields if rest else _File.model_fields
        near = difflib.get_close_matches(rest[0] if rest else section, fields, n=1)
        return f"{where}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    return f"{where}: {message}, not {fault['input']!r}"


def _report(name: str, faults: list[str]) -> str:
    head = f"{name}: one fault" if len(faults) == 1 else f"{name}: {len(faults)} faults"
    return "\n  ".join([head, *faults])
