"""What is kept of a run: metric rows, checkpoints, and what was computed about it."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import sqlalchemy as sa

from maml_core.milestones import MetricRow
from maml_core.store.base import StorePart
from maml_core.store.schema import checkpoints, evaluations, metrics

RUNS_AT_ONCE = 500
"""Runs asked for in one query: databases bound how many values it may name."""


class Judged(NamedTuple):
    """A checkpoint of a run's history, without its bytes."""

    iteration: int
    held_out: float | None  # mean query loss on held-out tasks; None where it was not finite


class Archive(StorePart):
    """The part of a store that keeps what training has produced."""

    def metrics(self, run_id: str) -> pd.DataFrame:
        """All metric rows of a run: iteration, pre_loss, post_loss, gradient_norm."""
        columns = [metrics.c[name] for name in MetricRow._fields]
        with self.transaction() as connection:
            rows = connection.execute(
                sa.select(*columns).where(metrics.c.run_id == run_id).order_by(metrics.c.iteration)
            ).all()
        return pd.DataFrame(rows, columns=list(MetricRow._fields))

    def losses(self, run_ids: Sequence[str]) -> dict[str, pd.DataFrame]:
        """Iteration and loss after adaptation of many runs, by their ids, in one query for `RUNS_AT_ONCE` of them."""
        columns = [metrics.c.run_id, metrics.c.iteration, metrics.c.post_loss]
        frames = {run_id: pd.DataFrame({"iteration": [], "post_loss": []}) for run_id in run_ids}
        wanted = list(frames)
        with self.transaction() as connection:
            for start in range(0, len(wanted), RUNS_AT_ONCE):
                some = wanted[start : start + RUNS_AT_ONCE]
                query = sa.select(*columns).where(metrics.c.run_id.in_(some))
                rows = connection.execute(query.order_by(metrics.c.run_id, metrics.c.iteration)).all()
                found = pd.DataFrame(rows, columns=["run_id", "iteration", "post_loss"])
                frames |= {
                    str(run_id): part[["iteration", "post_loss"]].reset_index(drop=True)
                    for run_id, part in found.groupby("run_id", sort=False)
                }
        return frames

    def history(self, run_id: str) -> list[Judged]:
        """Iteration and held-out loss of every checkpoint in a run's history, in order."""
        with self.transaction() as connection:
            rows = connection.execute(
                sa.select(checkpoints.c.iteration, checkpoints.c.held_out)
                .where(checkpoints.c.run_id == run_id, checkpoints.c.kind == "history")
                .order_by(checkpoints.c.iteration)
            ).all()
        return [Judged(row[0], row[1]) for row in rows]

    def checkpoint(self, run_id: str, kind: str = "latest", iteration: int | None = None) -> bytes | None:
        """Bytes of a run's `latest`, `best` or `history` checkpoint; None if there is none."""
        query = sa.select(checkpoints.c.data).where(checkpoints.c.run_id == run_id, checkpoints.c.kind == kind)
        if iteration is not None:
            query = query.where(checkpoints.c.iteration == iteration)
        with self.transaction() as connection:
            return connection.scalar(query.order_by(checkpoints.c.iteration.desc()))

    def remember(self, run_id: str, key: str, text: str) -> None:
        """Keep what was computed about a run, under a key of 64 characters that says from what."""
        row = {"run_id": run_id, "key": key, "created": time.time(), "data": text}
        with self.transaction(write=True) as connection:
            connection.execute(sa.delete(evaluations).where(evaluations.c.run_id == run_id, evaluations.c.key == key))
            connection.execute(sa.insert(evaluations).values(row))

    def recall(self, run_id: str, key: str) -> str | None:
        """What was remembered under that key; None if nothing was."""
        query = sa.select(evaluations.c.data).where(evaluations.c.run_id == run_id, evaluations.c.key == key)
        with self.transaction() as connection:
            return connection.scalar(query)
