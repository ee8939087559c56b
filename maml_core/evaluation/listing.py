"""The runs of a store as a table for people."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from maml_core.fields import label
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import duration

SPARKLINE_POINTS = 40


def runs_table(store: Store, runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run, with words as column heads."""
    return pd.DataFrame(
        {
            "Name": f"📌 {run.name}" if run.pinned else run.name,
            "Status": run.status.capitalize(),
            "Loss": sparkline(store.metrics(run.id)),
            "Progress": run.iteration / run.meta_iterations,
            "Iterations": run.iteration,
            "Last loss": run.post_loss,
            "Best loss": run.best_loss,
            "Preset": run.preset or "–",
            "Family": run.config.tasks.title,
            label("shots"): run.config.shots,
            label("inner_lr"): run.config.inner_lr,
            label("inner_steps"): run.config.inner_steps,
            "Engine": run.engine or run.config.engine,
            "Started": pd.Timestamp(run.started or run.created, unit="s", tz="UTC"),
            "Duration": duration(run.seconds),
            "Notes": run.notes,
            "Run": run.id,
        }
        for run in runs
    )


def sparkline(frame: pd.DataFrame) -> list[float]:
    """The course of the loss after adaptation, as its logarithm, in few points."""
    values = np.log10(frame["post_loss"].to_numpy(dtype=np.float64).clip(min=1e-12))
    parts = np.array_split(values, min(SPARKLINE_POINTS, len(values))) if len(values) else []
    return [float(part.mean()) for part in parts]
