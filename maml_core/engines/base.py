"""The contract of an engine, and the state that a chunk of meta-iterations carries forward."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from maml_core.engines.meta_optimizer import MetaOptimizer, Vectors
from maml_core.learning.inner_loop import Algorithm, InnerLoop
from maml_core.learning.layout import Layout
from maml_core.learning.problems import Problem, Regression
from maml_core.learning.tasks import TaskBatch


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next meta-iteration depends on besides its tasks. Tensors have shape [P]."""

    parameters: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    average: Tensor | None = None  # the moving average of the parameters, for a run that keeps one
    iteration: int = 0

    @property
    def vectors(self) -> Vectors:
        """What the meta-optimizer carries forward, in its order."""
        kept = (self.parameters, self.exp_avg, self.exp_avg_sq)
        return kept if self.average is None else (*kept, self.average)

    @property
    def learned(self) -> Tensor:
        """The initialization that training has found so far: the average where there is one."""
        return self.parameters if self.average is None else self.average

    @classmethod
    def of(cls, vectors: Iterable[Tensor], iteration: int) -> "TrainingState":
        """The state with these `vectors`, in the order that `vectors` gives them."""
        parameters, exp_avg, exp_avg_sq, *rest = vectors
        return cls(parameters, exp_avg, exp_avg_sq, rest[0] if rest else None, iteration)

    def is_finite(self) -> bool:
        """Whether the parameters hold neither NaN nor infinity."""
        return bool(torch.isfinite(self.parameters).all())

    def to(self, device: torch.device | str) -> "TrainingState":
        """The same state on another device."""
        return TrainingState.of((vector.to(device) for vector in self.vectors), self.iteration)


def initial_state(model: nn.Module, algorithm: Algorithm, *, averages: bool = False) -> TrainingState:
    """The state before the first meta-iteration, on the model's device; what is learned beside changes nothing yet."""
    flat = Layout(model, algorithm).start(model)
    return TrainingState(flat, torch.zeros_like(flat), torch.zeros_like(flat), flat.clone() if averages else None)


class EngineStatus(StrEnum):
    """What an engine is doing."""

    HIGHER = "higher"
    VECTORIZED = "vectorized"
    NATIVE = "native"
    COMPILING = "compiling"


class MetaGradient(NamedTuple):
    """What one meta-batch says, averaged over its tasks."""

    gradient: Tensor  # [P]
    pre_loss: Tensor  # scalar: query loss before adaptation
    post_loss: Tensor  # scalar: query loss after adaptation


class Engine(ABC):
    """Computes meta-gradients of `model`, and runs chunks of meta-iterations with them."""

    name: ClassVar[str]
    notice: str | None = None
    """Something the user should know once, such as that no compiler was found."""

    def __init__(
        self,
        model: nn.Module,
        *,
        inner: InnerLoop,
        meta_optimizer: MetaOptimizer,
        algorithm: Algorithm,
        problem: Problem | None = None,
    ) -> None:
        """Prepare the engine; the model gives structure, dtype and device, its values are not read.

        Raises:
            EngineError: this engine cannot take the model or the algorithm.
        """
        algorithm.check(model)
        self.check(model, algorithm, next(model.parameters()).device)
        self.model = model
        self.inner = inner
        self.meta_optimizer = meta_optimizer
        self.algorithm = algorithm
        self.problem = problem or Regression()
        self.layout = Layout(model, algorithm)
        self._set_up()

    @classmethod  # noqa: B027
    def check(cls, model: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
        """Find out from the model's structure alone whether this engine can take it, on that device.

        Raises:
            EngineError: it cannot.
        """

    def _set_up(self) -> None:  # noqa: B027
        """Make what the engine keeps of its own."""

    @property
    def parts(self) -> dict[str, Any]:
        """What it was told beside the model, for another engine of the same run."""
        names = "inner", "meta_optimizer", "algorithm", "problem"
        return {name: getattr(self, name) for name in names}

    @property
    def status(self) -> EngineStatus:
        """What is running."""
        return EngineStatus(self.name)

    def is_ready(self, iteration: int, tasks: TaskBatch) -> bool:
        """Whether training can begin at `iteration` on tasks like these `[iterations, tasks, points, features]`."""
        return True

    def prepare(self, tasks: TaskBatch) -> None:  # noqa: B027
        """Do ahead of time whatever the first chunk of tasks `[tasks, points, features]` would wait for."""

    def close(self) -> None:  # noqa: B027
        """Release background resources."""

    @abstractmethod
    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""

    def query_loss(self, parameters: Tensor, tasks: TaskBatch) -> Tensor:
        """The mean query loss after adaptation, a scalar, at flat `parameters` `[P]` on `[tasks, points, features]`.

        Raises:
            EngineError: the engine must be prepared first, with a meta-batch, and is not.
        """
        return self.meta_gradient(parameters, tasks).post_loss

    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """Do one meta-iteration per leading entry of `tasks` `[iterations, tasks, points, features]`.

        Returns the new state and metrics `[iterations, 3]`: query loss before and after adaptation, and the norm
        of the meta-gradient before clipping. A non-finite value is passed on; watching for it is the caller's.
        """
        metrics = []
        vectors = state.vectors
        count = tasks.support_x.shape[0]
        for batch, rates in zip(
            (tasks.at(i) for i in range(count)),
            self.meta_optimizer.rates(state.iteration, count, vectors[0]),
            strict=True,
        ):
            vectors, row = self.iterate(vectors, batch, rates)
            metrics.append(row)
        return TrainingState.of(vectors, state.iteration + count), torch.stack(metrics)

    def iterate(self, vectors: Vectors, tasks: TaskBatch, rates: Tensor) -> tuple[Vectors, Tensor]:
        """One meta-iteration on one meta-batch: the optimizer's new vectors, and metrics `[3]` as `run` has them."""
        gradient, pre_loss, post_loss = self.meta_gradient(vectors[0], tasks)
        vectors, norm = self.meta_optimizer.update(vectors, gradient, rates)
        return vectors, torch.stack([pre_loss, post_loss, norm])
