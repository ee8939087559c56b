"""Runs on images, on every page; drawings of the reader's own, and the contest."""

import pytest

from maml_core.evaluation.of_runs import learned_by, measure
from maml_core.figures import quiz_of
from maml_core.learning.adaptation import fit_tasks
from maml_core.learning.fresh_tasks import draw_task, draw_tasks
from maml_core.learning.glyphs import Glyphs
from maml_core.store.run import Run
from maml_core.store.store import Store
from pages.components.frame import PAGES
from tests.core.test_glyphs import TEXT
from tests.levels import levels
from tests.pages.test_pages import _fresh_server, open_page, query, said  # noqa: F401 (a fixture)
from tests.trained import trained_run

SETTINGS = {
    "meta_iterations": 4,
    "meta_batch_size": 2,
    "engine": "vectorized",
    "tasks.size": 12,
    "model.channels": 4,
    "model.blocks": 2,
}


@pytest.fixture
def images(store: Store) -> Run:
    return trained_run(store, "glyphs", SETTINGS)


@pytest.mark.parametrize("path", levels(PAGES, ["app.py", "pages/3_Gradients.py"], PAGES))
def test_every_page_takes_a_run_on_images(path: str, images: Run) -> None:
    assert not open_page(path, run=images.id).error


def test_adaptation_is_read_beside_nearest_means(images: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id)
    assert [metric.label for metric in page.metric] == [
        "Meta-learned, after 10 steps",
        "Random, after 10 steps",
        "Nearest class mean of pixels",
        "Nearest class mean of learned features",
        "Name one class",
    ]
    assert page.metric[-1].value == "20 %"


@pytest.mark.slow
@pytest.mark.parametrize("view", ["How good, really", "Where it breaks", "A wall of fresh tasks"])
def test_every_view_opens_from_its_link(images: Run, view: str, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, view=view, tasks="10")
    assert not page.error
    if view == "How good, really":
        found = measure(store, images, tasks=10).learned.error
        assert page.dataframe[0].value["learned"].tolist() == [1 - error for error in found]
    if view == "Where it breaks":
        assert {page.selectbox(key="across").value, page.selectbox(key="up").value} == {"turn", "stretch"}


@pytest.mark.slow
def test_drawings_of_ones_own_are_named(images: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, drawn=TEXT)
    assert [metric.label for metric in page.metric] == ["Meta-learned, after 10 steps", "Random, after 10 steps"]
    assert page.metric[0].value.startswith("class ")
    next(button for button in page.button if button.label == "Clear").click().run()
    assert query(page, "drawn") == ""
    assert not page.metric
    assert any("Draw classes 1, 2, 3, 4, 5" in said(info) for info in page.info)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("AA~BB~~~~", "Draw classes 3, 4, 5: anything, once."),
        ("%~~~~~", "drawing 1 is not one that was made here"),
        ("AA~BB", "drawn = 2 drawings is not allowed"),
    ],
)
def test_a_link_with_too_few_drawings_or_none_says_so(images: Run, text: str, sentence: str) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, drawn=text)
    assert not page.exception
    assert any(sentence in said(info) for info in page.info)


def test_the_reader_names_images_first_and_then_sees_the_network(images: Run, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, view="You against the network", steps="2")
    answers = [button for button in page.button if button.label.startswith("Class ")]
    assert len(answers) == 5
    assert any("1 of 6: which of them is this?" in markdown.value for markdown in page.markdown)
    assert not any("network after" in markdown.value for markdown in page.markdown)  # nothing is given away
    learned = learned_by(store, images)
    assert learned is not None
    quiz = quiz_of(fit_tasks(learned, draw_tasks(images.config.tasks, 0, 1, images.config.shots), 2)[0])
    assert quiz is not None
    for _ in quiz.questions:
        page.button(key="answer-0").click().run()
    assert any(quiz.verdict([0] * 6) in markdown.value for markdown in page.markdown)
    assert page.button(key="answer-0").disabled
    next(button for button in page.button if button.label == "Again, from the start").click().run()
    assert any("1 of 6" in markdown.value for markdown in page.markdown)


def test_the_contest_is_about_the_task_that_the_sidebar_says(images: Run, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, view="You against the network", steps="2", **{"p.draw": "0.25"})
    learned, family = learned_by(store, images), images.config.tasks
    assert learned is not None
    assert isinstance(family, Glyphs)
    moved, plain = (quiz_of(fit_tasks(learned, draw_task(family, 0, 1, given), 2)[0]) for given in ({"draw": 0.25}, {}))
    assert moved is not None
    assert plain is not None
    rights = [question.right for question in moved.questions]
    for right in rights:
        page.button(key=f"answer-{right}").click().run()
    said_last = [markdown.value for markdown in page.markdown]
    assert any(moved.verdict(rights) in text for text in said_last)
    assert moved.questions[0].picture != plain.questions[0].picture


@pytest.mark.slow
def test_a_second_click_before_the_first_is_answered_counts_for_nothing(images: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=images.id, view="You against the network", steps="2")
    page.button(key="answer-0").click().run()
    assert page.session_state["answers"] == [0]
    page.session_state["answers"] = [0, 1]  # the page that was clicked on is of the question before
    page.button(key="answer-0").click().run()
    assert page.session_state["answers"] == [0, 1]


def test_runs_on_curves_have_no_contest(store: Store) -> None:
    run = trained_run(store, "sine", {"meta_iterations": 5, "engine": "vectorized"})
    page = open_page("pages/1_Adapt.py", run=run.id, view="You against the network")
    assert page.segmented_control(key="view").options == [
        "Replay",
        "How good, really",
        "Where it breaks",
        "A wall of fresh tasks",
    ]


def test_drawings_in_a_link_do_not_make_points_of_a_run_on_curves(store: Store) -> None:
    run = trained_run(store, "sine", {"meta_iterations": 5, "engine": "vectorized"})
    page = open_page("pages/1_Adapt.py", run=run.id, drawn=TEXT)
    assert page.segmented_control(key="source").value == "Drawn task"
    assert query(page, "drawn") == ""
