"""The program of a run: what a task does, what the meta-optimizer does, and the loop around them.

The functions come from the definitions in `learning` and nothing else: `first` and `step` take an inner step, `finish`
gives a task's meta-gradient, `assess` its query loss alone, `update` is the meta-optimizer. Inner steps are a loop in
C++, so one and two hundred compile equally fast; only second-order meta-gradients are unrolled. Tasks are summed in a
fixed number of groups, so that any number of threads gives the same bits.
"""

import torch
from torch import Tensor, nn

from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.engines.native.convolutions import has_convolutions
from maml_core.engines.native.ir import Buffer
from maml_core.engines.native.lowering import lower, trace
from maml_core.engines.native.program import Program, TaskFunctions, flat, function_text, signature, spread
from maml_core.engines.native.writer import padded
from maml_core.learning.inner_loop import Algorithm, InnerLoop, Phi, Theta
from maml_core.learning.problems import Problem
from maml_core.learning.tasks import TaskBatch

GROUPS = 8
"""Sums that a meta-batch's tasks are divided into: the most threads that can share one."""


class TrainingLoop(TaskFunctions):
    """A run's loop, as it is written."""

    def __init__(
        self,
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
    ) -> None:
        """For meta-batches of these shapes `[tasks, points, features]`.

        It also judges tasks of `judged_points` query points, by default as many as in training. With `rounds` the state
        is rounded to float32 after every meta-iteration, so that a chunk may end anywhere.
        """
        super().__init__(model, algorithm, problem, [tensor[0] for tensor in tasks[:2]], dtype)
        self.inner, self.meta_optimizer, self.rounds = inner, meta_optimizer, rounds
        self.count = tasks.support_x.shape[0]
        self.task = [*self.support, *(spread(t.shape[1:], dtype) for t in tasks[2:])]
        self.judged = [spread((judged_points or t.shape[1], *t.shape[2:]), dtype) for t in tasks[2:]]
        self.steps_are_taken = algorithm.is_first_order and inner.steps > 0
        self.vectors = 3 + (meta_optimizer.ema_decay is not None)
        # A first step of its own shares work between tasks; a long one is not written twice for that.
        self.begins = inner.steps > 1 and has_convolutions(model)

    def program(self) -> Program:
        """The whole.

        Raises:
            UnsupportedError: the model, or the problem, does something that cannot be lowered.
        """
        functions = []
        if self.inner.steps:
            functions.append(self.begin() if self.begins else self.step("first", is_first=True))
        if self.inner.steps > 1:
            functions.append(self.step("step", is_first=False))
        functions += [
            self._finish(),
            self.judge("assess", self.loss, self.judged, is_adapted=self.inner.steps > 0),
            self._update(),
        ]
        groups = min(self.count, GROUPS)
        write = self.write
        return Program(
            self.source(functions, self._loop(groups)),
            groups,
            work=padded(write.shared_size) + groups * self._group_size() + self.vectors * padded(self.size),
            work_each=self.each,
            uses_maths=write.uses_maths,
        )

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
            return [after, before, *flat(gradient)]

        examples = [
            *self.theta.examples(self.dtype), *self.phi.examples(self.dtype), *self.task, self.lr.clone(),
        ]  # fmt: skip  # in the order of the arguments
        names = ["sx", "sy", "qx", "qy", "lr"]
        inputs = [*self.shared_theta(), *self.values(self.phi.buffers("phi"))]
        inputs += self.at(names, examples[-5:])
        self.write.begin()
        after, before, *gradient = lower(self.write, trace(function, examples), inputs)
        for value, target in zip(gradient, self.theta.buffers("gradient"), strict=True):
            self.write.store_into(value, target, adds=True)
        for value, name in ((after, "after"), (before, "before")):
            self.write.store_into(value, Buffer.at(name, ()))
        outputs = ["gradient", "after", "before", "heap"]
        return function_text("finish", signature(["theta", "shared", "phi", *names], outputs), self.write.body())

    def _update(self) -> str:
        """The meta-optimizer's step, from the sum of the tasks' gradients."""

        def function(gradient: Tensor, rates: Tensor, *vectors: Tensor) -> list[Tensor]:
            after, norm = self.meta_optimizer.update(vectors, gradient * (1.0 / self.count), rates)
            return [*after, norm]

        vector = torch.linspace(0.1, 0.9, self.size, dtype=self.dtype)
        examples = [vector, torch.ones(3, dtype=self.dtype), *(vector + 0.01 * (k + 1) for k in range(self.vectors))]
        names = ["gradient", "rates", *(f"old{k}" for k in range(self.vectors))]
        outputs = [f"new{k}" for k in range(self.vectors)]
        self.write.begin()
        inputs = self.at(names, examples)
        *vectors, norm = lower(self.write, trace(function, examples), inputs)
        for value, name in zip(vectors, outputs, strict=True):
            self.write.store_into(value, Buffer.at(name, (self.size,)))
        self.write.store_into(norm, Buffer.at("norm", ()))
        return function_text("update", signature(names, [*outputs, "norm", "heap"]), self.write.body())

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
        if self.begins:
            steps = "begin(theta, shared, phi[1], heap);"
        if self.inner.steps > 1:
            steps += (
                f"\n        for (int s = {0 if self.begins else 1}; s < {self.inner.steps}; s++) "
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
            adapting=adapting,
            each=self.each,
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


_ROUNDING = """
      for (int v = 0; v < {vectors}; v++) for (int i = 0; i < {parameters}; i++) next[v][i] = (float)next[v][i];"""

_LOOP = """
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
