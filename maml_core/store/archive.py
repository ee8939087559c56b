"""What is kept of a run: metric rows, checkpoints, and what was computed about it."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa

from maml_core.milestones import MetricRow
from maml_core.store.base import StorePart, put
from maml_core.store.schema import checkpoints, evaluations, metrics

RUNS_AT_ONCE = 500
"""Runs asked for in one query: databases bound how many values it may name."""


class Judged(NamedTuple):
    """A checkpoint of a run's history, without its bytes."""

    iteration: int
    held_out: float | None  # mean query loss on held-out tasks; None where it was not finite


class Losses(NamedTuple):
    """The loss after adaptation of one run over its metric rows."""

    row_iterations: np.ndarray  # [rows]
    row_losses: np.ndarray  # [rows]


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

    def losses(self, run_ids: Sequence[str]) -> dict[str, Losses]:
        """Iterations and losses after adaptation of many runs, by their ids, `[rows]` each.

        A run's rows come as two texts: a million rows by themselves would take a minute to be made objects of.
        """
        found = {run_id: Losses(np.zeros(0), np.zeros(0)) for run_id in run_ids}
        wanted = list(found)
        columns = metrics.c.iteration, metrics.c.post_loss
        texts = [sa.func.aggregate_strings(sa.cast(column, sa.String), " ") for column in columns]
        with self.transaction() as connection:
            for start in range(0, len(wanted), RUNS_AT_ONCE):
                some = metrics.c.run_id.in_(wanted[start : start + RUNS_AT_ONCE])
                query = sa.select(metrics.c.run_id, *texts).where(some).group_by(metrics.c.run_id)
                for run_id, iterations, values in connection.execute(query):
                    x, y = (np.fromstring(text, sep=" ") for text in (iterations, values))
                    order = np.argsort(x, kind="stable")
                    found[run_id] = Losses(x[order], y[order])
        return found

    def courses(self, run_ids: Sequence[str], parts: int) -> dict[str, list[float]]:
        """The loss after adaptation of many runs, by their ids, in so many means at most: over equal parts of a run."""
        courses: dict[str, list[float]] = {run_id: [] for run_id in run_ids}
        part = sa.func.ntile(parts).over(partition_by=metrics.c.run_id, order_by=metrics.c.iteration)
        wanted = list(courses)
        with self.transaction() as connection:
            for start in range(0, len(wanted), RUNS_AT_ONCE):
                some = metrics.c.run_id.in_(wanted[start : start + RUNS_AT_ONCE])
                rows = sa.select(metrics.c.run_id, metrics.c.post_loss, part.label("part")).where(some).subquery()
                # Not `avg`: PostgreSQL's squares what it is given, and the losses of a run that diverged are large.
                mean, place = sa.func.sum(rows.c.post_loss) / sa.func.count(), (rows.c.run_id, rows.c.part)
                query = sa.select(rows.c.run_id, mean).group_by(*place).order_by(*place)
                for run_id, value in connection.execute(query):
                    courses[run_id].append(value)
        return courses

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
            put(connection, evaluations, row, ["created", "data"])

    def recall(self, run_id: str, key: str) -> str | None:
        """What was remembered under that key; None if nothing was."""
        query = sa.select(evaluations.c.data).where(evaluations.c.run_id == run_id, evaluations.c.key == key)
        with self.transaction() as connection:
            return connection.scalar(query)
