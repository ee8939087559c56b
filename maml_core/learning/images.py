"""What families of images have in common: which classes a task asks about, and how each image is deformed."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from maml_core.fields import Integer
from maml_core.learning.classes import ClassFamily
from maml_core.learning.generated import uniform
from maml_core.learning.tasks import TaskBatch, TaskSet

JUDGED = 10
"""Query images of each class that adaptation is measured by."""

MOST_WAYS = 20

SMALLEST, LARGEST = 12, 32
"""Pixels on each side of an image."""

AT_ONCE = 2048
"""Images that are made at once, so that memory does not grow with the number of tasks."""

WAVE = 2.5
"""Of the lines that an image is bent along: radians per half of its width."""

MIRRORED = 4
"""Views of an image from this number on are mirrored; below, and again from there, they are turned by quarters."""

_NUMBERS = 10
"""Random numbers that an image takes."""


class ImageFamily(ClassFamily):
    """Small images of a few classes, each class seen only once or a few times: which is another image of?

    Subclasses say which images there are, and give their shades; they add the ranges `turn`, `stretch`, `shift` and
    `bend`, by how much each image is deformed, and `draw`, which tells the tasks apart.
    """

    order: ClassVar[int] = 1
    is_costly: ClassVar[bool] = True
    lengths: ClassVar[tuple[str, ...]] = ("turn", "stretch", "shift", "bend")
    judged_by: ClassVar[str] = f"{JUDGED} further images of each class"
    judging_shots: ClassVar[int] = JUDGED
    half: ClassVar[float] = 1.0
    """Half the side of the square that an image shows; lengths are told for what is 2 wide."""

    classes: Integer = Field(5, ge=2, le=MOST_WAYS, description="Classes in every task (N ways).")
    size: Integer = Field(20, ge=SMALLEST, le=LARGEST, description="Pixels on each side of an image.")

    @property
    def input_size(self) -> int:
        """The pixels, row by row from the top: 0 is paper, 1 is ink."""
        return self.size**2

    @property
    def numbers(self) -> int:
        """A pixel takes as much room."""
        return self.input_size

    def ends_somewhere(self, name: str) -> bool:
        """As `GeneratedFamily.ends_somewhere`; numbers beyond the range of `draw` draw as those within do."""
        return name != "draw" and super().ends_somewhere(name)

    @abstractmethod
    def chosen(self, draw: Tensor, number: Tensor, task_set: TaskSet) -> Tensor:
        """Which image each task takes as its point of that `number` `[points]`: `[..., points]`, for draw `[...]`.

        Of a set of n images, those from n on are further views of the same; see `MIRRORED`.
        """

    @abstractmethod
    def count(self, task_set: TaskSet) -> int:
        """How many images a set has, each in one view."""

    @abstractmethod
    def shades(self, image: Tensor, places: Tensor, pen: Tensor, task_set: TaskSet) -> Tensor:
        """Images `[images, pixels]`, float32, of those numbers `[images]` of a set, looked at in `places`.

        `places` `[images, pixels, 2]` are x and y, upward, from -1 to 1 over the image. `pen` `[images]` is uniform in
        [0, 1), for what else varies.
        """

    def more(self, task_set: TaskSet) -> float:
        """By how much more each image is deformed than its task says."""
        return 0.0

    def inputs_of(
        self,
        number: Tensor,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alike: bool,
        task_set: TaskSet,
    ) -> Tensor:
        """Images of the task's classes, float32."""
        shape, points = parameters["draw"].shape, len(number)
        chosen = self.chosen(parameters["draw"], number, task_set).flatten()
        u = uniform(shape, (points, _NUMBERS), generator, alike=alike).expand(*shape, points, _NUMBERS)
        u, more = u.reshape(-1, _NUMBERS), self.more(task_set)
        given = {name: parameters[name].float()[..., None].expand(*shape, points).flatten() for name in self.lengths}
        found = []
        for first in range(0, len(u), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            view, image = chosen[part] // self.count(task_set), chosen[part] % self.count(task_set)
            deformed = {name: each[part] + more for name, each in given.items()}
            places = self._places(2 * u[part, 1:].float() - 1, deformed, view)
            found.append(self.shades(image, places, u[part, 0], task_set))
        return torch.cat(found).reshape(*shape, points, self.input_size)

    def _places(self, u: Tensor, given: Mapping[str, Tensor], view: Tensor) -> Tensor:
        """Where each pixel looks in its image: `[images, pixels, 2]`, for u `[images, 9]` in [-1, 1)."""
        x, y = self.pixels()
        angle = given["turn"] * u[..., 0] + math.pi / 2 * view
        cos, sin = angle.cos()[..., None], angle.sin()[..., None]
        wide, high, slant = ((given["stretch"] * u[..., i])[..., None] for i in (1, 2, 3))
        right, up = ((given["shift"] * u[..., i])[..., None] for i in (4, 5))
        bend, phase = (given["bend"] * u[..., 6])[..., None], math.pi * u[..., 7:]
        x, y = x - right, y - up
        x, y = cos * x + sin * y, cos * y - sin * x
        x, y = (x - slant * y) * torch.exp(-wide), y * torch.exp(-high)
        bent = x + bend * torch.sin(WAVE * y + phase[..., :1]), y + bend * torch.sin(WAVE * x + phase[..., 1:])
        return torch.stack([torch.where(view >= MIRRORED, -1, 1)[..., None] * bent[0], bent[1]], dim=-1)

    def pixels(self) -> tuple[Tensor, Tensor]:
        """The middles of an image's pixels, row by row from the top: x and y `[size * size]`, y upward."""
        middle = self.half * (1 - 1 / self.size)
        axis = torch.linspace(-middle, middle, self.size)
        x, y = torch.meshgrid(axis, -axis, indexing="xy")
        return x.flatten(), y.flatten()

    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Tasks of classes that no run has seen."""
        return self._tasks_of(TaskSet.HELD_OUT, tasks, shots, query_shots, seed)

    def validation(self, *, tasks: int, shots: int, query_shots: int) -> TaskBatch:
        """As `TaskFamily.validation`: of classes of their own, by at least as many query images as judge."""
        return self._tasks_of(TaskSet.VALIDATION, tasks, shots, max(query_shots, self.judging(shots)), 0)


def resized(pixels: Tensor, size: int) -> Tensor:
    """Images `[n, side, side]`, uint8, with so many pixels on each side."""
    if size == pixels.shape[-1]:
        return pixels
    parts = [
        interpolate(part[:, None].float(), size=(size, size), mode="bilinear", antialias=True)[:, 0].round().byte()
        for part in pixels.split(1024)
    ]
    return torch.cat(parts)
