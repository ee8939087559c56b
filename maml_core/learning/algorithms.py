"""The maths of meta-learning, for one task: plain functions of parameters and points.

Engines decide how a task's function is run (task by task, vectorized, compiled); what is computed stands here
once. The reference engine alone does not use it: it is the oracle that this module is checked against.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from maml_core.learning.derivatives import grad, grad_and_value
from maml_core.learning.inner_loop import Algorithm, InnerLoop, Loss, Parameters, Phi, Theta
from maml_core.learning.ridge_head import FirstOrderRidgeHead, RidgeHead
from maml_core.learning.tasks import TaskBatch


class _AdaptsAll(Algorithm):
    """Every parameter of the model adapts."""

    def begin(self, theta: Theta) -> Phi:
        """All of the initialization."""
        return Phi(theta.parameters, {})


class _AdaptsHead(Algorithm):
    """The parameters of the model's head alone adapt."""

    adapts_head: ClassVar[bool] = True

    def begin(self, theta: Theta) -> Phi:
        """The head: the layer declared last, or what was chosen."""
        return Phi(self.head_of(theta.parameters), {})


class _LearnsRates(Algorithm):
    """A factor of inner_lr is learned for each parameter; all start at one."""

    _PREFIX: ClassVar[str] = "inner_lr:"
    """What a file writes before a parameter's name for its factor."""

    def extra_shapes(self, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
        """Those of the factors."""
        return {self._PREFIX + name: shape for name, shape in shapes.items()}

    def rates(self, theta: Theta) -> Parameters:
        """The factors, by parameter."""
        return {name.removeprefix(self._PREFIX): value for name, value in theta.extras.items()}

    def move(self, theta: Theta, gradient: Parameters, lr: float | Tensor) -> Parameters:
        """lr * factor * gradient, elementwise."""
        rates = self.rates(theta)
        return {name: lr * rates[name] * value for name, value in gradient.items()}


class _LearnsCurvature(Algorithm):
    """A square matrix is learned for each dimension of each parameter; all start as the identity.

    They multiply a gradient along its dimensions: that of a weight `[outputs, inputs]` becomes M0 G M1', with M0
    `[outputs, outputs]` and M1 `[inputs, inputs]` (arXiv:1902.03356, section 3.2).
    """

    _PREFIX: ClassVar[str] = "curvature:"
    """What a file writes before a matrix's dimension and the parameter's name: `curvature:0:layer.weight`."""

    def extra_shapes(self, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
        """Those of the matrices."""
        return {
            f"{self._PREFIX}{dim}:{name}": torch.Size([size, size])
            for name, shape in shapes.items()
            for dim, size in enumerate(shape)
        }

    def beginning(self, shape: torch.Size, like: Tensor) -> Tensor:
        """The identity."""
        return torch.eye(shape[0], dtype=like.dtype, device=like.device)

    def transforms(self, shapes: Mapping[str, torch.Size]) -> int:
        """A product of matrices for each dimension."""
        return sum(shape.numel() * sum(shape) for shape in shapes.values())

    def move(self, theta: Theta, gradient: Parameters, lr: float | Tensor) -> Parameters:
        """lr times the gradient, multiplied along each of its dimensions."""
        return {name: lr * self._multiplied(theta.extras, name, value) for name, value in gradient.items()}

    def _multiplied(self, extras: Parameters, name: str, value: Tensor) -> Tensor:
        for dim in range(value.dim()):
            last = value.movedim(dim, -1)
            matrix = extras[f"{self._PREFIX}{dim}:{name}"]
            value = (last.reshape(-1, last.shape[-1]) @ matrix.mT).reshape(last.shape).movedim(-1, dim)
        return value


class _Descends(Algorithm):
    """Gradient descent on the support set."""

    def step(self, loss: Loss, theta: Theta, phi: Phi, x: Tensor, y: Tensor, lr: float | Tensor) -> Phi:
        """phi' = phi - move(grad L_support(phi))        (arXiv:1703.03400, equation 1)."""
        gradient = grad(lambda values: loss(theta.parameters | values, x, y))(phi.parameters)
        move = self.move(theta, gradient, lr)
        return Phi({name: value - move[name] for name, value in phi.parameters.items()}, {})


class _FirstOrder(Algorithm):
    """The inner steps are held constant.

    g = grad L_query(phi), applied to the initialization as it is: the Jacobian of phi with respect to the
    initialization is taken as the identity (arXiv:1703.03400, section 5.2; arXiv:1803.02999, section 5).
    """

    is_first_order: ClassVar[bool] = True

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The gradient of the query loss where adaptation ended."""
        gradient, query_loss = grad_and_value(loss)(theta.parameters | phi.parameters, task.query_x, task.query_y)
        return Theta(gradient, {}), query_loss


class _SecondOrder(Algorithm):
    """The derivative goes through every inner step.

    g = d L_query(phi_k) / d theta        (arXiv:1703.03400, algorithm 1)
    """

    is_first_order: ClassVar[bool] = False

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The derivative of the adapted query loss with respect to all of theta."""

        def adapted_loss(start: Theta) -> Tensor:
            adapted = self.begin(start)
            for _ in range(inner.steps):
                adapted = self.step(loss, start, adapted, task.support_x, task.support_y, inner.lr)
            return loss(start.parameters | adapted.parameters, task.query_x, task.query_y)

        return grad_and_value(adapted_loss)(theta)


class _FirstOrderOfMove(Algorithm):
    """The inner gradients are held constant, and what an inner step makes of them is learned.

    With q = grad L_query(phi_k): g = q for the initialization, and for what is learned beside it the derivative of
    -q . move(sum of the inner gradients), since a move is linear in the gradient.
    """

    is_first_order: ClassVar[bool] = True

    def begin(self, theta: Theta) -> Phi:
        """The model's parameters, and no inner gradient yet."""
        return Phi(theta.parameters, {name: torch.zeros_like(value) for name, value in theta.parameters.items()})

    def step(self, loss: Loss, theta: Theta, phi: Phi, x: Tensor, y: Tensor, lr: float | Tensor) -> Phi:
        """One step of gradient descent; its gradient is added to those before."""
        gradient = grad(loss)(phi.parameters, x, y)
        sums = {name: value + gradient[name] for name, value in phi.gradient_sums.items()}
        move = self.move(theta, gradient, lr)
        return Phi({name: value - move[name] for name, value in phi.parameters.items()}, sums)

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """Gradients of the initialization and of what is learned beside it."""
        query, after = grad_and_value(loss)(phi.parameters, task.query_x, task.query_y)
        return Theta(query, self._of_extras(theta, query, phi.gradient_sums, inner.lr)), after

    @abstractmethod
    def _of_extras(self, theta: Theta, query: Parameters, sums: Parameters, lr: float | Tensor) -> Parameters:
        """The derivative of -query . move(sums)."""


@final
class FOMAML(_AdaptsAll, _Descends, _FirstOrder):
    """First-order MAML.

    g = grad L_query(phi_k)        (arXiv:1703.03400, section 5.2; arXiv:1803.02999, section 5)
    """

    name: ClassVar[str] = "fomaml"
    title: ClassVar[str] = "First-order MAML"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha\,\nabla L_{\text{support}}(\varphi_{i-1}),\ \varphi_0=\theta,\qquad "
        r"g = \nabla L_{\text{query}}(\varphi_k)"
    )
    source: ClassVar[str] = "arXiv:1703.03400, section 5.2"


@final
class MAML(_AdaptsAll, _Descends, _SecondOrder):
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


@final
class FirstOrderBilevelMAML(_AdaptsAll):
    """B-MAML by a symmetric finite difference: an inner problem that stays near theta, solved twice more, perturbed.

    With phi(nu) = argmin L_support + nu L_query + lambda/2 |phi - theta|^2,

        g = -lambda d phi / d nu at 0, about lambda (phi(-nu) - phi(nu)) / (2 nu)        (OpenReview 4zGAXQxisB),

    which is (I + H / lambda)^-1 grad L_query(phi), that of iMAML (arXiv:1909.04630), without a Hessian: memory is flat
    in the number of steps. Here lambda is `PULL` / inner_lr, and each argmin so many gradient steps as the inner loop
    has, those of the perturbed problems from phi on. What they have not come to yet is made up for as if the support
    loss were flat: after one step g is that of first-order MAML, after many that of the bilevel problem.
    """

    PULL: ClassVar[float] = 0.1
    """Which part of the way back to theta an inner step goes."""

    name: ClassVar[str] = "fo-b-maml"
    title: ClassVar[str] = "B-MAML, first-order"
    formula: ClassVar[str] = (
        r"\varphi(\nu) = \arg\min_\varphi L_{\text{support}} + \nu L_{\text{query}} "
        r"+ \tfrac{\lambda}{2}\lVert\varphi - \theta\rVert^2,\qquad "
        r"g = \lambda\,\frac{\varphi(-\nu) - \varphi(\nu)}{2\nu}"
    )
    source: ClassVar[str] = "OpenReview 4zGAXQxisB; the bilevel problem of arXiv:1909.04630, section 2.2"
    is_first_order: ClassVar[bool] = True
    needs_steps: ClassVar[bool] = True

    def step(self, loss: Loss, theta: Theta, phi: Phi, x: Tensor, y: Tensor, lr: float | Tensor) -> Phi:
        """A gradient step on the support loss, and `PULL` of the way back to theta."""
        return Phi(self._toward(theta, phi.parameters, grad(loss)(phi.parameters, x, y), lr), {})

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The finite difference of the two perturbed solutions."""

        def solved(nu: float) -> Parameters:
            def perturbed(values: Parameters) -> Tensor:
                on_query = loss(values, task.query_x, task.query_y)
                return loss(values, task.support_x, task.support_y) + nu * on_query

            values = phi.parameters
            for _ in range(inner.steps):
                values = self._toward(theta, values, grad(perturbed)(values), inner.lr)
            return values

        up, down = solved(inner.perturbation), solved(-inner.perturbation)
        done = 1.0 - (1.0 - self.PULL) ** inner.steps
        factor = self.PULL / (2.0 * inner.perturbation * done)
        parts = {name: (down[name] - up[name]) * factor / inner.lr for name in up}
        return Theta(parts, {}), loss(phi.parameters, task.query_x, task.query_y)

    def _toward(self, theta: Theta, values: Parameters, gradient: Parameters, lr: float | Tensor) -> Parameters:
        return {
            name: value - lr * gradient[name] - self.PULL * (value - theta.parameters[name])
            for name, value in values.items()
        }


@final
class Reptile(_AdaptsAll, _Descends):
    """Reptile: move the initialization toward where the inner steps ended.

    g = (theta - phi_k) / inner_lr        (arXiv:1803.02999, section 3)

    The inner steps see the support set only, so that losses mean what they mean for every other algorithm.
    """

    name: ClassVar[str] = "reptile"
    title: ClassVar[str] = "Reptile"
    formula: ClassVar[str] = r"g = (\theta - \varphi_k)\,/\,\alpha"
    source: ClassVar[str] = "arXiv:1803.02999, section 3"
    is_first_order: ClassVar[bool] = True
    needs_steps: ClassVar[bool] = True

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The way back from phi to theta, in inner steps of unit rate."""
        back = {name: (theta.parameters[name] - value) / inner.lr for name, value in phi.parameters.items()}
        return Theta(back, {}), loss(phi.parameters, task.query_x, task.query_y)


@final
class FirstOrderANIL(_AdaptsHead, _Descends, _FirstOrder):
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


@final
class ANIL(_AdaptsHead, _Descends, _SecondOrder):
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


@final
class MetaSGD(_AdaptsAll, _LearnsRates, _Descends, _SecondOrder):
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


@final
class FirstOrderMetaSGD(_LearnsRates, _FirstOrderOfMove):
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

    def _of_extras(self, theta: Theta, query: Parameters, sums: Parameters, lr: float | Tensor) -> Parameters:
        return {self._PREFIX + name: -lr * value * sums[name] for name, value in query.items()}


@final
class MetaCurvature(_AdaptsAll, _LearnsCurvature, _Descends, _SecondOrder):
    """Meta-Curvature: matrices that a gradient is multiplied with are learned along with the initialization.

    phi' = phi - inner_lr * M0 grad L_support(phi) M1'; g = d L_query(phi_k) / d (theta, M)
    (arXiv:1902.03356, section 3.2, there called MC2).
    """

    name: ClassVar[str] = "meta-curvature"
    title: ClassVar[str] = "Meta-Curvature (second-order)"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha\, M_0\, \nabla L_{\text{support}}(\varphi_{i-1})\, M_1^\top,\ "
        r"\varphi_0=\theta,\qquad g = \nabla_{(\theta,M)}\, L_{\text{query}}(\varphi_k(\theta,M))"
    )
    source: ClassVar[str] = "arXiv:1902.03356, section 3.2"


@final
class FirstOrderMetaCurvature(_LearnsCurvature, _FirstOrderOfMove):
    """Meta-Curvature without second derivatives.

    With q = grad L_query(phi_k) and s the sum of the inner gradients: g = q for the initialization, and
    -inner_lr * d (q . M0 s M1') / dM for the matrices: what is left of d phi_k / dM when every inner gradient is held
    constant (arXiv:1902.03356, section 3.2).
    """

    name: ClassVar[str] = "fo-meta-curvature"
    title: ClassVar[str] = "Meta-Curvature, first-order"
    formula: ClassVar[str] = (
        r"\varphi_{i} = \varphi_{i-1} - \alpha M_0 g_i M_1^\top,\ "
        r"g_i = \nabla L_{\text{support}}(\varphi_{i-1}),\qquad "
        r"g_\theta = \nabla L_{\text{query}}(\varphi_k),\ s = \textstyle\sum_i g_i,\ "
        r"g_M = -\alpha\nabla_{\!M}\, g_\theta \cdot M_0 s M_1^\top"
    )
    source: ClassVar[str] = "arXiv:1902.03356, section 3.2"

    def _of_extras(self, theta: Theta, query: Parameters, sums: Parameters, lr: float | Tensor) -> Parameters:
        def along(extras: Parameters) -> Tensor:
            moved = self.move(Theta(theta.parameters, extras), sums, lr)
            return torch.stack([(query[name] * value).sum() for name, value in moved.items()]).sum()

        return {name: -value for name, value in grad(along)(theta.extras).items()}


@final
class Joint(_AdaptsAll, _Descends):
    """Joint pretraining, the baseline without meta-learning: one model for all tasks' points at once.

    g = grad L_(support and query)(theta); adaptation then starts from it as from any initialization.
    """

    name: ClassVar[str] = "joint"
    title: ClassVar[str] = "Joint pretraining (baseline)"
    formula: ClassVar[str] = r"g = \nabla L_{\text{support}\,\cup\,\text{query}}(\theta)"
    source: ClassVar[str] = "the pretrained baseline of arXiv:1703.03400, section 5.1"
    is_first_order: ClassVar[bool] = True

    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """The gradient before adaptation, on all of the task's points; the loss is that after it."""
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        return Theta(grad(loss)(theta.parameters, x, y), {}), loss(phi.parameters, task.query_x, task.query_y)


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        FOMAML(),
        MAML(),
        FirstOrderBilevelMAML(),
        Reptile(),
        FirstOrderANIL(),
        ANIL(),
        FirstOrderMetaSGD(),
        MetaSGD(),
        FirstOrderMetaCurvature(),
        MetaCurvature(),
        RidgeHead(),
        FirstOrderRidgeHead(),
        Joint(),
    )
}
"""Every algorithm by the name a configuration gives it."""
