"""An initialization: the central noun. What a run has learned, a random start, a pretrained one: each is one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import vmap

from maml_core.learning.binding import bound
from maml_core.learning.inner_loop import Algorithm, Loss, Parameters, Phi, Theta, head_name
from maml_core.learning.problems import Problem, Regression
from maml_core.learning.tasks import TaskBatch

MOST_CALLS = 100_000
"""Times that the model of a policy is called at once, in all rollouts of all tasks."""

MOST_INPUTS = 1_000_000
"""Numbers that the points of all tasks are given as at once, where one takes at least `MANY_INPUTS`: images."""

MANY_INPUTS = 64

POINTS_AT_ONCE = 2048
"""Whose features are found at once."""


@dataclass(frozen=True)
class Trajectory:
    """Adaptation of one initialization to many tasks, step by step; step 0 is before adaptation."""

    predictions: Tensor  # [steps + 1, tasks, points, outputs]: the problem's answers at the query points
    support_loss: Tensor  # [steps + 1, tasks]
    query_loss: Tensor  # [steps + 1, tasks]: the problem's error on the query points

    def last_finite_step(self, task: int = 0) -> int:
        """The last step up to which this task's predictions and support loss are all finite."""
        finite = torch.isfinite(self.predictions[:, task]).flatten(1).all(1) & torch.isfinite(
            self.support_loss[:, task]
        )
        return max(0, int(finite.long().cumprod(0).sum()) - 1)


@dataclass(frozen=True, eq=False)
class Initialization:
    """A starting point for adaptation, with all that adapting from it takes.

    >>> from maml_core import RunConfig
    >>> start = RunConfig().untrained()
    >>> tasks = RunConfig().tasks.held_out(tasks=3, shots=5)
    >>> start.adapt(tasks, steps=2).query_loss.shape
    torch.Size([3, 3])
    """

    model: nn.Module  # gives the structure; its own values are not read
    parameters: Parameters  # by the model's names
    algorithm: Algorithm  # whose inner steps are taken
    inner_lr: float
    extras: Parameters = field(default_factory=dict)  # what the algorithm learns beside the parameters
    problem: Problem = field(default_factory=Regression)

    @property
    def theta(self) -> Theta:
        """What is meta-learned, as the algorithm takes it."""
        return Theta(self.parameters, self.extras)

    def at_rate(self, inner_lr: float) -> "Initialization":
        """The same starting point, adapted with another step size; learned rates and matrices are scaled with it."""
        return replace(self, inner_lr=inner_lr)

    @torch.no_grad()
    def adapt(self, tasks: TaskBatch, steps: int) -> Trajectory:
        """Adapt to every task of `[tasks, points, features]`, and follow it on the query points.

        The inner loop is that of training: the algorithm's own, on the whole support set at once.
        """
        _, points, inputs = tasks.support_x.shape
        calls, is_wide = self.problem.calls, inputs >= MANY_INPUTS
        if calls > 1 or is_wide:  # rollouts, or images, of very many tasks would fill the memory
            each = points * calls if calls > 1 else (points + tasks.query_x.shape[1]) * inputs
            at_once = max(1, (MOST_CALLS if calls > 1 else MOST_INPUTS) // each)
            if len(tasks.support_x) > at_once:
                starts = range(0, len(tasks.support_x), at_once)
                parts = [self.adapt(tasks.at(slice(first, first + at_once)), steps) for first in starts]
                values = zip(*((p.predictions, p.support_loss, p.query_loss) for p in parts), strict=True)
                return Trajectory(*(torch.cat(each, dim=1) for each in values))
        theta, loss = self.theta, Loss(self.model, self.problem)

        def judge(phi: Phi, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            whole = theta.parameters | phi.parameters
            answer = bound(self.model, whole, lambda predict: self.problem.answer(predict, qx, qy))
            return answer, loss(whole, sx, sy), self.problem.error(answer, qy)

        seen = [vmap(judge)(phi, *tasks) for phi in self._steps(tasks, steps)]
        return Trajectory(*(torch.stack(values) for values in zip(*seen, strict=True)))

    @torch.no_grad()
    def adapted(self, tasks: TaskBatch, steps: int) -> Parameters:
        """The parameters that each task ends with, `[tasks, ...]` by name; of those that do not adapt, the start's."""
        *_, last = self._steps(tasks, steps)
        still = _for_each(self.parameters, tasks.support_x.shape[0])
        return {name: last.parameters.get(name, value) for name, value in still.items()}

    def features(self) -> Callable[[Tensor], Tensor] | None:
        """What goes into the last layer, x `[..., points, inputs]` to `[..., points, width]`; None if it is not linear.

        It is that before any step of adaptation.
        """
        name = head_name(self.parameters)
        if not isinstance(dict(self.model.named_modules()).get(name), nn.Linear):
            return None
        loss = Loss(self.model, self.problem)

        @torch.no_grad()
        def found(x: Tensor) -> Tensor:
            parts = x.flatten(0, -2).split(POINTS_AT_ONCE)
            into = torch.cat([loss.layer(name, self.parameters, part)[0] for part in parts])
            return into.reshape(*x.shape[:-1], -1)

        return found

    @torch.no_grad()
    def deviation(self, tasks: TaskBatch) -> Tensor | None:
        """The standard deviation of what is predicted at the query inputs `[tasks, points]`, where there is one."""
        if not self.algorithm.has_deviation:
            return None
        theta, loss = self.theta, Loss(self.model, self.problem)
        found: Tensor = vmap(lambda *task: self.algorithm.deviation(loss, theta, TaskBatch(*task)))(*tasks)
        return found

    def _steps(self, tasks: TaskBatch, steps: int) -> Iterator[Phi]:
        """What all tasks carry, `[tasks, ...]`, before the first inner step and after each."""
        theta, loss = self.theta, Loss(self.model, self.problem)

        def step(phi: Phi, sx: Tensor, sy: Tensor) -> Phi:
            return self.algorithm.step(loss, theta, phi, sx, sy, self.inner_lr)

        begun, count = self.algorithm.begin(theta), tasks.support_x.shape[0]
        phi = Phi(_for_each(begun.parameters, count), _for_each(begun.gradient_sums, count))
        yield phi
        for _ in range(steps):
            phi = vmap(step)(phi, tasks.support_x, tasks.support_y)
            yield phi


def _for_each(values: Parameters, count: int) -> Parameters:
    return {name: value.expand(count, *value.shape) for name, value in values.items()}
