"""Reads what strace wrote: which calls change what is on disk, in which order, and how often each came before."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

# Every call that changes files, names or what of them is durable. Opening with O_CREAT is told from opening below.
CHANGING = (
    *("write", "pwrite64", "writev", "ftruncate", "fallocate", "copy_file_range", "sendfile"),
    *("fsync", "fdatasync", "sync_file_range"),
    *("link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "fchmod", "utimensat"),
)
_LINE = re.compile(r"^(?P<tid>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_RESUMED = re.compile(r"^(?P<tid>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")
_PATHS = re.compile(r'\b(?:\d+|AT_FDCWD)<(?P<fd>[^>]*)>|"(?P<text>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Call:
    """One system call: the `nth` of its name that touches `at` (from 1), and whether it went well.

    `paths` are whole, in their order; `at` is what strace knows the call by: a path or, in an open folder, a name.
    """

    tid: int
    name: str
    nth: int
    paths: tuple[str, ...]
    at: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{self.name} {self.nth} of {self.at or 'nothing'}"


def read(log: Path) -> list[Call]:
    """Read a log written by `strace -f -y`, in the order in which the calls began."""
    counts: Counter[tuple[str, str]] = Counter()
    calls: list[Call] = []
    pending: dict[int, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        if began := _LINE.match(line):
            tid, name, rest = int(began["tid"]), began["name"], began["rest"]
            paths, known_by = _paths(name, rest)
            counts.update((name, path) for path in set(known_by))
            if "<unfinished ...>" in rest:
                pending[tid] = len(calls)
            # Of rename strace 6.1 compares the first alone.
            at = known_by[0 if name == "rename" else -1] if known_by else ""
            calls.append(Call(tid, name, counts[name, at], tuple(paths), at, _went_well(rest), rest))
        elif (ended := _RESUMED.match(line)) and (was := pending.pop(int(ended["tid"]), None)) is not None:
            text = calls[was].text.replace(" <unfinished ...>", "") + ended["rest"]
            calls[was] = replace(calls[was], ok=_went_well(ended["rest"]), text=text)
    return calls


def _paths(name: str, rest: str) -> tuple[list[str], list[str]]:
    """Return the whole paths that a call touches, and as many words by which strace finds it among others.

    A name that stands after an open folder is one in there: together they are one path.
    """
    paths: list[str] = []
    known_by: list[str] = []
    folder = ""
    for match in _PATHS.finditer(rest.rpartition(") =")[0] or rest):
        if match["text"] is None:
            folder = match["fd"]
            if folder.startswith("/"):
                paths.append(folder)
                known_by.append(folder)
        elif match["text"].startswith("/"):
            paths.append(match["text"])
            known_by.append(match["text"])
        elif folder.startswith("/") and match["text"] not in {"", "."}:
            paths[-1] = f"{folder}/{match['text']}"
            known_by[-1] = match["text"]
        if "write" in name:  # what follows is what was written
            break
    return paths, known_by


def _went_well(rest: str) -> bool:
    result = _RESULT.search(rest)
    return result is not None and int(result["result"]) >= 0


def words(log: Path, names: Iterable[str] = CHANGING, written: int = 0) -> list[str]:
    """Return the words that trace calls of these names into a log, with so many of the bytes that are written."""
    what = ["-e", f"trace={','.join(names)}"]
    return ["strace", "-f", "--seccomp-bpf", "-y", "-qq", "-s", str(written), "-o", str(log), *what]


def relocated(call: Call, moved: Mapping[Path, Path]) -> Call:
    """Return the same call on other folders."""
    paths = tuple(_relocated(path, moved) for path in call.paths)
    return replace(call, paths=paths, at=_relocated(call.at, moved))


def _relocated(path: str, moved: Mapping[Path, Path]) -> str:
    for was, now in moved.items():
        if Path(path).is_relative_to(was):
            return str(now / Path(path).relative_to(was))
    return path


def at(call: Call, moved: Mapping[Path, Path], what: str, log: Path = Path("/dev/null")) -> list[str]:
    """Return the words that do something to one call of a second run, whose folders have been `moved`.

    `what` is as strace puts it: `signal=SIGKILL`, `error=EIO`; in the log it says "(INJECTED)" where it did that.
    """
    path = relocated(call, moved).at
    inject = f"inject={call.name}:{what}:when={call.nth}"
    # With --seccomp-bpf, fast as it is, strace sends no signals.
    quick = [] if what.startswith("signal") else ["--seccomp-bpf"]
    # By path: calls on other files, and those of the decoder's process, neither count nor suffer.
    return ["strace", "-f", *quick, "-qq", "-o", str(log), "-P", path, "-e", f"trace={call.name}", "-e", inject]


def changes(calls: Iterable[Call], folders: Iterable[Path], names: Container[str] = CHANGING) -> list[Call]:
    """Keep the calls that change something in `folders`; SQLite's shared memory is none of it."""
    roots = tuple(f"{folder}/" for folder in folders)
    return [
        call
        for call in calls
        if call.name in names and any(f"{path}/".startswith(roots) and not path.endswith("-shm") for path in call.paths)
    ]
