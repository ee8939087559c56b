"""The last layer solved for in closed form: ridge regression on the network's features, with a learned prior.

R2-D2 (arXiv:1805.08136, section 3.2) and the mean of ALPaCA (arXiv:1807.08912, section 2). With F `[shots, width + 1]`
the features of a task's support (a column of ones for the bias), y `[shots, outputs]`, w0 the head of the
initialization and lambda the penalty, both meta-learned, the head of the task is

    w = w0 + F' (F F' + lambda I)^-1 (y - F w0),

the mean of w when it is drawn around w0 and y is seen with noise. Its deviation gives the band of the predictions.
"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from maml_core.errors import EngineError
from maml_core.learning.derivatives import grad_and_value
from maml_core.learning.inner_loop import Algorithm, InnerLoop, Loss, Parameters, Phi, Theta
from maml_core.learning.tasks import TaskBatch

PENALTY = "log_penalty"
NOISE = "log_noise"

BEGINNING = 0.0
"""Where both logarithms begin: a high penalty at first lets the features form before they are fitted closely."""

QUIET = 1e-3
"""Scale of the noise's slope: Adam's steps do not depend on it, and the norm that is clipped is then the others'."""

CLOSED = ("ridge-head", "fo-ridge-head")
"""The algorithms of this module, by name."""

LEAST_PENALTY = 1e-6
"""Of the kernel's mean diagonal: what keeps the solution finite, however many points lie on one line."""


class _Closed(Algorithm):
    """The head by ridge regression, of which one step is all there is: a further one ends where the first did."""

    needs_steps: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    adapts_head: ClassVar[bool] = True
    has_deviation: ClassVar[bool] = True

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose last layer is not linear.

        Raises:
            EngineError: names the layer.
        """
        if len(self.adapts) > 1:
            raise EngineError(
                f"algorithm = {self.name!r} solves for one layer, and model.adapts names {', '.join(self.adapts)}: "
                "name one."
            )
        name = self.head_layer(name for name, _ in model.named_parameters())
        layer = dict(model.named_modules()).get(name)  # None where a parameter was named
        if type(layer) is not nn.Linear:
            raise EngineError(
                f"algorithm = {self.name!r} solves for the last layer, which must be nn.Linear: {name or 'the model'} "
                f"is {type(layer).__name__}; end the model with nn.Linear, or choose another algorithm."
            )

    def extra_shapes(self, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
        """Logarithms of the penalty and of the noise's variance."""
        return {name: torch.Size() for name in (PENALTY, NOISE)}

    def beginning(self, shape: torch.Size, like: Tensor) -> Tensor:
        """What both start with."""
        return like.new_full(shape, BEGINNING)

    def begin(self, theta: Theta) -> Phi:
        """The head of the initialization, which is the prior's mean."""
        return Phi(self.head_of(theta.parameters), {})

    def step(self, loss: Loss, theta: Theta, phi: Phi, x: Tensor, y: Tensor, lr: float | Tensor) -> Phi:
        """The head that ridge regression finds on the support set, whatever phi and lr are."""
        features, predictions = loss.layer(self.head_layer(theta.parameters), theta.parameters, x)
        weights = _solve(self._kernel(theta, features, features), theta, y - predictions)
        return Phi(self._moved(theta, features, weights), {})

    def deviation(self, loss: Loss, theta: Theta, task: TaskBatch) -> Tensor:
        """The standard deviation of what is seen at the query inputs `[points]`: of the function, and of the noise.

        Noise is also what the features cannot say of a task, so it stays in where the points themselves have none.
        """
        variance, _ = self._judged(loss, theta, task)
        return ((1.0 + variance) * theta.extras[NOISE].exp()).sqrt()

    def _noise_gradient(self, loss: Loss, theta: Theta, task: TaskBatch) -> Parameters:
        """The slope of -log p(query y), the mean over points, along the logarithm of the noise's variance, scaled."""
        variance, predictions = self._judged(loss, theta, task)
        error = (predictions - task.query_y).square().mean(-1)
        return {NOISE: QUIET * 0.5 * (1.0 - error / (1.0 + variance) / theta.extras[NOISE].exp()).mean()}

    def _judged(self, loss: Loss, theta: Theta, task: TaskBatch) -> tuple[Tensor, Tensor]:
        """At the query inputs: the variance of the predicted function `[points]`, in units of the noise's; its mean."""
        name = self.head_layer(theta.parameters)
        known, before = loss.layer(name, theta.parameters, task.support_x)
        asked, prior_mean = loss.layer(name, theta.parameters, task.query_x)
        across = self._kernel(theta, known, asked)
        given = (task.support_y - before).to(across.dtype)
        seen = _solve(self._kernel(theta, known, known), theta, torch.cat([across, given], dim=1))
        points = asked.shape[0]
        prior = _wide(asked).square().sum(-1) + (1.0 if self._has_bias(theta) else 0.0)
        left = prior - (across * seen[:, :points]).sum(0)
        variance = (left.clamp(min=0.0) / theta.extras[PENALTY].exp()).to(asked.dtype)
        return variance, prior_mean + (across.T @ seen[:, points:]).to(asked.dtype)

    def _kernel(self, theta: Theta, one: Tensor, other: Tensor) -> Tensor:
        """Products of the features of two sets of points, `[one, other]`."""
        return _wide(one) @ _wide(other).T + (1.0 if self._has_bias(theta) else 0.0)

    def _moved(self, theta: Theta, features: Tensor, weights: Tensor) -> Parameters:
        """The head after a change by F' `weights` `[shots, outputs]`."""
        change = {"weight": weights.T @ features.to(weights.dtype), "bias": weights.sum(0)}
        head = self.head_of(theta.parameters)
        return {name: value + change[name.rpartition(".")[2]].to(value.dtype) for name, value in head.items()}

    def _has_bias(self, theta: Theta) -> bool:
        return len(self.head_of(theta.parameters)) > 1


@final
class RidgeHead(_Closed):
    """The head by ridge regression on the support set, and the meta-gradient through its solution.

    g = d L_query(body, w(body, w0, lambda)) / d (body, w0, lambda)        (arXiv:1805.08136, section 3.2)

    The noise's variance does not change the mean; it learns to explain the errors on query points
    (arXiv:1807.08912, equation 8, for that variance alone).
    """

    name: ClassVar[str] = "ridge-head"
    title: ClassVar[str] = "Ridge head (closed form)"
    formula: ClassVar[str] = (
        r"w = w_0 + F^\top (F F^\top + \lambda I)^{-1} (y - F w_0),\qquad "
        r"g = \nabla_{(b, w_0, \lambda)}\, L_{\text{query}}(b, w(b, w_0, \lambda))"
    )
    source: ClassVar[str] = "arXiv:1805.08136, section 3.2"
    is_first_order: ClassVar[bool] = False

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The derivative through the solution."""

        def adapted_loss(start: Theta) -> Tensor:
            head = self.step(loss, start, phi, task.support_x, task.support_y, inner.lr)
            return loss(start.parameters | head.parameters, task.query_x, task.query_y)

        gradient, after = grad_and_value(adapted_loss)(theta)
        return Theta(gradient.parameters, gradient.extras | self._noise_gradient(loss, theta, task)), after


@final
class FirstOrderRidgeHead(_Closed):
    """The head by ridge regression, taken for a constant in the meta-gradient; the penalty then learns nothing.

    g = grad L_query(body, w), with w held        (arXiv:1805.08136, section 3.2, without the solution's derivative)
    """

    name: ClassVar[str] = "fo-ridge-head"
    title: ClassVar[str] = "Ridge head, first-order"
    formula: ClassVar[str] = (
        r"w = w_0 + F^\top (F F^\top + \lambda I)^{-1} (y - F w_0),\qquad "
        r"g = \nabla L_{\text{query}}(b, w)"
    )
    source: ClassVar[str] = "arXiv:1805.08136, section 3.2, with the solution held constant"
    is_first_order: ClassVar[bool] = True

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The gradient of the query loss where the solution ended."""
        gradient, after = grad_and_value(loss)(theta.parameters | phi.parameters, task.query_x, task.query_y)
        still = {PENALTY: torch.zeros_like(theta.extras[PENALTY])}
        return Theta(gradient, still | self._noise_gradient(loss, theta, task)), after


def _wide(values: Tensor) -> Tensor:
    """In double precision, where the device has it: a small penalty leaves a kernel that float32 cannot invert."""
    return values if values.device.type == "mps" else values.double()


def _solve(kernel: Tensor, theta: Theta, right: Tensor) -> Tensor:
    """(kernel + lambda I)^-1 right."""
    penalty = theta.extras[PENALTY].exp() + LEAST_PENALTY * kernel.diagonal().mean()
    identity = torch.eye(kernel.shape[0], dtype=kernel.dtype, device=kernel.device)
    # A kernel that cannot be inverted gives infinities, which end a run as diverged, rather than an exception.
    found: Tensor = torch.linalg.solve_ex(kernel + penalty * identity, right.to(kernel.dtype)).result
    return found
