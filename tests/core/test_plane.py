"""Classes in the plane: points where the definitions put them, the problem's loss and error, and adapted fields."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.evaluation.curves import Evaluation, evaluate, evaluation_tasks
from maml_core.figures import (
    landscape_figure,
    moving_picture,
    points_figure,
    replay_figure,
    replay_page,
    task_figure,
    task_grid,
)
from maml_core.figures.charts import error_curves, shots_curves
from maml_core.figures.plane import CLASS_COLORS, LEVELS
from maml_core.figures.squares_away import field_image
from maml_core.learning.adaptation import fit_tasks, landscape
from maml_core.learning.families import Circles, Sine, Spiral
from maml_core.learning.fresh_tasks import draw_task, draw_tasks, movable
from maml_core.learning.own_points import link_of_points, points_in, points_of_link, points_task, read_points
from maml_core.learning.plane import JUDGED, PlaneFamily
from maml_core.learning.plane_fits import CELLS, PlaneFit
from maml_core.learning.problems import PROBLEMS, Classification
from maml_core.learning.scale import beyond_training
from maml_core.learning.tasks import TaskStream, Uniform, seeded

NONE = Uniform(low=0.0, high=0.0)
CONFIG = RunConfig.from_dict(
    {
        "tasks": {"family": "spiral", "classes": 3},
        "model": {"kind": "mlp", "hidden_sizes": [16]},
        "inner_lr": 0.5,
        "shots": 4,
    }
)


def plane_fits(config: RunConfig, steps: int, count: int = 1) -> list[PlaneFit]:
    tasks = draw_tasks(config.tasks, 3, count, config.shots)
    found = [fit for fit in fit_tasks(config.untrained(), tasks, steps) if isinstance(fit, PlaneFit)]
    assert len(found) == count
    return found


@pytest.mark.parametrize("family", [Spiral(), Spiral(classes=4), Circles(), Circles(classes=3)], ids=str)
def test_every_class_has_as_many_points_as_there_are_shots(family: PlaneFamily) -> None:
    batch = TaskStream(family, meta_batch_size=3, shots=4, query_shots=2, seed=5).take(0, 2)
    assert batch.support_x.shape == (2, 3, 4 * family.classes, 2)
    assert batch.query_y.shape == (2, 3, 2 * family.classes, family.classes)
    assert (batch.support_y.sum(-1) == 1).all()
    assert (batch.support_y.sum(-2) == 4).all()
    assert (batch.query_y.sum(-2) == 2).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_spiral_without_noise_lies_on_its_arms(classes: int) -> None:
    family = Spiral(classes=classes, noise=NONE, turns=Uniform(low=0.5, high=2.0))
    drawn = family.sample_parameters((50,), seeded("spiral"))
    x, y = family.sample_points(drawn, 40, seeded("points"))
    radius = x.norm(dim=-1)
    assert float(radius.min()) >= 0.1 * 5 / 3 - 1e-9
    assert float(radius.max()) <= 5 / 3 + 1e-9
    turned = 2 * math.pi * drawn["turns"][:, None] * radius / (5 / 3) + drawn["phase"][:, None]
    arm = (torch.atan2(x[..., 1], x[..., 0]) - turned) / (2 * math.pi) * classes
    off = (arm - y.argmax(-1) + classes / 2) % classes - classes / 2
    assert float(off.abs().max()) < 1e-9


@pytest.mark.parametrize("classes", [2, 4])
def test_circles_without_noise_are_in_their_rings(classes: int) -> None:
    family = Circles(classes=classes, noise=NONE)
    drawn = family.sample_parameters((200,), seeded("circles"))
    x, y = family.sample_points(drawn, 20 * classes, seeded("points"))
    center = torch.stack([drawn["direction"].cos(), drawn["direction"].sin()], -1) * drawn["distance"][:, None]
    far = (x - center[:, None]).norm(dim=-1) / drawn["radius"][:, None]
    ring = (far * (classes - 1)).floor().clamp(max=classes - 1)
    assert (ring == y.argmax(-1)).double().mean() > 0.9999  # but for rounding at an edge
    assert float(x.norm(dim=-1).max()) <= Circles.reach
    assert float((x.norm(dim=-1) <= 1 + 1e-9).double().mean()) > 0.99
    inside = far[y.argmax(-1) == 0] * (classes - 1)
    assert float(inside.square().mean()) == pytest.approx(0.5, abs=0.02)  # evenly over the innermost disc


def test_noise_is_around_where_points_belong() -> None:
    exact, noisy = (Spiral(noise=Uniform(low=std, high=std)) for std in (0.0, 0.1))
    places = []
    for family in (exact, noisy):
        drawn = family.sample_parameters((400,), seeded("n"))
        places.append(family.sample_points(drawn, 20, seeded("p"))[0])
    assert float((places[1] - places[0]).std()) == pytest.approx(0.1, rel=0.03)


def test_a_parameter_moves_and_nothing_else_does() -> None:
    one, other = (draw_task(Spiral(), 3, 5, {"phase": phase}).batch for phase in (1.0, 1.0 + math.pi / 2))
    turned = torch.stack([-one.support_x[..., 1], one.support_x[..., 0]], -1)
    torch.testing.assert_close(turned, other.support_x, atol=0.3, rtol=0)  # noise is not turned with it
    assert torch.equal(one.support_y, other.support_y)


def test_the_loss_is_torchs_cross_entropy_and_the_error_counts_what_is_wrong() -> None:
    problem = PROBLEMS["classification"]
    scores = torch.randn(40, 5, generator=seeded("s"), dtype=torch.float64) * 5
    labels = torch.randint(5, (40,), generator=seeded("l"))
    y = torch.nn.functional.one_hot(labels, 5).double()
    expected = torch.nn.functional.cross_entropy(scores, labels)
    torch.testing.assert_close(problem.loss(lambda x: x, scores, y), expected)
    wrong = sum(int(a != b) for a, b in zip(scores.argmax(-1).tolist(), labels.tolist(), strict=True))
    assert float(problem.error(scores, y)) == pytest.approx(wrong / 40)
    assert problem.in_words(0.25) == "75 %"
    assert float(problem.loss(lambda x: x, 1e4 * scores, y)) < math.inf  # sure and wrong is finite
    scores[3, 2] = math.nan
    assert math.isnan(float(problem.error(scores, y)))


def test_a_fit_is_the_trajectory_at_the_points_and_over_the_square() -> None:
    (fit,) = plane_fits(CONFIG, steps=3)
    batch = draw_task(CONFIG.tasks, 3, CONFIG.shots).batch  # type: ignore[arg-type]
    expected = CONFIG.untrained().adapt(batch, 3)
    np.testing.assert_allclose(fit.query_loss, expected.query_loss[:, 0].numpy(), atol=1e-6)
    assert fit.fields.shape == (4, CELLS, CELLS, 3)
    np.testing.assert_allclose(fit.fields.sum(-1), 1, atol=1e-5)
    row, column = 7, 31
    at = batch._replace(query_x=torch.tensor([[[fit.axis[column], fit.axis[row]]]]), query_y=torch.eye(3)[None, :1])
    probabilities = CONFIG.untrained().adapt(at, 3).predictions[3, 0, 0].softmax(-1)
    np.testing.assert_allclose(fit.fields[3, row, column], probabilities.numpy(), atol=1e-5)
    assert len(fit.query_x) == JUDGED * 3
    assert fit.mean_error() == pytest.approx(2 / 3)


def test_own_points_are_judged_by_themselves() -> None:
    points = read_points("x,y,class\n0,0,1\n1,1,2\n-1,1,3\n0.5,0.5,1", 3)
    assert points_in(points_of_link(link_of_points(points)), 3) == points
    assert isinstance(CONFIG.tasks, PlaneFamily)
    (fit,) = fit_tasks(CONFIG.untrained(), points_task(CONFIG.tasks, points), 40)
    assert isinstance(fit, PlaneFit)
    assert len(fit.query_x) == 0
    assert fit.support_class.tolist() == [0, 1, 2, 0]
    assert fit.query_loss[-1] == 0.0  # four points are learned by heart
    assert fit.support_loss[-1] < fit.support_loss[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 1\n1 1 4", "number 2 = 1, 1, 4 is not allowed: its class must be a whole number from 1 to 3"),
        ("0 0 1.5\n1 1 2", "number 1 = 0, 0, 1.5 is not allowed"),
        ("0 0 2\n1 1 2", "points are all of class 2: give at least one of another class"),
        ("0 0\n1 1", "write three numbers a line, such as 0.5, -0.3, 1"),
        ("0 0 1", "points = 1 of them is not allowed: there must be from 2 to 100"),
        ("1e9 0 1\n0 0 2", "numbers must be at most 1,000,000 in size"),
    ],
)
def test_points_that_cannot_be_used_get_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        read_points(text, 3)


def test_points_far_from_the_square_are_said_to_be() -> None:
    assert beyond_training(Spiral(), [(1.0, 1.0, 1.0), (-1.0, 0.0, 2.0)]) is None
    assert "The points reach 300 from the middle" in str(beyond_training(Spiral(), [(300.0, 1.0, 1.0)]))


def test_evaluation_reads_accuracy_beside_methods_for_classes() -> None:
    found = evaluate(CONFIG.untrained(), CONFIG, tasks=12, steps=2)
    assert found.predict_mean == pytest.approx(2 / 3)
    assert set(found.rivals) == {"gp", "neighbor", "features"}
    batch = evaluation_tasks(CONFIG, 12, 0)
    nearest = (batch.query_x[:, :, None] - batch.support_x[:, None]).norm(dim=-1).argmin(-1)
    named = torch.stack([batch.support_y[i, row].argmax(-1) for i, row in enumerate(nearest)])
    expected = (named != batch.query_y.argmax(-1)).double().mean()
    assert found.rivals["neighbor"].error == pytest.approx(float(expected), abs=1e-6)
    assert found.coverage is None
    assert found.outside is None  # the phase goes all around, and nothing else varies
    assert "%" in found.sentence(1)
    assert Evaluation.from_json(found.to_json()) == found
    figure = error_curves(found)
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy"
    assert figure["layout"]["yaxis"]["tickformat"] == ".0%"
    assert shots_curves(found, 4)["layout"]["xaxis"]["title"]["text"] == "support points per class"
    json.dumps([figure, shots_curves(found, 4)], allow_nan=False)


def test_an_evaluation_of_before_there_were_classes_is_read() -> None:
    curve = {"mse": [2.0, 1.0], "ci95": [0.1, 0.1]}
    old: dict[str, Any] = {"tasks": 5, "seed": 0, "learned": curve, "random": curve, "predict_mean": 3.0}
    old |= {"pretrained": None, "rivals": {"gp": [0.5, 0.1]}, "by_shots": {}, "coverage": None, "outside": None}
    found = Evaluation.from_json(json.dumps(old))
    assert (found.learned.error, found.problem, found.rivals["gp"].error) == ([2.0, 1.0], "regression", 0.5)


def cells(value: int, classes: int) -> tuple[int, float]:
    return value // LEVELS, (value % LEVELS) / (LEVELS - 1) * (1 - 1 / classes) + 1 / classes


def test_the_picture_shows_the_field_of_each_step() -> None:
    (fit,) = plane_fits(CONFIG, steps=3)
    figure = task_figure(fit, 2)
    json.dumps(figure, allow_nan=False)
    replay = figure["replay"]
    (moving,) = replay["moving"]
    fields = [i for i, trace in enumerate(figure["data"]) if trace["type"] == "heatmap"]
    assert [figure["data"][i]["xaxis"] for i in fields] == ["x", "x2"]
    assert moving["trace"] == fields[1]
    assert (len(moving["z"]), len(replay["steps"])) == (4, 4)
    assert figure["data"][fields[0]]["z"] == moving["z"][0]
    assert figure["data"][fields[1]]["z"] == moving["z"][3]
    label, probability = cells(moving["z"][2][5][9], 3)
    assert label == fit.fields[2, 5, 9].argmax()
    assert probability == pytest.approx(fit.fields[2, 5, 9].max(), abs=0.01)
    assert replay["labels"][3].endswith("(trained for 2)")
    supports = [trace for trace in figure["data"] if trace["name"] == "class 2"]
    assert {trace["marker"]["color"] for trace in supports} == {CLASS_COLORS[1]}
    assert [trace["showlegend"] for trace in supports] == [True, False]


def test_small_pictures_and_replays_stand_beside_those_of_curves() -> None:
    fits = plane_fits(CONFIG, steps=2, count=4)
    curve = fit_tasks(RunConfig().untrained(), draw_tasks(Sine(), 0, 1, 5), 2)[0]
    figure = task_grid([*fits, curve], columns=5, mark_ends=True)
    json.dumps(figure, allow_nan=False)
    assert {trace["customdata"][0] for trace in figure["data"]} == {0, 3, 4, 5, 6}
    replay = replay_figure({"learned": fits[0], "random": fits[1]})
    json.dumps(replay, allow_nan=False)
    moved = [figure_part["trace"] for figure_part in replay["replay"]["moving"] if "z" in figure_part]
    assert [replay["data"][trace]["type"] for trace in moved] == ["heatmap", "heatmap"]


def test_classes_are_taken_away_as_a_page_and_a_picture() -> None:
    learned, other = plane_fits(CONFIG, steps=2, count=2)
    page = replay_page({"learned": learned, "random": other}, "<b>mine</b>")
    assert "\\u003cb>mine" in page
    assert page.count("data:image/png;base64,") == 6
    assert len(page) < 500_000
    assert moving_picture(learned, "mine")[8:12] == b"WEBP"
    image = field_image(learned, 2)
    assert isinstance(image, Image.Image)
    red, green, blue, alpha = image.getpixel((9, CELLS - 1 - 5))  # type: ignore[misc]
    color = CLASS_COLORS[int(learned.fields[2, 5, 9].argmax())]
    assert f"#{red:02x}{green:02x}{blue:02x}" == color
    assert 0 <= alpha <= 0.6 * 255


def test_adaptation_that_diverges_keeps_what_was_before() -> None:
    (fit,) = fit_tasks(CONFIG.untrained().at_rate(1e30), draw_tasks(CONFIG.tasks, 3, 1, 4), 6)
    assert fit.blew_up_at is not None
    assert fit.steps == fit.blew_up_at - 1
    json.dumps([task_figure(fit, 1), replay_figure({"learned": fit})], allow_nan=False)
    assert "diverges at step" in replay_page({"learned": fit}, "wild")


def test_the_map_of_a_family_with_one_range_moves_what_is_fixed_too() -> None:
    family = Spiral()
    assert movable(family) == ["noise", "turns", "phase"]
    assert movable(Circles()) == ["radius", "distance", "direction"]
    start = CONFIG.with_settings({"tasks.classes": 2}).untrained()
    found = landscape(start, family, ("turns", "noise"), seed=1, given={}, shots=4, steps=1, cells=5)
    assert found.values[0].tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert ((found.error >= 0) & (found.error <= 1)).all()
    expected = fit_tasks(start, draw_task(family, 1, 4, {"turns": 1.5, "noise": 0.03}), 1)[0]
    assert found.error[2, 3] == pytest.approx(expected.query_loss[1], abs=1e-6)
    assert isinstance(found.problem, Classification)
    figure = landscape_figure(found)
    assert figure["data"][0]["colorbar"]["title"]["text"] == "accuracy"
    json.dumps(figure, allow_nan=False)


def test_an_empty_square_waits_for_points() -> None:
    figure = points_figure([(0.1, 0.2, 3.0)], Spiral(classes=3))
    assert [len(trace["x"]["bdata"]) > 0 for trace in figure["data"]] == [False, False, True]
