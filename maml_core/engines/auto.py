"""The native loop where it can be made and is worth it, else the vectorized engine: settled before training begins.

So the bits of a run do not depend on when a compiler was done. Making the loop takes about a second, with convolutions
up to ten, in which the trainer goes on answering; a run that would be over sooner without it is not kept waiting.
"""

from typing import ClassVar

from torch import Tensor

from maml_core.engines.base import Engine, EngineStatus, MetaGradient, TrainingState
from maml_core.engines.native import NativeEngine
from maml_core.engines.vectorized import VectorizedEngine
from maml_core.errors import EngineError
from maml_core.learning.tasks import TaskBatch


class AutoEngine(Engine):
    """One of two engines, whichever is faster here."""

    name: ClassVar[str] = "auto"

    def __init__(self, vectorized: VectorizedEngine, native: NativeEngine | None) -> None:
        """Without a `native` engine, because it cannot take the run or is not worth it, it is the vectorized one."""
        super().__init__(vectorized.model, **vectorized.parts)
        self._vectorized = vectorized
        self._native = native
        self._chosen: Engine | None = None if native else vectorized

    @property
    def status(self) -> EngineStatus:
        """Which engine is running, or that the native loop is being made."""
        return EngineStatus.COMPILING if self._chosen is None else self._chosen.status

    def is_ready(self, iteration: int, tasks: TaskBatch) -> bool:
        """Whether training can begin; the first call has the native loop made."""
        if self._chosen is not None or self._native is None:
            return True
        try:
            if not self._native.is_ready(iteration, tasks):
                return False
        except EngineError as error:
            self._give_up(error)
        else:
            self._settle(tasks.at(0))
        return True

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The meta-gradient at flat `parameters` `[P]` for one meta-batch `[tasks, points, features]`."""
        return self._settled(tasks).meta_gradient(parameters, tasks)

    def query_loss(self, parameters: Tensor, tasks: TaskBatch) -> Tensor:
        """As `Engine.query_loss`, by the engine that was chosen, if one has been."""
        return (self._chosen or self._vectorized).query_loss(parameters, tasks)

    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, by the engine that was chosen."""
        return self._settled(tasks.at(0)).run(state, tasks)

    def close(self) -> None:
        """Release background resources."""
        if self._native is not None:
            self._native.close()

    def _settled(self, tasks: TaskBatch) -> Engine:
        """The chosen engine; a caller that did not wait until it was ready waits here."""
        if self._chosen is None:
            self._settle(tasks)
        return self._chosen or self._vectorized

    def _settle(self, tasks: TaskBatch) -> None:
        """Choose, for meta-batches of these shapes."""
        assert self._native is not None
        try:
            self._native.prepare(tasks)
            self._chosen = self._native
        except EngineError as error:
            self._give_up(error)

    def _give_up(self, error: EngineError) -> None:
        self._chosen = self._vectorized
        self.notice = f"{error} Training continues with the vectorized engine."
