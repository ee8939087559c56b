"""A grid of ordinary runs: every combination once, nothing doubled, further seeds added."""

import json

import pytest

from maml_core import cli
from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.store.store import Store
from maml_core.training.sweep import MOST, grid_configs, open_sweep, parse_grid

BASE = RunConfig(meta_iterations=20, meta_batch_size=2, shots=4, query_shots=4, engine="vectorized")


def test_a_grid_is_every_combination_in_order() -> None:
    grid = parse_grid(["inner_lr=0.003,0.01", "model.hidden_sizes=[8],[8, 8]", "tasks.family=sine,line", "seed=0,1"])
    assert grid["model.hidden_sizes"] == [[8], [8, 8]]
    assert grid["tasks.family"] == ["sine", "line"]
    configs = grid_configs(BASE, grid)
    assert len(configs) == 16
    assert [config.seed for config in configs.values()][:4] == [0, 1, 0, 1]  # the last field varies fastest
    first, *_, last = configs
    assert first == "inner_lr=0.003 model.hidden_sizes=[8] tasks.family=sine seed=0"
    assert configs[last] == BASE.with_settings(
        {"inner_lr": 0.01, "model.hidden_sizes": [8, 8], "tasks.family": "line", "seed": 1}
    )


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "A sweep needs at least one --grid"),
        (["seed"], "--grid seed is not allowed: it must be FIELD=VALUE,VALUE"),
        (["seed="], "--grid seed= is not allowed"),
        (["seed=1,1"], "a value stands twice"),
        (["seed=0,1", "seed=2"], "--grid seed stands twice"),
        (["speed=1,2"], "speed is not a field"),
        (["inner_lr=0.1,fast"], "inner_lr = 'fast' is not allowed"),
        (["inner_lr=0.1,-1"], "inner_lr = -1"),
        ([f"seed={','.join(map(str, range(200)))}", f"shots={','.join(map(str, range(1, 60)))}"], "11,800 runs"),
        (["model.kind=my_models:Wide"], "which the workers of a sweep do not load"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_sentence(
    store: Store, capsys: pytest.CaptureFixture[str], pairs: list[str], said: str
) -> None:
    flags = [part for pair in pairs for part in ("--grid", pair)]
    assert cli.main(["sweep", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert store.all_runs() == []
    assert MOST == 10_000


def test_many_runs_are_started_only_by_who_means_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "--grid", f"seed={','.join(map(str, range(250)))}"]) == 2
    assert "The grid has 250 runs: add --yes to start them" in capsys.readouterr().err
    for flags, said in ((["--jobs", "0"], "--jobs 0 is not allowed"), (["--name", "a,b"], "it must have no comma")):
        assert cli.main(["sweep", "--grid", "seed=0", *flags]) == 2
        assert said in capsys.readouterr().err
    assert store.all_runs() == []


def test_a_sweep_opened_again_doubles_nothing_and_takes_further_seeds(store: Store) -> None:
    first = open_sweep(store, BASE, parse_grid(["inner_lr=0.003,0.01", "seed=0,1"]), preset=None)
    assert first.made == 4
    stopped, *_ = first.run_ids
    store.ask(stopped, "stop")
    assert store.run(stopped).status == "stopped"
    again = open_sweep(store, BASE, parse_grid(["inner_lr=0.003,0.01", "seed=0,1,2"]), preset=None)
    assert (again.name, again.made, len(again.run_ids)) == (first.name, 2, 6)
    assert set(first.run_ids) < set(again.run_ids)
    assert store.run(stopped).status == "queued"  # what did not come to its end goes on
    assert {run.tags for run in again.runs(store)} == {first.name}
    assert len(store.all_runs()) == 6
    other = open_sweep(store, BASE, parse_grid(["inner_lr=0.003,0.02", "seed=0"]), preset=None)
    assert (other.made, other.name == first.name) == (2, False)


@pytest.mark.slow
def test_the_command_line_sweeps_compares_and_does_nothing_twice(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--set", "meta_iterations=30", "--set", "engine=vectorized", "--grid", "inner_lr=0.001,0.01"]
    assert cli.main(["sweep", *flags, "--grid", "seed=0,1", "--jobs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["status"] for run in found["runs"]] == ["finished"] * 4
    assert {row["inner_lr"]: row["Runs"] for row in found["groups"]} == {"0.001": 2, "0.01": 2}
    alone = {run.config.seed: run for run in store.all_runs() if run.config.inner_lr == 0.01}
    trained = store.metrics(alone[1].id)
    assert cli.main(["train", "--preset", "first-run", *flags[:4], "--set", "inner_lr=0.01", "--set", "seed=1"]) == 0
    capsys.readouterr()
    assert store.metrics(store.all_runs()[0].id).equals(trained)  # an ordinary run, with the bits that it has alone
    assert cli.main(["sweep", *flags, "--grid", "seed=0,1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == found["runs"]
    assert len(store.all_runs()) == 5


def test_a_class_of_the_users_own_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(ConfigError, match="train its runs one by one"):
        grid_configs(BASE.with_settings({"model.kind": "nowhere:Net"}), {"seed": [0]})
