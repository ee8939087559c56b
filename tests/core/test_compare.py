"""Runs side by side: groups, spread, differences by seed, the settings that differ."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from maml_core import cli
from maml_core.config import RunConfig
from maml_core.errors import StoreError
from maml_core.evaluation.compare import (
    _smooth,
    as_latex,
    comparison,
    curves,
    figures,
    grouped,
    heat,
    importance,
    of_runs,
    varied,
)
from maml_core.evaluation.remembered import Remembered
from maml_core.figures import compare_curves, heat_figure, parallel_figure, scatter_figure
from maml_core.figures.compare import AXES_ABREAST, MOST_AXES
from maml_core.milestones import MetricRow
from maml_core.processes import this_process
from maml_core.store.base import Saved, Vitals
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run

CONFIG = RunConfig(meta_iterations=40, meta_batch_size=2, shots=4, query_shots=4, engine="vectorized")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three rates by three seeds, of one of them two seeds only; and one run that diverges at once."""
    store = Store(f"sqlite:///{tmp_path_factory.mktemp('compare') / 'maml.db'}")
    cases: list[dict[str, object]] = [{"inner_lr": rate, "seed": seed} for rate in (0.001, 0.01) for seed in (0, 1, 2)]
    cases += [{"inner_lr": 0.05, "seed": seed} for seed in (2, 3)]
    cases += [{"inner_lr": 20.0, "inner_steps": 30}]
    for settings in cases:
        run = store.claim(this_process(), store.create_run(CONFIG.with_settings(settings)))
        assert run is not None
        train_run(store, run, this_process())
    return store


def test_runs_that_differ_in_the_seed_alone_are_one_group(trained: Store) -> None:
    runs = trained.all_runs()
    groups = {group.settings["inner_lr"]: group for group in grouped(runs)}
    assert {rate: len(group.runs) for rate, group in groups.items()} == {0.001: 3, 0.01: 3, 0.05: 2, 20.0: 1}
    assert set(varied(runs)) == {"inner_lr", "inner_steps", "seed"}
    assert set(groups[0.01].settings) == {"inner_lr", "inner_steps"}  # what differs, and nothing else
    assert "inner_lr 0.01" in groups[0.01].name
    assert sum(len(group.runs) for group in grouped(runs, ["seed"])) == len(runs)  # none is dropped
    assert len(grouped(runs, ["seed"])) == 4
    assert [group.settings for group in grouped(runs[-3:])] == [{}]
    with pytest.raises(StoreError, match=r"by = 'speed' is not a setting of these runs: it must be one of .*inner_lr"):
        grouped(runs, ["speed"])


def test_the_table_holds_mean_spread_and_differences_by_seed(trained: Store) -> None:
    runs = trained.all_runs()
    groups = grouped(runs)
    names = {group.settings["inner_lr"]: group.name for group in groups}
    table = comparison(trained, groups, reference=names[0.01]).set_index("Group")
    best = {
        rate: {run.config.seed: run.best_loss or 0.0 for run in runs if run.config.inner_lr == rate}
        for rate in (0.001, 0.01, 0.05)
    }
    here, there = np.array([*best[0.001].values()]), np.array([*best[0.01].values()])
    row = table.loc[names[0.001]]
    assert row["Best on held-out tasks"] == pytest.approx(here.mean())
    assert row["Standard deviation"] == f"± {here.std(ddof=1):.2g}"
    assert row["Difference"] == pytest.approx((here - there).mean())
    assert row["Shared seeds"] == 3
    low, high = stats.ttest_rel(here, there).confidence_interval()
    assert row["95 % interval"] == f"{low:+.3g} to {high:+.3g}"
    one = table.loc[names[0.05]]
    assert (one["Shared seeds"], one["95 % interval"]) == (1, "one seed only")
    assert one["Difference"] == pytest.approx(best[0.05][2] - best[0.01][2])
    assert table.loc[names[0.01]]["95 % interval"] == "the reference"
    assert table.loc[names[20.0]]["Diverged or failed"] == 1
    shown = table["Best on held-out tasks"].dropna().tolist()
    assert shown == sorted(shown)
    with pytest.raises(StoreError, match="reference = 'x' is no group: it must be one of "):
        comparison(trained, groups, reference="x")
    for spread, said in (("se", f"± {here.std(ddof=1) / 3**0.5:.2g}"), ("range", f"{here.min():.4g} to ")):
        column = {"se": "Standard error", "range": "Smallest to largest"}[spread]
        assert said in comparison(trained, groups, spread=spread).set_index("Group").loc[names[0.001]][column]


def test_a_curve_is_the_mean_of_those_that_have_come_so_far(store: Store) -> None:
    ends = {}
    for seed, count in ((0, 3), (1, 2)):
        owner = this_process()
        run = store.claim(owner, store.create_run(CONFIG.with_settings({"seed": seed})))
        assert run is not None
        rows = [MetricRow(i, 1.0, float(i + seed), 1.0) for i in range(1, count + 1)]
        store.commit(
            run.id, owner, rows=rows, latest=Saved(count, b""), snapshots=[], vitals=Vitals(), release="stopped"
        )
        ends[seed] = run.id
    (curve,) = curves(store, grouped(store.all_runs()), spread="range", smoothing=0.0)
    assert curve.members.tolist() == [2, 2, 1]
    np.testing.assert_allclose(curve.middle, [1.5, 2.5, 3.0])
    np.testing.assert_allclose(curve.bottom, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(curve.top, [2.0, 3.0, 3.0])
    (wide,) = curves(store, grouped(store.all_runs()), spread="std", smoothing=0.0)
    np.testing.assert_allclose(wide.top - wide.middle, [0.5**0.5, 0.5**0.5, 0.0])
    assert figures(store, store.all_runs(), "lowest") == {ends[0]: 1.0, ends[1]: 2.0}
    assert figures(store, store.all_runs(), "last") == {ends[0]: 2.0, ends[1]: 2.5}
    assert figures(store, store.all_runs(), "best") == {}


def test_figures_of_groups_and_settings_are_plain_json(trained: Store) -> None:
    runs = trained.all_runs()
    drawn = compare_curves(curves(trained, grouped(runs)))
    json.dumps(drawn, allow_nan=False)
    named = [trace["name"] for trace in drawn["data"] if trace.get("showlegend", True)]
    assert sorted(name.rpartition("(")[2] for name in named) == ["N = 2)", "N = 3)", "N = 3)"]
    frame = of_runs(trained, runs, "best")
    assert len(frame) == sum(run.best_loss is not None for run in runs)
    whole = parallel_figure(frame)
    json.dumps(whole, allow_nan=False)
    axes = {axis["label"]: axis for axis in whole["data"][0]["dimensions"]}
    drawn_runs = [run for run in runs if run.best_loss is not None]
    assert set(axes) == {*varied(drawn_runs), "Best on held-out tasks"}
    assert axes["inner_lr"]["ticktext"][0] == "0.001"  # a logarithmic axis, in the setting's own units
    assert "ticktext" not in axes["seed"]
    json.dumps(scatter_figure(frame, "inner_lr"), allow_nan=False)


def test_runs_that_diverged_are_marked(trained: Store) -> None:
    frame = of_runs(trained, trained.all_runs(), "best")
    statuses = ["diverged", *["finished"] * (len(frame) - 1)]
    marked = frame.assign(Status=statuses)
    axis = parallel_figure(marked)["data"][0]["dimensions"][0]
    assert (axis["label"], axis["ticktext"]) == ("Status", ["diverged", "finished"])
    assert axis["values"] == [0, *[1] * (len(frame) - 1)]
    trace = scatter_figure(marked, "inner_lr")["data"][0]
    assert [symbol == "x" for symbol in trace["marker"]["symbol"]] == [status == "diverged" for status in statuses]
    assert [text.endswith("(diverged)") for text in trace["text"]] == [status == "diverged" for status in statuses]
    alike = frame.assign(Status="finished")
    assert "Status" not in [axis["label"] for axis in parallel_figure(alike)["data"][0]["dimensions"]]


def test_names_that_are_markup_stay_text(store: Store) -> None:
    run = dataclasses.replace(store.run(store.create_run(CONFIG)), name="<script>x</script>", best_loss=1.0)
    other = dataclasses.replace(run, id="2", config=CONFIG.with_settings({"seed": 5}))
    frame = of_runs(store, [run, other], "best")
    assert "<script>" not in json.dumps(scatter_figure(frame, "seed"))
    assert "\\_" in as_latex(pd.DataFrame({"a_b": [float("nan")]}))


def test_runs_of_different_families_and_models_are_drawn_together(store: Store) -> None:
    """Each has settings that the other has not."""
    run = store.run(store.create_run(CONFIG))
    configs = [
        CONFIG.with_settings({"tasks.family": "formula"}),
        *(CONFIG.with_settings({"tasks.family": "sine", "seed": seed, "shots": 4 + seed}) for seed in range(12)),
        *(
            CONFIG.with_settings({"tasks.family": "gaussian-process", "model.kind": "mlp", "seed": seed})
            for seed in range(12)
        ),
    ]
    runs = [dataclasses.replace(run, id=str(i), config=config, best_loss=1.0 + i) for i, config in enumerate(configs)]
    frame = of_runs(store, runs, "best")
    settings = list(frame.columns[2:-1])
    assert any(value is None for value in frame[settings].to_numpy().ravel())
    assert all(isinstance(value, int) for value in frame["shots"])
    drawn = parallel_figure(frame)
    json.dumps(drawn, allow_nan=False)
    axes = [axis["label"] for axis in drawn["data"][0]["dimensions"]]
    assert "tasks.family" in axes
    assert not [name for name in axes[:-1] if name.startswith("tasks.") and frame[name].isna().any()]
    assert len(axes) <= MOST_AXES + 2
    assert (len(axes) > AXES_ABREAST) == (drawn["data"][0]["labelangle"] != 0)
    names = {group.settings["tasks.family"]: group.name for group in grouped([runs[0], runs[1], runs[2], runs[-1]])}
    assert {"formula": "family formula", "gaussian-process": "family gaussian-process"}.items() <= names.items()
    assert names["sine"] in ("family sine, shots 4", "family sine, shots 5"), names
    for name in settings:
        json.dumps(scatter_figure(frame, name), allow_nan=False)
        for other in settings:
            if other not in (name, "seed"):
                json.dumps(heat_figure(heat(frame, name, other), "Best"), allow_nan=False)
    found = importance(frame)
    assert found is not None
    assert set(found.shares) == set(settings) - {"seed"}


def test_the_command_line_compares(
    trained: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAML_STORE", trained.url)
    assert cli.main(["compare", "--by", "inner_lr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["groups"]
    assert {row["inner_lr"]: row["Runs"] for row in found} == {"0.001": 3, "0.01": 3, "0.05": 2, "20": 1}
    assert cli.main(["compare", *(run.id for run in trained.all_runs() if run.config.inner_lr == 0.01), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["compare", "--latex"]) == 0
    assert "\\toprule" in capsys.readouterr().out
    for arguments, said in (
        (["--by", "speed"], "by = 'speed' is not a setting"),
        (["--search", "nothing like this"], "There are no runs to compare"),
        (["--reference", "best"], "reference = 'best' is no group"),
        (["nope"], "nope"),
    ):
        assert cli.main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_too_many_runs_are_refused_in_one_sentence(store: Store) -> None:
    run: Run = store.run(store.create_run(CONFIG))
    with pytest.raises(StoreError, match="501 runs are too many to compare: at most 500"):
        grouped([run] * 501)


def test_the_losses_of_many_runs_are_those_of_each(trained: Store, tmp_path: Path) -> None:
    ids = [run.id for run in trained.all_runs()]
    found, courses = trained.losses([*ids, "nope"]), trained.courses([*ids, "nope"], parts=7)
    assert len(found["nope"].row_losses) == 0
    assert courses["nope"] == []
    for run_id in ids:
        expected = trained.metrics(run_id)
        np.testing.assert_array_equal(found[run_id].row_iterations, expected["iteration"])
        np.testing.assert_allclose(found[run_id].row_losses, expected["post_loss"].astype(float), rtol=1e-13)
        parts = np.array_split(expected["post_loss"].to_numpy(dtype=float), 7)
        np.testing.assert_allclose(courses[run_id], [part.mean() for part in parts if len(part)], rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.5, 0.9])
def test_smoothing_is_that_of_pandas(smoothing: float) -> None:
    values = np.exp(np.random.default_rng(0).standard_normal(300))
    expected = np.exp(pd.Series(np.log(values)).ewm(alpha=1 - smoothing).mean())
    np.testing.assert_allclose(_smooth(values, smoothing), expected, rtol=1e-12)


def test_only_runs_that_have_moved_are_asked_for_again(trained: Store) -> None:
    asked: list[list[str]] = []

    def ask(store: Store, run_ids: Sequence[str]) -> dict[str, int]:
        asked.append(list(run_ids))
        return dict.fromkeys(run_ids, len(asked))

    remembered, runs = Remembered(ask), trained.all_runs()[:3]
    first = remembered(trained, runs)
    moved = dataclasses.replace(runs[1], iteration=runs[1].iteration + 1)
    assert first == {run.id: 1 for run in runs}
    assert remembered(trained, [runs[0], moved]) == {runs[0].id: 1, moved.id: 2}
    assert asked == [[run.id for run in runs], [moved.id]]
