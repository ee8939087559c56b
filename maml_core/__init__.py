"""First-order meta-learning on few-shot tasks: the library behind the lab. It knows no screen.

A user of the library needs these names; each docstring has an example that runs:

    RunConfig        everything that decides a run's numbers
    train            train a run here and now, and return what it learned
    Initialization   a starting point, and how it adapts to tasks
    evaluate         its error on held-out tasks, beside baselines
    Store            runs in a database, as the lab keeps them
    TaskFamily       a distribution of tasks
    FunctionFamily   of functions; subclass it to add one, with Uniform and Normal parameters
    TaskBatch        support and query points of many tasks
    MamlError        the base of every error that is raised on purpose
"""

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if "torch" not in sys.modules and gc.isenabled():  # this process has not done much yet
    gc.disable()  # what these leave is there to stay: looking through it for garbage takes most of a second
    try:
        for _large in ("pandas", "sqlalchemy", "torch"):
            import_module(_large)
        gc.freeze()
    finally:
        gc.enable()

if TYPE_CHECKING:
    from maml_core.config import RunConfig
    from maml_core.errors import MamlError
    from maml_core.evaluation.curves import evaluate
    from maml_core.learning.generated import FunctionFamily
    from maml_core.learning.initialization import Initialization
    from maml_core.learning.tasks import Normal, TaskBatch, TaskFamily, Uniform
    from maml_core.store.store import Store
    from maml_core.training.trainer import train

_HOMES = {
    "FunctionFamily": "learning.generated",
    "Initialization": "learning.initialization",
    "MamlError": "errors",
    "Normal": "learning.tasks",
    "RunConfig": "config",
    "Store": "store.store",
    "TaskBatch": "learning.tasks",
    "TaskFamily": "learning.tasks",
    "Uniform": "learning.tasks",
    "evaluate": "evaluation.curves",
    "train": "training.trainer",
}

__all__ = [
    "FunctionFamily",
    "Initialization",
    "MamlError",
    "Normal",
    "RunConfig",
    "Store",
    "TaskBatch",
    "TaskFamily",
    "Uniform",
    "evaluate",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: a part of the library may use it while another is loading."""
    if name not in _HOMES:
        raise AttributeError(f"module 'maml_core' has no attribute {name!r}")
    return getattr(import_module(f"maml_core.{_HOMES[name]}"), name)
