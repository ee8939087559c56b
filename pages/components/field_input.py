"""An input for one field of a specification, chosen by the kind of value it holds; bounds and help are the field's."""

import json
import math
from typing import Any

import streamlit as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from maml_core.errors import ConfigError
from maml_core.fields import (
    FieldKind,
    base_type,
    bounds,
    check,
    choices,
    is_optional,
    kind_of,
    label,
    list_text,
    read_list,
    tried_values,
)
from maml_core.glossary import linked
from maml_core.learning.tasks import Uniform

_LARGEST_INTEGER = 2**53 - 1
"""What a browser's numbers hold exactly."""


def field_input(
    name: str, field: FieldInfo, key: str, *, title: str | None = None, help_text: str | None = None, place: Any = st
) -> Any:
    """Draw the input and return what it says, as plain data for a configuration.

    Its value lives in the session state: under `key`, or for a nested specification under `key.part` for each part.
    """
    title, help_text = title or label(name), linked(help_text or field.description or "") or None
    kind = _kind(field)
    if kind is FieldKind.NESTED:
        spec: type[BaseModel] = base_type(field.annotation)
        words: dict[str, str] = getattr(spec, "parts", {})
        columns = place.columns(len(spec.model_fields))
        for i, (part, inner) in enumerate(spec.model_fields.items()):
            field_input(
                part,
                inner,
                f"{key}.{part}",
                title=f"{title} {words.get(part, label(part).lower())}" if i == 0 else words.get(part),
                help_text=inner.description or help_text,
                place=columns[i],
            )
        return field_value(field, key)
    optional = is_optional(field)
    if kind is FieldKind.BOOLEAN and not optional:
        place.toggle(title, key=key, help=help_text)
    elif kind in (FieldKind.CHOICE, FieldKind.BOOLEAN):
        options = [*((None,) if optional else ()), *(choices(field) or (True, False))]
        place.selectbox(
            title, options, format_func=lambda value: "off" if value is None else str(value), key=key, help=help_text
        )
    elif kind is FieldKind.INTEGER:
        limits = bounds(field)
        low = None if limits.low is None else int(limits.low)
        high = _LARGEST_INTEGER if limits.high is None else int(limits.high)
        place.number_input(title, low, high, step=1, key=key, help=help_text, **_when_off(optional))
    elif kind is FieldKind.REAL:
        limits = bounds(field)
        place.number_input(
            title,
            limits.low,
            limits.high,
            step=_step(field),
            format="%.6g",
            key=key,
            help=help_text,
            **_when_off(optional),
        )
    else:
        hints = {FieldKind.LIST: " Write them with commas: 40, 40.", FieldKind.MAPPING: " Write it as JSON."}
        place.text_input(title, key=key, help=f"{help_text or ''}{hints.get(kind, '')}", **_when_off(optional))
    return field_value(field, key)


def field_value(field: FieldInfo, key: str) -> Any:
    """What the input of a field says, as plain data for a configuration; or would say, where it is not drawn."""
    kind, optional = _kind(field), is_optional(field)
    if kind is FieldKind.NESTED:
        spec: type[BaseModel] = base_type(field.annotation)
        return {part: field_value(inner, f"{key}.{part}") for part, inner in spec.model_fields.items()}
    value = st.session_state[key]
    if kind in (FieldKind.TEXT, FieldKind.LIST, FieldKind.MAPPING) and optional and not value:
        return None
    if kind is FieldKind.LIST:
        return read_list(value, field)
    if kind is FieldKind.MAPPING:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _kind(field: FieldInfo) -> FieldKind:
    try:
        return kind_of(field)
    except TypeError:  # no test has seen such a field: JSON can say anything
        return FieldKind.MAPPING


def slider_input(name: str, field: FieldInfo, key: str) -> None:
    """A slider for the number under `key`, over what people try; another input, which takes any number, reads it."""
    mine = f"{key}.slider"
    value = st.session_state[key]
    options = tried_values(field, value)
    st.session_state[mine] = value

    def follow() -> None:
        st.session_state[key] = st.session_state[mine]

    if kind_of(field) is FieldKind.INTEGER:
        st.slider(
            label(name), options[0], options[-1], key=mine, help=linked(field.description or ""), on_change=follow
        )
    else:
        st.select_slider(
            label(name),
            options,
            key=mine,
            help=linked(field.description or ""),
            on_change=follow,
            format_func=lambda v: f"{v:g}",
        )


def is_range(field: FieldInfo) -> bool:
    """Whether a field holds a range, from low to high."""
    return base_type(field.annotation) is Uniform


def range_input(
    name: str, field: FieldInfo, key: str, *, title: str | None = None, default: Uniform | None = None
) -> None:
    """A slider with two ends for the range whose numbers lie under `key.low` and `key.high`."""
    low, high = st.session_state[f"{key}.low"], st.session_state[f"{key}.high"]
    if low is None or high is None or low > high:
        return  # being typed; the sentence is said where the configuration is checked
    mine = f"{key}.slider"
    least, most, step = (default or field.get_default()).limits(low, high)
    st.session_state[mine] = low, high

    def follow() -> None:
        st.session_state[f"{key}.low"], st.session_state[f"{key}.high"] = st.session_state[mine]

    st.slider(
        title or label(name),
        least,
        most,
        step=step,
        key=mine,
        help=linked(field.description or ""),
        on_change=follow,
        format="%.3g",
    )


def number_in_url(name: str, field: FieldInfo, default: float, *, help_text: str) -> Any:
    """An input for one number of a page, with the field's bounds, kept in the URL under the field's name.

    Raises:
        ConfigError: what was typed breaks the field's rule.
    """
    key = f"input.{name}"
    if key not in st.session_state:
        st.session_state[key] = default
        try:
            asked = type(default)(st.query_params.get(name, default))
            check(name, field, asked)
            st.session_state[key] = asked
        except (ValueError, ConfigError):  # a stale or hand-edited link: the page's own value stands
            pass
    value = field_input(name, field, key, help_text=help_text)
    check(name, field, value)
    st.query_params[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return value


def widget_values(spec: BaseModel, prefix: str = "") -> dict[str, Any]:
    """What the inputs of a specification hold in the session state, by dotted name."""
    values: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, BaseModel):
            values |= widget_values(value, f"{prefix}{name}.")
        elif is_set_elsewhere(field):
            values[prefix + name] = value
        elif isinstance(value, tuple | list):
            values[prefix + name] = list_text(value)
        elif isinstance(value, dict) and any(isinstance(part, BaseModel) for _, part in value.items()):
            for key, part in value.items():
                values |= widget_values(part, f"{prefix}{name}.{key}.")
        elif isinstance(value, dict):
            values[prefix + name] = json.dumps(value)
        elif value is None and kind_of(field) in (FieldKind.TEXT, FieldKind.LIST, FieldKind.MAPPING):
            values[prefix + name] = ""
        else:
            values[prefix + name] = value
    return values


def is_set_elsewhere(field: FieldInfo) -> bool:
    """Whether another page sets the field, so that the form only carries it along."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("set_elsewhere"))


def _when_off(optional: bool) -> dict[str, Any]:
    return {"value": None, "placeholder": "off"} if optional else {}


def _step(field: FieldInfo) -> float:
    """One in the default's leading digit."""
    default = field.get_default()
    return 10.0 ** math.floor(math.log10(abs(default))) if isinstance(default, float) and default else 0.1
