"""Tasks from a table: each is the rows with one value in the task column, split once for all into three sets."""

import functools
import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, StringConstraints
from torch import Tensor

from maml_core.errors import ConfigError
from maml_core.fields import Integer
from maml_core.learning.shuffles import draw_rows
from maml_core.learning.table import MOST_INPUTS, MOST_OUTPUTS, Table, example, find
from maml_core.learning.tasks import TaskBatch, TaskFamily, TaskSet, seeded
from maml_core.words import span

LEAST_TASKS = 8
HELD_OUT_PART, VALIDATION_PART = 0.2, 0.1
"""How much of a table's tasks is set apart to measure a run, and to choose its best checkpoint."""

_ELSEWHERE: dict[str, Any] = {"set_elsewhere": True}
"""Marks a field that the Data page sets: the form only carries it along."""

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]

TableId = Annotated[
    str,
    Field(
        pattern="^[0-9a-f]{64}$",
        description="Which table, by the hash of its content. Choose it on the Data page.",
        json_schema_extra={
            "rule": "the hash of a table, 64 of 0-9 and a-f; see `python -m maml_core tables`",
            **_ELSEWHERE,
        },
    ),
]
"""A field of a family whose tasks are those of a table."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """How a model's numbers relate to those of the table: (value - mean) / deviation."""

    x_mean: Tensor  # [inputs]
    x_std: Tensor
    y_mean: Tensor  # [outputs]
    y_std: Tensor

    def scale_x(self, x: Tensor) -> Tensor:
        """From the table's units `[..., inputs]` to the model's."""
        return (x - self.x_mean) / self.x_std

    def scale_y(self, y: Tensor) -> Tensor:
        """From the table's units `[..., outputs]` to the model's."""
        return (y - self.y_mean) / self.y_std

    def original_x(self, x: Tensor) -> Tensor:
        """From the model's units `[..., inputs]` to the table's."""
        return x * self.x_std + self.x_mean

    def original_y(self, y: Tensor) -> Tensor:
        """From the model's units `[..., outputs]` to the table's."""
        return y * self.y_std + self.y_mean


@dataclass(frozen=True, eq=False)
class TaskRows:
    """The rows of a table as tasks, in the model's units; the rows of a task stand together."""

    labels: list[str]  # each task's value in the task column
    x: Tensor  # [rows, inputs] float64
    y: Tensor  # [rows, outputs] float64
    first: Tensor  # [tasks]: each task's first row
    count: Tensor  # [tasks]: how many rows it has
    sets: dict[TaskSet, Tensor]  # which tasks are in each set
    scaling: Scaling
    incomplete: int  # rows left out because a value is missing
    flat: int  # tasks left out because all their rows have the same inputs

    def usable(self, task_set: TaskSet, points: int) -> Tensor:
        """Which tasks of a set have at least so many rows, as indices in a fixed order."""
        members = self.sets[task_set]
        return members[self.count[members] >= points]

    def rows_of(self, task: int) -> tuple[Tensor, Tensor]:
        """x `[rows, inputs]` and y `[rows, outputs]` of one task, in the model's units."""
        rows = slice(int(self.first[task]), int(self.first[task] + self.count[task]))
        return self.x[rows], self.y[rows]


@dataclass(frozen=True)
class Summary:
    """What there is to train on in a table, and what is left out."""

    training: int  # tasks
    validation: int
    held_out: int
    small: int  # tasks left out because they have too few rows
    flat: int  # tasks left out because all their rows have the same inputs
    incomplete: int  # rows left out because a value is missing
    counts: list[int]  # each task's rows

    @property
    def sizes(self) -> str:
        """How many rows a task has: 24, or 2 to 12."""
        return span(self.counts)

    def left_out(self) -> str:
        """A sentence on what is left out, or an empty one."""
        parts = []
        if self.small:
            parts.append(f"{self.small:,} tasks with too few rows")
        if self.flat:
            parts.append(f"{self.flat:,} tasks whose rows all have the same inputs")
        if self.incomplete:
            parts.append(f"{self.incomplete:,} rows with a missing value")
        return f"Left out: {', '.join(parts)}." if parts else ""


class TableFamily(TaskFamily):
    """The tasks of a table: to predict outputs from inputs, for each value of the task column anew."""

    title: ClassVar[str] = "A table of your own"
    order: ClassVar[int] = 2
    judged_by: ClassVar[str] = "other rows"

    family: Literal["table"] = "table"
    table: TableId = Field(default_factory=lambda: example().id)
    task: ColumnName = Field(
        "sensor",
        description="The column that says which task a row belongs to.",
        json_schema_extra={"rule": "a column's name", **_ELSEWHERE},
    )
    inputs: tuple[ColumnName, ...] = Field(
        ("reading",),
        min_length=1,
        max_length=MOST_INPUTS,
        description="Columns that the model is given; `name=value` is 1 where the column has that value, else 0.",
        json_schema_extra={"rule": f"a list of 1 to {MOST_INPUTS} column names", **_ELSEWHERE},
    )
    outputs: tuple[ColumnName, ...] = Field(
        ("temperature (°C)",),
        min_length=1,
        max_length=MOST_OUTPUTS,
        description="Columns that the model is to predict.",
        json_schema_extra={"rule": f"a list of 1 to {MOST_OUTPUTS} column names", **_ELSEWHERE},
    )
    standardize: bool = Field(
        True, description="Scale inputs and outputs to mean 0 and deviation 1, as measured on the training tasks."
    )
    split_seed: Integer = Field(
        0, ge=0, le=2**32 - 1, description="Which tasks are held out; the same for every run to be compared."
    )

    @property
    def table_id(self) -> str:
        """As `TaskFamily.table_id`."""
        return self.table

    @property
    def input_size(self) -> int:
        """One for each input column."""
        return len(self.inputs)

    @property
    def output_size(self) -> int:
        """One for each output column."""
        return len(self.outputs)

    @property
    def rows(self) -> TaskRows:
        """The table's rows as tasks.

        Raises:
            ConfigError: the table is not at hand, or has no such columns.
        """
        return _rows(self)

    def check(self, points: int) -> None:
        """Find out whether tasks of so many rows can be drawn.

        Raises:
            ConfigError: the table is not at hand, lacks a column, or has too few tasks of that size.
        """
        rows = self.rows
        counts = {task_set: len(rows.usable(task_set, points)) for task_set in TaskSet}
        total = sum(counts.values())
        said = f"tasks.table: {find(self.table).name} has {total} tasks with at least {points} rows"
        if total < LEAST_TASKS:
            raise ConfigError(
                f"{said} (shots + query_shots): at least {LEAST_TASKS} are needed; lower shots or query_shots, or "
                f"choose another task column than {self.task!r}."
            )
        for task_set, name in _SET_NAMES.items():
            if not counts[task_set]:
                raise ConfigError(
                    f"{said}, none of them among the {name} tasks: lower shots or query_shots, or choose another "
                    f"split_seed than {self.split_seed}."
                )

    def summary(self, shots: int, query_shots: int) -> "Summary":
        """What there is to train on with so many rows per task; to measure a run, one row beside the support is enough.

        Raises:
            ConfigError: the table is not at hand, or has no such columns.
        """
        rows = self.rows
        usable = {task_set: len(rows.usable(task_set, shots + query_shots)) for task_set in TaskSet}
        usable[TaskSet.HELD_OUT] = len(rows.usable(TaskSet.HELD_OUT, shots + 1))
        counts = rows.count.tolist()
        return Summary(
            usable[TaskSet.TRAINING],
            usable[TaskSet.VALIDATION],
            usable[TaskSet.HELD_OUT],
            small=len(counts) - rows.flat - sum(usable.values()),
            flat=rows.flat,
            incomplete=rows.incomplete,
            counts=counts,
        )

    def sample_batch(
        self,
        shape: tuple[int, ...],
        shots: int,
        query_shots: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        task_set: TaskSet = TaskSet.TRAINING,
    ) -> TaskBatch:
        """As `TaskFamily.sample_batch`: tasks of the set with replacement, rows of a task without.

        Raises:
            ConfigError: the set has no task of that size.
        """
        rows, points = self.rows, shots + query_shots
        usable = rows.usable(task_set, points)
        if not len(usable):
            self.check(points)
            raise ConfigError(
                f"shots + query_shots = {points} is not allowed: no {_SET_NAMES[task_set]} task has more."
            )
        u = torch.rand(*shape, generator=generator, dtype=torch.float64)
        tasks = usable[(u * len(usable)).long().clamp(max=len(usable) - 1)]
        places = draw_rows(rows.count[tasks], points, generator)
        chosen = (rows.first[tasks][..., None] + places).reshape(-1)
        x, y = (
            values[chosen].to(dtype).reshape(*shape, points, values.shape[1]).to(device) for values in (rows.x, rows.y)
        )
        return TaskBatch.split(x, y, shots)

    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Random draws `[tasks, points, features]` from the held-out tasks."""
        generator = seeded(f"{TaskSet.HELD_OUT}:{seed}")
        return self.sample_batch((tasks,), shots, query_shots, generator, task_set=TaskSet.HELD_OUT)

    def validation(self, *, tasks: int, shots: int, query_shots: int) -> TaskBatch:
        """Random draws `[tasks, points, features]` from the validation tasks, the same for every run."""
        generator = seeded(f"{TaskSet.VALIDATION}:0:0")
        return self.sample_batch((tasks,), shots, query_shots, generator, task_set=TaskSet.VALIDATION)


_SET_NAMES = {TaskSet.TRAINING: "training", TaskSet.VALIDATION: "validation", TaskSet.HELD_OUT: "held-out"}


@functools.lru_cache(maxsize=4)
def _rows(family: TableFamily) -> TaskRows:
    """The rows of a family's table as tasks; a family is frozen, and its table known by its content."""
    table = find(family.table)
    _check_roles(family)
    labels = table.labels(family.task)
    x = np.stack([table.values(name) for name in family.inputs], axis=1)
    y = np.stack([table.values(name) for name in family.outputs], axis=1)
    complete = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1) & (labels != "")
    labels, x, y = labels[complete].astype(str), x[complete], y[complete]
    if not len(labels):
        raise ConfigError(f"tasks.table: {table.name} has no row in which no value is missing.")
    names, owner, count = _tasks_in_order(labels)
    order = np.argsort(owner, kind="stable")
    x, y = x[order], y[order]
    first = np.cumsum(count) - count
    lowest, highest = (np.stack([part(x[:, i], first) for i in range(x.shape[1])]) for part in _REDUCERS)
    is_flat = (lowest == highest).all(axis=0) & (count > 1)
    parts = split(list(names), family.split_seed, held_out=HELD_OUT_PART, validation=VALIDATION_PART, least=1)
    sets = {name: np.array([i for i in part if not is_flat[i]], dtype=np.int64) for name, part in parts.items()}
    training = np.isin(np.repeat(np.arange(len(names)), count), sets[TaskSet.TRAINING])
    scaling = _scaling(family, table, torch.from_numpy(x), torch.from_numpy(y), training)
    return TaskRows(
        [str(name) for name in names],
        scaling.scale_x(torch.from_numpy(x)),
        scaling.scale_y(torch.from_numpy(y)),
        torch.from_numpy(first),
        torch.from_numpy(count),
        {task_set: torch.from_numpy(members) for task_set, members in sets.items()},
        scaling,
        incomplete=int((~complete).sum()),
        flat=int(is_flat.sum()),
    )


def _tasks_in_order(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different labels, which of them each row has, and how many rows each has; numbers in their own order."""
    names, owner, count = np.unique(labels, return_inverse=True, return_counts=True)
    try:
        order = np.argsort(names.astype(np.float64), kind="stable")
    except ValueError:  # words
        return names, owner, count
    return names[order], np.argsort(order)[owner], count[order]


_REDUCERS = (np.minimum.reduceat, np.maximum.reduceat)


def _check_roles(family: TableFamily) -> None:
    """Raise ConfigError where a column has two roles."""
    seen: set[str] = set()
    for name in (family.task, *family.inputs, *family.outputs):
        if name in seen:
            raise ConfigError(f"{name!r} is not allowed twice: a column is the task, an input or an output.")
        seen.add(name)


def split(names: list[str], seed: int, *, held_out: float, validation: float, least: int) -> dict[TaskSet, list[int]]:
    """Numbers of tasks, or classes, in the order of a hash of their names: shares of all, but at least so many.

    The first are held out, the next judge checkpoints. Over all, whatever their size, so that no setting of a run moves
    one from one set to another.
    """
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{seed}:{names[i]}".encode()).digest())
    first = max(least, round(held_out * len(names)))
    second = first + max(least, round(validation * len(names)))
    parts = order[:first], order[first:second], order[second:]
    sets = zip((TaskSet.HELD_OUT, TaskSet.VALIDATION, TaskSet.TRAINING), parts, strict=True)
    return {name: sorted(part) for name, part in sets}


def _scaling(family: TableFamily, table: Table, x: Tensor, y: Tensor, training: np.ndarray) -> Scaling:
    """Means and deviations of the training tasks' rows, or none where that is not asked for."""
    if not training.any():
        raise ConfigError(
            f"tasks.table: {table.name} has no task left to train on: each has the same inputs in all rows, or "
            f"{family.task!r} has too few values."
        )
    for name, values in zip((*family.inputs, *family.outputs), [*x[training].T, *y[training].T], strict=True):
        if values.min() == values.max():
            role = "output" if name in family.outputs else "input"
            raise ConfigError(
                f"{name!r} is {float(values[0]):g} in every row of the training tasks: an {role} must vary; choose "
                "another column."
            )
    if not family.standardize:
        ones = torch.ones(x.shape[1], dtype=torch.float64), torch.ones(y.shape[1], dtype=torch.float64)
        return Scaling(torch.zeros_like(ones[0]), ones[0], torch.zeros_like(ones[1]), ones[1])
    x, y = x[training], y[training]
    return Scaling(x.mean(0), x.std(0, correction=0), y.mean(0), y.std(0, correction=0))
