"""Engines side by side: iterations per second, compile time cold and warm, peak memory; and evaluations.

Each engine is measured in a process of its own, on one thread; rounds are interleaved and medians taken, because a
shared machine drifts. Only ratios within one run of this benchmark mean anything.
"""

import importlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import initial_state
from maml_core.engines.native import Follower, NativeEngine
from maml_core.errors import EngineError
from maml_core.evaluation.curves import AT_ONCE, evaluation_tasks
from maml_core.learning.tasks import TaskBatch, TaskStream
from maml_core.peers import CHUNK, JaxLoop
from maml_core.presets import get_preset
from maml_core.training.parts import make_engine, quicken, training_stream

ENGINE_NAMES = ("higher", "vectorized", "native")
ON_CUDA = "vectorized, CUDA"
"""What is measured beside them where there is such a device."""
PEER = "JAX"
"""What is measured beside them where that is asked for."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sine": ("sine", {}),
    "paper-10-shot, 1 step": ("paper-10-shot", {}),
    "paper-10-shot, 5 steps": ("paper-10-shot", {"inner_steps": 5}),
    "spiral": ("spiral", {}),
    "navigation": ("navigation", {}),
    "glyphs": ("glyphs", {}),
}
SCALING: dict[str, list[dict[str, Any]]] = {
    "meta_batch_size": [{"meta_batch_size": n} for n in (5, 25, 200, 1000)],
    "shots": [{"shots": n, "query_shots": n} for n in (5, 20, 80)],
    "inner_steps": [{"inner_steps": n} for n in (1, 10, 50, 200)],
    "hidden_sizes": [{"model.hidden_sizes": [n, n]} for n in (20, 40, 80, 160)],
}
ROUND_SECONDS = 0.5
EVALUATION = "evaluation"
EVALUATED, EVALUATED_STEPS = 600, 10
"""Tasks of an evaluation, and steps."""
CHECKED = 50
"""Meta-iterations in which a peer's losses must be ours."""


@dataclass(frozen=True)
class Result:
    """One engine on one case."""

    engine: str
    iterations_per_second: float
    ratio: float  # to `higher` in the same run
    ready_seconds: float  # from a warm import to the end of the first chunk; compiles where nothing is cached
    warm_seconds: float  # the same in a new process with a full cache; of what keeps none, as before
    peak_mib: float  # of the whole process


@dataclass(frozen=True)
class Followed:
    """An evaluation's tasks, adapting step by step, each judged after every step."""

    torch_ms: float
    native_ms: float
    ready_seconds: float  # from a warm import to the first errors in native code, nothing cached


def _takes(check: Callable[..., None], *asked: Any) -> bool:
    try:
        check(*asked)
    except EngineError:
        return False
    return True


def takes_native(config: RunConfig) -> bool:
    """Whether native code can do anything for such runs."""
    asked = config.structure(), config.method, torch.device("cpu")
    return config.tasks.problem.calls == 1 and _takes(NativeEngine.check, *asked)


def compare(config: RunConfig, rounds: int = 5, *, peers: bool = False) -> list[Result]:
    """Measure every engine on `config`, in interleaved rounds; with `peers`, JAX's loop where it is stated, too.

    Raises:
        EngineError: JAX computes something else.
    """
    names: tuple[str, ...] = (*ENGINE_NAMES, ON_CUDA) if torch.cuda.is_available() else ENGINE_NAMES
    if not takes_native(config):
        names = tuple(name for name in names if name != "native")
    if peers and _takes(JaxLoop.check, config):
        names = (*names, PEER)
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"MAML_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": os.path.join(cache, "inductor")}
        workers: dict[str, _Process] = {}
        ready: dict[str, dict[str, Any]] = {}
        with ExitStack() as running:
            for name in names:  # one after another: how soon it is ready says nothing where others begin beside it
                workers[name] = running.enter_context(_Process(config, name, environment))
                ready[name] = workers[name].ask()
            if PEER in names:
                check_alike(ready["vectorized"]["losses"], ready[PEER]["losses"])
            rates: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(rounds):
                for name, worker in workers.items():
                    rates[name].append(worker.ask("go")["rate"])
            peaks = {name: worker.ask("go")["peak_mib"] for name, worker in workers.items()}
        warm = dict(ready)
        if "native" in names:
            with _Process(config, "native", environment) as again:
                warm["native"] = again.ask()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return [
        Result(
            name,
            medians[name],
            medians[name] / medians["higher"],
            ready[name]["ready_seconds"],
            warm[name]["ready_seconds"],
            peaks[name],
        )
        for name in names
    ]


def check_alike(ours: Sequence[float], peers: Sequence[float]) -> None:
    """Refuse to compare speeds of loops that compute different things, by the query losses of `CHECKED` iterations.

    Fewer would not do: after Adam's first step, which is about as long whatever the gradient, losses of different
    algorithms differ in the fourth digit.

    Raises:
        EngineError: they do.
    """
    for number, (own, other) in enumerate(zip(ours, peers, strict=True), start=1):
        if not math.isclose(own, other, rel_tol=1e-4):
            raise EngineError(
                f"JAX's loop has a query loss of {other:.6g} in iteration {number}, and ours of {own:.6g}: it is not "
                "the same maths."
            )


def scaling(engine: str = "vectorized") -> dict[str, list[dict[str, Any]]]:
    """Seconds per meta-iteration and peak memory of `engine` as one quantity of `paper-10-shot` grows."""
    table: dict[str, list[dict[str, Any]]] = {}
    for quantity, steps in SCALING.items():
        table[quantity] = []
        for settings in steps:
            config = get_preset("paper-10-shot").config.with_settings(settings)
            with _Process(config, engine, dict(os.environ)) as process:
                process.ask()
                seen = [process.ask("go") for _ in range(3)]
            table[quantity].append(
                {
                    "value": settings[f"model.{quantity}" if quantity == "hidden_sizes" else quantity],
                    "ms_per_iteration": 1000 / statistics.median(answer["rate"] for answer in seen),
                    "peak_mib": seen[-1]["peak_mib"],
                }
            )
    return table


def evaluation(config: RunConfig) -> Followed:
    """How long `EVALUATED` tasks of `config` take to adapt by `EVALUATED_STEPS` steps, in torch and in native code."""
    with (
        tempfile.TemporaryDirectory() as cache,
        _Process(config, EVALUATION, os.environ | {"MAML_CACHE": cache}) as process,
    ):
        return Followed(**process.ask())


class _Process:
    """An engine in a process of its own, which measures one round at a time when asked; as a context, it is ended."""

    def __init__(self, config: RunConfig, engine: str, environment: dict[str, str]) -> None:
        self._complained = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "maml_core.bench", engine, config.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complained,
            text=True,
            env=environment,
        )

    def ask(self, question: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if question:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._complained.seek(0)
            lines = self._complained.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"the measuring process ended with status {self._process.wait()}: {lines[-1]}")
        return json.loads(line)  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()
        self._complained.close()


def _measure(engine_name: str, config: RunConfig) -> None:
    """Report when the engine is ready; then, for each line on stdin, one round of about `ROUND_SECONDS`."""
    torch.set_num_threads(1)
    if engine_name == EVALUATION:
        print(json.dumps(_measure_evaluation(config)), flush=True)
        return
    device = "cuda" if engine_name == ON_CUDA else "cpu"
    model = config.network().to(device)
    stream = training_stream(config, device)
    is_peer = engine_name == PEER
    if engine_name != ON_CUDA:
        _keep_to_one_core()
    if is_peer:
        os.environ["JAX_PLATFORMS"] = "cpu"
        importlib.import_module("jax")
    began = time.perf_counter()
    engine = make_engine(config, model, engine_name if engine_name in ENGINE_NAMES else "vectorized")
    loop = JaxLoop(config, engine.inner, engine.meta_optimizer) if is_peer else engine
    count = CHUNK if is_peer else 2
    state, metrics = loop.run(initial_state(model, engine.algorithm), stream.take(0, count))
    metrics.cpu()  # a GPU is not done when it has been asked
    took = time.perf_counter() - began
    if engine_name == "vectorized":
        state, further = loop.run(state, stream.take(count, CHECKED - count))
        metrics = torch.cat([metrics, further])
    print(json.dumps({"ready_seconds": took, "losses": metrics[:CHECKED, 1].tolist()}), flush=True)
    if engine_name == "native" and isinstance(stream, TaskStream):
        quicken(stream, math.inf)
    for _ in sys.stdin:
        done, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < ROUND_SECONDS:
            if done and not is_peer:
                count = max(1, min(2560, int(done / elapsed * ROUND_SECONDS / 3)))
            state, metrics = loop.run(state, stream.take(state.iteration, count))
            metrics.cpu()
            done += count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        print(json.dumps({"rate": done / elapsed, "peak_mib": peak}), flush=True)


def _measure_evaluation(config: RunConfig) -> dict[str, float]:
    _keep_to_one_core()
    start, tasks = config.untrained(), evaluation_tasks(config, EVALUATED, 0)
    began = time.perf_counter()
    follower = Follower(start, tasks)
    follower.errors(start, tasks, EVALUATED_STEPS)
    ready = time.perf_counter() - began

    def in_turns(errors: Callable[[TaskBatch], Tensor]) -> float:
        began = time.perf_counter()
        for first in range(0, EVALUATED, AT_ONCE):
            errors(tasks.at(slice(first, first + AT_ONCE)))
        return 1000 * (time.perf_counter() - began)

    rounds = [
        (
            in_turns(lambda some: start.adapt(some, EVALUATED_STEPS).query_loss),
            in_turns(lambda some: follower.errors(start, some, EVALUATED_STEPS)),
        )
        for _ in range(9)
    ]
    in_torch, in_native = (statistics.median(each) for each in zip(*rounds, strict=True))
    return {"torch_ms": in_torch, "native_ms": in_native, "ready_seconds": ready}


def _keep_to_one_core() -> None:
    """What `torch.set_num_threads(1)` does for torch, for all that is measured; JAX asks before it is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    _measure(sys.argv[1], RunConfig.from_json(sys.argv[2]))
