"""What a task's outputs mean: the loss that is minimized, and the error that people read.

The maths of algorithms and engines knows no problem; a task family names its own. A loss is given `predict`, the model
with its parameters bound, and the task's tensors, so that a problem may call the model as often as it likes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar, final

import numpy as np
from torch import Tensor
from torch.nn.functional import log_softmax, mse_loss

Predict = Callable[[Tensor], Tensor]
"""predict(x `[points, inputs]`) -> predictions `[points, outputs]`."""

Number = TypeVar("Number", float, np.ndarray)


class Problem(ABC):
    """How predictions are judged."""

    name: ClassVar[str]
    error_name: ClassVar[str]
    """What the error is called in sentences and tables."""
    score_name: ClassVar[str]
    """What people read in the error's place, on axes and above pictures: the error itself, or what is right."""
    loss_name: ClassVar[str]
    negligible: ClassVar[float] = 0.0
    """An error that is as good as none; 0 where there is no telling."""
    guess: ClassVar[str]
    """What it is called to do without a model: to predict the mean of the support, whatever is asked."""
    guess_in_full: ClassVar[str]
    """The same where it stands by itself."""
    scale: ClassVar[Literal["decades", "share", "plain"]]
    """How a score is drawn: an error by its decades, a share in percent, any other number as it is."""
    supports: ClassVar[str] = "support points"
    """What shots are counted in."""
    predicts: ClassVar[bool] = True
    """Whether the outputs stand for a y that is known: what other methods, and a reader's own points, need."""
    calls: ClassVar[int] = 1
    """How often the model is asked about one point, each time after what came of the last."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register a problem under its name."""
        super().__init_subclass__(**kwargs)
        PROBLEMS[cls.name] = cls()

    @abstractmethod
    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """What an inner step and the meta-gradient minimize, for one task's x `[points, inputs]` and y: a scalar."""

    def answer(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """What the model does with a task's x `[points, inputs]` and y, `[points, outputs]`: its predictions."""
        return predict(x)

    @abstractmethod
    def error(self, answer: Tensor, y: Tensor) -> Tensor:
        """What is measured, from an answer and y `[points, outputs]`: a scalar, lower is better."""

    def guessed(self, support_y: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The answer that takes no model, for a task's support and its query points: the mean of the support."""
        return support_y.mean(dim=0, keepdim=True).expand_as(y)

    @abstractmethod
    def score(self, error: Number) -> Number:
        """An error, or an array of them, as people read it."""

    @abstractmethod
    def in_words(self, error: float) -> str:
        """The score as text."""

    def in_short(self, error: float) -> str:
        """The score as text where there is little room."""
        return self.in_words(error)

    @abstractmethod
    def with_interval(self, error: float, half: float) -> str:
        """The score with half the width of its interval, as text."""


PROBLEMS: dict[str, Problem] = {}
"""Every problem by its name; a subclass of `Problem` registers itself."""


@final
class Regression(Problem):
    """Numbers to be predicted: mean squared error over points and outputs, as loss and as error."""

    name: ClassVar[str] = "regression"
    error_name: ClassVar[str] = "mean squared error"
    score_name: ClassVar[str] = "mean squared error"
    loss_name: ClassVar[str] = "MSE"
    guess: ClassVar[str] = "predict the mean"
    guess_in_full: ClassVar[str] = "predict the mean of the support"
    scale: ClassVar[Literal["decades", "share", "plain"]] = "decades"

    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(predict(x), y)

    def error(self, answer: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return mse_loss(answer, y)

    def score(self, error: Number) -> Number:
        """The error itself."""
        return error

    def in_words(self, error: float) -> str:
        """Three significant digits."""
        return f"{error:.3g}"

    def with_interval(self, error: float, half: float) -> str:
        """0.151 ± 0.012."""
        return f"{error:.3g} ± {half:.2g}"


@final
class Classification(Problem):
    """One of several classes to be predicted, as scores (logits); y `[points, classes]` has a 1 at the true class.

    The loss is the cross-entropy of the softmax, the error the share of points whose highest score is another class's.
    """

    name: ClassVar[str] = "classification"
    error_name: ClassVar[str] = "share of points that are wrong"
    score_name: ClassVar[str] = "accuracy"
    loss_name: ClassVar[str] = "cross-entropy"
    negligible: ClassVar[float] = 0.02
    guess: ClassVar[str] = "name one class"
    guess_in_full: ClassVar[str] = "name one class of the support"
    scale: ClassVar[Literal["decades", "share", "plain"]] = "share"
    supports: ClassVar[str] = "support points per class"

    def loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, in nats, averaged over the points."""
        return -(y * log_softmax(predict(x), dim=-1)).sum(-1).mean()

    def error(self, answer: Tensor, y: Tensor) -> Tensor:
        """One minus the accuracy; where a prediction is not a number, neither is the error."""
        wrong = (answer.argmax(-1) != y.argmax(-1)).to(answer.dtype)
        return (wrong + 0 * answer.sum(-1)).mean()

    def score(self, error: Number) -> Number:
        """The accuracy."""
        return 1 - error

    def in_words(self, error: float) -> str:
        """The accuracy in percent."""
        return f"{100 * (1 - error):.3g} %"

    def with_interval(self, error: float, half: float) -> str:
        """97.2 ± 0.4 %."""
        return f"{100 * (1 - error):.3g} ± {100 * half:.2g} %"
