"""Many meta-iterations in one native loop, made from the very definitions that every engine uses."""

import contextlib
import copy
import os
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from maml_core.engines.base import Engine, MetaGradient, TrainingState, initial_state
from maml_core.engines.meta_optimizer import BETAS, MetaOptimizer
from maml_core.engines.native.calls import Calls
from maml_core.engines.native.program import Program, written
from maml_core.engines.native.toolchain import Build
from maml_core.engines.native.training_loop import TrainingLoop
from maml_core.engines.vectorized import VectorizedEngine, check_vectorizable, directly
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import Algorithm
from maml_core.learning.tasks import TaskBatch

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}
"""How far one meta-gradient may be from that of the vectorized engine, relative, before the loop is not trusted. Wider
than what engines promise, since many inner steps are chaotic; a loop that is wrong is off by far more."""

WORTH_THREADS = 400_000
"""Multiplications in a meta-iteration from which on a second thread pays: below, they wait for each other too often."""


class NativeEngine(Engine):
    """Any algorithm in C++ made for the run: up to three orders of magnitude faster than task by task."""

    name: ClassVar[str] = "native"

    @classmethod
    def check(cls, model: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
        """Refuse another device than the CPU, and what no vectorized engine takes.

        Raises:
            EngineError: the model changes buffers in place or draws random numbers, or is not on the CPU.
        """
        check_vectorizable(model, cls.name)
        if device.type not in ("cpu", "meta"):
            raise EngineError("engine = 'native' runs on the CPU only: choose device = 'cpu' or engine = 'vectorized'.")

    def _set_up(self) -> None:
        self.threads = 1
        """How many threads share a meta-batch; the bits do not depend on it."""
        self.judged_points: int | None = None
        """Query points of the tasks that `query_loss` will be asked for, where not as many as those trained on."""
        self._shapes: tuple[Any, ...] | None = None  # of what the loop trains on, and on how many points it judges
        self._judged_shapes: tuple[torch.Size, ...] | None = None  # of each task that it judges
        self._build: Build | None = None
        self._program: Program | None = None
        self._calls: Calls | None = None
        self._precision = torch.float32  # of the loop; in double where it solves: float32 cannot invert a kernel

    def begin(self, tasks: TaskBatch) -> None:
        """Write the loop for meta-batches of these shapes `[tasks, points, features]`, and start the compiler.

        Raises:
            EngineError: something in the run cannot be lowered, or there is no compiler.
        """
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tasks), self.judged_points
        if self._shapes == shapes:
            return
        self.close()
        if self.problem.calls > 1:
            raise EngineError(
                f"engine = 'native' takes no rollouts: each of {self.problem.calls} steps would be code of its own."
            )
        dtype = next(self.model.parameters()).dtype
        if dtype not in TOLERANCE:
            raise EngineError(f"engine = 'native' takes float32 and float64 only, and this model is of {dtype}.")
        self._precision = torch.float64 if self.algorithm.solves else dtype
        model = copy.deepcopy(self.model).to(self._precision)
        parts = model, self.algorithm, self.problem, self.inner, self.meta_optimizer
        self._program = written(
            lambda: TrainingLoop(
                *parts,
                tasks.to(self._precision),
                self._precision,
                judged_points=self.judged_points,
                rounds=self._precision != dtype,
            ).program()
        )
        self._build = Build(self._program)
        self._shapes, self._judged_shapes = shapes, _task_shapes(self._judged_like(tasks))

    def is_ready(self, iteration: int, tasks: TaskBatch) -> bool:
        """Whether training can begin; the first call starts the compiler.

        Raises:
            EngineError: as `begin`.
        """
        self.begin(tasks.at(0))
        return self._build is None or self._build.is_done()

    def prepare(self, tasks: TaskBatch) -> None:
        """Have the loop for meta-batches of these shapes `[tasks, points, features]` ready, and tried out.

        Raises:
            EngineError: it cannot be made, or does not agree with the vectorized engine.
        """
        self.begin(tasks)
        if self._build is None:
            return
        assert self._program is not None
        build, self._build = self._build, None
        try:
            self._calls = Calls(self._program, build.load())
            self._try_out(tasks)
        except EngineError:
            self.close()
            raise

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]`, read off Adam's first moment after one meta-iteration."""
        zeros = torch.zeros_like(parameters)
        average = parameters.clone() if self.meta_optimizer.ema_decay is not None else None
        state = TrainingState(parameters, zeros, zeros.clone(), average)
        after, rows = self.run(state, TaskBatch(*(tensor[None] for tensor in tasks)))
        gradient = after.exp_avg / (1 - BETAS[0])
        if self.meta_optimizer.clip_norm is not None:  # as long as it was before clipping
            gradient = gradient * (rows[0, 2] / gradient.norm().clamp(min=1e-30))
        return MetaGradient(gradient, rows[0, 0], rows[0, 1])

    @torch.no_grad()
    def query_loss(self, parameters: Tensor, tasks: TaskBatch) -> Tensor:
        """As `Engine.query_loss`, once the loop is ready, on tasks of `judged_points` query points.

        Raises:
            EngineError: it is not ready, or made for other tasks.
        """
        count = tasks.support_x.shape[0]
        is_ready = self._calls is not None and self._judged_shapes == _task_shapes(tasks)
        if not is_ready or any(len(tensor) != count for tensor in tasks) or len(parameters) != self.layout.size:
            raise EngineError("The native loop was not made for judging such tasks.")
        losses = parameters.new_empty(count, dtype=self._precision)
        inputs = parameters.new_tensor(self.inner.lr), *tasks, parameters
        assert self._calls is not None
        given = [*(tensor.to(self._precision).contiguous() for tensor in inputs), losses]
        self._calls("judge", [count], given, self.threads)
        return losses.mean().to(parameters.dtype)

    @torch.no_grad()
    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, in one call of the loop.

        Raises:
            EngineError: as `prepare`, or the state is not one of this engine's runs.
        """
        count = 3 + (self.meta_optimizer.ema_decay is not None)
        if [len(vector) for vector in state.vectors] != [self.layout.size] * count:
            raise EngineError("The native loop was not made for such a state.")  # it would write beyond its memory
        self.prepare(tasks.at(0))
        count = tasks.support_x.shape[0]
        like = state.parameters
        rates = self.meta_optimizer.rates(state.iteration, count, like)
        inputs = like.new_tensor(self.inner.lr), rates, *tasks
        vectors = [vector.to(self._precision, copy=True) for vector in state.vectors]
        metrics = like.new_empty(count, 3, dtype=self._precision)
        assert self._calls is not None
        given = [*(tensor.to(self._precision).contiguous() for tensor in inputs), *vectors, metrics]
        self._calls("run", [count], given, self.threads)
        after = TrainingState.of([vector.to(like.dtype) for vector in vectors], state.iteration + count)
        return after, metrics.to(like.dtype)

    def close(self) -> None:
        """Release background resources: the compiler, and the threads."""
        if self._build is not None:
            self._build.cancel()
        if self._calls is not None:
            self._calls.close()
        self._build = self._calls = self._program = self._shapes = None

    def _judged_like(self, tasks: TaskBatch) -> TaskBatch:
        """Tasks with as many query points as `query_loss` will be asked for: theirs, over and over."""
        points = tasks.query_x.shape[1]
        chosen = torch.arange(self.judged_points or points) % points
        return tasks._replace(query_x=tasks.query_x[:, chosen], query_y=tasks.query_y[:, chosen])

    def _try_out(self, tasks: TaskBatch) -> None:
        """A meta-gradient and a query loss beside the vectorized engine's, so that no wrong loop ever trains a run.

        Raises:
            EngineError: they differ.
        """
        plain = MetaOptimizer(self.meta_optimizer.lr, None)
        other = VectorizedEngine(
            self.model, inner=self.inner, meta_optimizer=plain, algorithm=self.algorithm, problem=self.problem
        )
        parameters = next(self.model.parameters())
        start = initial_state(self.model, self.algorithm).parameters if parameters.device.type == "cpu" else None
        if start is None:
            return
        judged = self._judged_like(tasks)
        with torch.no_grad():
            pairs = (
                (self.meta_gradient(start, tasks).gradient, other.compose(start, tasks, directly).gradient),
                (self.query_loss(start, judged), other.compose_loss(start, judged, directly)),
            )
        for found, expected in pairs:
            if not torch.isfinite(expected).all():
                return  # a run that diverges at once does so in every engine
            difference = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
            if not difference <= TOLERANCE[parameters.dtype] * max(1, self.inner.steps):  # nor is NaN
                raise EngineError(
                    f"The native loop disagrees with the vectorized engine (by {difference:.1g}), so it is not used."
                )


def _task_shapes(tasks: TaskBatch) -> tuple[torch.Size, ...]:
    """Of one task's tensors."""
    return tuple(tensor.shape[1:] for tensor in tasks)


def threads_for(multiplications: float) -> int:
    """How many threads a run of so many multiplications per meta-iteration gets: the cores, less one for all else."""
    cores = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):
        cores = len(os.sched_getaffinity(0))
    return max(1, min(4, cores - 1)) if multiplications >= WORTH_THREADS else 1
