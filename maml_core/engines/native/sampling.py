"""A stream's tasks drawn in C++: torch's own generator, and what a family makes of its numbers.

Which numbers a family asks for, and what it does with them, is seen by watching it draw one task. Arithmetic, whose
rounding is the same everywhere, is lowered; a sine, a logarithm and their like are torch's own, of all tasks of a block
at once, between two stages of the program. So the bits are torch's; a family that does anything else is left to torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from maml_core.engines import tracing
from maml_core.engines.native.calls import Calls
from maml_core.engines.native.ir import Buffer, UnsupportedError
from maml_core.engines.native.lowering import lower
from maml_core.engines.native.operations import VIEWS
from maml_core.engines.native.program import HERE, Program, function_text, signature, written
from maml_core.engines.native.toolchain import Build
from maml_core.engines.native.writer import Writer, padded
from maml_core.errors import EngineError
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.tasks import TaskBatch, TaskStream, seeded

aten = torch.ops.aten

LANES = 8
"""Points are drawn in vectors of so many; those of a task are filled up with points that nobody sees."""

MOST_NUMBERS = 10_000
"""That a task may take: beyond, the drawing is not what a run waits for."""

EXACT = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.abs.default,
    aten.clamp.default,
    aten.maximum.default,
    aten.minimum.default,
    aten.where.self,
    aten.scalar_tensor.default,
    *(
        getattr(getattr(aten, name), kind)
        for name in ("lt", "le", "gt", "ge", "eq", "ne")
        for kind in ("Scalar", "Tensor")
    ),
}
"""Operations that IEEE 754 leaves no choice in, but for the sign of a zero."""

BY_TORCH: dict[Any, Any] = {
    aten.exp.default: aten.exp.out,
    aten.log.default: aten.log.out,
    aten.sin.default: aten.sin.out,
    aten.cos.default: aten.cos.out,
    aten.tanh.default: aten.tanh.out,
    aten.sqrt.default: aten.sqrt.out,  # of MKL, whose last bit is not always the nearest
    aten.special_ndtri.default: aten.special_ndtri.out,
    aten.pow.Tensor_Scalar: aten.pow.Tensor_Scalar_out,
    aten.pow.Tensor_Tensor: aten.pow.Tensor_Tensor_out,
}
"""Functions of one tensor, element by element, whose last bit is the library's that computes them; in place, too."""


class Sampler:
    """Draws the blocks of a stream, once its compiler is done."""

    def __init__(self, stream: TaskStream) -> None:
        """Write the program for a stream's family, and start the compiler.

        Raises:
            EngineError: the family draws in a way that cannot be lowered, or there is no compiler.
        """
        family, is_known = stream.family, stream.dtype in (torch.float32, torch.float64)
        if not isinstance(family, GeneratedFamily) or not is_known or torch.device(stream.device).type != "cpu":
            raise EngineError("The native loop draws tasks that are generated, on the CPU.")
        self._tasks = stream.block_size * stream.meta_batch_size
        self._dtype, self._sample = stream.dtype, stream.sample
        self._shapes = [
            (stream.block_size, stream.meta_batch_size, points, size)
            for points in (family.points_of(stream.shots), family.points_of(stream.query_shots))
            for size in (family.input_size, family.output_size)
        ]
        self._plan = written(lambda: _Plan.of(stream, self._tasks))
        self._program = written(lambda: _program(stream, self._plan))
        self._numbers = torch.zeros(self._plan.size, dtype=torch.float64)
        self._build: Build | None = Build(self._program)
        self._calls: Calls | None = None

    def __call__(self, seed: int) -> TaskBatch | None:
        """The block of a generator with that seed `[iterations, tasks, points, features]`; None if torch must draw."""
        if self._build is not None and self._build.is_done():
            build, self._build = self._build, None
            try:
                calls = Calls(self._program, build.load())
            except EngineError:
                return None
            expected = self._sample(torch.Generator().manual_seed(seed), torch.float64)
            if all(map(torch.equal, self._block(calls, seed, torch.float64), expected)):
                self._calls = calls
        return self._block(self._calls, seed, self._dtype) if self._calls else None

    def close(self) -> None:
        """End the compiler."""
        if self._build is not None:
            self._build.cancel()
        self._build = None

    def _block(self, calls: Calls, seed: int, dtype: torch.dtype) -> TaskBatch:
        found = TaskBatch(*(torch.empty(shape, dtype=dtype) for shape in self._shapes))
        suffix = "" if dtype == self._dtype else "_double"
        for stage in range(self._plan.stages):
            calls(f"draw{stage}{suffix}", [self._tasks, seed % 2**32], [*found, self._numbers])
            for each in self._plan.asked:
                if each.stage == stage:
                    each.function(self._numbers[each.first : each.first + self._tasks * each.count])
        return found


class _Watch(TorchDispatchMode):
    """Notes how many numbers are drawn, or gives prepared ones; refuses what rounds in a way of its own."""

    def __init__(self, numbers: Sequence[Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[torch.Size] = []
        self._numbers = None if numbers is None else list(numbers)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nobody compiles this."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.rand.generator:
            self.sizes.append(torch.Size(args[0]))
            found = func(*args, **kwargs) if self._numbers is None else self._numbers.pop(0)
            if found.dtype != torch.float64 or found.shape != self.sizes[-1]:
                raise UnsupportedError("The native loop draws numbers in double precision only.")
            return found
        found = func(*args, **kwargs)
        if not self._is_sure(func, args, kwargs, found):
            raise UnsupportedError(f"The native loop draws no tasks with {func}.")
        return found

    @staticmethod
    def _is_sure(func: Any, args: Any, kwargs: Any, found: Any) -> bool:
        """Whether its bits are known: float32 is but moved about, as where a sign is chosen."""
        if not isinstance(found, Tensor):  # several views
            return func in VIEWS
        kinds = {each.dtype for each in args if isinstance(each, Tensor)}
        if func is aten.scalar_tensor.default:
            return bool(found.item() == args[0])
        if found.dtype not in (torch.float64, torch.bool):
            return (func in VIEWS or func is aten.where.self) and kinds <= {found.dtype, torch.bool}
        return func in VIEWS or func in BY_TORCH or (func in EXACT and kwargs.get("alpha", 1) == 1)


def _draw(stream: TaskStream, points: int) -> tuple[Tensor, Tensor]:
    """A task with so many points, as its family draws it: x and y `[points, features]`."""
    assert isinstance(stream.family, GeneratedFamily)
    generator = seeded("")
    parameters = stream.family.sample_parameters((), generator)
    return stream.family.sample_points(parameters, points, generator, task_set=stream.task_set)


def _traced(stream: TaskStream, points: int) -> tracing.Trace:
    """What drawing a task with so many points does: from numbers in [0, 1) to x and y."""
    watch = _Watch()
    with watch:
        _draw(stream, points)
    if sum(size.numel() for size in watch.sizes) > MOST_NUMBERS:
        raise UnsupportedError("A task takes too many numbers.")
    examples = [torch.linspace(0.1, 0.9, size.numel(), dtype=torch.float64).reshape(size) for size in watch.sizes]

    def drawn(*numbers: Tensor) -> tuple[Tensor, ...]:
        with _Watch(numbers):
            return _draw(stream, points)

    with torch.no_grad():
        found = tracing.trace(drawn, *examples)
    for node, size in zip(found.graph.find_nodes(op="placeholder"), watch.sizes, strict=True):
        node.meta["shape"] = size
    return found


@dataclass(frozen=True)
class _Array:
    """Numbers of all tasks, so many for each, in the program's memory: drawn, or asked of torch."""

    node: fx.Node  # in the trace with points to fill up
    first: int
    count: int
    stage: int = -1  # after which torch is asked for it
    function: Callable[[Tensor], object] = id  # in place


@dataclass(frozen=True)
class _Plan:
    """Which numbers there are, and in what order they come."""

    traced: tracing.Trace  # of as many points as fill vectors
    drawn: tuple[_Array, ...]
    asked: tuple[_Array, ...]
    stages: int
    size: int  # numbers in all

    @classmethod
    def of(cls, stream: TaskStream, tasks: int) -> "_Plan":
        """For blocks of so many tasks."""
        points = stream.family.points_of(stream.shots) + stream.family.points_of(stream.query_shots)
        own, whole = _traced(stream, points), _traced(stream, -(-points // LANES) * LANES)
        stage: dict[fx.Node, int] = {}  # in which a value is known
        drawn, asked, size = list[_Array](), list[_Array](), 0
        beyond = 0  # numbers that vectors read after the last task's
        for one, node in zip(own.graph.nodes, whole.graph.nodes, strict=True):
            if one.op != node.op or (one.op == "call_function" and one.target is not node.target):
                raise UnsupportedError("The number of points changes what is drawn.")
            is_asked = node.target in BY_TORCH
            stage[node] = max((stage[given] for given in node.all_input_nodes), default=0) + is_asked
            if node.op != "placeholder" and not is_asked:
                continue
            count = math.prod(one.meta["shape"])
            beyond = max(beyond, math.prod(node.meta["shape"]) - count)
            if is_asked:
                asked.append(_Array(node, size, count, stage[node] - 1, _function(whole, node)))
            else:
                drawn.append(_Array(node, size, count))
            size += padded(tasks * count)
        return cls(whole, tuple(drawn), tuple(asked), 1 + max(stage.values(), default=0), size + beyond)


def _function(traced: tracing.Trace, node: fx.Node) -> Callable[[Tensor], object]:
    """What torch is asked for: a function of the node's first argument, in its place, with the others as they are."""
    _, *others = node.args
    rest: list[Any] = [
        getattr(traced.constants, str(each.target)) if isinstance(each, fx.Node) else each for each in others
    ]
    are_known = all(not isinstance(each, fx.Node) or each.op == "get_attr" for each in others)
    if not are_known or not all(isinstance(each, float | int) or each.ndim == 0 for each in rest) or node.kwargs:
        raise UnsupportedError(f"The native loop draws no tasks with {node.target} of two tensors.")
    function = BY_TORCH[node.target]
    return lambda part: function(part, *rest, out=part)


def _stage(plan: _Plan, stage: int) -> tuple[tracing.Trace, list[_Array], list[_Array]]:
    """What is computed in a stage, from which arrays, and for which; for none of them: x and y."""
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    arrays = {each.node: each for each in (*plan.drawn, *plan.asked)}
    given, wanted, outputs = list[_Array](), list[_Array](), list[fx.Node]()
    for node in plan.traced.graph.nodes:
        array = arrays.get(node)
        if array is not None and array.stage < stage:
            known[node] = graph.placeholder(node.name)
            known[node].meta = dict(node.meta)
            given.append(array)
        elif array is not None and array.stage == stage:
            wanted.append(array)
            asked: Any = node.args[0]
            outputs.append(known[asked])
        elif array is None and node.op != "output" and all(each in known for each in node.all_input_nodes):
            known[node] = graph.node_copy(node, known.__getitem__)
    if not wanted:
        results: Any = plan.traced.graph.output_node().args[0]
        outputs = [known[node] for node in results]
    graph.output(outputs)
    graph.eliminate_dead_code()
    return tracing.Trace(graph, plan.traced.constants, None), given, wanted


def _program(stream: TaskStream, plan: _Plan) -> Program:
    write = Writer()
    functions, loops = [], []
    for number in range(plan.stages):
        traced, given, wanted = _stage(plan, number)
        names = [f"u{k}" for k in range(len(given))]
        buffers = [Buffer.at(name, each.node.meta["shape"]) for name, each in zip(names, given, strict=True)]
        write.begin()
        outputs = lower(write, traced, [write.of(buffer) for buffer in buffers])
        targets = [f"out{k}" for k in range(len(outputs))]
        for value, name in zip(outputs, targets, strict=True):
            write.store_into(value, Buffer.at(name, value.shape))
        functions.append(function_text(f"task{number}", signature(names, [*targets, "heap"]), write.body()))
        if wanted:
            copies = [(f"numbers + {each.first}", f"out{k}", each.count, 0) for k, each in enumerate(wanted)]
        else:
            copies = _parts(stream)
        loops.append(
            _LOOP.format(
                number=number,
                fill=_fill(plan) if number == 0 else "",
                arrays="".join(
                    f"alignas(64) T {name}[{padded(value.count)}]; "
                    for name, value in zip(targets, outputs, strict=True)
                ),
                given="".join(f"numbers + {each.first} + {each.count} * t, " for each in given),
                targets=", ".join(targets),
                copies="\n    ".join(
                    f"for (int i = 0; i < {size}; i++) ({to})[t * {size} + i] = {source}[{first} + i];"
                    for to, source, size, first in copies
                ),
                kind="float" if stream.dtype == torch.float32 else "double",
            )
        )
    if write.prologue or write.shared_size:  # of numbers that depend on nothing that is drawn
        raise UnsupportedError("The native loop draws no tasks with what all tasks share.")
    headers = [(HERE / name).read_text(encoding="utf-8") for name in ("kernels.h", "mersenne.h")]
    source = "\n".join(["typedef double T;", *headers, *write.statics, *functions, *loops])
    return Program(source, 1, 1, 1 + padded(write.heap_size), write.uses_maths, contracts=False)


def _fill(plan: _Plan) -> str:
    """First all tasks' numbers of one kind, then of the next."""
    draws = (f"random.uniform(numbers + {each.first}, {each.count} * count);" for each in plan.drawn)
    return "Mersenne random((U)seed); " + " ".join(draws)


def _parts(stream: TaskStream) -> list[tuple[str, str, int, int]]:
    """Where the parts of x and y go: to where, from where, how many numbers, and the first of them."""
    family = stream.family
    support, query = family.points_of(stream.shots), family.points_of(stream.query_shots)
    x, y = family.input_size, family.output_size
    return [
        ("sx", "out0", support * x, 0),
        ("sy", "out1", support * y, 0),
        ("qx", "out0", query * x, support * x),
        ("qy", "out1", query * y, support * y),
    ]


_LOOP = """
// A stage of drawing as many tasks as `count`, from the generator of that seed.
template <class F> INL void stage{number}(long count, long seed, F* sx, F* sy, F* qx, F* qy, T* numbers, T* heap) {{
  {fill}
  for (long t = 0; t < count; t++) {{
    {arrays}
    task{number}({given}{targets}, heap);
    {copies}
  }}
}}
extern "C" void draw{number}(long count, long seed, {kind}* sx, {kind}* sy, {kind}* qx, {kind}* qy, T* numbers, T* work,
                             T* own, int thread, int threads, int* sync) {{
  stage{number}(count, seed, sx, sy, qx, qy, numbers, own);
}}
extern "C" void draw{number}_double(long count, long seed, T* sx, T* sy, T* qx, T* qy, T* numbers, T* work, T* own,
                                    int thread, int threads, int* sync) {{
  stage{number}(count, seed, sx, sy, qx, qy, numbers, own);
}}
"""
