"""How one initialization adapts, as plain arrays for pictures."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from maml_core.learning.board_fits import fit_boards
from maml_core.learning.control import ControlFamily
from maml_core.learning.fits import TaskFit
from maml_core.learning.fresh_rows import NewRows, RowTask, RowTasks, curve_inputs
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.generated import GRID_POINTS, GeneratedFamily
from maml_core.learning.images import ImageFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.path_fits import fit_paths
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.plane_fits import fit_plane
from maml_core.learning.problems import Problem, Regression
from maml_core.learning.table import unit_of
from maml_core.learning.tasks import TaskBatch, seeded

NORMAL_95 = 1.96
"""Standard deviations on each side of a normal distribution's mean that hold 95 % of it."""


@dataclass(frozen=True, kw_only=True)
class CurveFit(TaskFit):
    """One task of a curve, or of a table's rows, and how an initialization adapts to it."""

    x: np.ndarray  # [points]
    truth: np.ndarray | None  # [points]; None where only the support points are known
    support_x: np.ndarray  # [shots]
    support_y: np.ndarray  # [shots]
    predictions: np.ndarray  # [steps + 1, points], up to the last finite step
    rows: tuple[np.ndarray, np.ndarray] | None = None  # x and y `[rows]` of a table's other rows, which are judged
    axes: tuple[str, str] = ("x", "y")
    error_name: str = Regression.error_name
    row_numbers: tuple[list[int], list[int]] | None = None  # of a table's task: those in the support, and `rows`
    band: np.ndarray | None = None  # [points]: half of the 95 % interval of the last step's predictions
    is_cloud: bool = False  # points of which each stands for itself: predicted values over true ones, and no curve

    def mean_error(self) -> float:
        """The error of predicting the mean of the support points."""
        if self.rows is not None:
            judged = self.rows[1] if len(self.rows[1]) else self.support_y
            return float(np.sqrt(np.square(judged - self.support_y.mean()).mean()))
        against = self.support_y if self.truth is None else self.truth
        return float(np.square(against - self.support_y.mean()).mean())


def fit_tasks(start: Initialization, tasks: Tasks | RowTasks, steps: int) -> Sequence[TaskFit]:
    """Adapt to every task and follow each: one fit per task, cut where it stops being finite."""
    if isinstance(tasks, RowTasks):
        return [_fit_rows(start, tasks, task, steps) for task in tasks.tasks]
    if isinstance(tasks.family, PlaneFamily):
        return fit_plane(start, tasks.family, tasks, steps)
    if isinstance(tasks.family, ControlFamily):
        return fit_paths(start, tasks, steps)
    if isinstance(tasks.family, ImageFamily):
        return fit_boards(start, tasks.family, tasks, steps)
    return _fit_functions(start, tasks, steps)


def _fit_rows(start: Initialization, tasks: RowTasks, task: RowTask, steps: int) -> CurveFit:
    """A table's task in the table's own units: errors are root mean squares over the rows outside the support."""
    scaling, output = tasks.scaling, tasks.output
    others = task.others
    grid = curve_inputs(tasks, task, GRID_POINTS) if tasks.along is not None else task.x[:0]
    asked = torch.cat([grid, task.x])
    unknown = torch.zeros(1, len(asked), task.y.shape[1])  # the curve's true values; errors are taken below
    batch = TaskBatch(task.x[task.support][None], task.y[task.support][None], asked[None], unknown)
    trajectory = start.adapt(batch, steps)
    last = trajectory.last_finite_step(0)
    values = scaling.original_y(trajectory.predictions[: last + 1, 0].double())[..., output].numpy()
    true = scaling.original_y(task.y.double())[:, output].numpy()
    x = scaling.original_x(task.x.double()).numpy()
    at_rows = values[:, len(grid) :]

    def error(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.sqrt(np.square(at_rows[:, rows] - true[rows]).mean(axis=1))
        return found

    support = task.support.numpy()
    judged = others.numpy()[np.isfinite(true[others.numpy()])]
    support_error = error(support)
    name = tasks.outputs[output]
    common: dict[str, Any] = {
        "label": task.label,
        "seed": task.seed,
        "support_loss": support_error,
        "query_loss": error(judged) if len(judged) else support_error,
        "blew_up_at": last + 1 if last < steps else None,
        "problem": start.problem,
        "error_name": f"error of {name}",
        "unit": unit_of(name),
    }
    if tasks.along is None:
        shown = judged if len(judged) else support  # of new rows, what to predict is not known
        shown = shown[np.argsort(true[shown], kind="stable")]
        return CurveFit(
            **common,
            x=true[shown],
            truth=true[shown],
            support_x=true[support],
            support_y=true[support],
            predictions=at_rows[:, shown],
            rows=(true[shown], true[shown]),
            row_numbers=(support.tolist(), shown.tolist()),
            axes=(f"true {name}", f"predicted {name}"),
            is_cloud=True,
        )
    along = x[:, tasks.along]
    deviation = start.deviation(TaskBatch(*batch[:2], grid[None], unknown[:, : len(grid)])) if steps else None
    unit = scaling.original_y(torch.ones(1, task.y.shape[1])) - scaling.original_y(torch.zeros(1, task.y.shape[1]))
    return CurveFit(
        **common,
        x=scaling.original_x(grid.double()).numpy()[:, tasks.along],
        truth=None,
        support_x=along[support],
        support_y=true[support],
        predictions=values[:, : len(grid)],
        rows=(along[judged], true[judged]),
        row_numbers=(support.tolist(), judged.tolist()),
        axes=(tasks.inputs[tasks.along], name),
        band=None if deviation is None else NORMAL_95 * deviation[0].numpy() * float(unit[0, output]),
    )


def predict_rows(start: Initialization, found: NewRows, steps: int) -> pd.DataFrame:
    """New rows with a column of predictions for each output, in the table's own units, after `steps` steps."""
    task, tasks = found.tasks.tasks[0], found.tasks
    unknown = torch.zeros(1, len(task.x), task.y.shape[1])
    batch = TaskBatch(task.x[task.support][None], task.y[task.support][None], task.x[None], unknown)
    values = tasks.scaling.original_y(start.adapt(batch, steps).predictions[-1, 0].double()).numpy()
    frame = found.frame.copy()
    for i, name in enumerate(tasks.outputs):
        frame[f"predicted {name}"] = values[:, i]
    return frame


def _fit_functions(start: Initialization, tasks: Tasks, steps: int) -> list[CurveFit]:
    """Each task on its grid."""
    batch = tasks.batch
    trajectory = start.adapt(batch, steps)
    deviation = start.deviation(batch) if steps else None
    judged = trajectory.query_loss if tasks.is_known else trajectory.support_loss
    made = []
    for i, (label, seed) in enumerate(zip(tasks.labels, tasks.seeds, strict=True)):
        last = trajectory.last_finite_step(i)
        made.append(
            CurveFit(
                label=label,
                seed=seed,
                problem=start.problem,
                x=batch.query_x[i, :, 0].numpy(),
                truth=batch.query_y[i, :, 0].numpy() if tasks.is_known else None,
                support_x=batch.support_x[i, :, 0].numpy(),
                support_y=batch.support_y[i, :, 0].numpy(),
                predictions=trajectory.predictions[: last + 1, i, :, 0].numpy(),
                support_loss=trajectory.support_loss[: last + 1, i].numpy(),
                query_loss=judged[: last + 1, i].numpy(),
                blew_up_at=last + 1 if last < steps else None,
                band=None if deviation is None else NORMAL_95 * deviation[i].numpy(),
            )
        )
    return made


def ends(fits: Sequence[TaskFit]) -> tuple[int, int]:
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
    problem: Problem = field(default_factory=Regression)

    @property
    def strain(self) -> float | None:
        """How many times the mean error outside the training ranges is that inside; None where either has none.

        Nor is there one of classes, where an error of zero is common, or of returns.
        """
        if not isinstance(self.problem, Regression):
            return None
        across, up = (
            (low <= values) & (values <= high) for values, (low, high) in zip(self.values, self.trained, strict=True)
        )
        inside = up[:, None] & across[None]
        known = np.isfinite(self.error)
        if not (known & inside).any() or not (known & ~inside).any():
            return None
        return float(self.error[known & ~inside].mean() / self.error[known & inside].mean())


CELLS, FEW_CELLS = 25, 11
"""On each side of a landscape; the few where tasks are costly."""


def landscape(
    start: Initialization,
    family: GeneratedFamily,
    names: tuple[str, str],
    *,
    seed: int,
    given: Mapping[str, float],
    shots: int,
    steps: int,
    cells: int | None = None,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Landscape:
    """Move two parameters of one task over twice their training ranges; its other parameters and inputs stay.

    One that is the same in all tasks is moved from zero to twice its value. The work is done in turns, each entered as
    a context: one for all, or one for each row where tasks are costly.
    """
    cells = cells or (FEW_CELLS if family.is_costly else CELLS)
    generator = seeded(f"fresh:{seed}")
    drawn = family.sample_parameters((), generator)
    axes, trained = [], []
    for name in names:
        low, high = family.distributions[name].span
        trained.append((low, high))
        axes.append(np.linspace(*family.around(name), cells))
    across, up = np.meshgrid(*axes)
    count = cells * cells
    whole = {name: value.expand(count, *value.shape).clone() for name, value in drawn.items()}
    for name, value in given.items():
        whole[name] = torch.full((count,), value, dtype=torch.float64)
    whole |= {names[0]: torch.from_numpy(across.ravel()), names[1]: torch.from_numpy(up.ravel())}
    x, y = family.sample_points(whole, family.points_of(shots), generator, alike=True)
    batch = family.judged(whole, x, y, generator, alike=True)
    at_once, parts = cells if family.is_costly else count, []
    for first in range(0, count, at_once):
        with turn():
            parts.append(start.adapt(batch.at(slice(first, first + at_once)), steps).query_loss[-1])
    ends = torch.cat(parts)
    error = torch.where(torch.isfinite(ends), ends, torch.nan).reshape(cells, cells).numpy()
    return Landscape(names, (axes[0], axes[1]), error, (trained[0], trained[1]), start.problem)
