"""Initializations for tests."""

from torch import nn

from maml_core.learning.adaptation import CurveFit, fit_tasks
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.fresh_rows import RowTasks
from maml_core.learning.fresh_tasks import Tasks
from maml_core.learning.initialization import Initialization
from maml_core.learning.layout import Layout

FOMAML = ALGORITHMS["fomaml"]


def start_of(model: nn.Module, inner_lr: float = 0.01, algorithm: str = "fomaml") -> Initialization:
    """A model's own values as an initialization."""
    layout = Layout(model, ALGORITHMS[algorithm])
    theta = layout.unflatten(layout.start(model).clone())
    return Initialization(model, theta.parameters, ALGORITHMS[algorithm], inner_lr, theta.extras)


def curve_fits(start: Initialization, tasks: Tasks | RowTasks, steps: int) -> list[CurveFit]:
    """How a start adapts to tasks of a family of curves."""
    made = [fit for fit in fit_tasks(start, tasks, steps) if isinstance(fit, CurveFit)]
    assert made
    return made
