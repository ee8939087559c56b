"""Factors that all points share are taken out of sums over them, and only there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maml_core.engines import tracing
from maml_core.engines.native.rewriting import without_shared_factors
from tests.core.native_cases import Compiled

aten = torch.ops.aten


def passed_back(gradient: Tensor, activity: Tensor) -> Tensor:
    """Through a ReLU."""
    found: Tensor = aten.threshold_backward(gradient, activity, 0)
    return found


def loss(x: Tensor, y: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """Of a network with one hidden layer and one output, or several."""
    return ((torch.relu(x @ w.T + b) @ v.T - y) ** 2).mean()


def gradients(x: Tensor, y: Tensor, *weights: Tensor) -> Tensor:
    found = torch.func.grad(lambda *w: loss(x, y, *w), argnums=(0, 1, 2))(*weights)
    return torch.cat([part.reshape(-1) for part in found])


def numbers(points: int, inputs: int, units: int, outputs: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(points * units)
    sizes = [(points, inputs), (points, outputs), (units, inputs), (units,), (outputs, units)]
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def rewritten(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[tracing.Trace, bool]:
    """The trace, and whether anything in it was changed; what it gives is what it gave, in any case."""
    trace = tracing.trace(function, *inputs)
    before = [str(node.target) for node in trace.graph.nodes]
    expected = function(*inputs)
    without_shared_factors(trace.graph)
    trace.graph.lint()
    torch.testing.assert_close(trace(*inputs), expected, rtol=1e-11, atol=1e-12)
    return trace, [str(node.target) for node in trace.graph.nodes] != before


SHAPES = [(10, 1, 64, 1), (1, 1, 3, 1), (7, 2, 5, 1), (20, 3, 17, 1), (2, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_last_weights_are_no_longer_within_the_sums(shape: tuple[int, int, int, int]) -> None:
    trace, is_changed = rewritten(gradients, numbers(*shape))
    assert is_changed
    kept = [node for node in trace.graph.nodes if node.target is aten.threshold_backward.default]
    assert kept
    assert all(node.args[0].target is aten.expand.default for node in kept)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled([(gradients, numbers(*shape)) for shape in SHAPES])


@pytest.mark.parametrize("number", range(len(SHAPES)))
def test_native_code_gives_what_torch_gives(compiled: Compiled, number: int) -> None:
    torch.testing.assert_close(compiled.run(number), compiled.expected(number), rtol=1e-11, atol=1e-12)


def test_several_outputs_have_no_factor_in_common() -> None:
    assert not rewritten(gradients, numbers(6, 1, 5, 2))[1]


def test_what_is_passed_on_to_earlier_units_keeps_it() -> None:
    def deep(x: Tensor, y: Tensor, w: Tensor, b: Tensor, v: Tensor, first: Tensor) -> Tensor:
        found = torch.func.grad(lambda u: loss(torch.relu(x @ u.T), y, w, b, v))(first)
        grad: Tensor = found.reshape(-1)
        return grad

    inputs = numbers(6, 4, 5, 1)
    inputs[0] = torch.randn(6, 1, dtype=torch.float64)
    assert not rewritten(deep, [*inputs, torch.randn(4, 1, dtype=torch.float64)])[1]


def test_a_gradient_that_is_wanted_itself_keeps_it() -> None:
    def right(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        passed = passed_back((2 * g) @ w, torch.relu(h))
        return passed.sum(0, keepdim=True) + (passed.t() @ h).sum()

    def both(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        passed = passed_back((2 * g) @ w, torch.relu(h))
        return torch.cat([passed, passed.sum(0, keepdim=True)])

    def outer_too(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        outer = (2 * g) @ w
        return passed_back(outer, torch.relu(h)).sum(0, keepdim=True) + outer

    def other_way(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        return passed_back((2 * g) @ w, torch.relu(h)).sum(1, keepdim=True)

    def with_itself(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        passed = passed_back((2 * g) @ w, torch.relu(h))
        return passed.t() @ passed

    def in_another_type(g: Tensor, w: Tensor, h: Tensor) -> Tensor:
        return passed_back((2 * g) @ w, torch.relu(h)).sum([0], dtype=torch.float64)

    inputs = [torch.randn(size, dtype=torch.float64) for size in ((6, 1), (1, 5), (6, 5))]
    assert rewritten(right, inputs)[1]
    for function in (both, outer_too, other_way, with_itself, in_another_type):
        assert not rewritten(function, inputs)[1]


def test_sums_over_what_is_chosen_are_torchs_with_any_numbers() -> None:
    """One instruction adds, or does not: a zero is never added to what is not a number, nor taken for one."""

    def chosen(gradient: Tensor, activity: Tensor) -> Tensor:
        return passed_back(gradient, activity).sum(0)

    odd = [0.0, -0.0, 1.5, -2.0, torch.inf, -torch.inf, torch.nan, 1e-310]
    generator = torch.Generator().manual_seed(0)
    cases = []
    for shape in ((5, 40), (3, 9), (8, 16)):
        picks = [torch.randint(len(odd), shape, generator=generator) for _ in range(2)]
        cases.append((chosen, [torch.tensor(odd, dtype=torch.float64)[pick] for pick in picks]))
    made = Compiled(cases)
    for number in range(len(cases)):
        torch.testing.assert_close(made.run(number), made.expected(number), equal_nan=True, rtol=1e-12, atol=0)
