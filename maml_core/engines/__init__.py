"""How a meta-gradient is computed: interchangeable engines that give the same answer.

An engine is given a model and plain numbers, never a configuration. Tasks are drawn outside it, so all engines
see one stream and must give one curve: a meta-gradient may differ by 1e-5 relative in float32, 1e-12 in float64.
"""

from maml_core.engines.auto import AutoEngine
from maml_core.engines.base import Engine, EngineStatus, TrainingState, initial_state
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.engines.native import NativeEngine
from maml_core.engines.reference import ReferenceEngine
from maml_core.engines.sharded import Alone, Group, ShardedEngine, shards_of
from maml_core.engines.vectorized import VectorizedEngine

ENGINES: dict[str, type[Engine]] = {
    "higher": ReferenceEngine,
    "vectorized": VectorizedEngine,
    "native": NativeEngine,
}
"""Engines by the name a configuration gives them."""

__all__ = [
    "ENGINES",
    "Alone",
    "AutoEngine",
    "Engine",
    "EngineStatus",
    "Group",
    "MetaOptimizer",
    "NativeEngine",
    "ReferenceEngine",
    "ShardedEngine",
    "TrainingState",
    "VectorizedEngine",
    "initial_state",
    "shards_of",
]
