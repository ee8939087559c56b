"""What every program is made of: the functions of one task, lowered from the definitions in `learning`.

A program is C++: such functions, and a loop over tasks that calls them. `training_loop` trains, `following` follows
adaptation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from maml_core.engines.native.ir import Buffer, Value
from maml_core.engines.native.lowering import lower, trace
from maml_core.engines.native.writer import Writer, padded
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import Algorithm, Loss, Parameters, Phi, Theta
from maml_core.learning.layout import Layout
from maml_core.learning.problems import Problem

HERE = Path(__file__).parent
"""Where the headers are."""

Written = TypeVar("Written")

Measure = Callable[[Parameters, Tensor, Tensor], Tensor]
"""measure(parameters, x `[points, inputs]`, y `[points, outputs]`) -> a scalar."""


@dataclass(frozen=True)
class Program:
    """C++ source, and the memory that it wants."""

    source: str
    groups: int  # the most threads that can share its work; the bits do not depend on how many do
    work: int  # numbers that all threads share
    work_each: int  # further numbers for each thread
    uses_maths: bool
    contracts: bool = True  # whether a product and a sum may be rounded once


def written(make: Callable[[], Written]) -> Written:
    """What `make` writes: a program, or one with what belongs to it.

    Raises:
        EngineError: it cannot be written.
    """
    try:
        return make()
    except EngineError:
        raise
    except Exception as error:  # tracing runs the model's own code, and torch's on its behalf
        line = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise EngineError(f"The native loop cannot be written for this model ({line}).") from error


class Pack:
    """Named tensors one after the other in memory, in one or two sets."""

    def __init__(self, sets: Sequence[Mapping[str, torch.Size]]) -> None:
        """By their shapes."""
        self.sets = [dict(shapes) for shapes in sets]
        self.shapes = [shape for shapes in self.sets for shape in shapes.values()]
        self.size = sum(shape.numel() for shape in self.shapes)

    def buffers(self, base: str) -> list[Buffer]:
        """Where each of them lies, from `base` on."""
        offset, found = 0, []
        for shape in self.shapes:
            found.append(Buffer.at(base, shape, offset))
            offset += shape.numel()
        return found

    def examples(self, dtype: torch.dtype) -> list[Tensor]:
        """Tensors of these shapes to trace with: each its own, since a trace takes equal ones for one."""
        return [torch.linspace(0.1, 0.9, max(1, shape.numel()), dtype=dtype).reshape(shape) for shape in self.shapes]

    def named(self, tensors: Sequence[Tensor]) -> list[Parameters]:
        """Tensors in the order of the shapes, by name."""
        left = iter(tensors)
        return [{name: next(left) for name in shapes} for shapes in self.sets]


class TaskFunctions:
    """The functions of one task of a model and an algorithm, in C++ as they are written."""

    def __init__(
        self, model: nn.Module, algorithm: Algorithm, problem: Problem, support: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        """`support` are x and y of one task, to know its shapes by."""
        self.algorithm = algorithm
        self.loss = Loss(model, problem)
        layout = Layout(model, algorithm)
        self.size = layout.size
        self.theta = Pack([layout.shapes, layout.extra_shapes])
        begun = algorithm.begin(Theta(*self.theta.named(self.theta.examples(dtype))))
        self.phi = Pack([{name: value.shape for name, value in part.items()} for part in begun])
        self.dtype = dtype
        self.support = [spread(tensor.shape, dtype) for tensor in support]
        self.lr = torch.full((), 0.01, dtype=dtype)
        self.write = Writer()

    @property
    def each(self) -> int:
        """Numbers that a thread needs for itself: phi before a step and after, and large arrays."""
        return 2 * padded(self.phi.size) + padded(self.write.heap_size)

    def begin(self) -> str:
        """`begin`: phi before any inner step."""

        def function(*given: Tensor) -> list[Tensor]:
            return flat(self.algorithm.begin(Theta(*self.theta.named(given))))

        return self.lowered("begin", function, self.theta.examples(self.dtype), self.shared_theta(), [])

    def step(self, name: str, *, is_first: bool) -> str:
        """An inner step: the first from theta itself, which all tasks share, the others from a task's own phi."""
        theta_count = len(self.theta.shapes)

        def function(*given: Tensor) -> list[Tensor]:
            theta = Theta(*self.theta.named(given[:theta_count]))
            *own, x, y, lr = given[theta_count:]
            phi = self.algorithm.begin(theta) if is_first else Phi(*self.phi.named(own))
            return flat(self.algorithm.step(self.loss, theta, phi, x, y, lr))

        own = [] if is_first else self.phi.examples(self.dtype)
        examples = [*self.theta.examples(self.dtype), *own, *self.support, self.lr.clone()]
        names = ["x", "y", "lr"]
        inputs = [*self.shared_theta(), *([] if is_first else self.values(self.phi.buffers("phi")))]
        inputs += self.at(names, examples[-3:])
        return self.lowered(name, function, examples, inputs, [*([] if is_first else ["phi"]), *names])

    def judge(self, name: str, measure: Measure, points: Sequence[Tensor], *, is_adapted: bool) -> str:
        """What `measure` gives at a task's `points`, x and y, with phi, or without inner steps as it begins."""
        theta_count = len(self.theta.shapes)

        def function(*given: Tensor) -> list[Tensor]:
            theta = Theta(*self.theta.named(given[:theta_count]))
            *own, x, y = given[theta_count:]
            phi = Phi(*self.phi.named(own)) if is_adapted else self.algorithm.begin(theta)
            return [measure(theta.parameters | phi.parameters, x, y)]

        examples = [*self.theta.examples(self.dtype), *self.phi.examples(self.dtype), *points]
        names = ["x", "y"]
        inputs = [*self.shared_theta(), *self.values(self.phi.buffers("phi")), *self.at(names, points)]
        return self.lowered(name, function, examples, inputs, ["phi", *names], [Buffer.at("out", ())])

    def lowered(
        self,
        name: str,
        function: Callable[..., list[Tensor]],
        examples: Sequence[Tensor],
        inputs: Sequence[Value],
        given: Sequence[str],
        targets: Sequence[Buffer] | None = None,
    ) -> str:
        """A function that leaves its results in `out`: a phi, unless `targets` says otherwise."""
        self.write.begin()
        outputs = lower(self.write, trace(function, examples), inputs)
        for value, target in zip(outputs, targets or self.phi.buffers("out"), strict=True):
            self.write.store_into(value, target)
        return function_text(name, signature(["theta", "shared", *given], ["out", "heap"]), self.write.body())

    def shared_theta(self) -> list[Value]:
        """What is meta-learned, the same for all tasks."""
        return [self.write.of(buffer, is_shared=True) for buffer in self.theta.buffers("theta")]

    def values(self, buffers: Sequence[Buffer]) -> list[Value]:
        """What lies in these buffers."""
        return [self.write.of(buffer) for buffer in buffers]

    def at(self, names: Sequence[str], examples: Sequence[Tensor]) -> list[Value]:
        """Arguments of these names, in the shapes of `examples`."""
        return self.values([Buffer.at(name, tensor.shape) for name, tensor in zip(names, examples, strict=True)])

    def source(self, functions: Sequence[str], loop: str) -> str:
        """The whole: what the functions are written in, they themselves, what is run once for all tasks, the loop."""
        type_name = "float" if self.dtype == torch.float32 else "double"
        headers = ["kernels.h", *self.write.headers, "threads.h"]
        parts = [f"typedef {type_name} T;", *((HERE / name).read_text(encoding="utf-8") for name in headers)]
        prologue = function_text("prologue", signature(["theta"], ["shared"]), self.write.shared_body())
        return "\n".join([*parts, *self.write.statics, *functions, prologue, loop])


def spread(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An example of a task's points to trace with."""
    return torch.linspace(-0.9, 0.8, math.prod(shape), dtype=dtype).reshape(tuple(shape))


def flat(parts: Sequence[Parameters]) -> list[Tensor]:
    """The tensors of theta or phi in the order of their pack."""
    return [value for part in parts for value in part.values()]


def signature(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """The arguments of a function."""
    return ", ".join([*(f"const T* __restrict {n}" for n in inputs), *(f"T* __restrict {n}" for n in outputs)])


def function_text(name: str, arguments: str, body: str) -> str:
    """A function in C++."""
    return f"static void {name}({arguments}) {{\n  {body}\n}}\n"
