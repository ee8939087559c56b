"""The table of operations that can be lowered, one function per family.

An entry takes the writer and the operation's arguments, tensors as values, and gives its result as a value, or as a
list of them. What is not in the table is taken apart by torch's own decompositions first, and refused if that does not
help.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from maml_core.engines.native.convolutions import convolution, convolution_backward
from maml_core.engines.native.ir import Buffer, UnsupportedError, Value
from maml_core.engines.native.writer import Writer

aten = torch.ops.aten
prims = torch.ops.prims

Lowering = Callable[..., Any]
OPERATIONS: dict[Any, Lowering] = {}
"""How each operation is lowered."""
VIEWS: set[Any] = set()
"""Those of them that compute nothing."""
CONSTANT_FILLS: dict[Any, float | None] = {
    aten.zeros_like.default: 0.0,
    aten.empty_like.default: 0.0,  # what it holds is written before it is read
    aten.ones_like.default: 1.0,
    aten.zeros.default: 0.0,
    aten.ones.default: 1.0,
    aten.new_zeros.default: 0.0,
    aten.new_ones.default: 1.0,
    aten.full.default: None,
    aten.full_like.default: None,
    aten.fill.Scalar: None,
}
"""Tensors of one number, which depend on no other tensor's values; None: the number is the second argument."""
CONSTANT_TENSORS: dict[Any, Callable[..., torch.Tensor]] = {
    aten.arange.start: torch.arange,
    aten.eye.default: torch.eye,
}
"""Tensors that depend on no other, by what makes them."""
PRODUCTS = (aten.mm.default, aten.addmm.default)
"""Lowered apart, since how often their result is used decides whether they are fused."""


def _enter(*targets: Any, is_view: bool = False) -> Callable[[Lowering], Lowering]:
    def entered(lowering: Lowering) -> Lowering:
        for target in targets:
            OPERATIONS[target] = lowering
            if is_view:
                VIEWS.add(target)
        return lowering

    return entered


# Arithmetic ----------------------------------------------------------------------------------------------------


@_enter(aten.add.Tensor, aten.add.Scalar, prims.add.default)
def _add(write: Writer, a: Value, b: Any, alpha: float = 1) -> Value:
    if all(isinstance(x, Value) and x.is_boolean for x in (a, b)):
        return write.pointwise(lambda x, y: f"({x} | {y})", a, b, is_boolean=True)
    return write.pointwise(lambda x, y: f"({x} + {y})", _as_number(write, a), _scaled(write, b, alpha))


@_enter(aten.sub.Tensor, aten.sub.Scalar, prims.sub.default)
def _sub(write: Writer, a: Value, b: Any, alpha: float = 1) -> Value:
    return write.pointwise(lambda x, y: f"({x} - {y})", _as_number(write, a), _scaled(write, b, alpha))


@_enter(aten.rsub.Scalar)
def _rsub(write: Writer, a: Value, b: Any, alpha: float = 1) -> Value:
    return write.pointwise(lambda x, y: f"({y} - {x})", _scaled(write, a, alpha), b)


def _scaled(write: Writer, value: Any, factor: float) -> Any:
    value = _as_number(write, value)
    return value if factor == 1 else write.pointwise(lambda x, y: f"({x} * {y})", value, factor)


@_enter(aten.mul.Tensor, aten.mul.Scalar, prims.mul.default)
def _mul(write: Writer, a: Any, b: Any) -> Value:
    if all(isinstance(x, Value) and x.is_boolean for x in (a, b)):
        return write.pointwise(lambda x, y: f"({x} & {y})", a, b, is_boolean=True)
    return write.pointwise(lambda x, y: f"({x} * {y})", _as_number(write, a), _as_number(write, b))


@_enter(aten.div.Tensor, aten.div.Scalar, prims.div.default)
def _div(write: Writer, a: Any, b: Any) -> Value:
    return write.pointwise(lambda x, y: f"({x} / {y})", _as_number(write, a), b)


def _as_number(write: Writer, value: Any) -> Any:
    """Truth values as ones and zeros."""
    if isinstance(value, Value) and value.is_boolean:
        return write.pointwise(lambda x: f"sel({x}, T(1), T(0))", value)
    return value


_POWERS = {
    0: "(1 + 0 * {})",
    1: "{}",
    2: "square({})",
    3: "cube({})",
    4: "square(square({}))",
    5: "(square(square({0})) * {0})",
    6: "square(cube({}))",
    8: "square(square(square({})))",
    0.5: "root({})",
    -0.5: "(1 / root({}))",
    -1: "(1 / {})",
    -2: "(1 / square({}))",
}


@_enter(aten.pow.Tensor_Scalar)
def _pow(write: Writer, a: Value, exponent: float) -> Value:
    if exponent not in _POWERS:
        raise UnsupportedError(f"The native engine cannot lower a power of {exponent:g}.")
    return write.pointwise(_POWERS[exponent].format, a)


def _enter_unary(target: Any, expression: str) -> None:
    def lowering(write: Writer, a: Value) -> Value:
        return write.pointwise(expression.format, a)

    OPERATIONS[target] = lowering


for _target, _expression in (
    (aten.neg.default, "(-{})"),
    (aten.abs.default, "magnitude({})"),
    (aten.sqrt.default, "root({})"),
    (aten.rsqrt.default, "(1 / root({}))"),
    (aten.reciprocal.default, "(1 / {})"),
    (aten.relu.default, "relu({})"),
    (aten.sgn.default, "sel({0} > 0, T(1), sel({0} < 0, T(-1), T(0)))"),
    (aten.sign.default, "sel({0} > 0, T(1), sel({0} < 0, T(-1), T(0)))"),
):
    _enter_unary(_target, _expression)


# Functions that need a library ----------------------------------------------------------------------------------


def _enter_maths(target: Any, name: str) -> None:
    def lowering(write: Writer, a: Value) -> Value:
        write.uses_maths = True
        return write.pointwise(lambda x: f"maths_{name}({x})", a)

    OPERATIONS[target] = lowering


for _target, _name in (
    (aten.exp.default, "exp"),
    (aten.expm1.default, "expm1"),
    (aten.log.default, "log"),
    (aten.log1p.default, "log1p"),
    (aten.sin.default, "sin"),
    (aten.cos.default, "cos"),
    (aten.tanh.default, "tanh"),
    (aten.erf.default, "erf"),
    (aten.sigmoid.default, "sigmoid"),
    (aten.silu.default, "silu"),
):
    _enter_maths(_target, _name)


@_enter(aten.tanh_backward.default)
def _tanh_backward(write: Writer, gradient: Value, output: Value) -> Value:
    return write.pointwise(lambda g, y: f"({g} * (1 - square({y})))", gradient, output)


@_enter(aten.sigmoid_backward.default)
def _sigmoid_backward(write: Writer, gradient: Value, output: Value) -> Value:
    return write.pointwise(lambda g, y: f"sigmoid_backward({g}, {y})", gradient, output)


# Comparisons and choices ----------------------------------------------------------------------------------------


def _enter_comparison(symbol: str, *targets: Any) -> None:
    def lowering(write: Writer, a: Any, b: Any) -> Value:
        return write.pointwise(
            lambda x, y: f"({x} {symbol} {y})", _as_number(write, a), _as_number(write, b), is_boolean=True
        )

    for target in targets:
        OPERATIONS[target] = lowering


_enter_comparison("<", aten.lt.Scalar, aten.lt.Tensor, prims.lt.default)
_enter_comparison("<=", aten.le.Scalar, aten.le.Tensor, prims.le.default)
_enter_comparison(">", aten.gt.Scalar, aten.gt.Tensor, prims.gt.default)
_enter_comparison(">=", aten.ge.Scalar, aten.ge.Tensor, prims.ge.default)
_enter_comparison("==", aten.eq.Scalar, aten.eq.Tensor, prims.eq.default)
_enter_comparison("!=", aten.ne.Scalar, aten.ne.Tensor, prims.ne.default)


def _enter_logic(symbol: str, *targets: Any) -> None:
    def lowering(write: Writer, a: Value, b: Value) -> Value:
        if not (a.is_boolean and b.is_boolean):
            raise UnsupportedError("The native engine cannot lower bits of numbers.")
        return write.pointwise(lambda x, y: f"({x} {symbol} {y})", a, b, is_boolean=True)

    for target in targets:
        OPERATIONS[target] = lowering


_enter_logic("&", aten.logical_and.default, aten.bitwise_and.Tensor)
_enter_logic("|", aten.logical_or.default, aten.bitwise_or.Tensor)


@_enter(aten.logical_not.default, aten.bitwise_not.default, prims.bitwise_not.default)
def _not(write: Writer, a: Value) -> Value:
    if not a.is_boolean:
        raise UnsupportedError("The native engine cannot lower bits of numbers.")
    return write.pointwise("({} == 0)".format, a, is_boolean=True)


@_enter(aten.where.self, prims.where.default)
def _where(write: Writer, condition: Value, a: Any, b: Any) -> Value:
    if not condition.is_boolean:
        raise UnsupportedError("The native engine cannot lower a choice by numbers.")
    return write.pointwise(lambda c, x, y: f"sel({c}, {x}, {y})", condition, _as_number(write, a), _as_number(write, b))


@_enter(aten.threshold_backward.default)
def _threshold_backward(write: Writer, gradient: Value, a: Value, threshold: float) -> Value:
    found = write.pointwise(lambda g, x, t: f"sel({x} <= {t}, T(0), {g})", gradient, a, threshold)
    if gradient.shape == a.shape:
        found.choice = lambda index: f"{a.at(index)} <= {write.constant((), threshold).at(())}", gradient
    return found


@_enter(aten.clamp.default)
def _clamp(write: Writer, a: Value, low: Any = None, high: Any = None) -> Value:
    if low is not None:
        a = write.pointwise(lambda x, y: f"atleast({x}, {y})", a, low)
    if high is not None:
        a = write.pointwise(lambda x, y: f"atmost({x}, {y})", a, high)
    return a


@_enter(aten.maximum.default)
def _maximum(write: Writer, a: Value, b: Value) -> Value:
    return write.pointwise(lambda x, y: f"larger({x}, {y})", a, b)


@_enter(aten.minimum.default)
def _minimum(write: Writer, a: Value, b: Value) -> Value:
    return write.pointwise(lambda x, y: f"smaller({x}, {y})", a, b)


# Reductions -----------------------------------------------------------------------------------------------------


def _dims(a: Value, dims: Any) -> list[int]:
    if dims is None or dims == []:
        return list(range(len(a.shape)))
    return [dims] if isinstance(dims, int) else list(dims)


@_enter(aten.sum.default, aten.sum.dim_IntList, prims.sum.default)
def _sum(write: Writer, a: Value, dims: Any = None, keepdim: bool = False) -> Value:
    return write.reduce(_as_number(write, a), _dims(a, dims), keepdim)


@_enter(aten.mean.default, aten.mean.dim)
def _mean(write: Writer, a: Value, dims: Any = None, keepdim: bool = False) -> Value:
    over = _dims(a, dims)
    return write.reduce(a, over, keepdim, scale=1 / math.prod(a.shape[d] for d in over))


@_enter(aten.var.correction, prims.var.default)
def _var(write: Writer, a: Value, dims: Any = None, correction: float = 1, keepdim: bool = False) -> Value:
    over = _dims(a, dims)
    count = math.prod(a.shape[d] for d in over)
    mean = write.store(write.reduce(a, over, True, scale=1 / count))
    square = write.pointwise(lambda x, m: f"square({x} - {m})", a, mean)
    return write.reduce(square, over, keepdim, scale=1 / max(count - correction, 1e-30))


@_enter(aten.linalg_vector_norm.default)
def _norm(write: Writer, a: Value, order: float = 2, dims: Any = None, keepdim: bool = False) -> Value:
    if order != 2:
        raise UnsupportedError("The native engine cannot lower a norm other than the Euclidean.")
    return write.reduce(write.pointwise("square({})".format, a), _dims(a, dims), keepdim, after="root({})")


@_enter(aten.amax.default)
def _amax(write: Writer, a: Value, dims: Sequence[int] = (), keepdim: bool = False) -> Value:
    over = _dims(a, list(dims))
    if len(over) != 1:
        raise UnsupportedError("The native engine cannot lower a largest value over several dimensions.")
    return write.largest(_as_number(write, a), over[0], keepdim)


@_enter(aten.mse_loss.default)
def _mse_loss(write: Writer, a: Value, b: Value, reduction: int = 1) -> Value:
    square = write.pointwise(lambda x, y: f"square({x} - {y})", a, b)
    if reduction == 0:
        return square
    return write.reduce(square, range(len(square.shape)), False, scale=1 / square.count if reduction == 1 else 1.0)


@_enter(aten.mse_loss_backward.default)
def _mse_loss_backward(write: Writer, gradient: Value, a: Value, b: Value, reduction: int = 1) -> Value:
    count = math.prod(torch.broadcast_shapes(a.shape, b.shape)) if reduction == 1 else 1
    return write.pointwise(lambda x, y, g, f: f"({f} * ({x} - {y}) * {g})", a, b, gradient, 2 / count)


# Linear systems -------------------------------------------------------------------------------------------------


@_enter(aten._linalg_solve_ex.default)
def _solve(write: Writer, a: Value, b: Value, *, left: bool = True, check_errors: bool = False) -> list[Value | None]:
    if not left or len(a.shape) != 2:
        raise UnsupportedError("The native engine cannot lower a batch of linear systems, or one solved from the left.")
    return [write.solve(a, b), None, None, None]  # what it is factored into is asked for by nothing in the table


@_enter(aten._linalg_check_errors.default)
def _check_errors(write: Writer, *_: Any) -> None:
    """Nothing: what has no solution is infinite, and ends a run as diverged."""


@_enter(aten.diagonal_backward.default)
def _diagonal_backward(
    write: Writer, gradient: Value, sizes: Sequence[int], offset: int, one: int, other: int
) -> Value:
    _check_main_diagonal(sizes, offset)
    identity = write.constants(torch.eye(sizes[0]))
    return write.pointwise(lambda x, y: f"({x} * {y})", identity, gradient)


def _check_main_diagonal(shape: Sequence[int], offset: int) -> None:
    if offset or len(shape) != 2 or shape[0] != shape[1]:
        raise UnsupportedError("The native engine cannot lower a diagonal other than a square matrix's main one.")


# Convolutions ---------------------------------------------------------------------------------------------------

OPERATIONS |= {aten.convolution.default: convolution, aten.convolution_backward.default: convolution_backward}


# Views ----------------------------------------------------------------------------------------------------------


@_enter(aten.view.default, aten._unsafe_view.default, aten.reshape.default, is_view=True)
def _view(write: Writer, a: Value, shape: Sequence[int]) -> Value:
    return write.view(a, shape)


@_enter(aten.t.default, is_view=True)
def _t(write: Writer, a: Value) -> Value:
    return write.permute(a, (1, 0)) if len(a.shape) == 2 else a


@_enter(aten.transpose.int, is_view=True)
def _transpose(write: Writer, a: Value, one: int, other: int) -> Value:
    order = list(range(len(a.shape)))
    order[one], order[other] = order[other], order[one]
    return write.permute(a, order)


@_enter(aten.permute.default, is_view=True)
def _permute(write: Writer, a: Value, order: Sequence[int]) -> Value:
    return write.permute(a, order)


@_enter(aten.expand.default, is_view=True)
def _expand(write: Writer, a: Value, shape: Sequence[int], implicit: bool = False) -> Value:
    return write.expand(a, shape)


@_enter(prims.broadcast_in_dim.default, is_view=True)
def _broadcast_in_dim(write: Writer, a: Value, shape: Sequence[int], dims: Sequence[int]) -> Value:
    ones = [a.shape[list(dims).index(d)] if d in dims else 1 for d in range(len(shape))]
    return write.expand(write.view(a, ones), shape)


@_enter(aten.unsqueeze.default, is_view=True)
def _unsqueeze(write: Writer, a: Value, dim: int) -> Value:
    dim %= len(a.shape) + 1
    return write.view(a, (*a.shape[:dim], 1, *a.shape[dim:]))


@_enter(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, is_view=True)
def _squeeze(write: Writer, a: Value, dims: Any = None) -> Value:
    over = [d % max(1, len(a.shape)) for d in _dims(a, dims)]
    return write.view(a, [size for d, size in enumerate(a.shape) if size != 1 or d not in over])


@_enter(aten.select.int, is_view=True)
def _select(write: Writer, a: Value, dim: int, position: int) -> Value:
    dim %= len(a.shape)
    one = write.narrow(a, dim, position % a.shape[dim], 1)
    return write.view(one, a.shape[:dim] + a.shape[dim + 1 :])


@_enter(aten.slice.Tensor, is_view=True)
def _slice(write: Writer, a: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    dim %= len(a.shape)
    places = range(*slice(start, end, step).indices(a.shape[dim]))
    if step == 1:
        return write.narrow(a, dim, places.start, len(places))
    return write.of(write.buffer(a).part(dim, places), a.is_shared)


@_enter(aten.diagonal.default, is_view=True)
def _diagonal(write: Writer, a: Value, offset: int = 0, one: int = 0, other: int = 1) -> Value:
    _check_main_diagonal(a.shape, offset)
    return write.diagonal(a)


@_enter(aten.split_with_sizes.default, is_view=True)
def _split_with_sizes(write: Writer, a: Value, sizes: Sequence[int], dim: int = 0) -> list[Value]:
    return [write.narrow(a, dim, sum(sizes[:i]), size) for i, size in enumerate(sizes)]


@_enter(aten.split.Tensor, is_view=True)
def _split(write: Writer, a: Value, size: int, dim: int = 0) -> list[Value]:
    return [write.narrow(a, dim, at, min(size, a.shape[dim] - at)) for at in range(0, a.shape[dim], size)]


@_enter(aten.unbind.int, is_view=True)
def _unbind(write: Writer, a: Value, dim: int = 0) -> list[Value]:
    return [_select(write, a, dim, position) for position in range(a.shape[dim])]


@_enter(operator.getitem, is_view=True)
def _getitem(write: Writer, values: Sequence[Value], position: int) -> Value:
    return values[position]


@_enter(
    aten.alias.default,
    aten.detach.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    prims.convert_element_type.default,
    is_view=True,
)
def _same(write: Writer, a: Value, *_: Any) -> Value:
    return a


# Joining --------------------------------------------------------------------------------------------------------


@_enter(aten.cat.default)
def _cat(write: Writer, values: Sequence[Value], dim: int = 0) -> Value:
    return write.concatenate([value for value in values if value.count], dim)


@_enter(aten.stack.default)
def _stack(write: Writer, values: Sequence[Value], dim: int = 0) -> Value:
    return write.concatenate([_unsqueeze(write, value, dim) for value in values], dim % (len(values[0].shape) + 1))


@_enter(aten.constant_pad_nd.default)
def _pad(write: Writer, a: Value, sizes: Sequence[int], fill: float = 0.0) -> Value:
    amounts = [(0, 0)] * (len(a.shape) - len(sizes) // 2) + list(zip(sizes[-2::-2], sizes[::-2], strict=True))
    whole = write.new(tuple(size + sum(amount) for size, amount in zip(a.shape, amounts, strict=True)))
    inner = whole
    for dim, (before, after) in enumerate(amounts):
        start = max(0, -before)
        a = write.narrow(a, dim, start, a.shape[dim] - start - max(0, -after))
        inner = inner.part(dim, range(max(0, before), max(0, before) + a.shape[dim]))
    return _amid(write, whole, inner, a, fill)


@_enter(aten.slice_backward.default)
def _slice_backward(
    write: Writer, gradient: Value, sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Value:
    whole = write.new(tuple(sizes))
    places = range(*slice(start, end, step).indices(sizes[dim]))
    return _amid(write, whole, whole.part(dim % len(sizes), places), gradient, 0.0)


@_enter(aten.select_backward.default)
def _select_backward(write: Writer, gradient: Value, sizes: Sequence[int], dim: int, position: int) -> Value:
    dim, position = dim % len(sizes), position % sizes[dim]
    found: Value = _slice_backward(write, _unsqueeze(write, gradient, dim), sizes, dim, position, position + 1, 1)
    return found


def _amid(write: Writer, whole: Buffer, inner: Buffer, a: Value, fill: float) -> Value:
    """`a` at its place in what is otherwise `fill`."""
    if inner.shape != whole.shape:
        write.store_into(write.constant(whole.shape, fill), whole)
    write.store_into(a, inner)
    return write.of(whole)


@_enter(aten.scalar_tensor.default)
def _scalar_tensor(write: Writer, value: float) -> Value:
    return write.constant((), value)
