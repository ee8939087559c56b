"""How the error of an initialization goes while it adapts to many tasks, in C++: for evaluations.

Three functions: `begin` gives phi before the first inner step, `step` takes one, `assess` gives a task's error at its
query points. How many steps there are is said when the loop is called, so one program does for any number.
"""

import copy

import torch
from torch import Tensor

from maml_core.engines.native.calls import Calls
from maml_core.engines.native.engine import TOLERANCE, NativeEngine
from maml_core.engines.native.program import Program, TaskFunctions, spread, written
from maml_core.engines.native.toolchain import Build
from maml_core.engines.native.writer import padded
from maml_core.errors import EngineError
from maml_core.learning.binding import bound
from maml_core.learning.initialization import Initialization
from maml_core.learning.inner_loop import Parameters
from maml_core.learning.layout import Layout
from maml_core.learning.tasks import TaskBatch

TRIED = 2
"""Tasks on which a new loop's first step is held against torch's."""


class Follower:
    """Errors of initializations of one structure on tasks of one shape, as soon as the compiler is done.

    As `Initialization.adapt` finds them, to rounding.
    """

    def __init__(self, start: Initialization, tasks: TaskBatch) -> None:
        """Write the loop for such a start and such tasks `[tasks, points, features]`.

        Raises:
            EngineError: something in it cannot be lowered.
        """
        like = next(iter(start.parameters.values()))
        NativeEngine.check(start.model, start.algorithm, like.device)
        dtype = like.dtype
        if start.problem.calls > 1 or dtype not in TOLERANCE:
            raise EngineError("The native loop follows no rollouts, and float32 and float64 only.")
        self._shapes = [tensor.shape[1:] for tensor in tasks]
        self._precision = torch.float64 if start.algorithm.solves else dtype
        self._layout = Layout(start.model, start.algorithm)
        self._program = written(lambda: _program(start, tasks, self._precision))
        self._build: Build | None = None
        self._calls: Calls | None = None
        self._is_tried = False
        self._refusal: EngineError | None = None

    @property
    def source(self) -> str:
        """What the compiler is given: a follower does for whatever start has the same."""
        return self._program.source

    def begin(self) -> None:
        """Start the compiler.

        Raises:
            EngineError: there is none, or nowhere to put what it makes.
        """
        self._build = self._build or Build(self._program)

    def is_ready(self) -> bool:
        """Whether `errors` would not have to wait for the compiler."""
        if self._calls is not None or self._refusal is not None:
            return True
        return self._build is not None and self._build.is_done()

    @torch.no_grad()
    def errors(self, start: Initialization, tasks: TaskBatch, steps: int) -> Tensor:
        """The error of each task before the first inner step and after each, `[steps + 1, tasks]`.

        Raises:
            EngineError: the loop cannot be made, is not for such tasks, is wrong, or cannot be tried out by this start.
        """
        if self._shapes != [tensor.shape[1:] for tensor in tasks]:
            raise EngineError("The native loop was not made for following such tasks.")
        if any(tensor.device.type != "cpu" for tensor in (*tasks, *start.parameters.values(), *start.extras.values())):
            raise EngineError("The native loop follows adaptation on the CPU only.")
        if self._refusal is not None:
            raise self._refusal
        if not self._is_tried:
            try:
                if self._calls is None:
                    self.begin()
                    assert self._build is not None
                    self._calls = Calls(self._program, self._build.load())
                self._is_tried = self._agrees(self._calls, start, tasks.at(slice(TRIED)))
            except EngineError as error:
                self._refusal = error  # once for all starts
                raise
        if self._calls is None or not self._is_tried:
            raise EngineError("The native loop was not tried out: nothing that this start does is finite.")
        return self._follow(self._calls, start, tasks, steps)

    def _follow(self, calls: Calls, start: Initialization, tasks: TaskBatch, steps: int) -> Tensor:
        count = len(tasks.support_x)
        theta = self._layout.flatten(start.theta)
        given = [part.to(self._precision).contiguous() for part in (theta.new_tensor(start.inner_lr), *tasks, theta)]
        errors = theta.new_empty(steps + 1, count, dtype=self._precision)
        calls("follow", [count, steps], [*given, errors])
        return errors.to(theta.dtype)

    def _agrees(self, calls: Calls, start: Initialization, tasks: TaskBatch) -> bool:
        """Whether the errors before a step and after it are those of torch; False where there is no telling.

        Raises:
            EngineError: they are not.
        """
        found, expected = self._follow(calls, start, tasks, 1), start.adapt(tasks, 1).query_loss
        is_finite, limit = torch.isfinite(expected), TOLERANCE[expected.dtype]
        size = torch.where(is_finite, expected, 0).abs()
        bound = limit * (size.amax(1, keepdim=True) + limit * size.max())
        if (is_finite & ~((found - expected).abs() <= bound)).any():
            raise EngineError("The native loop disagrees with torch, so it is not used.")
        return bool(is_finite.any(1).all())


def _program(start: Initialization, tasks: TaskBatch, dtype: torch.dtype) -> Program:
    model = copy.deepcopy(start.model).to(dtype)
    support = [tensor[0] for tensor in tasks[:2]]
    query = [spread(tensor.shape[1:], dtype) for tensor in tasks[2:]]
    functions = TaskFunctions(model, start.algorithm, start.problem, support, dtype)

    def error(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        answer = bound(model, parameters, lambda predict: start.problem.answer(predict, x, y))
        return start.problem.error(answer, y)

    texts = [
        functions.begin(),
        functions.step("step", is_first=False),
        functions.judge("assess", error, query, is_adapted=True),
    ]
    sx, sy = (tensor.numel() for tensor in support)
    qx, qy = (tensor.numel() for tensor in query)
    loop = _LOOP.format(
        each=functions.each, adapting=padded(functions.phi.size), support=f"sx + t * {sx}, sy + t * {sy}", qx=qx, qy=qy
    )
    write = functions.write
    return Program(functions.source(texts, loop), 1, padded(write.shared_size), functions.each, write.uses_maths)


_LOOP = """
// The errors of each of `count` tasks before the first of `steps` inner steps and after each: [steps + 1, count].
extern "C" void follow(long count, long steps, const T* lr, const T* sx, const T* sy, const T* qx, const T* qy,
                       const T* theta, T* errors, T* work, T* own, int thread, int threads, int* sync) {{
  T *shared = work, *mine = own + thread * {each}, *phi[2] = {{mine, mine + {adapting}}}, *heap = mine + 2 * {adapting};
  const unsigned mode = hasten();
  if (thread == 0) prologue(theta, shared);
  meet(sync, threads);
  for (long t = thread; t < count; t += threads) {{
    begin(theta, shared, phi[0], heap);
    for (long s = 0;; s++) {{
      assess(theta, shared, phi[s & 1], qx + t * {qx}, qy + t * {qy}, errors + s * count + t, heap);
      if (s == steps) break;
      step(theta, shared, phi[s & 1], {support}, lr, phi[(s + 1) & 1], heap);
    }}
  }}
  set_mode(mode);
}}
"""
