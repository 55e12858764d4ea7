"""What decoders do on bad days, and when an attacker has taken them over. Runs in their process: nothing heavy here."""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

from daemon.decoding import Decoded, Limits
from daemon.decoding.worker import decode
from daemon.errors import Rejected

DEED = b"deed "
HEAVY = {"peewee", "pydantic", "watchdog", "rich", "starlette", "uvicorn", "pytest", "psutil"}


def deed(name: str, given: bytes = b"") -> bytes:
    """Return the content of a file that has the decoder do something else."""
    return DEED + name.encode() + b"\n" + given


def work(file: BufferedReader, limits: Limits) -> Decoded:
    """Do as the file says; one that says nothing is decoded in earnest."""
    head = file.read(64)
    if head.startswith(DEED):
        name = head.removeprefix(DEED).partition(b"\n")[0].decode()
        file.seek(len(DEED) + len(name) + 1)
        DEEDS[name](file)
    file.seek(0)
    return decode(file, limits)


def _segfault(_: BufferedReader) -> None:
    ctypes.string_at(0)


def _hang(_: BufferedReader) -> None:
    threading.Event().wait()


def _freeze(_: BufferedReader) -> None:
    # Holds the interpreter's lock for good, as a decoder without a way out does.
    ctypes.PyDLL(None).usleep(2**31 - 1)


def _burn(_: BufferedReader) -> None:
    while True:
        sum(range(1000))


def _eat(_: BufferedReader) -> None:
    eaten = []
    while True:
        eaten.append(bytes(64 << 20))


def _abort(_: BufferedReader) -> None:
    os.abort()


def _exit(_: BufferedReader) -> None:
    os._exit(3)


def _odd(_: BufferedReader) -> None:
    raise KeyError("no\nsuch thing")


def _modules(_: BufferedReader) -> None:
    raise Rejected(f"missing {sorted({'PIL.Image', 'exifread'} - set(sys.modules))}, here {HEAVY & set(sys.modules)}")


def _slow_reader(file: BufferedReader) -> None:
    """Read as if from a slow disk: long, but never without any progress."""
    for _ in range(8):
        file.raw.read(1000)
        time.sleep(0.25)


def _state(_: BufferedReader) -> None:
    """Tell what the process was given."""
    descriptors = []
    for number in range(1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        descriptors.append(number)
    told = {
        "environment": sorted(os.environ),
        "path": sys.path,
        "folder": os.getcwd(),
        "descriptors": descriptors,
    }
    raise Rejected(json.dumps(told))


def _say(file: BufferedReader) -> None:
    """Answer with the rest of the file as it is."""
    os.write(0, file.read())
    os._exit(0)


def _chatter(_: BufferedReader) -> None:
    """Answer this image well, and then say more than was asked."""

    def talk() -> None:
        time.sleep(0.3)
        os.write(0, b"x" * 1000)

    threading.Thread(target=talk, daemon=True).start()
    raise Rejected("said")


def _stay(_: BufferedReader) -> None:
    """Try to outlive the main program."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, 0, 0, 0, 0)
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    for leave in (os.fork, os.setsid, os.setpgrp):
        try:
            leave()
        except OSError:
            continue
    _burn(_)


def _attack(file: BufferedReader) -> None:
    """Try all that an attacker would; the error says what was not refused."""
    given = json.loads(file.read())
    succeeded = []
    for name, attempt in attempts(file.fileno(), given["parent"], [Path(path) for path in given["paths"]]):
        try:
            attempt()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                continue
            succeeded.append(f"{name}: {error.strerror}")
        else:
            succeeded.append(name)
    raise Rejected(f"not refused: {', '.join(succeeded) or 'nothing'}")


def attempts(fd: int, parent: int, paths: list[Path]) -> list[tuple[str, Callable[[], object]]]:
    """Return what an attacker would try, each with a name; all raise OSError where they are refused."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *values: object) -> Callable[[], object]:
        def attempt() -> None:
            ctypes.set_errno(0)
            given = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
            if getattr(libc, name)(*given) in (-1, 2**32 - 1):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        return attempt

    def again(path: Path) -> None:
        # By a descriptor that can't be read, anew.
        held = os.open(path, os.O_PATH)
        os.close(os.open(f"/proc/self/fd/{held}", os.O_RDONLY))

    def run_elsewhere() -> None:
        subprocess.run(["/bin/true"], check=True)

    trials: list[tuple[str, Callable[[], object]]] = []
    for path in paths:
        trials += [
            (f"read {path}", lambda path=path: path.read_bytes()),  # type: ignore[misc]
            (f"read {path} by descriptor", lambda path=path: again(path)),  # type: ignore[misc]
            (f"write {path}", lambda path=path: os.open(path, os.O_WRONLY)),  # type: ignore[misc]
            (f"delete {path}", lambda path=path: path.unlink()),  # type: ignore[misc]
            (f"rename {path}", lambda path=path: path.rename(f"{path}.x")),  # type: ignore[misc]
            (f"change {path}", lambda path=path: path.chmod(0o777)),  # type: ignore[misc]
            (f"truncate {path}", lambda path=path: os.truncate(path, 0)),  # type: ignore[misc]
            (f"link {path}", lambda path=path: os.link(path, "/tmp/x")),  # type: ignore[misc]
            (f"make beside {path}", lambda path=path: Path(f"{path}.new").write_bytes(b"")),  # type: ignore[misc]
            (f"list {path.parent}", lambda path=path: os.listdir(path.parent)),  # type: ignore[misc]
        ]
    proc = Path(f"/proc/{parent}")
    for name in ("environ", "mem", "maps", "cmdline", "fd/0", "root/etc/passwd"):
        trials.append((f"read {proc}/{name}", lambda name=name: (proc / name).open("rb")))  # type: ignore[misc]
    flags = fcntl.F_SETLEASE if hasattr(fcntl, "F_SETLEASE") else 1024
    return [
        *trials,
        ("write its own memory by name", lambda: os.open("/proc/self/mem", os.O_RDWR)),
        ("change the photo", lambda: os.ftruncate(fd, 0)),
        ("change the photo's mode", lambda: os.fchmod(fd, 0)),
        ("change the photo's time", lambda: os.utime(fd, (0, 0))),
        ("change the photo's attributes", lambda: os.setxattr(fd, "user.x", b"x")),
        ("hold a lease", lambda: fcntl.fcntl(fd, flags, fcntl.F_RDLCK)),
        ("hold a lock", lambda: fcntl.flock(fd, fcntl.LOCK_EX)),
        ("hold a record lock", lambda: fcntl.lockf(fd, fcntl.LOCK_SH)),
        ("signal whoever owns it", lambda: fcntl.fcntl(fd, fcntl.F_SETOWN, parent)),
        ("internet", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        ("datagrams", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
        ("unix socket", lambda: socket.socket(socket.AF_UNIX)),
        ("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        ("socketpair", socket.socketpair),
        ("fork", os.fork),
        ("vfork", run_elsewhere),
        ("clone", call("syscall", 56 if os.uname().machine == "x86_64" else 220, 17, 0, 0, 0, 0)),
        ("clone3", call("syscall", 435, 0, 0)),
        ("exec", lambda: os.execv("/bin/true", ["true"])),
        ("exec by descriptor", lambda: os.execve(fd, ["x"], {})),
        ("signal the main program", lambda: os.kill(parent, 0)),
        ("signal all", lambda: os.kill(-1, 0)),
        ("signal a thread of the main program", call("tgkill", parent, parent, 0)),
        ("pidfd", lambda: os.pidfd_open(parent)),
        ("ptrace", call("ptrace", 16, parent, 0, 0)),
        ("read the main program's memory", call("process_vm_readv", parent, 0, 0, 0, 0, 0)),
        ("write the main program's memory", call("process_vm_writev", parent, 0, 0, 0, 0, 0)),
        ("limits of the main program", call("prlimit", parent, 7, b"\0" * 16, 0)),
        ("priority", lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)),
        ("processors", lambda: os.sched_setaffinity(parent, {0})),
        ("prctl", call("prctl", 1, 0, 0, 0, 0)),
        ("personality", call("personality", 0x40000)),
        ("io_uring", call("syscall", 425, 1, 0)),
        ("userfaultfd", call("syscall", 323 if os.uname().machine == "x86_64" else 282, 0)),
        ("bpf", call("syscall", 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0)),
        ("seccomp", call("syscall", 317 if os.uname().machine == "x86_64" else 277, 1, 0, 0)),
        ("memfd", lambda: os.memfd_create("x")),
        ("pipe", os.pipe),
        ("shared memory", call("shmget", 1, 4096, 0o1666)),
        ("namespaces", call("unshare", 0x10000000)),
        ("mount", call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)),
        ("chroot", lambda: os.chroot("/tmp")),
        ("session", os.setsid),
        ("user", lambda: os.setuid(1)),
        ("inotify", call("inotify_init1", 0)),
        ("folder", lambda: os.chdir("/etc")),
        ("sync", call("syncfs", fd)),
    ]


DEEDS: dict[str, Callable[[BufferedReader], None]] = {
    "segfault": _segfault,
    "hang": _hang,
    "freeze": _freeze,
    "burn": _burn,
    "eat": _eat,
    "abort": _abort,
    "exit": _exit,
    "odd": _odd,
    "modules": _modules,
    "read slowly": _slow_reader,
    "state": _state,
    "say": _say,
    "chatter": _chatter,
    "stay": _stay,
    "attack": _attack,
}
