"""Engine `native`: a run's own loop, in C++, made in about a second.

A task's tensors are tiny, so what an ordinary library spends its time on is not arithmetic. Here the operations of
*one task* are lowered to plain C++ with vector extensions, everything in cache and registers: `lowering` traces a
function of a task to a graph and turns its nodes into values (`ir`) by the table in `operations`; `writer` writes
values as loops; `program` puts the functions of a task together, `training_loop` and `following` the loops around
them, and `sampling` the drawing of tasks; `toolchain` compiles and keeps the result, and `calls` calls it.
"""

from maml_core.engines.native.convolutions import has_convolutions
from maml_core.engines.native.engine import NativeEngine, threads_for
from maml_core.engines.native.following import Follower
from maml_core.engines.native.sampling import Sampler

__all__ = ["Follower", "NativeEngine", "Sampler", "has_convolutions", "threads_for"]
