"""Who trains a run: asking, taking, giving back. Only a `running` run has an owner.

It is taken and given back by compare-and-set, so of two that want a run one gets it and the other is told. It is its
owner's until a lease runs out, which every commit renews; on one machine, whoever looks sees sooner that a process is
gone. In a file, such a run is interrupted and waits for its user. In a database that several machines share, it is
queued again for whoever is free, unless it has lost `MOST_LOST` processes: then it may be what ends them.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, RunBusyError, StoreAwayError, StoreError
from maml_core.milestones import MetricRow
from maml_core.processes import is_alive
from maml_core.store.base import (
    LEASE_SECONDS,
    Saved,
    Snapshot,
    StorePart,
    Vitals,
    put_snapshots,
    replace_checkpoint,
)
from maml_core.store.run import RESUMABLE, Run
from maml_core.store.schema import metrics, runs

MOST_LOST = 3
"""Processes that a run may lose, one after the other, before it is given to nobody any more."""


class Ownership(StorePart):
    """The part of a store that says who may train a run, and what its owner is asked to do."""

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
        values = self._placed(owner) | {"until": run.iteration + steps if steps else None, "lost": 0}
        resumable: tuple[str, ...] = RESUMABLE
        if config is not None:
            values |= {"config": config.to_json(), "meta_iterations": config.meta_iterations}
            resumable += ("finished",) if config.meta_iterations > run.iteration else ()
        if owner is not None:  # one that waits for any worker, too: nobody is quicker
            resumable += ("queued",)
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

    def claim(
        self, owner: str, run_id: str | None = None, processors: Sequence[str] = (), lacking: Sequence[str] = ()
    ) -> Run | None:
        """Take a queued run, the longest waiting or the one named; None if there is none to take.

        One that began on another kind of processor than these comes last, since it would go on with other bits. One
        that names a device that is `lacking` here is left to others.
        """
        like_here = sa.or_(runs.c.processor.is_(None), *(runs.c.processor.endswith(name) for name in processors))
        query = sa.select(runs.c.id).where(runs.c.status == "queued", runs.c.discarded.is_(None)).limit(1)
        query = query.where(*(~runs.c.config.contains(f'"device":"{name}"') for name in lacking))
        query = query.order_by(sa.case((like_here, 0), else_=1), runs.c.queued)
        query = query if run_id is None else query.where(runs.c.id == run_id)
        with self.transaction() as connection:
            if connection.scalar(query) is None:
                return None
        with self.transaction(write=True) as connection:  # of many that want one, each gets another
            found = connection.scalar(query.with_for_update(skip_locked=True))
            if found is None:
                return None
            connection.execute(sa.update(runs).where(runs.c.id == found).values(self._placed(owner)))
        try:
            return self.run(found)
        except StoreAwayError:
            raise
        except StoreError as error:  # of a newer version, or damaged: nobody can train it
            self.release(found, owner, "failed", str(error))
            raise

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
        is_steady: bool = False,
    ) -> None:
        """Save metrics and state of one moment in one transaction; with `release`, end ownership in that status.

        `snapshots` are for the run's history; `vitals` stay as they were where None. Where training `is_steady`,
        processes lost before count no more. It can be repeated, which whoever was cut off before the answer must do.

        Raises:
            RunBusyError: the run is no longer this owner's; nothing was written.
        """
        changes: dict[str, Any] = {"iteration": latest.iteration, "lease": self.database.now + LEASE_SECONDS}
        changes |= vitals._asdict() if vitals else {}
        if rows:
            changes |= {"pre_loss": rows[-1].pre_loss, "post_loss": rows[-1].post_loss}
        if is_steady:
            changes |= {"lost": 0}
        if release:
            changes |= self._released(release)
        with self.transaction(write=True) as connection:
            mine = sa.and_(runs.c.id == run_id, runs.c.owner == owner)
            if not connection.execute(sa.update(runs).where(mine).values(changes)).rowcount:
                if release and self._was_released(connection, run_id, latest.iteration, release):
                    return
                raise RunBusyError(f"run = {run_id} is no longer owned by this process.")
            if rows:
                again = sa.and_(metrics.c.run_id == run_id, metrics.c.iteration >= rows[0].iteration)
                connection.execute(sa.delete(metrics).where(again))
                connection.execute(sa.insert(metrics), [{"run_id": run_id, **row._asdict()} for row in rows])
            put_snapshots(connection, run_id, snapshots)
            replace_checkpoint(connection, run_id, "latest", latest.iteration, None, latest.data)

    def release(self, run_id: str, owner: str, status: str, message: str = "") -> None:
        """Give a run back without saving anything more."""
        self._update(run_id, runs.c.owner == owner, {"message": message} | self._released(status))

    def release_all(self, owner: str) -> None:
        """Queue again what an owner has that trains nothing: it was given it and did not hear so."""
        with self.transaction(write=True) as connection:
            connection.execute(sa.update(runs).where(runs.c.owner == owner).values(self._left()))

    def renew(self, run_id: str, owner: str) -> None:
        """Say that a run's owner lives, where it has nothing to commit yet."""
        self._update(run_id, runs.c.owner == owner, {"lease": self.database.now + LEASE_SECONDS})

    def mark_lost(self) -> None:
        """Take every running run from a process that is gone: see the module's text for what becomes of it."""
        is_over = self.database.is_over(runs.c.lease, LEASE_SECONDS)
        with self.transaction() as connection:
            columns = runs.c.id, runs.c.owner, runs.c.lost, is_over.label("is_over")
            rows = connection.execute(sa.select(*columns).where(runs.c.status == "running")).all()
        for row in rows:
            lives = is_alive(row.owner or "::")
            if lives or (lives is None and not row.is_over):
                continue
            as_seen = [runs.c.status == "running", runs.c.owner == row.owner, *([] if lives is False else [is_over])]
            # Whoever holds the row just now is left alone, so that looking at a store never waits.
            free = sa.select(runs.c.id).where(runs.c.id == row.id, *as_seen).with_for_update(skip_locked=True)
            self._update(row.id, runs.c.id.in_(free), self._lost(row.id, row.lost + 1))

    def _lost(self, run_id: str, times: int) -> dict[str, Any]:
        """What the row of a run says that has lost its process, now so many times."""
        is_for_all = self.database.is_shared
        if is_for_all:
            with self.transaction() as connection, suppress(ConfigError):
                config = connection.scalar(sa.select(runs.c.config).where(runs.c.id == run_id))
                is_for_all = not RunConfig.from_json(config or "").uses_own_model
        if not is_for_all:
            text = "The process that trained this run is gone; resume it from its last commit."
        elif times >= MOST_LOST:
            text = (
                f"This run has lost {times} processes, and may be what ends them (for lack of memory, say): see the "
                "workers' logs, then resume it from its last commit."
            )
        else:
            text = "The process that trained this run was lost; another goes on from its last commit."
            return self._left() | {"lost": times, "message": text}
        return {"status": "interrupted", "owner": None, "lost": times, "message": text}

    def _released(self, status: str) -> dict[str, Any]:
        """What a run's row says that its owner has given back: to its end, to its user, or to the next worker."""
        return self._left() if status == "queued" else {"status": status, "owner": None, "until": None, "lease": 0.0}

    def _left(self) -> dict[str, Any]:
        """What it says of one that is left for another worker, unless it was asked to pause or stop meanwhile.

        What was begun comes before what has only waited.
        """
        asked, goes_on = runs.c.command, runs.c.command == "run"
        status = sa.case((asked == "stop", "stopped"), (asked == "pause", "paused"), else_="queued")
        return self._placed(None) | {
            "status": status,
            "queued": sa.case((goes_on, runs.c.created), else_=None),
            "until": sa.case((goes_on, runs.c.until), else_=None),
        }

    def _was_released(self, connection: Connection, run_id: str, iteration: int, status: str) -> bool:
        """Whether a commit that is repeated had arrived."""
        statuses = [status, *(["paused", "stopped"] if status == "queued" else [])]
        as_left = runs.c.owner.is_(None), runs.c.iteration == iteration, runs.c.status.in_(statuses)
        return connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id, *as_left)).first() is not None
