"""Pictures of control: the paths that a policy takes to a goal, before it has adapted and after."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from maml_core.figures.squares import Squares
from maml_core.figures.style import COLORS, Trace, rounded, trace_of
from maml_core.learning.path_fits import PathFit

EVERY, EVERY_SMALL = 2, 4
"""Steps of a rollout from one drawn place to the next."""

FEW = 5
"""Paths in a small picture."""


FRAME = {"showline": True, "mirror": True}


class Arena(Squares[PathFit]):
    """The plane that a policy moves in: where it starts, where it should go, and how it went."""

    has_handle: ClassVar[bool] = True

    def axes(self, fit: PathFit) -> tuple[dict[str, Any], dict[str, Any]]:
        """With a frame: nothing else says where the square ends."""
        across, up = super().axes(fit)
        return across | FRAME, up | FRAME

    def at(self, fit: PathFit, step: int, meaning: str) -> Trace:
        """All paths as one line that breaks between them."""
        x, y = drawn_paths(fit.paths[step], EVERY)
        return _line(x, y, meaning, 1.6)

    def moved(self, fit: PathFit, steps: Sequence[int]) -> dict[str, Any]:
        """The same lines."""
        lines = [drawn_paths(fit.paths[step], EVERY) for step in steps]
        return {"x": [rounded(x, 3) for x, _ in lines], "y": [rounded(y, 3) for _, y in lines]}

    def still(self, fit: PathFit, **place: Any) -> list[Trace]:
        """Start and goal."""
        return [
            trace_of(np.zeros(1), np.zeros(1), "truth", "start", mode="markers", size=9, showlegend=True, **place),
            _goal(fit, 16) | {"showlegend": True} | place,
        ]

    def small(self, fit: PathFit, axis: str) -> list[Trace]:
        """A few paths before and after."""
        place: dict[str, Any] = {"xaxis": "x" + axis, "yaxis": "y" + axis} if axis else {}
        ends = (("before", 0, 1.0), ("after", fit.steps, 1.6))
        lines = [
            _line(*drawn_paths(fit.paths[step][:FEW], EVERY_SMALL), meaning, width) for meaning, step, width in ends
        ]
        return [trace | place for trace in (*lines, _goal(fit, 9))]


def drawn_paths(paths: np.ndarray, every: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of all paths `[rollouts, places, 2]`, one after the other, with nothing between them."""
    kept = paths[:, ::every].astype(np.float64)
    gap = np.full((len(kept), 1, 2), np.nan)
    line = np.concatenate([kept, gap], axis=1).reshape(-1, 2)
    return line[:, 0], line[:, 1]


def _line(x: np.ndarray, y: np.ndarray, meaning: str, width: float) -> Trace:
    line = trace_of(x, y, meaning, "paths", width=width, opacity=0.75, hoverinfo="skip", showlegend=False)
    return line | {"x": rounded(x, 3), "y": rounded(y, 3)}  # as the moving ones: a gap is None


def _goal(fit: PathFit, size: int) -> Trace:
    goal = trace_of(fit.goal[:1], fit.goal[1:], "support", "goal", mode="markers", size=size, showlegend=False)
    goal["marker"] |= {"symbol": "star", "color": COLORS["support"]}
    return goal | {"x": [float(fit.goal[0])], "y": [float(fit.goal[1])]}
