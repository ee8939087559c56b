"""What a task's outputs mean: the loss that is minimized, and the error that people read.

The maths of algorithms and engines knows no problem; a task family names its own. A loss is given `predict`, the model
with its parameters bound, and the task's tensors, so that a problem may call the model as often as it likes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import mse_loss

Predict = Callable[[Tensor], Tensor]
"""predict(x `[points, inputs]`) -> predictions `[points, outputs]`."""


class Problem(ABC):
    """How predictions are judged."""

    name: ClassVar[str]
    error_name: ClassVar[str]
    """What the error is called on axes and in tables."""

    @abstractmethod
    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """What an inner step and the meta-gradient minimize, for one task's x `[points, inputs]` and y: a scalar."""

    @abstractmethod
    def error(self, predictions: Tensor, y: Tensor) -> Tensor:
        """What people read, from predictions and y `[points, outputs]`: a scalar, lower is better."""


@final
class Regression(Problem):
    """Numbers to be predicted: mean squared error over points and outputs, as loss and as error."""

    name: ClassVar[str] = "regression"
    error_name: ClassVar[str] = "mean squared error"

    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(predict(x), y)

    def error(self, predictions: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(predictions, y)
