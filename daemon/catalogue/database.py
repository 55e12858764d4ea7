"""Opens the SQLite file, brings its schema up to date and hands out transactions."""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import peewee
from playhouse import migrations

from daemon.catalogue.schema import MODELS
from daemon.errors import EnvironmentFault, InternalError

_log = logging.getLogger(__name__)

_BUSY_SECONDS = 30
# What SQLite says of disks, locks and damaged files. The others are mistakes of ours: a row that breaks a rule of the
# schema (IntegrityError), a statement or a value that it doesn't take (ProgrammingError, InterfaceError, DataError).
_ENVIRONMENT = {"OperationalError", "DatabaseError"}


class Catalogue:
    """One open database. Models are bound to it: a process has one at a time.

    Connections belong to threads. A loop holds one for its lifetime with `session()`; within that, `reading()`
    and `writing()` cost nothing extra, and elsewhere they open one for the moment.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        # FULL: what was committed survives a power cut, for about 1 ms an image.
        self._db = peewee.SqliteDatabase(
            str(file),
            timeout=_BUSY_SECONDS,
            lock_type="IMMEDIATE",
            pragmas={"journal_mode": "wal", "synchronous": "full", "cache_size": -8192},
        )
        self._db.bind(MODELS)
        with _one_at_a_time(file.parent), self.session():
            self._migrate()

    def _migrate(self) -> None:
        runner = migrations.Runner(self._db, str(Path(__file__).parent / "migrations"))
        if all(step.applied for step in runner.status()):
            return
        # Two commands started together both come here: the first migrates, the other waits and finds it done.
        with self.writing():
            _log.debug("database %s: applied %s", self._file, ", ".join(runner.up()))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold this thread's connection open; nests."""
        with self._translated():
            opened = self._db.connect(reuse_if_open=True)
            try:
                yield
            finally:
                if opened:
                    self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (peewee.PeeweeException, sqlite3.Error, sqlite3.Warning) as error:
            # SQLite has rolled back by itself where the disk failed, and that the rollback fails is not the reason.
            first: BaseException = error
            while isinstance(first.__context__, peewee.DatabaseError | sqlite3.DatabaseError):
                first = first.__context__
            # By name, since peewee wraps sqlite3's errors in its own and statements of ours raise them bare.
            ours = type(first).__name__ not in _ENVIRONMENT
            kind = InternalError if ours else EnvironmentFault
            raise kind(f"the database {self._file}: {first}") from error

    def hold(self) -> None:
        """Open this thread's connection for as long as the thread lives, where it is not open yet."""
        with self._translated():
            self._db.connect(reuse_if_open=True)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read outside a transaction."""
        with self.session():
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Open one write transaction: all of it or nothing. Raises EnvironmentFault when SQLite can't."""
        with self.session(), self._db.atomic("IMMEDIATE"):
            yield

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Write what a power cut may take back, without waiting for the disk; a kill takes nothing back."""
        with self.session():
            # Not to be changed inside a transaction.
            self._db.execute_sql("PRAGMA synchronous = NORMAL")
            try:
                with self._db.atomic("IMMEDIATE"):
                    yield
            finally:
                self._db.execute_sql("PRAGMA synchronous = FULL")

    def check(self) -> str:
        """Run SQLite's own integrity check; "ok" when nothing is wrong."""
        with self.session():
            return str(self._db.execute_sql("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """Close this thread's connection."""
        if not self._db.is_closed():
            self._db.close()


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process or thread at a time open a catalogue: two that both ask a new file for WAL refuse each other."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
