"""The Compare page."""

import pytest

from maml_core.config import RunConfig
from maml_core.store.run import Run
from maml_core.store.store import Store
from tests.conftest import wait_for
from tests.pages.test_pages import _fresh_server, open_page, press, query, said  # noqa: F401 (a fixture)
from tests.trained import trained

CONFIG = RunConfig(meta_iterations=20, meta_batch_size=2, shots=4, query_shots=4, engine="vectorized")


@pytest.fixture
def several(store: Store) -> list[Run]:
    for settings in ({"seed": 0}, {"seed": 1}, {"inner_lr": 0.02, "seed": 0}, {"inner_lr": 0.02, "seed": 1}):
        trained(store, CONFIG.with_settings(settings))
    return store.all_runs()


def test_runs_are_compared_without_being_asked(several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py")
    table = page.dataframe[1].value
    assert table["Runs"].tolist() == [2, 2]
    assert sorted(table["inner_lr"]) == ["0.01", "0.02"]
    best = [run.best_loss or 0.0 for run in several if run.config.inner_lr == 0.02]
    assert sum(best) / 2 == pytest.approx(table.set_index("inner_lr").loc["0.02", "Best on held-out tasks"])
    groups = page.selectbox(key="reference").options
    page.selectbox(key="reference").select(groups[0]).run()
    assert not page.exception
    assert set(page.dataframe[1].value["Shared seeds"]) == {2}
    page.selectbox(key="figure").select("last").run()
    page.selectbox(key="spread").select("range").run()
    assert not page.exception
    assert "Smallest to largest" in page.dataframe[1].value
    page.multiselect(key="by").select("seed").run()
    assert not page.exception
    assert sorted(page.dataframe[1].value["seed"]) == ["0", "1"]


@pytest.mark.slow
def test_a_link_names_the_runs_and_says_which_are_gone(several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py", runs=f"{several[0].id},{several[1].id},nope")
    assert page.dataframe[1].value["Runs"].tolist() == [2]
    assert query(page, "runs") == f"{several[0].id},{several[1].id}"
    assert "1 of the runs in the link do not exist here, nope among them" in said(page.warning[0])


def test_one_run_alone_and_words_that_find_nothing(several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py", runs=several[0].id)
    assert any("With runs that differ in a setting" in caption.value for caption in page.caption)
    page.text_input(key="search").input("nothing like this").run()
    assert not page.exception
    assert "No runs with these words" in said(page.info[0])


def test_a_grid_of_runs_is_asked_for_and_compared(store: Store, several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py")
    base = next(option for option in page.selectbox(key="sweep-base").options if several[0].id in option)
    page.selectbox(key="sweep-base").select(base).run()
    page.text_area(key="sweep-grid").input("inner_lr=0.03\n\nseed = 5, 6").run()
    press(page, "Train 2 runs")
    made = [run for run in store.all_runs() if run.config.inner_lr == 0.03]
    assert sorted(run.config.seed for run in made) == [5, 6]
    assert all(run.config.meta_iterations == 20 for run in made)  # as in the run that was chosen
    assert len({run.tags for run in made}) == 1
    assert sorted(query(page, "runs").split(",")) == sorted(run.id for run in made)
    press(page, "Train 2 runs")
    assert len(store.all_runs()) == len(several) + 2  # nothing twice


@pytest.mark.slow
def test_a_grid_that_breaks_a_rule_gets_a_sentence(several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py")
    for text, sentence in (
        ("seed", "seed is not allowed: it must be FIELD=VALUE,VALUE,..."),
        ("speed=1,2", "speed"),
        ("inner_lr=-1", "inner_lr = -1"),
        ("seed=1,1", "a value stands twice"),
        ("  ", "A sweep needs at least one FIELD=VALUE"),
    ):
        page.text_area(key="sweep-grid").input(text).run()
        assert not page.exception
        assert sentence in said(page.error[0])
        assert "--grid" not in said(page.error[0])
    page.text_area(key="sweep-grid").input(f"seed={','.join(map(str, range(300)))}").run()
    (start,) = (button for button in page.button if button.label == "Train 300 runs")
    assert start.disabled
    page.checkbox[0].check().run()
    (start,) = (button for button in page.button if button.label == "Train 300 runs")
    assert not start.disabled


@pytest.mark.slow
def test_a_search_is_asked_for_watched_and_compared(store: Store, several: list[Run]) -> None:
    page = open_page("pages/5_Compare.py")
    page.session_state["sweep-way"] = "Search by Optuna"
    page.run()
    base = next(option for option in page.selectbox(key="sweep-base").options if several[0].id in option)
    page.selectbox(key="sweep-base").select(base).run()
    for text, sentence in (
        ("inner_lr", "inner_lr is not allowed: it must be FIELD=LOW:HIGH"),
        (" ", "at least one FIELD"),
    ):
        page.text_area(key="search-spans").input(text).run()
        assert not page.exception
        assert sentence in said(page.error[0])
    page.text_area(key="search-spans").input("speed=1:2").run()
    press(page, "Search with 20 trials")
    assert "speed" in said(page.error[0])
    page.run()  # as a timer does that has found something to draw
    assert "speed" in said(page.error[0])
    page.text_area(key="search-spans").input("inner_lr=log:0.001:0.1").run()
    assert not page.error
    page.number_input(key="search-trials").set_value(2).run()
    press(page, "Search with 2 trials")
    wait_for(lambda: sum(run.tags.startswith("search-") and run.status == "finished" for run in store.all_runs()) == 2)
    page.run()
    wait_for(lambda: any("2 of 2 trials" in text.value for text in page.run().markdown))
    press(page, "Compare its runs")
    assert query(page, "search").startswith("search-")
    assert len(page.dataframe[0].value) == 2
