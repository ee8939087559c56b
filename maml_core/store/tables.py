"""Tables of the user's own, kept by the hash of their content, with a name and what their columns are for."""

import dataclasses
import json
import time
from typing import Any, NamedTuple

import sqlalchemy as sa

from maml_core.errors import NotYoursError, StoreError
from maml_core.learning.table import (
    EXAMPLES,
    NAME_LENGTH,
    Column,
    ColumnKind,
    Table,
    example,
    forget,
    holds_images,
    keep,
)
from maml_core.learning.table_roles import Roles
from maml_core.store.base import StorePart, belongs_to, put
from maml_core.store.schema import runs, tables


class TableRow(NamedTuple):
    """A table as the list of a store's tables shows it."""

    id: str
    name: str
    created: float | None  # seconds since the epoch; None for the example that is always there
    row_count: int
    columns: list[Column]
    roles: Roles | None  # what the columns are for, where someone has said
    added_by: str = ""  # who, on a lab that people log in to

    @property
    def is_of_images(self) -> bool:
        """Whether it is one of images and their classes."""
        return holds_images(self.columns)

    @property
    def extent(self) -> str:
        """How much it holds, in words."""
        return f"{self.row_count:,} {'images' if self.is_of_images else 'rows'}"


class Tables(StorePart):
    """The tables of a store."""

    def add_table(self, table: Table, roles: Roles | None = None) -> str:
        """Keep a table and return its id; of one that is here already, the name and the given roles are replaced.

        Those of somebody else's table stay as they are.
        """
        given = {"roles": _written(roles)} if roles else {}
        mine = tables.c.id == table.id
        with self.transaction(write=True) as connection:
            there = connection.execute(sa.select(tables.c.added_by).where(mine)).first()
            if there and not self.may_change(there.added_by):
                return table.id
            if there:
                connection.execute(sa.update(tables).where(mine).values(name=table.name, **given))
            else:
                row = {
                    "id": table.id,
                    "name": table.name,
                    "created": time.time(),
                    "row_count": table.rows,
                    "columns": json.dumps([list(column) for column in table.columns]),
                    "data": table.to_parquet(),
                    "added_by": self._person_name,
                    **({"roles": "{}"} | given),
                }
                put(connection, tables, row, ["name", *given])  # another program may be adding it, too
        keep(table)
        return table.id

    def all_tables(self) -> list[TableRow]:
        """The tables of this store, the newest first, and the examples last."""
        names = ("id", "name", "created", "row_count", "columns", "roles", "added_by")
        columns = [tables.c[name] for name in names]
        with self.transaction() as connection:
            rows = connection.execute(sa.select(*columns).order_by(tables.c.created.desc())).all()
        found = [
            TableRow(
                row.id, row.name, row.created, row.row_count, _columns(row.columns), _roles(row.roles), row.added_by
            )
            for row in rows
        ]
        known = {row.id for row in found}
        for made in (make() for make in EXAMPLES):
            if made.id not in known:
                roles = Roles("sensor", ("reading",), ("temperature (°C)",)) if made is example() else None
                found.append(TableRow(made.id, made.name, None, made.rows, made.columns, roles))
        return found

    def table_row(self, table_id: str) -> TableRow:
        """The one table whose id begins like this.

        Raises:
            StoreError: there is none, or more than one.
        """
        found = [row for row in self.all_tables() if table_id and row.id.startswith(table_id.lower())]
        if len(found) != 1:
            what = "is the beginning of several tables" if found else f"is not a table of {self.database.name}"
            raise StoreError(f"table = {table_id[:80]!r} {what}; see `python -m maml_core tables`.")
        return found[0]

    def table_or_none(self, table_id: str) -> Table | None:
        """The table with that id, if this store has it."""
        with self.transaction() as connection:
            row = connection.execute(sa.select(tables).where(tables.c.id == table_id)).first()
        if row is None:
            return None
        try:
            table = Table.from_parquet(row.name, _columns(row.columns), row.data)
        except Exception:  # whatever a damaged Parquet file, or one of another pyarrow, makes it raise
            table = None
        if table is None or table.id != table_id:
            raise StoreError(f"The table {row.name} ({table_id[:12]}) is damaged: delete it and add its file anew.")
        return table

    def set_roles(self, table_id: str, roles: Roles) -> None:
        """Keep what a table's columns are for.

        Raises:
            NotYoursError: somebody else brought it.
        """
        self._check_may_change_table(table_id)
        with self.transaction(write=True) as connection:
            connection.execute(sa.update(tables).where(tables.c.id == table_id).values(roles=_written(roles)))

    def rename_table(self, table_id: str, name: str) -> None:
        """Give a table another name.

        Raises:
            StoreError: the name is empty or too long, or the table is not of this store.
            NotYoursError: somebody else brought it.
        """
        self._check_may_change_table(table_id)
        name = name.strip()
        if not 1 <= len(name) <= NAME_LENGTH:
            raise StoreError(f"name = {name[:90]!r} is not allowed: it must have 1 to {NAME_LENGTH} characters.")
        with self.transaction(write=True) as connection:
            changed = connection.execute(sa.update(tables).where(tables.c.id == table_id).values(name=name))
        if not changed.rowcount:
            raise StoreError("The example table cannot be renamed: it is part of the lab.")

    def runs_of_table(self, table_id: str) -> list[str]:
        """The ids of runs that need a table."""
        with self.transaction() as connection:
            query = sa.select(runs.c.id).where(runs.c.config.contains(table_id, autoescape=True))
            return list(connection.scalars(query))

    def remove_table(self, table_id: str, *, with_runs: bool = False) -> None:
        """Delete a table, and the runs that need it where that is asked for.

        Raises:
            StoreError: runs need it, or it is not of this store.
            RunBusyError: such a run is training.
            NotYoursError: somebody else brought the table, or started such a run; nothing was deleted.
        """
        self._check_may_change_table(table_id)
        needed = self.runs_of_table(table_id)
        if needed and not with_runs:
            raise StoreError(
                f"table = {table_id[:12]} is needed by {len(needed)} run{'s' if len(needed) > 1 else ''} "
                f"({', '.join(needed[:5])}): delete them first, or along with it (--with-runs)."
            )
        for run_id in needed:
            self._check_may_change(run_id)
        for run_id in needed:
            self.delete(run_id)
        with self.transaction(write=True) as connection:
            gone = connection.execute(sa.delete(tables).where(tables.c.id == table_id))
        if not gone.rowcount:
            raise StoreError("The example table cannot be deleted: it is part of the lab.")
        forget(table_id)

    def _check_may_change_table(self, table_id: str) -> None:
        """Refuse to change somebody else's table; of one that is not in the store, the action itself says so."""
        if self.person is None:
            return
        with self.transaction() as connection:
            row = connection.execute(sa.select(tables.c.name, tables.c.added_by).where(tables.c.id == table_id)).first()
        if row and not self.may_change(row.added_by):
            raise NotYoursError(f"table = {table_id[:12]} ({row.name}) {belongs_to(row.added_by, 'brought')}")


def _written(roles: Roles) -> str:
    return json.dumps(dataclasses.asdict(roles))


def _columns(text: str) -> list[Column]:
    return [Column(name, ColumnKind(kind), written) for name, kind, written in json.loads(text)]


def _roles(text: str) -> Roles | None:
    data: dict[str, Any] = json.loads(text)
    if not data:
        return None
    return Roles(data["task"], tuple(data["inputs"]), tuple(data["outputs"]), data.get("why", ""))
