"""Meta-batches in shards: the numbers of the whole, and the same bits for any number of processes."""

import re
import threading
import time

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from maml_core.config import RunConfig
from maml_core.engines import Alone, TrainingState, shards_of
from maml_core.errors import ConfigError, EngineError
from maml_core.learning.image_tables import signs
from maml_core.learning.layout import Sizes
from maml_core.learning.table import keep
from maml_core.presets import config_for_images
from maml_core.processes import this_process
from maml_core.store.store import Store
from maml_core.training.devices import software
from maml_core.training.parts import make_engine, training_stream
from maml_core.training.stretch import train_run
from maml_core.training.torchrun import Torchrun, fresh_store
from maml_core.training.trainer import Trainer
from tests.conftest import PATIENCE, at_once, wait_for
from tests.trained import trained

CONFIG = RunConfig.from_dict(
    {
        "model": {"kind": "mlp", "hidden_sizes": [8]},
        "engine": "vectorized",
        "device": "cpu",
        "meta_batch_size": 12,
        "shards": 4,
        "meta_iterations": 30,
        "clip_norm": 1.0,
        "ema_decay": 0.9,
    }
)


class Threads:
    """What several threads share that train together, as processes do."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows: list[Tensor] = [torch.zeros(0)] * size
        self.barrier = threading.Barrier(size, timeout=PATIENCE)
        self.turn = threading.Lock()  # torch traces in one thread at a time


class InThread:
    """One of them."""

    def __init__(self, rank: int, threads: Threads) -> None:
        self.rank, self.size, self._threads = rank, threads.size, threads

    def lead(self, state: TrainingState, count: int) -> None:
        pass

    def gather(self, rows: Tensor) -> Tensor:
        self._threads.rows[self.rank] = rows
        self.wait()
        found = torch.cat(self._threads.rows)
        self.wait()
        return found

    def wait(self) -> None:
        self._threads.turn.release()
        self._threads.barrier.wait()
        self._threads.turn.acquire()


@pytest.mark.parametrize("settings", [{}, {"engine": "higher"}, {"algorithm": "meta-sgd"}, {"tasks.family": "circles"}])
def test_the_gradient_is_that_of_the_whole_meta_batch(settings: dict[str, object]) -> None:
    config = CONFIG.with_settings(settings)
    trainer = Trainer(config)
    tasks = training_stream(config).take(3, 1).at(0)
    assert len(tasks.support_x) == 12
    found = trainer.engine.meta_gradient(trainer.state.parameters, tasks)
    expected = make_engine(config, trainer.model).meta_gradient(trainer.state.parameters, tasks)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_snapshot_is_judged_without_asking_the_other_processes() -> None:
    class Deaf(Alone):
        def gather(self, rows: Tensor) -> Tensor:
            raise AssertionError("the others are not there")

    config = CONFIG.with_settings({"engine": "higher"})
    trainer = Trainer(config, group=Deaf())
    tasks = training_stream(config).take(3, 1).at(0)
    found = trainer.engine.query_loss(trainer.state.parameters, tasks)
    expected = make_engine(config, trainer.model).meta_gradient(trainer.state.parameters, tasks).post_loss
    torch.testing.assert_close(found, expected)


def test_every_shard_has_tasks_of_its_own() -> None:
    whole = training_stream(CONFIG).take(0, 2).support_x
    assert len({tuple(task.flatten().tolist()) for task in whole.flatten(0, 1)}) == 24
    for rank in range(4):
        part = training_stream(CONFIG, group=InThread(rank, Threads(4))).take(0, 2).support_x
        assert torch.equal(part, whole[:, 3 * rank : 3 * rank + 3])
    plain = training_stream(CONFIG.with_settings({"shards": 1})).take(0, 2).support_x
    assert not torch.equal(plain, whole)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_gives_the_same_bits(size: int) -> None:
    def ends(group: InThread | None) -> tuple[TrainingState, list[Tensor]]:
        trainer = Trainer(CONFIG, group=group)
        state, chunks = trainer.state, []
        for count in (1, 9, 20):
            tasks = training_stream(CONFIG, group=group).take(state.iteration, count)
            state, rows = trainer.engine.run(state, tasks)
            chunks.append(rows)
        return state, chunks

    alone, rows_alone = ends(None)
    threads, found = Threads(size), dict[int, tuple[TrainingState, list[Tensor]]]()

    def act(rank: int) -> None:
        with threads.turn:
            found[rank] = ends(InThread(rank, threads))

    at_once(size, act)
    assert len(found) == size
    for state, rows in found.values():
        assert torch.equal(torch.cat(rows), torch.cat(rows_alone))
        for one, other in zip(state.vectors, alone.vectors, strict=True):
            assert torch.equal(one, other)


def test_a_run_in_shards_is_trained_by_any_worker_and_resumed_exactly(store: Store) -> None:
    whole = trained(store, CONFIG)
    trainer = Trainer(CONFIG)
    trainer.limit = 11
    *_, half = trainer.run()
    *_, last = Trainer(CONFIG, half.state, half.pending).run()
    assert whole.status == "finished"
    assert whole.engine == "vectorized"
    *_, straight = Trainer(CONFIG).run()
    assert torch.equal(last.state.parameters, straight.state.parameters)
    assert whole.best_loss == min(loss for _, loss in store.history(whole.id) if loss is not None)


def test_images_of_ones_own_come_in_shards() -> None:
    table = keep(signs())
    settings = {"shards": 2, "meta_batch_size": 2, "meta_iterations": 1, "tasks.size": 12, "model.channels": 4}
    config = config_for_images(table).with_settings(settings | {"model.blocks": 2})
    *_, last = Trainer(config).run()
    assert last.finished


def test_shards_that_cannot_be_shared_out_are_refused_in_one_sentence() -> None:
    assert [*shards_of(InThread(1, Threads(2)), 6)] == [3, 4, 5]
    with pytest.raises(EngineError, match="shards = 4 cannot be shared out among 3 processes: set shards = 3 or"):
        shards_of(InThread(0, Threads(3)), 4)
    with pytest.raises(EngineError, match="shards = 1 cannot be shared out among 2 processes"):
        Trainer(CONFIG.with_settings({"shards": 1}), group=InThread(0, Threads(2)))
    with pytest.raises(ConfigError, match="shards = 5 is not allowed with meta_batch_size = 12: each has as"):
        CONFIG.with_settings({"shards": 5})
    with pytest.raises(ConfigError, match="engine = native is not allowed with shards = 4"):
        CONFIG.with_settings({"engine": "native"})


def test_shards_cost_the_memory_of_one_and_a_run_without_reads_as_before() -> None:
    whole, sizes = CONFIG.with_settings({"shards": 1}), Sizes(parameters=10**6)
    assert CONFIG.memory_estimate(sizes) < whole.memory_estimate(sizes) / 2
    assert "shards" not in whole.to_json()
    assert RunConfig.from_json(whole.to_json()) == whole
    assert RunConfig.from_json(CONFIG.to_json()) == CONFIG
    assert Alone().gather(torch.ones(2, 3)).shape == (2, 3)


def test_processes_of_different_versions_are_refused_with_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Torchrun(0, 2)

    def gather(found: list[str], mine: str, other: str) -> None:
        found[:] = [mine, other]

    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, mine: gather(found, mine, mine))
    group.check_alike()
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, mine: gather(found, mine, "torch 1.0"))
    with pytest.raises(ConfigError, match=re.escape(f"different versions ({software()}; torch 1.0): install the same")):
        group.check_alike()


def test_a_run_that_has_lost_a_process_is_interrupted_with_a_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "all_gather", fail)
    run = store.run(store.create_run(CONFIG, owner=this_process()))
    trainer = Trainer(CONFIG, group=Torchrun(0, 2))
    assert train_run(store, run, this_process(), trainer=trainer) == "interrupted"
    assert "A process that trains this run with others was lost" in store.run(run.id).message


@pytest.mark.parametrize("late", [0, 2])
def test_processes_that_are_started_again_do_not_meet_those_before_them(late: int) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]  # in torch's pages, not in its __all__
    for start in range(2):
        met: dict[int, list[bytes]] = {}

        def meet(rank: int, start: int = start, met: dict[int, list[bytes]] = met) -> None:
            if rank == late:  # until then the others could find what those before them have left
                time.sleep(0.3)
            part = fresh_store(store, rank, 3)
            part.set(str(rank), f"{start}")
            met[rank] = [part.get(str(other)) for other in range(3)]

        at_once(3, meet)
        assert met == dict.fromkeys(range(3), [b"%d" % start] * 3)


class Meeting:
    """Processes that meet, as threads that come one after another."""

    def __init__(self) -> None:
        self.store = dist.HashStore()  # type: ignore[attr-defined]  # in torch's pages, not in its __all__
        self._threads: list[threading.Thread] = []
        self._met: dict[int, list[bytes]] = {}

    def comes(self, rank: int) -> None:
        def meet() -> None:
            part = fresh_store(self.store, rank, 3)
            part.set(str(rank), str(rank))
            self._met[rank] = [part.get(str(other)) for other in range(3)]

        self._threads.append(threading.Thread(target=meet))
        self._threads[-1].start()

    def said(self, key: str) -> str:
        wait_for(lambda: self.store.check([key]))
        return str(self.store.get(key).decode())

    def end(self) -> None:
        for thread in self._threads:
            thread.join()
        assert self._met == {rank: [b"0", b"1", b"2"] for rank in range(3)}


def test_a_process_that_has_met_and_is_started_again_is_not_two() -> None:
    meeting = Meeting()
    meeting.comes(0)
    meeting.store.set("asks/1", "lost")
    meeting.store.set(f"met/{meeting.said('answer/lost')}/1", "lost")
    meeting.comes(1)
    wait_for(lambda: meeting.said("asks/1") != "lost")
    meeting.comes(2)
    meeting.end()


def test_who_was_answered_by_a_leader_that_is_lost_is_answered_again() -> None:
    meeting = Meeting()
    for rank in (1, 2):
        meeting.comes(rank)
        meeting.store.set(f"answer/{meeting.said(f'asks/{rank}')}", "lost")
        meeting.said(f"met/lost/{rank}")
    meeting.comes(0)
    meeting.end()
