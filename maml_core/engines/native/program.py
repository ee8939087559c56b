"""The whole program of a run: what a task does, what the meta-optimizer does, and the loop around them.

Five functions are lowered, each from the definitions in `learning` and nothing else: `first` and `step` take an inner
step, `finish` gives a task's meta-gradient, `assess` its query loss alone, `update` is the meta-optimizer. Inner steps
are a loop in C++, so one and two hundred compile equally fast; only second-order meta-gradients are unrolled. Tasks are
summed in a fixed number of groups, so that any number of threads gives the same bits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.engines.native.ir import Buffer, Value
from maml_core.engines.native.lowering import lower, trace
from maml_core.engines.native.writer import Writer, padded
from maml_core.learning.inner_loop import Algorithm, InnerLoop, Loss, Parameters, Phi, Theta
from maml_core.learning.layout import Layout
from maml_core.learning.problems import Problem
from maml_core.learning.tasks import TaskBatch

GROUPS = 8
"""Sums that a meta-batch's tasks are divided into: the most threads that can share one."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Program:
    """C++ source, and the memory that it wants."""

    source: str
    groups: int
    work: int  # numbers that all threads share
    work_each: int  # further numbers for each thread
    uses_maths: bool


class _Pack:
    """Named tensors one after the other in memory, in one or two sets."""

    def __init__(self, sets: Sequence[Mapping[str, torch.Size]]) -> None:
        self.sets = [dict(shapes) for shapes in sets]
        self.shapes = [shape for shapes in self.sets for shape in shapes.values()]
        self.size = sum(shape.numel() for shape in self.shapes)

    def buffers(self, base: str) -> list[Buffer]:
        offset, found = 0, []
        for shape in self.shapes:
            found.append(Buffer.at(base, shape, offset))
            offset += shape.numel()
        return found

    def examples(self, dtype: torch.dtype) -> list[Tensor]:
        """Tensors of these shapes to trace with: each its own, since a trace takes equal ones for one."""
        return [torch.linspace(0.1, 0.9, max(1, shape.numel()), dtype=dtype).reshape(shape) for shape in self.shapes]

    def named(self, tensors: Sequence[Tensor]) -> list[Parameters]:
        left = iter(tensors)
        return [{name: next(left) for name in shapes} for shapes in self.sets]


def make_program(
    model: nn.Module,
    algorithm: Algorithm,
    problem: Problem,
    inner: InnerLoop,
    meta_optimizer: MetaOptimizer,
    tasks: TaskBatch,
    dtype: torch.dtype,
    *,
    judged_points: int | None = None,
    rounds: bool = False,
) -> Program:
    """The program for meta-batches of these shapes `[tasks, points, features]`.

    It also judges tasks of `judged_points` query points, by default as many as in training.

    With `rounds` the state is rounded to float32 after every meta-iteration, so that a chunk may end anywhere.

    Raises:
        UnsupportedError: the model, or the problem, does something that cannot be lowered.
    """
    return _Builder(
        model, algorithm, problem, inner, meta_optimizer, tasks, dtype, judged_points or tasks.query_x.shape[1], rounds
    ).program()


class _Builder:
    def __init__(
        self,
        model: nn.Module,
        algorithm: Algorithm,
        problem: Problem,
        inner: InnerLoop,
        meta_optimizer: MetaOptimizer,
        tasks: TaskBatch,
        dtype: torch.dtype,
        judged_points: int,
        rounds: bool,
    ) -> None:
        self.algorithm, self.inner, self.meta_optimizer = algorithm, inner, meta_optimizer
        self.loss = Loss(model, problem)
        layout = Layout(model, algorithm)
        self.size = layout.size
        self.theta = _Pack([layout.shapes, layout.extra_shapes])
        begun = algorithm.begin(Theta(*self.theta.named(self.theta.examples(dtype))))
        self.phi = _Pack([{name: value.shape for name, value in part.items()} for part in begun])
        self.dtype, self.rounds = dtype, rounds
        self.count = tasks.support_x.shape[0]
        self.task = [_spread(t.shape[1:], dtype) for t in tasks]
        self.judged = [_spread((judged_points, *t.shape[2:]), dtype) for t in tasks[2:]]
        self.lr = torch.full((), 0.01, dtype=dtype)
        self.steps_are_taken = algorithm.is_first_order and inner.steps > 0
        self.vectors = 3 + (meta_optimizer.ema_decay is not None)
        self.write = Writer()

    def program(self) -> Program:
        functions = []
        if self.inner.steps:
            functions.append(self._step("first"))
        if self.inner.steps > 1:
            functions.append(self._step("step"))
        functions += [self._finish(), self._assess(), self._update()]
        write, type_name = self.write, "float" if self.dtype == torch.float32 else "double"
        prologue = _function("prologue", "const T* __restrict theta, T* __restrict shared", write.shared_body())
        headers = ["kernels.h", *(["maths.h"] if write.uses_maths else [])]
        parts = [f"typedef {type_name} T;", *((_HERE / name).read_text(encoding="utf-8") for name in headers)]
        groups = min(self.count, GROUPS)
        loop = self._loop(groups)
        return Program(
            "\n".join([*parts, *write.statics, *functions, prologue, loop]),
            groups,
            work=padded(write.shared_size) + groups * self._group_size() + self.vectors * padded(self.size),
            work_each=2 * padded(self.phi.size) + padded(write.heap_size),
            uses_maths=write.uses_maths,
        )

    # One task ---------------------------------------------------------------------------------------------------

    def _step(self, name: str) -> str:
        """An inner step: the first from theta itself, which all tasks share, the others from a task's own phi."""
        is_first = name == "first"
        theta_count = len(self.theta.shapes)

        def function(*given: Tensor) -> list[Tensor]:
            theta = Theta(*self.theta.named(given[:theta_count]))
            *own, x, y, lr = given[theta_count:]
            phi = self.algorithm.begin(theta) if is_first else Phi(*self.phi.named(own))
            return _flat(self.algorithm.step(self.loss, theta, phi, x, y, lr))

        own = [] if is_first else self.phi.examples(self.dtype)
        examples = [*self.theta.examples(self.dtype), *own, *self.task[:2], self.lr.clone()]
        names = ["x", "y", "lr"]
        inputs = [*self._shared_theta(), *([] if is_first else self._values(self.phi.buffers("phi")))]
        inputs += self._values([Buffer.at(n, t.shape) for n, t in zip(names, examples[-3:], strict=True)])
        self.write.begin()
        outputs = lower(self.write, trace(function, examples), inputs)
        for value, target in zip(outputs, self.phi.buffers("out"), strict=True):
            self.write.store_into(value, target)
        given = [] if is_first else ["phi"]
        return _function(name, _signature(["theta", "shared", *given, *names], ["out", "heap"]), self.write.body())

    def _finish(self) -> str:
        """A task's meta-gradient, added to the group's, and its query loss after and before adaptation."""
        theta_count, phi_count = len(self.theta.shapes), len(self.phi.shapes)

        def function(*given: Tensor) -> list[Tensor]:
            theta = Theta(*self.theta.named(given[:theta_count]))
            own = given[theta_count : theta_count + phi_count]
            *tensors, lr = given[theta_count + phi_count :]
            task = TaskBatch(*tensors)
            phi = Phi(*self.phi.named(own)) if self.steps_are_taken else self.algorithm.begin(theta)
            inner = InnerLoop(lr, self.inner.steps, self.inner.perturbation)
            gradient, after = self.algorithm.gradient(self.loss, theta, phi, task, inner)
            before = self.loss(theta.parameters, task.query_x, task.query_y)
            return [after, before, *_flat(gradient)]

        examples = [
            *self.theta.examples(self.dtype), *self.phi.examples(self.dtype), *self.task, self.lr.clone(),
        ]  # fmt: skip  # in the order of the arguments
        names = ["sx", "sy", "qx", "qy", "lr"]
        inputs = [*self._shared_theta(), *self._values(self.phi.buffers("phi"))]
        inputs += self._values([Buffer.at(n, t.shape) for n, t in zip(names, examples[-5:], strict=True)])
        self.write.begin()
        after, before, *gradient = lower(self.write, trace(function, examples), inputs)
        for value, target in zip(gradient, self.theta.buffers("gradient"), strict=True):
            self.write.store_into(value, target, adds=True)
        for value, name in ((after, "after"), (before, "before")):
            self.write.store_into(value, Buffer.at(name, ()))
        outputs = ["gradient", "after", "before", "heap"]
        return _function("finish", _signature(["theta", "shared", "phi", *names], outputs), self.write.body())

    def _assess(self) -> str:
        """A task's query loss after adaptation."""
        theta_count = len(self.theta.shapes)

        def function(*given: Tensor) -> list[Tensor]:
            theta = Theta(*self.theta.named(given[:theta_count]))
            *own, x, y = given[theta_count:]
            phi = Phi(*self.phi.named(own)) if self.inner.steps else self.algorithm.begin(theta)
            return [self.loss(theta.parameters | phi.parameters, x, y)]

        examples = [*self.theta.examples(self.dtype), *self.phi.examples(self.dtype), *self.judged]
        names = ["x", "y"]
        inputs = [*self._shared_theta(), *self._values(self.phi.buffers("phi"))]
        inputs += self._values([Buffer.at(n, t.shape) for n, t in zip(names, self.judged, strict=True)])
        self.write.begin()
        (after,) = lower(self.write, trace(function, examples), inputs)
        self.write.store_into(after, Buffer.at("after", ()))
        return _function("assess", _signature(["theta", "shared", "phi", *names], ["after", "heap"]), self.write.body())

    def _update(self) -> str:
        """The meta-optimizer's step, from the sum of the tasks' gradients."""

        def function(gradient: Tensor, rates: Tensor, *vectors: Tensor) -> list[Tensor]:
            after, norm = self.meta_optimizer.update(vectors, gradient * (1.0 / self.count), rates)
            return [*after, norm]

        flat = torch.linspace(0.1, 0.9, self.size, dtype=self.dtype)
        examples = [flat, torch.ones(3, dtype=self.dtype), *(flat + 0.01 * (k + 1) for k in range(self.vectors))]
        names = ["gradient", "rates", *(f"old{k}" for k in range(self.vectors))]
        outputs = [f"new{k}" for k in range(self.vectors)]
        self.write.begin()
        inputs = self._values([Buffer.at(n, t.shape) for n, t in zip(names, examples, strict=True)])
        *vectors, norm = lower(self.write, trace(function, examples), inputs)
        for value, name in zip(vectors, outputs, strict=True):
            self.write.store_into(value, Buffer.at(name, (self.size,)))
        self.write.store_into(norm, Buffer.at("norm", ()))
        return _function("update", _signature(names, [*outputs, "norm", "heap"]), self.write.body())

    def _shared_theta(self) -> list[Value]:
        return [self.write.of(buffer, is_shared=True) for buffer in self.theta.buffers("theta")]

    def _values(self, buffers: Sequence[Buffer]) -> list[Value]:
        return [self.write.of(buffer) for buffer in buffers]

    # All of them ------------------------------------------------------------------------------------------------

    def _group_size(self) -> int:
        """Numbers of a group's sum: the gradient, and two losses."""
        return padded(self.size) + padded(2)

    def _loop(self, groups: int) -> str:
        sx, sy, qx, qy = (tensor.numel() for tensor in self.task)
        size, group, adapting = padded(self.size), self._group_size(), padded(self.phi.size)
        states = [f"state{k}" for k in range(self.vectors)]
        support, query = f"sx + t * {sx}, sy + t * {sy}", f"qx + t * {qx}, qy + t * {qy}"
        steps, last = "", max(0, self.inner.steps - 1) & 1
        if self.inner.steps:
            steps = f"first(theta, shared, {support}, lr, phi[0], heap);"
        if self.inner.steps > 1:
            steps += (
                f"\n        for (int s = 1; s < {self.inner.steps}; s++) "
                f"step(theta, shared, phi[(s + 1) & 1], {support}, lr, phi[s & 1], heap);"
            )
        judged_x, judged_y = (f"{name} + t * {t.numel()}" for name, t in zip(("qx", "qy"), self.judged, strict=True))
        old = ", ".join(f"now[{k}]" for k in range(self.vectors))
        new = ", ".join(f"next[{k}]" for k in range(self.vectors))
        return _LOOP.format(
            groups=groups,
            bounds=", ".join(str(self.count * g // groups) for g in range(groups + 1)),
            arguments=", ".join(f"T* {name}" for name in states),
            shared=padded(self.write.shared_size),
            sums=groups * group,
            size=size,
            group=group,
            vectors=self.vectors,
            rest=self.vectors * size,
            adapting=adapting,
            each=2 * adapting + padded(self.write.heap_size),
            states=", ".join(states),
            steps=steps if self.steps_are_taken else "",
            adaptation=steps,
            assess=f"assess(theta, shared, phi[{last}], {judged_x}, {judged_y}, losses + t, heap)",
            finish=f"finish(theta, shared, phi[{last}], {support}, {query}, lr, sum, &after, &before, heap)",
            old=old,
            new=new,
            rounding=_ROUNDING.format(vectors=self.vectors, parameters=self.size) if self.rounds else "",
            count=self.count,
            parameters=self.size,
            sx=self.count * sx,
            sy=self.count * sy,
            qx=self.count * qx,
            qy=self.count * qy,
        )


def _spread(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An example of a task's points to trace with."""
    return torch.linspace(-0.9, 0.8, math.prod(shape), dtype=dtype).reshape(tuple(shape))


def _flat(parts: Sequence[Parameters]) -> list[Tensor]:
    return [value for part in parts for value in part.values()]


def _signature(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    return ", ".join([*(f"const T* __restrict {n}" for n in inputs), *(f"T* __restrict {n}" for n in outputs)])


def _function(name: str, signature: str, body: str) -> str:
    return f"static void {name}({signature}) {{\n  {body}\n}}\n"


_ROUNDING = """
      for (int v = 0; v < {vectors}; v++) for (int i = 0; i < {parameters}; i++) next[v][i] = (float)next[v][i];"""

_LOOP = """
extern "C" int sched_yield(void);
// Threads wait here for each other, first by looking, then by giving way.
static void meet(int* sync, int threads) {{
  if (threads == 1) return;
  int turn = __atomic_load_n(sync + 16, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(sync, 1, __ATOMIC_ACQ_REL) == threads) {{
    __atomic_store_n(sync, 0, __ATOMIC_RELAXED);
    __atomic_store_n(sync + 16, turn + 1, __ATOMIC_RELEASE);
  }} else for (int looks = 0; __atomic_load_n(sync + 16, __ATOMIC_ACQUIRE) == turn; looks++) {{
    if (looks < 4000) asm volatile("" ::: "memory"); else sched_yield();
  }}
}}
#ifdef __SSE__
static void set_mode(unsigned mode) {{ __builtin_ia32_ldmxcsr(mode); }}
static unsigned mode_now() {{ return __builtin_ia32_stmxcsr(); }}
#else
static void set_mode(unsigned) {{}}
static unsigned mode_now() {{ return 0; }}
#endif
// From here on numbers too small to be normal count as zero: they are a hundred times slower. Returns the mode before.
static unsigned hasten() {{
  const unsigned mode = mode_now();
  set_mode(mode | 0x8040);
  return mode;
}}
// `count` meta-iterations, by this thread's share of the groups. The state is left in place of what was given.
extern "C" void run(long count, const T* lr, const T* rates, const T* sx, const T* sy, const T* qx, const T* qy,
                    {arguments}, T* metrics, T* work, T* own, int thread, int threads, int* sync) {{
  static const int bounds[{groups} + 1] = {{{bounds}}};
  T *shared = work, *sums = shared + {shared}, *other = sums + {sums};
  T *mine = own + thread * {each}, *phi[2] = {{mine, mine + {adapting}}}, *heap = mine + 2 * {adapting};
  T* now[{vectors}] = {{{states}}};
  T* next[{vectors}];
  for (int v = 0; v < {vectors}; v++) next[v] = other + v * {size};
  const unsigned mode = hasten();
  for (long it = 0; it < count; it++) {{
    const T* theta = now[0];
    if (thread == 0) prologue(theta, shared);
    meet(sync, threads);
    for (int g = thread; g < {groups}; g += threads) {{
      T* sum = sums + g * {group};
      for (int i = 0; i < {size}; i++) sum[i] = 0;
      T all_after = 0, all_before = 0;
      for (int t = bounds[g]; t < bounds[g + 1]; t++) {{
        T after, before;
        {steps}
        {finish};
        all_after += after; all_before += before;
      }}
      sum[{size}] = all_before; sum[{size} + 1] = all_after;
    }}
    meet(sync, threads);
    if (thread == 0) {{
      for (int g = 1; g < {groups}; g++) {{
        const T* __restrict more = sums + g * {group};
        for (int i = 0; i < {size} + 2; i++) sums[i] += more[i];
      }}
      T norm;
      update(sums, rates + it * 3, {old}, {new}, &norm, heap);{rounding}
      metrics[it * 3] = sums[{size}] / {count};
      metrics[it * 3 + 1] = sums[{size} + 1] / {count};
      metrics[it * 3 + 2] = norm;
    }}
    for (int v = 0; v < {vectors}; v++) {{ T* s = now[v]; now[v] = next[v]; next[v] = s; }}
    sx += {sx}; sy += {sy}; qx += {qx}; qy += {qy};
  }}
  set_mode(mode);
  if (thread == 0 && now[0] != state0)
    for (int v = 0; v < {vectors}; v++) __builtin_memcpy(next[v], now[v], {parameters} * sizeof(T));
}}
// The query loss after adaptation of each of `count` tasks, by this thread's share of them.
extern "C" void judge(long count, const T* lr, const T* sx, const T* sy, const T* qx, const T* qy, const T* theta,
                      T* losses, T* work, T* own, int thread, int threads, int* sync) {{
  T *shared = work, *mine = own + thread * {each}, *phi[2] = {{mine, mine + {adapting}}}, *heap = mine + 2 * {adapting};
  const unsigned mode = hasten();
  if (thread == 0) prologue(theta, shared);
  meet(sync, threads);
  for (long t = thread; t < count; t += threads) {{
        {adaptation}
        {assess};
  }}
  set_mode(mode);
}}
"""
