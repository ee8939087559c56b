"""What other methods make of the same tasks, none of which takes a gradient step: the bar to hold a start against."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from maml_core.config import RunConfig
from maml_core.errors import EngineError
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.board_fits import nearest_means
from maml_core.learning.control import HORIZON, STRIDE, ControlFamily
from maml_core.learning.generated import FunctionFamily
from maml_core.learning.images import ImageFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.problems import Problem
from maml_core.learning.ridge_head import NOISE, PENALTY
from maml_core.learning.tasks import TaskBatch, TaskFamily, seeded

Rival = Callable[[TaskBatch], Tensor]
"""rival(tasks) -> answers `[tasks, points, outputs]` at the query points; but for those `TOLD`, by the support."""

RIVAL_NAMES = {
    "gp": "Gaussian process",
    "neighbor": "nearest support point",
    "means": "nearest class mean of pixels",
    "feature-means": "nearest class mean of learned features",
    "features": "ridge on random features",
    "oracle": "its own parameters, fitted",
    "straight": "straight to the goal, as told",
}
"""What each is called on screen, by the name it has in code."""

SHORT_RIVALS = {"means": "means of pixels", "feature-means": "of features"}
"""Those that stand beside single tasks, where a long name would leave a phone no room for the picture."""

TOLD = ("oracle", "straight")
"""Those that know of a task what is to be found out: how low an error can be, and no method beside others."""

LEARNING_TASKS = 64
"""Training tasks that a rival's settings are chosen on."""

_JITTER = 1e-10
"""What scikit-learn adds to a kernel's diagonal, so that it can be inverted."""

MOST_COVARIANCES = 2**21
"""Numbers in the matrices of the tasks that a Gaussian process is asked about at once: 16 MiB of them."""

_PENALTIES = np.linspace(-12.0, 4.0, 17)
"""Logarithms of the ridge penalties that are tried."""


def make_rivals(
    config: RunConfig, names: tuple[str, ...] = tuple(RIVAL_NAMES), start: Initialization | None = None
) -> dict[str, Rival]:
    """Those of `names` that there are for the run's tasks and network, each settled on training tasks.

    What rests on learned features needs `start`, which has learned them.
    """
    makers: dict[str, Callable[[RunConfig], Rival | None]] = {
        "gp": gaussian_process,
        "neighbor": nearest_point,
        "means": nearest_mean,
        "feature-means": lambda _: nearest_feature_mean(start) if start else None,
        "features": random_features,
        "oracle": own_parameters,
        "straight": straight_way,
    }
    made = {name: makers[name](config) for name in names if applies(name, config.tasks)}
    return {name: rival for name, rival in made.items() if rival is not None}


def applies(name: str, family: TaskFamily) -> bool:
    """Whether there is such a rival for tasks of this problem."""
    if name == "straight":
        return isinstance(family, ControlFamily)
    if name in ("means", "feature-means"):
        return isinstance(family, ImageFamily)
    if name == "neighbor":
        return isinstance(family, PlaneFamily)
    if name == "gp" and isinstance(family, ImageFamily):
        return False  # pixels are no coordinates that a distance means anything between
    return family.problem.predicts


def gaussian_process(config: RunConfig) -> Rival:
    """A Gaussian process whose one RBF kernel, with its noise, makes the training tasks most likely together."""
    level, length, noise = np.exp(_likeliest_kernel(config.tasks, config.shots, config.query_shots)).tolist()

    def covariance(a: Tensor, b: Tensor) -> Tensor:
        apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # which is off where points are near
        found: Tensor = level * torch.exp((apart / length).square() / -2)
        return found

    def at_once(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
        known = covariance(x, x) + (noise + _JITTER) * torch.eye(x.shape[1], dtype=torch.float64)
        found: Tensor = covariance(asked, x) @ torch.cholesky_solve(y, torch.linalg.cholesky(known))
        return found.float()

    def predict(batch: TaskBatch) -> Tensor:  # many tasks at once: scikit-learn's own, one by one, is much slower
        given = [part.double() for part in batch[:3]]
        points, asked = given[0].shape[1], given[2].shape[1]
        count = max(1, MOST_COVARIANCES // (points * (points + asked)))
        return torch.cat([at_once(*some) for some in zip(*(part.split(count) for part in given), strict=True)])

    return predict


@lru_cache(maxsize=32)  # it takes a second or more, and is the same for all runs on the same tasks
def _likeliest_kernel(family: TaskFamily, shots: int, query_shots: int) -> np.ndarray:
    """Logarithms of the kernel's level, its length and the noise's variance `[3]`."""
    from scipy.optimize import minimize  # a second to import, for those who evaluate
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-4, 1e4)) * RBF(1.0, (1e-2, 1e2)) + WhiteKernel(1e-2, (1e-8, 1e2))
    tasks = _training_tasks(family, shots, query_shots)
    each = [
        GaussianProcessRegressor(kernel, alpha=_JITTER, optimizer=None).fit(x.double().numpy(), y.double().numpy())
        for x, y in zip(tasks.support_x, tasks.support_y, strict=True)
    ]

    def unlikely(theta: np.ndarray) -> tuple[float, np.ndarray]:
        found = [one.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False) for one in each]
        return -sum(value for value, _ in found), -np.sum([slope for _, slope in found], axis=0)

    with warnings.catch_warnings():  # a parameter at its bound is an answer, too
        warnings.simplefilter("ignore")
        found = minimize(unlikely, kernel.theta, jac=True, method="L-BFGS-B", bounds=kernel.bounds)
    likeliest: np.ndarray = found.x
    return likeliest


def random_features(config: RunConfig) -> Rival | None:
    """Ridge regression on the last hidden layer of an untrained network, its penalty chosen on training tasks."""
    untrained = config.untrained(seed=config.seed + 1)
    algorithm = ALGORITHMS["ridge-head"]
    try:
        algorithm.check(untrained.model)
    except EngineError:
        return None
    tasks = _training_tasks(config.tasks, config.shots, config.query_shots)

    def at(penalty: float) -> Rival:
        extras = {PENALTY: torch.tensor(penalty), NOISE: torch.tensor(0.0)}
        start = replace(untrained, algorithm=algorithm, extras=extras)
        return lambda batch: start.adapt(batch, 1).predictions[1]

    rivals = [at(float(penalty)) for penalty in _PENALTIES]
    errors = [float(errors_of(rival, tasks, config.tasks.problem).mean()) for rival in rivals]
    return rivals[int(np.nanargmin(errors))]


def own_parameters(config: RunConfig) -> Rival | None:
    """The family's own formula, its parameters fitted to the support by least squares, where that is linear."""
    family = config.tasks
    if not isinstance(family, FunctionFamily) or family.basis(torch.zeros(1, 1)) is None:
        return None

    def predict(batch: TaskBatch) -> Tensor:
        known, asked = (family.basis(x.double()) for x in (batch.support_x, batch.query_x))
        assert known is not None
        assert asked is not None
        y = batch.support_y.double().expand(known.shape[0], -1, -1, -1)
        weights = torch.linalg.pinv(known, rtol=1e-9) @ y
        left = (known @ weights - y).square().sum((-1, -2))  # [candidates, tasks]
        best = left.argmin(0)
        found: Tensor = (asked @ weights)[best, torch.arange(len(best))]
        return found.float()

    return predict


def nearest_point(config: RunConfig) -> Rival:
    """The class of the support point that is nearest."""

    def predict(batch: TaskBatch) -> Tensor:
        nearest = torch.cdist(batch.query_x, batch.support_x).argmin(-1)
        return batch.support_y.gather(1, nearest[..., None].expand(-1, -1, batch.support_y.shape[-1]))

    return predict


def nearest_mean(config: RunConfig) -> Rival:
    """The class whose support images have the nearest mean, pixel by pixel."""
    return lambda batch: nearest_means(batch.support_x, batch.support_y, batch.query_x)


def nearest_feature_mean(start: Initialization) -> Rival | None:
    """The same of what goes into the last layer, before any step of adaptation: what of `start` is reuse of features.

    That is the question of arXiv:1909.09157.
    """
    features = start.features()
    if features is None:
        return None

    def predict(batch: TaskBatch) -> Tensor:
        return nearest_means(features(batch.support_x), batch.support_y, features(batch.query_x))

    return predict


def straight_way(config: RunConfig) -> Rival:
    """What knows the goal and the controls: as far as a step goes toward the goal, and there to stay."""

    def predict(batch: TaskBatch) -> Tensor:
        goal, turn = batch.query_y[..., :2], batch.query_y[..., 2]
        across, up = goal.unbind(-1)
        asked = torch.stack([across * turn.cos() + up * turn.sin(), up * turn.cos() - across * turn.sin()], -1)
        steps = torch.arange(HORIZON + 1, dtype=goal.dtype)[:, None]
        share = (STRIDE * steps / asked.abs().amax(-1)[..., None, None].clamp(min=1e-9)).clamp(max=1.0)
        return (share * goal[..., None, :]).flatten(2)  # [tasks, rollouts, 2 (HORIZON + 1)]

    return predict


def errors_of(rival: Rival, batch: TaskBatch, problem: Problem) -> Tensor:
    """Each task's error `[tasks]`."""
    found: Tensor = vmap(problem.error)(rival(batch), batch.query_y)
    return found


def _training_tasks(family: TaskFamily, shots: int, query_shots: int) -> TaskBatch:
    return family.sample_batch((LEARNING_TASKS,), shots, query_shots, seeded("rivals"))
