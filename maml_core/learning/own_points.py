"""A reader's own points: read from text and links, and made into a task that is known by them alone."""

from collections.abc import Sequence

import torch

from maml_core.errors import ConfigError
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.generated import GRID_POINTS, FunctionFamily, GeneratedFamily
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.point_text import read_numbers
from maml_core.learning.tasks import TaskBatch

MOST_POINTS = 100
POINT_LIMIT = 1e6
"""What a user's own points may be: no more of them in a picture, and none further from zero."""

Points = Sequence[Sequence[float]]
"""x and y of each; in the plane both are coordinates, and the number of its class, from 1 on, comes third."""


def classes_of(family: GeneratedFamily) -> int:
    """How many classes a point may be of; 0 for points of a curve, which have none."""
    return family.classes if isinstance(family, PlaneFamily) else 0


def can_place(family: GeneratedFamily) -> bool:
    """Whether a reader can make a task of points."""
    return isinstance(family, FunctionFamily | PlaneFamily)


def columns_of(classes: int) -> tuple[str, ...]:
    """What the numbers of a point are called."""
    return ("x", "y", "class") if classes else ("x", "y")


def read_points(text: str, classes: int = 0, most: int = MOST_POINTS) -> list[tuple[float, ...]]:
    """Points from text as people write it: one a line, with any separator and decimal mark (`read_numbers`).

    Raises:
        ConfigError: a sentence for the first thing wrong.
    """
    example = "0.5, -0.3, 1" if classes else "1.5, -0.3"
    try:
        points = read_numbers(text, columns_of(classes))
    except ValueError as error:
        numbers = "three" if classes else "two"
        raise ConfigError(f"points, {error}; write {numbers} numbers a line, such as {example}.") from None
    for number, point in enumerate(points, start=1):
        if not all(abs(value) <= POINT_LIMIT for value in point):
            whole = "all" if classes else "both"
            raise ConfigError(
                f"points, number {number} = {_shown(point)} is not allowed: {whole} numbers must be at most "
                f"{POINT_LIMIT:,.0f} in size; scale them down."
            )
        if classes and point[2] not in range(1, classes + 1):
            raise ConfigError(
                f"points, number {number} = {_shown(point)} is not allowed: its class must be a whole number from 1 to "
                f"{classes}."
            )
    if not 2 <= len(points) <= most:
        raise ConfigError(f"points = {len(points)} of them is not allowed: there must be from 2 to {most:,}.")
    if classes and len({point[2] for point in points}) == 1:
        raise ConfigError(f"points are all of class {points[0][2]:g}: give at least one of another class.")
    if not classes and len({point[0] for point in points}) == 1:
        raise ConfigError(f"points all have x = {points[0][0]:g}: at least two different x must be given.")
    return points


def points_in(text: str, classes: int = 0) -> list[tuple[float, ...]]:
    """The points in a text, which may be too few to adapt to; none where one of them cannot be used."""
    try:
        points = read_numbers(text, columns_of(classes))
    except ValueError:
        return []
    is_fit = all(abs(value) <= POINT_LIMIT for point in points for value in point)
    return points if is_fit and (not classes or all(point[2] in range(1, classes + 1) for point in points)) else []


def points_of_link(text: str) -> str:
    """The points in a link, `x,y;x,y`, as text that `read_points` takes in one way only: a point a line."""
    return text.replace(",", ", ").replace(";", "\n")


def link_of_points(points: Points) -> str:
    """The inverse of `points_of_link`."""
    return ";".join(",".join(f"{value:.12g}" for value in point) for point in points)


def points_task(family: GeneratedFamily, points: Points) -> Tasks:
    """A task that is known by its support points alone, read by `read_points`."""
    given = torch.tensor([list(point) for point in points], dtype=torch.float64)[None]
    label = f"{len(points)} points of your own"
    if isinstance(family, PlaneFamily):
        y = torch.nn.functional.one_hot(given[..., 2].long() - 1, family.classes).float()
        x = given[..., :2].float()
        return Tasks(family, TaskBatch(x, y, x[:, :0], y[:, :0]), [label], [None], is_known=False)
    assert isinstance(family, FunctionFamily)
    x, y = given[..., :1], given[..., 1:2]
    low, high = min(family.x.low, float(x.min())), max(family.x.high, float(x.max()))
    grid = torch.linspace(low, high, GRID_POINTS, dtype=torch.float64)[None, :, None]
    batch = TaskBatch(*(tensor.float() for tensor in (x, y, grid, torch.zeros_like(grid))))
    return Tasks(family, batch, [label], [None], is_known=False)


def _shown(point: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in point)


def with_classes(points: Sequence[Sequence[float]], known: Points, chosen: int) -> list[Sequence[float]]:
    """Points placed by hand: one without a class has that of the `known` point in its place, else the chosen one.

    Who clicks fast sends a point again before having been told its class.

    >>> with_classes([[0.9, -0.7], [0.1, 0.2], [0, 1, 2]], [(0.9, -0.7, 1)], 3)
    [[0.9, -0.7, 1], [0.1, 0.2, 3], [0, 1, 2]]
    """
    classes = {link_of_points([point[:2]]): point[2] for point in known}
    return [point if len(point) > 2 else [*point, classes.get(link_of_points([point]), chosen)] for point in points]
