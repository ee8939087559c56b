"""A toy of two parameters, whose meta-loss can be drawn exactly, and every algorithm's arrow with it."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import softplus

from maml_core.engines import MetaOptimizer, VectorizedEngine
from maml_core.evaluation.gradients import COMPARED, untraced
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.inner_loop import InnerLoop, Loss, Theta
from maml_core.learning.problems import Regression
from maml_core.learning.tasks import TaskBatch


class _Toy(nn.Module):
    """softplus(a x + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return softplus(self.a * x + self.b)


TOY_TARGETS = ((2.0, 1.0), (-1.0, 2.0), (0.5, -2.0))
"""a and b of the toy's three tasks."""
TOY_RANGE = (-3.0, 3.0)


@dataclass(frozen=True)
class Toy:
    """The two-parameter model: its meta-loss everywhere, and every algorithm's update at one point."""

    axis: np.ndarray  # [cells], the values of a, and of b
    meta_loss: np.ndarray  # [cells, cells]: mean query loss after the inner steps; rows are b
    updates: dict[str, tuple[float, float]]  # minus the meta-gradient, by algorithm
    task_updates: list[tuple[float, float]]  # that of FOMAML for each task alone


TOY_RATE = 0.1
"""The toy's inner_lr."""


def _toy_tasks() -> tuple[nn.Module, TaskBatch]:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None].expand(len(TOY_TARGETS), -1, -1)
    targets = torch.tensor(TOY_TARGETS, dtype=torch.float64)
    y = softplus(targets[:, 0, None, None] * x + targets[:, 1, None, None])
    return _Toy().double(), TaskBatch(x, y, x, y)


@functools.lru_cache(maxsize=16)
def _toy_surface(steps: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The toy's axis and meta-loss, which do not depend on where the initialization is."""
    model, batch = _toy_tasks()
    loss = Loss(model, Regression())

    def adapted_loss(theta: Tensor, *task: Tensor) -> Tensor:
        start, descent = Theta({"a": theta[0], "b": theta[1]}, {}), ALGORITHMS["fomaml"]
        phi = descent.begin(start)
        for _ in range(steps):
            phi = descent.step(loss, start, phi, task[0], task[1], TOY_RATE)
        return loss(phi.parameters, task[2], task[3])

    axis = torch.linspace(*TOY_RANGE, cells, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        each = vmap(vmap(adapted_loss, (None, 0, 0, 0, 0)), (0, None, None, None, None))(grid, *batch)
    return axis.numpy(), each.mean(1).reshape(cells, cells).T.numpy()


def toy(a: float, b: float, steps: int, cells: int = 41) -> Toy:
    """Exact for any number of inner steps: every meta-gradient is taken through all of them."""
    model, batch = _toy_tasks()

    def update(name: str, tasks: TaskBatch) -> tuple[float, float]:
        engine = VectorizedEngine(
            model,
            inner=InnerLoop(TOY_RATE, steps),
            meta_optimizer=MetaOptimizer(1e-3),
            algorithm=ALGORITHMS[name],
        )
        found = -untraced(engine, torch.tensor([a, b], dtype=torch.float64), tasks)
        return float(found[0]), float(found[1])

    names = [name for name in ("fomaml", *COMPARED) if steps or not ALGORITHMS[name].needs_steps]
    return Toy(
        *_toy_surface(steps, cells),
        {name: update(name, batch) for name in names},
        [update("fomaml", batch.at(slice(i, i + 1))) for i in range(len(TOY_TARGETS))],
    )
