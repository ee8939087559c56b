"""What a configuration is made into for training: its device, its engine, its tasks."""

import math
from contextlib import suppress
from typing import Any

import torch

from maml_core.config import RunConfig
from maml_core.engines import (
    ENGINES,
    Alone,
    AutoEngine,
    Engine,
    Group,
    MetaOptimizer,
    NativeEngine,
    ShardedEngine,
    VectorizedEngine,
    shards_of,
)
from maml_core.engines.native import Sampler, has_convolutions, threads_for
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.tasks import ShardedStream, TaskBatch, TaskStream
from maml_core.training.devices import resolve_device

WORTH_SECONDS = 1.0
"""What making the native loop costs: with `auto`, a run that would be over sooner is trained without."""

WORTH_SECONDS_OF_CONVOLUTIONS = 20.0
"""The same of a network with convolutions: its code takes up to ten seconds, and half the time is saved."""

WORTH_SAMPLING = 20_000_000
"""Points from which on native code draws them: torch takes 15 ns for each, and the compiler a third of a second."""


def device_of(config: RunConfig, model: torch.nn.Module) -> torch.device:
    """The device that `config` names; `auto` is the CPU for engines whose place is there, and for small runs.

    Raises:
        DeviceError: the named device is not on this machine.
    """
    if config.engine in ("higher", "native"):  # task by task a GPU never pays; native code is the CPU's
        return resolve_device(config.device, 0)
    if config.engine == "vectorized":
        return resolve_device(config.device, math.inf)
    sequences = max(1, len(list(model.parameters()))) * (config.inner_steps + 1)
    sizes = config.sizes(model)
    return resolve_device(config.device, config.multiplications(sizes) / sequences)


def training_engine(config: RunConfig, model: torch.nn.Module, group: Group, judged_points: int) -> Engine:
    """As `make_engine`, but `auto` chooses, the native loop gets the threads that pay, and a group the shards."""
    if config.shards > 1 or group.size > 1:
        return ShardedEngine(make_engine(config, model), config.shards, group)
    parts = _engine_parts(config)
    if config.engine not in ("auto", "native"):
        return make_engine(config, model)
    native: NativeEngine | None = None
    try:
        if config.engine == "native" or _is_worth_compiling(config, model):
            native = NativeEngine(model, **parts)
            native.judged_points = judged_points
            native.threads = threads_for(config.multiplications(config.sizes(model)))
    except EngineError:
        if config.engine == "native":
            raise
    return native if native and config.engine == "native" else AutoEngine(VectorizedEngine(model, **parts), native)


def _is_worth_compiling(config: RunConfig, model: torch.nn.Module) -> bool:
    """Whether the whole run would take the vectorized engine longer than making the native loop takes."""
    if config.tasks.problem.calls > 1:
        return False
    cost = WORTH_SECONDS_OF_CONVOLUTIONS if has_convolutions(model) else WORTH_SECONDS
    return config.seconds_estimate(config.sizes()) * config.meta_iterations > cost


def make_engine(config: RunConfig, model: torch.nn.Module, name: str | None = None) -> Engine:
    """The engine of that name, or else the one that `config` names, for `model`.

    Raises:
        EngineError: the engine cannot take the model.
    """
    return engine_class(config, name)(model, **_engine_parts(config))


def engine_class(config: RunConfig, name: str | None = None) -> type[Engine]:
    """The class of the engine of that name, or of the one that `config` names; `auto` begins vectorized."""
    return ENGINES[name or ("vectorized" if config.engine == "auto" else config.engine)]


def _engine_parts(config: RunConfig) -> dict[str, Any]:
    """What any engine is told of a run: numbers, not the configuration."""
    return {
        "algorithm": config.method,
        "problem": config.tasks.problem,
        "inner": InnerLoop(config.inner_lr, config.inner_steps, config.perturbation),
        "meta_optimizer": MetaOptimizer(
            config.meta_lr, config.clip_norm, config.schedule, config.meta_iterations, config.ema_decay
        ),
    }


def training_stream(
    config: RunConfig, device: torch.device | str = "cpu", group: Group | None = None
) -> TaskStream | ShardedStream:
    """The tasks that a run is trained on; in a group, those of this process's shards."""

    def stream(shard: int | None) -> TaskStream:
        return TaskStream(
            config.tasks,
            meta_batch_size=config.meta_batch_size // config.shards,
            shots=config.shots,
            query_shots=config.query_shots,
            seed=config.seed,
            shard=shard,
            device=device,
        )

    if config.shards == 1:
        return stream(None)
    return ShardedStream([stream(shard) for shard in shards_of(group or Alone(), config.shards)])


def quicken(stream: TaskStream, iterations: float) -> Sampler | None:
    """Have native code draw the tasks of so many iterations, where that pays and it can: the same bits, sooner."""
    points = stream.family.points_of(stream.shots + stream.query_shots)
    if iterations * stream.meta_batch_size * points < WORTH_SAMPLING:
        return None
    with suppress(EngineError):
        stream.sampler = sampler = Sampler(stream)
        return sampler
    return None


def held_out_tasks(config: RunConfig, count: int, device: torch.device | str = "cpu") -> TaskBatch:
    """Tasks that no run of this family is trained on: `[count, points, features]`, the same for every seed."""
    return config.tasks.validation(tasks=count, shots=config.shots, query_shots=config.query_shots).to(device)
