"""Error against adaptation steps on held-out tasks, with 95 % confidence intervals and baselines."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.func import vmap

from maml_core.config import RunConfig
from maml_core.engines.native import Follower
from maml_core.errors import EngineError
from maml_core.evaluation.rivals import RIVAL_NAMES, TOLD, errors_of, make_rivals
from maml_core.learning.adaptation import NORMAL_95
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.problems import PROBLEMS, Problem, Regression
from maml_core.learning.tasks import TaskBatch, TaskFamily, seeded
from maml_core.words import counted_steps

AT_ONCE = 200
"""Tasks adapted together, so that memory does not grow with the number of tasks."""

FEW_AT_ONCE = 10
"""The same of costly tasks: no turn may keep a screen waiting for long."""

SHOTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""Support points that the error is measured for, beside the trained number."""

SHOTS_TASKS, FEW_SHOTS_TASKS = 200, 40
"""Tasks of each such measurement; the few where tasks are costly."""

WORTH_COMPILING = 3000
"""Inner steps of all tasks together from which on a native loop follows them: it is made in half a second."""

REACH = 2.0
"""How many times as wide the ranges are that tasks outside of training are drawn from."""


def shots_tasks(family: TaskFamily, tasks: int) -> int:
    """Tasks that the error against support points is measured on, in an evaluation on so many."""
    return min(tasks, FEW_SHOTS_TASKS if family.is_costly else SHOTS_TASKS)


@dataclass(frozen=True)
class ErrorCurve:
    """The error over tasks at steps 0..N, and half the width of its 95 % interval."""

    error: list[float]
    ci95: list[float]

    @classmethod
    def of(cls, errors: Tensor) -> "ErrorCurve":
        """From each task's error `[steps + 1, tasks]`: mean and 1.96 standard errors, as in arXiv:1703.03400."""
        count = errors.shape[1]
        spread = errors.std(dim=1) if count > 1 else torch.zeros(errors.shape[0])
        return cls(errors.mean(1).tolist(), (1.96 * spread / count**0.5).tolist())

    def to_json(self) -> str:
        """As JSON text; NaN and infinity as Python writes them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ErrorCurve":
        """What `to_json` wrote."""
        return cls(**json.loads(text))


class Level(NamedTuple):
    """An error over tasks, and half the width of its 95 % interval."""

    error: float
    ci95: float

    @classmethod
    def of(cls, errors: Tensor) -> "Level":
        """From each task's error `[tasks]`."""
        curve = ErrorCurve.of(errors[None])
        return cls(curve.error[0], curve.ci95[0])


@dataclass(frozen=True)
class Evaluation:
    """A run's error on held-out tasks beside its baselines."""

    tasks: int
    seed: int
    learned: ErrorCurve
    random: ErrorCurve
    predict_mean: float
    pretrained: ErrorCurve | None = None  # joint pretraining, where a run of it was given
    rivals: dict[str, Level] = field(default_factory=dict)  # what methods without gradient steps make of the tasks
    by_shots: dict[str, dict[int, Level]] = field(default_factory=dict)  # by method and number of support points
    coverage: float | None = None  # share of the query points inside the 95 % band, where the predictions have one
    outside: Level | None = None  # after the trained steps, on tasks from twice the ranges
    problem: str = Regression.name

    @property
    def judge(self) -> Problem:
        """What the errors are errors of."""
        return PROBLEMS[self.problem]

    def to_json(self) -> str:
        """As JSON text; NaN and infinity as Python writes them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """What `to_json` wrote."""
        data = json.loads(text)
        curves = {
            name: ErrorCurve(data[name].get("error", data[name].get("mse")), data[name]["ci95"])  # as once called
            for name in ("learned", "random", "pretrained")
            if data[name]
        }
        levels = {
            "rivals": {name: Level(*level) for name, level in data["rivals"].items()},
            "by_shots": {
                name: {int(shots): Level(*level) for shots, level in levels.items()}
                for name, levels in data["by_shots"].items()
            },
            "outside": data["outside"] and Level(*data["outside"]),
        }
        return cls(**(data | curves | levels))

    def after(self, steps: int) -> Level:
        """The error after so many steps, or the last of those measured."""
        step = min(steps, len(self.learned.error) - 1)
        return Level(self.learned.error[step], self.learned.ci95[step])

    def strain(self, steps: int) -> float | None:
        """How many times the error after `steps` steps grows on tasks from twice the training ranges."""
        inside = self.after(steps).error
        return self.outside.error / inside if self.outside and inside else None

    def sentence(self, steps: int) -> str:
        """What it comes to, beside the best of the other methods."""
        words = self.judge.in_words
        said = f"After {counted_steps(steps)}: {words(self.after(steps).error)}"
        others = {name: level.error for name, level in self.rivals.items() if name not in TOLD}
        if others:
            best = min(others, key=others.__getitem__)
            said += f"; {RIVAL_NAMES[best]} {words(others[best])}"
        if self.judge.scale != "decades":
            return said + (f". Outside the training ranges {words(self.outside.error)}." if self.outside else ".")
        strain = self.strain(steps)
        if self.coverage is not None:
            said += f". The 95 % band holds {self.coverage:.1%} of the points"
        return said + (f". Outside the training ranges the error is {strain:.3g} times as high." if strain else ".")

    def shots_table(self) -> pd.DataFrame:
        """A row per number of support points, a column for each method and its 95 % interval."""
        columns: dict[str, dict[int, float]] = {}
        for name, levels in self.by_shots.items():
            columns[name] = {shots: self.judge.score(level.error) for shots, level in levels.items()}
            columns[f"{name}_ci95"] = {shots: level.ci95 for shots, level in levels.items()}
        frame = pd.DataFrame(columns)
        frame.index.name = self.judge.supports
        return frame

    def table(self) -> pd.DataFrame:
        """A row per adaptation step, a column for each curve and its 95 % interval."""
        curves = {"learned": self.learned, "pretrained": self.pretrained, "random": self.random}
        columns: dict[str, list[float]] = {}
        for name, curve in curves.items():
            if curve:
                score = [self.judge.score(error) for error in curve.error]
                columns |= {name: score, f"{name}_ci95": curve.ci95}
        frame = pd.DataFrame(columns)
        frame.index.name = "step"
        return frame


def evaluation_tasks(
    config: RunConfig, count: int, seed: int, *, shots: int | None = None, reach: float = 1.0
) -> TaskBatch:
    """Held-out tasks with the run's shots, and what they are judged by: a grid of the true curve, or further points.

    With another `reach`, what tells one task from another is drawn from ranges so many times as wide.
    """
    family, shots = config.tasks, shots or config.shots
    if not isinstance(family, GeneratedFamily):
        return family.held_out(tasks=count, shots=shots, query_shots=config.query_shots, seed=seed)
    generator = seeded(f"evaluation:{seed}")
    parameters = family.sample_parameters((count,), generator)
    if reach != 1.0:
        for name in filter(family.ends_somewhere, family.distributions):
            middle = sum(family.distributions[name].span) / 2
            moved = middle + reach * (parameters[name] - middle)
            parameters[name] = moved.clamp(min=0.0) if name in family.lengths else moved
    x, y = family.sample_points(parameters, family.points_of(shots), generator)
    return family.judged(parameters, x, y, generator)


def _guess_error(problem: Problem, support_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """What doing without a model comes to, in one task."""
    return problem.error(problem.guessed(support_y, x, y), y)


def random_start(config: RunConfig) -> Initialization:
    """A random initialization that is not the run's own, which would be a baseline of one; plain gradient descent."""
    untrained = config.untrained(seed=config.seed + 1)
    return replace(untrained, algorithm=ALGORITHMS["fomaml"], extras={})


def pretraining(config: RunConfig) -> RunConfig:
    """The run that `config` is compared with: joint pretraining on the same tasks with the same budget."""
    return config.with_settings({"algorithm": "joint"})


Turn = Callable[[float], AbstractContextManager[None]]
"""Entered for a short piece of work, and told the fraction of the whole that is done."""


def learned_curve(
    start: Initialization, config: RunConfig, tasks: int, steps: int, seed: int, *, turn: Turn
) -> ErrorCurve:
    """The error of `start` alone, as `evaluate` measures it; to rounding, since torch computes it."""
    with turn(0.0):
        batch = evaluation_tasks(config, tasks, seed)
    return ErrorCurve.of(_errors(start, config, batch, steps, turn))


def _between(turn: Turn, begin: float, end: float) -> Turn:
    """Turns at a part of the work, which are told the fraction of that part."""
    return lambda done: turn(begin + (end - begin) * done)


def _followers(starts: Mapping[str, Initialization], batch: TaskBatch, steps: int) -> dict[str, Follower]:
    """Native loops that follow each start's adaptation, where they pay, with their compilers under way.

    What they do not take is missing: torch does it.
    """
    found: dict[str, Follower] = {}
    if len(batch.support_x) * steps < WORTH_COMPILING:
        return found
    by_source: dict[str, Follower] = {}
    for name, start in starts.items():
        with suppress(EngineError):
            follower = Follower(start, batch)
            follower = by_source.setdefault(follower.source, follower)
            follower.begin()
            found[name] = follower
    return found


def _errors(
    start: Initialization,
    config: RunConfig,
    batch: TaskBatch,
    steps: int,
    turn: Turn,
    follower: Follower | None = None,
) -> Tensor:
    """Each task's error `[steps + 1, tasks]`, found in turns."""
    at_once, count = FEW_AT_ONCE if config.tasks.is_costly else AT_ONCE, len(batch.support_x)
    while follower is not None and not follower.is_ready():
        with turn(0.0):  # whoever has asked may have gone
            pass
        time.sleep(0.01)  # in nobody's turn: the compiler is another process
    found = []
    for first in range(0, count, at_once):
        with turn(first / count):
            some = batch.at(slice(first, first + at_once))
            if follower is not None:
                try:
                    found.append(follower.errors(start, some, steps))
                    continue
                except EngineError:  # the compiler failed, or the loop is not known to be right
                    follower = None
            found.append(start.adapt(some, steps).query_loss)
    return torch.cat(found, dim=1)


def evaluate(
    start: Initialization,
    config: RunConfig,
    *,
    tasks: int = 600,
    steps: int = 10,
    seed: int = 0,
    pretrained: Initialization | None = None,
    rivals: tuple[str, ...] = tuple(RIVAL_NAMES),
    turn: Turn = lambda done: nullcontext(),
) -> Evaluation:
    """Measure how `start` adapts to `tasks` held-out tasks of `config` in 0 to `steps` steps, beside its baselines.

    Beside it: the same from a random start and from joint pretraining, what `rivals` make of the same tasks, the error
    after the trained steps against the number of support points, and that on tasks from twice the training ranges.
    The work is done in short turns; each is entered as a context, told the fraction that is done.

    >>> from maml_core import RunConfig, evaluate
    >>> config = RunConfig()
    >>> found = evaluate(config.untrained(), config, tasks=10, steps=1)
    >>> len(found.learned.error), found.learned.error[1] > found.learned.error[0]
    (2, False)
    """
    with turn(0.0):
        batch = evaluation_tasks(config, tasks, seed)
        starts = {"learned": start, "random": random_start(config)}
    if pretrained is not None:
        starts["pretrained"] = pretrained
    with turn(0.0):
        followers = _followers(starts, batch, steps)
    inside: list[Tensor] = []
    has_band = start.algorithm.has_deviation and isinstance(start.problem, Regression)
    for first in range(0, tasks, AT_ONCE) if has_band else ():
        with turn(0.0):
            some = batch.at(slice(first, first + AT_ONCE))
            off = (start.adapt(some, 1).predictions[1] - some.query_y).abs().amax(-1)
            deviation = start.deviation(some)
            assert deviation is not None
            inside.append((off <= NORMAL_95 * deviation).float())
    with turn(0.0):
        others = make_rivals(config, rivals, start)
        levels = {name: Level.of(errors_of(rival, batch, start.problem)) for name, rival in others.items()}
    for name in TOLD:
        others.pop(name, None)  # from few points it is no curve: exact from as many as it has parameters, else lost
    few = shots_tasks(config.tasks, tasks)
    by_shots = {name: dict[int, Level]() for name in ("learned", *others)}
    outside = None
    if isinstance(config.tasks, GeneratedFamily):
        most = (config.tasks.most_points or max(SHOTS) + 1) - 1
        known = {shots for shots in SHOTS if config.tasks.least_shots <= shots <= most}
        for number, shots in enumerate(sorted({*known, config.shots})):
            done, after = (0.1 + 0.39 * k / (1 + len(SHOTS)) for k in (number, number + 1))
            with turn(done):
                some = evaluation_tasks(config, few, seed, shots=shots)
            found = _errors(start, config, some, config.inner_steps, _between(turn, done, after))
            by_shots["learned"][shots] = Level.of(found[-1])
            with turn(after):
                for name, rival in others.items():
                    by_shots[name][shots] = Level.of(errors_of(rival, some, start.problem))
        if any(map(config.tasks.ends_somewhere, config.tasks.distributions)):
            with turn(0.49):
                beyond = evaluation_tasks(config, few, seed, reach=REACH)
            outside = Level.of(_errors(start, config, beyond, config.inner_steps, _between(turn, 0.49, 0.5))[-1])
    curves = dict[str, ErrorCurve]()
    for number, (name, each) in enumerate(starts.items()):  # at last: a compiler that works for them is done by now
        part = _between(turn, *(0.5 + 0.5 * k / len(starts) for k in (number, number + 1)))
        curves[name] = ErrorCurve.of(_errors(each, config, batch, steps, part, followers.get(name)))
    return Evaluation(
        tasks,
        seed,
        predict_mean=float(vmap(partial(_guess_error, start.problem))(*batch[1:]).mean()),
        problem=start.problem.name,
        rivals=levels,
        by_shots=by_shots,
        outside=outside,
        coverage=float(torch.cat(inside).mean()) if inside else None,
        **curves,
    )
