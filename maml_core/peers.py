"""Another library's training loop beside ours, for the benchmark: the same maths, as its users would write it."""

import itertools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import MetaOptimizer, TrainingState
from maml_core.engines.meta_optimizer import BETAS, EPS
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.models import MLP
from maml_core.learning.problems import Regression
from maml_core.learning.tasks import TaskBatch

CHUNK = 512
"""Meta-iterations of one call: JAX compiles anew for each other number."""


def has_jax() -> bool:
    """Whether JAX is installed."""
    return find_spec("jax") is not None


class JaxLoop:
    """First-order MAML of an MLP in JAX: `vmap` over tasks, `scan` over meta-iterations, all of it under `jit`.

    Source: docs.jax.dev, the pages of these three functions.
    """

    def __init__(self, config: RunConfig, inner: InnerLoop, meta_optimizer: MetaOptimizer) -> None:
        """Prepare the loop of a configuration; what is compiled is compiled with the first chunk.

        Raises:
            EngineError: it is not stated here.
        """
        self.check(config)
        import jax

        model = config.model
        assert isinstance(model, MLP)
        sizes = [config.tasks.input_size, *model.hidden_sizes, config.tasks.output_size]
        activation: Callable[[Any], Any] = {"relu": jax.nn.relu, "tanh": jax.numpy.tanh}[model.activation]
        self._run = jax.jit(_iterations(jax, sizes, activation, inner.lr, inner.steps))
        self._rates = meta_optimizer.rates

    @staticmethod
    def check(config: RunConfig) -> None:
        """Find out whether this configuration is stated here.

        Raises:
            EngineError: it is not.
        """
        is_plain = config.algorithm == "fomaml" and config.clip_norm is None and config.ema_decay is None
        is_known = type(config.model) is MLP and config.model.activation in ("relu", "tanh")
        if not is_plain or not is_known or not isinstance(config.tasks.problem, Regression):
            raise EngineError("JAX's loop is stated for first-order MAML of an MLP with relu or tanh on regression.")

    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, without the norms: metrics `[iterations, 2]`."""
        count = len(tasks.support_x)
        rates = self._rates(state.iteration, count, state.parameters)
        points = tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y
        given = [tensor.numpy() for tensor in (rates, *points)]
        vectors, metrics = self._run(tuple(vector.numpy() for vector in state.vectors), given)
        found = [torch.from_numpy(np.array(vector)) for vector in vectors]
        return TrainingState.of(found, state.iteration + count), torch.from_numpy(np.array(metrics))


def _iterations(
    jax: Any, sizes: list[int], activation: Callable[[Any], Any], lr: float | Tensor, steps: int
) -> Callable[[Any, Any], Any]:
    def predict(flat: Any, x: Any) -> Any:
        at = 0
        for number, (width, height) in enumerate(itertools.pairwise(sizes)):
            weight = flat[at : at + width * height].reshape(height, width)
            at += width * height
            x = x @ weight.T + flat[at : at + height]
            at += height
            x = activation(x) if number < len(sizes) - 2 else x
        return x

    def loss(flat: Any, x: Any, y: Any) -> Any:
        return ((predict(flat, x) - y) ** 2).mean()

    def task(flat: Any, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        adapted = flat
        for _ in range(steps):
            adapted = adapted - lr * jax.grad(loss)(adapted, support_x, support_y)
        post, gradient = jax.value_and_grad(loss)(adapted, query_x, query_y)
        return gradient, loss(flat, query_x, query_y), post

    def iterate(vectors: Any, given: Any) -> Any:
        (flat, exp_avg, exp_avg_sq), (rates, *points) = vectors, given
        found = jax.vmap(task, in_axes=(None, 0, 0, 0, 0))(flat, *points)
        gradient, pre, post = (part.mean(0) for part in found)
        exp_avg = exp_avg + (1 - BETAS[0]) * (gradient - exp_avg)
        exp_avg_sq = BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * gradient * gradient
        flat = flat - rates[0] * exp_avg / (jax.numpy.sqrt(exp_avg_sq) / rates[1] + EPS)
        return (flat, exp_avg, exp_avg_sq), jax.numpy.stack([pre, post])

    return lambda vectors, given: jax.lax.scan(iterate, vectors, given)
