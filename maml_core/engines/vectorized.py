"""All tasks of a meta-batch at once, with torch.func: the same maths as `higher`, far fewer kernel launches.

Each piece of a meta-iteration (an inner step, the meta-gradient, the update) is `vmap`ped over tasks and then
traced once to a flat list of tensor operations, which resolves `vmap` and `grad` ahead of time. Replaying that list
runs the same kernels in the same order, so the bits are those of torch.func at about two and a half times its
speed. Memory does not grow with the number of inner steps: a step's graph is gone when the next one starts.
On a CUDA device the whole meta-iteration is captured and replayed as one graph.
"""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from maml_core.engines.base import Engine, MetaGradient, TrainingState
from maml_core.engines.cuda_graph import CapturedIteration
from maml_core.engines.meta_optimizer import Vectors
from maml_core.engines.tracing import trace
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import Algorithm, Loss, Parameters, Phi, Theta
from maml_core.learning.tasks import TaskBatch

LOG = logging.getLogger(__name__)


class VectorizedEngine(Engine):
    """Any algorithm, with `vmap` over the tasks of a meta-batch."""

    name: ClassVar[str] = "vectorized"

    @classmethod
    def check(cls, model: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
        """Refuse modules that `vmap` cannot run, before anything has started.

        Raises:
            EngineError: the model changes buffers in place, or draws random numbers, as it runs.
        """
        check_vectorizable(model, cls.name)

    def _set_up(self) -> None:
        self.loss = Loss(self.model, self.problem)
        self._traced: dict[Any, Callable[..., Any]] = {}
        self._captured: dict[Any, CapturedIteration | None] = {}

    def first_step(self, parameters: Tensor, support_x: Tensor, support_y: Tensor) -> Phi:
        """The first inner step, from one flat initialization `[P]` shared by all tasks, to `[tasks, *shape]`."""
        theta = self.layout.unflatten(parameters)
        phi = self.algorithm.begin(theta)
        return vmap(self._inner_step, (None, None, 0, 0))(theta, phi, support_x, support_y)

    def next_step(self, parameters: Tensor, adapted: Phi, support_x: Tensor, support_y: Tensor) -> Phi:
        """A further inner step, of parameters `[tasks, *shape]` that are each task's own."""
        theta = self.layout.unflatten(parameters)
        return vmap(self._inner_step, (None, 0, 0, 0))(theta, adapted, support_x, support_y)

    def finish(self, parameters: Tensor, adapted: Phi | None, *tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean meta-gradient `[P]` and mean query loss before and after adaptation."""
        theta = self.layout.unflatten(parameters)
        batch = TaskBatch(*tasks)
        before = vmap(self.loss, (None, 0, 0))(theta.parameters, batch.query_x, batch.query_y)

        def task_gradient(phi: Phi, *task: Tensor) -> tuple[Theta, Tensor]:
            return self.algorithm.gradient(self.loss, theta, phi, TaskBatch(*task), self.inner)

        shared = adapted is None  # no inner step was taken here: all tasks start from the initialization itself
        phi = self.algorithm.begin(theta) if adapted is None else adapted
        gradient, after = vmap(task_gradient, (None if shared else 0, 0, 0, 0, 0))(phi, *batch)
        flat = self.layout.flatten(Theta(*({name: value.mean(0) for name, value in part.items()} for part in gradient)))
        return flat, before.mean(), after.mean()

    def judge(self, parameters: Tensor, adapted: Phi | None, query_x: Tensor, query_y: Tensor) -> Tensor:
        """Mean query loss after adaptation, on query points `[tasks, points, features]`."""
        theta = self.layout.unflatten(parameters)
        phi = self.algorithm.begin(theta) if adapted is None else adapted

        def task_loss(values: Parameters, x: Tensor, y: Tensor) -> Tensor:
            return self.loss(theta.parameters | values, x, y)

        return vmap(task_loss, (None if adapted is None else 0, 0, 0))(phi.parameters, query_x, query_y).mean()

    @torch.no_grad()
    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        return self.compose(parameters, tasks, self._replay)

    @torch.no_grad()
    def query_loss(self, parameters: Tensor, tasks: TaskBatch) -> Tensor:
        """As `Engine.query_loss`, without a meta-gradient."""
        return self.compose_loss(parameters, tasks, self._replay)

    @torch.no_grad()
    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`; on a CUDA device from a captured graph, where everything in it can be captured."""
        if state.parameters.device.type != "cuda":
            return super().run(state, tasks)
        count = tasks.support_x.shape[0]
        rates = self.meta_optimizer.rates(state.iteration, count, state.parameters)
        captured = self._capture(state.vectors, tasks.at(0), rates[0])
        if captured is None:
            return super().run(state, tasks)
        vectors, metrics = captured.run(state.vectors, tasks, rates)
        return TrainingState.of(vectors, state.iteration + count), metrics

    def _capture(self, vectors: Vectors, tasks: TaskBatch, rates: Tensor) -> CapturedIteration | None:
        """The captured meta-iteration for these shapes, made the first time; None where it cannot be captured."""
        key = tuple(part.shape for part in tasks), len(vectors), vectors[0].dtype
        if key not in self._captured:
            try:
                self._captured[key] = CapturedIteration(self.iterate, vectors, tasks, rates)
            except RuntimeError as error:
                LOG.info("a meta-iteration is run kernel by kernel: it cannot be captured as a CUDA graph (%s)", error)
                self._captured[key] = None
        return self._captured[key]

    def compose(self, parameters: Tensor, tasks: TaskBatch, call: Callable[..., Any]) -> MetaGradient:
        """The one definition of a meta-gradient from its pieces; `call(piece, ...)` decides how each is run."""
        adapted = self._adapted(parameters, tasks, call) if self.algorithm.is_first_order else None
        return MetaGradient(*call(self.finish, parameters, adapted, *tasks))

    def compose_loss(self, parameters: Tensor, tasks: TaskBatch, call: Callable[..., Any]) -> Tensor:
        """The one definition of a query loss from its pieces, as `compose` for a meta-gradient."""
        adapted = self._adapted(parameters, tasks, call)
        found: Tensor = call(self.judge, parameters, adapted, tasks.query_x, tasks.query_y)
        return found

    def _adapted(self, parameters: Tensor, tasks: TaskBatch, call: Callable[..., Any]) -> Phi | None:
        """Each task's own parameters after all inner steps; None where none is taken."""
        if not self.inner.steps:
            return None
        adapted: Phi = call(self.first_step, parameters, tasks.support_x, tasks.support_y)
        for _ in range(self.inner.steps - 1):
            adapted = call(self.next_step, parameters, adapted, tasks.support_x, tasks.support_y)
        return adapted

    def _inner_step(self, theta: Theta, phi: Phi, x: Tensor, y: Tensor) -> Phi:
        return self.algorithm.step(self.loss, theta, phi, x, y, self.inner.lr)

    def _replay(self, piece: Callable[..., Any], *arguments: Any) -> Any:
        """Call `piece` through its trace for these shapes, tracing it the first time.

        Not where it rolls out: tracing ten thousand operations takes ten seconds, and gains a tenth of the time.
        """
        if self.problem.calls > 1:
            return piece(*arguments)
        key = piece.__name__, arguments[-1].shape, arguments[-1].dtype
        if key not in self._traced:
            self._traced[key] = trace(piece, *arguments)
        return self._traced[key](*arguments)


def directly(piece: Callable[..., Any], *arguments: Any) -> Any:
    """How `compose` runs a piece that is wanted once: a trace would serve nobody else."""
    return piece(*arguments)


def check_vectorizable(model: nn.Module, engine: str) -> None:
    """Refuse modules that `vmap` cannot run, before anything has started.

    Raises:
        EngineError: names the module and the engine that takes it.
    """
    for name, module in model.named_modules():
        if not module.training:
            continue  # as it is for good: a run never changes a module's mode
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            trouble = "updates its running statistics in place"
            remedy = "give it track_running_stats=False, for the statistics of each batch as in the MAML paper"
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            trouble, remedy = "draws random numbers of its own", "call eval() on it in __init__, or leave it away"
        elif isinstance(module, nn.RNNBase) and module.dropout > 0:
            trouble, remedy = "draws random numbers of its own", "give it dropout=0"
        else:
            continue
        raise EngineError(
            f"engine = {engine!r} cannot take this model: {type(module).__name__.lstrip('_')} "
            f"({name or 'the model itself'}) {trouble}; {remedy}."
        )
