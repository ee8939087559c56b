"""Adaptation followed in native code, beside torch's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from maml_core.config import RunConfig
from maml_core.engines.native import Follower, following
from maml_core.engines.native.toolchain import Build
from maml_core.errors import EngineError
from maml_core.evaluation import curves
from maml_core.evaluation.curves import Evaluation, evaluate, evaluation_tasks
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.initialization import Initialization
from maml_core.learning.tasks import TaskBatch
from tests.levels import levels

SETTINGS: dict[str, dict[str, object]] = {
    "relu": {"model.hidden_sizes": [12, 7], "model.activation": "relu"},
    "classes": {"tasks": {"family": "spiral"}},
    "noise": {"tasks": {"family": "harmonic", "noise": 0.1}},
    "two outputs": {"tasks": {"family": "circles"}, "model.activation": "relu"},
    "linear": {"model": {"kind": "linear"}},
    "images": {"tasks": {"family": "glyphs", "size": 12}, "model": {"kind": "conv", "channels": 3}, "shots": 1},
}


def alike(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("algorithm", levels(ALGORITHMS, ["fomaml", "anil", "ridge-head"], list(ALGORITHMS)))
def test_each_algorithm_adapts_as_in_torch(small_config: RunConfig, algorithm: str) -> None:
    config = small_config.with_settings({"algorithm": algorithm, "inner_steps": 1})
    start, tasks = config.untrained(), evaluation_tasks(config, 9, 0)
    if start.extras:  # as if they had been learned
        start = replace(start, extras={name: value * 0.7 for name, value in start.extras.items()})
    steps = 1 if start.algorithm.solves else 4
    found = Follower(start, tasks).errors(start, tasks, steps)
    assert found.shape == (steps + 1, 9)
    alike(found, start.adapt(tasks, steps).query_loss)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_kind_of_task_and_model_is_judged_as_in_torch(small_config: RunConfig, name: str) -> None:
    config = small_config.with_settings(SETTINGS[name])
    start, tasks = config.untrained(), evaluation_tasks(config, 12, 0)
    follower = Follower(start, tasks)
    found = follower.errors(start, tasks, 3)
    alike(found, start.adapt(tasks, 3).query_loss)
    assert torch.equal(follower.errors(start, tasks, 3), found)  # the same bits again
    assert torch.equal(follower.errors(start, tasks.at(slice(5)), 0), found[:1, :5])  # of any number of tasks and steps


def test_one_loop_serves_whatever_start_has_the_same_source(small_config: RunConfig) -> None:
    tasks = evaluation_tasks(small_config, 5, 0)
    one, other = small_config.untrained(), small_config.untrained(seed=9).at_rate(0.2)
    follower = Follower(one, tasks)
    assert follower.source == Follower(other, tasks).source
    alike(follower.errors(other, tasks, 2), other.adapt(tasks, 2).query_loss)
    slower = small_config.with_settings({"algorithm": "anil"}).untrained()
    assert follower.source != Follower(slower, tasks).source


def test_tasks_of_another_shape_are_refused(small_config: RunConfig) -> None:
    start = small_config.untrained()
    follower = Follower(start, evaluation_tasks(small_config, 3, 0))
    with pytest.raises(EngineError, match="not made for following such tasks"):
        follower.errors(start, evaluation_tasks(small_config, 3, 0, shots=4), 1)


def test_rollouts_are_refused(small_config: RunConfig) -> None:
    config = small_config.with_settings({"shots": 2, "query_shots": 2, "tasks": {"family": "navigation"}})
    start = replace(small_config.untrained(), problem=config.tasks.problem)
    with pytest.raises(EngineError, match="no rollouts"):
        Follower(start, config.tasks.held_out(tasks=1, shots=2, query_shots=2))


WRONG = {
    "turned around": ("errors + s * count + t", "errors + (steps - s) * count + t"),
    "not a number": ("if (s == steps) break;", 'if (s == steps) {{ errors[t] = __builtin_nanf(""); break; }}'),
    "wrong after the step": ("lr, phi[(s + 1) & 1]", "&errors[0], phi[(s + 1) & 1]"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_loop_that_is_wrong_is_not_used(small_config: RunConfig, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right, wrong = WRONG[fault]
    assert right in following._LOOP
    monkeypatch.setattr(following, "_LOOP", following._LOOP.replace(right, wrong))
    start, tasks = small_config.untrained(), evaluation_tasks(small_config, 4, 0)
    follower = Follower(start, tasks)
    for _ in range(2):  # nor is it at the second time
        with pytest.raises(EngineError, match="disagrees with torch"):
            follower.errors(start, tasks, 2)


def test_nothing_but_the_cpus_numbers_is_given_to_it(small_config: RunConfig) -> None:
    start, tasks = small_config.untrained(), evaluation_tasks(small_config, 4, 0)
    elsewhere = replace(start, parameters={name: value.to("meta") for name, value in start.parameters.items()})
    with pytest.raises(EngineError, match="on the CPU only"):
        Follower(start, tasks).errors(elsewhere, tasks, 1)


def test_what_is_not_finite_stays_so(small_config: RunConfig) -> None:
    start, tasks = small_config.untrained(), evaluation_tasks(small_config, 4, 0)
    follower, wild = Follower(start, tasks), start.at_rate(1e30)
    for _ in range(2):  # by this start alone there is no telling whether the loop is right
        with pytest.raises(EngineError, match="not tried out"):
            follower.errors(wild, tasks, 3)
    follower.errors(start, tasks, 3)
    found, expected = follower.errors(wild, tasks, 3), wild.adapt(tasks, 3).query_loss
    assert torch.equal(torch.isfinite(found), torch.isfinite(expected))
    assert not torch.isfinite(found[-1]).any()


# In an evaluation ----------------------------------------------------------------------------------------------


def measured(config: RunConfig) -> Evaluation:
    return evaluate(config.untrained(), config, tasks=20, steps=3, rivals=())


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Evaluations are followed in native code however small; the numbers of tasks that were."""
    monkeypatch.setattr(curves, "WORTH_COMPILING", 0)
    seen: list[int] = []
    right = Follower.errors

    def errors(self: Follower, start: Initialization, tasks: TaskBatch, steps: int) -> Tensor:
        found = right(self, start, tasks, steps)
        seen.append(len(tasks.support_x))
        return found

    monkeypatch.setattr(Follower, "errors", errors)
    return seen


def test_an_evaluation_says_the_same_either_way(small_config: RunConfig, followed: list[int]) -> None:
    native = measured(small_config)
    assert followed == [20, 20]  # what was learned, and the random start
    for each in (native.learned, native.random):
        assert all(error > 0 for error in each.error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "WORTH_COMPILING", 10**9)
        plain = measured(small_config)
    assert followed == [20, 20]
    for name in ("learned", "random"):
        one, other = getattr(native, name), getattr(plain, name)
        assert one.error == pytest.approx(other.error, rel=1e-5)
        assert one.ci95 == pytest.approx(other.ci95, rel=1e-4)
    assert native.by_shots == plain.by_shots
    assert native.outside == plain.outside


def test_where_the_loop_is_wrong_torch_evaluates_all_starts(
    small_config: RunConfig, followed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        following, "_LOOP", following._LOOP.replace("errors + s * count", "errors + (steps - s) * count")
    )
    found = measured(small_config)
    assert not followed
    tasks = evaluation_tasks(small_config, 20, 0)
    for curve, start in ((found.learned, small_config.untrained()), (found.random, curves.random_start(small_config))):
        assert curve.error == pytest.approx(start.adapt(tasks, 3).query_loss.mean(1).tolist(), rel=1e-6)


@pytest.mark.parametrize("compiler", ["/nonexistent", "false"])
def test_without_a_compiler_that_works_torch_evaluates(
    small_config: RunConfig, followed: list[int], monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    config = small_config.with_settings({"model.hidden_sizes": [11]})  # whose loop nobody has made yet
    found = measured(config)
    assert not followed
    expected = config.untrained().adapt(evaluation_tasks(config, 20, 0), 3).query_loss
    assert found.learned.error == pytest.approx(expected.mean(1).tolist(), rel=1e-6)


def test_while_the_compiler_works_it_is_not_waited_for_in_a_turn(
    small_config: RunConfig, followed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"turn": False}
    waited: list[bool] = []
    right, left = Build.is_done, [3]

    def is_done(self: Build) -> bool:
        waited.append(held["turn"])
        left[0] -= 1
        return left[0] < 0 and right(self)

    class Turn:
        def __init__(self, done: float) -> None:
            assert 0 <= done <= 1

        def __enter__(self) -> None:
            held["turn"] = True

        def __exit__(self, *error: object) -> None:
            held["turn"] = False

    monkeypatch.setattr(Build, "is_done", is_done)
    evaluate(small_config.untrained(), small_config, tasks=20, steps=3, rivals=(), turn=Turn)
    assert followed == [20, 20]
    assert len(waited) > 3
    assert not any(waited)


def test_a_model_of_ones_own_is_followed(small_config: RunConfig) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(1, 6), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.into(x))
            found: Tensor = self.out(hidden + nn.functional.gelu(hidden)) + x
            return found

    model = Residual()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    start = replace(small_config.untrained(), model=model, parameters=parameters)
    tasks = evaluation_tasks(small_config, 6, 0)
    alike(Follower(start, tasks).errors(start, tasks, 3), start.adapt(tasks, 3).query_loss)
