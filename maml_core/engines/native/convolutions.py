"""Convolutions as products of matrices: each patch of an image that a filter is laid on is a column."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from maml_core.engines.native.ir import Buffer, Shape, UnsupportedError, Value, contiguous, pointer
from maml_core.engines.native.writer import Writer, padded


@dataclass(frozen=True)
class Geometry:
    """Which pixels a filter's places see. Images of one row are what a convolution in one dimension takes."""

    image: Shape  # [images, channels, height, width]
    kernel: Shape  # [filters, channels, height, width]
    places: Shape  # of a filter on an image: how many below each other, and beside each other
    stride: Shape
    padding: Shape
    dilation: Shape

    @property
    def columns(self) -> Shape:
        """[channels x places in a filter, images x places of the filter]; filled up with zeros to whole vectors."""
        return math.prod(self.kernel[1:]), padded(self.image[0] * math.prod(self.places))

    def call(self, name: str, source: Buffer, target: Buffer) -> str:
        """A function of convolutions.h on these."""
        steps = self.stride, self.padding, self.dilation
        beside = (each[1] for each in (self.image[2:], self.kernel[2:], self.places, *steps))
        below = (each[0] for each in (self.image[2:], self.kernel[2:], self.places, *steps))
        patches = ", ".join(map(str, (*self.image[:2], *below, self.columns[1])))
        arrays = ", ".join(pointer(each.base, {}, each.offset) for each in (source, target))
        return f"{name}<{', '.join(map(str, beside))}>({arrays}, Patches{{{patches}}});"


def has_convolutions(model: nn.Module) -> bool:
    """Whether a network has any: its code is long, and takes a compiler long."""
    return any(isinstance(module, nn.modules.conv._ConvNd) for module in model.modules())


def convolution(
    write: Writer,
    x: Value,
    kernel: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    is_transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """aten.convolution: x [images, channels, ...], kernel [filters, channels, ...], bias [filters]."""
    dims = len(x.shape) - 2
    if len(x.shape) not in (3, 4):
        raise UnsupportedError("The native engine cannot lower a convolution of other than one or two dimensions.")
    image, filters = (value if dims == 2 else _row(write, value) for value in (x, kernel))
    steps = pair(stride, 1, dims), pair(padding, 0, dims), pair(dilation, 1, dims)
    sizes = image.shape[2:], filters.shape[2:], *steps
    parts = []
    for part, own in zip(_split(write, image, 1, groups), _split(write, filters, 0, groups), strict=True):
        if is_transposed:
            whole = part.shape[0], own.shape[1], *_image_sizes(*sizes, pair(output_padding, 0, dims))
            parts.append(_to_image(write, part, own, Geometry(whole, own.shape, part.shape[2:], *steps)))
        else:
            parts.append(_forward(write, part, own, Geometry(part.shape, own.shape, places(*sizes), *steps)))
    found = _joined(write, parts, 1)
    shape = found.shape if dims == 2 else (*found.shape[:2], found.shape[3])
    if bias is not None:  # along all places of an image at once
        rows = write.view(found, (*found.shape[:2], -1))
        found = write.pointwise(lambda y, b: f"({y} + {b})", rows, write.view(bias, (bias.count, 1)))
    return write.view(found, shape)


def convolution_backward(
    write: Writer,
    gradient: Value,
    x: Value,
    kernel: Value,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    is_transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> list[Value | None]:
    """aten.convolution_backward: the gradients of x, the kernel and the bias, those that `mask` asks for."""
    shapes, dims = (x.shape, kernel.shape), len(x.shape) - 2
    gradient = write.of(write.buffer(gradient), gradient.is_shared)  # since it is read up to three times
    if dims == 1:
        gradient, x, kernel = (_row(write, value) for value in (gradient, x, kernel))
    steps = pair(stride, 1, dims), pair(padding, 0, dims), pair(dilation, 1, dims)
    images, kernels = [], []
    split = [_split(write, value, dim, groups) for value, dim in ((gradient, 1), (x, 1), (kernel, 0))]
    for back, part, own in zip(*split, strict=True):
        # A transposed convolution is the way back of one from its output to its input.
        small, large = (part, back) if is_transposed else (back, part)
        geometry = Geometry(large.shape, own.shape, small.shape[2:], *steps)
        if mask[0]:
            images.append(
                _forward(write, back, own, geometry) if is_transposed else _to_image(write, back, own, geometry)
            )
        if mask[1]:
            kernels.append(_to_kernel(write, small, large, geometry))
    found: list[Value | None] = [None, None, None]
    if mask[0]:
        found[0] = write.view(_joined(write, images, 1), shapes[0])
    if mask[1]:
        found[1] = write.view(_joined(write, kernels, 0), shapes[1])
    if mask[2]:
        found[2] = write.reduce(write.view(gradient, (*gradient.shape[:2], -1)), [0, 2], False)
    return found


def _row(write: Writer, value: Value) -> Value:
    """Something of one dimension as an image of one row."""
    return write.view(value, (*value.shape[:2], 1, value.shape[2]))


def pair(given: Sequence[int], fill: int, dims: int) -> Shape:
    """For both dimensions of an image, whose rows are all that there is of one dimension."""
    whole = tuple(given) * dims if len(given) == 1 else tuple(given)
    return whole if dims == 2 else (fill, *whole)


def _split(write: Writer, value: Value, dim: int, groups: int) -> list[Value]:
    size = value.shape[dim] // groups
    return [value] if groups == 1 else [write.narrow(value, dim, size * k, size) for k in range(groups)]


def _joined(write: Writer, parts: Sequence[Value], dim: int) -> Value:
    return parts[0] if len(parts) == 1 else write.concatenate(parts, dim)


def places(image: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """That a filter has on an image."""
    return tuple(
        (size + 2 * p - d * (reach - 1) - 1) // s + 1
        for size, reach, s, p, d in zip(image, kernel, stride, padding, dilation, strict=True)
    )


def _image_sizes(places: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, extra: Shape) -> Shape:
    """Of the image that a transposed convolution makes."""
    return tuple(
        (count - 1) * s - 2 * p + d * (reach - 1) + e + 1
        for count, reach, s, p, d, e in zip(places, kernel, stride, padding, dilation, extra, strict=True)
    )


def _forward(write: Writer, x: Value, kernel: Value, geometry: Geometry) -> Value:
    """[images, channels, ...] to [images, filters, ...]."""
    filters, images = kernel.shape[0], x.shape[0]
    by_pixel = write.matmul(
        write.view(kernel, (filters, geometry.columns[0])), _unfolded(write, x, geometry), used_once=False
    )
    count = math.prod(geometry.places)
    found = write.view(write.narrow(by_pixel, 1, 0, images * count), (filters, images, count))
    return write.view(write.permute(found, (1, 0, 2)), (images, filters, *geometry.places))


def _to_image(write: Writer, gradient: Value, kernel: Value, geometry: Geometry) -> Value:
    """[images, filters, ...] to [images, channels, ...]."""
    matrix = write.permute(write.view(kernel, (kernel.shape[0], geometry.columns[0])), (1, 0))
    columns = write.matmul(matrix, _by_filter(write, gradient), used_once=False)
    image = write.new(geometry.image)
    write.uses_convolutions = True
    write.emit(False, geometry.call("fold", _in_order(write, columns), image), image.base)
    return write.of(image)


def _to_kernel(write: Writer, gradient: Value, x: Value, geometry: Geometry) -> Value:
    """[images, filters, ...] and [images, channels, ...] to [filters, channels, ...]."""
    columns = write.permute(_unfolded(write, x, geometry), (1, 0))
    return write.view(write.matmul(_by_filter(write, gradient), columns, used_once=False), geometry.kernel)


def _by_filter(write: Writer, gradient: Value) -> Value:
    """[images, filters, ...] as a matrix [filters, images x places], filled up as the columns are."""
    source = write.buffer(gradient)

    def make() -> Buffer:
        images, filters, *sizes = source.shape
        count = math.prod(sizes)
        matrix = write.new((filters, padded(images * count)))
        width = matrix.shape[1]
        own = Buffer(matrix.base, (filters, images, count), (width, count, 1), matrix.offset)
        rest = matrix.part(1, range(images * count, width))
        write.store_into(write.permute(write.view(write.of(source), (images, filters, count)), (1, 0, 2)), own)
        write.store_into(write.constant(rest.shape, 0.0), rest)
        return matrix

    return write.of(write.once(("by filter", source), make))


def _unfolded(write: Writer, x: Value, geometry: Geometry) -> Value:
    """The matrix of an image's patches, made once for the way there and the way back."""
    source = _in_order(write, x)

    def make() -> Buffer:
        columns = write.new(geometry.columns, x.is_shared)
        write.uses_convolutions = True
        write.emit(x.is_shared, geometry.call("unfold", source, columns), columns.base)
        return columns

    return write.of(write.once((geometry, source), make), x.is_shared)


def _in_order(write: Writer, value: Value) -> Buffer:
    """A value in memory, one element after the other."""
    buffer = write.buffer(value)

    def make() -> Buffer:
        copy = write.new(buffer.shape, value.is_shared)
        write.store_into(write.of(buffer, value.is_shared), copy)
        return copy

    return buffer if buffer.strides == contiguous(buffer.shape) else write.once(("in order", buffer), make)
