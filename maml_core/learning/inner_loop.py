"""What an algorithm of meta-learning is: what it learns, what a task carries, and the maths of one task's inner loop.

theta is what is meta-learned: the initialization, and what an algorithm learns beside it, such as a factor of inner_lr
for each parameter. phi is what a task adapts: the parameters, and what an algorithm must remember of its inner steps.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from maml_core.learning.binding import bound, call
from maml_core.learning.problems import Problem
from maml_core.learning.tasks import TaskBatch

Parameters = dict[str, Tensor]
"""Tensors by the name that the model gives them."""


class Theta(NamedTuple):
    """What is meta-learned."""

    parameters: Parameters
    extras: Parameters  # what an algorithm learns beside them, by the names that a file gives it; mostly nothing


class Phi(NamedTuple):
    """What one task carries from an inner step to the next."""

    parameters: Parameters  # those that adapt
    gradient_sums: Parameters  # sum of the inner gradients so far; empty where none is needed


@dataclass(frozen=True)
class InnerLoop:
    """The settings of adaptation."""

    lr: float | Tensor  # a tensor where it is an input of a compiled loop
    steps: int
    perturbation: float = 0.01  # of the finite difference that fo-b-maml takes


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss of a model on one task's points, as a function of its parameters."""

    model: nn.Module
    problem: Problem

    def __call__(self, parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        """A scalar, from x `[points, features]` and y `[points, outputs]`."""
        return bound(self.model, parameters, lambda predict: self.problem.loss(predict, x, y))

    def layer(self, name: str, parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """What goes into the layer of that name `[points, width]`, and the predictions `[points, outputs]`."""
        seen: list[Tensor] = []
        handle = self.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            predictions = call(self.model, parameters, x)
        finally:
            handle.remove()
        return seen[-1], predictions


class Algorithm(ABC):
    """What an inner step is, and what the meta-gradient: for one task."""

    name: ClassVar[str]
    title: ClassVar[str]
    formula: ClassVar[str]
    source: ClassVar[str]
    solves: ClassVar[bool] = False
    """Whether it solves linear systems, which takes double precision."""
    adapts_head: ClassVar[bool] = False
    """Whether only the last layer adapts, which must then be known."""
    has_deviation: ClassVar[bool] = False
    """Whether an adapted prediction comes with a standard deviation."""
    is_first_order: ClassVar[bool]
    """Whether the inner steps are forgotten once taken: memory is then flat in their number."""
    needs_steps: ClassVar[bool] = False
    """Whether the meta-gradient is zero without an inner step."""
    adapts: tuple[str, ...] = ()
    """Names of the layers or parameters that adapt, where only a part does and it is not the layer declared last."""

    def adapting(self, names: Sequence[str]) -> "Algorithm":
        """The same algorithm, with another part of the model as its head: the layers or parameters of these names."""
        if not names or not self.adapts_head:
            return self
        chosen = copy.copy(self)
        chosen.adapts = tuple(names)
        return chosen

    def head_of(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those parameters that adapt, where only a part does: of the layer declared last, or of what was chosen."""
        if self.adapts:
            return {name: value for name, value in parameters.items() if any(is_in(name, at) for at in self.adapts)}
        head = head_name(parameters)
        return {name: value for name, value in parameters.items() if name.rpartition(".")[0] == head}

    def head_layer(self, parameters: Iterable[str]) -> str:
        """The name of the one layer that adapts."""
        return self.adapts[0] if self.adapts else head_name(parameters)

    def extra_shapes(self, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
        """Shapes of what is learned beside parameters of these `shapes`, by the names that a file gives it."""
        return {}

    def beginning(self, shape: torch.Size, like: Tensor) -> Tensor:
        """What is learned beside the parameters, before training: in that shape, of `like`'s type and device."""
        return like.new_ones(shape)

    def extras(self, parameters: Parameters) -> Parameters:
        """What is learned beside the parameters, as it is before training."""
        like = next(iter(parameters.values()))
        shapes = self.extra_shapes({name: value.shape for name, value in parameters.items()})
        return {name: self.beginning(shape, like) for name, shape in shapes.items()}

    def check(self, model: nn.Module) -> None:  # noqa: B027
        """Find out from the model's structure whether it can be adapted so.

        Raises:
            EngineError: it cannot.
        """

    def deviation(self, loss: Loss, theta: Theta, task: TaskBatch) -> Tensor:
        """The standard deviation of what is predicted at the query inputs `[points]`; where it `has_deviation`."""
        raise NotImplementedError

    def rates(self, theta: Theta) -> Parameters:
        """The factors of inner_lr that are learned, by parameter; empty where none is."""
        return {}

    def transforms(self, shapes: Mapping[str, torch.Size]) -> int:
        """How many multiplications an inner step takes beside its gradient, for parameters of these shapes."""
        return 0

    def move(self, theta: Theta, gradient: Parameters, lr: float | Tensor) -> Parameters:
        """How far an inner step goes against the gradient of the support loss; linear in it."""
        return {name: lr * value for name, value in gradient.items()}

    @abstractmethod
    def begin(self, theta: Theta) -> Phi:
        """phi before the first inner step."""

    @abstractmethod
    def step(self, loss: Loss, theta: Theta, phi: Phi, x: Tensor, y: Tensor, lr: float | Tensor) -> Phi:
        """One step of adaptation on the support set `[points, features]`."""

    @abstractmethod
    def gradient(self, loss: Loss, theta: Theta, phi: Phi, task: TaskBatch, inner: InnerLoop) -> tuple[Theta, Tensor]:
        """One task's meta-gradient, in the shape of theta, and its query loss after adaptation.

        phi is adapted already if the algorithm is first-order, else it is what `begin` gave.
        """


def head_name(names: Iterable[str]) -> str:
    """The name of the last layer: the prefix of the last parameter's name."""
    return list(names)[-1].rpartition(".")[0]


def is_in(name: str, place: str) -> bool:
    """Whether a parameter is the one called `place`, or a part of the layer called so."""
    return name == place or name.startswith(f"{place}.")
