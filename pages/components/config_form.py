"""A form for a RunConfig, drawn from the configuration's own fields, bounds and help; and its place in the URL."""

from collections.abc import Mapping
from typing import Any

import streamlit as st
from pydantic.fields import FieldInfo

from maml_core.config import RunConfig, parse_settings, settings_text
from maml_core.errors import ConfigError
from maml_core.fields import label
from maml_core.glossary import linked
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.formula import ANY_RANGE, RANGE_FIELD, FormulaFamily, read_formula
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.models import MODELS
from maml_core.learning.scale import far_from_unit
from maml_core.learning.table import find
from maml_core.learning.tasks import FAMILIES
from maml_core.presets import DEFAULT, PRESETS, get_preset
from pages.components.field_input import field_input, field_value, is_range, range_input, slider_input, widget_values
from pages.components.glossary_view import note
from pages.components.markup import as_text

PLAYED = ("inner_lr", "inner_steps", "shots")
"""Numbers that people come to play with: sliders, in sight; each can also be typed, further down."""

_VARIANTS: dict[str, tuple[str, Mapping[str, Any]]] = {"model": ("kind", MODELS), "tasks": ("family", FAMILIES)}
_PAGE_PARAMETERS = ("run", "preset", "task", "against", "hide", "lesson", "term", "insight")
"""Query parameters that the Lab page keeps for itself; all others are settings of the form."""


def config_form(*, hidden: bool = False) -> RunConfig | None:
    """Draw the form in the sidebar and return what it says; None, and a sentence on screen, if that breaks a rule.

    A `hidden` form says what it was filled with.
    """
    _start()
    if hidden:
        config: RunConfig = st.session_state["form"][0]
        _write_url(config)
        return config
    values: dict[str, Any] = {}
    with st.sidebar:
        _preset()
        _choose(values, "tasks")
        if values["tasks.family"] == "table":
            _table(values)
        elif values["tasks.family"] == "images":
            _images(values)
        _algorithm(values)
        for name in PLAYED:
            slider_input(name, RunConfig.model_fields[name], f"form.{name}")
        _choose(values, "model")
        st.caption("More settings", help="Everything that a run's numbers depend on; all of it is in the page's link.")
        _update_rule(values)
        with _fold("Tasks", ":material/scatter_plot:") as fold:
            _tasks(values, fold.open)
        with _fold("Training", ":material/tune:") as fold:
            _others(values, fold.open)
        with _fold("Exact numbers", ":material/123:") as fold:
            _exact(values, fold.open)
        try:
            config = get_preset(DEFAULT).config.with_settings(values)
        except ConfigError as error:
            st.error(str(error), icon=":material/error:")
            return None
        said = far_from_unit(config.tasks)
        if said:
            st.warning(said, icon=":material/straighten:")
    st.session_state["form"] = config, st.session_state["form.preset"]
    _write_url(config)
    return config


def load_config(config: RunConfig, preset: str | None = None) -> None:
    """Put a configuration into the form; in place of a user's own module, which it never offers, the default one."""
    if config.uses_own_model:
        config = config.with_settings({"model.kind": "mlp"})
    if preset in PRESETS:
        st.session_state["form.preset"] = preset
    for name, value in widget_values(config).items():
        st.session_state[f"form.{name}"] = value
    st.session_state["form"] = config, st.session_state.get("form.preset", DEFAULT)


def keep_for_form(config: RunConfig, preset: str | None) -> None:
    """Have the form show a configuration when its page is opened next."""
    st.session_state["form"] = config, preset if preset in PRESETS else DEFAULT
    st.session_state.pop("form.preset", None)


def _start() -> None:
    """Fill the form once a session from the URL, and again after another page, where widgets lose their state."""
    if "form.preset" in st.session_state:
        for key in [key for key in st.session_state if str(key).startswith("form.")]:
            st.session_state[key] = st.session_state[key]  # or what stood in a fold would be gone once it is closed
        return
    if "form" in st.session_state:
        config, preset = st.session_state["form"]
        load_config(config, preset)
        return
    query = st.query_params.to_dict()
    preset = query.get("preset", DEFAULT)
    try:
        base = get_preset(preset).config
        settings = parse_settings(f"{name}={text}" for name, text in query.items() if name not in _PAGE_PARAMETERS)
        config = base.with_settings(settings)
        config.model.check_loadable()
        load_config(config, preset)
    except ConfigError as error:
        st.warning(f"This link is not valid. {error} The default preset is shown.", icon=":material/link_off:")
        load_config(get_preset(DEFAULT).config, DEFAULT)


def _write_url(config: RunConfig) -> None:
    """Keep the URL in step: the preset, and what differs from it."""
    preset = st.session_state["form.preset"]
    changed = settings_text(config.settings_beyond(get_preset(preset).config))
    kept = {name: text for name, text in st.query_params.to_dict().items() if name in _PAGE_PARAMETERS}
    wanted = kept | {"preset": preset} | changed
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def _fold(title: str, icon: str) -> Any:
    """A part of the form that is drawn when it is opened: closed ones would cost every redraw, and the first most."""
    return st.expander(title, icon=icon, key=f"fold.{title}", on_change="rerun")


def _entry(name: str, field: FieldInfo, key: str, is_open: bool, title: str | None = None) -> Any:
    """What the input of a field in a fold says."""
    return field_input(name, field, key, title=title) if is_open else field_value(field, key)


def _preset() -> None:
    st.selectbox(
        "Preset",
        list(PRESETS),
        format_func=lambda name: PRESETS[name].title,
        key="form.preset",
        on_change=lambda: load_config(get_preset(st.session_state["form.preset"]).config),
        help="A named configuration to start from. Every value below can then be changed.",
    )
    preset = PRESETS[st.session_state["form.preset"]]
    if st.session_state["form.tasks.family"] in ("table", "images"):
        st.caption("Changed to suit your data.")
    else:
        note(preset.description + (f" Reached {preset.reached}." if preset.reached else ""))


def _choose(values: dict[str, Any], place: str) -> None:
    """A select box for the family or the model, and beside a model the sizes of its layers."""
    tag, registry = _VARIANTS[place]
    key = f"form.{place}.{tag}"
    chosen = st.selectbox(
        label(place if place == "tasks" else "network"),
        sorted(registry, key=lambda name: registry[name].order),
        format_func=lambda name: registry[name].title,
        key=key,
        help=linked(RunConfig.model_fields[place].description or ""),
        on_change=lambda: _load_defaults(place, registry[st.session_state[key]]),
    )
    values[f"{place}.{tag}"] = chosen
    sizes = registry[chosen].model_fields.get("hidden_sizes") if place == "model" else None
    if sizes:
        values["model.hidden_sizes"] = field_input("hidden_sizes", sizes, "form.model.hidden_sizes")


def _algorithm(values: dict[str, Any]) -> None:
    """Which algorithm, by its title."""
    values["algorithm"] = st.selectbox(
        "Algorithm",
        list(ALGORITHMS),
        format_func=lambda name: ALGORITHMS[name].title,
        key="form.algorithm",
        help=linked(RunConfig.model_fields["algorithm"].description or ""),
    )


def _update_rule(values: dict[str, Any]) -> None:
    """What the chosen algorithm does."""
    chosen = ALGORITHMS[values["algorithm"]]
    with _fold(f"{chosen.title}: its update rule", ":material/function:") as fold:
        if not fold.open:
            return
        st.latex(chosen.formula.replace(r",\qquad ", r",\\ ").replace(r",\ ", r",\\ "))
        if chosen.solves:
            note("One solution is all of adaptation: inner learning rate and inner steps change nothing.")
        note(f"{chosen.source}. The meta-optimizer, Adam, takes g.")


def _tasks(values: dict[str, Any], is_open: bool) -> None:
    """What tasks are drawn from: the family's formula, and a slider for each range."""
    family = FAMILIES[values["tasks.family"]]
    if values["tasks.family"] == "formula":
        _formula(values, is_open)
    elif issubclass(family, GeneratedFamily) and is_open:
        st.latex(family.latex)
    for name, field in family.model_fields.items():
        key = f"form.tasks.{name}"
        if name == "family" or f"tasks.{name}" in values:
            continue
        if not is_range(field):
            values[f"tasks.{name}"] = _entry(name, field, key, is_open)
        elif is_open:
            range_input(name, field, key)


def _others(values: dict[str, Any], is_open: bool) -> None:
    """The rest of the model's settings and of the run's."""
    kind = values["model.kind"]
    for name, field in MODELS[kind].model_fields.items():
        if name != "kind" and f"model.{name}" not in values:
            values[f"model.{name}"] = _entry(name, field, f"form.model.{name}", is_open)
    for name, field in RunConfig.model_fields.items():
        if name not in (*PLAYED, *_VARIANTS, "algorithm"):
            values[name] = _entry(name, field, f"form.{name}", is_open)


def _exact(values: dict[str, Any], is_open: bool) -> None:
    """What the sliders set, to be typed: beyond a slider's ends too."""
    for name in PLAYED:
        values[name] = _entry(name, RunConfig.model_fields[name], f"form.{name}", is_open)
    for name, field in FAMILIES[values["tasks.family"]].model_fields.items():
        if is_range(field):
            values[f"tasks.{name}"] = _entry(name, field, f"form.tasks.{name}", is_open)
    if values["tasks.family"] == "formula":
        names = list(values["tasks.parameters"])
        values["tasks.parameters"] = {
            name: _entry(name, RANGE_FIELD, f"form.tasks.parameters.{name}", is_open, title=name) for name in names
        }


def _table(values: dict[str, Any]) -> None:
    """Which table it is, and what its columns are for: chosen on the Data page."""
    given = {name: st.session_state[f"form.tasks.{name}"] for name in ("table", "task", "inputs", "outputs")}
    values |= {f"tasks.{name}": value for name, value in given.items()}
    outputs, inputs = (as_text(", ".join(given[part])) for part in ("outputs", "inputs"))
    _of_table(given["table"], f"{outputs} from {inputs}, for each {as_text(given['task'])}.")


def _images(values: dict[str, Any]) -> None:
    """Which images they are: chosen on the Data page."""
    values["tasks.table"] = st.session_state["form.tasks.table"]
    _of_table(values["tasks.table"], "which class is it?")


def _of_table(table_id: str, asked: str) -> None:
    """A table's name, what is asked of it, and the way to another."""
    try:
        name = find(table_id).name
    except ConfigError as error:
        st.warning(str(error), icon=":material/link_off:")
        name = table_id[:12]
    st.markdown(f"**{as_text(name)}**: {asked}")
    st.page_link(
        "pages/4_Data.py",
        label="Choose on the Data page",
        icon=":material/table:",
        query_params={"table": table_id},
    )


def _formula(values: dict[str, Any], is_open: bool) -> None:
    """The formula, and a range for each parameter that is in it."""
    fields = FormulaFamily.model_fields
    formula = values["tasks.formula"] = _entry("formula", fields["formula"], "form.tasks.formula", is_open)
    try:
        names = read_formula(formula).names
    except ConfigError:  # said where the whole configuration is checked
        values["tasks.parameters"] = {}
        return
    for name in names:
        for part, value in widget_values(ANY_RANGE).items():
            st.session_state.setdefault(f"form.tasks.parameters.{name}.{part}", value)
        if is_open:
            range_input(name, RANGE_FIELD, f"form.tasks.parameters.{name}", title=name, default=ANY_RANGE)
    values["tasks.parameters"] = dict.fromkeys(names)  # what each says is read where it can be typed


def _load_defaults(place: str, variant: type[Any]) -> None:
    for name, value in widget_values(variant()).items():
        st.session_state[f"form.{place}.{name}"] = value
