"""Error against adaptation steps on held-out tasks, with 95 % confidence intervals and baselines."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maml_core.adaptation import adapt, on_grid
from maml_core.algorithms import ALGORITHMS, FOMAML, Algorithm, Parameters
from maml_core.config import RunConfig
from maml_core.models import build_model
from maml_core.tasks import TaskBatch, seeded

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


def evaluation_tasks(config: RunConfig, count: int, seed: int) -> TaskBatch:
    """Held-out tasks with the run's shots, and a grid of noise-free query points."""
    generator = seeded(f"evaluation:{seed}")
    parameters = config.tasks.sample_parameters((count,), generator)
    x, y = config.tasks.sample_points(parameters, config.shots, generator)
    return on_grid(config.tasks, parameters, x, y)


def evaluate(
    config: RunConfig, parameters: Parameters, *, tasks: int = 600, steps: int = 10, seed: int = 0
) -> Evaluation:
    """Measure how `parameters` adapt to `tasks` held-out tasks in 0 to `steps` steps."""
    batch = evaluation_tasks(config, tasks, seed)
    model = build_model(config.model, config.seed)
    # A different seed from the run's: its own initialization would be a baseline of one.
    untrained = build_model(config.model, config.seed + 1)
    mean = batch.support_y.mean(dim=1, keepdim=True)
    return Evaluation(
        tasks,
        seed,
        learned=_curve(model, parameters, batch, config.inner_lr, steps, ALGORITHMS[config.algorithm]),
        random=_curve(untrained, dict(untrained.named_parameters()), batch, config.inner_lr, steps),
        predict_mean=float((batch.query_y - mean).square().mean()),
    )


def _curve(
    model: nn.Module,
    parameters: Parameters,
    batch: TaskBatch,
    inner_lr: float,
    steps: int,
    algorithm: Algorithm = FOMAML,
) -> ErrorCurve:
    errors = [
        adapt(
            model,
            {name: value.detach() for name, value in parameters.items()},
            batch.at(slice(start, start + AT_ONCE)),
            inner_lr=inner_lr,
            inner_steps=steps,
            algorithm=algorithm,
        ).query_loss
        for start in range(0, batch.support_x.shape[0], AT_ONCE)
    ]
    return ErrorCurve.of(torch.cat(errors, dim=1))
