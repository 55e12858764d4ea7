"""Holds the imports to the design: arrows point one way, and each vendor is imported in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What a part of the program may import of it. A package stands for all that is in it; itself it may always import.
LEAVES = {
    "daemon.errors",
    "daemon.files.names",
    "daemon.files.walk",
    "daemon.files.mounts",
    "daemon.filing.dates",
    "daemon.loop",
}

# What each package may import beside itself, the errors and the leaves.
PACKAGES = {
    "daemon.decoding": set[str](),
    "daemon.catalogue": set[str](),
    "daemon.inbox": set[str](),
    "daemon.sidecar": {"daemon.catalogue", "daemon.files.atomic"},
    "daemon.filing": {
        "daemon.catalogue",
        "daemon.decoding",
        "daemon.files.atomic",
        "daemon.files.lock",
        "daemon.files.opening",
        "daemon.sidecar",
        "daemon.filing.thumbnail_store",
    },
    "daemon.hooks": {"daemon.catalogue", "daemon.config"},
    "daemon.captions": {"daemon.catalogue", "daemon.config", "daemon.sidecar", "daemon.filing.thumbnail_store"},
    "daemon.care": {
        "daemon.catalogue",
        "daemon.config",
        "daemon.decoding",
        "daemon.files.atomic",
        "daemon.filing",
        "daemon.files.lock",
    }
    | {"daemon.sidecar", "daemon.filing.thumbnail_store"},
}

MODULES = sorted([*(ROOT / "daemon").rglob("*.py"), *(ROOT / "web").rglob("*.py")])

# The only importers of each vendor.
VENDORS = {
    "peewee": {"daemon.catalogue"},
    "playhouse": {"daemon.catalogue"},
    "watchdog": {"daemon.inbox.events"},
    "PIL": {"daemon.decoding"},
    "pillow_heif": {"daemon.decoding"},
    "exifread": {"daemon.decoding"},
    "rawpy": {"daemon.decoding"},
    "simplejpeg": {"daemon.decoding"},
    "pebble": {"daemon.decoding"},
    "google": {"daemon.captions"},
    "starlette": {"web"},
    "uvicorn": {"web"},
    "prometheus_client": {"web"},
    "python_multipart": {"web"},
    "pydantic": {"daemon.config", "daemon.captions"},
    "dotenv": {"daemon.config"},
}


def name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(file: Path) -> set[str]:
    known = {name(module) for module in MODULES}
    return {module for module in imports(file) if module in known and module not in {"daemon", "web"}}


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_vendors_have_one_door(file: Path) -> None:
    for module in imports(file):
        vendor = module.split(".")[0]
        if vendor in VENDORS:
            assert within(name(file), VENDORS[vendor]), f"{name(file)} imports {module}"


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_arrows_point_one_way(file: Path) -> None:
    module, imported = name(file), own(file)
    outer = {"daemon.app", "daemon.commands", "daemon.__main__"}
    if not within(module, outer):
        assert not [other for other in imported if within(other, outer)], "only the outside imports the wiring"
        if module.startswith("daemon"):
            assert not [other for other in imported if within(other, {"web"})], "daemon knows nothing of the web"
    if within(module, {"web"}):
        assert not [other for other in imported if within(other, {"daemon.filing.consumer", "daemon.inbox"})]
    if module in LEAVES:
        assert imported <= LEAVES
    if module == "daemon.errors":
        assert not imported
    if within(module, {"daemon.config"}):
        assert imported <= LEAVES | {"daemon.errors"}
    if within(module, {"daemon.filing.consumer"}):
        assert not [other for other in imported if within(other, {"daemon.inbox", "daemon.config"})]
    for package, allowed in PACKAGES.items():
        if within(module, {package}):
            assert all(within(other, {package, "daemon.errors", *LEAVES, *allowed}) for other in imported)


def test_importing_the_command_line_costs_nothing() -> None:
    heavy = {"PIL", "peewee", "pydantic", "starlette", "google", "watchdog"}
    for file in (ROOT / "daemon/__main__.py", ROOT / "daemon/logs.py", ROOT / "daemon/__init__.py"):
        top = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
        assert not {module.split(".")[0] for module in names} & heavy


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_modules_stay_small(file: Path) -> None:
    # A module is one noun that a newcomer would look for; past this it is likely to be two.
    assert len(file.read_text().splitlines()) <= 400


def test_the_top_level_is_as_it_was_agreed() -> None:
    agreed = {"daemon", "web", "tests", "config.toml", "pyproject.toml", "README.md", "LICENSE"}
    ignored = {"inbox", "library", "duplicates", "failed", "state", "build", "dist", "darkroom.egg-info"}
    found = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    assert found - ignored == agreed
