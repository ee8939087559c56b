"""Which rows of a table the Adapt page adapts to: those of a held-out task, in the URL, or the reader's own."""

import streamlit as st

from maml_core.errors import ConfigError
from maml_core.learning.fresh_rows import NewRows, RowTasks, draw_rows_tasks, held_out_names, read_new_rows
from maml_core.learning.table_tasks import TableFamily
from maml_core.training.session import computing
from pages.components.markup import as_text
from pages.components.task_source import task_seed

HELD_OUT, NEW = "Held-out task", "New rows"
_SUPPORT = "support rows"
"""The task and its support, as drawn or as asked for since: a click may come before the picture, or the link, tells."""
MOST_MIB = 8


def pick_rows(family: TableFamily, shots: int) -> tuple[RowTasks | None, NewRows | None]:
    """The controls; returns the task to adapt to, or None with a sentence on screen, and new rows where it is those.

    Raises:
        ConfigError: the table is not at hand, or has no held-out task with more rows than `shots`.
    """
    source = st.segmented_control(
        "Task", [HELD_OUT, NEW], default=HELD_OUT, key="row source", label_visibility="collapsed", width="stretch"
    )
    if source == NEW:
        st.query_params.pop("rows", None)
        return _new_rows(family)
    return _held_out(family, shots), None


def toggle_row(tasks: RowTasks, number: int | None) -> None:
    """Take a row into the support, or out of it: of that asked for last, which may not have been drawn yet."""
    task = tasks.tasks[0].label, tasks.tasks[0].seed
    known, support = st.session_state.get(_SUPPORT, (None, None))
    chosen = tasks.with_row_toggled(number, support if known == task else None) if number is not None else None
    if chosen:
        st.query_params["rows"] = ",".join(str(row) for row in chosen)
        st.session_state[_SUPPORT] = task, chosen


def _held_out(family: TableFamily, shots: int) -> RowTasks:
    """A held-out task by name, and which of its rows are the support."""
    with computing():
        names = held_out_names(family, shots)
    number = task_seed()

    def load(seed: int) -> None:
        st.query_params["task"] = str(seed)
        st.query_params.pop("rows", None)

    def chosen() -> None:
        load(names.index(st.session_state["held-out name"]))

    st.session_state["held-out name"] = names[number % len(names)]
    st.selectbox(f"Held-out {as_text(family.task)}", names, key="held-out name", on_change=chosen)
    st.button(
        "Other rows to learn from",
        icon=":material/casino:",
        width="stretch",
        help=f"Draw another {shots} rows of this task. A click on a row in the picture takes it in or out.",
        on_click=lambda: load(number + len(names)),
    )
    along: int | None = 0
    if family.input_size > 1:
        options = [None, *range(family.input_size)]
        along = st.selectbox(
            "Picture",
            options,
            format_func=lambda i: "predicted against true" if i is None else f"along {family.inputs[i]}",
            key="along input",
            help="Along one input, the others stay at the task's median.",
        )
    output = 0
    if family.output_size > 1:
        output = st.selectbox(
            "Output", range(family.output_size), format_func=lambda i: family.outputs[i], key="output"
        )
    asked = st.query_params.get("rows")
    with computing():
        try:
            support = [int(part) for part in asked.split(",")] if asked else None
            tasks = draw_rows_tasks(family, number, 1, shots, support=support, along=along, output=output)
        except (ValueError, ConfigError):
            st.query_params.pop("rows", None)
            st.warning("This link's rows are not of this task: a random support is shown.", icon=":material/link_off:")
            tasks = draw_rows_tasks(family, number, 1, shots, along=along, output=output)
    st.session_state[_SUPPORT] = (tasks.tasks[0].label, number), tasks.support_rows
    return tasks


def _new_rows(family: TableFamily) -> tuple[RowTasks | None, NewRows | None]:
    """Rows that are pasted or uploaded."""
    columns = ", ".join((*family.inputs, *family.outputs))
    st.caption(
        f"Rows of one new task, with the columns {as_text(columns)}. Rows with {as_text(', '.join(family.outputs))} "
        "are learned from; rows without are predicted."
    )
    file = st.file_uploader(
        "A file", type=["csv", "tsv", "txt", "parquet"], max_upload_size=MOST_MIB, key="new rows file"
    )
    text = st.text_area(
        "or pasted text, with the column names first",
        height=150,
        key="new rows",
        placeholder=f"{','.join((*family.inputs, *family.outputs))}\n",
    )
    data = file.getvalue() if file else text.encode()
    if not data.strip():
        return None, None
    try:
        with computing():
            found = read_new_rows(family, data, file.name if file else "pasted rows")
    except ConfigError as error:
        st.error(as_text(str(error)), icon=":material/edit:")
        return None, None
    return found.tasks, found
