"""Meta-gradients side by side: of one algorithm by every engine, and of several algorithms at one initialization."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from maml_core.config import RunConfig
from maml_core.engines import Engine, MetaOptimizer, NativeEngine, ReferenceEngine, VectorizedEngine
from maml_core.engines.vectorized import directly
from maml_core.errors import EngineError
from maml_core.evaluation.of_runs import learned_by
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.initialization import Initialization
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.layout import Layout
from maml_core.learning.tasks import TaskBatch, TaskSet, seeded
from maml_core.store.run import Run
from maml_core.store.store import Store

COMPARED = ("maml", "fo-b-maml", "reptile", "joint")
"""Algorithms whose meta-gradient is compared with that of first-order MAML."""


Turn = Callable[[], AbstractContextManager[None]]
"""What one piece of work is done within: a server lets others have theirs in between."""


@dataclass(frozen=True)
class EnginesCompared:
    """FOMAML's meta-gradient by every engine."""

    table: pd.DataFrame  # a row per engine that takes part
    absent: dict[str, str]  # why an engine takes no part, by its name


def compared_tasks(config: RunConfig) -> int:
    """How many there are in it: a meta-batch, or of costly ones a few."""
    return min(config.meta_batch_size, FEW_TASKS) if config.tasks.is_costly else config.meta_batch_size


FEW_TASKS = 4


def gradient_tasks(config: RunConfig) -> TaskBatch:
    """The meta-batch that gradients are compared on: held-out tasks, in the shapes that the run was trained with."""
    shape, generator = (compared_tasks(config),), seeded("gradients:0")
    return config.tasks.sample_batch(shape, config.shots, config.query_shots, generator, task_set=TaskSet.HELD_OUT)


def _engine(cls: type[Engine], model: nn.Module, config: RunConfig, algorithm: str, steps: int) -> Engine:
    return cls(
        model,
        inner=InnerLoop(config.inner_lr, steps, config.perturbation),
        meta_optimizer=MetaOptimizer(1e-3),
        algorithm=ALGORITHMS[algorithm],
        problem=config.tasks.problem,
    )


@torch.no_grad()
def untraced(engine: VectorizedEngine, flat: Tensor, batch: TaskBatch) -> Tensor:
    """The meta-gradient `[P]` without the trace that only pays when it is run many times."""
    return engine.compose(flat, batch, directly).gradient


class _Measured(NamedTuple):
    gradient: Tensor  # [P]
    seconds: float


def _measured(cls: type[Engine], model: nn.Module, config: RunConfig, flat: Tensor, batch: TaskBatch) -> _Measured:
    """FOMAML's meta-gradient by one engine, and how long it takes once the engine is ready.

    Raises:
        EngineError: the engine cannot take the model.
    """
    engine = _engine(cls, model, config, "fomaml", config.inner_steps)
    engine.prepare(batch)
    began = time.perf_counter()
    found = engine.meta_gradient(flat, batch).gradient
    if not isinstance(engine, ReferenceEngine):  # what the others pay once, for tracing or loading, does not count
        began = time.perf_counter()
        engine.meta_gradient(flat, batch)
    elapsed = time.perf_counter() - began
    engine.close()
    return _Measured(found, elapsed)


def compare_engines(config: RunConfig, start: Initialization, turn: Turn = nullcontext) -> EnginesCompared:
    """FOMAML's meta-gradient at `start` by every engine, and how far each is from that by `higher`.

    The native engine's loop for this set-up is made where it is not on disk yet, which takes about a second.
    """
    with turn():
        model = config.network()  # with values of its own, which `higher` overwrites
        flat = Layout(model, ALGORITHMS["fomaml"]).flatten(start.theta)
        batch = gradient_tasks(config)
    rows: list[dict[str, object]] = []
    reference: Tensor | None = None
    absent: dict[str, str] = {}
    for cls in (ReferenceEngine, VectorizedEngine, NativeEngine):
        try:
            with turn():
                found, elapsed = _measured(cls, model, config, flat, batch)
                reference = found if reference is None else reference
                difference = found - reference
                compared: dict[str, object] = {
                    "Norm": float(found.norm()),
                    "Largest difference from higher": float(difference.abs().max()),
                    "Relative difference": float(difference.norm() / reference.norm().clamp(min=1e-30)),
                    "Milliseconds": 1e3 * elapsed,
                }
        except EngineError as error:
            absent[cls.name] = str(error)
            continue
        rows.append({"Engine": cls.name} | compared)
    return EnginesCompared(pd.DataFrame(rows), absent)


def gradients_seconds(config: RunConfig) -> float:
    """About how long `compare_engines` takes, most of it in `higher`."""
    by_higher = config.with_settings({"engine": "higher", "algorithm": "fomaml"})
    return by_higher.seconds_estimate(by_higher.sizes())


@dataclass(frozen=True)
class Cosines:
    """Cosine of each algorithm's meta-gradient with FOMAML's."""

    by_step: pd.DataFrame  # index: inner steps; a column per algorithm; NaN where a gradient is zero
    by_layer: pd.DataFrame  # index: parameter names, at the run's own inner steps, or the most that are compared


MOST_STEPS, FEW_STEPS = 10, 3
"""Inner steps that gradients are compared over; the few where a step takes rollouts."""


def cosines(
    config: RunConfig, start: Initialization, most_steps: int = MOST_STEPS, turn: Turn = nullcontext
) -> Cosines:
    """Compare algorithms at `start`, over 0 to `most_steps` inner steps, and by layer."""
    with turn():
        layout = Layout(start.model, ALGORITHMS["fomaml"])
        flat, batch = layout.flatten(start.theta), gradient_tasks(config)

    def gradient(name: str, steps: int) -> Tensor:
        engine = _engine(VectorizedEngine, start.model, config, name, steps)
        assert isinstance(engine, VectorizedEngine)
        return untraced(engine, flat, batch)

    by_step = {}
    for steps in range(most_steps + 1):
        names = [name for name in COMPARED if steps or not ALGORITHMS[name].needs_steps]
        with turn():
            own = gradient("fomaml", steps)
            by_step[steps] = {name: _cosine(own, gradient(name, steps)) for name in names}
    steps = min(max(config.inner_steps, 1), most_steps)
    with turn():
        own_parts = layout.unflatten(gradient("fomaml", steps)).parameters
        by_layer: dict[str, dict[str, float]] = {part: {} for part in own_parts}
        for name in COMPARED:
            for part, value in layout.unflatten(gradient(name, steps)).parameters.items():
                by_layer[part][name] = _cosine(own_parts[part], value)
    curves = pd.DataFrame.from_dict(by_step, orient="index", columns=list(COMPARED))
    curves.index.name = "Inner steps"
    layers = pd.DataFrame.from_dict(by_layer, orient="index")
    layers.index.name = "Parameter"
    return Cosines(curves, layers)


def through_the_solution(config: RunConfig, start: Initialization) -> pd.DataFrame | None:
    """A ridge head's meta-gradient through its solution beside that with the solution held constant, by parameter.

    None where the run's algorithm solves for nothing.
    """
    if not start.algorithm.solves:
        return None
    layout, batch = Layout(start.model, start.algorithm), gradient_tasks(config)
    flat = layout.flatten(start.theta)

    def gradient(name: str) -> dict[str, Tensor]:
        engine = _engine(VectorizedEngine, start.model, config, name, 1)
        assert isinstance(engine, VectorizedEngine)
        return layout.unflatten(untraced(engine, flat, batch)).parameters

    exact, held = gradient("ridge-head"), gradient("fo-ridge-head")
    whole = [torch.cat([part.reshape(-1) for part in each.values()]) for each in (exact, held)]
    parts = {"all parameters": whole} | {name: [exact[name], held[name]] for name in exact}
    rows = {
        name: {
            "Norm, through it": float(one.norm()),
            "Norm, held constant": float(other.norm()),
            "Cosine": _cosine(one, other),
        }
        for name, (one, other) in parts.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "Parameter"
    return frame


class Gradients(NamedTuple):
    """All that is compared at one initialization."""

    engines: EnginesCompared
    cosines: Cosines
    solved: pd.DataFrame | None  # that of `through_the_solution`


def gradients_of(store: Store, run: Run, iteration: int | None, turn: Turn = nullcontext) -> Gradients | None:
    """What is compared at a run's latest initialization, or that of an iteration; None before its first checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    with turn():
        learned = learned_by(store, run, iteration)
    if learned is None:
        return None
    most = FEW_STEPS if run.config.tasks.is_costly else MOST_STEPS
    engines, found = compare_engines(run.config, learned, turn), cosines(run.config, learned, most, turn)
    with turn():
        return Gradients(engines, found, through_the_solution(run.config, learned))


def _cosine(left: Tensor, right: Tensor) -> float:
    size = left.norm() * right.norm()
    return float((left * right).sum() / size) if size > 0 else float("nan")
