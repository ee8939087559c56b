"""Who trains a run: asking, taking, giving back. Only a `running` run has an owner.

It is taken and given back by compare-and-set, so of two that want a run one gets it and the other is told.
"""

import math
import time
from collections.abc import Sequence

import sqlalchemy as sa

from maml_core.config import RunConfig
from maml_core.errors import RunBusyError, StoreError
from maml_core.milestones import MetricRow
from maml_core.processes import is_alive
from maml_core.store.base import Saved, Snapshot, StorePart, Vitals, placed, put_snapshots, replace_checkpoint
from maml_core.store.database import Database
from maml_core.store.run import RESUMABLE, Run
from maml_core.store.schema import metrics, runs

HEARTBEAT_TIMEOUT = 4.0
"""Seconds without a heartbeat after which a worker on another machine counts as gone."""


class Ownership(StorePart):
    """The part of a store that says who may train a run, and what its owner is asked to do."""

    def __init__(self, database: Database) -> None:
        """Work on this database."""
        super().__init__(database)
        self._beats: dict[str, tuple[int, float]] = {}

    # Asking for something ---------------------------------------------------------------------------------------

    def resume(
        self,
        run_id: str,
        *,
        steps: int | None = None,
        owner: str | None = None,
        config: RunConfig | None = None,
    ) -> None:
        """Queue a paused, stopped, interrupted or failed run, for at most `steps` more iterations if given.

        An `owner` has it at once: in the queue, another process could be quicker. A `config` takes the place of the
        run's own; one with a later end lets a finished run go on.

        Raises:
            RunBusyError: the run is already training or queued, or it has come to its end.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        run = self.run(run_id)
        values = placed(owner) | {"until": run.iteration + steps if steps else None}
        resumable: tuple[str, ...] = RESUMABLE
        if config is not None:
            values |= {"config": config.to_json(), "meta_iterations": config.meta_iterations}
            resumable += ("finished",) if config.meta_iterations > run.iteration else ()
        if not self._update(run_id, runs.c.status.in_(resumable), values):
            raise RunBusyError(
                f"run = {run_id} ({run.name}) is {self.run(run_id).status}: only a paused, stopped, "
                "interrupted or failed run can be resumed."
            )

    def ask(self, run_id: str, command: str) -> None:
        """Ask a queued or running run to `pause` or `stop`.

        Raises:
            RunBusyError: the run is neither queued nor running.
            NotYoursError: somebody else started it.
        """
        self._check_may_change(run_id)
        ended = {"pause": "paused", "stop": "stopped"}[command]
        if self._update(run_id, runs.c.status == "queued", {"status": ended, "queued": None}):
            return
        if command == "stop" and self._update(run_id, runs.c.status == "paused", {"status": ended}):
            return
        if not self._update(run_id, runs.c.status == "running", {"command": command}):
            raise RunBusyError(f"run = {run_id} is {self.run(run_id).status}: only a training run can {command}.")

    def set_pace(self, run_id: str, pace: float | None) -> None:
        """Limit a run to `pace` meta-iterations per second; None is as fast as it goes.

        Raises:
            StoreError: the pace is no finite number above 0.
            NotYoursError: somebody else started the run.
        """
        self._check_may_change(run_id)
        if pace is not None and not (math.isfinite(pace) and pace > 0):
            raise StoreError(f"pace = {pace} is not allowed: it must be a finite number above 0, or null for none.")
        self._update(run_id, sa.true(), {"pace": pace})

    # Owning a run -----------------------------------------------------------------------------------------------

    def claim(self, owner: str, run_id: str | None = None) -> Run | None:
        """Take a queued run, the longest waiting or the one named; None if there is none to take."""
        for _ in range(8):
            with self.transaction() as connection:
                query = sa.select(runs.c.id).where(runs.c.status == "queued").order_by(runs.c.queued)
                found = connection.scalar(query if run_id is None else query.where(runs.c.id == run_id))
            if found is None:
                return None
            if self._update(found, runs.c.status == "queued", placed(owner)):
                return self.run(found)
        return None

    def control(self, run_id: str, owner: str) -> tuple[str, float | None] | None:
        """What the owner is asked to do (`run`, `pause`, `stop`) and at what pace; None if it owns it no more."""
        with self.transaction() as connection:
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
        latest: Saved,
        snapshots: Sequence[Snapshot] = (),
        vitals: Vitals | None = None,
        release: str | None = None,
    ) -> None:
        """Save metrics and state of one moment in one transaction; with `release`, end ownership in that status.

        `snapshots` are for the run's history; `vitals` stay as they were where None.

        Raises:
            RunBusyError: the run is no longer this owner's; nothing was written.
        """
        changes = {"iteration": latest.iteration, "heartbeat": runs.c.heartbeat + 1}
        changes |= vitals._asdict() if vitals else {}
        if rows:
            changes |= {"pre_loss": rows[-1].pre_loss, "post_loss": rows[-1].post_loss}
        if release:
            changes |= {"status": release, "owner": None, "until": None}
        with self.transaction(write=True) as connection:
            mine = sa.and_(runs.c.id == run_id, runs.c.owner == owner)
            if not connection.execute(sa.update(runs).where(mine).values(changes)).rowcount:
                raise RunBusyError(f"run = {run_id} is no longer owned by this process.")
            if rows:
                connection.execute(sa.insert(metrics), [{"run_id": run_id, **row._asdict()} for row in rows])
            put_snapshots(connection, run_id, snapshots)
            replace_checkpoint(connection, run_id, "latest", latest.iteration, None, latest.data)

    def release(self, run_id: str, owner: str, status: str, message: str = "") -> None:
        """Give a run back without saving anything more."""
        changes = {"status": status, "owner": None, "until": None, "message": message}
        self._update(run_id, runs.c.owner == owner, changes)

    def mark_interrupted(self) -> None:
        """Set `interrupted` on every running run whose process is gone."""
        with self.transaction() as connection:
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
