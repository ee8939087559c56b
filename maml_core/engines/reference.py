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
from torch.nn.functional import mse_loss

from maml_core.algorithms import FOMAML, RATE, Algorithm, Parameters
from maml_core.engines.base import Engine, MetaGradient
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.tasks import TaskBatch

InnerOptimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]


class ReferenceEngine(Engine):
    """Any algorithm through `higher.innerloop_ctx`, for any nn.Module and any inner optimizer that `higher` has."""

    name: ClassVar[str] = "higher"

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        meta_optimizer: MetaOptimizer,
        algorithm: Algorithm = FOMAML,
        inner_optimizer: InnerOptimizer | None = None,
    ) -> None:
        """`inner_optimizer` makes the optimizer of the inner loop; plain SGD at `inner_lr` if it is None."""
        super().__init__(
            model, inner_lr=inner_lr, inner_steps=inner_steps, meta_optimizer=meta_optimizer, algorithm=algorithm
        )
        self.inner_optimizer = inner_optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=inner_lr))

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        named = self.layout.unflatten(parameters.detach())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(named[name])
        rates = {
            name.removeprefix(RATE): value.clone().requires_grad_()
            for name, value in named.items()
            if name.startswith(RATE)
        }
        gradient = torch.zeros_like(parameters)
        pre_loss = parameters.new_zeros(())
        post_loss = parameters.new_zeros(())
        count = tasks.support_x.shape[0]
        for i in range(count):
            task = tasks.at(i)
            task_gradient, query_loss = self._task(task, rates)
            with torch.no_grad():
                pre_loss += mse_loss(self.model(task.query_x), task.query_y) / count
            gradient += torch.cat([part.reshape(-1) for part in task_gradient]) / count
            post_loss += query_loss / count
        return MetaGradient(gradient, pre_loss, post_loss)

    def _task(self, task: TaskBatch, rates: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """One task's meta-gradient in the layout's order, and its query loss after adaptation."""
        algorithm = self.algorithm
        theta: Parameters = dict(self.model.named_parameters())
        heads = algorithm.begin(theta)
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
            override={"lr": [self.inner_lr * rates[name] for name in adapting]} if rates else None,
        ) as (adapted, differentiable_optimizer):
            for _ in range(self.inner_steps):
                differentiable_optimizer.step(
                    mse_loss(adapted(task.support_x), task.support_y), **({"grad_callback": cut} if cut else {})
                )
            query_loss = mse_loss(adapted(task.query_x), task.query_y)
            if algorithm.name == "reptile":
                ends = zip(theta.values(), adapted.parameters(), strict=True)
                return [(start - end).detach() / self.inner_lr for start, end in ends], query_loss.detach()
            if algorithm.name == "joint":
                x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
                joint = torch.autograd.grad(mse_loss(self.model(x), y), list(theta.values()))
                return list(joint), query_loss.detach()
            sought = [*theta.values(), *rates.values()] if follows else list(adapted.parameters())
            gradients = torch.autograd.grad(query_loss, sought, allow_unused=not self.inner_steps)
        found = [torch.zeros_like(s) if g is None else g for s, g in zip(sought, gradients, strict=True)]
        return found, query_loss.detach()
