"""Writes values as C++: loops, reductions, matrix products."""

import math
from collections.abc import Callable, Hashable, Sequence

import torch

from maml_core.engines.native.ir import (
    ZERO,
    Buffer,
    Index,
    Place,
    Product,
    Shape,
    UnsupportedError,
    Value,
    contiguous,
    pointer,
)
from maml_core.engines.native.loops import LAMBDA, Loop, Nest, Statement, Total, fused, heads, with_shared_arrays

Expression = Callable[..., str]

STACK_NUMBERS = 2**14
"""An array of more numbers than this lies on the heap; so does every further one once the stack holds `STACK_TOTAL`."""
STACK_TOTAL = 2**16
WORTH_A_CALL = 2**14
"""Multiplications from which on a product is called where it is wanted, not written out there."""
_ALIGNMENT = 16  # numbers: the widest vector


def padded(count: int) -> int:
    """Room for `count` numbers such that what follows is aligned."""
    return -(-count // _ALIGNMENT) * _ALIGNMENT


class Writer:
    """The C++ of one program: functions of a task, and what they share."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self.lines: list[Statement | Nest] = []  # of the function being written
        self.prologue: list[Statement | Nest] = []  # run once for all tasks of a meta-batch
        self.statics: list[str] = []
        self.shared_size = 0  # numbers that the prologue leaves
        self.heap_size = 0  # numbers of a thread's large arrays
        self.uses_maths = False
        self.uses_convolutions = False
        self._names = 0
        self._stack = 0
        self._vector = "j"  # the loop variable that vectors run along
        self._current: Product | None = None  # the product whose store is being written
        self._moves: list[dict[str, int]] | None = None  # how far each loop variable moves in what is read
        self._made: dict[Hashable, Buffer] = {}

    @property
    def headers(self) -> list[str]:
        """What it takes beyond kernels.h."""
        asked = {"maths.h": self.uses_maths, "convolutions.h": self.uses_convolutions}
        return [name for name, is_used in asked.items() if is_used]

    def begin(self) -> None:
        """Begin another function: what it makes for itself is its own, what all tasks share stays."""
        self.lines, self._stack = [], 0
        self._made = {key: buffer for key, buffer in self._made.items() if buffer.base == "shared"}

    def body(self) -> str:
        """The function written since `begin`."""
        return "\n  ".join(with_shared_arrays(fused(self.lines)))

    def shared_body(self) -> str:
        """What is run once for all tasks of a meta-batch, written since the first `begin`."""
        return "\n  ".join(statement.text for statement in self.prologue)

    # Memory -----------------------------------------------------------------------------------------------------

    def name(self, prefix: str = "b") -> str:
        """A name that nothing has yet."""
        self._names += 1
        return f"{prefix}{self._names}"

    def new(self, shape: Shape, is_shared: bool = False) -> Buffer:
        """A buffer of this function, or one that all tasks share."""
        size = padded(math.prod(shape))
        if is_shared:
            self.shared_size += size
            return Buffer.at("shared", shape, self.shared_size - size)
        name = self.name()
        if size > STACK_NUMBERS or self._stack + size > STACK_TOTAL:
            self.emit(False, f"T* __restrict {name} = heap + {self.heap_size};")
            self.heap_size += size
        else:
            self.emit(False, f"alignas(64) T {name}[{size}];")
            self._stack += size
        return Buffer.at(name, shape)

    def once(self, key: Hashable, make: Callable[[], Buffer]) -> Buffer:
        """What `make` writes into a buffer, the first time that something of that key is asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def of(self, buffer: Buffer, is_shared: bool = False) -> Value:
        """What is in a buffer."""
        return Value(
            buffer.shape, lambda index: self._read(buffer, index), buffer=buffer, is_shared=is_shared, is_cheap=True
        )

    def constant(self, shape: Shape, value: float | bool) -> Value:
        """One number everywhere."""
        text = number(value)
        return Value(shape, lambda index: text, constant=float(value), is_shared=True, is_cheap=True)

    def constants(self, tensor: torch.Tensor) -> Value:
        """The numbers of a tensor that never changes."""
        name = self.name("k")
        values = ", ".join(number(value) for value in tensor.double().reshape(-1).tolist())
        self.statics.append(f"alignas(64) static const T {name}[{max(1, tensor.numel())}] = {{{values}}};")
        return self.of(Buffer.at(name, tensor.shape), is_shared=True)

    def _read(self, buffer: Buffer, index: Index) -> str:
        terms, _ = buffer.address(index)
        if self._moves is not None:
            self._moves.append(terms)
        stride = terms.get(self._vector, 0)
        if not stride:
            return buffer.element(index)
        return f"ld<W>({buffer.pointer(index)})" if stride == 1 else f"gather<W, {stride}>({buffer.pointer(index)})"

    def emit(self, is_shared: bool, statement: Nest | str, *writes: str) -> None:
        """Add a statement, which writes such arrays, to the prologue or to the function."""
        made = Statement(statement, frozenset(writes)) if isinstance(statement, str) else statement
        (self.prologue if is_shared else self.lines).append(made)

    # Storing ----------------------------------------------------------------------------------------------------

    def buffer(self, value: Value) -> Buffer:
        """`value` in memory."""
        if value.buffer is not None:
            return value.buffer
        if value.product is not None and value.product.result is not None and value.product.result.buffer is not None:
            return value.product.result.buffer
        stored = self.store(value)
        if stored.buffer is None:
            raise UnsupportedError("The native engine cannot lower a single number where numbers in memory are needed.")
        return stored.buffer

    def store(self, value: Value) -> Value:
        """Compute `value` now, and return what it was stored as."""
        if value.is_boolean:
            return value  # truth values are computed again wherever they are used: they have no place in memory
        if not value.shape:
            name = self.name("s")
            self.emit(False, f"const T {name} = {self._scalar(value, ())};")
            return Value((), lambda index: name, is_cheap=True)
        buffer = self.new(value.shape, value.is_shared)
        self.store_into(value, buffer)
        return self.of(buffer, value.is_shared)

    def store_into(self, value: Value, target: Buffer, *, adds: bool = False) -> None:
        """Compute `value` into `target`, or add it to what is there."""
        if value.is_boolean:
            raise UnsupportedError("The native engine cannot lower truth values as a result.")
        if not value.count or self._fused(value, target, adds):
            return
        is_shared = value.is_shared and target.base == "shared"
        dims = [d for d, size in enumerate(value.shape) if size > 1]
        along = dims[-1] if dims and target.strides[dims[-1]] == 1 else None
        index: list[Place] = [ZERO] * len(value.shape)
        for d in dims:
            index[d] = (f"i{d}", 0)
        around = _loops([d for d in dims if d != along], value.shape)
        if along is None:
            assign = f"{target.element(tuple(index))} {'+=' if adds else '='} {self._scalar(value, tuple(index))};"
            self.emit(is_shared, f"{heads(around)}{{ constexpr int W = 1; (void)W; {assign} }}", target.base)
            return
        index[along] = ("j", 0)
        length, merged = value.shape[along], self._in_a_row(value, target, index) if len(dims) > 2 else 0
        for d in dims[len(dims) - 1 - merged : -1]:
            index[d], length = ZERO, length * value.shape[d]
        expression = value.at(tuple(index))
        where = target.pointer(tuple(index))
        if adds:
            expression = f"ld<W>({where}) + {expression}"
        store = f"st<W>({where}, {expression}); "
        written = frozenset({target.base})
        around = around[: len(around) - merged]
        self.emit(is_shared, Nest(around, length, written, each=(store,), stored=(where,)))

    def _in_a_row(self, value: Value, target: Buffer, index: Sequence[Place]) -> int:
        """Over how many dimensions before the last one all that is read and written goes on where it left off."""
        moves = [target.address(tuple(index))[0]]
        before, self._moves = self._moves, moves
        value.at(tuple(index))
        self._moves = before
        dims = [d for d, size in enumerate(value.shape) if size > 1]
        length = 1
        for merged, (d, inner) in enumerate(zip(reversed(dims[:-1]), reversed(dims[1:]), strict=True)):
            length *= value.shape[inner]
            if any(move.get(f"i{d}", 0) != length * move.get("j", 0) for move in moves):
                return merged
        return len(dims) - 1

    def _scalar(self, value: Value, index: Index) -> str:
        """The expression of one element where no vectors are about."""
        before, self._vector = self._vector, ""
        try:
            return value.at(index)
        finally:
            self._vector = before

    def _fused(self, value: Value, target: Buffer, adds: bool) -> bool:
        """Store a product together with the pointwise operations after it, if that can be done."""
        product = value.pending
        if product is None or value.shape != (product.m, product.n) or target.strides[1] != 1:
            return False
        self._current = product
        expression = value.at((("i", 0), ("j", 0)))
        is_fused, self._current = self._current is product, None
        if is_fused:
            self._multiply(product, target, expression, adds)
        return is_fused

    # Pointwise --------------------------------------------------------------------------------------------------

    def pointwise(
        self, make: Expression, *operands: Value | float, shape: Shape | None = None, is_boolean: bool = False
    ) -> Value:
        """A value whose elements are made from those of the operands, broadcast against each other."""
        values = [operand if isinstance(operand, Value) else self.constant((), operand) for operand in operands]
        whole = tuple(torch.broadcast_shapes(*(value.shape for value in values))) if shape is None else shape

        def at(index: Index) -> str:
            return make(*(value.at(_within(value.shape, index)) for value in values))

        pending = [value.pending for value in values if value.pending is not None and value.shape == whole]
        return Value(
            whole,
            at,
            is_shared=all(value.is_shared for value in values),
            is_boolean=is_boolean,
            follows=pending[0] if pending else None,
        )

    # Reductions -------------------------------------------------------------------------------------------------

    def reduce(
        self, value: Value, dims: Sequence[int], keepdim: bool, *, scale: float = 1.0, after: str = "{}"
    ) -> Value:
        """The sum over `dims`, times `scale`, put into the C++ expression `after`."""
        shape = value.shape
        over = sorted({d % len(shape) for d in dims}) if shape else []
        out = tuple(1 if d in over else size for d, size in enumerate(shape))
        final = out if keepdim else tuple(size for d, size in enumerate(shape) if d not in over)
        if not value.count:
            return self.constant(final, 0.0)
        kept = [d for d in range(len(shape)) if d not in over and shape[d] > 1]
        gone = [d for d in over if shape[d] > 1]

        def finished(total: str) -> str:
            return after.format(total if scale == 1.0 else f"({number(scale)} * ({total}))")

        if not gone:
            return self.view(self.pointwise(finished, value, shape=out), final)

        def along(d: int) -> tuple[list[Place], str]:
            index: list[Place] = [ZERO] * len(shape)
            for other in kept + gone:
                index[other] = (f"i{other}", 0)
            index[d] = ("j", 0)
            return index, value.at(tuple(index))

        # Vectors run along the dimension with the fewest scattered reads, rather a kept one than a summed one.
        vector = max(kept + gone, key=lambda d: (-along(d)[1].count("gather<"), d in kept and shape[d] >= 8, d))
        index, expression = along(vector)
        if vector in kept:
            buffer = self.new(out, value.is_shared)
            where, name = buffer.pointer(tuple(index)), self.name("s")
            adding = f"{name} += bc<W>({expression}); "
            if value.choice is not None:  # one instruction where processors have masks
                is_zero, other = value.choice
                adding = f"{name} = sel({is_zero(tuple(index))}, {name}, {name} + bc<W>({other.at(tuple(index))})); "
            nest = Nest(
                _loops([d for d in kept if d != vector], shape),
                shape[vector],
                frozenset({buffer.base}),
                inner=_loops(gone, shape),
                each=(adding,),
                sums=(name,),
                after=(f"st<W>({where}, {finished(name)}); ",),
                kept=(where,),
            )
            self.emit(value.is_shared, nest)
            return self.view(self.of(buffer, value.is_shared), final)
        inner = _loops([d for d in gone if d != vector], shape)
        if kept:
            buffer = self.new(out, value.is_shared)
            index[vector] = ZERO
            name, written, result = "s", {buffer.base}, f"{buffer.element(tuple(index))} = {finished('s')};"
            found = self.of(buffer, value.is_shared)
        else:
            name, written = self.name("s"), set()
            result, found = f"{name} = {finished(name)};", Value(out, lambda index: name, is_cheap=True)
        is_shared = value.is_shared and bool(kept)
        if inner:
            total = f"vsum<{shape[vector]}>({LAMBDA}return bc<W>({expression}); }})"
            text = f"T {name} = 0; {heads(inner)}{name} += {total}; {result}"
            self.emit(is_shared, f"{heads(_loops(kept, shape))}{{ {text} }}" if kept else text, *written)
        else:
            along_vectors = Total(expression, result, None if kept else name)
            self.emit(is_shared, Nest(_loops(kept, shape), shape[vector], frozenset(written), total=along_vectors))
        return self.view(found, final)

    def largest(self, value: Value, dim: int, keepdim: bool) -> Value:
        """The largest element along one dimension."""
        dim %= len(value.shape)
        source = self.buffer(value)
        result = self.new(tuple(1 if d == dim else size for d, size in enumerate(value.shape)))
        others = [d for d, size in enumerate(value.shape) if size > 1 and d != dim]
        index = tuple((f"i{d}", 0) if d in others else ZERO for d in range(len(value.shape)))
        step = f"m = larger(m, p[k * {source.strides[dim]}]);"
        loop = f"for (int k = 1; k < {value.shape[dim]}; k++) {step}"
        body = f"const T* p = {source.pointer(index)}; T m = p[0]; {loop} {result.element(index)} = m;"
        self.emit(False, f"{heads(_loops(others, value.shape))}{{ {body} }}", result.base)
        kept = self.of(result)
        return kept if keepdim else self.view(kept, tuple(size for d, size in enumerate(value.shape) if d != dim))

    # Linear systems ---------------------------------------------------------------------------------------------

    def solve(self, matrix: Value, right: Value) -> Value:
        """The solution x of `matrix` x = `right`: [n, n] and [n] or [n, m]."""
        used, result = self.new(matrix.shape), self.new(right.shape)
        self.store_into(matrix, used)
        self.store_into(right, result)
        n, m = matrix.shape[0], right.count // max(1, matrix.shape[0])
        both = f"{used.base} + {used.offset}, {result.base} + {result.offset}"
        self.emit(False, f"solve<{n}, {m}>({both});", used.base, result.base)
        return self.of(result)

    # Products ---------------------------------------------------------------------------------------------------

    def matmul(self, left: Value, right: Value, *, used_once: bool) -> Value:
        """The product of two matrices; one that is used once may be fused with what follows it."""
        (m, k), (_, n) = left.shape, right.shape
        if k == 1:
            return self.pointwise(_times, left, right, shape=(m, n))
        if n == 1 or m == 1:
            left, right = (self.of(self.buffer(v), v.is_shared) if v.pending else v for v in (left, right))
            if n == 1:
                return self.reduce(self.pointwise(_times, left, self.permute(right, (1, 0)), shape=(m, k)), [1], True)
            return self.reduce(self.pointwise(_times, self.permute(left, (1, 0)), right, shape=(k, n)), [0], True)
        rows = self.buffer(right)
        if rows.strides[1] != 1:
            rows = self._with_contiguous_rows(rows, right.is_shared)
        product = Product(self.buffer(left), rows, m, n, k)

        def at(index: Index) -> str:
            if product.result is None and self._current is product and index == (("i", 0), ("j", 0)):
                return "acc"
            if self._current is product:
                self._current = None  # read at another place than its own: it cannot be fused
            return self._finish(product).at(index)

        value = Value((m, n), at, product=product)
        return value if used_once else self._finish(product)

    def _finish(self, product: Product) -> Value:
        """The product in memory."""
        if product.result is None:
            before, self._current = self._current, None
            buffer = self.new((product.m, product.n))
            self._multiply(product, buffer, "acc", False)
            product.result = self.of(buffer)
            self._current = before
        return product.result

    def _multiply(self, product: Product, target: Buffer, expression: str, adds: bool) -> None:
        where = target.pointer((("i", 0), ("j", 0)))
        if adds:
            expression = f"ld<W>({where}) + {expression}"
        left, right = product.left, product.right
        sizes = f"{product.m}, {product.n}, {product.k}, {left.strides[0]}, {left.strides[1]}, {right.strides[0]}"
        inputs = f"{pointer(left.base, {}, left.offset)}, {pointer(right.base, {}, right.offset)}"
        if expression == "acc" and product.m * product.n * product.k >= WORTH_A_CALL:
            out = pointer(target.base, {}, target.offset)
            self.emit(False, f"product<{sizes}, {target.strides[0]}>({inputs}, {out});", target.base)
            return
        store = LAMBDA.replace("int j)", "int i, int j, auto acc)") + f"st<W>({where}, {expression}); }}"
        self.emit(False, f"mm<{sizes}>({inputs}, {store});", target.base)

    def _with_contiguous_rows(self, matrix: Buffer, is_shared: bool) -> Buffer:
        """A copy of a matrix whose columns are contiguous; the same copy for every use."""

        def make() -> Buffer:
            k, n = matrix.shape
            if matrix.strides[0] != 1:
                raise UnsupportedError("The native engine cannot lower a matrix without a contiguous dimension.")
            copy = self.new((k, n), is_shared)
            source = pointer(matrix.base, {}, matrix.offset)
            target = pointer(copy.base, {}, copy.offset)
            self.emit(is_shared, f"transpose<{n}, {k}, {matrix.strides[1]}>({source}, {target});", copy.base)
            return copy

        return self.once(matrix, make)

    # Views ------------------------------------------------------------------------------------------------------

    def _reindexed(self, value: Value, shape: Shape, change: Callable[[Index], Index], buffer: Buffer | None) -> Value:
        """The same elements at other indices."""
        if buffer is not None:
            return self.of(buffer, value.is_shared)
        return Value(
            shape,
            lambda index: value.at(change(index)),
            constant=value.constant,
            is_shared=value.is_shared,
            is_cheap=value.is_cheap,
            is_boolean=value.is_boolean,
            follows=value.pending,
        )

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        turned = tuple(d % len(order) for d in order)
        if value.permuted and tuple(value.permuted[1][d] for d in turned) == tuple(range(len(turned))):
            return value.permuted[0]
        shape = tuple(value.shape[d] for d in turned)
        back = [turned.index(d) for d in range(len(turned))]
        old = value.buffer
        buffer = old and Buffer(old.base, shape, tuple(old.strides[d] for d in turned), old.offset)
        result = self._reindexed(value, shape, lambda index: tuple(index[d] for d in back), buffer)
        result.permuted = value, turned
        return result

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        """Broadcast; -1 keeps a size."""
        extra = len(shape) - len(value.shape)
        whole = tuple(value.shape[d - extra] if size == -1 else size for d, size in enumerate(shape))
        if whole == value.shape:
            return value
        old = value.buffer
        buffer = None
        if old is not None:
            strides = [
                0 if size == 1 and whole[d + extra] != 1 else stride
                for d, (size, stride) in enumerate(zip(value.shape, old.strides, strict=True))
            ]
            buffer = Buffer(old.base, whole, (0,) * extra + tuple(strides), old.offset)
        return self._reindexed(value, whole, lambda index: _within(value.shape, index), buffer)

    def view(self, value: Value, shape: Sequence[int]) -> Value:
        """The same elements, in order, in another shape; -1 is what is left."""
        whole = list(shape)
        if -1 in whole:
            whole[whole.index(-1)] = value.count // max(1, -math.prod(whole))
        new = tuple(whole)
        if new == value.shape:
            return value
        if value.constant is not None:
            return self.constant(new, value.constant)
        before = [d for d, size in enumerate(value.shape) if size != 1]
        after = [d for d, size in enumerate(new) if size != 1]
        if [value.shape[d] for d in before] == [new[d] for d in after]:  # only dimensions of one come or go
            place = dict(zip(before, after, strict=True))
            origin = dict(zip(after, before, strict=True))
            old = value.buffer
            buffer = None
            if old is not None:
                strides = tuple(old.strides[origin[d]] if d in origin else 1 for d in range(len(new)))
                buffer = Buffer(old.base, new, strides, old.offset)

            def change(index: Index) -> Index:
                return tuple(index[place[d]] if d in place else ZERO for d in range(len(value.shape)))

            return self._reindexed(value, new, change, buffer)
        source = self.buffer(value)
        strides_of = _view_strides(source, new)
        if strides_of is None:  # no strides do: the elements are put in order first
            copy = self.new(value.shape, value.is_shared)
            self.store_into(self.of(source, value.is_shared), copy)
            source, strides_of = copy, contiguous(new)
        return self.of(Buffer(source.base, new, strides_of, source.offset), value.is_shared)

    def diagonal(self, value: Value) -> Value:
        """The main diagonal of a square matrix."""
        old = value.buffer
        buffer = old and Buffer(old.base, value.shape[:1], (sum(old.strides),), old.offset)
        return self._reindexed(value, value.shape[:1], lambda index: (index[0], index[0]), buffer)

    def narrow(self, value: Value, dim: int, start: int, length: int) -> Value:
        """A stretch of one dimension."""
        dim %= len(value.shape)
        shape = tuple(length if d == dim else size for d, size in enumerate(value.shape))
        buffer = value.buffer and value.buffer.part(dim, range(start, start + length))

        def change(index: Index) -> Index:
            variable, constant = index[dim] if length != 1 else ZERO
            moved: Place = (variable, constant + start) if value.shape[dim] != 1 else ZERO
            return (*index[:dim], moved, *index[dim + 1 :])

        return self._reindexed(value, shape, change, buffer)

    def concatenate(self, values: Sequence[Value], dim: int) -> Value:
        """One after the other along a dimension."""
        dim %= len(values[0].shape)
        shape = tuple(
            sum(value.shape[d] for value in values) if d == dim else size for d, size in enumerate(values[0].shape)
        )
        is_shared = all(value.is_shared for value in values)
        whole, start = self.new(shape, is_shared), 0
        for value in values:
            self.store_into(value, whole.part(dim, range(start, start + value.shape[dim])))
            start += value.shape[dim]
        return self.of(whole, is_shared)


def number(value: float | bool) -> str:
    """A number as C++ of the program's type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if math.isinf(value):
        return "T(__builtin_inf())" if value > 0 else "T(-__builtin_inf())"
    if math.isnan(value):
        return 'T(__builtin_nan(""))'
    return f"T({float(value)!r})"


def _times(left: str, right: str) -> str:
    return f"({left} * {right})"


def _loops(dims: Sequence[int], shape: Shape) -> tuple[Loop, ...]:
    return tuple((f"i{d}", shape[d]) for d in dims)


def _within(shape: Shape, index: Index) -> Index:
    """The place in a tensor of `shape` that broadcasting takes an index of a larger one to."""
    own = index[len(index) - len(shape) :] if shape else ()
    return tuple(ZERO if size == 1 else place for size, place in zip(shape, own, strict=True))


def _view_strides(buffer: Buffer, shape: Shape) -> Shape | None:
    """Strides that show a buffer in another shape, or None where that takes a copy."""
    try:
        return tuple(torch.empty_strided(buffer.shape, buffer.strides, device="meta").view(shape).stride())
    except RuntimeError:
        return None
