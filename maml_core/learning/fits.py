"""How an initialization adapts to one task, as plain arrays: what pictures of every kind of task have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from maml_core.learning.problems import Problem


@dataclass(frozen=True, kw_only=True)
class TaskFit(ABC):
    """One task and how an initialization adapts to it, up to the last step that is finite."""

    label: str  # the task's parameters in words
    seed: int | None  # which fresh task of its family it is
    support_loss: np.ndarray  # [steps + 1]
    query_loss: np.ndarray  # [steps + 1]: the problem's error on the query points, or else on the support
    blew_up_at: int | None  # the first step that is not finite, if any
    problem: Problem
    unit: str = ""  # of the error, where it has one
    beside: Mapping[str, float] = field(default_factory=dict)  # errors of rivals on this very task, by their names

    @property
    def score_name(self) -> str:
        """What its score is called."""
        return self.problem.score_name

    @property
    def steps(self) -> int:
        """The last step that there is something of."""
        return len(self.query_loss) - 1

    @property
    def naming(self) -> list[float] | None:
        """The probability of each class at the last step, of the one point whose class is not known; None elsewhere."""
        return None

    @abstractmethod
    def mean_error(self) -> float:
        """The error, as `query_loss` has it, of doing without a model: see `Problem.guess`."""


@dataclass(frozen=True, kw_only=True)
class SquareFit(TaskFit):
    """One whose task lies in the plane, around zero."""

    half: float  # of the side of the square that shows it
