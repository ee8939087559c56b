"""Processes that `torchrun` has started, as one group that trains one run (docs.pytorch.org, torchrun).

The process of rank 0 leads: it alone has the run and its store. To the others it says what to train, then chunk for
chunk from which state; they compute their shards, and know no store.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import uuid4

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from maml_core.config import RunConfig
from maml_core.engines import TrainingState
from maml_core.errors import ConfigError, EngineError
from maml_core.learning.table import Table, find, keep
from maml_core.processes import name_of
from maml_core.training.devices import software
from maml_core.training.trainer import Trainer

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others; rank 0 may have to wait for its store."""


class Order(NamedTuple):
    """What the processes that follow are told once, before training begins."""

    config: str  # as JSON, with the device that was chosen
    buffers: dict[str, Tensor]  # of a user's own module
    table: Table | None


class Torchrun:
    """A group of processes, with gloo on CPUs and NCCL on GPUs."""

    def __init__(self, rank: int, size: int) -> None:
        """Join; `joined` does what goes before and after."""
        self.rank = rank
        self.size = size
        self._device: torch.device | None = None  # where the others wait for the next chunk
        self._is_broken = False

    @property
    def job(self) -> str:
        """What is the same for all processes of one call of torchrun, also after it has started them again."""
        name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        if name == "none":  # processes of one machine, started by one parent
            name = name_of(psutil.Process(os.getppid()))
        return f"torchrun-{sha256(name.encode()).hexdigest()[:8]}"

    def order(self, trainer: Trainer) -> None:
        """Tell those who follow what is trained."""
        config = trainer.config.with_settings({"device": trainer.device.type})
        buffers = {name: value.cpu() for name, value in trainer.model.named_buffers()}
        table = None if config.tasks.table_id is None else find(config.tasks.table_id)
        self._say(Order(config.to_json(), buffers, table))
        self._device = trainer.device

    def follow(self) -> None:
        """Compute this process's shards, until the leader ends.

        Raises:
            MamlError: this process cannot do what it is told.
        """
        order: Order | None = self._say(None)
        if order is None:
            return
        if order.table is not None:
            keep(order.table)
        config = RunConfig.from_json(order.config)
        trainer = Trainer(config, buffers=order.buffers if config.uses_own_model else None, group=self)
        state = trainer.state
        while True:
            head = self._spread(torch.zeros(2, dtype=torch.int64, device=trainer.device))
            iteration, count = head.tolist()
            if not count:
                return
            vectors = [self._spread(torch.empty_like(vector)) for vector in state.vectors]
            state = TrainingState.of(vectors, iteration)
            trainer.take_part(state, count)

    def lead(self, state: TrainingState, count: int) -> None:
        """Have the others do the `count` meta-iterations after `state`; of those who follow, a call does nothing."""
        if self.rank:
            return
        device = state.parameters.device
        self._spread(torch.tensor([state.iteration, count], device=device))
        for vector in state.vectors:
            self._spread(vector.clone())

    def gather(self, rows: Tensor) -> Tensor:
        """The rows `[rows, numbers]` of all processes, in the order of their ranks."""
        found = [torch.empty_like(rows) for _ in range(self.size)]
        with self._watched():
            dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    def end(self) -> None:
        """Let those who follow go."""
        if self.rank or self._is_broken:
            return
        if self._device is None:
            self._say(None)
        else:
            self._spread(torch.zeros(2, dtype=torch.int64, device=self._device))

    def check_alike(self) -> None:
        """Find out whether all processes would compute the same.

        Raises:
            ConfigError: they have other versions.
        """
        found: list[Any] = [None] * self.size
        with self._watched():
            dist.all_gather_object(found, software())
        if len(set(found)) > 1:
            raise ConfigError(
                f"The processes that torchrun has started have different versions ({'; '.join(sorted(set(found)))}): "
                "install the same on all machines."
            )

    def _say(self, order: Order | None) -> Any:
        box = [order]
        with self._watched():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def _spread(self, tensor: Tensor) -> Tensor:
        with self._watched():
            dist.broadcast(tensor, src=0)
        return tensor

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what torch.distributed raises, whatever happened to the others
            self._is_broken = True
            raise EngineError(
                "A process that trains this run with others was lost: torchrun starts all of them again if it was "
                "given --max-restarts; else go on with `resume` in place of `train`."
            ) from error


def fresh_store(store: Store, rank: int, size: int) -> Store:
    """A part of the store that nobody has written to before these `size` processes met.

    torchrun starts lost processes again with the store of those before them, in which gloo would find addresses where
    nobody listens any more. How often each machine was started again, the machines may count differently. So rank 0
    makes up a name, and tells it in answer to what only a living process can have asked.

    Raises:
        RuntimeError: a process did not come.
    """
    own = uuid4().hex
    store.set(f"asks/{rank}", own)
    deadline = time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0:
            asked = [_said(store, f"asks/{other}") for other in range(1, size)]
            for asker in filter(None, asked):
                store.set(f"answer/{asker}", own)
            if asked == [_said(store, f"met/{own}/{other}") for other in range(1, size)] and None not in asked:
                store.set(f"go/{own}", "")
        name = own if rank == 0 else _said(store, f"answer/{own}")  # another one where rank 0 was started again
        if name is not None:
            store.set(f"met/{name}/{rank}", own)
            if store.check([f"go/{name}"]):
                return PrefixStore(name, store)
        time.sleep(0.02)
    raise RuntimeError(f"not all of the {size} came")


def _said(store: Store, key: str) -> str | None:
    return store.get(key).decode() if store.check([key]) else None


@contextlib.contextmanager
def joined() -> Iterator[Torchrun | None]:
    """The group that torchrun has started this process in; None without torchrun.

    Raises:
        MamlError: the processes cannot train together.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield None
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        store = fresh_store(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except RuntimeError as error:
        raise EngineError(f"The processes that torchrun has started did not find each other: {error}") from error
    group = Torchrun(rank, size)
    try:
        group.check_alike()
        yield group
    finally:
        with contextlib.suppress(EngineError):
            group.end()
        dist.destroy_process_group()
