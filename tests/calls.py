"""Counts what the program asks of the kernel, in this very process, so that a test can act before any such call.

Functions of `os` and `fcntl` are counted, those of the C library that are called by ctypes, and SQLite's commits. Only
what is called by its module's name is: `os.link(…)`, not `link(…)`.
"""

import ctypes
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_CALLS = {
    os: (
        *("access", "chmod", "close", "copy_file_range", "fchmod", "fdatasync", "fstat", "fsync", "getxattr", "link"),
        *("listdir", "listxattr", "lstat", "mkdir", "open", "remove", "rename", "replace", "rmdir", "scandir"),
        *("sendfile", "setxattr", "stat", "symlink", "unlink", "utime"),
    ),
    fcntl: ("fcntl", "flock", "ioctl", "lockf"),
}


class Calls:
    """The calls of a thread, or of all, from `begin` to `end`; something is done before each."""

    def __init__(self) -> None:
        self._before: Callable[[str], None] | None = None
        self._thread: int | None = None
        self._inside = threading.local()

    def begin(self, before: Callable[[str], None], thread: int | None = None) -> None:
        """Have `before` told the name of each call before it is made; `thread` is the only one that counts."""
        self._before, self._thread = before, thread

    def end(self) -> None:
        """Count no more."""
        self._before = None

    def note(self, name: str) -> None:
        """Count one; those that `before` makes itself are none."""
        before = self._before
        if before is None or self._thread not in {None, threading.get_ident()} or getattr(self._inside, "on", False):
            return
        self._inside.on = True
        try:
            before(name)
        finally:
            self._inside.on = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Stand in for the functions for a block, those of the C library that are called by ctypes included."""
        with ExitStack() as stack:
            for module, names in _CALLS.items():
                for name in names:
                    stand_in = self._counting(getattr(module, name), name)
                    stack.enter_context(_standing_in(module, name, stand_in))
            stack.enter_context(_standing_in(ctypes, "CDLL", self._counting_library(ctypes.CDLL)))
            stack.enter_context(_standing_in(sqlite3, "connect", self._counting_commits(sqlite3.connect)))
            yield

    def _counting_library(self, real: type[Any]) -> type[Any]:
        note = self.note

        class Library(real):  # type: ignore[misc]
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                plain: Any = self.__dict__["_FuncPtr"]

                class Function(plain):  # type: ignore[misc]
                    _flags_, _restype_ = plain._flags_, plain._restype_

                    def __call__(self, *args: Any) -> Any:
                        note(self.__name__)
                        return super().__call__(*args)

                self._FuncPtr = Function

        return Library

    def _counting_commits(self, real: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        def connect(*args: Any, **options: Any) -> sqlite3.Connection:
            connection = real(*args, **options)
            connection.set_trace_callback(lambda sql: self.note("commit") if sql.startswith("COMMIT") else None)
            return connection

        return connect

    def _counting(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.note(name)
            return real(*args, **options)

        # Else who asks whether the function takes a descriptor is told that it does not.
        for group in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks, os.supports_effective_ids):
            if real in group:
                group.add(call)
        return call


@contextmanager
def _standing_in(module: object, name: str, stand_in: object) -> Iterator[None]:
    real = getattr(module, name)
    setattr(module, name, stand_in)
    try:
        yield
    finally:
        setattr(module, name, real)
