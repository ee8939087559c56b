"""SIGKILL at random moments and at every named point of a commit: after a resume nothing differs."""

import functools
import hashlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.learning.models import MLP
from maml_core.processes import this_process
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.imports import import_run
from maml_core.store.store import Store
from maml_core.training.stretch import train_run
from tests.conftest import wait_for
from tests.levels import levels

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.faults.warm", "maml_core.cli"])
PACE = 250.0
CONFIG = RunConfig(
    model=MLP(hidden_sizes=(8,), activation="tanh"),
    shots=5,
    query_shots=5,
    meta_batch_size=3,
    meta_iterations=400,
    inner_steps=2,
    engine="vectorized",
)


def fingerprint(store: Store, run_id: str) -> str:
    data = store.checkpoint(run_id)
    assert data is not None
    return hashlib.sha256(data + store.metrics(run_id).to_csv().encode()).hexdigest()


def work(url: str, run_id: str, reached: Any) -> None:
    """What a worker does, in a process of its own."""

    def report(run: object, progress: Any, rate: float) -> None:
        reached.value = progress.state.iteration

    store = Store(url)
    run = store.claim(this_process(), run_id)
    assert run is not None
    train_run(store, run, this_process(), report=report)


def finish(store: Store, run_id: str) -> str:
    store.set_pace(run_id, None)
    reached = PROCESSES.RawValue("q", 0)
    child = PROCESSES.Process(target=work, args=(store.url, run_id, reached))
    child.start()
    child.join(120)
    assert store.run(run_id).status == "finished"
    return fingerprint(store, run_id)


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        pytest.param("native", 4, marks=pytest.mark.slow),
        pytest.param("vectorized", 4, marks=pytest.mark.nightly),
        pytest.param("higher", 5, marks=pytest.mark.nightly),
        *(pytest.param(engine, 30, marks=pytest.mark.nightly) for engine in ("higher", "vectorized", "native")),
    ],
)
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(store: Store, engine: str, wanted: int) -> None:
    config = CONFIG.with_settings({"engine": engine})
    straight = finished(config)
    chance = random.Random(engine)
    landed = kills = 0
    while kills < wanted:
        run_id = store.create_run(config)
        store.set_pace(run_id, PACE)
        for _ in range(5):
            kills += 1
            before, reached = store.run(run_id).iteration, PROCESSES.RawValue("q", 0)
            child = PROCESSES.Process(target=work, args=(store.url, run_id, reached))
            child.start()
            wait_for(lambda: store.run(run_id).iteration != before)  # noqa: B023
            time.sleep(chance.uniform(0, 0.25))
            child.kill()
            child.join()
            run = store.run(run_id)
            if run.status == "interrupted" and before < run.iteration < config.meta_iterations:
                landed += 1
                repeated = reached.value - run.iteration
                assert 0 <= repeated <= PACE  # at most a second's work is done again
                assert len(store.metrics(run_id)) == run.iteration
            if run.status == "finished":
                break
            store.resume(run_id)
        if store.run(run_id).status != "finished":
            finish(store, run_id)
        assert fingerprint(store, run_id) == straight
    assert landed >= 0.8 * wanted, f"only {landed} of {kills} kills landed in mid-training"


@functools.cache
def finished(config: RunConfig) -> str:
    """What a run with this configuration ends as that nobody has killed."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/maml.db")
        end = finish(store, store.create_run(config))
        store.close()
    return end


POINTS = ("INSERT INTO metrics", "UPDATE runs", "INSERT INTO checkpoints", "DELETE FROM checkpoints", "COMMIT")


def work_until(url: str, run_id: str, point: str, when: str, occurrence: int) -> None:
    """Train, and die just before or after the n-th time that a commit comes to `point`."""
    import sqlalchemy as sa

    from maml_core.training import stretch

    stretch.COMMIT_SECONDS = 0.02
    store = Store(url)
    run = store.claim(this_process(), run_id)
    assert run is not None
    seen = 0

    def arrive() -> None:
        nonlocal seen
        seen += 1
        if seen == occurrence:
            os.kill(os.getpid(), signal.SIGKILL)

    def at_statement(*arguments: Any) -> None:
        if arguments[2].startswith(point):
            arrive()

    engine = store.database.engine
    if point == "COMMIT":
        do_commit, writing = engine.dialect.do_commit, []
        sa.event.listen(engine, "before_cursor_execute", lambda *a: writing.append(1) if "INSERT" in a[2] else None)

        def commit(connection: Any) -> None:
            counts, writing[:] = bool(writing), []
            if counts and when == "before":
                arrive()
            do_commit(connection)
            if counts and when == "after":
                arrive()

        engine.dialect.do_commit = commit  # type: ignore[method-assign,assignment]  # there is no event for it
    else:
        sa.event.listen(engine, f"{when}_cursor_execute", at_statement)
    train_run(store, run, this_process())


ENDS = [(point, when, (2,)) for point in POINTS for when in ("before", "after")]


@pytest.mark.parametrize(
    ("point", "when", "occurrences"),
    levels(
        [*ENDS, *((point, when, (1, 2, 3, 4, 5)) for point, when, _ in ENDS)],
        [("COMMIT", "before", (2,))],
        ENDS,
    ),
)
def test_killed_at_a_named_point_there_is_the_old_state_or_the_new(
    store: Store, point: str, when: str, occurrences: tuple[int, ...]
) -> None:
    config = CONFIG.with_settings({"meta_iterations": 300})
    straight = finished(config)
    for occurrence in occurrences:
        run_id = store.create_run(config)
        store.set_pace(run_id, 600.0)
        child = PROCESSES.Process(target=work_until, args=(store.url, run_id, point, when, occurrence))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL  # the point was reached
        run, data = store.run(run_id), store.checkpoint(run_id)
        assert run.status == "interrupted"
        assert run.iteration < 300
        assert store.metrics(run_id)["iteration"].tolist() == list(range(1, run.iteration + 1))
        assert (load_checkpoint(data, config).state.iteration if data else 0) == run.iteration
        store.resume(run_id)
        assert finish(store, run_id) == straight


def export_until(url: str, run_id: str, file: str, when: str) -> None:
    replace = Path.replace

    def die(self: Path, target: Path) -> None:
        if when == "after":
            replace(self, target)
        os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = die  # type: ignore[assignment,method-assign]
    main(["export", run_id, file, "--store", url])


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.nightly)])
def test_killed_at_the_rename_of_an_export_there_is_the_old_file_or_the_new(
    store: Store, tmp_path: Path, when: str
) -> None:
    run_id = store.create_run(CONFIG.with_settings({"meta_iterations": 30}))
    finish(store, run_id)
    file = tmp_path / "run.zip"
    for round_ in range(5):
        file.write_bytes(b"an older export %d" % round_)
        child = PROCESSES.Process(target=export_until, args=(store.url, run_id, str(file), when))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        if when == "before":
            assert file.read_bytes() == b"an older export %d" % round_
        else:
            assert fingerprint(store, import_run(store, file.read_bytes())) == fingerprint(store, run_id)
