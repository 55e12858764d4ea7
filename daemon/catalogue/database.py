"""Opens the SQLite file, makes its tables, hands out transactions, and says how names and codes are kept in it."""

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import peewee

from daemon.errors import ConfigError, DatabaseFault, DatabaseFull, EnvironmentFault, InternalError

# Of schema.sql, kept in the file as SQLite's user_version.
VERSION = 3
_SCHEMA = Path(__file__).with_name("schema.sql")
_BUSY_SECONDS = 30
# What SQLite says of disks, locks and damaged files. The others are mistakes of ours: a row that breaks a rule of the
# schema (IntegrityError), a statement or a value that it doesn't take (ProgrammingError, InterfaceError, DataError).
_ENVIRONMENT = {"OperationalError", "DatabaseError"}


class _Current(peewee.DatabaseProxy):
    """The database of the catalogue that this thread is in a session of.

    Models are bound to this and to no database, so that any number of catalogues can be open in one process.
    """

    __slots__ = ()
    _of_thread = threading.local()

    def __init__(self) -> None:
        # Not peewee's own, which sets `obj`.
        object.__setattr__(self, "_callbacks", [])

    @property
    def obj(self) -> peewee.SqliteDatabase | None:
        return getattr(self._of_thread, "database", None)

    @contextmanager
    def of(self, database: peewee.SqliteDatabase) -> Iterator[None]:
        before = self.obj
        self._of_thread.database = database
        try:
            yield
        finally:
            self._of_thread.database = before


CURRENT = _Current()
_NO_EXPRESSIONS: Mapping[str, str] = {}
_Row = TypeVar("_Row")
Value = str | int | float | None


# What runs with each photo is written out and goes through these: peewee needs longer to write a statement, and to make
# models of a few rows, than SQLite to run it.


def read_rows(model: type[peewee.Model], row: Callable[..., _Row], statement: str, *values: object) -> list[_Row]:
    """Return what `row` makes of each row of a statement, given its columns by name, each as its field has it."""
    cursor = CURRENT.execute_sql(statement, values)
    names = [column[0] for column in cursor.description]
    fields: Mapping[str, peewee.Field] = model._meta.fields
    converted = [(name, fields[name].python_value) for name in names if isinstance(fields.get(name), _CONVERTED)]
    rows = [dict(zip(names, found, strict=True)) for found in cursor]
    for columns in rows:
        for name, convert in converted:
            columns[name] = convert(columns[name])
    return [row(**columns) for columns in rows]


def read_value(statement: str, *values: object) -> Any:
    """Return the first value of the first row as SQLite has it; None where there is none."""
    row = CURRENT.execute_sql(statement, values).fetchone()
    return None if row is None else row[0]


def update_rows(
    model: type[peewee.Model],
    changes: Mapping[str, Value],
    where: str,
    *values: object,
    expressions: Mapping[str, str] = _NO_EXPRESSIONS,
) -> int:
    """Change columns of some rows; return how many rows. `expressions` are of columns that are not just set to "?"."""
    meta = model._meta
    columns = ", ".join(f"{name} = {expressions.get(name, '?')}" for name in changes)
    changed = [meta.fields[name].db_value(value) for name, value in changes.items()]
    statement = f"UPDATE {meta.table_name} SET {columns} WHERE {where}"  # noqa: S608
    return int(CURRENT.execute_sql(statement, (*changed, *values)).rowcount)


def insert_row(model: type[peewee.Model], row: Mapping[str, Value]) -> None:
    """Add one row."""
    meta = model._meta
    statement = f"INSERT INTO {meta.table_name} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
    CURRENT.execute_sql(statement, [meta.fields[name].db_value(value) for name, value in row.items()])


class FilenameField(peewee.Field):
    """A file's name: text where it is valid UTF-8, else the raw bytes, which SQLite keeps apart from any text."""

    field_type = "TEXT"

    def db_value(self, value: str | None) -> str | bytes | None:
        """Return bytes for names that are no UTF-8 (an old camera's, an unpacked archive's)."""
        if value is None:
            return None
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return os.fsencode(value)
        return value

    def python_value(self, value: Any) -> str | None:
        """Return the name as the file system calls take it."""
        return os.fsdecode(value) if isinstance(value, bytes) else value


class CodeField(peewee.TextField):
    """One of an enumeration's values."""

    def __init__(self, codes: type[StrEnum], **options: Any) -> None:
        super().__init__(**options)
        self._codes = codes

    def python_value(self, value: str | None) -> StrEnum | None:
        """Return the member of the enumeration."""
        return None if value is None else self._codes(value)


class JsonField(peewee.Field):
    """A JSON value. peewee's own field asks the database that its model is bound to, and ours are bound to none."""

    field_type = "TEXT"

    def db_value(self, value: Any) -> str | None:
        """Return the text of a value."""
        return None if value is None else json.dumps(value)

    def python_value(self, value: str | None) -> Any:
        """Return the value of a text."""
        return None if value is None else json.loads(value)


class WordsField(JsonField):
    """Some words, which leave the catalogue as a tuple."""

    def db_value(self, value: Any) -> str | None:
        """Return the text of some words, with letters as they are: the search index reads it."""
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def python_value(self, value: str | None) -> tuple[str, ...] | None:
        """Return the words."""
        return None if value is None else tuple(json.loads(value))


# The others are in Python what they are in SQLite.
_CONVERTED = (FilenameField, CodeField, JsonField)


class Catalogue:
    """One open database.

    Connections belong to threads. A loop holds one for its lifetime with `session()`; within that, `reading()`
    and `writing()` cost nothing extra, and elsewhere they open one for the moment.
    """

    def __init__(self, file: Path) -> None:
        """Open a file, and make its tables where it is new.

        Raises ConfigError for a file of another version, EnvironmentFault where SQLite can't use it.
        """
        self._file = file
        # FULL: what was committed survives a power cut, for about 1 ms an image.
        self._db = peewee.SqliteDatabase(
            str(file),
            timeout=_BUSY_SECONDS,
            lock_type="IMMEDIATE",
            pragmas={"journal_mode": "wal", "synchronous": "full", "cache_size": -8192},
        )
        with _one_at_a_time(file.parent):
            # For this account alone; SQLite gives -wal and -shm the same mode. What can't be made, it says itself.
            with suppress(OSError):
                os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with self.session():
                self._check_version()

    def _check_version(self) -> None:
        found = self._user_version()
        if found == VERSION:
            return
        with self.writing():
            # Two commands started together both come here: the first makes the tables, the other finds them made.
            found = self._user_version()
            if found == 0 and not self._db.get_tables():
                for statement in _statements(_SCHEMA.read_text(encoding="utf-8")):
                    self._db.execute_sql(statement)
                self._db.execute_sql(f"PRAGMA user_version = {VERSION}")
            elif found != VERSION:
                kind = f"of version {found}" if found else "of an unknown version"
                raise ConfigError(
                    f"the catalogue {self._file} is {kind}, and this darkroom knows version {VERSION} alone: use the"
                    f" darkroom that made it, or move it away (and {self._file.name}-wal, {self._file.name}-shm) and"
                    " run darkroom rebuild"
                )

    def _user_version(self) -> int:
        return int(self._db.execute_sql("PRAGMA user_version").fetchone()[0])

    def version(self) -> int:
        """Return a number that is another one after each write by another thread or process.

        It is the session's own, and costs next to nothing. Raises EnvironmentFault.
        """
        with self.session():
            return int(self._db.execute_sql("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold this thread's connection open; nests."""
        with CURRENT.of(self._db), self._translated():
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
            raise _meaning(first)(f"the database {self._file}: {first}") from error

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
        """Run SQLite's own integrity check; return "ok" when nothing is wrong."""
        with self.session():
            return str(self._db.execute_sql("PRAGMA integrity_check").fetchone()[0])

    def close(self) -> None:
        """Close this thread's connection."""
        if not self._db.is_closed():
            self._db.close()


def _meaning(error: BaseException) -> type[EnvironmentFault | InternalError]:
    """Return what an error of SQLite or peewee is for the program."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return DatabaseFull
    # By name, since peewee wraps sqlite3's errors in its own and statements of ours raise them bare.
    return DatabaseFault if type(error).__name__ in _ENVIRONMENT else InternalError


def _statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements; those inside a trigger's body end none."""
    found, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found


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
