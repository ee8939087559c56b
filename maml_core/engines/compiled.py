"""The vectorized step inside one compiled loop over many meta-iterations.

The loop is native code made by AOTInductor from the very step that the vectorized engine runs: one call does a whole
chunk, without Python in between. Making it takes tens of seconds; a package of it is kept on disk, and loads in a
fraction of a second. On a GPU the loop's condition would wait for the device at every turn, so this engine is for the
CPU only (no GPU was at hand to measure anything better); elsewhere `auto` stays with the vectorized engine.
"""

import functools
import hashlib
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop
from torch.fx.experimental.proxy_tensor import make_fx

from maml_core.engines.base import TrainingState, initial_state
from maml_core.engines.package_cache import PackageCache
from maml_core.engines.vectorized import VectorizedEngine
from maml_core.errors import EngineError
from maml_core.learning.algorithms import Algorithm, Phi
from maml_core.learning.tasks import TaskBatch

UNROLLED_STEPS = 8
"""Up to so many inner steps are written out in the loop's body; more become a loop of their own."""

MOST_UNROLLED_STEPS = 64

Loop = Callable[..., tuple[Tensor, ...]]
_TASK_TENSORS = len(TaskBatch._fields)
_aten = torch.ops.aten


class CompiledEngine(VectorizedEngine):
    """Any algorithm in a compiled loop, up to two orders of magnitude faster than eager for small networks."""

    name: ClassVar[str] = "compiled"

    @classmethod
    def check(cls, model: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
        """Check that the model can be compiled; `prepare`, or the first chunk, compiles it.

        Raises:
            EngineError: the model cannot be vectorized, or is not on the CPU.
        """
        super().check(model, algorithm, device)
        if device.type != "cpu":
            raise EngineError(
                "engine = 'compiled' runs on the CPU only: choose device = 'cpu' or engine = 'vectorized'."
            )

    def _set_up(self) -> None:
        super()._set_up()
        self.cache = PackageCache()
        self._loop: Loop | None = None
        self._key: tuple[Any, ...] | None = None
        self.capacity = 0
        self._unrolled_steps = UNROLLED_STEPS

    def is_ready_for(self, tasks: TaskBatch) -> bool:
        """Whether a loop for tasks of these shapes `[tasks, points, features]` is on disk, so that loading is quick."""
        return any(self.cache.has(name) for name in self._package_names(tasks).values())

    def prepare(self, tasks: TaskBatch) -> None:
        """Load the loop for tasks of these shapes `[tasks, points, features]`, compiling it first where need be.

        Raises:
            EngineError: there is no C++ compiler, or compiling fails.
        """
        key = tuple((tensor.shape, tensor.dtype) for tensor in tasks)
        if self._key == key:
            return
        self.capacity = _capacity(tasks)
        names = self._package_names(tasks)
        self._loop = next(filter(None, map(self.cache.load, names.values())), None)
        for unrolled, name in names.items() if self._loop is None else ():
            self._unrolled_steps = unrolled
            try:
                self._loop = self._compile(self._trace(tasks), tasks, name)
                break
            except EngineError:
                if unrolled == max(names):
                    raise
        self._key = key

    @torch.no_grad()
    def run(self, state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        """As `Engine.run`, a piece of at most `capacity` meta-iterations per call of the loop."""
        self.prepare(tasks.at(0))
        assert self._loop is not None
        total = tasks.support_x.shape[0]
        vectors: Sequence[Tensor] = state.vectors
        inner_lr = state.parameters.new_tensor(self.inner.lr)
        metrics = []
        for start in range(0, total, self.capacity):
            count = min(self.capacity, total - start)
            batch = TaskBatch(*(_padded(tensor[start : start + count], self.capacity) for tensor in tasks))
            rates = _padded(self.meta_optimizer.rates(state.iteration + start, count, vectors[0]), self.capacity)
            *vectors, rows = self._loop(torch.tensor(count), inner_lr, rates, *batch, *vectors)
            metrics.append(rows[:count])
        return TrainingState.of(vectors, state.iteration + total), torch.cat(metrics)

    def close(self) -> None:
        """Release the loop: what was unpacked to load it is deleted with it."""
        self._loop = self._key = None

    def further_steps(self, parameters: Tensor, adapted: Phi, tasks: TaskBatch, call: Callable[..., Any]) -> Phi:
        """All inner steps after the first; many of them as a loop, so that the graph does not grow with them."""
        if not self._loops_inside() or call == self._replay:
            return super().further_steps(parameters, adapted, tasks, call)
        names, rest = [list(part) for part in adapted], self.inner.steps - 1

        def unpacked(values: Sequence[Tensor]) -> Phi:
            left = iter(values)
            return Phi(*({name: next(left) for name in part} for part in names))

        step = make_fx(lambda *inputs: self.next_step(*inputs), decomposition_table=_DECOMPOSITIONS)(
            parameters, adapted, tasks.support_x, tasks.support_y
        )

        def body(done: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
            after = step(parameters, unpacked(values), tasks.support_x, tasks.support_y)
            return (done + 1, *(value for part in after for value in part.values()))

        start = [value.clone() for part in adapted for value in part.values()]
        first = (torch.zeros((), dtype=torch.int64), *start)
        _, *values = while_loop(lambda done, *_: done < rest, body, first)
        return unpacked(values)

    def _loops_inside(self) -> bool:
        return self.inner.steps > self._unrolled_steps and self.algorithm.is_first_order

    def _iteration(self, inner_lr: Tensor, rates: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One meta-iteration of a meta-batch and the state's vectors `[P]`: the new ones, and its three metrics."""
        tasks, vectors = TaskBatch(*inputs[:_TASK_TENSORS]), inputs[_TASK_TENSORS:]
        given = self.inner
        self.inner = replace(given, lr=inner_lr)  # an input of the graph: one loop serves every rate
        try:
            gradient, before, after = self.compose(vectors[0], tasks, lambda piece, *inputs: piece(*inputs))
        finally:
            self.inner = given
        vectors, norm = self.meta_optimizer.update(vectors, gradient, rates)
        return (*vectors, torch.stack([before, after, norm]))

    def _trace(self, tasks: TaskBatch) -> torch.fx.GraphModule:
        """One meta-iteration as a flat list of tensor operations."""
        vectors = self._vectors()
        # The body of a loop inside the trace gets its shapes only from a trace of fake tensors.
        mode: Literal["fake", "real"] = "fake" if self._loops_inside() else "real"
        with torch.no_grad():
            return make_fx(
                lambda *inputs: self._iteration(*inputs), decomposition_table=_DECOMPOSITIONS, tracing_mode=mode
            )(vectors[0].new_ones(()), vectors[0].new_ones(3), *tasks, *vectors)

    def _vectors(self) -> tuple[Tensor, ...]:
        return initial_state(self.model, self.algorithm, averages=self.meta_optimizer.ema_decay is not None).vectors

    def _package_names(self, tasks: TaskBatch) -> dict[int, str]:
        """The packages that will do, by how many inner steps they write out: the one to try first comes first."""
        names = {}
        for self._unrolled_steps in (UNROLLED_STEPS, MOST_UNROLLED_STEPS):
            names[self._unrolled_steps] = self._package_name(tasks)
            # A loop in the loop does not export for every model; where there is none, there is one way only.
            if not self._loops_inside() or self.inner.steps > MOST_UNROLLED_STEPS:
                break
        self._unrolled_steps = UNROLLED_STEPS
        return names

    def _package_name(self, tasks: TaskBatch) -> str:
        """A hash of everything that shapes the native code: the operations with their constants, shapes, machine."""
        return hashlib.sha256(
            repr(
                (
                    _description(self.model) or self._operations(tasks),
                    _sources(),
                    (self.algorithm.name, self.problem.name, self.inner.steps, self._unrolled_steps),
                    self.meta_optimizer.clip_norm,
                    len(self._vectors()),
                    [(tuple(tensor.shape), str(tensor.dtype)) for tensor in tasks],
                    [(name, tuple(p.shape), str(p.dtype)) for name, p in self.model.named_parameters()],
                    _capacity(tasks),
                    (torch.__version__, platform.platform(), platform.processor()),
                    torch.backends.cpu.get_cpu_capability(),
                )
            ).encode()
        ).hexdigest()[:32]

    def _operations(self, tasks: TaskBatch) -> tuple[Any, ...]:
        """What a trace consists of: the last word on a model, but it takes a second."""
        step = self._trace(tasks)
        constants = [bytes(tensor.cpu().contiguous().view(torch.uint8).numpy()) for tensor in step.buffers()]
        return [module.code for module in step.modules() if isinstance(module, torch.fx.GraphModule)], constants

    def _compile(self, step: torch.fx.GraphModule, tasks: TaskBatch, name: str) -> Loop:
        capacity = self.capacity
        vectors = self._vectors()
        batch = TaskBatch(*(tensor.new_zeros(capacity, *tensor.shape) for tensor in tasks))
        ones = vectors[0].new_ones
        example = (torch.tensor(capacity), ones(()), ones(capacity, 3), *batch, *vectors)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(_ChunkLoop(step, capacity), example)
                return self.cache.add(name, program)
        except Exception as error:  # the compiler stack raises what it likes; what it says goes to the user in one line
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise EngineError(
                f"The compiled loop cannot be made ({lines[0][:160]}): a C++ compiler is needed; "
                "choose engine = 'vectorized' to go on without."
            ) from error


class _ChunkLoop(nn.Module):
    """`count` meta-iterations of `step`, with tasks and rates drawn beforehand and picked by the loop's counter."""

    def __init__(self, step: torch.fx.GraphModule, capacity: int) -> None:
        super().__init__()
        self.step = step
        self.capacity = capacity

    def forward(self, count: Tensor, inner_lr: Tensor, rates: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        tasks, vectors = inputs[:_TASK_TENSORS], inputs[_TASK_TENSORS:]

        def go_on(done: Tensor, *_: Tensor) -> Tensor:
            return done < count

        def body(done: Tensor, metrics: Tensor, *now: Tensor) -> tuple[Tensor, ...]:
            rates_now, *batch = [drawn.index_select(0, done.view(1)).squeeze(0) for drawn in (rates, *tasks)]
            *after, row = self.step(inner_lr, rates_now, *batch, *now)
            return (done + 1, metrics.index_put((done,), row), *after)

        metrics = vectors[0].new_zeros(self.capacity, 3)
        start = (torch.zeros((), dtype=torch.int64), metrics, *(vector.clone() for vector in vectors))
        _, metrics, *after = while_loop(go_on, body, start)
        return (*after, metrics)


@functools.cache
def _sources() -> str:
    """A hash of this project's own code, so that a loop made by another version of it is not used."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_PLAIN = (bool, int, float, str, type(None))


def _description(model: nn.Module) -> list[Any] | None:
    """A model in plain data, where that tells all there is: modules of torch and of this project with plain attributes.

    None for any other: what a user's own forward depends on, only a trace can tell.
    """
    found: list[Any] = []
    for name, module in model.named_modules():
        kind = type(module)
        attributes = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        if not kind.__module__.startswith(("torch.nn.", "maml_core.")) or list(module.buffers(recurse=False)):
            return None
        if any(value for key, value in vars(module).items() if "hook" in key and isinstance(value, dict)):
            return None
        if not all(isinstance(part, _PLAIN) for value in attributes.values() for part in _parts(value)):
            return None
        found.append((name, kind.__module__, kind.__qualname__, sorted(attributes.items()), list(module._parameters)))
    return found


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _capacity(tasks: TaskBatch) -> int:
    """Meta-iterations per call of the loop: enough to make a call's cost vanish, few enough to draw quickly."""
    points = tasks.support_x.numel() + tasks.query_x.numel()
    return max(1, min(256, 2**19 // points))


def _padded(tensor: Tensor, length: int) -> Tensor:
    missing = length - tensor.shape[0]
    return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor


def _mm(left: Tensor, right: Tensor) -> Any:
    """A product with a dimension of one as multiply-and-sum: it fuses with its neighbors, a library call does not."""
    if left.shape[-1] == 1:
        return left * right
    if right.shape[-1] == 1:
        return (left * right.transpose(-1, -2)).sum(-1, keepdim=True)
    if left.shape[-2] == 1:
        return (left.transpose(-1, -2) * right).sum(-2, keepdim=True)
    return NotImplemented


def _addmm(bias: Tensor, left: Tensor, right: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    if beta != 1 or alpha != 1:
        return NotImplemented
    return bias + torch.matmul(left, right)


_DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    _aten.mm.default: _mm,
    _aten.bmm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.baddbmm.default: _addmm,
}
