"""A connection to the store's database: opening, transactions, and its troubles in plain words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from maml_core.errors import MamlError, StoreError
from maml_core.schema import SCHEMA_VERSION, info, metadata

BUSY_SECONDS = 10.0
"""How long to wait for another process's transaction to end."""


class Database:
    """An SQLAlchemy engine whose every trouble is a `StoreError`. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Open the database, creating it and its tables on first use.

        Raises:
            StoreError: it cannot be opened, is damaged, or is of a newer version.
        """
        self.url = url
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise StoreError(
                f"store = {url!r} is not a database URL: it must look like sqlite:///runs/maml.db."
            ) from None
        is_file = parsed.get_backend_name() == "sqlite" and bool(parsed.database)
        if is_file:
            self._make_folder(Path(str(parsed.database)))
        try:
            self._engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS} if is_file else {})
        except (sa.exc.ArgumentError, ImportError) as error:
            raise StoreError(f"store = {url!r} cannot be used: {error}; install its driver.") from None
        if is_file:
            sa.event.listen(self._engine, "connect", _set_pragmas)
            sa.event.listen(self._engine, "begin", _begin)
        self._prepare()

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, write: bool = False) -> Iterator[Connection]:
        """All that is done inside is committed together, or not at all.

        Raises:
            StoreError: in one sentence, what is wrong with the database and what to do.
        """
        try:
            with self._engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except MamlError:
            raise
        except sa.exc.DBAPIError as error:
            raise StoreError(self._sentence(str(error.orig))) from None
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(self._sentence(str(error))) from None

    def _prepare(self) -> None:
        with self.transaction(write=True) as connection:
            metadata.create_all(connection)
            version = connection.scalar(sa.select(info.c.value).where(info.c.name == "schema_version"))
            if version is None:
                connection.execute(sa.insert(info).values(name="schema_version", value=str(SCHEMA_VERSION)))
            elif int(version) > SCHEMA_VERSION:
                raise StoreError(
                    f"The store {self.url} was written by a newer version of the lab (schema {version}, this one "
                    f"reads {SCHEMA_VERSION}): update the lab, or use another store with --store."
                )

    def _make_folder(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store's folder {path.parent} cannot be made ({error.strerror}): "
                "choose another with --store or MAML_STORE."
            ) from None

    def _sentence(self, reason: str) -> str:
        reason = reason.splitlines()[0]
        for sign, remedy in _REMEDIES.items():
            if sign in reason:
                return f"The store {self.url} cannot be used ({reason}): {remedy}."
        return f"The store {self.url} cannot be used ({reason})."


_REMEDIES = {
    "not a database": "it is not a database of this lab; choose another file with --store or MAML_STORE",
    "malformed": "the database is damaged; move it away, or choose another with --store or MAML_STORE",
    "readonly": "the file or its folder cannot be written; change its permissions, or choose another",
    "unable to open": "the file cannot be opened; check the path and its permissions, or choose another",
    "disk is full": "the disk is full; free some space and resume",
    "locked": "another process is holding it; try again",
}


def _set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver's guess
    for pragma in ("journal_mode = DELETE", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A writer takes its lock at once: two that read first and write later would end in SQLITE_BUSY.
    write = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
