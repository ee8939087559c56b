"""The map of an initialization: what it shows is what is stored, and how much of it is said exactly."""

import numpy as np
import pytest
import torch

from maml_core.errors import StoreError
from maml_core.evaluation import paths
from maml_core.evaluation.of_runs import learned_by
from maml_core.evaluation.paths import layer_names, path_map
from maml_core.figures import layers_figure, path_figure, star_figure
from maml_core.learning.initialization import Initialization
from maml_core.presets import PRESETS
from maml_core.store.run import Run
from maml_core.store.store import Store
from tests.trained import trained_run

SMALL = {"model.hidden_sizes": [8, 8], "meta_iterations": 60, "meta_batch_size": 4, "engine": "vectorized"}


def small_run(store: Store, preset: str = "first-run", **settings: object) -> Run:
    return trained_run(store, preset, SMALL | settings)


def vector(store: Store, run: Run, iteration: int) -> np.ndarray:
    start = learned_by(store, run, iteration)
    assert start is not None
    return torch.cat([value.reshape(-1) for value in start.parameters.values()]).double().numpy()


def test_the_plane_is_that_of_the_principal_components(store: Store) -> None:
    run = small_run(store)
    found = path_map(store, run)
    vectors = np.stack([vector(store, run, iteration) for iteration in found.iterations])
    centered = vectors - vectors.mean(0)
    sides, values, _ = np.linalg.svd(centered, full_matrices=False)
    assert found.explained == pytest.approx(float((values[:2] ** 2).sum() / (values**2).sum()), rel=1e-6)
    np.testing.assert_allclose(np.abs(found.path), np.abs(sides[:, :2] * values[:2]), rtol=1e-4, atol=1e-6)
    assert found.path[-1, 0] > found.path[0, 0]
    assert found.lengths[0] == pytest.approx(float(np.linalg.norm(vectors[-1] - vectors[0])), rel=1e-6)
    assert found.sampled is None


def test_arms_end_where_tasks_adapt_to(store: Store) -> None:
    run = small_run(store)
    found = path_map(store, run)
    start = learned_by(store, run)
    assert start is not None
    tasks = run.config.tasks.held_out(tasks=paths.TASKS, shots=run.config.shots, query_shots=1)
    phi = start.adapted(tasks, found.steps)
    changes = torch.cat([(phi[name] - start.parameters[name]).flatten(1) for name in phi], dim=1).double()
    assert found.lengths[1] == pytest.approx(float(changes.norm(dim=1).mean()), rel=1e-4)
    flat = np.linalg.norm(found.star["after"], axis=1)
    assert np.all(flat <= changes.norm(dim=1).numpy() * (1 + 1e-5))
    head = [*phi][-2:]
    moved = torch.cat([(phi[name] - start.parameters[name]).flatten(1) for name in head], dim=1).norm(dim=1).mean()
    size = torch.cat([start.parameters[name].reshape(-1) for name in head]).norm()
    assert found.layers == ["layer 1", "layer 2", "head"]
    assert found.moved["after"][-1] == pytest.approx(float(moved / size), rel=1e-4)


@pytest.mark.slow
def test_only_the_head_moves_by_anil(store: Store) -> None:
    found = path_map(store, small_run(store, "anil-10-shot"))
    assert found.moved["after"][:-1] == [0.0, 0.0]
    assert found.moved["after"][-1] > 0


def test_what_is_known_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(store)
    known = path_map(store, run)
    read = []

    def noted(store: Store, run: Run, iteration: int) -> Initialization | None:
        read.append(iteration)
        return learned_by(store, run, iteration)

    monkeypatch.setattr(paths, "learned_by", noted)
    again = path_map(store, run, known=known)
    assert sorted(read) == [0, 60]
    np.testing.assert_array_equal(again.path, known.path)


@pytest.mark.slow
def test_a_large_network_is_sampled_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SAMPLE", 50)
    monkeypatch.setattr(paths, "READ_LIMIT", 5 * 97)
    run = small_run(store)
    found = path_map(store, run)
    assert found.sampled == (50, 97)
    assert len(found.iterations) == 5
    assert (found.iterations[0], found.iterations[-1]) == (0, 60)
    assert "50 of 97 parameters" in found.sentence()


def test_one_checkpoint_is_no_path(store: Store) -> None:
    run = store.run(store.create_run(PRESETS["first-run"].config))
    with pytest.raises(StoreError, match="two checkpoints"):
        path_map(store, run)


def test_a_path_that_never_moved_can_be_drawn(store: Store) -> None:
    found = path_map(store, small_run(store, meta_lr=1e-30))
    assert found.explained == 1.0
    assert np.isfinite(found.path).all()
    for figure in (path_figure(found), star_figure(found), layers_figure(found)):
        assert figure["data"]


def test_layers_are_called_by_their_place_or_their_own_name() -> None:
    assert layer_names(["0.weight", "0.bias", "2.weight", "2.bias"]) == ["layer 1", "head"]
    assert layer_names(["body.weight", "body.bias", "scale"]) == ["body", "scale"]
    assert layer_names(["body.weight", "scale", "shift"]) == ["body", "network"]
