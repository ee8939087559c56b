"""Which task the Adapt page adapts to: a drawn one, moved by sliders, or points of the reader's own; in the URL."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from maml_core.errors import ConfigError
from maml_core.fields import label
from maml_core.learning.fresh_tasks import Tasks, draw_task, drawn_parameters, movable, varying
from maml_core.learning.generated import GeneratedFamily
from maml_core.learning.own_drawings import classes_to_draw, drawings_task, read_drawings
from maml_core.learning.own_points import (
    can_place,
    classes_of,
    columns_of,
    link_of_points,
    points_in,
    points_of_link,
    points_task,
    read_points,
    with_classes,
)
from maml_core.learning.scale import beyond_training
from pages.components.markup import as_text
from pages.components.run_view import query_number

DRAWN, OWN = "Drawn task", "My points"
_PREFIX = "p."
STRIDE = 13
"""Seeds from one roll of the dice to the next: the task itself, and the wall of fresh ones after it."""


def task_seed() -> int:
    """Which fresh task is shown, or the first of several, from the URL."""
    return query_number("task", 0, 0, 10**9)


_NEW_CLASS = "class of a new point"
_PLACED = "placed points"
"""The run and those placed last, with their classes: who clicks fast sends some before the link tells of the others."""

_REFUSED = "refused points"
"""Where typed points that cannot be read wait, with the reason, until they are corrected."""


def load_task(seed: int, given: dict[str, float] | None = None) -> None:
    """Show the fresh task of that seed, with some parameters replaced."""
    for name in [name for name in st.query_params if name.startswith(_PREFIX)]:
        del st.query_params[name]
    for name in ("points", "drawn", "rows"):
        st.query_params.pop(name, None)
    st.session_state.pop(_PLACED, None)
    st.query_params["task"] = str(seed)
    for name, value in (given or {}).items():
        st.query_params[_PREFIX + name] = f"{value:.6g}"
    _forget_sliders()
    st.session_state["source"] = DRAWN


def load_points(points: Sequence[Sequence[float]], classes: int = 0) -> None:
    """Show points of the reader's own; one that was placed by hand has no class yet, and gets the chosen one."""
    if classes:
        run, known = st.session_state.get(_PLACED, ("", []))
        if run != st.query_params.get("run"):
            known = points_in(points_of_link(st.query_params.get("points", "")), classes)
        points = with_classes(points, known, st.session_state.get(_NEW_CLASS) or 1)
    st.session_state[_PLACED] = st.query_params.get("run"), [tuple(point) for point in points]
    st.query_params["points"] = link_of_points(points)
    st.session_state.pop(_REFUSED, None)
    st.session_state["source"] = OWN


def pick_task(family: GeneratedFamily, shots: int) -> tuple[Tasks | None, list[list[float]] | None, dict[str, float]]:
    """The controls; returns the task, or None with a sentence on screen, the points in edit, and given parameters."""
    source = _source(family) if can_place(family) or classes_to_draw(family) else DRAWN
    tasks, points, given = None, None, {}
    if source == OWN and classes_to_draw(family):
        st.query_params.pop("points", None)
        tasks = _own_drawings(family)
    elif source == OWN:
        st.query_params.pop("drawn", None)
        tasks, points = _own_points(family)
    else:
        st.query_params.pop("points", None)
        st.query_params.pop("drawn", None)
        st.session_state.pop(_PLACED, None)
        given = _sliders(family)
        tasks = draw_task(family, task_seed(), shots, given)
    _kept(tasks, family)
    return tasks, points, given


def _source(family: GeneratedFamily) -> str | None:
    """Whether the task is a drawn one or the reader's own."""
    own, place = ("My drawings", "drawn") if classes_to_draw(family) else (OWN, "points")
    return st.segmented_control(
        "Task",
        [DRAWN, OWN],
        default=OWN if place in st.query_params else DRAWN,
        format_func={DRAWN: DRAWN, OWN: own}.__getitem__,
        key="source",
        label_visibility="collapsed",
        width="stretch",
    )


def _sliders(family: GeneratedFamily) -> dict[str, float]:
    """A slider for each parameter that varies, reaching beyond the training range; what differs from the draw."""
    drawn = drawn_parameters(family, task_seed())
    st.button(
        "New task",
        icon=":material/casino:",
        width="stretch",
        help="Draw another task of the family.",
        on_click=lambda: load_task(task_seed() + STRIDE),
    )
    given = {}
    chosen = [name for name in movable(family) if name not in varying(family) and _PREFIX + name in st.query_params]
    for name in [*varying(family), *chosen]:  # one that is the same in all tasks is there once the map has moved it
        low, high = family.distributions[name].span
        least, most = family.around(name)
        start = query_number(_PREFIX + name, drawn[name], least, most)
        key = f"slider.{name}"
        if key not in st.session_state:
            st.session_state[key] = float(min(max(start, least), most))
        value = st.slider(
            label(name),
            least,
            most,
            step=(most - least) / 400,
            key=key,
            format="%.3g",
            help=f"Trained on {low:g} to {high:g}.",
        )
        if abs(value - drawn[name]) > 1e-9:
            given[name] = value
            st.query_params[_PREFIX + name] = f"{value:.6g}"
    outside = [
        name
        for name, value in given.items()
        if (name in chosen or family.ends_somewhere(name))
        and not family.distributions[name].span[0] <= value <= family.distributions[name].span[1]
    ]
    if outside:
        st.caption(f"Beyond the training range: {', '.join(outside)}.")
    return given


def _own_points(family: GeneratedFamily) -> tuple[Tasks | None, list[list[float]]]:
    link = points_of_link(st.query_params.get("points", ""))
    text, trouble = st.session_state.get(_REFUSED, (link, None))
    classes = classes_of(family)
    st.caption("Click in the picture to add a point, drag to move it, click it to delete it.")
    if classes:
        st.segmented_control(
            "Class of a new point", range(1, classes + 1), default=1, required=True, key=_NEW_CLASS, width="stretch"
        )
    st.text_area(
        f"Points: {', '.join(columns_of(classes))}",
        value=text,
        height=150,
        key=f"points-{text}",
        placeholder="-0.5, 1, 1\n0.5, 1, 2" if classes else "-2, 1.5\n0, 0\n2, -1.5",
        help="One point per line; any separator, decimals with a point or a comma.",
        on_change=_paste,
        args=(f"points-{text}", classes),
    )
    st.button("Clear", icon=":material/delete:", width="stretch", disabled=not text, on_click=lambda: load_points([]))
    try:
        points = read_points(link, classes)
    except ConfigError as error:
        if link.strip() or trouble:
            st.info(as_text(trouble or str(error)), icon=":material/edit:")
        return None, [list(point) for point in points_in(link, classes)]
    if trouble:
        st.info(as_text(trouble), icon=":material/edit:")
    said = beyond_training(family, points)
    if said:
        st.warning(said, icon=":material/straighten:")
    return points_task(family, points), [list(point) for point in points]


def drawn() -> str | None:
    """The reader's drawings as they stand in the URL; None where a drawn task is looked at."""
    return st.query_params.get("drawn", "") if st.session_state.get("source") == OWN else None


def load_drawings(text: str) -> None:
    """Show drawings of the reader's own."""
    st.query_params["drawn"] = text
    st.session_state["source"] = OWN


def _own_drawings(family: GeneratedFamily) -> Tasks | None:
    st.caption("Draw in the boxes: one of each class, and then one of them again.")
    text = drawn() or ""
    st.button("Clear", icon=":material/delete:", width="stretch", disabled=not text, on_click=lambda: load_drawings(""))
    try:
        drawings = read_drawings(text, classes_to_draw(family))
        if not drawings.missing:
            return drawings_task(family, drawings)
        said = drawings.missing
    except ConfigError as error:
        said = str(error)
    st.info(as_text(said), icon=":material/draw:")
    return None


def _paste(key: str, classes: int) -> None:
    """Take over what was typed; what cannot be read stays there with the reason, and the points are as they were."""
    text = st.session_state[key]
    if key == f"points-{text}":  # an earlier box, sent once more by a browser that has not been told that it is gone
        return
    try:
        load_points([list(point) for point in read_points(text, classes)])
    except ConfigError as error:
        few = points_in(text, classes)
        if text.strip() and not few:
            st.session_state[_REFUSED] = text, str(error)
        else:
            load_points([list(point) for point in few])


def _kept(tasks: Tasks | None, family: GeneratedFamily) -> None:
    """Tasks put aside, to switch between: those that runs of this kind can take."""
    kept: dict[str, dict[str, Any]] = st.session_state.setdefault("kept", {})
    if st.button("Keep this task", icon=":material/bookmark_add:", width="stretch", disabled=tasks is None) and tasks:
        here = {
            name: text
            for name, text in st.query_params.items()
            if name in ("task", "points", "drawn") or name[:2] == _PREFIX
        }
        kept[f"{len(kept) + 1}: {tasks.labels[0]}"] = here
    other = "points" if classes_to_draw(family) else "drawn"
    fitting = {name: task for name, task in kept.items() if other not in task}
    if fitting:
        st.selectbox(
            "Kept tasks",
            list(fitting),
            index=None,
            placeholder="Go back to a kept task",
            key="back",
            on_change=_go_back,
            args=(fitting,),
            label_visibility="collapsed",
        )


def _go_back(kept: dict[str, dict[str, Any]]) -> None:
    chosen = kept.get(st.session_state["back"] or "")
    if chosen is None:
        return
    load_task(int(chosen.get("task", 0)))
    st.query_params.update(chosen)
    st.session_state["source"] = OWN if {"points", "drawn"} & set(chosen) else DRAWN


def _forget_sliders() -> None:
    for key in [key for key in st.session_state if str(key).startswith("slider.")]:
        del st.session_state[key]
