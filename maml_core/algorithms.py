"""The maths of meta-learning, for one task: plain functions of parameters and points.

Engines decide how a task's function is run (task by task, vectorized, compiled); what is computed stands here
once. The reference engine alone does not use it: it is the oracle that this module is checked against.

theta is what is learned, by name: the initialization, and for Meta-SGD a factor of inner_lr for each parameter, under
`inner_lr:NAME`.
phi is what a task adapts, by name: parameters, and what an algorithm must remember of its inner steps.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value

from maml_core.tasks import TaskBatch

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""loss(parameters, x `[points, features]`, y `[points, outputs]`) -> scalar."""

RATE = "inner_lr:"
"""Prefix of a learned rate's name; the rate itself is that factor times inner_lr."""
_SUM = "sum:"


def model_parameters(theta: Parameters) -> Parameters:
    """What of `theta` or phi are parameters of the model."""
    return {name: value for name, value in theta.items() if not name.startswith((RATE, _SUM))}


def mse_loss(model: nn.Module) -> Loss:
    """Mean squared error of `model` over points and outputs, as a function of its parameters."""

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(functional_call(model, model_parameters(parameters), (x,)), y)

    return loss


class Algorithm:
    """First-order MAML, and the base of all others: what an inner step is, and what the meta-gradient.

    phi' = phi - inner_lr * grad L_support(phi)        (arXiv:1703.03400, equation 1)
    g = grad L_query(phi), applied to the initialization as it is: the Jacobian of phi with respect to the
    initialization is taken as the identity (arXiv:1703.03400, section 5.2; arXiv:1803.02999, section 5).
    """

    name: ClassVar[str] = "fomaml"
    title: ClassVar[str] = "First-order MAML"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha\,\nabla L_{\text{support}}(\varphi_{i-1}),\ \varphi_0=\theta,\qquad "
        r"g = \nabla L_{\text{query}}(\varphi_k)"
    )
    source: ClassVar[str] = "arXiv:1703.03400, section 5.2"
    is_first_order: ClassVar[bool] = True
    """Whether the inner steps are forgotten once taken: memory is then flat in their number."""
    learns_rates: ClassVar[bool] = False
    needs_steps: ClassVar[bool] = False
    """Whether the meta-gradient is zero without an inner step."""

    def begin(self, theta: Parameters) -> Parameters:
        """phi before the first inner step."""
        return model_parameters(theta)

    def step(
        self, loss: Loss, theta: Parameters, phi: Parameters, x: Tensor, y: Tensor, inner_lr: float | Tensor
    ) -> Parameters:
        """One step of adaptation by gradient descent on the support set `[points, features]`."""
        gradient = grad(lambda values: loss(theta | values, x, y))(phi)
        return {name: value - inner_lr * gradient[name] for name, value in phi.items()}

    def gradient(
        self,
        loss: Loss,
        theta: Parameters,
        phi: Parameters,
        task: TaskBatch,
        inner_lr: float | Tensor,
        inner_steps: int,
    ) -> tuple[Parameters, Tensor]:
        """One task's meta-gradient, by the names of theta, and its query loss after adaptation.

        phi is adapted already if the algorithm is first-order, else it is what `begin` gave.
        """
        return grad_and_value(loss)(theta | phi, task.query_x, task.query_y)  # type: ignore[no-any-return]


class MAML(Algorithm):
    """MAML with all its second derivatives.

    g = d L_query(phi_k) / d theta, through every inner step        (arXiv:1703.03400, algorithm 1)
    """

    name: ClassVar[str] = "maml"
    title: ClassVar[str] = "MAML (second-order)"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha\,\nabla L_{\text{support}}(\varphi_{i-1}),\ \varphi_0=\theta,\qquad "
        r"g = \nabla_{\theta}\, L_{\text{query}}(\varphi_k(\theta))"
    )
    source: ClassVar[str] = "arXiv:1703.03400, algorithm 1"
    is_first_order: ClassVar[bool] = False

    def gradient(
        self,
        loss: Loss,
        theta: Parameters,
        phi: Parameters,
        task: TaskBatch,
        inner_lr: float | Tensor,
        inner_steps: int,
    ) -> tuple[Parameters, Tensor]:
        """The derivative of the adapted query loss with respect to all of theta."""

        def adapted_loss(start: Parameters) -> Tensor:
            adapted = self.begin(start)
            for _ in range(inner_steps):
                adapted = self.step(loss, start, adapted, task.support_x, task.support_y, inner_lr)
            return loss(start | adapted, task.query_x, task.query_y)

        return grad_and_value(adapted_loss)(theta)  # type: ignore[no-any-return]


class Reptile(Algorithm):
    """Reptile: move the initialization toward where the inner steps ended.

    g = (theta - phi_k) / inner_lr        (arXiv:1803.02999, section 3)

    The inner steps see the support set only, so that losses mean what they mean for every other algorithm.
    """

    name: ClassVar[str] = "reptile"
    title: ClassVar[str] = "Reptile"
    formula: ClassVar[str] = r"g = (\theta - \varphi_k)\,/\,\alpha"
    source: ClassVar[str] = "arXiv:1803.02999, section 3"
    needs_steps: ClassVar[bool] = True

    def gradient(
        self,
        loss: Loss,
        theta: Parameters,
        phi: Parameters,
        task: TaskBatch,
        inner_lr: float | Tensor,
        inner_steps: int,
    ) -> tuple[Parameters, Tensor]:
        """The way back from phi to theta, in inner steps of unit rate."""
        return {name: (theta[name] - value) / inner_lr for name, value in phi.items()}, loss(
            phi, task.query_x, task.query_y
        )


class _AdaptsHead(Algorithm):
    """Adapts the parameters of the model's last layer only."""

    def begin(self, theta: Parameters) -> Parameters:
        """The last layer: the parameters whose names share the last one's prefix."""
        found = model_parameters(theta)
        head = list(found)[-1].rpartition(".")[0]
        return {name: value for name, value in found.items() if name.rpartition(".")[0] == head}


class FirstOrderANIL(_AdaptsHead):
    """ANIL without second derivatives: the head alone adapts, every parameter is meta-trained.

    g = grad L_query(body, adapted head)        (arXiv:1909.09157, section 5; first-order as arXiv:1803.02999)
    """

    name: ClassVar[str] = "fo-anil"
    title: ClassVar[str] = "ANIL, first-order"
    formula: ClassVar[str] = (
        r"h_{i} = h_{i-1} - \alpha\,\nabla_h L_{\text{support}}(b, h_{i-1}),\ (b,h_0)=\theta,\qquad "
        r"g = \nabla L_{\text{query}}(b, h_k)"
    )
    source: ClassVar[str] = "arXiv:1909.09157, section 5"


class ANIL(_AdaptsHead, MAML):
    """ANIL (almost no inner loop): the head alone adapts.

    g = d L_query(body, head_k) / d theta        (arXiv:1909.09157, section 5)
    """

    name: ClassVar[str] = "anil"
    title: ClassVar[str] = "ANIL (second-order)"
    formula: ClassVar[str] = (
        r"h_{i} = h_{i-1} - \alpha\,\nabla_h L_{\text{support}}(b, h_{i-1}),\ (b,h_0)=\theta,\qquad "
        r"g = \nabla_{\theta}\, L_{\text{query}}(b, h_k(\theta))"
    )
    source: ClassVar[str] = "arXiv:1909.09157, section 5"


class MetaSGD(MAML):
    """Meta-SGD: a rate for each parameter is learned along with the initialization.

    phi' = phi - rate * grad L_support(phi), elementwise; g = d L_query(phi_k) / d (theta, rate)
    (arXiv:1707.09835, equation 3). A rate is inner_lr times a learned factor that starts at 1: Adam's steps are of
    one size for all it learns, and a rate itself, hundreds of times smaller than a weight, would leap with them.
    """

    name: ClassVar[str] = "meta-sgd"
    title: ClassVar[str] = "Meta-SGD (second-order)"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha \odot \nabla L_{\text{support}}(\varphi_{i-1}),\ \varphi_0=\theta,"
        r"\qquad g = \nabla_{(\theta,\alpha)}\, L_{\text{query}}(\varphi_k(\theta,\alpha))"
    )
    source: ClassVar[str] = "arXiv:1707.09835, equation 3"
    learns_rates: ClassVar[bool] = True

    def step(
        self, loss: Loss, theta: Parameters, phi: Parameters, x: Tensor, y: Tensor, inner_lr: float | Tensor
    ) -> Parameters:
        """One step at the learned rates."""
        gradient = grad(lambda values: loss(theta | values, x, y))(phi)
        return {name: value - inner_lr * theta[RATE + name] * gradient[name] for name, value in phi.items()}


class FirstOrderMetaSGD(Algorithm):
    """Meta-SGD without second derivatives.

    With q = grad L_query(phi_k): g = q for the initialization, and -inner_lr * q * (sum of the inner gradients) for the
    rates' factors: what is left of d phi_k / d rate when every inner gradient is held constant (arXiv:1707.09835,
    equation 3).
    """

    name: ClassVar[str] = "fo-meta-sgd"
    title: ClassVar[str] = "Meta-SGD, first-order"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha \odot g_i,\ g_i = \nabla L_{\text{support}}(\varphi_{i-1}),\qquad "
        r"g_\theta = \nabla L_{\text{query}}(\varphi_k),\ g_\alpha = -g_\theta \odot \textstyle\sum_i g_i"
    )
    source: ClassVar[str] = "arXiv:1707.09835, equation 3"
    learns_rates: ClassVar[bool] = True

    def begin(self, theta: Parameters) -> Parameters:
        """The model's parameters, and no inner gradient yet."""
        start = model_parameters(theta)
        return start | {_SUM + name: torch.zeros_like(value) for name, value in start.items()}

    def step(
        self, loss: Loss, theta: Parameters, phi: Parameters, x: Tensor, y: Tensor, inner_lr: float | Tensor
    ) -> Parameters:
        """One step at the learned rates; its gradient is added to those before."""
        values = model_parameters(phi)
        gradient = grad(loss)(values, x, y)
        after = {name: value - inner_lr * theta[RATE + name] * gradient[name] for name, value in values.items()}
        return after | {_SUM + name: phi[_SUM + name] + gradient[name] for name in values}

    def gradient(
        self,
        loss: Loss,
        theta: Parameters,
        phi: Parameters,
        task: TaskBatch,
        inner_lr: float | Tensor,
        inner_steps: int,
    ) -> tuple[Parameters, Tensor]:
        """Gradients of the initialization and of the rates."""
        query, after = grad_and_value(loss)(model_parameters(phi), task.query_x, task.query_y)
        return query | {RATE + name: -inner_lr * value * phi[_SUM + name] for name, value in query.items()}, after


class Joint(Algorithm):
    """Joint pretraining, the baseline without meta-learning: one model for all tasks' points at once.

    g = grad L_(support and query)(theta); adaptation then starts from it as from any initialization.
    """

    name: ClassVar[str] = "joint"
    title: ClassVar[str] = "Joint pretraining (baseline)"
    formula: ClassVar[str] = r"g = \nabla L_{\text{support}\,\cup\,\text{query}}(\theta)"
    source: ClassVar[str] = "the pretrained baseline of arXiv:1703.03400, section 5.1"

    def gradient(
        self,
        loss: Loss,
        theta: Parameters,
        phi: Parameters,
        task: TaskBatch,
        inner_lr: float | Tensor,
        inner_steps: int,
    ) -> tuple[Parameters, Tensor]:
        """The gradient before adaptation, on all of the task's points; the loss is that after it."""
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        return grad(loss)(theta, x, y), loss(phi, task.query_x, task.query_y)


ALGORITHMS: dict[str, Algorithm] = {
    kind.name: kind() for kind in (Algorithm, MAML, Reptile, FirstOrderANIL, ANIL, FirstOrderMetaSGD, MetaSGD, Joint)
}
"""Every algorithm by the name a configuration gives it."""

FOMAML = ALGORITHMS["fomaml"]
