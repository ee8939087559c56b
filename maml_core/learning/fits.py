"""How an initialization adapts to one task, as plain arrays: what pictures of every kind of task have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

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

    @property
    def steps(self) -> int:
        """The last step that there is something of."""
        return len(self.query_loss) - 1

    @abstractmethod
    def mean_error(self) -> float:
        """The error, as `query_loss` has it, of doing without a model: see `Problem.guess`."""


@dataclass(frozen=True, kw_only=True)
class SquareFit(TaskFit):
    """One whose task lies in the plane, around zero."""

    half: float  # of the side of the square that shows it
