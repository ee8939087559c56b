"""The database: runs, metrics, checkpoints. The only channel between training and screens.

A run's life, as its `status`:

    queued ──> running ──> finished | diverged | failed
      ^           ├──────> paused | stopped      (asked for)
      │           └──────> interrupted           (its process is gone)
      └── resume, step ──── paused, stopped, interrupted, failed

Only a `running` run has an owner. It is taken and given back by compare-and-set, so of two that want a run one
gets it and the other is told. Metrics and state of one moment are committed in one transaction.
"""

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, RunBusyError, RunNotFoundError, StoreError
from maml_core.learning.table import Table, offer, withdraw
from maml_core.milestones import MetricRow
from maml_core.presets import PRESETS
from maml_core.store.archive import Archive
from maml_core.store.base import Saved, Snapshot, Vitals, put_checkpoint, put_snapshots
from maml_core.store.database import Database, store_url
from maml_core.store.ownership import Ownership
from maml_core.store.run import NAME_LENGTH, NOTES_LENGTH, RESUMABLE, TAGS_LENGTH, Run, as_run
from maml_core.store.schema import metrics, runs
from maml_core.store.tables import Tables


@dataclass(frozen=True)
class ImportedRun:
    """A run that was trained elsewhere, checked and ready to be stored."""

    config: RunConfig
    name: str
    preset: str | None
    notes: str
    tags: str
    status: str
    created: float
    swapped_at: int | None  # where an earlier version's compiled loop took over
    vitals: Vitals
    rows: list[MetricRow]
    latest: Saved
    snapshots: list[Snapshot]
    table: Table | None = None  # that the run is on, where its rows came along


UNDO_SECONDS = 10.0
"""How long a discarded run can be restored."""


class Found(NamedTuple):
    """A run that was asked for, and whether it had to be made."""

    id: str
    status: str
    is_new: bool


class Listing(NamedTuple):
    """The runs of a store."""

    runs: list[Run]  # pinned ones first, then the newest first
    unreadable: int  # how many rows are damaged, and left as they are


class Store(Archive, Ownership, Tables):
    """Runs in a database. Safe to use from several threads and processes at once.

    >>> from tempfile import TemporaryDirectory
    >>> from maml_core import RunConfig, Store
    >>> with TemporaryDirectory() as folder:
    ...     store = Store(f"sqlite:///{folder}/runs.db")
    ...     run = store.run(store.create_run(RunConfig(), name="my first"))
    ...     store.close()
    >>> run.name, run.status
    ('my first', 'queued')
    """

    def __init__(self, url: str | None = None, *, creates: bool = True) -> None:
        """Open the database at `url`, else at `$MAML_STORE`, else the default; create it on first use if it `creates`.

        Raises:
            StoreError: the database cannot be opened, is damaged, or is of a newer version.
        """
        self.url = store_url(url)
        super().__init__(Database(self.url, creates=creates))
        offer(self.table_or_none)

    def close(self) -> None:
        """Close the connections."""
        withdraw(self.table_or_none)
        self.database.close()

    # Runs ------------------------------------------------------------------------------------------------------

    def create_run(
        self,
        config: RunConfig,
        *,
        preset: str | None = None,
        name: str | None = None,
        steps: int | None = None,
        owner: str | None = None,
        tags: str = "",
    ) -> str:
        """Queue a new run, for at most `steps` iterations if given, and return its id; an `owner` has it at once.

        A run is called by its preset, or by its tasks where those are of another family. One on a table is called by
        the table's name, and is no run of a preset: those have tasks of their own.
        """
        is_of_preset = preset in PRESETS and PRESETS[preset].config.tasks.family == config.tasks.family
        title = preset if preset and is_of_preset else config.tasks.family
        if config.tasks.table_id is not None:
            title = self.table_row(config.tasks.table_id).name
        with self.transaction(write=True) as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(runs)) or 0
            return self._insert(connection, config, preset, name or f"{title[:60]} {count + 1}", steps, owner, tags)

    def create_missing(self, configs: Mapping[str, RunConfig], *, tag: str, preset: str | None) -> list["Found"]:
        """Queue a run for each of these configurations, by their titles, that has none with this tag yet.

        One that somebody else has stopped does not count: it is not this person's to resume. In one transaction, so
        that of several programs that want the same runs one makes them.
        """
        self.mark_lost()
        columns = runs.c.id, runs.c.config, runs.c.status, runs.c.tags, runs.c.started_by
        query = sa.select(*columns).where(runs.c.tags.contains(tag, autoescape=True), runs.c.discarded.is_(None))
        with self.transaction(write=True) as connection:
            self.database.exclude(connection, f"create runs of {tag}")
            known = {}
            for row in connection.execute(query.order_by(runs.c.created)):
                tags = [one.strip() for one in row.tags.split(",")]
                if tag in tags and (self.may_change(row.started_by) or row.status not in RESUMABLE):
                    with suppress(ConfigError):
                        known[RunConfig.from_json(row.config).to_json()] = Found(row.id, row.status, is_new=False)
            found = []
            for title, config in configs.items():
                there = known.get(config.to_json())
                if there is None:
                    run_id = self._insert(connection, config, preset, f"{tag} {title}", None, None, tag)
                    there = Found(run_id, "queued", is_new=True)
                found.append(there)
        return found

    def _insert(
        self,
        connection: Connection,
        config: RunConfig,
        preset: str | None,
        name: str,
        steps: int | None,
        owner: str | None,
        tags: str,
    ) -> str:
        run_id = secrets.token_hex(4)
        connection.execute(
            sa.insert(runs).values(
                id=run_id,
                name=name[:NAME_LENGTH],
                preset=None if config.is_on_table else preset,
                config=config.to_json(),
                meta_iterations=config.meta_iterations,
                until=steps,
                tags=tags[:TAGS_LENGTH],
                created=time.time(),
                started_by=self._person_name,
                **self._placed(owner),
            )
        )
        return run_id

    def add_run(self, imported: ImportedRun) -> str:
        """Add a run that was trained elsewhere, with its metrics and checkpoints, and return its new id."""
        run_id = secrets.token_hex(4)
        last = imported.rows[-1] if imported.rows else None
        with self.transaction(write=True) as connection:
            connection.execute(
                sa.insert(runs).values(
                    id=run_id,
                    name=imported.name,
                    preset=imported.preset,
                    notes=imported.notes,
                    tags=imported.tags,
                    config=imported.config.to_json(),
                    status=imported.status,
                    created=imported.created,
                    started_by=self._person_name,
                    swapped_at=imported.swapped_at,
                    meta_iterations=imported.config.meta_iterations,
                    iteration=imported.latest.iteration,
                    pre_loss=last and last.pre_loss,
                    post_loss=last and last.post_loss,
                    **imported.vitals._asdict(),
                )
            )
            if imported.rows:
                connection.execute(sa.insert(metrics), [{"run_id": run_id, **row._asdict()} for row in imported.rows])
            put_snapshots(connection, run_id, imported.snapshots)
            put_checkpoint(connection, run_id, "latest", imported.latest.iteration, None, imported.latest.data)
        return run_id

    def run(self, run_id: str) -> Run:
        """The run with that id.

        Raises:
            RunNotFoundError: there is none.
        """
        self.mark_lost()
        with self.transaction() as connection:
            query = sa.select(runs).where(runs.c.id == run_id, runs.c.discarded.is_(None))
            row = connection.execute(query).mappings().first()
        if row is None:
            raise RunNotFoundError(
                f"run = {run_id[:40]!r} does not exist in {self.database.name}; see `python -m maml_core runs`."
            )
        return as_run(row)

    def listing(self) -> Listing:
        """Every run that can be read, and how many cannot."""
        self.mark_lost()
        self.purge()
        with self.transaction() as connection:
            rows = (
                connection.execute(
                    sa.select(runs)
                    .where(runs.c.discarded.is_(None))
                    .order_by(runs.c.pinned.desc(), runs.c.created.desc())
                )
                .mappings()
                .all()
            )
        found, unreadable = [], 0
        for row in rows:
            try:
                found.append(as_run(row))
            except StoreError:
                unreadable += 1
        return Listing(found, unreadable)

    def all_runs(self) -> list[Run]:
        """Every run that can be read, pinned ones first, then the newest first."""
        return self.listing().runs

    def count(self, *statuses: str) -> int:
        """How many runs have one of these statuses."""
        with self.transaction() as connection:
            query = sa.select(sa.func.count()).select_from(runs)
            query = query.where(runs.c.status.in_(statuses), runs.c.discarded.is_(None))
            return connection.scalar(query) or 0

    def edit(
        self,
        run_id: str,
        *,
        name: str | None = None,
        notes: str | None = None,
        tags: str | None = None,
        pinned: bool | None = None,
    ) -> None:
        """Change a run's name, notes, tags, or whether it is pinned; what is None stays.

        Raises:
            StoreError: the name is empty or too long, or the notes or the tags are too long.
            RunNotFoundError: there is no such run.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        if name is not None:
            name = name.strip()
            if not 1 <= len(name) <= NAME_LENGTH:
                raise StoreError(f"name = {name[:90]!r} is not allowed: it must have 1 to {NAME_LENGTH} characters.")
        if notes is not None and len(notes) > NOTES_LENGTH:
            raise StoreError(f"notes of {len(notes):,} characters are not allowed: at most {NOTES_LENGTH:,}.")
        if tags is not None:
            tags = ", ".join(dict.fromkeys(filter(None, map(str.strip, tags.split(",")))))
            if len(tags) > TAGS_LENGTH:
                raise StoreError(f"tags of {len(tags):,} characters are not allowed: at most {TAGS_LENGTH:,}.")
        given = {"name": name, "notes": notes, "tags": tags, "pinned": pinned}
        values = {key: value for key, value in given.items() if value is not None}
        if not values or not self._update(run_id, sa.true(), values):
            self.run(run_id)

    def delete(self, run_id: str) -> None:
        """Delete a run with its metrics and checkpoints, for good.

        Raises:
            RunBusyError: the run is training.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        with self.transaction(write=True) as connection:
            gone = connection.execute(sa.delete(runs).where(runs.c.id == run_id, runs.c.status != "running"))
        if not gone.rowcount:
            name = self.run(run_id).name
            raise RunBusyError(f"run = {run_id} ({name}) is training: stop it before deleting it.")

    def discard(self, run_id: str) -> None:
        """Delete a run so that it can be restored for `UNDO_SECONDS`; then whoever looks next deletes it for good.

        Raises:
            RunBusyError: the run is training.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        run = self.run(run_id)
        values: dict[str, Any] = {"discarded": self.database.now}
        if run.status == "queued":  # a worker must not take what nobody sees
            values |= {"status": "stopped", "queued": None}
        if not self._update(run_id, sa.and_(runs.c.status != "running", runs.c.discarded.is_(None)), values):
            raise RunBusyError(f"run = {run_id} ({run.name}) is training: stop it before deleting it.")

    def restore(self, run_id: str) -> None:
        """Take back `discard`.

        Raises:
            RunNotFoundError: it is too late.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        self._update(run_id, sa.true(), {"discarded": None})
        self.run(run_id)

    def purge(self) -> None:
        """Delete for good what was discarded more than `UNDO_SECONDS` ago."""
        late = runs.c.discarded < self.database.now - UNDO_SECONDS
        with self.transaction() as connection:
            found = connection.scalar(sa.select(sa.func.count()).select_from(runs).where(late))
        if found:
            with self.transaction(write=True) as connection:
                connection.execute(sa.delete(runs).where(late))
