"""The maths of meta-learning, for one task: plain functions of parameters and points.

Engines decide how a task's function is run (task by task, vectorized, compiled); what is computed stands here
once. The reference engine alone does not use it: it is the oracle that this module is checked against.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""loss(parameters, x `[points, features]`, y `[points, outputs]`) -> scalar."""


def mse_loss(model: nn.Module) -> Loss:
    """Mean squared error of `model` over points and outputs, as a function of its parameters."""

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(functional_call(model, parameters, (x,)), y)

    return loss


def inner_step(loss: Loss, parameters: Parameters, x: Tensor, y: Tensor, inner_lr: float) -> Parameters:
    """One step of adaptation by gradient descent on the support set.

    phi' = phi - inner_lr * grad L_support(phi)        (arXiv:1703.03400, equation 1)
    """
    gradient = grad(loss)(parameters, x, y)
    return {name: value - inner_lr * gradient[name] for name, value in parameters.items()}


def fomaml_gradient(loss: Loss, adapted: Parameters, x: Tensor, y: Tensor) -> tuple[Parameters, Tensor]:
    """First-order meta-gradient of one task and its query loss, at the adapted parameters.

    g = grad L_query(phi), applied to the initialization as it is: the Jacobian of phi with respect to the
    initialization is taken as the identity (arXiv:1703.03400, section 5.2; arXiv:1803.02999, section 5).
    """
    return grad_and_value(loss)(adapted, x, y)  # type: ignore[no-any-return]
