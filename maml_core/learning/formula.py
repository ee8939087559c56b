"""A task family from a typed formula: a closed grammar, read with `ast` and never executed as Python."""

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from pydantic.fields import FieldInfo
from torch import Tensor

from maml_core.errors import ConfigError
from maml_core.fields import explained
from maml_core.learning.generated import FunctionFamily
from maml_core.learning.tasks import Normal, Uniform, seeded

MOST_CHARACTERS = 500
MOST_NODES = 200
MOST_PARAMETERS = 10
LARGEST = 1e6
"""What a formula may be: so long, of so many parts and parameters, and no value of its tasks further from zero."""

Values = Mapping[str, Tensor]
Evaluate = Callable[[Values], Tensor]

_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "sin": (1, torch.sin),
    "cos": (1, torch.cos),
    "tan": (1, torch.tan),
    "tanh": (1, torch.tanh),
    "exp": (1, torch.exp),
    "log": (1, torch.log),
    "sqrt": (1, torch.sqrt),
    "abs": (1, torch.abs),
    "min": (2, torch.minimum),
    "max": (2, torch.maximum),
    "where": (3, torch.where),
}
_OPERATORS: dict[type[ast.AST], Callable[..., Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.div,
    ast.Pow: torch.pow,
    ast.USub: torch.neg,
    ast.UAdd: torch.positive,
    ast.Lt: torch.lt,
    ast.LtE: torch.le,
    ast.Gt: torch.gt,
    ast.GtE: torch.ge,
}
_RESERVED = {"x", "self", *_CONSTANTS, *_FUNCTIONS}
_GRAMMAR = f"numbers, x, parameters of your own, + - * / **, brackets, pi, e, and {', '.join(_FUNCTIONS)}"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}")


class FormulaFamily(FunctionFamily):
    """Functions y of x by a formula of one's own; every name in it that is nothing else is a parameter."""

    title: ClassVar[str] = "A formula of your own"
    order: ClassVar[int] = 1
    latex: ClassVar[str] = r"y = f(x;\ \text{parameters})"

    family: Literal["formula"] = "formula"
    formula: str = Field(
        "a*sin(w*x + p)",
        description=f"y as a function of x, such as a*sin(w*x + p) or where(x < c, a, b): {_GRAMMAR}.",
    )
    parameters: dict[str, Uniform] = Field(
        {},
        description="From which range each task draws each parameter of the formula.",
        json_schema_extra={"rule": "a range [low, high] for each parameter of the formula"},
    )

    @model_validator(mode="before")
    @classmethod
    def _with_ranges(cls, data: Any) -> Any:
        """A parameter that no range is given for takes a default one."""
        if not isinstance(data, Mapping) or not isinstance(data.get("formula", _DEFAULT_FORMULA), str):
            return data
        formula = data.get("formula", _DEFAULT_FORMULA)
        try:
            names = read_formula(formula).names
        except ConfigError as error:
            raise explained(str(error)) from None
        given = data.get("parameters", {})
        if not isinstance(given, Mapping):
            return data
        defaults = _DEFAULT_RANGES if formula == _DEFAULT_FORMULA else {}
        return dict(data) | {"parameters": {name: defaults.get(name, ANY_RANGE) for name in names} | dict(given)}

    @model_validator(mode="after")
    def _is_usable(self) -> "FormulaFamily":
        known = read_formula(self.formula).names
        for name in self.parameters:
            if name not in known:
                raise explained(
                    f"tasks.parameters.{name} is not in tasks.formula = {self.formula[:60]!r}, whose parameters are "
                    f"{', '.join(known)}; remove it, or set tasks.parameters={{}} to begin anew."
                )
        _check_values(self)
        return self

    @property
    def distributions(self) -> dict[str, Uniform | Normal]:
        """The range of each parameter, in the formula's order."""
        return {name: self.parameters[name] for name in read_formula(self.formula).names}

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The formula at `x`."""
        return (
            read_formula(self.formula)
            .evaluate({"x": x, **parameters})
            .expand_as(torch.broadcast_tensors(x, *parameters.values())[0])
        )


_DEFAULT_FORMULA = "a*sin(w*x + p)"
_DEFAULT_RANGES = {
    "a": Uniform(low=0.1, high=5.0),
    "w": Uniform(low=1.0, high=1.0),
    "p": Uniform(low=0.0, high=math.pi),
}
ANY_RANGE = Uniform(low=-2.0, high=2.0)
"""For a parameter that no range is given for."""

RANGE_FIELD = FieldInfo(annotation=Uniform, description="From which range each task draws this parameter.")
"""What an input for the range of one parameter is made from."""


class Formula:
    """A formula that was read: its parameters in order, and how to evaluate it."""

    def __init__(self, names: tuple[str, ...], evaluate: Evaluate) -> None:
        """`evaluate` is given x and the parameters by name, as tensors of shapes that go together."""
        self.names = names
        self.evaluate = evaluate


@functools.lru_cache(maxsize=256)
def read_formula(text: str) -> Formula:
    """Read a formula.

    Raises:
        ConfigError: it is not one; the sentence says where, and what to do.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"tasks.formula of {len(text):,} characters is not allowed: it must have at most {MOST_CHARACTERS}."
        )
    if not text.strip():
        raise ConfigError("tasks.formula is empty: write y as a function of x, such as a*sin(w*x + p).")
    if not text.isascii() or "\n" in text or "\x00" in text:
        place = next((i for i, letter in enumerate(text) if not letter.isascii() or letter in "\n\x00"), 0)
        raise _wrong(text, place, f"{text[place]!r} is not part of a formula; use {_GRAMMAR}")
    lead = len(text) - len(text.lstrip())
    if "^" in text:
        raise _wrong(text, text.index("^"), "^ is not a power here; write x**2")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = (getattr(error, "offset", None) or 1) - 1 + lead
        raise _wrong(text, min(place, len(text) - 1), "this is not a formula; check brackets and operators") from None
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise ConfigError(f"tasks.formula = {text[:60]!r} is too long: at most {MOST_NODES} parts are allowed.")
    names: list[str] = []
    evaluate = _build(tree, text, lead, names, is_condition=False)
    if not names:
        raise ConfigError(
            f"tasks.formula = {text[:60]!r} has no parameter, so all tasks would be the same: put one in, such as "
            "a*sin(x)."
        )
    if len(names) > MOST_PARAMETERS:
        raise ConfigError(f"tasks.formula has {len(names)} parameters: at most {MOST_PARAMETERS} are allowed.")
    if not any(isinstance(node, ast.Name) and node.id == "x" for node in ast.walk(tree)):
        raise ConfigError(f"tasks.formula = {text[:60]!r} does not use x: write y as a function of x.")
    return Formula(tuple(names), evaluate)


def _build(node: ast.AST, text: str, lead: int, names: list[str], *, is_condition: bool) -> Evaluate:
    """What evaluates a part of a formula; adds the parameters found in it to `names`."""
    place = getattr(node, "col_offset", 0) + lead

    def part(child: ast.AST, condition: bool = False) -> Evaluate:
        return _build(child, text, lead, names, is_condition=condition)

    if is_condition and not isinstance(node, ast.Compare):
        raise _wrong(text, place, "the first of where(...) must be a comparison, such as x < 0")
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        raise _wrong(text, place, "compare two values at a time, such as x < 0")
    match node:
        case ast.Constant(value=int(value) | float(value)) if not isinstance(value, bool):
            if not abs(value) <= LARGEST:
                raise _wrong(text, place, f"a number must be at most {LARGEST:,.0f} in size")
            number = torch.tensor(float(value), dtype=torch.float64)
            return lambda values: number
        case ast.Name(id=name):
            return _name(name, text, place, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _apply(_OPERATORS[type(op)], part(left), part(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _apply(_OPERATORS[type(op)], part(operand))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if is_condition and type(op) in _OPERATORS:
            return _apply(_OPERATORS[type(op)], part(left), part(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            count, function = _FUNCTIONS[name]
            if len(args) != count:
                raise _wrong(text, place, f"{name} takes {count} value{'s' if count > 1 else ''}, not {len(args)}")
            return _apply(function, *(part(each, name == "where" and i == 0) for i, each in enumerate(args)))
        case ast.Call(func=ast.Name(id=name)):
            raise _wrong(text, place, f"{name} is not a function here; there are {', '.join(_FUNCTIONS)}")
        case ast.Compare():
            raise _wrong(text, place, "a comparison belongs inside where(condition, then, otherwise)")
    raise _wrong(text, place, f"this is not part of a formula; use {_GRAMMAR}")


def _name(name: str, text: str, place: int, names: list[str]) -> Evaluate:
    if name in _CONSTANTS:
        number = torch.tensor(_CONSTANTS[name], dtype=torch.float64)
        return lambda values: number
    if name == "x":
        return operator.itemgetter("x")
    if name in _RESERVED or not _NAME.fullmatch(name):
        raise _wrong(text, place, f"{name[:40]} cannot be the name of a parameter; choose a short word")
    if name not in names:
        names.append(name)
    return operator.itemgetter(name)


def _apply(function: Callable[..., Tensor], *parts: Evaluate) -> Evaluate:
    def evaluate(values: Values) -> Tensor:
        return function(*(part(values) for part in parts))

    return evaluate


def _check_values(family: FormulaFamily) -> None:
    """Raise the explanation of what is wrong where drawn tasks have values that are not numbers, or are enormous."""
    generator = seeded("formula")
    drawn = family.sample_parameters((300,), generator)
    x, y = family.sample_points(drawn, 30, generator)
    bad = ~(torch.isfinite(y) & (y.abs() <= LARGEST))
    if bad.any():
        task, point = (int(i) for i in bad[..., 0].nonzero()[0])
        where = ", ".join(f"{name} = {float(value[task]):.3g}" for name, value in drawn.items())
        raise explained(
            f"tasks.formula = {family.formula[:60]!r} gives {float(y[task, point, 0]):.3g} at "
            f"x = {float(x[task, point, 0]):.3g}, {where}: values must be numbers of at most {LARGEST:,.0f} in size; "
            "narrow the range of x or of a parameter."
        )


def _wrong(text: str, place: int, reason: str) -> ConfigError:
    shown = text[max(0, place - 20) : place + 20]
    return ConfigError(f"tasks.formula, position {place + 1} (at {shown!r}): {reason}.")
