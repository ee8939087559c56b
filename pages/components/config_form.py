"""A form for a RunConfig, drawn from the configuration's own fields, bounds and help; and its place in the URL."""

import json
import math
from collections.abc import Mapping
from typing import Any

import streamlit as st
from pydantic.fields import FieldInfo

from maml_core.algorithms import ALGORITHMS
from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError
from maml_core.fields import base_type, bounds, choices, is_optional
from maml_core.models import MODELS, OwnModel
from maml_core.presets import DEFAULT, PRESETS, get_preset
from maml_core.tasks import FAMILIES, Normal, Uniform

BASICS = ("shots", "inner_lr", "inner_steps", "meta_lr", "meta_batch_size", "meta_iterations")
"""Fields shown at once; the rest of a run's plain fields wait in an expander."""

_VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {"model": ("kind", MODELS), "tasks": ("family", FAMILIES)}
_PAGE_FIELDS = ("run", "preset", "task")
"""Query parameters that are not fields of a run."""


def config_form() -> RunConfig | None:
    """Draw the form in the sidebar and return what it says; None, and a sentence on screen, if that breaks a rule."""
    _start()
    with st.sidebar:
        st.selectbox(
            "Preset",
            list(PRESETS),
            format_func=lambda name: PRESETS[name].title,
            key="form.preset",
            on_change=lambda: load_config(get_preset(st.session_state["form.preset"]).config),
            help="A named configuration to start from. Every value below can then be changed.",
        )
        preset = PRESETS[st.session_state["form.preset"]]
        st.caption(preset.description + (f" Reached {preset.reached}." if preset.reached else ""))
        values: dict[str, Any] = {}
        # What the chosen algorithm does, where it is chosen below.
        chosen = ALGORITHMS[st.session_state["form.algorithm"]]
        for place, title in (("tasks", "Tasks"), ("model", "Model")):
            st.subheader(title)
            _variant(values, place)
        st.subheader("Training")
        for name in BASICS:
            values[name] = _field(name, RunConfig.model_fields[name])
        with st.expander(f"{chosen.title}: its update rule"):
            st.latex(chosen.formula.replace(r",\qquad ", r",\\ ").replace(r",\ ", r",\\ "))
            st.caption(f"{chosen.source}. The meta-optimizer, Adam, takes g.")
        with st.expander("More settings"):
            for name, field in RunConfig.model_fields.items():
                if name not in BASICS and name not in _VARIANTS:
                    values[name] = _field(name, field)
        try:
            config = get_preset(DEFAULT).config.with_settings(values)
        except ConfigError as error:
            st.error(str(error), icon=":material/error:")
            return None
    st.session_state["form"] = config, st.session_state["form.preset"]
    _write_url(config)
    return config


def load_config(config: RunConfig, preset: str | None = None) -> None:
    """Put a configuration into the form; in place of a user's own module, which it never offers, the default one."""
    if isinstance(config.model, OwnModel):
        config = config.with_settings({"model.kind": "mlp"})
    if preset in PRESETS:
        st.session_state["form.preset"] = preset
    for name, value in _flat(config).items():
        st.session_state[f"form.{name}"] = value


def keep_for_form(config: RunConfig, preset: str | None) -> None:
    """Have the form show a configuration when its page is opened next."""
    st.session_state["form"] = config, preset if preset in PRESETS else DEFAULT
    st.session_state.pop("form.preset", None)


def _start() -> None:
    """Fill the form once a session from the URL, and again after another page, where widgets lose their state."""
    if "form.preset" in st.session_state:
        return
    if "form" in st.session_state:
        config, preset = st.session_state["form"]
        load_config(config, preset)
        return
    query = st.query_params.to_dict()
    preset = query.get("preset", DEFAULT)
    try:
        base = get_preset(preset).config
        settings = parse_settings(f"{name}={text}" for name, text in query.items() if name not in _PAGE_FIELDS)
        config = base.with_settings(settings)
        if isinstance(config.model, OwnModel):
            config.model.check_loadable()
        load_config(config, preset)
    except ConfigError as error:
        st.warning(f"The link cannot be followed. {error} The default preset is shown.", icon=":material/link_off:")
        load_config(get_preset(DEFAULT).config, DEFAULT)


def _write_url(config: RunConfig) -> None:
    """Keep the URL in step: the preset, and what differs from it."""
    preset = st.session_state["form.preset"]
    base = _flat(get_preset(preset).config)
    changed = {}
    for name, value in _flat(config).items():
        root, _, part = name.rpartition(".")
        if part in ("low", "high", "mean", "std") and root.count("."):
            whole = _dig(config.model_dump(mode="json"), root)
            if whole != _dig(get_preset(preset).config.model_dump(mode="json"), root):
                changed[root] = json.dumps(whole)
        elif name not in base or base[name] != value:
            shown = [int(size) for size in value.split(",")] if name.endswith("hidden_sizes") else value
            changed[name] = shown if isinstance(shown, str) else json.dumps(shown)
    kept = {name: text for name, text in st.query_params.to_dict().items() if name in _PAGE_FIELDS}
    wanted = kept | {"preset": preset} | changed
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def _variant(values: dict[str, Any], place: str) -> None:
    """A select box for the family or model, and the fields of the one chosen."""
    tag, registry = _VARIANTS[place]
    key = f"form.{place}.{tag}"
    chosen = st.selectbox(
        _label(tag),
        list(registry),
        format_func=lambda name: registry[name].title,
        key=key,
        help=RunConfig.model_fields[place].description,
        on_change=lambda: _load_defaults(place, registry[st.session_state[key]]),
    )
    values[f"{place}.{tag}"] = chosen
    for name, field in registry[chosen].model_fields.items():
        if name != tag:
            values[f"{place}.{name}"] = _field(f"{place}.{name}", field)


def _load_defaults(place: str, variant: type[Any]) -> None:
    for name, value in _flat(variant()).items():
        st.session_state[f"form.{place}.{name}"] = value


def _field(name: str, field: FieldInfo) -> Any:
    """The widget for one field, chosen by its type; returns plain data for the configuration."""
    key, label = f"form.{name}", _label(name.rpartition(".")[2])
    kind = base_type(field.annotation)
    if kind is Uniform:
        left, right = st.columns(2)
        low = _number(left, f"{label} from", Uniform.model_fields["low"], f"{key}.low", field.description)
        high = _number(right, "to", Uniform.model_fields["high"], f"{key}.high", field.description)
        return [low, high]
    if kind is Normal:
        left, right = st.columns(2)
        mean = _number(left, f"{label} mean", Normal.model_fields["mean"], f"{key}.mean", field.description)
        std = _number(right, "std", Normal.model_fields["std"], f"{key}.std", field.description)
        return {"mean": mean, "std": std}
    if choices(field):
        return st.selectbox(label, choices(field), key=key, help=field.description)
    if kind in (int, float):
        return _number(st, label, field, key, field.description)
    text = st.text_input(label, key=key, help=f"{field.description} Write them with commas: 40, 40.")
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return text


def _number(place: Any, label: str, field: FieldInfo, key: str, description: str | None) -> float | None:
    limits = bounds(field)
    if limits.integer:
        return place.number_input(  # type: ignore[no-any-return]
            label,
            min_value=int(limits.low or 0),
            max_value=int(limits.high or 2**53 - 1),
            step=1,
            key=key,
            help=description,
        )
    default = field.get_default()
    step = 10.0 ** math.floor(math.log10(abs(default))) if isinstance(default, float) and default else 0.1
    optional = {"value": None, "placeholder": "off"} if is_optional(field) else {}
    return place.number_input(  # type: ignore[no-any-return]
        label,
        min_value=limits.low,
        max_value=limits.high,
        step=step,
        format="%.6g",
        key=key,
        help=description,
        **optional,
    )


def _flat(spec: Any, prefix: str = "") -> dict[str, Any]:
    """Form values by dotted name, as the widgets hold them."""
    flat: dict[str, Any] = {}
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, tuple):
            flat[prefix + name] = ", ".join(str(part) for part in value)
        elif hasattr(type(value), "model_fields"):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _dig(data: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _label(name: str) -> str:
    return name.replace("_lr", " learning rate").replace("_", " ").capitalize()
