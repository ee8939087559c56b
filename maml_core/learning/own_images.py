"""Few-shot classification of a user's own images: a table of them, its classes split once for all into three sets.

No class of one set stands in another, nor does any of its images: `image_files` leaves out what stands in two classes,
and a table that has such an image is refused.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import grid_sample

from maml_core.errors import ConfigError
from maml_core.fields import Integer, Real
from maml_core.learning.image_tables import CLASS, IMAGE, check_images, signs
from maml_core.learning.images import JUDGED, ImageFamily, resized
from maml_core.learning.shuffles import shuffled
from maml_core.learning.table import INVERTED, find
from maml_core.learning.table_tasks import TableId, split
from maml_core.learning.tasks import TaskBatch, TaskSet, Uniform
from maml_core.words import span

HELD_OUT_CLASSES, VALIDATION_CLASSES = 0.2, 0.2
"""How much of the classes is set apart to measure a run, and to choose its best checkpoint: each is to have N ways."""

QUARTERS = 4
"""Ways to turn an image by quarters."""

_RANKS = 1_000_000
"""Where the random numbers begin that say which images of a class are taken: beyond those that choose classes."""

_GOLDEN, _ODD, _MIX = -0x61C8864680B583EB, 0x2545F4914F6CDD1D, (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Odd numbers of 64 bits, with their signs: SplitMix64's own, and one more to spread neighboring draws."""

_NOTHING = Uniform(low=0.0, high=0.0)


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The images of a table, class by class, and which classes are in each set."""

    names: list[str]
    pixels: Tensor  # [images, size, size] uint8
    first: Tensor  # [classes]: each class's first image
    counts: Tensor  # [classes]
    sets: dict[TaskSet, Tensor]  # which classes, of those with enough images


@dataclass(frozen=True)
class ImageSummary:
    """How many classes there are to train on, and how many are left out because they have too few images."""

    training: int
    validation: int
    held_out: int
    small: int
    counts: list[int]  # each class's images

    @property
    def sizes(self) -> str:
        """How many images a class has: 20, or 2 to 12."""
        return span(self.counts)


@dataclass(frozen=True, eq=False)
class ClassSample:
    """Some images of a class, to look at."""

    name: str
    pixels: np.ndarray  # [images, size, size]: 0 is paper, 1 is ink


class OwnImages(ImageFamily):
    """Images of classes of a user's own: which of a few is it, learned from one or a few images of each?"""

    title: ClassVar[str] = "Images of your own"
    latex: ClassVar[str] = (
        r"\text{image}(p) = \text{yours}\left(A\,p + \text{bend}\,\sin(2.5\,p + \varphi)\right),\quad "
        r"A:\ \text{turn},\ \text{stretch},\ \text{shift}"
    )
    order: ClassVar[int] = 2
    judged_by: ClassVar[str] = f"up to {JUDGED} further images of each class"

    family: Literal["images"] = "images"
    table: TableId = Field(default_factory=lambda: signs().id)
    images_per_class: Integer = Field(
        20,
        ge=2,
        le=1000,
        description="Images that a class must have to take part; a task has at most so many of it, support and query "
        "together.",
    )
    augment: Real = Field(
        0.1,
        ge=0,
        le=1,
        description="In training alone, each image is also turned (radians), stretched, moved and bent by up to this.",
    )
    quarters: bool = Field(
        False,
        description="In training, a class turned by quarters is another class: suits signs, not photographs of things "
        "that have a top.",
    )
    turn: Uniform = Field(_NOTHING, description="Each image is turned by up to this, either way, in radians.")
    stretch: Uniform = Field(_NOTHING, description="Each is stretched and slanted by up to this share of its size.")
    shift: Uniform = Field(_NOTHING, description="Each is moved by up to this, both ways; an image is 2 wide.")
    bend: Uniform = Field(_NOTHING, description="Each is bent by up to this, along a wave; an image is 2 wide.")
    draw: Uniform = Field(
        Uniform(low=0.0, high=1.0), description="Which classes a task asks about, and which images of each."
    )
    split_seed: Integer = Field(
        0, ge=0, le=2**32 - 1, description="Which classes are held out; the same for every run to be compared."
    )

    @property
    def table_id(self) -> str:
        """As `TaskFamily.table_id`."""
        return self.table

    @property
    def most_points(self) -> int:
        """Of each class."""
        return self.images_per_class

    @property
    def images(self) -> ClassImages:
        """The table's images.

        Raises:
            ConfigError: the table is not at hand, or not one of images.
        """
        return _images(self.table, self.size, self.split_seed, self.images_per_class)

    @property
    def inverts(self) -> bool:
        """Whether the table keeps the negatives of the images that it was made of.

        Raises:
            ConfigError: the table is not at hand.
        """
        return find(self.table).column(IMAGE).written == INVERTED

    def check(self, points: int) -> None:
        """Find out whether tasks of so many images of each class can be drawn.

        Raises:
            ConfigError: the table is not at hand, or has too few classes of so many images.
        """
        sets = self.images.sets
        if points > self.images_per_class:
            raise ConfigError(
                f"shots + query_shots = {points} is not allowed with tasks.images_per_class = {self.images_per_class}: "
                "images of a class are not asked about twice; lower shots or query_shots, or raise that."
            )
        if min(map(len, sets.values())) < self.classes:
            training, validation, held_out = map(len, (sets[each] for each in TaskSet))
            raise ConfigError(
                f"tasks.table: of {find(self.table).name}, {training} classes to train on, {validation} to "
                f"choose the checkpoint and {held_out} held out have {self.images_per_class} images "
                f"(tasks.images_per_class), and tasks.classes = {self.classes} needs so many of each: lower one of the "
                "two, or add classes."
            )

    def ways(self, images: int) -> int:
        """The most classes that a task could have if so many images of each take part.

        Raises:
            ConfigError: the table is not at hand, or not one of images.
        """
        found = self.images
        return min(int((found.counts[members] >= images).sum()) for members in found.sets.values())

    def summary(self) -> ImageSummary:
        """What there is to train on.

        Raises:
            ConfigError: the table is not at hand, or not one of images.
        """
        found = self.images
        usable = {task_set: len(members) for task_set, members in found.sets.items()}
        return ImageSummary(
            usable[TaskSet.TRAINING],
            usable[TaskSet.VALIDATION],
            usable[TaskSet.HELD_OUT],
            small=len(found.names) - sum(usable.values()),
            counts=found.counts.tolist(),
        )

    def label(self, parameters: Mapping[str, float], named: Sequence[str]) -> str:
        """As `GeneratedFamily.label`: the names of a held-out task's classes, in turn."""
        chosen = self._classes(torch.tensor(parameters["draw"], dtype=torch.float64), TaskSet.HELD_OUT)
        names = ", ".join(self.images.names[number] for number in chosen.tolist())
        others = super().label(parameters, [name for name in named if name != "draw"])
        return f"{names}; {others}" if others else names

    def count(self, task_set: TaskSet) -> int:
        """All images of the table."""
        return len(self.images.pixels)

    def more(self, task_set: TaskSet) -> float:
        """In training alone."""
        return self.augment if task_set is TaskSet.TRAINING else 0.0

    def chosen(self, draw: Tensor, number: Tensor, task_set: TaskSet) -> Tensor:
        """As `ImageFamily.chosen`: of each class other images, in an order that `draw` has them shuffled.

        Raises:
            ConfigError: there are not so many images or classes.
        """
        found, ranks = self.images, int(number.max()) // self.classes + 1
        self.check(ranks)
        classes = self._classes(draw, task_set)
        view, classes = classes // len(found.names), classes % len(found.names)
        u = hashed(draw, ranks * self.classes, start=_RANKS).reshape(*draw.shape, ranks, self.classes)
        u = u.movedim(-2, 0).flatten(1)
        places = shuffled(found.counts[classes].flatten(), u).reshape(ranks, *draw.shape, self.classes)
        image = (view * len(found.pixels) + found.first[classes] + places).movedim(0, -2).flatten(-2)
        return image[..., number]

    def _classes(self, draw: Tensor, task_set: TaskSet) -> Tensor:
        """The classes of each task, `[..., classes]`; those turned by quarters are counted on after all."""
        found = self.images
        members, views = found.sets[task_set], QUARTERS if self.quarters and task_set is TaskSet.TRAINING else 1
        among = torch.cat([members + view * len(found.names) for view in range(views)])
        return among[hashed(draw, len(among)).topk(self.classes).indices]

    def shades(self, image: Tensor, places: Tensor, pen: Tensor, task_set: TaskSet) -> Tensor:
        """As `ImageFamily.shades`: between pixels in proportion, and beyond an edge as at the edge."""
        pixels = self.images.pixels[image, None].float() / 255
        grid = (places * torch.tensor([1.0, -1.0])).reshape(len(image), self.size, self.size, 2)
        found = grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return found.reshape(len(image), -1)

    def judging(self, shots: int) -> int:
        """As many as there are, up to `JUDGED`."""
        return max(1, min(JUDGED, self.images_per_class - shots))

    def held_out(self, *, tasks: int, shots: int, query_shots: int = 20, seed: int = 0) -> TaskBatch:
        """Tasks of classes that no run has seen, with at most as many query images as there are."""
        query_shots = max(1, min(query_shots, self.images_per_class - shots))
        return super().held_out(tasks=tasks, shots=shots, query_shots=query_shots, seed=seed)


def hashed(draw: Tensor, count: int, *, start: int = 0) -> Tensor:
    """For tasks told apart by the numbers `draw` `[...]`, `count` random ones from `start` on: `[..., count]`.

    In [0, 1), by SplitMix64 (Steele, Lea and Flood, 2014) of the bits of `draw` and each number's place: unlike the
    multiples that choose characters, numbers of neighboring places have nothing to do with each other.
    """
    places = torch.arange(start + 1, start + count + 1)
    mixed = (draw.double() + 0.0).contiguous().view(torch.int64)[..., None] * _ODD + places * _GOLDEN
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        mixed = (mixed ^ _shifted(mixed, shift)) * factor  # of 64 bits, whatever carries beyond is lost
    return _shifted(mixed ^ _shifted(mixed, 31), 11).double() * 2.0**-53


def _shifted(bits: Tensor, by: int) -> Tensor:
    """64 bits moved to the right, with zeros after them."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def training_samples(family: OwnImages, classes: int, images: int) -> list[ClassSample]:
    """The first images of the first classes that are trained on.

    Raises:
        ConfigError: the table is not at hand, or not one of images.
    """
    found = family.images
    samples = []
    for number in found.sets[TaskSet.TRAINING][:classes].tolist():
        first, count = int(found.first[number]), int(found.counts[number])
        samples.append(ClassSample(found.names[number], found.pixels[first : first + min(images, count)].numpy() / 255))
    return samples


@functools.lru_cache(maxsize=4)
def _images(table_id: str, size: int, split_seed: int, least: int) -> ClassImages:
    """The images of a table, known by its content."""
    table = find(table_id)
    check_images(table)
    found, codes = np.unique(table.labels(CLASS).astype(str), return_inverse=True)  # in an order of their own
    names, owner = found.tolist(), torch.from_numpy(codes)
    order, counts = owner.argsort(stable=True), torch.bincount(owner)
    several = torch.nonzero(counts > 1).flatten()  # one image alone is never asked about
    parts = split(
        [names[number] for number in several.tolist()],
        split_seed,
        held_out=HELD_OUT_CLASSES,
        validation=VALIDATION_CLASSES,
        least=2,
    )
    members = {name: several[torch.tensor(part, dtype=torch.int64)] for name, part in parts.items()}
    return ClassImages(
        names,
        resized(torch.from_numpy(table.images(IMAGE))[order], size),
        counts.cumsum(0) - counts,
        counts,
        {name: part[counts[part] >= least] for name, part in members.items()},
    )
