"""The Data page, and the other pages with a run on a table."""

import pytest
from streamlit.testing.v1 import AppTest

from maml_core.learning.fresh_rows import held_out_names
from maml_core.learning.image_tables import IMAGE, signs, table_of_images
from maml_core.learning.table_tasks import TableFamily
from maml_core.presets import config_for_images, config_for_table
from maml_core.store.run import Run
from maml_core.store.store import Store
from pages.components.frame import PAGES
from tests.core.test_own_images import noise
from tests.core.test_tables import family_of, made
from tests.lab import PATIENCE
from tests.levels import levels
from tests.pages.test_pages import _fresh_server, open_page, press, query, said  # noqa: F401 (a fixture)
from tests.trained import trained


@pytest.fixture
def on_table(store: Store) -> Run:
    table = made(tasks=20, rows=10, inputs=2, outputs=2)
    store.add_table(table)
    config = config_for_table(family_of(table)).with_settings(
        {"meta_iterations": 20, "model.hidden_sizes": [6], "engine": "vectorized"}
    )
    return trained(store, config)


def test_an_example_is_there_at_first_sight() -> None:
    page = open_page("pages/4_Data.py")
    assert page.selectbox[0].value == query(page, "table")
    assert [metric.value for metric in page.metric[:3]] == ["42", "6", "12"]
    press(page, "Train on these")


def test_a_table_fills_the_form_of_the_lab(store: Store) -> None:
    table = made()
    store.add_table(table)
    page = open_page("pages/4_Data.py", table=table.id)
    assert not page.error
    assert [box.value for box in page.multiselect] == [["x0"], ["y0"]]
    press(page, "Train on these")
    page.switch_page("app.py").run()
    assert not page.exception
    form = page.session_state["form"][0]
    assert isinstance(form.tasks, TableFamily)
    assert form == config_for_table(family_of(table))
    assert query(page, "tasks.table") == table.id
    link = page.query_params.copy()
    again = open_page("app.py", **{name: text[0] if isinstance(text, list) else text for name, text in link.items()})
    assert not again.warning
    assert again.session_state["form"][0] == form


def test_roles_are_chosen_by_hand_and_kept(store: Store) -> None:
    table = made(inputs=2, outputs=2)
    store.add_table(table)
    page = open_page("pages/4_Data.py", table=table.id)
    page.multiselect[0].set_value(["x0"]).run()
    page.multiselect[1].set_value(["y0", "y1"]).run()
    assert not page.exception
    roles = store.table_row(table.id).roles
    assert roles is not None
    assert (roles.inputs, roles.outputs) == (("x0",), ("y0", "y1"))
    page.multiselect[1].set_value([]).run()
    assert "Choose the task, at least one input and an output." in said(page.info[0])


def test_a_table_without_tasks_gets_a_sentence_and_can_be_deleted(store: Store) -> None:
    from maml_core.learning.table_files import read_table

    table = read_table(b"a,b,c\n" + b"".join(f"{i},{i}.5,{i}.1\n".encode() for i in range(12)), "flat")
    store.add_table(table)
    page = open_page("pages/4_Data.py", table=table.id)
    assert "no column looks like a task" in said(page.info[0])
    page.selectbox[1].set_value("a").run()
    page.multiselect[0].set_value(["b"]).run()
    page.multiselect[1].set_value(["c"]).run()
    assert "another value in every row" in said(page.error[0])
    press(page, "Delete the table")
    assert [row.created for row in store.all_tables()] == [None, None]


def test_a_table_that_runs_need_is_deleted_with_them_alone(store: Store, on_table: Run) -> None:
    page = open_page("pages/4_Data.py")
    button = next(button for button in page.button if button.label == "Delete the table")
    assert button.disabled
    page.checkbox[0].check().run()
    press(page, "Delete the table")
    assert store.all_runs() == []


def test_a_link_to_a_table_that_is_not_here_gets_a_sentence() -> None:
    page = open_page("pages/4_Data.py", table="0" * 64)
    assert "is not in this store" in said(page.warning[0])


@pytest.mark.parametrize("path", levels(PAGES, ["pages/1_Adapt.py", "pages/4_Data.py", "pages/5_Compare.py"], PAGES))
def test_every_page_shows_a_run_on_a_table(path: str, on_table: Run) -> None:
    page = open_page(path, run=on_table.id)
    assert not page.error


def test_adapt_goes_through_the_held_out_tasks(on_table: Run) -> None:
    assert isinstance(on_table.config.tasks, TableFamily)
    names = held_out_names(on_table.config.tasks, on_table.config.shots)
    page = open_page("pages/1_Adapt.py", run=on_table.id)
    box = next(box for box in page.selectbox if box.label == "Held-out subject")
    assert box.options == names
    box.set_value(names[2]).run()
    assert query(page, "task") == "2"
    press(page, "Other rows to learn from")
    assert query(page, "task") == str(2 + len(names))
    assert next(box for box in page.selectbox if box.label == "Held-out subject").value == names[2]
    next(box for box in page.selectbox if box.label == "Picture").set_value(1).run()
    next(box for box in page.selectbox if box.label == "Output").set_value(1).run()
    assert not page.exception
    page = open_page("pages/1_Adapt.py", run=on_table.id, rows="1,2,77")
    assert "rows are not of this task" in said(page.warning[0])


@pytest.mark.slow
@pytest.mark.parametrize("view", ["Is it worth it?", "A wall of fresh tasks", "Where it breaks"])
def test_every_view_of_a_run_on_a_table_opens_from_its_link(on_table: Run, view: str) -> None:
    page = open_page("pages/1_Adapt.py", run=on_table.id, view=view)
    assert not page.error
    if view == "Is it worth it?":
        assert any("held-out tasks (subject)" in text.value for text in page.markdown)
        assert any("a line per task" in str(frame.value.index.tolist()) for frame in page.dataframe)


def test_new_rows_are_predicted(on_table: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=on_table.id)
    page.segmented_control(key="row source").set_value("New rows").run()
    assert "Paste rows in the sidebar" in said(page.info[0])
    page.text_area[0].set_value("x0,x1,y0,y1\n1,2,3,4\n2,1,,\n").run()
    assert not page.exception
    assert not page.error
    assert {"predicted y0", "predicted y1"} <= set(page.dataframe[0].value)
    page.text_area[0].set_value("x0,y0,y1\n1,2,3\n").run()
    assert "'x1' is not a column" in said(page.error[0])


def test_a_formula_is_typed_in_the_form() -> None:
    page = open_page("app.py", **{"tasks.family": "formula", "tasks.formula": "a*x + q*x**2"})
    assert all("Outputs reach" in warning.value for warning in page.warning)  # nothing is wrong with the formula
    labels = [box.label for box in page.number_input]
    assert {"a from", "q from"} <= set(labels)
    page.text_input(key="form.tasks.formula").set_value("a*sin(").run()
    assert "position" in said(page.error[0])
    page.text_input(key="form.tasks.formula").set_value("c*x + a").run()
    assert not page.error
    assert "c from" in [box.label for box in page.number_input]
    assert page.session_state["form"][0].tasks.formula == "c*x + a"
    page.number_input(key="form.tasks.parameters.c.high").set_value(7.0).run()
    assert '"c": [-2.0, 7.0]' in query(page, "tasks.parameters")


def test_images_show_their_classes_and_fill_the_form(store: Store) -> None:
    page = open_page("pages/4_Data.py", table=signs().id)
    assert not page.error
    assert [metric.value for metric in page.metric] == ["24", "8", "8", "20"]
    assert "1 image of" in page.caption[0].value
    press(page, "Train on these")
    page.switch_page("app.py").run()
    assert not page.exception
    assert page.session_state["form"][0] == config_for_images(signs())
    assert any("signs" in each.value and "which class is it?" in each.value for each in page.markdown)
    link = page.query_params.copy()
    again = open_page("app.py", **{name: text[0] if isinstance(text, list) else text for name, text in link.items()})
    assert not again.warning
    assert again.session_state["form"][0] == config_for_images(signs())


def test_too_few_images_get_a_sentence_and_can_be_deleted(store: Store) -> None:
    table = table_of_images("few", [f"c{number // 2}" for number in range(6)], noise().images(IMAGE)[:6])
    store.add_table(table)
    page = open_page("pages/4_Data.py", table=table.id)
    assert "needs so many of each" in said(page.error[0])
    press(page, "Delete the table")
    assert store.all_tables()[0].id != table.id


@pytest.fixture
def on_images(store: Store) -> Run:
    table = noise()
    store.add_table(table)
    config = config_for_images(table).with_settings(
        {"meta_iterations": 4, "meta_batch_size": 2, "tasks.size": 12, "model.channels": 4, "model.blocks": 2}
    )
    return trained(store, config)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_every_page_takes_a_run_on_ones_own_images(path: str, on_images: Run) -> None:
    assert not open_page(path, run=on_images.id).error


VIEWS = ["Replay", "How good, really", "Where it breaks", "A wall of fresh tasks", "You against the network"]


@pytest.mark.parametrize("view", levels(VIEWS, ["Replay"], VIEWS))
def test_every_view_takes_ones_own_images(on_images: Run, view: str) -> None:
    page = open_page("pages/1_Adapt.py", run=on_images.id, view=view, tasks="10")
    assert not page.error
    assert "source" not in [each.key for each in page.get("button_group")]  # neither points nor drawings are offered


@pytest.mark.slow
def test_more_shots_than_there_are_images_get_a_sentence(on_images: Run) -> None:
    assert not open_page("pages/1_Adapt.py", run=on_images.id, shots="7").error  # one is left to be asked about
    page = open_page("pages/1_Adapt.py", run=on_images.id, shots="8")
    assert "tasks.images_per_class" in said(page.error[0])


def test_rows_are_clicked_faster_than_the_picture_and_the_link_follow() -> None:
    def clicks() -> None:
        import streamlit as st
        import torch

        from maml_core.learning.fresh_rows import RowTask, RowTasks
        from pages.components.row_source import toggle_row

        column = torch.zeros(5, 1)
        drawn = RowTasks([RowTask("one", 0, column, column, torch.tensor([0, 1]))], ("x",), ("y",), None)  # type: ignore[arg-type]
        toggle_row(drawn, 3)
        del st.query_params["rows"]
        toggle_row(drawn, 0)

    assert query(AppTest.from_function(clicks, default_timeout=PATIENCE).run(), "rows") == "1,3"
