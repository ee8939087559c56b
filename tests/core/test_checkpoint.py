import random

import pytest
import torch

from maml_core.config import RunConfig
from maml_core.errors import CheckpointError
from maml_core.store.checkpoint import Checkpoint, dump_checkpoint, load_checkpoint
from maml_core.training.trainer import Trainer


@pytest.fixture
def saved(small_config: RunConfig) -> bytes:
    trainer = Trainer(small_config)
    trainer.limit = 3
    for _ in trainer.run():
        pass
    return dump_checkpoint(Checkpoint(trainer.state, torch.rand(2, 3, dtype=torch.float64), engine="native"))


def test_round_trip_is_exact(saved: bytes, small_config: RunConfig) -> None:
    checkpoint = load_checkpoint(saved, small_config)
    assert checkpoint.state.iteration == 3
    assert checkpoint.engine == "native"
    assert dump_checkpoint(checkpoint) == saved


def test_no_mutation_loads_in_silence(saved: bytes, small_config: RunConfig) -> None:
    chance = random.Random(0)
    for _ in range(5000):
        data = bytearray(saved)
        kind = chance.randrange(4)
        where = chance.randrange(len(data))
        if kind == 0:
            data[where] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[where : where + chance.randrange(1, 50)]
        elif kind == 2:
            data[where:where] = chance.randbytes(chance.randrange(1, 50))
        else:
            data = data[:where]
        with pytest.raises(CheckpointError):
            load_checkpoint(bytes(data), small_config)


def test_another_model_is_refused_by_name_and_shape(saved: bytes, small_config: RunConfig) -> None:
    with pytest.raises(CheckpointError, match="belongs to another model: parameters"):
        load_checkpoint(saved, small_config.with_settings({"model.hidden_sizes": [9]}))


@pytest.mark.parametrize("data", [b"", b"MAMLCKP1", b"\x80\x04K\x01.", b"PK\x03\x04" * 50])
def test_foreign_bytes_are_refused(data: bytes, small_config: RunConfig) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(data, small_config)
