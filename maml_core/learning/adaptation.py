"""How one initialization adapts, as plain arrays for pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from maml_core.learning.fresh_tasks import Tasks, on_grid
from maml_core.learning.initialization import Initialization
from maml_core.learning.tasks import TaskFamily, seeded


@dataclass(frozen=True)
class Fit:
    """One task and how an initialization adapts to it, as plain lists and arrays for a picture."""

    label: str  # the task's parameters in words
    seed: int | None  # which fresh task of its family it is
    x: np.ndarray  # [points]
    truth: np.ndarray | None  # [points]; None where only the support points are known
    support_x: np.ndarray  # [shots]
    support_y: np.ndarray  # [shots]
    predictions: np.ndarray  # [steps + 1, points], up to the last finite step
    support_loss: np.ndarray  # [steps + 1]
    query_loss: np.ndarray  # [steps + 1]: against the truth on the grid, or else the support loss
    blew_up_at: int | None  # the first step that is not finite, if any


def fit_tasks(start: Initialization, tasks: Tasks, steps: int) -> list[Fit]:
    """Adapt to every task and follow each on its grid: one `Fit` per task, cut where it stops being finite."""
    batch = tasks.batch
    trajectory = start.adapt(batch, steps)
    judged = trajectory.query_loss if tasks.is_known else trajectory.support_loss
    made = []
    for i, (label, seed) in enumerate(zip(tasks.labels, tasks.seeds, strict=True)):
        last = trajectory.last_finite_step(i)
        made.append(
            Fit(
                label,
                seed,
                x=batch.query_x[i, :, 0].numpy(),
                truth=batch.query_y[i, :, 0].numpy() if tasks.is_known else None,
                support_x=batch.support_x[i, :, 0].numpy(),
                support_y=batch.support_y[i, :, 0].numpy(),
                predictions=trajectory.predictions[: last + 1, i, :, 0].numpy(),
                support_loss=trajectory.support_loss[: last + 1, i].numpy(),
                query_loss=judged[: last + 1, i].numpy(),
                blew_up_at=last + 1 if last < steps else None,
            )
        )
    return made


def ends(fits: Sequence[Fit]) -> tuple[int, int]:
    """Where in `fits` the lowest and the highest last error stand; one that diverged is above all others."""
    errors = [math.inf if fit.blew_up_at is not None else float(fit.query_loss[-1]) for fit in fits]
    return errors.index(min(errors)), errors.index(max(errors))


@dataclass(frozen=True)
class Landscape:
    """Error after adaptation over two parameters of a task, inside and outside the training ranges."""

    names: tuple[str, str]
    values: tuple[np.ndarray, np.ndarray]  # [columns], [rows]
    error: np.ndarray  # [rows, columns]; NaN where adaptation diverged
    trained: tuple[tuple[float, float], tuple[float, float]]  # the training range of each


def landscape(
    start: Initialization,
    family: TaskFamily,
    names: tuple[str, str],
    *,
    seed: int,
    given: Mapping[str, float],
    shots: int,
    steps: int,
    cells: int = 25,
) -> Landscape:
    """Move two parameters of one task over twice their training ranges; its other parameters and inputs stay."""
    generator = seeded(f"fresh:{seed}")
    drawn = family.sample_parameters((), generator)
    axes, trained = [], []
    for name in names:
        low, high = family.parameters[name].span
        trained.append((low, high))
        axes.append(np.linspace(low - (high - low) / 2, high + (high - low) / 2, cells))
    across, up = np.meshgrid(*axes)
    count = cells * cells
    whole = {name: value.expand(count, *value.shape).clone() for name, value in drawn.items()}
    for name, value in given.items():
        whole[name] = torch.full((count,), value, dtype=torch.float64)
    whole |= {names[0]: torch.from_numpy(across.ravel()), names[1]: torch.from_numpy(up.ravel())}
    u = torch.rand(1, shots, 1, generator=generator, dtype=torch.float64)
    x = family.x.quantile(u).expand(count, -1, -1)
    batch = on_grid(family, whole, x, family.curve(whole, x))
    ends = start.adapt(batch, steps).query_loss[-1]
    error = torch.where(torch.isfinite(ends), ends, torch.nan).reshape(cells, cells).numpy()
    return Landscape(names, (axes[0], axes[1]), error, (trained[0], trained[1]))
