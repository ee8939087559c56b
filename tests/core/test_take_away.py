"""A task's adaptation to take away: a page that needs nothing else, and a moving picture."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from maml_core.evaluation.listing import markdown_snippet
from maml_core.figures import moving_picture, replay_page
from maml_core.learning.adaptation import CurveFit
from maml_core.learning.fresh_tasks import draw_tasks
from maml_core.presets import PRESETS
from maml_core.words import shortened
from tests.core.starts import curve_fits

CONFIG = PRESETS["first-run"].config


@pytest.fixture
def fit() -> CurveFit:
    return curve_fits(CONFIG.untrained(), draw_tasks(CONFIG.tasks, 3, 1, 10), 5)[0]


def test_the_page_holds_every_step_and_loads_nothing(fit: CurveFit) -> None:
    page = replay_page({"learned": fit}, "my </script><b>run</b>")
    assert len(page.encode()) < 5 * 2**20
    assert not re.search(r"(src|href)=|https?://(?!www.w3.org/2000/svg)|@import|fetch\(", page)
    assert page.count("</script>") == 1  # the name has not ended it
    data = json.loads(re.search(r"const replay = (.*);", page).group(1))  # type: ignore[union-attr]
    np.testing.assert_allclose(np.array(data["fits"][0]["predictions"]), fit.predictions, rtol=1e-4, atol=1e-6)
    assert data["title"] == "my </script><b>run</b>"
    assert len(data["fits"][0]["errors"]) == 6


def test_a_page_compares_initializations_and_holds_each_whole(fit: CurveFit) -> None:
    other = curve_fits(CONFIG.untrained().at_rate(0.01), draw_tasks(CONFIG.tasks, 3, 1, 10), 3)[0]
    page = replay_page({"random": other, "learned": fit}, "compared")
    fits = json.loads(re.search(r"const replay = (.*);", page).group(1))["fits"]  # type: ignore[union-attr]
    assert [(one["name"], len(one["errors"])) for one in fits] == [("meta-learned", 6), ("random", 4)]
    np.testing.assert_allclose(np.array(fits[1]["predictions"]), other.predictions, rtol=1e-4, atol=1e-6)


def test_the_moving_picture_goes_from_before_to_after_and_rests(fit: CurveFit) -> None:
    made = moving_picture(fit, "my run")
    assert len(made) < 2**20
    picture = Image.open(io.BytesIO(made))
    assert (picture.format, picture.size, getattr(picture, "n_frames", 1)) == ("WEBP", (800, 450), 26)
    first = np.asarray(picture.convert("RGB")).astype(int)
    picture.seek(25)
    last = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(first - last).max() > 100


@pytest.mark.parametrize("inner_lr", [1e3, 1e38])
def test_a_task_that_diverges_is_said_to(inner_lr: float) -> None:
    fit = curve_fits(CONFIG.untrained().at_rate(inner_lr), draw_tasks(CONFIG.tasks, 3, 1, 10), 9)[0]
    assert fit.blew_up_at is not None
    assert f"Adaptation diverges at step {fit.blew_up_at}." in replay_page({"learned": fit}, "wild")
    assert moving_picture(fit, "wild")


def test_the_snippet_has_a_link_that_opens_the_same_settings() -> None:
    config = CONFIG.with_settings({"inner_lr": 0.02, "tasks.amplitude": [1.0, 2.0]})
    text = markdown_snippet(config, None, "first-run", "http://lab/")
    assert "(http://lab/?preset=first-run&" in text
    assert "inner_lr=0.02" in text
    assert "| tasks.amplitude | `[1.0, 2.0]` |" in text


def test_a_long_name_keeps_both_ends() -> None:
    assert shortened("short", 10) == "short"
    assert shortened("sweep of the inner rate, number 17", 12) == "sweep …er 17"
    assert all(len(shortened("x" * 80, most)) == most for most in range(5, 30))
