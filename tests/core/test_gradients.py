"""The numbers behind the gradients page."""

import numpy as np
import pytest

from maml_core.evaluation.gradients import compare_engines, cosines
from maml_core.evaluation.toy import TOY_TARGETS, toy
from maml_core.learning.initialization import Initialization
from maml_core.learning.models import build_model
from maml_core.presets import PRESETS

CONFIG = PRESETS["paper-10-shot"].config.with_settings({"model.hidden_sizes": [12, 12], "inner_steps": 2})


def start() -> Initialization:
    return CONFIG.untrained()


def test_engines_agree_and_say_when_one_is_missing() -> None:
    found = compare_engines(CONFIG, start())
    table = found.table.set_index("Engine")
    assert table["Largest difference from higher"].astype(float)["higher"] == 0
    assert table["Relative difference"].astype(float)["vectorized"] < 1e-5
    assert table["Norm"].astype(float)["higher"] > 0
    assert table["Relative difference"].astype(float)["native"] < 1e-5
    assert found.absent == {}


def test_an_engine_that_cannot_take_part_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    other = CONFIG.with_settings({"model.hidden_sizes": [13]})  # whose loop nobody has made yet
    found = compare_engines(other, other.untrained())
    assert found.table["Engine"].tolist() == ["higher", "vectorized"]
    assert "needs a C++ compiler" in found.absent["native"]


def test_cosines_begin_at_one_and_fall() -> None:
    found = cosines(CONFIG, start(), most_steps=4)
    assert found.by_step.index.tolist() == [0, 1, 2, 3, 4]
    assert found.by_step.loc[0, "maml"] == pytest.approx(1, abs=1e-6)  # without inner steps they are the same
    assert found.by_step["reptile"].isna()[0]  # it has no gradient then
    maml = found.by_step["maml"].tolist()
    assert maml[4] < maml[1] < 1
    assert list(found.by_layer.index) == [name for name, _ in build_model(CONFIG.model, 0).named_parameters()]


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_toy_arrow_of_maml_is_the_slope_of_its_contours(steps: int) -> None:
    a, b, nudge = -1.5, 0.5, 1e-4
    found = toy(a, b, steps, cells=41)
    column, row = np.abs(found.axis - a).argmin(), np.abs(found.axis - b).argmin()
    here = toy(found.axis[column], found.axis[row], steps, cells=41)
    spacing = found.axis[1] - found.axis[0]
    slope_a = (found.meta_loss[row, column + 1] - found.meta_loss[row, column - 1]) / (2 * spacing)
    slope_b = (found.meta_loss[row + 1, column] - found.meta_loss[row - 1, column]) / (2 * spacing)
    assert here.updates["maml"] == pytest.approx((-slope_a, -slope_b), rel=0.05, abs=nudge)
    mean = np.mean(found.task_updates, axis=0)
    assert found.updates["fomaml"] == pytest.approx(tuple(mean), rel=1e-9)
    assert len(found.task_updates) == len(TOY_TARGETS)
    assert ("reptile" in found.updates) == (steps > 0)
