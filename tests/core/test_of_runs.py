"""What a run is held against: its own recipe, and what others have published."""

import dataclasses
import math
from typing import Any

import pytest

from maml_core.config import RunConfig
from maml_core.errors import StoreError
from maml_core.evaluation import of_runs
from maml_core.evaluation.curves import SHOTS, ErrorCurve, Evaluation, evaluate
from maml_core.evaluation.of_runs import checkpoint_at, measure, reproduction, shots_grid, shots_group
from maml_core.evaluation.published import PARTS, PROTOCOL, PUBLISHED, comparable, comparison
from maml_core.figures import shots_grid_figure
from maml_core.learning.control import Control
from maml_core.learning.problems import Classification
from maml_core.presets import PRESETS, REPORT_TASKS, Preset, Reached
from maml_core.store.run import Run
from maml_core.store.store import Store
from tests.conftest import ROOT
from tests.trained import trained


@pytest.fixture
def run(store: Store, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(PRESETS, "small", Preset("Small", "", small_config, Reached(2, (1e6, 1e7, 2e6))))
    return trained(store, small_config.with_settings({"seed": 9, "engine": "vectorized"}), preset="small")


@pytest.mark.slow
def test_a_run_of_a_recipe_is_told_whether_it_reproduced_it(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = measure(store, run, steps=2, at="best").learned
    said = reproduction(store, run)
    assert said is not None
    assert said.startswith("This recipe reached 4.33e+06 (1e+06 to 1e+07 with three seeds) after 2 steps; this run, ")
    assert said.endswith(f"{best.error[2]:.3g} ± {best.ci95[2]:.2g}: reproduced.")
    monkeypatch.setitem(PRESETS, "small", dataclasses.replace(PRESETS["small"], reached=Reached(2, (0.1, 0.2, 0.3))))
    assert "not reproduced" in (reproduction(store, run) or "")
    for other in (
        dataclasses.replace(run, config=run.config.with_settings({"inner_lr": 0.5})),
        dataclasses.replace(run, status="stopped"),
        dataclasses.replace(run, preset=None),
    ):
        assert reproduction(store, other) is None


def test_runs_that_differ_in_their_shots_alone_stand_side_by_side(
    store: Store, run: Run, small_config: RunConfig
) -> None:
    assert shots_group(store, run) == [run]
    assert shots_grid(store, run) is None
    shots = run.config.shots

    def another(**settings: object) -> Run:
        return trained(store, run.config.with_settings(settings))

    twin, other = another(shots=shots + 2, seed=4), another(shots=shots + 1, inner_lr=0.5)
    assert [each.id for each in shots_group(store, run)] == [run.id, twin.id]
    grid = shots_grid(store, run, tasks=10)
    assert grid is not None
    assert grid.index.tolist() == [shots, shots + 2]
    assert tuple(map(int, grid.columns)) == SHOTS
    expected = measure(store, twin, tasks=10, steps=twin.config.inner_steps, at="best", rivals=()).by_shots["learned"]
    assert grid.loc[shots + 2, 10] == expected[10].error
    cells = shots_grid_figure(grid, run.config.tasks.problem)["data"][0]
    assert cells["z"][1][SHOTS.index(10)] == pytest.approx(math.log10(expected[10].error), abs=1e-3)
    assert other.id not in [each.id for each in shots_group(store, twin)]


def test_the_best_checkpoint_is_the_one_with_the_lowest_held_out_loss(store: Store, run: Run) -> None:
    held_out = {at: loss for at, loss in store.history(run.id) if loss is not None}
    iteration, data = checkpoint_at(store, run, "best")
    assert iteration == min(held_out, key=held_out.__getitem__)
    assert data == store.checkpoint(run.id, "history", iteration)
    assert checkpoint_at(store, run, "latest")[0] == run.iteration
    assert checkpoint_at(store, dataclasses.replace(run, best_iteration=None), "best")[0] == run.iteration
    with pytest.raises(StoreError, match=r"checkpoint = 3000 is not kept of run .*: it must be one of 0, 1, 2"):
        checkpoint_at(store, run, 3000)


@pytest.mark.slow
def test_an_evaluation_is_computed_once_for_each_checkpoint(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def counted(*given: Any, **named: Any) -> Evaluation:
        made.append(given)
        return evaluate(*given, **named)

    monkeypatch.setattr(of_runs, "evaluate", counted)
    for at in ("latest", 0, "latest", 0):
        measure(store, run, tasks=10, steps=1, at=at)
    assert len(made) == 2


def test_every_preset_carries_what_it_reached_and_the_readme_says_the_same() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        reached = preset.reached
        assert reached is not None, name
        assert reached.steps == max(1, preset.config.inner_steps)
        if preset.config.meta_iterations == 70_000:
            errors = ", ".join(f"{error:g}" for error in reached.errors)
            row = f"| `{name}` | {preset.config.shots} | {reached.steps} | {errors} | {reached.mean:.3g} |"
            assert row in readme, row
        if isinstance(preset.config.tasks.problem, Classification):
            right = [*(f"{100 * (1 - error):.1f}" for error in reached.errors), f"{100 * (1 - reached.mean):.1f}"]
            row = f"| `{name}` | {preset.config.shots} | {', '.join(right[:-1])} | {right[-1]} |"
            assert row in readme, row
        if isinstance(preset.config.tasks.problem, Control):
            returns = ", ".join(f"−{error:.3g}" for error in reached.errors)
            row = f"| `{name}` | {reached.steps} | {returns} | −{reached.mean:.3g} |"
            assert row in readme, row


def test_published_figures_are_of_the_papers_set_up_only_and_in_the_readme() -> None:
    config = PRESETS["paper-10-shot"].config
    assert {row.shots for row in comparable(config)} == {10}
    assert comparable(config.with_settings({"tasks.noise": 0.1})) == []
    assert comparable(config.with_settings({"model.hidden_sizes": [64]})) == []
    curve = ErrorCurve([3.0, 0.5], [0.2, 0.05])
    text = comparison(config, Evaluation(REPORT_TASKS, 0, curve, curve, 4.0))
    first, second, closed = (text.index(part) for part in PARTS)
    assert first < text.index("0.5 ± 0.05  this run: fomaml") < second < text.index("CAVIA") < closed
    assert text.index("best-10-shot") < second < text.index(" maml-10-shot") < closed < text.index("ridge-10-shot")
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for row in PUBLISHED:
        if row.shots == 10:
            line = next(line for line in text.splitlines() if row.source in line and f" {row.error} " in line)
            assert " ".join(line.split()) in readme, f"the README's table lacks {line!r}"
    assert PROTOCOL.split(";")[0] in " ".join(text.split())
