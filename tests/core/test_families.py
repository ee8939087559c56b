"""Every family: finite, the same function for support and query, and its own moments."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from maml_core.config import RunConfig
from maml_core.learning.families import GaussianProcess, Mixture
from maml_core.learning.generated import FunctionFamily
from maml_core.learning.models import MODELS
from maml_core.learning.tasks import (
    FAMILIES,
    Normal,
    TaskStream,
    Uniform,
    parse_family,
    seeded,
)
from maml_core.training.trainer import Trainer
from tests.levels import levels

FUNCTIONS = {name: cls for name, cls in FAMILIES.items() if issubclass(cls, FunctionFamily)}


def function_family(name: str, **settings: float) -> FunctionFamily:
    family = parse_family({"family": name, **settings})
    assert isinstance(family, FunctionFamily)
    return family


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), shots=st.integers(1, 7), query_shots=st.integers(1, 7))
def test_support_and_query_come_from_one_function(name: str, seed: int, shots: int, query_shots: int) -> None:
    """The batch that engines see, against the curves of the parameters drawn by a generator of the same seed."""
    family = function_family(name, noise=0.0)
    batch = family.sample_batch((5,), shots, query_shots, seeded(f"{seed}"), dtype=torch.float64)
    drawn = family.sample_parameters((5,), seeded(f"{seed}"))
    for x, y, points in (
        (batch.support_x, batch.support_y, shots),
        (batch.query_x, batch.query_y, query_shots),
    ):
        assert x.shape == y.shape == (5, points, 1)
        torch.testing.assert_close(family.curve(drawn, x), y)
        assert torch.isfinite(y).all()
        assert family.x.low <= float(x.min()) <= float(x.max()) <= family.x.high
    assert not torch.equal(batch.support_x[:, :1], batch.query_x[:, :1])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_family_varies_in_each_of_its_parameters(name: str) -> None:
    family = function_family(name, noise=0.0)
    generator = seeded("test")
    drawn = family.sample_parameters((20,), generator)
    assert family.sample_points(drawn, 15, generator)[1].std() > 0.05
    for parameter, dist in family.distributions.items():
        assert drawn[parameter].unique().numel() > 1 or dist.span[0] == dist.span[1]


numbers = st.floats(-1e3, 1e3, allow_nan=False)


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_drawn_parameters_keep_to_the_declared_ranges_and_moments(name: str, data: st.DataObject) -> None:
    ranges: dict[str, Uniform | Normal] = {}
    for parameter, declared in function_family(name).distributions.items():
        if isinstance(declared, Normal):
            ranges[parameter] = Normal(mean=data.draw(numbers), std=abs(data.draw(numbers)))
        else:
            low, high = sorted((data.draw(numbers), data.draw(numbers)))
            ranges[parameter] = Uniform(low=low, high=high)
    try:
        family = FUNCTIONS[name](**ranges)
    except ValidationError:  # a family may bound its own ranges: a kernel's length is positive
        family = function_family(name)
    count = 4000
    drawn = family.sample_parameters((count,), seeded(f"moments {data.draw(st.integers(0, 2**31))}"))
    for parameter, dist in family.distributions.items():
        values = drawn[parameter]
        if isinstance(dist, Normal):
            mean, std = dist.mean, dist.std
        else:
            mean, std = (dist.low + dist.high) / 2, (dist.high - dist.low) / math.sqrt(12)
            assert dist.low <= float(values.min()) <= float(values.max()) <= dist.high
        tolerance = 1e-9 * (1 + abs(mean))
        assert float(values.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(count) + tolerance)
        assert float(values.std()) == pytest.approx(std, abs=0.08 * std + tolerance)


@pytest.mark.parametrize("name", levels(FAMILIES, ["sine", "circles", "table"], ["navigation", "glyphs", "images"]))
def test_every_family_trains(name: str) -> None:
    settings = {"engine": "vectorized", "meta_iterations": 60, "meta_lr": 0.01, "clip_norm": 10.0}
    if FAMILIES[name].problem.calls > 1:
        settings |= {"shots": 4, "query_shots": 4, "meta_batch_size": 6, "meta_iterations": 20}
    if "size" in FAMILIES[name].model_fields:
        settings |= {"tasks": {"family": name, "size": 12}, "shots": 1, "query_shots": 2, "inner_steps": 1}
    config = RunConfig.from_dict({"tasks": {"family": name}} | settings)
    rows = [row for progress in Trainer(config).run() for row in progress.rows]
    first, last = (sum(row.pre_loss for row in part) / 10 for part in (rows[:10], rows[-10:]))
    assert math.isfinite(last)
    assert last < 1.2 * first


EVERY_MODEL = list(product(MODELS, ("relu", "sine")))


@pytest.mark.parametrize(
    ("kind", "activation"),
    levels(EVERY_MODEL, [("mlp", "relu")], [("conv", "relu"), ("fourier-mlp", "sine"), ("policy", "relu")]),
)
def test_every_model_trains(kind: str, activation: str) -> None:
    model = {"kind": kind} | ({"activation": activation} if "activation" in MODELS[kind].model_fields else {})
    settings = {"engine": "vectorized", "meta_iterations": 40, "meta_lr": 0.01}
    if MODELS[kind].is_policy:
        settings |= {"tasks": {"family": "navigation"}, "shots": 2, "query_shots": 2, "meta_iterations": 4}
    if kind == "conv":
        settings |= {"tasks": {"family": "glyphs", "size": 12}, "shots": 1, "query_shots": 1, "meta_iterations": 4}
    config = RunConfig.from_dict({"model": model} | settings)
    rows = [row for progress in Trainer(config).run() for row in progress.rows]
    assert all(math.isfinite(row.post_loss) for row in rows)


def test_a_gaussian_process_has_its_kernel() -> None:
    family = GaussianProcess()
    count = 20_000
    drawn = family.sample_parameters((count,), seeded("kernel"))
    drawn["length"], drawn["scale"] = torch.full((count,), 0.4).double(), torch.full((count,), 0.8).double()
    x = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)[None, :, None].expand(count, -1, -1)
    y = family.curve(drawn, x)[..., 0]
    found = (y[:, :1] * y).mean(0)
    expected = 0.64 * torch.exp(-(x[0, :, 0] ** 2) / (2 * 0.16))
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    assert abs(float(y.mean())) < 0.02


def test_the_family_of_the_readme_runs_as_it_stands() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = readme.split("```python\n")[1].split("```")[0]
    try:
        exec(code, {"__name__": "readme"})
        config = RunConfig.from_dict({"tasks": {"family": "cubic"}, "engine": "vectorized", "meta_iterations": 20})
        assert [row for progress in Trainer(config).run() for row in progress.rows][-1].iteration == 20
    finally:
        FAMILIES.pop("cubic", None)


def test_a_mixture_holds_all_its_families() -> None:
    stream = TaskStream(Mixture(), meta_batch_size=500, shots=3, query_shots=3, seed=0)
    assert torch.isfinite(stream.take(0, 1).support_y).all()
    picked = Mixture().sample_parameters((500,), seeded("mixture"))["component"].floor().unique()
    assert picked.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
