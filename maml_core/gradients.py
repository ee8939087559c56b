"""Meta-gradients side by side: of one algorithm by every engine, and of several algorithms at one initialization."""

import functools
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import softplus

from maml_core.algorithms import ALGORITHMS, FOMAML, mse_loss
from maml_core.config import RunConfig
from maml_core.engines import (
    CompiledEngine,
    Engine,
    Layout,
    MetaOptimizer,
    ReferenceEngine,
    TrainingState,
    VectorizedEngine,
)
from maml_core.engines.meta_optimizer import BETAS
from maml_core.errors import EngineError
from maml_core.models import build_model
from maml_core.tasks import TaskBatch, TaskStream

COMPARED = ("maml", "reptile", "joint")
"""Algorithms whose meta-gradient is compared with that of first-order MAML."""


NO_LOOP = "no compiled loop for this set-up is on disk yet"
"""What `engines_table` notes where the compiled engine could take part, but is not ready to."""


def gradient_tasks(config: RunConfig) -> TaskBatch:
    """The meta-batch that gradients are compared on: held-out tasks, in the shapes that the run was trained with."""
    stream = TaskStream(
        config.tasks,
        meta_batch_size=config.meta_batch_size,
        shots=config.shots,
        query_shots=config.query_shots,
        seed=0,
        purpose="gradients",
    )
    return stream.take(0, 1).at(0)


def _engine(
    cls: type[Engine], model: nn.Module, config: RunConfig, algorithm: str, steps: int, clip_norm: float | None = None
) -> Engine:
    return cls(model, inner_lr=config.inner_lr, inner_steps=steps, meta_optimizer=MetaOptimizer(1e-3, clip_norm),
               algorithm=ALGORITHMS[algorithm])  # fmt: skip


@torch.no_grad()
def _untraced(engine: Engine, flat: Tensor, batch: TaskBatch) -> Tensor:
    """The meta-gradient without the trace that only pays when it is run many times."""
    assert isinstance(engine, VectorizedEngine)
    return engine.compose(flat, batch, lambda piece, *inputs: piece(*inputs)).gradient


def engines_table(config: RunConfig, parameters: Tensor) -> pd.DataFrame:
    """FOMAML's meta-gradient at flat `parameters` `[P]` by every engine, and how far each is from that by `higher`.

    The compiled engine takes part if its loop for this set-up is on disk: making one takes tens of seconds.
    """
    model = build_model(config.model, config.seed)
    flat = parameters[: Layout(model).size].clone()
    batch = gradient_tasks(config)
    rows: list[dict[str, object]] = []
    reference: Tensor | None = None
    for cls in (ReferenceEngine, VectorizedEngine, CompiledEngine):
        try:
            engine = _engine(cls, model, config, "fomaml", config.inner_steps, config.clip_norm)
        except EngineError as error:
            rows.append({"engine": cls.name, "note": str(error)})
            continue
        if isinstance(engine, CompiledEngine) and not engine.is_ready_for(batch):
            rows.append({"engine": cls.name, "note": NO_LOOP})
            continue
        began = time.perf_counter()
        found = _meta_gradient(engine, flat, batch)
        if not isinstance(engine, ReferenceEngine):  # what the others pay once, for tracing or loading, does not count
            began = time.perf_counter()
            _meta_gradient(engine, flat, batch)
        elapsed = time.perf_counter() - began
        engine.close()
        reference = found if reference is None else reference
        rows.append({
            "engine": cls.name, "norm": float(found.norm()),
            "largest difference": float((found - reference).abs().max()),
            "relative": float((found - reference).norm() / reference.norm().clamp(min=1e-30)),
            "milliseconds": 1e3 * elapsed,
        })  # fmt: skip
    return pd.DataFrame(rows)


def gradients_seconds(config: RunConfig) -> float:
    """About how long `engines_table` takes, most of it in `higher`."""
    by_higher = config.with_settings({"engine": "higher", "algorithm": "fomaml"})
    return by_higher.seconds_estimate(config.model.parameter_count())


def _meta_gradient(engine: Engine, flat: Tensor, batch: TaskBatch) -> Tensor:
    """The meta-gradient `[P]`; the compiled loop's is read off Adam's first moment after one meta-iteration."""
    if not isinstance(engine, CompiledEngine):
        return engine.meta_gradient(flat, batch).gradient
    state = TrainingState(flat, torch.zeros_like(flat), torch.zeros_like(flat))
    after, rows = engine.run(state, TaskBatch(*(tensor[None] for tensor in batch)))
    found: Tensor = after.exp_avg / (1 - BETAS[0])
    length: Tensor = rows[0, 2] / found.norm().clamp(min=1e-30)  # as it was before clipping
    return found * length


def loop_config(config: RunConfig) -> RunConfig:
    """The run whose compiled loop `engines_table` would use: FOMAML in the shapes of `config`, without an average."""
    return config.with_settings({"algorithm": "fomaml", "engine": "compiled", "ema_decay": None})


@dataclass(frozen=True)
class Cosines:
    """Cosine of each algorithm's meta-gradient with FOMAML's."""

    by_step: pd.DataFrame  # index: inner steps; a column per algorithm; NaN where a gradient is zero
    by_layer: pd.DataFrame  # index: parameter names, at the run's own number of inner steps


def cosines(config: RunConfig, parameters: Tensor, most_steps: int = 10) -> Cosines:
    """Compare algorithms at flat `parameters` `[P]`, over 0 to `most_steps` inner steps, and by layer."""
    model = build_model(config.model, config.seed)
    layout = Layout(model)
    flat, batch = parameters[: layout.size].clone(), gradient_tasks(config)

    def gradient(name: str, steps: int) -> Tensor:
        return _untraced(_engine(VectorizedEngine, model, config, name, steps), flat, batch)

    by_step = {}
    for steps in range(most_steps + 1):
        own = gradient("fomaml", steps)
        by_step[steps] = {name: _cosine(own, gradient(name, steps)) for name in COMPARED}
    steps = min(max(config.inner_steps, 1), most_steps)
    own_parts = layout.unflatten(gradient("fomaml", steps))
    by_layer: dict[str, dict[str, float]] = {part: {} for part in own_parts}
    for name in COMPARED:
        for part, value in layout.unflatten(gradient(name, steps)).items():
            by_layer[part][name] = _cosine(own_parts[part], value)
    curves = pd.DataFrame.from_dict(by_step, orient="index")
    curves.index.name = "inner steps"
    layers = pd.DataFrame.from_dict(by_layer, orient="index")
    layers.index.name = "parameter"
    return Cosines(curves, layers)


def _cosine(left: Tensor, right: Tensor) -> float:
    size = left.norm() * right.norm()
    return float((left * right).sum() / size) if size > 0 else float("nan")


class _Toy(nn.Module):
    """softplus(a x + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return softplus(self.a * x + self.b)


TOY_TARGETS = ((2.0, 1.0), (-1.0, 2.0), (0.5, -2.0))
"""a and b of the toy's three tasks."""
TOY_RANGE = (-3.0, 3.0)


@dataclass(frozen=True)
class Toy:
    """The two-parameter model: its meta-loss everywhere, and every algorithm's update at one point."""

    axis: np.ndarray  # [cells], the values of a, and of b
    meta_loss: np.ndarray  # [cells, cells]: mean query loss after the inner steps; rows are b
    updates: dict[str, tuple[float, float]]  # minus the meta-gradient, by algorithm
    task_updates: list[tuple[float, float]]  # that of FOMAML for each task alone


TOY_RATE = 0.1
"""The toy's inner_lr."""


def _toy_tasks() -> tuple[nn.Module, TaskBatch]:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, :, None].expand(len(TOY_TARGETS), -1, -1)
    targets = torch.tensor(TOY_TARGETS, dtype=torch.float64)
    y = softplus(targets[:, 0, None, None] * x + targets[:, 1, None, None])
    return _Toy().double(), TaskBatch(x, y, x, y)


@functools.lru_cache(maxsize=16)
def _toy_surface(steps: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The toy's axis and meta-loss, which do not depend on where the initialization is."""
    model, batch = _toy_tasks()
    loss = mse_loss(model)

    def adapted_loss(theta: Tensor, *task: Tensor) -> Tensor:
        start = {"a": theta[0], "b": theta[1]}
        phi = start
        for _ in range(steps):
            phi = FOMAML.step(loss, start, phi, task[0], task[1], TOY_RATE)
        return loss(phi, task[2], task[3])

    axis = torch.linspace(*TOY_RANGE, cells, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        each = vmap(vmap(adapted_loss, (None, 0, 0, 0, 0)), (0, None, None, None, None))(grid, *batch)
    return axis.numpy(), each.mean(1).reshape(cells, cells).T.numpy()


def toy(a: float, b: float, steps: int, cells: int = 41) -> Toy:
    """Exact for any number of inner steps: every meta-gradient is taken through all of them."""
    model, batch = _toy_tasks()

    def update(name: str, tasks: TaskBatch) -> tuple[float, float]:
        engine = VectorizedEngine(model, inner_lr=TOY_RATE, inner_steps=steps, meta_optimizer=MetaOptimizer(1e-3),
                                  algorithm=ALGORITHMS[name])  # fmt: skip
        found = -_untraced(engine, torch.tensor([a, b], dtype=torch.float64), tasks)
        return float(found[0]), float(found[1])

    names = [name for name in ("fomaml", *COMPARED) if steps or not ALGORITHMS[name].needs_steps]
    return Toy(
        *_toy_surface(steps, cells),
        {name: update(name, batch) for name in names},
        [update("fomaml", batch.at(slice(i, i + 1))) for i in range(len(TOY_TARGETS))],
    )
