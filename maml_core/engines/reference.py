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
from maml_core.learning.algorithms import Algorithm, Parameters, Theta
from maml_core.learning.tasks import TaskBatch

InnerOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


KNOWN = frozenset({"fomaml", "maml", "reptile", "fo-anil", "anil", "fo-meta-sgd", "meta-sgd", "joint"})
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
        rates = {name: value.clone().requires_grad_() for name, value in theta.rates.items()}
        gradient = torch.zeros_like(parameters)
        pre_loss = parameters.new_zeros(())
        post_loss = parameters.new_zeros(())
        count = tasks.support_x.shape[0]
        for i in range(count):
            task = tasks.at(i)
            task_gradient, query_loss = self._task(task, rates)
            with torch.no_grad():
                pre_loss += self.problem.loss(self.model, task.query_x, task.query_y) / count
            gradient += torch.cat([part.reshape(-1) for part in task_gradient]) / count
            post_loss += query_loss / count
        return MetaGradient(gradient, pre_loss, post_loss)

    def _task(self, task: TaskBatch, rates: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """One task's meta-gradient in the layout's order, and its query loss after adaptation."""
        algorithm, loss = self.algorithm, self.problem.loss
        theta: Parameters = dict(self.model.named_parameters())
        heads = algorithm.begin(Theta(theta, rates)).parameters
        adapting = {name: value for name, value in theta.items() if name in heads}
        # First-order Meta-SGD needs the graph of the updates, for the rates, but not that of the inner gradients.
        follows = not algorithm.is_first_order or algorithm.learns_rates
        cut = (lambda grads: [g.detach() for g in grads]) if algorithm.is_first_order and follows else None
        optimizer = self.inner_optimizer({"params": [parameter]} for parameter in adapting.values())
        with higher.innerloop_ctx(
            self.model,
            optimizer,
            copy_initial_weights=False,
            track_higher_grads=follows,
            override={"lr": [self.inner.lr * rates[name] for name in adapting]} if rates else None,
        ) as (adapted, differentiable_optimizer):
            for _ in range(self.inner.steps):
                differentiable_optimizer.step(
                    loss(adapted, task.support_x, task.support_y), **({"grad_callback": cut} if cut else {})
                )
            query_loss = loss(adapted, task.query_x, task.query_y)
            if algorithm.name == "reptile":
                ends = zip(theta.values(), adapted.parameters(), strict=True)
                return [(start - end).detach() / self.inner.lr for start, end in ends], query_loss.detach()
            if algorithm.name == "joint":
                x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
                joint = torch.autograd.grad(loss(self.model, x, y), list(theta.values()))
                return list(joint), query_loss.detach()
            sought = [*theta.values(), *rates.values()] if follows else list(adapted.parameters())
            gradients = torch.autograd.grad(query_loss, sought, allow_unused=not self.inner.steps)
        found = [torch.zeros_like(s) if g is None else g for s, g in zip(sought, gradients, strict=True)]
        return found, query_loss.detach()
