"""Error against adaptation steps on held-out tasks, with 95 % confidence intervals and baselines."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.fresh_tasks import on_grid
from maml_core.learning.initialization import Initialization
from maml_core.learning.tasks import FunctionFamily, TaskBatch, seeded

AT_ONCE = 200
"""Tasks adapted together, so that memory does not grow with the number of tasks."""


@dataclass(frozen=True)
class ErrorCurve:
    """Mean squared error over tasks at steps 0..N, and half the width of its 95 % interval."""

    mse: list[float]
    ci95: list[float]

    @classmethod
    def of(cls, errors: Tensor) -> "ErrorCurve":
        """From each task's error `[steps + 1, tasks]`: mean and 1.96 standard errors, as in arXiv:1703.03400."""
        count = errors.shape[1]
        spread = errors.std(dim=1) if count > 1 else torch.zeros(errors.shape[0])
        return cls(errors.mean(1).tolist(), (1.96 * spread / count**0.5).tolist())


@dataclass(frozen=True)
class Evaluation:
    """A run's error on held-out tasks beside its baselines."""

    tasks: int
    seed: int
    learned: ErrorCurve
    random: ErrorCurve
    predict_mean: float
    pretrained: ErrorCurve | None = None  # joint pretraining, where a run of it was given

    def to_json(self) -> str:
        """As JSON text; NaN and infinity as Python writes them."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """What `to_json` wrote."""
        data = json.loads(text)
        curves = {name: ErrorCurve(**data[name]) for name in ("learned", "random", "pretrained") if data[name]}
        return cls(**(data | curves))

    def table(self) -> pd.DataFrame:
        """A row per adaptation step, a column for each curve and its 95 % interval."""
        curves = {"learned": self.learned, "pretrained": self.pretrained, "random": self.random}
        columns: dict[str, list[float]] = {}
        for name, curve in curves.items():
            if curve:
                columns |= {name: curve.mse, f"{name}_ci95": curve.ci95}
        frame = pd.DataFrame(columns)
        frame.index.name = "step"
        return frame


def evaluation_tasks(config: RunConfig, count: int, seed: int) -> TaskBatch:
    """Held-out tasks with the run's shots, and a grid of noise-free query points; of a table, other rows."""
    if not isinstance(config.tasks, FunctionFamily):
        return config.tasks.held_out(tasks=count, shots=config.shots, query_shots=config.query_shots, seed=seed)
    generator = seeded(f"evaluation:{seed}")
    parameters = config.tasks.sample_parameters((count,), generator)
    x, y = config.tasks.sample_points(parameters, config.shots, generator)
    return on_grid(config.tasks, parameters, x, y)


def random_start(config: RunConfig) -> Initialization:
    """A random initialization that is not the run's own, which would be a baseline of one; plain gradient descent."""
    untrained = config.untrained(seed=config.seed + 1)
    return replace(untrained, algorithm=ALGORITHMS["fomaml"], extras={})


def pretraining(config: RunConfig) -> RunConfig:
    """The run that `config` is compared with: joint pretraining on the same tasks with the same budget."""
    return config.with_settings({"algorithm": "joint"})


def evaluate(
    start: Initialization,
    config: RunConfig,
    *,
    tasks: int = 600,
    steps: int = 10,
    seed: int = 0,
    pretrained: Initialization | None = None,
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> Evaluation:
    """Measure how `start` adapts to `tasks` held-out tasks of `config` in 0 to `steps` steps, beside its baselines.

    The work is done in short turns; each is entered as a context, told the fraction that is done.

    >>> from maml_core import RunConfig, evaluate
    >>> config = RunConfig()
    >>> found = evaluate(config.untrained(), config, tasks=10, steps=1)
    >>> len(found.learned.mse), found.learned.mse[1] > found.learned.mse[0]
    (2, False)
    """
    with turn(0.0):
        batch = evaluation_tasks(config, tasks, seed)
        starts = {"learned": start, "random": random_start(config)}
    if pretrained is not None:
        starts["pretrained"] = pretrained
    parts = range(0, tasks, AT_ONCE)
    done = 0
    errors: dict[str, list[Tensor]] = {name: [] for name in starts}
    for name, each in starts.items():
        for first in parts:
            with turn(done / (len(starts) * len(parts))):
                errors[name].append(each.adapt(batch.at(slice(first, first + AT_ONCE)), steps).query_loss)
            done += 1
    curves = {name: ErrorCurve.of(torch.cat(parts_of, dim=1)) for name, parts_of in errors.items()}
    mean = batch.support_y.mean(dim=1, keepdim=True)
    return Evaluation(tasks, seed, predict_mean=float((batch.query_y - mean).square().mean()), **curves)
