"""Runs that are trained once for all tests: most want a run to look at, not its training."""

import os
import pickle
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from maml_core.config import RunConfig
from maml_core.presets import PRESETS
from maml_core.processes import this_process
from maml_core.store.run import Run
from maml_core.store.schema import checkpoints, metrics, runs
from maml_core.store.store import Store
from maml_core.training.stretch import train_run

_OWN = {"id", "name", "preset", "config", "until", "created", "notes", "pinned", "tags", "started_by"}
"""What a run has before it is trained; all else that its row holds is its training's."""


def trained_run(store: Store, preset: str, settings: dict[str, Any]) -> Run:
    """A run of a preset with changes, trained to its end."""
    return trained(store, PRESETS[preset].config.with_settings(settings), preset=preset)


def trained(store: Store, config: RunConfig, *, preset: str | None = None) -> Run:
    """A run that was trained to its end, here and now or by an earlier test: the same configuration gives the same.

    It is owned from the start, so that no server takes it.
    """
    run_id = store.create_run(config, owner=this_process(), preset=preset)
    folder = Path(os.environ["MAML_CACHE"]).parent / "trained"
    path = folder / sha256(config.to_json().encode()).hexdigest()
    if path.exists():
        _put(store, run_id, pickle.loads(path.read_bytes()))
    else:
        train_run(store, store.run(run_id), this_process())
        folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            pickle.dump(_taken(store, run_id), file)
        Path(file.name).replace(path)  # whole, whichever of several workers is first
    return store.run(run_id)


def _taken(store: Store, run_id: str) -> dict[str, list[dict[str, Any]]]:
    with store.transaction() as connection:
        row = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one()._asdict()
        found = {"runs": [{name: value for name, value in row.items() if name not in _OWN}]}
        for table in (metrics, checkpoints):
            rows = connection.execute(sa.select(table).where(table.c.run_id == run_id))
            found[table.name] = [row._asdict() for row in rows]
    return found


def _put(store: Store, run_id: str, kept: dict[str, list[dict[str, Any]]]) -> None:
    with store.transaction(write=True) as connection:
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(kept["runs"][0]))
        for table in (metrics, checkpoints):
            if kept[table.name]:
                connection.execute(sa.insert(table), [{**row, "run_id": run_id} for row in kept[table.name]])
