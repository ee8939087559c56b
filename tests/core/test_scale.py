"""Numbers far from unit scale, or from those trained on, are said to be so; a run that did not help says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from maml_core import cli
from maml_core.config import RunConfig
from maml_core.learning.families import Sine
from maml_core.learning.scale import beyond_training, far_from_unit
from maml_core.learning.tasks import FAMILIES, parse_family
from maml_core.presets import PRESETS
from maml_core.store.store import Store

FLAGS = ["--set", "meta_iterations=30", "--set", "engine=vectorized"]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("formula", "table")])
def test_nothing_is_said_of_a_family_as_it_comes(family: str) -> None:
    assert far_from_unit(parse_family({"family": family})) is None


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_is_said_of_a_preset(preset: str) -> None:
    assert far_from_unit(PRESETS[preset].config.tasks) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks.x": [0.0, 1000.0]}, "Inputs reach "),
        ({"tasks.amplitude": [400.0, 4500.0]}, "Outputs reach "),
        ({"tasks.amplitude": [1e-4, 1e-3]}, "Outputs reach "),
    ],
)
def test_numbers_far_from_unit_scale_are_said_before_training(
    store: Store, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], said: str
) -> None:
    assert far_from_unit(RunConfig().with_settings(settings).tasks)
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    cli.main(["train", *FLAGS, *flags])
    printed = capsys.readouterr().err
    assert said in printed.partition("run ")[0]
    assert "which is standardized" in printed
    assert said in store.all_runs()[0].message  # and it stays with the run


def test_points_beyond_training_are_said_to_be(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = Sine()
    assert beyond_training(family, [(-5.0, 1.0), (5.0, -1.0)]) is None
    assert beyond_training(family, [(-8.0, 1.0), (6.0, -1.0)]) is None  # a little further is what people try
    assert "x from 100 to 800, and this run was trained on x from -5 to 5" in str(
        beyond_training(family, [(100.0, 1.0), (800.0, -1.0)])
    )
    assert "y up to 900 in size" in str(beyond_training(family, [(1.0, 900.0), (2.0, -1.0)]))
    assert cli.main(["train", *FLAGS, "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    (tmp_path / "support.csv").write_text("100,1\n800,2\n")
    (tmp_path / "query.csv").write_text("200\n")
    cli.main(["adapt", run, str(tmp_path / "support.csv"), str(tmp_path / "query.csv")])
    assert "is extrapolation" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_never_got_below_its_start_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    hopeless = ["--set", "model.activation=tanh", "--set", "meta_lr=1", "--set", "inner_lr=0.00001"]
    assert cli.main(["train", *FLAGS, *hopeless]) == 0
    assert "Training has not helped: on held-out tasks the loss was" in capsys.readouterr().err
    assert cli.main(["train", *FLAGS, "--set", "meta_iterations=300"]) == 0
    assert "has not helped" not in capsys.readouterr().err


def test_the_last_line_of_training_is_about_many_tasks(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *FLAGS]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    run = store.all_runs()[0]
    mean = store.metrics(run.id)["post_loss"].tail(20).mean()
    assert f"query loss {mean:.4g} over its last 20 metric rows" in line
    assert f"on held-out tasks {run.best_loss:.4g} at its best, after {run.best_iteration:,} iterations" in line
