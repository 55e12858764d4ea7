"""Holds the code to the design: arrows point one way, each vendor has one door, and one photo's way is short."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Set
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.trace import Call, moves, trace

ROOT = Path(__file__).parent.parent

# The parts in the order of the arrows: each may import those before it that it names here, itself, and nothing else.
# A part is a package, or a module beside the packages.
MAY_IMPORT = {
    "daemon.errors": "",
    "daemon.phrases": "",
    "daemon.logs": "",
    "daemon.loop": "errors",
    "daemon.files": "errors",
    "daemon.config": "errors files",
    "daemon.decoding": "errors files",
    "daemon.catalogue": "errors files loop",
    "daemon.systemd": "errors files loop config",
    "daemon.sidecar": "errors files decoding catalogue",
    "daemon.hooks": "errors phrases files loop config catalogue",
    "daemon.captions": "errors phrases files loop config catalogue sidecar",
    "daemon.filing": "errors phrases files loop catalogue decoding sidecar",
    "daemon.inbox": "errors files loop",
    "daemon.health": "errors loop catalogue captions filing inbox",
    "web": "errors phrases files catalogue decoding filing health",
    "daemon.app": "errors files loop config decoding catalogue sidecar hooks captions filing inbox health",
    "daemon.commands": "errors phrases files loop config decoding catalogue systemd sidecar captions filing inbox"
    " health app web",
    "daemon.__main__": "errors logs config commands",
}
# What may not import one another, though their parts may: the queue joins them.
APART = [
    ("daemon.filing", "daemon.inbox"),
    ("daemon.inbox", "daemon.filing"),
    ("daemon.catalogue", "daemon.decoding"),
    ("daemon.decoding", "daemon.catalogue"),
    ("web", "daemon.filing.consumer"),
]

# The only importers of each vendor.
VENDORS = {
    "peewee": {"daemon.catalogue"},
    "playhouse": set[str](),
    "watchdog": {"daemon.inbox.events"},
    "PIL": {"daemon.decoding"},
    "pillow_heif": {"daemon.decoding"},
    "exifread": {"daemon.decoding"},
    "rawpy": {"daemon.decoding"},
    "tifffile": {"daemon.decoding.tiff_samples"},
    "imagecodecs": {"daemon.decoding"},
    "numpy": {"daemon.decoding"},
    "simplejpeg": {"daemon.decoding"},
    "google": {"daemon.captions.gemini"},
    "tzfpy": {"daemon.filing.zones"},
    "defusedxml": {"daemon.decoding.xmp"},
    "httpx2": {"daemon.hooks", "daemon.captions.gemini"},
    "psutil": {"daemon.files.mounts", "daemon.decoding.child", "daemon.commands"},
    "starlette": {"web"},
    "uvicorn": {"web.app", "web.connections"},
    "prometheus_client": {"web.metrics"},
    "jinja2": {"web.rendering"},
    "python_multipart": {"web.multipart"},
    "pydantic": {"daemon.config", "daemon.decoding.answers", "web"},
    "dotenv": {"daemon.config"},
    "shtab": {"daemon.commands.completion"},
}

# Two modules may have one name only where they are about the same noun in another layer.
SAME_NOUN = {
    "captions": {"daemon.captions", "daemon.catalogue.captions"},
    "companions": {"daemon.catalogue.companions", "daemon.filing.companions"},
    "settings": {"daemon.catalogue.settings", "daemon.captions.settings"},
    "app": {"daemon.app", "web.app"},
    "filing": {"daemon.filing", "daemon.filing.filing"},
    # What is seen of the inbox, and what a page is sent of the images.
    "events": {"daemon.inbox.events", "web.events"},
    "files": {"daemon.files", "web.files"},
    # Read in the sandbox, and what the filing makes of it.
    "takeout": {"daemon.decoding.takeout", "daemon.sidecar.takeout"},
    "xmp": {"daemon.decoding.xmp", "daemon.sidecar.xmp"},
    "trash": {"daemon.filing.trash", "daemon.commands.trash"},
    "refile": {"daemon.filing.refile", "daemon.commands.refile"},
    "moves": {"daemon.catalogue.moves", "daemon.filing.moves"},
}

MODULES = sorted([*(ROOT / "daemon").rglob("*.py"), *(ROOT / "web").rglob("*.py")])


def name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


KNOWN = {name(file) for file in MODULES}


def imports(file: Path, *, at_once: bool = False) -> Iterator[str]:
    """Yield what a module imports; `at_once` only what is imported when it is."""
    tree = ast.parse(file.read_text())
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(file: Path, *, at_once: bool = False) -> set[str]:
    return {module for module in imports(file, at_once=at_once) if module in KNOWN and module not in {"daemon", "web"}}


def part(module: str) -> str:
    """Return the part that a module belongs to."""
    return next((one for one in MAY_IMPORT if within(module, {one})), module)


def within(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_arrows_point_one_way(file: Path) -> None:
    module = name(file)
    if module in {"daemon", "web"}:
        assert not own(file)
        return
    allowed = {part(module), *(one if one == "web" else f"daemon.{one}" for one in MAY_IMPORT[part(module)].split())}
    assert {part(other) for other in own(file)} <= allowed
    for one, other in APART:
        if within(module, {one}):
            assert not [found for found in own(file) if within(found, {other})]


def test_the_arrows_are_drawn_in_order() -> None:
    seen: set[str] = set()
    for one, allowed in MAY_IMPORT.items():
        assert {f"daemon.{other}" if other != "web" else other for other in allowed.split()} <= seen, one
        seen.add(one)


def test_there_is_no_circle() -> None:
    graph = {name(file): own(file, at_once=True) - {name(file)} for file in MODULES}
    # Raises CycleError, which names the modules.
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES) - 2


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_vendors_have_one_door(file: Path) -> None:
    for module in imports(file):
        vendor = module.split(".")[0]
        if vendor in VENDORS:
            assert within(name(file), VENDORS[vendor]), f"{name(file)} imports {module}"


def test_importing_the_command_line_costs_nothing() -> None:
    heavy = {"PIL", "peewee", "pydantic", "starlette", "google", "watchdog", "httpx2", "rich"}
    for file in (ROOT / "daemon/__main__.py", ROOT / "daemon/logs.py", ROOT / "daemon/__init__.py"):
        assert not {module.split(".")[0] for module in imports(file, at_once=True)} & heavy


def test_a_module_is_one_noun() -> None:
    assert len(MODULES) <= 151
    named = defaultdict(set)
    for file in MODULES:
        named[name(file).rpartition(".")[2]].add(name(file))
    twice = {noun: modules for noun, modules in named.items() if len(modules) > 1}
    assert twice == {noun: modules for noun, modules in SAME_NOUN.items() if len(modules & KNOWN) > 1}


def test_a_public_class_has_a_name_of_its_own() -> None:
    classes = defaultdict(list)
    for file in MODULES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(name(file))
    assert {one: modules for one, modules in classes.items() if len(modules) > 1} == {}


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public functions, and the methods of public classes that others may call."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for one in inner:
            if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not one.name.startswith("_") or one.name == "__init__":
                yield one


def _annotations(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield what others see of a module's types: its public functions' signatures, its public classes' fields."""
    for function in _functions(tree):
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        more = [one for one in (function.args.vararg, function.args.kwarg) if one is not None]
        for one in [*given, *more]:
            if one.annotation is not None:
                yield f"{function.name}({one.arg})", one.annotation
        if function.returns is not None:
            yield f"{function.name}()", function.returns
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
                    yield f"{node.name}.{ast.unparse(field.target)}", field.annotation


def _is_untyped(node: ast.AST, aliases: Set[str]) -> bool:
    """Return whether a type has in it a dictionary of anything, under its own name or another."""
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.isidentifier():
            one = ast.Name(one.value)
        if isinstance(one, ast.Name | ast.Attribute) and ast.unparse(one).rpartition(".")[2] in aliases:
            return True
        if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Tuple):
            of, value = (ast.unparse(part).rpartition(".")[2] for part in (one.value, one.slice.elts[-1]))
            if of in {"dict", "Mapping", "MutableMapping"} and value in {"Any", "object"}:
                return True
    return False


def _aliases(tree: ast.Module) -> set[str]:
    """Return a module's other names for dictionaries of anything."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _is_untyped(node.value, found):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def all_aliases() -> frozenset[str]:
    return frozenset().union(*(_aliases(ast.parse(file.read_text())) for file in MODULES))


# The tags of a photo are whatever its camera wrote: the one dictionary that crosses packages.
TAGS = "Tags"
# The parts of the OpenAPI document are JSON.
WITHIN_WEB = {"web.openapi"}


@pytest.mark.parametrize("file", MODULES, ids=name)
def test_what_crosses_a_package_is_typed(file: Path) -> None:
    if name(file) in WITHIN_WEB:
        assert not [one for one in MODULES if part(name(one)) != "web" and own(one) & WITHIN_WEB]
        return
    aliases = all_aliases() - {TAGS}
    for where, annotation in _annotations(ast.parse(file.read_text())):
        if not where.endswith(".raw"):
            assert not _is_untyped(annotation, aliases), f"{name(file)}.{where}: {ast.unparse(annotation)}"


@pytest.mark.parametrize(
    "code",
    [
        "def f(x: dict[str, Any]) -> None: ...",
        "def f(x: dict[str, object] | None) -> None: ...",
        "def f(**x: dict[str, Any]) -> None: ...",
        "def f() -> list[Mapping[str, typing.Any]]: ...",
        "Row = dict[str, Any]\ndef f() -> Row: ...",
        "Row = dict[str, Any] | None\ndef f() -> 'Row': ...",
        "Row: TypeAlias = Mapping[str, object]\nRows = list[Row]\ndef f(x: Rows) -> None: ...",
        "class A:\n    def f(self, x: dict[str, Any]) -> None: ...",
        "@dataclass(frozen=True)\nclass A:\n    x: dict[str, Any]",
    ],
)
def test_what_is_untyped_is_found(code: str) -> None:
    tree = ast.parse(code)
    assert [where for where, annotation in _annotations(tree) if _is_untyped(annotation, _aliases(tree))]


def test_one_photo_takes_a_short_way(tmp_path: Path) -> None:
    way = moves(trace(tmp_path / "room"))
    # The least: without the queue, the consumer, decoding and filing no photo is filed.
    assert 10 <= len({group[0].module for group in way}) <= 19
    assert 30 <= len(way) <= 88


@pytest.mark.parametrize("missing", ["BEGIN", "END"])
def test_a_trace_that_misses_the_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(f"tests.trace.{missing}", Call("daemon.catalogue.queue", "a former name"))
    with pytest.raises(RuntimeError, match="a former name was not called"):
        trace(tmp_path / "room")


def test_the_top_level_is_as_it_was_agreed() -> None:
    agreed = {"daemon", "web", "tests", "config.toml", "pyproject.toml", "README.md", "LICENSE"}
    ignored = {"inbox", "library", "duplicates", "failed", "trash", "state", "build", "dist", "darkroom.egg-info"}
    found = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")}
    assert found - ignored == agreed
