"""A function's operations, noted once and done again on other inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from maml_core.engines.tracing import trace
from tests.conftest import at_once

X, Y = torch.linspace(-1, 1, 6).view(2, 3), torch.linspace(2, 3, 6).view(2, 3)


class Pair(NamedTuple):
    left: dict[str, Tensor]
    right: Tensor | None


def names_in(traced: Any) -> list[str]:
    return [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]


def test_a_trace_gives_for_other_inputs_what_the_function_gives() -> None:
    def function(pair: Pair, x: Tensor) -> tuple[Pair, Tensor]:
        gradient = vmap(grad(lambda row: (row.sin() * pair.left["a"]).sum()))(x)
        first, second = gradient.split(1)
        return Pair({"b": first + second}, None), x

    traced = trace(function, Pair({"a": X[0]}, None), X)
    given = Pair({"a": Y[1]}, None), Y
    (pair, same), (expected, _) = traced(*given), function(*given)
    torch.testing.assert_close(pair.left["b"], expected.left["b"], rtol=0, atol=0)
    assert isinstance(pair, Pair)
    assert pair.right is None
    assert same is Y


def test_what_is_done_in_place_to_a_constant_does_not_last() -> None:
    def function(x: Tensor) -> Tensor:
        total = torch.tensor([1.0, 2.0, 3.0])
        total += x.sum(0)
        return total * 2

    traced = trace(function, X)
    for _ in range(2):
        torch.testing.assert_close(traced(Y), function(Y), rtol=0, atol=0)


def test_what_nobody_asks_for_is_left_out_and_what_has_a_rule_is_taken_apart() -> None:
    silu = torch.ops.aten.silu.default
    rules = {silu: lambda x: x * torch.sigmoid(x)}
    traced = trace(lambda x: (x.exp(), torch.nn.functional.silu(x))[1], X, decompositions=rules)
    assert names_in(traced) == ["aten.sigmoid.default", "aten.mul.Tensor"]
    assert names_in(trace(torch.nn.functional.silu, X)) == ["aten.silu.default"]
    torch.testing.assert_close(traced(Y), torch.nn.functional.silu(Y))


def test_a_tensor_from_elsewhere_is_kept_and_shapes_are_noted() -> None:
    traced = trace(lambda x: x @ Y.T, X)
    assert [str(node.target) for node in traced.graph.nodes if node.op == "get_attr"] == ["constant_0"]
    assert [node.meta["shape"] for node in traced.graph.nodes if node.op == "call_function"][-1] == (2, 2)
    torch.testing.assert_close(traced(Y), Y @ Y.T)


def test_threads_trace_at_once() -> None:
    found: dict[int, list[str]] = {}

    def act(number: int) -> None:
        for _ in range(20):
            found[number] = names_in(trace(lambda x: x.sin() if number % 2 else x.cos(), X))

    at_once(4, act)
    assert found == {n: ["aten.sin.default" if n % 2 else "aten.cos.default"] for n in range(4)}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / x.abs().max().item(),
        lambda x: x if x.mean() > 0 else -x,
        lambda x: x * float((x @ torch.ones(3)).sum()),
        lambda x: grad(lambda v: (v * v.detach().norm().item()).sum())(x),
    ],
)
def test_a_number_that_would_stay_what_it_is_now_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="differs from call to call"):
        trace(function, X)


def test_a_number_of_a_constant_may_be_asked_for() -> None:
    scale = torch.tensor(3.0)
    traced = trace(lambda x: x * scale.item() * torch.ones(2).sum().item(), X)
    torch.testing.assert_close(traced(Y), Y * 6)


def test_one_tensor_given_twice_is_two_inputs() -> None:
    traced = trace(lambda a, b: a - 2 * b, X, X)
    torch.testing.assert_close(traced(X, Y), X - 2 * Y)
