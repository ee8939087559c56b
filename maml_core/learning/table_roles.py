"""What a table's columns are for: a guess, with reasons, at which says the task, which are inputs, which the output."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maml_core.errors import ConfigError
from maml_core.learning.table import MOST_INPUTS, MOST_VALUES, Column, ColumnKind, Table, keep
from maml_core.learning.table_tasks import LEAST_TASKS, TableFamily

_TASK_WORDS = re.compile(
    r"(^|[^a-z])(id|task|subject|group|patient|person|animal|user|site|sensor|school|device|station|plant|player|series"
    r"|chick|cow|rat|dog|tree|plot|batch|unit|item|participant|student|child|name|code|key|cell|store|shop|region"
    r"|country|city|machine|engine|well|lake|river|farm|field|lot)s?([^a-z]|$)"
)
_TIME_WORDS = re.compile(
    r"(^|[^a-z])(time|day|days|date|week|month|year|age|hour|minute|second|t|x|dose|visit|step)s?([^a-z]|$)"
)
_OUTPUT_WORDS = re.compile(
    r"(^|[^a-z])(y|target|output|outcome|response|value|score|result|label|weight|height|yield|price|growth|measure)"
    r"([^a-z]|$)"
)
_NUMBERING = re.compile(r"^(rownames|index|row|unnamed: \d+|column \d+|)$")


@dataclass(frozen=True)
class Roles:
    """What each column is for."""

    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    why: str = ""  # a sentence for each

    def family(self, table: Table, *, split_seed: int = 0, standardize: bool = True) -> TableFamily:
        """The tasks of `table` by these roles; the table can then be found by its hash for a while.

        Raises:
            ConfigError: a column is missing, or cannot have its role.
        """
        counts = _rows_per_task(table, self.task)
        if len(counts) < 2:
            raise ConfigError(
                f"task = {self.task!r} is not allowed: it has the same value in every row, so there is one task; "
                "choose a column with a value for each task."
            )
        if counts.max() < 2:
            raise ConfigError(
                f"task = {self.task!r} is not allowed: it has another value in every row, so no task has two rows; "
                "choose a column whose values repeat."
            )
        for name in self.outputs:
            table.values(name)
        return TableFamily(
            table=keep(table).id,
            task=self.task,
            inputs=table.expanded(self.inputs),
            outputs=self.outputs,
            standardize=standardize,
            split_seed=split_seed,
        )


def guess_roles(table: Table, task: str | None = None) -> Roles:
    """The likeliest roles of a table's columns, given the `task` column or not.

    Raises:
        ConfigError: no column can be the task, or nothing is left to predict.
    """
    if len(table.columns) < 3:
        raise ConfigError(
            f"{table.name} has {len(table.columns)} column{'s' if len(table.columns) > 1 else ''}: there must be one "
            "that says the task, one to predict from and one to predict; check the separator."
        )
    if task is None:
        scores = {column.name: _task_score(table, column) for column in table.columns}
        task = max(scores, key=lambda name: scores[name])
        is_likely = scores[task] > 0
    else:
        is_likely = bool(table.column(task))
    if not is_likely:
        raise ConfigError(
            f"{table.name}: no column looks like a task, that is, has at least {LEAST_TASKS} values with several rows "
            "each; choose one by hand, or add a column that says which rows belong together."
        )
    rest = [column for column in table.columns if column.name != task and not _is_numbering(table, column)]
    numbers = [column.name for column in rest if column.kind == ColumnKind.NUMBER]
    varying = _varying_within(table, task, [column.name for column in rest])
    candidates = [name for name in numbers if name in varying]
    if not candidates:
        raise ConfigError(f"{table.name}: no number varies within a value of {task!r}, so there is nothing to predict.")
    output = max(candidates, key=lambda name: (_output_score(table, name), candidates.index(name)))
    rest = [column for column in rest if column.name != output]
    inputs = [column.name for column in rest if column.name in varying and _fits(table, column)]
    if not inputs:
        raise ConfigError(
            f"{table.name}: no column varies within a value of {task!r} beside {output!r}: nothing to predict from."
        )
    counts = _rows_per_task(table, task)
    constant = [column.name for column in rest if column.name not in varying]
    few = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.min()}"
    named = " and has the name of one" if _OUTPUT_WORDS.search(output.lower()) else ""
    why = (
        f"{task} says the task: {len(counts):,} values with {few} rows each. "
        f"{output} is to be predicted: a number that varies within a task{named}. "
    )
    why += "The other columns that vary" if len(inputs) > 1 else f"{inputs[0]}, which varies"
    why += " within a task are the inputs." if len(inputs) > 1 else " within a task too, is the input."
    if constant:
        why += f" Not used, since the same in all rows of a task: {', '.join(constant[:6])}."
    return Roles(task, tuple(inputs[:MOST_INPUTS]), (output,), why)


def parse_names(text: str) -> tuple[str, ...]:
    """Column names with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _rows_per_task(table: Table, task: str) -> np.ndarray:
    labels = table.labels(task)
    return np.unique(labels[labels != ""].astype(str), return_counts=True)[1]


def _task_score(table: Table, column: Column) -> float:
    """How much a column looks like the one that says the task; at most 0 where it cannot be."""
    labels = table.labels(column.name)
    if column.kind == ColumnKind.NUMBER:
        values = table.values(column.name)
        if not np.array_equal(values[np.isfinite(values)], np.round(values[np.isfinite(values)])):
            return 0.0
    found, places, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)
    if sum(counts >= 4) < LEAST_TASKS or len(found) > len(labels) / 2:
        return 0.0
    switches = 1 + int((np.diff(places) != 0).sum())
    name = column.name.lower()
    score = 1.0 + (column.kind == ColumnKind.CATEGORY) + 2.0 * (switches <= 1.2 * len(found))
    score += 3.0 * bool(_TASK_WORDS.search(name)) - 3.0 * bool(_TIME_WORDS.search(name))
    return max(score - 2.0 * (column.kind == ColumnKind.DATE), 0.1)


def _output_score(table: Table, name: str) -> float:
    words = name.lower()
    different = len(np.unique(table.values(name))) / max(1, table.rows)
    return 3.0 * bool(_OUTPUT_WORDS.search(words)) - 3.0 * bool(_TIME_WORDS.search(words)) + different


def _is_numbering(table: Table, column: Column) -> bool:
    """Whether a column only counts the rows of the file."""
    if not _NUMBERING.match(column.name.lower()) or column.kind != ColumnKind.NUMBER:
        return False
    return bool((np.diff(table.values(column.name)) == 1).all())


def _varying_within(table: Table, task: str, names: Sequence[str]) -> set[str]:
    """Columns with different values in at least half of the tasks that have several rows."""
    owner = np.unique(table.labels(task).astype(str), return_inverse=True)[1]
    order = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    several = np.diff(np.append(first, len(order))) > 1
    varying = set()
    for name in names:
        codes = np.unique(table.labels(name).astype(str), return_inverse=True)[1][order]
        differs = np.minimum.reduceat(codes, first) != np.maximum.reduceat(codes, first)
        if several.any() and differs[several].mean() >= 0.5:
            varying.add(name)
    return varying


def _fits(table: Table, column: Column) -> bool:
    """Whether a column can be an input as it is."""
    return column.kind != ColumnKind.CATEGORY or len(table.frame[column.name].cat.categories) <= MOST_VALUES
