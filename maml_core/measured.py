"""A run's evaluation, computed once: for the command line and the screen alike."""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from maml_core.algorithms import Parameters
from maml_core.checkpoint import load_parameters
from maml_core.errors import StoreError
from maml_core.evaluation import Evaluation, evaluate, pretraining
from maml_core.presets import PRESETS
from maml_core.run import Run
from maml_core.store import Store


def pretrained_run(store: Store, run: Run) -> Run | None:
    """The joint pretraining that `run` is compared with, if there is one: the one that has come furthest."""
    if run.config.algorithm == "joint":
        return None
    wanted = pretraining(run.config)
    found = [other for other in store.all_runs() if other.config == wanted]
    return max(found, key=lambda other: other.iteration, default=None)


def reproduction(run: Run, result: Evaluation) -> str | None:
    """Whether a finished run of a preset reached what it did before; None where there is nothing to compare."""
    preset = PRESETS.get(run.preset or "")
    if preset is None or preset.reached is None or run.status != "finished":
        return None
    free = {"seed": run.config.seed, "engine": run.config.engine, "device": run.config.device}
    steps, low, high = preset.reached
    if run.config != preset.config.with_settings(free) or len(result.learned.mse) <= steps:
        return None
    found, half = result.learned.mse[steps], result.learned.ci95[steps]
    verdict = "reproduced" if found - half <= high else "not reproduced: try another seed"
    count = "1 step" if steps == 1 else f"{steps} steps"
    return f"This recipe reached {low:g} to {high:g} after {count} with three seeds; this run {found:.3g}: {verdict}."


def run_parameters(store: Store, run: Run, iteration: int | None = None) -> Parameters | None:
    """What a run has learned, at its latest checkpoint or at one of its history; None if there is none.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    data = store.checkpoint(run.id, "latest" if iteration is None else "history", iteration)
    return load_parameters(data, run.config) if data else None


def measure(
    store: Store,
    run: Run,
    *,
    tasks: int = 600,
    steps: int = 10,
    seed: int = 0,
    iteration: int | None = None,
    turn: Callable[[float], AbstractContextManager[None]] = lambda done: nullcontext(),
) -> Evaluation:
    """Error of a run and its baselines on held-out tasks, from the store if it was computed before.

    Raises:
        StoreError: the run has no checkpoint.
    """
    saved = store.checkpoint(run.id, "latest" if iteration is None else "history", iteration)
    if saved is None:
        raise StoreError(f"run = {run.id} ({run.name}) has no checkpoint yet: train it first.")
    other = pretrained_run(store, run)
    baseline = store.checkpoint(other.id) if other and other.iteration else None
    digest = hashlib.sha256(saved + (baseline or b""))
    digest.update(repr((tasks, steps, seed)).encode())
    key = digest.hexdigest()
    known = store.recall(run.id, key)
    if known is not None:
        return Evaluation.from_json(known)
    made = evaluate(
        run.config,
        load_parameters(saved, run.config),
        tasks=tasks,
        steps=steps,
        seed=seed,
        pretrained=load_parameters(baseline, other.config) if baseline and other else None,
        turn=turn,
    )
    store.remember(run.id, key, made.to_json())
    return made
