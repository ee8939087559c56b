"""Control: rollouts beside a plain loop, REINFORCE beside sums written out, every engine and algorithm, pictures."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.engines import ENGINES
from maml_core.engines.meta_optimizer import MetaOptimizer
from maml_core.engines.native import NativeEngine
from maml_core.errors import ConfigError, EngineError
from maml_core.evaluation.adapted import adapt_run, adapted_curves
from maml_core.evaluation.compare import grouped
from maml_core.evaluation.curves import SHOTS, evaluate, shots_tasks
from maml_core.evaluation.diagnosis import diagnose
from maml_core.evaluation.of_runs import reproduction, shots_grid, shots_group
from maml_core.evaluation.paths import path_map
from maml_core.evaluation.published import published_returns
from maml_core.evaluation.rivals import make_rivals
from maml_core.figures import landscape_figure, moving_picture, replay_figure, replay_page, task_figure, task_grid
from maml_core.figures.charts import error_curves, shots_curves
from maml_core.figures.maps import layers_figure
from maml_core.learning.adaptation import fit_tasks, landscape
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.control import DISCOUNT, HORIZON, Control, aimed, can_aim, distances, roll_out
from maml_core.learning.families import Navigation, Spiral, Steering
from maml_core.learning.fresh_tasks import draw_tasks
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.own_model import own_models
from maml_core.learning.path_fits import PathFit, rested
from maml_core.learning.scale import far_from_unit
from maml_core.learning.tasks import Uniform, seeded
from maml_core.presets import PRESETS, Preset, Reached
from maml_core.store.checkpoint import load_initialization
from maml_core.store.exchange import export_run
from maml_core.store.imports import import_run
from maml_core.store.run import Run
from maml_core.store.script import adapt_script
from maml_core.store.store import Store
from maml_core.training.trainer import Trainer, check_startable
from tests.trained import trained

CONFIG = RunConfig.from_dict(
    {
        "tasks": {"family": "navigation"},
        "model": {"kind": "policy", "hidden_sizes": [8]},
        "shots": 3,
        "query_shots": 3,
        "inner_lr": 0.1,
        "inner_steps": 2,
        "meta_batch_size": 2,
        "meta_iterations": 4,
    }
)
PROBLEM = Control()


def policy(places: Tensor) -> Tensor:
    """Any smooth policy: means and log standard deviations, `[..., 4]`."""
    x, y = places.unbind(-1)
    return torch.stack([x - 0.3 * y + 0.4, torch.sin(y) + 0.2, 0.1 * x - 1.0, 0.2 * y - 0.5], -1)


def noise(rollouts: int, name: str = "noise") -> Tensor:
    return torch.randn(rollouts, 2 * HORIZON, generator=seeded(name), dtype=torch.float64)


def task(goal: tuple[float, float], turn: float, rollouts: int) -> Tensor:
    return torch.tensor([[*goal, turn]], dtype=torch.float64).expand(rollouts, 3)


def played(
    x: Tensor, goal: tuple[float, float], turn: float
) -> tuple[list[list[tuple[float, float]]], list[list[float]]]:
    """Places and rewards of each rollout, step by step in plain Python, as arXiv:1703.03400 describes the task."""
    all_places, all_rewards = [], []
    for row in x.tolist():
        place, places, rewards = (0.0, 0.0), [(0.0, 0.0)], []
        for step in range(100):
            out = policy(torch.tensor([2 * place[0], 2 * place[1]], dtype=torch.float64)).tolist()
            action = []
            for k in (0, 1):
                std = math.exp(min(0.5, max(-2.5, out[2 + k] - 0.5)))
                action.append(min(1.0, max(-1.0, out[k] + std * row[2 * step + k])))
            across = 0.1 * (action[0] * math.cos(turn) - action[1] * math.sin(turn))
            up = 0.1 * (action[0] * math.sin(turn) + action[1] * math.cos(turn))
            place = place[0] + across, place[1] + up
            places.append(place)
            off = place[0] - goal[0], place[1] - goal[1]
            rewards.append(-math.hypot(*off))
            if abs(off[0]) < 0.01 and abs(off[1]) < 0.01:
                break
        all_places.append(places)
        all_rewards.append(rewards)
    return all_places, all_rewards


@pytest.mark.parametrize(("goal", "turn"), [((0.3, -0.4), 0.0), ((0.5, 0.0), 2.0), ((0.05, 0.02), 0.0)])
def test_a_rollout_is_what_a_plain_loop_plays(goal: tuple[float, float], turn: float) -> None:
    x, y = noise(20), task(goal, turn, 20)
    places, rewards = played(x, goal, turn)
    found = roll_out(policy, x, y)
    distance, is_going = distances(found.places, y)
    for i, (path, earned) in enumerate(zip(places, rewards, strict=True)):
        assert int(is_going[i].sum()) == len(earned)
        np.testing.assert_allclose(found.places[i, : len(path)], path, atol=1e-12)
        np.testing.assert_allclose(-distance[i, : len(earned)], earned, atol=1e-12)
    returned = sum(map(sum, rewards)) / 20
    assert float(PROBLEM.error(PROBLEM.answer(policy, x, y), y)) == pytest.approx(-returned, abs=1e-10)
    assert float(PROBLEM.loss(policy, x, y)) == pytest.approx(-returned, abs=1e-10)
    if goal == (0.05, 0.02):
        assert any(len(earned) < 100 for earned in rewards)  # some arrive, and are over


def test_the_gradient_is_that_of_reinforce_with_a_baseline_for_each_step() -> None:
    goal, rollouts = (0.1, 0.05), 6
    x, y = noise(rollouts), task(goal, 0.0, rollouts)
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(PROBLEM.loss(lambda places: policy(places) * scale, x, y), scale)

    done = roll_out(policy, x, y)
    _, rewards = played(x, goal, 0.0)
    to_come = [
        [sum(DISCOUNT**k * r for k, r in enumerate(earned[t:])) for t in range(len(earned))] for earned in rewards
    ]
    better = []
    for i, values in enumerate(to_come):
        for t, value in enumerate(values):
            others = [other[t] for other in to_come if len(other) > t]
            better.append((i, t, value - sum(others) / len(others)))
    spread = math.sqrt(sum(value**2 for *_, value in better) / len(better))
    total = torch.zeros((), dtype=torch.float64)
    for i, t, value in better:
        out = policy(2 * done.places[i, t]) * scale
        std = (out[2:] - 0.5).clamp(-2.5, 0.5).exp()
        likely = torch.distributions.Normal(out[:2], std).log_prob(done.actions[i, t]).sum()
        total = total - likely * value / spread / len(better)
    (expected,) = torch.autograd.grad(total, scale)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_families_are_as_published() -> None:
    batch = Navigation().sample_batch((400,), 2, 3, seeded("n"))
    goals = batch.support_y[:, 0, :2]
    assert float(goals.abs().max()) <= 0.5
    assert float(goals.abs().mean()) == pytest.approx(0.25, abs=0.02)
    assert batch.support_x.shape == (400, 2, 200)
    assert float(batch.query_x.std()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(batch.support_y[:, 0], batch.query_y[:, 2])
    turned = Steering().sample_batch((400,), 2, 3, seeded("n")).support_y[:, 0]
    assert torch.equal(turned[:, :2], torch.tensor([0.5, 0.0]).expand(400, 2))
    assert float(turned[:, 2].abs().max()) > 3


@pytest.mark.parametrize(
    ("family", "algorithm"),
    [("navigation", name) for name in ALGORITHMS if not ALGORITHMS[name].solves] + [("steering", "maml")],
)
def test_engines_agree_in_double_precision(family: str, algorithm: str) -> None:
    config = CONFIG.with_settings({"algorithm": algorithm, "tasks.family": family})
    model = config.network().double()
    tasks = config.tasks.sample_batch((2,), 3, 3, seeded("engines"), dtype=torch.float64)
    found = {}
    for name in ("higher", "vectorized"):
        engine = ENGINES[name](
            model,
            inner=InnerLoop(0.1, 2, 0.01),
            meta_optimizer=MetaOptimizer(1e-3),
            algorithm=ALGORITHMS[algorithm],
            problem=config.tasks.problem,
        )
        flat = engine.layout.start(model)
        found[name] = engine.meta_gradient(flat, tasks)
    torch.testing.assert_close(found["higher"].gradient, found["vectorized"].gradient, rtol=1e-7, atol=1e-9)
    for part in ("pre_loss", "post_loss"):
        torch.testing.assert_close(getattr(found["higher"], part), getattr(found["vectorized"], part))
    assert float(found["higher"].gradient.norm()) > 0


def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    for settings, said in (
        ({"shots": 1}, "shots = 1 is not allowed with tasks.family = navigation: rollouts are judged by each other"),
        ({"query_shots": 1}, "query_shots = 1 is not allowed"),
        ({"algorithm": "ridge-head"}, "algorithm = ridge-head is not allowed with tasks.family = navigation"),
        ({"engine": "native"}, "engine = native is not allowed with tasks.family = navigation"),
        ({"tasks.family": "sine"}, "model.kind = policy is not allowed with tasks.family = sine"),
    ):
        with pytest.raises(ConfigError) as caught:
            CONFIG.with_settings(settings)
        assert said in str(caught.value)
    native = NativeEngine(
        CONFIG.network(),
        inner=InnerLoop(0.1, 1),
        meta_optimizer=MetaOptimizer(1e-3),
        algorithm=ALGORITHMS["fomaml"],
        problem=PROBLEM,
    )
    with pytest.raises(EngineError, match="takes no rollouts"):
        native.begin(CONFIG.tasks.held_out(tasks=1, shots=2))
    with pytest.raises(ConfigError, match="its model acts, and a script predicts"):
        adapt_script(CONFIG)
    with pytest.raises(ConfigError, match="One meta-iteration of this run would take about"):
        check_startable(CONFIG.with_settings({"meta_batch_size": 20, "inner_steps": 500}))


def test_a_run_has_the_same_bits_after_a_pause() -> None:
    whole, first = Trainer(CONFIG), Trainer(CONFIG)
    for _ in whole.run():
        pass
    first.limit = 2
    *_, seen = first.run()
    second = Trainer(CONFIG, seen.state, seen.pending)
    for _ in second.run():
        pass
    assert whole.engine.status == "vectorized"
    assert torch.equal(whole.state.parameters, second.state.parameters)
    assert torch.equal(whole.state.exp_avg_sq, second.state.exp_avg_sq)


def test_many_tasks_adapt_in_parts_as_they_do_together(monkeypatch: pytest.MonkeyPatch) -> None:
    start, tasks = CONFIG.untrained(), CONFIG.tasks.held_out(tasks=5, shots=3)
    whole = start.adapt(tasks, 2)
    monkeypatch.setattr("maml_core.learning.initialization.MOST_CALLS", 2 * 3 * HORIZON)
    parts = start.adapt(tasks, 2)
    torch.testing.assert_close(whole.query_loss, parts.query_loss)
    assert parts.predictions.shape == whole.predictions.shape == (3, 5, 20, 2 * (HORIZON + 1))


@pytest.mark.slow
def test_the_straight_way_is_short_and_standing_still_is_said() -> None:
    for family in ("navigation", "steering"):
        config = CONFIG.with_settings({"tasks.family": family})
        found = evaluate(config.untrained(), config, tasks=6, steps=2)
        assert set(found.rivals) == {"straight"} == set(make_rivals(config))
        assert 0 < found.rivals["straight"].error < found.predict_mean
        assert min(found.by_shots["learned"]) == 2
        assert found.coverage is None
        assert "straight" not in found.sentence(2)  # it is told the goal: no method to be held against
        assert list(found.by_shots) == ["learned"]
        assert found == type(found).from_json(found.to_json())
    batch = CONFIG.tasks.held_out(tasks=30, shots=2)
    goal = batch.query_y[:, 0, :2]
    error = PROBLEM.error(PROBLEM.guessed(batch.support_y[3], batch.query_x[3], batch.query_y[3]), batch.query_y[3])
    assert float(error) == pytest.approx(HORIZON * float(goal[3].norm()), rel=1e-5)
    assert (PROBLEM.in_words(8.214), PROBLEM.with_interval(8.214, 0.41)) == ("−8.21", "−8.21 ± 0.41")


def test_straight_steps_are_steps_that_can_be_taken() -> None:
    config = CONFIG.with_settings({"tasks.family": "steering"})
    batch = config.tasks.held_out(tasks=50, shots=2)
    places = make_rivals(config)["straight"](batch).unflatten(2, (HORIZON + 1, 2)).double()
    steps = (places[:, :, 1:] - places[:, :, :-1])[:, 0]
    turn = batch.query_y[:, 0, 2].double()[:, None]
    asked = torch.stack(
        [
            steps[..., 0] * turn.cos() + steps[..., 1] * turn.sin(),
            steps[..., 1] * turn.cos() - steps[..., 0] * turn.sin(),
        ]
    )
    assert float(asked.abs().max()) == pytest.approx(0.1, abs=1e-6)
    torch.testing.assert_close(places[:, 0, -1], batch.query_y[:, 0, :2].double())


def path_fits(steps: int = 3, count: int = 1) -> list[PathFit]:
    tasks = draw_tasks(CONFIG.tasks, 3, count, CONFIG.shots)
    found = [fit for fit in fit_tasks(CONFIG.untrained(), tasks, steps) if isinstance(fit, PathFit)]
    assert len(found) == count
    return found


def test_a_path_rests_where_it_arrived() -> None:
    y = task((0.05, 0.02), 0.0, 20)
    places = roll_out(policy, noise(20), y).places
    found, (_, is_going) = rested(places, y), distances(places, y)
    lasts = is_going.sum(1).long()
    assert int(lasts.min()) < HORIZON
    for i, last in enumerate(lasts.tolist()):
        assert torch.equal(found[i, : last + 1], places[i, : last + 1])
        assert (found[i, last:] == places[i, last]).all()


def test_pictures_show_paths_and_a_goal_to_move() -> None:
    fit, other = path_fits(count=2)
    assert fit.paths.shape == (4, 10, HORIZON + 1, 2)
    assert fit.mean_error() == pytest.approx(HORIZON * float(np.hypot(*fit.goal)))
    figure = replay_figure({"learned": fit, "random": other})
    goal = figure["data"][figure["handle"]]
    assert (goal["name"], goal["x"], goal["y"]) == ("goal", [pytest.approx(fit.goal[0])], [pytest.approx(fit.goal[1])])
    paths = figure["replay"]["moving"][0]
    assert len(paths["x"]) == len(paths["y"]) == 4
    assert {len(line) for line in paths["x"]} == {len(figure["data"][paths["trace"]]["x"])}
    assert paths["x"][0].count(None) == 10  # a gap after each path
    assert "return −" in task_figure(fit, 2)["replay"]["labels"][0]
    assert "trained for 2" in task_figure(fit, 2)["replay"]["labels"][3]
    assert (PROBLEM.in_short(47.63), PROBLEM.in_short(3.034)) == ("−48", "−3")
    grid = task_grid([fit, other], mark_ends=True)
    assert {trace["customdata"][0] for trace in grid["data"]} == {3, 4}
    page = replay_page({"learned": fit, "random": other}, "<b>a run</b>")
    assert '"paths":' in page
    assert "\\u003cb>a run" in page
    with Image.open(io.BytesIO(moving_picture(fit, "a run"))) as image:
        assert (image.format, getattr(image, "n_frames", 1)) == ("WEBP", 4)


@pytest.mark.slow
def test_charts_show_returns() -> None:
    found = evaluate(CONFIG.untrained(), CONFIG, tasks=10, steps=1)
    for figure in (error_curves(found), shots_curves(found, 3)):
        assert figure["layout"]["yaxis"].get("type") != "log"
        assert figure["layout"]["yaxis"]["title"]["text"] == "return"
    assert shots_curves(found, 3)["layout"]["xaxis"]["title"]["text"] == "support rollouts"
    place: dict[str, Any] = {"seed": 0, "given": {}, "shots": 2, "steps": 1, "cells": 3}
    level = landscape(CONFIG.untrained(), Navigation(), ("goal_x", "goal_y"), **place)
    heat = landscape_figure(level)["data"][0]
    np.testing.assert_allclose(np.array(heat["z"], float), -level.error, atol=1e-3)
    assert level.strain is None


def test_a_goal_is_put_where_sliders_reach() -> None:
    family = Navigation(goal_x=Uniform(low=-0.5, high=0.5), goal_y=Uniform(low=0.0, high=0.2))
    assert aimed(family, 0.25, 0.1) == {"goal_x": 0.25, "goal_y": 0.1}
    assert aimed(family, 9.0, -9.0) == {"goal_x": 1.0, "goal_y": -0.1}
    assert [can_aim(each) for each in (family, Steering(), Spiral())] == [True, False, False]
    assert aimed(Steering(), 1.0, 1.0) == {}


@pytest.mark.slow
def test_a_run_is_exported_without_a_script_and_comes_back(store: Store) -> None:
    run_id = trained(store, CONFIG).id
    other = import_run(store, export_run(store, run_id))
    assert store.run(other).config == CONFIG
    assert store.run(run_id).status == "finished"
    bars = json.loads(json.dumps(layers_figure(path_map(store, store.run(run_id))), allow_nan=False))["data"]
    assert bars[0]["x"][0] == "log_std"
    assert bars[0]["y"][0] is None  # before training it is zero: no change is a share of that
    assert bars[1]["y"][0] > 0


def brief(store: Store, **settings: Any) -> Run:
    return trained(store, CONFIG.with_settings({"meta_iterations": 1} | settings))


@pytest.mark.slow
def test_runs_of_several_problems_stand_side_by_side(store: Store) -> None:
    nav, other = brief(store, inner_steps=1), brief(store, inner_steps=1, shots=2)
    sine = brief(store, **{"tasks.family": "sine", "model.kind": "mlp", "engine": "vectorized"})
    assert [run.id for run in shots_group(store, nav)] == [other.id, nav.id]
    assert shots_group(store, sine) == [sine]
    grid = shots_grid(store, nav, tasks=4)
    assert grid is not None
    assert [*grid.index] == [2, 3]
    assert [*grid.columns] == [shots for shots in SHOTS if shots > 1]
    found = adapt_run(store, nav)
    assert found.shots == (2, 5, 10, 20)
    assert len(found.shot_errors) == len(found.shots)
    (steps, _), (shots, _) = adapted_curves({nav.id: found, sine.id: adapt_run(store, sine)}, grouped([nav, sine]))
    assert {len(steps.grid), len(shots.grid)} == {4, len(found.shots)}


@pytest.mark.slow
def test_a_recipe_is_held_to_what_it_reached_without_a_whole_evaluation(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.with_settings({"meta_iterations": 1, "inner_steps": 1})
    preset = Preset("Small", "", config, Reached(1, (60.0, 1e6, 70.0), Control.name))
    monkeypatch.setitem(PRESETS, "small", preset)
    monkeypatch.setattr("maml_core.evaluation.of_runs.FEW_TASKS", 12)
    run_id = trained(store, config.with_settings({"seed": 9}), preset="small").id
    expected = evaluate(
        load_initialization(store.checkpoint(run_id, "best") or b"", config), config, tasks=12, steps=1, rivals=()
    ).learned
    monkeypatch.setattr("maml_core.evaluation.of_runs.evaluate", lambda *_, **__: pytest.fail("too long"))
    said = reproduction(store, store.run(run_id)) or ""
    assert said.startswith("This recipe reached −3.33e+05 (−1e+06 to −60 with three seeds) after 1 step; this run, ")
    assert said.endswith(f"{PROBLEM.with_interval(expected.error[1], expected.ci95[1])}: reproduced.")


def test_a_module_of_ones_own_is_tried_on_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_policy.py").write_text(
        "import torch\n\nclass Own(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))\n\n"
        "    def forward(self, x):\n        return self.net(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with own_models():
        config = CONFIG.with_settings({"model.kind": "own_policy:Own"})
        trainer = Trainer(config)
        check_startable(config, trainer)
        assert config.trial_points().shape == (20, 2)
        for _ in trainer.run():
            pass
    assert trainer.state.iteration == 4


@pytest.mark.slow
def test_evaluate_says_at_the_command_line_what_it_did(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = brief(store, inner_steps=1)
    assert main(["evaluate", run.id, "--store", store.url, "--tasks", "3", "--steps", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["returns"][0] for row in found["published"]] == [-40.4, -82.7]
    assert main(["evaluate", run.id, "--store", store.url, "--tasks", "3", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "return after 1 step against support rollouts (3 tasks each)" in said
    assert "\npublished: random start: -82.7, -58, -53.8, -46.8 after 0, 1, … steps" in said
    assert shots_tasks(CONFIG.tasks, 600) == 40  # as many as are measured, and said


@pytest.mark.slow
def test_what_is_said_of_a_run_fits_control() -> None:
    far = Navigation(goal_x=Uniform(low=-50.0, high=50.0))
    assert "Goals lie up to 50 from the start, and a rollout of 100 steps goes 10 at most" in (far_from_unit(far) or "")
    assert far_from_unit(Navigation(goal_x=Uniform(low=0.0, high=0.01))) is None
    assert far_from_unit(Steering()) is None
    curves = error_curves(evaluate(CONFIG.untrained(), CONFIG, tasks=4, steps=1, rivals=()), published_returns(CONFIG))
    published = [trace for trace in curves["data"] if trace["name"].startswith("published")]
    assert [trace["meta"] for trace in published] == ["learned", "random"]  # in the colors of what they compare with
    assert published_returns(CONFIG.with_settings({"tasks.family": "steering"})) == ()


def test_a_diverged_run_on_control_is_said_to_be_no_more_than_that(store: Store) -> None:
    run = dataclasses.replace(brief(store), status="diverged")
    finding = diagnose(store, run)
    assert finding is not None
    assert "curvature" not in finding.sentence
