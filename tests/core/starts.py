"""Initializations for tests."""

from torch import nn

from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.initialization import Initialization
from maml_core.learning.layout import Layout

FOMAML = ALGORITHMS["fomaml"]


def start_of(model: nn.Module, inner_lr: float = 0.01, algorithm: str = "fomaml") -> Initialization:
    """A model's own values as an initialization."""
    layout = Layout(model, ALGORITHMS[algorithm])
    theta = layout.unflatten(layout.start(model).clone())
    return Initialization(model, theta.parameters, ALGORITHMS[algorithm], inner_lr, theta.extras)
