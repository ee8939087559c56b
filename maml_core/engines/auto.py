"""Start at once with the vectorized engine, go over to the compiled loop when it is ready.

Compiling happens in another process, at low priority, so the running engine keeps its pace. The two engines round
differently, so the iteration of the change is part of a run's state: given again, it gives the same bits again.
"""

import time
from collections.abc import Callable
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from maml_core.engines.base import Engine, EngineStatus, MetaGradient, TrainingState
from maml_core.engines.compiled import CompiledEngine
from maml_core.engines.vectorized import VectorizedEngine
from maml_core.errors import EngineError
from maml_core.learning.tasks import TaskBatch

WORTH_SECONDS = 30.0
"""What compiling may cost: a run that would end sooner without it is not compiled."""


class CompileStage(Enum):
    """How far a compilation is."""

    IDLE = "idle"
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"


class Compilation(NamedTuple):
    """How a compilation stands."""

    stage: CompileStage
    reason: str = ""  # what went wrong, of one that failed


class Job(Protocol):
    """A compilation in another process."""

    def status(self) -> Compilation:
        """Whether it works, has put the loop on disk, or failed."""

    def cancel(self) -> None:
        """End it."""


class AutoEngine(Engine):
    """The vectorized engine up to iteration `swapped_at`, the compiled loop from there on."""

    name: ClassVar[str] = "auto"

    def __init__(
        self,
        vectorized: VectorizedEngine,
        compiled: CompiledEngine | None,
        *,
        total: int,
        start_job: Callable[[], Job] | None = None,
        patient: bool = False,
        swapped_at: int | None = None,
    ) -> None:
        """`start_job` begins compiling elsewhere; `patient` waits for it rather than train in the meantime."""
        super().__init__(
            vectorized.model,
            inner=vectorized.inner,
            meta_optimizer=vectorized.meta_optimizer,
            algorithm=vectorized.algorithm,
            problem=vectorized.problem,
        )
        self.vectorized = vectorized
        self.compiled = compiled
        self.swapped_at = swapped_at
        self._total = total
        self._start_job = start_job
        self._patient = patient
        self._job: Job | None = None
        self._looked = False
        self._is_warm = False
        self._seconds_each: float | None = None

    @property
    def status(self) -> EngineStatus:
        """Which engine is running, and whether a compile is under way."""
        if self.swapped_at is not None:
            return EngineStatus.COMPILED
        if self._job is None:
            return EngineStatus.VECTORIZED
        return EngineStatus.COMPILING if self._patient else EngineStatus.VECTORIZED_WHILE_COMPILING

    def is_ready(self, iteration: int, tasks: TaskBatch) -> bool:
        """Whether training can begin; a patient engine waits for the compiled loop.

        Raises:
            EngineError: it was waited for, and cannot be made.
        """
        if not self._patient:
            return True
        self._consider(iteration, tasks)
        if self.compiled is None:
            raise EngineError(self.notice or "The compiled loop cannot be made.")
        return self.swapped_at is not None

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        return self.vectorized.meta_gradient(parameters, tasks)

    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, by the engine whose turn it is at each iteration."""
        self._consider(state.iteration, tasks)
        count = tasks.support_x.shape[0]
        before = count if self.swapped_at is None else min(count, max(0, self.swapped_at - state.iteration))
        metrics = []
        if before:
            began = time.perf_counter()
            state, rows = self.vectorized.run(state, tasks.at(slice(before)))
            if self._is_warm:  # the first chunk pays for tracing, and says nothing of the rest
                elapsed = (time.perf_counter() - began) / before
                self._seconds_each = min(elapsed, self._seconds_each or elapsed)
            self._is_warm = True
            metrics.append(rows)
        if before < count and self.compiled is not None:
            state, rows = self.compiled.run(state, tasks.at(slice(before, None)))
            metrics.append(rows)
        return state, torch.cat(metrics)

    def close(self) -> None:
        """End a compilation that nobody waits for any more."""
        if self._job is not None:
            self._job.cancel()
        if self.compiled is not None:
            self.compiled.close()

    def _consider(self, iteration: int, tasks: TaskBatch) -> None:
        """Start compiling if it is worth it; change over if the loop has become ready."""
        if self.compiled is None:
            return
        if self.swapped_at is not None:
            if iteration + tasks.support_x.shape[0] > self.swapped_at:
                self._prepare(tasks)
            return
        if not self._looked and (self._patient or iteration > 0):  # not before a run's first point
            self._looked = True
            if self.compiled.is_ready_for(tasks.at(0)):
                self._swap(iteration, tasks)
                return
        if self._job is None:
            if self._start_job is not None and (self._patient or self._is_worth_it(iteration)):
                self._job = self._start_job()
            return
        stage, reason = self._job.status()
        if stage is CompileStage.READY:
            self._job = None
            self._swap(iteration, tasks)
        elif stage is CompileStage.FAILED:
            self._give_up(reason)

    def _is_worth_it(self, iteration: int) -> bool:
        return self._seconds_each is not None and (self._total - iteration) * self._seconds_each > WORTH_SECONDS

    def _swap(self, iteration: int, tasks: TaskBatch) -> None:
        self._prepare(tasks)
        if self.compiled is not None:
            self.swapped_at = iteration

    def _prepare(self, tasks: TaskBatch) -> None:
        assert self.compiled is not None
        try:
            self.compiled.prepare(tasks.at(0))
        except EngineError as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self._job = None
        self.compiled = None
        self.swapped_at = None
        self.notice = reason if self._patient else f"{reason} Training goes on with the vectorized engine."
