"""The native engine: each operation against torch, random graphs, models of people's own, threads, the compiler."""

import dataclasses
import gc
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from maml_core.config import RunConfig
from maml_core.engines import MetaOptimizer, NativeEngine, VectorizedEngine, initial_state
from maml_core.engines.base import TrainingState
from maml_core.engines.native import toolchain, writer
from maml_core.engines.native.operations import OPERATIONS
from maml_core.engines.native.program import Program
from maml_core.engines.native.toolchain import Build, cache_folder, find_compiler, is_private
from maml_core.engines.native.training_loop import TrainingLoop
from maml_core.errors import EngineError
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.problems import Regression
from maml_core.learning.tasks import TaskBatch
from maml_core.presets import PRESETS
from maml_core.training.parts import make_engine, training_stream
from maml_core.training.trainer import Trainer
from tests.core.native_cases import ARM64, Cases, Compiled, Function, Lowered, run_on_arm64
from tests.core.starts import FOMAML
from tests.levels import levels

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _flat_gradient(function: Function, *inputs: Tensor) -> Tensor:
    """The gradients of a sum of squares of what a function gives, one after the other."""
    found = torch.func.grad(lambda *given: function(*given).square().sum(), tuple(range(len(inputs))))(*inputs)
    return torch.cat([each.reshape(-1) for each in found])


Case = tuple[Function, list[tuple[int, ...]]]
OPERATION_CASES: dict[str, Case] = {
    "add": (lambda a, b: a + b, [(3, 5), (3, 5)]),
    "add in place": (lambda a: (a * 2).add_(1), [(3, 5)]),
    "add in place, seen twice": (lambda a: next(b.add_(1) * b for b in (a * 2,)), [(3, 5)]),
    "add in place, through a view": (lambda a: next(b.t().add_(1).t() * b for b in (a * 2,)), [(3, 5)]),
    "compare in place": (lambda a: (a * 2).gt_(0) + 1, [(3, 5)]),
    "a number less a truth value": (lambda a: 1 - (a > 0).to(a.dtype) + (a > 1), [(3, 5)]),
    "power in place": (lambda a: (a * 2).pow_(2), [(3, 5)]),
    "add a row": (lambda a, b: a + b, [(3, 17), (17,)]),
    "add a column": (lambda a, b: a + b, [(3, 17), (3, 1)]),
    "add scaled": (lambda a, b: torch.add(a, b, alpha=3), [(4,), (4,)]),
    "subtract": (lambda a, b: a - b, [(2, 3, 4), (1, 3, 1)]),
    "subtract from a number": (lambda a: 2.5 - a, [(7,)]),
    "multiply": (lambda a, b: a * b, [(33,), (33,)]),
    "divide": (lambda a, b: a / (b * b + 1), [(5, 5), (5, 5)]),
    "powers": (lambda a: a**2 + a**3 + (a * a + 1) ** 0.5 + (a * a + 1) ** -0.5 + a**1, [(20,)]),
    "negative, absolute, root": (lambda a: -a + a.abs() + (a * a).sqrt() + (a * a + 1).rsqrt(), [(19,)]),
    "reciprocal": (lambda a: (a * a + 1).reciprocal(), [(9,)]),
    "relu and its gradient": (lambda a: torch.func.grad(lambda v: torch.relu(v).sum())(a) + torch.relu(a), [(40,)]),
    "exp": (lambda a: a.exp() + a.expm1(), [(37,)]),
    "log": (lambda a: (a * a + 0.1).log() + (a * a).log1p(), [(37,)]),
    "sin, cos": (lambda a: (3 * a).sin() + (3 * a).cos(), [(37,)]),
    "tanh": (lambda a: torch.func.grad(lambda v: torch.tanh(v).sum())(a) + a.tanh(), [(5, 9)]),
    "sigmoid": (lambda a: torch.func.grad(lambda v: torch.sigmoid(v).sum())(a) + a.sigmoid(), [(5, 9)]),
    "silu": (lambda a: torch.func.grad(lambda v: nn.functional.silu(v).sum())(a) + nn.functional.silu(a), [(45,)]),
    "gelu": (lambda a: torch.func.grad(lambda v: nn.functional.gelu(v).sum())(a) + nn.functional.gelu(a), [(45,)]),
    "softplus": (lambda a: torch.func.grad(lambda v: nn.functional.softplus(v).sum())(a), [(45,)]),
    "elu": (lambda a: torch.func.grad(lambda v: nn.functional.elu(v).sum())(a) + nn.functional.elu(a), [(45,)]),
    "erf": (lambda a: a.erf(), [(45,)]),
    "comparisons": (lambda a, b: torch.where((a < b) & (a > -1) | (b >= 1), a, 2 * b), [(6, 7), (7,)]),
    "equalities": (lambda a: torch.where((a.round(decimals=0) if False else a) == a, a, -a) + (a != 0) * a, [(6,)]),
    "clamp": (lambda a: a.clamp(-0.5, 0.5) + a.clamp(min=0) + a.clamp(max=0.1), [(50,)]),
    "maximum, minimum": (lambda a, b: torch.maximum(a, b) * torch.minimum(a, b), [(5, 6), (6,)]),
    "sum": (lambda a: a.sum(), [(3, 40)]),
    "sum over rows": (lambda a: a.sum(0), [(9, 40)]),
    "sum over columns": (lambda a: a.sum(-1, keepdim=True), [(9, 40)]),
    "sum over several": (lambda a: a.sum((0, 2)), [(3, 9, 5)]),
    "the first of the largest": (
        lambda a: a.argmax(-1, keepdim=True) * a + (a > 0).to(a.dtype).argmax(0) + a.argmax(), [(7, 4)],
    ),
    "convolution": (nn.functional.conv2d, [(2, 3, 7, 6), (4, 3, 3, 2), (4,)]),
    "convolution in one dimension": (
        lambda a, b: nn.functional.conv1d(a, b, stride=2, padding=2, dilation=3), [(2, 3, 17), (4, 3, 4)],
    ),
    "transposed convolution that reaches far": (
        lambda a, b: _flat_gradient(
            lambda x, w: nn.functional.conv_transpose1d(x, w, dilation=2, output_padding=1, groups=2), a, b
        ),
        [(3, 4, 5), (4, 2, 3)],
    ),
    "convolution by one number for both dimensions": (
        lambda a, b: torch.convolution(a, b, None, [2], [1], [1], False, [0], 1), [(1, 1, 5, 6), (1, 1, 2, 2)],
    ),
    "convolution of no images": (
        lambda a, b: nn.functional.conv2d(a, b).sum() + (a + 1).sum() + b, [(0, 2, 4, 4), (3, 2, 2, 2)],
    ),
    "convolution of one image": (lambda a, b: nn.functional.conv2d(a, b), [(3, 5, 5), (2, 3, 2, 2)]),
    "convolution of groups": (
        lambda a, b, c: torch.tanh(nn.functional.conv2d(a, b, c, stride=(2, 1), padding=(3, 1), groups=2)),
        [(3, 4, 6, 5), (6, 2, 3, 3), (6,)],
    ),
    "transposed convolution": (
        lambda a, b, c: nn.functional.conv_transpose2d(a, b, c, stride=2, padding=1, output_padding=1, groups=2),
        [(2, 4, 4, 3), (4, 3, 3, 3), (6,)],
    ),
    "convolution by a single filter": (
        lambda a, b: nn.functional.conv2d(a, b, padding=1), [(1, 1, 4, 4), (1, 1, 3, 3)],
    ),
    "gradients of a convolution": (
        lambda a, b, c: _flat_gradient(lambda x, w, v: nn.functional.conv2d(x, w, v, stride=2, padding=1), a, b, c),
        [(3, 2, 7, 7), (5, 2, 3, 3), (5,)],
    ),
    "gradients of a transposed convolution": (
        lambda a, b, c: _flat_gradient(lambda x, w, v: nn.functional.conv_transpose1d(x, w, v, stride=3), a, b, c),
        [(3, 2, 7), (2, 5, 4), (5,)],
    ),
    "gradients of a gradient of a convolution": (
        lambda a, b, c: _flat_gradient(
            lambda x, w, v: torch.func.grad(
                lambda z: torch.tanh(nn.functional.conv2d(x, z, v, stride=2, padding=1)).square().sum() / 50
            )(w), a, b, c
        ),
        [(3, 2, 7, 7), (5, 2, 3, 3), (5,)],
    ),
    "powers of a number": (lambda a: (a / 2)**4 + (a / 2)**5 + (a / 2)**6 + (a / 2)**8 + (a * a + 1) ** -2, [(20,)]),
    "signs": (lambda a: a.sign() * 2 + a.sgn() + torch.where(~(a > 0), a, 1), [(20,)]),
    "smallest": (lambda a: a.amin(0) + a.amin(-1, keepdim=True), [(5, 7)]),
    "products of several": (lambda a, b: torch.bmm(a, b), [(3, 4, 5), (3, 5, 2)]),
    "attention": (nn.functional.scaled_dot_product_attention, [(2, 5, 4), (2, 6, 4), (2, 6, 3)]),
    "every other": (lambda a: a[::2, 1::3] * 2, [(7, 9)]),
    "filled up": (lambda a: nn.functional.pad(a, (2, 1, -1, 3), value=0.5), [(4, 5, 3)]),
    "gradients of parts": (
        lambda a: _flat_gradient(lambda x: torch.cat([x[1:, ::2].reshape(-1), x[2] * 3, x[:, -1]]), a), [(5, 7)],
    ),
    "largest of windows": (lambda a: nn.functional.max_pool2d(a, 3, stride=2, padding=1), [(2, 3, 7, 8)]),
    "largest of windows in one dimension": (lambda a: nn.functional.max_pool1d(a, 2, dilation=2), [(2, 3, 9)]),
    "means of windows": (
        lambda a: nn.functional.avg_pool2d(a, (2, 3), padding=1)[..., :2, :2] + nn.functional.adaptive_avg_pool2d(a, 2),
        [(2, 3, 4, 6)],
    ),
    "gradients of windows": (
        lambda a: _flat_gradient(
            lambda x: torch.cat(
                [
                    nn.functional.max_pool2d(x.clamp(-0.5, 0.5), 2).reshape(-1),
                    nn.functional.avg_pool2d(x, 3, stride=1, padding=1).reshape(-1),
                    nn.functional.adaptive_avg_pool2d(x, (3, 1)).reshape(-1),
                ]
            ),
            a,
        ),
        [(2, 2, 6, 6)],
    ),
    "mean": (lambda a: a.mean(1) + a.mean(), [(7, 4)]),
    "variance": (lambda a: a.var(1) + a.var(1, correction=0), [(7, 12)]),
    "norm": (lambda a: torch.linalg.vector_norm(a) * a, [(70,)]),
    "softmax": (lambda a: torch.softmax(a, -1), [(5, 11)]),
    "mean squared error": (lambda a, b: torch.func.grad(nn.functional.mse_loss)(a, b), [(9, 1), (9, 1)]),
    "product": (lambda a, b: a @ b, [(10, 33), (33, 40)]),
    "product, odd sizes": (lambda a, b: a @ b + 1, [(13, 7), (7, 3)]),
    "product by a column": (lambda a, b: a @ b, [(10, 33), (33, 1)]),
    "product by a row": (lambda a, b: a @ b, [(1, 33), (33, 20)]),
    "outer product": (lambda a, b: a @ b, [(10, 1), (1, 33)]),
    "product of transposes": (lambda a, b: a.T @ b.T, [(9, 12), (20, 9)]),
    "product, bias, relu": (lambda a, b, c: torch.relu(a @ b + c), [(10, 12), (12, 40), (40,)]),
    "product used twice": (lambda a, b: (a @ b) + (a @ b).T.contiguous().T * 2, [(6, 5), (5, 6)]),
    "product read transposed": (lambda a, b: torch.tanh((a @ b).T), [(6, 5), (5, 8)]),
    "large product": (lambda a, b: (a @ b).mean(0), [(150, 150), (150, 160)]),  # near one, as the tolerance is for
    "views": (lambda a: a.reshape(4, 6).t().reshape(2, 12).unsqueeze(1).squeeze(1) * 2, [(2, 3, 4)]),
    "permute": (lambda a: a.permute(2, 0, 1) + 1, [(2, 3, 4)]),
    "expand": (lambda a: a.expand(3, 5, 4) * 1.5, [(5, 1)]),
    "select, slice, split": (lambda a: a[1] + a[0:1, :].squeeze(0) + a.split(1)[2].view(-1), [(3, 8)]),
    "unbind": (lambda a: a.unbind(1)[2] * a.unbind(0)[0].sum(), [(3, 8)]),
    "concatenate": (lambda a, b: torch.cat([a, 2 * b, a], dim=1), [(3, 4), (3, 2)]),
    "stack": (lambda a, b: torch.stack([a, b * 2], dim=1), [(3, 4), (3, 4)]),
    "fill": (lambda a: a + torch.zeros_like(a) + torch.full_like(a, 2.0) + torch.ones(3), [(3,)]),
    "constants": (lambda a: a * torch.arange(1, 6, dtype=a.dtype), [(2, 5)]),
    "layer norm": (lambda a: nn.functional.layer_norm(a, (12,)), [(5, 12)]),
    "diagonal": (lambda a: a.diagonal() + (a @ a).diagonal().mean(), [(6, 6)]),
    "gradient of a diagonal": (lambda a: torch.func.grad(lambda v: (v.diagonal() ** 2).sum())(a), [(5, 5)]),
    "identity": (lambda a: a + torch.eye(5), [(5, 5)]),
    "linear system": (lambda a, b: torch.linalg.solve(a, b), [(3, 3), (3, 4)]),
    "linear system of a vector": (lambda a, b: torch.linalg.solve(a @ a.T + torch.eye(6), b), [(6, 6), (6,)]),
    "gradient through a linear system": (
        lambda a, b: torch.func.grad(
            lambda v, w: (torch.linalg.solve(v @ v.T + torch.eye(9), w) ** 2).sum(), argnums=(0, 1)
        )(a, b)[0],
        [(9, 9), (9, 2)],
    ),
    "a number": (lambda a: a.sum() * 2 + 1, [(3,)]),
}  # fmt: skip  # a table


def operation_cases(dtype: torch.dtype) -> list[tuple[Function, list[Tensor]]]:
    """Each with numbers of its own."""
    return [
        (function, [numbers(shape, 7 * i + k, dtype) for k, shape in enumerate(shapes)])
        for i, (function, shapes) in enumerate(OPERATION_CASES.values())
    ]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def compiled(request: pytest.FixtureRequest) -> tuple[Compiled, torch.dtype]:
    return Compiled(operation_cases(request.param)), request.param


@pytest.mark.parametrize("number", range(len(OPERATION_CASES)), ids=list(OPERATION_CASES))
def test_an_operation_gives_what_torch_gives(compiled: tuple[Compiled, torch.dtype], number: int) -> None:
    native, dtype = compiled
    torch.testing.assert_close(
        native.run(number), native.expected(number), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_inputs_may_lie_in_memory_as_they_like() -> None:
    whole = numbers((6, 9), 1, torch.float32)
    strided, flipped = whole.t(), whole[:, ::2]
    cases: list[tuple[Function, list[Tensor]]] = [
        (lambda a, b: a @ b + 1, [strided, whole]),
        (lambda a: a * 2 + a.sum(0), [flipped]),
        (lambda a, b: torch.cat([a, b]), [flipped, flipped]),
        (lambda a: a.expand(4, 6), [numbers((6,), 2, torch.float32)]),
    ]
    native = Compiled(cases)
    for number in range(len(cases)):
        torch.testing.assert_close(native.run(number), native.expected(number), rtol=1e-5, atol=1e-5)


def test_a_linear_system_exchanges_rows_where_it_must_and_is_infinite_where_it_has_no_solution() -> None:
    turned = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0], [3.0, 1e-9, 1e-8]], dtype=torch.float64)
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    right = numbers((3, 2), 5, torch.float64)
    native = Compiled([(torch.linalg.solve, [turned, right])])
    torch.testing.assert_close(native.run(0), native.expected(0), rtol=1e-9, atol=1e-9)
    native = Compiled([(lambda a, b: torch.linalg.solve_ex(a, b).result, [singular, right[:2]])])
    assert not torch.isfinite(native.run(0)).any()


SPECIAL = [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-40, -1e-40, 3e38, 1e-30]
SPECIAL_CASES: list[Function] = [
    lambda a: a + 1, lambda a: a * a, lambda a: 1 / a, lambda a: torch.relu(a), lambda a: a.abs(), lambda a: a.sqrt(),
    lambda a: a.tanh(), lambda a: a.exp(), lambda a: a.sin(), lambda a: a.clamp(-1, 1), lambda a: a.sum(),
    lambda a: torch.maximum(a, a.flip(0) if False else a * 0), lambda a: torch.where(a < 0, -a, a), lambda a: a.mean(),
    lambda a: torch.sigmoid(a), lambda a: torch.amax(a, 0), lambda a: torch.func.grad(lambda v: torch.relu(v).sum())(a),
]  # fmt: skip  # a table


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_a_number_infinite_or_tiny_goes_the_same_way(dtype: torch.dtype) -> None:
    values = torch.tensor(SPECIAL * 3, dtype=dtype)
    native = Compiled([(function, [values]) for function in SPECIAL_CASES])
    for number in range(len(SPECIAL_CASES)):
        found, expected = native.run(number), native.expected(number)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)


# Random graphs: each step takes one or two earlier tensors, all of shape [rows, columns] once broadcast.
STEPS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - 0.5 * b, lambda a, b: torch.tanh(a) * b,
    lambda a, b: torch.relu(a) + b, lambda a, b: torch.where(a < b, a, b), lambda a, b: a - a.mean(0, keepdim=True),
    lambda a, b: a / (1 + b.square().sum(1, keepdim=True)), lambda a, b: (a @ b.T) @ b / a.shape[1],
    lambda a, b: torch.cat([a, b], dim=1)[:, : a.shape[1]], lambda a, b: a.T.reshape(a.shape),
    lambda a, b: (a.reshape(-1) * b.reshape(-1)).reshape(a.shape), lambda a, b: a.sin() + b.sum(),
    lambda a, b: a[:1] + b, lambda a, b: a[:, :1] * b, lambda a, b: torch.softmax(a, 1) + b * 0.1,
]  # fmt: skip  # a table
GRAPH = st.lists(
    st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


def graph_function(steps: list[tuple[int, int, int]]) -> Function:
    def function(a: Tensor, b: Tensor) -> Tensor:
        made = [a, b]
        for kind, left, right in steps:
            made.append(STEPS[kind](made[-1 - left % len(made)], made[-1 - right % len(made)]))
        return made[-1]

    return function


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
@given(graphs=st.lists(GRAPH, min_size=25, max_size=25), rows=st.integers(1, 12), columns=st.integers(1, 20))
def test_random_graphs_give_what_torch_gives(graphs: list[list[tuple[int, int, int]]], rows: int, columns: int) -> None:
    """Three hundred of them, twenty-five to a compilation; in float64, where rounding hides nothing."""
    inputs = [numbers((rows, columns), seed, torch.float64) for seed in (1, 2)]
    native = Compiled([(graph_function(steps), inputs) for steps in graphs])
    for number in range(len(graphs)):
        found, expected = native.run(number), native.expected(number)
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found / scale, expected / scale, rtol=1e-9, atol=1e-9)


def both_ways(cases: Cases) -> Iterator[tuple[Tensor, Tensor]]:
    """What the cases give, and what they would if every loop stood alone."""
    together = Compiled(cases, ["-O3"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "fused", lambda statements: [statement.text for statement in statements])
        apart = Compiled(cases, ["-O3"])
    yield from ((together.run(number), apart.run(number)) for number in range(len(cases)))


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],
)
@given(graphs=st.lists(GRAPH, min_size=25, max_size=25), rows=st.integers(2, 12), columns=st.integers(2, 70))
def test_no_bit_changes_by_loops_that_are_run_as_one(
    graphs: list[list[tuple[int, int, int]]], rows: int, columns: int
) -> None:
    inputs = [numbers((rows, columns), seed, torch.float32) for seed in (1, 2)]
    for together, apart in both_ways([(graph_function(steps), inputs) for steps in graphs]):
        torch.testing.assert_close(together, apart, rtol=0, atol=0, equal_nan=True)


def test_what_is_stored_is_rounded_though_it_is_read_in_the_same_loop() -> None:
    """The variance of equal numbers, as a difference: a product that were not rounded would leave less than nothing."""
    constant = torch.linspace(0.1, 7.3, 64).expand(20, 64).contiguous()

    def variance(x: Tensor) -> Tensor:
        return x.square().mean(0) - x.mean(0).square()

    ((together, apart),) = both_ways([(variance, [constant])])
    assert torch.equal(together, apart)


def test_every_entry_of_the_table_is_documented_by_its_family() -> None:
    assert len(OPERATIONS) > 70
    assert all(callable(lowering) for lowering in OPERATIONS.values())


# Models of people's own ----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.inside, self.out = nn.Linear(1, 12), nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.into(x))
        found: Tensor = self.out(h + torch.relu(self.inside(h)))
        return found


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(1, 8), nn.Linear(1, 8), nn.Linear(1, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2) / 8**0.5, -1)
        found: Tensor = self.out(weights @ self.v(x))
        return found


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.tanh(self.layer(x.T[None])).sum(1).T
        return found


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.heads, self.out = nn.Linear(1, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(x))
        found: Tensor = self.out(hidden + self.heads(hidden, hidden, hidden, need_weights=False)[0])
        return found


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(n)) for n in (9, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.sin(x * self.a + self.b) * self.c).sum(-1, keepdim=True)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(1, 7), nn.Linear(7, 1)
        self.out.weight = nn.Parameter(self.into.weight.detach().T.clone())
        self.shared = nn.Linear(7, 7)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.tanh(self.shared(torch.tanh(self.shared(torch.tanh(self.into(x)))))))
        return found


def stack(*inside: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 12), *inside, nn.Linear(12, 1))


OWN: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "attention": Attention,
    "attention of several heads": Heads,
    "convolution": Convolved,
    "convolution and pooling": lambda: nn.Sequential(
        nn.Linear(1, 16),
        nn.Unflatten(-1, (1, 4, 4)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(-3),
        nn.Linear(3, 1),
    ),
    "bare parameters": Bare,
    "a layer used twice": Tied,
    "layer norm": lambda: stack(nn.LayerNorm(12), nn.SiLU()),
    "rms norm": lambda: stack(nn.RMSNorm(12), nn.SiLU()),
    "group norm": lambda: stack(nn.GroupNorm(3, 12), nn.SiLU()),
    "weight norm": lambda: stack(weight_norm(nn.Linear(12, 12)), nn.Tanh()),
    "softplus": lambda: stack(nn.Softplus()),
    "gelu": lambda: stack(nn.GELU()),
    "elu": lambda: stack(nn.ELU()),
    "prelu": lambda: stack(nn.PReLU()),
    "leaky relu": lambda: stack(nn.LeakyReLU()),
    "mish": lambda: stack(nn.Mish()),
    "hard tanh": lambda: stack(nn.Hardtanh()),
}


def engines(
    model: nn.Module, steps: int, algorithm: str = "fomaml", **options: object
) -> tuple[NativeEngine, VectorizedEngine]:
    inner, optimizer = InnerLoop(0.02, steps), MetaOptimizer(0.01, **options)  # type: ignore[arg-type]
    parts = {"inner": inner, "meta_optimizer": optimizer, "algorithm": ALGORITHMS[algorithm]}
    return NativeEngine(model, **parts), VectorizedEngine(model, **parts)  # type: ignore[arg-type]


def some_tasks(
    count: int = 5, iterations: int = 4, features: int = 1, outputs: int = 1, dtype: torch.dtype = torch.float32
) -> TaskBatch:
    shapes = [(iterations, count, points, size) for points in (6, 4) for size in (features, outputs)]
    return TaskBatch(*(numbers(shape, seed, dtype) for seed, shape in enumerate(shapes)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # weight norm, in the vectorized engine
@pytest.mark.parametrize("name", levels(OWN, ["residual", "group norm", "convolution"], OWN))
def test_a_model_of_ones_own_gets_the_same_meta_gradient(name: str) -> None:
    torch.manual_seed(3)
    model = OWN[name]()
    native, vectorized = engines(model, 2)
    tasks, start = some_tasks(), initial_state(model, FOMAML)
    native.prepare(tasks.at(0))
    found = native.meta_gradient(start.parameters, tasks.at(0)).gradient
    expected = vectorized.meta_gradient(start.parameters, tasks.at(0)).gradient
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    rows, other_rows = native.run(start, tasks)[1], vectorized.run(start, tasks)[1]
    torch.testing.assert_close(rows, other_rows, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("algorithm", levels(ALGORITHMS, ["fomaml"], ["maml", "ridge-head", "fo-meta-curvature"]))
def test_convolutions_get_the_same_meta_gradient_by_any_algorithm(algorithm: str) -> None:
    torch.manual_seed(2)
    layers = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU()
    model = nn.Sequential(nn.Unflatten(-1, (1, 6, 6)), *layers, nn.Flatten(-3), nn.Linear(12, 2)).double()
    native, vectorized = engines(model, 1, algorithm)
    tasks = some_tasks(count=3, iterations=2, features=36, outputs=2, dtype=torch.float64)
    start = initial_state(model, ALGORITHMS[algorithm])
    found, expected = native.run(start, tasks)[0], vectorized.run(start, tasks)[0]
    for one, other in zip(found.vectors, expected.vectors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)
    native.close()


@pytest.mark.parametrize(
    ("algorithm", "features", "outputs"),
    levels(
        [("fomaml", 3, 1), ("fomaml", 1, 2), *((name, 4, 3) for name in ALGORITHMS)],
        [("maml", 4, 3)],
        [("fomaml", 1, 2), ("ridge-head", 4, 3)],
    ),
)
def test_any_number_of_inputs_and_outputs(algorithm: str, features: int, outputs: int) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(features, 9), nn.Tanh(), nn.Linear(9, outputs)).double()
    native, vectorized = engines(model, 2, algorithm, clip_norm=1.0, ema_decay=0.9, schedule="cosine", total=9)
    tasks = some_tasks(features=features, outputs=outputs, dtype=torch.float64)
    start = initial_state(model, ALGORITHMS[algorithm], averages=True)
    found, expected = native.run(start, tasks)[0], vectorized.run(start, tasks)[0]
    for one, other in zip(found.vectors, expected.vectors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    one_gradient = native.meta_gradient(start.parameters, tasks.at(0)).gradient
    torch.testing.assert_close(
        one_gradient, vectorized.meta_gradient(start.parameters, tasks.at(0)).gradient, rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    levels(
        [
            (name, steps)
            for name in ALGORITHMS
            for steps in (0, 1, 4)
            if not (ALGORITHMS[name].needs_steps and not steps)
        ],
        [("fomaml", 4), ("maml", 1)],
        [("fomaml", 0), ("ridge-head", 1), ("fo-meta-curvature", 4), ("anil", 4)],
    ),
)
def test_tasks_are_judged_as_by_a_whole_meta_gradient_on_any_number_of_points(algorithm: str, steps: int) -> None:
    torch.manual_seed(1)
    model = stack(nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
    native, vectorized = engines(model, steps, algorithm)
    native.judged_points = 9
    native.prepare(some_tasks().at(0))
    start = initial_state(model, ALGORITHMS[algorithm]).parameters
    shapes = [(7, points, 1) for points in (6, 6, 9, 9)]
    judged = TaskBatch(*(numbers(shape, seed, torch.float32) for seed, shape in enumerate(shapes)))
    expected = vectorized.meta_gradient(start, judged).post_loss
    torch.testing.assert_close(vectorized.query_loss(start, judged), expected, rtol=1e-6, atol=0)
    found = native.query_loss(start, judged)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    native.threads = 3
    assert torch.equal(native.query_loss(start, judged), found)
    native.close()


def test_a_loop_takes_no_state_that_it_was_not_made_for() -> None:
    native, _ = engines(stack(nn.ReLU()), 2, ema_decay=0.9)
    start, right = (initial_state(native.model, FOMAML, averages=averages) for averages in (False, True))
    shorter = right.parameters[:3].clone()
    others = [[*right.vectors[:k], shorter, *right.vectors[k + 1 :]] for k in range(4)]
    for state in (start, *(TrainingState.of(vectors, 0) for vectors in others)):
        with pytest.raises(EngineError, match="not made for such a state"):
            native.run(state, some_tasks())


def test_a_loop_judges_no_tasks_that_it_was_not_made_for() -> None:
    native, _ = engines(stack(nn.Tanh()), 1)
    start, judged = initial_state(native.model, FOMAML).parameters, some_tasks(iterations=1).at(0)
    with pytest.raises(EngineError, match="not made for judging such tasks"):
        native.query_loss(start, judged)
    native.prepare(judged)
    assert native.query_loss(start, judged).isfinite()
    native.judged_points = 3
    with pytest.raises(EngineError, match="not made for judging such tasks"):
        native.query_loss(start, judged._replace(query_x=judged.query_x[:, :3], query_y=judged.query_y[:, :3]))


ONE_OF_EACH = {
    (preset.config.algorithm, preset.config.model.kind): name
    for name, preset in PRESETS.items()
    if not preset.config.tasks.is_costly
}
"""A preset for each algorithm and each kind of network that presets have, but for those of costly tasks."""


@pytest.mark.parametrize(
    "preset",
    levels(ONE_OF_EACH.values(), [], [ONE_OF_EACH["reptile", "mlp"], ONE_OF_EACH["fo-meta-curvature", "mlp"]]),
)
def test_presets_start_as_in_the_vectorized_engine(preset: str) -> None:
    config = PRESETS[preset].config
    ends = []
    for name in ("native", "vectorized"):
        engine = make_engine(config, config.network(), name)
        start = initial_state(engine.model, engine.algorithm, averages=config.ema_decay is not None)
        ends.append(engine.run(start, training_stream(config).take(0, 5))[0].parameters)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", levels([1, 3, 25], [3], [1, 25]))
def test_any_number_of_threads_gives_the_same_bits(count: int) -> None:
    torch.manual_seed(1)
    model = stack(nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
    native, _ = engines(model, 3)
    tasks, start = some_tasks(count=count, iterations=40), initial_state(model, FOMAML)
    ends = []
    for threads in (1, 2, 3, 8):
        native.threads = threads
        ends.append(native.run(start, tasks))
    native.close()
    for state, rows in ends[1:]:
        assert torch.equal(state.parameters, ends[0][0].parameters)
        assert torch.equal(state.exp_avg_sq, ends[0][0].exp_avg_sq)
        assert torch.equal(rows, ends[0][1])


@pytest.mark.slow
def test_large_arrays_lie_on_the_heap_and_memory_does_not_grow_with_the_steps() -> None:
    model = nn.Sequential(nn.Linear(1, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 1))
    native, vectorized = engines(model, 2)
    tasks, start = some_tasks(iterations=2), initial_state(model, FOMAML)
    # Their gradients, since Adam turns the rounding of one that is nearly zero into a step of full size.
    loop, reference = native.run(start, tasks)[0].exp_avg, vectorized.run(start, tasks)[0].exp_avg
    torch.testing.assert_close(loop, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
    sizes = []
    for steps in (2, 200):
        made = TrainingLoop(
            model, FOMAML, Regression(), InnerLoop(0.01, steps), MetaOptimizer(0.01), tasks.at(0), torch.float32
        ).program()
        sizes.append((made.work, made.work_each, len(made.source)))
    assert sizes[0][:2] == sizes[1][:2]
    assert abs(sizes[0][2] - sizes[1][2]) < 10


# The compiler and the cache ------------------------------------------------------------------------------------


@pytest.fixture
def program(small_config: RunConfig) -> Program:
    tasks = training_stream(small_config).take(0, 1).at(0)
    return TrainingLoop(
        small_config.network(), FOMAML, Regression(), InnerLoop(0.01, 2), MetaOptimizer(0.01), tasks, torch.float32
    ).program()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache"  # with a space in its name
    monkeypatch.setenv("MAML_CACHE", str(folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


def test_code_is_kept_made_anew_when_damaged_and_never_trusted_from_an_open_folder(
    program: Program, cache: Path
) -> None:
    first = Build(program)
    first.load()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    (made,) = cache.glob("*.so")
    assert [path.name for path in cache.iterdir()] == [made.name]  # nothing half done is left
    again = Build(program)
    assert again._process is None
    again.load()
    other = dataclasses.replace(program, source=program.source + "// another one, which is not loaded yet\n")
    first = Build(other)
    first.cancel()
    first._path.write_bytes(b"not code")
    with pytest.raises(EngineError, match="cannot be loaded"):
        Build(other).load()
    assert not first._path.exists()
    Build(other).load()
    assert first._path.exists()
    cache.chmod(0o777)
    assert not is_private(cache)
    open_folder = Build(program)
    assert open_folder._process is not None
    open_folder.load()


def test_a_home_that_is_missing_or_closed_is_no_reason_to_stop(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAML_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    config = small_config.with_settings({"meta_iterations": 2000, "model.hidden_sizes": [11]})
    monkeypatch.setenv("HOME", str(blocked))
    trainer = Trainer(config)
    trainer.limit = 2
    list(trainer.run())
    assert trainer.state.iteration == 2
    assert trainer.notice == ""
    assert trainer.engine.status == "native"


def test_without_a_folder_to_keep_it_in_code_is_made_all_the_same(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for place in ("/proc/nowhere", str(tmp_path / "file")):  # cannot be made, whoever asks
        monkeypatch.setenv("MAML_CACHE", place)
        build = Build(program)
        assert build._process is not None
        build.load()
    spaced = tmp_path / "a b"
    spaced.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spaced))
    Build(program).load()
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    with pytest.raises(EngineError, match=r"cannot be made \(.*: /proc/making-.*; name a folder .* in MAML_CACHE"):
        Build(program)
    monkeypatch.setenv("MAML_CACHE", str(spaced / "cache"))  # as it says
    Build(program).load()


def test_the_compiler_that_is_named_is_the_one_that_is_used_or_the_reason(
    program: Program, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = find_compiler()
    assert found is not None
    place = tmp_path / "a b" / "g++"
    place.parent.mkdir()
    place.symlink_to(shutil.which(found[0]) or "")
    for chosen in (str(place), f"'{place}' -O1"):
        monkeypatch.setenv("CXX", chosen)
        Build(program).load()
    for chosen in ("/nonexistent/g++", "'"):
        monkeypatch.setenv("CXX", chosen)
        with pytest.raises(EngineError, match=r"CXX = .* is not a program here: unset it, or let it name one"):
            Build(program)


def test_the_cache_is_bounded(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    for number in range(5):
        path = cache / f"{number}.so"
        path.write_bytes(b"x")
        os.utime(path, (number, number))
    toolchain.prune(cache, "*.so", 3, toolchain.MAX_BYTES)
    assert sorted(path.name for path in cache.iterdir()) == ["2.so", "3.so", "4.so"]
    assert cache_folder() == cache


def test_a_build_that_is_forgotten_leaves_nothing(program: Program, cache: Path) -> None:
    """Whoever starts a loop and never asks for it, such as a run that is over at once, has no folder left behind."""
    build = Build(program)
    assert len(list(cache.iterdir())) == 1
    process = build._process
    assert process is not None
    del build
    gc.collect()
    assert list(cache.iterdir()) == []
    assert process.returncode is not None


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("width", ["-mno-avx", "-mno-avx512f", "-march=native"])
def test_each_width_of_vectors_gives_the_same_to_rounding(compiler: str, width: str) -> None:
    if shutil.which(compiler) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {compiler} on this machine")
    model = stack(nn.Tanh())
    cases: list[tuple[Function, list[Tensor]]] = [
        (
            lambda a, b: torch.tanh(a @ b) + a.sum(1, keepdim=True),
            [numbers((9, 13), 1, torch.float32), numbers((13, 21), 2, torch.float32)],
        ),
        (lambda a: torch.softmax(a, -1).T @ a, [numbers((9, 13), 3, torch.float32)]),
    ]
    assert model is not None
    extra = [width, "-USLEEF"] if width != "-march=native" else []
    native = Compiled(cases, extra, compiler)
    for number in range(len(cases)):
        torch.testing.assert_close(native.run(number), native.expected(number), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_operation_gives_on_arm64_what_torch_gives_here(dtype: torch.dtype) -> None:
    for program in ARM64:
        if shutil.which(program) is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {program} on this machine")
    lowered = Lowered(operation_cases(dtype))
    for number, found in enumerate(run_on_arm64(lowered, *ARM64)):
        torch.testing.assert_close(found, lowered.expected(number), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
