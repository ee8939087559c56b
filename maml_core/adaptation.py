"""The inner loop outside training: how one initialization adapts, for pictures and for evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from maml_core.algorithms import FOMAML, Algorithm, Parameters, model_parameters, mse_loss
from maml_core.errors import ConfigError
from maml_core.tasks import TaskBatch, TaskFamily, seeded

GRID_POINTS = 100
"""Inputs at which a task's error is measured and its curve drawn, evenly spaced over the family's range of x."""

MOST_POINTS = 100
POINT_LIMIT = 1e6
"""What a user's own points may be: no more of them, and none further from zero."""


def counted_steps(count: int) -> str:
    """1 step, 5 steps."""
    return "1 step" if count == 1 else f"{count} steps"


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
    `parameters` holds them, are factors of `inner_lr`.
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
    truth: np.ndarray | None  # [points]; None where only the support points are known
    support_x: np.ndarray  # [shots]
    support_y: np.ndarray  # [shots]
    predictions: np.ndarray  # [steps + 1, points], up to the last finite step
    support_loss: np.ndarray  # [steps + 1]
    query_loss: np.ndarray  # [steps + 1]: against the truth on the grid, or else the support loss
    blew_up_at: int | None  # the first step that is not finite, if any


@dataclass(frozen=True)
class Tasks:
    """Tasks to adapt to: their points, and what to call them."""

    batch: TaskBatch  # [tasks, points, features]; the query points are a grid
    labels: list[str]
    is_known: bool = True  # whether the query values are the true curve

    def __add__(self, other: "Tasks") -> "Tasks":
        """Both, one after the other."""
        parts = zip(self.batch, other.batch, strict=True)
        return Tasks(TaskBatch(*(torch.cat(pair) for pair in parts)), self.labels + other.labels)


def drawn_parameters(family: TaskFamily, seed: int) -> dict[str, float]:
    """The parameters of the fresh task of that seed."""
    drawn = family.sample_parameters((), seeded(f"fresh:{seed}"))
    return {name: float(drawn[name]) for name in family.parameters}


def draw_task(family: TaskFamily, seed: int, shots: int, given: Mapping[str, float] | None = None) -> Tasks:
    """The fresh task of that seed, with some parameters replaced by those `given`.

    Support inputs and noise depend on the seed alone, so that a parameter can be moved and nothing else moves.

    Raises:
        ConfigError: a name is no parameter of the family, or a value is not finite.
    """
    generator = seeded(f"fresh:{seed}")
    drawn = {name: value[None] for name, value in family.sample_parameters((), generator).items()}
    for name in given or {}:
        drawn[name] = family.task(**{name: (given or {})[name]})[name][None]
    x, y = family.sample_points(drawn, shots, generator)
    label = ", ".join(f"{name} {float(drawn[name]):.2f}" for name in varying(family))
    return Tasks(on_grid(family, drawn, x, y), [label])


def points_task(family: TaskFamily, points: Sequence[tuple[float, float]]) -> Tasks:
    """A task that is known by its support points alone."""
    x, y = (torch.tensor([pair[i] for pair in points], dtype=torch.float64)[None, :, None] for i in (0, 1))
    low, high = min(family.x.low, float(x.min())), max(family.x.high, float(x.max()))
    grid = torch.linspace(low, high, GRID_POINTS, dtype=torch.float64)[None, :, None]
    batch = TaskBatch(*(tensor.float() for tensor in (x, y, grid, torch.zeros_like(grid))))
    return Tasks(batch, [f"{len(points)} points of your own"], is_known=False)


def read_points(text: str) -> list[tuple[float, float]]:
    """Points from text: one `x, y` a line, or separated by semicolons.

    Raises:
        ConfigError: a sentence for the first thing wrong.
    """
    points = []
    for number, line in enumerate(filter(str.strip, text.replace(";", "\n").splitlines()), start=1):
        cells = line.replace(",", " ").replace("\t", " ").split()
        try:
            x, y = (float(cell) for cell in cells)
        except ValueError:
            raise ConfigError(
                f"points, line {number} = {line.strip()[:40]!r} is not allowed: "
                "it must be two numbers, such as 1.5, -0.3."
            ) from None
        if not (abs(x) <= POINT_LIMIT and abs(y) <= POINT_LIMIT):
            raise ConfigError(
                f"points, line {number} = {line.strip()[:40]!r} is not allowed: "
                f"both numbers must be finite and at most {POINT_LIMIT:,.0f} in size; scale them down."
            )
        points.append((x, y))
    if not 2 <= len(points) <= MOST_POINTS:
        raise ConfigError(f"points = {len(points)} of them is not allowed: there must be from 2 to {MOST_POINTS}.")
    if len({x for x, _ in points}) == 1:
        raise ConfigError(f"points all have x = {points[0][0]:g}: at least two different x must be given.")
    return points


def fit_tasks(
    model: nn.Module,
    parameters: Parameters,
    tasks: Tasks,
    *,
    inner_lr: float,
    inner_steps: int,
    algorithm: Algorithm = FOMAML,
) -> list[Fit]:
    """Adapt to every task and follow each on its grid: one `Fit` per task, cut where it stops being finite."""
    batch = tasks.batch
    trajectory = adapt(model, parameters, batch, inner_lr=inner_lr, inner_steps=inner_steps, algorithm=algorithm)
    judged = trajectory.query_loss if tasks.is_known else trajectory.support_loss
    made = []
    for i, label in enumerate(tasks.labels):
        last = trajectory.last_finite_step(i)
        made.append(
            Fit(
                label,
                x=batch.query_x[i, :, 0].numpy(),
                truth=batch.query_y[i, :, 0].numpy() if tasks.is_known else None,
                support_x=batch.support_x[i, :, 0].numpy(),
                support_y=batch.support_y[i, :, 0].numpy(),
                predictions=trajectory.predictions[: last + 1, i, :, 0].numpy(),
                support_loss=trajectory.support_loss[: last + 1, i].numpy(),
                query_loss=judged[: last + 1, i].numpy(),
                blew_up_at=last + 1 if last < inner_steps else None,
            )
        )
    return made


def on_grid(family: TaskFamily, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> TaskBatch:
    """Tasks `[tasks]` with support points x, y, and the noise-free curve on a grid as their query points."""
    grid = torch.linspace(*family.x.span, GRID_POINTS, dtype=torch.float64)[None, :, None].expand(x.shape[0], -1, -1)
    return TaskBatch(*(tensor.float() for tensor in (x, y, grid, family.curve(parameters, grid))))


@dataclass(frozen=True)
class Landscape:
    """Error after adaptation over two parameters of a task, inside and outside the training ranges."""

    names: tuple[str, str]
    values: tuple[np.ndarray, np.ndarray]  # [columns], [rows]
    error: np.ndarray  # [rows, columns]; NaN where adaptation diverged
    trained: tuple[tuple[float, float], tuple[float, float]]  # the training range of each


def landscape(
    model: nn.Module,
    parameters: Parameters,
    family: TaskFamily,
    names: tuple[str, str],
    *,
    seed: int,
    given: Mapping[str, float],
    shots: int,
    inner_lr: float,
    inner_steps: int,
    algorithm: Algorithm = FOMAML,
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
    ends = adapt(model, parameters, batch, inner_lr=inner_lr, inner_steps=inner_steps, algorithm=algorithm).query_loss[
        -1
    ]
    error = torch.where(torch.isfinite(ends), ends, torch.nan).reshape(cells, cells).numpy()
    return Landscape(names, (axes[0], axes[1]), error, (trained[0], trained[1]))


def varying(family: TaskFamily) -> list[str]:
    """Names of the parameters that differ between the family's tasks."""
    return [name for name, dist in family.parameters.items() if dist.span[1] > dist.span[0]]
