"""Every algorithm with `higher`, task by task: the engine to read and to trust.

`higher` follows second derivatives unless told otherwise, and every way of telling it has a trap. With
`track_higher_grads=False` the adapted parameters are cut off from the initialization, so a plain `.backward()` on
the query loss leaves every gradient None, silently. The right way is to ask for the gradient with respect to the
adapted parameters, and to apply it to the initialization by hand; memory then stays flat in the number of steps.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import higher
import torch
from torch import Tensor, nn

from maml_core.engines.base import Engine, MetaGradient
from maml_core.errors import EngineError
from maml_core.learning.algorithms import FirstOrderBilevelMAML
from maml_core.learning.inner_loop import Algorithm, Parameters, Theta
from maml_core.learning.ridge_head import CLOSED, LEAST_PENALTY, NOISE, PENALTY, QUIET
from maml_core.learning.tasks import TaskBatch

InnerOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]

CURVED = ("fo-meta-curvature", "meta-curvature")
"""The algorithms that learn matrices."""

KNOWN = frozenset(
    {"fomaml", "maml", "reptile", "fo-anil", "anil", "fo-meta-sgd", "meta-sgd", "joint", "fo-b-maml", *CURVED, *CLOSED}
)
"""The algorithms written out here. Another would silently be taken for one of them, so it is refused."""


class ReferenceEngine(Engine):
    """The known algorithms through `higher.innerloop_ctx`, for any nn.Module and inner optimizer that `higher` has."""

    name: ClassVar[str] = "higher"

    @classmethod
    def check(cls, model: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
        """Refuse an algorithm that is not written out here.

        Raises:
            EngineError: names the algorithm and the engine that takes it.
        """
        if algorithm.name not in KNOWN:
            raise EngineError(
                f"engine = 'higher' does not know algorithm = {algorithm.name!r}: it must be one of "
                f"{', '.join(sorted(KNOWN))}; choose engine = 'vectorized'."
            )

    def _set_up(self) -> None:
        lr = float(self.inner.lr)
        self.inner_optimizer: InnerOptimizer = lambda parameters: torch.optim.SGD(parameters, lr=lr)
        """Makes the optimizer of the inner loop; may be replaced by any that `higher` has."""

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        theta = self.layout.unflatten(parameters.detach())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(theta.parameters[name])
        beside = {name: value.clone().requires_grad_() for name, value in theta.extras.items()}
        gradient = torch.zeros_like(parameters)
        pre_loss = parameters.new_zeros(())
        post_loss = parameters.new_zeros(())
        count = tasks.support_x.shape[0]
        for i in range(count):
            task = tasks.at(i)
            if self.algorithm.name == "fo-b-maml":
                task_gradient, query_loss = self._bilevel(task)
            elif self.algorithm.name in CLOSED:
                task_gradient, query_loss = self._ridge(task, theta.extras)
            else:
                task_gradient, query_loss = self._task(task, beside)
            with torch.no_grad():
                pre_loss += self.problem.loss(self.model, task.query_x, task.query_y) / count
            gradient += torch.cat([part.reshape(-1) for part in task_gradient]) / count
            post_loss += query_loss / count
        return MetaGradient(gradient, pre_loss, post_loss)

    def _bilevel(self, task: TaskBatch) -> tuple[list[Tensor], Tensor]:
        """The bilevel problem's gradient: its inner problem and the two perturbed ones by `higher`'s optimizer."""
        theta = [parameter.detach().clone() for parameter in self.model.parameters()]
        lr, pull, nu, steps = (
            float(self.inner.lr),
            FirstOrderBilevelMAML.PULL,
            self.inner.perturbation,
            self.inner.steps,
        )
        loss = self.problem.loss

        def solve(weight: float) -> tuple[list[Tensor], Tensor]:
            optimizer = self.inner_optimizer({"params": [parameter]} for parameter in self.model.parameters())
            with higher.innerloop_ctx(self.model, optimizer, copy_initial_weights=False, track_higher_grads=False) as (
                adapted,
                differentiable_optimizer,
            ):
                for step in range(2 * steps):
                    away = [(p - start).square().sum() for p, start in zip(adapted.parameters(), theta, strict=True)]
                    inner = loss(adapted, task.support_x, task.support_y) + pull / lr / 2 * torch.stack(away).sum()
                    if step >= steps:
                        inner = inner + weight * loss(adapted, task.query_x, task.query_y)
                    differentiable_optimizer.step(inner)
                    if step == steps - 1:
                        query_loss = loss(adapted, task.query_x, task.query_y).detach()
                return [parameter.detach().clone() for parameter in adapted.parameters()], query_loss

        (up, query_loss), (down, _) = solve(nu), solve(-nu)
        factor = pull / lr / (2 * nu * (1 - (1 - pull) ** steps))
        return [(low - high) * factor for low, high in zip(down, up, strict=True)], query_loss

    def _ridge(self, task: TaskBatch, extras: Parameters) -> tuple[list[Tensor], Tensor]:
        """The ridge head without an inner loop to unroll: autograd through the normal equations, in double precision.

        Written in the space of weights, where the algorithm itself works in that of points.
        """
        theta = dict(self.model.named_parameters())
        head, *rest = self.algorithm.head_of(theta)
        penalty, noise = (extras[name].detach().double().requires_grad_() for name in (PENALTY, NOISE))
        seen: list[Tensor] = []
        layer = self.model.get_submodule(self.algorithm.head_layer(theta))
        handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        self.model(task.support_x), self.model(task.query_x)
        handle.remove()
        known, asked = (torch.cat([part, torch.ones_like(part[:, : len(rest)])], dim=1).double() for part in seen)
        start = torch.cat([theta[head], *(theta[name][:, None] for name in rest)], dim=1).double()
        least = LEAST_PENALTY * known.square().sum(1).mean()
        gram = known.T @ known + (penalty.exp() + least) * torch.eye(known.shape[1], dtype=torch.double)
        found = start + torch.linalg.solve(gram, known.T @ (task.support_y.double() - known @ start.T)).T
        used = found.detach().requires_grad_() if self.algorithm.is_first_order else found
        query_loss = self.problem.loss(lambda _: asked @ used.T, task.query_x, task.query_y.double())
        spread = (penalty.exp() + least) / penalty.exp() * (asked * torch.linalg.solve(gram, asked.T).T).sum(1)
        error = (asked @ found.T - task.query_y.double()).square().mean(1).detach()
        variance = noise.exp() * (1 + spread.detach())
        unlikely = 0.5 * (error / variance + variance.log()).mean()
        sought = [value for name, value in theta.items() if name not in (head, *rest)]
        body = torch.autograd.grad(query_loss, [*sought, used], retain_graph=True, allow_unused=True)
        if self.algorithm.is_first_order:
            at_head = [body[-1][:, : known.shape[1] - len(rest)], *(body[-1][:, -1] for _ in rest)]
            parts = [*body[:-1], *at_head, torch.zeros_like(penalty)]
        else:
            parts = list(torch.autograd.grad(query_loss, [*theta.values(), penalty], retain_graph=True))
        parts.append(QUIET * torch.autograd.grad(unlikely, noise)[0])
        return [part.to(task.support_x.dtype) for part in parts], query_loss.detach().to(task.support_x.dtype)

    def _task(self, task: TaskBatch, beside: Parameters) -> tuple[list[Tensor], Tensor]:
        """One task's meta-gradient in the layout's order, and its query loss after adaptation."""
        algorithm, loss = self.algorithm, self.problem.loss
        theta: Parameters = dict(self.model.named_parameters())
        heads = algorithm.begin(Theta(theta, {})).parameters
        adapting = {name: value for name, value in theta.items() if name in heads}
        # What is learned beside theta needs the graph of the updates; to first order, not that of the inner gradients.
        follows = not algorithm.is_first_order or bool(beside)
        rates = [self.inner.lr * factor for factor in algorithm.rates(Theta(theta, beside)).values()]

        def callback(gradients: list[Tensor]) -> list[Tensor]:
            if algorithm.is_first_order:
                gradients = [gradient.detach() for gradient in gradients]
            if algorithm.name not in CURVED:
                return gradients
            return [_curved(beside, name, gradient) for name, gradient in zip(adapting, gradients, strict=True)]

        optimizer = self.inner_optimizer({"params": [parameter]} for parameter in adapting.values())
        with higher.innerloop_ctx(
            self.model,
            optimizer,
            copy_initial_weights=False,
            track_higher_grads=follows,
            override={"lr": rates} if rates else None,
        ) as (adapted, differentiable_optimizer):
            for _ in range(self.inner.steps):
                differentiable_optimizer.step(
                    loss(adapted, task.support_x, task.support_y), **({"grad_callback": callback} if follows else {})
                )
            query_loss = loss(adapted, task.query_x, task.query_y)
            if algorithm.name == "reptile":
                ends = zip(theta.values(), adapted.parameters(), strict=True)
                return [(start - end).detach() / self.inner.lr for start, end in ends], query_loss.detach()
            if algorithm.name == "joint":
                x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
                joint = torch.autograd.grad(loss(self.model, x, y), list(theta.values()))
                return list(joint), query_loss.detach()
            sought = [*theta.values(), *beside.values()] if follows else list(adapted.parameters())
            gradients = torch.autograd.grad(query_loss, sought, allow_unused=not self.inner.steps)
        found = [torch.zeros_like(s) if g is None else g for s, g in zip(sought, gradients, strict=True)]
        return found, query_loss.detach()


def _curved(matrices: Parameters, name: str, gradient: Tensor) -> Tensor:
    """A gradient, multiplied along each of its dimensions."""
    for dim in range(gradient.dim()):
        product = torch.tensordot(matrices[f"curvature:{dim}:{name}"], gradient, dims=([1], [dim]))
        gradient = product.movedim(0, dim)
    return gradient
