import math
import time

import pytest
import torch
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import ENGINES, Engine, TrainingState
from maml_core.errors import DeviceError
from maml_core.learning.tasks import TaskBatch
from maml_core.milestones import ends_row, held_out_count, snapshot_iterations
from maml_core.presets import PRESETS
from maml_core.store.checkpoint import Checkpoint, dump_checkpoint, load_checkpoint
from maml_core.training.trainer import Progress, Trainer, check_startable
from tests.levels import levels


def finish(trainer: Trainer) -> list[Progress]:
    return list(trainer.run())


@pytest.mark.parametrize("engine", ENGINES)
def test_training_lowers_the_held_out_loss(small_config: RunConfig, engine: str) -> None:
    config = small_config.with_settings({"engine": engine, "meta_iterations": 150, "meta_lr": 0.01})
    progress = finish(Trainer(config))
    held_out = [report.held_out for report in progress if report.held_out is not None]
    assert held_out[-1] < 0.9 * held_out[0]
    assert progress[-1].finished
    assert progress[-1].state.iteration == 150


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sine_preset_learns(seed: int) -> None:
    """1,000 meta-iterations bring the held-out error far below that of the untrained network."""
    progress = finish(Trainer(PRESETS["sine"].config.with_settings({"seed": seed})))
    held_out = [report.held_out for report in progress if report.held_out is not None]
    assert held_out[-1] < 0.5 * held_out[0]


def test_every_iteration_has_a_metric_row_in_a_short_run(small_config: RunConfig) -> None:
    rows = [row for report in finish(Trainer(small_config)) for row in report.rows]
    assert [row.iteration for row in rows] == list(range(1, 41))
    assert all(math.isfinite(value) for row in rows for value in row)


@pytest.mark.parametrize(("engine", "ema_decay"), [*((name, None) for name in ENGINES), ("vectorized", 0.9)])
def test_resuming_at_any_iteration_gives_the_same_bits(
    small_config: RunConfig, engine: str, ema_decay: float | None
) -> None:
    config = small_config.with_settings({"engine": engine, "ema_decay": ema_decay})
    whole = finish(Trainer(config))
    rows = [row for report in whole for row in report.rows]
    for stop in (1, 17):
        first = Trainer(config)
        first.limit = stop
        before = finish(first)
        saved = load_checkpoint(dump_checkpoint(Checkpoint(first.state, first.pending)), config)
        second = Trainer(config, saved.state, saved.pending)
        after = finish(second)
        assert torch.equal(second.state.parameters, whole[-1].state.parameters)
        assert torch.equal(second.state.learned, whole[-1].state.learned)
        assert (second.state.average is None) == (ema_decay is None)
        assert [row for report in before + after for row in report.rows] == rows


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_run_is_judged_alike_in_every_engine(small_config: RunConfig, ema_decay: float | None) -> None:
    held_out = {}
    for engine in ENGINES:
        config = small_config.with_settings({"engine": engine, "ema_decay": ema_decay})
        held_out[engine] = [r.held_out for r in finish(Trainer(config)) if r.held_out is not None]
    assert len(held_out["higher"]) > 10
    for engine in ENGINES:
        assert held_out[engine] == pytest.approx(held_out["higher"], rel=1e-4)


@pytest.mark.parametrize(("engine", "judge"), [("native", "native"), ("higher", "vectorized")])
def test_snapshots_are_judged_by_the_engine_that_trains_but_not_task_by_task(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch, engine: str, judge: str
) -> None:
    asked: list[tuple[str, int]] = []

    def watched(name: str) -> None:
        judged = ENGINES[name].query_loss

        def query_loss(self: Engine, parameters: Tensor, tasks: TaskBatch) -> Tensor:
            asked.append((name, len(tasks.support_x)))
            return judged(self, parameters, tasks)

        monkeypatch.setattr(ENGINES[name], "query_loss", query_loss)

    for name in ENGINES:
        watched(name)
    reports = finish(Trainer(small_config.with_settings({"engine": engine})))
    judged = [report for report in reports if report.held_out is not None]
    assert [each for each in asked if each[1] == 100] == [(judge, 100)] * len(judged)


def test_a_run_that_ended_unjudged_is_judged_by_a_loop_that_has_run_nothing_yet(small_config: RunConfig) -> None:
    config = small_config.with_settings({"engine": "native"})
    reports = finish(Trainer(config))
    (last,) = finish(Trainer(config, reports[-1].state, reports[-1].pending))
    assert last.finished
    assert last.held_out == reports[-1].held_out


def test_the_judge_works_in_turns_and_judges_the_average(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []
    for numbers in (10**7, 7 * 25):  # 25 parameters: 7 tasks at once
        monkeypatch.setattr("maml_core.training.trainer.HELD_OUT_NUMBERS", numbers)
        judged.append([report.held_out for report in finish(Trainer(small_config)) if report.held_out is not None])
    assert judged[0] == pytest.approx(judged[1], rel=1e-5)
    averaged = finish(Trainer(small_config.with_settings({"ema_decay": 0.9})))
    assert judged[1][-1] != [report.held_out for report in averaged if report.held_out is not None][-1]
    assert [held_out_count(total) for total in (10, 1000, 20_000, 10**7)] == [100, 100, 200, 400]


def test_rows_of_a_long_run_are_means_whatever_the_chunks(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maml_core.milestones.FULL_DETAIL", 5)
    monkeypatch.setattr("maml_core.milestones.MORE_ROWS", 5)
    config = small_config
    rows = [row for report in finish(Trainer(config)) for row in report.rows]
    assert [row.iteration for row in rows] == [1, 2, 3, 4, 5, 12, 19, 26, 33, 40]
    monkeypatch.undo()
    single = {row.iteration: row for report in finish(Trainer(config)) for row in report.rows}
    assert rows[5].post_loss == pytest.approx(sum(single[i].post_loss for i in range(6, 13)) / 7)


@pytest.mark.parametrize("total", [1, 2, 40, 1000, 70_000, 10_000_000])
def test_number_of_rows_and_snapshots(total: int) -> None:
    if total <= 70_000:
        assert sum(ends_row(i, total) for i in range(1, total + 1)) <= 2001
    snapshots = snapshot_iterations(total)
    assert len(snapshots) <= 100
    assert snapshots[0] == 0
    assert snapshots[-1] == total
    assert snapshots == sorted(set(snapshots))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("inner_lr", [1e2, 1e4, 1e38])
def test_divergence_stops_in_its_iteration_and_keeps_the_last_finite_state(
    small_config: RunConfig, engine: str, inner_lr: float
) -> None:
    settings = {
        "engine": engine,
        "inner_lr": inner_lr,
        "inner_steps": 20,
        "tasks.family": "line",
        "model.kind": "linear",
    }
    trainer = Trainer(small_config.with_settings(settings))
    last = finish(trainer)[-1]
    assert last.diverged is not None
    assert f"iteration {last.state.iteration + 1:,}" in last.diverged
    assert "lower inner_lr" in last.diverged
    assert last.state.is_finite()
    assert trainer.state is last.state


NUMBERS = ("pre_loss", "post_loss", "gradient", "parameters")


@pytest.mark.parametrize(
    ("engine", "where", "step"),
    levels(
        [
            *(("vectorized", where, step) for where in NUMBERS for step in (0, 13)),
            ("native", "parameters", 13),
            ("higher", "gradient", 13),
        ],
        [("vectorized", "pre_loss", 0), ("vectorized", "gradient", 13), ("native", "parameters", 13)],
        [("higher", "gradient", 13), *(("vectorized", where, 13) for where in NUMBERS)],
    ),
)
def test_nan_injected_at_one_iteration(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch, engine: str, where: str, step: int
) -> None:
    """Whatever turns NaN, the run stops in that very iteration with the state before it."""
    config = small_config.with_settings({"engine": engine})
    clean = Trainer(config)
    clean.limit = step
    finish(clean)
    trainer = Trainer(config)
    run = trainer.engine.run

    def poisoned(state: TrainingState, tasks: object) -> object:
        after, metrics = run(state, tasks)  # type: ignore[arg-type]
        if state.iteration <= step < after.iteration:
            if where == "parameters":
                after.parameters[0] = math.nan
            else:
                metrics[step - state.iteration, ["pre_loss", "post_loss", "gradient"].index(where)] = math.nan
        return after, metrics

    monkeypatch.setattr(trainer.engine, "run", poisoned)
    last = finish(trainer)[-1]
    assert last.diverged is not None
    assert last.state.iteration == step
    assert torch.equal(last.state.parameters, clean.state.parameters)


@pytest.mark.parametrize("seed", range(4))
def test_no_false_alarm(small_config: RunConfig, seed: int) -> None:
    assert finish(Trainer(small_config.with_settings({"seed": seed})))[-1].diverged is None


def test_pace_limits_the_rate_and_changes_no_number(small_config: RunConfig) -> None:
    free = finish(Trainer(small_config))[-1]
    trainer = Trainer(small_config)
    trainer.pace = 100.0
    started = time.perf_counter()
    paced = finish(trainer)[-1]
    assert time.perf_counter() - started > 0.25  # 40 iterations at 100 a second, less the first
    assert torch.equal(paced.state.parameters, free.state.parameters)


def test_absent_device_is_named() -> None:
    absent = "mps" if torch.cuda.is_available() else "cuda"
    config = PRESETS["linear"].config.with_settings({"device": absent})
    with pytest.raises(DeviceError, match=f"device = '{absent}' is not on this machine: it has"):
        check_startable(config)


def test_with_clipping_a_meta_batch_that_blows_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PRESETS["sine"].config.with_settings(
        {"engine": "vectorized", "meta_iterations": 3000, "clip_norm": 1.0, "meta_batch_size": 2, "inner_steps": 1}
    )
    trainer = Trainer(config)
    run = trainer.engine.run

    def blow_up(state: TrainingState, tasks: TaskBatch) -> tuple[TrainingState, Tensor]:
        last = state.iteration + tasks.support_x.shape[0]
        spoiled = tasks.support_y.clone()
        if state.iteration <= 801 < last:  # one meta-batch, in the midst of a metric row
            spoiled[801 - state.iteration] = 1e30
        return run(state, tasks._replace(support_y=spoiled))

    monkeypatch.setattr(trainer.engine, "run", blow_up)
    trainer.limit = 1000
    reports = list(trainer.run())
    assert trainer.state.iteration == 1000
    assert not any(report.diverged for report in reports)
    assert all(math.isfinite(row.post_loss) for report in reports for row in report.rows)
