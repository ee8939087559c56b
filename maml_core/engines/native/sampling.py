"""A stream's tasks drawn in C++: torch's own generator, and what a family makes of its numbers.

Which numbers a family asks for is seen by watching it draw one task; what it makes of them is lowered like any other
function. The bits are those that torch gives, or else torch draws.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maml_core.engines.native.calls import Calls
from maml_core.engines.native.ir import Buffer, UnsupportedError
from maml_core.engines.native.lowering import lower, trace
from maml_core.engines.native.program import HERE, Program, function_text, signature, written
from maml_core.engines.native.toolchain import Build
from maml_core.engines.native.writer import Writer, padded
from maml_core.errors import EngineError
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.tasks import TaskBatch, TaskStream, seeded

aten = torch.ops.aten

LANES = 8
"""Points are drawn in vectors of so many; those of a task are filled up with points that nobody sees."""

_BEYOND = 64
"""Numbers that may be read beyond the last task's."""


class Sampler:
    """Draws the blocks of a stream, once its compiler is done."""

    def __init__(self, stream: TaskStream) -> None:
        """Write the program for a stream's family, and start the compiler.

        Raises:
            EngineError: the family draws in a way that cannot be lowered, or there is no compiler.
        """
        if not isinstance(stream.family, GeneratedFamily) or torch.device(stream.device).type != "cpu":
            raise EngineError("The native loop draws tasks that are generated, on the CPU.")
        self._stream = stream
        self._tasks = stream.block_size * stream.meta_batch_size
        counts = [size.numel() for size in _sizes(stream, _points(stream))]
        self._program = written(lambda: _program(stream, counts))
        self._numbers = torch.empty(self._tasks * sum(counts) + _BEYOND, dtype=torch.float64)
        self._build: Build | None = Build(self._program)
        self._calls: Calls | None = None

    def __call__(self, seed: int) -> TaskBatch | None:
        """The block of a generator with that seed `[iterations, tasks, points, features]`; None if torch must draw."""
        if self._build is not None and self._build.is_done():
            build, self._build = self._build, None
            try:
                self._calls = Calls(self._program, build.load())
            except EngineError:
                return None
            if not all(map(torch.equal, self._block(seed), self._stream.sample(torch.Generator().manual_seed(seed)))):
                self._calls = None  # a sine of other bits, as without torch's vectors
        return self._block(seed) if self._calls else None

    def close(self) -> None:
        """End the compiler."""
        if self._build is not None:
            self._build.cancel()
        self._build = None

    def _block(self, seed: int) -> TaskBatch:
        assert self._calls is not None
        stream, family = self._stream, self._stream.family
        shape = stream.block_size, stream.meta_batch_size
        support, query = family.points_of(stream.shots), family.points_of(stream.query_shots)
        found = TaskBatch(
            *(
                torch.empty(*shape, points, size, dtype=stream.dtype)
                for points in (support, query)
                for size in (family.input_size, family.output_size)
            )
        )
        self._calls("draw", [self._tasks, seed % 2**32], [*found, self._numbers])
        return found


class _Given(TorchDispatchMode):
    """Gives prepared numbers for those that are drawn, or notes how many are."""

    def __init__(self, numbers: Sequence[Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[torch.Size] = []
        self._numbers = None if numbers is None else list(numbers)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not aten.rand.generator:
            return func(*args, **(kwargs or {}))
        self.sizes.append(torch.Size(args[0]))
        found = func(*args, **(kwargs or {})) if self._numbers is None else self._numbers.pop(0)
        if found.dtype != torch.float64 or found.shape != self.sizes[-1]:
            raise UnsupportedError("The native loop draws numbers in double precision only.")
        return found


def _points(stream: TaskStream) -> int:
    return stream.family.points_of(stream.shots) + stream.family.points_of(stream.query_shots)


def _draw(stream: TaskStream, points: int) -> tuple[Tensor, Tensor]:
    """A task with so many points, as its family draws it: x and y `[points, features]`."""
    assert isinstance(stream.family, GeneratedFamily)
    generator = seeded("")
    parameters = stream.family.sample_parameters((), generator)
    return stream.family.sample_points(parameters, points, generator, task_set=stream.task_set)


def _sizes(stream: TaskStream, points: int) -> list[torch.Size]:
    """Of the numbers that are drawn for such a task, one after the other."""
    watched = _Given()
    with watched:
        _draw(stream, points)
    return watched.sizes


def _program(stream: TaskStream, counts: Sequence[int]) -> Program:
    """The program, for tasks that take so many numbers of each kind."""
    whole = -(-_points(stream) // LANES) * LANES
    shapes = _sizes(stream, whole)

    def drawn(*numbers: Tensor) -> tuple[Tensor, ...]:
        with _Given(numbers):
            return _draw(stream, whole)

    write = Writer()
    write.begin()
    buffers = [Buffer.at(f"u{k}", shape) for k, shape in enumerate(shapes)]
    examples = [torch.linspace(0.1, 0.9, shape.numel(), dtype=torch.float64).reshape(shape) for shape in shapes]
    outputs = lower(write, trace(drawn, examples), [write.of(buffer) for buffer in buffers])
    for value, name in zip(outputs, ("x", "y"), strict=True):
        write.store_into(value, Buffer.at(name, value.shape))
    task = function_text("task", signature([b.base for b in buffers], ["x", "y", "heap"]), write.body())
    names = ["kernels.h", *(["maths.h"] if write.uses_maths else []), "mersenne.h"]
    headers = [(HERE / name).read_text(encoding="utf-8") for name in names]
    family = stream.family
    support, query = family.points_of(stream.shots), family.points_of(stream.query_shots)
    x, y = family.input_size, family.output_size
    copies = [
        ("sx", "x", support * x, 0),
        ("sy", "y", support * y, 0),
        ("qx", "x", query * x, support * x),
        ("qy", "y", query * y, support * y),
    ]
    places = [(sum(counts[:k]), count) for k, count in enumerate(counts)]
    loop = _LOOP.format(
        kind="float" if stream.dtype == torch.float32 else "double",
        fill=" ".join(f"random.uniform(numbers + {before} * count, {each} * count);" for before, each in places),
        given="".join(f"numbers + {before} * count + {each} * t, " for before, each in places),
        x_size=padded(whole * x),
        y_size=padded(whole * y),
        copies="\n    ".join(
            f"for (int i = 0; i < {size}; i++) {target}[t * {size} + i] = {source}[{first} + i];"
            for target, source, size, first in copies
        ),
    )
    source = "\n".join(["typedef double T;", *headers, *write.statics, task, loop])
    return Program(source, 1, 1, 1 + padded(write.heap_size), write.uses_maths, contracts=False)


_LOOP = """
// As many tasks as `count`, drawn from the generator of that seed: first all tasks' numbers of one kind, then the next.
extern "C" void draw(long count, long seed, {kind}* sx, {kind}* sy, {kind}* qx, {kind}* qy, T* numbers, T* work, T* own,
                     int thread, int threads, int* sync) {{
  Mersenne random((U)seed);
  {fill}
  for (long t = 0; t < count; t++) {{
    alignas(64) T x[{x_size}], y[{y_size}];
    task({given}x, y, own);
    {copies}
  }}
}}
"""
