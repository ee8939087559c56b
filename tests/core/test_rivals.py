"""Other methods on the same tasks, and what an evaluation says beside the error against steps."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maml_core.evaluation.curves import REACH, SHOTS, Evaluation, Level, evaluate, evaluation_tasks
from maml_core.evaluation.rivals import RIVAL_NAMES, _likeliest_kernel, errors_of, make_rivals
from maml_core.figures import COLORS, error_curves, shots_curves
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.presets import PRESETS, config_for_table
from tests.core.test_tables import family_of, made

PAPER = PRESETS["paper-10-shot"].config


def test_a_familys_own_parameters_are_found_exactly_from_enough_points() -> None:
    for preset in ("linear", "paper-10-shot", "paper-5-shot"):
        config = PRESETS[preset].config
        (rival,) = make_rivals(config, ("oracle",)).values()
        assert float(errors_of(rival, evaluation_tasks(config, 20, 0), config.tasks.problem).max()) < 1e-8
    assert make_rivals(PAPER.with_settings({"tasks.family": "quadratic"}), ("oracle",)) == {}


def test_where_frequencies_differ_the_best_of_many_is_taken() -> None:
    config = PRESETS["best-random-frequency"].config
    (rival,) = make_rivals(config, ("oracle",)).values()
    found = errors_of(rival, evaluation_tasks(config, 50, 0), config.tasks.problem)
    assert float(found.median()) < 1e-3 < float(evaluation_tasks(config, 50, 0).query_y.square().mean())


def test_a_gaussian_process_learns_the_scale_of_its_tasks_and_goes_through_their_points() -> None:
    """Against a kernel that was chosen by hand, and one that is ten times too short."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel

    (rival,) = make_rivals(PAPER, ("gp",)).values()
    batch = evaluation_tasks(PAPER, 40, 0)
    mine = float(errors_of(rival, batch, PAPER.tasks.problem).median())

    def by_hand(length: float) -> float:
        kernel = ConstantKernel(10.0) * RBF(length)
        found = []
        for sx, sy, qx, qy in zip(*(part.double().numpy() for part in batch), strict=True):
            fit = GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=None).fit(sx, sy)
            found.append(float(np.square(fit.predict(qx).reshape(-1, 1) - qy).mean()))
        return float(np.median(found))

    assert mine < 2 * by_hand(2.0)
    assert mine < 0.1 * by_hand(0.2)


@pytest.mark.parametrize("preset", ["paper-5-shot", "spiral"])
def test_a_gaussian_process_of_many_tasks_is_scikit_learns_of_each(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    config = PRESETS[preset].config
    monkeypatch.setattr("maml_core.evaluation.rivals.MOST_COVARIANCES", 10**4)  # a few tasks at once, and a rest
    batch = evaluation_tasks(config, 7, 0)
    level, length, noise = np.exp(_likeliest_kernel(config.tasks, config.shots, config.query_shots))
    kernel = ConstantKernel(level) * RBF(length) + WhiteKernel(noise)
    (rival,) = make_rivals(config, ("gp",)).values()
    for task, found in enumerate(rival(batch)):
        sx, sy, qx, _ = (part[task].double().numpy() for part in batch)
        each = GaussianProcessRegressor(kernel, optimizer=None).fit(sx, sy).predict(qx)
        np.testing.assert_allclose(found, each.reshape(found.shape), rtol=1e-4, atol=1e-5)


def test_a_gaussian_process_is_settled_anew_for_other_tasks_and_other_shots(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once only for runs that share both, whatever else they differ in."""
    import scipy.optimize

    config = PRESETS["linear"].config.with_settings({"shots": 7})  # asked for by no other test: it is chosen on few
    monkeypatch.setattr("maml_core.evaluation.rivals.LEARNING_TASKS", 4)
    batch = evaluation_tasks(config, 3, 0)

    def answers(**settings: Any) -> torch.Tensor:
        (rival,) = make_rivals(config.with_settings(settings), ("gp",)).values()
        return rival(batch)

    first = answers()
    formula = {"tasks.family": "formula", "tasks.formula": "a*x + b"}
    for other in ({"shots": 8}, {"tasks.x": [-1.0, 1.0]}, formula):
        assert not torch.equal(first, answers(**other))
    monkeypatch.delattr(scipy.optimize, "minimize")
    assert torch.equal(first, answers(meta_lr=0.5, inner_steps=7))
    with pytest.raises(ImportError):
        answers(shots=9)


def test_ridge_on_random_features_is_the_ridge_head_of_an_untrained_network() -> None:
    (rival,) = make_rivals(PAPER.with_settings({"shots": 30}), ("features",)).values()
    many, few = (evaluation_tasks(PAPER, 20, 0, shots=shots) for shots in (30, 2))
    assert (
        float(errors_of(rival, many, PAPER.tasks.problem).median())
        < 0.1
        < float(errors_of(rival, few, PAPER.tasks.problem).median())
    )


def test_a_network_without_a_linear_head_has_no_ridge() -> None:
    with pytest.raises(Exception, match=r"must be nn\.Linear"):
        ALGORITHMS["ridge-head"].check(nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1), nn.PReLU()))


def test_tasks_from_wider_ranges_are_the_same_tasks_moved_away_from_the_middle() -> None:
    near, far = evaluation_tasks(PAPER, 400, 0), evaluation_tasks(PAPER, 400, 0, reach=REACH)
    torch.testing.assert_close(near.support_x, far.support_x)
    sizes = [float(batch.query_y.abs().amax((1, 2)).max()) for batch in (near, far)]
    assert 4.5 < sizes[0] < 5.01 < 6.5 < sizes[1] < 7.46  # amplitudes of up to 5, and of up to 2.55 + 2 * 2.45


def test_an_evaluation_says_all_of_it_and_survives_json() -> None:
    config = PAPER.with_settings({"algorithm": "ridge-head", "shots": 4})
    found = evaluate(config.untrained(), config, tasks=12, steps=1)
    assert Evaluation.from_json(found.to_json()) == found
    assert set(found.rivals) == {"gp", "features", "oracle"}
    assert list(found.by_shots["learned"]) == sorted({*SHOTS, 4})
    assert found.by_shots["learned"][4].error == pytest.approx(found.learned.error[1], rel=1e-5)
    assert found.by_shots["gp"][4].error == pytest.approx(found.rivals["gp"].error, rel=1e-3)
    assert found.outside is not None
    assert found.strain(1) == pytest.approx(found.outside.error / found.learned.error[1])
    assert found.coverage is not None
    assert 0 < found.coverage < 1
    assert f"The 95 % band holds {found.coverage:.1%} of the points" in found.sentence(1)
    assert found.shots_table()["learned"].loc[4] == found.by_shots["learned"][4].error


def test_coverage_is_the_share_of_points_inside_the_band() -> None:
    config = PAPER.with_settings({"algorithm": "ridge-head"})
    start = config.untrained()
    start.extras["log_noise"].fill_(20.0)
    assert evaluate(start, config, tasks=5, steps=1, rivals=()).coverage == 1.0
    start.extras["log_noise"].fill_(-60.0)
    assert evaluate(start, config, tasks=5, steps=1, rivals=()).coverage == pytest.approx(0.0, abs=1e-3)
    assert evaluate(PAPER.untrained(), PAPER, tasks=5, steps=1, rivals=()).coverage is None


def test_charts_show_every_rival_in_a_color_of_its_own_but_no_error_of_rounding() -> None:
    config = PAPER.with_settings({"shots": 4})
    found = evaluate(config.untrained(), config, tasks=8, steps=1)
    steps, shots = error_curves(found), shots_curves(found, config.shots)
    shown = {trace["meta"] for trace in steps["data"]}
    assert {"learned", "random", "gp", "features"} <= shown
    assert "oracle" not in shown  # 1e-14: the axis would be all decades
    assert {trace["meta"] for trace in shots["data"]} == {"learned", "gp", "features"}
    assert shots["layout"]["shapes"][0]["x0"] == 4
    assert len({COLORS[name] for name in ("learned", "random", "pretrained", *RIVAL_NAMES)}) == 3 + len(RIVAL_NAMES)


def test_an_error_that_has_diverged_does_not_take_the_axis() -> None:
    found = evaluate(PAPER.untrained(), PAPER, tasks=8, steps=1)
    wild = dataclasses.replace(
        found, by_shots={"learned": {1: Level(1e20, 1e19), 5: Level(0.5, 0.1), 50: Level(0.05, 0.01)}}
    )
    layout = shots_curves(wild, 5)["layout"]
    assert layout["yaxis"]["range"] == [pytest.approx(math.log10(0.025)), pytest.approx(0.0)]
    assert [note["text"] for note in layout["annotations"]] == ["above the chart:<br>meta-learned at 1"]
    usual = shots_curves(found, 10)["layout"]
    assert "range" not in usual["yaxis"]
    assert not usual.get("annotations")


def test_an_error_that_is_not_finite_is_no_number_in_a_table() -> None:
    assert math.isnan(Level.of(torch.tensor([math.nan, 1.0])).error)


def test_a_table_has_no_formula_and_no_ranges() -> None:
    assert set(make_rivals(config_for_table(family_of(made(tasks=20, rows=10))))) == {"gp", "features"}
