"""Two accounts that no passwd file need know: the daemon runs as one, and its neighbour acts as the other."""

import compileall
import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.campaigns import program

OWNER = 61001
NEIGHBOUR = 61002


def as_owner(home: Path, *between: str) -> list[str]:
    """Return the words that start a program as the daemon's account, `between` them what runs as root around it."""
    drop = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--inh-caps=-all", "--"]
    return [*_view(), *between, "env", f"HOME={home}", *drop]


@contextmanager
def neighbour() -> Iterator[None]:
    """Let what this thread does with files count as done by the neighbour, without root's rights; setfsuid(2)."""
    libc = ctypes.CDLL(None)
    libc.setfsgid(NEIGHBOUR)
    libc.setfsuid(NEIGHBOUR)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


@cache
def why_not() -> str | None:
    """Return why two accounts can't be played here; None where they can."""
    if os.geteuid() != 0:
        return "needs root, to act as two accounts"
    if not program.has_strace():
        return "needs strace, and the right to trace (apt install strace)"
    if missing := [name for name in ("setpriv", "unshare") if shutil.which(name) is None]:
        return f"needs {' and '.join(missing)} (apt install util-linux)"
    # What the account may not write is compiled for it here, or it would be compiled anew in each run.
    for package in ("daemon", "web"):
        compileall.compile_dir(program.ROOT / package, quiet=2)
    words = [*as_owner(Path("/")), *program.command("--help")]
    tried = subprocess.run(words, cwd="/", env=program.environment(), capture_output=True, text=True, check=False)
    return f"another account can't run it: {tried.stderr.strip()[-300:]}" if tried.returncode else None


def _view() -> Sequence[str]:
    """Return the words that open, for one program, the folders on the way to Python and to this source tree.

    Nobody but root may pass root's home, where both may lie: in a mount namespace of its own the program sees in that
    folder's place an empty one, in which there is nothing but what it needs.
    """
    python = Path(sys.executable)
    needed = {Path(sys.prefix), Path(sys.base_prefix), python.parent, python.resolve().parents[1], program.ROOT}
    needed |= {path.resolve() for path in needed}
    closed = {shut for path in needed if (shut := _closed(path)) is not None}
    if not closed:
        return []
    inside = sorted(path for path in needed if path != _closed(path) and _closed(path) in closed)
    lines = ["set -e", "held=$(mktemp -d)", "mount -t tmpfs none $held"]
    for number, path in enumerate(inside):
        lines += [f"mkdir $held/{number}", f"mount --bind {shlex.quote(str(path))} $held/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(folder))}" for folder in sorted(closed)]
    for number, path in enumerate(inside):
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount --bind $held/{number} {shlex.quote(str(path))}"]
    lines += ["umount -R $held", "rmdir $held", 'exec "$@"']
    return ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh"]


def _closed(path: Path) -> Path | None:
    """Return the outermost folder above a path, or the path, that others may not pass."""
    return next((folder for folder in [*reversed(path.parents), path] if not folder.stat().st_mode & 0o001), None)
