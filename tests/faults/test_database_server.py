"""A store on a server that is restarted, lost, crowded or shared with others: nothing lost, nothing doubled."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import psycopg
import pytest
import sqlalchemy as sa

from maml_core import processes
from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.errors import RunBusyError, StoreAwayError, StoreError
from maml_core.processes import is_alive, this_process
from maml_core.store import base, ownership, server
from maml_core.store.checkpoint import load_checkpoint
from maml_core.store.database import Database
from maml_core.store.schema import runs
from maml_core.store.store import Store
from maml_core.training.search import Search, parse_search
from maml_core.training.session import TrainingSession
from maml_core.training.stretch import train_run
from maml_core.training.worker import train_safely
from tests.conftest import at_once, wait_for
from tests.faults.test_kills import CONFIG, PROCESSES
from tests.postgres import PASSWORD, Postgres, postgres_server

ROOT = Path(__file__).parents[2]
PACE = 50.0


@pytest.fixture
def store_kind() -> str:
    return "server"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server that may be stopped, which the others' tests must not notice."""
    yield from postgres_server()


@pytest.fixture(scope="module")
def straight(postgres: Postgres) -> str:
    """What a run with this configuration ends as that nothing has happened to."""
    store = Store(postgres.new_database())
    run = store.claim(this_process(), store.create_run(CONFIG))
    assert run is not None
    train_run(store, run, this_process())
    found = fingerprint(store, run.id)
    store.close()
    return found


def fingerprint(store: Store, run_id: str) -> str:
    data = store.checkpoint(run_id)
    assert data is not None
    assert store.run(run_id).status == "finished"
    best = store.checkpoint(run_id, "best") or b""
    kept = store.metrics(run_id).to_csv() + str(store.history(run_id))
    return hashlib.sha256(data + best + kept.encode()).hexdigest()


@contextmanager
def training(store: Store, run_id: str) -> Iterator[list[object]]:
    """A thread that trains a run, slowly at first; it is joined at the end."""
    store.set_pace(run_id, PACE)
    run = store.claim(this_process(), run_id)
    assert run is not None
    worker, ends = Store(store.url), []  # type: tuple[Store, list[object]]
    ending = threading.Event()
    thread = threading.Thread(target=lambda: ends.append(train_safely(worker, run, this_process(), ending, "queued")))
    thread.start()
    try:
        wait_for(lambda: store.run(run_id).iteration > 20)
        yield ends
    except BaseException:
        ending.set()
        raise
    finally:
        thread.join()
        worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_run_goes_on_through_a_restart_of_the_server(own_server: Postgres, straight: str, mode: str) -> None:
    store = Store(own_server.new_database())
    run_id = store.create_run(CONFIG)
    with training(store, run_id) as ends:
        own_server.stop(mode)
        with pytest.raises(StoreAwayError, match=r"cannot be reached .* see that its server runs"):
            store.all_runs()
        own_server.start()
        assert store.run(run_id).status == "running"
        store.set_pace(run_id, None)
    assert ends == [None]
    assert fingerprint(store, run_id) == straight
    store.close()


@pytest.mark.slow
def test_an_outage_longer_than_the_lease_takes_nothing_from_anyone(
    own_server: Postgres, straight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (base, ownership):
        monkeypatch.setattr(module, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(processes, "_here", lambda: "another-host")  # nobody here can see that its process lives
    store = Store(own_server.new_database())
    run_id = store.create_run(CONFIG)
    with training(store, run_id) as ends:
        monkeypatch.undo()
        own_server.stop()
        time.sleep(base.LEASE_SECONDS / 8)
        with pytest.raises(StoreAwayError):
            store.run(run_id)
        own_server.start()
        with store.transaction(write=True) as connection:  # as after an hour
            connection.execute(sa.update(runs).values(lease=store.database.now - 3600.0))
        assert store.run(run_id).status == "running"  # counted from the server's start
        store.set_pace(run_id, None)
    assert ends == [None]
    assert fingerprint(store, run_id) == straight
    store.close()


def train_elsewhere(url: str, run_id: str, stops_in_commit: bool, told: Any) -> None:
    """What a worker on another host does, in a process of its own."""
    processes._here = lambda: "another-host"  # type: ignore[assignment]
    store = Store(url)
    run = store.claim(this_process(), run_id)
    assert run is not None

    def stop(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO checkpoints") and run.iteration != told["iteration"]:
            os.kill(os.getpid(), signal.SIGSTOP)

    def report(_: object, progress: Any, __: float) -> None:
        told["iteration"] = progress.state.iteration
        if stops_in_commit and progress.state.iteration > 50 and not told.get("armed"):
            told["armed"] = True
            sa.event.listen(store.database.engine, "after_cursor_execute", stop)

    try:
        train_run(store, run, this_process(), report=report)
        told["end"] = "done"
    except RunBusyError:
        told["end"] = "told that it is no longer its own"


@pytest.mark.slow
def test_a_host_that_is_lost_inside_a_transaction_holds_nobody_up_and_its_run_goes_on(
    store: Store, straight: str
) -> None:
    run_id = store.create_run(CONFIG)
    store.set_pace(run_id, PACE)
    with PROCESSES.Manager() as manager:
        told = manager.dict()
        child = PROCESSES.Process(target=train_elsewhere, args=(store.url, run_id, True, told))
        child.start()
        assert child.pid is not None
        process = psutil.Process(child.pid)
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)  # with the run's row locked
        assert store.run(run_id).status == "running"  # looking is not held up
        with store.transaction(write=True) as connection:  # waits until the server has ended the lost transaction
            connection.execute(sa.update(runs).values(lease=store.database.now - 0.001))
        wait_for(lambda: store.run(run_id).status == "queued")  # a server that has just begun gives all of them a lease
        run = store.claim(this_process(), run_id)
        assert run is not None
        assert 0 < run.iteration < CONFIG.meta_iterations
        store.set_pace(run_id, None)
        run = store.run(run_id)
        train_run(store, run, this_process())
        assert fingerprint(store, run_id) == straight
        process.resume()  # the host was only cut off, and is back
        child.join()
        assert "no longer its own" in told["end"]
    assert fingerprint(store, run_id) == straight


def _do(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _do_if_allowed(*command: str | Path) -> None:
    """What only root may do, and not on every machine."""
    try:
        _do(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{error}: {getattr(error, 'stderr', b'')!r}")


class Disk:
    """A small one of its own, in memory."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="maml-disk-"))
        try:
            _do_if_allowed("mount", "-t", "tmpfs", "-o", "size=90m", "tmpfs", self.folder)
        except BaseException:
            self.folder.rmdir()
            raise

    def fill(self) -> None:
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def make_room(self) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        _do("umount", "--lazy", self.folder)
        self.folder.rmdir()


@pytest.fixture
def disk() -> Iterator[Disk]:
    with closing(Disk()) as small:
        yield small


@pytest.mark.slow
def test_a_full_disk_of_the_server_interrupts_with_a_sentence_and_training_goes_on_later(
    disk: Disk, straight: str
) -> None:
    with closing(Postgres(disk.folder)) as server, closing(Store(server.new_database())) as store:
        run_id = store.create_run(CONFIG)
        with training(store, run_id) as ends:
            disk.fill()
        ((status, message),) = cast("list[tuple[str, str]]", ends)
        assert status == "interrupted"
        assert "the server's disk is full; free some space and resume" in message
        disk.make_room()
        at, saved = store.run(run_id).iteration, store.checkpoint(run_id)
        assert saved is not None
        assert load_checkpoint(saved, CONFIG).state.iteration == at
        store.release(run_id, this_process(), status, message)
        store.set_pace(run_id, None)
        store.resume(run_id)
        run = store.claim(this_process(), run_id)
        assert run is not None
        train_run(store, run, this_process())
        assert fingerprint(store, run_id) == straight


@pytest.mark.slow
def test_a_server_that_ends_because_its_disk_is_full_is_waited_for(disk: Disk, straight: str) -> None:
    with closing(Postgres(log_folder=disk.folder)) as server, closing(Store(server.new_database())) as store:
        run_id = store.create_run(CONFIG)
        with training(store, run_id) as ends:
            disk.fill()
            with suppress(psycopg.OperationalError):
                server.sql("SELECT pg_switch_wal()")
                server.sql("CREATE TABLE more ()")
            wait_for(lambda: not (server.data / "postmaster.pid").exists())  # it has tried to go on, and given up
            with pytest.raises(StoreAwayError):
                store.all_runs()
            disk.make_room()
            server.start()
            assert store.run(run_id).status == "running"
            store.set_pace(run_id, None)
        assert ends == [None]
        assert fingerprint(store, run_id) == straight


@contextmanager
def working(url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`work` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "maml_core", "work", *options],
        cwd=ROOT,
        env=os.environ | {"MAML_STORE": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Cable:
    """One that joins two machines, the second with its own process ids: namespaces of Linux.

    This machine's own network stays as it is. Where that changes, Chromium gives up whatever it is loading
    (ERR_NETWORK_CHANGED), in a test beside this one.
    """

    ADDRESS = "10.203.0.1"
    """Of the first, where the server is."""

    def __init__(self) -> None:
        self._first, self._second = (f"maml-{os.getpid()}-{number}" for number in (1, 2))
        self.on_the_first = ["ip", "netns", "exec", self._first]
        """What a command begins with that is to run there."""
        for name in self._first, self._second:
            with suppress(OSError, subprocess.CalledProcessError):  # of a process of the same id that was killed
                _do("ip", "netns", "delete", name)
        _do_if_allowed("ip", "netns", "add", self._first)
        self._made = [self._first]
        try:
            _do("ip", "netns", "add", self._second)
            self._made.append(self._second)
            both = ["cable", "type", "veth", "peer", "name", "cable", "netns", self._second]
            _do("ip", "-n", self._first, "link", "add", *both)
            for name, address in (self._first, self.ADDRESS), (self._second, "10.203.0.2"):
                _do("ip", "-n", name, "address", "add", f"{address}/30", "dev", "cable")
                _do("ip", "-n", name, "link", "set", "cable", "up")
        except BaseException:
            self.close()
            raise

    def plug_in(self) -> None:
        _do("ip", "-n", self._first, "link", "set", "cable", "up")

    def pull(self) -> None:
        _do("ip", "-n", self._first, "link", "set", "cable", "down")

    @contextmanager
    def working(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        """`work` on the second machine; it ends with its process."""
        inside = ["ip", "netns", "exec", self._second, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command = [*inside, sys.executable, "-m", "maml_core", "work", "--jobs", "1"]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"MAML_STORE": url}, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        for name in self._made:  # and with them the cable
            _do("ip", "netns", "delete", name)


@pytest.fixture
def cable() -> Iterator[Cable]:
    with closing(Cable()) as joins:
        yield joins


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["cut off", "killed"])
def test_a_run_of_a_host_that_cannot_be_reached_goes_on_elsewhere(cable: Cable, straight: str, is_killed: bool) -> None:
    with closing(Postgres(within=cable.on_the_first)) as server, closing(Store(server.new_database("fleet"))) as store:
        run_id = store.create_run(CONFIG)
        store.set_pace(run_id, PACE)
        with cable.working(server.url_at(cable.ADDRESS, "fleet")) as process:
            wait_for(lambda: store.run(run_id).iteration > 20)
            assert is_alive(store.run(run_id).owner or "") is None
            if is_killed:
                process.kill()
            else:
                cable.pull()
            assert store.run(run_id).status == "running"  # nobody here can tell yet
            wait_for(lambda: store.run(run_id).status == "queued")
            run = store.claim(this_process(), run_id)
            assert run is not None
            assert 20 < run.iteration < CONFIG.meta_iterations
            store.set_pace(run_id, None)
            train_run(store, store.run(run_id), this_process())
            assert fingerprint(store, run_id) == straight
            if not is_killed:
                cable.plug_in()
                other = store.create_run(CONFIG)  # of which it hears where it is back, and has let the first one go
                wait_for(lambda: store.run(other).status == "finished")
                assert fingerprint(store, other) == straight
        assert fingerprint(store, run_id) == straight


def worker_of(store: Store, run_id: str) -> psutil.Process | None:
    """The process that trains a run."""
    owner = store.run(run_id).owner
    return psutil.Process(int(owner.rsplit(":", 2)[1])) if owner else None


@pytest.mark.slow
def test_workers_take_up_what_killed_ones_and_ended_ones_leave(store: Store, straight: str) -> None:
    ids = [store.create_run(CONFIG) for _ in range(3)]
    store.set_pace(ids[0], PACE)
    with working(store.url, "--jobs", "1") as first:
        wait_for(lambda: store.run(ids[0]).iteration > 20)
        for process in psutil.Process(first.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                assert not any(PASSWORD in argument for argument in process.cmdline())
        worker = worker_of(store, ids[0])
        assert worker is not None
        worker.kill()
        wait_for(lambda: store.run(ids[0]).lost == 1)
        before = store.run(ids[0]).iteration
        wait_for(lambda: store.run(ids[0]).iteration > before)
        first.terminate()  # as a scheduler ends a job
        first.communicate()
        run = store.run(ids[0])
        assert (run.status, run.owner) == ("queued", None)
    for run_id in ids:
        store.set_pace(run_id, None)
    with working(store.url, "--jobs", "2", "--until-done", "--json") as second:
        said, complained = second.communicate()
    assert second.returncode == 0, complained
    assert all(run_id in said for run_id in ids), (said, complained, [store.run(i) for i in ids])
    assert [fingerprint(store, run_id) for run_id in ids] == [straight] * 3


@pytest.mark.slow
def test_a_run_that_ends_its_workers_is_given_up(store: Store) -> None:
    run_id = store.create_run(CONFIG)
    store.set_pace(run_id, PACE)
    with working(store.url, "--jobs", "1", "--until-done") as fleet:
        for killed in range(ownership.MOST_LOST):
            wait_for(lambda: (store.run(run_id).lost, store.run(run_id).status) == (killed, "running"))  # noqa: B023
            worker = worker_of(store, run_id)
            assert worker is not None, store.run(run_id)
            worker.kill()
        said, _ = fleet.communicate()
    assert "interrupted" in said
    assert "has lost 3 processes" in store.run(run_id).message


def test_several_first_openers_make_one_store(postgres: Postgres) -> None:
    for _ in range(3):
        url, gate = postgres.new_database(), threading.Barrier(4)
        opened: list[object] = []

        def open_it(url: str = url, gate: threading.Barrier = gate, opened: list[object] = opened) -> None:
            gate.wait()
            try:
                opened.append(Store(url))
            except BaseException as error:
                opened.append(error)

        at_once(4, lambda _: open_it())
        assert [type(one) for one in opened] == [Store] * 4
        for one in opened:
            assert isinstance(one, Store)
            one.close()


def test_other_programs_tables_may_lie_beside_the_stores(postgres: Postgres) -> None:
    url = postgres.new_database()
    postgres.sql("CREATE TABLE studies (study_id INTEGER)", url.rsplit("/", 1)[1])
    store = Store(url)
    assert store.all_runs() == []
    store.close()
    Store(url).close()
    other = postgres.new_database()
    postgres.sql("CREATE TABLE runs (run_uuid TEXT)", other.rsplit("/", 1)[1])
    with pytest.raises(StoreError, match="database of another program"):
        Store(other)


def test_another_default_of_isolation_changes_nothing(postgres: Postgres, small_config: RunConfig) -> None:
    url = postgres.new_database()
    name = url.rsplit("/", 1)[1]
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = Store(url)
    ids = [store.create_run(small_config) for _ in range(16)]
    taken: list[str] = []
    troubles: list[BaseException] = []

    def take(number: int) -> None:
        try:
            while run := store.claim(f"another-host:{number}:1.00"):
                taken.append(run.id)
                store.edit(ids[0], notes=f"by {number}")
        except BaseException as error:
            troubles.append(error)

    at_once(8, take)
    assert troubles == []
    assert sorted(taken) == sorted(ids)
    store.close()


def test_no_text_has_the_password(
    postgres: Postgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    texts = []
    for wrong, said in (
        (url.replace(PASSWORD, f"{PASSWORD}-not"), "check the name and the password"),
        (url + "-nowhere", "have it made on the server"),
        (url.replace(f":{postgres.port}/", ":1/"), "see that its server runs"),
        (url.replace("127.0.0.1", "no-such-host.invalid"), "see that its server runs"),
        (url.replace(f":{postgres.port}/", ":port/"), "is not a database URL"),
        (url.replace("lab:", "me@corp.example:"), "check the name and the password"),
        (f"{url}?sslmode=require", "see what the URL says of SSL"),
        (url.replace("postgresql:", "PostgreSQL+psycopg2:") + "-nowhere", "have it made on the server"),
    ):
        assert main(["runs", "--store", wrong]) == 2
        texts.append(capsys.readouterr().err)
        assert said in texts[-1]
        assert texts[-1].count("\n") == 1
    monkeypatch.setattr(sa, "create_engine", lambda *_, **__: (_ for _ in ()).throw(ImportError("No module 'psycopg'")))
    with pytest.raises(StoreError, match=r"pip install -r requirements-cluster\.txt") as refused:
        Database(server.with_driver(url))
    assert not [text for text in [*texts, str(refused.value)] if PASSWORD in text]
    assert server.shown(f"postgresql://host/db?user=me&password={PASSWORD}&x=1").endswith("password=***&x=1")
    assert server.shown("postgresql://me@corp:p@ss@host/db") == "postgresql://me@corp:***@host/db"
    assert main(["runs", "--store", "postgresql"]) == 2
    assert server.shown("postgresql://me:p@ss@host/db") == "postgresql://me:***@host/db"


def test_a_servers_troubles_are_known_whatever_language_it_speaks() -> None:
    for error, said, remedy in (
        (psycopg.errors.DiskFull, "kein Speicherplatz mehr verfügbar", "disk is full; free some space"),
        (psycopg.errors.DiskFull, "permission denied for base/1/53100", "disk is full; free some space"),
        (psycopg.errors.InsufficientPrivilege, "keine Berechtigung für Tabelle runs", "have it granted"),
        (psycopg.errors.UndefinedTable, "relation run_53100 is not here", r"not here\)\.$"),
    ):
        found = server.trouble("postgresql://host/db", sa.exc.DBAPIError("SELECT", {}, error(said)))
        assert type(found) is StoreError
        assert re.search(remedy, str(found))


def test_a_database_of_another_encoding_is_refused(postgres: Postgres) -> None:
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match="its encoding is LATIN1"):
        Store(postgres.url("latin"))


def test_two_stores_of_one_database_are_kept_apart_by_the_options_of_their_urls(
    postgres: Postgres, small_config: RunConfig
) -> None:
    url = postgres.new_database()
    postgres.sql("CREATE SCHEMA team", url.rsplit("/", 1)[1])
    public, team = Store(url), Store(f"{url}?options=-csearch_path%3Dteam")
    team.create_run(small_config)
    assert (len(public.all_runs()), len(team.all_runs())) == (0, 1)
    public.close()
    team.close()


@pytest.mark.slow
def test_a_run_that_ended_with_its_last_commit_is_judged_when_it_goes_on(store: Store, straight: str) -> None:
    run_id = store.create_run(CONFIG)
    run = store.claim(this_process(), run_id)
    assert run is not None

    class LostError(Exception):
        pass

    commits = store.commit

    def commit(*arguments: Any, **settings: Any) -> None:
        commits(*arguments, **settings)
        if settings["latest"].iteration == CONFIG.meta_iterations:
            raise LostError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maml_core.training.stretch.COMMIT_SECONDS", 0.0)
        patch.setattr("maml_core.training.stretch.SLOW_COMMIT_SECONDS", 0.0)
        patch.setattr(store, "commit", commit)
        with pytest.raises(LostError):
            train_run(store, run, this_process())
    assert store.history(run_id)[-1].iteration < CONFIG.meta_iterations
    store.release_all(this_process())
    run = store.claim(this_process(), run_id)
    assert run is not None
    train_run(store, run, this_process())
    assert fingerprint(store, run_id) == straight


@pytest.mark.slow
def test_an_outage_makes_later_commits_no_rarer(own_server: Postgres, straight: str) -> None:
    store = Store(own_server.new_database())
    run_id = store.create_run(CONFIG)
    with training(store, run_id) as ends:
        own_server.stop()
        with pytest.raises(StoreAwayError):
            store.run(run_id)
        time.sleep(1.5)  # of which a twentieth of the time is half a minute, and the run is through in eight seconds
        own_server.start()
        before = store.run(run_id).iteration
        wait_for(lambda: store.run(run_id).iteration > before)
        assert store.run(run_id).iteration < CONFIG.meta_iterations
        store.set_pace(run_id, None)
    assert ends == [None]
    assert fingerprint(store, run_id) == straight
    store.close()


@pytest.mark.slow
def test_a_search_goes_on_after_an_outage_with_its_study_beside_its_runs(own_server: Postgres) -> None:
    store = Store(own_server.new_database())
    config = CONFIG.with_settings({"meta_iterations": 5})
    search = Search(store, config, parse_search(["inner_lr=log:1e-3:0.1"]), trials=3)
    search.step()
    own_server.stop()
    for asked in (search.step, search.results):
        with pytest.raises(StoreAwayError):
            asked()
    own_server.start()
    while not search.step():
        while run := store.claim(this_process()):
            train_run(store, run, this_process())
    assert [trial.state for trial in search.results()] == ["complete"] * 3
    assert len(store.all_runs()) == 3
    store.close()


@pytest.mark.slow
def test_a_lab_that_only_watches_has_no_workers(
    store_url: str, small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAML_WORKERS", "0")
    session = TrainingSession(store_url)
    run_id = session.start(small_config)
    assert session.workers() == []
    assert session.store.run(run_id).status == "queued"
    assert main(["work", "--jobs", "1", "--until-done"]) == 0
    assert session.store.run(run_id).status == "finished"
    session.close()
    monkeypatch.setenv("MAML_WORKERS", "some")
    assert main(["work"]) == 2
