"""Tasks to adapt to outside training: freshly drawn ones, and a reader's own points."""

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maml_core.errors import ConfigError
from maml_core.learning.fresh_rows import RowTasks, draw_rows_tasks
from maml_core.learning.point_text import read_numbers
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import FunctionFamily, TaskBatch, TaskFamily, seeded

GRID_POINTS = 100
"""Inputs at which a task's error is measured and its curve drawn, evenly spaced over the family's range of x."""

MOST_POINTS = 100
POINT_LIMIT = 1e6
"""What a user's own points may be: no more of them, and none further from zero."""


@dataclass(frozen=True)
class Tasks:
    """Tasks to adapt to: their points, and what to call them."""

    batch: TaskBatch  # [tasks, points, features]; the query points are a grid
    labels: list[str]
    seeds: list[int | None]  # which fresh task of the family each is; None for a reader's own points
    is_known: bool = True  # whether the query values are the true curve

    def __add__(self, other: "Tasks") -> "Tasks":
        """Both, one after the other."""
        parts = zip(self.batch, other.batch, strict=True)
        return Tasks(
            TaskBatch(*(torch.cat(pair) for pair in parts)), self.labels + other.labels, self.seeds + other.seeds
        )


def drawn_parameters(family: FunctionFamily, seed: int) -> dict[str, float]:
    """The parameters of the fresh task of that seed."""
    drawn = family.sample_parameters((), seeded(f"fresh:{seed}"))
    return {name: float(drawn[name]) for name in family.distributions}


def draw_task(family: FunctionFamily, seed: int, shots: int, given: Mapping[str, float] | None = None) -> Tasks:
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
    return Tasks(on_grid(family, drawn, x, y), [label], [seed])


def draw_tasks(family: TaskFamily, seed: int, count: int, shots: int) -> Tasks | RowTasks:
    """The fresh tasks of `count` seeds from that one on; of a table, held-out ones.

    Raises:
        ConfigError: the table is not at hand, or has no held-out task with so many rows.
    """
    if isinstance(family, TableFamily):
        return draw_rows_tasks(family, seed, count, shots)
    assert isinstance(family, FunctionFamily)
    return functools.reduce(operator.add, (draw_task(family, seed + i, shots) for i in range(count)))


def points_task(family: FunctionFamily, points: Sequence[tuple[float, float]]) -> Tasks:
    """A task that is known by its support points alone."""
    x, y = (torch.tensor([pair[i] for pair in points], dtype=torch.float64)[None, :, None] for i in (0, 1))
    low, high = min(family.x.low, float(x.min())), max(family.x.high, float(x.max()))
    grid = torch.linspace(low, high, GRID_POINTS, dtype=torch.float64)[None, :, None]
    batch = TaskBatch(*(tensor.float() for tensor in (x, y, grid, torch.zeros_like(grid))))
    return Tasks(batch, [f"{len(points)} points of your own"], [None], is_known=False)


def read_points(text: str) -> list[tuple[float, float]]:
    """Points from text as people write it: one a line, with any separator and decimal mark (`read_numbers`).

    Raises:
        ConfigError: a sentence for the first thing wrong.
    """
    try:
        points = [(x, y) for x, y in read_numbers(text, ("x", "y"))]
    except ValueError as error:
        raise ConfigError(f"points, {error}; write two numbers a line, such as 1.5, -0.3.") from None
    for number, (x, y) in enumerate(points, start=1):
        if not (abs(x) <= POINT_LIMIT and abs(y) <= POINT_LIMIT):
            raise ConfigError(
                f"points, number {number} = {x:g}, {y:g} is not allowed: both numbers must be at most "
                f"{POINT_LIMIT:,.0f} in size; scale them down."
            )
    if not 2 <= len(points) <= MOST_POINTS:
        raise ConfigError(f"points = {len(points)} of them is not allowed: there must be from 2 to {MOST_POINTS}.")
    if len({x for x, _ in points}) == 1:
        raise ConfigError(f"points all have x = {points[0][0]:g}: at least two different x must be given.")
    return points


def points_in(text: str) -> list[tuple[float, float]]:
    """The points that can be read in a text, which may be too few to adapt to; none where it cannot be read."""
    try:
        points = [(x, y) for x, y in read_numbers(text, ("x", "y"))]
    except ValueError:
        return []
    return [(x, y) for x, y in points if abs(x) <= POINT_LIMIT and abs(y) <= POINT_LIMIT]


def points_of_link(text: str) -> str:
    """The points in a link, `x,y;x,y`, as text that `read_points` takes in one way only: a point a line."""
    return text.replace(",", ", ").replace(";", "\n")


def link_of_points(points: Sequence[Sequence[float]]) -> str:
    """The inverse of `points_of_link`."""
    return ";".join(f"{x:.12g},{y:.12g}" for x, y in points)


def on_grid(family: FunctionFamily, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> TaskBatch:
    """Tasks `[tasks]` with support points x, y, and the noise-free curve on a grid as their query points."""
    grid = torch.linspace(*family.x.span, GRID_POINTS, dtype=torch.float64)[None, :, None].expand(x.shape[0], -1, -1)
    return TaskBatch(*(tensor.float() for tensor in (x, y, grid, family.curve(parameters, grid))))


def varying(family: FunctionFamily) -> list[str]:
    """Names of the parameters that differ between the family's tasks."""
    return [name for name, dist in family.distributions.items() if dist.span[1] > dist.span[0]]
