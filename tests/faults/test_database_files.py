"""Damaged, foreign and future database files: a sentence, never a traceback, and never overwritten."""

import contextlib
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.errors import MamlError, StoreError
from maml_core.processes import this_process
from maml_core.store.schema import SCHEMA_VERSION
from maml_core.store.store import Store
from maml_core.training.session import TrainingSession
from maml_core.training.stretch import train_run

CASES = [
    *(f"truncated {part}" for part in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999)),
    *(f"flipped {seed}" for seed in range(16)),
    *(f"zeroed {seed}" for seed in range(6)),
    "empty",
    "text",
    "zip",
    "random",
    "header only",
    f"newer {SCHEMA_VERSION + 1}",
    "newer 99",
    "foreign",
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with two trained runs."""
    path = tmp_path_factory.mktemp("sound") / "maml.db"
    store = Store(f"sqlite:///{path}")
    config = RunConfig(meta_batch_size=3, meta_iterations=40, shots=5, query_shots=5)
    for _ in range(2):
        run = store.claim(this_process(), store.create_run(config))
        assert run
        assert train_run(store, run, this_process()) == "finished"
    store.close()
    return path.read_bytes()


def damaged(case: str, sound: bytes, path: Path) -> None:
    kind, _, detail = case.partition(" ")
    data = bytearray(sound)
    chance = random.Random(case)
    if kind == "truncated":
        data = data[: int(len(data) * float(detail))]
    elif kind == "flipped":
        for _ in range(40):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "zeroed":
        start = chance.randrange(len(data))
        data[start : start + 4096] = bytes(len(data[start : start + 4096]))
    elif case in ("empty", "text", "zip", "random", "header only"):
        data = bytearray(
            {
                "empty": b"",
                "text": b"my notes\n" * 500,
                "zip": b"PK\x03\x04" + chance.randbytes(5000),
                "random": chance.randbytes(20_000),
                "header only": b"SQLite format 3\x00",
            }[case]
        )
    path.write_bytes(data)
    if kind == "newer":
        change(path, f"UPDATE info SET value = '{detail}' WHERE name = 'schema_version'")
    elif kind == "foreign":
        path.unlink()
        change(path, "CREATE TABLE recipes (name TEXT)")


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_there_are_forty_files() -> None:
    assert len(CASES) == 40


@pytest.mark.parametrize("case", CASES)
def test_no_file_is_overwritten_and_the_lab_says_what_it_did(
    case: str, sound: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingSession, "ensure_workers", lambda self: None)  # the file is the matter, not the workers
    path = tmp_path / "maml.db"
    damaged(case, sound, path)
    before, url = path.read_bytes(), f"sqlite:///{path}"

    # The command line opens it as it is, or refuses in one line.
    opened = True
    try:
        Store(url).close()
    except StoreError:
        opened = False
    status = main(["runs", "--store", url])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if not opened:
        assert (status, said.count("\n")) == (2, 1)
        assert path.read_bytes() == before

    # The lab opens on it, or on a new one beside it, or refuses in a sentence.
    kept = path.read_bytes()
    try:
        session = TrainingSession(url)
    except MamlError:
        assert case.startswith(("newer", "foreign"))
        assert path.read_bytes() == before
        return
    assert not case.startswith(("newer", "foreign"))
    aside = [other for other in tmp_path.iterdir() if "damaged" in other.name]
    if opened:
        assert session.notice is None
        assert not aside
    else:
        assert [other.read_bytes() for other in aside] == [kept]
        assert session.notice is not None
        assert aside[0].name in session.notice
        assert session.store.all_runs() == []
    for run in session.store.all_runs():  # whatever can be read of a damaged but sound file
        with contextlib.suppress(StoreError):
            session.store.metrics(run.id)
            session.store.checkpoint(run.id)
    session.store.close()


def test_damage_to_one_run_hides_that_run_only(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "maml.db"
    path.write_bytes(sound)
    change(path, "UPDATE runs SET config = '{\"shots\": -1}' WHERE rowid = 1")
    store = Store(f"sqlite:///{path}")
    (run,), unreadable = store.listing()
    assert unreadable == 1
    assert run.status == "finished"
    change(path, "UPDATE runs SET config = 'nonsense', status = 'dancing'")
    assert store.listing() == ([], 2)
    with pytest.raises(StoreError, match="damaged in the store"):
        store.run(run.id)
    store.close()


OLDER: list[tuple[int, list[str]]] = [(1, ["evaluations", "tables"]), (2, ["tables"]), (3, []), (4, []), (5, [])]


@pytest.mark.parametrize(("version", "newer_tables"), OLDER)
def test_an_older_schema_is_migrated_after_a_copy(
    sound: bytes, tmp_path: Path, version: int, newer_tables: list[str]
) -> None:
    path = tmp_path / "maml.db"
    path.write_bytes(sound)
    drops = [f"DROP TABLE {name}" for name in newer_tables]
    made_in = {4: ["tags", "discarded"], 5: ["started_by"], 6: ["lost", "processor"]}
    newer_columns = [name for made, names in made_in.items() for name in names if made > version]
    drops += [f"ALTER TABLE runs DROP COLUMN {name}" for name in newer_columns]
    drops += ["ALTER TABLE runs RENAME COLUMN lease TO heartbeat"]
    drops += ["ALTER TABLE tables DROP COLUMN added_by"] if version < 5 and "tables" not in newer_tables else []
    change(path, *drops, f"UPDATE info SET value = '{version}' WHERE name = 'schema_version'")
    old = path.read_bytes()
    store = Store(f"sqlite:///{path}")
    assert len(store.all_runs()) == 2
    store.close()
    (copy,) = (other for other in tmp_path.iterdir() if f"schema-{version}" in other.name)
    assert copy.read_bytes() == old
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT value FROM info").fetchone() == (str(SCHEMA_VERSION),)
    for name in newer_tables:
        assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,)
    connection.close()
    Store(f"sqlite:///{path}").close()
    assert len(list(tmp_path.iterdir())) == 2  # no second copy


def test_a_migration_that_fails_changes_nothing(sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "maml.db"
    path.write_bytes(sound)
    change(path, "UPDATE info SET value = '1' WHERE name = 'schema_version'")  # but the table is there already
    old = path.read_bytes()
    with pytest.raises(StoreError, match="already exists"):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == old


@pytest.mark.slow
def test_a_program_that_ends_badly_leaves_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "maml.db"
    path.write_bytes(b"my notes\n" * 500)
    done = subprocess.run(
        [sys.executable, "-m", "maml_core", "runs", "--store", f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not a database" in done.stderr
