"""Whole programs by each compiler, for each width of vectors, on another processor, and under the sanitizers."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from maml_core.config import RunConfig
from maml_core.engines import NativeEngine, VectorizedEngine, initial_state
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.engines.native import Follower, Sampler, engine, following, sampling
from maml_core.evaluation.curves import evaluation_tasks
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.tasks import TaskStream, parse_family
from maml_core.training.parts import training_stream
from tests.conftest import wait_for
from tests.core.elsewhere import MACHINES, Elsewhere

pytestmark = pytest.mark.slow


@pytest.fixture(params=MACHINES, autouse=True)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Where all loops are run."""
    name = str(request.param)
    if missing := MACHINES[name].missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {' and no '.join(missing)} on this machine")
    for module in (engine, following, sampling):
        monkeypatch.setattr(module, "Calls", lambda program, library: Elsewhere(program, MACHINES[name], tmp_path))
    return name


def engines(model: nn.Module, optimizer: MetaOptimizer, algorithm: str) -> tuple[NativeEngine, VectorizedEngine]:
    native, vectorized = (
        kind(model, inner=InnerLoop(0.02, 3), meta_optimizer=optimizer, algorithm=ALGORITHMS[algorithm])
        for kind in (NativeEngine, VectorizedEngine)
    )
    assert isinstance(native, NativeEngine)
    assert isinstance(vectorized, VectorizedEngine)
    return native, vectorized


@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_training_goes_as_in_the_vectorized_engine(small_config: RunConfig, algorithm: str) -> None:
    config = small_config.with_settings({"algorithm": algorithm, "inner_steps": 3, "meta_batch_size": 11})
    tasks, model = training_stream(config).take(0, 6), config.network()
    native, vectorized = engines(model, MetaOptimizer(0.01, 1.0, ema_decay=0.9), algorithm)
    start = initial_state(model, ALGORITHMS[algorithm], averages=True)
    (found, rows), (expected, other_rows) = native.run(start, tasks), vectorized.run(start, tasks)
    torch.testing.assert_close(rows, other_rows, rtol=1e-3, atol=1e-5)
    for one, other in zip(found.vectors, expected.vectors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    parameters = start.parameters
    judged = native.query_loss(parameters, tasks.at(0)), vectorized.query_loss(parameters, tasks.at(0))
    torch.testing.assert_close(*judged, rtol=1e-4, atol=1e-6)
    native.close()


FOLLOWED: dict[str, dict[str, object]] = {
    "sine": {"tasks": {"family": "sine"}, "model.activation": "relu"},
    "spiral": {"tasks": {"family": "spiral"}, "model.activation": "relu"},
    "glyphs": {"tasks": {"family": "glyphs", "size": 12}, "model": {"kind": "conv", "channels": 3}, "shots": 1},
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_adaptation_is_followed_as_in_torch(small_config: RunConfig, name: str) -> None:
    config = small_config.with_settings(FOLLOWED[name])
    start, tasks = config.untrained(), evaluation_tasks(config, 7, 0)
    found, expected = Follower(start, tasks).errors(start, tasks, 4), start.adapt(tasks, 4).query_loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_tasks_are_drawn_to_the_same_bits() -> None:
    family = parse_family({"family": "sine", "noise": 0.1})
    stream = TaskStream(family, meta_batch_size=3, shots=5, query_shots=8, seed=4)
    sampler = Sampler(stream)
    assert sampler._build is not None
    wait_for(sampler._build.is_done)
    for seed in (0, 2**63 + 5):  # noise is normal: numbers are torch's between two stages
        found, expected = sampler(seed), stream.sample(torch.Generator().manual_seed(seed))
        assert found is not None
        assert all(map(torch.equal, found, expected))
    assert isinstance(sampler._calls, Elsewhere)


def test_a_network_of_ones_own_with_functions_of_its_own_trains_as_in_the_vectorized_engine() -> None:
    """Exponentials and error functions are written out where torch's library of them is not at hand."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 9), nn.GELU(), nn.LayerNorm(9), nn.Linear(9, 9), nn.Softplus(), nn.Linear(9, 1))
    stream = TaskStream(parse_family({"family": "sine"}), meta_batch_size=5, shots=5, query_shots=8, seed=1)
    tasks, start = stream.take(0, 1), initial_state(model, ALGORITHMS["fomaml"])
    native, vectorized = engines(model, MetaOptimizer(0.01), "fomaml")
    native.prepare(tasks.at(0))
    found = native.meta_gradient(start.parameters, tasks.at(0)).gradient
    expected = vectorized.meta_gradient(start.parameters, tasks.at(0)).gradient
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    native.close()
