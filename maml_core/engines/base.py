"""The contract of an engine, and the state that a chunk of meta-iterations carries forward."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from maml_core.algorithms import FOMAML, RATE, Algorithm, Parameters
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.tasks import TaskBatch


class Layout:
    """Where each learned number lies in one flat vector of length P."""

    def __init__(self, model: nn.Module, algorithm: Algorithm = FOMAML) -> None:
        """Read the names and shapes of the parameters; learned rates, if any, follow them. No value is kept."""
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        if algorithm.learns_rates:
            self.shapes |= {RATE + name: shape for name, shape in self.shapes.items()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    @property
    def size(self) -> int:
        """P: how many numbers are learned."""
        return sum(self.sizes)

    def unflatten(self, flat: Tensor) -> Parameters:
        """Views of `flat` `[..., P]`, by name, each `[..., *shape]`."""
        pieces = flat.split(self.sizes, dim=-1)
        leading = flat.shape[:-1]
        return {
            name: piece.reshape(leading + shape)
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def flatten(self, parameters: Parameters) -> Tensor:
        """The inverse of `unflatten` for parameters without leading dimensions: `[P]`."""
        return torch.cat([parameters[name].reshape(-1) for name in self.shapes])


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next meta-iteration depends on besides its tasks. Tensors have shape [P]."""

    parameters: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    average: Tensor | None = None  # the moving average of the parameters, for a run that keeps one
    iteration: int = 0

    @property
    def vectors(self) -> tuple[Tensor, ...]:
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


def initial_state(model: nn.Module, algorithm: Algorithm = FOMAML, *, averages: bool = False) -> TrainingState:
    """The state before the first meta-iteration, on the model's device; factors of inner_lr start at one."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    if algorithm.learns_rates:
        flat = torch.cat([flat, torch.ones_like(flat)])
    return TrainingState(flat, torch.zeros_like(flat), torch.zeros_like(flat), flat.clone() if averages else None)


class MetaGradient(NamedTuple):
    """What one meta-batch says, averaged over its tasks."""

    gradient: Tensor  # [P]
    pre_loss: Tensor  # scalar: query loss before adaptation
    post_loss: Tensor  # scalar: query loss after adaptation


class Engine(ABC):
    """Computes meta-gradients of `model`, and runs chunks of meta-iterations with them."""

    name: ClassVar[str]
    swapped_at: int | None = None
    """The iteration from which on a compiled loop has taken over, for an engine that changes over."""
    notice: str = ""
    """Something the user should know once, such as that no compiler was found."""

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        meta_optimizer: MetaOptimizer,
        algorithm: Algorithm = FOMAML,
    ) -> None:
        """Prepare the engine; the model gives structure, dtype and device, its values are not read.

        Raises:
            EngineError: this engine cannot take the model.
        """
        self.model = model
        self.algorithm = algorithm
        self.layout = Layout(model, algorithm)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.meta_optimizer = meta_optimizer

    @property
    def status(self) -> str:
        """What is running, in a word or two."""
        return self.name

    def is_ready(self, iteration: int, tasks: TaskBatch) -> bool:
        """Whether training can begin at `iteration` on tasks like these `[iterations, tasks, points, features]`."""
        return True

    def prepare(self, tasks: TaskBatch) -> None:  # noqa: B027
        """Do ahead of time whatever the first chunk of tasks `[tasks, points, features]` would wait for."""

    def close(self) -> None:  # noqa: B027
        """Let go of what runs in the background."""

    @abstractmethod
    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""

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
            gradient, pre_loss, post_loss = self.meta_gradient(vectors[0], batch)
            vectors, norm = self.meta_optimizer.update(vectors, gradient, rates)
            metrics.append(torch.stack([pre_loss, post_loss, norm]))
        return TrainingState.of(vectors, state.iteration + count), torch.stack(metrics)
