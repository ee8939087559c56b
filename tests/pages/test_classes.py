"""Runs on classes in the plane, on every page."""

import pytest
from streamlit.testing.v1 import AppTest

from maml_core.evaluation.of_runs import measure
from maml_core.store.run import Run
from maml_core.store.store import Store
from pages.components.frame import PAGES
from tests.lab import PATIENCE
from tests.levels import levels
from tests.pages.test_pages import _fresh_server, open_page, query, said  # noqa: F401 (a fixture)
from tests.trained import trained_run


@pytest.fixture
def classes(store: Store) -> Run:
    settings = {"meta_iterations": 20, "engine": "vectorized", "model.hidden_sizes": [16], "tasks.classes": 3}
    return trained_run(store, "spiral", settings)


@pytest.mark.parametrize("path", levels(PAGES, ["pages/1_Adapt.py", "pages/2_Runs.py"], PAGES))
def test_every_page_takes_a_run_on_classes(path: str, classes: Run) -> None:
    page = open_page(path, run=classes.id)
    assert not page.error


def test_the_form_has_the_familys_ranges_and_classes() -> None:
    page = open_page("app.py", preset="spiral")
    assert page.number_input(key="form.tasks.classes").value == 2
    page.number_input(key="form.tasks.classes").set_value(4).run()
    assert query(page, "tasks.classes") == "4"
    page = open_page("app.py", **{"preset": "spiral", "tasks.classes": "9"})
    assert "tasks.classes = 9 is not allowed" in said(page.warning[0])


def test_adaptation_is_read_as_accuracy(classes: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=classes.id)
    assert [metric.label for metric in page.metric] == [
        "Meta-learned, after 10 steps",
        "Random, after 10 steps",
        "Name one class",
    ]
    assert page.metric[-1].value == "33.3 %"


@pytest.mark.slow
@pytest.mark.parametrize("view", ["How good, really", "Where it breaks", "A wall of fresh tasks"])
def test_every_view_opens_from_its_link(classes: Run, view: str, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=classes.id, view=view, tasks="20")
    assert not page.error
    if view == "How good, really":
        found = measure(store, classes, tasks=20).learned.error
        assert page.dataframe[0].value["learned"].tolist() == [1 - error for error in found]
    if view == "Where it breaks":
        assert {page.selectbox(key="across").value, page.selectbox(key="up").value} == {"noise", "turns"}


def test_a_cell_of_the_map_opens_the_task_that_it_says(classes: Run) -> None:
    plain, moved = (
        open_page("pages/1_Adapt.py", run=classes.id, task="3", **given)
        for given in ({}, {"p.turns": "1.5", "p.noise": "0.05"})
    )
    assert [slider.label for slider in plain.slider if "phase" in slider.label.lower()] == ["Phase"]
    assert moved.slider(key="slider.turns").value == 1.5
    assert moved.slider(key="slider.noise").value == 0.05
    assert [metric.value for metric in moved.metric] != [metric.value for metric in plain.metric]
    assert any("Beyond the training range: noise, turns" in caption.value for caption in moved.caption)
    moved.slider(key="slider.phase").set_value(7.0).run()
    assert not any("phase" in caption.value for caption in moved.caption)  # an angle that comes around


def test_a_point_keeps_its_class_where_the_browser_was_not_told_of_it_yet() -> None:
    def clicks() -> None:
        import streamlit as st

        from pages.components.task_source import load_points

        load_points([[0, 1]], 3)
        del st.query_params["points"]
        st.session_state["class of a new point"] = 3
        load_points([[0, 1], [0.5, -1]], 3)

    assert query(AppTest.from_function(clicks, default_timeout=PATIENCE).run(), "points") == "0,1,1;0.5,-1,3"


def test_a_point_that_was_cleared_away_leaves_no_class_behind() -> None:
    def clicks() -> None:
        import streamlit as st

        from pages.components.task_source import load_points

        load_points([[0, 1]], 3)
        load_points([])
        st.session_state["class of a new point"] = 2
        load_points([[0, 1]], 3)

    assert query(AppTest.from_function(clicks, default_timeout=PATIENCE).run(), "points") == "0,1,2"


def test_points_of_ones_own_have_a_class(classes: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=classes.id, points="0,1,1;0,-1,2;1,0,3")
    assert page.metric[0].label.startswith("Meta-learned")
    assert any("3 points, where training used 15 per task" in caption.value for caption in page.caption)
    page.text_area[0].set_value("0, 1, 1\n0, -1, 2").run()
    assert query(page, "points") == "0,1,1;0,-1,2"
    page.text_area[0].set_value("0, 1, 1\n0, -1, 7").run()
    assert "its class must be a whole number from 1 to 3" in said(page.info[0])
    assert not page.exception


@pytest.mark.slow
def test_a_run_on_classes_is_compared_with_one_on_curves(classes: Run, store: Store) -> None:
    other = trained_run(store, "sine", {"meta_iterations": 20, "engine": "vectorized"})
    page = open_page("pages/5_Compare.py", runs=f"{classes.id},{other.id}")
    assert not page.error
    assert page.dataframe[1].value["Runs"].tolist() == [1, 1]
