"""What is wrong with a run, in one sentence with the figure that it rests on, and settings that mend it.

Each rule is a function of what the store holds of a run; they are asked in turn, and the first that finds something
speaks. Medians throughout: with clipping, one meta-batch that blows up does no harm but ruins a mean.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import pandas as pd
import torch

from maml_core.evaluation.of_runs import learned_by
from maml_core.fields import shown
from maml_core.learning.curvature import curvature
from maml_core.learning.fresh_tasks import varying
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.table_tasks import TableFamily
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.words import counted_steps

LEAST_ITERATIONS = 300
"""Of a run that is judged at all, but for one that has diverged."""

TASKS = 100
TASKS_FOR_CURVATURE = 12

FLAT = 0.8
"""A loss that never fell below this share of where it began is flat."""

ADAPTS, SLOW = 1.2, 1e-4
"""But not where adaptation divides the loss by more than this at no smaller meta_lr: a start may be good already."""

DRIFTED = 2.0
"""A last checkpoint with so many times the best one's loss has drifted away from it."""

OVERSHOT = 2.0
"""An error that more steps than trained for multiply by this overshoots."""

CLIPPED = (0.95, 50.0)
"""Clipping that nothing escapes, to so small a part of its length, is all that is left of a meta-gradient."""

NOTHING = 1.05
"""Adaptation that divides the loss by no more than this does nothing."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a run, and what to change."""

    kind: str
    sentence: str
    remedy: dict[str, Any]  # settings, by dotted name

    @property
    def advice(self) -> str:
        """The remedy in words."""
        return " and ".join(f"{name} = {shown(value)}" for name, value in self.remedy.items())


@dataclass
class _Case:
    """A run to be judged; what is expensive is computed when a rule asks for it."""

    store: Store
    run: Run
    turn: Callable[[float], AbstractContextManager[None]]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """All metric rows."""
        return self.store.metrics(self.run.id)

    @cached_property
    def judged(self) -> list[tuple[int, float]]:
        """Iteration and held-out loss of the checkpoints that could be judged."""
        history = self.store.history(self.run.id)
        return [(judged.iteration, judged.held_out) for judged in history if judged.held_out is not None]

    @cached_property
    def tail(self) -> pd.DataFrame:
        """The last tenth of the metric rows."""
        return self.metrics.tail(max(10, len(self.metrics) // 10))

    @cached_property
    def sharpness(self) -> float:
        """inner_lr times the curvature at the start of adaptation, in the middle of a dozen tasks."""
        config = self.run.config
        if not self.bends:
            return 0.0
        start = learned_by(self.store, self.run) or config.untrained()
        with self.turn(0.5):
            tasks = config.tasks.held_out(tasks=TASKS_FOR_CURVATURE, shots=config.shots, query_shots=1)
            found = config.inner_lr * curvature(start, tasks)
        return float(found[torch.isfinite(found)].median()) if torch.isfinite(found).any() else math.inf

    @property
    def bends(self) -> bool:
        """Whether there is such a curvature: not where the head is solved for, nor of a policy's sampled gradient."""
        return not self.solves and self.run.config.tasks.problem.predicts

    @property
    def solves(self) -> bool:
        """Whether no gradient step is taken: then no inner learning rate is at fault."""
        return self.run.config.method.solves

    def slower(self) -> dict[str, Any]:
        """An inner learning rate at which a step goes at most half as far as would overshoot, in one digit."""
        lr = self.run.config.inner_lr
        return {"inner_lr": _one_digit(lr / (2 * self.sharpness) if 1 < self.sharpness < math.inf else lr / 10)}

    def faster(self) -> dict[str, Any]:
        """An inner learning rate at which a step goes a quarter as far as would overshoot, but ten times this one."""
        lr = self.run.config.inner_lr
        is_known = not self.run.is_active and not self.run.config.uses_own_model and self.sharpness > 0
        return {"inner_lr": _one_digit(max(10 * lr, lr / (4 * self.sharpness) if is_known else 0))}


def diagnose(
    store: Store, run: Run, *, turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext()
) -> Finding | None:
    """What is wrong with a run, if anything. Of one that is training, only what its metrics tell.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        ConfigError: the run's model cannot be made here.
    """
    case = _Case(store, run, turn)
    if run.status == "diverged":
        return _diverged(case)
    if run.iteration < LEAST_ITERATIONS or not len(case.metrics):
        return None
    rules = [_clipped, _flat, _nothing_to_adapt]
    if not run.is_active and not run.config.uses_own_model:
        rules += [_drifted, _overshoots]
    return next((found for found in (rule(case) for rule in rules) if found), None)


def _diverged(case: _Case) -> Finding:
    """The run ended in numbers that are not finite."""
    config = case.run.config
    remedy = {} if config.uses_own_model else case.slower() if case.sharpness > 1 else {}
    if config.clip_norm is None:
        remedy["clip_norm"] = 1.0
    elif not remedy:
        remedy["meta_lr"] = _one_digit(config.meta_lr / 10)
    sharp = (
        ""
        if config.uses_own_model or not case.bends
        else f", and inner_lr times the curvature of the support loss is {case.sharpness:.2g}"
    )
    text = f"The loss is no longer finite after iteration {case.run.iteration:,}{sharp}."
    return Finding("diverged", text, remedy)


def _clipped(case: _Case) -> Finding | None:
    """The meta-gradient is cut to a small part of its length at nearly every iteration."""
    limit = case.run.config.clip_norm
    if limit is None:
        return None
    norms = case.metrics["gradient_norm"].tail(max(10, len(case.metrics) // 2))
    share, ratio = float((norms > limit).mean()), float(norms.median()) / limit
    if share < CLIPPED[0] or ratio < CLIPPED[1]:
        return None
    text = f"The meta-gradient is clipped in {share:.0%} of the rows, to 1/{ratio:,.0f} of its length in the middle."
    return Finding("clipped", text, {"clip_norm": _one_digit(float(norms.median()))})


def _flat(case: _Case) -> Finding | None:
    """The held-out loss never fell much."""
    judged = case.judged
    if len(judged) < 5:
        return None
    first, now = judged[0][1], median(value for _, value in judged[-5:])
    config = case.run.config
    adapts = float(case.tail["pre_loss"].median()) / max(float(case.tail["post_loss"].median()), 1e-30)
    if min(value for _, value in judged) < FLAT * first or (adapts > ADAPTS and config.meta_lr > SLOW):
        return None
    since = next(at for at, value in judged if value <= 1.02 * max(now, min(value for _, value in judged)))
    remedy: dict[str, Any] = {"meta_lr": 0.001}
    if config.meta_lr >= 0.001:
        remedy = (
            {"inner_lr": _one_digit(10 * config.inner_lr)}
            if adapts < 2 and not case.solves
            else {"meta_iterations": 10 * config.meta_iterations}
        )
    text = f"The held-out loss is flat since iteration {since:,}: {now:.3g} now, {first:.3g} before training."
    return Finding("flat", text, remedy)


def _nothing_to_adapt(case: _Case) -> Finding | None:
    """The query loss is as low before any step as after all of them."""
    config = case.run.config
    before, after = (float(case.tail[name].median()) for name in ("pre_loss", "post_loss"))
    if not config.inner_steps or config.algorithm == "joint" or before > NOTHING * after:
        return None
    text = f"There is nothing to adapt: the query loss is {before:.3g} before any step and {after:.3g} after them."
    family = config.tasks
    if isinstance(family, GeneratedFamily) and not varying(family):
        names = family.distributions
        return Finding("nothing", text, {f"tasks.{name}": _default(family, name) for name in names})
    return Finding("nothing", text, {} if case.solves else case.faster())


def _drifted(case: _Case) -> Finding | None:
    """The best checkpoint is much better than the last."""
    judged = case.judged
    if len(judged) < 10:
        return None
    (at, best), now = min(judged, key=lambda pair: pair[1]), median(value for _, value in judged[-5:])
    if now < DRIFTED * best:
        return None
    config = case.run.config
    text = (
        f"The best checkpoint, at iteration {at:,}, has a held-out loss of {best:.3g}, the last ones {now:.3g}: the "
        "initialization drifts"
    )
    if case.bends:
        text += f"; inner_lr times the curvature of the support loss is {case.sharpness:.2g}"
    if case.sharpness > 1:
        return Finding("drift", text + ", above 1.", case.slower())
    remedy = {"clip_norm": 1.0} if config.clip_norm is None else {"meta_lr": _one_digit(config.meta_lr / 3)}
    return Finding("drift", text + ".", remedy | ({"schedule": "cosine"} if config.schedule != "cosine" else {}))


def _overshoots(case: _Case) -> Finding | None:
    """More steps than the run was trained for make the error worse."""
    config = case.run.config
    start = learned_by(case.store, case.run)
    if (
        start is None
        or not config.inner_steps
        or isinstance(config.tasks, TableFamily)
        or not config.tasks.problem.predicts
    ):
        return None
    steps = max(2 * config.inner_steps, config.inner_steps + 5)
    with case.turn(0.2):
        tasks = config.tasks.held_out(tasks=TASKS, shots=config.shots)
        found = torch.nan_to_num(start.adapt(tasks, steps).query_loss, nan=math.inf)
    errors = found.quantile(0.75, dim=1).tolist()
    trained, beyond = errors[config.inner_steps], errors[-1]
    if not trained < errors[0] or beyond <= OVERSHOT * trained + start.problem.negligible:
        return None
    far = f"{beyond:.3g}" if math.isfinite(beyond) else "infinity"
    text = (
        f"More steps than trained for overshoot: one task in four has an error above {trained:.3g} after "
        f"{counted_steps(config.inner_steps)}, above {far} after {steps}"
    )
    if case.sharpness > 1:
        return Finding("overshoot", f"{text}; inner_lr times the curvature is {case.sharpness:.2g}.", case.slower())
    return Finding("overshoot", f"{text}.", {"inner_steps": steps})


def _default(family: GeneratedFamily, name: str) -> Any:
    return type(family).model_fields[name].get_default().model_dump(mode="json")


def _one_digit(value: float) -> float:
    return float(f"{value:.1g}")
