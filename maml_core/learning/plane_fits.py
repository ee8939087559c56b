"""How one initialization adapts to classes in the plane, as plain arrays for pictures of its decision field."""

from dataclasses import dataclass

import numpy as np
import torch

from maml_core.learning.fits import SquareFit
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.initialization import Initialization
from maml_core.learning.plane import PlaneFamily
from maml_core.learning.tasks import TaskBatch

CELLS = 40
"""On each side of the square in which the decision field is found."""

CLOSE = 1.1
"""Times the reach of a square that points may have before it grows; what noise moves out by a little stays unseen."""

WIDEST = 10.0
"""Times a family's own square, to which it grows for a reader's points: those further out are said to be far."""


@dataclass(frozen=True, kw_only=True)
class PlaneFit(SquareFit):
    """One task of classes in the plane, and the decision field of an initialization as it adapts to it."""

    axis: np.ndarray  # [cells]: the coordinates of the field, the same across and up
    fields: np.ndarray  # [steps + 1, cells, cells, classes]: probabilities, a row for each height
    support_x: np.ndarray  # [points, 2]
    support_class: np.ndarray  # [points]
    query_x: np.ndarray  # [points, 2], none where only the support is known
    query_class: np.ndarray  # [points]

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.fields.shape[-1])

    def mean_error(self) -> float:
        """The error of naming the class that the support has most of."""
        judged = self.query_class if len(self.query_class) else self.support_class
        commonest = np.bincount(self.support_class, minlength=self.classes).argmax()
        return float((judged != commonest).mean())


def fit_plane(start: Initialization, family: PlaneFamily, tasks: Tasks, steps: int) -> list[PlaneFit]:
    """Adapt to every task, and follow its decision field."""
    batch = tasks.batch
    axis = plane_axis(family, torch.cat([batch.support_x, batch.query_x], dim=1))
    count, judged = batch.query_x.shape[:2]
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).reshape(1, -1, 2).expand(count, -1, -1)
    unknown = torch.zeros(count, grid.shape[1], family.classes)
    asked = torch.cat([batch.query_x, grid], dim=1), torch.cat([batch.query_y, unknown], dim=1)
    found = start.adapt(TaskBatch(batch.support_x, batch.support_y, *asked), steps)
    points, cells = found.predictions[:, :, :judged], found.predictions[:, :, judged:]
    right = batch.query_y.argmax(-1)
    if not tasks.is_known:
        at_support = TaskBatch(batch.support_x, batch.support_y, batch.support_x, batch.support_y)
        points, right = start.adapt(at_support, steps).predictions, batch.support_y.argmax(-1)
    errors = (points.argmax(-1) != right).double().mean(-1).numpy()
    fields = cells.softmax(-1).unflatten(2, (CELLS, CELLS)).numpy()
    made = []
    for i, (label, seed) in enumerate(zip(tasks.labels, tasks.seeds, strict=True)):
        last = found.last_finite_step(i)
        made.append(
            PlaneFit(
                label=label,
                seed=seed,
                support_loss=found.support_loss[: last + 1, i].numpy(),
                query_loss=errors[: last + 1, i],
                blew_up_at=last + 1 if last < steps else None,
                problem=start.problem,
                half=float(axis[-1] + (axis[1] - axis[0]) / 2),
                axis=axis.numpy(),
                fields=fields[: last + 1, i],
                support_x=batch.support_x[i].numpy(),
                support_class=batch.support_y[i].argmax(-1).numpy(),
                query_x=batch.query_x[i].numpy() if tasks.is_known else np.zeros((0, 2)),
                query_class=batch.query_y[i].argmax(-1).numpy() if tasks.is_known else np.zeros(0, np.int64),
            )
        )
    return made


def plane_axis(family: PlaneFamily, x: torch.Tensor) -> torch.Tensor:
    """The middles of the cells `[CELLS]` along one side of the square: the family's, or as large as x asks for."""
    extent = float(x.abs().max())
    reach = family.reach if extent <= CLOSE * family.reach else min(CLOSE * extent, WIDEST * family.reach)
    half = reach * (1 - 1 / CELLS)
    return torch.linspace(-half, half, CELLS)
