"""A meta-iteration captured once on a CUDA device and replayed: no Python runs between its kernels.

A meta-iteration of a small network is hundreds of kernels that each take less time than their launch. A graph
(pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs") launches all of them at once, with the same bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from maml_core.engines.meta_optimizer import Vectors
from maml_core.learning.tasks import TaskBatch

Iterate = Callable[[Vectors, TaskBatch, Tensor], tuple[Vectors, Tensor]]
"""One meta-iteration: the optimizer's vectors, a meta-batch and its rates in; the vectors and metrics `[3]` out."""

WARM_UPS = 2
"""Runs before the capture, in which everything is traced and libraries take their work space."""


class CapturedIteration:
    """`iterate` for meta-batches of one shape. What it reads and writes stays at fixed places of the device."""

    def __init__(self, iterate: Iterate, vectors: Vectors, tasks: TaskBatch, rates: Tensor) -> None:
        """Capture it for one meta-batch `tasks` `[tasks, points, features]` and its `rates`; nothing is changed.

        Raises:
            RuntimeError: something in it cannot be captured, such as a value that is read back by the processor.
        """
        self._vectors = tuple(vector.clone() for vector in vectors)
        self._inputs = _row(tasks, rates).clone()
        batch, numbers = _parts(self._inputs, tasks, rates)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                iterate(self._vectors, batch, numbers)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            after, self._metrics = iterate(self._vectors, batch, numbers)
            for kept, vector in zip(self._vectors, after, strict=True):
                kept.copy_(vector)

    def run(self, vectors: Vectors, tasks: TaskBatch, rates: Tensor) -> tuple[Vectors, Tensor]:
        """As `Engine.run` on the vectors: `tasks` `[iterations, ...]`, `rates` `[iterations, 3]`, metrics likewise.

        The processor waits for nothing here, so the whole chunk is in the device's queue before it has begun.
        """
        for kept, vector in zip(self._vectors, vectors, strict=True):
            kept.copy_(vector)
        metrics = torch.empty(len(rates), *self._metrics.shape, dtype=self._metrics.dtype, device=self._metrics.device)
        for inputs, row in zip(_row(tasks, rates, 1), metrics, strict=True):
            self._inputs.copy_(inputs)
            self._graph.replay()
            row.copy_(self._metrics)
        return tuple(kept.clone() for kept in self._vectors), metrics


def _row(tasks: TaskBatch, rates: Tensor, leading: int = 0) -> Tensor:
    """All that a meta-iteration is given in one row, so that one copy takes it to its place."""
    return torch.cat([part.flatten(leading) for part in (*tasks, rates)], dim=leading)


def _parts(row: Tensor, tasks: TaskBatch, rates: Tensor) -> tuple[TaskBatch, Tensor]:
    """The views of `row` with the shapes of a meta-batch and its rates."""
    given = (*tasks, rates)
    *batch, numbers = (
        part.view(like.shape) for part, like in zip(row.split([part.numel() for part in given]), given, strict=True)
    )
    return TaskBatch(*batch), numbers
