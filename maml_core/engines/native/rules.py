"""How operations are taken apart that torch has no rule for, or one that writes in place."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from maml_core.engines.native.convolutions import pair, places
from maml_core.engines.native.ir import UnsupportedError

aten = torch.ops.aten


def _group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    points: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """aten.native_group_norm; torch's own rule for it writes in place."""
    parts = x.reshape(count, groups, -1)
    mean = parts.mean(-1, keepdim=True)
    rate = ((parts - mean).square().mean(-1, keepdim=True) + eps).rsqrt()
    found = ((parts - mean) * rate).reshape(count, channels, points)
    if weight is not None:
        found = found * weight[:, None]
    if bias is not None:
        found = found + bias[:, None]
    return found.reshape(x.shape), mean[:, :, 0], rate[:, :, 0]


def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """aten.argmax: the first of the largest, as a number; there is no telling which where one is not a number."""
    if dim is None:
        found = _argmax(x.reshape(-1), 0)
        return found.reshape([1] * x.ndim) if keepdim else found
    count = x.shape[dim]
    before = -torch.arange(0, count, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1 - dim % x.ndim))
    is_largest = x >= x.amax(dim, keepdim=True)
    return -torch.where(is_largest, before, -float(count)).amax(dim, keepdim=keepdim)


def _amin(x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """aten.amin."""
    return -(-x).amax(list(dims), keepdim)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """aten.bmm: a product for each, as there are few in one task."""
    return torch.stack([left @ right for left, right in zip(a.unbind(), b.unbind(), strict=True)])


# Pooling --------------------------------------------------------------------------------------------------------

Pair = Sequence[int]


class _Pool:
    """The windows of images `[..., height, width]`: for each place within a window, what all windows have there."""

    def __init__(self, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, rounds_up: bool) -> None:
        if rounds_up:
            raise UnsupportedError("The native engine cannot lower pooling with ceil_mode.")
        kernel, padding, dilation = (pair(each, 0, 2) for each in (kernel, padding, dilation))
        stride = pair(stride, 0, 2) if stride else kernel
        self.sizes, self.padding = x.shape, padding
        self.padded = [*x.shape[:-2], *(size + 2 * each for size, each in zip(x.shape[-2:], padding, strict=True))]
        counts = places(x.shape[-2:], kernel, stride, padding, dilation)
        self.places = [
            [(d * i, d * i + (count - 1) * s + 1, s) for i in range(reach)]
            for reach, count, s, d in zip(kernel, counts, stride, dilation, strict=True)
        ]

    def split(self, x: Tensor, fill: float) -> list[Tensor]:
        """What the windows have at each of their places; beyond the image `fill`."""
        down, across = self.padding
        whole = torch.nn.functional.pad(x, (across, across, down, down), value=fill) if down or across else x
        high, wide = self.places
        return [whole[..., slice(*rows), slice(*columns)] for rows in high for columns in wide]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The other way: sums of what the windows have for each pixel."""
        high, wide = self.places
        windows = [(rows, columns) for rows in high for columns in wide]
        sizes = [*self.padded[:-1], parts[0].shape[-1]]
        found: list[Any] = []
        for part, (rows, columns) in zip(parts, windows, strict=True):
            tall = aten.slice_backward.default(part, sizes, part.ndim - 2, *rows)
            found.append(aten.slice_backward.default(tall, self.padded, part.ndim - 1, *columns))
        down, across = self.padding
        height, width = self.sizes[-2:]
        whole: Tensor = sum(found)
        return whole[..., down : down + height, across : across + width]


def _max_pool(
    x: Tensor, kernel: Pair, stride: Pair = (), padding: Pair = (0,), dilation: Pair = (1,), rounds_up: bool = False
) -> tuple[Tensor, Tensor]:
    """aten.max_pool2d_with_indices; where the largest were is not said."""
    found = reduce(torch.maximum, _Pool(x, kernel, stride, padding, dilation, rounds_up).split(x, -float("inf")))
    return found, torch.full_like(found, float("nan"))


def _max_pool_backward(
    gradient: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, rounds_up: bool, _: Tensor
) -> Tensor:
    """aten.max_pool2d_with_indices_backward: to the first of the largest in each window."""
    pool = _Pool(x, kernel, stride, padding, dilation, rounds_up)
    parts = pool.split(x, -float("inf"))
    largest, left, found = reduce(torch.maximum, parts), gradient, []
    for part in parts:
        found.append(torch.where(part == largest, left, 0.0))
        left = torch.where(part == largest, 0.0, left)
    return pool.join(found)


def _mean_pool(
    x: Tensor,
    kernel: Pair,
    stride: Pair = (),
    padding: Pair = (0,),
    rounds_up: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """aten.avg_pool2d."""
    parts = _mean_windows(x, kernel, stride, padding, rounds_up, counts_padding).split(x, 0.0)
    return reduce(torch.add, parts) * (1 / (divisor or len(parts)))


def _mean_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    rounds_up: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Tensor:
    """aten.avg_pool2d_backward."""
    pool = _mean_windows(x, kernel, stride, padding, rounds_up, counts_padding)
    count = len(pool.places[0]) * len(pool.places[1])
    return pool.join([gradient * (1 / (divisor or count))] * count)


def _mean_windows(x: Tensor, kernel: Pair, stride: Pair, padding: Pair, rounds_up: bool, counts_padding: bool) -> _Pool:
    if any(padding) and not counts_padding:
        raise UnsupportedError("The native engine cannot lower a mean over what of a window lies within the image.")
    return _Pool(x, kernel, stride, padding, (1,), rounds_up)


def _wide_pool(x: Tensor, sizes: Pair) -> Tensor:
    """aten._adaptive_avg_pool2d, into so many windows as go into the image."""
    return _mean_pool(x, _wide_windows(x, sizes))


def _wide_pool_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """aten._adaptive_avg_pool2d_backward."""
    return _mean_pool_backward(gradient, x, _wide_windows(x, gradient.shape[-2:]), (), (0,), False, True, None)


def _wide_windows(x: Tensor, sizes: Pair) -> Pair:
    if any(size % count for size, count in zip(x.shape[-2:], sizes, strict=True)):
        raise UnsupportedError("The native engine cannot lower adaptive pooling into windows of several sizes.")
    return [size // count for size, count in zip(x.shape[-2:], sizes, strict=True)]


RULES: dict[Any, Callable[..., Any]] = {
    aten.native_group_norm.default: _group_norm,
    aten.argmax.default: _argmax,
    aten.amin.default: _amin,
    aten.bmm.default: _bmm,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    aten.avg_pool2d.default: _mean_pool,
    aten.avg_pool2d_backward.default: _mean_pool_backward,
    aten._adaptive_avg_pool2d.default: _wide_pool,
    aten._adaptive_avg_pool2d_backward.default: _wide_pool_backward,
}
