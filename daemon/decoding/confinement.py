"""Shuts a decoder's process in for good: no capability, Landlock for files, seccomp for all that it asks the kernel.

Each where the kernel has it: Linux 5.13 for Landlock (landlock(7)), 3.17 for seccomp's system call (seccomp(2)), on
x86-64 and on aarch64. Called by their numbers: the C library has no functions for them, and of the packages that do
none is kept well enough to stand here.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_LINUX = sys.platform == "linux" and sys.maxsize > 1 << 32
# Python's name of the machine, AUDIT_ARCH_* of linux/audit.h, and the column of its numbers below.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 4, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


@dataclass(frozen=True)
class Confinement:
    """How the process is shut in: the version of Landlock's interface, 0 without it, and whether calls are filtered.

    `lacks` says of each of the two that is not there why, for people.
    """

    landlock: int
    seccomp: bool
    lacks: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """What shuts it in, for people."""
        return (*([f"Landlock {self.landlock}"] if self.landlock else ()), *(["seccomp"] if self.seccomp else ()))


def confine(readable: Iterable[Path]) -> Confinement:
    """Shut this process in; from then on it opens nothing but files below `readable`, to be read.

    Landlock shuts in the thread that asks for it and those that it starts. So where there are others already there is
    no Landlock, and nothing can be opened at all.
    """
    if not _LINUX:
        return Confinement(0, False, ("Landlock and seccomp: only 64-bit Linux has them",))
    libc = ctypes.CDLL(None, use_errno=True)
    # Else a program with set-user-ID would come out of it, so the kernel asks for this before the next two.
    _checked(_prctl(libc, _PR_SET_NO_NEW_PRIVS, 1))
    # Nor is a copy of somebody's photo left with the system's collector of crashes.
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    landlock, seccomp, lacks = 0, False, []
    if _has_other_threads():
        lacks.append("Landlock: a decoder has left threads running, which it would leave out")
    else:
        try:
            landlock = _restrict_files(libc, readable)
        except OSError as error:
            lacks.append(f"Landlock: {_why(error)}")
    # Not sooner: root may need one to reach modules that are another user's.
    _drop_capabilities(libc)
    machine = os.uname().machine
    if machine not in _MACHINES:
        lacks.append(f"seccomp: the calls of {machine} are not known")
    else:
        try:
            _filter_calls(libc, *_MACHINES[machine], opens=landlock > 0)
            seccomp = True
        except OSError as error:
            lacks.append(f"seccomp: {_why(error)}")
    return Confinement(landlock, seccomp, tuple(lacks))


def _has_other_threads() -> bool:
    try:
        return len(list(Path("/proc/self/task").iterdir())) > 1
    except OSError:  # /proc is not mounted
        return False


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSYS, errno.EINVAL):
        return "this kernel has none"
    if error.errno == errno.EOPNOTSUPP:
        return "switched off when this machine was started"
    if error.errno == errno.EPERM:
        return "forbidden here, perhaps by a container or a systemd unit of an earlier version"
    return error.strerror or str(error)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(libc: ctypes.CDLL, option: int, *values: int) -> int:
    given = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return int(libc.prctl(option, *given))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up all capabilities: root's, and the leases that systemd's unit gives (capabilities(7), capset(2))."""
    _prctl(libc, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable ones, twice: those below 32, and the others.
    _checked(libc.capset(header, (ctypes.c_uint32 * 6)()))


# -- Landlock: linux/landlock.h

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on both machines
_RULESET_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights to files each version knows; a kernel refuses those that it does not know. From the fourth on there
# are TCP's two as well, from the sixth on the scopes of abstract sockets and of signals.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_LATEST_FILE_RIGHTS, _LATEST = 16, 6
_NET_RIGHTS, _SCOPES = 0b11, 0b11


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[Path]) -> int:
    """Forbid all to this thread that Landlock knows, but for reading below `readable`; return its version."""
    version = _checked(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_RULESET_VERSION)))
    handled = [(1 << _FILE_RIGHTS.get(version, _LATEST_FILE_RIGHTS)) - 1]
    if version >= 4:
        handled.append(_NET_RIGHTS)
    if version >= _LATEST:
        handled.append(_SCOPES)
    attributes = struct.pack(f"={len(handled)}Q", *handled)
    size = ctypes.c_size_t(len(attributes))
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint32(0)))
    try:
        for path in readable:
            _allow_reading(libc, ruleset, path)
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return version


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: Path) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # such as the ZIP of the standard library, which most systems lack: nothing was loaded from there
    try:
        rights = _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE
        rule = struct.pack("=Qi", rights, beneath)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)))
    finally:
        os.close(beneath)


# -- seccomp: linux/seccomp.h, linux/filter.h

_SET_MODE_FILTER, _FILTER_FLAG_TSYNC = 1, 1
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# Where struct seccomp_data has them: the number of the call, the machine, the lower halves of the six arguments.
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
_SECCOMP = (317, 277)

# What decoders, the interpreter and the C library need when all is loaded, with the numbers of x86-64 and aarch64
# (None where it has no such call). What goes by a path reads names and attributes alone; Landlock has the files.
_CALLS: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "pread64": (17, 67),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "poll": (7, None),
    "ppoll": (271, 73),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "dup": (32, 23),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
}
_CLONE, _CLONE3, _OPENAT, _FCNTL, _TGKILL = (56, 220), (435, 435), (257, 56), (72, 25), (234, 131)
# A thread as the C library starts it, and nothing that is less than one: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM,
# SETTLS, PARENT_SETTID and CHILD_CLEARTID; musl adds CLONE_DETACHED, which means nothing any more.
_THREAD, _DETACHED = 0x3D0F00, 0x400000
# What opens a file to change something. (O_TMPFILE does only together with one of these.)
_CHANGES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL and F_DUPFD_CLOEXEC: no lease, no lock, no signal.
_FCNTLS = (0, 1, 2, 3, 1030)

_Step = tuple[int, int, int, int]


class _SockFilter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _SockProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_SockFilter)))


def _filter_calls(libc: ctypes.CDLL, machine: int, column: int, *, opens: bool) -> None:
    """Refuse every call that is not on the list, in all threads. `opens`: files may be opened to be read."""
    steps = program(machine, column, opens=opens, pid=os.getpid())
    filters = (_SockFilter * len(steps))(*(_SockFilter(*step) for step in steps))
    given = _SockProgram(len(steps), filters)
    flags = ctypes.c_uint(_FILTER_FLAG_TSYNC)
    _checked(libc.syscall(_SECCOMP[column], ctypes.c_uint(_SET_MODE_FILTER), flags, ctypes.byref(given)))


def program(machine: int, column: int, *, opens: bool, pid: int) -> list[_Step]:
    """Return the filter as steps of classic BPF: code, jumps where true and where false, value."""
    refuse, allow = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    steps: list[_Step] = [
        (_LOAD, 0, 0, _MACHINE),
        (_JUMP_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if column == 0:
        # The calls of the x32 interface have numbers of their own.
        steps += [(_JUMP_GREATER_EQUAL, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    for numbers in _CALLS.values():
        if (number := numbers[column]) is not None:
            steps += [(_JUMP_EQUAL, 0, 1, number), allow]
    # The C library turns to `clone`, whose flags can be looked at, when it is told that there is no `clone3`.
    steps += _if_called(_CLONE3[column], [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    thread = [(_LOAD, 0, 0, _argument(0)), (_AND, 0, 0, 0xFFFFFFFF & ~_DETACHED), (_JUMP_EQUAL, 0, 1, _THREAD), allow]
    steps += _if_called(_CLONE[column], [*thread, refuse])
    # By this a process ends itself, when it aborts.
    steps += _if_called(_TGKILL[column], [(_LOAD, 0, 0, _argument(0)), (_JUMP_EQUAL, 0, 1, pid), allow, refuse])
    one_of = [step for number in _FCNTLS for step in ((_JUMP_EQUAL, 0, 1, number), allow)]
    steps += _if_called(_FCNTL[column], [(_LOAD, 0, 0, _argument(1)), *one_of, refuse])
    if opens:
        reading = [(_LOAD, 0, 0, _argument(2)), (_AND, 0, 0, _CHANGES), (_JUMP_EQUAL, 0, 1, 0), allow]
        steps += _if_called(_OPENAT[column], [*reading, refuse])
    return [*steps, refuse]


def _if_called(number: int, then: list[_Step]) -> list[_Step]:
    """Return steps for one call, which end with an answer; any other jumps over them."""
    return [(_JUMP_EQUAL, 0, len(then), number), *then]


def _argument(index: int) -> int:
    return _ARGUMENTS + 8 * index
