"""What all tests share: a store of their own, and one thread for torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from maml_core.config import RunConfig
from maml_core.models import MLP
from maml_core.store import Store
from maml_core.tasks import Sine

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def store_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path / 'runs' / 'maml.db'}"
    monkeypatch.setenv("MAML_STORE", url)
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def small_config() -> RunConfig:
    """A run of a fraction of a second."""
    return RunConfig(
        model=MLP(hidden_sizes=(8,), activation="tanh"),
        tasks=Sine(),
        shots=5,
        query_shots=5,
        meta_batch_size=3,
        meta_iterations=40,
        inner_steps=2,
    )
