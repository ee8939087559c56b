"""Statements of the generated code, and which loops among them are run as one.

A tensor operation is written as loops of its own. Where two of them run over the same elements, the second is better
done in the first: what it reads is then in a register. `fused` puts them together: two that go from array to array,
sums over the same elements, and what follows a sum and is of its shape. No number changes, since every sum keeps its
order and what is stored is rounded (`st` in kernels.h). What may move is seen from what is read, since no element of an
array is written twice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

LAMBDA = "[&](auto w, int j) __attribute__((always_inline)) { constexpr int W = decltype(w)::w; "
"""How a loop along vectors is told what to do at `j` with vectors of `W`."""

LOOK_BACK = 24
"""Statements among which another is looked for to run a nest with: a program of many unrolled steps has thousands."""

Loop = tuple[str, int]
"""A loop's variable, and how often it runs."""

_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_DECLARED = re.compile(r"alignas\(64\) T (b\d+)\[(\d+)\];")


def _names_in(text: str) -> frozenset[str]:
    return frozenset(_NAME.findall(text))


@dataclass(frozen=True)
class Statement:
    """C++, and the names of the arrays that it writes."""

    text: str
    writes: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> frozenset[str]:
        """Whatever is named in it."""
        return _names_in(self.text)


@dataclass(frozen=True)
class Total:
    """A number: the sum of an expression along vectors."""

    expression: str
    result: str  # what is done with the sum `s`
    name: str | None = None  # of the number, where it is one for the whole function


@dataclass(frozen=True)
class Nest:
    """Loops over the elements of arrays, along vectors in one dimension.

    `loops` are around the vectors, `inner` within them; a nest with `inner` sums vectors over those, one that has a
    `total` sums along them.
    """

    loops: tuple[Loop, ...]
    count: int  # numbers along the vectors
    writes: frozenset[str]
    inner: tuple[Loop, ...] = ()
    each: tuple[str, ...] = ()  # what is done at every element
    stored: tuple[str, ...] = ()  # the addresses that it is stored to
    sums: tuple[str, ...] = ()  # the sums over `inner`
    after: tuple[str, ...] = ()  # what is done after those loops
    kept: tuple[str, ...] = ()  # and the addresses that this is stored to
    total: Total | None = None

    @property
    def text(self) -> str:
        """As C++."""
        begun = "".join(f"typename Vec<W>::type {name}{{}}; " for name in self.sums)
        each = f"{heads(self.inner)}{{ {''.join(self.each)}}} " if self.inner else "".join(self.each)
        body = f"{LAMBDA}{begun}{each}{''.join(self.after)}"
        if self.total is None:
            return f"{heads(self.loops)}vloop<{self.count}>({body}}});"
        name = self.total.name or "s"
        found = f"vsum<{self.count}>({body}return bc<W>({self.total.expression}); }})"
        done = f"T {name} = 0; {name} += {found}; {self.total.result}"
        return f"{heads(self.loops)}{{ {done} }}" if self.total.name is None else done

    @cached_property
    def names(self) -> frozenset[str]:
        """Whatever is named in it."""
        return _names_in(self.text)

    def joined(self, later: "Nest") -> "Nest | None":
        """This and a later one as one, if they run over the same elements and the later reads none but those."""
        whole, own = later.loops + later.inner, self.loops + self.inner
        if self.total or self.count != later.count:
            return None
        if [size for _, size in whole] == [size for _, size in own]:  # in the loops around one element
            if self.inner and later.inner and len(self.inner) != len(later.inner):
                return None
            if later.total and self.inner:  # it sums along vectors, which these loops are inside of
                return None
            first, second = self, later._named_as(own)
            if not first._reads_at(second, first.stored):
                return None
            shape = second if second.inner or second.total else first
            return replace(
                shape,
                writes=first.writes | second.writes,
                each=first.each + second.each,
                stored=first.stored + second.stored,
                sums=first.sums + second.sums,
                after=first.after + second.after,
                kept=first.kept + second.kept,
            )
        # or once the sums over the inner loops are there
        is_of_sums = self.inner and not later.inner and not later.total
        if is_of_sums and [size for _, size in later.loops] == [size for _, size in self.loops]:
            second = later._named_as(self.loops)
            if self._reads_at(second, self.kept):
                writes = self.writes | second.writes
                return replace(self, writes=writes, after=self.after + second.each, kept=self.kept + second.stored)
        return None

    def _named_as(self, loops: Sequence[Loop]) -> "Nest":
        """The same with other names of its loops' variables."""
        new = {old: name for (old, _), (name, _) in zip(self.loops + self.inner, loops, strict=True)}

        def named(texts: Sequence[str]) -> tuple[str, ...]:
            return tuple(_NAME.sub(lambda match: new.get(match.group(), match.group()), text) for text in texts)

        total = self.total and replace(
            self.total, expression=named([self.total.expression])[0], result=named([self.total.result])[0]
        )
        depth = len(self.loops)
        return replace(
            self,
            loops=tuple(loops[:depth]),
            inner=tuple(loops[depth:]),
            each=named(self.each),
            stored=named(self.stored),
            after=named(self.after),
            kept=named(self.kept),
            total=total,
        )

    def _reads_at(self, later: "Nest", stored: Sequence[str]) -> bool:
        """Whether a later nest reads of what this one writes nothing but vectors at the addresses `stored`.

        What it writes itself, and adds to, is elsewhere.
        """
        text = later.text
        for address in (*stored, *later.stored, *later.kept):
            text = text.replace(f"ld<W>({address})", "").replace(f"st<W>({address}, ", "")
        return not self.writes & _names_in(text)


def heads(loops: Sequence[Loop]) -> str:
    """The beginnings of loops."""
    return "".join(f"for (int {name} = 0; {name} < {size}; {name}++) " for name, size in loops)


def fused(statements: Sequence[Statement | Nest]) -> list[str]:
    """The same statements as C++, with loops put together where that can be done."""
    left: list[Statement | Nest] = []
    for statement in statements:
        left.append(_joined_with_one_of(left, statement) if isinstance(statement, Nest) else statement)
    return [statement.text for statement in left]


def _joined_with_one_of(left: list[Statement | Nest], nest: Nest) -> Nest:
    """`nest`, together with the last of those before it that can be, which is taken out of the list."""
    between: set[str] = set()  # what is named by those that an earlier one would move past
    for number in range(len(left) - 1, max(-1, len(left) - 1 - LOOK_BACK), -1):
        earlier = left[number]
        if isinstance(earlier, Nest) and not earlier.writes & between:
            joined = earlier.joined(nest)
            if joined is not None:
                del left[number]
                return joined
        between |= earlier.names
    return nest


def with_shared_arrays(lines: Sequence[str]) -> list[str]:
    """The same lines with fewer arrays: one whose last reader has passed serves the next of its size."""
    last = {name: number for number, line in enumerate(lines) for name in re.findall(r"\bb\d+\b", line)}
    free: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    ending: dict[int, list[tuple[str, str]]] = {}
    written = []
    for number_of, line in enumerate(lines):
        found = _DECLARED.fullmatch(line)
        if found:
            name, size = found.groups()
            names[name] = free[size].pop() if free.get(size) else name
            if names[name] == name:
                written.append(line)
            ending.setdefault(last[name], []).append((name, size))
        else:
            written.append(re.sub(r"\bb\d+\b", lambda match: names.get(match.group(), match.group()), line))
        for name, size in ending.pop(number_of, []):
            free.setdefault(size, []).append(names[name])
    return written
