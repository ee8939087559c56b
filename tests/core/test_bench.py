"""The benchmark: that it measures, and that what it compares computes the same."""

import os

import pytest

from maml_core import cli, peers
from maml_core.bench import ENGINE_NAMES, PEER, _Process, check_alike, compare, evaluation
from maml_core.config import RunConfig
from maml_core.errors import EngineError
from maml_core.peers import JaxLoop
from maml_core.presets import PRESETS


@pytest.mark.slow
def test_a_measuring_process_answers(small_config: RunConfig) -> None:
    for name in ENGINE_NAMES:
        with _Process(small_config, name, dict(os.environ)) as process:
            assert process.ask()["ready_seconds"] > 0
            answer = process.ask("go")
            assert answer["rate"] > 0
            assert answer["peak_mib"] > 50


@pytest.mark.slow
def test_a_loop_of_jax_computes_the_same_and_is_measured_beside_ours(small_config: RunConfig) -> None:
    results = {result.engine: result for result in compare(small_config, rounds=1, peers=True)}
    assert set(results) == {*ENGINE_NAMES, PEER}  # `compare` itself refuses what does not come to the same loss
    assert results[PEER].iterations_per_second > results["higher"].iterations_per_second


@pytest.mark.slow
def test_an_evaluation_is_measured_both_ways(small_config: RunConfig) -> None:
    found = evaluation(small_config)
    assert min(found.native_ms, found.torch_ms, found.ready_seconds) > 0


@pytest.mark.slow
def test_a_measuring_process_that_fails_says_why_and_is_ended() -> None:
    with (
        pytest.raises(RuntimeError, match=r"ended with status 1: .*takes no rollouts"),
        _Process(PRESETS["navigation"].config, "native", dict(os.environ)) as process,
    ):
        process.ask()
    assert process._process.returncode == 1


def test_loops_that_come_to_different_losses_are_not_compared() -> None:
    check_alike([1.0, 2.0], [1.0, 2.0001])
    with pytest.raises(EngineError, match="in iteration 2, and ours"):
        check_alike([1.0, 2.0], [1.0, 2.001])


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "maml"},
        {"clip_norm": 1.0},
        {"model.activation": "silu"},
        {"model.kind": "fourier-mlp"},
        {"tasks.family": "circles"},
    ],
)
def test_what_is_not_stated_in_jax_is_not_measured(small_config: RunConfig, settings: dict[str, object]) -> None:
    with pytest.raises(EngineError, match="is stated for"):
        JaxLoop.check(small_config.with_settings(settings))


def test_peers_without_jax_gets_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda _: None)
    assert cli.main(["bench", "--peers"]) == 2
    assert "install it with `pip install jax`" in capsys.readouterr().err
