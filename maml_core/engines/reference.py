"""First-order MAML with `higher`, task by task: the engine to read and to trust.

`higher` follows second derivatives unless told otherwise, and every way of telling it has a trap. With
`track_higher_grads=False` the adapted parameters are cut off from the initialization, so a plain `.backward()` on
the query loss leaves every gradient None, silently. The right way is to ask for the gradient with respect to the
adapted parameters, and to apply it to the initialization by hand; memory then stays flat in the number of steps.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar

import higher
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from maml_core.engines.base import Engine, MetaGradient
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.tasks import TaskBatch

InnerOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class ReferenceEngine(Engine):
    """FOMAML through `higher.innerloop_ctx`, for any nn.Module and any inner optimizer that `higher` has."""

    name: ClassVar[str] = "higher"

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        meta_optimizer: MetaOptimizer,
        inner_optimizer: InnerOptimizer | None = None,
    ) -> None:
        """`inner_optimizer` makes the optimizer of the inner loop; plain SGD at `inner_lr` if it is None."""
        super().__init__(model, inner_lr=inner_lr, inner_steps=inner_steps, meta_optimizer=meta_optimizer)
        self.inner_optimizer = inner_optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=inner_lr))

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        named = self.layout.unflatten(parameters)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(named[name])
        gradient = torch.zeros_like(parameters)
        pre_loss = parameters.new_zeros(())
        post_loss = parameters.new_zeros(())
        count = tasks.support_x.shape[0]
        for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
            task_gradient, before, after = self._task(support_x, support_y, query_x, query_y)
            gradient += task_gradient / count
            pre_loss += before / count
            post_loss += after / count
        return MetaGradient(gradient, pre_loss, post_loss)

    def _task(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            before = mse_loss(self.model(query_x), query_y)
        inner_optimizer = self.inner_optimizer(self.model.parameters())
        with higher.innerloop_ctx(
            self.model, inner_optimizer, copy_initial_weights=False, track_higher_grads=False
        ) as (adapted, differentiable_optimizer):
            for _ in range(self.inner_steps):
                differentiable_optimizer.step(mse_loss(adapted(support_x), support_y))
            query_loss = mse_loss(adapted(query_x), query_y)
            gradients = torch.autograd.grad(query_loss, list(adapted.parameters()))
        return torch.cat([gradient.reshape(-1) for gradient in gradients]), before, query_loss.detach()
