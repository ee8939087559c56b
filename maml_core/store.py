"""The database: runs, metrics, checkpoints. The only channel between training and screens.

A run's life, as its `status`:

    queued ──> running ──> finished | diverged | failed
      ^           ├──────> paused | stopped      (asked for)
      │           └──────> interrupted           (its process is gone)
      └── resume, step ──── paused, stopped, interrupted

Only a `running` run has an owner. It is taken and given back by compare-and-set, so of two that want a run one
gets it and the other is told. Metrics and state of one moment are committed in one transaction.
"""

import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from maml_core.config import RunConfig
from maml_core.database import Database, store_url
from maml_core.errors import RunBusyError, RunNotFoundError, StoreError
from maml_core.owner import is_alive
from maml_core.run import RESUMABLE, Run, as_run
from maml_core.schema import checkpoints, evaluations, metrics, runs
from maml_core.trainer import MetricRow

NOTES_LENGTH = 5000
HEARTBEAT_TIMEOUT = 4.0
"""Seconds without a heartbeat after which a worker on another machine counts as gone."""


@dataclass(frozen=True)
class ImportedRun:
    """A run that was trained elsewhere, checked and ready to be stored."""

    config: RunConfig
    status: str
    values: dict[str, Any]  # further columns of the runs table
    rows: list[MetricRow]
    latest: tuple[int, bytes]  # iteration, checkpoint
    snapshots: list[tuple[int, float, bytes]]  # iteration, held-out loss, checkpoint


class Store:
    """Runs in a database. Safe to use from several threads and processes at once."""

    def __init__(self, url: str | None = None) -> None:
        """Open the database at `url`, else at `$MAML_STORE`, else the default; create it on first use.

        Raises:
            StoreError: the database cannot be opened, is damaged, or is of a newer version.
        """
        self.url = store_url(url)
        self._database = Database(self.url)
        self._transaction = self._database.transaction
        self._beats: dict[str, tuple[int, float]] = {}
        self.unreadable = 0

    def close(self) -> None:
        """Give back the connections."""
        self._database.close()

    # Runs ------------------------------------------------------------------------------------------------------

    def create_run(
        self,
        config: RunConfig,
        *,
        preset: str | None = None,
        name: str | None = None,
        steps: int | None = None,
        owner: str | None = None,
    ) -> str:
        """Queue a new run, for at most `steps` iterations if given, and return its id; an `owner` has it at once."""
        run_id = secrets.token_hex(4)
        now = time.time()
        with self._transaction(write=True) as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(runs)) or 0
            connection.execute(
                sa.insert(runs).values(
                    id=run_id,
                    name=(name or f"{preset or config.tasks.family} {count + 1}")[:80],
                    preset=preset,
                    config=config.to_json(),
                    meta_iterations=config.meta_iterations,
                    until=steps,
                    created=now,
                    **_placed(owner),
                )
            )
        return run_id

    def add_run(self, imported: ImportedRun) -> str:
        """Add a run that was trained elsewhere, with its metrics and checkpoints, and return its new id."""
        run_id = secrets.token_hex(4)
        iteration, data = imported.latest
        last = imported.rows[-1] if imported.rows else None
        with self._transaction(write=True) as connection:
            connection.execute(
                sa.insert(runs).values(
                    imported.values
                    | {
                        "id": run_id,
                        "config": imported.config.to_json(),
                        "status": imported.status,
                        "meta_iterations": imported.config.meta_iterations,
                        "iteration": iteration,
                        "pre_loss": last and last.pre_loss,
                        "post_loss": last and last.post_loss,
                    }
                )
            )
            if imported.rows:
                connection.execute(sa.insert(metrics), [{"run_id": run_id, **row._asdict()} for row in imported.rows])
            _put_snapshots(connection, run_id, imported.snapshots)
            _put(connection, run_id, "latest", iteration, None, data)
        return run_id

    def run(self, run_id: str) -> Run:
        """The run with that id.

        Raises:
            RunNotFoundError: there is none.
        """
        self.mark_interrupted()
        with self._transaction() as connection:
            row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().first()
        if row is None:
            raise RunNotFoundError(
                f"run = {run_id[:40]!r} does not exist in {self.url}; see `python -m maml_core runs`."
            )
        return as_run(row)

    def all_runs(self) -> list[Run]:
        """Every run that can be read, pinned ones first, then the newest first; `unreadable` counts the others."""
        self.mark_interrupted()
        with self._transaction() as connection:
            rows = (
                connection.execute(sa.select(runs).order_by(runs.c.pinned.desc(), runs.c.created.desc()))
                .mappings()
                .all()
            )
        found = []
        self.unreadable = 0
        for row in rows:
            try:
                found.append(as_run(row))
            except StoreError:
                self.unreadable += 1
        return found

    def count(self, *statuses: str) -> int:
        """How many runs have one of these statuses."""
        with self._transaction() as connection:
            query = sa.select(sa.func.count()).select_from(runs).where(runs.c.status.in_(statuses))
            return connection.scalar(query) or 0

    def edit(self, run_id: str, **values: Any) -> None:
        """Change a run's `name`, `notes` or `pinned`.

        Raises:
            StoreError: the name is empty or too long, or the notes are too long.
            RunNotFoundError: there is no such run.
        """
        if "name" in values:
            values["name"] = values["name"].strip()
            if not 1 <= len(values["name"]) <= 80:
                raise StoreError(f"name = {values['name'][:90]!r} is not allowed: it must have 1 to 80 characters.")
        if len(values.get("notes", "")) > NOTES_LENGTH:
            raise StoreError(f"notes of {len(values['notes']):,} characters are not allowed: at most {NOTES_LENGTH:,}.")
        if not self._update(run_id, sa.true(), values):
            self.run(run_id)

    def delete(self, run_id: str) -> None:
        """Delete a run with its metrics and checkpoints.

        Raises:
            RunBusyError: the run is training.
        """
        run = self.run(run_id)
        with self._transaction(write=True) as connection:
            gone = connection.execute(sa.delete(runs).where(runs.c.id == run_id, runs.c.status != "running"))
        if not gone.rowcount:
            raise RunBusyError(f"run = {run_id} ({run.name}) is training: stop it before deleting it.")

    # Asking for something ---------------------------------------------------------------------------------------

    def resume(self, run_id: str, *, steps: int | None = None, owner: str | None = None) -> None:
        """Queue a paused, stopped or interrupted run, for at most `steps` more iterations if given.

        An `owner` has it at once: in the queue, another process could be quicker.

        Raises:
            RunBusyError: the run is already training or queued, or it has come to its end.
        """
        run = self.run(run_id)
        values = _placed(owner) | {"until": run.iteration + steps if steps else None}
        if not self._update(run_id, runs.c.status.in_(RESUMABLE), values):
            raise RunBusyError(
                f"run = {run_id} ({run.name}) is {self.run(run_id).status}: only a paused, stopped or "
                "interrupted run can go on."
            )

    def ask(self, run_id: str, command: str) -> None:
        """Ask a queued or running run to `pause` or `stop`.

        Raises:
            RunBusyError: the run is neither queued nor running.
        """
        ended = {"pause": "paused", "stop": "stopped"}[command]
        if self._update(run_id, runs.c.status == "queued", {"status": ended, "queued": None}):
            return
        if command == "stop" and self._update(run_id, runs.c.status == "paused", {"status": ended}):
            return
        if not self._update(run_id, runs.c.status == "running", {"command": command}):
            raise RunBusyError(f"run = {run_id} is {self.run(run_id).status}: only a training run can {command}.")

    def set_pace(self, run_id: str, pace: float | None) -> None:
        """Limit a run to `pace` meta-iterations per second; None is as fast as it goes."""
        if pace is not None and not (math.isfinite(pace) and pace > 0):
            raise StoreError(f"pace = {pace} is not allowed: it must be a finite number above 0, or null for none.")
        self._update(run_id, sa.true(), {"pace": pace})

    # Owning a run -----------------------------------------------------------------------------------------------

    def claim(self, owner: str, run_id: str | None = None) -> Run | None:
        """Take a queued run, the longest waiting or the one named; None if there is none to take."""
        for _ in range(8):
            with self._transaction() as connection:
                query = sa.select(runs.c.id).where(runs.c.status == "queued").order_by(runs.c.queued)
                found = connection.scalar(query if run_id is None else query.where(runs.c.id == run_id))
            if found is None:
                return None
            if self._update(found, runs.c.status == "queued", _placed(owner)):
                return self.run(found)
        return None

    def control(self, run_id: str, owner: str) -> tuple[str, float | None] | None:
        """What the owner is asked to do (`run`, `pause`, `stop`) and at what pace; None if it owns it no more."""
        with self._transaction() as connection:
            row = connection.execute(
                sa.select(runs.c.command, runs.c.pace).where(runs.c.id == run_id, runs.c.owner == owner)
            ).first()
        return (row[0], row[1]) if row else None

    def commit(
        self,
        run_id: str,
        owner: str,
        *,
        rows: Sequence[MetricRow],
        latest: tuple[int, bytes],
        snapshots: Sequence[tuple[int, float, bytes]] = (),
        values: dict[str, Any] | None = None,
        release: str | None = None,
    ) -> None:
        """Save metrics and state of one moment in one transaction; with `release`, end ownership in that status.

        `latest` is (iteration, checkpoint); `snapshots` are (iteration, held-out loss, checkpoint) for the history.

        Raises:
            RunBusyError: the run is no longer this owner's; nothing was written.
        """
        iteration, data = latest
        changes = {"iteration": iteration, "heartbeat": runs.c.heartbeat + 1, **(values or {})}
        if rows:
            changes |= {"pre_loss": rows[-1].pre_loss, "post_loss": rows[-1].post_loss}
        if release:
            changes |= {"status": release, "owner": None, "until": None}
        with self._transaction(write=True) as connection:
            mine = sa.and_(runs.c.id == run_id, runs.c.owner == owner)
            if not connection.execute(sa.update(runs).where(mine).values(changes)).rowcount:
                raise RunBusyError(f"run = {run_id} is no longer owned by this process.")
            if rows:
                connection.execute(sa.insert(metrics), [{"run_id": run_id, **row._asdict()} for row in rows])
            _put_snapshots(connection, run_id, snapshots)
            _replace(connection, run_id, "latest", iteration, None, data)

    def release(self, run_id: str, owner: str, status: str, message: str = "") -> None:
        """Give a run back without saving anything more."""
        changes = {"status": status, "owner": None, "until": None, "message": message}
        self._update(run_id, runs.c.owner == owner, changes)

    def mark_interrupted(self) -> None:
        """Set `interrupted` on every running run whose process is gone."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(runs.c.id, runs.c.owner, runs.c.heartbeat).where(runs.c.status == "running")
            ).all()
        for run_id, owner, heartbeat in rows:
            if self._is_gone(run_id, owner or "::", heartbeat):
                self._update(
                    run_id,
                    sa.and_(runs.c.status == "running", runs.c.owner == owner),
                    {
                        "status": "interrupted",
                        "owner": None,
                        "message": "The process that trained this run is gone; resume it from its last commit.",
                    },
                )

    def _is_gone(self, run_id: str, owner: str, heartbeat: int) -> bool:
        alive = is_alive(owner)
        if alive is not None:
            return not alive
        beat, since = self._beats.get(run_id, (-1, 0.0))
        if beat != heartbeat:
            self._beats[run_id] = heartbeat, time.monotonic()
            return False
        return time.monotonic() - since > HEARTBEAT_TIMEOUT

    # Reading ----------------------------------------------------------------------------------------------------

    def metrics(self, run_id: str) -> pd.DataFrame:
        """All metric rows of a run: iteration, pre_loss, post_loss, gradient_norm."""
        columns = [metrics.c[name] for name in MetricRow._fields]
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(*columns).where(metrics.c.run_id == run_id).order_by(metrics.c.iteration)
            ).all()
        return pd.DataFrame(rows, columns=list(MetricRow._fields))

    def history(self, run_id: str) -> list[tuple[int, float | None]]:
        """Iteration and held-out loss of every checkpoint in a run's history, in order."""
        with self._transaction() as connection:
            rows = connection.execute(
                sa.select(checkpoints.c.iteration, checkpoints.c.held_out)
                .where(checkpoints.c.run_id == run_id, checkpoints.c.kind == "history")
                .order_by(checkpoints.c.iteration)
            ).all()
        return [(row[0], row[1]) for row in rows]

    def checkpoint(self, run_id: str, kind: str = "latest", iteration: int | None = None) -> bytes | None:
        """Bytes of a run's `latest`, `best` or `history` checkpoint; None if there is none."""
        query = sa.select(checkpoints.c.data).where(checkpoints.c.run_id == run_id, checkpoints.c.kind == kind)
        if iteration is not None:
            query = query.where(checkpoints.c.iteration == iteration)
        with self._transaction() as connection:
            return connection.scalar(query.order_by(checkpoints.c.iteration.desc()))

    def remember(self, run_id: str, key: str, text: str) -> None:
        """Keep what was computed about a run, under a key of 64 characters that says from what."""
        row = {"run_id": run_id, "key": key, "created": time.time(), "data": text}
        with self._transaction(write=True) as connection:
            connection.execute(sa.delete(evaluations).where(evaluations.c.run_id == run_id, evaluations.c.key == key))
            connection.execute(sa.insert(evaluations).values(row))

    def recall(self, run_id: str, key: str) -> str | None:
        """What was remembered under that key; None if nothing was."""
        query = sa.select(evaluations.c.data).where(evaluations.c.run_id == run_id, evaluations.c.key == key)
        with self._transaction() as connection:
            return connection.scalar(query)

    # Plumbing ---------------------------------------------------------------------------------------------------

    def _update(self, run_id: str, condition: Any, values: dict[str, Any]) -> bool:
        with self._transaction(write=True) as connection:
            changed = connection.execute(sa.update(runs).where(runs.c.id == run_id, condition).values(values))
        return changed.rowcount > 0


def _placed(owner: str | None) -> dict[str, Any]:
    """What a run's row says when it waits for any worker, or when `owner` trains it."""
    place: dict[str, Any] = {"command": "run", "message": "", "owner": owner, "heartbeat": 0}
    if owner is None:
        return place | {"status": "queued", "queued": time.time()}
    return place | {"status": "running", "queued": None}


def _put(connection: Connection, run_id: str, kind: str, iteration: int, held_out: float | None, data: bytes) -> None:
    same = sa.and_(checkpoints.c.run_id == run_id, checkpoints.c.kind == kind, checkpoints.c.iteration == iteration)
    connection.execute(sa.delete(checkpoints).where(same))
    connection.execute(
        sa.insert(checkpoints).values(run_id=run_id, kind=kind, iteration=iteration, held_out=held_out, data=data)
    )


def _put_snapshots(connection: Connection, run_id: str, snapshots: Sequence[tuple[int, float, bytes]]) -> None:
    """Add to a run's history, and keep the best by held-out loss."""
    best = connection.scalar(sa.select(runs.c.best_loss).where(runs.c.id == run_id))
    for at, held_out, data in snapshots:
        finite = held_out if math.isfinite(held_out) else None
        _put(connection, run_id, "history", at, finite, data)
        if finite is not None and (best is None or finite < best):
            best = finite
            _replace(connection, run_id, "best", at, finite, data)
            connection.execute(sa.update(runs).where(runs.c.id == run_id).values(best_loss=finite, best_iteration=at))


def _replace(
    connection: Connection, run_id: str, kind: str, iteration: int, held_out: float | None, data: bytes
) -> None:
    connection.execute(sa.delete(checkpoints).where(checkpoints.c.run_id == run_id, checkpoints.c.kind == kind))
    _put(connection, run_id, kind, iteration, held_out, data)
