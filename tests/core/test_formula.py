"""Formulas of one's own: a closed grammar, the right values, and a sentence for everything else."""

import contextlib
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError
from maml_core.learning.formula import FormulaFamily, read_formula
from maml_core.learning.tasks import Uniform
from maml_core.training.trainer import Trainer

FORMULA = {"tasks.family": "formula"}


def family_of(**settings_of_it: object) -> FormulaFamily:
    family = RunConfig().with_settings(FORMULA | {f"tasks.{k}": v for k, v in settings_of_it.items()}).tasks
    assert isinstance(family, FormulaFamily)
    return family


def at(formula: str, x: float, **parameters: float) -> float:
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in ({"x": x} | parameters).items()}
    return float(read_formula(formula).evaluate(values))


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a*sin(w*x + p)", 3 * math.sin(2 * 0.7 - 0.5)),
        ("-a*x**2 + 1", -3 * 0.49 + 1),
        ("a*where(x < 0.5, 1, 2)", 6.0),
        ("a*where(x >= 0.7, 1, 2)", 3.0),
        ("min(a, x) + max(a, x)", 3.7),
        ("a*exp(-x) + log(a) / sqrt(abs(-x))", 3 * math.exp(-0.7) + math.log(3) / math.sqrt(0.7)),
        ("a*tanh(x)*cos(pi*x)/tan(e)", 3 * math.tanh(0.7) * math.cos(math.pi * 0.7) / math.tan(math.e)),
        ("  a * 1e-3 * x", 3e-3 * 0.7),
        ("2**-x**2*a", 2 ** -(0.7**2) * 3),
    ],
)
def test_a_formula_is_what_it_says(formula: str, value: float) -> None:
    assert at(formula, 0.7, a=3.0, w=2.0, p=-0.5) == pytest.approx(value, rel=1e-12)


numbers = st.floats(-3, 3).map(lambda value: round(value, 3))
leaves = st.one_of(st.sampled_from(["x", "a", "b"]), numbers.map(lambda v: f"({v})"))
formulas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda parts: f"({''.join(parts)})"),
        st.tuples(st.sampled_from(["sin", "cos", "tanh", "abs"]), inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(formulas, numbers, numbers, numbers)
def test_values_are_those_of_python(formula: str, x: float, a: float, b: float) -> None:
    formula = f"{formula} + 0*a*x"
    names = {"x": x, "a": a, "b": b}
    known: dict[str, Any] = {"sin": math.sin, "cos": math.cos, "tanh": math.tanh, "abs": abs}
    expected = eval(formula, {"__builtins__": {}}, known | names)  # our own text, in a test
    given_names = {name: names[name] for name in read_formula(formula).names}
    assert at(formula, x, **given_names) == pytest.approx(expected, rel=1e-9, abs=1e-9)


WRONG = {
    "__import__('os')": "__import__ is not a function here",
    "x**x**x**x": "has no parameter",
    "a*x**x**x**x": "values must be numbers",
    "1/0": "has no parameter",
    "a*x/0": "gives inf",
    "a*" * 5000 + "x": "10,001 characters",
    "": "is empty",
    "a*sin(": r"position \d+",
    "a*foo(x)": r"position 3 .* foo is not a function here",
    "a.real*x": "position 1",
    "a[0]*x": "position 1",
    "(lambda: a)()*x": "position 1",
    "'a'*x": "position 1",
    "a*x if x else 1": "position 1",
    "[a for a in x]": "position 1",
    "a*x^2": r"position 4 .* write x\*\*2",
    "a": "does not use x",
    "a*log(x)": "gives nan",
    "a*é*x": "position 3",
    "a@x": "position 1",
    "a<x": "belongs inside where",
    "where(a,x,1)": "must be a comparison",
    "where(0 < a < x, x, 1)": "compare two values",
    "sin(a,x)": "sin takes 1 value, not 2",
    "a*sin(x=3)": "sin",
    "a*1e400*x": "at most 1,000,000",
    "(" * 240 + "a*x" + ")" * 240: "not a formula",
    "a*x\n+1": "position 4",
    "a*x;b": "not a formula",
    "self*x": "cannot be the name",
    "a*True*x": "not part of a formula",
    "+".join(f"a{i}*x" for i in range(11)): "11 parameters",
    "a*x" + "+x" * 150: "too long",
    "a_very_long_name_of_a_parameter*x": "cannot be the name",
}


@pytest.mark.parametrize("formula", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_with_a_formula_is_said(formula: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[formula]) as error:
        family_of(formula=formula)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_no_text_does_anything_but_give_a_formula_or_a_sentence(text: str) -> None:
    with contextlib.suppress(ConfigError):
        read_formula(text)


def test_parameters_take_their_ranges_by_name() -> None:
    family = family_of(formula="a*x + b", parameters={"a": [0.5, 1.0]})
    assert family.parameters == {"a": Uniform(low=0.5, high=1.0), "b": Uniform(low=-2.0, high=2.0)}
    assert list(family.distributions) == ["a", "b"]
    config = RunConfig().with_settings(parse_settings(["tasks.family=formula", "tasks.parameters.a=[0.1,5]"]))
    assert isinstance(config.tasks, FormulaFamily)
    assert config.tasks.parameters["a"].span == (0.1, 5.0)
    assert RunConfig().with_settings(config.settings_beyond(RunConfig())) == config
    with pytest.raises(ConfigError, match=r"tasks.parameters.q is not in tasks.formula"):
        family_of(parameters={"q": [0, 1]})
    again = config.with_settings({"tasks.formula": "c*x", "tasks.parameters": {}})
    assert isinstance(again.tasks, FormulaFamily)
    assert list(again.tasks.parameters) == ["c"]


def test_a_formula_trains_to_the_bits_of_the_family_it_says() -> None:
    """The default formula and the sines it stands for draw the same tasks, up to rounding, so they learn the same."""
    shared = {"engine": "vectorized", "meta_iterations": 30, "tasks.parameters": {"p": [0.0, 1.0]}}
    formula = RunConfig().with_settings(FORMULA | shared)
    rows = [row for progress in Trainer(formula).run() for row in progress.rows]
    again = [row for progress in Trainer(RunConfig.from_json(formula.to_json())).run() for row in progress.rows]
    assert rows == again
    assert math.isfinite(rows[-1].post_loss)
