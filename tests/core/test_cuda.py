"""The CUDA path: on a machine without such a device, the rule that chooses it; on one with it, its numbers."""

import pytest
import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import TrainingState, VectorizedEngine, initial_state
from maml_core.errors import DeviceError
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.tasks import TaskStream
from maml_core.training import devices
from maml_core.training.devices import resolve_device
from maml_core.training.parts import make_engine, training_stream
from maml_core.training.trainer import Trainer

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

SMALL = RunConfig(meta_iterations=600, meta_batch_size=4, inner_steps=2, shots=5)


def chosen(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> str:
    """The device that a run with these settings would be given on a machine with CUDA."""
    seen: list[str] = []

    def stop(name: str, work: float) -> torch.device:
        seen.append(resolve_device(name, work).type)
        raise DeviceError("seen")

    with monkeypatch.context() as patch:
        patch.setattr(devices, "available_devices", lambda: ["cuda", "cpu"])
        patch.setattr("maml_core.training.parts.resolve_device", stop)
        with pytest.raises(DeviceError, match="seen"):
            Trainer(RunConfig().with_settings(settings))
    return seen[0]


@pytest.mark.parametrize(
    ("settings", "device"),
    [
        ({}, "cpu"),
        ({"inner_steps": 50}, "cpu"),  # more steps are more launches, too
        ({"meta_batch_size": 400}, "cuda"),
        ({"model.hidden_sizes": [512, 512]}, "cuda"),
        ({"engine": "vectorized"}, "cuda"),  # there is no native loop to be faster
        ({"engine": "native", "model.hidden_sizes": [512, 512]}, "cpu"),
        ({"engine": "higher", "model.hidden_sizes": [512, 512]}, "cpu"),
        ({"device": "cuda"}, "cuda"),
        ({"device": "cpu", "model.hidden_sizes": [512, 512]}, "cpu"),
    ],
)
def test_a_gpu_is_chosen_where_it_pays(
    settings: dict[str, object], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen({"model.hidden_sizes": [40, 40], "meta_batch_size": 25, **settings}, monkeypatch) == device


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_devices", lambda: ["cpu"])
    assert resolve_device("auto", float("inf")).type == "cpu"


def test_one_meta_iteration_is_what_a_chunk_is_made_of() -> None:
    """What a graph captures is the same function that the other engines' loop calls."""
    engine = make_engine(SMALL, SMALL.network(), "vectorized")
    state, tasks = initial_state(engine.model, engine.algorithm), training_stream(SMALL).take(0, 3)
    after, metrics = engine.run(state, tasks)
    vectors = state.vectors
    for i, rates in enumerate(engine.meta_optimizer.rates(0, 3, state.parameters)):
        vectors, row = engine.iterate(vectors, tasks.at(i), rates)
        assert torch.equal(row, metrics[i])
    assert torch.equal(vectors[0], after.parameters)


def on(device: str, config: RunConfig, chunks: list[int], dtype: torch.dtype) -> tuple[TrainingState, Tensor, bool]:
    model = config.network().to(device, dtype)
    engine = make_engine(config, model, "vectorized")
    assert isinstance(engine, VectorizedEngine)
    stream = training_stream(config, device)
    assert isinstance(stream, TaskStream)
    stream.dtype = dtype
    state, metrics = initial_state(model, engine.algorithm, averages=config.ema_decay is not None), []
    for count in chunks:
        state, rows = engine.run(state, stream.take(state.iteration, count))
        metrics.append(rows)
    return state.to("cpu"), torch.cat(metrics).cpu(), None not in engine._captured.values()


@needs_cuda
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("extra", [{}, {"clip_norm": 1.0, "ema_decay": 0.9, "schedule": "cosine"}])
def test_a_captured_graph_gives_the_numbers_of_the_cpu(algorithm: str, extra: dict[str, object]) -> None:
    config = SMALL.with_settings({"algorithm": algorithm, **extra})
    state, metrics, _ = on("cpu", config, [10], torch.float64)
    captured, rows, is_captured = on("cuda", config, [10], torch.float64)
    for kept, vector in zip(state.vectors, captured.vectors, strict=True):
        torch.testing.assert_close(vector, kept, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(rows, metrics, rtol=1e-9, atol=1e-11)
    assert is_captured or algorithm == "ridge-head"  # the gradient of a solve cannot be captured


SMALL_CONV = {"model.kind": "conv", "model.channels": 4, "model.blocks": 2, "shots": 1, "query_shots": 2}
PROBLEMS_TRIED: dict[str, dict[str, object]] = {
    "classes": {"tasks.family": "spiral", "model.hidden_sizes": [16], "shots": 3, "query_shots": 4},
    "control": {"tasks.family": "navigation", "model.kind": "policy", "model.hidden_sizes": [8], "inner_steps": 2},
    "characters": {"tasks.family": "glyphs", "tasks.size": 12, **SMALL_CONV},
    "own images": {"tasks.family": "images", "tasks.size": 12, **SMALL_CONV},
}


@needs_cuda
@pytest.mark.parametrize("problem", PROBLEMS_TRIED)
@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_every_problem_has_the_numbers_of_the_cpu(problem: str, algorithm: str) -> None:
    config = SMALL.with_settings({"algorithm": algorithm, "meta_batch_size": 3, **PROBLEMS_TRIED[problem]})
    state, metrics, _ = on("cpu", config, [3], torch.float64)
    captured, rows, is_captured = on("cuda", config, [3], torch.float64)
    torch.testing.assert_close(captured.parameters, state.parameters, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(rows, metrics, rtol=1e-8, atol=1e-10)
    assert is_captured
    again, others, _ = on("cuda", config, [1, 2], torch.float64)
    assert torch.equal(captured.parameters, again.parameters)
    assert torch.equal(rows, others)


@needs_cuda
@pytest.mark.parametrize("algorithm", ["fomaml", "ridge-head", "meta-sgd"])
def test_chunks_do_not_show_on_cuda(algorithm: str) -> None:
    config = SMALL.with_settings({"algorithm": algorithm})
    (one, rows, _), (two, others, _) = (on("cuda", config, chunks, torch.float32) for chunks in ([10], [3, 1, 6]))
    assert torch.equal(one.parameters, two.parameters)
    assert torch.equal(rows, others)


@needs_cuda
def test_a_resumed_run_has_the_same_bits_on_cuda() -> None:
    config = SMALL.with_settings({"device": "cuda", "engine": "vectorized"})
    whole = list(Trainer(config).run())[-1]
    for progress in Trainer(config).run():
        if progress.state.iteration > 100:
            break
    rest = list(Trainer(config, progress.state.to("cpu"), progress.pending).run())[-1]
    assert rest.finished
    assert torch.equal(whole.state.parameters, rest.state.parameters)
