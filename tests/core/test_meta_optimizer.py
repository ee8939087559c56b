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
    vectors: tuple[torch.Tensor, ...] = (start, torch.zeros_like(start), torch.zeros_like(start))
    for gradient, rates in zip(gradients, ours.rates(0, 25, start), strict=True):
        parameter.grad = gradient.clone()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
        adam.step()
        scheduler.step()
        vectors, norm = ours.update(vectors, gradient, rates)
        assert norm.item() == pytest.approx(gradient.norm().item())
    torch.testing.assert_close(vectors[0], parameter.detach(), rtol=1e-12, atol=1e-12)


def test_the_average_begins_short_and_then_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(6, generator=generator, dtype=torch.float64)
    gradients = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    ours = MetaOptimizer(0.05, total=60, ema_decay=0.8)
    plain = MetaOptimizer(0.05, total=60)
    zeros = torch.zeros_like(start)
    vectors: tuple[torch.Tensor, ...] = (start, zeros, zeros, start)
    iterates = []
    unaveraged: tuple[torch.Tensor, ...] = (start, zeros, zeros)
    for gradient, rates in zip(gradients, ours.rates(0, 60, start), strict=True):
        vectors, _ = ours.update(vectors, gradient, rates)
        unaveraged, _ = plain.update(unaveraged, gradient, rates)
        iterates.append(vectors[0])
        if len(iterates) == 40:
            swa = torch.optim.swa_utils.AveragedModel(
                torch.nn.ParameterList([torch.nn.Parameter(vectors[3])]),
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8),
            )
            swa.n_averaged += 1
        elif len(iterates) > 40:
            swa.update_parameters(torch.nn.ParameterList([torch.nn.Parameter(vectors[0])]))
    assert torch.equal(vectors[0], unaveraged[0])  # training itself is the same
    torch.testing.assert_close(vectors[3], next(iter(swa.parameters())).detach(), rtol=1e-12, atol=1e-12)
    first, _ = ours.update((start, zeros, zeros, start), gradients[0], ours.rates(0, 1, start)[0])
    torch.testing.assert_close(first[3], 0.1 * start + 0.9 * first[0], rtol=1e-12, atol=1e-12)
