"""How one initialization learns the way in tasks of control, as plain arrays for pictures of its paths."""

from dataclasses import dataclass

import numpy as np
import torch

from maml_core.learning.control import HORIZON, ControlFamily, distances
from maml_core.learning.fits import SquareFit
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.initialization import Initialization

SHOWN = 10
"""Query rollouts whose paths are kept."""

ROOM = 1.6
"""Times the distance of the furthest goal in training that pictures reach; a goal further out has a larger square."""


@dataclass(frozen=True, kw_only=True)
class PathFit(SquareFit):
    """One task of control, and the paths that a policy takes as it adapts to it."""

    paths: np.ndarray  # [steps + 1, rollouts, HORIZON + 1, 2]: a path rests where it has reached the goal
    goal: np.ndarray  # [2]

    def mean_error(self) -> float:
        """The error of standing still."""
        return HORIZON * float(np.hypot(*self.goal))


def fit_paths(start: Initialization, tasks: Tasks, steps: int) -> list[PathFit]:
    """Adapt to every task, and follow the paths of its query rollouts."""
    assert isinstance(tasks.family, ControlFamily)
    found = start.adapt(tasks.batch, steps)
    trained, outside = tasks.family.furthest
    made = []
    for i, (label, seed) in enumerate(zip(tasks.labels, tasks.seeds, strict=True)):
        last = found.last_finite_step(i)
        y = tasks.batch.query_y[i, :SHOWN]
        is_near = float(y[0, :2].abs().max()) <= ROOM * trained
        paths = found.predictions[: last + 1, i, :SHOWN].unflatten(-1, (HORIZON + 1, 2))
        made.append(
            PathFit(
                label=label,
                seed=seed,
                support_loss=found.support_loss[: last + 1, i].numpy(),
                query_loss=found.query_loss[: last + 1, i].numpy(),
                blew_up_at=last + 1 if last < steps else None,
                problem=start.problem,
                paths=torch.stack([rested(path, y) for path in paths]).numpy(),
                goal=y[0, :2].numpy(),
                half=ROOM * trained if is_near else max(outside, ROOM * trained),
            )
        )
    return made


def rested(places: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Places `[rollouts, HORIZON + 1, 2]`, the same from where the goal was reached."""
    _, is_going = distances(places, y)
    last = is_going.sum(1).long()  # the step that reached it, or the last
    steps = torch.arange(HORIZON + 1).expand(len(places), -1).minimum(last[:, None])
    return places.gather(1, steps[..., None].expand(-1, -1, 2))
