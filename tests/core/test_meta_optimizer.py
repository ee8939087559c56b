import math

import pytest
import torch

from maml_core.engines import MetaOptimizer


@pytest.mark.parametrize("clip_norm", [None, 0.7])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_equals_torch_adam_with_clipping_and_schedule(clip_norm: float | None, schedule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, generator=generator, dtype=torch.float64)
    gradients = torch.randn(25, 30, generator=generator, dtype=torch.float64)
    parameter = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([parameter], lr=0.01)
    rule = (lambda i: (1 + math.cos(math.pi * i / 25)) / 2) if schedule == "cosine" else (lambda i: 1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, rule)
    ours = MetaOptimizer(0.01, clip_norm, schedule, total=25)
    theta, m, v = start, torch.zeros_like(start), torch.zeros_like(start)
    for gradient, rates in zip(gradients, ours.rates(0, 25, start), strict=True):
        parameter.grad = gradient.clone()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
        adam.step()
        scheduler.step()
        theta, m, v, norm = ours.update(theta, m, v, gradient, rates)
        assert norm.item() == pytest.approx(gradient.norm().item())
    torch.testing.assert_close(theta, parameter.detach(), rtol=1e-12, atol=1e-12)
