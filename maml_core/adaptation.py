"""The inner loop outside training: how one initialization adapts, for pictures and for evaluation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from maml_core.algorithms import FOMAML, Algorithm, Parameters, model_parameters, mse_loss
from maml_core.tasks import TaskBatch, TaskFamily, seeded

GRID_POINTS = 100
"""Inputs at which a task's error is measured and its curve drawn, evenly spaced over the family's range of x."""


@dataclass(frozen=True)
class Trajectory:
    """Adaptation of one initialization to many tasks, step by step; step 0 is before adaptation."""

    predictions: Tensor  # [steps + 1, tasks, points, outputs] at the query inputs
    support_loss: Tensor  # [steps + 1, tasks]
    query_loss: Tensor  # [steps + 1, tasks]

    def last_finite_step(self, task: int = 0) -> int:
        """The last step up to which this task's predictions and support loss are all finite."""
        finite = torch.isfinite(self.predictions[:, task]).flatten(1).all(1) & torch.isfinite(
            self.support_loss[:, task]
        )
        return max(0, int(finite.long().cumprod(0).sum()) - 1)


@torch.no_grad()
def adapt(
    model: nn.Module,
    parameters: Parameters,
    tasks: TaskBatch,
    *,
    inner_lr: float,
    inner_steps: int,
    algorithm: Algorithm = FOMAML,
) -> Trajectory:
    """Adapt `parameters` to every task of `[tasks, points, features]`, and follow it on the query points.

    The inner loop is that of training: the algorithm's own, on the whole support set at once. Learned rates, where
    `parameters` holds them, take the place of `inner_lr`.
    """
    loss = mse_loss(model)

    def judge(phi: Parameters, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = parameters | phi
        prediction = functional_call(model, model_parameters(whole), (qx,))
        return prediction, loss(whole, sx, sy), torch.nn.functional.mse_loss(prediction, qy)

    def step(phi: Parameters, sx: Tensor, sy: Tensor) -> Parameters:
        return algorithm.step(loss, parameters, phi, sx, sy, inner_lr)

    count = tasks.support_x.shape[0]
    adapted = {name: value.expand(count, *value.shape) for name, value in algorithm.begin(parameters).items()}
    seen = []
    for _ in range(inner_steps):
        seen.append(vmap(judge)(adapted, *tasks))
        adapted = vmap(step)(adapted, tasks.support_x, tasks.support_y)
    seen.append(vmap(judge)(adapted, *tasks))
    return Trajectory(*(torch.stack(values) for values in zip(*seen, strict=True)))


@dataclass(frozen=True)
class Fit:
    """One task and how an initialization adapts to it, as plain lists and arrays for a picture."""

    label: str  # the task's parameters in words
    x: np.ndarray  # [points]
    truth: np.ndarray  # [points]
    support_x: np.ndarray  # [shots]
    support_y: np.ndarray  # [shots]
    predictions: np.ndarray  # [steps + 1, points], up to the last finite step
    support_loss: np.ndarray  # [steps + 1]
    query_loss: np.ndarray  # [steps + 1]: against the truth on the grid
    blew_up_at: int | None  # the first step that is not finite, if any


def fit_tasks(
    model: nn.Module,
    parameters: Parameters,
    family: TaskFamily,
    *,
    count: int,
    shots: int,
    inner_lr: float,
    inner_steps: int,
    seed: int,
) -> list[Fit]:
    """Adapt to `count` freshly drawn tasks and follow each on a grid; the same seed gives the same tasks."""
    generator = seeded(f"fresh:{seed}")
    drawn = family.sample_parameters((count,), generator)
    x, y = family.sample_points(drawn, shots, generator)
    batch, names = on_grid(family, drawn, x, y), list(drawn)
    labels = [
        ", ".join(f"{name} {float(drawn[name][i]):.2f}" for name in names if _varies(family, name))
        for i in range(count)
    ]
    return fits(adapt(model, parameters, batch, inner_lr=inner_lr, inner_steps=inner_steps), batch, labels)


def on_grid(family: TaskFamily, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> TaskBatch:
    """Tasks `[tasks]` with support points x, y, and the noise-free curve on a grid as their query points."""
    grid = torch.linspace(*family.x.span, GRID_POINTS, dtype=torch.float64)[None, :, None].expand(x.shape[0], -1, -1)
    return TaskBatch(*(tensor.float() for tensor in (x, y, grid, family.curve(parameters, grid))))


def fits(trajectory: Trajectory, batch: TaskBatch, labels: list[str]) -> list[Fit]:
    """One `Fit` per task, cut where it stops being finite."""
    made = []
    for i, label in enumerate(labels):
        last = trajectory.last_finite_step(i)
        steps = trajectory.predictions.shape[0] - 1
        made.append(
            Fit(
                label,
                x=batch.query_x[i, :, 0].numpy(),
                truth=batch.query_y[i, :, 0].numpy(),
                support_x=batch.support_x[i, :, 0].numpy(),
                support_y=batch.support_y[i, :, 0].numpy(),
                predictions=trajectory.predictions[: last + 1, i, :, 0].numpy(),
                support_loss=trajectory.support_loss[: last + 1, i].numpy(),
                query_loss=trajectory.query_loss[: last + 1, i].numpy(),
                blew_up_at=last + 1 if last < steps else None,
            )
        )
    return made


def _varies(family: TaskFamily, name: str) -> bool:
    low, high = family.parameters[name].span
    return high > low
