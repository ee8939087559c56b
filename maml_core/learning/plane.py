"""Families of few-shot classification in the plane: each task is a few points of every class, and asks for the rest.

The spirals are those of playground.tensorflow.org, turned at random; the circles follow PAC-BUS (arXiv:2102.03748),
with as many points of each class.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from maml_core.fields import Integer
from maml_core.learning.classes import ClassFamily
from maml_core.learning.generated import uniform
from maml_core.learning.tasks import Normal, TaskSet, Uniform

JUDGED = 50
"""Query points of each class that adaptation is measured by."""

MOST_CLASSES = 6
"""More can be told apart by neither the eye nor their colors."""


class PlaneFamily(ClassFamily):
    """A distribution over classifications of points in the plane. Subclasses add parameters and `place`."""

    lengths: ClassVar[tuple[str, ...]] = ("noise",)
    judged_by: ClassVar[str] = f"{JUDGED} further points of each class"
    judging_shots: ClassVar[int] = JUDGED
    reach: ClassVar[float]
    """Half the side of the square that pictures show."""

    classes: Integer = Field(2, ge=2, le=MOST_CLASSES, description="Classes in every task (N ways).")
    noise: Uniform = Field(
        Uniform(low=0.03, high=0.03), description="Standard deviation of a task's points around where they should be."
    )

    @property
    def input_size(self) -> int:
        """Two: the coordinates."""
        return 2

    @abstractmethod
    def place(self, along: Tensor, around: Tensor, label: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Where points belong: both coordinates, `[..., points]`.

        `along` and `around` `[..., points]` are uniform in [0, 1), `label` `[points]` the points' classes; parameters
        come as `[..., 1]`.
        """

    def inputs_of(
        self,
        number: Tensor,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alike: bool,
        task_set: TaskSet,
    ) -> Tensor:
        """Both coordinates of each point, float64."""
        shape = next(iter(parameters.values())).shape
        u = uniform(shape, (len(number), 4), generator, alike=alike)
        given = {name: value[..., None] for name, value in parameters.items()}
        x = torch.stack(self.place(u[..., 0], u[..., 1], (number % self.classes).double(), **given), dim=-1)
        return x + given["noise"][..., None] * Normal(mean=0.0, std=1.0).quantile(u[..., 2:])


class Spiral(PlaneFamily):
    """Interleaved spirals, an arm for each class, turned by a random phase."""

    title: ClassVar[str] = "Spirals (classes in the plane)"
    latex: ClassVar[str] = (
        r"\text{angle} = 2\pi\,\text{turns}\cdot\tfrac{r}{R} + \text{phase} + 2\pi\tfrac{\text{class}}{\text{classes}}"
    )
    order: ClassVar[int] = 1
    angles: ClassVar[tuple[str, ...]] = ("phase",)
    reach: ClassVar[float] = 1.8
    radius: ClassVar[float] = 5 / 3
    """R: a third of the playground's, so that inputs have unit scale."""

    family: Literal["spiral"] = "spiral"
    turns: Uniform = Field(Uniform(low=1.0, high=1.0), description="How often each task's arms wind around.")
    phase: Uniform = Field(Uniform(low=0.0, high=2 * math.pi), description="How far each task is turned, in radians.")

    def place(self, along: Tensor, around: Tensor, label: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        """On the arm of that class, evenly along the radius."""
        share = 0.1 + 0.9 * along
        angle = 2 * math.pi * (parameters["turns"] * share + label / self.classes) + parameters["phase"]
        return self.radius * share * angle.cos(), self.radius * share * angle.sin()


class Circles(PlaneFamily):
    """A circle in the unit disc, in rings where there are more than two classes; the last class is all around it."""

    title: ClassVar[str] = "Circles (classes in the plane)"
    latex: ClassVar[str] = (
        r"\lVert x - \text{distance}\,(\cos\text{direction}, \sin\text{direction})\rVert < \text{radius}"
    )
    order: ClassVar[int] = 1
    angles: ClassVar[tuple[str, ...]] = ("direction",)
    lengths: ClassVar[tuple[str, ...]] = ("noise", "radius", "distance")
    reach: ClassVar[float] = 1.15

    family: Literal["circles"] = "circles"
    radius: Uniform = Field(Uniform(low=0.2, high=0.6), description="Radius of each task's circle.")
    distance: Uniform = Field(Uniform(low=0.0, high=0.4), description="How far its center is from the middle.")
    direction: Uniform = Field(Uniform(low=0.0, high=2 * math.pi), description="Where its center lies, in radians.")

    def place(self, along: Tensor, around: Tensor, label: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Evenly over the ring of that class; the outermost reaches to the unit circle, or a quarter radius further."""
        radius, angle = parameters["radius"], 2 * math.pi * around
        direction, distance = parameters["direction"], parameters["distance"]
        center = distance * direction.cos(), distance * direction.sin()
        toward = center[0] * angle.cos() + center[1] * angle.sin()
        to_edge = (1 - distance**2 + toward**2).clamp(min=0).sqrt() - toward
        rings = self.classes - 1
        inner = radius * label / rings
        outer = torch.where(label == rings, torch.maximum(to_edge, 1.25 * radius), radius * (label + 1) / rings)
        far = (inner**2 + along * (outer**2 - inner**2)).sqrt()
        return center[0] + far * angle.cos(), center[1] + far * angle.sin()
