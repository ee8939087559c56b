"""What is computed from a run's metric rows and asked for again and again: it changes only when the run moves on."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from maml_core.store.run import Run
from maml_core.store.store import Store

T = TypeVar("T")

KEPT = 1000
"""Answers about runs that were not asked for this time, up to which they are kept."""


class Remembered(Generic[T]):
    """Something about each of many runs, asked of the store for those alone that have moved since."""

    def __init__(self, ask: Callable[[Store, Sequence[str]], dict[str, T]]) -> None:
        """`ask(store, ids)` gives the answers by the runs' ids."""
        self._ask = ask
        self._known: dict[tuple[str, str, int], T] = {}

    def __call__(self, store: Store, runs: Sequence[Run]) -> dict[str, T]:
        """The answer about each run, by its id."""
        keys = {run.id: (store.url, run.id, run.iteration) for run in runs}
        known = self._known  # which another session may put another in place of
        found = {run_id: known[key] for run_id, key in keys.items() if key in known}
        found |= self._ask(store, [run_id for run_id in keys if run_id not in found])
        kept = {} if len(known) > KEPT else known
        self._known = kept | {keys[run_id]: answer for run_id, answer in found.items()}
        return {run.id: found[run.id] for run in runs}
