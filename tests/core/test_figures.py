import base64
import json

import numpy as np
import pandas as pd
import pytest

from maml_core.evaluation.curves import ErrorCurve, Evaluation
from maml_core.figures import (
    COLORS,
    MAX_POINTS,
    error_curves,
    landscape_figure,
    loss_curve,
    replay_figure,
    rows_grid,
    task_figure,
    task_grid,
)
from maml_core.figures.style import log_scale, number
from maml_core.learning.adaptation import CurveFit, Landscape, fit_tasks
from maml_core.learning.families import Sine
from maml_core.learning.fresh_rows import draw_training_rows
from maml_core.learning.fresh_tasks import draw_tasks
from maml_core.learning.models import MLP, build_model
from maml_core.learning.table import Column, ColumnKind, Table, keep
from maml_core.learning.table_roles import Roles
from maml_core.presets import config_for_table
from tests.core.starts import curve_fits, start_of


def unpack(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bdata"]), dtype="<f4")


@pytest.fixture(scope="module")
def fits() -> list[CurveFit]:
    return curve_fits(start_of(build_model(MLP(), seed=0)), draw_tasks(Sine(), 0, 6, 5), steps=3)


def frame(rows: int) -> pd.DataFrame:
    x = np.arange(1, rows + 1)
    return pd.DataFrame({"iteration": x, "pre_loss": 4.0 + np.sin(x), "post_loss": 2.0 + np.cos(x)})


def test_colors_mean_one_thing(fits: list[CurveFit]) -> None:
    for figure in (
        task_figure(fits[0], 3),
        task_grid(fits),
        replay_figure({"learned": fits[0], "random": fits[1], "pretrained": fits[2]}),
        loss_curve(frame(9)),
    ):
        for trace in figure["data"]:
            style = trace.get("line", {}) | trace.get("marker", {})
            assert {trace.get("line", style).get("color"), trace.get("marker", style).get("color")} - {None} <= {
                COLORS[trace["meta"]]
            }


def test_task_figure_shows_the_data(fits: list[CurveFit]) -> None:
    figure = task_figure(fits[0], 3)
    traces = {trace["name"].split(":")[0]: trace for trace in figure["data"]}
    assert fits[0].truth is not None
    np.testing.assert_allclose(unpack(traces["truth"]["y"]), fits[0].truth)
    np.testing.assert_allclose(unpack(traces["before"]["y"]), fits[0].predictions[0])
    np.testing.assert_allclose(unpack(traces["after 3 steps"]["y"]), fits[0].predictions[3])
    np.testing.assert_allclose(unpack(traces["support points"]["x"]), fits[0].support_x)
    assert f"error {fits[0].query_loss[0]:.3g}" in traces["before"]["name"]
    assert f"error {fits[0].query_loss[3]:.3g}" in traces["after 3 steps"]["name"]


def test_a_task_plays_from_before_to_after_and_leaves_its_steps_behind(fits: list[CurveFit]) -> None:
    figure = task_figure(fits[0], 2)
    replay = figure["replay"]
    assert replay["autoplay"]
    (moving,) = replay["moving"]
    np.testing.assert_allclose(np.array(moving["y"], dtype=float), fits[0].predictions, rtol=1e-4, atol=1e-6)
    assert [ghost["frame"] for ghost in replay["ghosts"]] == [1, 2]
    for ghost in replay["ghosts"]:
        np.testing.assert_allclose(unpack(figure["data"][ghost["trace"]]["y"]), fits[0].predictions[ghost["frame"]])
    assert ["trained for 2" in label for label in replay["labels"]] == [False, False, False, True]


def test_an_earlier_run_stays_in_the_chart_under_its_name_as_text() -> None:
    figure = loss_curve(frame(9), earlier=frame(30), earlier_name="<b>old</b>")
    assert [trace["meta"] for trace in figure["data"]] == ["truth", "before", "after"]
    assert figure["data"][0]["name"] == "&lt;b&gt;old&lt;/b&gt;, after adaptation"
    assert len(unpack(figure["data"][0]["x"])) == 30
    assert len(loss_curve(frame(9), earlier=frame(0))["data"]) == 2


def test_grid_has_four_traces_a_task_each_on_its_axes(fits: list[CurveFit]) -> None:
    figure = task_grid(fits, columns=3)
    assert len(figure["data"]) == 24
    assert {trace.get("xaxis", "x") for trace in figure["data"]} == {"x", "x2", "x3", "x4", "x5", "x6"}


def test_on_a_phone_a_grid_has_fewer_pictures_in_a_row(fits: list[CurveFit]) -> None:
    figure = task_grid(fits, columns=6, narrow_columns=3)
    wide, narrow = figure["layout"], figure["narrow"]["layout"]
    assert figure["narrow"]["taller"] == 2
    assert "narrow" not in task_grid(fits)
    assert set(narrow) == {name for name in wide if name.startswith(("xaxis", "yaxis"))} | {"annotations"}
    assert narrow["xaxis4"]["domain"] == narrow["xaxis"]["domain"] != wide["xaxis"]["domain"]
    assert narrow["yaxis4"]["domain"][1] < narrow["yaxis"]["domain"][0]
    assert narrow["yaxis4"]["range"] == wide["yaxis4"]["range"]
    for i, (far, near) in enumerate(zip(wide["annotations"], narrow["annotations"], strict=True)):
        axis = narrow["xaxis" + (str(i + 1) if i else "")]
        assert near["text"] == far["text"]
        assert near["x"] == pytest.approx(sum(axis["domain"]) / 2)


def test_smoothing_comes_before_thinning() -> None:
    long = frame(20_000)
    raw_before, smooth_before, _, smooth_after = loss_curve(long, smoothing=0.99)["data"]
    assert len(unpack(raw_before["x"])) == len(unpack(smooth_after["x"])) == MAX_POINTS
    expected = long["pre_loss"].ewm(alpha=0.01).mean().to_numpy()
    picked = unpack(smooth_before["x"]).astype(int) - 1
    np.testing.assert_allclose(unpack(smooth_before["y"]), expected[picked], rtol=1e-6)


def test_without_smoothing_there_is_one_line_each() -> None:
    assert [trace["meta"] for trace in loss_curve(frame(5))["data"]] == ["before", "after"]
    assert loss_curve(frame(5), log_axis=False)["layout"]["yaxis"].get("type") is None


def test_empty_and_tiny_runs_can_be_drawn() -> None:
    assert len(unpack(loss_curve(frame(0), smoothing=0.5)["data"][0]["x"])) == 0


def test_replay_holds_every_step_of_every_model(fits: list[CurveFit]) -> None:
    figure = replay_figure({"learned": fits[0], "random": fits[1]})
    replay = figure["replay"]
    assert replay["steps"] == [0, 1, 2, 3]
    assert len(replay["labels"]) == 4
    for part in replay["moving"]:
        assert len(part["y"]) == 4
        meaning = figure["data"][part["trace"]]["meta"]
        fit = fits[0] if meaning == "learned" else fits[1]
        if "x" in part:
            np.testing.assert_allclose(np.array([y[0] for y in part["y"]], dtype=float), fit.query_loss, rtol=1e-5)
        else:
            np.testing.assert_allclose(np.array(part["y"], dtype=float), fit.predictions, rtol=1e-3, atol=1e-4)
    assert [ghost["frame"] for ghost in replay["ghosts"]] == [1, 2]


def test_landscape_marks_what_was_trained_and_what_diverged() -> None:
    error = np.array([[0.1, np.nan], [1.0, 10.0]])
    values = np.array([0.0, 2.0]), np.array([0.0, 3.0])
    found = Landscape(("amplitude", "phase"), values, error, ((0.5, 1.5), (1.0, 2.0)))
    figure = landscape_figure(found)
    assert figure["data"][0]["z"] == [[-1.0, None], [0.0, 1.0]]
    assert figure["data"][0]["customdata"][0][1] == "diverged"
    box = figure["layout"]["shapes"][0]
    assert (box["x0"], box["x1"], box["y0"], box["y1"]) == (0.5, 1.5, 1.0, 2.0)


def test_error_curves_show_each_model_with_its_band() -> None:
    curve = ErrorCurve([2.0, 1.0], [0.5, 0.25])
    figure = error_curves(Evaluation(10, 0, learned=curve, random=curve, predict_mean=3.0))
    bands = [trace for trace in figure["data"] if trace.get("fill")]
    assert [band["meta"] for band in bands] == ["random", "learned"]
    np.testing.assert_allclose(unpack(bands[0]["y"]), [2.5, 1.25, 0.75, 1.5])


@pytest.mark.parametrize("inner_lr", [0.1, 5.0, 20.0])
def test_a_replay_that_overflows_is_still_json(inner_lr: float) -> None:
    """JSON has no infinity: a browser would refuse the whole figure."""
    start = start_of(build_model(MLP(), seed=0), inner_lr=inner_lr)
    for fit in fit_tasks(start, draw_tasks(Sine(), 0, 20, 5), steps=10):
        figure = replay_figure({"learned": fit, "random": fit})
        assert json.loads(json.dumps(figure, allow_nan=False))["replay"]["steps"]


def test_a_logarithmic_axis_has_as_many_ticks_as_there_is_room_for() -> None:
    assert log_scale(np.array([0.01, 5.0, np.inf, np.nan]))["dtick"] == "D2"
    assert "dtick" not in log_scale(np.array([1e-3, 1.0]), np.array([1e36, np.inf]))
    assert log_scale(np.array([np.inf]))["type"] == "log"
    assert number(float("inf")) == "∞"


def test_names_of_columns_are_shown_as_text() -> None:
    """Plotly reads a little HTML, links among it: a table's columns and tasks must not be able to write any."""
    evil = "<a href='https://example.com'>x</a> $y$"
    cells = {"task": np.repeat(np.arange(12.0), 6), evil: np.arange(72.0), f"{evil} 2": np.arange(72.0) ** 2}
    table = keep(Table("evil", [Column(name, ColumnKind.NUMBER) for name in cells], pd.DataFrame(cells)))
    family = Roles("task", (evil,), (f"{evil} 2",)).family(table)
    config = config_for_table(family)
    fits = fit_tasks(config.untrained(), draw_tasks(family, 0, 3, 3), 2)
    figures = [
        task_figure(fits[0], 3),
        task_grid(fits),
        replay_figure({"learned": fits[0], "random": fits[1]}),
        rows_grid(draw_training_rows(family, 12), 0),
    ]
    for figure in figures:
        assert "<a " not in json.dumps(figure)
        assert "$y$" not in json.dumps(figure["layout"])
