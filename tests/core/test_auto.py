"""Engine `auto`: what it chooses, what it says, and that a run's bits do not depend on anything else."""

import pytest
import torch
from torch import Tensor, nn

from maml_core.config import RunConfig
from maml_core.engines import AutoEngine, MetaOptimizer, NativeEngine, TrainingState, VectorizedEngine, initial_state
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import InnerLoop
from maml_core.training.parts import make_engine, training_stream
from maml_core.training.trainer import Progress, Trainer, check_startable
from tests.core.starts import FOMAML


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    """A run that is worth a loop of its own."""
    return small_config.with_settings({"meta_iterations": 2000})


def first(config: RunConfig, iterations: int) -> tuple[Trainer, list[Progress]]:
    trainer = Trainer(config)
    trainer.limit = iterations
    return trainer, list(trainer.run())


def test_it_takes_the_native_loop_from_the_first_iteration_on(config: RunConfig) -> None:
    trainer, reports = first(config, 30)
    assert trainer.engine.status == "native"
    assert trainer.notice == ""
    alone, others = first(config.with_settings({"engine": "native"}), 30)
    assert torch.equal(trainer.state.parameters, alone.state.parameters)
    assert [row for r in reports for row in r.rows] == [row for r in others for row in r.rows]


def test_it_judges_before_it_has_chosen_and_after(config: RunConfig) -> None:
    engine = Trainer(config).engine
    assert isinstance(engine, AutoEngine)
    parameters = initial_state(engine.model, engine.algorithm).parameters
    judged = config.tasks.validation(tasks=7, shots=config.shots, query_shots=config.query_shots)
    assert engine.status == "compiling"
    before = engine.query_loss(parameters, judged)
    engine.run(initial_state(engine.model, engine.algorithm), training_stream(config).take(0, 1))
    assert engine.status == "native"
    torch.testing.assert_close(engine.query_loss(parameters, judged), before, rtol=1e-5, atol=0)


def test_a_run_that_is_over_sooner_is_not_compiled(small_config: RunConfig) -> None:
    trainer, _ = first(small_config, 3)
    assert trainer.engine.status == "vectorized"
    assert trainer.notice == ""


def test_without_a_compiler_it_says_so_once_and_training_goes_on(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    config = config.with_settings({"model.hidden_sizes": [9]})  # whose loop nobody has made yet
    trainer, _ = first(config, 30)
    assert trainer.state.iteration == 30
    assert trainer.engine.status == "vectorized"
    assert trainer.notice.count("install g++ or clang++") == 1
    assert "continues with the vectorized engine" in trainer.notice
    alone, _ = first(config.with_settings({"engine": "vectorized"}), 30)
    assert torch.equal(trainer.state.parameters, alone.state.parameters)
    with pytest.raises(EngineError, match="needs a C\\+\\+ compiler"):
        first(config.with_settings({"engine": "native"}), 1)


def test_a_compiler_that_fails_is_quoted(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    trainer, _ = first(config.with_settings({"model.hidden_sizes": [10]}), 30)
    assert "The C++ compiler failed on the native loop" in trainer.notice
    assert trainer.engine.status == "vectorized"


class Tangent(nn.Module):
    """Uses an operation that the native engine does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.layer(x), dim=0)


def parts() -> dict[str, object]:
    return {"inner": InnerLoop(0.01, 1), "meta_optimizer": MetaOptimizer(0.1), "algorithm": FOMAML}


def test_an_operation_it_does_not_know_is_named(small_config: RunConfig) -> None:
    tasks = training_stream(small_config).take(0, 1)
    native = NativeEngine(Tangent(), **parts())  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"operation aten\.cumsum\.default is not in the native engine's table"):
        native.prepare(tasks.at(0))
    model = Tangent()
    auto = AutoEngine(VectorizedEngine(model, **parts()), NativeEngine(model, **parts()))  # type: ignore[arg-type]
    assert auto.status == "compiling"
    assert auto.is_ready(0, tasks)
    assert auto.status == "vectorized"
    assert "aten.cumsum.default" in (auto.notice or "")
    state, _ = auto.run(initial_state(model, FOMAML), tasks)
    assert state.iteration == 1


def test_a_loop_that_computes_something_else_is_not_used(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = NativeEngine.run

    def wrong(self: NativeEngine, state: TrainingState, tasks: object) -> tuple[TrainingState, Tensor]:
        after, rows = run(self, state, tasks)  # type: ignore[arg-type]
        return TrainingState.of((vector * 1.1 for vector in after.vectors), after.iteration), rows

    monkeypatch.setattr(NativeEngine, "run", wrong)
    trainer, _ = first(config, 5)
    assert "disagrees with the vectorized engine" in trainer.notice
    assert trainer.engine.status == "vectorized"


def test_a_run_that_goes_on_in_another_engine_says_so(config: RunConfig) -> None:
    begun, _ = first(config, 10)
    for before, said in (
        ("native", ""),
        ("vectorized", "Up to iteration 10 this run was trained by vectorized; from there on by native"),
        (None, "Up to iteration 10 this run was trained by an earlier version's engine"),
    ):
        trainer = Trainer(config, begun.state, begun.pending, before)
        trainer.limit = 12
        list(trainer.run())
        assert said in trainer.notice
        assert bool(said) == bool(trainer.notice)


def test_the_name_of_earlier_versions_means_native() -> None:
    assert RunConfig.from_dict({"engine": "compiled"}).engine == "native"
    assert RunConfig().with_settings({"engine": "compiled"}).engine == "native"


def test_another_device_is_refused(small_config: RunConfig) -> None:
    with pytest.raises(EngineError, match="runs on the CPU only"):
        NativeEngine.check(small_config.structure(), FOMAML, torch.device("cuda"))
    check_startable(small_config.with_settings({"engine": "native"}))
    assert isinstance(make_engine(small_config, small_config.network(), "native"), NativeEngine)
