import math
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.nn.functional import mse_loss

from maml_core.errors import ConfigError
from maml_core.evaluation.curves import ErrorCurve, Evaluation, evaluate, evaluation_tasks, random_start
from maml_core.learning.adaptation import landscape
from maml_core.learning.families import Sine
from maml_core.learning.fresh_tasks import draw_task, draw_tasks
from maml_core.learning.models import MLP, build_model
from maml_core.learning.own_points import points_task, read_points
from maml_core.learning.tasks import TaskStream
from maml_core.presets import PRESETS
from tests.core.starts import curve_fits, start_of


def test_trajectory_equals_plain_gradient_descent() -> None:
    model = build_model(MLP(hidden_sizes=(16,)), seed=1)
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    batch = TaskStream(Sine(), meta_batch_size=3, shots=6, query_shots=4, seed=0).take(0, 1).at(0)
    trajectory = start_of(model).adapt(batch, steps=5)
    assert trajectory.predictions.shape == (6, 3, 4, 1)
    for task in range(3):
        model.load_state_dict(values)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(6):
            prediction = model(batch.query_x[task])
            torch.testing.assert_close(trajectory.predictions[step, task], prediction, rtol=1e-6, atol=1e-6)
            loss = mse_loss(model(batch.support_x[task]), batch.support_y[task])
            assert trajectory.support_loss[step, task].item() == pytest.approx(loss.item(), rel=1e-5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def test_adaptation_that_blows_up_is_cut_at_the_last_finite_step() -> None:
    start = start_of(build_model(MLP(hidden_sizes=(16,)), seed=1), inner_lr=1e3)
    fits = curve_fits(start, draw_tasks(Sine(), 0, 2, 5), steps=40)
    for fit in fits:
        assert fit.blew_up_at is not None
        assert len(fit.predictions) == len(fit.query_loss) == fit.blew_up_at
        assert all(math.isfinite(value) for value in fit.predictions.flatten())


def test_fresh_tasks_depend_on_their_seed_alone() -> None:
    start = start_of(build_model(MLP(), seed=1))
    first, again, other = (curve_fits(start, draw_task(Sine(), seed, 5), steps=1)[0] for seed in (3, 3, 4))
    assert (first.seed, other.seed) == (3, 4)
    assert (first.support_x == again.support_x).all()
    assert (first.support_x != other.support_x).any()
    assert "amplitude" in first.label
    assert "frequency" not in first.label  # it does not vary in this family


def test_evaluation_equals_a_naive_loop() -> None:
    config = PRESETS["paper-5-shot"].config
    model = build_model(config.model, config.seed)
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = evaluate(config.untrained(), config, tasks=7, steps=2, seed=5)
    batch = evaluation_tasks(config, 7, 5)
    errors = []
    for task in range(7):
        model.load_state_dict(parameters)
        optimizer = torch.optim.SGD(model.parameters(), lr=config.inner_lr)
        for _ in range(2):
            optimizer.zero_grad()
            mse_loss(model(batch.support_x[task]), batch.support_y[task]).backward()
            optimizer.step()
        errors.append(mse_loss(model(batch.query_x[task]), batch.query_y[task]).item())
    assert result.learned.error[2] == pytest.approx(sum(errors) / 7, rel=1e-5)


def test_confidence_interval_agrees_with_a_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(1, 600, generator=generator) ** 2
    resampled = errors[0][torch.randint(600, (4000, 600), generator=generator)].mean(1)
    half_width = (resampled.quantile(0.975) - resampled.quantile(0.025)).item() / 2
    assert ErrorCurve.of(errors).ci95[0] == pytest.approx(half_width, rel=0.05)


def test_moving_a_parameter_moves_nothing_else() -> None:
    drawn = draw_task(Sine(), 5, 6)
    moved = draw_task(Sine(), 5, 6, {"amplitude": 2.0})
    assert torch.equal(drawn.batch.support_x, moved.batch.support_x)
    ratio = moved.batch.support_y / drawn.batch.support_y
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)
    with pytest.raises(ConfigError, match="not a parameter"):
        draw_task(Sine(), 5, 6, {"wings": 2.0})


def test_a_cell_of_the_landscape_is_the_task_it_opens() -> None:
    start = start_of(build_model(MLP(hidden_sizes=(16,)), seed=1))
    found = landscape(start, Sine(), ("amplitude", "phase"), seed=3, given={}, shots=8, steps=4, cells=5)
    given = {"amplitude": float(found.values[0][3]), "phase": float(found.values[1][1])}
    fit = curve_fits(start, draw_task(Sine(), 3, 8, given), steps=4)[0]
    assert found.error[1, 3] == pytest.approx(fit.query_loss[-1], rel=1e-5)
    assert found.values[0][0] < found.trained[0][0] < found.trained[0][1] < found.values[0][-1]
    inside = found.error[1:4, 1:4]  # of five cells over twice a range, the middle three are in it
    outside = (found.error.sum() - inside.sum()) / (25 - 9)
    assert found.strain == pytest.approx(outside / inside.mean())


def test_points_are_read_in_every_way_people_write_them() -> None:
    expected = [(1.0, 2.0), (-0.5, 3e-1)]
    for text in ("1, 2\n-0.5, 0.3", "1,2;-0.5,0.3", "1\t2\n-0.5\t.3\n", " 1 2 \n\n-0.5 0.3"):
        assert read_points(text) == expected
    fit = curve_fits(start_of(build_model(MLP(), 0)), points_task(Sine(), expected), steps=2)[0]
    assert fit.seed is None
    assert fit.truth is None
    assert fit.query_loss.tolist() == fit.support_loss.tolist()


@pytest.mark.slow
def test_evaluation_goes_through_json_and_takes_turns() -> None:
    config = PRESETS["paper-5-shot"].config
    seen: list[float] = []

    def turn(done: float) -> AbstractContextManager[None]:
        seen.append(done)
        return nullcontext()

    start = random_start(config)
    result = evaluate(start, config, tasks=300, steps=2, pretrained=start, turn=turn)
    assert Evaluation.from_json(result.to_json()) == result
    assert seen == sorted(seen)
    # For tasks, loops, rivals, three for each of ten numbers of points, two outside, two for each of three starts.
    assert len(seen) == 1 + 1 + 1 + 30 + 2 + 6
    assert result.pretrained == result.random
    assert list(result.table()) == [
        "learned",
        "learned_ci95",
        "pretrained",
        "pretrained_ci95",
        "random",
        "random_ci95",
    ]
