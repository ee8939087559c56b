"""A meta-batch in shards, shared out among processes: the same bits, however many there are.

Each shard has tasks of its own. Its meta-gradient is computed by itself, all of them are gathered by every process and
added in the shards' order, and every process then does the same update. A sum over processes would depend on their
number, since floating-point addition is not associative.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from maml_core.engines.base import Engine, EngineStatus, MetaGradient, TrainingState
from maml_core.errors import EngineError
from maml_core.learning.tasks import TaskBatch


class Group(Protocol):
    """The processes that train a run together; the one of rank 0 leads."""

    rank: int
    size: int

    def lead(self, state: TrainingState, count: int) -> None:
        """Have the others do the `count` meta-iterations after `state`; of those who follow, a call does nothing.

        Raises:
            EngineError: one of them was lost.
        """

    def gather(self, rows: Tensor) -> Tensor:
        """The rows `[rows, numbers]` of all processes, in the order of their ranks.

        Raises:
            EngineError: one of them was lost.
        """


class Alone:
    """The group of one process, which has nobody to wait for."""

    rank = 0
    size = 1

    def lead(self, state: TrainingState, count: int) -> None:
        """Nobody follows."""

    def gather(self, rows: Tensor) -> Tensor:
        """What there is."""
        return rows


def shards_of(group: Group, shards: int) -> range:
    """Which shards are this process's.

    >>> shards_of(Alone(), 4)
    range(0, 4)

    Raises:
        EngineError: they cannot be shared out evenly.
    """
    if shards % group.size:
        raise EngineError(
            f"shards = {shards} cannot be shared out among {group.size} processes: set shards = {group.size} or a "
            "multiple of it, or start fewer processes."
        )
    share = shards // group.size
    return range(group.rank * share, (group.rank + 1) * share)


class ShardedEngine(Engine):
    """Another engine's meta-gradients, shard by shard."""

    name: ClassVar[str] = "sharded"

    def __init__(self, engine: Engine, shards: int, group: Group) -> None:
        """Compute this process's of so many shards with `engine`, and have the `group` compute the others.

        Raises:
            EngineError: the shards cannot be shared out evenly.
        """
        super().__init__(engine.model, **engine.parts)
        self._engine = engine
        self._group = group
        self._own = len(shards_of(group, shards))

    @property
    def status(self) -> EngineStatus:
        """The engine that computes each shard."""
        return self._engine.status

    def close(self) -> None:
        """Release background resources."""
        self._engine.close()

    def meta_gradient(self, parameters: Tensor, tasks: TaskBatch) -> MetaGradient:
        """The mean over all shards, of which `tasks` `[tasks, points, features]` holds this process's, in order."""
        found = [self._engine.meta_gradient(parameters, self._shard(tasks, i)) for i in range(self._own)]
        rows = self._group.gather(
            torch.stack([torch.cat([gradient, pre[None], post[None]]) for gradient, pre, post in found])
        )
        total = rows[0]
        for row in rows[1:]:
            total = total + row
        mean = total / len(rows)
        return MetaGradient(mean[:-2], mean[-2], mean[-1])

    def query_loss(self, parameters: Tensor, tasks: TaskBatch) -> Tensor:
        """As `Engine.query_loss`, by this process alone."""
        return self._engine.query_loss(parameters, tasks)

    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, together with the other processes, on this one's part of the tasks."""
        self._group.lead(state, tasks.support_x.shape[0])
        return super().run(state, tasks)

    def _shard(self, tasks: TaskBatch, number: int) -> TaskBatch:
        size = tasks.support_x.shape[0] // self._own
        return tasks.at(slice(number * size, (number + 1) * size))
