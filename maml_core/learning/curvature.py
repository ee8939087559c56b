"""How sharply a task's support loss bends at an initialization, which decides what an inner learning rate does."""

import torch
from torch import Tensor
from torch.func import vmap

from maml_core.learning.derivatives import grad
from maml_core.learning.initialization import Initialization
from maml_core.learning.inner_loop import Loss, Parameters
from maml_core.learning.tasks import TaskBatch, seeded

AVERAGED = 10
"""How many of the last stretches count: where two eigenvalues are a conjugate pair, each by itself says little."""


def curvature(start: Initialization, tasks: TaskBatch, *, iterations: int = 30) -> Tensor:
    """The largest eigenvalue of each task's Hessian at the initialization, over what adapts: `[tasks]`.

    By power iteration, v <- H v / |H v|, with H v as the gradient of the slope along v; where a learned factor or
    matrix transforms each gradient, of H v so transformed, and the size of the eigenvalue. A step of gradient descent
    overshoots along that direction where inner_lr times the eigenvalue is above 1, and moves away from the minimum
    where it is above 2.
    """
    theta, loss = start.theta, Loss(start.model, start.problem)
    adapts = start.algorithm.begin(theta).parameters
    generator = seeded("curvature")
    first = {name: torch.randn(value.shape, generator=generator) for name, value in adapts.items()}

    def largest(x: Tensor, y: Tensor) -> Tensor:
        def slope(values: Parameters, along: Parameters) -> Tensor:
            gradient = grad(lambda some: loss(theta.parameters | some, x, y))(values)
            return torch.stack([(gradient[name] * along[name]).sum() for name in values]).sum()

        along, stretches = first, []
        for _ in range(iterations):
            size = _norm(along).clamp(min=1e-30)
            along = grad(slope)(adapts, {name: value / size for name, value in along.items()})
            along = start.algorithm.move(theta, along, 1.0)
            stretches.append(_norm(along))
        return torch.stack(stretches[-AVERAGED:]).log().mean().exp()

    return vmap(largest)(tasks.support_x, tasks.support_y)


def _norm(values: Parameters) -> Tensor:
    return torch.stack([value.square().sum() for value in values.values()]).sum().sqrt()
