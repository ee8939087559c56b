"""Runs on control, on every page."""

import pytest

from maml_core.evaluation.of_runs import measure
from maml_core.store.run import Run
from maml_core.store.store import Store
from pages.components.frame import PAGES
from tests.levels import levels
from tests.pages.test_pages import _fresh_server, open_page, query, said  # noqa: F401 (a fixture)
from tests.trained import trained_run

SMALL = {
    "meta_iterations": 2,
    "meta_batch_size": 2,
    "shots": 2,
    "query_shots": 2,
    "inner_steps": 1,
    "model.hidden_sizes": [8],
}


@pytest.fixture
def control(store: Store) -> Run:
    return trained_run(store, "navigation", SMALL)


@pytest.mark.parametrize("path", levels(PAGES, ["app.py", "pages/1_Adapt.py"], PAGES))
def test_every_page_takes_a_run_on_control(path: str, control: Run) -> None:
    page = open_page(path, run=control.id)
    assert not page.error


def test_adaptation_is_read_as_a_return_and_the_task_is_a_drawn_one(control: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=control.id, **{"p.goal_x": "0.3", "p.goal_y": "-0.4"})
    assert [metric.label for metric in page.metric] == [
        "Meta-learned, after 3 steps",
        "Random, after 3 steps",
        "Stand still",
    ]
    assert page.metric[-1].value == "−50"  # a hundred steps at a distance of one half
    assert "source" not in page.session_state  # there are no points of one's own
    assert [slider.label for slider in page.slider] == ["Goal x", "Goal y"]


@pytest.mark.slow
@pytest.mark.parametrize("view", ["How good, really", "Where it breaks", "A wall of fresh tasks"])
def test_every_view_opens_from_its_link(control: Run, view: str, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=control.id, view=view, tasks="10")
    assert not page.error
    if view == "How good, really":
        found = measure(store, control, tasks=10, steps=3).learned.error
        assert page.dataframe[0].value["learned"].tolist() == [-error for error in found]


def test_a_form_that_does_not_suit_control_says_why() -> None:
    page = open_page("app.py", **{"preset": "navigation", "shots": "1"})
    assert "shots = 1 is not allowed with tasks.family = navigation" in said(page.warning[0])
    page = open_page("app.py", **{"preset": "navigation", "algorithm": "ridge-head"})
    assert "algorithm = ridge-head is not allowed" in said(page.warning[0])
    page = open_page("app.py", preset="navigation", **{name: str(value) for name, value in SMALL.items()})
    page.selectbox(key="form.tasks.family").set_value("sine").run()
    assert "model.kind = policy is not allowed" in said(page.error[0])
    assert query(page, "preset") == "navigation"
