"""The tables of the store, and how those of an older version become them."""

from collections.abc import Callable

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    TypeDecorator,
    inspect,
    text,
)
from sqlalchemy.engine import Connection, Dialect

from maml_core.store.run import NAME_LENGTH

SCHEMA_VERSION = 6


class Words(TypeDecorator[str]):
    """Text of at most so many characters. What SQLite takes and PostgreSQL refuses is made to fit: NUL, and lengths."""

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        """Of at most `length` characters, or of any number."""
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Text on its way into the database."""
        if value is None:
            return None
        return value.replace("\0", "")[: self.length]


metadata = MetaData()

info = Table(
    "info",
    metadata,
    Column("name", Words(40), primary_key=True),
    Column("value", Words(200), nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Words(12), primary_key=True),
    Column("name", Words(NAME_LENGTH), nullable=False),
    Column("preset", Words(40)),
    Column("config", Words(), nullable=False),
    Column("status", Words(12), nullable=False, index=True),
    Column("message", Words(), nullable=False, default=""),
    Column("meta_iterations", Integer, nullable=False),
    Column("iteration", Integer, nullable=False, default=0),
    Column("pre_loss", Float),
    Column("post_loss", Float),
    Column("best_loss", Float),
    Column("best_iteration", Integer),
    Column("rate", Float),
    Column("engine", Words(40)),
    Column("swapped_at", Integer),
    Column("device", Words(20)),
    Column("owner", Words(120)),
    Column("lease", Float, nullable=False, default=0.0),
    Column("lost", Integer, nullable=False, default=0, server_default="0"),
    Column("processor", Words(200)),
    Column("command", Words(8), nullable=False, default="run"),
    Column("until", Integer),
    Column("pace", Float),
    Column("queued", Float),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("notes", Words(), nullable=False, default=""),
    Column("pinned", Boolean, nullable=False, default=False),
    Column("tags", Words(), nullable=False, default="", server_default=""),
    Column("discarded", Float),
    Column("started_by", Words(), nullable=False, default="", server_default=""),
)

metrics = Table(
    "metrics",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("pre_loss", Float, nullable=False),
    Column("post_loss", Float, nullable=False),
    Column("gradient_norm", Float, nullable=False),
    PrimaryKeyConstraint("run_id", "iteration"),
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("kind", Words(8), nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("held_out", Float),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("run_id", "kind", "iteration"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("run_id", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("key", Words(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("data", Words(), nullable=False),
    PrimaryKeyConstraint("run_id", "key"),
)

tables = Table(
    "tables",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("name", Words(80), nullable=False),
    Column("created", Float, nullable=False),
    Column("row_count", Integer, nullable=False),
    Column("columns", Words(), nullable=False),
    Column("roles", Words(), nullable=False, default="{}"),
    Column("data", LargeBinary, nullable=False),
    Column("added_by", Words(), nullable=False, default="", server_default=""),
)


def _add_evaluations(connection: Connection) -> None:
    evaluations.create(connection)


def _add_tables(connection: Connection) -> None:
    tables.create(connection)


def _add_tags(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN tags TEXT NOT NULL DEFAULT ''"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN discarded FLOAT"))


def _add_people(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE runs ADD COLUMN started_by TEXT NOT NULL DEFAULT ''"))
    if "added_by" not in {
        column["name"] for column in inspect(connection).get_columns("tables")
    }:  # just made in step 2
        connection.execute(text("ALTER TABLE tables ADD COLUMN added_by TEXT NOT NULL DEFAULT ''"))


def _add_leases(connection: Connection) -> None:
    # What counted commits says from now on until when a run is its owner's; as a time, its numbers are long over.
    connection.execute(text("ALTER TABLE runs RENAME COLUMN heartbeat TO lease"))
    if connection.dialect.name == "postgresql":
        connection.execute(text("ALTER TABLE runs ALTER COLUMN lease TYPE DOUBLE PRECISION"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN lost INTEGER NOT NULL DEFAULT 0"))
    connection.execute(text("ALTER TABLE runs ADD COLUMN processor VARCHAR(200)"))


MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: _add_evaluations,
    2: _add_tables,
    3: _add_tags,
    4: _add_people,
    5: _add_leases,
}
"""What makes a schema of version `key` one of version `key + 1`."""
