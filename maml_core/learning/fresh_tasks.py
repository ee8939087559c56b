"""Tasks to adapt to outside training, freshly drawn."""

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from maml_core.learning.fresh_rows import RowTasks, draw_rows_tasks
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import TaskBatch, TaskFamily, seeded


@dataclass(frozen=True)
class Tasks:
    """Tasks to adapt to: their points, and what to call them."""

    family: GeneratedFamily
    batch: TaskBatch  # [tasks, points, features]; the query points of a curve are a grid
    labels: list[str]
    seeds: list[int | None]  # which fresh task of the family each is; None for a reader's own points
    is_known: bool = True  # whether the query values are the true ones

    def __add__(self, other: "Tasks") -> "Tasks":
        """Both, one after the other."""
        parts = zip(self.batch, other.batch, strict=True)
        batch = TaskBatch(*(torch.cat(pair) for pair in parts))
        return Tasks(self.family, batch, self.labels + other.labels, self.seeds + other.seeds)


def drawn_parameters(family: GeneratedFamily, seed: int) -> dict[str, float]:
    """The parameters of the fresh task of that seed."""
    drawn = family.sample_parameters((), seeded(f"fresh:{seed}"))
    return {name: float(drawn[name]) for name in family.distributions}


def draw_task(family: GeneratedFamily, seed: int, shots: int, given: Mapping[str, float] | None = None) -> Tasks:
    """The fresh task of that seed, with some parameters replaced by those `given`.

    Support inputs and noise depend on the seed alone, so that a parameter can be moved and nothing else moves.

    Raises:
        ConfigError: a name is no parameter of the family, or a value is not finite.
    """
    generator = seeded(f"fresh:{seed}")
    drawn = {name: value[None] for name, value in family.sample_parameters((), generator).items()}
    for name in given or {}:
        drawn[name] = family.task(**{name: (given or {})[name]})[name][None]
    x, y = family.sample_points(drawn, family.points_of(shots), generator)
    named = [*varying(family), *(name for name in given or {} if name not in varying(family))]
    label = family.label({name: float(value) for name, value in drawn.items()}, named)
    return Tasks(family, family.judged(drawn, x, y, generator), [label], [seed])


def draw_tasks(family: TaskFamily, seed: int, count: int, shots: int) -> Tasks | RowTasks:
    """The fresh tasks of `count` seeds from that one on; of a table, held-out ones.

    Raises:
        ConfigError: the table is not at hand, or has no held-out task with so many rows.
    """
    if isinstance(family, TableFamily):
        return draw_rows_tasks(family, seed, count, shots)
    assert isinstance(family, GeneratedFamily)
    return functools.reduce(operator.add, (draw_task(family, seed + i, shots) for i in range(count)))


def movable(family: GeneratedFamily) -> list[str]:
    """Names of the parameters to draw a map over: those that vary, or where there are not two of those, all of them.

    Those that are fixed then come first: it is they that lead out of what was trained.
    """
    names = varying(family)
    return names if len(names) > 1 else [*(name for name in family.distributions if name not in names), *names]


def varying(family: GeneratedFamily) -> list[str]:
    """Names of the parameters that differ between the family's tasks."""
    return [name for name, dist in family.distributions.items() if dist.span[1] > dist.span[0]]
