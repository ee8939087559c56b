"""The intermediate form: a tensor as what it is at an index.

A graph of tensor operations is lowered to values. A `Value` says which C++ expression holds its element at an index;
nothing is computed until it is stored. So a chain of pointwise operations becomes one expression in one loop, and a
view costs nothing: it changes indices. What is used more than once, and what an operation needs in memory, is stored
into a `Buffer`: a name, a shape, strides and an offset.

An index has, for each dimension, a loop variable (or none) and a constant: `(("i0", 0), (None, 3))` is row i0 of
column 3. Loops are vectorized along one variable: an expression read along it is a vector of W elements, any other a
scalar, and C++ broadcasts the second to the first. A matrix product is a `Product` that keeps its elements in
registers; the pointwise operations that follow it are fused into the store of its result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maml_core.errors import EngineError

Place = tuple[str | None, int]
"""Where along one dimension: a loop variable, or none, plus a constant."""
Index = tuple[Place, ...]
Shape = tuple[int, ...]
ZERO: Place = (None, 0)


class UnsupportedError(EngineError):
    """An operation, or a form of one, that cannot be lowered."""


def contiguous(shape: Shape) -> Shape:
    """The strides of a tensor without gaps."""
    strides, count = [], 1
    for size in reversed(shape):
        strides.append(count)
        count *= size
    return tuple(reversed(strides))


def pointer(base: str, terms: dict[str, int], offset: int) -> str:
    """The C++ address that far from `base`."""
    ordered = sorted(terms.items(), key=lambda term: -term[1])  # the same address, the same text
    parts = [variable if stride == 1 else f"{variable} * {stride}" for variable, stride in ordered]
    return " + ".join([base, *parts, *([str(offset)] if offset else [])])


@dataclass(frozen=True)
class Buffer:
    """Numbers in memory."""

    base: str
    shape: Shape
    strides: Shape
    offset: int = 0

    @classmethod
    def at(cls, base: str, shape: Sequence[int], offset: int = 0) -> "Buffer":
        """A contiguous one."""
        return cls(base, tuple(shape), contiguous(tuple(shape)), offset)

    def part(self, dim: int, places: range) -> "Buffer":
        """Those places of one dimension."""
        shape = tuple(len(places) if d == dim else size for d, size in enumerate(self.shape))
        strides = tuple(stride * places.step if d == dim else stride for d, stride in enumerate(self.strides))
        return Buffer(self.base, shape, strides, self.offset + places.start * self.strides[dim])

    def address(self, index: Index) -> tuple[dict[str, int], int]:
        """How far each loop variable moves, and the constant rest."""
        terms: dict[str, int] = {}
        offset = self.offset
        for (variable, constant), stride, size in zip(index, self.strides, self.shape, strict=True):
            if size == 1:
                continue
            offset += constant * stride
            if variable is not None and stride:
                terms[variable] = terms.get(variable, 0) + stride
        return terms, offset

    def pointer(self, index: Index) -> str:
        """The C++ address of an element."""
        return pointer(self.base, *self.address(index))

    def element(self, index: Index) -> str:
        """The C++ expression of an element, as a scalar that can be assigned to."""
        terms, offset = self.address(index)
        return f"{self.base}[{pointer('0', terms, offset)}]".replace("[0 + ", "[")


@dataclass
class Product:
    """A matrix product that has not been stored yet: [m, k] times [k, n]."""

    left: Buffer
    right: Buffer
    m: int
    n: int
    k: int
    result: "Value | None" = None


@dataclass
class Value:
    """A tensor: what it is at an index, as a C++ expression."""

    shape: Shape
    at: Callable[[Index], str]
    constant: float | None = None
    buffer: Buffer | None = None
    is_shared: bool = False  # the same for all tasks of a meta-batch: computed once for all of them
    is_cheap: bool = False  # not worth storing, however often it is used
    is_boolean: bool = False
    product: Product | None = None  # this is the whole of that product
    follows: Product | None = None  # this is made from that product element by element, in its shape
    choice: "tuple[Callable[[Index], str], Value] | None" = None  # zero where that holds, else the other
    permuted: "tuple[Value, tuple[int, ...]] | None" = None  # what this is a permutation of, and its order

    @property
    def pending(self) -> Product | None:
        """A product that storing this value could be fused with."""
        found = self.product or self.follows
        return found if found is not None and found.result is None else None

    @property
    def count(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)
