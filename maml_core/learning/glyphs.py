"""Few-shot classification of written characters: an Omniglot (Lake, Salakhutdinov and Tenenbaum, 2015) drawn anew.

Every image draws its character with another pen, turned, stretched, moved and bent. A run learns from the Latin, Greek
and Cyrillic alphabets in many styles and from mathematical signs, its checkpoints are judged by other symbols, and what
is shown and reported is Japanese writing: no character stands in two of these sets, nor one that looks like it
(`hershey`).
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from maml_core.fields import explained
from maml_core.learning.hershey import drawings
from maml_core.learning.images import MIRRORED, ImageFamily
from maml_core.learning.strokes import images_of
from maml_core.learning.tasks import TaskSet, Uniform

VIEWS = 2 * MIRRORED
"""Turned by quarters, and mirrored, a character is another one, in training: of few characters these are many."""


class Glyphs(ImageFamily):
    """Written characters as small images: which of a few, each seen only once or a few times, is it?"""

    title: ClassVar[str] = "Written characters (few-shot images)"
    latex: ClassVar[str] = (
        r"\text{image}(p) = \text{pen}\left(A\,p + \text{bend}\,\sin(2.5\,p + \varphi)\right),\quad "
        r"A:\ \text{turn},\ \text{stretch},\ \text{shift}"
    )
    of_points: ClassVar[tuple[str, ...]] = ("width",)
    half: ClassVar[float] = 1.25
    """A character, as it was designed, reaches from -1 to 1."""

    family: Literal["glyphs"] = "glyphs"
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
    def pixel(self) -> float:
        """The side of a pixel; a character is 2 wide."""
        return 2 * self.half / self.size

    def count(self, task_set: TaskSet) -> int:
        """The characters."""
        return len(drawings(task_set))

    def chosen(self, draw: Tensor, number: Tensor, task_set: TaskSet) -> Tensor:
        """As `ImageFamily.chosen`: all images of a class draw one character."""
        views = VIEWS if task_set is TaskSet.TRAINING else 1
        k = torch.arange(views * self.count(task_set), dtype=torch.float64)
        keys = (draw[..., None] * (1e5 * torch.sqrt(k + 0.5) + 7919 * k)).remainder(1.0)  # of multiples: as random
        classes = keys.topk(self.classes).indices
        return classes.gather(-1, (number % self.classes).expand(*draw.shape, len(number)))

    def shades(self, image: Tensor, places: Tensor, pen: Tensor, task_set: TaskSet) -> Tensor:
        """As `ImageFamily.shades`: drawn with pens of any width."""
        return images_of(drawings(task_set)[image], places, self.width.quantile(pen).float(), self.pixel)
