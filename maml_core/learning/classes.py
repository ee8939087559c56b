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
from maml_core.learning.tasks import TaskSet


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
        label: Tensor,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alike: bool,
        task_set: TaskSet,
    ) -> Tensor:
        """Draw points of the classes `label` `[points]` for each task: x `[..., points, inputs]`.

        Parameters come as `[...]`; for the rest see `sample_points`.
        """

    def sample_points(
        self,
        parameters: Mapping[str, Tensor],
        points: int,
        generator: torch.Generator,
        *,
        alike: bool = False,
        task_set: TaskSet = TaskSet.HELD_OUT,
    ) -> tuple[Tensor, Tensor]:
        """Draw labeled points of each task, the classes in turn: x `[..., points, inputs]`, y `[..., points, C]`."""
        label = torch.arange(points) % self.classes
        x = self.inputs_of(label, parameters, generator, alike=alike, task_set=task_set)
        y = torch.nn.functional.one_hot(label, self.classes).to(x.dtype)
        return x, y.expand(*x.shape[:-1], self.classes)
