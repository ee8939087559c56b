"""What families of few-shot classification have in common: shots are counted per class (K shots, N ways).

A point's y has a 1 at its class and 0 elsewhere; the classes come in turn.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from maml_core.fields import Integer
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.problems import Classification, Problem
from maml_core.learning.tasks import TaskBatch, TaskSet


class ClassFamily(GeneratedFamily):
    """A distribution over classifications. Subclasses add parameters, the field `classes`, and `inputs_of`."""

    problem: ClassVar[Problem] = Classification()

    classes: Integer

    @property
    def output_size(self) -> int:
        """A score for each class."""
        return self.classes

    def points_of(self, shots: int) -> int:
        """So many of each class."""
        return shots * self.classes

    @abstractmethod
    def inputs_of(
        self,
        number: Tensor,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alike: bool,
        task_set: TaskSet,
    ) -> Tensor:
        """Draw the points of that `number` `[points]` of each task: x `[..., points, inputs]`.

        A point's number modulo `classes` is its class. Parameters come as `[...]`; for the rest see `sample_points`.
        """

    def sample_points(
        self,
        parameters: Mapping[str, Tensor],
        points: int,
        generator: torch.Generator,
        *,
        alike: bool = False,
        task_set: TaskSet = TaskSet.HELD_OUT,
        first: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Draw labeled points of each task, the classes in turn: x `[..., points, inputs]`, y `[..., points, C]`.

        Where a class has so many points and no more, those of other numbers, from `first` on, are other points.
        """
        number = first + torch.arange(points)
        x = self.inputs_of(number, parameters, generator, alike=alike, task_set=task_set)
        y = torch.nn.functional.one_hot(number % self.classes, self.classes).to(x.dtype)
        return x, y.expand(*x.shape[:-1], self.classes)

    def judging(self, shots: int) -> int:
        """How many further points of each class judge what is learned from so many."""
        return self.judging_shots

    def judged(
        self,
        parameters: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        generator: torch.Generator,
        *,
        alike: bool = False,
    ) -> TaskBatch:
        """As `GeneratedFamily.judged`, by points that are none of the support's."""
        shots = -(-x.shape[-2] // self.classes)
        points, first = self.points_of(self.judging(shots)), self.points_of(shots)
        query = self.sample_points(parameters, points, generator, alike=alike, first=first)
        return TaskBatch(*(tensor.float() for tensor in (x, y, *query)))
