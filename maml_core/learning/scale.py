"""Whether numbers are of a size that networks learn at, and of the size that a run was trained on."""

import functools
from collections.abc import Sequence

from maml_core.errors import ConfigError
from maml_core.learning.control import ControlFamily
from maml_core.learning.generated import FunctionFamily, GeneratedFamily
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.tasks import TaskFamily

LARGE, SMALL = 30.0, 0.02
"""Sizes of inputs and outputs outside of which a network with the usual initialization learns badly, if at all."""

_TASKS = 64
_ALLOWED = 2.0
"""How much further than in training a point may lie before it is said."""


def far_from_unit(family: TaskFamily) -> str | None:
    """What should be said of a family before training on it, if its numbers are far from unit scale.

    Tables are standardized as they are read, so that there is nothing to say of them.
    """
    if isinstance(family, ControlFamily):
        return family.too_far()
    return _far_from_unit(type(family), family.model_dump_json()) if isinstance(family, GeneratedFamily) else None


@functools.lru_cache(maxsize=64)  # a form asks at every redraw, and 64 tasks take longer than all the rest of it
def _far_from_unit(kind: type[GeneratedFamily], settings: str) -> str | None:
    family = kind.model_validate_json(settings)
    try:
        tasks = family.validation(tasks=_TASKS, shots=10, query_shots=1)
    except ConfigError:  # which is said where the tasks are drawn
        return None
    found = []
    for name, values in (("Inputs", tasks.support_x), ("Outputs", tasks.support_y)):
        largest = float(values.abs().max())
        if largest > LARGE or 0 < largest < SMALL:
            found.append(f"{name} reach {largest:,.3g} in size")
    if not found:
        return None
    return (
        f"{'; '.join(found)}. Networks learn badly far from unit scale: choose ranges of about 1 to 10, and scale your "
        "own numbers by the same factors, or bring them as a table, which is standardized."
    )


def beyond_training(family: TaskFamily, points: Sequence[Sequence[float]]) -> str | None:
    """What should be said of points (x, y) that lie far outside of what a run was trained on."""
    if isinstance(family, PlaneFamily) and points:
        furthest = max(abs(value) for point in points for value in point[:2])
        if furthest <= _ALLOWED * family.reach:
            return None
        return (
            f"The points reach {furthest:,.3g} from the middle, and those of this run's tasks {family.reach:g}: scale "
            "them to that."
        )
    if not isinstance(family, FunctionFamily) or not points:
        return None
    low, high = family.x.low, family.x.high
    room = (_ALLOWED - 1) * (high - low) / 2
    first, last = min(point[0] for point in points), max(point[0] for point in points)
    if first < low - room or last > high + room:
        return (
            f"The points have x from {first:g} to {last:g}, and this run was trained on x from {low:g} to {high:g}: "
            "what it predicts there is extrapolation. Scale x to that range, or train on tasks with this one."
        )
    largest = max(abs(point[1]) for point in points)
    tasks = family.validation(tasks=_TASKS, shots=10, query_shots=1)
    trained = float(tasks.support_y.abs().max())
    if largest > _ALLOWED * trained:
        return (
            f"The points have y up to {largest:,.4g} in size, and the tasks of this run up to {trained:,.3g}: scale y "
            "to that size, or train on tasks of this one."
        )
    return None
