"""A run's evaluation, computed once: for the command line and the screen alike."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import pandas as pd

from maml_core.config import RunConfig
from maml_core.errors import StoreError
from maml_core.evaluation.curves import (
    SHOTS,
    SHOTS_TASKS,
    ErrorCurve,
    Evaluation,
    evaluate,
    learned_curve,
    pretraining,
)
from maml_core.evaluation.rivals import RIVAL_NAMES, applies
from maml_core.evaluation.worth import MOST_TASKS, Worth, measure_worth
from maml_core.learning.adaptation import fit_tasks
from maml_core.learning.fits import TaskFit
from maml_core.learning.fresh_tasks import draw_tasks
from maml_core.learning.initialization import Initialization
from maml_core.presets import PRESETS, REPORT_TASKS
from maml_core.store.checkpoint import load_initialization
from maml_core.store.run import Run
from maml_core.store.store import Store

At = Literal["best", "latest"] | int
"""Which of a run's checkpoints: its best by held-out loss, its latest, or that of an iteration in its history."""


LEAST_SHOWN_STEPS = 5
"""Of adaptation in the lab's pictures: fewer do not show where it leads."""


def pretrained_run(store: Store, run: Run) -> Run | None:
    """The joint pretraining that `run` is compared with, if there is one: the one that has come furthest."""
    if run.config.algorithm == "joint":
        return None
    wanted = pretraining(run.config)
    found = [other for other in store.all_runs() if other.config == wanted]
    return max(found, key=lambda other: other.iteration, default=None)


def reproduction(
    store: Store, run: Run, turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext()
) -> str | None:
    """Whether a finished run of a preset reached what that did before; None where there is nothing to compare.

    Measured as the preset's own figure was, whatever the reader looks at: see `presets.Reached`.
    """
    preset = PRESETS.get(run.preset or "")
    if preset is None or preset.reached is None or run.status != "finished":
        return None
    free = {"seed": run.config.seed, "engine": run.config.engine, "device": run.config.device}
    if run.config != preset.config.with_settings(free):
        return None
    reached = preset.reached
    if not run.config.tasks.is_costly:
        curve = measure(store, run, tasks=REPORT_TASKS, steps=reached.steps, at="best", turn=turn).learned
    else:  # an evaluation with all that belongs to it would take minutes
        asked = usual_tasks(run.config), reached.steps, 0

        def make(learned: Initialization) -> ErrorCurve:
            return learned_curve(learned, run.config, *asked, turn=turn)

        curve = _remembered(store, run, "best", None, ("curve", *asked), ErrorCurve.from_json, make)
    found, half = curve.error[-1], curve.ci95[-1]
    verdict = "reproduced." if found - half <= max(reached.errors) else "not reproduced: try another seed."
    own = run.config.tasks.problem.with_interval(found, half)
    return f"This recipe reached {reached}; this run, at its best checkpoint, {own}: {verdict}"


def learned_by(store: Store, run: Run, iteration: int | None = None) -> Initialization | None:
    """What a run has learned, at its latest checkpoint or at one of its history; None if there is none.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    data = store.checkpoint(run.id, "latest" if iteration is None else "history", iteration)
    return load_initialization(data, run.config) if data else None


def usual_tasks(config: RunConfig) -> int:
    """Held-out tasks that the screen measures an error on, if not told otherwise: fewer where they are costly."""
    return FEW_TASKS if config.tasks.is_costly else REPORT_TASKS


def most_tasks(config: RunConfig) -> int:
    """As many as a reader may ask the screen for."""
    return MOST_COSTLY if config.tasks.is_costly else MOST_GENERATED


MOST_GENERATED, MOST_COSTLY = 5000, 1000

FEW_TASKS = 100
"""Costly held-out tasks that the screen measures an error on."""

MOST_OF_ROLLOUTS = 3
"""Steps of adaptation that are shown beyond the trained ones at most, where each takes rollouts."""


def shown_steps(config: RunConfig, least: int = LEAST_SHOWN_STEPS) -> int:
    """How many steps of adaptation pictures show: as many as trained for, at least some; one where that is all."""
    if config.tasks.problem.calls > 1:
        least = min(least, MOST_OF_ROLLOUTS)
    return 1 if config.method.solves else max(config.inner_steps, least)


def fresh_fits(store: Store, config: RunConfig, run: Run | None, *, count: int, seed: int) -> Sequence[TaskFit]:
    """How a run's latest initialization, or without a run the untrained one, adapts to freshly drawn tasks.

    Raises:
        CheckpointError: the run's checkpoint cannot be used.
    """
    start = (learned_by(store, run) if run else None) or config.untrained()
    return fit_tasks(start, draw_tasks(config.tasks, seed, count, config.shots), shown_steps(config))


def checkpoint_at(store: Store, run: Run, at: At) -> tuple[int, bytes]:
    """The iteration and the bytes of one of a run's checkpoints; the best is the latest while none has been judged.

    Raises:
        StoreError: the run has no such checkpoint.
    """
    if at == "best" and run.best_iteration is not None:
        iteration, data = run.best_iteration, store.checkpoint(run.id, "best")
    elif isinstance(at, int):
        iteration, data = at, store.checkpoint(run.id, "history", at)
    else:
        iteration, data = run.iteration, store.checkpoint(run.id)
    if data is not None:
        return iteration, data
    kept = ", ".join(f"{iteration}" for iteration, _ in store.history(run.id))
    if isinstance(at, int) and kept:
        raise StoreError(f"checkpoint = {at} is not kept of run {run.id} ({run.name}): it must be one of {kept}.")
    raise StoreError(f"run = {run.id} ({run.name}) has no checkpoint yet: train it first.")


def measure_table_run(
    store: Store,
    run: Run,
    *,
    tasks: int = MOST_TASKS,
    steps: int = 10,
    seed: int = 0,
    at: At = "latest",
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> Worth:
    """What a run on a table is worth, from the store if it was computed before.

    Raises:
        StoreError: the run has no such checkpoint.
        ConfigError: the run is not on a table, or the table is not at hand.
    """
    other, baseline = _baseline(store, run, "best")

    def make(learned: Initialization) -> Worth:
        pooled = load_initialization(baseline, other.config) if baseline and other else None
        return measure_worth(learned, run.config, tasks=tasks, steps=steps, seed=seed, pooled=pooled, turn=turn)

    asked = ("worth, rivals", min(tasks, MOST_TASKS), steps, seed)
    return _remembered(store, run, at, baseline, asked, Worth.from_json, make)


def measure(
    store: Store,
    run: Run,
    *,
    tasks: int = REPORT_TASKS,
    steps: int = 10,
    seed: int = 0,
    at: At = "latest",
    rivals: tuple[str, ...] = tuple(RIVAL_NAMES),
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> Evaluation:
    """Error of a run and its baselines on held-out tasks, from the store if it was computed before.

    Raises:
        StoreError: the run has no such checkpoint.
    """
    other, baseline = _baseline(store, run, "latest")
    rivals = tuple(name for name in rivals if applies(name, run.config.tasks))

    def make(learned: Initialization) -> Evaluation:
        pretrained = load_initialization(baseline, other.config) if baseline and other else None
        return evaluate(
            learned, run.config, tasks=tasks, steps=steps, seed=seed, pretrained=pretrained, rivals=rivals, turn=turn
        )

    return _remembered(store, run, at, baseline, (tasks, steps, seed, rivals), Evaluation.from_json, make)


MOST_IN_GROUP = 6
"""Runs that are held side by side by the number of points that they were trained on."""


def shots_group(store: Store, run: Run) -> list[Run]:
    """This run and the newest others that differ from it in nothing but shots and seed, one for each number."""

    def recipe(config: RunConfig) -> RunConfig:
        least = config.tasks.least_shots
        return config.with_settings({"shots": least, "query_shots": least, "seed": 0})

    found = {run.config.shots: run}
    for other in sorted(store.all_runs(), key=lambda each: -each.created):
        is_usable = other.iteration and not other.is_active and not other.config.uses_own_model
        if is_usable and other.config.shots not in found and recipe(other.config) == recipe(run.config):
            found[other.config.shots] = other
    nearest = sorted(found, key=lambda shots: abs(shots - run.config.shots))[:MOST_IN_GROUP]
    return [found[shots] for shots in sorted(nearest)]


def shots_grid(
    store: Store,
    run: Run,
    *,
    tasks: int = SHOTS_TASKS,
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> pd.DataFrame | None:
    """Error of a group of runs, by the shots that each was trained on, against the number of support points.

    None where there is no run to hold beside this one.

    Raises:
        StoreError: a run has no checkpoint.
    """
    group = shots_group(store, run)
    if len(group) < 2:
        return None
    rows: dict[int, dict[int, float]] = {}
    for i, each in enumerate(group):
        steps = each.config.inner_steps

        def part(done: float, i: int = i) -> AbstractContextManager[None]:
            return turn((i + done) / len(group))

        found = measure(store, each, tasks=tasks, steps=steps, at="best", rivals=(), turn=part)
        levels = found.by_shots["learned"]
        rows[each.config.shots] = {shots: levels[shots].error for shots in SHOTS if shots in levels}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "trained on"
    return frame


def _baseline(store: Store, run: Run, kind: Literal["best", "latest"]) -> tuple[Run | None, bytes | None]:
    """The joint pretraining that a run is held against, and its checkpoint of that kind, or else its latest."""
    other = pretrained_run(store, run)
    if other is None or not other.iteration:
        return other, None
    return other, store.checkpoint(other.id, kind) or store.checkpoint(other.id)


Measured = TypeVar("Measured", Evaluation, ErrorCurve, Worth)


def _remembered(
    store: Store,
    run: Run,
    at: At,
    baseline: bytes | None,
    asked: tuple[object, ...],
    read: Callable[[str], Measured],
    make: Callable[[Initialization], Measured],
) -> Measured:
    """What was measured before of the same bytes for the same question, or else what `make` measures of them now."""
    _, saved = checkpoint_at(store, run, at)
    digest = hashlib.sha256(saved + (baseline or b""))
    digest.update(repr(asked).encode())
    key = digest.hexdigest()
    known = store.recall(run.id, key)
    if known is not None:
        return read(known)
    made = make(load_initialization(saved, run.config))
    store.remember(run.id, key, made.to_json())
    return made
