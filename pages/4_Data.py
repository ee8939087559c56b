"""Tables of the user's own, of rows or of images: add one, say what its columns are for, look at it, train on it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import streamlit as st

from maml_core.config import RunConfig
from maml_core.errors import ConfigError, MamlError
from maml_core.figures import classes_grid, rows_grid, rows_per_task
from maml_core.learning.fresh_rows import draw_training_rows
from maml_core.learning.image_files import ENDINGS, ReadImages, read_images, read_named
from maml_core.learning.own_images import training_samples
from maml_core.learning.table import MOST_BYTES, MOST_INPUTS, MOST_OUTPUTS, NAME_LENGTH, Table, find
from maml_core.learning.table_files import read_table
from maml_core.learning.table_roles import Roles, guess_roles
from maml_core.presets import config_for_images, config_for_table
from maml_core.store.tables import TableRow
from maml_core.training.session import TrainingSession, computing
from maml_core.words import counted
from pages.components.config_form import keep_for_form
from pages.components.frame import page
from pages.components.glossary_view import note
from pages.components.live_chart import live_chart
from pages.components.markup import as_text
from pages.components.run_view import act

DOZEN, COLUMNS, IMAGES_OF_CLASS = 12, 6, 9
FILE_TYPES = ["csv", "tsv", "txt", "gz", "parquet"]
KINDS = ("A table", "Images")


def add(session: TrainingSession) -> None:
    """Take a dropped file or folder, once, and show its table."""
    kind = st.segmented_control("Bring", KINDS, default=KINDS[0], key="bring", label_visibility="collapsed")
    if kind == KINDS[1]:
        left, right = st.columns(2)
        with left:
            packed = st.file_uploader(
                "Images as .zip or .npz",
                type=["zip", "npz"],
                max_upload_size=MOST_BYTES // 2**20,
                key=f"image file {st.session_state.get('taken')}",  # empty once it is taken
                help="A .zip holds a folder of images for each class, an .npz arrays such as images and labels, or "
                "x_train and y_train. They stay here, in the store, small and gray.",
            )
        with right:
            folder = st.file_uploader(
                "Or as a folder",
                type=[ending[1:] for ending in ENDINGS],
                accept_multiple_files="directory",
                max_upload_size=MOST_BYTES // 2**20,
                key=f"image folder {st.session_state.get('taken')}",
                help="A folder that holds a folder of images for each class.",
            )
        if packed:
            take(packed.file_id, lambda: read_images(packed.getvalue(), packed.name), session)
        elif folder:
            named = [(file.name, file.getvalue()) for file in folder]
            take(folder[0].file_id, lambda: read_named(named), session)
        return
    file = st.file_uploader(
        "Drop a table: a row for each measurement, a column that says which task it belongs to",
        type=FILE_TYPES,
        max_upload_size=MOST_BYTES // 2**20,
        key="table file",
        help="CSV (also with semicolons, tabs, decimal commas; gzip) or Parquet. It stays here, in the store.",
    )
    if file is not None:
        take(file.file_id, lambda: ReadImages(read_table(file.getvalue(), file.name), ""), session)


def take(file_id: str, read: Callable[[], ReadImages], session: TrainingSession) -> None:
    """Keep what was dropped, if it was not taken before, and show it."""
    if st.session_state.get("taken") == file_id:
        return
    st.session_state["taken"] = file_id

    def keep() -> None:
        table, said = read()  # of many images for a minute, in which others' pages go on
        if said:
            st.toast(as_text(said), icon=":material/filter_alt:", duration="long")
        roles = None
        with computing():
            try:
                if not table.is_of_images:
                    roles = guess_roles(table)
                    roles.family(table)
            except ConfigError as error:  # the reader chooses by hand
                st.toast(as_text(str(error)), icon=":material/help:")
                roles = None
            st.query_params["table"] = session.store.add_table(table, roles)

    act(keep)
    st.rerun()


def pick(session: TrainingSession) -> TableRow:
    """A select box over all tables, kept in the URL."""
    tables = {row.id: row for row in session.store.all_tables()}
    asked = st.query_params.get("table")
    if asked and asked not in tables:
        st.warning(f"table = {asked[:12]!r} is not in this store: the newest is shown.", icon=":material/link_off:")
    ids = list(tables)
    chosen = st.selectbox(
        "Table",
        ids,
        index=ids.index(asked) if asked in tables else 0,
        format_func=lambda table_id: f"{tables[table_id].name} · {tables[table_id].extent}",
        key=f"pick-{asked}-{[tables[table_id].name for table_id in ids]}",  # anew once one is renamed
    )
    st.query_params["table"] = chosen
    return tables[chosen]


def roles_form(session: TrainingSession, row: TableRow, table: Table) -> Roles | None:
    """What each column is for: as it was guessed or chosen before, to be changed."""
    names = [column.name for column in row.columns]
    roles = row.roles
    if roles is None:
        try:
            roles = guess_roles(table)
        except ConfigError as error:
            st.info(as_text(str(error)), icon=":material/help:")
    columns = st.columns([1, 2, 2])
    task = columns[0].selectbox(
        "Task",
        names,
        index=names.index(roles.task) if roles else None,
        key=f"task-{row.id}",
        placeholder="Which column?",
        help="Rows with the same value here belong to one task: a patient, a sensor, a school.",
    )
    inputs = columns[1].multiselect(
        "Inputs",
        [name for name in names if name != task],
        [name for name in (roles.inputs if roles else ()) if name != task],
        max_selections=MOST_INPUTS,
        key=f"inputs-{row.id}-{task}",
        help="What is known when predicting. A column of words becomes a number for each word.",
    )
    rest = [name for name in names if name != task and name not in inputs]
    outputs = columns[2].multiselect(
        "Output",
        rest,
        [name for name in (roles.outputs if roles else ()) if name in rest],
        max_selections=MOST_OUTPUTS,
        key=f"outputs-{row.id}-{task}-{len(inputs)}",
        help="What is to be predicted.",
    )
    if not (task and inputs and outputs):
        st.info("Choose the task, at least one input and an output.", icon=":material/edit:")
        return None
    chosen = Roles(task, tuple(inputs), tuple(outputs))
    if roles and chosen == replace(roles, why=""):
        if roles.why:
            st.caption(as_text(roles.why))
        return roles
    if row.created is not None and session.store.may_change(row.added_by):
        act(lambda: session.store.set_roles(row.id, chosen))
    return chosen


def pictures(config: RunConfig) -> None:
    """How many tasks there are of which size, a dozen of them, and what is left out."""
    family: Any = config.tasks
    with computing():
        found = family.summary(config.shots, config.query_shots)
        tasks = draw_training_rows(family, DOZEN)
    cards = st.columns(4)
    cards[0].metric("Tasks to train on", f"{found.training:,}")
    cards[1].metric("To choose the checkpoint", f"{found.validation:,}", help="Tasks that judge checkpoints.")
    cards[2].metric("Held out", f"{found.held_out:,}", help="Tasks that no run sees before it is measured on them.")
    cards[3].metric("Rows in a task", found.sizes)
    left_out = found.left_out()
    if left_out:
        st.caption(left_out)
    left, right = st.columns([3, 1])
    with left:
        along = 0
        if len(family.inputs) > 1:
            along = st.selectbox(
                "Drawn over",
                range(len(family.inputs)),
                format_func=lambda i: family.inputs[i],
                key="along",
                label_visibility="collapsed",
            )
        live_chart(
            rows_grid(tasks, along, columns=COLUMNS),
            key="tasks",
            revision=f"{family.table}:{along}",
            height=330,
            alt=f"A dozen tasks: {', '.join(family.outputs)} over {family.inputs[along]}",
        )
        st.caption(f"{as_text(family.outputs[0])} over {as_text(family.inputs[along])}, for twelve tasks.")
    with right:
        live_chart(
            rows_per_task(found.counts),
            key="sizes",
            revision=family.table,
            height=330,
            alt="How many tasks have how many rows",
        )


def image_pictures(config: RunConfig) -> None:
    """How many classes there are of how many images, and a dozen of them."""
    family: Any = config.tasks
    with computing():
        found = family.summary()
        samples = training_samples(family, DOZEN, IMAGES_OF_CLASS)
    cards = st.columns(4)
    cards[0].metric("Classes to train on", f"{found.training:,}")
    cards[1].metric("To choose the checkpoint", f"{found.validation:,}", help="Classes that judge checkpoints.")
    cards[2].metric("Held out", f"{found.held_out:,}", help="Classes that no run sees before it is measured on them.")
    cards[3].metric("Images in a class", found.sizes)
    if found.small:
        st.caption(f"Left out: {found.small:,} classes with fewer than {family.images_per_class} images.")
    left, right = st.columns([3, 1])
    with left:
        live_chart(
            classes_grid(samples, columns=COLUMNS),
            key="classes",
            revision=family.table,
            height=330,
            alt="Some classes to train on, nine images of each",
        )
        st.caption("Classes to train on, as the network sees them: small, gray, ink on paper.")
    with right:
        live_chart(
            rows_per_task(found.counts, rows="images", task="class", tasks="classes"),
            key="sizes",
            revision=family.table,
            height=330,
            alt="How many classes have how many images",
        )


def manage(session: TrainingSession, row: TableRow) -> None:
    """Rename a table, or delete it."""
    if row.created is None or not session.store.may_change(row.added_by):
        return
    with st.popover("Rename or delete", icon=":material/more_horiz:"):

        def rename() -> None:
            act(lambda: session.store.rename_table(row.id, st.session_state[f"table-name-{row.id}"]))

        st.text_input("Name", row.name, max_chars=NAME_LENGTH, key=f"table-name-{row.id}", on_change=rename)
        needed = session.store.runs_of_table(row.id)
        with_runs = False
        if needed:
            with_runs = st.checkbox(f"Delete the {len(needed)} runs that need it, too", key=f"with-runs-{row.id}")
        if st.button("Delete the table", icon=":material/delete:", disabled=bool(needed) and not with_runs):
            act(lambda: session.store.remove_table(row.id, with_runs=with_runs))
            st.query_params.pop("table", None)
            st.rerun()


@page("pages/4_Data.py")
def main(session: TrainingSession) -> None:
    """Lay the page out."""
    st.markdown("#### Train on your own tasks: a table of many small data sets, or images of many classes")
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        add(session)
    with right:
        row = pick(session)
    try:
        table = find(row.id)
        if row.is_of_images:
            with computing():
                config = config_for_images(table)
        else:
            roles = roles_form(session, row, table)
            if roles is None:
                manage(session, row)
                return
            config = config_for_table(roles.family(table))
    except MamlError as error:
        st.error(as_text(str(error)), icon=":material/error:")
        manage(session, row)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Train on these", type="primary", icon=":material/play_arrow:"):
            keep_for_form(config, None)
            st.switch_page("app.py")
        manage(session, row)
        what, whose = ("image", "of each class") if row.is_of_images else ("row", "per task")
        note(
            f"Opens the Lab with {counted(config.shots, what)} of support and {config.query_shots} of query {whose}. "
            "Everything can be changed there."
        )
    if row.is_of_images:
        image_pictures(config)
    else:
        pictures(config)


main()
