"""All that the command line says stands in `texts.txt`, to be read at once: help, slips, faults, and every message.

The messages are those of the code, module by module, with `{names}` where values go. Who changes one runs
`pytest tests/test_texts.py --update-texts`, and reads what has changed there as somebody would who has just met it.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from daemon import config
from daemon.__main__ import _arguments, _parser
from daemon.errors import ConfigError
from tests.test_config import SLIPS

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).parent / "texts.txt"

# What somebody may type who has never used it, or has slipped.
TYPED = """
statsu; frobnicate; verison; --verison; list --stauts=done; list --status fialed; list one two; list --limit 0
list --limit; list --page 2 --all; list --by age; retry; retry 17 --failed; retry x; caption; undo 17; undo --to there
undo --since 1y --to there; status --json --watch; explain; reject; service --account a\\ b; completion ksh; help lst
-v -q list; --config
"""

# Whose strings are no messages: tags, formats, tables, questions to a model, units, the API's own document.
SILENT = {
    *("daemon/captions/prompt.py", "daemon/catalogue/schema.py", "daemon/catalogue/search.py"),
    *("daemon/catalogue/facets.py", "daemon/catalogue/library.py", "daemon/catalogue/companions.py"),
    *("daemon/decoding/exif.py", "daemon/decoding/metadata.py", "daemon/decoding/colours.py", "daemon/files/walk.py"),
    *("daemon/sidecar/xmp.py", "daemon/sidecar/takeout.py", "daemon/sidecar/words.py", "daemon/systemd/units.py"),
    *("web/openapi.py", "web/models.py", "web/examples.py"),
}
# Neither: statements, patterns, headers, types, and what a child process runs.
NOISE = re.compile(
    r"\b(SELECT|UPDATE|INSERT|PRAGMA|WHERE|NULL|COALESCE)\b|\bstatus (=|IN) |[a-z_]+ = \?|[a-z]_[a-z]+(, [a-z_]+){5}"
    r"|\(\?|\\d|\[\^|%\(|-src |max-age|^private, |^[a-z]+=|^event: |^id: |\bimport importlib\b|<\?|</| \| (None|_|str)"
    r"|^\w+\[\w+\["
)
# What nobody should have to understand who takes photos.
FOREIGN = re.compile(
    r"<class|Traceback|pydantic|Errno|valid (boolean|integer|string|number|tuple)|dictionary|instance of|Exception\b"
    r"|\b(None|True|False|repr|dict|tuple|str)\b"
)


def text() -> str:
    """Return all of it."""
    parts = ["What `darkroom --help` says, and `--help` of each command", *helps()]
    parts += ["What a slip is answered with", *slips()]
    parts += ["What a configuration with faults is answered with", *faults()]
    parts += ["Every message, by the module that has it", *messages()]
    return "\n".join(parts) + "\n"


def helps() -> Iterator[str]:
    parser = _parser()
    commands: Any = next(action for action in parser._actions if action.dest == "command").choices
    for name, command in {"": parser, **commands}.items():
        if name != "help":
            # Its first lines are the usage, which versions of Python break elsewhere.
            told = command.format_help().partition("\n\n")[2].rstrip()
            yield f"\n$ {' '.join(['darkroom', *([name] if name else []), '--help'])}\n\n{told}"
    yield ""


def slips() -> Iterator[str]:
    for typed in re.split(r"; |\n", TYPED.strip()):
        words = [word.replace("\0", " ") for word in typed.replace("\\ ", "\0").split()]
        said = StringIO()
        with redirect_stderr(said), pytest.raises(SystemExit) as end:
            _arguments(words)
        assert end.value.code == 2, typed
        yield f"\n$ darkroom {typed}\n{said.getvalue().rstrip()}"
    yield ""


def faults() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        for toml in (SLIPS, "library = /mnt/photos", "[web]\n[web]\n"):
            file.write_text(toml)
            with pytest.raises(ConfigError) as caught:
                config.load(file, {})
            yield "\n" + str(caught.value).replace(f"{folder}/", "")
    yield ""


def messages() -> Iterator[str]:
    for file in sorted([*(ROOT / "daemon").rglob("*.py"), *(ROOT / "web").rglob("*.py")]):
        name = str(file.relative_to(ROOT))
        found = list(dict.fromkeys(sentences(ast.parse(file.read_text())))) if name not in SILENT else []
        if found:
            yield f"\n{name}"
            yield from (f"    {one}" for one in found)


def sentences(tree: ast.Module) -> Iterator[str]:
    """Yield what looks like a sentence or a part of one, in the order of the code; no docstrings."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Call) and _is_wordless(node):
            continue
        said = _said(node)
        if said is None:
            pending += list(ast.iter_child_nodes(node))[::-1]
        elif " " in said.strip() and re.search("[a-z]{2}", said) and not NOISE.search(said):
            yield said.replace("\n", "\\n")


def _is_wordless(call: ast.Call) -> bool:
    """Return whether a call takes types, a pattern, or is of a list of words: "a b c".split()."""
    if isinstance(call.func, ast.Attribute):
        is_list = call.func.attr == "split" and isinstance(call.func.value, ast.Constant)
        return is_list or call.func.attr in {"compile", "getLogger"}
    return isinstance(call.func, ast.Name) and call.func.id == "cast"


def _said(node: ast.AST) -> str | None:
    """Return the text that a node stands for; None where it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_said(part) or _name(part) for part in node.values)
    return None


def _name(node: ast.AST) -> str:
    """Return a value's place in a text: what it is called, or what makes it."""
    while True:
        match node:
            case ast.Name(name) | ast.Attribute(attr=name):
                return f"{{{name}}}"
            case ast.Call(function, given):
                plain = [one for one in given if not isinstance(one, ast.Constant | ast.Starred)]
                node = plain[0] if plain else function
            case ast.FormattedValue(value) | ast.Subscript(value) | ast.BinOp(value) | ast.IfExp(_, value):
                node = value
            case ast.BoolOp(values=[value, *_]):
                node = value
            case _:
                return "{…}"


def test_every_text_is_in_the_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    now = text()
    if request.config.getoption("--update-texts"):
        FILE.write_text(now)
    assert FILE.read_text() == now, "a text has changed: pytest tests/test_texts.py --update-texts, and read the change"


def test_no_text_speaks_python() -> None:
    lines = [line for line in FILE.read_text().splitlines() if FOREIGN.search(line)]
    assert lines == []
