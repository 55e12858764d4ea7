"""Reads what strace wrote: which calls change what is on disk, in which order, and how often each came before."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
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
_PATHS = re.compile(r'\b\d+<(?P<fd>[^>]*)>|"(?P<text>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Call:
    """One system call: the `nth` of its name that touches `at` (from 1), and whether it went well."""

    tid: int
    name: str
    nth: int
    paths: tuple[str, ...]
    ok: bool
    text: str

    @property
    def at(self) -> str:
        """By which of its paths strace knows it: the last, but of rename strace 6.1 compares the first alone."""
        return self.paths[0 if self.name == "rename" else -1] if self.paths else ""

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
            paths = tuple(_paths(name, rest))
            counts.update((name, path) for path in set(paths))
            if "<unfinished ...>" in rest:
                pending[tid] = len(calls)
            call = Call(tid, name, 0, paths, _went_well(rest), rest)
            calls.append(replace(call, nth=counts[name, call.at]))
        elif (ended := _RESUMED.match(line)) and (at := pending.pop(int(ended["tid"]), None)) is not None:
            was = calls[at]
            calls[at] = Call(
                was.tid,
                was.name,
                was.nth,
                was.paths,
                _went_well(ended["rest"]),
                was.text.replace(" <unfinished ...>", "") + ended["rest"],
            )
    return calls


def _paths(name: str, rest: str) -> Iterator[str]:
    # Absolute ones only: the program uses no others.
    for match in _PATHS.finditer(rest.rpartition(") =")[0] or rest):
        path = match["fd"] or match["text"] or ""
        if path.startswith("/"):
            yield path
        if "write" in name:  # what follows is what was written
            return


def _went_well(rest: str) -> bool:
    result = _RESULT.search(rest)
    return result is not None and int(result["result"]) >= 0


def words(log: Path, names: Iterable[str] = CHANGING, written: int = 0) -> list[str]:
    """Return the words that trace calls of these names into a log, with so many of the bytes that are written."""
    what = ["-e", f"trace={','.join(names)}"]
    return ["strace", "-f", "--seccomp-bpf", "-y", "-qq", "-s", str(written), "-o", str(log), *what]


def relocated(call: Call, moved: Mapping[Path, Path]) -> Call:
    """Return the same call on other folders."""
    return replace(call, paths=tuple(_relocated(Path(path), moved) for path in call.paths))


def _relocated(path: Path, moved: Mapping[Path, Path]) -> str:
    for was, now in moved.items():
        if path.is_relative_to(was):
            return str(now / path.relative_to(was))
    return str(path)


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
