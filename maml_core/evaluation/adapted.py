"""How compared runs adapt to tasks that none of them has seen: error against steps, and against support points."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from maml_core.errors import MamlError
from maml_core.evaluation.compare import Curve, Group, curve_of
from maml_core.evaluation.of_runs import checkpoint_at
from maml_core.learning.generated import GeneratedFamily
from maml_core.store.checkpoint import load_initialization
from maml_core.store.run import Run
from maml_core.store.store import Store

STEPS = 10
"""Of adaptation."""
SHOTS = (1, 2, 3, 5, 10, 20, 50)
"""Support points that runs on generated tasks are tried on."""
TASKS, QUERY = 100, 20
"""Held-out tasks, the same for all runs of one family, and query points in each."""
FEW_STEPS, FEW_SHOTS, FEW_TASKS = 3, (2, 5, 10, 20), 20
"""The same of runs on control, where each point takes a rollout."""
MOST_ADAPTED = 60
"""Runs that are adapted together."""


class Adapted(NamedTuple):
    """The mean error of one run's best checkpoint on held-out tasks; NaN where it is not finite."""

    step_errors: np.ndarray  # [steps + 1] after so many steps, or fewer where an algorithm takes but one
    shots: tuple[int, ...]  # numbers of support points; none for a run on a table
    shot_errors: np.ndarray  # [shots] after the steps that it was trained for


class Adaptations:
    """What is known of runs so far: each checkpoint is adapted once, for as long as this process lives."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[str, str, int], Adapted | None] = {}

    def known(self, store: Store, runs: Sequence[Run]) -> dict[str, Adapted]:
        """What is known of these runs, by their ids."""
        found = ((run.id, self._known.get(_key(store, run))) for run in runs)
        return {run_id: adapted for run_id, adapted in found if adapted is not None}

    def missing(self, store: Store, runs: Sequence[Run]) -> list[Run]:
        """Those that have not been tried yet."""
        return [run for run in runs if _key(store, run) not in self._known]

    def find(
        self,
        store: Store,
        runs: Sequence[Run],
        *,
        seconds: float = math.inf,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Adapt what is missing, run by run, for about so long; one that cannot be adapted is passed over for good."""
        end = time.monotonic() + seconds
        for run in self.missing(store, runs):
            adapted = None
            if run.iteration and not run.config.uses_own_model:
                try:
                    adapted = adapt_run(store, run, turn)
                except MamlError:  # a damaged checkpoint, a table that is not at hand: said where the run is opened
                    adapted = None
            self._known[_key(store, run)] = adapted
            if time.monotonic() > end:
                return


def _key(store: Store, run: Run) -> tuple[str, str, int]:
    return store.url, run.id, run.iteration if run.best_iteration is None else run.best_iteration


def adapt_run(store: Store, run: Run, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> Adapted:
    """Adapt a run's best checkpoint to held-out tasks, in turns.

    Raises:
        StoreError: it has no checkpoint.
        CheckpointError: the checkpoint is damaged.
        ConfigError: its table is not at hand.
    """
    config = run.config
    start = load_initialization(checkpoint_at(store, run, "best")[1], config)
    few, all_of_them = (FEW_TASKS, FEW_STEPS, FEW_SHOTS), (TASKS, STEPS, SHOTS)
    count, most, numbers = few if config.tasks.is_costly else all_of_them

    def errors(shots: int, steps: int) -> np.ndarray:
        with turn():
            tasks = config.tasks.held_out(tasks=count, shots=shots, query_shots=QUERY)
            found: np.ndarray = start.adapt(tasks, steps).query_loss.mean(1).double().numpy()
        return np.where(np.isfinite(found), found, np.nan)

    step_errors = errors(config.shots, 1 if config.method.solves else most)
    if not isinstance(config.tasks, GeneratedFamily):
        return Adapted(step_errors, (), np.zeros(0))
    return Adapted(step_errors, numbers, np.array([errors(shots, config.inner_steps)[-1] for shots in numbers]))


def adapted_curves(
    found: dict[str, Adapted], groups: Sequence[Group], *, spread: str = "std"
) -> tuple[list[Curve], list[Curve]]:
    """Each group's error against steps, and against support points: the mean of its runs, and the spread around it."""
    step_errors, shot_errors = [], []
    for group in groups:
        known = [(run.name, found[run.id]) for run in group.runs if run.id in found]
        steps = [(name, np.arange(len(each.step_errors), dtype=float), each.step_errors) for name, each in known]
        shots = [(name, np.array(each.shots, float), each.shot_errors) for name, each in known if each.shots]
        step_errors.append(curve_of(group.name, steps, spread))
        shot_errors.append(curve_of(group.name, shots, spread))
    return step_errors, shot_errors


def shown_of(groups: Sequence[Group], most: int) -> dict[str, Run]:
    """Runs to be looked at, by the names of their groups: the best of each by held-out loss, the best first."""

    def by_loss(run: Run) -> float:
        return math.inf if run.best_loss is None else run.best_loss

    best = {}
    for group in groups:
        usable = [run for run in group.runs if run.iteration and not run.config.uses_own_model]
        if usable:
            best[group.name] = min(usable, key=by_loss)
    return dict(sorted(best.items(), key=lambda item: by_loss(item[1]))[:most])
