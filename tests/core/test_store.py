import itertools
import re
import threading
import time
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa

from maml_core.config import RunConfig
from maml_core.errors import RunBusyError, RunNotFoundError, StoreError
from maml_core.learning.image_tables import signs
from maml_core.milestones import MetricRow
from maml_core.processes import this_process
from maml_core.store import server
from maml_core.store.base import Saved, Snapshot
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.database import store_url
from maml_core.store.run import Run
from maml_core.store.schema import runs
from maml_core.store.store import Store
from maml_core.training.devices import processors
from maml_core.training.stretch import train_run
from maml_core.training.sweep import open_sweep
from tests.conftest import at_once, wait_for

DEAD = f"{this_process().rsplit(':', 2)[0]}:999999999:1.00"


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.slow)])
def store_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def train(store: Store, run_id: str) -> str:
    run = store.claim(this_process(), run_id)
    assert run is not None
    return train_run(store, run, this_process())


def test_a_run_made_for_an_owner_never_stands_in_the_queue(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config, owner=this_process())
    assert store.claim(this_process()) is None
    assert store.run(run_id).status == "running"
    store.release(run_id, this_process(), "stopped")
    store.resume(run_id, owner=this_process())
    assert store.claim(this_process()) is None
    assert (store.run(run_id).status, store.run(run_id).owner) == ("running", this_process())


def test_a_run_from_queue_to_finish(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config, preset="sine")
    assert store.run(run_id).status == "queued"
    assert train(store, run_id) == "finished"
    run = store.run(run_id)
    assert (run.status, run.iteration, run.owner, run.config) == ("finished", 40, None, small_config)
    metrics = store.metrics(run_id)
    assert metrics["iteration"].tolist() == list(range(1, 41))
    assert run.post_loss == metrics["post_loss"].iloc[-1]
    history = store.history(run_id)
    assert run.best_loss == min(loss for _, loss in history if loss is not None)
    assert history[0][0] == 0
    assert history[-1][0] == 40
    for kind, iteration in (("latest", 40), ("best", run.best_iteration), ("history", 0)):
        data = store.checkpoint(run_id, kind, iteration)
        assert data is not None
        assert load_checkpoint(data, small_config).state.iteration == iteration


def test_steps_pause_again_and_end_in_the_same_bits(store: Store, small_config: RunConfig) -> None:
    straight, stepped = store.create_run(small_config), store.create_run(small_config, steps=1)
    train(store, straight)
    assert train(store, stepped) == "paused"
    assert store.run(stepped).iteration == 1
    store.resume(stepped, steps=4)
    train(store, stepped)
    assert store.run(stepped).iteration == 5
    store.resume(stepped)
    assert train(store, stepped) == "finished"
    assert store.checkpoint(stepped) == store.checkpoint(straight)
    assert store.metrics(stepped).equals(store.metrics(straight))


def test_pause_and_stop_while_training(store: Store, small_config: RunConfig) -> None:
    config = small_config.with_settings({"meta_iterations": 10_000_000})
    for command, status in (("pause", "paused"), ("stop", "stopped")):
        run_id = store.create_run(config)

        def ask(run_id: str = run_id, command: str = command) -> None:
            wait_for(lambda: store.run(run_id).iteration > 0)
            store.ask(run_id, command)

        asking = threading.Thread(target=ask)
        asking.start()
        assert train(store, run_id) == status
        asking.join()
        assert 0 < store.run(run_id).iteration < 10_000_000


def test_only_one_claims_a_run(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    results: list[object] = []
    gate = threading.Barrier(8)

    def claim(number: int) -> None:
        gate.wait()
        results.append(store.claim(f"another-host:{number}:1.00", run_id))

    at_once(8, claim)
    assert sum(result is not None for result in results) == 1


def test_a_store_that_is_to_be_there_is_never_made(tmp_path: Path) -> None:
    there, away = tmp_path / "a b" / "one#.db", tmp_path / "nowhere" / "one.db"
    Store(f"sqlite:///{there}").close()
    opened = Store(f"sqlite:///{there}", creates=False)
    assert opened.all_runs() == []
    opened.close()
    other = there.with_name("another.db")
    for path in (away, other):
        with pytest.raises(StoreError, match="unable to open database file"):
            Store(f"sqlite:///{path}", creates=False)
        assert not path.exists()
    assert not away.parent.exists()


def test_a_run_whose_process_is_gone_is_interrupted_and_resumes(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    assert store.claim(DEAD, run_id) is not None
    run = store.run(run_id)
    if store.database.is_shared:
        assert (run.status, run.owner, run.lost) == ("queued", None, 1)
        assert "another goes on" in run.message
    else:
        assert (run.status, run.owner) == ("interrupted", None)
        assert "resume" in run.message
        store.resume(run_id)
    assert train(store, run_id) == "finished"


def let_lease_end(store: Store, run_id: str) -> None:
    with store.transaction(write=True) as connection:
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(lease=store.database.now - 0.001))


def test_a_lease_from_elsewhere_is_trusted_until_it_ends(
    store: Store, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STARTED", sa.literal(0.0))
    run_id, owner = store.create_run(small_config), "another-host:1:1.00"
    store.claim(owner, run_id)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)  # this machine's clock counts for nothing
    assert store.run(run_id).status == "running"
    let_lease_end(store, run_id)
    store.renew(run_id, owner)
    assert store.run(run_id).status == "running"
    let_lease_end(store, run_id)
    run = store.run(run_id)
    assert (run.status, run.owner, run.lost) == ("queued" if store.database.is_shared else "interrupted", None, 1)
    store.renew(run_id, owner)  # too late
    with pytest.raises(RunBusyError, match="no longer owned"):
        store.commit(run_id, owner, rows=[], latest=Saved(1, b"x"))
    assert store.control(run_id, owner) is None


def test_a_run_that_loses_process_after_process_is_given_to_nobody_any_more(
    store: Store, small_config: RunConfig
) -> None:
    run_id = store.create_run(small_config)
    statuses = []
    for _ in range(3):
        if store.run(run_id).status == "interrupted":
            store.resume(run_id)
        assert store.claim(DEAD, run_id) is not None
        statuses.append(store.run(run_id).status)
    if not store.database.is_shared:
        assert statuses == ["interrupted"] * 3
        return
    assert statuses == ["queued", "queued", "interrupted"]
    assert "lost 3 processes" in store.run(run_id).message
    store.resume(run_id)
    assert (store.run(run_id).status, store.run(run_id).lost) == ("queued", 0)


def test_a_commit_whose_answer_was_lost_is_repeated(store: Store, small_config: RunConfig) -> None:
    run_id, owner = store.create_run(small_config), this_process()
    store.claim(owner, run_id)
    rows = [MetricRow(at, 1.0, 0.5, 1.0) for at in (1, 2)]
    for _ in range(2):
        store.commit(run_id, owner, rows=rows, latest=Saved(2, b"two"), snapshots=[Snapshot(0, 0.5, b"start")])
    for _ in range(2):
        store.commit(run_id, owner, rows=[MetricRow(3, 1.0, 0.5, 1.0)], latest=Saved(3, b"three"), release="finished")
    assert store.metrics(run_id)["iteration"].tolist() == [1, 2, 3]
    assert store.checkpoint(run_id) == b"three"
    assert [judged.iteration for judged in store.history(run_id)] == [0]
    with pytest.raises(RunBusyError):
        store.commit(run_id, owner, rows=[], latest=Saved(4, b"four"), release="finished")


def test_a_run_that_was_given_to_a_worker_that_did_not_hear_so_is_queued_again(
    store: Store, small_config: RunConfig
) -> None:
    run_id, other = store.create_run(small_config), store.create_run(small_config)
    store.claim(this_process(), run_id)
    store.claim("another-host:1:1.00", other)
    store.release_all(this_process())
    assert [store.run(one).status for one in (run_id, other)] == ["queued", "running"]


def test_a_run_that_began_on_another_processor_comes_last_and_says_so(store: Store, small_config: RunConfig) -> None:
    ids = [store.create_run(small_config, steps=5) for _ in range(2)]
    for run_id in ids:
        assert train(store, run_id) == "paused"
        store.resume(run_id, steps=5)
    with store.transaction(write=True) as connection:
        connection.execute(sa.update(runs).where(runs.c.id == ids[0]).values(processor="m68k"))
    claimed = store.claim(this_process(), processors=processors())
    assert claimed is not None
    assert claimed.id == ids[1]
    run = store.claim(this_process(), processors=processors())
    assert run is not None
    assert run.id == ids[0]
    train_run(store, run, this_process())
    train_run(store, claimed, this_process())
    assert store.run(ids[1]).message == ""
    said = f"processors that round differently: on m68k; then on {processors()[-1]}."
    assert said in store.run(ids[0]).message
    store.resume(ids[0])
    train(store, ids[0])
    assert said in store.run(ids[0]).message  # for good


def test_a_run_that_names_a_device_is_left_to_who_has_it(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config.with_settings({"device": "cuda"}))
    assert store.claim(this_process(), lacking=["cuda", "mps"]) is None
    claimed = store.claim(this_process(), lacking=["mps"])
    assert claimed is not None
    assert claimed.id == run_id


@pytest.mark.parametrize(("command", "status"), [("pause", "paused"), ("stop", "stopped")])
def test_what_was_asked_of_a_run_is_not_forgotten_when_it_is_left(
    store: Store, small_config: RunConfig, command: str, status: str
) -> None:
    lost, given_back = (store.create_run(small_config, steps=9) for _ in range(2))
    store.claim(this_process(), given_back)
    store.ask(given_back, command)
    for _ in range(2):
        store.commit(given_back, this_process(), rows=[], latest=Saved(1, b"x"), release="queued")
    store.claim("another-host:1:1.00", lost)
    store.ask(lost, command)
    store.release(lost, "another-host:1:1.00", "queued")
    for run_id in (given_back, lost):
        run = store.run(run_id)
        assert (run.status, run.owner, run.queued, run.until) == (status, None, None, None)


def test_a_run_that_waits_for_any_worker_can_be_had_at_once(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    with pytest.raises(RunBusyError):
        store.resume(run_id)
    store.resume(run_id, owner=this_process())
    assert store.run(run_id).owner == this_process()


def test_a_run_that_a_newer_version_has_queued_fails_with_the_reason(store: Store, small_config: RunConfig) -> None:
    damaged, sound = store.create_run(small_config), store.create_run(small_config)
    with store.transaction(write=True) as connection:
        connection.execute(sa.update(runs).where(runs.c.id == damaged).values(config='{"tasks": {"family": "new"}}'))
    with pytest.raises(StoreError, match="cannot be read"):
        store.claim(this_process())
    claimed = store.claim(this_process())
    assert claimed is not None
    assert claimed.id == sound
    assert store.listing().unreadable == 1


def test_many_at_once_remember_add_and_sweep_without_doubling(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    table = signs()
    gate = threading.Barrier(4)
    troubles: list[BaseException] = []
    made: list[int] = []

    def act(_: int) -> None:
        try:
            gate.wait()
            store.add_table(table)
            for number in range(10):
                store.remember(run_id, f"{number:064}", "known")
            made.append(open_sweep(store, small_config, {"seed": [0, 1, 2, 3]}, preset=None).made)
        except BaseException as error:
            troubles.append(error)

    at_once(4, act)
    assert troubles == []
    assert sorted(made) == [0, 0, 0, 4]
    assert len(store.all_runs()) == 5
    assert store.recall(run_id, f"{3:064}") == "known"


def test_texts_that_one_kind_of_database_refuses_are_made_to_fit(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config, name="a\0b", preset="p" * 90)
    store.edit(run_id, notes="one\0two")
    run = store.run(run_id)
    assert (run.name, run.notes, len(run.preset or "")) == ("ab", "onetwo", 40)
    with pytest.raises(RunNotFoundError):
        store.run("\0")


def test_the_course_of_large_losses_is_drawn(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    store.claim(this_process(), run_id)
    rows = [MetricRow(at, 3e38, 3e38, 3e38) for at in range(1, 9)]
    store.commit(run_id, this_process(), rows=rows, latest=Saved(8, b"x"))
    assert store.courses([run_id], 2)[run_id] == pytest.approx([3e38, 3e38])
    assert list(store.losses([run_id])[run_id].row_losses) == pytest.approx([3e38] * 8)


def test_a_worker_that_lost_its_run_writes_nothing(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    store.claim("another-host:1:1.00", run_id)
    with pytest.raises(RunBusyError):
        store.commit(run_id, "somebody:2:2.00", rows=[MetricRow(1, 1.0, 1.0, 1.0)], latest=Saved(1, b"x"))
    assert store.metrics(run_id).empty
    assert store.checkpoint(run_id) is None


def test_refusals_name_the_run_and_its_status(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    train(store, run_id)
    with pytest.raises(RunBusyError, match="finished"):
        store.resume(run_id)
    with pytest.raises(RunBusyError, match="finished"):
        store.ask(run_id, "pause")
    with pytest.raises(RunNotFoundError, match="'nope' does not exist"):
        store.run("nope")
    with pytest.raises(StoreError, match="1 to 80"):
        store.edit(run_id, name="  ")


def test_rename_and_delete(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    train(store, run_id)
    store.edit(run_id, name=" wave ")
    assert store.run(run_id).name == "wave"
    store.delete(run_id)
    assert store.all_runs() == []
    assert store.metrics(run_id).empty
    assert store.checkpoint(run_id) is None


def test_a_discarded_run_is_gone_at_once_comes_back_in_time_and_is_deleted_later(
    store: Store, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = store.create_run(small_config), store.create_run(small_config)
    store.discard(gone)
    assert [run.id for run in store.all_runs()] == [kept]
    assert store.count("queued", "stopped") == 1
    with pytest.raises(RunNotFoundError):
        store.run(gone)
    assert store.claim(this_process(), gone) is None
    store.restore(gone)
    assert store.run(gone).status == "stopped"
    store.discard(gone)
    monkeypatch.setattr("maml_core.store.store.UNDO_SECONDS", -1.0)
    store.listing()
    with pytest.raises(RunNotFoundError):
        store.restore(gone)
    assert store.metrics(gone).empty


def test_tags_have_bounds(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    with pytest.raises(StoreError, match="at most 200"):
        store.edit(run_id, tags="x" * 201)


def test_a_running_run_is_not_deleted(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config)
    store.claim(this_process(), run_id)
    with pytest.raises(RunBusyError, match="stop it"):
        store.delete(run_id)


def test_the_database_is_opened_for_durability(store: Store, store_kind: str) -> None:
    with store.transaction() as connection:
        if store_kind == "server":
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
            return
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "delete", "synchronous": 2, "foreign_keys": 1}


@pytest.mark.parametrize("content", [b"hello, I am not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot be used .* choose another"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused(store: Store, store_url: str) -> None:
    with store.transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE info SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(StoreError, match="newer version of the lab"):
        Store(store_url)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(f"sqlite:///{tmp_path}/file/maml.db")
    with pytest.raises(StoreError, match="not a database URL"):
        Store("nonsense")


def test_a_run_has_a_field_for_every_column() -> None:
    assert [field.name for field in fields(Run)] == [column.name for column in runs.columns]


def test_an_edit_of_nothing_changes_nothing(store: Store, small_config: RunConfig) -> None:
    run_id = store.create_run(small_config, name="as it was")
    store.edit(run_id)
    assert store.run(run_id).name == "as it was"


def test_a_home_and_variables_in_a_url_are_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "lab")
    for given in ("sqlite:///~/lab/x.db", "sqlite:///$HOME/lab/x.db", "sqlite:///${HOME}/$PLACE/x.db"):
        assert store_url(given) == f"sqlite:///{tmp_path}/lab/x.db"
    monkeypatch.setenv("MAML_STORE", " sqlite:///~/own.db\n")
    assert store_url() == f"sqlite:///{tmp_path}/own.db"
    assert store_url("postgresql://host/$db") == "postgresql+psycopg://host/$db"
    Store("sqlite:///~/lab/x.db").close()
    assert (tmp_path / "lab" / "x.db").is_file()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "name a file, such as sqlite:///runs/maml.db"),
        ("sqlite:///", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("C:\\Users\\me\\x.db", "write sqlite:///C:/Users/me/x.db"),
        ("sqlite:///$NOT_SET_ANYWHERE/x.db", "write the path out"),
        ("sqlite:///~nobody-of-that-name/x.db", "write the path out"),
    ],
)
def test_a_url_that_would_keep_nothing_is_refused_with_the_right_form(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=re.escape(said)):
        Store(url)


def test_a_clock_that_is_set_an_hour_back_and_forth_harms_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * (next(asked) % 3 - 1))
    config = RunConfig(meta_iterations=300, meta_batch_size=2, engine="vectorized")
    ids = [store.create_run(config), store.create_run(config)]
    for run_id in ids:
        run = store.claim(this_process(), run_id)
        assert run is not None
        store.mark_lost()  # nobody takes the clock for a sign that the process is gone
        assert store.run(run_id).status == "running"
        assert train_run(store, run, this_process()) == "finished"
        assert 0 < store.run(run_id).seconds < 3000
    assert store.checkpoint(ids[0]) == store.checkpoint(ids[1])
    assert {run.id for run in store.all_runs()} == set(ids)
