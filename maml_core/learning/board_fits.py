"""How one initialization learns a few classes of images, as plain arrays for pictures of an episode."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from maml_core.learning.fits import SquareFit
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.images import ImageFamily
from maml_core.learning.initialization import Initialization
from maml_core.learning.tasks import TaskBatch


@dataclass(frozen=True, kw_only=True)
class BoardFit(SquareFit):
    """One task of images, and what an initialization takes each for as it adapts to it."""

    support: np.ndarray  # [points, size, size]: the classes in turn; 0 is paper, 1 is ink
    query: np.ndarray  # [points, size, size]
    support_class: np.ndarray  # [points]
    query_class: np.ndarray  # [points]; -1 where it is not known
    shares: np.ndarray  # [steps + 1, query points, classes]: probabilities

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.shares.shape[-1])

    @property
    def score_name(self) -> str:
        """As `TaskFit.score_name`; where the class is not known, how sure the model is of the one that it names."""
        return super().score_name if self.naming is None else "probability"

    @property
    def naming(self) -> list[float] | None:
        """As `TaskFit.naming`: of what a reader has drawn."""
        if len(self.query_class) != 1 or self.query_class[0] >= 0:
            return None
        shares: list[float] = self.shares[-1, 0].tolist()
        return shares

    def mean_error(self) -> float:
        """The error of naming one class, of which there are as many images as of any."""
        return 1 - 1 / self.classes


def fit_boards(start: Initialization, family: ImageFamily, tasks: Tasks, steps: int) -> list[BoardFit]:
    """Adapt to every task, and follow what each of its query images is taken for."""
    batch = tasks.batch
    found = start.adapt(batch, steps)
    shares = found.predictions.softmax(-1)
    right = batch.query_y.argmax(-1)
    beside = {name: errors.double().tolist() for name, errors in _nearest(start, batch).items()}
    made = []
    for i, (label, seed) in enumerate(zip(tasks.labels, tasks.seeds, strict=True)):
        last = found.last_finite_step(i)
        errors = found.query_loss[:, i]
        if not tasks.is_known:  # what is left for the other classes than the one that is named in the end
            errors = 1 - shares[:, i, 0, shares[last, i, 0].argmax()]
        made.append(
            BoardFit(
                label=label,
                seed=seed,
                support_loss=found.support_loss[: last + 1, i].numpy(),
                query_loss=errors[: last + 1].numpy(),
                blew_up_at=last + 1 if last < steps else None,
                problem=start.problem,
                half=1.0,
                support=_images(batch.support_x[i], family.size),
                query=_images(batch.query_x[i], family.size),
                support_class=batch.support_y[i].argmax(-1).numpy(),
                query_class=right[i].numpy() if tasks.is_known else np.full(len(right[i]), -1),
                shares=shares[: last + 1, i].numpy(),
                beside={name: errors[i] for name, errors in beside.items()} if tasks.is_known else {},
            )
        )
    return made


def _nearest(start: Initialization, batch: TaskBatch) -> dict[str, Tensor]:
    """The errors `[tasks]` of the nearest class mean: of pixels, and of the features that `start` has learned."""
    features = start.features()
    found = {"means": nearest_means(batch.support_x, batch.support_y, batch.query_x)}
    if features:
        found["feature-means"] = nearest_means(features(batch.support_x), batch.support_y, features(batch.query_x))
    return {name: torch.func.vmap(start.problem.error)(said, batch.query_y) for name, said in found.items()}


def nearest_means(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """The class whose support points have the nearest mean, as y `[tasks, points, classes]`.

    `support_x` is `[tasks, points, inputs]`, or features of a network in their place; `support_y` has a 1 at the class.
    """
    count = support_y.sum(1).clamp(min=1)[..., None]
    means = support_y.transpose(1, 2) @ support_x / count
    nearest = torch.cdist(query_x, means).masked_fill(~support_y.bool().any(1)[:, None], torch.inf).argmin(-1)
    return torch.nn.functional.one_hot(nearest, support_y.shape[-1]).to(support_y.dtype)


def _images(x: Tensor, size: int) -> np.ndarray:
    images: np.ndarray = x.reshape(-1, size, size).numpy()
    return images
