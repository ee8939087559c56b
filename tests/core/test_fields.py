"""What a field says of itself: its kind, its bounds, its text. The form is drawn from this."""

from decimal import Decimal
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from maml_core.config import RunConfig, parse_settings, settings_text
from maml_core.errors import ConfigError
from maml_core.fields import FieldKind, Integer, Real, Spec, base_type, check, kind_of, label, list_text, read_list
from maml_core.learning.families import GaussianProcess, Line, Sine
from maml_core.learning.models import MLP, MODELS, FourierMLP, Linear, ModelSpec
from maml_core.learning.tasks import FAMILIES, TaskFamily, Uniform
from maml_core.presets import PRESETS


def fields_within(spec: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every field of a specification and of those nested in it."""
    found: dict[str, FieldInfo] = {}
    for name, field in spec.model_fields.items():
        found[prefix + name] = field
        kind = base_type(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, TaskFamily | ModelSpec):
            found |= fields_within(kind, f"{prefix}{name}.")
    return found


def test_equal_specifications_have_equal_hashes_whatever_their_fields_hold() -> None:
    class Nested(Spec):
        names: list[str] = Field(["a"])
        ranges: dict[str, Uniform | list[int]] = Field({"a": Uniform(low=0.0, high=1.0), "b": [1]})

    specs: list[type[Spec]] = [RunConfig, *FAMILIES.values(), *MODELS.values(), Nested]
    for spec in specs:
        assert hash(spec()) == hash(spec())
    assert hash(Nested()) != hash(Nested(names=["b"]))
    assert hash(Nested()) != hash(Nested(ranges={"b": [1]}))
    formula = FAMILIES["formula"]
    one, two = ({"a": [0.0, 1.0], "b": [2.0, 3.0]}, {"b": [2.0, 3.0], "a": [0.0, 1.0]})
    first, second = (formula.model_validate({"formula": "a*x + b", "parameters": each}) for each in (one, two))
    assert first == second
    assert hash(first) == hash(second)


def test_every_field_is_of_a_kind_that_an_input_is_made_for() -> None:
    specs: list[type[BaseModel]] = [RunConfig, *FAMILIES.values(), *MODELS.values()]
    for spec in specs:
        for name, field in fields_within(spec).items():
            if name not in ("tasks", "model"):  # drawn as a choice and the fields of what is chosen
                assert kind_of(field) in FieldKind, f"{spec.__name__}.{name}"


class Everything(Spec):
    """One field of every kind."""

    yes: bool = Field(True, description="A switch.")
    maybe: bool | None = Field(None, description="A switch with a third state.")
    count: Integer = Field(3, ge=1, le=9, description="A whole number.")
    size: Integer | None = Field(None, ge=1, description="A whole number, or none.")
    rate: Real = Field(0.1, gt=0, description="A number.")
    word: str = Field("one", description="A word.")
    note: str | None = Field(None, description="A word, or none.")
    choice: Literal["a", "b"] = Field("a", description="One of two.")
    other: Literal["a", "b"] | None = Field(None, description="One of two, or none.")
    widths: tuple[int, ...] = Field((4, 5), description="Some whole numbers.")
    names: tuple[str, ...] | None = Field(None, description="Some words, or none.")
    extra: dict[str, Any] = Field({"a": 1}, description="Anything.")
    span: Uniform = Field(Uniform(low=0.0, high=2.0), description="A range.")


KINDS = {
    "yes": FieldKind.BOOLEAN, "maybe": FieldKind.BOOLEAN, "count": FieldKind.INTEGER, "size": FieldKind.INTEGER,
    "rate": FieldKind.REAL, "word": FieldKind.TEXT, "note": FieldKind.TEXT, "choice": FieldKind.CHOICE,
    "other": FieldKind.CHOICE, "widths": FieldKind.LIST, "names": FieldKind.LIST, "extra": FieldKind.MAPPING,
    "span": FieldKind.NESTED,
}  # fmt: skip  # a table


def test_the_kind_of_each_field_is_told() -> None:
    assert {name: kind_of(field) for name, field in Everything.model_fields.items()} == KINDS


def test_a_kind_that_no_input_is_made_for_is_said() -> None:
    class Odd(BaseModel):
        number: Decimal = Field(Decimal(1), description="Not ours.")

    with pytest.raises(TypeError, match="no input is made for"):
        kind_of(Odd.model_fields["number"])


CONFIGS = st.builds(
    RunConfig,
    model=st.sampled_from([Linear(), MLP(hidden_sizes=(3, 4)), MLP(activation="tanh"), FourierMLP(features=3)]),
    tasks=st.sampled_from(
        [Line(), Line(noise=0.5), Sine(), Sine(amplitude=Uniform(low=0.0, high=1.0)), GaussianProcess()]
    ),
    inner_lr=st.floats(1e-30, 1e38),
    clip_norm=st.none() | st.floats(1e-6, 1e6),
    algorithm=st.sampled_from(["fomaml", "maml"]),
    seed=st.integers(0, 2**32 - 1),
)


@given(CONFIGS, CONFIGS | st.sampled_from([preset.config for preset in PRESETS.values()]))
def test_settings_beyond_is_the_inverse_of_with_settings(config: RunConfig, base: RunConfig) -> None:
    beyond = config.settings_beyond(base)
    assert base.with_settings(beyond) == config
    texts = settings_text(beyond)
    assert base.with_settings(parse_settings(f"{name}={text}" for name, text in texts.items())) == config
    assert (beyond == {}) == (config == base)


@given(st.text(max_size=20).filter(lambda text: text == text.strip()))
def test_any_word_survives_the_url(text: str) -> None:
    assert parse_settings([f"name={settings_text({'name': text})['name']}"]) == {"name": text}


def test_a_list_is_read_as_it_was_written() -> None:
    field = MLP.model_fields["hidden_sizes"]
    assert read_list(list_text((40, 40)), field) == [40, 40]
    assert read_list(" 40,40 ,", field) == [40, 40]
    assert read_list("wide", field) == "wide"  # shown in the sentence that refuses it
    assert read_list("a, b", Everything.model_fields["names"]) == ["a", "b"]


@pytest.mark.parametrize("value", [0.0, -1.0, 1e39, float("nan")])
def test_a_number_is_held_against_its_fields_bounds(value: float) -> None:
    with pytest.raises(ConfigError, match=r"inner_lr = .* is not allowed: it must be a finite number above 0"):
        check("inner_lr", RunConfig.model_fields["inner_lr"], value)
    check("inner_lr", RunConfig.model_fields["inner_lr"], 20.0)


def test_labels_are_words() -> None:
    assert [label(name) for name in ("inner_lr", "meta_batch_size", "shots")] == [
        "Inner learning rate",
        "Meta batch size",
        "Shots",
    ]
