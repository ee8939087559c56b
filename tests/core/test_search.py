"""Searches by Optuna: trials as ordinary runs, taken up after a crash, cut short where they are hopeless."""

import json
import math
import sys

import optuna
import pytest

from maml_core import cli
from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.processes import this_process
from maml_core.store.base import Saved, Snapshot
from maml_core.store.store import Store
from maml_core.training import search as module
from maml_core.training.driver import Driver
from maml_core.training.search import Search, Span, parse_search
from maml_core.training.stretch import train_run
from maml_core.words import loss
from tests.conftest import wait_for

CONFIG = RunConfig(meta_iterations=10, meta_batch_size=2, shots=3, query_shots=3, engine="vectorized")
RATES = parse_search(["inner_lr=log:1e-3:0.1"])


def train_what_is_queued(store: Store) -> None:
    while run := store.claim(this_process()):
        train_run(store, run, this_process())


def work(search: Search, store: Store) -> None:
    while not search.step():
        train_what_is_queued(store)


def test_what_may_be_tried_is_read_or_refused() -> None:
    found = parse_search(["inner_lr=log:1e-4:0.3", "shots = 5:20", "clip_norm=0.5:2", "model.activation=relu,tanh"])
    assert found == {
        "inner_lr": Span(1e-4, 0.3, is_log=True),
        "shots": Span(5, 20, is_whole=True),
        "clip_norm": Span(0.5, 2.0),
        "model.activation": Span(values=("relu", "tanh")),
    }
    assert found["shots"].distribution() == optuna.distributions.IntDistribution(5, 20)
    lists = parse_search(["model.hidden_sizes=[20],[40,40]"])["model.hidden_sizes"]
    assert lists.values == ([20], [40, 40])
    assert lists.value("[40, 40]") == [40, 40]
    for wrong, said in (
        ("inner_lr", "must be FIELD=LOW:HIGH"),
        ("inner_lr=1:2:3", "must be FIELD=LOW:HIGH"),
        ("inner_lr=a:b", "must be FIELD=LOW:HIGH"),
        ("inner_lr=2:1", "finite and in order"),
        ("inner_lr=log:0:1", "above 0 and in order"),
        ("inner_lr=log:1,2", "must be FIELD=LOW:HIGH"),
        ("inner_lr=0:inf", "finite and in order"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_search([wrong])
    with pytest.raises(ConfigError, match="stands twice"):
        parse_search(["shots=1:2", "shots=3:4"])


def test_trials_are_ordinary_runs_and_a_study_of_optunas(store: Store) -> None:
    search = Search(store, CONFIG, RATES, trials=3, seeds=2, at_once=3)
    work(search, store)
    runs = store.all_runs()
    assert len(runs) == 6
    assert {run.tags for run in runs} == {search.name}
    assert all("inner_lr=" in run.name for run in runs)
    found = search.results()
    assert [trial.state for trial in found] == ["complete"] * 3
    assert found == sorted(found, key=lambda trial: trial.value or math.inf)
    for trial in found:
        own = [run for run in runs if run.config.inner_lr == trial.settings["inner_lr"]]
        assert sorted(run.config.seed for run in own) == [0, 1]
        assert trial.value == pytest.approx(sum(run.best_loss or math.nan for run in own) / 2)
    study = optuna.load_study(study_name=search.name, storage=store.url)
    assert study.best_value == found[0].value
    again = Search(store, CONFIG, RATES, trials=3, seeds=2)  # opened once more, it is over at once
    assert again.step()
    more = Search(store, CONFIG, RATES, trials=4, seeds=2)
    work(more, store)
    assert len(store.all_runs()) == 8


@pytest.mark.slow
def test_what_a_killed_driver_left_is_taken_up_and_nothing_is_doubled(store: Store) -> None:
    killed = Search(store, CONFIG, RATES, trials=3, seeds=2, at_once=2)
    killed.step()
    first = {run.id for run in store.all_runs()}
    assert len(first) == 4
    (run, *_) = store.all_runs()
    store.discard(run.id)  # as if it had come no further than to its first runs
    search = Search(store, CONFIG, RATES, trials=3, seeds=2, at_once=2)
    work(search, store)
    runs = store.all_runs()
    assert len(runs) == 6
    assert len({run.config for run in runs}) == 6
    assert first - {run.id} <= {run.id for run in runs}
    assert [trial.state for trial in search.results()] == ["complete"] * 3


def test_a_hopeless_trial_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WARM_UP_TRIALS", 1)
    search = Search(store, CONFIG, RATES, trials=2, prunes=True)

    def advance(run_id: str, losses: dict[int, float], release: str | None = None) -> None:
        store.commit(
            run_id,
            this_process(),
            rows=[],
            latest=Saved(max(losses), b""),
            snapshots=[Snapshot(at, loss, b"") for at, loss in losses.items()],
            release=release,
        )

    search.step()
    first = store.claim(this_process())
    assert first is not None
    advance(first.id, {0: 5.0, 4: 1.0})
    assert not search.step()
    advance(first.id, {10: 0.5}, release="finished")
    assert not search.step()  # the first is done, and the second waits
    second = store.claim(this_process())
    assert second is not None
    advance(second.id, {0: 5.0, 4: 3.0})
    assert search.step()
    assert sorted(trial.state for trial in search.results()) == ["complete", "pruned"]
    assert store.control(second.id, this_process()) == ("stop", None)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        (["inner_lr=-2:-1.0"], "inner_lr = -1.5"),
        (["speed=1:2"], "speed"),
        (["seed=1:5"], "nobody can choose luck"),
        (["model.kind=0.1:0.2"], "model.kind"),
    ],
)
def test_a_search_that_cannot_be_gets_a_sentence(store: Store, spans: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Search(store, CONFIG, parse_search(spans), trials=2)
    assert store.all_runs() == []


def test_whole_numbers_are_for_settings_that_take_no_other(store: Store) -> None:
    spans = parse_search(["shots=1:3", "clip_norm=1:3"])
    assert {name: span.is_whole for name, span in Search(store, CONFIG, spans, trials=1).spans.items()} == {
        "shots": True,
        "clip_norm": False,
    }


@pytest.mark.slow
def test_ranges_that_hold_nothing_allowed_end_a_search(store: Store) -> None:
    search = Search(store, CONFIG, {"inner_steps": Span(-4, 5, is_whole=True)}, trials=3)  # its middle is allowed
    work(search, store)
    assert len(search.results()) == 3  # those that break a rule do not count
    hopeless = Search(store, CONFIG, {"inner_lr": Span(0.01, 0.02)}, trials=200)
    hopeless.spans = {"inner_lr": Span(-2.0, -1.0)}
    with pytest.raises(ConfigError, match="20 trials in a row break a rule, the last so: inner_lr = -1"):
        work(hopeless, store)


def test_without_optuna_one_sentence_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install -r requirements-cluster\.txt"):
        Search(store, CONFIG, RATES, trials=1)


@pytest.mark.slow
def test_the_command_line_searches(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    small = ["meta_iterations=10", "meta_batch_size=2", "engine=vectorized"]
    flags = [part for setting in small for part in ("--set", setting)]
    search = ["sweep", *flags, "--search", "inner_lr=log:1e-3:0.1", "--trials", "2", "--jobs", "1"]
    assert cli.main([*search, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [trial["state"] for trial in printed["trials"]] == ["complete"] * 2
    assert cli.main(search) == 0  # nothing is left to do
    assert "held-out loss" in capsys.readouterr().out
    assert len(store.all_runs()) == 2
    for extra, said in (
        (["--grid", "seed=0,1"], "not allowed together"),
        (["--trials", "0"], "--trials 0 is not allowed"),
    ):
        assert cli.main([*search, *extra]) == 2
        assert said in capsys.readouterr().err


def test_a_server_drives_a_search_in_the_background(store: Store) -> None:
    def driver(trials: int) -> Driver:
        return Driver(Search(store, CONFIG, RATES, trials=trials), lambda: train_what_is_queued(store))

    first = driver(2)
    wait_for(lambda: first.is_over)
    assert first.trouble == ""
    best = min(run.best_loss or math.inf for run in store.all_runs())
    assert first.progress().startswith(f"2 of 2 trials; the best so far {loss(best)} on held-out tasks, with inner_lr")
    endless = driver(10_000)
    wait_for(lambda: len(endless.trials) > 3)
    endless.stop()
    assert endless.is_over
    count = len(store.all_runs())
    assert 2 < count < 10_000
    again = driver(count)
    wait_for(lambda: again.is_over)
    assert len(store.all_runs()) == count  # it went on with the same study, which was full


def test_a_search_that_ends_early_says_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(store, CONFIG, RATES, trials=3)

    def fail(_: Search) -> bool:
        raise ConfigError("The ranges are wrong.")

    monkeypatch.setattr(Search, "step", fail)
    driver = Driver(search, lambda: None)
    wait_for(lambda: driver.is_over)
    assert driver.trouble == "The ranges are wrong."
    monkeypatch.setattr(Search, "step", lambda _: 1 / 0)
    driver = Driver(search, lambda: None)
    wait_for(lambda: driver.is_over)
    assert driver.trouble.startswith("The search ended because of a bug in the lab (ZeroDivisionError)")
