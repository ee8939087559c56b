"""Pictures of tasks that lie in the plane: a square for each initialization, moving as it adapts, and its score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from maml_core.evaluation.rivals import SHORT_RIVALS
from maml_core.evaluation.side_by_side import NAMES
from maml_core.figures.style import Figure, Moving, Trace, base_layout, frames_of, plain, rounded, slot, trace_of
from maml_core.learning.fits import SquareFit, TaskFit
from maml_core.learning.problems import Problem
from maml_core.words import counted_steps

MOST_FRAMES = 20
"""Steps of adaptation in a replay: a square is a picture, and of more the browser would be sent megabytes."""

GAP = 0.03
"""Between two squares, of the picture's width."""

Fit = TypeVar("Fit", bound=SquareFit)


class Squares(ABC, Generic[Fit]):
    """How tasks of one kind are drawn in a square."""

    has_handle: ClassVar[bool] = False
    """Whether the last of what does not move is a point that a reader may move."""

    @abstractmethod
    def at(self, fit: Fit, step: int, meaning: str) -> Trace:
        """What moves, as it is at a step of adaptation, in the color of that meaning where it has one."""

    @abstractmethod
    def moved(self, fit: Fit, steps: Sequence[int]) -> dict[str, Any]:
        """The values of what moves at each of these steps: what a `Moving` has beside its trace."""

    @abstractmethod
    def still(self, fit: Fit, **place: Any) -> list[Trace]:
        """What does not move and lies above, on the axes of that place."""

    @abstractmethod
    def small(self, fit: Fit, axis: str) -> list[Trace]:
        """A task after adaptation, in little, on the axes of that suffix."""

    def task(self, fit: Fit, trained_steps: int) -> Figure:
        """One task before adaptation, and the square beside it that moves from there to the last step."""
        frames = frames_of(fit.steps, MOST_FRAMES)
        layout = square_layout()
        traces: list[Trace] = []
        endings = (f"before: {_said(fit, 0)}", f"after {counted_steps(fit.steps)}: {_ending(fit)}")
        for number, (step, words) in enumerate(zip((0, fit.steps), endings, strict=True)):
            place = self._panel(layout, number, slot(number, 2, GAP), words, fit)
            traces.append(self.at(fit, step, "after" if number else "before") | place)
            traces += [_once(trace, number) for trace in self.still(fit, **place)]
        moving = [self._moving(len(traces) // 2, fit, frames)]
        layout["annotations"].append(_below(self.caption(fit)))
        beyond = f" (trained for {trained_steps})"
        labels = [_said(fit, step) + (beyond if step > trained_steps else "") for step in frames]
        return {
            "data": traces,
            "layout": layout,
            "replay": {"steps": frames, "moving": moving, "ghosts": [], "labels": labels, "autoplay": True},
        }

    def replay(self, fits: Mapping[str, Fit]) -> Figure:
        """One task adapted from several initializations: a square for each, and the score of all against steps."""
        shown = {name: fits[name] for name in NAMES if name in fits}
        problem, steps = next(iter(shown.values())).problem, max(fit.steps for fit in shown.values())
        frames = frames_of(steps, MOST_FRAMES)
        layout = square_layout()
        traces: list[Trace] = []
        moving: list[Moving] = []
        handle: int | None = None
        for number, (name, fit) in enumerate(shown.items()):
            place = self._panel(layout, number, slot(number, len(shown) + 1, GAP), NAMES[name], fit)
            moving.append(self._moving(len(traces), fit, [min(step, fit.steps) for step in frames]))
            traces.append(self.at(fit, fit.steps, name) | place)
            traces += [_once(trace, number) for trace in self.still(fit, **place)]
            handle = len(traces) - 1 if self.has_handle and not number else handle
        suffix = str(len(shown) + 1)
        right: dict[str, Any] = {"xaxis": "x" + suffix, "yaxis": "y" + suffix}
        for name, fit in shown.items():
            score = problem.score(fit.query_loss)
            at = [min(step, fit.steps) for step in frames]
            traces.append(trace_of(np.arange(fit.steps + 1), score, name, NAMES[name], **right))
            marks = [rounded(score[step : step + 1]) for step in at]
            moving.append({"trace": len(traces), "x": [[float(step)] for step in at], "y": marks})
            look: dict[str, Any] = {"mode": "markers", "size": 11, "hoverinfo": "skip", "showlegend": False, **right}
            traces.append(trace_of(np.array([fit.steps]), score[-1:], name, NAMES[name], **look))
        for name, error in next(iter(shown.values())).beside.items():
            flat = np.full(2, problem.score(error))
            traces.append(trace_of(np.array([0, steps]), flat, name, SHORT_RIVALS[name], dash="dot", **right))
        low, high = slot(len(shown), len(shown) + 1, GAP)
        layout["annotations"].append(_heading((low + 0.05, high), next(iter(shown.values())).score_name))
        layout["xaxis" + suffix] = {
            "domain": [low + 0.05, high],
            "anchor": "y" + suffix,
            "title": {"text": "adaptation step", "standoff": 6},
            "zeroline": False,
            "range": [-0.03 * max(steps, 1), 1.04 * max(steps, 1)],
        }
        layout["yaxis" + suffix] = {"anchor": "x" + suffix, "zeroline": False, **_score_range(problem)}
        layout["annotations"].append(_below(self.caption(next(iter(shown.values())))))

        def said(name: str, step: int) -> str:
            return f"{NAMES[name]} {_score(shown[name], min(step, shown[name].steps))}"

        labels = [" · ".join(said(name, step) for name in shown) for step in frames]
        figure: Figure = {
            "data": traces,
            "layout": layout,
            "replay": {"steps": frames, "moving": moving, "ghosts": [], "labels": labels},
        }
        if handle is not None:
            figure["handle"] = handle
        return figure

    def caption(self, fit: Fit) -> str:
        """Which task it is."""
        return f"this task: {fit.label}"

    def title(self, fit: Fit) -> str:
        """What stands above a small picture."""
        before, after = (fit.problem.in_short(float(fit.query_loss[step])) for step in (0, fit.steps))
        return f"{before.removesuffix(' %')} → <b>{after if fit.blew_up_at is None else 'diverged'}</b>"

    def axes(self, fit: Fit) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the axes of a picture need beside their places: the square, as high as it is wide."""
        bare = {
            "range": [-fit.half, fit.half],
            "showticklabels": False,
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
            "ticks": "",
        }
        return dict(bare), dict(bare)

    def _panel(
        self, layout: dict[str, Any], number: int, domain: Sequence[float], words: str, fit: Fit
    ) -> dict[str, Any]:
        """Put a square into the layout, with words above it; returns the axes that its traces stand on."""
        suffix = str(number + 1) if number else ""
        across, up = self.axes(fit)
        layout["xaxis" + suffix] = across | {"domain": list(domain), "anchor": "y" + suffix}
        layout["yaxis" + suffix] = up | {"anchor": "x" + suffix, "scaleanchor": "x" + suffix}
        layout["annotations"].append(_heading(domain, words))
        return {"xaxis": "x" + suffix, "yaxis": "y" + suffix}

    def _moving(self, trace: int, fit: Fit, steps: Sequence[int]) -> Moving:
        moving: Moving = {"trace": trace}
        moving.update(self.moved(fit, steps))  # type: ignore[typeddict-item]
        return moving


def square_layout() -> dict[str, Any]:
    """Margins and legend of squares."""
    layout = base_layout(left=10)
    layout |= {"hovermode": "closest", "margin": {"l": 10, "r": 10, "t": 56, "b": 34}, "annotations": []}
    layout["legend"] |= {"y": 1.09}
    return layout


def _once(trace: Trace, number: int) -> Trace:
    """The trace, in the legend for the first square alone."""
    return trace | {"showlegend": not number and trace["showlegend"]}


def _heading(domain: Sequence[float], words: str) -> dict[str, Any]:
    return {
        "x": sum(domain) / 2,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "text": words,
        "font": {"size": 13},
    }


def _below(words: str) -> dict[str, Any]:
    """Words from the left edge on: on a phone they are longer than a square is wide."""
    place = {"x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -8}
    return _heading((0, 0), plain(words)) | place


def _score_range(problem: Problem) -> dict[str, Any]:
    """Shares from nothing to all; other scores as far as they reach."""
    return {"tickformat": ".0%", "range": [-0.03, 1.03]} if problem.scale == "share" else {}


def _score(fit: TaskFit, step: int) -> str:
    return fit.problem.in_words(float(fit.query_loss[step]))


def _said(fit: TaskFit, step: int) -> str:
    return f"{fit.score_name} {_score(fit, step)}"


def _ending(fit: TaskFit) -> str:
    return "diverged" if fit.blew_up_at is not None else _said(fit, fit.steps)
