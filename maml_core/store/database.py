"""A connection to the store's database: opening, migrating, transactions, and its troubles in plain words."""

import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from maml_core.errors import MamlError, StoreAwayError, StoreDamagedError, StoreError
from maml_core.store import server
from maml_core.store.schema import MIGRATIONS, SCHEMA_VERSION, info, metadata

DEFAULT_URL = "sqlite:///runs/maml.db"

BUSY_SECONDS = 10.0
"""How long to wait for another process's transaction to end."""


_SQLITE = "sqlite:///"


def store_url(url: str | None = None) -> str:
    """The database that is meant: `url`, else `$MAML_STORE`, else the default; `~` and `$HOME` in a path are followed.

    Raises:
        StoreError: it would keep nothing, or names a variable that is not set; with the form that is meant.
    """
    found = (url or os.environ.get("MAML_STORE") or DEFAULT_URL).strip()
    if server.is_server(found):
        return server.with_driver(found)
    if re.match(r"[A-Za-z]:[\\/]", found):
        path = found.replace("\\", "/")
        raise StoreError(f"store = {found!r} is not a database URL: write {_SQLITE}{path}.")
    if found in ("sqlite:", "sqlite:/", "sqlite://", _SQLITE) or ":memory:" in found:
        raise StoreError(f"store = {found!r} would be gone with the process: name a file, such as {DEFAULT_URL}.")
    if not found.startswith(_SQLITE):
        return found
    path = os.path.expandvars(os.path.expanduser(found.removeprefix(_SQLITE)))
    if re.match(r"~|.*\$\{?\w", path):
        raise StoreError(f"store = {found!r} holds a variable or a home that is not known here: write the path out.")
    return _SQLITE + path


class Database:
    """An SQLAlchemy engine whose every trouble is a `StoreError`. Safe to use from several threads."""

    def __init__(self, url: str, *, creates: bool = True) -> None:
        """Open the database: create it and its tables on first use, migrate an older one after a backup copy.

        One that `creates` none makes no file either where there is none (any more).

        Raises:
            StoreError: it cannot be opened, belongs to another program, or is of a newer version.
            StoreDamagedError: it is not a sound database.
        """
        self.url = url
        self.name = server.shown(url)
        self.path = database_path(url)
        self.is_shared = server.is_server(url)
        options = server.ENGINE_OPTIONS if self.is_shared else {"connect_args": {"timeout": BUSY_SECONDS}}
        try:
            if self.path and creates:
                self._make_folder(self.path)
            elif self.path:
                options = {"creator": partial(_connect_to, self.path.absolute())}
            self.engine = sa.create_engine(url, **options)
        except (sa.exc.ArgumentError, ImportError) as error:
            remedy = "pip install -r requirements-cluster.txt" if self.is_shared else "install its driver"
            raise StoreError(f"store = {self.name!r} cannot be used ({error}): {remedy}.") from None
        if self.path:
            sa.event.listen(self.engine, "connect", _set_pragmas)
            sa.event.listen(self.engine, "begin", _begin)
        if self.is_shared:
            sa.event.listen(self.engine, "connect", server.limit)
        self._file: tuple[int, int] | None = None  # which file it is, of all that may come to have this name
        self._reopening = threading.Lock()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._file = self._present()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @property
    def now(self) -> sa.ColumnElement[float]:
        """Seconds since the epoch by the one clock that all who use the database go by."""
        return server.NOW if self.is_shared else _FILE_NOW

    def exclude(self, connection: Connection, purpose: str) -> None:
        """Have this transaction be the only one with that purpose; on a file, one that writes is so already."""
        if self.is_shared:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(server.lock_number(purpose))))

    def is_over(self, lease: sa.ColumnElement[float], length: float) -> sa.ColumnElement[bool]:
        """Whether a lease until then has run out; where a server was restarted, all have their `length` once more."""
        until = sa.func.greatest(lease, server.STARTED + length) if self.is_shared else lease
        return until < self.now

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[Connection]:
        """All that is done inside is committed together, or not at all.

        Raises:
            StoreError: in one sentence, what is wrong with the database and what to do.
            StoreAwayError: it is held by another process, or its file is gone, which waiting may mend.
        """
        self._follow()
        try:
            with self.engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except MamlError:
            raise
        except sa.exc.DBAPIError as error:
            if self.is_shared:
                raise server.trouble(self.url, error) from None
            self._follow(reopens=False)  # taken away in this very moment, it would be called read-only
            raise self._trouble(str(error.orig)) from None
        except sa.exc.TimeoutError:
            raise StoreAwayError(f"The store {self.name} is asked too much at once: try again.") from None
        except sa.exc.SQLAlchemyError as error:
            raise self._trouble(str(error)) from None

    def _present(self) -> tuple[int, int] | None:
        """Which file has the database's name now; None where there is no such file."""
        try:
            found = os.stat(self.path) if self.path else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None

    def _follow(self, reopens: bool = True) -> None:
        """See that the file is still the one that was opened: SQLite would go on reading one that was deleted.

        Another one in its place (a backup that was put back) is opened instead, if it is sound.

        Raises:
            StoreAwayError: there is none; a new, empty one is not made, since someone may put the old one back.
            StoreError: another one is there that is not a store.
        """
        if self.path is None or self._file is None:
            return
        there = self._present()
        if there == self._file:
            return
        if there is None:
            raise StoreAwayError(
                f"The store {self.path} is gone: its file was moved or deleted while it was in use. Put it back, and "
                "everything goes on; or restart the lab to begin a new store."
            )
        if reopens:
            with self._reopening:
                if there != self._file:
                    self.engine.dispose()
                    self._file = None
                    try:
                        self._prepare()
                    finally:
                        self._file = there

    def _prepare(self) -> None:
        if self.path:
            with self.transaction() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                raise self._trouble(f"malformed: {found}")
        with self.transaction(write=True) as connection:
            if self.is_shared:
                server.check_encoding(self.name, connection)
                self.exclude(connection, "open the store")
            tables = set(sa.inspect(connection).get_table_names())
            if self.is_shared:  # other programs, Optuna among them, have theirs beside the lab's
                tables &= set(metadata.tables)
            if not tables:
                metadata.create_all(connection)
                connection.execute(sa.insert(info).values(name="schema_version", value=str(SCHEMA_VERSION)))
                return
            version = self._version(connection, tables)
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"The store {self.name} was written by a newer version of the lab (schema {version}, this one "
                    f"reads {SCHEMA_VERSION}): update the lab, or use another store with --store."
                )
            if version < SCHEMA_VERSION:
                self._migrate(connection, version)
            for table in metadata.sorted_tables:  # a flipped bit in a table's definition passes SQLite's own check
                there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
                if there != set(table.columns.keys()):
                    raise self._trouble(f"malformed: the table {table.name} does not have its columns")

    def _version(self, connection: Connection, tables: set[str]) -> int:
        text = None
        if "info" in tables and "runs" in tables:
            text = connection.scalar(sa.select(info.c.value).where(info.c.name == "schema_version"))
        if not str(text).isdigit() or int(str(text)) < 1:
            raise StoreError(
                f"The store {self.name} is a database of another program (it has no schema version of this lab): "
                f"choose another {'one' if self.is_shared else 'file'} with --store or MAML_STORE."
            )
        return int(str(text))

    def _migrate(self, connection: Connection, version: int) -> None:
        """Bring the tables up to date, inside a transaction that holds the lock; keep a copy of what was there."""
        if self.path:  # nothing is written yet and nobody else can write, so the file is what was last committed
            shutil.copy2(self.path, unused_name(self.path, f"schema-{version}"))
        for step in range(version, SCHEMA_VERSION):
            MIGRATIONS[step](connection)
        connection.execute(sa.update(info).where(info.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))

    def _make_folder(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store's folder {path.parent} cannot be made ({error.strerror}): "
                "choose another with --store or MAML_STORE."
            ) from None

    def _trouble(self, reason: str) -> StoreError:
        reason = (reason.splitlines() or ["no reason given"])[0]
        kind = StoreDamagedError if any(sign in reason for sign in _DAMAGE) else StoreError
        if "locked" in reason:
            kind = StoreAwayError
        for sign, remedy in _REMEDIES.items():
            if sign in reason:
                return kind(f"The store {self.name} cannot be used ({reason}): {remedy}.")
        return kind(f"The store {self.name} cannot be used ({reason}).")


def database_path(url: str) -> Path | None:
    """The file of an SQLite URL; None for a database in memory or on a server.

    Raises:
        StoreError: this is not a database URL.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise StoreError(
            f"store = {server.shown(url)!r} is not a database URL: it must look like sqlite:///runs/maml.db or "
            "postgresql://USER@HOST/DATABASE."
        ) from None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:"
    return Path(str(parsed.database)) if is_file else None


def log_path(url: str) -> Path:
    """Where the log of whoever uses this database is kept: beside its file, or where the default store would be.

    Raises:
        StoreError: this is not a database URL.
    """
    path = database_path(url) or database_path(DEFAULT_URL) or Path("maml.db")
    return path.with_name(f"{path.name or 'maml.db'}.log")


def set_aside(url: str) -> Path:
    """Give a damaged database another name, so that a new one can be made in its place; return that name.

    Raises:
        StoreError: the file cannot be renamed.
    """
    path = database_path(url)
    if path is None:
        raise StoreError(
            f"The store {server.shown(url)} is not a file and cannot be set aside: choose another with --store."
        )
    aside = unused_name(path, "damaged")
    try:
        journal = path.with_name(path.name + "-journal")
        path.rename(aside)
        if journal.exists():  # it belongs to the damaged file, and must not be rolled back into the new one
            journal.rename(aside.with_name(aside.name + "-journal"))
    except OSError as error:
        raise StoreError(
            f"The damaged store {path} cannot be set aside ({error.strerror}): move it away by hand."
        ) from None
    return aside


def unused_name(path: Path, word: str) -> Path:
    """A name beside `path` that says what it is and when it was made, and that no file has yet."""
    stem = f"{path.stem}.{word}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (path.with_name(f"{stem}{f'-{n}' if n else ''}{path.suffix}") for n in range(1000))
    return next(name for name in names if not name.exists())


_FILE_NOW = sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)
_DAMAGE = ("not a database", "malformed", "Could not decode")
_REMEDIES = {
    "not a database": "it is not a database of this lab; choose another file with --store or MAML_STORE",
    "malformed": "the database is damaged; move it away, or choose another with --store or MAML_STORE",
    "Could not decode": "the database is damaged; move it away, or choose another with --store or MAML_STORE",
    "readonly": "the file or its folder cannot be written; change its permissions, or choose another",
    "unable to open": "the file cannot be opened; check the path and its permissions, or choose another",
    "disk is full": "the disk is full; free some space and resume",
    "locked": "another process is holding it; try again",
}


def _connect_to(path: Path) -> sqlite3.Connection:
    """A connection to a file that is there: by its name alone SQLite would make one."""
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def _set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver's guess
    for pragma in ("journal_mode = DELETE", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes its lock at once: two that read first and write later would end in SQLITE_BUSY.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
