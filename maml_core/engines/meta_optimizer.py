"""Adam on the initialization, with optional norm clipping and schedule, as a pure function of flat vectors.

Written out rather than taken from `torch.optim`, because the compiled engine needs it inside a graph, and because
a state of three vectors is what a checkpoint holds. Tests hold it to `torch.optim.Adam`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class MetaOptimizer:
    """Adam (arXiv:1412.6980) with step size `lr` at iteration t of `total`."""

    lr: float
    clip_norm: float | None = None
    schedule: str = "constant"
    total: int = 1

    def lr_at(self, iteration: int) -> float:
        """The step size at a zero-based iteration; `cosine` is lr (1 + cos(pi t / total)) / 2."""
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * min(iteration, self.total) / self.total)) / 2
        return self.lr

    def rates(self, start: int, count: int, like: Tensor) -> Tensor:
        """The two numbers that differ between iterations, `[count, 2]`: step size and second-moment correction.

        Step size is lr_t / (1 - beta1^t), the correction is sqrt(1 - beta2^t), with t counted from one. Computed
        in double precision outside any graph, so that every engine uses the same bits.
        """
        numbers = [
            (self.lr_at(i) / (1 - BETAS[0] ** (i + 1)), math.sqrt(1 - BETAS[1] ** (i + 1)))
            for i in range(start, start + count)
        ]
        return torch.tensor(numbers, dtype=torch.float64).to(dtype=like.dtype).to(like.device)

    def update(
        self, parameters: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One step: new parameters and moments `[P]`, and the gradient's norm before clipping.

        theta' = theta - rates[0] * m' / (sqrt(v') / rates[1] + eps)
        """
        norm = torch.linalg.vector_norm(gradient)
        if self.clip_norm is not None:
            scaled = gradient * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            # Infinity cannot be scaled down: a meta-batch whose inner loop blew up says nothing, and is left out.
            gradient = torch.where(torch.isfinite(norm), scaled, torch.zeros_like(scaled))
        exp_avg = exp_avg + (1 - BETAS[0]) * (gradient - exp_avg)
        exp_avg_sq = BETAS[1] * exp_avg_sq + (1 - BETAS[1]) * gradient * gradient
        parameters = parameters - rates[0] * exp_avg / (exp_avg_sq.sqrt() / rates[1] + EPS)
        return parameters, exp_avg, exp_avg_sq, norm
