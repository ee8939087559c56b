"""Is it worth it? What a run has learned from a table, on tasks it never saw, beside what people would do otherwise."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.evaluation.curves import random_start
from maml_core.evaluation.rivals import Rival, make_rivals
from maml_core.learning.initialization import Initialization
from maml_core.learning.shuffles import draw_rows
from maml_core.learning.table import unit_of
from maml_core.learning.table_tasks import TableFamily, TaskRows
from maml_core.learning.tasks import TaskBatch, TaskSet, seeded

MOST_TASKS = 200
"""Held-out tasks that are measured; of more, the first by name."""

MOST_QUERY_ROWS = 200
SUPPORTS = 40
"""Random supports of each task; fewer of many tasks, so that at most `MOST_FITS` lines are fitted."""

MOST_FITS = 2000
RESAMPLES = 2000
OTHER_STEPS = 20
"""How many steps a start that was not trained to adapt may take; the best number is chosen on validation tasks."""

METHODS = {
    "learned": "meta-learned",
    "line": "a line per task",
    "gp": "a Gaussian process",
    "features": "ridge on random features",
    "mean": "the mean of the support",
    "pooled": "pooled training as it is",
    "tuned": "pooled training, fine-tuned",
    "random": "a random start, adapted",
}
"""What is compared, by the name it has in code."""

SHORT = {
    "learned": "meta-learned",
    "line": "line per task",
    "gp": "Gaussian process",
    "features": "random features",
    "mean": "mean of the support",
    "pooled": "pooled",
    "tuned": "pooled, fine-tuned",
    "random": "random start",
}
"""The same, for the axes of pictures."""

PENALTIES = np.logspace(-3, 3, 13)
"""Of which the line's ridge penalty is chosen, by leaving out one row of the support at a time."""


class Interval(NamedTuple):
    """A figure and its 95 % interval, by bootstrap over tasks."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Worth:
    """Errors on held-out tasks. All are mean squares over a task's query rows, in `unit`s squared."""

    tasks: list[str]
    task_column: str
    shots: int
    supports: int
    steps: int  # that the run was trained for
    unit: str  # of the errors: the output's own, or standard deviations where there are several outputs
    outputs: list[str]
    squares: dict[str, list[float]]  # by method: each task's error
    spread: list[float]  # each task's mean squared deviation from the mean of all held-out rows
    curves: dict[str, list[list[float]]]  # by method: each task's error at steps 0, 1, …
    chosen_steps: dict[str, int]  # how many steps the methods that adapt were given
    by_rows: dict[str, dict[int, list[float]]]  # by method and number of support rows: each task's error

    def error(self, method: str) -> Interval:
        """Root mean squared error of a method."""
        return _rooted(self.squares[method])

    @staticmethod
    def interval(squares: list[float]) -> Interval:
        """The root of the mean of some tasks' errors, and its interval."""
        return _rooted(squares)

    def r2(self, method: str) -> float:
        """The share of the held-out rows' variance that a method explains."""
        return 1 - float(_or_infinite(self.squares[method]).mean() / np.mean(self.spread))

    def gain(self, over: str) -> Interval:
        """By how much the error of another method is above that of the meta-learned start, paired over tasks."""
        mine, other = _or_infinite(self.squares["learned"]), _or_infinite(self.squares[over])
        picks = _picks(len(mine))
        with np.errstate(invalid="ignore"):  # both diverge: neither is better
            gains = np.nan_to_num(np.sqrt(other[picks].mean(1)) - np.sqrt(mine[picks].mean(1)), nan=0.0)
            gain = np.nan_to_num(np.sqrt(other.mean()) - np.sqrt(mine.mean()), nan=0.0)
        return Interval(float(gain), *_middle(gains))

    @property
    def rival(self) -> str:
        """The best of what people would do otherwise."""
        others = [name for name in self.squares if name != "learned"]
        return min(others, key=lambda name: _or_infinite(self.squares[name]).mean())

    def sentence(self) -> str:
        """What it comes to."""
        mine, other = self.error("learned"), self.error(self.rival)
        unit = f" {self.unit}" if self.unit else ""
        said = (
            f"On {len(self.tasks)} held-out tasks ({self.task_column}), from {self.shots} "
            f"row{'s' if self.shots > 1 else ''}: {mine.value:.3g}{unit} ({mine.low:.3g} to {mine.high:.3g}), "
            f"{METHODS[self.rival]} {other.value:.3g}{unit}: "
        )
        if not np.isfinite(mine.value):
            return said + "adaptation diverges; try a smaller inner_lr."
        gain = self.gain(self.rival)
        between = f"paired difference {gain.value:.2g}{unit}, {gain.low:.2g} to {gain.high:.2g}".replace("-", "−")
        if gain.low > 0:
            return said + f"meta-learning wins by {gain.value / other.value:.0%} ({between})."
        if gain.high < 0:
            return said + f"no gain, meta-learning is worse ({between})."
        return said + f"no gain that {len(self.tasks)} tasks could show ({between})."

    def table(self) -> pd.DataFrame:
        """A row per method: error, interval, share of variance explained, steps."""
        rows = []
        for name in METHODS:
            if name in self.squares:
                found = self.error(name)
                gain = self.gain(name) if name != "learned" else None
                rows.append(
                    {
                        "method": METHODS[name],
                        "error": found.value,
                        "from": found.low,
                        "to": found.high,
                        "R2": self.r2(name),
                        "steps": self.chosen_steps.get(name),
                        "gain over it": gain and gain.value,
                        "gain from": gain and gain.low,
                        "gain to": gain and gain.high,
                    }
                )
        return pd.DataFrame(rows).set_index("method")

    def steps_table(self) -> pd.DataFrame:
        """Root mean squared error against adaptation steps, and its interval, a column for each start."""
        return self._against({name: dict(enumerate(curve)) for name, curve in self.curves.items()}, "step")

    def rows_table(self) -> pd.DataFrame:
        """Root mean squared error against the number of support rows, and its interval, a column for each method."""
        return self._against(self.by_rows, "support rows")

    def _against(self, squares: Mapping[str, Mapping[int, list[float]]], axis: str) -> pd.DataFrame:
        columns: dict[str, dict[int, float]] = {}
        for name, points in squares.items():
            found = {at: _rooted(each) for at, each in points.items()}
            for suffix, part in (("", "value"), (" from", "low"), (" to", "high")):
                columns[METHODS[name] + suffix] = {at: getattr(interval, part) for at, interval in found.items()}
        frame = pd.DataFrame(columns)
        frame.index.name = axis
        return frame

    def to_json(self) -> str:
        """As JSON text; NaN and infinity as Python writes them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Worth":
        """What `to_json` wrote."""
        data = json.loads(text)
        by_rows = {name: {int(n): each for n, each in points.items()} for name, points in data["by_rows"].items()}
        return cls(**(data | {"by_rows": by_rows}))


class _Task(NamedTuple):
    """One held-out task, with random supports."""

    x: Tensor  # [rows, inputs] float32, in the model's units
    y: Tensor  # [rows, outputs]
    support: Tensor  # [supports, shots]: row numbers
    query: Tensor  # [supports, rows] bool: which rows are judged

    @property
    def batch(self) -> TaskBatch:
        """A task for each support, with all rows as query."""
        count = len(self.support)
        whole = (values[None].expand(count, -1, -1) for values in (self.x, self.y))
        return TaskBatch(self.x[self.support], self.y[self.support], *whole)


def measure_worth(
    start: Initialization,
    config: RunConfig,
    *,
    pooled: Initialization | None = None,
    tasks: int = MOST_TASKS,
    steps: int = 10,
    seed: int = 0,
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> Worth:
    """Adapt `start` to random supports of every held-out task, and judge it on all other rows, beside its rivals.

    `pooled` is joint pretraining on the same tasks. Intervals are over tasks: rows of one task are not independent. The
    work is done in turns, as in `evaluate`.

    Raises:
        ConfigError: the run is not on a table, or too few of its tasks have enough rows.
    """
    family = config.tasks
    if not isinstance(family, TableFamily):
        raise ConfigError(f"tasks.family = {family.family!r} has no table: this is measured for tables only.")
    with turn(0.0):
        rows = family.rows
        members = rows.usable(TaskSet.HELD_OUT, config.shots + 1)[: min(tasks, MOST_TASKS)].tolist()
        if not members:
            raise ConfigError(
                f"tasks.table: no held-out task has more than {config.shots} rows: there is nothing to judge by."
            )
        supports = max(5, min(SUPPORTS, MOST_FITS // len(members)))
        drawn = [_task(rows, i, config.shots, supports, seed) for i in members]
        units = _units(rows)
        starts = {"learned": start, "tuned": pooled, "random": random_start(config)}
        given = {name: each for name, each in starts.items() if each is not None}
    last = max(steps, config.inner_steps)
    chosen = {"learned": config.inner_steps}
    for name in ("tuned", "random"):
        if name in given:
            with turn(0.05):
                chosen[name] = _best_steps(given[name], rows, config, seed, last)
    length = max(last, *chosen.values())
    counts = _row_counts(rows, members, config.shots)
    curves: dict[str, list[list[float]]] = {name: [] for name in given}
    squares: dict[str, list[float]] = {}
    with turn(0.1):
        rivals = make_rivals(config, ("gp", "features"))
    predictors = {"line": _lines, "mean": _means} | {name: _on_task(rival) for name, rival in rivals.items()}
    by_rows: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in counts} for name in ("learned", *predictors)
    }
    squares |= {name: [] for name in predictors}
    spread = []
    middle = torch.cat([task.y for task in drawn]).mean(0)
    for number, (member, task) in enumerate(zip(members, drawn, strict=True)):
        with turn(0.1 + 0.9 * number / len(drawn)):
            for name, each in given.items():
                curves[name].append(_adapted(each, task, length, units))
            for name, predict in predictors.items():
                squares[name].append(_judge(predict(task), task, units))
            spread.append(_judge(middle.expand(len(task.support), *task.y.shape), task, units))
        for count in counts:
            if len(task.x) > count:
                with turn(0.1 + 0.9 * (number + 0.5) / len(drawn)):
                    few = _task(rows, member, count, max(3, supports // 4), seed + 1)
                    found = _adapted(start, few, config.inner_steps, units)[-1]
                    by_rows["learned"][count].append(found)
                    for name, predict in predictors.items():
                        by_rows[name][count].append(_judge(predict(few), few, units))
    for name in given:
        squares[name] = [curve[chosen[name]] for curve in curves[name]]
    if "tuned" in curves:
        squares["pooled"] = [curve[0] for curve in curves["tuned"]]
        chosen["pooled"] = 0
    return Worth(
        tasks=[rows.labels[i] for i in members],
        task_column=family.task,
        shots=config.shots,
        supports=supports,
        steps=config.inner_steps,
        unit=unit_of(family.outputs[0]) if len(family.outputs) == 1 else "standard deviations",
        outputs=list(family.outputs),
        squares=squares,
        spread=spread,
        curves={name: np.transpose([curve[: last + 1] for curve in each]).tolist() for name, each in curves.items()},
        chosen_steps=chosen,
        by_rows=by_rows,
    )


def _task(rows: TaskRows, member: int, shots: int, supports: int, seed: int) -> _Task:
    """A task with random supports, the same for every run and method."""
    x, y = rows.rows_of(member)
    generator = seeded(f"worth:{seed}:{rows.labels[member]}:{shots}")
    most = shots + MOST_QUERY_ROWS
    if len(x) > most:
        kept = draw_rows(torch.tensor([len(x)]), most, generator)[0]
        x, y = x[kept], y[kept]
    support = draw_rows(torch.full((supports,), len(x)), shots, generator)
    query = torch.ones(supports, len(x), dtype=torch.bool).scatter_(1, support, False)
    return _Task(x.float(), y.float(), support, query)


def _units(rows: TaskRows) -> Tensor:
    """What an error in the model's units is multiplied by, `[outputs]`: several outputs stay in deviations."""
    if len(rows.scaling.y_std) == 1:
        return rows.scaling.y_std.float()
    return torch.ones_like(rows.scaling.y_std, dtype=torch.float32)


def _judge(predictions: Tensor, task: _Task, units: Tensor) -> float:
    """Mean squared error of predictions `[supports, rows, outputs]` over the rows that are judged."""
    squares = ((predictions - task.y) * units).square().mean(-1)
    return float(squares[task.query].double().mean())


def _adapted(start: Initialization, task: _Task, steps: int, units: Tensor) -> list[float]:
    """The error after each of 0 to `steps` steps."""
    predictions = start.adapt(task.batch, steps).predictions
    return [_judge(each, task, units) for each in predictions]


def _on_task(rival: Rival) -> Callable[[_Task], Tensor]:
    """What a rival says from each support, `[supports, rows, outputs]`."""
    return lambda task: rival(task.batch)


def _means(task: _Task) -> Tensor:
    """What predicting the support's mean says, `[supports, rows, outputs]`."""
    return task.y[task.support].mean(1, keepdim=True).expand(-1, len(task.y), -1)


def _lines(task: _Task) -> Tensor:
    """What a ridge line fitted to each support says, `[supports, rows, outputs]`."""
    if task.support.shape[1] < 2:
        return _means(task)
    from sklearn.linear_model import RidgeCV  # a second to import, for those who evaluate tables

    x, y = task.x.double().numpy(), task.y.double().numpy()
    found = [RidgeCV(PENALTIES).fit(x[i], y[i]).predict(x).reshape(y.shape) for i in task.support.numpy()]
    return torch.from_numpy(np.stack(found)).float()


def _best_steps(start: Initialization, rows: TaskRows, config: RunConfig, seed: int, last: int) -> int:
    """With how many steps, of 0 to `OTHER_STEPS`, a start does best on the validation tasks."""
    members = rows.usable(TaskSet.VALIDATION, config.shots + 1)[:20].tolist()
    units = _units(rows)
    found = [_adapted(start, _task(rows, i, config.shots, 10, seed), max(last, OTHER_STEPS), units) for i in members]
    return int(np.argmin(np.nan_to_num(np.mean(found, axis=0), nan=np.inf))) if found else last


def _row_counts(rows: TaskRows, members: list[int], shots: int) -> list[int]:
    """At which numbers of support rows to measure: from 2 to what half of the held-out tasks have, at most eight."""
    most = max(2, min(40, int(rows.count[members].double().median()) - 2))
    spaced = np.unique(np.linspace(2, most, 7).round().astype(int)).tolist()
    return sorted({*spaced, *([shots] if 2 <= shots <= most else [])})


def _picks(count: int) -> np.ndarray:
    """Which tasks each resample holds: the same for every method, so that differences are paired."""
    return np.random.Generator(np.random.PCG64(0)).integers(0, count, (RESAMPLES, count))


def _rooted(squares: list[float]) -> Interval:
    if not squares:
        return Interval(float("nan"), float("nan"), float("nan"))
    known = _or_infinite(squares)
    return Interval(float(np.sqrt(known.mean())), *_middle(np.sqrt(known[_picks(len(known))].mean(1))))


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Between which values 95 % of them lie; of them themselves, since some may be infinite."""
    low, high = np.percentile(values, [2.5, 97.5], method="nearest")
    return float(low), float(high)


def _or_infinite(squares: list[float]) -> np.ndarray:
    """Errors, infinite where adaptation diverged."""
    found: np.ndarray = np.nan_to_num(np.array(squares), nan=np.inf, posinf=np.inf)
    return found
