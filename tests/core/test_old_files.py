"""Files of an earlier version: a store, exported runs, weights, links. Every later version reads them."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from maml_core.config import RunConfig, parse_settings
from maml_core.engines import initial_state
from maml_core.evaluation.of_runs import learned_by, measure
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.generated import FunctionFamily
from maml_core.presets import get_preset
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.exchange import export_weights
from maml_core.store.imports import import_run
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from maml_core.training.trainer import Trainer
from tests.levels import levels

OLD = Path(__file__).parents[1] / "old"
FACTS: dict[str, dict[str, Any]] = json.loads((OLD / "facts.json").read_text(encoding="utf-8"))


@pytest.fixture
def old_store(tmp_path: Path) -> Store:
    shutil.copy(OLD / "store.db", tmp_path / "maml.db")
    return Store(f"sqlite:///{tmp_path / 'maml.db'}")


@pytest.mark.parametrize("algorithm", levels(FACTS, ["fomaml"], [name for name in FACTS if name != "fomaml"]))
def test_a_run_of_an_old_store_is_what_it_was(old_store: Store, algorithm: str) -> None:
    facts = FACTS[algorithm]
    run = old_store.run(facts["run"])
    assert run.config == RunConfig.from_dict(facts["config"])
    assert run.post_loss == facts["post_loss"]
    learned = learned_by(old_store, run)
    assert learned is not None
    assert bool(learned.extras) == (algorithm == "fo-meta-sgd")
    config = run.config.with_settings({"seed": run.config.seed})
    found = measure(old_store, run, tasks=20, steps=3, seed=0).learned.error
    assert found == pytest.approx(facts["mse"], rel=1e-4)
    assert config == run.config
    old_store.close()


def goes_on_as_if_uninterrupted(store: Store, run: Run) -> None:
    store.resume(run.id, owner=this_process())
    assert train_run(store, store.run(run.id), this_process()) == "finished"
    whole = Trainer(run.config)
    list(whole.run())
    data = store.checkpoint(run.id)
    assert data is not None
    assert torch.equal(load_checkpoint(data, run.config).state.parameters, whole.state.parameters)


def test_a_paused_run_of_an_old_store_goes_on_to_the_bits_of_an_uninterrupted_one(old_store: Store) -> None:
    (run,) = [run for run in old_store.all_runs() if run.status == "paused"]
    assert (run.iteration, run.notes) == (12, "made by an earlier version")
    goes_on_as_if_uninterrupted(old_store, run)
    old_store.close()


@pytest.mark.parametrize("algorithm", FACTS)
def test_an_old_export_is_imported_and_its_weights_are_the_same_numbers_today(store: Store, algorithm: str) -> None:
    run = store.run(import_run(store, (OLD / f"{algorithm}.zip").read_bytes()))
    assert run.config == RunConfig.from_dict(FACTS[algorithm]["config"])
    then, now = (OLD / f"{algorithm}.safetensors").read_bytes(), export_weights(store, run.id)
    header = json.loads(now[8 : 8 + int.from_bytes(now[:8], "little")])
    beside = json.loads(header.get("__metadata__", {}).get("extras", "{}"))  # which was among the tensors before
    found = load(now) | {
        name: torch.frombuffer(bytearray(base64.b64decode(value["data"])), dtype=torch.float32).reshape(value["shape"])
        for name, value in beside.items()
    }
    assert sorted(load(then)) == sorted(found)
    for name, tensor in load(then).items():
        assert torch.equal(tensor, found[name])
    assert run.config.layout().size == len(initial_state(run.config.network(), ALGORITHMS[algorithm]).parameters)


def test_an_old_link_is_followed() -> None:
    """As the form wrote it: nested ranges whole, a list as a list, every value of another family."""
    link = {
        "inner_lr": "0.05",
        "tasks.amplitude": "[0.0, 4.0]",
        "model.hidden_sizes": "[40, 40]",
        "clip_norm": "null",
        "tasks.family": "line",
        "tasks.slope": '{"mean": 0.0, "std": 2.0}',
        "tasks.x": "[-5.0, 5.0]",
        "tasks.noise": "0.0",
    }
    sine = {name: text for name, text in link.items() if name in ("inner_lr", "tasks.amplitude", "clip_norm")}
    config = get_preset("sine").config.with_settings(parse_settings(f"{name}={text}" for name, text in sine.items()))
    assert config.inner_lr == 0.05
    assert isinstance(config.tasks, FunctionFamily)
    assert config.tasks.distributions["amplitude"].span == (0.0, 4.0)
    line = {name: text for name, text in link.items() if name != "tasks.amplitude"}
    config = get_preset("sine").config.with_settings(parse_settings(f"{name}={text}" for name, text in line.items()))
    assert isinstance(config.tasks, FunctionFamily)
    assert config.tasks.distributions["slope"].span == (-6.0, 6.0)


def test_a_store_of_schema_5_goes_on_and_what_another_host_left_is_found(tmp_path: Path) -> None:
    shutil.copy(OLD / "store-5.db", tmp_path / "maml.db")
    store = Store(f"sqlite:///{tmp_path / 'maml.db'}")
    runs = {run.name: run for run in store.all_runs()}
    left, paused = runs["left behind by another host"], runs["paused by schema 5"]
    assert (left.status, left.owner, left.lease, left.lost) == ("interrupted", None, 0.0, 1)
    assert (paused.status, paused.iteration, paused.notes, paused.processor) == ("paused", 10, "made by schema 5", None)
    goes_on_as_if_uninterrupted(store, paused)
    assert store.run(paused.id).message == ""
    store.close()


def test_a_store_of_schema_4_is_read_and_its_runs_and_tables_are_nobodys(tmp_path: Path) -> None:
    shutil.copy(OLD / "store-4.db", tmp_path / "maml.db")
    store = Store(f"sqlite:///{tmp_path / 'maml.db'}")
    (run,) = store.all_runs()
    assert (run.tags, run.notes, run.status, run.started_by) == ("early, kept", "made by schema 4", "finished", "")
    assert run.post_loss == 8.70522403717041
    assert learned_by(store, run) is not None
    assert len(store.metrics(run.id)) == 12
    assert ("small", 200, "") in [(row.name, row.row_count, row.added_by) for row in store.all_tables()]
    store.close()
