"""Adam on the initialization, with optional clipping, schedule and averaging, as a pure function of flat vectors.

Written out rather than taken from `torch.optim`, because the compiled engine needs it inside a graph, and because
a state of flat vectors is what a checkpoint holds. Tests hold it to `torch.optim.Adam`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Vectors = tuple[Tensor, ...]
"""What the optimizer carries forward, each `[P]`: the parameters, both moments and, if there is one, the average."""

BETAS = (0.9, 0.999)
EPS = 1e-8


@functools.cache
def _first_corrections(beta: float) -> np.ndarray:
    """1 - beta^t for t = 1, 2, ... as long as that is not 1 in double precision."""
    times = range(1, math.ceil(-54 / math.log2(beta)) + 1)
    return 1 - np.array([beta**t for t in times])  # Python's powers: the same everywhere


def _corrections(beta: float, start: int, count: int) -> np.ndarray:
    """1 - beta^t for t = start + 1 to start + count."""
    found = np.ones(count)
    known = _first_corrections(beta)[start : start + count]
    found[: len(known)] = known
    return found


@dataclass(frozen=True)
class MetaOptimizer:
    """Adam (arXiv:1412.6980) with step size `lr` at iteration t of `total`, and a moving average of its iterates."""

    lr: float
    clip_norm: float | None = None
    schedule: str = "constant"
    total: int = 1
    ema_decay: float | None = None

    def lr_at(self, iteration: int) -> float:
        """The step size at a zero-based iteration; `cosine` is lr (1 + cos(pi t / total)) / 2."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * min(iteration, self.total) / self.total)) / 2
        return self.lr

    def rates(self, start: int, count: int, like: Tensor) -> Tensor:
        """The numbers that differ between iterations, `[count, 3]`.

        With t counted from one: the step size lr_t / (1 - beta1^t), the second moment's correction sqrt(1 - beta2^t),
        and what the newest iterate counts for in the average. That is 1 - min(ema_decay, t / (t + 9)): early on the
        average is short, so that it does not hold on to where training began. Computed in double precision outside
        any graph, so that every engine uses the same bits.
        """
        first, second = (_corrections(beta, start, count) for beta in BETAS)
        is_constant = self.schedule == "constant"
        lr = self.lr if is_constant else np.array([self.lr_at(i) for i in range(start, start + count)])
        t = np.arange(start + 1, start + count + 1)
        newest = 1 - np.minimum(self.ema_decay or 0.0, t / (t + 9))
        rates = np.stack([lr / first, np.sqrt(second), newest], axis=1)
        return torch.from_numpy(rates).to(dtype=like.dtype).to(like.device)

    def update(self, vectors: Vectors, gradient: Tensor, rates: Tensor) -> tuple[Vectors, Tensor]:
        """One step from the vectors to the new ones.

        theta' = theta - rates[0] * m' / (sqrt(v') / rates[1] + eps); average' = average + rates[2] (theta' - average)

        Also returns the gradient's norm before clipping.
        """
        parameters, exp_avg, exp_avg_sq, *average = vectors
        norm = torch.linalg.vector_norm(gradient)
        if self.clip_norm is not None:
            scaled = gradient * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            # Infinity cannot be scaled down: a meta-batch whose inner loop blew up says nothing, and is left out.
            gradient = torch.where(torch.isfinite(norm), scaled, torch.zeros_like(scaled))
        exp_avg = exp_avg + (1 - BETAS[0]) * (gradient - exp_avg)
        exp_avg_sq = BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * gradient * gradient
        parameters = parameters - rates[0] * exp_avg / (exp_avg_sq.sqrt() / rates[1] + EPS)
        average = [mean + rates[2] * (parameters - mean) for mean in average]
        return (parameters, exp_avg, exp_avg_sq, *average), norm
