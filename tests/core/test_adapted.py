"""How compared runs adapt to held-out tasks, and what decides what they reach."""

import numpy as np
import pandas as pd
import pytest

from maml_core.config import RunConfig
from maml_core.evaluation.adapted import QUERY, SHOTS, STEPS, TASKS, Adaptations, Adapted, adapted_curves, shown_of
from maml_core.evaluation.compare import Curve, grouped, heat, importance
from maml_core.evaluation.of_runs import checkpoint_at
from maml_core.figures import compare_curves, heat_figure, importance_figure
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_initialization
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run

CONFIG = RunConfig(meta_iterations=30, meta_batch_size=2, shots=4, query_shots=4, inner_steps=2, engine="vectorized")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two rates by two seeds; and a run that was never trained."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('adapted') / 'maml.db'}")
    for rate in (0.001, 0.01):
        for seed in (0, 1):
            config = CONFIG.with_settings({"inner_lr": rate, "seed": seed})
            run = store.claim(this_process(), store.create_run(config))
            assert run is not None
            train_run(store, run, this_process())
    store.create_run(CONFIG.with_settings({"inner_lr": 0.02}))
    return store


@pytest.mark.slow
def test_errors_are_those_of_a_plain_loop_and_are_found_once(trained: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, adaptations = trained.all_runs(), Adaptations()
    assert adaptations.missing(trained, runs) == runs
    adaptations.find(trained, runs, seconds=0)  # one at least, so that there is always progress
    assert len(adaptations.missing(trained, runs)) == len(runs) - 1
    adaptations.find(trained, runs)
    assert adaptations.missing(trained, runs) == []
    found = adaptations.known(trained, runs)
    assert set(found) == {run.id for run in runs if run.iteration}  # the others are asked no more, and are not drawn

    run = next(run for run in runs if run.iteration)
    start = load_initialization(checkpoint_at(trained, run, "best")[1], run.config)
    for shots, steps, value in (
        (run.config.shots, STEPS, found[run.id].step_errors[-1]),
        (SHOTS[2], run.config.inner_steps, found[run.id].shot_errors[2]),
    ):
        tasks = run.config.tasks.held_out(tasks=TASKS, shots=shots, query_shots=QUERY)
        each = [
            float(start.adapt(tasks.at(slice(i, i + 1)), steps).query_loss[-1, 0]) for i in range(len(tasks.support_x))
        ]
        assert value == pytest.approx(np.mean(each), rel=1e-4)
    monkeypatch.setattr("maml_core.evaluation.adapted.adapt_run", lambda *_: pytest.fail("it is known already"))
    adaptations.find(trained, runs)

    groups = grouped(runs)
    step_errors, shot_errors = adapted_curves(found, groups)
    for curve, group in zip(step_errors, groups, strict=True):
        known = [found[run.id].step_errors for run in group.runs if run.id in found]
        assert len(curve.singles) == len(known)
        if known:
            np.testing.assert_allclose(curve.middle, np.mean(known, axis=0))
            assert curve.grid.tolist() == list(range(STEPS + 1))
    assert [curve.grid.tolist() for curve in shot_errors if len(curve.grid)] == [list(SHOTS)] * 2


def test_where_adaptation_diverges_a_curve_ends(trained: Store) -> None:
    run = next(run for run in trained.all_runs() if not run.iteration)
    errors = np.array([1.0, 2.0, np.nan, np.nan])
    (curve,), _ = adapted_curves({run.id: Adapted(errors, (), np.zeros(0))}, grouped([run]))
    assert curve.grid.tolist() == [0.0, 1.0]


def test_the_best_run_of_each_group_is_shown_and_the_best_group_first(trained: Store) -> None:
    groups = grouped([run for run in trained.all_runs() if run.iteration])
    shown = shown_of(groups, 6)
    losses = {group.name: min(run.best_loss or 0.0 for run in group.runs) for group in groups}
    assert {name: run.best_loss for name, run in shown.items()} == losses
    assert [*shown] == sorted(losses, key=losses.__getitem__)
    assert [*shown_of(groups, 1)] == [*shown][:1]
    assert shown_of(grouped([run for run in trained.all_runs() if not run.iteration]), 6) == {}


def test_what_is_far_above_the_rest_does_not_flatten_it() -> None:
    x = np.arange(3.0)
    steep = np.array([1.0, 1e9, 1e20])
    low = Curve("low", x, np.ones(3), np.ones(3), np.ones(3), np.ones(3), [])
    high = Curve("high", x, steep, steep, steep, np.ones(3), [])
    assert "range" not in compare_curves([low, high])["layout"]["yaxis"]
    bottom, top = compare_curves([low, high], cuts=True)["layout"]["yaxis"]["range"]
    assert -0.2 < bottom < 0
    assert 1 < top < 2
    assert compare_curves([low] * 12)["layout"]["showlegend"]
    assert not compare_curves([low] * 13)["layout"]["showlegend"]


def table(rows: int) -> pd.DataFrame:
    """Runs whose figure is decided by one setting, a little by another, and not at all by a third."""
    chance = np.random.default_rng(0)
    rate, shots, noise = (chance.choice(values, rows) for values in ([0.001, 0.01, 0.1], [5, 10], [1, 2, 3]))
    figure = rate**0.5 * (1 + 0.1 * (shots == 5)) * np.exp(0.01 * chance.standard_normal(rows))
    kinds = np.where(noise == 1, "mlp", "linear")
    named = {"Run": [f"run {i}" for i in range(rows)], "Status": "finished", "inner_lr": rate, "shots": shots}
    return pd.DataFrame(named | {"model.kind": kinds, "Best": figure})


def test_what_decides_comes_first() -> None:
    found = importance(table(60))
    assert found is not None
    assert next(iter(found.shares)) == "inner_lr"
    assert found.shares["inner_lr"] > 1.0
    assert found.shares["model.kind"] < 0.02
    assert found.explained > 0.95
    assert importance_figure(found)["data"][0]["y"][-1] == "inner_lr"  # at the top
    assert importance(table(19)) is None
    assert importance(table(30).assign(Best=1.0)) is None
    chance = table(60).assign(Best=np.exp(np.random.default_rng(1).standard_normal(60)))
    luck = importance(chance)
    assert luck is not None
    assert luck.explained < 0.2


def test_the_heat_map_holds_the_means_of_pairs() -> None:
    frame = table(40)
    found = heat(frame, "inner_lr", "shots")
    assert found.columns.tolist() == ["0.001", "0.01", "0.1"]  # by size, as text
    assert found.index.tolist() == ["5", "10"]
    here = frame[(frame["inner_lr"] == 0.1) & (frame["shots"] == 5)]["Best"].mean()
    assert found.loc["5", "0.1"] == pytest.approx(here)
    figure = heat_figure(found, "Best")
    assert figure["data"][0]["text"][0][2] == f"{here:.3g}"
    hole = frame[(frame["inner_lr"] != 0.1) | (frame["shots"] != 5)]
    assert heat_figure(heat(hole, "inner_lr", "shots"), "Best")["data"][0]["z"][0][2] is None


def test_runs_without_any_training_have_no_curves(trained: Store) -> None:
    runs: list[Run] = [run for run in trained.all_runs() if not run.iteration]
    step_errors, _ = adapted_curves({}, grouped(runs))
    assert [len(curve.grid) for curve in step_errors] == [0] * len(step_errors)
