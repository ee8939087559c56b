"""Each fault is found in a run made to have it, its remedy mends it, and presets have none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.functional import hessian
from torch.func import functional_call

from maml_core.config import RunConfig
from maml_core.evaluation.diagnosis import diagnose
from maml_core.learning.curvature import curvature
from maml_core.learning.layout import Flat
from maml_core.presets import PRESETS
from maml_core.store.store import Store
from tests.levels import levels
from tests.trained import trained

FIRST, PAPER = PRESETS["first-run"].config, PRESETS["paper-10-shot"].config
FAULTS: dict[str, tuple[str, RunConfig, dict[str, Any]]] = {
    "diverged": ("diverged", PAPER, {"inner_lr": 0.2, "inner_steps": 5, "meta_iterations": 1000}),
    "clipped": ("clipped", FIRST, {"clip_norm": 1e-3, "meta_iterations": 1000}),
    "flat": ("flat", FIRST, {"meta_lr": 1e-6, "meta_iterations": 2000}),
    "inner rate too small": ("nothing", FIRST, {"inner_lr": 1e-5, "meta_iterations": 2000}),
    "all tasks alike": (
        "nothing", FIRST, {"tasks.amplitude": [2, 2], "tasks.phase": [0, 0], "meta_iterations": 3000},
    ),
    "drift": ("drift", PAPER, {"inner_lr": 0.03, "inner_steps": 5, "clip_norm": 1, "meta_iterations": 30_000}),
    "overshoot": ("overshoot", PAPER, {"inner_lr": 0.2, "meta_lr": 0.003, "clip_norm": 1, "meta_iterations": 3000}),
}  # fmt: skip  # one fault a line


@pytest.mark.parametrize("fault", levels(FAULTS, [], ["diverged", "inner rate too small"]))
def test_a_fault_is_found_and_its_remedy_mends_it(fault: str, store: Store) -> None:
    kind, base, settings = FAULTS[fault]
    config = base.with_settings(settings)
    found = diagnose(store, trained(store, config))
    assert found is not None
    assert found.kind == kind
    assert any(digit in found.sentence for digit in "0123456789")  # the figure that it rests on
    assert found.remedy
    assert all(name in found.advice for name in found.remedy)
    after = diagnose(store, trained(store, config.with_settings(found.remedy)))
    assert after is None or after.kind != kind


def test_a_run_that_has_just_begun_is_not_judged(store: Store) -> None:
    assert diagnose(store, trained(store, FIRST.with_settings({"meta_iterations": 20, "meta_lr": 1e-9}))) is None
    assert diagnose(store, store.run(store.create_run(FIRST))) is None


@pytest.mark.parametrize("preset", levels(PRESETS, [], ["linear"]))
def test_presets_have_no_fault(preset: str, store: Store) -> None:
    config = PRESETS[preset].config
    assert diagnose(store, trained(store, config)) is None


LEARNED = ("fo-meta-sgd", "fo-meta-curvature")


@pytest.mark.parametrize("algorithm", levels(["fomaml", "anil", *LEARNED], ["anil", *LEARNED], ["fomaml"]))
def test_curvature_is_the_largest_eigenvalue_of_what_adapts(algorithm: str) -> None:
    config = RunConfig.from_dict({"model": {"kind": "mlp", "hidden_sizes": [5], "activation": "tanh"}})
    config = config.with_settings({"algorithm": algorithm})
    untrained, generator = config.untrained(), torch.Generator().manual_seed(1)
    learned = {k: v + 0.3 * torch.rand(v.shape, generator=generator) for k, v in untrained.extras.items()}
    start = replace(untrained, extras=learned)
    tasks = config.tasks.held_out(tasks=3, shots=10, query_shots=1)
    adapts = start.algorithm.begin(start.theta).parameters
    shaped = Flat({name: value.shape for name, value in adapts.items()})
    for found, x, y in zip(curvature(start, tasks, iterations=400), tasks.support_x, tasks.support_y, strict=True):

        def loss(flat: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            values = shaped.to_file(flat)
            predicted: torch.Tensor = functional_call(start.model, {**start.parameters, **values}, (x,))
            return (predicted - y).square().mean()

        directions = torch.eye(shaped.size).unbind()
        moves = [start.algorithm.move(start.theta, shaped.to_file(each), 1.0) for each in directions]
        transform = torch.stack([shaped.from_file(move) for move in moves], dim=1)
        largest = torch.linalg.eigvals(transform @ hessian(loss, shaped.from_file(adapts))).abs().max()
        torch.testing.assert_close(found, largest, rtol=1e-2, atol=1e-4)
