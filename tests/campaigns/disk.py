"""A model of a disk that loses power: what of a traced run is certain to be there afterwards, and what is not.

POSIX promises the bytes of a file after fsync of the file, and a name after fsync of its folder; nothing else.
"""

import codecs
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.campaigns.trace import Call

_DATA = re.compile(r'^\d+<[^>]*>, "(?P<data>(?:[^"\\]|\\.)*)"(?P<cut>\.\.\.)?, (?P<length>\d+)(?:, (?P<offset>\d+))?\)')
_LENGTH = re.compile(r"^\d+<[^>]*>, (?P<length>\d+)\)")


class Cut(Enum):
    """What a power cut makes of what no fsync has promised: all of these are allowed."""

    NOTHING = "only what was promised"
    NAMES = "all names, but only the bytes that were promised"
    REMOVALS = "removed names are gone, new ones have not come"


@dataclass(eq=False)
class Node:
    """A file or a folder: how it is now, and how it is promised to be."""

    entries: "dict[str, Node] | None" = None
    promised_entries: "dict[str, Node]" = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    promised: bytes = b""


class Disk:
    """Folders on a disk, changed by traced calls. All that `roots` hold at the beginning is promised."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = {str(root): self._load(root) for root in roots}

    def _load(self, path: Path) -> Node:
        if not path.is_dir():
            content = path.read_bytes()
            return Node(content=bytearray(content), promised=content)
        entries = {child.name: self._load(child) for child in path.iterdir()}
        return Node(entries=entries, promised_entries=dict(entries))

    def forget_bytes(self, path: Path) -> None:
        """Say that a file's bytes, though they can be read, have not reached the disk yet."""
        node = self._find(str(path))
        assert node is not None
        node.promised = b""

    def apply(self, call: Call) -> None:
        """Do what a call has done."""
        paths = [path for path in call.paths if self._root_of(path)]
        if not call.ok or not paths:
            return
        name, path = call.name.removesuffix("at").removesuffix("at2"), paths[-1]
        if name in {"write", "pwrite64", "ftruncate"}:
            self._write(call, paths[0])
        elif name in {"fsync", "fdatasync"}:
            self._sync(path)
        elif name == "open" or name == "openat":
            self._open(call, path)
        elif name == "mkdir":
            self._set(path, Node(entries={}))
        elif name in {"unlink", "rmdir"}:
            self._set(path, None)
        elif name == "link":
            self._set(path, self._find(paths[0]))
        elif name == "rename":
            moved = self._find(paths[0])
            self._set(paths[0], None)
            self._set(path, moved)

    def materialise(self, cut: Cut, places: dict[Path, Path]) -> None:
        """Write what a power cut leaves of each root to another folder."""
        for root, target in places.items():
            shutil.rmtree(target, ignore_errors=True)
            _write_out(self._roots[str(root)], target, cut, {})

    def promised(self, path: Path) -> bytes | None:
        """Return the bytes that a power cut leaves under a name; None where not even the name is promised."""
        root = self._root_of(str(path))
        node: Node | None = self._roots[root]
        for part in str(path).removeprefix(f"{root}/").split("/"):
            node = node.promised_entries.get(part) if node else None
        return None if node is None else node.promised

    def content(self, path: str) -> bytes | None:
        """Return the bytes that a name has now; None where it has none."""
        node = self._find(path) if self._root_of(path) else None
        return None if node is None or node.entries is not None else bytes(node.content)

    def unpromised(self, path: str) -> bool:
        """Return whether a file has bytes that no fsync has promised yet."""
        node = self._find(path)
        return node is not None and node.entries is None and bytes(node.content) != node.promised

    def all_promised(self) -> Iterator[tuple[str, bytes]]:
        """List all names that are promised, with their promised bytes."""
        for root, node in self._roots.items():
            for path, leaf in _leaves(node, Cut.NOTHING, root):
                yield path, leaf.promised

    def fingerprint(self, cut: Cut) -> str:
        """Name what a power cut leaves, so that the same need not be tried twice."""
        digest = hashlib.sha256()
        for root, node in self._roots.items():
            for path, leaf in sorted(_leaves(node, cut, root), key=lambda pair: pair[0]):
                digest.update(repr((path, len(leaf.promised))).encode() + hashlib.sha256(leaf.promised).digest())
        return digest.hexdigest()

    def _root_of(self, path: str) -> str:
        return next((root for root in self._roots if path == root or path.startswith(f"{root}/")), "")

    def _find(self, path: str) -> Node | None:
        root = self._root_of(path)
        node: Node | None = self._roots[root]
        for part in filter(None, path.removeprefix(root).split("/")):
            node = (node.entries or {}).get(part) if node else None
        return node

    def _set(self, path: str, node: Node | None) -> None:
        folder, _, name = path.rpartition("/")
        parent = self._find(folder)
        assert parent is not None, f"no folder for {path}"
        assert parent.entries is not None, f"no folder for {path}"
        if node is None:
            parent.entries.pop(name, None)
        else:
            parent.entries[name] = node

    def _open(self, call: Call, path: str) -> None:
        node = self._find(path)
        if node is None and "O_CREAT" in call.text:
            self._set(path, Node())
        elif node is not None and "O_TRUNC" in call.text:
            node.content.clear()

    def _write(self, call: Call, path: str) -> None:
        node = self._find(path)
        if node is None:
            return
        if call.name == "ftruncate":
            length = int(_matched(_LENGTH, call)["length"])
            node.content[:] = node.content[:length].ljust(length, b"\0")
            return
        match = _matched(_DATA, call)
        assert not match["cut"], "strace has cut what was written"
        data = codecs.escape_decode(match["data"].encode("latin-1"))[0]
        # Only SQLite writes at offsets; everything else goes to the end of a new file.
        offset = len(node.content) if match["offset"] is None else int(match["offset"])
        node.content[:] = node.content.ljust(offset, b"\0")
        node.content[offset : offset + len(data)] = data

    def _sync(self, path: str) -> None:
        node = self._find(path)
        if node is not None and node.entries is not None:
            node.promised_entries = dict(node.entries)
        elif node is not None:
            node.promised = bytes(node.content)


def _matched(pattern: re.Pattern[str], call: Call) -> re.Match[str]:
    match = pattern.match(call.text)
    assert match is not None, f"not understood: {call.name}({call.text[:200]}"
    return match


def _entries(node: Node, cut: Cut) -> Iterator[tuple[str, Node]]:
    now = node.entries or {}
    if cut is Cut.NAMES:
        yield from now.items()
        return
    for name, child in node.promised_entries.items():
        if cut is Cut.NOTHING or name in now:
            yield name, child


def _leaves(node: Node, cut: Cut, path: str) -> Iterator[tuple[str, Node]]:
    if node.entries is None:
        yield path, node
        return
    for name, child in _entries(node, cut):
        yield from _leaves(child, cut, f"{path}/{name}")


def _write_out(node: Node, target: Path, cut: Cut, written: dict[Node, Path]) -> None:
    if node in written:
        os.link(written[node], target)
    elif node.entries is None:
        target.write_bytes(node.promised)
        written[node] = target
    else:
        target.mkdir()
        for name, child in _entries(node, cut):
            _write_out(child, target / name, cut, written)
