"""Written characters: what is drawn, that no set shows another's, the network for them, and pictures of episodes."""

import io
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from maml_core.config import RunConfig
from maml_core.engines import ENGINES
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.errors import ConfigError
from maml_core.evaluation.curves import Evaluation, evaluate
from maml_core.evaluation.rivals import make_rivals
from maml_core.evaluation.side_by_side import endings
from maml_core.figures import moving_picture, quiz_of, replay_figure, replay_page, task_figure, task_grid
from maml_core.figures.board import PARTS, Board
from maml_core.figures.plane import CLASS_COLORS, LEVELS, class_colors
from maml_core.learning import images, initialization
from maml_core.learning.adaptation import fit_tasks, landscape
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.board_fits import BoardFit, nearest_means
from maml_core.learning.convolution import Conv
from maml_core.learning.fresh_tasks import draw_task, draw_tasks, movable
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.glyphs import VIEWS, Glyphs
from maml_core.learning.hershey import ALIKE, drawings, likeness
from maml_core.learning.images import JUDGED
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.own_drawings import Drawings, drawings_task, image_of, named, read_drawings
from maml_core.learning.strokes import CELLS, REACH, centered, distances, images_of
from maml_core.learning.tasks import FAMILIES, TaskSet, TaskStream, Uniform, seeded
from maml_core.store.script import adapt_script
from maml_core.training import trainer as trainer_module
from maml_core.training.trainer import Trainer, check_startable, train
from tests.levels import levels

NONE = Uniform(low=0.0, high=0.0)
PLAIN = Glyphs(turn=NONE, stretch=NONE, shift=NONE, bend=NONE, width=Uniform(low=0.2, high=0.2))
"""Every image is its character as it was designed."""

CONFIG = RunConfig.from_dict(
    {
        "tasks": {"family": "glyphs", "size": 12},
        "model": {"kind": "conv", "channels": 4, "blocks": 2},
        "inner_lr": 0.2,
        "shots": 1,
        "query_shots": 2,
        "inner_steps": 2,
        "meta_batch_size": 2,
        "meta_iterations": 3,
    }
)
SETS = list(TaskSet)


def boards(config: RunConfig = CONFIG, steps: int = 2, count: int = 1) -> list[BoardFit]:
    tasks = draw_tasks(config.tasks, 3, count, config.shots)
    found = [fit for fit in fit_tasks(config.untrained(), tasks, steps) if isinstance(fit, BoardFit)]
    assert len(found) == count
    return found


def designed(task_set: TaskSet, views: int) -> Tensor:
    """Every character of a set as an undeformed image, in so many views: `[views * characters, pixels]`."""
    known = drawings(task_set)
    places = torch.stack(PLAIN.pixels(), dim=-1).expand(len(known), -1, -1)
    images = images_of(known, places, torch.full((len(known),), 0.2), PLAIN.pixel).unflatten(
        1, (PLAIN.size, PLAIN.size)
    )
    upright = [images.rot90(quarters, (1, 2)) for quarters in range(min(views, 4))]
    return torch.cat([*upright, *(each.flip(2) for each in upright if views > 4)]).flatten(1)


@pytest.mark.parametrize("task_set", SETS)
def test_images_are_characters_of_their_set_and_of_no_other(task_set: TaskSet) -> None:
    batch = PLAIN.sample_batch((40,), 1, 1, seeded("sets"), task_set=task_set)
    images = batch.support_x.flatten(0, 1)
    for other in SETS:
        views = VIEWS if other is TaskSet.TRAINING else 1
        off = torch.cdist(images, designed(other, views)).amin(1)
        assert (float(off.max()) < 1e-2) if other is task_set else (float(off.min()) > 0.5), other


def test_no_character_of_one_set_looks_like_one_of_another() -> None:
    assert {each.value: len(drawings(each)) for each in TaskSet} == {
        "training": 883,
        "held-out": 107,
        "evaluation": 164,
    }
    for mine, other in ((SETS[1], SETS[0]), (SETS[2], SETS[0]), (SETS[2], SETS[1])):
        assert float(likeness(drawings(mine), drawings(other)).max()) < ALIKE
    some = drawings(TaskSet.HELD_OUT)[:3]
    assert likeness(some, some.rot90(1, (1, 2)).flip(2)).tolist() == pytest.approx([1, 1, 1])


def test_a_task_has_shots_of_each_class_and_classes_that_differ() -> None:
    stream = TaskStream(Glyphs(classes=4), meta_batch_size=3, shots=2, query_shots=3, seed=1)
    batch = stream.take(0, 2)
    assert batch.support_x.shape == (2, 3, 8, 400)
    assert batch.query_y.shape == (2, 3, 12, 4)
    assert (batch.support_y.sum(-2) == 2).all()
    assert 0 <= float(batch.support_x.min()) < 0.01
    assert 0.99 < float(batch.support_x.max()) <= 1
    assert stream.block_size * 3 * 5 * 4 * 400 <= 2**19
    draw = torch.rand(500, generator=seeded("d"), dtype=torch.float64)
    chosen = PLAIN.chosen(draw, torch.arange(PLAIN.classes), TaskSet.HELD_OUT).sort(-1).values
    assert (chosen.diff(dim=-1) > 0).all()
    assert len(chosen.unique()) == 164  # each is asked about


def test_held_out_and_validation_tasks_are_of_their_sets() -> None:
    for batch, task_set in (
        (PLAIN.held_out(tasks=10, shots=1), TaskSet.HELD_OUT),
        (PLAIN.validation(tasks=10, shots=1, query_shots=1), TaskSet.VALIDATION),
        (draw_task(PLAIN, 5, 1).batch, TaskSet.HELD_OUT),
    ):
        off = torch.cdist(batch.support_x.flatten(0, 1), designed(task_set, 1)).amin(1)
        assert float(off.max()) < 1e-2
    assert PLAIN.validation(tasks=2, shots=1, query_shots=1).query_x.shape[1] == JUDGED * 5


def test_one_parameter_moves_and_nothing_else_does() -> None:
    family = Glyphs()
    plain, moved = draw_task(family, 4, 1, {"turn": 0.0}), draw_task(family, 4, 1, {"turn": 0.5})
    assert torch.equal(plain.batch.support_y, moved.batch.support_y)
    ink = plain.batch.support_x.sum(-1) / moved.batch.support_x.sum(-1)
    assert not torch.equal(plain.batch.support_x, moved.batch.support_x)
    assert float((ink - 1).abs().max()) < 0.2  # the same characters by the same pen, turned
    assert set(movable(family)) == {"turn", "stretch", "shift", "bend", "draw"}
    assert not any(map(family.ends_somewhere, family.distributions))


def test_many_images_are_drawn_in_parts_as_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Glyphs(size=12).held_out(tasks=4, shots=2)
    monkeypatch.setattr(images, "AT_ONCE", 7)
    assert all(map(torch.equal, together, Glyphs(size=12).held_out(tasks=4, shots=2)))


def test_distances_are_those_to_the_nearest_point_of_a_stroke() -> None:
    lines = [np.array([[-1.0, 0.5], [1.0, 0.5]]), np.array([[0.25, -1.0]])]  # a line, and a dot
    found = distances(lines)
    axis = np.linspace(-REACH, REACH, CELLS)
    for row, column in ((0, 0), (10, 40), (30, 25), (47, 47)):
        x, y = axis[column], -axis[row]
        to_line = math.hypot(max(0.0, abs(x) - 1), y - 0.5)
        assert float(found[row, column]) == pytest.approx(min(to_line, math.hypot(x - 0.25, y + 1)), abs=1e-3)


def test_strokes_are_brought_to_one_size_and_place() -> None:
    small, large = [[(0, 0), (1, 2)], [(1, 0), (1, 1)]], [[(10, 10), (30, 50)], [(30, 10), (30, 30)]]
    for some, other in zip(centered(small), centered(large), strict=True):
        assert some == pytest.approx(other)
    assert np.concatenate(centered(small)).max() == 1
    assert (centered([[(5, 5)]])[0] == 0).all()  # a dot has no size


def test_a_convolution_answers_each_image_by_itself() -> None:
    model = CONFIG.network()
    x = CONFIG.tasks.held_out(tasks=1, shots=1).support_x[0]
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(each[None]) for each in x])
    torch.testing.assert_close(together, alone)


def test_a_convolution_is_what_its_fields_say() -> None:
    modules = list(Conv(channels=8, blocks=3).layers(400, 5).children())
    assert [type(module).__name__ for module in modules[1:4]] == ["Conv2d", "GroupNorm", "ReLU"]
    assert modules[-1].in_features == 8 * 3**2  # 20, 10, 5 and 3 pixels
    assert not [each for each in Conv(normalization="none").layers(400, 5).modules() if isinstance(each, nn.GroupNorm)]
    conv = Conv(channels=8, blocks=2)
    assert conv.hidden_numbers(400) == 8 * (10**2 + 5**2)
    assert conv.multiplications(0, 400) == 9 * (8 * (10**2 - 1) + 64 * (5**2 - 1))
    assert Conv(channels=1, blocks=5).layers(16, 2)(torch.rand(3, 16)).shape == (3, 2)  # down to a single pixel


@pytest.mark.parametrize("tasks", [{"family": "sine"}, {"family": "spiral"}, {"family": "navigation"}])
def test_a_convolution_refuses_what_is_no_image(tasks: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"^model.kind = conv is not allowed with tasks of \d inputs?: it takes square"
    ):
        RunConfig.from_dict({"tasks": tasks, "model": {"kind": "conv"}})


MEETINGS = [
    (algorithm, normalization)
    for algorithm in ("fomaml", "maml", "fo-b-maml", "reptile", "anil", "meta-sgd", "ridge-head", "joint")
    for normalization in ("layer", "none")
]


@pytest.mark.parametrize(
    ("algorithm", "normalization"),
    levels(MEETINGS, [("fomaml", "layer"), ("ridge-head", "none")], [("maml", "layer"), ("reptile", "none")]),
)
def test_engines_agree_on_images(algorithm: str, normalization: str) -> None:
    config = CONFIG.with_settings({"algorithm": algorithm, "model.normalization": normalization, "inner_steps": 1})
    batch = config.tasks.sample_batch((2,), 1, 2, seeded("engines"), dtype=torch.float64)
    found = []
    for name in ("higher", "vectorized"):
        model = config.network().double()
        engine = ENGINES[name](
            model,
            algorithm=ALGORITHMS[algorithm],
            problem=config.tasks.problem,
            inner=InnerLoop(0.2, 1, 0.01),
            meta_optimizer=MetaOptimizer(1e-3),
        )
        found.append(engine.meta_gradient(engine.layout.start(model), batch).gradient)
    assert float(found[0].abs().max()) > 1e-6
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_the_native_engine_trains_on_images_as_the_vectorized_one_does() -> None:
    ends = []
    for engine in ("native", "vectorized"):
        config = CONFIG.with_settings({"engine": engine})
        check_startable(config)
        trainer = Trainer(config)
        ends.append((trainer.engine.status, [row.post_loss for report in trainer.run() for row in report.rows]))
        trainer.close()
    assert [status for status, _ in ends] == ["native", "vectorized"]
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)
    assert len(ends[0][1]) == 3


def test_auto_waits_for_the_compiler_where_a_run_on_images_is_long() -> None:
    each = CONFIG.seconds_estimate(CONFIG.sizes())
    for seconds, status in ((15.0, "vectorized"), (25.0, "compiling")):  # far more than without convolutions
        trainer = Trainer(CONFIG.with_settings({"meta_iterations": int(seconds / each)}))
        assert trainer.engine.status == status
        assert trainer.notice == ""
        trainer.close()


@pytest.mark.slow
def test_training_on_images_lowers_the_error_on_characters_never_seen() -> None:
    config = CONFIG.with_settings(
        {"meta_iterations": 60, "meta_lr": 0.01, "meta_batch_size": 4, "model.channels": 8, "clip_norm": 10}
    )
    tasks = config.tasks.held_out(tasks=40, shots=1)
    learned, untrained = (start.adapt(tasks, 2).query_loss[-1].mean() for start in (train(config), config.untrained()))
    assert float(learned) < float(untrained) - 0.05


def test_the_nearest_class_mean_is_that() -> None:
    batch = CONFIG.tasks.held_out(tasks=4, shots=3, query_shots=2)
    said = nearest_means(batch.support_x, batch.support_y, batch.query_x).argmax(-1)
    for task in range(4):
        for point in range(10):
            means = [batch.support_x[task][batch.support_y[task, :, label] == 1].mean(0) for label in range(5)]
            away = [float((batch.query_x[task, point] - mean).norm()) for mean in means]
            assert int(said[task, point]) == away.index(min(away))


def test_nearest_means_leave_out_a_class_without_support() -> None:
    x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[1.0, 0, 0], [0, 0, 1.0]]])
    assert nearest_means(x, y, torch.zeros(1, 1, 1)).tolist() == [[[1, 0, 0]]]


def test_an_evaluation_has_both_nearest_means_beside_it() -> None:
    start = CONFIG.untrained()
    found = evaluate(start, CONFIG, tasks=10, steps=1)
    assert set(found.rivals) == {"means", "feature-means", "features"}
    assert Evaluation.from_json(found.to_json()) == found
    assert found.outside is None  # no parameter of the family varies but the characters
    assert set(make_rivals(CONFIG, ("means", "feature-means"))) == {"means"}  # nothing is learned without a start
    assert start.features() is not None
    whole = CONFIG.with_settings({"model.channels": 3}).untrained()
    features = whole.features()
    assert features is not None
    assert features(torch.rand(2, 7, 144)).shape == (2, 7, 3 * 3 * 3)


@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (3, 5), (5, 1), (5, 5), (20, 1)])
def test_a_board_shows_each_image_once_in_the_column_of_its_class(classes: int, shots: int) -> None:
    config = CONFIG.with_settings({"tasks.classes": classes, "shots": shots})
    (fit,) = boards(config, steps=1)
    board = Board.of(fit)
    assert len({(cell.row, cell.column) for cell in board.cells}) == len(board.cells)
    wide = board.columns // classes
    for cell in board.cells:
        labels = fit.support_class if cell.is_support else fit.query_class
        assert cell.column // wide == labels[cell.image]
        assert (cell.row < board.above) == cell.is_support
        x, y = board.corner(cell)
        assert -1 - 1e-9 <= x < 1
        assert -1 < y <= 1 + 1e-9
    assert any(cell.is_support for cell in board.cells)
    assert not all(cell.is_support for cell in board.cells)
    for ends in (board.across(4), board.up(4)):
        assert (np.diff(ends) > 0).all()
        assert max(abs(ends)) <= 1 + 1e-9


def test_a_board_is_tinted_by_what_an_image_is_taken_for() -> None:
    (fit,) = boards()
    figure = replay_figure({"learned": fit})
    assert "replay" in figure
    moving = figure["replay"]["moving"][0]
    assert len(moving["z"]) == len(figure["replay"]["steps"])
    board, step = Board.of(fit), fit.steps
    cells = np.array(moving["z"][-1])
    for cell in board.cells:
        low, left = board.strip(cell.row, 1), 1 + cell.column * (PARTS + 2)
        tint, bar = cells[low + 2, left : left + PARTS], cells[low + 1, left : left + PARTS]
        expected = fit.support_class[cell.image] if cell.is_support else fit.shares[step, cell.image].argmax()
        assert set(tint // LEVELS) == {expected}
        if not cell.is_support:
            parts = np.bincount(bar // LEVELS, minlength=5) / PARTS
            assert parts == pytest.approx(fit.shares[step, cell.image], abs=1 / PARTS)
    dotted = {trace["name"] for trace in figure["data"] if trace.get("line", {}).get("dash") == "dot"}
    assert dotted == {"means of pixels", "of features"}
    assert [ending.title for ending in endings({"learned": fit})][1:3] == [
        "Nearest class mean of pixels",
        "Nearest class mean of learned features",
    ]


def test_every_picture_of_an_episode_can_be_made() -> None:
    fits = boards(count=3)
    assert fits[0].shares.sum(-1) == pytest.approx(np.ones_like(fits[0].shares[..., 0]), abs=1e-5)
    assert len(task_figure(fits[0], 2)["data"]) > 4
    seeds = {trace.get("customdata", [None])[0] for trace in task_grid(fits)["data"]}
    assert {fit.seed for fit in fits} <= seeds
    page = replay_page({"learned": fits[0]}, "characters")
    assert page.count("data:image/png;base64,") == 3
    moving = Image.open(io.BytesIO(moving_picture(fits[0], "characters")))
    assert getattr(moving, "n_frames", 1) == 3
    config = CONFIG.with_settings({"tasks.size": 12})
    found = landscape(
        config.untrained(), Glyphs(size=12), ("turn", "bend"), seed=0, given={}, shots=1, steps=1, cells=3
    )
    assert found.error.shape == (3, 3)


TEXT = "AAzz.zAAz~AfzfzzAz~MMMz~AAAz.AAzA~ffff~AAzz.zAAz"
"""Five drawings and one like the first, as a link has them."""

UNASKED = TEXT.rsplit("~", 1)[0] + "~"


def test_a_link_gives_the_drawings_back() -> None:
    found = read_drawings(TEXT, 5)
    assert found.missing is None
    assert found.classes[0] == [[(0, 0), (51, 51)], [(51, 0), (0, 51)]]
    assert found.asked == found.classes[0]
    assert read_drawings("", 5) == Drawings([()] * 5, ())
    assert read_drawings("", 5).missing == "Draw classes 1, 2, 3, 4, 5: anything, once."
    assert read_drawings(UNASKED, 5).missing == "Now draw one of them again, on the right: which is it?"
    assert read_drawings("AA~~BB~", 3).missing == "Draw class 2: anything, once."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A~~~~~", "drawing 1 is not one that was made here"),
        ("AA~%!~~~~", "drawing 2 is not one that was made here"),
        ("AA~" * 6, "drawn = 7 drawings is not allowed: it must be one of each class"),
        ("AA~AA", "drawn = 2 drawings is not allowed: it must be one of each class"),  # of a run with fewer classes
        ("AB" * 501 + "~" * 5, "drawing 1 has 501 corners: at most 500"),
    ],
)
def test_a_link_that_was_edited_by_hand_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_drawings(text, 5)


def test_own_drawings_are_a_task_and_are_named() -> None:
    family, start = CONFIG.tasks, CONFIG.untrained()
    assert isinstance(family, Glyphs)
    tasks = drawings_task(family, read_drawings(TEXT, 5))
    assert torch.equal(tasks.batch.support_x[0, 0], tasks.batch.query_x[0, 0])
    assert torch.equal(tasks.batch.support_y[0], torch.eye(5))
    (fit,) = fit_tasks(start, tasks, 60)
    shares = named(start, family, TEXT, 60)
    assert shares is not None
    assert fit.naming == pytest.approx(shares)
    assert fit.score_name == "probability"
    assert 1 - float(fit.query_loss[-1]) == pytest.approx(max(shares))
    best = shares.index(max(shares))
    assert best == 0  # it is the same picture
    (ending,) = endings({"learned": fit})
    assert ending.error == f"class 1, {max(shares):.0%}"
    assert len(replay_figure({"learned": fit})["data"]) > 4
    assert named(start, family, UNASKED, 5) is None
    assert quiz_of(fit) is None


def test_drawings_that_diverge_are_as_sure_as_they_were_at_the_last_finite_step() -> None:
    family, start = (
        Glyphs(),
        RunConfig.from_dict({"tasks": {"family": "glyphs"}, "model": {"kind": "conv"}}).untrained(),
    )
    (fit,) = fit_tasks(start.at_rate(1e4), drawings_task(family, read_drawings(TEXT, 5)), 20)
    assert isinstance(fit, BoardFit)
    assert fit.blew_up_at is not None
    assert fit.naming is not None
    assert 1 - float(fit.query_loss[-1]) == pytest.approx(max(fit.naming))
    assert named(start.at_rate(1e4), family, TEXT, 20) is None
    assert len(replay_figure({"learned": fit})["data"]) > 4


def test_no_two_classes_have_one_color() -> None:
    assert len(set(class_colors(20))) == 20
    assert class_colors(6) == list(CLASS_COLORS)


def test_a_formula_can_be_typeset() -> None:
    for family in FAMILIES.values():
        if issubclass(family, GeneratedFamily) and hasattr(family, "latex"):
            assert not re.search(r"\\quad[A-Za-z]", family.latex), family


def test_a_pen_has_a_width() -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.width = \[-5, -1\] is not allowed: a pen that draws has a width"):
        RunConfig.from_dict({"tasks": {"family": "glyphs", "width": [-5, -1]}})


def test_many_images_adapt_in_parts_as_they_do_together(monkeypatch: pytest.MonkeyPatch) -> None:
    start, tasks = CONFIG.untrained(), CONFIG.tasks.held_out(tasks=5, shots=1)
    features = start.features()
    assert features is not None
    together, whole = start.adapt(tasks, 2), features(tasks.query_x)
    monkeypatch.setattr(initialization, "MOST_INPUTS", 2 * 105 * 144)
    monkeypatch.setattr(initialization, "POINTS_AT_ONCE", 7)
    parts = start.adapt(tasks, 2)
    for mine, other in zip(
        (parts.predictions, parts.query_loss), (together.predictions, together.query_loss), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features(tasks.query_x), whole)


@pytest.mark.slow
def test_many_held_out_images_are_judged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    together = [progress.held_out for progress in Trainer(CONFIG).run() if progress.snapshot]
    monkeypatch.setattr(trainer_module, "HELD_OUT_HIDDEN", 1)
    parts = [progress.held_out for progress in Trainer(CONFIG).run() if progress.snapshot]
    assert parts == pytest.approx(together, rel=1e-5)


def test_a_drawing_is_taken_whatever_its_size_and_place() -> None:
    family = Glyphs()
    small, large = [[(0, 0), (10, 10)], [(10, 0), (0, 10)]], [[(3, 3), (63, 63)], [(63, 3), (3, 63)]]
    images = image_of(family, [small, large])
    torch.testing.assert_close(images[0], images[1])
    assert 0.1 < float(images[0].mean()) < 0.6
    assert float((images[0].unflatten(0, (20, 20)).flip(1) - images[0].unflatten(0, (20, 20))).abs().max()) < 1e-3


def test_a_quiz_counts_what_is_right() -> None:
    (fit,) = boards()
    quiz = quiz_of(fit)
    assert quiz is not None
    assert len(quiz.classes) == 5
    rights = [question.right for question in quiz.questions]
    assert len(rights) == 6
    network = sum(question.network == question.right for question in quiz.questions)
    assert quiz.verdict(rights).startswith(f"Of 6: you 6, the network after 2 steps {network}, the nearest")
    assert quiz.verdict([(rights[0] + 1) % 5]).startswith("Of 1: you 0,")
    assert Image.open(io.BytesIO(quiz.questions[0].picture)).size == (112, 112)


def test_what_needs_points_refuses_images_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"^tasks\.family = 'glyphs' cannot go into a script"):
        adapt_script(CONFIG)
