"""Few-shot control (arXiv:1703.03400, section 5.3): a point in the plane learns the way to a goal that it is not told.

A task's points are rollouts: x holds the noise of each one's actions, drawn beforehand, and y what the task is. So a
rollout is a function of the policy alone: engines take its loss as they take any other, and a run that is resumed
sees the same noise. All inner steps of a task share its noise; what is seen differs, because the policy does.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor

from maml_core.learning.generated import GeneratedFamily, uniform
from maml_core.learning.problems import Number, Predict, Problem
from maml_core.learning.tasks import Normal, TaskFamily, TaskSet, Uniform

HORIZON = 100
"""Steps of a rollout."""

STRIDE = 0.1
"""How far a step goes at most, along each axis; actions are in units of it."""

CLOSE = 0.01
"""A rollout is over once it is so near the goal on both axes."""

DISCOUNT = 0.99
LOG_STD, LEAST_LOG_STD, MOST_LOG_STD = -0.5, -2.5, 0.5
"""Of the actions, in units of a step: what a policy's own is added to, and the bounds of the sum."""

JUDGED = 20
"""Query rollouts that adaptation is measured by."""


class Rollouts(NamedTuple):
    """What a policy did in one task, before it is known how good that was."""

    places: Tensor  # [rollouts, HORIZON + 1, 2], from the start on
    actions: Tensor  # [rollouts, HORIZON, 2], as they were asked for


@final
class Control(Problem):
    """Go to a goal in the plane, which shows in the reward alone; a policy is asked for an action at every step.

    The model is given twice the place `[..., 2]`, and answers with the mean and the logarithm of the standard
    deviation of its action `[..., 4]`. The reward is minus the distance to the goal after the step, until the goal
    is reached. y `[rollouts, 3]` holds the goal and the angle by which the steps are turned against the actions.

    The standard deviation is bounded: beyond its bounds it has no gradient, and a policy's own stays where it is.

    The loss has the value of minus the return, and the gradient of REINFORCE: the return to come, discounted, less
    its mean over the rollouts at that step, in standard deviations.
    """

    name: ClassVar[str] = "control"
    error_name: ClassVar[str] = "sum of distances to the goal"
    score_name: ClassVar[str] = "return"
    loss_name: ClassVar[str] = "minus the return"
    guess: ClassVar[str] = "stand still"
    guess_in_full: ClassVar[str] = "stand still"
    scale: ClassVar[Literal["decades", "share", "plain"]] = "plain"
    supports: ClassVar[str] = "support rollouts"
    predicts: ClassVar[bool] = False
    calls: ClassVar[int] = HORIZON

    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """Minus the mean return, with the gradient of REINFORCE; noise x `[rollouts, 2 HORIZON]`, y `[rollouts, 3]`."""
        with torch.no_grad():
            done = roll_out(predict, x, y)
            distance, is_going = distances(done.places, y)
            to_come = (-distance * is_going) @ _discounts(x)
            count = is_going.sum(0).clamp(min=1)
            better = (to_come - (to_come * is_going).sum(0) / count) * is_going
            better = better / (better.square().sum() / is_going.sum()).sqrt().clamp(min=1e-8)
            cost = (distance * is_going).sum(1).mean()
        mean, log_std = _action(predict, done.places[:, :-1].reshape(-1, 2))
        away = (done.actions.reshape(-1, 2) - mean) * (-log_std).exp()
        log_likelihood = (-0.5 * away.square() - log_std).sum(-1).reshape(better.shape)
        surrogate = -(log_likelihood * better).sum() / is_going.sum()
        return surrogate - surrogate.detach() + cost

    def answer(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """The places of each rollout `[rollouts, 2 (HORIZON + 1)]`."""
        return roll_out(predict, x, y).places.flatten(1)

    def error(self, answer: Tensor, y: Tensor) -> Tensor:
        """Minus the mean return, not discounted."""
        distance, is_going = distances(answer.unflatten(1, (HORIZON + 1, 2)), y)
        return (distance * is_going).sum(1).mean()

    def guessed(self, support_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Stay at the start."""
        return x.new_zeros(x.shape[0], 2 * (HORIZON + 1))

    def score(self, error: Number) -> Number:
        """The return."""
        return -error

    def in_words(self, error: float) -> str:
        """The return, with a true minus sign."""
        return f"{0 - error:.3g}".replace("-", "−")

    def in_short(self, error: float) -> str:
        """Two digits, or whole numbers."""
        return f"{-error:.0f}".replace("-", "−") if error >= 10 else f"{-error:.2g}".replace("-", "−")

    def with_interval(self, error: float, half: float) -> str:
        """−8.21 ± 0.4."""
        return f"{self.in_words(error)} ± {half:.2g}"


def roll_out(predict: Predict, x: Tensor, y: Tensor) -> Rollouts:
    """What a policy does with the noise x `[rollouts, 2 HORIZON]` in a task y `[rollouts, 3]`, to the last step.

    It goes on beyond the goal: what counts of it, `distances` tells.
    """
    noise = x.unflatten(1, (HORIZON, 2))
    cos, sin = y[0, 2].cos(), y[0, 2].sin()  # the task is the same in all its rollouts
    turned = STRIDE * torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])  # of rows, to the left
    place = torch.zeros_like(noise[:, 0])
    places, actions = [place], []
    for each in noise.unbind(1):
        mean, log_std = _action(predict, place)
        action = torch.addcmul(mean, log_std.exp(), each)
        place = torch.addmm(place, action.clamp(-1.0, 1.0), turned)
        places.append(place)
        actions.append(action)
    return Rollouts(torch.stack(places, 1), torch.stack(actions, 1))


def distances(places: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How far from the goal each step ends, and 1 as long as the goal was not reached before it, `[rollouts, HORIZON]`.

    Places are `[rollouts, HORIZON + 1, 2]`, y `[rollouts, 3]`.
    """
    off = places[:, 1:] - y[:, None, :2]
    is_there = (off.abs() < CLOSE).all(-1).to(off.dtype)
    before = torch.cat([torch.zeros_like(is_there[:, :1]), is_there[:, :-1]], 1)
    return off.square().sum(-1).sqrt(), (1 - before).cumprod(1)


def _action(predict: Predict, places: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the actions at places `[places, 2]`."""
    mean, log_std = predict(2 * places).split(2, dim=-1)
    return mean, (LOG_STD + log_std).clamp(LEAST_LOG_STD, MOST_LOG_STD)


def _discounts(like: Tensor) -> Tensor:
    """What rewards `[..., HORIZON]` are multiplied by to be, at each step, the discounted sum of those to come."""
    steps = torch.arange(HORIZON, dtype=like.dtype, device=like.device)
    later = steps[:, None] - steps[None]
    return torch.where(later >= 0, DISCOUNT ** later.clamp(min=0), torch.zeros_like(later))


class ControlFamily(GeneratedFamily):
    """A distribution over tasks of control. Subclasses add parameters and `task_of`."""

    problem: ClassVar[Problem] = Control()
    judged_by: ClassVar[str] = f"{JUDGED} further rollouts"
    judging_shots: ClassVar[int] = JUDGED
    is_costly: ClassVar[bool] = True
    least_shots: ClassVar[int] = 2

    @property
    def input_size(self) -> int:
        """Two: the coordinates of the place."""
        return 2

    @property
    def output_size(self) -> int:
        """Four: the mean of an action, and the logarithms of its standard deviations."""
        return 4

    @property
    @abstractmethod
    def furthest(self) -> tuple[float, float]:
        """How far from the start, along an axis, a goal can be in training, and where a reader can put it."""

    def too_far(self) -> str | None:
        """What should be said before training, if a rollout is too short for its goals."""
        trained, _ = self.furthest
        if trained <= HORIZON * STRIDE / 2:
            return None
        return (
            f"Goals lie up to {trained:,.3g} from the start, and a rollout of {HORIZON} steps goes "
            f"{HORIZON * STRIDE:g} at most: choose ranges up to {HORIZON * STRIDE / 2:g}."
        )

    @abstractmethod
    def task_of(self, **parameters: Tensor) -> Tensor:
        """The goal and the angle `[..., 3]` that tasks with these parameters `[...]` have."""

    def sample_points(
        self,
        parameters: Mapping[str, Tensor],
        points: int,
        generator: torch.Generator,
        *,
        alike: bool = False,
        task_set: TaskSet = TaskSet.HELD_OUT,
    ) -> tuple[Tensor, Tensor]:
        """Draw the noise of rollouts: x `[..., rollouts, 2 HORIZON]`, y `[..., rollouts, 3]`."""
        shape = next(iter(parameters.values())).shape
        x = Normal(mean=0.0, std=1.0).quantile(uniform(shape, (points, 2 * HORIZON), generator, alike=alike))
        y = self.task_of(**parameters)[..., None, :].double()
        return x.expand(*shape, points, 2 * HORIZON), y.expand(*shape, points, 3)


class Navigation(ControlFamily):
    """Go to a goal that only the reward tells of: the 2D navigation of arXiv:1703.03400, section 5.3."""

    title: ClassVar[str] = "Navigation (control)"
    latex: ClassVar[str] = r"\text{reward} = -\lVert \text{place} - (\text{goal}_x, \text{goal}_y)\rVert"
    order: ClassVar[int] = 2

    family: Literal["navigation"] = "navigation"
    goal_x: Uniform = Field(Uniform(low=-0.5, high=0.5), description="Where each task's goal is, from left to right.")
    goal_y: Uniform = Field(Uniform(low=-0.5, high=0.5), description="Where each task's goal is, from below to above.")

    @property
    def furthest(self) -> tuple[float, float]:
        """By the ranges of both coordinates."""
        both = self.goal_x, self.goal_y
        reached = (self.around("goal_x"), self.around("goal_y"))
        return (
            max(abs(end) for each in both for end in each.span),
            max(abs(end) for ends in reached for end in ends),
        )

    def task_of(self, **parameters: Tensor) -> Tensor:
        """Goals of their own, and steps that go where they should."""
        return torch.stack([parameters["goal_x"], parameters["goal_y"], torch.zeros_like(parameters["goal_x"])], -1)


class Steering(ControlFamily):
    """Go to a goal that is the same in all tasks, with controls that are turned by an angle of each task's own."""

    title: ClassVar[str] = "Turned controls (control)"
    latex: ClassVar[str] = (
        r"\text{place}' = \text{place} + R(\text{turn})\,\text{action},\quad "
        r"\text{reward} = -\lVert \text{place} - \text{distance}\,(1, 0)\rVert"
    )
    order: ClassVar[int] = 2
    angles: ClassVar[tuple[str, ...]] = ("turn",)
    lengths: ClassVar[tuple[str, ...]] = ("distance",)

    family: Literal["steering"] = "steering"
    turn: Uniform = Field(
        Uniform(low=-math.pi, high=math.pi), description="By how much each task's controls are turned, in radians."
    )
    distance: Uniform = Field(Uniform(low=0.5, high=0.5), description="How far to the right the goal is.")

    @property
    def furthest(self) -> tuple[float, float]:
        """By the distance."""
        return self.distance.high, self.around("distance")[1]

    def task_of(self, **parameters: Tensor) -> Tensor:
        """A goal to the right, and turned steps."""
        return torch.stack([parameters["distance"], torch.zeros_like(parameters["turn"]), parameters["turn"]], -1)


def can_aim(family: TaskFamily) -> bool:
    """Whether a reader can put the goal of a task anywhere."""
    return isinstance(family, Navigation)


def aimed(family: TaskFamily, x: float, y: float) -> dict[str, float]:
    """The parameters of the task with its goal there, or as far out as sliders reach; none where it cannot be aimed."""
    if not isinstance(family, Navigation):
        return {}
    found = {}
    for name, value in (("goal_x", x), ("goal_y", y)):
        low, high = family.around(name)
        found[name] = min(max(value, low), high)
    return found
