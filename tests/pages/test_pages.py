"""Each page through AppTest: empty and with runs, and each button."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from maml_core.evaluation.of_runs import measure, pretrained_run
from maml_core.glossary import linked
from maml_core.learning.formula import FormulaFamily
from maml_core.learning.own_model import own_models
from maml_core.learning.tasks import Uniform
from maml_core.lessons import LESSONS
from maml_core.presets import PRESETS
from maml_core.processes import this_process
from maml_core.store.run import Run
from maml_core.store.store import Store
from maml_core.training.background import THREADS
from maml_core.training.stretch import train_run
from maml_core.training.workers import workers_of
from pages.components.frame import PAGES, REFUSED, training_session
from tests.conftest import PATIENCE, ROOT, wait_for
from tests.core.test_fields import Everything
from tests.levels import levels
from tests.trained import trained


@pytest.fixture(autouse=True)
def _fresh_server(store_url: str) -> Iterator[None]:
    training_session.clear()
    yield
    for thread in threading.enumerate():  # torch traces in one thread at a time: the next test is to be alone
        if thread.name.startswith(THREADS):
            thread.join(PATIENCE)
    for worker in workers_of():
        worker.kill()
    wait_for(lambda: not workers_of())
    training_session.clear()


@pytest.fixture
def finished(store: Store) -> Run:
    config = PRESETS["sine"].config.with_settings({"meta_iterations": 30})
    return trained(store, config, preset="sine")


FOLDS = ("Tasks", "Training", "Exact numbers")
"""Parts of the form that are drawn when they are opened."""

SOME_PRESETS = ("linear", "best-5-shot", "ridge-random-frequency", "spiral-tight", "navigation", "glyphs")
"""One of each kind."""


def open_page(path: str, *, folds: Iterable[str] = FOLDS, **query: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "app.py"), default_timeout=PATIENCE)
    for fold in folds if path == "app.py" else ():
        page.session_state[f"fold.{fold}"] = True
    if path != "app.py":
        page.switch_page(path)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def press(page: AppTest, label: str) -> AppTest:
    button = next(button for button in page.button if button.label == label)
    assert not button.disabled
    button.click().run()
    assert not page.exception
    return page


def said(element: Any) -> str:
    """A message as a reader sees it: without the marks that keep its text from being read as markup."""
    return str(element.value).replace("\\", "").replace("\u2060", "")


def query(page: AppTest, name: str) -> str:
    value = page.query_params.get(name, "")
    return str(value[0] if isinstance(value, list) else value)


@pytest.mark.parametrize("path", PAGES)
def test_empty_pages_say_what_to_do_next(path: str) -> None:
    page = open_page(path)
    text = " ".join(str(element.value) for element in [*page.info, *page.markdown])
    assert "Train" in text


@pytest.mark.parametrize("path", PAGES)
def test_pages_with_a_run(path: str, finished: Run) -> None:
    page = open_page(path, run=finished.id)
    assert not page.error
    assert not page.warning


@pytest.mark.parametrize("path", ["app.py", "pages/1_Adapt.py"])
def test_a_run_that_does_not_exist_gets_a_sentence(path: str, finished: Run) -> None:
    page = open_page(path, run="nope")
    assert "'nope' does not exist" in said(page.warning[0])


def test_the_form_has_every_field_with_its_bounds() -> None:
    page = open_page("app.py")
    shots = page.number_input(key="form.shots")
    assert (shots.min, shots.max, shots.value) == (1, 1000, 10)
    for name in ("inner_lr", "inner_steps", "meta_lr", "meta_batch_size", "meta_iterations", "query_shots", "seed"):
        assert page.number_input(key=f"form.{name}").help
    for name in ("model.kind", "tasks.family", "model.activation", "algorithm", "engine", "device", "schedule"):
        assert page.selectbox(key=f"form.{name}").options


@pytest.mark.parametrize("preset", levels(PRESETS, SOME_PRESETS))
def test_a_preset_fills_the_form(preset: str) -> None:
    page = open_page("app.py")
    page.selectbox(key="form.preset").select(preset).run()
    assert not page.exception
    config = PRESETS[preset].config
    assert page.number_input(key="form.meta_iterations").value == config.meta_iterations
    assert page.selectbox(key="form.tasks.family").value == config.tasks.family
    assert page.session_state["form"][0] == config
    assert query(page, "preset") == preset


def test_changes_go_into_the_url_and_come_back_from_it() -> None:
    page = open_page("app.py")
    page.number_input(key="form.inner_lr").set_value(0.05).run()
    page.number_input(key="form.tasks.amplitude.high").set_value(4.0).run()
    page.text_input(key="form.model.hidden_sizes").set_value("32, 16").run()
    assert not page.exception
    link = {name: query(page, name) or "" for name in page.query_params}
    assert (link["inner_lr"], json.loads(link["tasks.amplitude"])) == ("0.05", [0.1, 4.0])
    again = open_page("app.py", **link)
    assert again.session_state["form"][0] == page.session_state["form"][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("preset", "nope"), ("inner_lr", "-1"), ("inner_lr", "many"), ("wings", "2"), ("tasks.family", "moons")],
)
def test_a_bad_link_gets_a_sentence_and_the_page_works(name: str, value: str) -> None:
    page = open_page("app.py", **{name: value})
    assert "is not valid" in said(page.warning[0])
    assert name in said(page.warning[0])


def test_a_bad_value_gets_a_sentence_and_train_waits() -> None:
    page = open_page("app.py")
    page.text_input(key="form.model.hidden_sizes").set_value("wide").run()
    assert not page.exception
    assert "model.hidden_sizes = 'wide'" in said(page.error[0])
    assert next(button for button in page.button if button.label == "Train").disabled
    page.number_input(key="form.tasks.amplitude.low").set_value(9.0)
    page.text_input(key="form.model.hidden_sizes").set_value("64").run()
    assert "low <= high" in said(page.error[0])


def test_a_network_too_large_is_refused_with_the_figure() -> None:
    page = open_page("app.py")
    page.text_input(key="form.model.hidden_sizes").set_value("65536, 65536").run()
    assert "GiB" in said(page.error[0])


def test_a_link_to_a_run_fills_the_form_with_its_configuration(store: Store) -> None:
    config = PRESETS["linear"].config.with_settings({"inner_lr": 0.03})
    page = open_page("app.py", run=store.create_run(config, preset="linear"))
    assert page.session_state["form"] == (config, "linear")


def test_change_of_family_brings_its_fields() -> None:
    page = open_page("app.py")
    page.selectbox(key="form.tasks.family").select("line").run()
    assert not page.exception
    assert page.number_input(key="form.tasks.slope.std").value == 1.0


@pytest.mark.slow
def test_every_button_of_the_lab(store: Store) -> None:
    page = open_page("app.py")
    page.number_input(key="form.meta_iterations").set_value(100_000).run()
    press(page, "Train")
    run_id = query(page, "run") or ""
    wait_for(lambda: store.run(run_id).iteration > 0)
    page.run()
    press(page, "Pause")
    wait_for(lambda: store.run(run_id).status == "paused")
    at = store.run(run_id).iteration
    page.run()
    press(page, "Step")
    wait_for(lambda: store.run(run_id).iteration == at + 1 and store.run(run_id).status == "paused")
    page.run()
    press(page, "Resume")
    wait_for(lambda: store.run(run_id).iteration > at + 1)
    page.run()
    press(page, "Stop")
    wait_for(lambda: store.run(run_id).status == "stopped")
    page.run()
    press(page, "New task")
    assert query(page, "task") == "7"
    press(page, "Reset")
    assert query(page, "run") == ""
    assert store.run(run_id).iteration > at + 1  # reset loses nothing
    press(page, "Step")
    wait_for(lambda: store.run(query(page, "run") or "").status == "paused")
    assert store.run(query(page, "run") or "").iteration == 1


def test_an_absent_device_is_named_and_nothing_is_started(store: Store) -> None:
    page = open_page("app.py")
    page.selectbox(key="form.device").select("mps").run()
    press(page, "Train")
    assert "device = 'mps' is not on this machine" in said(page.error[0])
    assert store.all_runs() == []


def test_adapt_follows_its_controls(finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id)
    assert page.metric[0].label == "Meta-learned, after 10 steps"
    steps = next(box for box in page.number_input if box.label == "Steps")
    steps.set_value(8).run()
    assert not page.exception
    assert page.metric[0].label == "Meta-learned, after 8 steps"
    first = page.metric[0].value
    press(page, "New task")
    assert page.metric[0].value != first
    assert query(page, "steps") == "8"


def test_adapt_moves_a_parameter_and_keeps_it_in_the_link(finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, task="4")
    before = page.metric[0].value
    slider = next(slider for slider in page.slider if slider.label == "Amplitude")
    slider.set_value(7.0).run()
    assert not page.exception
    assert page.metric[0].value != before
    assert float(query(page, "p.amplitude")) == pytest.approx(7.0, abs=0.05)
    assert any("Beyond the training range: amplitude" in caption.value for caption in page.caption)
    again = open_page(
        "pages/1_Adapt.py", **{"run": finished.id, "task": "4", "p.amplitude": query(page, "p.amplitude")}
    )
    assert again.metric[0].value == page.metric[0].value


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ("1,2;three,4", "is not a number; write two numbers a line"),
        ("1,2", "there must be from 2 to 100"),
        (";".join(f"{i},1" for i in range(200)), "points = 200 of them"),
        ("1,2;1,3", "at least two different x"),
        ("0,1e30;1,1", "both numbers must be at most"),
    ],
)
def test_bad_points_get_a_sentence_and_the_page_works(finished: Run, points: str, sentence: str) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, points=points)
    assert any(sentence in info.value for info in page.info)
    press(page, "Clear")
    assert not page.exception


def test_adapt_takes_points_of_ones_own(finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, points="0,1;2,-1;4,3")
    assert page.metric[0].label.startswith("Meta-learned")
    assert float(page.metric[-1].value) == pytest.approx(8 / 3, rel=0.01)  # the variance of 1, -1, 3
    assert any("3 points, where training used 10" in caption.value for caption in page.caption)
    page.text_area[0].set_value("0, 1\n2, -1").run()
    assert query(page, "points") == "0,1;2,-1"
    page.text_area[0].set_value("x;y\n0,5;1\n2,25;-1").run()  # as a spreadsheet in many countries writes it
    assert query(page, "points") == "0.5,1;2.25,-1"
    page.text_area[0].set_value("0,5;1,2").run()
    assert any("can be read in two ways" in info.value for info in page.info)
    assert page.text_area[0].value == "0,5;1,2"
    assert query(page, "points") == "0.5,1;2.25,-1"  # what was there stays
    assert not page.exception


@pytest.mark.slow
@pytest.mark.parametrize("view", ["How good, really", "Where it breaks", "A wall of fresh tasks"])
def test_every_view_of_the_adapt_page_opens_from_its_link(finished: Run, view: str) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, view=view, tasks="20")
    assert not page.exception
    assert not page.error
    assert query(page, "view") == view


def test_evaluation_is_computed_once_and_is_that_of_the_command_line(finished: Run, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, view="How good, really", tasks="20")
    shown = page.dataframe[0].value
    assert shown["learned"].tolist() == measure(store, finished, tasks=20).learned.error
    assert len(shown) == 11


def test_the_baseline_is_trained_as_an_ordinary_run_and_then_compared(finished: Run, store: Store) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id)
    assert len(page.metric) == 3  # learned, random, predict the mean
    press(page, "Train the joint-pretraining baseline")
    other = pretrained_run(store, finished)
    assert other is not None
    assert other.config == finished.config.with_settings({"algorithm": "joint"})


def test_adapt_says_where_it_blows_up(finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, inner_lr="10", steps="60")
    assert "diverges at step" in said(page.warning[0])


def test_runs_can_be_renamed_and_deleted(finished: Run, store: Store) -> None:
    page = open_page("pages/2_Runs.py")
    assert page.dataframe[0].value["Name"].tolist() == [finished.name]
    assert page.dataframe[0].value["Status"].tolist() == ["Finished"]


def test_a_broken_store_gets_a_sentence(store_url: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAML_STORE", "sqlite:////proc/none/maml.db")
    for path in PAGES:
        page = open_page(path)
        assert "/proc/none" in said(page.error[0])


def test_a_sentence_that_is_said_once_outlives_a_draw_that_begins_anew(store: Store) -> None:
    def begins_anew() -> None:
        import streamlit as st

        from maml_core.training.session import TrainingSession
        from pages.components.frame import page

        @page("pages/2_Runs.py")
        def drawn(session: TrainingSession) -> None:
            if not st.session_state.get("is drawn"):
                st.session_state["is drawn"] = True
                st.rerun()
            st.write("the end")

        drawn()

    page = AppTest.from_function(begins_anew, default_timeout=PATIENCE)
    page.query_params["hide"] = "form,runs"  # the other pages, which a page of a test has none of
    page.session_state[REFUSED] = "That cannot be done."
    page.run()
    assert page.session_state["is drawn"]
    assert [error.value for error in page.error] == ["That cannot be done."]
    page.run()
    assert not page.error


def test_a_box_of_points_that_is_gone_takes_nothing_back() -> None:
    """A browser that does not know yet sends its text once more, which to the server, who forgot it, is a change."""

    def after_a_click() -> None:
        import streamlit as st

        from pages.components import task_source

        task_source.load_points([[-0.9, 0.9]], 3)
        st.session_state["points-"] = ""
        task_source._paste("points-", 3)
        st.write(st.query_params["points"])

    page = AppTest.from_function(after_a_click, default_timeout=PATIENCE).run()
    assert not page.exception
    assert [text.value for text in page.markdown] == ["-0.9,0.9,1"]


def drawn_until(page: AppTest, holds: Callable[[], bool]) -> None:
    """Draw a page again and again, as it does by itself, until something that is found in the background is there."""

    def drawn() -> bool:
        page.run()
        assert not page.exception
        return holds()

    wait_for(lambda: holds() or drawn(), PATIENCE)


def select_run(page: AppTest, row: int = 0) -> AppTest:
    page.session_state["runs"] = {"selection": {"rows": [row], "columns": [], "cells": []}}
    page.run()
    assert not page.exception
    return page


def test_runs_page_pins_renames_notes_and_duplicates(store: Store, finished: Run) -> None:
    page = select_run(open_page("pages/2_Runs.py"))
    press(page, "Pin")
    assert store.run(finished.id).pinned
    page.text_area(key=f"notes-{finished.id}").input("seen at 10:00").run()
    page.text_input(key=f"name-{finished.id}").input("my wave").run()
    page.text_input(key=f"tags-{finished.id}").input(" good,  for slides,good,").run()
    assert not page.exception
    run = store.run(finished.id)
    assert (run.notes, run.name, run.tags) == ("seen at 10:00", "my wave", "good, for slides")
    page.text_input(key=f"name-{finished.id}").input("   ").run()
    assert "1 to 80 characters" in said(page.error[0])
    assert store.run(finished.id).name == "my wave"
    press(page, "Duplicate")
    assert page.session_state["form"][0].meta_iterations == 30
    assert "run" not in page.query_params


def test_a_deleted_run_comes_back_when_asked_in_time(store: Store, finished: Run) -> None:
    page = open_page("pages/2_Runs.py")
    press(page, "Delete")
    assert not page.exception
    assert store.all_runs() == []
    assert f"{finished.name} is deleted" in " ".join(map(said, page.markdown))
    press(page, "Undo")
    assert [run.id for run in store.all_runs()] == [finished.id]
    assert len(store.metrics(finished.id)) == 30


def test_runs_are_found_by_their_words(store: Store, finished: Run) -> None:
    other = store.create_run(PRESETS["linear"].config, name="For Monday")
    store.edit(other, tags="slides")
    page = open_page("pages/2_Runs.py", search="SLIDES monday")
    assert page.dataframe[0].value["Name"].tolist() == ["For Monday"]
    page.text_input(key="search").input("no such words").run()
    assert "with these words" in said(page.info[0])
    page.text_input(key="search").input("").run()
    assert len(page.dataframe[0].value) == 2


SHOW_NO_NETWORK = ("pages/4_Data.py", "pages/5_Compare.py")


@pytest.mark.parametrize("path", [path for path in PAGES if path not in SHOW_NO_NETWORK])
def test_a_run_of_a_users_own_module_is_shown_but_never_loaded(path: str, store: Store) -> None:
    config = PRESETS["sine"].config.with_settings({"model.kind": "tests.core.test_own_model:Wide"})
    run_id = store.create_run(config.with_settings({"meta_iterations": 3, "engine": "vectorized"}))
    run = store.claim(this_process(), run_id)
    assert run is not None
    with own_models():
        assert train_run(store, run, this_process()) == "finished"
    page = open_page(path, run=run_id)
    if path == "pages/2_Runs.py":
        select_run(page)
        assert any("export its weights at the command line" in caption.value for caption in page.caption)
        press(page, "Duplicate")
    else:
        drawn_until(page, lambda: any("which only the command line loads" in error.value for error in page.error))


@pytest.mark.parametrize("path", levels(PAGES, ["app.py", "pages/1_Adapt.py"], ["pages/3_Gradients.py"]))
def test_a_page_whose_store_is_taken_away_says_so_and_comes_back(path: str, store: Store, finished: Run) -> None:
    page = open_page(path, run=finished.id)
    before = [error.value for error in page.error]
    assert store.database.path is not None
    folder, aside = store.database.path.parent, store.database.path.parent.with_name("elsewhere")
    folder.rename(aside)
    page.run()
    assert not page.exception
    assert "its file was moved or deleted while it was in use. Put it back" in said(page.error[0])
    aside.rename(folder)
    page.run()
    assert not page.exception
    assert [error.value for error in page.error] == before


def test_a_link_cannot_name_a_class(store: Store) -> None:
    page = open_page("app.py", **{"model.kind": "os:getcwd"})
    assert "only the command line loads" in said(page.warning[0])
    assert store.all_runs() == []


def test_runs_page_resumes_and_stops(store: Store) -> None:
    config = PRESETS["sine"].config.with_settings({"meta_iterations": 100_000, "engine": "vectorized"})
    run_id = store.create_run(config)
    store.ask(run_id, "pause")
    page = select_run(open_page("pages/2_Runs.py"))
    press(page, "Resume")
    wait_for(lambda: store.run(run_id).iteration > 0)
    press(select_run(page), "Stop")
    wait_for(lambda: store.run(run_id).status == "stopped")


def test_runs_page_filters_by_status(store: Store, finished: Run) -> None:
    store.ask(store.create_run(finished.config, name="other"), "pause")
    page = open_page("pages/2_Runs.py", filter="finished")
    assert page.dataframe[0].value["Name"].tolist() == [finished.name]
    page = open_page("pages/2_Runs.py", filter="Resumable")
    assert page.dataframe[0].value["Name"].tolist() == ["other"]
    page = open_page("pages/2_Runs.py", filter="Failed")
    assert "No failed runs" in said(page.info[0])


def test_a_damaged_store_is_set_aside_and_every_page_says_so(store: Store, finished: Run) -> None:
    store.close()
    path = store.url.removeprefix("sqlite:///")
    with open(path, "r+b") as file:
        file.truncate(6000)
    for name in PAGES:
        page = open_page(name)
        assert "set aside as" in said(page.warning[0])
        assert "damaged-" in said(page.warning[0])


def test_damaged_runs_are_counted_not_shown(store: Store, finished: Run) -> None:
    with store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE runs SET status = 'dancing'")
    page = open_page("pages/2_Runs.py")
    assert "1 damaged runs cannot be read" in said(page.warning[0])


def test_adapt_page_looks_back_through_the_history(store: Store, finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id)
    slider = page.select_slider[0]
    assert slider.options[0] == "0"
    assert slider.options[-1] == "latest"
    latest = page.metric[0].value
    slider.set_value(0).run()
    assert not page.exception
    assert page.query_params["checkpoint"] == "0"
    first = page.metric[0].value
    assert first != latest
    again = open_page("pages/1_Adapt.py", run=finished.id, checkpoint="0")
    assert again.metric[0].value == first
    nowhere = open_page("pages/1_Adapt.py", run=finished.id, checkpoint="12345")
    assert nowhere.metric[0].value == latest


def test_gradients_page_compares_engines_and_moves_the_toy(finished: Run) -> None:
    page = open_page("pages/3_Gradients.py", run=finished.id)
    assert not page.exception
    drawn_until(page, lambda: len(page.dataframe) > 0)
    table = page.dataframe[0].value.set_index("Engine")
    assert table["Relative difference"].astype(float)["vectorized"] < 1e-5
    page.slider(key="toy.a").set_value(2.0).run()
    assert not page.exception
    assert query(page, "toy.a") == "2"


def test_gradients_page_without_runs_still_has_the_toy(store: Store) -> None:
    page = open_page("pages/3_Gradients.py")
    assert "No runs yet" in said(page.info[0])
    assert page.slider(key="toy.b")


def test_the_update_rule_of_the_chosen_algorithm_is_shown() -> None:
    rule = "Meta-Curvature, first-order: its update rule"
    page = open_page("app.py", preset="best-5-shot", folds=(*FOLDS, rule))
    assert rule in [expander.label for expander in page.expander]
    assert len(page.latex) == 2  # the update rule, and the family's formula above its ranges


def test_what_a_closed_fold_holds_counts_all_the_same() -> None:
    page = open_page("app.py", folds=(), preset="best-5-shot", meta_lr="0.004", **{"tasks.noise": "0.1"})
    wanted = PRESETS["best-5-shot"].config.with_settings({"meta_lr": 0.004, "tasks.noise": 0.1})
    assert page.session_state["form"][0] == wanted
    keys = {str(each.key) for each in (*page.number_input, *page.text_input, *page.slider)}
    assert not keys & {"form.meta_lr", "form.inner_lr", "form.tasks.noise", "form.tasks.amplitude.slider"}
    page.session_state["fold.Training"] = True
    page.run()
    page.number_input(key="form.meta_lr").set_value(0.002).run()
    page.session_state["fold.Training"] = False
    for _ in range(2):  # the widget's own state is gone after the first
        page.run()
        assert page.session_state["form"][0] == wanted.with_settings({"meta_lr": 0.002})
    page.select_slider(key="form.inner_lr.slider").set_value(0.03).run()
    assert page.session_state["form"][0] == wanted.with_settings({"meta_lr": 0.002, "inner_lr": 0.03})
    page.selectbox(key="form.tasks.family").select("formula").run()
    assert page.session_state["form"][0].tasks == FormulaFamily()
    page.selectbox(key="form.preset").select("linear").run()
    assert page.session_state["form"][0] == PRESETS["linear"].config
    assert not page.exception


def test_sliders_and_typed_numbers_are_one() -> None:
    page = open_page("app.py")
    page.select_slider(key="form.inner_lr.slider").set_value(0.03).run()
    assert page.number_input(key="form.inner_lr").value == 0.03
    page.slider(key="form.shots.slider").set_value(7).run()
    page.slider(key="form.tasks.amplitude.slider").set_range(1.0, 4.0).run()
    assert page.number_input(key="form.tasks.amplitude.low").value == 1.0
    page.number_input(key="form.inner_lr").set_value(12.5).run()  # far beyond what the slider offers by itself
    assert page.select_slider(key="form.inner_lr.slider").value == 12.5
    page.number_input(key="form.inner_steps").set_value(300).run()
    assert page.slider(key="form.inner_steps.slider").value == 300
    assert not page.exception
    config = page.session_state["form"][0]
    assert (config.inner_lr, config.inner_steps, config.shots) == (12.5, 300, 7)
    assert config.tasks.amplitude == Uniform(low=1.0, high=4.0)


def test_what_is_played_with_comes_before_everything_else() -> None:
    page = open_page("app.py")
    heads = [element.label for element in page.sidebar if hasattr(element, "label")]
    shown = heads[heads.index("Preset") : heads.index("Hidden sizes") + 1]
    assert [name for name in shown if name] == [
        "Preset", "Tasks", "Algorithm", "Inner learning rate", "Inner steps", "Shots", "Network", "Hidden sizes",
    ]  # fmt: skip  # one row, as on the screen


def test_another_training_stops_the_run_and_keeps_its_curve(store: Store) -> None:
    page = open_page("app.py")
    press(page, "Train")
    first = query(page, "run")
    assert next(button for button in page.button if button.label == "Train").disabled  # the same again is no news
    page.slider(key="form.inner_steps.slider").set_value(3).run()
    press(page, "Train with this")
    second = query(page, "run")
    assert second != first
    assert query(page, "against") == first
    assert store.run(second).config.inner_steps == 3
    wait_for(lambda: not store.run(first).is_active)
    page.run()
    store.delete(first)
    page.run()
    assert not page.exception
    assert query(page, "against") == ""


@pytest.mark.slow
def test_a_finding_is_said_and_its_remedy_trains(store: Store) -> None:
    config = PRESETS["first-run"].config.with_settings({"clip_norm": 0.001, "meta_iterations": 400})
    run_id = store.create_run(config)
    run = store.claim(this_process(), run_id)
    assert run is not None
    train_run(store, run, this_process())
    page = open_page("app.py", run=run_id)

    def is_said() -> bool:
        page.run()
        assert not page.exception
        return any("clipped" in str(text.value) for text in page.markdown)

    wait_for(is_said)
    remedy = next(button for button in page.button if "clip_norm" in button.label)
    remedy.click().run()
    assert not page.exception
    assert query(page, "against") == run_id
    assert (store.run(query(page, "run")).config.clip_norm or 0) > 0.1


def every_kind_of_input() -> None:
    """A page of its own, run by AppTest: it may use nothing from outside."""
    import streamlit as st

    from pages.components.field_input import field_input, widget_values
    from tests.core.test_fields import Everything

    for name, value in widget_values(Everything()).items():
        st.session_state.setdefault(f"form.{name}", value)
    fields = Everything.model_fields.items()
    st.session_state["answer"] = {name: field_input(name, field, f"form.{name}") for name, field in fields}


def test_there_is_an_input_for_every_kind_of_field() -> None:
    page = AppTest.from_function(every_kind_of_input).run()
    assert not page.exception
    assert Everything.model_validate(page.session_state["answer"]) == Everything()
    page.toggle(key="form.yes").set_value(False)
    page.selectbox(key="form.maybe").set_value(True)
    page.number_input(key="form.size").set_value(7)
    page.text_input(key="form.note").set_value("well")
    page.selectbox(key="form.other").set_value("b")
    page.text_input(key="form.widths").set_value("1, 2, 3")
    page.text_input(key="form.names").set_value("x, y")
    page.text_input(key="form.extra").set_value('{"b": 2}')
    page.number_input(key="form.span.high").set_value(3.0).run()
    assert not page.exception
    assert Everything.model_validate(page.session_state["answer"]) == Everything(
        yes=False,
        maybe=True,
        size=7,
        note="well",
        other="b",
        widths=(1, 2, 3),
        names=("x", "y"),
        extra={"b": 2},
        span=Uniform(low=0.0, high=3.0),
    )


def test_a_field_of_an_unknown_kind_stops_no_page() -> None:
    def odd_input() -> None:
        from decimal import Decimal

        import streamlit as st
        from pydantic import BaseModel, Field

        from pages.components.field_input import field_input

        class Odd(BaseModel):
            number: Decimal = Field(Decimal(1), description="Not ours.")

        st.session_state["answer"] = field_input("number", Odd.model_fields["number"], "odd")

    page = AppTest.from_function(odd_input).run()
    page.text_input(key="odd").set_value("2.5").run()
    assert not page.exception
    assert page.session_state["answer"] == 2.5


@pytest.mark.parametrize(
    ("inner_lr", "inner_steps"), levels([(20.0, 1), (0.01, 300), (1e38, 1)], [(20.0, 1)], [(0.01, 300), (1e38, 1)])
)
def test_adapt_opens_a_run_whatever_its_settings(store: Store, inner_lr: float, inner_steps: int) -> None:
    """Its inputs are bounded by the run's own fields, not by bounds of the page."""
    config = PRESETS["linear"].config.with_settings(
        {"meta_iterations": 2, "inner_lr": inner_lr, "inner_steps": inner_steps, "engine": "vectorized"}
    )
    page = open_page("pages/1_Adapt.py", run=trained(store, config).id)
    assert page.number_input(key="input.inner_lr").value == inner_lr
    assert page.number_input(key="input.steps").value == max(10, inner_steps)
    assert query(page, "shots") == str(config.shots)
    page.number_input(key="input.inner_lr").set_value(0.0).run()
    assert not page.exception
    assert "inner_lr = 0.0 is not allowed: it must be a finite number above 0" in said(page.error[-1])


def test_adapt_passes_over_numbers_of_a_link_that_are_out_of_bounds(finished: Run) -> None:
    page = open_page("pages/1_Adapt.py", run=finished.id, shots="0", steps="many", inner_lr="-3")
    assert page.number_input(key="input.shots").value == finished.config.shots
    assert page.number_input(key="input.inner_lr").value == finished.config.inner_lr


@pytest.mark.parametrize(("earlier", "shown"), [("can go on", "Resumable"), ("in trouble", "Failed"), ("all", "All")])
def test_a_link_to_a_filter_of_an_earlier_version_is_followed(finished: Run, earlier: str, shown: str) -> None:
    page = open_page("pages/2_Runs.py", filter=earlier)
    assert page.session_state["filter"] == shown


@pytest.mark.parametrize("name", levels(LESSONS, ["first-order", "images"], LESSONS))
def test_a_lesson_asks_first_then_trains_then_tells(name: str, store: Store) -> None:
    lesson = LESSONS[name]
    page = open_page("app.py", lesson=name)
    assert not any(box.label == "Preset" for box in page.selectbox)  # the form is folded away
    assert next(button for button in page.button if button.label == "Train").disabled
    page.radio(key="answer").set_value(lesson.answers[0]).run()
    press(page, "Train")
    run_id = query(page, "run")
    assert store.run(run_id).config == lesson.config
    assert query(page, "lesson") == name
    wait_for(lambda: store.run(run_id).iteration > 0)
    store.ask(run_id, "stop")
    wait_for(lambda: not store.run(run_id).is_active)
    page.run()
    assert linked(lesson.explanation) in page.success[0].value
    assert ("As you said" in page.success[0].value) == (lesson.right == 0)
    press(page, "The whole lab")
    assert page.selectbox(key="form.preset").value == lesson.preset
    assert query(page, "lesson") == ""


@pytest.mark.parametrize(
    ("query_name", "value", "sentence"),
    [("lesson", "nope", "lesson = 'nope'"), ("hide", "form,walls", "hide = 'walls'")],
)
def test_a_stale_link_to_a_part_gets_a_sentence(query_name: str, value: str, sentence: str) -> None:
    page = open_page("app.py", **{query_name: value})
    assert any(sentence in said(warning) for warning in page.warning)


def test_a_link_hides_parts_and_keeps_the_settings() -> None:
    page = open_page("app.py", hide="form,controls", preset="linear", inner_lr="0.02")
    assert not page.selectbox
    assert not any(button.label == "Train" for button in page.button)
    assert page.session_state["form"][0] == PRESETS["linear"].config.with_settings({"inner_lr": 0.02})
    assert query(page, "hide") == "form,controls"
    page.run()
    assert query(page, "inner_lr") == "0.02"
