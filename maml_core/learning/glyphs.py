"""Few-shot classification of written characters: an Omniglot (Lake, Salakhutdinov and Tenenbaum, 2015) drawn anew.

Every image draws its character with another pen, turned, stretched, moved and bent. A run learns from the Latin, Greek
and Cyrillic alphabets in many styles and from mathematical signs, its checkpoints are judged by other symbols, and what
is shown and reported is Japanese writing: no character stands in two of these sets, nor one that looks like it
(`hershey`).
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from maml_core.fields import Integer, explained
from maml_core.learning.classes import ClassFamily
from maml_core.learning.generated import uniform
from maml_core.learning.hershey import drawings
from maml_core.learning.strokes import images_of
from maml_core.learning.tasks import TaskBatch, TaskSet, Uniform

JUDGED = 10
"""Query images of each class that adaptation is measured by."""

MOST_CLASSES = 20

HALF = 1.25
"""Half the side of the square that an image shows; a character, as it was designed, reaches from -1 to 1."""

VIEWS = 8
"""Turned by quarters, and mirrored, a character is another one, in training: of few characters these are many."""

AT_ONCE = 2048
"""Images that are drawn at once, so that memory does not grow with the number of tasks."""

WAVE = 2.5
"""Of the lines that a drawing is bent along: radians per half of a character's size."""

_NUMBERS = 10
"""Random numbers that an image takes."""


class Glyphs(ClassFamily):
    """Written characters as small images: which of a few, each seen only once or a few times, is it?"""

    title: ClassVar[str] = "Written characters (few-shot images)"
    latex: ClassVar[str] = (
        r"\text{image}(p) = \text{pen}\left(A\,p + \text{bend}\,\sin(2.5\,p + \varphi)\right),\quad "
        r"A:\ \text{turn},\ \text{stretch},\ \text{shift}"
    )
    order: ClassVar[int] = 1
    is_costly: ClassVar[bool] = True
    lengths: ClassVar[tuple[str, ...]] = ("turn", "stretch", "shift", "bend")
    of_points: ClassVar[tuple[str, ...]] = ("width",)
    judged_by: ClassVar[str] = f"{JUDGED} further images of each class"
    judging_shots: ClassVar[int] = JUDGED

    family: Literal["glyphs"] = "glyphs"
    classes: Integer = Field(5, ge=2, le=MOST_CLASSES, description="Classes in every task (N ways).")
    size: Integer = Field(20, ge=12, le=32, description="Pixels on each side of an image.")
    width: Uniform = Field(
        Uniform(low=0.15, high=0.3), description="Width of the pen, drawn anew for each image; a character is 2 wide."
    )
    turn: Uniform = Field(
        Uniform(low=0.2, high=0.2), description="Each image is turned by up to this, either way, in radians."
    )
    stretch: Uniform = Field(
        Uniform(low=0.2, high=0.2), description="Each is stretched and slanted by up to this share of its size."
    )
    shift: Uniform = Field(
        Uniform(low=0.15, high=0.15), description="Each is moved by up to this, both ways; a character is 2 wide."
    )
    bend: Uniform = Field(
        Uniform(low=0.1, high=0.1), description="Each is bent by up to this, along a wave; a character is 2 wide."
    )
    draw: Uniform = Field(Uniform(low=0.0, high=1.0), description="Which characters a task asks about.")

    @model_validator(mode="after")
    def _has_ink(self) -> Self:
        if self.width.low <= 0:
            raise explained(
                f"tasks.width = [{self.width.low:g}, {self.width.high:g}] is not allowed: a pen that draws has a "
                "width; both must be above 0."
            )
        return self

    @property
    def input_size(self) -> int:
        """The pixels, row by row from the top: 0 is paper, 1 is ink."""
        return self.size**2

    @property
    def pixel(self) -> float:
        """The side of a pixel; a character is 2 wide."""
        return 2 * HALF / self.size

    @property
    def numbers(self) -> int:
        """A pixel takes as much room."""
        return self.input_size

    def ends_somewhere(self, name: str) -> bool:
        """As `GeneratedFamily.ends_somewhere`; numbers beyond the range of `draw` draw as those within do."""
        return name != "draw" and super().ends_somewhere(name)

    def inputs_of(
        self,
        label: Tensor,
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alike: bool,
        task_set: TaskSet,
    ) -> Tensor:
        """Images of the task's characters, float32."""
        shape, points = parameters["draw"].shape, len(label)
        known = drawings(task_set)
        views = VIEWS if task_set is TaskSet.TRAINING else 1
        chosen = self._chosen(parameters["draw"], views * len(known)).gather(-1, label.expand(*shape, points))
        numbers = uniform(shape, (points, _NUMBERS), generator, alike=alike).expand(*shape, points, _NUMBERS)
        u, chosen = numbers.reshape(-1, _NUMBERS), chosen.flatten()
        given = {name: parameters[name].float()[..., None].expand(*shape, points).flatten() for name in self.lengths}
        found = []
        for first in range(0, len(u), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            view, character = chosen[part] // len(known), chosen[part] % len(known)
            places = self._places(2 * u[part, 1:].float() - 1, {name: each[part] for name, each in given.items()}, view)
            pen = self.width.quantile(u[part, 0]).float()
            found.append(images_of(known[character], places, pen, self.pixel))
        return torch.cat(found).reshape(*shape, points, self.input_size)

    def _chosen(self, draw: Tensor, among: int) -> Tensor:
        """Which of so many characters the tasks `[...]` ask about, `[..., classes]`.

        The fractional parts of large multiples of `draw` serve as random numbers, one for each; the largest are taken.
        """
        k = torch.arange(among, dtype=torch.float64)
        return (draw[..., None] * (1e5 * torch.sqrt(k + 0.5) + 7919 * k)).remainder(1.0).topk(self.classes).indices

    def _places(self, u: Tensor, given: Mapping[str, Tensor], view: Tensor) -> Tensor:
        """Where in its drawing each pixel looks: `[images, pixels, 2]`, for u `[images, 9]` in [-1, 1)."""
        x, y = pixels(self.size)
        angle = given["turn"] * u[..., 0] + math.pi / 2 * view
        cos, sin = angle.cos()[..., None], angle.sin()[..., None]
        wide, high, slant = ((given["stretch"] * u[..., i])[..., None] for i in (1, 2, 3))
        right, up = ((given["shift"] * u[..., i])[..., None] for i in (4, 5))
        bend, phase = (given["bend"] * u[..., 6])[..., None], math.pi * u[..., 7:]
        x, y = x - right, y - up
        x, y = cos * x + sin * y, cos * y - sin * x
        x, y = (x - slant * y) * torch.exp(-wide), y * torch.exp(-high)
        bent = x + bend * torch.sin(WAVE * y + phase[..., :1]), y + bend * torch.sin(WAVE * x + phase[..., 1:])
        return torch.stack([torch.where(view >= VIEWS / 2, -1, 1)[..., None] * bent[0], bent[1]], dim=-1)

    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Tasks of characters that no run has seen."""
        return self._tasks_of(TaskSet.HELD_OUT, tasks, shots, query_shots, seed)

    def validation(self, *, tasks: int, shots: int, query_shots: int) -> TaskBatch:
        """As `TaskFamily.validation`: of symbols, by at least `JUDGED` query images of each."""
        return self._tasks_of(TaskSet.VALIDATION, tasks, shots, max(query_shots, JUDGED), 0)


def pixels(size: int) -> tuple[Tensor, Tensor]:
    """The middles of an image's pixels, row by row from the top: x and y `[size * size]`, y upward."""
    middle = HALF * (1 - 1 / size)
    axis = torch.linspace(-middle, middle, size)
    x, y = torch.meshgrid(axis, -axis, indexing="xy")
    return x.flatten(), y.flatten()
