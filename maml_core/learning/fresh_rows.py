"""Tasks of a table to adapt to outside training: held-out ones by name, and new rows that a reader brings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from maml_core.errors import ConfigError
from maml_core.learning.shuffles import draw_rows
from maml_core.learning.table import ColumnKind, Table, find
from maml_core.learning.table_files import read_cells, read_table
from maml_core.learning.table_tasks import Scaling, TableFamily
from maml_core.learning.tasks import TaskSet, seeded

MOST_NEW_ROWS = 10_000
MOST_DRAWN = 300


@dataclass(frozen=True, eq=False)
class RowTask:
    """The rows of one task, and which of them are the support."""

    label: str
    seed: int | None  # which held-out task and draw it is; None for a reader's own rows
    x: Tensor  # [rows, inputs] float32, in the model's units
    y: Tensor  # [rows, outputs]; NaN where it is not known
    support: Tensor  # [shots]: row numbers

    @property
    def others(self) -> Tensor:
        """The numbers of all other rows."""
        mask = torch.ones(len(self.x), dtype=torch.bool)
        mask[self.support] = False
        return mask.nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class RowTasks:
    """Tasks of a table to adapt to, and how to draw them."""

    tasks: list[RowTask]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    scaling: Scaling
    along: int | None = 0  # the input that a curve is drawn along; None: predicted values against true ones
    output: int = 0  # the output that is drawn

    @property
    def support_rows(self) -> list[int]:
        """The first task's support, by the numbers of its rows."""
        rows: list[int] = self.tasks[0].support.tolist()
        return rows

    def with_row_toggled(self, number: int, support: Sequence[int] | None = None) -> list[int]:
        """The first task's support with one row more or less; empty where nothing would be left to learn or judge.

        Of `support` instead, where another one has been asked for since.
        """
        task = self.tasks[0]
        chosen = set(self.support_rows if support is None else support) ^ {number}
        is_allowed = task.seed is not None and 0 < len(chosen) < len(task.x)
        return sorted(chosen) if is_allowed else []


def held_out_names(family: TableFamily, shots: int) -> list[str]:
    """The held-out tasks with more rows than `shots`, in the order of their numbers.

    Raises:
        ConfigError: there is none.
    """
    return [family.rows.labels[i] for i in _held_out_members(family, shots)]


def _held_out_members(family: TableFamily, shots: int) -> list[int]:
    """Which tasks `held_out_names` names, as `TaskRows` numbers them."""
    members: list[int] = family.rows.usable(TaskSet.HELD_OUT, shots + 1).tolist()
    if not members:
        raise ConfigError(
            f"shots = {shots} is not allowed: no held-out task of {find(family.table).name} has more rows; lower it."
        )
    return members


def draw_rows_tasks(
    family: TableFamily,
    seed: int,
    count: int,
    shots: int,
    *,
    support: Sequence[int] | None = None,
    along: int | None = -1,
    output: int = 0,
) -> RowTasks:
    """Held-out tasks number `seed` to `seed + count`, each with a random support of `shots` rows, or that `support`.

    Numbers go on beyond the last task: they are the first ones again, with another support.

    Raises:
        ConfigError: no held-out task has more rows than `shots`, or `support` has no such rows.
    """
    rows, members = family.rows, _held_out_members(family, shots)
    tasks = []
    for number in range(seed, seed + count):
        member = members[number % len(members)]
        x, y = rows.rows_of(member)
        chosen = draw_rows(torch.tensor([len(x)]), shots, seeded(f"fresh:{number}"))[0]
        if support is not None:
            given = sorted(set(support))
            if not given or given[0] < 0 or given[-1] >= len(x) or len(given) == len(x):
                raise ConfigError(
                    f"rows = {', '.join(map(str, given[:8]))} is not allowed: it must be some of 0 to {len(x) - 1}, "
                    "and not all."
                )
            chosen = torch.tensor(given)
        label = f"{family.task} {rows.labels[member]}"
        tasks.append(RowTask(label, number, x.float(), y.float(), chosen))
    if along == -1:
        along = 0 if family.input_size == 1 else None
    return RowTasks(tasks, family.inputs, family.outputs, rows.scaling, along, output)


def draw_training_rows(family: TableFamily, count: int) -> RowTasks:
    """Some training tasks with all their rows, to look at: those with the most rows, by name.

    Raises:
        ConfigError: the table is not at hand, or has no such columns.
    """
    rows = family.rows
    members = rows.sets[TaskSet.TRAINING]
    largest = members[rows.count[members].argsort(descending=True, stable=True)][:count].sort().values
    tasks = []
    for i in largest.tolist():
        x, y = (values[:MOST_DRAWN].float() for values in rows.rows_of(i))
        tasks.append(RowTask(rows.labels[i], None, x, y, torch.arange(len(x))))
    return RowTasks(tasks, family.inputs, family.outputs, rows.scaling)


def curve_inputs(tasks: RowTasks, task: RowTask, points: int) -> Tensor:
    """Inputs `[points, inputs]` along the chosen one, over the range of the task's rows; the others at their median."""
    assert tasks.along is not None
    middle = task.x.median(0).values.repeat(points, 1)
    low, high = float(task.x[:, tasks.along].min()), float(task.x[:, tasks.along].max())
    room = 0.03 * (high - low) or 1.0
    middle[:, tasks.along] = torch.linspace(low - room, high + room, points)
    return middle


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows of a reader's own: those with the output are learned from, the others predicted."""

    frame: pd.DataFrame  # as it was given, number columns as numbers
    tasks: RowTasks
    asked: np.ndarray  # [rows]: which rows have no output


def read_new_rows(family: TableFamily, data: bytes, file_name: str) -> NewRows:
    """Rows of one new task from a file or pasted text, with the table's column names.

    Raises:
        ConfigError: a column is missing, a value is, or there is nothing to learn from; in one sentence.
    """
    given = read_table(data, file_name)
    if given.rows > MOST_NEW_ROWS:
        raise ConfigError(f"{given.name} has {given.rows:,} rows: at most {MOST_NEW_ROWS:,} of one task are allowed.")
    table = find(family.table)
    names = {column.name: column for column in given.columns}
    if family.task in names:
        labels = {label for label in given.labels(family.task) if label}
        if len(labels) > 1:
            raise ConfigError(
                f"{given.name} has rows of {len(labels)} tasks ({', '.join(sorted(labels)[:5])}): keep those of one."
            )
    x = np.stack([_values(given, table, name) for name in family.inputs], axis=1)
    y = np.stack([_output(given, name) for name in family.outputs], axis=1)
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        name = family.inputs[int((~np.isfinite(x[bad.argmax()])).argmax())]
        raise ConfigError(
            f"{given.name}, row {int(bad.argmax()) + 1}: {name!r} is missing; fill it in or leave the row out."
        )
    known = np.isfinite(y).all(axis=1)
    if not known.any():
        raise ConfigError(f"{given.name} has no row with {', '.join(family.outputs)}: give at least one to learn from.")
    scaling = family.rows.scaling
    task = RowTask(
        f"{int(known.sum())} rows of your own",
        None,
        scaling.scale_x(torch.from_numpy(x)).float(),
        scaling.scale_y(torch.from_numpy(y)).float(),
        torch.from_numpy(np.flatnonzero(known)),
    )
    along = 0 if family.input_size == 1 else None
    return NewRows(given.frame, RowTasks([task], family.inputs, family.outputs, scaling, along), ~known)


def read_support_and_query(family: TableFamily, support: tuple[bytes, str], query: tuple[bytes, str]) -> NewRows:
    """Rows of one new task from two files, each its bytes and its name: what to learn from, and what to predict.

    Raises:
        ConfigError: as `read_new_rows`.
    """
    (_, known), (_, asked) = read_cells(*support), read_cells(*query)
    asked = asked.drop(columns=[name for name in family.outputs if name in asked])
    both = pd.concat([known.astype("string"), asked.astype("string")], ignore_index=True)
    found = read_new_rows(family, both.to_csv(index=False).encode(), f"{support[1]} and {query[1]}")
    if not found.asked[len(known) :].all() or found.asked[: len(known)].any():
        raise ConfigError(f"{support[1]}: {', '.join(family.outputs)} must be there in every row to learn from.")
    return found


_PLURALS = {ColumnKind.NUMBER: "numbers", ColumnKind.DATE: "dates", ColumnKind.CATEGORY: "words"}


def _values(given: Table, table: Table, name: str) -> np.ndarray:
    """An input column of new rows; the indicators of a value are those of the table that was trained on."""
    place, equals, word = name.rpartition("=")
    known = [column.name for column in table.columns]
    if name in known or not equals or place not in known:
        kind, found = table.column(name).kind, given.column(name).kind
        if given.frame[name].isna().all():
            return np.full(given.rows, np.nan)
        if found != kind:
            raise ConfigError(f"{given.name}: {name!r} holds {_PLURALS[found]}, where the table has {_PLURALS[kind]}.")
        return given.values(name)
    labels, words = given.labels(place), set(table.labels(place))
    strange = sorted({label for label in labels if label and label not in words})
    if strange:
        raise ConfigError(
            f"{given.name}: {place} = {strange[0]!r} is not allowed: it must be one of "
            f"{', '.join(sorted(words - {''})[:10])}, as in the table."
        )
    return np.where(labels == "", np.nan, (labels == word).astype(np.float64))


def _output(given: Table, name: str) -> np.ndarray:
    """An output column of new rows; all of it may be missing, as may the column."""
    names = {column.name: column.kind for column in given.columns}
    if name not in names or (names[name] == ColumnKind.CATEGORY and given.frame[name].isna().all()):
        return np.full(given.rows, np.nan)
    return given.values(name)
