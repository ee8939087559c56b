"""What the parts of a store share: its database, and the plain records that go in and out."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from maml_core.errors import NotYoursError
from maml_core.store.database import Database
from maml_core.store.people import Person
from maml_core.store.run import Run
from maml_core.store.schema import checkpoints, runs
from maml_core.words import one_line


class Saved(NamedTuple):
    """A checkpoint as bytes."""

    iteration: int
    data: bytes


class Snapshot(NamedTuple):
    """A checkpoint for a run's history, and how it was judged."""

    iteration: int
    held_out: float  # mean query loss on held-out tasks; infinite where it is not finite
    data: bytes


class Vitals(NamedTuple):
    """How a run's training is going, as of a commit."""

    rate: float | None = None  # meta-iterations per second
    seconds: float = 0.0  # trained for, over all stretches
    started: float | None = None  # seconds since the epoch
    engine: str | None = None
    device: str | None = None
    message: str = ""
    processor: str | None = None


LEASE_SECONDS = 30.0
"""How long a run stays its owner's without a sign of life, where nobody can see whether that process lives."""


class StorePart(ABC):
    """A part of a store: all of them work on one database."""

    person: Person | None = None
    """On whose behalf it works; None, as at the command line and in workers: of whoever has the machine."""

    def __init__(self, database: Database) -> None:
        """Work on this database."""
        self.database = database
        self.transaction = database.transaction

    def on_behalf_of(self, person: Person | None) -> Self:
        """The same store for one person, who may look at everything and change what is their own."""
        other = copy.copy(self)
        other.person = person
        return other

    def may_change(self, started_by: str) -> bool:
        """Whether what `started_by` has made may be changed from here."""
        return self.person is None or self.person.may_change(started_by)

    @abstractmethod
    def run(self, run_id: str) -> Run:
        """The run with that id."""

    @abstractmethod
    def delete(self, run_id: str) -> None:
        """Delete a run with its metrics and checkpoints."""

    @property
    def _person_name(self) -> str:
        return self.person.name if self.person else ""

    def _check_may_change(self, run_id: str) -> None:
        """Refuse to change somebody else's run.

        Raises:
            NotYoursError: it is not this person's.
        """
        if self.person is None:
            return
        with self.transaction() as connection:
            row = connection.execute(sa.select(runs.c.name, runs.c.started_by).where(runs.c.id == run_id)).first()
        if row and not self.may_change(row.started_by):
            raise NotYoursError(f"run = {run_id} ({one_line(row.name)}) {belongs_to(row.started_by, 'started')}")

    def _placed(self, owner: str | None) -> dict[str, Any]:
        """What a run's row says when it waits for any worker, or when `owner` trains it."""
        now = self.database.now
        place: dict[str, Any] = {"command": "run", "message": "", "owner": owner}
        if owner is None:
            return place | {"status": "queued", "queued": now, "lease": 0.0}
        return place | {"status": "running", "queued": None, "lease": now + LEASE_SECONDS}

    def _update(self, run_id: str, condition: Any, values: dict[str, Any]) -> bool:
        """Set columns of a run's row where the condition holds; whether it did."""
        with self.transaction(write=True) as connection:
            changed = connection.execute(sa.update(runs).where(runs.c.id == run_id, condition).values(values))
        return changed.rowcount > 0


def belongs_to(name: str, verb: str) -> str:
    """The rest of a sentence that refuses to change what somebody else has made."""
    if name:
        return f"was {verb} by {name}: only they or an admin can change it."
    return f"was {verb} without a login: only an admin can change it."


def put(connection: Connection, table: sa.Table, row: dict[str, Any], replaced: Sequence[str]) -> None:
    """Insert a row, or where one with its key is there, replace these columns of it."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = insert(table).values(row)
    connection.execute(
        values.on_conflict_do_update(
            index_elements=list(table.primary_key.columns), set_={name: row[name] for name in replaced}
        )
    )


def put_checkpoint(
    connection: Connection, run_id: str, kind: str, iteration: int, held_out: float | None, data: bytes
) -> None:
    """Keep a checkpoint of that kind and iteration, in place of one that is there."""
    row = {"run_id": run_id, "kind": kind, "iteration": iteration, "held_out": held_out, "data": data}
    put(connection, checkpoints, row, ["held_out", "data"])


def put_snapshots(connection: Connection, run_id: str, snapshots: Sequence[Snapshot]) -> None:
    """Add to a run's history, and keep the best by held-out loss."""
    best = connection.scalar(sa.select(runs.c.best_loss).where(runs.c.id == run_id))
    for at, held_out, data in snapshots:
        finite = held_out if math.isfinite(held_out) else None
        put_checkpoint(connection, run_id, "history", at, finite, data)
        if finite is not None and (best is None or finite < best):
            best = finite
            replace_checkpoint(connection, run_id, "best", at, finite, data)
            connection.execute(sa.update(runs).where(runs.c.id == run_id).values(best_loss=finite, best_iteration=at))


def replace_checkpoint(
    connection: Connection, run_id: str, kind: str, iteration: int, held_out: float | None, data: bytes
) -> None:
    """Keep a checkpoint as the only one of its kind."""
    connection.execute(sa.delete(checkpoints).where(checkpoints.c.run_id == run_id, checkpoints.c.kind == kind))
    put_checkpoint(connection, run_id, kind, iteration, held_out, data)
